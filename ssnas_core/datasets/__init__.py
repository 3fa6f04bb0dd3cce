"""Records from any source."""

from ssnas_core.common.parts import Parts

DATASETS = Parts(
    "dataset",
    {
        "mmimdb": "ssnas_core.datasets.mmimdb:read_mmimdb",
        "mmimdb-hdf5": "ssnas_core.datasets.mmimdb_hdf5:read_mmimdb_hdf5",
        "avmnist": "ssnas_core.datasets.avmnist:read_avmnist",
        "table": "ssnas_core.datasets.table:read_table",
        "npz": "ssnas_core.datasets.arrays:read_npz",
        "sample": "ssnas_core.datasets.sample.corpus:sample_archive",
        "digits": "ssnas_core.datasets.digits:digits",
    },
)
"""Readers of a path, and `sample` and `digits`, which need none."""

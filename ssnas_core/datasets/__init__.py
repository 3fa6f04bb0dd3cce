"""Records from any source."""

from ssnas_core.common.parts import Parts

DATASETS = Parts(
    "dataset",
    {
        "mmimdb": "ssnas_core.datasets.mmimdb:read_mmimdb",
        "mmimdb-hdf5": "ssnas_core.datasets.mmimdb_hdf5:read_mmimdb_hdf5",
        "posters": "ssnas_core.datasets.mmimdb:read_posters",
        "avmnist": "ssnas_core.datasets.avmnist:read_avmnist",
        "mnist": "ssnas_core.datasets.mnist:read_mnist",
        "cifar": "ssnas_core.datasets.cifar:read_cifar",
        "images": "ssnas_core.datasets.images:read_images",
        "nlvr": "ssnas_core.datasets.nlvr:read_nlvr",
        "flickr8k": "ssnas_core.datasets.flickr8k:read_flickr8k",
        "karpathy": "ssnas_core.datasets.karpathy:read_karpathy",
        "refcoco": "ssnas_core.datasets.refcoco:read_refcoco",
        "vqa": "ssnas_core.datasets.vqa:read_vqa",
        "table": "ssnas_core.datasets.table:read_table",
        "npz": "ssnas_core.datasets.arrays:read_npz",
        "sample": "ssnas_core.datasets.sample.corpus:sample_archive",
        "scenes": "ssnas_core.datasets.scenes:read_scenes",
        "scenes:grounding": "ssnas_core.datasets.scenes:read_phrases",
        "scenes:captions": "ssnas_core.datasets.scenes:read_captions",
        "digits": "ssnas_core.datasets.digits:digits",
    },
)
"""Readers of a path, and those of `MADE_HERE`, which need none."""

MADE_HERE = ("sample", "scenes", "scenes:grounding", "scenes:captions", "digits")

"""Where published data sets lie: their files, mirrors, and the hashes that others published."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """A published file, and the addresses of it."""

    file: str
    urls: tuple[str, ...]
    sha256: str | None  # published by others, never our own
    start: bytes  # what such a file begins with; a mirror may send a page instead


# The authors' own host, lisi1.unal.edu.co, is dead; they name these mirrors themselves
# (github.com/johnarevalo/gmu-mmimdb, README and issues 3, 4 and 7). The hash is the one that
# github.com/facebookresearch/mmf checks, mmf/configs/zoo/datasets.yaml, mmimdb: images. Nobody
# we know of published one of the HDF5 file.
FILES = {
    "mmimdb": Published(
        "mmimdb.tar.gz",
        ("https://archive.org/download/mmimdb/mmimdb.tar.gz",),
        "7facb412f84e8e707cf5c15bb58e4cf3ac12d33e6e944e1bdefebada1259a253",
        b"\x1f\x8b",
    ),
    "mmimdb-hdf5": Published(
        "multimodal_imdb.hdf5",
        ("https://archive.org/download/mmimdb/multimodal_imdb.hdf5",),
        None,
        b"\x89HDF\r\n\x1a\n",
    ),
}


def _mnist(name: str, sha256: str) -> Published:
    """A file of MNIST, whose own host no longer gives it to programs.

    The mirrors are those of torchvision and TensorFlow Datasets, the hashes those that the
    latter checks (github.com/tensorflow/datasets, url_checksums/mnist.txt).
    """
    file = f"{name}-ubyte.gz"
    hosts = ("ossci-datasets.s3.amazonaws.com", "storage.googleapis.com/cvdf-datasets")
    return Published(file, tuple(f"https://{h}/mnist/{file}" for h in hosts), sha256, b"\x1f\x8b")


# GitHub packs the archive of a tag when it is asked for, so there is no hash of it to rely on.
_FSDD = "https://github.com/Jakobovski/free-spoken-digit-dataset/archive/refs/tags/v1.0.10.tar.gz"
SETS = {
    "avmnist": (
        _mnist(
            "train-images-idx3", "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"
        ),
        _mnist(
            "train-labels-idx1", "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"
        ),
        _mnist(
            "t10k-images-idx3", "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"
        ),
        _mnist(
            "t10k-labels-idx1", "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"
        ),
        Published("fsdd.tar.gz", (_FSDD,), None, b"\x1f\x8b"),
    ),
}

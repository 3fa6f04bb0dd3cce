"""CIFAR-10 and CIFAR-100: small photographs of ten and of a hundred classes (Krizhevsky 2009).

torchvision's own readers read them. The published files are pickles: nothing is unpickled
before torchvision has compared its MD5 hash with the published one.
"""

from __future__ import annotations

from pathlib import Path

from ssnas_core.common.errors import InputError, one_line
from ssnas_core.datasets.records import Dataset, Record
from ssnas_core.datasets.splits import with_splits

_FORMS = {  # torchvision's class -> the folder that it makes, and files that only this one has
    "CIFAR10": ("cifar-10-batches-py", ("batches.meta", "data_batch_1")),
    "CIFAR100": ("cifar-100-python", ("meta", "train")),
}


def is_cifar(folder: Path) -> bool:
    """Whether the folder, or one in it, is what torchvision downloads as CIFAR10 or CIFAR100."""
    return bool(_places(Path(folder)))


def _places(folder: Path) -> dict[str, Path]:
    """Return the folders of the batches, by torchvision's name of the data set."""
    places = {}
    for name, (usual, files) in _FORMS.items():
        for place in (folder, folder / usual):
            whole = all((place / file).is_file() for file in files)
            if whole or (place.name == usual and place.is_dir()):
                places[name] = place
    return places


def read_cifar(
    folder: Path, *, seed: int = 0, strict: bool = False, progress: bool = False
) -> Dataset:
    """Return CIFAR-10 or CIFAR-100, one image and one label each.

    The modality is `"image"`, RGB, 32 x 32. The published test images are test; a tenth of the
    training images is dev, stratified, the others train. Of CIFAR-100 the classes are the
    hundred fine ones.

    Args:
        folder: that torchvision downloaded to (its `root`), or `cifar-10-batches-py` or
            `cifar-100-python` in it.
        seed: of the dev part.
        strict: taken as by all readers; files that are broken are always refused.
        progress: taken as by all readers; reading takes seconds.

    Raises:
        InputError: no such folder, both data sets in one, or files that are not the
            published ones.
    """
    from torchvision import datasets

    folder = Path(folder).resolve()
    places = _places(folder)
    if len(places) != 1:
        held = " and ".join(place.name for place in places.values()) or "neither"
        raise InputError(
            f"{folder}: expected CIFAR-10 or CIFAR-100 as torchvision has it, got {held}; "
            f"{'name one of these folders' if places else _remedy('CIFAR10', folder)}."
        )
    ((name, place),) = places.items()
    # the folder may have been renamed
    made = type(name, (getattr(datasets, name),), {"base_folder": place.name})
    records: list[Record] = []
    classes: list[str] = []
    for split in ("", "test"):
        try:
            part = made(place.parent, train=not split)
        except Exception as error:  # torchvision says RuntimeError; a pickle may raise anything
            raise InputError(
                f"{place}: expected the published files of {name}, got others, or some of them "
                f"missing ({one_line(error)}); {_remedy(name, place.parent)}."
            ) from error
        classes = list(part.classes)
        images = part.data.transpose(0, 3, 1, 2)  # (N, 3, 32, 32)
        records += [
            Record(f"{split or 'train'}-{row}", {"image": image}, (classes[label],), split)
            for row, (image, label) in enumerate(zip(images, part.targets, strict=True))
        ]
    placed = with_splits(records, classes, seed)
    return Dataset(name.lower(), {"image": "image"}, tuple(classes), placed, single_label=True)


def _remedy(name: str, root: Path) -> str:
    return (
        f"delete it and download it anew, in Python: torchvision.datasets.{name}({str(root)!r}, "
        "download=True)"
    )

"""Pictures with several texts each: a record is a text with its picture, which is its label."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ssnas_core.datasets.records import Dataset, Record, Skips

Captioned = tuple[str, Sequence[Any], str, Mapping[str, Any] | str]
"""A picture's name, its texts, its part, and what a record has of it, or why it has nothing."""


def captioned(
    name: str, kind: Mapping[str, str], found: Iterable[Captioned], skips: Skips
) -> Dataset:
    """Return pictures with texts as a data set of matching: `kind`'s modality and `caption`.

    Text k of a picture is the record "PICTURE#k". One that is empty, or whose picture cannot be
    used, is left out.

    Args:
        name: of the data set.
        kind: modality of the pictures -> its kind.
        found: the pictures.
        skips: takes what is left out.

    Raises:
        InputError: a part without a text that can be used, or, if `skips` is strict, any.
    """
    records: list[Record] = []
    for picture, texts, part, given in found:
        for place, text in enumerate(texts):
            record = f"{picture}#{place}"
            if isinstance(given, str) or not isinstance(text, str) or not text.strip():
                skips.add(record, given if isinstance(given, str) else "no caption")
                continue
            inputs = {**given, "caption": text.strip()}
            records.append(Record(record, inputs, (picture,), part))
    skips.check(records)
    names = tuple(dict.fromkeys(one.labels[0] for one in records if one.labels))
    kinds = {**kind, "caption": "text"}
    return Dataset(
        name, kinds, names, tuple(records), skips.reasons, single_label=True, task="matching"
    )

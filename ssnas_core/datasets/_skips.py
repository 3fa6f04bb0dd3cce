"""Records that cannot be used: left out and told in one warning, or refused at the first."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from ssnas_core.datasets.records import SPLITS, Record
from ssnas_core.errors import InputError

_LOG = logging.getLogger(__name__)


@dataclass
class Skips:
    """The records of `source` that are left out.

    Attributes:
        source: where they are, for messages.
        strict: whether the first one is an error.
        reasons: id -> reason.
    """

    source: str
    strict: bool
    reasons: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, reason: str, where: str = "") -> None:
        """Leave a record out; if `strict`, raise InputError with its place instead."""
        if self.strict:
            raise InputError(
                f"{self.source}{where}: record {name[:64]!r}: {reason}; mend it, "
                "or read with strict off to leave it out."
            )
        key = name[:64]
        self.reasons[f"{key}{where}" if key in self.reasons else key] = reason

    def check(self, records: Sequence[Record]) -> None:
        """Warn once of all that was left out; raise InputError where a split has no record."""
        total = len(records) + len(self.reasons)
        if self.reasons:
            common = Counter(self.reasons.values()).most_common(5)
            shown = ", ".join(f"{count} x {reason}" for reason, count in common)
            _LOG.warning(
                "%s: left out %d of %d records: %s", self.source, len(self.reasons), total, shown
            )
        for split in SPLITS:
            if all(record.split != split for record in records):
                example = next((f", e.g. {k!r}: {why}" for k, why in self.reasons.items()), "")
                raise InputError(
                    f"{self.source}: expected usable records in split {split!r}, got none "
                    f"({len(self.reasons)} of all {total} unusable{example}); restore the data."
                )

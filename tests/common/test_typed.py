"""Fields that came later: absent from what is written while they have their default."""

from __future__ import annotations

from dataclasses import dataclass, field

from ssnas_core.common.typed import LATER, plain, typed


@dataclass(frozen=True, kw_only=True)
class Part:
    size: int = 3
    kind: str = field(default="old", metadata=LATER)


def test_field_that_came_later_is_written_only_where_it_differs_from_its_default():
    assert plain(Part()) == {"size": 3}
    assert plain({"part": Part(kind="new")}) == {"part": {"size": 3, "kind": "new"}}
    for part in (Part(), Part(size=4, kind="new")):
        assert typed(Part, plain(part), "file") == part
    assert typed(Part, {"size": 3}, "file") == Part()  # as before there was the field

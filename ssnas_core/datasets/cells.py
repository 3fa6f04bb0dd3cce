"""What a cell of a table says: labels in the forms people write them, missing values, plain text.

Labels come as a list (JSON, Python, a Parquet list, objects with a name or by id) or as names
with something between them. Bars and semicolons always separate. Anything else does only
where the column itself shows it: where the pieces are names that the column uses elsewhere too.
"""

from __future__ import annotations

import ast
import json
import logging
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from ssnas_core.common.errors import InputError

_LOG = logging.getLogger(__name__)

MISSING = (
    *("n/a", "#n/a", "na", "<na>", "nan", "none", "null", "\\n"),
    *("-", "--", "?", "[]", "{}", "()", "(no genres listed)"),
)
"""Cells that say "no value", in any case; an empty one always does."""

MAX_CELL = 100_000
"""Characters of the longest cell of labels that is parsed as a list."""

# Between labels. Of the first, one that is no separator is hardly ever part of a name; the
# second are in names too ("Action & Adventure"); the third are refused, not split at.
_LISTED = (",", "，", "、", "\n", "\t", "•", "・")
_JOINED = ("/", "／", " - ", " – ", " — ", "&", "+", "·")
_DOUBTED = (" and ", ":", "\\", "_", "#", " ")
_PLAIN = 0.8  # share of the pieces that are names of their own
_INVISIBLE = re.compile("[\u00ad\u200b\u200e\u200f\u2060\ufeff]")
_QUOTES = {"'": "'", '"': '"', "“": "”", "‘": "’", "«": "»"}


def name_of(text: str) -> str:
    """Return a label as it is compared: NFC, one kind of space and of hyphen, nothing invisible."""
    text = _INVISIBLE.sub("", unicodedata.normalize("NFC", text))
    return " ".join(re.sub("[\u2010\u2011]", "-", text).split())


def plain_text(text: str) -> str:
    """Return a text without white space around it, its letters in one form (NFC)."""
    return unicodedata.normalize("NFC", text).strip().strip("\ufeff")


@lru_cache
def _folded(words: tuple[str, ...]) -> frozenset[str]:
    return frozenset(word.casefold() for word in words)


def is_missing(cell: Any, missing: Sequence[str] = MISSING) -> bool:
    """Whether a cell says that there is no value: None, NaN, blank, or one of `missing`."""
    if isinstance(cell, str):
        text = name_of(cell).casefold()
        return not text or text in _folded(tuple(missing))
    return cell is None or cell != cell


def label_cells(
    cells: Sequence[Any],
    *,
    separator: str | None = None,
    single: bool | None = None,
    missing: Sequence[str] = MISSING,
    where: str = "labels",
) -> list[tuple[str, ...] | str]:
    """Return the labels of each cell of a column, () where it has none.

    Args:
        cells: strings, numbers, lists of these or of objects with a name, or None.
        separator: what is between the labels of a string; else bars, or semicolons where
            there is no bar, or what the column shows.
        single: whether each cell is one label, and nothing but bars and semicolons separates.
        missing: words that are no label.
        where: the column, for messages.

    Returns:
        Of each cell its labels without repetition; or, of a list that cannot be read, what it
        is instead.

    Raises:
        InputError: strings look like several labels, and it is not plain what separates them.
    """
    hot = _multi_hot(cells)
    read: list[list[str] | str] = [_listed(cell, missing) for cell in (hot or cells)]
    texts = [place for place, cell in enumerate(cells) if _is_text(cell, read[place])]
    firm = any(sign in cells[place] for place in texts for sign in "|;")
    between = {"\\t": "\t", "\\n": "\n"}.get(separator or "", separator)
    for place in texts:
        text = read[place][0]
        read[place] = _pieces(text, between or ("|" if "|" in text else ";"), missing)
    if separator is None and not single:
        for sign in _separators([read[place] for place in texts], firm, where):
            for place in texts:
                read[place] = [p for text in read[place] for p in _pieces(text, sign, missing)]
    return [
        one if isinstance(one, str) else tuple(dict.fromkeys(map(name_of, one))) for one in read
    ]


def _is_text(cell: Any, read: list[str] | str) -> bool:
    """Whether a cell is one text that may hold several labels."""
    return isinstance(cell, str) and isinstance(read, list) and read == [_spaced(cell)]


def _spaced(text: str) -> str:
    """Return a text with its separators as they are, tabs and line breaks among them."""
    return _INVISIBLE.sub("", unicodedata.normalize("NFC", text)).strip()


def _pieces(text: str, sign: str, missing: Sequence[str]) -> list[str]:
    parts = [part.strip() for part in (text.split(sign) if sign else [text])]
    return [part for part in map(_unquoted, parts) if not is_missing(part, missing)]


def _unquoted(text: str) -> str:
    inner = text[1:-1]
    quoted = len(text) > 1 and _QUOTES.get(text[0]) == text[-1] and text[-1] not in inner
    return inner.strip() if quoted else text


# Lists


def _listed(cell: Any, missing: Sequence[str]) -> list[str] | str:
    """Return the labels of a list, a text as the only one, [] of a missing cell, or what it is."""
    if is_missing(cell, missing):
        return []
    if isinstance(cell, str):
        text = _spaced(cell)
        if text[0] + text[-1] not in ("[]", "{}", "()"):
            return [text]
        items = _parsed(text)
        if items is None:
            return "a list that cannot be read" if text[0] == "[" else [text]
    else:
        items = cell
    if isinstance(items, Mapping):  # the only object; or names by their ids
        items = [items] if "name" in items else list(items.values())
        if not all(isinstance(one, str | Mapping) for one in items):
            return "an object without names"
    if not isinstance(items, Iterable | int | float):
        return f"of type {type(items).__name__}, neither text nor list"
    names = [_item(one) for one in ([items] if isinstance(items, int | float) else items)]
    if None in names:
        return "a list of something else than names, numbers or objects with a name"
    return [one for one in map(str, names) if not is_missing(one, missing)]


def _parsed(text: str) -> Any:
    """Return the list, tuple, set or object that a text in brackets is; None if it is none."""
    if len(text) > MAX_CELL:
        return None
    inner = text[1:-1].strip()
    if re.search(r"""(['"])\s+['"]""", inner):  # NumPy's, without commas: Python would join them
        return [one or other for one, other in re.findall(r"""'([^']*)'|"([^"]*)\"""", inner)]
    for parse in (json.loads, ast.literal_eval):
        try:
            items = parse(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
            continue
        if isinstance(items, set):
            return sorted(items, key=str)  # a set has no order
        return items if isinstance(items, list | tuple | Mapping) else None
    bare = text[0] in "[{" and not re.search(r"""[\[\](){}'":]""", inner)
    return inner.split(",") if bare else None  # [Drama, War], and PostgreSQL's {Drama,War}


def _item(one: Any) -> str | None:
    """Return the name that an element of a list is, "" of a missing one; None if it is none."""
    if isinstance(one, Mapping):
        one = one.get("name")
        return one if isinstance(one, str) else None
    if one is None or one != one:
        return ""
    if isinstance(one, float) and one.is_integer():
        one = int(one)
    return str(one) if isinstance(one, str | int | float) else None


def _multi_hot(cells: Sequence[Any]) -> list[list[str] | None] | None:
    """Return the numbers of the ones in lists of 0 and 1, a place per class; None of others."""
    rows = [cell for cell in cells if cell is not None]
    if not all(isinstance(row, list) and len(row) == len(rows[0]) for row in rows):
        return None
    if not any(len(set(row)) < len(row) for row in rows) or not all(
        {*row} <= {0, 1} for row in rows
    ):
        return None
    return [None if row is None else [str(k) for k, one in enumerate(row) if one] for row in cells]


# Separators


def _separators(read: Sequence[Sequence[str]], firm: bool, where: str) -> list[str]:
    """Return what else than bars and semicolons separates the labels of a column's cells.

    Args:
        read: of each cell its pieces so far.
        firm: whether bars or semicolons separate some.
        where: the column.

    Raises:
        InputError: it is not plain.
    """
    atoms = {text for pieces in read for text in pieces}
    found: list[str] = []
    for sign in (*_LISTED, *_JOINED, *_DOUBTED):
        holding = sorted(text for text in atoms if len(_pieces(text, sign, ())) > 1)
        if not holding:
            continue
        known = _known(atoms, sign)
        if known >= _PLAIN and sign not in _DOUBTED:
            found.append(sign)
            atoms = {piece for text in atoms for piece in _pieces(text, sign, ())}
        elif not (firm or found) and _is_doubtful(sign, known):
            raise InputError(
                f"{where}: {holding[0][:60]!r} may be one label or several with {sign!r} between "
                f"them; say which by --labels-separator {sign!r} or --single-label True "
                "(labels_separator=, single_label= in Python)."
            )
    if found:
        example = next(text for pieces in read for text in pieces if found[0] in text)
        signs = " and ".join(repr(sign) for sign in found)
        _LOG.warning("%s: read as separated by %s, e.g. %r", where, signs, example[:60])
    return found


def _is_doubtful(sign: str, known: float) -> bool:
    """Whether a sign that does not plainly separate may do so."""
    if sign in _LISTED:
        return True
    return known >= _PLAIN if sign in _DOUBTED else known > 0


def _known(atoms: Iterable[str], sign: str) -> float:
    """Return the share of the pieces between `sign` that are in other texts too."""
    count: Counter[str] = Counter()
    split: list[str] = []
    for text in atoms:
        pieces = [name_of(part).casefold() for part in text.split(sign) if part.strip()]
        count.update(set(pieces))
        split += pieces if len(pieces) > 1 else []
    return sum(count[piece] > 1 for piece in split) / max(len(split), 1)


def similar(names: Iterable[str]) -> list[tuple[str, ...]]:
    """Return the names that differ by case, accents' form, spaces or hyphens alone, in groups."""
    groups: dict[str, list[str]] = {}
    for name in names:
        form = unicodedata.normalize("NFKC", name).casefold()
        groups.setdefault(re.sub(r"[\s_\-‐-―−]", "", form), []).append(name)
    return [tuple(group) for group in groups.values() if len(group) > 1]

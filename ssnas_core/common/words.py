"""The words of a text, in scripts with and without spaces between them."""

from __future__ import annotations

import re

_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003ffff]"
)
_LONG = 8  # letters between two spaces: more, in the mean, are several words of such a script


def words_of(text: str) -> tuple[list[str], str]:
    """Return the words of a text, or its letters where no spaces separate words, and the space."""
    words = text.split()
    letters = sum(map(len, words))
    if letters > _LONG * len(words) and 2 * len(_UNSPACED.findall(text)) > letters:
        return list(text), ""
    return words, " "

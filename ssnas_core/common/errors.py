"""The one exception for what a user can mend: expected, got, remedy, in one line."""

from __future__ import annotations


class InputError(ValueError):
    """Input from outside (file, argument, data) that cannot be used as it is.

    The message is one line that names what was expected, what was found and
    what to do; the command line prints it and exits with status 2.
    """


def one_line(text: object, most: int = 200) -> str:
    """What a library says, as a printable part of an `InputError`: one line, cut to `most`."""
    told = " ".join(str(text).split())[:most]
    return told if told.isprintable() else ascii(told)

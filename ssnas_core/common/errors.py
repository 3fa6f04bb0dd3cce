"""The one exception for what a user can mend: expected, got, remedy, in one line."""

from __future__ import annotations


class InputError(ValueError):
    """Input from outside (file, argument, data) that cannot be used as it is.

    The message is one line: what was expected, what came instead, and what to
    do. The command line prints it and exits with status 2.
    """


def one_line(text: object, most: int = 200) -> str:
    """A library's message as a printable part of an `InputError`: one line, cut to `most`."""
    line = " ".join(str(text).split())[:most]
    return line if line.isprintable() else ascii(line)

"""The one exception for what a user can mend: expected, got, remedy, in one line."""

from __future__ import annotations


class InputError(ValueError):
    """Input from outside (file, argument, data) that cannot be used as it is.

    The message is one line that names what was expected, what was found and
    what to do; the command line prints it and exits with status 2.
    """

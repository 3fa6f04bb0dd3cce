"""The `ssnas` command; `commands` holds its subcommands, `actions` does what they say.

Progress and notes go to standard error, results to standard output. A user's
mistake gets exit status 2 and one line; a study that lacks cells, exit status 1.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import logging
import os
import re
import signal
import sys
import warnings
from collections.abc import Iterator
from typing import Any, NoReturn

import tyro

from ssnas_core.cli.actions import COMMANDS, run_command
from ssnas_core.cli.commands import (
    DemoCommand,
    RecipeCommand,
    SeveralCommand,
    TrainCommand,
    type_of,
)
from ssnas_core.cli.launching import is_first, launched, leave, says_why
from ssnas_core.common.errors import InputError


def main(arguments: list[str] | None = None) -> NoReturn:
    """Entry point of the `ssnas` command; always exits."""
    # Before torch is loaded: a thread that waits for another one, whose core a busy program has,
    # gives its own core up after so many turns instead of after milliseconds.
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    if sys.stderr is None:  # closed
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    if sys.stdout is None:
        fail("standard output is closed, so no result can be printed; send it to a file.")
    signal.signal(signal.SIGTERM, _terminate)
    try:
        command = parse(sys.argv[1:] if arguments is None else arguments)
    except KeyboardInterrupt as stop:  # nothing is begun
        print("ssnas: stopped.", file=sys.stderr)
        sys.exit(143 if isinstance(stop, _Terminated) else 130)
    logging.basicConfig(
        level=logging.ERROR if command.quiet else logging.INFO,
        format="ssnas: %(message)s",
        stream=sys.stderr,
    )
    loud = ("distributed", "httpx", "huggingface_hub", "matplotlib", "onnx_ir", "onnxscript", "PIL")
    for noisy in loud:
        logging.getLogger(noisy).setLevel(logging.ERROR)
    try:
        # torch.hub prints where it downloads from
        with _hushed(command.quiet), contextlib.redirect_stdout(sys.stderr):
            if isinstance(command, SeveralCommand):
                command = launched(command, by_shell=arguments is None)
            result, text, status = run_command(command)
            first = is_first()
            leave()
    except InputError as error:
        fail(str(error))
    except KeyboardInterrupt as stop:
        resumed = isinstance(command, RecipeCommand | DemoCommand | TrainCommand)
        more = "; the same command goes on from here" if resumed else ""
        if is_first():
            print(f"ssnas: stopped{more}.", file=sys.stderr)
        sys.exit(143 if isinstance(stop, _Terminated) else 130)
    except OSError as error:
        fail(f"{error.strerror or error}: {error.filename}" if error.filename else str(error))
    if first:
        _deliver(json.dumps(result) if command.json else text)
    sys.exit(status)


@contextlib.contextmanager
def _hushed(quiet: bool) -> Iterator[None]:
    """Show no warnings in the block, of Python or of any library, if `quiet`."""
    with warnings.catch_warnings():
        if quiet:
            warnings.showwarning = lambda *_, **__: None  # filters are set by libraries too
            logging.disable(logging.WARNING)
        try:
            yield
        finally:
            if quiet:
                logging.disable(logging.NOTSET)


def _deliver(text: str | None = None) -> None:
    """Print on standard output, in letters that it has; flush what was printed before."""
    try:
        if text is not None:
            encoding = sys.stdout.encoding or "utf-8"
            print(text.encode(encoding, "backslashreplace").decode(encoding))
        sys.stdout.flush()
    except OSError as error:
        _undelivered(error)


def _undelivered(error: OSError) -> None:
    """Say that standard output cannot be written; not to a reader that has had enough."""
    # what is in the buffer is written once more when Python ends
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if not isinstance(error, BrokenPipeError):  # as in `ssnas show RUN | head`
        fail(f"cannot write to standard output: {error.strerror or error}; send it elsewhere.")


class _Terminated(KeyboardInterrupt):  # noqa: N818
    """SIGTERM, as a cluster sends before it takes a machine away: ends like Ctrl-C."""


def _terminate(*_: object) -> NoReturn:
    raise _Terminated


def parse(arguments: list[str]) -> Any:
    """The subcommand that `arguments` name; a mistake exits with status 2 and one line."""
    said = io.StringIO()
    sys.path.append(os.getcwd())  # a part of one's own is package.module:Name from here
    try:
        types = {name: command for name, (command, _) in COMMANDS.items()}
        name = next((word for word in arguments if not word.startswith("-")), "")
        if name in types:
            types[name] = type_of(types[name], arguments)
        with contextlib.redirect_stderr(said):
            return tyro.extras.subcommand_cli_from_dict(
                types, prog="ssnas", description=DESCRIPTION, args=_with_texts(arguments, types)
            )
    except InputError as error:  # a part that there is not
        fail(str(error))
    except OSError as error:
        _undelivered(error)
        sys.exit(0)
    except SystemExit as stop:
        if not stop.code:  # --help
            _deliver()
            raise
        fail(_one_line(said.getvalue()))


def _with_texts(arguments: list[str], types: dict[str, Any]) -> list[str]:
    """Return the arguments with a text joined to its option: it may begin with a dash."""
    names = ("--plot", "--question", "--text")
    place = next((k for k, word in enumerate(arguments[:-1]) if word in names), None)
    if place is None or "predict" not in arguments[:place]:
        return arguments
    fields = dataclasses.fields(types["predict"])
    options = {f"--{field.name.replace('_', '-')}" for field in fields}
    text = arguments[place + 1]
    if text in options:  # the text was forgotten
        return arguments
    return [*arguments[:place], f"{arguments[place]}={text}", *arguments[place + 2 :]]


DESCRIPTION = (
    "Self-supervised architecture search for multimodal networks: find a fusion network for "
    "images and texts without labels, pretrain it without labels, fine-tune it on few."
)


def fail(message: str) -> NoReturn:
    """Print one line on standard error, once for all processes, and exit with status 2."""
    if says_why():
        with contextlib.suppress(OSError):  # standard error may be full too
            print(f"ssnas: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(2)


def _one_line(boxed: str) -> str:
    """Return the text of tyro's framed message, and the command that it says to look at."""
    groups: list[list[str]] = [[]]  # of rows, between rules; the frame may be ASCII
    for row in boxed.splitlines():
        row = row.strip("│╭╮╰╯─")
        if not row.strip(" -─"):
            groups.append([])
        elif row[:8].strip():  # deep inside stands what an option means, which --help says too
            groups[-1].append(row.strip())
    shown = [group for group in groups if group]
    title = shown[0].pop(0)
    text, *more = (" ".join(group) for group in shown if group)
    if not text.lower().startswith(title.lower()):
        text = f"{title.lower()}: {text}"
    parts = [text, *(part for part in more if part.startswith("Available subcommands"))]
    usage = re.findall(r"ssnas[a-z ]* --help", " ".join(more)) or ["ssnas --help"]
    return f"{'; '.join(parts)} (see {usage[-1]})"

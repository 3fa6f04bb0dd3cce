"""Options of the command line from the configurations themselves: one definition of each setting.

tyro reads dataclasses. What it shows of one is decided here: the help of a field is its line
in the docstring, a default is a value, and what a part can be given in Python alone (a module
as a backbone) is a name.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from functools import lru_cache
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import tyro


def shown(config: Any, hidden: tuple[str, ...] = ()) -> Any:
    """Return a type whose fields are the options of `config`, its values their defaults.

    Args:
        config: a dataclass.
        hidden: fields whose settings are accepted, but not listed by --help.
    """
    fields = []
    hints, texts = get_type_hints(type(config)), _helps(type(config))
    for one in dataclasses.fields(config):
        value = getattr(config, one.name)
        if dataclasses.is_dataclass(value):
            inner = shown(value)
            hint = tyro.conf.Suppress[inner] if one.name in hidden else inner
            fields.append((one.name, hint, group(inner)))
            continue
        hint, metavar = _readable(hints[one.name], value)
        argument = tyro.conf.arg(help=texts.get(one.name, ""), metavar=metavar)
        fields.append((one.name, Annotated[hint, argument], dataclasses.field(default=value)))
    made = dataclasses.make_dataclass(type(config).__name__, fields, frozen=True, kw_only=True)
    made.__doc__ = (inspect.getdoc(type(config)) or "").partition("\n")[0]
    return made


def group(made: Any) -> Any:
    """Return the field of a group of options, of a `shown` type.

    Its help is the type's docstring: told so, tyro does not look for it in source files.
    """
    return dataclasses.field(default_factory=made, metadata={"help": made.__doc__})


def given(options: Any, config: Any) -> Any:
    """Return `config` with the values that an instance of its `shown` type holds."""
    values = {}
    for one in dataclasses.fields(config):
        value, before = getattr(options, one.name), getattr(config, one.name)
        values[one.name] = given(value, before) if dataclasses.is_dataclass(before) else value
    return type(config)(**values)


def _readable(hint: Any, value: Any) -> tuple[Any, str | None]:
    """Return what tyro is to parse, and how its help names that (None: as tyro does)."""
    if get_origin(hint) not in (Union, UnionType):
        return hint, None
    plain = [one for one in get_args(hint) if one in (int, float, str, bool, type(None))]
    plain = plain or [str]
    if str in plain and type(None) not in plain:
        return str, None
    rest = [one for one in get_args(hint) if one is not type(None)]
    if len(rest) > 1:
        rest = [one for one in rest if one in plain] or [str]
    name = getattr(rest[0], "__name__", str(rest[0])).upper()
    if get_origin(rest[0]) is tuple:
        name = " ".join(getattr(one, "__name__", "...").upper() for one in get_args(rest[0]))
    return rest[0] | None, f"{name}|None"


@lru_cache
def _helps(made: type) -> dict[str, str]:
    """Return the line on each field: under "Args:" of the docstring, else the comment behind it."""
    texts: dict[str, str] = {}
    for one in reversed(made.__mro__[:-1]):  # object has no source
        comments = re.findall(r"^ +(\w+): [^#\n]*# (.*)$", inspect.getsource(one), re.M)
        texts |= {name: line.strip() for name, line in comments}
        _, _, arguments = inspect.cleandoc(one.__doc__ or "").partition("\nArgs:\n")
        entries = re.findall(r"^    (\w[\w, ]*): (.*(?:\n     +.*)*)", arguments, re.M)
        for names, text in entries:
            line = " ".join(text.split())
            texts |= dict.fromkeys(re.split(r",\s*", names), line)
    return texts

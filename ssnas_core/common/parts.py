"""Parts by name: what a folder of interchangeable parts offers, and what others bring along.

A part is named by the table of its folder ("bilevel"), by an entry point of an installed
package (group "ssnas.strategy"), or as "package.module:Name". A name that stands in a file
never causes an import: its module has to be imported already, or to be an entry point.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from ssnas_core.common.errors import InputError
from ssnas_core.common.typed import brief, plain, typed


@dataclass(frozen=True)
class Parts:
    """The parts of one kind.

    Args:
        kind: as "strategy"; entry points are in the group "ssnas.<kind>".
        table: name -> "module:Name" of those that come with the library.
    """

    kind: str
    table: Mapping[str, str]

    @cached_property
    def brought(self) -> dict[str, EntryPoint]:
        """Entry points of installed packages, by name."""
        points = {point.name: point for point in entry_points(group=f"ssnas.{self.kind}")}
        return {name: point for name, point in points.items() if name not in self.table}

    def find(self, name: str, *, from_file: bool = False) -> Any:
        """Return the class or function that `name` stands for.

        Args:
            name: of the table, of an entry point, or "package.module:Name".
            from_file: it was read from a file, so that no module is imported for it.

        Raises:
            InputError: there is none of that name, or its module cannot be imported.
        """
        if name in self.brought:
            return self.brought[name].load()
        module, colon, attribute = self.table.get(name, name).partition(":")
        if not colon or not all(word.isidentifier() for word in [*module.split("."), attribute]):
            raise InputError(
                f"unknown {self.kind} {brief(name)!r}; expected {', '.join(self.names())}, or one "
                "of your own as package.module:Name."
            )
        if from_file and name not in self.table and module not in sys.modules:
            raise InputError(
                f"the {self.kind} {brief(name)!r} is not of this library; import {brief(module)} "
                f"first (on the command line: --parts {brief(module)}) if you trust it."
            )
        try:
            return getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError) as error:
            raise InputError(
                f"cannot import the {self.kind} {brief(name)!r} ({error}); give the name of an "
                "importable module and of what is in it, as package.module:Name."
            ) from error

    def names(self) -> tuple[str, ...]:
        """Return all names that need no module, the library's own first."""
        return (*self.table, *self.brought)

    def name_of(self, part: Any) -> str:
        """Return the name by which `find` gives `part`, a class or a function, or its class.

        Raises:
            InputError: no name leads to it, as to what is defined inside a function.
        """
        made = part if isinstance(part, type) or inspect.isfunction(part) else type(part)
        place = f"{made.__module__}:{made.__qualname__}"
        known = {**{name: point.value for name, point in self.brought.items()}, **self.table}
        name = next((name for name, where in known.items() if where == place), place)
        if name == place and (
            made.__module__ == "__main__"
            or getattr(sys.modules.get(made.__module__), made.__qualname__, None) is not made
        ):
            raise InputError(
                f"{made.__qualname__} is not importable, so that no file can name it; define the "
                f"{self.kind} at the top level of a module of its own."
            )
        return name

    def plain(self, part: Any) -> dict[str, Any]:
        """Return a part that is a dataclass as JSON values: its name and its fields."""
        return {"name": self.name_of(part), **plain(part)}

    def from_plain(self, values: Any, where: str) -> Any:
        """Return the part that `plain` returned, from a file.

        Raises:
            InputError: another kind of value, fields that do not fit, or a part of a module
                that was not imported; the message begins with `where`.
        """
        if not isinstance(values, dict) or not isinstance(values.get("name"), str):
            raise InputError(f"{where}: expected a {self.kind} with its name, got {brief(values)}.")
        fields = {name: value for name, value in values.items() if name != "name"}
        return typed(self.find(values["name"], from_file=True), fields, where)

    def described(self) -> Iterator[tuple[str, str, str]]:
        """Yield name, source and a line about each part: of its docstring; an object's repr."""
        for name in self.names():
            where = self.table.get(name) or self.brought[name].value
            part = self.find(name)
            made = isinstance(part, type) or inspect.isfunction(part)
            text = (inspect.getdoc(part) or "") if made else repr(part)
            yield name, where, text.partition("\n")[0]

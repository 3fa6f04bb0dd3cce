"""Values as JSON has them, and back: every field checked against its type hint."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from functools import lru_cache
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from ssnas_core.common.errors import InputError


def plain(value: Any) -> Any:
    """`value` as JSON values: dataclasses as objects, tuples as lists; `typed` reads it back."""
    if dataclasses.is_dataclass(value):
        names = (field.name for field in dataclasses.fields(value))
        return {name: plain(getattr(value, name)) for name in names}
    if isinstance(value, Mapping):
        return {name: plain(item) for name, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def typed(hint: Any, value: Any, where: str) -> Any:
    """`value`, from JSON, as the type `hint` has it.

    Knows bool, int (of 64 bits), float (finite), str, Any, `X | None`, Literal,
    `tuple[X, ...]`, `tuple[X, Y]`, `Mapping[str, X]` and dataclasses of these. A
    dataclass's field may be absent where it has a default: it was added later.

    Raises:
        InputError: it is something else; the message begins with `where`.
    """
    options, origin = get_args(hint), get_origin(hint)
    if hint is Any:
        return value
    if origin in (Union, UnionType):
        (inner,) = (option for option in options if option is not type(None))
        return None if value is None else typed(inner, value, where)
    if origin is tuple and isinstance(value, list):
        hints = options[:1] * len(value) if options[-1] is ... else options
        if len(hints) == len(value):
            pairs = enumerate(zip(hints, value, strict=True))
            return tuple(typed(one, item, f"{where}[{i}]") for i, (one, item) in pairs)
    if isinstance(origin, type) and issubclass(origin, Mapping) and isinstance(value, dict):
        return {name: typed(options[1], item, _at(where, name)) for name, item in value.items()}
    if origin is Literal and any(type(value) is type(one) and value == one for one in options):
        return value
    if dataclasses.is_dataclass(hint) and isinstance(value, dict):
        fields = dataclasses.fields(hint)
        missing = dataclasses.MISSING
        needed = {
            one.name for one in fields if one.default is missing and one.default_factory is missing
        }
        same_names(value, needed, {one.name for one in fields}, where)
        hints = _hints(hint)
        given = {name: typed(hints[name], item, _at(where, name)) for name, item in value.items()}
        try:
            return hint(**given)  # type: ignore[operator]  # a class, not an instance
        except InputError as error:
            raise InputError(f"{where}: {error}") from error
    small = type(value) is not int or abs(value) < 2**63  # larger ones overflow elsewhere
    if hint is float and type(value) is int and small:
        value = float(value)
    if (
        type(value) is not hint
        or not small
        or (isinstance(value, float) and not math.isfinite(value))
    ):
        name = str(hint) if origin else getattr(hint, "__name__", hint)
        name = "an object" if dataclasses.is_dataclass(hint) else name
        raise InputError(f"{where}: expected {name}, got {brief(value)!r}; restore the file.")
    return value


@lru_cache(maxsize=256)
def _hints(made: Any) -> dict[str, Any]:
    """Return the type hints of a dataclass, which Python compiles from text at each call."""
    return get_type_hints(made)


def check_fields(config: Any, *positive: str, **least: float) -> None:
    """Raise `InputError` where a field of a dataclass is out of its range.

    A field with a `Literal` hint has one of its options; one in `positive` is finite and
    larger than 0; one in `least` is finite and at least so large, or None.
    """
    for name, hint in _hints(type(config)).items():
        value, options, where = getattr(config, name), get_args(hint), type(config).__name__
        if get_origin(hint) is Literal and value not in options:
            raise InputError(f"{where}.{name} must be one of {options}, got {value!r}.")
        if name in positive and not 0 < value < math.inf:
            raise InputError(f"{where}.{name} must be > 0, got {value}.")
        if name in least and value is not None and not least[name] <= value < math.inf:
            raise InputError(f"{where}.{name} must be >= {least[name]}, got {value}.")


def brief(value: Any) -> str:
    """`value` in at most 40 characters, whatever a file made of it."""
    if isinstance(value, Mapping | list | tuple) and len(value) > 10:
        return f"{type(value).__name__} of {len(value):,}"
    try:
        text = str(value)[:40]
    except RecursionError:
        return type(value).__name__
    return text if text.isprintable() else ascii(text)


def _at(where: str, name: str) -> str:
    return f"{where}.{name if name.isprintable() else ascii(name)}"[:300]


def same_names(given: Mapping[str, Any], needed: set[str], known: set[str], where: str) -> None:
    """Raise `InputError` unless the names in `given` are all `needed` ones, and `known`."""
    lacking, unknown = sorted(needed - given.keys()), sorted(given.keys() - known)
    if lacking or unknown:
        fault = f"lacks {', '.join(lacking)}" if lacking else f"has unknown {', '.join(unknown)}"
        fault = fault if fault.isprintable() else ascii(fault)
        raise InputError(f"{where}: {fault[:80]}; restore the file.")

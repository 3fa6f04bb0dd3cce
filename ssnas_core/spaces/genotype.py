"""Genotypes: the discrete architectures that a search returns and that training builds.

A genotype file is the one door between searching and training. Nothing here
knows of torch: a genotype is names, not weights.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ssnas_core.common.errors import InputError
from ssnas_core.common.files import read_json, write_text
from ssnas_core.common.typed import brief, plain, typed

FORMAT = 1
"""Version of the JSON form; raised whenever an old reader would misread a new file."""

OUTPUT = "output"
"""Name of a node that says what reaches the classifier, where that is a choice."""

MAX_PARTS = 300
_ABOUT = ("format", "reads")  # of the document, not of the genotype
_NAME = re.compile(r"\w[\w ._+:-]{0,99}")  # no path, no mark of a formula, no control character


@dataclass(frozen=True)
class Node:
    """One chosen operation: `name = operator(*inputs)`."""

    name: str
    operator: str
    inputs: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.operator}({', '.join(self.inputs)})"


@dataclass(frozen=True)
class Genotype:
    """An architecture as a list of named operations, inputs before their users.

    Args:
        space: name of the search space it belongs to, e.g. `"fusion"`.
        nodes: operations in order. An input is the name of an earlier node or
            of a feature (`"image_2"`, `"text_0"`); only the space knows which
            features and operators exist, so it checks those.

    Raises:
        InputError: no nodes, two nodes of one name, a node that uses itself or a
            later node, more than `MAX_PARTS` nodes and inputs, or odd names.
    """

    space: str
    nodes: tuple[Node, ...]

    def __post_init__(self) -> None:
        parts = len(self.nodes) + sum(len(node.inputs) for node in self.nodes)
        if parts > MAX_PARTS:  # also a bound on what drawing and building it may take
            raise InputError(f"a genotype has at most {MAX_PARTS} nodes and inputs, got {parts}.")
        names = [node.name for node in self.nodes]
        if not names or len(set(names)) < len(names):
            raise InputError(
                "a genotype needs at least one node and distinct node names, "
                f"got {str(names)[:200]}."
            )
        for name in (self.space, *names, *(x for n in self.nodes for x in (n.operator, *n.inputs))):
            if not _NAME.fullmatch(name):
                raise InputError(
                    "a genotype's names are up to 100 letters, digits, spaces and ._-+:, got "
                    f"{ascii(name)[:120]}; rename it."
                )
        for position, node in enumerate(self.nodes):
            late = set(node.inputs) & set(names[position:])
            if late:
                raise InputError(
                    f"node {node.name!r} uses {str(sorted(late))[:200]} before it is computed; "
                    "list a node after its inputs."
                )

    def __str__(self) -> str:
        return " -> ".join(str(node) for node in self.nodes)

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the stored features that are used, in order of first use."""
        names = {node.name for node in self.nodes}
        used = (name for node in self.nodes for name in node.inputs if name not in names)
        return tuple(dict.fromkeys(used))

    def to_json(self) -> str:
        """Return the genotype as a versioned JSON document."""
        document = {"format": FORMAT, **plain(self), "reads": str(self)}
        return json.dumps(document, indent=2) + "\n"

    @classmethod
    def from_json(cls, document: Mapping[str, Any], source: str = "genotype") -> Genotype:
        """Return the genotype in a parsed JSON document.

        Args:
            document: as `to_json` writes it, parsed. Its `"reads"` is for people
                and is not used.
            source: the document's name in errors, e.g. its path.

        Raises:
            InputError: another version, or fields missing or of another type.
        """
        version = document.get("format") if isinstance(document, Mapping) else document
        if version != FORMAT or not isinstance(document, Mapping):
            raise InputError(
                f"{source}: expected a genotype of format {FORMAT}, got {brief(version)!r}; "
                "write it with this version of ssnas."
            )
        nodes = document.get("nodes")
        if isinstance(nodes, list) and len(nodes) > MAX_PARTS:  # before each of them is read
            raise InputError(
                f"{source}: a genotype has at most {MAX_PARTS} nodes, got {len(nodes)}; "
                "restore the file."
            )
        fields = {name: value for name, value in document.items() if name not in _ABOUT}
        return typed(cls, fields, source)

    def save(self, path: Path) -> None:
        """Write the JSON form to `path`, atomically."""
        write_text(Path(path), self.to_json())

    @classmethod
    def load(cls, path: Path) -> Genotype:
        """Return the genotype saved in `path`; `InputError` where it is not one."""
        return cls.from_json(read_json(Path(path)), source=str(path))


@dataclass(frozen=True)
class SearchResult:
    """The result of every strategy.

    Args:
        genotype: the best architecture.
        history: one entry per epoch or trial, plain JSON values: losses, the
            logits or the score, and the genotype derived at that point.
        state: tensors of the trained supernet by name, for inheriting its
            weights; empty for strategies without one.
    """

    genotype: Genotype
    history: tuple[Mapping[str, Any], ...]
    state: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)

"""A classifier in plain values: all that decides it but its backbones and its weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from ssnas_core.common.errors import InputError
from ssnas_core.common.modalities import is_modality, modality_of
from ssnas_core.common.typed import plain, typed
from ssnas_core.datasets.records import TASKS
from ssnas_core.runs import BASELINES
from ssnas_core.runs.methods import Method, baseline_of
from ssnas_core.spaces import SPACES
from ssnas_core.spaces.fusion.space import FusionConfig
from ssnas_core.spaces.genotype import Genotype


@dataclass(frozen=True, kw_only=True)
class ClassifierSpec:
    """All that decides a classifier but its backbones and its weights.

    Args:
        kinds: modality -> "image", "text" or "array", of the data set.
        shapes: shape of each array modality's values: (C,) or (P, C).
        classes: names of the K classes.
        single_label: softmax over the classes; else a sigmoid for each.
        task: of the data set, see `Dataset.task`; it decides the head.
        threshold: a label is predicted where its probability is larger; None
            where `single_label`.
        length: positions that feature maps are pooled to.
        channels, positions: of every feature "<modality>_<tap>", in the order of the
            features that the genotype was found over.
        space: the configuration of the genotype's space; without a genotype the
            `FusionConfig` whose sizes the baseline has.
        genotype: the network as an architecture of `space`.
        baseline: the network without architecture, as `Method.network` names it; exactly
            one of the two is given.

    Raises:
        InputError: fields that contradict each other.
    """

    kinds: Mapping[str, str]
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    classes: tuple[str, ...]
    single_label: bool
    task: str = "classification"
    threshold: float | None
    length: int
    channels: Mapping[str, int]
    positions: Mapping[str, int]
    space: Any
    genotype: Genotype | None = None
    baseline: str | None = None

    def __post_init__(self) -> None:
        arrays = {name for name, kind in self.kinds.items() if kind == "array"}
        bad = [name for name in self.kinds if not is_modality(name)]
        sizes = [*self.channels.values(), *self.positions.values(), self.length]
        modalities = {modality_of(name) for name in self.channels}
        reads = () if self.genotype is None else self.genotype.features
        for wrong, expected in (
            (bad, f"modalities named by identifiers that are free, got {bad}"),
            (set(self.kinds.values()) - {"image", "text", "array"}, f"kinds, got {self.kinds}"),
            (arrays != self.shapes.keys(), f"a shape of each array, got {[*self.shapes]}"),
            (self.task not in TASKS, f"a task among {', '.join(TASKS)}, got {self.task!r:.40}"),
            (len({*self.classes}) < max(len(self.classes), 1), "classes of distinct names"),
            (
                self.single_label != (self.threshold is None)
                or not 0 <= (self.threshold or 0) <= 1,
                f"a threshold in [0, 1] for several labels only, got {self.threshold}",
            ),
            (min(sizes) < 1 or math.isqrt(self.length) ** 2 != self.length, "sizes >= 1"),
            (self.channels.keys() != self.positions.keys(), "positions of the same features"),
            (modalities != self.kinds.keys(), f"features of each modality, got {modalities}"),
            ((self.genotype is None) == (self.baseline is None), "a genotype or a baseline"),
            (set(reads) - self.channels.keys(), f"the features of its genotype, {reads}"),
            (self.genotype and not hasattr(self.space, "open"), "a space that can be opened"),
            (self.baseline and not isinstance(self.space, FusionConfig), "a baseline's sizes"),
        ):
            if wrong:
                raise InputError(f"a classifier needs {expected}; mend its description.")
        if self.baseline is not None and Method.parse(self.baseline, self.kinds).has_genotype:
            raise InputError(f"a classifier needs the genotype of {self.baseline!r}; give it.")

    @property
    def modalities(self) -> tuple[str, ...]:
        """The modalities that are read, in the order of `kinds`."""
        if self.genotype is not None:
            reads = {modality_of(name) for name in self.genotype.features}
        else:
            alone = str(self.baseline).rpartition(" ")[0]  # as "text" of "text only"
            reads = {alone} & self.kinds.keys() or self.kinds.keys()
        return tuple(name for name in self.kinds if name in reads)

    def build(self) -> nn.Module:
        """Return the network with fresh weights.

        Raises:
            InputError: the genotype is not of the space.
        """
        if self.genotype is not None:
            return self.space.open(self.channels, self.positions).build(self.genotype)
        return baseline_of(str(self.baseline), self.channels, self.positions, self.space)

    def plain(self) -> dict[str, Any]:
        """Return the fields as JSON values, the space with its name."""
        return {**plain(self), "space": SPACES.plain(self.space)}

    @classmethod
    def from_plain(cls, values: Any, where: str) -> ClassifierSpec:
        """Return what `plain` gave, from a file, which imports nothing.

        Raises:
            InputError: fields that do not fit, or a space or baseline of a module that
                was not imported; the message begins with `where`.
        """
        values = dict(typed(Mapping[str, Any], values, where))
        if "space" in values:
            values["space"] = SPACES.from_plain(values["space"], f"{where}.space")
        baseline = values.get("baseline")
        if isinstance(baseline, str) and ":" in baseline:
            network = BASELINES.find(baseline, from_file=True)
            if not isinstance(network, type) or not issubclass(network, nn.Module):
                raise InputError(f"{where}: {baseline!r:.80} is no network; restore the file.")
        return typed(cls, values, where)

"""The methods of the label-ratio study by name: each is a cell of some run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from ssnas_core.common.errors import InputError
from ssnas_core.common.parts import Parts
from ssnas_core.runs.methods import Method, all_methods


@dataclass(frozen=True, kw_only=True)
class StudyMethod:
    """A method of a run, and the run that it is scored in.

    Args:
        cell: the method of the run.
        space, objective, strategy, backbones: of the run, as `RunConfig` takes them.
        changes: settings of the run by dotted name, as "strategy.sampling".
        tuned: the search has the settings that were tuned for its objective, `Recipe.tuned`.
        name: in the study's table, of a method that `STUDY_METHODS` does not name.
    """

    cell: Method = Method("found")
    space: Any = "fusion"
    objective: Any = "contrastive"
    strategy: Any = "bilevel"
    backbones: Literal["frozen", "trained", "supervised"] = "frozen"
    changes: Mapping[str, Any] = field(default_factory=dict)
    tuned: bool = False
    name: str = ""

    def __str__(self) -> str:
        """The three axes, the method, and the settings that differ."""
        axes = (self.space, self.objective, self.strategy)
        searched = " x ".join(map(str, axes)) if self.cell.searched else "no search"
        more = [f"{name}={value}" for name, value in self.changes.items()]
        more += [f"backbones {self.backbones}"] if self.backbones != "frozen" else []
        return "; ".join([searched, str(self.cell), *more])


_PRETRAINED = Method("found", pretrained=True)
_SSNAS = StudyMethod(cell=_PRETRAINED, tuned=True)
# BM-NAS's own: only cells reach the classifier. Which of its inputs pass by a cell's operation is
# among what is tuned.
_BM_NAS_SPACE = {"space.output": "cells"}
_BM_NAS = StudyMethod(objective="supervised", tuned=True, changes=_BM_NAS_SPACE)
_UNTUNED = StudyMethod(cell=_PRETRAINED)
_WITH_LABELS = StudyMethod(objective="supervised")
_RELEASED = {"space.relaxation": "released", "strategy.alternate": "epoch"}

# Backbones of images searched with the fusion, over small pictures: cells take longer by pixels.
_JOINT = StudyMethod(
    cell=_PRETRAINED,
    space="joint",
    strategy="gates",
    changes={
        "recipe.prepare.image": "pixels",
        "recipe.prepare.image_size": (32, 32),
        "strategy.epochs": 20,
        "strategy.learning_rate": 1e-3,
    },
)

STUDY_METHODS: dict[str, StudyMethod] = {
    "SSNAS": _SSNAS,
    "SSNAS, not pretrained": StudyMethod(tuned=True),
    "BM-NAS": _BM_NAS,
    "BM-NAS, pretrained": replace(_BM_NAS, cell=_PRETRAINED),
    "BM-NAS, untuned": replace(_BM_NAS, tuned=False),
    "BM-NAS, released": replace(_BM_NAS, changes={**_BM_NAS_SPACE, **_RELEASED}),
    "SSNAS, last taps": replace(_SSNAS, changes={"space.taps": 1}),
    "BM-NAS, last taps": replace(_BM_NAS, changes={**_BM_NAS_SPACE, "space.taps": 1}),
    "hybrid, not pretrained": StudyMethod(objective="hybrid"),
    "hybrid, pretrained": replace(_UNTUNED, objective="hybrid"),
    "MFAS": replace(_WITH_LABELS, space="layers", strategy="surrogate"),
    "MFAS, random control": replace(
        _WITH_LABELS, space="layers", strategy="random", changes={"strategy.trials": 195}
    ),
    "MFAS without labels": replace(_UNTUNED, space="layers", strategy="surrogate"),
    "random search without labels": replace(
        _UNTUNED, strategy="random", changes={"strategy.trials": 40}
    ),
    "TPE without labels": replace(_UNTUNED, strategy="tpe"),
    "evolution without labels": replace(_UNTUNED, strategy="evolution"),
    "TPE with labels": replace(_WITH_LABELS, strategy="tpe"),
    "SSNAS, Gumbel": replace(_SSNAS, changes={"strategy.sampling": "gumbel"}),
    "SSNAS, beta-decay": replace(_SSNAS, changes={"strategy.beta_decay": 50.0}),
    "SSNAS, perturbation": replace(_SSNAS, changes={"strategy.select": "perturbation"}),
    "SSNAS, early stop": replace(_SSNAS, changes={"strategy.stop": "eigenvalue"}),
    "SSNAS, supervised backbones": replace(_SSNAS, backbones="supervised"),
    "SSNAS, not pretrained, supervised backbones": StudyMethod(tuned=True, backbones="supervised"),
    "BM-NAS, supervised backbones": replace(_BM_NAS, backbones="supervised"),
    "BM-NAS, pretrained, supervised backbones": replace(
        _BM_NAS, cell=_PRETRAINED, backbones="supervised"
    ),
    "random, supervised backbones": StudyMethod(cell=Method("random"), backbones="supervised"),
    "random, pretrained, supervised backbones": StudyMethod(
        cell=Method("random", pretrained=True), backbones="supervised"
    ),
    "SSNAS, backbone and fusion": _JOINT,
    "random backbone and fusion, pretrained": replace(_JOINT, cell=Method("random", True)),
    "SSNAS, backbones trained along": replace(_SSNAS, backbones="trained"),
    "late concat, backbones trained along": StudyMethod(
        cell=Method("late concat"), backbones="trained"
    ),
}
"""By name; any other name is a method of a run that needs no search, as "late concat"."""

METHOD_SETS: dict[str, tuple[str, ...]] = {
    "core": ("SSNAS", "BM-NAS", "random, pretrained", "late concat"),
    "ablation": (
        *("SSNAS, not pretrained", "BM-NAS, pretrained", "random"),
        "late concat, pretrained",
    ),
    "hybrid": ("hybrid, not pretrained", "hybrid, pretrained"),
    "taps": ("SSNAS, last taps", "BM-NAS, last taps"),
    "strategies": (
        *("BM-NAS, untuned", "BM-NAS, released"),
        *("MFAS", "MFAS, random control", "MFAS without labels"),
        *("random search without labels", "TPE without labels", "evolution without labels"),
        *("SSNAS, Gumbel", "SSNAS, beta-decay", "SSNAS, perturbation", "SSNAS, early stop"),
    ),
    "joint": ("SSNAS, backbone and fusion", "random backbone and fusion, pretrained"),
    "backbones": tuple(name for name in STUDY_METHODS if name.endswith("supervised backbones")),
}
"""Names for several methods; "baselines" are those of the data's modalities."""

PAIRS: tuple[tuple[str, str], ...] = (
    ("SSNAS", "BM-NAS"),
    ("SSNAS", "random, pretrained"),
    ("SSNAS", "late concat"),
)
"""The decisive comparisons, each the first less the second; p is corrected over them, so they
are few."""

ACROSS: tuple[tuple[str, float, str, float], ...] = (("SSNAS", 0.1, "BM-NAS", 0.3),)
"""What the method is for: as good with fewer labels."""


_PARTS = Parts("study method", {})


def study_method(name: str, modalities: Iterable[str] | None = None) -> StudyMethod:
    """Return the method of that name: a study's, one of your own, or a run's without a search.

    Args:
        name: in `STUDY_METHODS`; "package.module:NAME" of a `StudyMethod`; or of a run's method.
        modalities: of the data, to check a run's method against.

    Raises:
        InputError: there is none.
    """
    if name in STUDY_METHODS:
        return STUDY_METHODS[name]
    if ":" in name and isinstance(method := _PARTS.find(name), StudyMethod):
        return method
    cell = Method.parse(name, modalities)
    if cell.searched:
        raise InputError(f"{name!r} does not say what searches; give a study's method, as SSNAS.")
    return StudyMethod(cell=cell)


def methods_in(
    names: Iterable[str | StudyMethod], modalities: Iterable[str]
) -> dict[str, StudyMethod]:
    """Return the methods that `names` stand for, each once, by name.

    Raises:
        InputError: a name of neither a method nor a set of methods.
    """
    modalities = tuple(modalities)
    runs_own = [method for method in all_methods(modalities) if not method.searched]
    baselines = [str(one) for one in runs_own if not (one.has_genotype or one.pretrained)]
    sets = {**METHOD_SETS, "baselines": tuple(baselines)}
    methods: dict[str, StudyMethod] = {}
    for name in names:
        if isinstance(name, StudyMethod):
            if not name.name:
                raise InputError(f"a StudyMethod of your own needs a name, got {name!r:.80}.")
            methods[name.name] = name
            continue
        try:
            for one in sets.get(name, (name,)):
                method = study_method(one, modalities)
                methods[method.name or one] = method
        except InputError as error:
            raise InputError(
                f"unknown method {name!r} of a study ({error}); expected a set "
                f"({', '.join(sets)}) or one of {'; '.join((*STUDY_METHODS, *map(str, runs_own)))}."
            ) from None
    return methods

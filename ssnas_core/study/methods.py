"""The methods of the label-ratio study by name: each is a cell of some run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ssnas_core.runs.methods import kind_of


@dataclass(frozen=True, kw_only=True)
class StudyMethod:
    """What to score, and in which run.

    Args:
        cell: the method of the run, as `Run.evaluate` takes it.
        space, objective, strategy, backbones: of the run, see `RunConfig`.
        changes: settings of the recipe by dotted name, as "search.sampling".
        tuned: the bilevel search has the settings that were tuned for the data, see `TUNED`.
    """

    cell: str = "found"
    space: Literal["fusion", "layers"] = "fusion"
    objective: Literal["contrastive", "supervised", "hybrid"] = "contrastive"
    strategy: Literal["bilevel", "random", "evolution", "tpe", "surrogate"] = "bilevel"
    backbones: Literal["frozen", "trained", "supervised"] = "frozen"
    changes: Mapping[str, Any] = field(default_factory=dict)
    tuned: bool = False

    @property
    def searches(self) -> bool:
        """Whether the run's search is needed."""
        return kind_of(self.cell) == "found"

    @property
    def uses_labels(self) -> bool:
        """Whether labels decide anything before fine-tuning: each ratio needs a run of its own."""
        return self.backbones == "supervised" or (self.searches and self.objective != "contrastive")


def _supervised(**settings: Any) -> StudyMethod:
    return StudyMethod(objective="supervised", **settings)


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """Settings of a bilevel search that were chosen on dev.

    Args:
        changes: settings of the recipe by dotted name.
        same_steps: a search on few labels takes as many steps as one on all samples,
            instead of as many epochs.
    """

    changes: Mapping[str, Any] = field(default_factory=dict)
    same_steps: bool = False


# A search on few labels can overfit, and then prefers what tells little: it ends with the features
# of the shallowest layers. Pretraining keeps the dropout of the recipe.
_REGULARISED = {"fusion.dropout": 0.5, "pretrain_dropout": 0.1}
TUNED: dict[str, dict[str, Tuned]] = {
    "two-core": {
        "supervised": Tuned(changes={**_REGULARISED, "search.weight_decay": 1e-2}, same_steps=True),
        "contrastive": Tuned(changes={"search.arch_learning_rate": 3e-4}),
    },
    "sentence-encoder": {
        "contrastive": Tuned(changes={**_REGULARISED, "search.arch_learning_rate": 3e-4}),
    },
    "av-mnist": {
        "contrastive": Tuned(changes={**_REGULARISED, "search.weight_decay": 1e-2}),
    },
    "classroom": {
        "supervised": Tuned(changes=_REGULARISED, same_steps=True),
        "contrastive": Tuned(changes={**_REGULARISED, "search.arch_learning_rate": 3e-4}),
    },
}
"""By recipe and objective: of 13 settings (`tests/benchmarks/search_tuning.py`) the best on dev, or
one within 0.001 of it; what is not told is as the recipe has it."""

_PRETRAINED = "found, pretrained"
_RELEASED = {"fusion.relaxation": "released", "search.alternate": "epoch"}

STUDY_METHODS: dict[str, StudyMethod] = {
    "SSNAS": StudyMethod(cell=_PRETRAINED, tuned=True),
    "SSNAS, not pretrained": StudyMethod(tuned=True),
    "BM-NAS": _supervised(tuned=True),
    "BM-NAS, pretrained": _supervised(cell=_PRETRAINED, tuned=True),
    "BM-NAS, untuned": _supervised(),
    "BM-NAS, released": _supervised(tuned=True, changes=_RELEASED),
    "SSNAS, last taps": StudyMethod(cell=_PRETRAINED, tuned=True, changes={"fusion.taps": 1}),
    "BM-NAS, last taps": _supervised(tuned=True, changes={"fusion.taps": 1}),
    "hybrid, not pretrained": StudyMethod(objective="hybrid"),
    "hybrid, pretrained": StudyMethod(cell=_PRETRAINED, objective="hybrid"),
    "MFAS": _supervised(space="layers", strategy="surrogate"),
    "MFAS, random control": _supervised(
        space="layers", strategy="random", changes={"random.trials": 195}
    ),
    "MFAS without labels": StudyMethod(cell=_PRETRAINED, space="layers", strategy="surrogate"),
    "random search without labels": StudyMethod(
        cell=_PRETRAINED, strategy="random", changes={"random.trials": 40}
    ),
    "TPE without labels": StudyMethod(cell=_PRETRAINED, strategy="tpe"),
    "evolution without labels": StudyMethod(cell=_PRETRAINED, strategy="evolution"),
    "TPE with labels": _supervised(strategy="tpe"),
    "SSNAS, Gumbel": StudyMethod(
        cell=_PRETRAINED, tuned=True, changes={"search.sampling": "gumbel"}
    ),
    "SSNAS, beta-decay": StudyMethod(
        cell=_PRETRAINED, tuned=True, changes={"search.beta_decay": 50.0}
    ),
    "SSNAS, perturbation": StudyMethod(
        cell=_PRETRAINED, tuned=True, changes={"search.select": "perturbation"}
    ),
    "SSNAS, early stop": StudyMethod(
        cell=_PRETRAINED, tuned=True, changes={"search.stop": "eigenvalue"}
    ),
    "SSNAS, supervised backbones": StudyMethod(
        cell=_PRETRAINED, tuned=True, backbones="supervised"
    ),
    "SSNAS, not pretrained, supervised backbones": StudyMethod(tuned=True, backbones="supervised"),
    "BM-NAS, supervised backbones": _supervised(tuned=True, backbones="supervised"),
    "BM-NAS, pretrained, supervised backbones": _supervised(
        cell=_PRETRAINED, tuned=True, backbones="supervised"
    ),
    "random, supervised backbones": StudyMethod(cell="random", backbones="supervised"),
    "random, pretrained, supervised backbones": StudyMethod(
        cell="random, pretrained", backbones="supervised"
    ),
    "SSNAS, backbones trained along": StudyMethod(
        cell=_PRETRAINED, tuned=True, backbones="trained"
    ),
    "late concat, backbones trained along": StudyMethod(cell="late concat", backbones="trained"),
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


def study_method(name: str) -> StudyMethod:
    """The method of that name; one that is not in `STUDY_METHODS` is a run's own."""
    return STUDY_METHODS.get(name) or StudyMethod(cell=name)

"""The methods of the label-ratio study by name: each is a cell of some run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ssnas_core.methods import kind_of


@dataclass(frozen=True, kw_only=True)
class StudyMethod:
    """What to score, and in which run.

    Args:
        cell: the method of the run, as `Run.evaluate` takes it.
        space, objective, strategy, backbones: of the run, see `RunConfig`.
        changes: settings of the recipe by dotted name, as "search.sampling".
        same_steps: a bilevel search on few labels takes as many steps as one on all
            samples, instead of as many epochs.
    """

    cell: str = "found"
    space: Literal["fusion", "layers"] = "fusion"
    objective: Literal["contrastive", "supervised", "hybrid"] = "contrastive"
    strategy: Literal["bilevel", "random", "evolution", "tpe", "surrogate"] = "bilevel"
    backbones: Literal["frozen", "trained", "supervised"] = "frozen"
    changes: Mapping[str, Any] = field(default_factory=dict)
    same_steps: bool = False

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


_PRETRAINED = "found, pretrained"
# A search on few labels overfits, and then prefers what tells little: it ends with the features of
# the shallowest layers. These were the best of 11 settings on dev parts (r = 0.1, 0.3 and 1).
_TUNED = {"fusion.dropout": 0.5, "pretrain_dropout": 0.1, "search.weight_decay": 1e-2}
_RELEASED = {"fusion.relaxation": "released", "search.alternate": "epoch"}

STUDY_METHODS: dict[str, StudyMethod] = {
    "SSNAS": StudyMethod(cell=_PRETRAINED),
    "SSNAS, not pretrained": StudyMethod(),
    "BM-NAS": _supervised(changes=_TUNED, same_steps=True),
    "BM-NAS, pretrained": _supervised(cell=_PRETRAINED, changes=_TUNED, same_steps=True),
    "BM-NAS, untuned": _supervised(),
    "BM-NAS, released": _supervised(changes={**_TUNED, **_RELEASED}, same_steps=True),
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
    "SSNAS, Gumbel": StudyMethod(cell=_PRETRAINED, changes={"search.sampling": "gumbel"}),
    "SSNAS, beta-decay": StudyMethod(cell=_PRETRAINED, changes={"search.beta_decay": 50.0}),
    "SSNAS, perturbation": StudyMethod(cell=_PRETRAINED, changes={"search.select": "perturbation"}),
    "SSNAS, early stop": StudyMethod(cell=_PRETRAINED, changes={"search.stop": "eigenvalue"}),
    "SSNAS, supervised backbones": StudyMethod(cell=_PRETRAINED, backbones="supervised"),
    "SSNAS, not pretrained, supervised backbones": StudyMethod(backbones="supervised"),
    "BM-NAS, supervised backbones": _supervised(
        changes=_TUNED, backbones="supervised", same_steps=True
    ),
    "BM-NAS, pretrained, supervised backbones": _supervised(
        cell=_PRETRAINED, changes=_TUNED, backbones="supervised", same_steps=True
    ),
    "random, supervised backbones": StudyMethod(cell="random", backbones="supervised"),
    "random, pretrained, supervised backbones": StudyMethod(
        cell="random, pretrained", backbones="supervised"
    ),
    "SSNAS, backbones trained along": StudyMethod(cell=_PRETRAINED, backbones="trained"),
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

ACROSS: tuple[tuple[str, float, str, float], ...] = (
    ("SSNAS", 0.1, "BM-NAS", 0.3),
    ("SSNAS", 1.0, "BM-NAS", 1.0),
)
"""What the method is for: as good with fewer labels, and not behind with all of them."""


def study_method(name: str) -> StudyMethod:
    """The method of that name; one that is not in `STUDY_METHODS` is a run's own."""
    return STUDY_METHODS.get(name) or StudyMethod(cell=name)

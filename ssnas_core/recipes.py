"""What decides a run's results: sizes, optimisers and schedules, by name."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from ssnas_core._typed import typed
from ssnas_core.datasets.records import Dataset
from ssnas_core.errors import InputError
from ssnas_core.objectives import Contrastive
from ssnas_core.preparation import PrepareConfig
from ssnas_core.search.bilevel import BilevelConfig
from ssnas_core.search.random import RandomConfig
from ssnas_core.spaces.fusion import FusionConfig
from ssnas_core.training import TrainConfig


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All sizes, optimisers and schedules of a run.

    `fusion.dropout` is that of the search and of pretraining; fine-tuning on
    few labels takes `finetune_dropout`. `hybrid_weight` is the supervised share of
    a hybrid search.
    """

    prepare: PrepareConfig = field(default_factory=PrepareConfig)
    fusion: FusionConfig = field(default_factory=FusionConfig)
    contrastive: Contrastive = field(default_factory=Contrastive)
    search: BilevelConfig = field(default_factory=BilevelConfig)
    random: RandomConfig = field(default_factory=RandomConfig)
    pretrain: TrainConfig = field(default_factory=TrainConfig)
    finetune: TrainConfig = field(default_factory=TrainConfig)
    finetune_dropout: float = 0.1
    hybrid_weight: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.hybrid_weight <= 1:  # told before anything is prepared
            raise InputError(
                f"the weight of the labels must be in [0, 1], got {self.hybrid_weight}."
            )
        if not 0 <= self.finetune_dropout < 1:
            raise InputError(f"finetune_dropout must be in [0, 1), got {self.finetune_dropout}.")


RECIPES: dict[str, Recipe] = {
    # Chosen on dev parts of the generated sample and of real posters and plots.
    "two-core": Recipe(
        prepare=PrepareConfig(),
        fusion=FusionConfig(channels=128, length=4, dropout=0.1),
        search=BilevelConfig(arch_learning_rate=1e-2),
        pretrain=TrainConfig(epochs=20, batch_size=128),
        finetune=TrainConfig(
            epochs=20, min_steps=300, batch_size=64, learning_rate=3e-3, weight_decay=0.3
        ),
        finetune_dropout=0.5,
    ),
    # Smaller images and fewer epochs: the whole way in a minute or two, for the book.
    "classroom": Recipe(
        prepare=PrepareConfig(
            image_size=(48, 32),
            views=4,
            image_training=TrainConfig(epochs=16, batch_size=128),
        ),
        fusion=FusionConfig(channels=64, length=4, dropout=0.1),
        search=BilevelConfig(arch_learning_rate=1e-2),
        pretrain=TrainConfig(epochs=10, batch_size=128),
        finetune=TrainConfig(
            epochs=10, min_steps=150, batch_size=64, learning_rate=3e-3, weight_decay=0.3
        ),
        finetune_dropout=0.5,
    ),
    # The published sizes and search schedule (BM-NAS, Table 8); the rest is ours.
    "bm-nas": Recipe(
        prepare=PrepareConfig(image="vgg19", length=16),
        pretrain=TrainConfig(epochs=20, batch_size=96),
        finetune=TrainConfig(epochs=20, min_steps=300, batch_size=96),
    ),
}
"""Named recipes; `dataclasses.replace` varies one."""


LATER = {"precision": "float32"}
"""Settings that runs of older versions do not tell, with what was so then."""

_IN_MEMORY = "dataset:"  # how the name of data begins that no path leads to


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """One run: what is searched, how, and what is then compared.

    Args:
        data: what `open_dataset` reads, or a dataset.
        seed: decides the search, the labelled parts and every initial weight;
            the stored features have a seed of their own in the recipe.
        label_ratio: the ratios r of labels, in train and dev.
        objective, strategy: two of the three axes; the space is the fusion space.
        views: those stored, or views made anew for each step of the search and of
            pretraining, by running the frozen backbones every time.
        backbones: kept frozen behind the feature store, or trained along in
            pretraining and fine-tuning.
        inherit: start pretraining from the supernet's weights.
        precision: of the products in search, pretraining and fine-tuning, see
            `ssnas_core.training.loss_of`; scores are computed in float32.
        recipe: sizes and schedules.
    """

    data: Path | Dataset
    seed: int = 0
    label_ratio: tuple[float, ...] = (0.1, 1.0)
    objective: Literal["contrastive", "supervised", "hybrid"] = "contrastive"
    strategy: Literal["bilevel", "random"] = "bilevel"
    views: Literal["stored", "live"] = "stored"
    backbones: Literal["frozen", "trained"] = "frozen"
    inherit: bool = False
    precision: Literal["float32", "bfloat16"] = "float32"
    recipe: Recipe = field(default_factory=lambda: RECIPES["two-core"])

    def __post_init__(self) -> None:
        if not self.label_ratio or len(set(self.label_ratio)) < len(self.label_ratio):
            raise InputError(
                f"expected label ratios, each once, got {list(self.label_ratio)}; as 0.1 1.0."
            )
        for name, hint in get_type_hints(type(self)).items():
            value = getattr(self, name)
            if get_origin(hint) is Literal and value not in get_args(hint):
                expected = " or ".join(get_args(hint))
                raise InputError(f"{name} must be {expected}, got {value!r}.")
        bad = [r for r in self.label_ratio if not 0 < r <= 1]
        if bad:
            raise InputError(f"a label ratio must be in (0, 1], got {bad[0]}; as 0.1.")
        if self.seed < 0:
            raise InputError(f"a seed must be a whole number >= 0, got {self.seed}.")
        if self.objective != "contrastive" and len(self.label_ratio) > 1:
            raise InputError(
                f"a {self.objective} search uses labels, so every label ratio needs a search of "
                f"its own, got {len(self.label_ratio)} ratios; give one --label-ratio per run."
            )
        if self.inherit and self.strategy != "bilevel":
            raise InputError("only a bilevel search has weights to inherit; drop --inherit.")

    def plain(self) -> dict[str, Any]:
        """The configuration as JSON values; data as an absolute path, a dataset as a hash."""
        data = self.data
        if isinstance(data, Dataset):
            labels = hashlib.sha256(repr(data.classes).encode() + data.labels().tobytes())
            named = f"{_IN_MEMORY}{data.name}:{data.fingerprint()}:{labels.hexdigest()[:16]}"
        else:
            named = str(data) if is_in_memory(data) else str(Path(data).resolve())
        return {**dataclasses.asdict(dataclasses.replace(self, data=Path())), "data": named}

    @classmethod
    def from_plain(cls, values: Mapping[str, Any]) -> RunConfig:
        """The configuration that `plain` gave, e.g. read from a run's config.json.

        Raises:
            InputError: fields missing, unknown or of another type.
        """
        try:
            hints = get_type_hints(cls)
            data = typed(str, values.get("data"), "data")
            hints.pop("data")
            if not data.isprintable():
                raise InputError(f"data: expected a path, got {data[:60]!a}.")
            told = {**LATER, **values}
            given = {name: typed(hint, told.get(name), name) for name, hint in hints.items()}
            return cls(data=Path(data), **given)
        except InputError as error:
            reason = str(error).rstrip(".").removesuffix("; restore the file")
            raise InputError(f"not a run configuration ({reason}); make the run anew.") from error


def is_in_memory(data: Path | Dataset) -> bool:
    """Whether `data` is the name of a dataset that no path leads to, as a run's folder tells it."""
    return not isinstance(data, Dataset) and str(data).startswith(_IN_MEMORY)

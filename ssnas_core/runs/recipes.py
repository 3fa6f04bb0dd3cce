"""What decides a run's results: sizes, optimisers and schedules, by name."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from ssnas_core.common.errors import InputError
from ssnas_core.common.typed import typed
from ssnas_core.datasets.records import Dataset
from ssnas_core.features.augment import ImageAugment, JointAugment
from ssnas_core.features.prepare import PrepareConfig
from ssnas_core.objectives.contrastive import Contrastive
from ssnas_core.search.bilevel import BilevelConfig
from ssnas_core.search.evolution import EvolutionConfig
from ssnas_core.search.random import RandomConfig
from ssnas_core.search.surrogate import SurrogateConfig
from ssnas_core.search.tpe import TPEConfig
from ssnas_core.spaces.fusion.networks import FusionConfig
from ssnas_core.spaces.layers import LayersConfig
from ssnas_core.training.loop import TrainConfig


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All sizes, optimisers and schedules of a run.

    `fusion` and `layers` are the spaces; `search` is the bilevel search, and the other
    strategies go by their names. The dropout of a space is that of the search, and of
    pretraining unless there is a `pretrain_dropout`; fine-tuning on few labels takes
    `finetune_dropout`. The layer space, which has it after every layer, keeps its own.
    `hybrid_weight` is the supervised share of a hybrid search.
    """

    prepare: PrepareConfig = field(default_factory=PrepareConfig)
    fusion: FusionConfig = field(default_factory=FusionConfig)
    layers: LayersConfig = field(default_factory=LayersConfig)
    contrastive: Contrastive = field(default_factory=Contrastive)
    search: BilevelConfig = field(default_factory=BilevelConfig)
    random: RandomConfig = field(default_factory=RandomConfig)
    evolution: EvolutionConfig = field(default_factory=EvolutionConfig)
    tpe: TPEConfig = field(default_factory=TPEConfig)
    surrogate: SurrogateConfig = field(default_factory=SurrogateConfig)
    pretrain: TrainConfig = field(default_factory=TrainConfig)
    finetune: TrainConfig = field(default_factory=TrainConfig)
    finetune_dropout: float = 0.1
    pretrain_dropout: float | None = None
    hybrid_weight: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.hybrid_weight <= 1:  # told before anything is prepared
            raise InputError(
                f"the weight of the labels must be in [0, 1], got {self.hybrid_weight}."
            )
        for name in ("finetune_dropout", "pretrain_dropout"):
            if not 0 <= (getattr(self, name) or 0) < 1:
                raise InputError(f"{name} must be in [0, 1), got {getattr(self, name)}.")


# Chosen on dev parts of the generated sample and of real posters and plots.
_TWO_CORE = Recipe(
    prepare=PrepareConfig(),
    fusion=FusionConfig(channels=128, length=4, dropout=0.1),
    layers=LayersConfig(channels=128),
    search=BilevelConfig(arch_learning_rate=1e-2),
    pretrain=TrainConfig(epochs=20, batch_size=128),
    finetune=TrainConfig(
        epochs=20, min_steps=300, batch_size=64, learning_rate=3e-3, weight_decay=0.3
    ),
    finetune_dropout=0.5,
)

# Smaller images and fewer epochs: the whole way in a minute or two, for the book.
_CLASSROOM = Recipe(
    prepare=PrepareConfig(
        image_size=(48, 32),
        views=4,
        image_training=TrainConfig(epochs=16, batch_size=128),
    ),
    fusion=FusionConfig(channels=64, length=4, dropout=0.1),
    layers=LayersConfig(channels=128),
    search=BilevelConfig(arch_learning_rate=1e-2),
    pretrain=TrainConfig(epochs=10, batch_size=128),
    finetune=TrainConfig(
        epochs=10, min_steps=150, batch_size=64, learning_rate=3e-3, weight_decay=0.3
    ),
    finetune_dropout=0.5,
)

RECIPES: dict[str, Recipe] = {
    "two-core": _TWO_CORE,
    # Texts by a small published encoder (six layers, 22 million weights).
    "sentence-encoder": replace(
        _TWO_CORE,
        prepare=PrepareConfig(text="transformers:sentence-transformers/all-MiniLM-L6-v2"),
    ),
    "classroom": _CLASSROOM,
    # Digits and spectrograms are neither mirrored nor coloured, and cropped little: chosen on
    # AV-MNIST's dev part, where strong crops cost the spectrograms' features most.
    "av-mnist": replace(
        _CLASSROOM,
        prepare=PrepareConfig(
            image_size=(40, 40),
            views=5,
            augment=JointAugment(
                image=ImageAugment(
                    min_area=0.8,
                    flip=0.0,
                    brightness=0.2,
                    contrast=0.2,
                    saturation=0.0,
                    hue=0.0,
                    greyscale=0.0,
                )
            ),
            image_training=TrainConfig(epochs=8, batch_size=128),
        ),
    ),
    # The published sizes and search schedule (BM-NAS, Table 8); the rest is ours.
    "bm-nas": Recipe(
        prepare=PrepareConfig(image="vgg19", length=16),
        pretrain=TrainConfig(epochs=20, batch_size=96),
        finetune=TrainConfig(epochs=20, min_steps=300, batch_size=96),
    ),
}
"""Named recipes; `dataclasses.replace` varies one."""


LATER = {"precision": "float32", "space": "fusion"}
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
        space, objective, strategy: the three axes; a bilevel search needs the fusion space,
            a surrogate or a search by trials takes both.
        views: those stored, or views made anew for each step of the search and of
            pretraining, by running the frozen backbones every time.
        backbones: trained without labels on all of train and kept frozen behind the
            feature store; trained along in pretraining and fine-tuning; or frozen, but
            "supervised": trained on the labelled part of one label ratio alone.
        inherit: start pretraining from the supernet's weights.
        precision: of the products in search, pretraining and fine-tuning, see
            `ssnas_core.training.loop.loss_of`; scores are computed in float32.
        recipe: sizes and schedules.
    """

    data: Path | Dataset
    seed: int = 0
    label_ratio: tuple[float, ...] = (0.1, 1.0)
    space: Literal["fusion", "layers"] = "fusion"
    objective: Literal["contrastive", "supervised", "hybrid"] = "contrastive"
    strategy: Literal["bilevel", "random", "evolution", "tpe", "surrogate"] = "bilevel"
    views: Literal["stored", "live"] = "stored"
    backbones: Literal["frozen", "trained", "supervised"] = "frozen"
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
        if self.uses_labels and len(self.label_ratio) > 1:
            what = "search" if self.objective != "contrastive" else "training of backbones"
            raise InputError(
                f"a {self.objective if what == 'search' else 'supervised'} {what} uses labels, so "
                "every label ratio needs a search of its own, got "
                f"{len(self.label_ratio)} ratios; give one --label-ratio per run."
            )
        if self.space == "layers" and self.strategy == "bilevel":
            raise InputError(
                "the layer space has no supernet to search by gradient; give another --strategy, "
                "as surrogate (MFAS), or --space fusion."
            )
        if self.inherit and self.strategy != "bilevel":
            raise InputError("only a bilevel search has weights to inherit; drop --inherit.")

    @property
    def uses_labels(self) -> bool:
        """Whether labels decide anything before fine-tuning, so that one ratio is all there is."""
        return self.objective != "contrastive" or self.backbones == "supervised"

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

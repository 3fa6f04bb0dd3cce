"""All that decides a run's results: the three axes, sizes, optimisers and schedules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_type_hints

from ssnas_core.common.errors import InputError
from ssnas_core.common.files import path_of, path_text
from ssnas_core.common.parts import Parts
from ssnas_core.common.typed import check_fields, plain, typed
from ssnas_core.datasets.records import Dataset
from ssnas_core.datasets.table import TableOptions
from ssnas_core.features.augment import ArrayAugment, ImageAugment, JointAugment, TextAugment
from ssnas_core.features.config import PrepareConfig
from ssnas_core.objectives import OBJECTIVES
from ssnas_core.objectives.contrastive import Contrastive
from ssnas_core.objectives.memory_bank import MemoryBank
from ssnas_core.search import STRATEGIES
from ssnas_core.search.bilevel import BilevelConfig
from ssnas_core.search.evolution import EvolutionConfig
from ssnas_core.search.gates import GatesConfig
from ssnas_core.search.random import RandomConfig
from ssnas_core.search.tpe import TPEConfig
from ssnas_core.spaces import SPACES
from ssnas_core.spaces.cells.space import CellsConfig
from ssnas_core.spaces.encdec.space import EncDecConfig
from ssnas_core.spaces.fusion.space import FusionConfig
from ssnas_core.spaces.joint import JointConfig
from ssnas_core.spaces.layers import LayersConfig
from ssnas_core.training.loop import TrainConfig


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """Settings of a bilevel search that were chosen on dev.

    Args:
        changes: settings of the run by dotted name, as "strategy.weight_decay".
        same_steps: a search on few labels takes as many steps as one on all samples,
            instead of as many epochs.
    """

    changes: Mapping[str, Any] = field(default_factory=dict)
    same_steps: bool = False

    def __post_init__(self) -> None:  # several values are a tuple, which JSON has not
        changes = {k: tuple(v) if isinstance(v, list) else v for k, v in self.changes.items()}
        object.__setattr__(self, "changes", changes)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Sizes, optimisers and schedules that fit each other, under one name.

    Args:
        prepare: backbones, views and stored features.
        parts: configurations of spaces, objectives and strategies that differ from their
            defaults; what a name means under this recipe.
        contrastive: the loss of a contrastive search, and of pretraining.
        pretrain, finetune: schedules.
        finetune_dropout: of fine-tuning on few labels. A space has its dropout in the search.
        pretrain_dropout: of pretraining; the search's by default.
        tuned: what a study's bilevel searches have instead, by objective: of 13 settings
            (`tests/benchmarks/search_tuning.py`) the best on dev, or one within 0.001 of it; and
            with labels, which inputs pass by a cell.
    """

    prepare: PrepareConfig = field(default_factory=PrepareConfig)
    parts: tuple[Any, ...] = ()
    contrastive: Contrastive = field(default_factory=Contrastive)
    pretrain: TrainConfig = field(default_factory=TrainConfig)
    finetune: TrainConfig = field(default_factory=TrainConfig)
    finetune_dropout: float = 0.1
    pretrain_dropout: float | None = None
    tuned: Mapping[str, Tuned] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("finetune_dropout", "pretrain_dropout"):
            if not 0 <= (getattr(self, name) or 0) < 1:
                raise InputError(f"{name} must be in [0, 1), got {getattr(self, name)}.")

    def space(self, name: str) -> Any:
        """Return the configuration of the space `name`, as "fusion"."""
        return self._part(SPACES, name)

    def objective(self, name: str) -> Any:
        """Return the configuration of the objective `name`, as "hybrid"."""
        return self._part(OBJECTIVES, name)

    def strategy(self, name: str) -> Any:
        """Return the configuration of the strategy `name`, as "bilevel"."""
        return self._part(STRATEGIES, name)

    def _part(self, kind: Parts, name: str) -> Any:
        made = kind.find(name)
        if isinstance(made, Contrastive):  # a task by its name, in the sizes of the recipe
            return replace(self.contrastive, task=made.task)
        if not isinstance(made, type):
            return made  # an object that a module holds
        parts = (*self.parts, self.contrastive)
        chosen = next((part for part in parts if type(part) is made), None)
        if made is FusionConfig:  # its positions are those of the features
            return replace(chosen or made(), length=self.prepare.length)
        if chosen is not None:
            return chosen
        if made is JointConfig:
            cells = [part for part in parts if isinstance(part, CellsConfig)]
            joint = JointConfig(fusion=self.space("fusion"))
            return replace(joint, cells=cells[0]) if cells else joint
        shares = "contrastive" in getattr(made, "__dataclass_fields__", ())
        return made(contrastive=self.contrastive) if shares else made()


# A search on few labels can overfit, and then prefers what tells little: it ends with the features
# of the shallowest layers. Pretraining keeps the dropout of the recipe.
_REGULARISED = {"space.dropout": 0.5, "recipe.pretrain_dropout": 0.1}

# In BM-NAS's cell the first of the inputs passes by the operation. With both, as our cells have it,
# a search on few labels often leaves out a real plot; with the first alone, one on many labels
# leaves out the generated sample's posters. On AV-MNIST both score the same.
_ONE_PASSES = {"space.released": ("residual",)}

# Chosen on dev parts of the generated sample and of real posters and plots.
_TWO_CORE = Recipe(
    prepare=PrepareConfig(),
    parts=(
        FusionConfig(channels=128, dropout=0.1, output="beside"),
        LayersConfig(channels=128),
        BilevelConfig(arch_learning_rate=1e-2),
    ),
    pretrain=TrainConfig(epochs=20, batch_size=128),
    finetune=TrainConfig(
        epochs=20, min_steps=300, batch_size=64, learning_rate=3e-3, weight_decay=0.3
    ),
    finetune_dropout=0.5,
    tuned={
        "supervised": Tuned(
            changes={**_REGULARISED, **_ONE_PASSES, "strategy.weight_decay": 1e-2},
            same_steps=True,
        ),
        "contrastive": Tuned(changes={"strategy.arch_learning_rate": 3e-4}),
    },
)

# Smaller images and fewer epochs: the whole way in a minute or two, for the book. The views of a
# plot come in twos that share no words: with 30 % of the words dropped, plots alone solve the
# contrastive task, and the cells that a search then keeps read plots alone.
_CLASSROOM = replace(
    _TWO_CORE,
    prepare=PrepareConfig(
        image_size=(48, 32),
        views=4,
        augment=JointAugment(text=TextAugment(drop=0.0, parts=2)),
        image_training=TrainConfig(epochs=16, batch_size=128),
    ),
    parts=(
        FusionConfig(channels=64, dropout=0.1, output="beside"),
        *_TWO_CORE.parts[1:],
    ),
    pretrain=TrainConfig(epochs=10, batch_size=128),
    finetune=replace(_TWO_CORE.finetune, epochs=10, min_steps=150),
    tuned={
        "supervised": Tuned(changes=_REGULARISED, same_steps=True),
    },
)

# Digits and spectrograms are neither mirrored nor coloured, and cropped little: chosen on
# AV-MNIST's dev part, where strong crops cost the spectrograms' features most.
_LITTLE_CHANGED = JointAugment(
    image=ImageAugment(
        min_area=0.8,
        flip=0.0,
        brightness=0.2,
        contrast=0.2,
        saturation=0.0,
        hue=0.0,
        greyscale=0.0,
    )
)

_TWICE = TrainConfig(epochs=2)

RECIPES: dict[str, Recipe] = {
    "two-core": _TWO_CORE,
    # Texts by a small published encoder (six layers, 22 million weights).
    "sentence-encoder": replace(
        _TWO_CORE,
        prepare=PrepareConfig(text="transformers:sentence-transformers/all-MiniLM-L6-v2"),
        tuned={
            "supervised": Tuned(changes=_ONE_PASSES),
            "contrastive": Tuned(changes={**_REGULARISED, "strategy.arch_learning_rate": 3e-4}),
        },
    ),
    # Images too, with the weights of TensorFlow's authors. The size is for two cores: MM-IMDB's
    # 25,959 posters, nine times each, take them half an hour so, at (256, 160) more than three and
    # at (224, 224) five times as long. The strides of the taps, 4 to 32, divide it.
    "published-encoders": replace(
        _TWO_CORE,
        prepare=PrepareConfig(
            image="timm:tf_efficientnet_lite0.in1k",
            text="transformers:sentence-transformers/all-MiniLM-L6-v2",
            image_size=(160, 96),
        ),
        # On dev sentence-encoder's settings gained neither search anything beyond the seeds'
        # spread; without labels they leave every cell out, where that is a choice.
        tuned={"supervised": Tuned(changes=_ONE_PASSES)},
    ),
    "classroom": _CLASSROOM,
    "av-mnist": replace(
        _CLASSROOM,
        prepare=PrepareConfig(
            image_size=(40, 40),
            views=5,
            augment=_LITTLE_CHANGED,
            image_training=TrainConfig(epochs=8, batch_size=128),
        ),
        # Image and sound find each other, where views of one sample find each other by the image
        # alone: on dev this gains at few labels, and costs nothing with many.
        contrastive=Contrastive(task="clip"),
        tuned={"supervised": Tuned(changes=_ONE_PASSES)},
    ),
    # Questions about generated scenes: words and regions one by one, which are not augmented, as a
    # question does not keep its answer without one of its words.
    "scenes": Recipe(
        prepare=PrepareConfig(
            text="words",
            array="regions",
            views=1,
            length=16,
            augment=JointAugment(text=TextAugment(drop=0.0), array=ArrayAugment(drop=0.0)),
        ),
        parts=(
            FusionConfig(channels=64, length=16, output="beside"),
            EncDecConfig(
                encoder=4, decoder=6, channels=64, head=16, boxes="regions_0", dropout=0.0
            ),
            GatesConfig(epochs=20, learning_rate=1e-3),
        ),
        contrastive=Contrastive(task="clip"),
        pretrain=TrainConfig(epochs=5),
        finetune=TrainConfig(epochs=15, min_steps=300, warmup=0.1),
        finetune_dropout=0.0,
        tuned={"supervised": Tuned(changes=_ONE_PASSES)},  # not tuned: BM-NAS's own cell
    ),
    # Convolutional cells (--space cells) over the 8 x 8 pixels of scikit-learn's digits, in a few
    # minutes on one core by any strategy; nothing in it was tuned.
    "digits": Recipe(
        prepare=PrepareConfig(image="pixels", image_size=(8, 8), views=5, augment=_LITTLE_CHANGED),
        parts=(
            CellsConfig(cells=3, channels=8),
            FusionConfig(channels=64, dropout=0.1),  # of the baseline
            BilevelConfig(epochs=6, arch_learning_rate=1e-2),
            RandomConfig(trials=40, train=_TWICE),
            EvolutionConfig(trials=40, population=20, sample=5, train=_TWICE),
            TPEConfig(trials=40, startup=20, candidates=20_000, train=_TWICE),  # as CSNAS means it
        ),
        pretrain=TrainConfig(epochs=10, batch_size=128),
        finetune=TrainConfig(epochs=10, min_steps=150, learning_rate=3e-3),
        finetune_dropout=0.1,
        tuned={"supervised": Tuned(changes=_ONE_PASSES)},  # not tuned: BM-NAS's own cell
    ),
    # The published sizes and search schedule (BM-NAS, Table 8); the rest is ours.
    "bm-nas": Recipe(
        prepare=PrepareConfig(image="vgg19", length=16),
        pretrain=TrainConfig(epochs=20, batch_size=96),
        finetune=TrainConfig(epochs=20, min_steps=300, batch_size=96),
        tuned={"supervised": Tuned(changes=_ONE_PASSES)},  # not tuned: its own cell
    ),
}
"""Named recipes; `dataclasses.replace` varies one."""


def recipe_named(name: str) -> Recipe:
    """Return the recipe of that name, or the one that "package.module:NAME" holds.

    Raises:
        InputError: there is none.
    """
    if name in RECIPES:
        return RECIPES[name]
    recipe = Parts("recipe", dict.fromkeys(RECIPES, "")).find(name)
    if not isinstance(recipe, Recipe):
        raise InputError(f"expected a Recipe at {name!r}, got {type(recipe).__name__}.")
    return recipe


_IN_MEMORY = "dataset:"  # how the name of data begins that no path leads to
_AXES = {"space": SPACES, "objective": OBJECTIVES, "strategy": STRATEGIES}


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """One run: the three axes, the data, and the schedules of all that is then compared.

    A part of an axis is given as its configuration, or by a name, which stands for the
    recipe's: `RunConfig(data=path, space="layers", strategy=RandomConfig(trials=40))`.

    Args:
        data: what `open_dataset` reads, or a dataset.
        seed: decides the search, the labelled parts and every initial weight;
            the stored features have a seed of their own in the recipe.
        label_ratio: the ratios r of labels, in train and dev.
        space: what may be chosen: "fusion", "layers", "encdec", "cells", "joint", or a
            configuration.
        objective: what makes a choice good: "contrastive" or a task of it that asks for all
            modalities ("swapped", "comm", "clip"), "matching", "memory-bank", "supervised",
            "hybrid", or a configuration, or an objective that needs no labels. A contrastive one
            and the memory bank pretrain too.
        strategy: how it is found: "bilevel", "gates", "random", "evolution", "tpe", "surrogate", or
            a configuration.
        views: those stored, or views made anew for each step of the search and of
            pretraining, by running the frozen backbones every time.
        backbones: trained without labels on all of train and kept frozen behind the
            feature store; trained along in pretraining and fine-tuning; or frozen, but
            "supervised": trained on the labelled part of one label ratio alone.
        inherit: start pretraining from the supernet's weights.
        precision: of the products in search, pretraining and fine-tuning, see
            `ssnas_core.training.loop.loss_of`; scores are computed in float32.
        recipe: sizes and schedules.
        table: what the columns are, where the data is a table.
    """

    data: Path | Dataset
    seed: int = 0
    label_ratio: tuple[float, ...] = (0.1, 1.0)
    space: Any = "fusion"
    objective: Any = "contrastive"
    strategy: Any = "bilevel"
    views: Literal["stored", "live"] = "stored"
    backbones: Literal["frozen", "trained", "supervised"] = "frozen"
    inherit: bool = False
    precision: Literal["float32", "bfloat16"] = "float32"
    recipe: Recipe = field(default_factory=lambda: RECIPES["two-core"])
    table: TableOptions = field(default_factory=TableOptions)

    def __post_init__(self) -> None:
        for axis in _AXES:
            if isinstance(part := getattr(self, axis), str):
                object.__setattr__(self, axis, getattr(self.recipe, axis)(part))
        if not self.label_ratio or len(set(self.label_ratio)) < len(self.label_ratio):
            raise InputError(
                f"expected label ratios, each once, got {list(self.label_ratio)}; as 0.1 1.0."
            )
        check_fields(self, seed=0)
        bad = [r for r in self.label_ratio if not 0 < r <= 1]
        if bad:
            raise InputError(f"a label ratio must be in (0, 1], got {bad[0]}; as 0.1.")
        self._check_axes()

    def _check_axes(self) -> None:
        """Refuse parts that are none, or that do not go together."""
        for axis, method in (
            ("space", "open"),
            ("objective", "open" if self._reads_labels else "loss"),
            ("strategy", "search"),
        ):
            part = getattr(self, axis)
            if isinstance(part, type):
                raise InputError(
                    f"{axis}: expected an object, got the class {part.__name__}; give "
                    f"{part.__name__}()."
                )
            if not callable(getattr(part, method, None)):
                raise InputError(
                    f"{axis}: expected a name or a part with a method {method}, got "
                    f"{str(part)[:60]!r}; give one of {', '.join(_AXES[axis].names())}."
                )
        if self.uses_labels and len(self.label_ratio) > 1:
            what = "search" if self._reads_labels else "supervised training of backbones"
            raise InputError(
                f"a {what} uses labels, so every label ratio needs a search of its own, got "
                f"{len(self.label_ratio)} ratios; give one --label-ratio per run."
            )
        length = self.recipe.prepare.length
        fusion = self._fusion
        if fusion is not None and fusion.length != length:
            raise InputError(
                f"expected FusionConfig.length = {length}, as PrepareConfig.length, "
                f"got {fusion.length}; give both (--space.length, --prepare.length) the same."
            )
        image = self.recipe.prepare.image
        if isinstance(self.space, CellsConfig | JointConfig) and image == PrepareConfig.image:
            raise InputError(
                f"cells read the pixels of an image, got what the backbone {image} makes of it; "
                "give --prepare.image pixels and --prepare.image-size (PrepareConfig), or the "
                "recipe digits."
            )
        lacking = set(getattr(self.strategy, "needs", ())) & set(getattr(self.space, "lacks", ()))
        if lacking:
            raise InputError(
                f"the space {self.name_of('space')!r} has no {lacking.pop()} for the strategy "
                f"{self.name_of('strategy')!r}; give another --strategy, as random, or another "
                "--space."
            )
        if self.inherit and "supernet" not in getattr(self.strategy, "needs", ()):
            raise InputError(
                "only a search of a supernet, as bilevel or gates, has weights to inherit; drop "
                "--inherit."
            )

    def name_of(self, axis: Literal["space", "objective", "strategy"]) -> str:
        """Return the name of the part of an axis, as "fusion" or "package.module:Name"."""
        return _AXES[axis].name_of(getattr(self, axis))

    @property
    def pretraining(self) -> Contrastive | MemoryBank:
        """The loss of pretraining: the search's where that tells samples apart, or the recipe's."""
        own = isinstance(self.objective, Contrastive | MemoryBank)
        return self.objective if own else self.recipe.contrastive

    @property
    def _reads_labels(self) -> bool:
        return bool(getattr(self.objective, "uses_labels", False))

    @property
    def uses_labels(self) -> bool:
        """Whether labels decide anything before fine-tuning, so that one ratio is all there is."""
        return self._reads_labels or self.backbones == "supervised"

    @property
    def sizes(self) -> FusionConfig:
        """Sizes of the networks without architecture: the fusion space's."""
        return self._fusion or self.recipe.space("fusion")

    @property
    def _fusion(self) -> FusionConfig | None:
        """The fusion cells' configuration of the space, where it has them."""
        space = self.space.fusion if isinstance(self.space, JointConfig) else self.space
        return space if isinstance(space, FusionConfig) else None

    def plain(self) -> dict[str, Any]:
        """Return the configuration as JSON values: data as a path or a hash, parts by name."""
        data = self.data
        if isinstance(data, Dataset):
            named = f"{_IN_MEMORY}{data.name}:{data.fingerprint()}:{data.label_fingerprint()}"
        else:
            named = path_text(data if is_in_memory(data) else Path(data).resolve())
        recipe = {
            **plain(replace(self.recipe, prepare=PrepareConfig(), parts=())),
            "prepare": self.recipe.prepare.plain(),
            "parts": [SPACES.plain(self.sizes)],
        }
        rest = ("seed", "label_ratio", "views", "backbones", "inherit", "precision", "table")
        return {
            "data": named,
            **{axis: kind.plain(getattr(self, axis)) for axis, kind in _AXES.items()},
            **{name: plain(getattr(self, name)) for name in rest},
            "recipe": recipe,
        }

    @classmethod
    def from_plain(cls, values: Mapping[str, Any]) -> RunConfig:
        """Return the configuration that `plain` gave, e.g. read from a run's config.json.

        Raises:
            InputError: fields missing, unknown or of another type, or a part whose module
                is not imported.
        """
        try:
            hints = get_type_hints(cls)
            data = path_of(values.get("data"), "data")
            given = {axis: kind.from_plain(values.get(axis), axis) for axis, kind in _AXES.items()}
            for name in hints.keys() - given.keys() - {"data", "recipe"}:
                given[name] = typed(hints[name], values.get(name), name)
            return cls(data=data, recipe=_recipe_from(values.get("recipe")), **given)
        except InputError as error:
            reason = str(error).rstrip(".").removesuffix("; restore the file")
            raise InputError(f"not a run configuration ({reason}); make the run anew.") from error


def _recipe_from(values: Any) -> Recipe:
    recipe = dict(typed(Mapping[str, Any], values, "recipe"))
    prepare = PrepareConfig.from_plain(recipe.pop("prepare", None), "recipe.prepare")
    sizes = typed(tuple[Any, ...], recipe.pop("parts", None), "recipe.parts")
    parts = tuple(SPACES.from_plain(part, "recipe.parts") for part in sizes)
    return replace(typed(Recipe, recipe, "recipe"), prepare=prepare, parts=parts)


def is_in_memory(data: Path | Dataset) -> bool:
    """Whether `data` is the name of a dataset that no path leads to, as a run's folder tells it."""
    return not isinstance(data, Dataset) and str(data).startswith(_IN_MEMORY)

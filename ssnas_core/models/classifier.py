"""A run's trained network as one thing: raw inputs in, probabilities out, saved and loaded whole.

`MultimodalClassifier` holds what a run keeps apart: backbones, network, head, class
names, threshold, and what stands for a modality that is not given. Saved, it is a
folder of safetensors and JSON with a model card; loading executes and unpickles
nothing, and needs neither the run nor its data.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, overload

import torch
from huggingface_hub import PyTorchModelHubMixin, snapshot_download
from torch import Tensor, nn

from ssnas_core.backbones.base import Backbone
from ssnas_core.common.errors import InputError, one_line
from ssnas_core.common.files import check_shapes, save_tensors, write_json, write_text
from ssnas_core.common.modalities import modality_of
from ssnas_core.common.typed import plain
from ssnas_core.datasets.records import Dataset
from ssnas_core.datasets.sample.corpus import sample_archive
from ssnas_core.features.extract import Taps, pooled
from ssnas_core.models import folder as folders
from ssnas_core.models.card import ModelFacts, model_card
from ssnas_core.models.inputs import as_tensor, checked_rows, without_unknown
from ssnas_core.models.spec import ClassifierSpec
from ssnas_core.runs.methods import Method
from ssnas_core.runs.reading import FACTS, read_tested, read_trained
from ssnas_core.runs.run import Run
from ssnas_core.training.loop import join
from ssnas_core.training.tasks import learning_of

_LOG = logging.getLogger(__name__)
_BATCH = 256


class MultimodalClassifier(nn.Module, PyTorchModelHubMixin):
    """Backbones, network and linear head of one trained method.

    `classifier_of` makes it from a run, `from_pretrained` from a folder.

    Args:
        spec: what it is.
        backbones: of each modality that is read; others are left out.
        facts: what its run recorded, for the model card.

    Raises:
        InputError: backbones that do not fit `spec`, or a genotype outside of its space.
    """

    def __init__(
        self,
        spec: ClassifierSpec,
        backbones: Mapping[str, Backbone],
        facts: ModelFacts | None = None,
    ) -> None:
        super().__init__()
        self.spec = spec
        self.facts = facts
        read = {name: backbones[name] for name in spec.modalities if name in backbones}
        channels = Taps(read, spec.length).channels
        expected = {n: c for n, c in spec.channels.items() if modality_of(n) in spec.modalities}
        kinds = {name: backbone.modality_kind for name, backbone in read.items()}
        if channels != expected or any(spec.kinds[name] != kind for name, kind in kinds.items()):
            raise InputError(
                f"expected backbones with the features {expected}, got {channels} of {kinds}; "
                "give those that the features were made by."
            )
        self.backbones = nn.ModuleDict(read)
        self.network = spec.build()
        learning = learning_of(spec.task, torch.zeros(0), len(spec.classes), spec.kinds)
        self.head: Any = join(self.network, self.network, learning)[1]
        self.missing = nn.Module()  # feature -> (P, C): what stands for one that is not given
        for name, width in expected.items():
            self.missing.register_buffer(name, torch.zeros(spec.positions[name], width))
        self.eval()

    @property
    def kinds(self) -> dict[str, str]:
        """Modality -> kind, of all modalities of the data set."""
        return dict(self.spec.kinds)

    @property
    def threshold(self) -> float | None:
        """A label is predicted where its probability is larger; None for single labels."""
        return self.spec.threshold

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        """Return logits (N, K) of features "<modality>_<tap>", (N, P, C) each."""
        return self.head(self.network(features))

    def probabilities(self, features: Mapping[str, Tensor]) -> Tensor:
        """Return probabilities (N, K) float32 of features, on their device.

        Raises:
            InputError: they are not finite.
        """
        logits = self(features).float()
        if not bool(logits.isfinite().all()):
            raise InputError(
                "the model's outputs are NaN or infinite; look for NaN in the inputs, or in the "
                "weights."
            )
        return logits.softmax(1) if self.spec.single_label else logits.sigmoid()

    def without(self, features: Mapping[str, Tensor], modality: str) -> dict[str, Tensor]:
        """Return `features` as if `modality`, one that is read, had not been given."""
        return {
            name: self.missing.get_buffer(name).expand_as(value)
            if modality_of(name) == modality
            else value
            for name, value in features.items()
        }

    @overload
    def predict(self, inputs: Mapping[str, Any], *, batch_size: int = 32) -> dict[str, float]: ...

    @overload
    def predict(
        self, inputs: Sequence[Mapping[str, Any]], *, batch_size: int = 32
    ) -> list[dict[str, float]]: ...

    @torch.no_grad()
    def predict(
        self, inputs: Mapping[str, Any] | Sequence[Mapping[str, Any]], *, batch_size: int = 32
    ) -> dict[str, float] | list[dict[str, float]]:
        """Return probabilities of raw inputs; the model is left in eval mode.

        Args:
            inputs: modality -> value of one sample, or several of these. An image is
                the path of its file, a PIL image or uint8 (3, H, W) RGB; a text is a
                str; an array has the shape of the data's. A modality may be left out,
                or None; a text without a word that the model knows counts as left out.
            batch_size: samples at once; does not change the result but by rounding.

        Returns:
            class -> probability, the largest first; a list of these where `inputs`
            are several.

        Raises:
            InputError: an unknown modality, a value of another kind, nothing given
                that the model reads, or an image that cannot be decoded.
        """
        result = []
        for features in self._batches(inputs, batch_size):
            for row in self.probabilities(features).tolist():
                pairs = zip(self.spec.classes, row, strict=True)
                result.append(dict(sorted(pairs, key=lambda pair: -pair[1])))
        return result[0] if isinstance(inputs, Mapping) else result

    @torch.no_grad()
    def embed(
        self, inputs: Mapping[str, Any] | Sequence[Mapping[str, Any]], *, batch_size: int = 32
    ) -> Tensor:
        """Return embeddings (N, D) float32 of raw inputs as in `predict`, on the CPU.

        They are what the head sees: the output of the network. Of a network that embeds each
        region by itself they are (N, P, D).
        """
        parts = [
            self.network(features).float().cpu() for features in self._batches(inputs, batch_size)
        ]
        return torch.cat(parts or [torch.zeros(0, self.head.in_features)])

    def encode(self, modality: str, tensor: Tensor) -> dict[str, Tensor]:
        """Return features of a modality's vectorized values: "<modality>_<tap>" -> (n, P, C)."""
        backbone: Any = self.backbones[modality]
        taps = backbone(tensor.to(self.head.weight.device)).items()
        length, whole = self.spec.length, backbone.whole
        return {f"{modality}_{tap}": pooled(value, length, whole=whole) for tap, value in taps}

    def _batches(self, inputs: Any, size: int) -> Iterator[dict[str, Tensor]]:
        """Yield features of raw inputs, batch by batch, in eval mode."""
        if size < 1:
            raise InputError(f"batch_size must be >= 1, got {size}.")
        rows = self._known_rows(inputs)
        self.eval()
        for start in range(0, len(rows), size):
            yield self._features(rows[start : start + size])

    def _known_rows(self, inputs: Any) -> list[dict[str, Any]]:
        """Return what is read of raw inputs; a warning tells of texts that say nothing."""
        rows = checked_rows(inputs, self.spec)
        kept = without_unknown(rows, self.spec, dict(self.backbones.items()))
        for modality in self.spec.modalities:
            gone = sum(
                row.get(modality) is not None and modality not in rest
                for row, rest in zip(rows, kept, strict=True)
            )
            if gone:
                _LOG.warning(
                    "%s of %d of %d inputs has no word that the model knows, and counts as missing",
                    modality, gone, len(rows),
                )  # fmt: skip
        return kept

    def missing_of(self, inputs: Mapping[str, Any]) -> list[str]:
        """Return the modalities that the model reads and that one raw input says nothing of.

        They are not given, or a text without a word that the model knows.

        Raises:
            InputError: as `predict`.
        """
        (row,) = without_unknown(
            checked_rows(inputs, self.spec), self.spec, dict(self.backbones.items())
        )
        return [name for name in self.spec.modalities if name not in row]

    def _features(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        features = {
            name: mean.expand(len(rows), -1, -1).clone()
            for name, mean in self.missing.named_buffers()
        }
        for modality in self.spec.modalities:
            given = [i for i, row in enumerate(rows) if modality in row]
            if given:
                values = [rows[i][modality] for i in given]
                tensor = as_tensor(modality, values, self.spec, self.backbones[modality])
                for name, value in self.encode(modality, tensor).items():
                    features[name][given] = value
        return features

    def card(self) -> str:
        """Return the model card, Markdown; it is the README.md of a saved model."""
        names = {name: str(backbone.name) for name, backbone in self.backbones.items()}
        return model_card(self.spec, names, self.facts)

    def save_pretrained(  # the mixin's would delete a config.json of something else
        self,
        save_directory: str | Path,
        *,
        push_to_hub: bool = False,
        repo_id: str | None = None,
        **options: Any,
    ) -> str | None:
        """Save everything to a folder; it is there whole, or as it was before.

        Args:
            save_directory: a new or empty folder, or one that holds a saved model alone.
            push_to_hub: upload it as well.
            repo_id: name on the hub, where pushed; the folder's name if not given.
            options: for `push_to_hub`.

        Returns:
            The commit's address, where pushed.

        Raises:
            InputError: the folder holds something else.
        """
        if not push_to_hub and any(value is not None for value in options.values()):
            raise InputError(
                "a classifier writes its own config and card; give only a folder, and "
                "push_to_hub=True with its options."
            )
        backbones: dict[str, Any] = dict(self.backbones.items())  # a ModuleDict's are not typed
        config = {
            "kind": folders.KIND,
            "format": folders.FORMAT,
            "spec": self.spec.plain(),
            "backbones": {name: backbone.config() for name, backbone in backbones.items()},
            "facts": plain(self.facts),
        }
        state = {name: value.clone() for name, value in self.state_dict().items()}
        with folders.whole_folder(Path(save_directory)) as folder:
            for modality, backbone in backbones.items():
                home = folder / folders.BACKBONES / modality
                home.mkdir(parents=True)
                backbone.save_files(home)
                with suppress(OSError):  # most have nothing to write
                    home.rmdir()
                    home.parent.rmdir()
            save_tensors(folder / folders.WEIGHTS, state)  # cloned: it refuses tied weights
            write_text(folder / folders.CARD, self.card())
            write_json(folder / folders.CONFIG, config)
        if push_to_hub:
            return self.push_to_hub(repo_id or Path(save_directory).name, **options)
        return None

    @classmethod
    def from_pretrained(  # the mixin's reads any config.json before it is checked
        cls, pretrained_model_name_or_path: str | Path, **options: Any
    ) -> MultimodalClassifier:
        """Load what `save_pretrained` wrote, in eval mode on the CPU.

        Args:
            pretrained_model_name_or_path: a folder; else the name of a model on the hub,
                "user/model". A `Path` is only ever a folder.
            options: of a download, as `huggingface_hub.snapshot_download` takes them:
                revision, token, cache_dir, force_download, local_files_only.

        Raises:
            InputError: neither a folder nor to be had from the hub; or a model of another
                version, with missing, broken or wrong parts, or with parts of a module that
                was not imported. Nothing in it is executed.
        """
        name = pretrained_model_name_or_path
        if Path(name).is_dir():
            return cls._load(Path(name))
        if isinstance(name, Path):
            raise InputError(f"{name} is not a folder; save a model there first.")
        patterns = [folders.CONFIG, folders.WEIGHTS, f"{folders.BACKBONES}/*"]
        try:
            folder = snapshot_download(name, allow_patterns=patterns, **options)
        except Exception as error:  # no such name, no network, no right: many kinds, long advice
            reason = str(error).strip().splitlines()[0]
            raise InputError(
                f"{name!r} is neither a folder nor a model to be had from the hub "
                f"({type(error).__name__}: {reason}); give the folder of a saved model."
            ) from error
        return cls._load(Path(folder))

    @classmethod
    def _load(cls, folder: Path) -> MultimodalClassifier:
        spec, backbones, facts, weights = folders.read_model(folder)
        try:
            check_shapes(lambda: cls(spec, backbones), weights)  # before memory is taken for them
            model = cls(spec, backbones, facts)
            model.load_state_dict(weights)
        except Exception as error:  # a space of one's own and sizes beyond all raise many kinds
            raise InputError(
                f"{folder}: {folders.CONFIG}, weights and backbones do not fit each other "
                f"({one_line(error, 400)}); restore the files."
            ) from error
        return model.eval()


def classifier_of(
    run: Run, method: str = "found, pretrained", ratio: float | None = None
) -> MultimodalClassifier:
    """Return the classifier that a run trained, in eval mode on the run's device.

    Args:
        run: it is trained first where it is not yet.
        method: any that the run can train, as "late concat" or "gmu".
        ratio: label ratio; the run's largest if not given.

    Raises:
        InputError: an unknown method, or a ratio that leaves no labels.
    """
    ratio = max(run.config.label_ratio) if ratio is None else ratio
    if not run.is_trained(method, ratio):
        _LOG.info("%s at r = %g is not trained in this run yet: training it", method, ratio)
    cell = run.train(method, ratio)
    trained = read_trained(cell / "train.json", run.task.primary)
    parts: Any = run.trained(method, cell)
    encoder, head = parts
    if run.config.backbones == "trained":
        taps, network = encoder
        backbones = dict(taps.backbones.items())
    else:
        network, backbones = encoder, run.prepared.backbones()
    model = MultimodalClassifier(_spec(run, method, trained["threshold"]), backbones)
    model.network, model.head = network, head
    model.to(run.device).eval()
    _fill_missing(model, run)
    test = read_tested(cell / "test.json") if (cell / "test.json").exists() else None
    model.facts = _facts(model, run, trained, test)
    return model


def _spec(run: Run, method: str, threshold: float | None) -> ClassifierSpec:
    dataset, config = run.prepared.dataset, run.config
    genotype = run.genotype_of(method)
    space = config.sizes if genotype is None else config.space
    if hasattr(space, "trained_with"):
        space = space.trained_with(run.recipe.finetune_dropout)
    first = dataset.records[0].inputs
    arrays = [name for name, kind in dataset.kinds.items() if kind == "array"]
    return ClassifierSpec(
        kinds=dict(dataset.kinds),
        shapes={name: tuple(first[name].shape) for name in arrays},
        **_answers(dataset, threshold),
        task=dataset.task,
        length=run.recipe.prepare.length,
        channels=dict(run.prepared.store.channels),
        positions=dict(run.prepared.store.positions),
        space=space,
        genotype=genotype,
        baseline=None if genotype else Method.parse(method, dataset.kinds).network,
    )


def _answers(dataset: Dataset, threshold: float | None) -> dict[str, Any]:
    """Return what a classifier's probabilities are of; of pairs, that they are some."""
    if dataset.task == "matching":
        return {"classes": ("match",), "single_label": False, "threshold": 0.5}
    if dataset.task == "answering":  # the first is the answer; none was chosen
        threshold = 0.5
    single = dataset.single_label
    return {"classes": dataset.classes, "single_label": single, "threshold": threshold}


def features_of(model: MultimodalClassifier, run: Run, rows: Tensor) -> Iterator[dict[str, Tensor]]:
    """Yield features of samples of the run's data, as its method was trained on them, in batches.

    Args:
        model: of the run; its backbones are used where they were trained along.
        run: its stored features are used otherwise.
        rows: numbers of the samples, (n,).
    """
    source, read = run.data.source(), model.spec.modalities
    for part in rows.split(_BATCH):
        inputs = source.clean(part)
        if run.config.backbones == "trained":
            taps = [model.encode(modality, inputs[modality]) for modality in read]
            yield {name: value for made in taps for name, value in made.items()}
        else:
            yield {name: value for name, value in inputs.items() if modality_of(name) in read}


@torch.no_grad()
def _fill_missing(model: MultimodalClassifier, run: Run) -> None:
    """Set what stands for a modality that is not given: its features' mean over train."""
    train = run.prepared.indices("train")
    sums: dict[str, Tensor] = {}
    for features in features_of(model, run, train):
        for name, value in features.items():
            sums[name] = sums.get(name, torch.zeros(())).cpu() + value.sum(0).double().cpu()
    for name, total in sums.items():
        model.missing.get_buffer(name).copy_(total / len(train))


def _facts(
    model: MultimodalClassifier, run: Run, trained: dict[str, Any], test: dict[str, Any] | None
) -> ModelFacts:
    """Return what the run recorded, with the contents of the cell's files."""
    config, dataset, counts = run.config, run.prepared.dataset, run.prepared.counts()
    scores = _dev_scores(model, run, trained)
    dev = {n: float(v) for n, v in trained["dev"].items() if n != "threshold" and v is not None}
    searched = Method.parse(trained["method"], dataset.kinds).searched
    generated = _is_sample(config.data)
    taught = dataset.labels()[run.part(trained["label_ratio"]).train].sum(0).tolist()
    classes = dataset.classes if dataset.task == "classification" else ()
    untaught = all(getattr(backbone, "learns", False) for backbone in model.backbones.values())
    return ModelFacts(
        data=dataset.name,
        topic="films" if dataset.name == "mmimdb" else None,
        generated=generated,
        samples={name: counts[name] for name in ("train", "dev", "test", "skipped")},
        objective=config.name_of("objective") if searched else None,
        strategy=config.name_of("strategy") if searched else None,
        backbones=config.backbones,
        **{name: trained[name] for name in FACTS if name != "genotype"},
        unlearnt=tuple(n for n, count in zip(classes, taught, strict=False) if not count),
        feature_seed=run.recipe.prepare.seed,
        score=run.task.primary,
        dev_score=scores.pop(""),
        dev_score_without=scores,
        dev_score_shuffled=trained["shuffled"],
        dev=dev,
        test=test and {n: float(test[n]) for n in dev if test.get(n) is not None},
        licence="mit" if generated and untaught else "unknown",
    )


@torch.no_grad()
def _dev_scores(
    model: MultimodalClassifier, run: Run, trained: Mapping[str, Any]
) -> dict[str, float]:
    """Return the main score on the labelled dev part: with all ("") and without each modality."""
    dev, task = torch.from_numpy(run.part(trained["label_ratio"]).dev), run.task
    if model.spec.task == "matching":  # a pair that lacks one is none
        return {"": trained["dev"][task.primary]}
    modalities = model.spec.modalities
    probs: dict[str, list[Tensor]] = {}
    for features in features_of(model, run, dev):
        for gone in ("", *(modalities if len(modalities) > 1 else ())):
            part = model.probabilities(model.without(features, gone) if gone else features)
            probs.setdefault(gone, []).append(part.cpu())
    return {
        gone: task.scores(torch.cat(parts).numpy(), dev, model.threshold)[task.primary]
        for gone, parts in probs.items()
    }


def _is_sample(data: Any) -> bool:
    try:
        return isinstance(data, Path) and data.resolve() == sample_archive().resolve()
    except InputError:  # a checkout without it
        return False

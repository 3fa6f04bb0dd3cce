"""A run's trained network as one thing: raw inputs in, probabilities out, saved and loaded whole.

`MultimodalClassifier` holds what a run keeps apart: backbones, fusion network,
head, class names, threshold, and what stands for a modality that is not given.
Saved, it is a folder of safetensors and JSON with a model card; loading executes
and unpickles nothing, and needs neither the run nor its data.
"""

from __future__ import annotations

import csv
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from huggingface_hub import PyTorchModelHubMixin, snapshot_download
from torch import Tensor, nn

from ssnas_core.backbones.base import Backbone
from ssnas_core.common.errors import InputError, one_line
from ssnas_core.common.files import (
    atomic_path,
    check_shapes,
    load_tensors,
    save_tensors,
    write_json,
    write_text,
)
from ssnas_core.common.modalities import modality_of
from ssnas_core.common.typed import plain
from ssnas_core.datasets.sample.corpus import sample_archive
from ssnas_core.features.extract import pooled
from ssnas_core.models import folder as folders
from ssnas_core.models.card import ModelFacts, model_card
from ssnas_core.models.folder import under
from ssnas_core.models.inputs import as_tensor, checked_rows
from ssnas_core.models.spec import ClassifierSpec
from ssnas_core.runs.baselines import LateConcat
from ssnas_core.runs.methods import kind_of
from ssnas_core.runs.reading import read_tested, read_trained
from ssnas_core.runs.run import Run

# A trained classifier as one thing: raw inputs in, probabilities out, saved and loaded whole.


class MultimodalClassifier(nn.Module, PyTorchModelHubMixin):
    """Backbones, fusion network and linear head of one trained method.

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
        kept = {name: backbones[name] for name in spec.modalities if name in backbones}
        found = {
            f"{name}_{tap}": channels
            for name, backbone in kept.items()
            for tap, channels in backbone.channels.items()
        }
        wanted = {n: c for n, c in spec.channels.items() if modality_of(n) in spec.modalities}
        kinds = {name: backbone.modality_kind for name, backbone in kept.items()}
        if found != wanted or any(spec.kinds[name] != kind for name, kind in kinds.items()):
            raise InputError(
                f"expected backbones with the features {wanted}, got {found} of {kinds}; "
                "give those that the features were made by."
            )
        self.backbones = nn.ModuleDict(kept)
        self.network: nn.Module
        if spec.genotype is not None:
            self.network = spec.space.build(spec.genotype)
        else:
            read = {name: spec.channels[name] for name in spec.features}
            self.network = LateConcat(read, spec.fusion, spec.positions)
        self.head = nn.Linear(self.network.width, len(spec.classes))
        self.missing = nn.Module()  # feature -> (P, C): what stands for one that is not given
        for name, channels in wanted.items():
            self.missing.register_buffer(name, torch.zeros(spec.positions[name], channels))
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
        """Logits (N, K) of features "<modality>_<tap>", (N, P, C) each."""
        return self.head(self.network(features))

    def probabilities(self, features: Mapping[str, Tensor]) -> Tensor:
        """Probabilities (N, K) float32 of features, on their device.

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
        """`features` as if `modality` had not been given."""
        return {
            name: self.missing.get_buffer(name).expand_as(value)
            if modality_of(name) == modality and modality in self.spec.modalities
            else value
            for name, value in features.items()
        }

    @overload
    def predict(self, inputs: Mapping[str, Any], *, batch_size: int = 32) -> dict[str, float]: ...

    @overload
    def predict(
        self, inputs: Sequence[Mapping[str, Any]], *, batch_size: int = 32
    ) -> list[dict[str, float]]: ...

    def predict(
        self, inputs: Mapping[str, Any] | Sequence[Mapping[str, Any]], *, batch_size: int = 32
    ) -> dict[str, float] | list[dict[str, float]]:
        """Probabilities of raw inputs; the model is left in eval mode.

        Args:
            inputs: modality -> value of one sample, or several of these. An image is
                the path of its file, a PIL image or uint8 (3, H, W) RGB; a text is a
                str; an array has the shape of the data's. A modality may be left out,
                or None.
            batch_size: samples at once; does not change the result but by rounding.

        Returns:
            class -> probability, the largest first; a list of these where `inputs`
            are several.

        Raises:
            InputError: an unknown modality, a value of another kind, nothing given
                that the model reads, or an image that cannot be decoded.
        """
        single = isinstance(inputs, Mapping)
        found = []
        for features in self._batches(inputs, batch_size):
            with torch.inference_mode():
                rows = self.probabilities(features).cpu().tolist()
            pairs = (sorted(zip(self.spec.classes, row, strict=True), key=_last) for row in rows)
            found += [dict(row) for row in pairs]
        return found[0] if single else found

    def embed(
        self, inputs: Mapping[str, Any] | Sequence[Mapping[str, Any]], *, batch_size: int = 32
    ) -> Tensor:
        """Embeddings (N, D) float32 of raw inputs as in `predict`, on the CPU.

        They are what the head sees: the output of the fusion network.
        """
        parts = [torch.zeros(0, self.head.in_features)]
        for features in self._batches(inputs, batch_size):
            with torch.inference_mode():
                parts.append(self.network(features).float().cpu())
        return torch.cat(parts)

    def encode(self, modality: str, tensor: Tensor) -> dict[str, Tensor]:
        """Features of what a modality's backbone takes: "<modality>_<tap>" -> (n, P, C)."""
        taps = self.backbones[modality](tensor.to(self.head.weight.device))
        return {f"{modality}_{tap}": pooled(taps[tap], self.spec.length) for tap in taps}

    def _batches(self, inputs: Any, size: int) -> Iterator[dict[str, Tensor]]:
        """Features of raw inputs, batch by batch, in eval mode."""
        if size < 1:
            raise InputError(f"batch_size must be >= 1, got {size}.")
        rows = checked_rows(inputs, self.spec)
        self.eval()
        for start in range(0, len(rows), size):
            with torch.inference_mode():
                features = self._features(rows[start : start + size])
            yield features

    def _features(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        features = {
            name: mean.expand(len(rows), -1, -1).clone()
            for name, mean in self.missing.named_buffers()
        }
        for modality in self.spec.modalities:
            given = [i for i, row in enumerate(rows) if row.get(modality) is not None]
            if given:
                values = [rows[i][modality] for i in given]
                tensor = as_tensor(modality, values, self.spec, self.backbones[modality])
                for name, value in self.encode(modality, tensor).items():
                    features[name][given] = value
        return features

    def card(self) -> str:
        """The model card, Markdown; it is the README.md of a saved model."""
        parts = {name: str(part.name) for name, part in self.backbones.items()}
        return model_card(self.spec, parts, self.facts)

    def save_pretrained(  # the mixin's would delete a config.json of something else
        self,
        save_directory: str | Path,
        *,
        config: None = None,
        repo_id: str | None = None,
        push_to_hub: bool = False,
        model_card_kwargs: None = None,
        **push_to_hub_kwargs: Any,
    ) -> str | None:
        """Save everything to a folder; it is there whole, or as it was before.

        Args:
            save_directory: a new or empty folder, or one that holds a saved model alone.
            config, model_card_kwargs: of the mixin; must be None.
            repo_id: name on the hub, where pushed; the folder's name if not given.
            push_to_hub: upload it as well.
            push_to_hub_kwargs: for `push_to_hub`.

        Returns:
            The commit's address, where pushed.

        Raises:
            InputError: the folder holds something else.
        """
        if config is not None or model_card_kwargs or (push_to_hub_kwargs and not push_to_hub):
            raise InputError(
                "a classifier writes its own config and card; give only a folder, and "
                "push_to_hub=True with its options."
            )
        target = Path(save_directory)
        with folders.whole_folder(target) as folder:
            self._save_pretrained(folder)
        if push_to_hub:
            return self.push_to_hub(repo_id or target.name, **push_to_hub_kwargs)
        return None

    def _save_pretrained(self, save_directory: Path) -> None:
        for modality, backbone in self.backbones.items():
            home = save_directory / folders.BACKBONES / modality
            home.mkdir(parents=True)
            backbone.save_files(home)  # type: ignore[operator]
            for folder in (home, home.parent):
                if not any(folder.iterdir()):
                    folder.rmdir()
        seen: set[int] = set()
        state = {}
        for name, value in self.state_dict().items():
            shared = value.data_ptr() in seen  # safetensors refuses tied weights
            seen.add(value.data_ptr())
            state[name] = value.clone() if shared else value
        save_tensors(save_directory / folders.WEIGHTS, state)
        write_text(save_directory / folders.CARD, self.card())
        parts: dict[str, Any] = dict(self.backbones.items())  # what a ModuleDict holds is not typed
        told = {
            "kind": folders.KIND,
            "format": folders.FORMAT,
            "spec": plain(self.spec),
            "backbones": {name: part.config() for name, part in parts.items()},
            "facts": plain(self.facts),
        }
        write_json(save_directory / folders.CONFIG, told)

    @classmethod
    def from_pretrained(  # the mixin's reads config.json before it can be checked
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        force_download: bool = False,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        revision: str | None = None,
    ) -> MultimodalClassifier:
        """Load what `save_pretrained` wrote, in eval mode on the CPU.

        Args:
            pretrained_model_name_or_path: a folder; else the name of a model on the hub,
                "user/model". A `Path` is only ever a folder.
            force_download, token, cache_dir, local_files_only, revision: as
                `huggingface_hub.snapshot_download` takes them.

        Raises:
            InputError: neither a folder nor to be had from the hub; or a model of another
                version, with missing, broken or wrong parts. Nothing in it is executed.
        """
        name = pretrained_model_name_or_path
        if Path(name).is_dir():
            return cls._load(Path(name))
        if isinstance(name, Path):
            raise InputError(f"{name} is not a folder; save a model there first.")
        return cls._from_pretrained(
            model_id=name,
            revision=revision,
            cache_dir=cache_dir,
            force_download=force_download,
            local_files_only=local_files_only,
            token=token,
        )

    @classmethod
    def _from_pretrained(cls, *, model_id: str, **options: Any) -> MultimodalClassifier:
        patterns = [folders.CONFIG, folders.WEIGHTS, f"{folders.BACKBONES}/*"]
        try:
            folder = snapshot_download(model_id, allow_patterns=patterns, **options)
        except Exception as error:  # no such name, no network, no right: many kinds, long advice
            reason = str(error).strip().splitlines()[0]
            raise InputError(
                f"{model_id!r} is neither a folder nor a model to be had from the hub "
                f"({type(error).__name__}: {reason}); give the folder of a saved model."
            ) from error
        return cls._load(Path(folder))

    @classmethod
    def _load(cls, folder: Path) -> MultimodalClassifier:
        spec, backbones, facts, weights = folders.read_model(folder)
        try:
            check_shapes(lambda: cls(spec, backbones), weights)
            model = cls(spec, backbones, facts)
        except InputError as error:
            if "size mismatch" in str(error):
                raise folders.unfit(folder, str(error)) from error
            raise InputError(f"{folder}: {error}") from error
        try:
            model.load_state_dict(weights)
        except RuntimeError as error:
            reason = " ".join(str(error).split("\n\t")[1:2])
            raise folders.unfit(folder, one_line(reason)) from error
        return model.eval()


def _last(pair: tuple[str, float]) -> float:
    return -pair[1]


_BATCH = 256
_LOG = logging.getLogger(__name__)


def classifier_of(
    run: Run, method: str = "found, pretrained", ratio: float | None = None
) -> MultimodalClassifier:
    """The classifier that a run trained, in eval mode on the run's device.

    Args:
        run: it is trained first where it is not yet.
        method: one of `run.methods`, or of those with the same networks, pretrained.
        ratio: label ratio; the run's largest if not given.

    Raises:
        InputError: an unknown method, one of the other baselines, or a ratio that
            leaves no labels.
    """
    if method.rpartition(" ")[2] in ("gmu", "centralnet", "transfer", "maxout"):
        raise InputError(
            f"{method!r} is there to compare with and is not kept as a model; take one of "
            f"{'; '.join(run.methods)}."
        )
    ratio = max(run.config.label_ratio) if ratio is None else ratio
    if not run.is_trained(method, ratio):
        _LOG.info("%s at r = %g is not trained in this run yet: training it", method, ratio)
    cell = run.train(method, ratio)
    told, prepared = read_trained(cell / "train.json", run.scoring.primary), run.prepared
    weights, store = load_tensors(cell / "model.safetensors"), prepared.store
    trained_along = run.config.backbones == "trained"
    network = under(weights, "0.1." if trained_along else "0.")
    genotype = run.genotype_of(method)
    read = {name.split(".")[1] for name in network if name.startswith("stems.")}
    read = read if genotype is None else {*genotype.features}
    records = prepared.dataset.records
    spec = ClassifierSpec(
        kinds=dict(prepared.dataset.kinds),
        shapes={
            name: tuple(records[0].inputs[name].shape)
            for name, kind in prepared.dataset.kinds.items()
            if kind == "array"
        },
        classes=prepared.dataset.classes,
        single_label=prepared.dataset.single_label,
        threshold=told["threshold"],
        length=run.recipe.prepare.length,
        channels=dict(store.channels),
        positions=dict(store.positions),
        fusion=replace(run.recipe.fusion, dropout=run.recipe.finetune_dropout),
        genotype=genotype,
        features=tuple(name for name in store.channels if name in read),
        layers=run.recipe.layers if genotype and genotype.space == "layers" else None,
    )
    backbones = prepared.backbones()
    model = MultimodalClassifier(spec, backbones)
    if trained_along:
        for name, backbone in model.backbones.items():
            backbone.load_state_dict(under(weights, f"0.0.backbones.{name}."))
    model.network.load_state_dict(network)
    model.head.load_state_dict(under(weights, "1."))
    model.to(run.device).eval()
    _fill_missing(model, run)
    scores = _dev_scores(model, run, ratio)
    test = cell / "test.json"
    found = run.config if kind_of(method) == "found" else None
    generated = _is_sample(run)
    model.facts = ModelFacts(
        data=prepared.dataset.name,
        generated=generated,
        samples={name: prepared.counts()[name] for name in ("train", "dev", "test", "skipped")},
        method=method,
        objective=found and found.objective,
        strategy=found and found.strategy,
        backbones=run.config.backbones,
        seed=run.config.seed,
        feature_seed=run.recipe.prepare.seed,
        label_ratio=float(ratio),
        labelled=told["labelled"],
        parameters=told["parameters"],
        score=run.scoring.primary,
        dev_score=scores.pop(""),
        dev_score_without=scores,
        dev=_scores(told["dev"]),
        test=_test_scores(test, told["dev"]) if test.exists() else None,
        licence="mit" if generated and all(b.learns for b in backbones.values()) else "unknown",
    )
    return model


def export_embeddings(
    run: Run, method: str, ratio: float | None, path: Path | str
) -> tuple[int, int]:
    """Write the embeddings of a run's data set, all splits, for other tools.

    Made from what the run stored, without its raw data. Rows are in the order of
    the run's records.

    Args:
        run, method, ratio: as for `classifier_of`.
        path: of a .npz with `ids` (N,), `embeddings` (N, D) float32, `labels` (N, K)
            uint8, `split` (N,) and `classes` (K,), or of a .csv with the columns id,
            split, labels (joined by "|"), d0, d1, ... It appears whole or not at all.

    Returns:
        N and D.

    Raises:
        InputError: another ending, or for a .csv a class name with "|" in it.
    """
    path, dataset = Path(path), run.prepared.dataset
    if path.suffix not in (".npz", ".csv"):
        raise InputError(f"embeddings go to a .npz or a .csv file, got {path.name!r}; name one.")
    if path.suffix == ".csv" and any("|" in name for name in dataset.classes):
        raise InputError('a .csv joins labels by "|", which a class name holds; write a .npz.')
    model = classifier_of(run, method, ratio)
    width = model.head.in_features
    parts = _embeddings(model, run)
    with atomic_path(path) as temporary:
        if path.suffix == ".csv":
            records = iter(dataset.records)
            with open(temporary, "w", encoding="utf-8", newline="") as file:
                writer = csv.writer(file, lineterminator="\n")
                writer.writerow(["id", "split", "labels", *(f"d{d}" for d in range(width))])
                for part in parts:
                    for row, record in zip(part.tolist(), records, strict=False):
                        told = [record.id, record.split, "|".join(record.labels)]
                        writer.writerow([*told, *(f"{value:.9g}" for value in row)])
        else:
            with open(temporary, "wb") as file:
                np.savez(
                    file,
                    ids=np.array([record.id for record in dataset.records], dtype=str),
                    embeddings=np.concatenate(list(parts)),
                    labels=dataset.labels(),
                    split=np.array([record.split for record in dataset.records], dtype=str),
                    classes=np.array(dataset.classes, dtype=str),
                )
    return len(dataset), width


def _features(model: MultimodalClassifier, run: Run, rows: Tensor) -> Iterator[dict[str, Tensor]]:
    """Features of samples of the run's data, as its method was trained on them, in batches."""
    source = run.source()  # once: of backbones trained along it loads them all
    for part in rows.split(_BATCH):
        inputs = source.clean(part)
        if run.config.backbones != "trained":
            yield {name: value for name, value in inputs.items() if _is_read(model, name)}
            continue
        made: dict[str, Tensor] = {}
        for modality in model.spec.modalities:
            with torch.inference_mode():
                made |= model.encode(modality, inputs[modality])
        yield made


def _is_read(model: MultimodalClassifier, feature: str) -> bool:
    return modality_of(feature) in model.spec.modalities


def _fill_missing(model: MultimodalClassifier, run: Run) -> None:
    """Set what stands for a modality that is not given: its features' mean over train."""
    train = run.prepared.indices("train")
    sums: dict[str, Tensor] = {}
    for features in _features(model, run, train):
        for name, value in features.items():
            sums[name] = sums.get(name, torch.zeros(())).cpu() + value.sum(0).double().cpu()
    for name, total in sums.items():
        model.missing.get_buffer(name).copy_(total / len(train))


def _dev_scores(model: MultimodalClassifier, run: Run, ratio: float) -> dict[str, float]:
    """The main score on the labelled dev part: with all ("") and without each modality."""
    dev, scoring = run.part(ratio).dev, run.scoring
    labels = run.prepared.dataset.labels()[dev]
    modalities = model.spec.modalities
    probs: dict[str, list[Tensor]] = {}
    for features in _features(model, run, torch.from_numpy(dev)):
        for gone in ("", *(modalities if len(modalities) > 1 else ())):
            with torch.inference_mode():
                part = model.probabilities(model.without(features, gone) if gone else features)
            probs.setdefault(gone, []).append(part.cpu())
    return {
        gone: scoring.scores(torch.cat(parts).numpy(), labels, model.threshold)[scoring.primary]
        for gone, parts in probs.items()
    }


@torch.inference_mode()
def _embeddings(model: MultimodalClassifier, run: Run) -> Iterator[np.ndarray]:
    for features in _features(model, run, torch.arange(len(run.prepared.dataset))):
        yield model.network(features).float().cpu().numpy()


def _scores(told: dict[str, Any]) -> dict[str, float]:
    return {n: float(v) for n, v in told.items() if n != "threshold" and v is not None}


def _test_scores(file: Path, dev: dict[str, Any]) -> dict[str, float]:
    """The scores of test.json that were also taken on dev."""
    return _scores({name: v for name, v in read_tested(file).items() if name in dev})


def _is_sample(run: Run) -> bool:
    data = run.config.data
    try:
        return isinstance(data, Path) and data.resolve() == sample_archive().resolve()
    except InputError:  # a checkout without it
        return False

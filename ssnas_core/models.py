"""A run's trained network as one thing: raw inputs in, probabilities out, saved and loaded whole.

`MultimodalClassifier` holds what a run keeps apart: backbones, fusion network,
head, class names, threshold, and what stands for a modality that is not given.
Saved, it is a folder of safetensors and JSON with a model card; loading executes
and unpickles nothing, and needs neither the run nor its data.
"""

from __future__ import annotations

import csv
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssnas_core._cells import read_tested, read_trained
from ssnas_core._classifier import MultimodalClassifier
from ssnas_core._model_folder import under
from ssnas_core._model_spec import ClassifierSpec
from ssnas_core.cards import ModelFacts
from ssnas_core.datasets.sample import sample_archive
from ssnas_core.errors import InputError
from ssnas_core.files import atomic_path, load_tensors
from ssnas_core.methods import kind_of
from ssnas_core.modalities import modality_of
from ssnas_core.studies import Run

__all__ = ["ClassifierSpec", "MultimodalClassifier", "classifier_of", "export_embeddings"]

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

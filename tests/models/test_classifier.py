"""A run's model as one thing: it predicts what the run would, and survives its folder."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

from ssnas_core.backbones.base import TextBackbone
from ssnas_core.backbones.factory import backbone_from_config
from ssnas_core.common.errors import InputError
from ssnas_core.common.files import load_tensors, read_json
from ssnas_core.common.modalities import modality_of
from ssnas_core.datasets.records import Dataset, Record
from ssnas_core.features.prepare import Prepared
from ssnas_core.models import classifier as classifiers
from ssnas_core.models import folder as folders
from ssnas_core.models.classifier import MultimodalClassifier, classifier_of
from ssnas_core.models.export import export_embeddings
from ssnas_core.models.spec import ClassifierSpec
from ssnas_core.runs.recipes import RunConfig
from ssnas_core.runs.run import Run
from ssnas_core.spaces.fusion.space import FusionConfig
from ssnas_core.spaces.genotype import Genotype, Node
from ssnas_core.training.loop import predict
from ssnas_core.training.metrics import f1_scores

pytestmark = pytest.mark.usefixtures("one_thread")

BOTH = Genotype(
    "fusion",
    (
        Node("cell_0", "ConcatFC", ("image_3", "text_0")),
        Node("cell_1", "LinearGLU", ("cell_0", "image_1")),
    ),
)
ONE = Genotype(
    "fusion",
    (
        Node("cell_0", "Sum", ("text_0", "text_1")),
        Node("cell_1", "ConcatFC", ("text_0", "text_2")),
    ),
)


def begin(folder: Path, data: Any, store: Path, recipe: Any, genotype: Genotype | None, **changes):
    config = RunConfig(data=data, label_ratio=(0.5, 1.0), recipe=recipe, **changes)
    run = Run(config, folder, store=store, device="cpu")
    if genotype is not None:
        genotype.save(run.folder / "genotype.json")  # as if it had been found
    return run


@pytest.fixture(scope="module")
def run(tiny_data, tiny_store, tiny_recipe, tmp_path_factory, one_thread) -> Run:
    """A run whose network reads both modalities; nothing of it has been tested."""
    folder = tmp_path_factory.mktemp("run") / "run"
    return begin(folder, tiny_data, tiny_store, tiny_recipe, BOTH)


@pytest.fixture(scope="module")
def along(tiny_data, tiny_store, tiny_recipe, tmp_path_factory, one_thread) -> Run:
    """The same with backbones that are trained along."""
    folder = tmp_path_factory.mktemp("run") / "along"
    return begin(folder, tiny_data, tiny_store, tiny_recipe, BOTH, backbones="trained")


@pytest.fixture(scope="module")
def model(run) -> MultimodalClassifier:
    return classifier_of(run, "found", 1.0)


@pytest.fixture(scope="module")
def inputs(run) -> list[dict[str, Any]]:
    """The raw inputs of all movies, in the order of the store's rows."""
    return [dict(record.inputs) for record in run.prepared.dataset.records]


def table(found: list[dict[str, float]], classes: tuple[str, ...]) -> torch.Tensor:
    return torch.tensor([[row[name] for name in classes] for row in found])


# --- predicting


def cell_model(run: Run, method: str) -> nn.Sequential:
    """A cell's network and head from its own files, for features or for live inputs."""
    weights = load_tensors(run.train(method, 1.0) / "model.safetensors")
    network: nn.Module = run.space.build(BOTH)
    width = network.width
    if run.config.backbones == "trained":
        network = nn.Sequential(run.prepared.taps(), network)
    model = nn.Sequential(network, nn.Linear(width, 23))
    model.load_state_dict(weights)
    return model.eval()


ROWS = torch.arange(60)


def test_predict_equals_the_runs_own_prediction_on_live_inputs(run, model, inputs):
    classes = run.prepared.dataset.classes
    found = table(model.predict(inputs), classes)
    cell = cell_model(run, "found")
    live = nn.Sequential(run.prepared.taps(), *cell)
    wanted = predict(live, run.prepared.live(), ROWS).sigmoid()
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-5)
    stored = predict(cell, run.prepared.store, ROWS).sigmoid()  # features in half precision
    torch.testing.assert_close(found, stored, atol=2e-3, rtol=0)
    assert found.std(0).max() > 0.01  # or anything would be equal


def test_predict_uses_the_backbones_that_were_trained_along(along, inputs):
    found = table(
        classifier_of(along, "found", 1.0).predict(inputs), along.prepared.dataset.classes
    )
    wanted = predict(cell_model(along, "found"), along.prepared.live(), ROWS).sigmoid()
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    "method",
    [
        "image only",
        "text only",
        "gmu",
        "centralnet",
        pytest.param("late concat", marks=pytest.mark.thorough),
        pytest.param("random", marks=pytest.mark.thorough),
        pytest.param("text transfer", marks=pytest.mark.thorough),
        pytest.param("image maxout", marks=pytest.mark.thorough),
    ],
)
def test_every_method_becomes_a_classifier_of_what_it_reads(run, inputs, method, tmp_path):
    model = classifier_of(run, method, 1.0)
    told = read_json(run.train(method, 1.0) / "train.json")
    cell = run.trained(method, run.train(method, 1.0))
    stored = predict(cell, run.prepared.store, ROWS).sigmoid()
    found = table(model.predict(inputs), run.prepared.dataset.classes)
    torch.testing.assert_close(found, stored, atol=4e-3, rtol=0)
    assert model.threshold == told["threshold"]
    model.save_pretrained(tmp_path / "saved")
    again = MultimodalClassifier.from_pretrained(tmp_path / "saved")
    assert again.predict(inputs[:5]) == model.predict(inputs[:5]) and again.spec == model.spec
    if method.startswith(("image", "text")):
        (read,) = model.spec.modalities
        assert set(model.backbones) == {read} == {method.split()[0]}


def test_probabilities_come_in_descending_order_and_one_sample_gives_one_mapping(model, inputs):
    several = model.predict(inputs[:3])
    assert [list(row.values()) for row in several] == [
        sorted(row.values(), reverse=True) for row in several
    ]
    assert all(type(row) is dict and len(row) == 23 for row in several)
    assert model.predict(inputs[0]) == pytest.approx(several[0], abs=1e-6)
    assert model.predict([]) == []


def test_batches_do_not_change_the_result(model, inputs):
    mixed = [{"text": row["text"]} if n % 3 else row for n, row in enumerate(inputs[:20])]
    whole, parts = (model.embed(mixed, batch_size=size) for size in (20, 7))
    torch.testing.assert_close(whole, parts, atol=1e-5, rtol=1e-5)


def test_an_image_may_be_a_path_a_name_an_image_or_pixels(model, inputs):
    path = inputs[5]["image"]
    image = Image.open(path)
    pixels = np.asarray(image.convert("RGB")).transpose(2, 0, 1)
    wanted = model.predict({"image": path})
    for value in (str(path), image, image.convert("RGBA"), pixels):
        assert model.predict({"image": value}) == wanted


def stored_otherwise(grey: np.ndarray) -> dict[str, tuple[Any, str, dict[str, Any]]]:
    """A grey picture (H, W) uint8 as images that store other numbers, format and options."""
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned to the right
    hidden = np.dstack([grey, grey, grey, np.where(grey == 255, 0, 255).astype(np.uint8)])
    hidden[grey == 255, :3] = 40  # which alpha hides
    return {
        "16 bits": (grey.astype(np.uint16) * 257, "PNG", {}),
        "32 bits": (grey.astype(np.int32) * 257, "TIFF", {}),
        "floats to 1": ((grey / 255).astype(np.float32), "TIFF", {}),
        "floats to 255": (grey.astype(np.float32), "TIFF", {}),
        "alpha": (hidden, "PNG", {}),
        "on its side": (np.ascontiguousarray(grey.T[::-1]), "PNG", {"exif": exif}),
    }


def test_a_picture_is_the_same_however_it_is_stored(model, inputs, tmp_path):
    grey = np.array(Image.open(inputs[5]["image"]).convert("L"))
    grey[:8] = 255
    wanted = model.predict({"image": Image.fromarray(grey)})
    for case, (pixels, form, options) in stored_otherwise(grey).items():
        file = tmp_path / f"poster.{form}"
        Image.fromarray(pixels).save(file, form, **options)
        for value in (file, str(file), Image.open(file)):
            assert model.predict({"image": value}) == wanted, case
    noisy = Image.fromarray(np.where(grey == 255, np.nan, grey).astype(np.float32))
    with pytest.raises(InputError, match="no usable image .ValueError: numbers from nan to nan, e"):
        model.predict({"image": noisy})


def test_predict_leaves_eval_mode_and_no_gradients(model, inputs):
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert model.predict(inputs[:2]) == model.predict(inputs[:2])  # no dropout
    assert not model.training and not model.embed(inputs[0]).requires_grad
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name  # nor batch statistics


@pytest.mark.parametrize("gone", ["image", "text"])
@pytest.mark.parametrize("as_none", [True, False])
def test_missing_modality_becomes_its_mean_feature_over_the_train_part(
    run, model, inputs, gone, as_none
):
    rows = [dict(row) for row in inputs]
    for row in rows[:40]:
        row.pop(gone)
        if as_none:
            row[gone] = None
    store, train = run.prepared.store, run.prepared.indices("train")
    features, means = store.clean(ROWS), store.clean(train)
    for name in features:
        if modality_of(name) == gone:
            features[name][:40] = means[name].mean(0)
    with torch.no_grad():
        wanted = cell_model(run, "found")(features).sigmoid()
    found = table(model.predict(rows), run.prepared.dataset.classes)
    torch.testing.assert_close(found, wanted, atol=2e-3, rtol=0)
    assert (found[:40] - table(model.predict(inputs[:40]), model.spec.classes)).abs().max() > 0.01


def test_trained_backbones_have_means_of_their_own(along):
    model = classifier_of(along, "found", 1.0)
    encode = cell_model(along, "found")[0][0]
    with torch.no_grad():
        features = encode(along.prepared.live().clean(along.prepared.indices("train")))
    for name, value in features.items():
        found = model.missing.get_buffer(name)
        torch.testing.assert_close(found, value.mean(0), atol=1e-5, rtol=1e-4)


BAD_INPUTS = {
    "nothing": ({}, r"input 0 gives nothing that the model reads; give at least one of image, te"),
    "only None": ({"text": None, "image": None}, "input 0 gives nothing that the model reads"),
    "an unknown modality": ({"text": "a", "sound": 1}, "unknown modality 'sound'; the model knows"),
    "no mapping": ("a plot", "expected a mapping from image, text to values, got str as input 0"),
    "a number": (3, "expected a mapping from image, text to values, got int"),
    "no mapping in a list": ([{"text": "a"}, None], "got NoneType as input 1"),
    "a text that is none": ({"text": 3}, "text must be a str, got int"),
    "a text of unknown words": ({"text": "zz"}, "no word of text .* give another text, or image"),
    "no file": ({"image": "nowhere.jpg"}, "image is no usable image .FileNotFoundError"),
    "no image": ({"image": __file__}, "image is no usable image .UnidentifiedImageError"),
    "a number for an image": ({"image": 3}, "image is no usable image"),
    "pixels last": ({"image": np.zeros((8, 6, 3), np.uint8)}, r"uint8 \(8, 6, 3\) is no uint8"),
    "float pixels": ({"image": np.zeros((3, 8, 6))}, "float64 .3, 8, 6. is no uint8"),
}


UNKNOWN = {
    "empty": "",
    "blank": "   ",
    "line ends": "\n\t\u3000",
    "stop words": "it was and is the",
    "other words": "zzz qqq www",
    "punctuation": "... ?! --",
    "None": "None",
    "Chinese": "警长骑马进了沙漠",
    "Thai": "นายอำเภอขี่ม้า",
    "letters": "a b c",
}


@pytest.mark.parametrize("case", UNKNOWN)
def test_text_without_a_known_word_counts_as_not_given(model, inputs, caplog, case):
    text, image = UNKNOWN[case], inputs[0]["image"]
    assert model.predict({"image": image, "text": text}) == model.predict({"image": image})
    told = "text of 1 of 1 inputs has no word that the model knows, and counts as missing"
    assert caplog.messages == [told]
    assert model.missing_of({"image": image, "text": text}) == ["text"]
    assert model.missing_of({"text": f"{text} ship"}) == ["image"]
    several = [{"image": image, "text": f"{text} ship"}, {"image": image, "text": text}]
    both = model.embed(several)
    torch.testing.assert_close(both[1:], model.embed({"image": image}), atol=1e-5, rtol=1e-5)
    assert (both[0] - both[1]).abs().max() > 1e-3
    with pytest.raises(InputError, match="input 1 gives nothing that the model knows: no word of"):
        model.predict([{"text": "ship"}, {"text": text}])


@pytest.mark.parametrize("case", BAD_INPUTS)
def test_bad_input_is_told(model, case):
    value, message = BAD_INPUTS[case]
    with pytest.raises(InputError, match=message):
        model.predict(value)


def test_poster_that_was_cut_short_is_told(model, inputs, tmp_path):
    file = tmp_path / "cut.jpg"
    file.write_bytes(inputs[0]["image"].read_bytes()[:300])
    with pytest.raises(InputError, match="image is no usable image"):
        model.predict({"image": file})


def test_batch_size_below_one_is_refused(model):
    with pytest.raises(InputError, match="batch_size must be >= 1, got 0"):
        model.predict({"text": "a ship"}, batch_size=0)


def test_nan_in_the_weights_is_told(model):
    value = model.head.bias.data[0].clone()
    try:
        model.head.bias.data[0] = torch.nan
        with pytest.raises(InputError, match="the model's outputs are NaN or infinite"):
            model.predict({"text": "a ship"})
    finally:
        model.head.bias.data[0] = value


@pytest.fixture(scope="module")
def texts_alone(tiny_data, tiny_store, tiny_recipe, tmp_path_factory, one_thread):
    """A model of a found network that reads texts alone."""
    folder = tmp_path_factory.mktemp("run") / "texts"
    return classifier_of(begin(folder, tiny_data, tiny_store, tiny_recipe, ONE), "found", 1.0)


def test_modality_that_is_not_read_may_be_given_but_is_not_enough(texts_alone, inputs):
    assert texts_alone.kinds == {"image": "image", "text": "text"}
    assert texts_alone.spec.modalities == ("text",)
    text = inputs[0]["text"]
    assert texts_alone.predict(inputs[0]) == texts_alone.predict({"text": text})
    with pytest.raises(InputError, match="gives nothing that the model reads; give .* text"):
        texts_alone.predict({"image": inputs[0]["image"]})


def test_backbones_that_do_not_fit_are_refused(model):
    with pytest.raises(InputError, match="expected backbones with the features .*image_0"):
        MultimodalClassifier(model.spec, {"text": model.backbones["text"]})


# --- any modalities, single labels


@pytest.fixture(scope="module")
def sensors(tiny_recipe, tmp_path_factory, one_thread) -> Run:
    """Three modalities and one label a sample: a vector, vectors at positions, an image."""
    rng = np.random.default_rng(0)
    names = ("red", "green", "blue")
    records = []
    for number in range(48):
        label = number % 3
        values = {
            "left": (rng.normal(size=5) + 3 * label).astype(np.float32),
            "right": rng.normal(size=(4, 6)).astype(np.float32),
            "photo": np.full((3, 24, 16), 80 * label, np.uint8),
        }
        split = "train" if number < 30 else "dev" if number < 39 else "test"
        records.append(Record(f"s{number:02d}", values, (names[label],), split))
    kinds = {"left": "array", "right": "array", "photo": "image"}
    data = Dataset("sensors", kinds, names, tuple(records), single_label=True)
    folder = tmp_path_factory.mktemp("sensors")
    genotype = Genotype(
        "fusion",
        (
            Node("cell_0", "ConcatFC", ("left_0", "photo_3")),
            Node("cell_1", "ConcatFC", ("cell_0", "right_0")),
        ),
    )
    return begin(folder / "run", data, folder / "store", tiny_recipe, genotype)


def test_three_modalities_and_single_labels_work_the_same(sensors, tmp_path):
    model = classifier_of(sensors, "found", 1.0)
    assert model.spec.modalities == ("left", "right", "photo") and model.threshold is None
    records = sensors.prepared.dataset.records
    found = model.predict([record.inputs for record in records])
    assert all(sum(row.values()) == pytest.approx(1, abs=1e-5) for row in found)
    rows = torch.arange(len(records))
    cell = sensors.trained("found", sensors.train("found", 1.0))
    wanted = predict(cell, sensors.prepared.store, rows).softmax(1)
    torch.testing.assert_close(table(found, model.spec.classes), wanted, atol=2e-3, rtol=0)
    assert model.facts is not None and model.facts.score == "accuracy"
    assert set(model.facts.dev_score_without) == {"left", "right", "photo"}
    model.save_pretrained(tmp_path / "saved")
    again = MultimodalClassifier.from_pretrained(tmp_path / "saved")
    sample = {"right": records[3].inputs["right"].tolist()}
    assert again.predict(sample) == model.predict(sample)


def test_classifier_of_fusion_layers_is_kept_whole_and_says_so(sensors, tmp_path):
    layers = Genotype(
        "layers",
        (
            Node("layer_0", "relu", ("left_0", "right_0", "photo_1")),
            Node("layer_1", "sigmoid", ("left_0", "right_0", "photo_3", "layer_0")),
        ),
    )
    data, store, recipe = sensors.config.data, sensors.data.store, sensors.recipe
    axes = {"space": "layers", "strategy": "random"}
    run = begin(tmp_path / "run", data, store, recipe, layers, **axes)
    model = classifier_of(run, "found", 1.0)
    records = run.prepared.dataset.records
    found = table(model.predict([record.inputs for record in records]), model.spec.classes)
    cell = run.trained("found", run.train("found", 1.0))
    wanted = predict(cell, run.prepared.store, torch.arange(len(records))).softmax(1)
    torch.testing.assert_close(found, wanted, atol=2e-3, rtol=0)
    model.save_pretrained(tmp_path / "saved")
    again = MultimodalClassifier.from_pretrained(tmp_path / "saved")
    assert again.spec == model.spec and again.spec.space == run.config.space
    assert again.predict(records[0].inputs) == model.predict(records[0].inputs)
    assert 'random search, in the space "layers"' in again.card()
    assert classifier_of(run, "late concat", 1.0).spec.space.channels == run.config.sizes.channels


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.zeros(4), r"left must be finite numbers of shape \(5,\), got shape \(4,\)"),
        ([0, 0, 0, 0, np.nan], r"left must be finite numbers .* got NaN or infinite ones"),
        (["a"] * 5, r"left must be numbers of shape \(5,\)"),
        ([[1], [2, 3]], r"left must be numbers of shape \(5,\)"),
    ],
)
def test_array_of_another_shape_or_with_nan_is_told(sensors, value, message):
    with pytest.raises(InputError, match=message):
        classifier_of(sensors, "left only", 1.0).predict({"left": value})


# --- what the card is told


def test_facts_are_those_of_the_run_and_no_test_label_was_read_for_them(run, model):
    told = read_json(run.train("found", 1.0) / "train.json")
    facts = model.facts
    assert facts.samples == {"train": 36, "dev": 12, "test": 12, "skipped": 0}
    assert facts.labelled == told["labelled"] and facts.parameters == told["parameters"]
    assert facts.dev["weighted_f1"] == told["dev"]["weighted_f1"]
    assert (facts.method, facts.objective, facts.strategy) == ("found", "contrastive", "bilevel")
    assert (facts.seed, facts.label_ratio, facts.backbones) == (0, 1.0, "frozen")
    assert facts.test is None and run.folder.lines("test_reads.jsonl") == []
    assert (facts.generated, facts.licence) == (False, "unknown")
    used = {label for one in run.prepared.dataset.records[:36] for label in one.labels or ()}
    assert facts.unlearnt == tuple(name for name in model.spec.classes if name not in used)
    assert len(used) == 5 and len(facts.unlearnt) == 18


def test_scores_with_a_modality_missing_are_those_of_predict(run, model, inputs):
    dev = run.part(1.0).dev
    labels = run.prepared.dataset.labels()[dev]
    for gone in (None, "image", "text"):
        rows = [{k: v for k, v in inputs[row].items() if k != gone} for row in dev]
        probs = table(model.predict(rows), model.spec.classes).numpy()
        wanted = f1_scores(probs, labels, model.threshold)["weighted"]
        found = model.facts.dev_score if gone is None else model.facts.dev_score_without[gone]
        assert found == pytest.approx(wanted, abs=0.02)  # half precision may turn a label
    assert model.facts.dev_score == pytest.approx(model.facts.dev["weighted_f1"], abs=1e-9)


def test_test_scores_are_told_once_they_were_read(tiny_data, tiny_store, tiny_recipe, tmp_path):
    run = begin(tmp_path / "run", tiny_data, tiny_store, tiny_recipe, BOTH)
    run.evaluate("image only", 0.5)
    found = classifier_of(run, "image only", 0.5).facts
    told = read_json(run.train("image only", 0.5) / "test.json")
    assert found.test == {name: told[name] for name in found.dev} and found.objective is None
    assert found.test.keys() > {"weighted_f1", "weighted_ap"}
    assert classifier_of(run, "text only").facts.label_ratio == 1.0  # the largest


def test_model_of_the_bundled_sample_is_called_so(run, tiny_data, monkeypatch):
    monkeypatch.setattr(classifiers, "sample_archive", lambda: tiny_data)
    facts = classifier_of(run, "found", 1.0).facts
    assert (facts.generated, facts.licence) == (True, "mit")


# --- embeddings


def test_embed_gives_what_the_head_sees(run, model, inputs):
    found = model.embed(inputs)
    with torch.no_grad():
        wanted = cell_model(run, "found")[0](run.prepared.store.clean(ROWS))
    assert found.shape == (60, run.space.supernet().width) and found.dtype == torch.float32
    torch.testing.assert_close(found, wanted, atol=2e-2, rtol=0)
    assert torch.equal(model.embed(inputs[0]), model.embed(inputs[:1]))
    assert model.embed([]).shape == (0, run.space.supernet().width)


def test_exported_embeddings_are_the_models_in_both_formats(run, model, inputs, tmp_path):
    whole, listed = tmp_path / "all.npz", tmp_path / "all.csv"
    for path in (whole, listed):
        assert export_embeddings(run, "found", 1.0, path) == (60, run.space.supernet().width)
    dataset = run.prepared.dataset
    with np.load(whole, allow_pickle=False) as told:
        arrays = dict(told)
    assert arrays["embeddings"].dtype == np.float32 and arrays["labels"].dtype == np.uint8
    np.testing.assert_allclose(arrays["embeddings"], model.embed(inputs).numpy(), atol=2e-2)
    assert list(arrays["ids"]) == [record.id for record in dataset.records]
    assert list(arrays["split"]) == [record.split for record in dataset.records]
    assert tuple(arrays["classes"]) == dataset.classes
    np.testing.assert_array_equal(arrays["labels"], dataset.labels())
    with open(listed, newline="") as file:
        head, *rows = csv.reader(file)
    assert head == ["id", "split", "labels", *(f"d{d}" for d in range(run.space.supernet().width))]
    assert [row[:3] for row in rows] == [
        [record.id, record.split, "|".join(record.labels)] for record in dataset.records
    ]
    numbers = np.array([row[3:] for row in rows], np.float32)
    np.testing.assert_array_equal(numbers, arrays["embeddings"])  # no digit is lost


def test_export_of_backbones_trained_along_goes_through_them(along, inputs, tmp_path):
    export_embeddings(along, "found", 1.0, tmp_path / "a.npz")
    wanted = classifier_of(along, "found", 1.0).embed(inputs)
    with np.load(tmp_path / "a.npz") as told:
        np.testing.assert_allclose(told["embeddings"], wanted.numpy(), atol=1e-4)


def test_export_needs_no_raw_data_and_is_whole_or_absent(
    movies, tiny_store, tiny_recipe, tmp_path, monkeypatch
):
    data = movies.folder(tmp_path / "mmimdb")
    run = begin(tmp_path / "run", data, tiny_store, tiny_recipe, BOTH)
    run.train("found", 1.0)
    shutil.rmtree(data)
    monkeypatch.setattr(np, "savez", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export_embeddings(run, "found", 1.0, tmp_path / "out" / "a.npz")
    assert list((tmp_path / "out").iterdir()) == []
    assert export_embeddings(run, "found", 1.0, tmp_path / "out" / "a.csv")[0] == 60


def test_backbones_trained_along_are_loaded_once_for_a_whole_export(along, monkeypatch, tmp_path):
    read = []
    live = Prepared.live
    monkeypatch.setattr(Prepared, "live", lambda one: read.append(1) or live(one))
    monkeypatch.setattr(classifiers, "_BATCH", 7)
    export_embeddings(along, "found", 1.0, tmp_path / "e.npz")
    assert len(read) == 3  # means over train, scores on dev, embeddings


def test_export_to_another_ending_is_refused(run, tmp_path):
    with pytest.raises(InputError, match=r"embeddings go to a .npz or a .csv file, got 'a.txt'"):
        export_embeddings(run, "found", 1.0, tmp_path / "a.txt")


# --- saving and loading


@pytest.fixture(scope="module")
def saved(model, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "movies"
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def copy(saved, tmp_path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "copy"))


def test_saved_model_is_safetensors_json_and_a_card(saved, model):
    assert {path.name for path in saved.iterdir()} == {
        "config.json", "model.safetensors", "README.md"
    }  # fmt: skip
    told = read_json(saved / "config.json")
    assert told["format"] == 1
    assert told["spec"]["classes"][:2] == ["Drama", "Comedy"]
    assert (saved / "README.md").read_text() == model.card()
    assert saved.stat().st_mode & 0o777 == 0o777 & ~umask()


def umask() -> int:
    import os

    value = os.umask(0)
    os.umask(value)
    return value


def test_model_survives_saving_and_loading(saved, model, inputs, monkeypatch):
    monkeypatch.setattr(torch, "load", None)  # nothing is unpickled
    torch.manual_seed(99)
    again = MultimodalClassifier.from_pretrained(str(saved))
    assert again.predict(inputs) == model.predict(inputs)
    assert (again.spec, again.facts, again.card()) == (model.spec, model.facts, model.card())
    assert not again.training
    wanted = model.state_dict()
    assert again.state_dict().keys() == wanted.keys()
    assert all(torch.equal(value, wanted[name]) for name, value in again.state_dict().items())


def test_trained_along_concatenated_and_one_modality_models_survive_too(
    run, along, texts_alone, inputs, tmp_path
):
    several = {
        "along": classifier_of(along, "found", 1.0),
        "concat": classifier_of(run, "late concat", 1.0),
        "texts": texts_alone,
    }
    for name, model in several.items():
        model.save_pretrained(tmp_path / name)
        again = MultimodalClassifier.from_pretrained(tmp_path / name)
        assert again.predict(inputs[:5]) == model.predict(inputs[:5])


class Described(TextBackbone):
    """A backbone with a file of its own: it is made of what the file says."""

    name, channels = "described", {"0": 2}

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def vectorize(self, texts):
        return torch.tensor([[float(len(text)), self.factor] for text in texts])

    def forward(self, vectors):
        return {"0": vectors.unsqueeze(2)}

    def config(self):
        return {"kind": "described"}

    def save_files(self, folder):
        (folder / "factor.txt").write_text(str(self.factor))


def test_files_of_backbones_are_saved_in_a_folder_of_theirs(
    texts_alone, copy, tmp_path, monkeypatch
):
    def rebuilt(config, folder, state):
        if config["kind"] != "described":
            return backbone_from_config(config, folder, state)
        return Described(float((folder / "factor.txt").read_text()))

    monkeypatch.setattr(folders, "backbone_from_config", rebuilt)
    spec = ClassifierSpec(
        **{
            **vars(texts_alone.spec),
            "kinds": {"text": "text"},
            "channels": {"text_0": 2},
            "positions": {"text_0": 1},
            "space": FusionConfig(channels=4),
            "genotype": None,
            "baseline": "text only",
        }
    )
    model = MultimodalClassifier(spec, {"text": Described(2.5)})  # type: ignore[dict-item]
    model.save_pretrained(tmp_path / "own")
    assert (tmp_path / "own" / "backbones" / "text" / "factor.txt").read_text() == "2.5"
    again = MultimodalClassifier.from_pretrained(tmp_path / "own")
    assert again.predict({"text": "abc"}) == model.predict({"text": "abc"})
    model.save_pretrained(tmp_path / "own")  # over one with files of backbones


@pytest.mark.parametrize("after", [False, True])
def test_save_that_is_killed_leaves_the_folder_as_it_was(
    model, saved, tree, tmp_path, kill_at_write, after
):
    old = Path(shutil.copytree(saved, tmp_path / "old"))
    before = tree(tmp_path)
    for target in (tmp_path / "new", old):
        for number in range(1, 4):  # weights, card, config
            kill_at_write(number, after)
            with pytest.raises(KeyboardInterrupt):
                model.save_pretrained(target)
            assert tree(tmp_path) == before
            assert list(tmp_path.iterdir()) == [old]  # no temporary folder either


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_failed_exchange_of_folders_restores_the_old_one(copy, model, tree, monkeypatch, error):
    before, rename = tree(copy.parent), folders.os.rename

    def refuse(source, goal):
        if Path(source).name == "new":
            raise error("no")
        rename(source, goal)

    monkeypatch.setattr(folders.os, "rename", refuse)
    with pytest.raises(error, match="no"):
        model.save_pretrained(copy)
    assert tree(copy.parent) == before


def test_saving_replaces_a_saved_model_and_fills_an_empty_folder(run, copy, tree, tmp_path):
    other = classifier_of(run, "late concat", 1.0)
    (tmp_path / "empty").mkdir()
    for target in (copy, tmp_path / "empty", tmp_path / "deep" / "down"):
        other.save_pretrained(target)
        assert MultimodalClassifier.from_pretrained(target).spec == other.spec
    assert tree(copy) == tree(tmp_path / "empty") == tree(tmp_path / "deep" / "down")


FOREIGN = {
    "a file": lambda path: path.write_text("mine"),
    "a folder of something else": lambda path: (path.mkdir(), (path / "a.txt").write_text("mine")),
    "a config of something else": lambda path: (
        path.mkdir(),
        (path / "config.json").write_text('{"model_type": "bert"}'),
    ),
    "a broken config": lambda path: (path.mkdir(), (path / "config.json").write_text("{")),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_folder_that_is_no_saved_model_is_left_alone(model, tmp_path, tree, case):
    FOREIGN[case](tmp_path / "there")
    before = tree(tmp_path)
    with pytest.raises(InputError, match="there (is not a folder|exists and is not a saved model)"):
        model.save_pretrained(tmp_path / "there")
    assert tree(tmp_path) == before


def test_saved_model_with_a_file_of_ones_own_is_left_alone(model, copy, tree):
    (copy / "notes.txt").write_text("mine")
    before = tree(copy)
    with pytest.raises(InputError, match=r"not a saved model of ssnas alone .it holds notes.txt"):
        model.save_pretrained(copy)
    assert tree(copy) == before


def test_folder_that_appears_during_a_save_is_left_alone(tmp_path):
    there = tmp_path / "there"
    with (
        pytest.raises(InputError, match="there exists and is not a saved model"),
        folders.whole_folder(there),
    ):
        FOREIGN["a folder of something else"](there)
    assert (there / "a.txt").read_text() == "mine"
    assert list(tmp_path.iterdir()) == [there]


def test_options_that_would_be_ignored_are_refused(model, tmp_path):
    for options in ({"config": {}}, {"model_card_kwargs": {"a": 1}}, {"private": True}):
        with pytest.raises(InputError, match="writes its own config and card"):
            model.save_pretrained(tmp_path / "new", **options)
    assert list(tmp_path.iterdir()) == []


def edit(change: Callable[[Any], Any]) -> Callable[[Path], None]:
    """A change to the parsed config.json."""

    def apply(folder: Path) -> None:
        told = read_json(folder / "config.json")
        change(told)
        (folder / "config.json").write_text(json.dumps(told))

    return apply


def weights(change: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors")

    return apply


def cut(name: str, size: int) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:size])


def renamed(told: Any, name: str) -> None:
    spec = told["spec"]
    spec["kinds"] = {name: "image", "text": "text"}
    for part in ("channels", "positions"):
        spec[part] = {k.replace("image", name): v for k, v in spec[part].items()}
    told["backbones"] = {name: told["backbones"]["image"], "text": told["backbones"]["text"]}
    spec.update(genotype=None, baseline="late concat")


BROKEN = {
    "no config": (
        lambda f: (f / "config.json").unlink(),
        r"is not a saved model \(no config.json\)",
    ),
    "no weights": (
        lambda f: (f / "model.safetensors").unlink(),
        "cannot read tensors from .*model.safetensors",
    ),
    "a config cut short": (cut("config.json", 100), "config.json is not valid JSON"),
    "weights cut short": (cut("model.safetensors", 2000), "cannot read tensors from"),
    "empty weights": (cut("model.safetensors", 0), "cannot read tensors from"),
    "a list for a config": (
        lambda f: (f / "config.json").write_text("[]"),
        "config.json is not of a saved model of ssnas",
    ),
    "a config of something else": (
        edit(lambda t: t.update(kind="bert")),
        "is not of a saved model",
    ),
    "another version": (edit(lambda t: t.update(format=2)), "expected a model of format 1, got 2"),
    "no version": (edit(lambda t: t.pop("format")), "expected a model of format 1, got None"),
    "a field too many": (edit(lambda t: t.update(extra=1)), "config.json: has unknown extra"),
    "a field too few": (edit(lambda t: t.pop("spec")), "config.json: lacks spec"),
    "a field too many in the spec": (
        edit(lambda t: t["spec"].update(extra=1)),
        "spec: has unknown extra",
    ),
    "a field too few in the spec": (
        edit(lambda t: t["spec"].pop("classes")),
        "spec: lacks classes",
    ),
    "a size that is text": (
        edit(lambda t: t["spec"]["space"].update(channels="8")),
        "spec.space.channels: expected int, got '8'",
    ),
    "a size that is true": (
        edit(lambda t: t["spec"]["space"].update(cells=True)),
        "spec.space.cells: expected int, got 'True'",
    ),
    "a size below one": (
        edit(lambda t: t["spec"]["space"].update(channels=0)),
        "spec.space: FusionConfig.channels must be >= 1",
    ),
    "a size beyond any memory": (
        edit(lambda t: t["spec"]["space"].update(channels=10**12)),
        "do not fit each other .(size mismatch for|Storage size calculation overflowed)",
    ),
    "classes that are text": (
        edit(lambda t: t["spec"].update(classes="Drama")),
        "spec.classes: expected tuple.*, got 'Drama'",
    ),
    "a class twice": (
        edit(lambda t: t["spec"].update(classes=["a"] * 23)),
        "spec: a classifier needs classes of distinct names",
    ),
    "a threshold that is NaN": (
        edit(lambda t: t["spec"].update(threshold=float("nan"))),
        "spec.threshold: expected float, got 'nan'",
    ),
    "a threshold beyond one": (
        edit(lambda t: t["spec"].update(threshold=1.5)),
        r"needs a threshold in \[0, 1\]",
    ),
    "no threshold": (
        edit(lambda t: t["spec"].update(threshold=None)),
        r"threshold in \[0, 1\] for",
    ),
    "an unknown kind": (
        edit(lambda t: t["spec"]["kinds"].update(text="sound")),
        "spec: a classifier needs kinds",
    ),
    "another number of classes": (
        edit(lambda t: t["spec"].update(classes=["a", "b"])),
        r"do not fit each other .size mismatch for head.weight: .*\[23, 64\].*\[2, 64\]",
    ),
    "a genotype outside of its space": (
        edit(lambda t: t["spec"]["genotype"]["nodes"][0].update(operator="Nonsense")),
        "copy: .*Nonsense",
    ),
    "a genotype that is a number": (
        edit(lambda t: t["spec"].update(genotype=3)),
        "spec.genotype: expected an object, got '3'",
    ),
    "a genotype of another space than its sizes": (
        edit(lambda t: t["spec"]["genotype"].update(space="layers")),
        "not a genotype of this space: expected fusion, got layers",
    ),
    "sizes of layers for a genotype of cells": (
        edit(lambda t: t["spec"].update(space={"name": "layers", "layers": 10**12})),
        "not a genotype of this space: expected layers, got fusion",
    ),
    "a space of a module that was not imported": (
        edit(lambda t: t["spec"]["space"].update(name="nowhere_at_all:Space")),
        "the space 'nowhere_at_all:Space' is not of this library; import nowhere_at_all first",
    ),
    "a function for a space": (
        edit(lambda t: t["spec"].update(space={"name": "os:system", "command": "touch mine"})),
        "spec.space: expected system, got",
    ),
    "no space": (
        edit(lambda t: t["spec"].pop("space")),
        "spec: lacks space",
    ),
    "an operator of a module that was not imported": (
        edit(lambda t: t["spec"]["space"].update(operators=["nowhere_at_all:Op"])),
        "the operator 'nowhere_at_all:Op' is not of this library",
    ),
    "a baseline of a module that was not imported": (
        edit(lambda t: t["spec"].update(baseline="nowhere_at_all:Net", genotype=None)),
        "the baseline 'nowhere_at_all:Net' is not of this library",
    ),
    "a genotype of other features": (
        edit(lambda t: t["spec"]["genotype"]["nodes"][0].update(inputs=["image_3", "sound_0"])),
        "needs the features of its genotype",
    ),
    "a genotype and a baseline": (
        edit(lambda t: t["spec"].update(baseline="gmu")),
        "needs a genotype or a baseline",
    ),
    "a path for a modality": (
        edit(lambda t: renamed(t, "../elsewhere")),
        r"needs modalities named by identifiers that are free, got \['../elsewhere'\]",
    ),
    "a backbone too few": (
        edit(lambda t: t["backbones"].pop("text")),
        "expected backbones of image, text, got image",
    ),
    "a backbone of a path": (
        edit(lambda t: t["backbones"].update({"../x": t["backbones"]["text"]})),
        "expected backbones of image, text, got image, text, ../x",
    ),
    "a backbone of no kind": (
        edit(lambda t: t["backbones"]["text"].update(kind="nonsense")),
        "copy: .*nonsense",
    ),
    "a backbone of another kind": (
        edit(lambda t: t["backbones"].update(text=t["backbones"]["image"])),
        "do not fit each other .expected backbones with the features",
    ),
    "facts of another type": (
        edit(lambda t: t["facts"].update(seed="zero")),
        "facts.seed: expected int, got 'zero'",
    ),
    "a score that is text": (
        edit(lambda t: t["facts"]["dev"].update(weighted_f1="good")),
        "facts.dev.weighted_f1: expected float, got 'good'",
    ),
    "a tensor too few": (
        weights(lambda t: t.pop("head.bias")),
        r"do not fit each other .*Missing key\(s\) in state_dict: .head.bias",
    ),
    "a tensor too many": (
        weights(lambda t: t.update(more=torch.zeros(1))),
        r"do not fit each other .*Unexpected key\(s\) in state_dict: .more",
    ),
    "a tensor of another shape": (
        weights(lambda t: t.update({"missing.text_0": torch.zeros(2, 2)})),
        r"size mismatch for missing.text_0: .* shape torch.Size\(\[2, 2\]\) .*\(\[1, 300\]\)",
    ),
    "an inner tensor of another shape": (
        weights(lambda t: t.update({"network.stems.text_0.norm.bias": torch.zeros(2)})),
        "do not fit each other .size mismatch for network.stems.text_0.norm.bias",
    ),
    "more cells than it has": (
        edit(lambda t: t["spec"]["space"].update(cells=10**12)),
        "expected 1000000000000 cells of 1 steps, got 2 nodes",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_model_folder_is_told(copy, case):
    spoil, message = BROKEN[case]
    spoil(copy)
    with pytest.raises(InputError, match=message):
        MultimodalClassifier.from_pretrained(copy)


def test_fusion_option_that_came_later_takes_its_default(copy, model):
    edit(lambda t: t["spec"]["space"].pop("modality_dropout"))(copy)
    assert MultimodalClassifier.from_pretrained(copy).spec == model.spec


# --- the hub, faked


@pytest.fixture
def hub(monkeypatch, tmp_path) -> Path:
    """Uploads go to a folder, downloads come from it."""
    from huggingface_hub import hub_mixin

    class Api:
        def __init__(self, token=None) -> None:
            pass

        def create_repo(self, repo_id, **_):
            class Made:
                pass

            Made.repo_id = repo_id  # type: ignore[attr-defined]
            return Made

        def upload_folder(self, *, repo_id, folder_path, repo_type, **_):
            assert repo_type == "model"
            shutil.copytree(folder_path, tmp_path / "hub" / repo_id)
            return f"https://hub/{repo_id}/commit"

    def download(repo_id, *, allow_patterns, revision, token=None):
        if not (tmp_path / "hub" / repo_id).is_dir():
            raise ConnectionError("no such model, or no network\nlong advice")
        assert allow_patterns == ["config.json", "model.safetensors", "backbones/*"]
        assert (revision, token) == ("main", None)
        return str(tmp_path / "hub" / repo_id)

    monkeypatch.setattr(hub_mixin, "HfApi", Api)
    monkeypatch.setattr(classifiers, "snapshot_download", download)
    return tmp_path / "hub"


def test_model_goes_to_the_hub_and_comes_back(hub, saved, model, tree, tmp_path, inputs):
    assert model.push_to_hub("me/movies") == "https://hub/me/movies/commit"
    assert tree(hub / "me" / "movies") == tree(saved)
    again = MultimodalClassifier.from_pretrained("me/movies", revision="main")
    assert again.predict(inputs[0]) == model.predict(inputs[0])
    url = model.save_pretrained(tmp_path / "new", push_to_hub=True, repo_id="me/new", private=True)
    assert url == "https://hub/me/new/commit"
    assert tree(hub / "me" / "new") == tree(tmp_path / "new")


def test_name_that_the_hub_does_not_know_is_told_in_one_line(hub):
    message = (
        r"'me/none' is neither a folder nor a model to be had .*no such model, or no network\)"
    )
    with pytest.raises(InputError, match=message):
        MultimodalClassifier.from_pretrained("me/none", revision="main")


def test_a_path_is_never_looked_for_on_the_hub(monkeypatch):
    monkeypatch.setattr(classifiers, "snapshot_download", None)
    with pytest.raises(InputError, match="me/none is not a folder"):
        MultimodalClassifier.from_pretrained(Path("me/none"))


def test_text_that_names_no_repository_is_told(monkeypatch):
    with pytest.raises(InputError, match="is neither a folder nor a model to be had from the hub"):
        MultimodalClassifier.from_pretrained("/no/such/folder/at/all")

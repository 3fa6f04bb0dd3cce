"""A model as a file computes what the model does, for any number of samples; its notes suffice."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest
import torch
from torch import nn

from ssnas_core.backbones.base import ArrayBackbone
from ssnas_core.backbones.factory import array_backbone, image_backbone, text_backbone
from ssnas_core.common.errors import InputError
from ssnas_core.features.extract import Taps, pooled
from ssnas_core.models import graph as graphs
from ssnas_core.models.classifier import MultimodalClassifier
from ssnas_core.models.graph import export_model
from ssnas_core.models.spec import ClassifierSpec
from ssnas_core.spaces.cells.space import CellsConfig
from ssnas_core.spaces.encdec.space import EncDecConfig
from ssnas_core.spaces.fusion.space import FusionConfig
from ssnas_core.spaces.joint import JointConfig
from ssnas_core.spaces.layers import LayersConfig

pytestmark = pytest.mark.usefixtures("one_thread")

WORDS = "ship robot queen war love city train killer song desert horse winter".split()
TEXTS = [f"{a} {b} {a}" for a in WORDS for b in WORDS]
CLASSES = ("drama", "comedy", "war")


def made(space, backbones, *, length=4, shapes=None, single=False, genotype=None):
    """Return a classifier of random weights, with batch norms that have seen something."""
    torch.manual_seed(0)
    kinds = {name: one.modality_kind for name, one in backbones.items()}
    taps = Taps(backbones, length).eval()
    blank = {
        name: torch.zeros(1, 3, *one.size) if kinds[name] == "image"
        else one.vectorize(["ship"]) if kinds[name] == "text"
        else one.vectorize(np.zeros((1, *shapes[name]), np.float32))
        for name, one in backbones.items()
    }  # fmt: skip
    with torch.no_grad():
        features = taps(blank)
    channels = {name: value.shape[2] for name, value in features.items()}
    positions = {name: value.shape[1] for name, value in features.items()}
    opened = space.open(channels, positions)
    drawn = opened.sample(torch.Generator().manual_seed(3)) if genotype is None else genotype
    spec = ClassifierSpec(
        kinds=kinds, shapes=shapes or {}, classes=CLASSES, single_label=single,
        threshold=None if single else 0.3, length=length, channels=channels,
        positions=positions, space=space, genotype=drawn,
    )  # fmt: skip
    model = MultimodalClassifier(spec, backbones)
    with torch.no_grad():
        for _, value in model.missing.named_buffers():
            value.copy_(torch.rand_like(value))
        for _ in range(20):  # else nothing of what went in is left behind many batch norms
            features = model._features(samples(model, 12)[0])
            model.network.train()(features)
            for name, one in backbones.items():
                if kinds[name] == "image":
                    one.train()(torch.rand(12, 3, *one.size))
            model.eval()
        model.head.weight.mul_(3)
    return model


def small(size=(12, 20)):
    return image_backbone("small", size=size)


def movies(space, **options):
    text = text_backbone("maxout").fit(TEXTS)
    return made(space, {"image": small(), "text": text}, **options)


def regions():
    backbones = {"regions": array_backbone("regions", (16, 9)), "text": text_backbone("words")}
    config = EncDecConfig(encoder=2, decoder=4, channels=8, head=4, boxes="regions_0", dropout=0.2)
    return made(config, backbones, length=16, shapes={"regions": (16, 9)}, single=True)


def numbers():
    rng = np.random.default_rng(0)
    backbones = {
        "sound": array_backbone("identity", (5,)).fit(7 + 3 * rng.normal(size=(50, 5))),
        "sight": array_backbone("maxout", (6,)).fit(rng.normal(size=(50, 6)) / 9),
    }
    config = FusionConfig(channels=8, dropout=0.5)
    return made(config, backbones, shapes={"sound": (5,), "sight": (6,)})


MODELS = {
    "cells": lambda: made(
        CellsConfig(cells=3, channels=4, drop_path=0.5),
        {"image": image_backbone("pixels", size=(8, 8))},
        single=True,
    ),
    "fusion": lambda: movies(FusionConfig(channels=8, output="beside", dropout=0.5)),
    "joint": lambda: made(
        JointConfig(
            cells=CellsConfig(cells=3, channels=2),
            fusion=FusionConfig(channels=8, output="beside", dropout=0.5),
        ),
        {
            "image": image_backbone("pixels", size=(8, 8)),
            "text": text_backbone("maxout").fit(TEXTS),
        },
    ),
    "layers": lambda: movies(LayersConfig(channels=8, dropout=0.5), single=True),
    "encdec": regions,
    "arrays": numbers,
}
SPACES = [  # each space by ONNX; the quickest by both
    *(("cells", ".pt2"), ("fusion", ".onnx"), ("encdec", ".onnx")),
    *(("cells", ".onnx"), ("layers", ".onnx"), ("joint", ".onnx")),
    pytest.param("fusion", ".pt2", marks=pytest.mark.thorough),
    pytest.param("layers", ".pt2", marks=pytest.mark.thorough),
    pytest.param("encdec", ".pt2", marks=pytest.mark.thorough),
    ("arrays", ".pt2"),
    pytest.param("arrays", ".onnx", marks=pytest.mark.thorough),
]


def needs(ending):
    if ending == ".onnx":
        for name in ("onnx", "onnxscript", "onnxruntime"):
            pytest.importorskip(
                name, reason=f"a .onnx file needs {name}: pip install 'ssnas[onnx]'"
            )


def opened(path):
    """Return the notes in a file, and what runs it on arrays by name."""
    if path.suffix == ".pt2":
        extra = {"ssnas.json": ""}
        module = torch.export.load(path, extra_files=extra).module()
        notes = json.loads(extra["ssnas.json"])

        def run(inputs):
            values = [torch.from_numpy(inputs[name]) for name in notes["inputs"]]
            return module(*values).detach().numpy()

        return notes, run
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path))
    notes = json.loads(session.get_modelmeta().custom_metadata_map["ssnas"])
    assert [one.name for one in session.get_outputs()] == list(notes["outputs"])
    return notes, lambda inputs: session.run(None, inputs)[0]


def samples(model, count):
    """Return raw values of `count` samples, some without a modality, and a file's inputs.

    They are made from the notes' words alone: levels, vectors and numbers, not as the library does.
    """
    rng = np.random.default_rng(count)
    several, rows, inputs = len(model.spec.modalities) > 1, [{} for _ in range(count)], {}
    for place, name in enumerate(model.spec.modalities):
        kind, backbone = model.kinds[name], model.backbones[name]
        if kind == "image":
            raw = rng.integers(256, size=(count, 3, *backbone.size), dtype=np.uint8)
            inputs[name] = raw
        elif kind == "text":
            raw = [" ".join(rng.choice(WORDS, 6)) for _ in range(count)]
            inputs[name] = backbone.vectorize(raw).numpy()
        else:
            raw = (5 + 4 * rng.normal(size=(count, *model.spec.shapes[name]))).astype(np.float32)
            if name == "regions":
                raw[..., -4:] = np.abs(raw[..., -4:]).cumsum(-1)
                raw[:, 11:] = 0  # padding
            inputs[name] = raw
        there = [not several or number % 3 != place for number in range(count)]
        if several:
            inputs[f"{name}_given"] = np.array(there)
        for row, value, given in zip(rows, raw, there, strict=True):
            row |= {name: value} if given else {}
    return rows, inputs


def predicted(model, rows):
    return np.array([[one[name] for name in model.spec.classes] for one in model.predict(rows)])


@pytest.mark.parametrize(("name", "ending"), SPACES)
def test_file_gives_the_models_probabilities_of_any_number_of_raw_values(name, ending, tmp_path):
    needs(ending)
    model = MODELS[name]()
    told = export_model(model, tmp_path / f"model{ending}")
    assert not any(begin.startswith("features") for begin in told["begins"].values())
    assert told.pop("difference") < 1e-5
    notes, run = opened(tmp_path / f"model{ending}")
    assert notes == told
    for count in (1, 2, 7):
        rows, inputs = samples(model, count)
        wanted = predicted(model, rows)
        found = run(inputs)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, wanted, atol=2e-6)
        assert {k: (v.dtype.name, v.shape[1:]) for k, v in inputs.items()} == {
            k: (v["dtype"], tuple(v["shape"][1:])) for k, v in notes["inputs"].items()
        }
    assert wanted.std(0).max() > 0.01  # or any inputs would do
    assert list(tmp_path.iterdir()) == [tmp_path / f"model{ending}"]


def test_notes_tell_classes_threshold_and_what_is_to_be_done_before():
    model = MODELS["fusion"]()
    notes = graphs._Graph(model, {}).notes()  # what is written, see above
    assert notes["classes"] == list(CLASSES) and not notes["single_label"]
    assert notes["threshold"] == 0.3
    assert notes["space"] == "fusion" and notes["network"] == str(model.spec.genotype)
    image, text = notes["inputs"]["image"], notes["inputs"]["text"]
    assert image["shape"] == ["N", 3, 12, 20] and image["dtype"] == "uint8"
    for said in ("levels 0 to 255", "not normalised", "bicubic", "12 x 20", "centre"):
        assert said in image["from"]
    assert text["shape"] == ["N", 300] and text["dtype"] == "float32"
    assert "model.backbones['text'].vectorize(raw)" in text["from"]
    assert "larger than the threshold" in notes["outputs"]["probabilities"]["to"]
    single = graphs._Graph(MODELS["cells"](), {}).notes()
    assert single["threshold"] is None and "largest" in single["outputs"]["probabilities"]["to"]
    assert list(single["inputs"]) == ["image"]  # what has to be given is not asked for


def test_the_model_is_left_as_it_was(tmp_path):
    model = MODELS["arrays"]().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    export_model(model, tmp_path / "model.pt2")
    assert model.training and all(module.training for module in model.network.modules())
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)


class Branching(ArrayBackbone):
    """A backbone that no trace can follow."""

    def __init__(self) -> None:
        super().__init__((5,))
        self.name, self.channels = "branching", {"0": 2}

    def forward(self, rows):
        half = rows[:, :2] if float(rows.sum()) > 0 else -rows[:, :2]
        return {"0": half.unsqueeze(2)}


def test_file_begins_at_features_where_a_backbone_cannot_be_traced(tmp_path, caplog):
    rng = np.random.default_rng(0)
    other = array_backbone("identity", (6,)).fit(rng.normal(size=(50, 6)))
    model = made(
        FusionConfig(channels=8),
        {"odd": Branching().fit(rng.normal(size=(50, 5))), "sight": other},
        shapes={"odd": (5,), "sight": (6,)},
    )
    with caplog.at_level(logging.WARNING):
        notes = export_model(model, tmp_path / "model.pt2")
    assert "the file begins at the features of odd: branching cannot be traced" in caplog.text
    assert notes["begins"]["odd"].startswith("features: branching cannot be traced (")
    assert notes["begins"]["sight"] == "numbers"
    assert list(notes["inputs"]) == ["odd_0", "sight", "odd_given", "sight_given"]
    assert "model.encode('odd', tensor)['odd_0']" in notes["inputs"]["odd_0"]["from"]
    _, run = opened(tmp_path / "model.pt2")
    rows, inputs = samples(model, 4)
    vectors = model.backbones["odd"].vectorize(inputs.pop("odd"))
    encoded = model.encode("odd", vectors)["odd_0"].numpy()
    np.testing.assert_allclose(run(inputs | {"odd_0": encoded}), predicted(model, rows), atol=2e-6)


def test_what_cannot_be_traced_or_differs_leaves_no_file(tmp_path, monkeypatch):
    model = MODELS["arrays"]()
    with pytest.raises(InputError, match=r"goes to a \.onnx or a \.pt2 file, got 'm\.pt'; name"):
        export_model(model, tmp_path / "m.pt")
    real = graphs._prepared
    monkeypatch.setattr(graphs, "_prepared", lambda backbone, values: real(backbone, values) * 1)
    monkeypatch.setattr(graphs, "TOLERANCE", -1.0)
    with pytest.raises(InputError, match="expected the model's probabilities from its .pt2 file"):
        export_model(model, tmp_path / "m.pt2")
    monkeypatch.undo()

    class Stubborn(nn.Module):
        width = model.head.in_features

        def forward(self, features):
            return torch.zeros(int(features["sound_0"].sum()), 1)

    model.network = Stubborn()
    with pytest.raises(InputError, match=r"cannot trace the model \(.*write the other form, or"):
        export_model(model, tmp_path / "m.pt2")
    assert list(tmp_path.iterdir()) == []


def test_without_onnx_the_way_to_it_is_told(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(InputError, match=r"pip install 'ssnas\[onnx\]', or write a \.pt2"):
        export_model(nn.Identity(), tmp_path / "m.onnx")


@pytest.mark.parametrize("length", [1, 4, 9, 16])
@pytest.mark.parametrize("shape", [(7, 5), (3, 2), (8, 8), (11,), (2,)])
def test_pooling_is_the_same_while_it_is_traced(length, shape, monkeypatch):
    value = torch.randn(2, 3, *shape)
    wanted = pooled(value, length)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    torch.testing.assert_close(pooled(value, length), wanted, rtol=0, atol=0)

"""A trained model as one file that runs without this library: torch.export's, or ONNX.

The graph begins at raw inputs and ends at probabilities: levels of an image are scaled and
normalised in it, arrays are standardised, backbones run, features are pooled as a store's are,
and the mean stands in for a modality that is not given. What a graph cannot hold stays outside,
and the notes in the file say how to do it: an image is decoded and brought to its size, a text
becomes vectors or tokens. Where a backbone itself cannot be traced, as one of your own with a
loop that depends on values, the graph begins at its pooled features instead.

The notes are JSON: in ONNX the metadata `ssnas`, in torch's file the extra file `ssnas.json`.
"""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ssnas_core import __version__
from ssnas_core.backbones.arrays import RegionArray
from ssnas_core.backbones.base import ArrayBackbone, Backbone, ImageBackbone
from ssnas_core.backbones.transformers import TransformerText
from ssnas_core.common.errors import InputError, one_line
from ssnas_core.common.files import atomic_path
from ssnas_core.common.modalities import modality_of
from ssnas_core.models.classifier import MultimodalClassifier

NOTES = "ssnas"
"""Under this name the notes stand in the file."""

TOLERANCE = 1e-4
"""Largest difference of a probability from the model's own with which a file is written."""

_LOG = logging.getLogger(__name__)
_ENDINGS = (".onnx", ".pt2")
_TRIED = 5  # samples on which the file is compared with the model, after it was made from two


def export_model(model: MultimodalClassifier, path: Path | str) -> dict[str, Any]:
    """Write a model as one file that needs neither this library nor other Python code.

    Any number of samples at once goes in, and probabilities come out. What was written is read
    again and compared with the model, on random inputs, before the file appears.

    Args:
        model: as from `classifier_of` or `MultimodalClassifier.from_pretrained`; not changed.
        path: of a .onnx file (needs `ssnas[onnx]`), or of a .pt2 of `torch.export`.

    Returns:
        The notes, which are in the file too. `inputs`: of each, its `shape` (N is the number of
        samples), `dtype`, and how a raw value becomes it, `from`; `outputs` likewise;
        `classes`, in the order of the columns; `single_label` and `threshold`; `begins`, of each
        modality where the graph does, and why if at its features; `space` and `network`. And,
        not in the file, `difference`: the largest one of a probability from the model's own.

    Raises:
        InputError: another ending, no onnx or onnxruntime, a model that cannot be traced, or a
            file that does not compute what the model does.
    """
    path = Path(path)
    if path.suffix not in _ENDINGS:
        raise InputError(f"a model goes to a .onnx or a .pt2 file, got {path.name!r}; name one.")
    if path.suffix == ".onnx":
        _check_onnx()
    model = copy.deepcopy(model).cpu().to(memory_format=torch.contiguous_format)
    with torch.no_grad(), atomic_path(path) as temporary:
        graph, made = _traced(model, path.suffix)
        _save(made, temporary, graph.notes())
        return {**graph.notes(), "difference": _difference(graph, temporary, path.suffix)}


def _check_onnx() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"expected onnx, onnxruntime and onnxscript for a .onnx file, got {error}; "
            "pip install 'ssnas[onnx]', or write a .pt2 file."
        ) from error


class _Graph(nn.Module):
    """A model from the inputs of a file to probabilities, eval mode and all.

    Args:
        model: in eval mode.
        features: the modalities whose features are the input.
    """

    def __init__(self, model: MultimodalClassifier, features: Mapping[str, str]) -> None:
        super().__init__()
        self.model = model
        self.inputs = _inputs(model, features)
        self.features = features
        own = model.backbones.items()
        self.regions = [name for name, one in own if isinstance(one, RegionArray)]
        self.eval()

    def forward(self, *values: Tensor) -> Tensor:
        """Return probabilities (N, K) of the inputs in the order of `inputs`."""
        given = dict(zip(self.inputs, values, strict=True))
        features: dict[str, Tensor] = {}
        for modality in self.model.spec.modalities:
            if modality in self.features:
                own = [n for n in self.model.spec.channels if modality_of(n) == modality]
                made = {name: given[name] for name in own}
            else:
                raw = _prepared(self.model.backbones[modality], given[modality])
                made = self.model.encode(modality, raw)
            if (there := given.get(f"{modality}_given")) is not None:
                mean = self.model.missing
                made = {
                    name: torch.where(there[:, None, None], value, mean.get_buffer(name))
                    for name, value in made.items()
                }
            features |= made
        logits = self.model(features).float()
        return logits.softmax(1) if self.model.spec.single_label else logits.sigmoid()

    def example(self, count: int) -> tuple[Tensor, ...]:
        """Return random inputs of so many samples."""
        drawn = torch.Generator().manual_seed(count)
        values = []
        for name, told in self.inputs.items():
            size = (count, *told["shape"][1:])
            if told["dtype"] == "uint8":
                values.append(torch.randint(256, size, generator=drawn, dtype=torch.uint8))
            elif told["dtype"] == "bool":
                values.append(torch.arange(count) % 3 < 2)  # some are there, some are not
            elif told["dtype"] == "int64":
                backbone: Any = self.model.backbones[name]
                values.append(backbone.vectorize([" ".join(["word"] * n) for n in range(count)]))
            else:
                value = torch.randn(size, generator=drawn)
                if name in self.regions:
                    value[..., -4:] = value[..., -4:].abs().cumsum(-1)  # corners of a box
                values.append(value)
        return tuple(values)

    def notes(self) -> dict[str, Any]:
        """Return what whoever has the file alone needs to know."""
        spec = self.model.spec
        meaning = (
            "softmax over the classes, of which the one with the largest is predicted"
            if spec.single_label
            else "of each class by itself; all that are larger than the threshold are predicted"
        )
        probabilities = {"shape": ["N", len(spec.classes)], "dtype": "float32", "to": meaning}
        return {
            "made_by": f"ssnas {__version__}",
            "inputs": self.inputs,
            "outputs": {"probabilities": probabilities},
            "classes": list(spec.classes),
            "single_label": spec.single_label,
            "threshold": spec.threshold,
            "begins": {name: self._begin(name) for name in spec.modalities},
            "space": spec.plain()["space"]["name"],
            "network": str(spec.genotype or spec.baseline),
        }

    def _begin(self, modality: str) -> str:
        if modality in self.features:
            return f"features: {self.features[modality]}"
        kind = {"image": "pixels", "array": "numbers"}
        return kind.get(self.model.spec.kinds[modality], "what its vectorizer gives")


def _prepared(backbone: Any, values: Tensor) -> Tensor:
    """Return the inputs of a file as a backbone takes them."""
    if isinstance(backbone, ImageBackbone):
        return values.float() / 255
    if isinstance(backbone, ArrayBackbone) and _standardises(backbone):
        return (values - backbone.mean) / backbone.scale
    return values


def _standardises(backbone: Backbone) -> bool:
    """Whether what an array backbone does before its forward is to standardise, and no more."""
    return getattr(type(backbone), "vectorize", None) is ArrayBackbone.vectorize


def _inputs(model: MultimodalClassifier, features: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Return shape, dtype and preparation of each input of a file, in their order."""
    spec, inputs = model.spec, {}
    for modality in spec.modalities:
        backbone: Any = model.backbones[modality]
        if modality in features:
            for name, width in spec.channels.items():
                if modality_of(name) == modality:
                    inputs[name] = {
                        "shape": ["N", spec.positions[name], width],
                        "dtype": "float32",
                        "from": f"{_IN_PYTHON}; features = model.encode({modality!r}, tensor)["
                        f"{name!r}], of the tensor that model.backbones[{modality!r}] takes",
                    }
        else:
            inputs[modality] = _input(modality, backbone, spec.shapes.get(modality, ()))
    if len(spec.modalities) > 1:
        for modality in spec.modalities:
            inputs[f"{modality}_given"] = {
                "shape": ["N"],
                "dtype": "bool",
                "from": f"true where the sample has its {modality}; else any finite numbers stand "
                f"for it, and the mean of the training data is used"
                + ("; false for a text without a known word" * (spec.kinds[modality] == "text")),
            }
    return inputs


_IN_PYTHON = (
    "in Python: model = ssnas_core.MultimodalClassifier.from_pretrained(FOLDER), of ssnas save"
)


def _input(modality: str, backbone: Any, shape: tuple[int, ...]) -> dict[str, Any]:
    """Return shape, dtype and preparation of a modality's own input."""
    if isinstance(backbone, ImageBackbone):
        height, width = backbone.size
        return {
            "shape": ["N", 3, height, width],
            "dtype": "uint8",
            "from": "levels 0 to 255 of red, green and blue, not normalised: the file does that. "
            "The image stands as its EXIF orientation says, what is transparent lies on white; "
            f"it is scaled (bicubic, antialiased, as Pillow's ImageOps.fit) to cover {height} x "
            f"{width} pixels (height x width), and its centre of that size is cut out",
        }
    numbers = {"shape": ["N", *shape], "dtype": "float32"}
    if isinstance(backbone, RegionArray):
        what = "a row for each region as in the data, its box at the end; rows of zeros are none"
        return {**numbers, "from": what}
    if isinstance(backbone, ArrayBackbone) and _standardises(backbone):
        what = "the numbers as in the data, in their units: the file standardises them"
        return {**numbers, "from": what}
    example = _vectorized(backbone, shape)
    dtype = str(example.dtype).removeprefix("torch.")
    way = f"{_IN_PYTHON}; values = model.backbones[{modality!r}].vectorize(raw)"
    if isinstance(backbone, TransformerText):
        tokenizer = backbone.tokenizer
        way = (
            f"the token numbers of {backbone.name.split()[0]}'s own tokenizer, its special tokens "
            f"added, cut to {backbone.length} and padded on the right by "
            f"{tokenizer.pad_token_id} ({tokenizer.pad_token}); or {way}"
        )
    else:
        way = f"what the vectorizer of {backbone.name} makes of raw values; {way}"
    return {"shape": ["N", *example.shape[1:]], "dtype": dtype, "from": way}


def _vectorized(backbone: Any, shape: tuple[int, ...]) -> Tensor:
    """Return what a backbone makes of one raw value that is no image."""
    if isinstance(backbone, ArrayBackbone):
        return backbone.vectorize(np.zeros((1, *shape), np.float32))
    return backbone.vectorize(["a text"])


def _traced(model: MultimodalClassifier, ending: str) -> tuple[_Graph, Any]:
    """Return the traced model, from raw inputs on where that is possible."""
    graph = _Graph(model, {})
    try:
        return graph, _made(ending, graph, graph.example(2))
    except Exception as error:  # tracing raises many kinds, on other people's modules all of them
        problems = {name: _problem(graph, name, ending) for name in model.spec.modalities}
        features = {name: problem for name, problem in problems.items() if problem}
        if not features:
            raise _untraceable(error) from error
    for modality, problem in features.items():
        _LOG.warning("the file begins at the features of %s: %s", modality, problem)
    graph = _Graph(model, features)
    try:
        return graph, _made(ending, graph, graph.example(2))
    except Exception as error:
        raise _untraceable(error) from error


def _untraceable(error: Exception) -> InputError:
    return InputError(
        f"cannot trace the model ({_reason(error)}); write the other form, or use it in Python."
    )


def _reason(error: BaseException) -> str:
    """Return in one line what an error of tracing comes from."""
    while error.__cause__ is not None:
        error = error.__cause__
    return one_line(f"{type(error).__name__}: {error}")


class _Alone(nn.Module):
    """One backbone from its input to its pooled features."""

    def __init__(self, graph: _Graph, modality: str) -> None:
        super().__init__()
        self.model, self.inputs = graph.model, {modality: graph.inputs[modality]}
        self.eval()

    def forward(self, *values: Tensor) -> tuple[Tensor, ...]:
        (modality,) = self.inputs
        raw = _prepared(self.model.backbones[modality], values[0])
        return tuple(self.model.encode(modality, raw).values())


def _problem(graph: _Graph, modality: str, ending: str) -> str | None:
    """Return why a backbone cannot be traced; None where it can."""
    values = graph.example(2)[list(graph.inputs).index(modality)]
    try:
        _made(ending, _Alone(graph, modality), (values,))
    except Exception as error:
        backbone: Any = graph.model.backbones[modality]
        return f"{backbone.name} cannot be traced ({_reason(error)})"
    return None


def _made(ending: str, module: Any, values: tuple[Tensor, ...]) -> Any:
    """Return a module traced for any number of samples: a torch program, or an ONNX model."""
    shapes = ({0: torch.export.Dim("samples", min=1)},) * len(values)
    program = torch.export.export(module, values, dynamic_shapes=(shapes,))
    if ending == ".pt2":
        return program
    names = list(module.inputs)
    outputs = ["probabilities"] if isinstance(module, _Graph) else None
    made = torch.onnx.export(
        program, dynamo=True, input_names=names, output_names=outputs, verbose=False
    )
    assert made is not None  # as dynamo gives it
    return made.model_proto


def _save(made: Any, path: Path, notes: Mapping[str, Any]) -> None:
    """Write what `_made` returned, with the notes in it."""
    text = json.dumps(notes)
    if isinstance(made, torch.export.ExportedProgram):
        with open(path, "wb") as file:
            torch.export.save(made, file, extra_files={f"{NOTES}.json": text})
    else:
        import onnx

        made.metadata_props.add(key=NOTES, value=text)
        onnx.save_model(made, str(path))


def _difference(graph: _Graph, path: Path, ending: str) -> float:
    """Return the largest difference of the file's probabilities; raise where it is too large."""
    tried = graph.example(_TRIED)
    if ending == ".pt2":
        with open(path, "rb") as file:
            found = torch.export.load(file).module()(*tried)
    else:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        session = onnxruntime.InferenceSession(str(path), options)
        inputs = {name: value.numpy() for name, value in zip(graph.inputs, tried, strict=True)}
        found = torch.from_numpy(np.asarray(session.run(None, inputs)[0]))
    difference = float((found - graph(*tried)).abs().max())
    if not difference <= TOLERANCE:
        raise InputError(
            f"expected the model's probabilities from its {ending} file, got ones that differ by "
            f"up to {difference:.2g}; write the other form, or use the model in Python."
        )
    return difference

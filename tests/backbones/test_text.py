"""Facts about the Maxout MLP on latent semantic vectors."""

from __future__ import annotations

import math
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from ssnas_core.backbones.base import Maxout
from ssnas_core.backbones.factory import text_backbone
from ssnas_core.backbones.text import MaxoutMLP
from ssnas_core.common.errors import InputError


@pytest.fixture
def fitted(plots) -> MaxoutMLP:
    torch.manual_seed(0)
    return MaxoutMLP(inputs=4).fit(plots).eval()


def saved_and_loaded(backbone: nn.Module, other: nn.Module, folder: Path) -> nn.Module:
    torch.save(backbone.state_dict(), folder / "state.pt")
    other.load_state_dict(torch.load(folder / "state.pt", weights_only=True))
    return other.eval()


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


def test_maxout_taps_are_the_vector_then_64_then_128(plots):
    backbone = text_backbone("maxout").fit(plots).eval()
    vectors = backbone.vectorize(plots)
    taps = backbone(vectors)
    assert {tap: tuple(value.shape) for tap, value in taps.items()} == {
        "0": (6, 300, 1), "1": (6, 64, 1), "2": (6, 128, 1),
    }  # fmt: skip
    assert torch.equal(taps["0"].squeeze(2), vectors)
    assert (backbone.modality_kind, backbone.channels) == ("text", {"0": 300, "1": 64, "2": 128})


def test_text_vectors_are_the_svd_of_tfidf_written_as_loops(fitted, plots):
    """Inner products between rank-4 projections do not depend on the signs an SVD chooses."""
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    documents = [
        Counter(w for w in re.findall(r"\b\w\w+\b", plot.lower()) if w not in ENGLISH_STOP_WORDS)
        for plot in plots
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
    got = fitted.vectorize(plots).double().numpy()
    np.testing.assert_allclose(got @ got.T, projected @ projected.T, atol=1e-4)


def test_texts_without_known_words_give_zeros_and_finite_features(fitted):
    vectors = fitted.vectorize(["", "xyzzy plugh", "the and of", "queen"])
    assert torch.equal(vectors[:3], torch.zeros(3, 4)) and vectors[3].any()
    assert all(value.isfinite().all() for value in fitted(vectors).values())


def test_vector_of_a_text_does_not_depend_on_the_others(fitted, plots):
    whole = fitted.vectorize(plots)
    for row, plot in enumerate(plots):
        torch.testing.assert_close(fitted.vectorize([plot])[0], whole[row])


def test_fewer_texts_than_components_are_padded_with_zeros(caplog, plots):
    backbone = MaxoutMLP(inputs=300).fit(plots)
    assert "give 6 of 300 text components" in caplog.text
    vectors = backbone.vectorize(plots)
    assert vectors.shape == (6, 300) and not vectors[:, 6:].any()
    assert vectors.square().sum(1).tolist() == pytest.approx([6.0] * 6, rel=1e-5)


def test_fitted_text_backbone_survives_a_weights_only_file(fitted, tmp_path, plots):
    loaded = saved_and_loaded(fitted, MaxoutMLP(inputs=4), tmp_path)
    assert loaded.fingerprint() == fitted.fingerprint()
    vectors = fitted.vectorize(plots)
    assert torch.equal(loaded.vectorize(plots), vectors)
    assert torch.equal(loaded(vectors)["2"], fitted(vectors)["2"])


def test_loading_another_vocabulary_replaces_the_fitted_one(fitted, tmp_path, plots):
    other = MaxoutMLP(inputs=4).fit(["robots meet robots", "robots build ships", "ships meet"])
    other.vectorize(["robots"])  # whatever is cached must go
    saved_and_loaded(fitted, other, tmp_path)
    assert torch.equal(other.vectorize(plots), fitted.vectorize(plots))


def test_fitted_state_is_part_of_the_fingerprint_and_fit_is_deterministic(plots):
    torch.manual_seed(0)
    backbone = MaxoutMLP(inputs=4)
    empty = backbone.fingerprint()
    first = backbone.fit(plots).fingerprint()
    other = backbone.fit(plots[:4]).fingerprint()
    assert len({empty, first, other}) == 3
    assert backbone.fit(plots).fingerprint() == first


def test_unfitted_text_backbone_and_wordless_texts_are_refused():
    with pytest.raises(InputError, match="expected a fitted text backbone"):
        MaxoutMLP().vectorize(["a plot"])
    for texts in ([""], ["", "the of"], ["robots", "robots"]):
        with pytest.raises(InputError, match="at least two distinct words"):
            MaxoutMLP().fit(texts)


def test_vocabulary_keeps_the_most_frequent_words(plots):
    backbone = MaxoutMLP(inputs=4, words=5).fit([*plots, "queen queen war war city city"])
    words = bytes(backbone.vocabulary.numpy()).decode().split("\n")
    assert len(words) == 5 and {"queen", "war", "city"} <= set(words)


def test_fitted_text_backbone_comes_back_from_config_and_state(fitted, plots, rebuilt):
    again = rebuilt(fitted)
    vectors = fitted.vectorize(plots)
    assert torch.equal(again.vectorize(plots), vectors)
    taps = fitted(vectors)
    assert all(torch.equal(value, taps[tap]) for tap, value in again(vectors).items())
    assert again.learns
    other = MaxoutMLP(inputs=4, hidden=3, outputs=2, pieces=7, words=5)
    assert rebuilt(other).words == 5

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
from ssnas_core.backbones.text import CharacterMLP, MaxoutMLP, character_runs
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


# --- what is known of a text

# The words of at least two plots are: detective killer city friends sea laugh war young kingdom
# queen travel.
SHARES = {
    "": 0,
    "   ": 0,
    "\n\t": 0,
    "it was and is the": 0,  # stop words alone
    "zzz qqq www": 0,
    "... !? 7": 0,
    "警长骑马进了沙漠": 0,
    "นายอำเภอขี่ม้า": 0,
    "the queen": 1,
    "Queen, QUEEN! queen?": 1,
    "a queen of zzz": 1 / 2,
    "killer robots and the sea": 2 / 3,
    "war war war peace": 3 / 4,
}


@pytest.mark.parametrize("text", SHARES)
def test_share_of_the_words_that_are_known_is_told_and_none_is_a_vector_of_zeros(fitted, text):
    assert fitted.known(["the queen", text]).tolist() == [1, pytest.approx(SHARES[text])]
    assert bool(fitted.vectorize([text]).any()) == (SHARES[text] > 0)


def test_no_texts_have_no_shares(fitted):
    assert fitted.known([]).shape == (0,)


# --- characters

RUNS = {
    "": [],
    " ，。!\n": [],
    "马": ["马"],
    "沙漠": ["沙", "漠", "沙漠"],
    "骑马，去": ["骑", "马", "骑马", "去"],
    "A b": ["a", "b"],
    "ม้า": ["ม", "้", "า", "ม้", "้า", "ม้า"],  # a mark between two letters stays
    "キス。": ["キ", "ス", "キス"],
    "é7": ["é", "7", "é7"],
    "\ud800x": ["x"],
    "abcd": ["a", "b", "c", "d", "ab", "bc", "cd", "abc", "bcd"],
}


@pytest.mark.parametrize("text", RUNS)
def test_runs_are_of_one_to_three_letters_and_stay_within_a_piece(text):
    assert character_runs(text) == RUNS[text]


# Of each language texts of two kinds, which share words but no clause; then one of each kind.
UNSPACED = {
    "Chinese": (
        ["警长骑马进了沙漠", "他在酒馆里遇见警长", "沙漠里的骑手有马", "酒馆外警长等骑手"],
        ["鬼魂在地窖里尖叫", "黑夜的诅咒和鲜血", "她在黑夜听见鬼魂", "地窖里流着鲜血"],
        ("骑手去沙漠找酒馆", "诅咒让鬼魂流鲜血"),
    ),
    "Chinese, in other characters": (
        ["警長騎馬進了沙漠", "他在酒館裡遇見警長", "沙漠裡的騎手有馬", "酒館外警長等騎手"],
        ["鬼魂在地窖裡尖叫", "黑夜的詛咒和鮮血", "她在黑夜聽見鬼魂", "地窖裡流著鮮血"],
        ("騎手去沙漠找酒館", "詛咒讓鬼魂流鮮血"),
    ),
    "Japanese": (
        [
            "保安官は馬に乗る",
            "砂漠の酒場で保安官が待つ",
            "馬と拳銃を持つ男",
            "酒場の男は砂漠へ行く",
        ],
        ["幽霊が地下室で叫ぶ", "真夜中の呪いと血", "彼女は真夜中に幽霊を見る", "地下室の血"],
        ("保安官と拳銃の男", "幽霊の呪いと悲しみ"),
    ),
    "Thai": (
        ["นายอำเภอขี่ม้า", "ม้าอยู่ในทะเลทราย", "นายอำเภอไปทะเลทราย", "คนขี่ม้ามีปืน"],
        ["ผีอยู่ในห้องใต้ดิน", "เลือดในเวลากลางคืน", "ผีมากลางคืน", "ห้องใต้ดินมีเลือด"],
        ("นายอำเภอมีปืน", "ผีกลางคืนมีเลือด"),
    ),
    "Khmer": (
        ["មេប៉ូលិសជិះសេះ", "សេះនៅវាលខ្សាច់", "មេប៉ូលិសទៅវាលខ្សាច់", "មនុស្សជិះសេះ"],
        ["ខ្មោចនៅបន្ទប់ក្រោមដី", "ឈាមនៅពេលយប់", "ខ្មោចមកពេលយប់", "បន្ទប់ក្រោមដីមានឈាម"],
        ("មេប៉ូលិសនៅវាលខ្សាច់", "ខ្មោចមានឈាម"),
    ),
    "Lao": (
        ["ນາຍອຳເພີຂີ່ມ້າ", "ມ້າຢູ່ທະເລຊາຍ", "ນາຍອຳເພີໄປທະເລຊາຍ", "ຄົນຂີ່ມ້າ"],
        ["ຜີຢູ່ຫ້ອງໃຕ້ດິນ", "ເລືອດໃນກາງຄືນ", "ຜີມາກາງຄືນ", "ຫ້ອງໃຕ້ດິນມີເລືອດ"],
        ("ນາຍອຳເພີຢູ່ທະເລຊາຍ", "ຜີມີເລືອດ"),
    ),
    "English": (
        ["a sheriff rides", "a horse in the desert", "the sheriff's saloon", "desert horse rider"],
        ["a ghost in the cellar", "blood at night", "the ghost of night", "cellar of blood"],
        ("sheriffs riding horses", "nightly ghosts bloody cellars"),
    ),
}


@pytest.mark.parametrize("language", UNSPACED)
def test_characters_tell_texts_apart_in_languages_without_spaces(language):
    first, second, asked = UNSPACED[language]
    backbone = text_backbone("characters").fit([*first, *second])
    learnt, new = backbone.vectorize([*first, *second]), backbone.vectorize(asked)
    alike = nn.functional.normalize(new) @ nn.functional.normalize(learnt).T
    assert alike[0, :4].mean() > alike[0, 4:].mean() + 0.05, alike
    assert alike[1, 4:].mean() > alike[1, :4].mean() + 0.05, alike
    assert (backbone.known(asked) > 0.4).all()
    assert backbone.known(["★", "", "Ж"]).tolist() == [0, 0, 0]
    if language != "English":
        assert backbone.known(["queen"]).tolist() == [0]


def test_character_backbone_comes_back_from_config_and_state(rebuilt):
    texts = ["警长骑马，\n进了沙漠", "他在酒馆里遇见警长"]
    backbone = CharacterMLP(inputs=2).fit(texts).eval()
    again = rebuilt(backbone)
    assert torch.equal(again.vectorize(texts), backbone.vectorize(texts))
    assert backbone.name == "characters 2-64-128 pieces 5 words 20000"
    with pytest.raises(InputError, match="at least two distinct characters, got 2 texts without"):
        CharacterMLP().fit(["", "。"])

"""A text word by word: a word is its own vector, a place too, and nothing stands after the last."""

from __future__ import annotations

import pytest
import torch

from ssnas_core.backbones.factory import backbone_from_config, text_backbone
from ssnas_core.backbones.words import Words
from ssnas_core.common.errors import InputError


def test_words_are_told_apart_by_what_they_are_and_where_they_stand():
    rows = Words(64, 4).vectorize(["Red square, blue", "blue square red", "red"])
    assert rows.shape == (3, 4, 64) and rows.dtype == torch.float32
    assert torch.equal(rows[0, 1], rows[1, 1]) and torch.equal(rows[0, 0], rows[2, 0])
    assert not rows[0, 3].any() and not rows[2, 1:].any()
    places = rows[0, 0] - rows[1, 2], rows[1, 0] - rows[0, 2]  # red, blue: place 0 less place 2
    torch.testing.assert_close(*places)
    assert places[0].norm() > 1
    words = rows[0, :3] - torch.from_numpy(Words(64, 4)._places[:3])
    near = torch.nn.functional.cosine_similarity(words[:, None], words[None], -1)
    assert (near - torch.eye(3)).abs().max() < 0.4


def test_words_beyond_the_last_place_are_left_out_and_a_blank_text_is_nothing():
    backbone = Words(8, 2)
    rows = backbone.vectorize(["one two three", "one two", " ,"])
    assert torch.equal(rows[0], rows[1]) and not rows[2].any()
    assert backbone(rows)["0"].shape == (3, 8, 2)
    assert backbone.known(["one", " "]).tolist() == [1.0, 0.0]


def test_it_has_a_name_and_is_built_again_from_its_config():
    backbone = text_backbone("words")
    again = backbone_from_config(backbone.config())
    texts = ["how many red shapes are there"]
    assert torch.equal(again.vectorize(texts), backbone.vectorize(texts))
    assert again.fingerprint() == backbone.fingerprint() != Words(64, 16).fingerprint()
    for wrong in ((8, 0), (7, 4), (0, 4)):
        with pytest.raises(InputError, match="words need positions >= 1 and even channels >= 2"):
            Words(*wrong)

from typing import Any

import numpy as np
import pytest
import torch

from ssnas_core.backbones.base import TextBackbone
from ssnas_core.backbones.factory import backbone_from_config, text_backbone
from ssnas_core.backbones.segments import Segments, cut
from ssnas_core.common.errors import InputError
from ssnas_core.features.config import PrepareConfig
from ssnas_core.features.extract import pooled
from ssnas_core.features.prepare import prepare

TEXTS = [
    "a sheriff rides into the quiet town at noon",
    "the ghost of the old house screams at night again",
    "love and summer and a train to the sea",
    "two words",
    "",
]


CHINESE = "警长骑马进入 小镇在正午 时分鬼魂尖 叫着穿过城"


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("a b c d e f g h", ["a b", "c d", "e f", "g h"]),
        ("a b c d e", ["a b", "c", "d", "e"]),
        ("one  two", ["one", "two", "", ""]),
        ("", ["", "", "", ""]),
        (CHINESE.replace(" ", ""), CHINESE.split()),
        ("a\nb\tc  d", ["a", "b", "c", "d"]),
    ],
)  # fmt: skip
def test_texts_are_cut_into_even_pieces(text, pieces):
    assert [len(piece.split()) for piece in cut(text, 4)] == [len(p.split()) for p in pieces]
    assert cut(text, 4) == pieces
    assert "".join(cut(text, 4)).replace(" ", "") == "".join(text.split())


def test_each_position_is_the_backbone_on_a_piece():
    segments: Any = text_backbone("segments:maxout").fit(TEXTS).eval()
    alone = text_backbone("maxout").fit(TEXTS).eval()
    alone.load_state_dict(segments.part.state_dict())
    with torch.no_grad():
        taps = segments(segments.vectorize(TEXTS))
        for place in range(4):
            pieces = [cut(text, 4)[place] for text in TEXTS]
            for tap, value in alone(alone.vectorize(pieces)).items():
                assert torch.allclose(taps[tap][:, :, place], value[:, :, 0], atol=1e-6)
    assert {tap: value.shape for tap, value in taps.items()} == {
        tap: (5, width, 4) for tap, width in alone.channels.items()
    }
    assert pooled(taps["0"], 4).shape == (5, 4, 300)
    assert np.array_equal(segments.known(TEXTS), alone.known(TEXTS))


def test_config_and_weights_build_it_again(tmp_path):
    made = Segments("characters", 9).fit(TEXTS).eval()
    made.save_files(tmp_path)
    state = made.state_dict()
    again: Any = backbone_from_config(made.config(), tmp_path, state)
    again.load_state_dict(state)
    assert again.name == made.name and again.fingerprint() == made.fingerprint()
    assert again.vectorize(TEXTS).equal(made.vectorize(TEXTS))


def test_what_is_no_text_backbone_or_one_position_is_refused():
    for part, message in (("small", "text backbone"), ("", "text backbone")):
        with pytest.raises(InputError, match=message):
            text_backbone(f"segments:{part}")
    with pytest.raises(InputError, match="positions >= 2, got 1"):
        Segments("maxout", 1)


class Words(TextBackbone):
    """Counts of letters: a backbone of one's own."""

    name = "letters"
    channels = {"0": 2}

    def vectorize(self, texts):
        return torch.tensor([[t.count("a"), t.count("e")] for t in texts], dtype=torch.float32)

    def forward(self, vectorized):
        return {"0": vectorized[:, :, None]}


def test_own_backbone_in_pieces():
    taps = Segments(Words(), 2)(Segments(Words(), 2).vectorize(["a a e", "e e"]))
    assert taps["0"].tolist() == [[[2.0, 0.0], [0.0, 1.0]], [[0.0, 0.0], [1.0, 1.0]]]


def test_stored_texts_have_the_positions_of_maps(tiny_data, tiny_recipe, tmp_path):
    from dataclasses import replace

    config = replace(tiny_recipe.prepare, text="segments:maxout")
    assert isinstance(config, PrepareConfig)
    made = prepare(tiny_data, tmp_path, config)
    assert {made.store.positions[name] for name in made.store.channels} == {4}
    stored = made.store.clean(torch.arange(3))
    live = made.taps().eval()(made.live().clean(torch.arange(3)))
    for name, value in stored.items():
        assert torch.allclose(value, live[name], atol=2e-3, rtol=2e-3)

"""Features that are computed when drawn: what a store would hold, in views always anew."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from ssnas_core.backbones.image import SmallConvNet
from ssnas_core.backbones.text import MaxoutMLP
from ssnas_core.features import live as features_live
from ssnas_core.features.augment import JointAugment, TextAugment, apply_text
from ssnas_core.features.extract import Taps, extract_features
from ssnas_core.features.inputs import RawInputs
from ssnas_core.features.live import LiveFeatures, LiveInputs
from ssnas_core.objectives.contrastive import Contrastive
from ssnas_core.search.bilevel import BilevelConfig, bilevel
from ssnas_core.search.context import SearchContext
from ssnas_core.spaces.fusion.space import FusionConfig, FusionSpace

SIZE = (16, 12)
WORDS = "ship robot queen war love city train killer song desert horse winter".split()
ROWS = torch.tensor([4, 0, 7])


@pytest.fixture(scope="module", autouse=True)
def quick(one_thread):
    pass


@pytest.fixture(scope="module")
def inputs() -> RawInputs:
    random = np.random.default_rng(2)
    columns = {
        "image": random.integers(0, 256, (12, 3, *SIZE), dtype=np.uint8),
        "text": [" ".join(random.choice(WORDS, 9)) for _ in range(12)],
    }
    return RawInputs(columns, {"image": "image", "text": "text"}, "made")


@pytest.fixture
def taps(inputs) -> Taps:
    torch.manual_seed(0)
    net = SmallConvNet(SIZE, (4, 6))
    with torch.no_grad():
        net.train()(torch.rand(16, 3, *SIZE))  # running statistics of its own
    text = MaxoutMLP(inputs=5, hidden=3, outputs=4).fit(inputs.columns["text"])
    return Taps({"image": net, "text": text}, length=4)


@pytest.fixture
def live(inputs, taps, tmp_path) -> LiveInputs:
    return LiveInputs(inputs, dict(taps.backbones.items()), tmp_path, views=None)


def test_clean_features_are_those_of_a_store_to_half_rounding(inputs, taps, live, tmp_path):
    source = LiveFeatures(live, taps)
    backbones = dict(taps.backbones.items())
    store = extract_features(inputs, backbones, tmp_path / "store", views=1, length=4)
    found, wanted = source.clean(ROWS), store.clean(ROWS)
    assert list(found) == list(wanted) and source.channels == store.channels
    for name, value in found.items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, wanted[name], rtol=2**-10, atol=1e-5)


def test_views_are_features_of_live_views_and_follow_the_generator(taps, live):
    source = LiveFeatures(live, taps)
    drawn = source.augmented(ROWS, torch.Generator().manual_seed(1), count=3)
    with torch.no_grad():
        wanted = [
            taps.eval()(view) for view in live.augmented(ROWS, torch.Generator().manual_seed(1), 3)
        ]
    assert len(drawn) == 3
    for view, expected in zip(drawn, wanted, strict=True):
        assert view.keys() == expected.keys()
        assert all(torch.equal(view[name], expected[name]) for name in view)


@pytest.mark.parametrize("name", ["image_1", "text_2"])
def test_every_view_is_a_fresh_one(taps, live, name):
    source, generator = LiveFeatures(live, taps), torch.Generator().manual_seed(0)
    seen = [view[name] for _ in range(6) for view in source.augmented(ROWS, generator)]
    for row in range(len(ROWS)):
        assert len({tuple(view[row].flatten().tolist()) for view in seen}) > 8  # of 12


def test_text_views_without_stored_ones_are_vectorised_when_drawn(inputs, taps, live, tmp_path):
    assert live.texts["text"].shape == (12, 1, 5)  # the clean ones alone
    (view,) = live.augmented(ROWS, torch.Generator().manual_seed(0), count=1)
    assert view["text"].dtype == live.texts["text"].dtype and view["text"].shape == (3, 5)
    assert (view["text"] != live.clean(ROWS)["text"]).any(1).any()


def test_fresh_text_views_of_a_step_share_no_word_where_texts_are_divided(
    inputs, taps, tmp_path, monkeypatch
):
    seen = []
    monkeypatch.setattr(
        features_live, "apply_text", lambda *args: (seen.append(apply_text(*args)), seen[-1])[1]
    )
    how = JointAugment(text=TextAugment(parts=2, drop=0))
    live = LiveInputs(inputs, dict(taps.backbones.items()), tmp_path, views=None, augment=how)
    live.augmented(ROWS, torch.Generator().manual_seed(0), count=4)
    for row, *views in zip(ROWS.tolist(), *seen, strict=True):
        first, second, third, fourth = ({*view.split()} for view in views)
        assert first | second == third | fourth == {*inputs.columns["text"][row].split()}
        assert not first & second and not third & fourth and first not in (third, fourth)


def test_backbones_run_without_gradients_and_in_eval_mode_and_are_left_as_they_were(taps, live):
    source = LiveFeatures(live, taps)
    taps.train()
    taps.backbones["text"].eval()
    before = {name: value.clone() for name, value in taps.state_dict().items()}
    for value in (
        *source.clean(ROWS).values(),
        *source.augmented(ROWS, torch.Generator())[0].values(),
    ):
        assert not value.requires_grad and not value.is_inference()
    assert taps.training and taps.backbones["image"].training
    assert not any(module.training for module in taps.backbones["text"].modules())
    after = taps.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_modes_are_restored_after_an_error(taps, live):
    class Breaking(nn.Module):
        def forward(self, _):
            raise KeyError

    taps.backbones["text"] = Breaking()
    taps.train()
    with pytest.raises(KeyError):
        LiveFeatures(live, taps).clean(ROWS)
    assert all(module.training for module in taps.modules())


def test_search_can_draw_from_them(taps, live):
    source = LiveFeatures(live, taps)
    config = FusionConfig(channels=4, length=4, cells=1)
    context = SearchContext(train=torch.arange(8), dev=torch.arange(8, 12), seed=1)
    results = [
        bilevel(
            FusionSpace(source.channels, config), source, Contrastive(hidden=8, out=4), context,
            BilevelConfig(epochs=1, batch_size=4),
        )
        for _ in range(2)
    ]  # fmt: skip
    assert results[0] == results[1]
    assert all(torch.equal(results[0].state[n], results[1].state[n]) for n in results[0].state)

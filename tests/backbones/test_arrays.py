"""Facts about backbones of arrays: standardised as they are, or through maxout layers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ssnas_core.backbones.factory import array_backbone, open_backbone
from ssnas_core.backbones.text import MaxoutMLP
from ssnas_core.common.errors import InputError


def rows(*shape: int) -> np.ndarray:
    """Channels of different units, the second of them constant."""
    made = np.random.default_rng(0).normal(size=shape) * np.arange(1, shape[-1] + 1) * 100 + 7000
    made[..., 1] = 0.1
    return made.astype(np.float32)


@pytest.mark.parametrize("shape", [(20_000, 4), (50, 3, 4)])
def test_channels_of_train_rows_get_mean_0_and_deviation_1_and_constant_ones_stay(shape):
    some = rows(*shape)
    backbone = array_backbone("identity", shape[1:]).fit(some)
    values = backbone.vectorize(some)
    assert values.shape == shape and values.dtype == torch.float32
    flat = values.double().reshape(-1, 4)
    torch.testing.assert_close(flat.mean(0), torch.zeros(4).double(), atol=2e-5, rtol=0)
    deviations = flat.var(0, correction=0).sqrt().tolist()
    assert deviations == pytest.approx([1, 0, 1, 1], abs=1e-4)
    assert torch.equal(values[..., 1], torch.zeros(shape[:-1]))  # exactly
    other = some[:1].copy()
    other[..., 1] += 2
    moved = backbone.vectorize(other)[..., 1]
    assert moved.flatten().tolist() == pytest.approx([2] * moved.numel())  # scale 1


def test_other_rows_are_standardised_by_the_train_rows_and_left_untouched():
    backbone = array_backbone("identity", (2,)).fit([[0, 10], [2, 30]])
    given = np.array([[4, 20], [1, 0]], np.float32)
    before = given.copy()
    assert backbone.vectorize(given).tolist() == [[3, 0], [0, -2]]
    assert np.array_equal(given, before)
    assert backbone.vectorize(torch.tensor([[1, 20]])).tolist() == [[0, 0]]  # the mean row
    assert backbone.vectorize(np.zeros((0, 2))).shape == (0, 2)


def test_identity_puts_channels_before_positions():
    vectors = array_backbone("identity", (4,))
    assert vectors.channels == {"0": 4} and vectors.modality_kind == "array"
    values = torch.rand(5, 4)
    assert torch.equal(vectors(values)["0"], values.unsqueeze(2))
    positions = array_backbone("identity", (3, 4))
    values = torch.rand(5, 3, 4)
    tap = positions(values)["0"]
    assert tap.shape == (5, 4, 3) and torch.equal(tap[2, :, 1], values[2, 1])
    assert not vectors.learns and not list(vectors.parameters())


def test_maxout_has_the_layers_of_maxout_mlp():
    backbone = array_backbone("maxout", (6,)).eval()
    other = MaxoutMLP(inputs=6).eval()
    other.layers.load_state_dict(backbone.layers.state_dict())
    values = torch.randn(3, 6)
    taps, others = backbone(values), other(values)
    assert all(torch.equal(others[tap], value) for tap, value in taps.items())
    assert backbone.channels == {"0": 6, "1": 64, "2": 128} == other.channels
    assert backbone.learns


@pytest.mark.parametrize(
    ("spec", "shape"), [("identity", (4,)), ("identity", (3, 4)), ("maxout", (4,))]
)
def test_array_backbone_comes_back_from_config_and_state(spec, shape, rebuilt):
    some = rows(9, *shape)
    backbone = array_backbone(spec, shape).fit(some).eval()
    again = rebuilt(backbone)
    assert torch.equal(again.vectorize(some), backbone.vectorize(some))
    values = backbone.vectorize(some)
    taps = backbone(values)
    assert all(torch.equal(value, taps[tap]) for tap, value in again(values).items())


def test_shape_and_fitted_state_are_part_of_the_fingerprint():
    some = rows(9, 4)
    prints = {
        array_backbone("identity", (4,)).fingerprint(),
        array_backbone("identity", (4,)).fit(some).fingerprint(),
        array_backbone("identity", (4,)).fit(some[:5]).fingerprint(),
        array_backbone("identity", (3, 4)).fingerprint(),
    }
    assert len(prints) == 4


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (
            lambda: array_backbone("mlp", (3,)),
            "'identity', 'regions', 'maxout', or .* got 'mlp'",
        ),
        (lambda: array_backbone("maxout", (2, 3)), r"takes vectors \(C,\), got rows of shape \(2,"),
        (lambda: array_backbone("identity", (2, 3, 4)), r"\(C,\) or \(P, C\).*got \(2, 3, 4\)"),
        (lambda: array_backbone("identity", ()), r"\(C,\) or \(P, C\).*got \(\)"),
        (lambda: array_backbone("identity", (0,)), "all >= 1"),
        (lambda: array_backbone("identity", (3,)).vectorize(rows(2, 3)), "a fitted array backbone"),
        (lambda: array_backbone("identity", (3,)).fit(rows(2, 4)), r"\('N', 3\), got \(2, 4\)"),
        (lambda: array_backbone("identity", (3,)).fit(np.float32(1)), r"got \(\)"),
        (lambda: array_backbone("identity", (3,)).fit(rows(0, 3)), "at least one row"),
        (lambda: array_backbone("identity", (2,)).fit([[1, np.nan]]), "NaN or infinity"),
        (lambda: array_backbone("identity", (2,)).fit([[1, 1e300]]), "in float32's range"),
    ],
)
def test_unusable_requests_are_refused(ask, message):
    with pytest.raises(InputError, match=message):
        ask()


def test_regions_stay_as_they_are_and_rows_of_zeros_stay_none():
    regions = np.zeros((2, 3, 6), np.float32)
    regions[0, 0] = [7, -2, 0, 10, 20, 30]
    regions[1, :2] = [[1, 2, 3, 4, 5, 6], [0, 0, 9, 9, 12, 12]]
    backbone = array_backbone("regions", (3, 6)).fit(regions)
    assert backbone.channels == {"0": 4, "1": 2} and not backbone.learns
    taps = backbone(backbone.vectorize(regions))
    assert torch.equal(taps["0"].transpose(1, 2), torch.from_numpy(regions[..., 2:]))
    assert torch.equal(taps["1"].transpose(1, 2), torch.from_numpy(regions[..., :2]))
    for shape in ((6,), (3, 4)):
        with pytest.raises(InputError, match=r"takes arrays \(R, C \+ 4\), a box at the end"):
            array_backbone("regions", shape)
    with pytest.raises(
        InputError, match=r"got 3 and 4; set PrepareConfig.length .* to 3, or fill up"
    ):
        open_backbone("array", "regions", shape=(3, 6), positions=4)

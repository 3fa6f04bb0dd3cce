"""Do these modalities belong together: what fusion alone can tell."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from ssnas_core.common.errors import InputError
from ssnas_core.objectives.matching import Matching, MatchingPairs
from ssnas_core.spaces.fusion.space import FusionConfig
from ssnas_core.spaces.genotype import Genotype, Node
from ssnas_core.training.loop import TrainConfig, fit

SAMPLES = 256
CHANNELS = {"image_0": 4, "text_0": 4}
SIDE_BY_SIDE = Genotype("fusion", (Node("output", "Concat", ("image_0", "text_0")),))
MET = Genotype(
    "fusion",
    (Node("cell_0", "ConcatFC", ("image_0", "text_0")),
     Node("output", "Concat", ("cell_0",))),
)  # fmt: skip


class Plain:
    """Views that are the samples as they are."""

    def __init__(self, features: dict[str, Tensor]) -> None:
        self.features = features

    def clean(self, indices: Tensor) -> dict[str, Tensor]:
        return {name: value[indices] for name, value in self.features.items()}

    def augmented(self, indices, generator, count=2, *, part=slice(None)):
        return [self.clean(indices[part]) for _ in range(count)]


@pytest.fixture
def paired():
    """Modalities that share the sign of one number, and nothing else."""
    generator = torch.Generator().manual_seed(0)
    image, text = torch.randn(2, SAMPLES, 1, 4, generator=generator)
    text[:, :, 0] = text[:, :, 0].abs() * image[:, :, 0].sign()
    return Plain({"image_0": image, "text_0": text})


def network(genotype: Genotype) -> nn.Module:
    config = FusionConfig(channels=16, length=1, dropout=0.0, output="chosen")
    return config.open(CHANNELS, dict.fromkeys(CHANNELS, 1)).build(genotype)


def trained(genotype: Genotype, source) -> nn.Module:
    torch.manual_seed(0)
    encoder, objective = network(genotype), Matching()
    model = nn.Sequential(encoder, objective.head(encoder.width))
    config = TrainConfig(epochs=60, batch_size=64, learning_rate=1e-2)
    fit(model, source, objective, torch.arange(SAMPLES), config, seed=0)
    return model.eval()


def judged(model: nn.Module, source) -> tuple[float, float]:
    """The loss and how often the sample scores above its swapped one, of all samples."""
    rows, generator = torch.arange(SAMPLES), torch.Generator().manual_seed(1)
    with torch.no_grad():
        loss = float(Matching().loss(model, source, rows, generator))
    generator = torch.Generator().manual_seed(1)
    return loss, Matching().report(model, source, rows, generator)["matched"]


def test_loss_of_what_stands_side_by_side_is_never_below_chance(paired):
    for seed in range(20):
        torch.manual_seed(seed)
        encoder = network(SIDE_BY_SIDE).eval()
        head = Matching().head(encoder.width)
        for weight in head.parameters():
            nn.init.normal_(weight, std=3.0 ** (seed % 5 - 2))
        assert judged(nn.Sequential(encoder, head), paired)[0] >= math.log(2) - 1e-6
    assert judged(trained(SIDE_BY_SIDE, paired), paired)[0] >= math.log(2) - 1e-6


def test_a_cell_finds_what_the_modalities_share(paired):
    loss, matched = judged(trained(MET, paired), paired)
    assert loss < 0.55 and matched > 0.7


def test_loss_is_the_mean_over_both_kinds_by_hand():
    values = torch.arange(6.0).view(3, 1, 2)
    source = Plain({"image_0": values[:, :, :1], "text_0": values[:, :, 1:]})
    weights = torch.tensor([0.3, -0.5])

    class Model(nn.Module):
        def forward(self, features):
            joined = torch.cat([features["image_0"], features["text_0"]], -1)[:, 0]  # (N, 2)
            return (joined * weights).prod(1, keepdim=True)

    rows = torch.tensor([2, 0, 1])
    image, text = values[rows, 0, 0] * weights[0], values[rows, 0, 1] * weights[1]
    real, swapped = image * text, image.roll(1) * text
    wanted = (torch.log1p((-real).exp()).mean() + torch.log1p(swapped.exp()).mean()) / 2
    found = Matching().loss(Model(), source, rows, torch.Generator())
    torch.testing.assert_close(found, wanted)
    told = Matching().report(Model(), source, rows, torch.Generator())
    assert told == {"matched": pytest.approx(float((real > swapped).float().mean()))}


def test_three_modalities_are_swapped_in_turn():
    names = ("image_0", "text_0", "audio_0")
    seen: list[dict] = []

    class Model(nn.Module):
        def forward(self, features):
            seen.append(features)
            return torch.zeros(len(features["image_0"]), 1)

    source = Plain({name: torch.arange(4.0).view(4, 1, 1) for name in names})
    loss = Matching().loss(Model(), source, torch.arange(4), torch.Generator())
    assert float(loss) == pytest.approx(math.log(2))
    (rows,) = seen
    for place, name in enumerate(names):
        for group, values in enumerate(rows[name].flatten().chunk(4)):
            moved = [3, 0, 1, 2] if group == 1 + place else [0, 1, 2, 3]
            assert values.tolist() == moved


@pytest.mark.parametrize(
    ("names", "rows"), [(("image_0", "image_1"), 4), (("image_0", "text_0"), 1)]
)
def test_what_cannot_be_swapped_is_refused(names, rows):
    source = Plain({name: torch.zeros(4, 1, 2) for name in names})
    with pytest.raises(InputError, match="matching needs two modalities and two samples"):
        Matching().loss(nn.Identity(), source, torch.arange(rows), torch.Generator())


PICTURES = torch.tensor([0, 0, 1, 2, 2, 3])
LIKES = torch.randn(6, 6, generator=torch.Generator().manual_seed(5))  # of text and picture


class Asked(nn.Module):
    """Numbers of pairs, of which it keeps what it was asked for, and how."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.asked: list[tuple[list[tuple[int, int]], bool, bool]] = []

    def forward(self, features):
        text, picture = features["text_0"].flatten().long(), features["image_0"].flatten().long()
        pairs = list(zip(text.tolist(), picture.tolist(), strict=True))
        self.asked.append((pairs, self.training, torch.is_grad_enabled()))
        return self.weight * LIKES[text, picture][:, None]


def pairs_of(mined: int, **options):
    """The loss, and what a model was asked for: texts tried, pictures tried, and the pairs."""
    source = Plain({"image_0": torch.arange(6.0)[:, None], "text_0": torch.arange(6.0)[:, None]})
    objective = MatchingPairs(pictures=PICTURES, text="text", mined=mined, **options)
    model = Asked()
    loss = objective.loss(model, source, torch.arange(6), torch.Generator().manual_seed(0))
    return loss, model


def test_wrong_ones_are_the_most_liked_of_those_tried_and_never_of_the_own_picture():
    _, model = pairs_of(3)
    (texts, *how), (pictures, *again), (last, *learning) = model.asked
    assert how == again == [False, False] and learning == [True, True] and model.training
    for place in range(6):
        tried = texts[3 * place : 3 * place + 3]
        assert all(picture == place for _, picture in tried)
        best = max(tried, key=lambda pair: float(LIKES[pair]))
        assert last[6 + place] == best and PICTURES[best[0]] != PICTURES[place]
        tried = pictures[3 * place : 3 * place + 3]
        assert all(text == place for text, _ in tried)
        best = max(tried, key=lambda pair: float(LIKES[pair]))
        assert last[12 + place] == best and PICTURES[best[1]] != PICTURES[place]
    assert last[:6] == [(place, place) for place in range(6)]


@pytest.mark.parametrize("margin", [None, 0.2])
def test_loss_of_pairs_is_the_published_sum_by_hand(margin):
    loss, model = pairs_of(1, margin=margin)
    ((asked, *_),) = model.asked  # any wrong one will do: nothing is tried
    scores = [float(LIKES[pair]) for pair in asked]
    total = 0.0
    for place in range(6):
        own, text, picture = (1 / (1 + math.exp(-scores[6 * k + place])) for k in range(3))
        if margin is None:
            total -= 2 * math.log(own) + math.log(1 - text) + math.log(1 - picture)
        else:
            total += sum(max(0, margin - own + wrong) for wrong in (text, picture))
    assert float(loss.detach()) == pytest.approx(total / 6 / (1 if margin else 4), rel=1e-5)


def test_pairs_that_cannot_be_matched_are_refused():
    source = Plain({"image_0": torch.zeros(2, 1), "text_0": torch.zeros(2, 1)})
    objective = MatchingPairs(pictures=torch.zeros(2), text="text")
    with pytest.raises(InputError, match="at least two pictures in a batch, got one in 2 samples"):
        objective.loss(Asked(), source, torch.arange(2), torch.Generator())
    with pytest.raises(InputError, match="mined >= 1 and a margin > 0 or None, got 0 and None"):
        MatchingPairs(pictures=PICTURES, text="text", mined=0)

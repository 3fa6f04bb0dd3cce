"""The memory bank: a sample and its patches find its memory; others are drawn anew."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from ssnas_core.common.errors import InputError
from ssnas_core.objectives.memory_bank import MemoryBank
from ssnas_core.training.loop import TrainConfig, fit

SAMPLES = 12


@pytest.fixture
def source(memory_source):
    generator = torch.Generator().manual_seed(0)
    return memory_source({"image_0": torch.randn(SAMPLES, 4, generator=generator)})


class Named(nn.Module):
    """Takes the features of the one modality as embeddings."""

    def forward(self, features):
        return features["image_0"]


def model_of(objective: MemoryBank) -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(Named(), objective.head(4)).double()


def loss_of(model, objective, source, rows, seed=0):
    return objective.loss(model, source, torch.tensor(rows), torch.Generator().manual_seed(seed))


def nce(memory, vector, others, temperature) -> float:
    def similar(one, other):
        return math.exp(float(torch.cosine_similarity(one, other, 0)) / temperature)

    positive = similar(memory, vector)
    return -math.log(positive / (positive + sum(similar(other, vector) for other in others)))


def test_loss_and_memories_are_those_of_the_paper_written_as_loops(source):
    """With as many negatives as there are others, so that nothing hangs on who is drawn."""
    source.features["image_0"] = source.features["image_0"].double()
    objective = MemoryBank(out=3, samples=SAMPLES, negatives=SAMPLES, temperature=0.3)
    model, memories = model_of(objective), {}
    head = model[1]
    for step, rows in enumerate(([4, 0, 7], [1, 4], [0, 7, 2, 1])):
        loss = loss_of(model, objective, source, rows, step)
        generator = torch.Generator().manual_seed(step)
        first, second = source.augmented(torch.tensor(rows), generator, 2)
        vectors, losses = {}, []
        for place, row in enumerate(rows):
            one, other = (head.vector(view["image_0"][place]) for view in (first, second))
            v = head.vector(source.features["image_0"][row])
            vectors[row] = v.detach(), head.joined(torch.cat((one, other))).detach()
        present = {**{row: v for row, (v, _) in vectors.items()}, **memories}
        for row, (v, p) in vectors.items():
            others = [memory for name, memory in present.items() if name != row]
            losses.append(
                (nce(present[row], p, others, 0.3) + nce(present[row], v, others, 0.3)) / 2
            )
        assert float(loss.detach()) == pytest.approx(sum(losses) / len(losses))
        for row, (v, _) in vectors.items():
            memories[row] = v + memories[row] / 2 if row in memories else v
        for row in range(SAMPLES):
            expected = memories.get(row, torch.zeros(3, dtype=torch.float64))
            torch.testing.assert_close(head.bank[row], expected)


def test_equal_vectors_cost_log_of_all_that_are_told_apart(source):
    objective = MemoryBank(out=3, samples=SAMPLES, negatives=5)
    model = model_of(objective)
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
        model[1].vector.bias.fill_(1.0)
        model[1].joined.bias.fill_(1.0)
        model[1].bank[6:] = 2.0
    source.features["image_0"] = source.features["image_0"].double()
    # of five that are drawn none is of the batch, or it is of the batch and one's own to one of it
    losses = {
        round(math.exp(loss_of(model.eval(), objective, source, [0, 1], seed).item()), 3)
        for seed in range(20)
    }
    own = round(math.sqrt(6 * 5), 3)  # the mean of log 6 and log 5
    assert losses <= {6.0, own, 5.0} and len(losses) > 1


def test_others_are_drawn_anew_and_never_oneself():
    objective, bank = MemoryBank(out=2, negatives=4), torch.zeros(30, 2)
    bank[10:] = torch.arange(40.0).view(20, 2) + 1
    rows, drawn = torch.tensor([3, 12]), set()
    memory = torch.tensor([[-1.0, -1.0], [-2.0, -2.0]])
    for seed in range(40):
        others, own = objective._others(bank, rows, memory, torch.Generator().manual_seed(seed))
        assert others.shape == (4, 2) and own.shape == (2, 4)
        for place, (first, _) in enumerate(others.tolist()):
            assert own[:, place].tolist() == [first == -1, first == -2]
        assert len({tuple(other) for other in others.tolist()}) == 4
        drawn.add(tuple(others[:, 0].tolist()))
    assert len(drawn) > 30
    firsts = {first for others in drawn for first in others}
    assert firsts == {-1.0, -2.0, *(bank[10:, 0].tolist())} - {float(bank[12, 0])}


def test_judging_leaves_the_bank_alone_and_knows_whom_nobody_trained_on(source):
    objective = MemoryBank(out=3, samples=SAMPLES)
    model = nn.Sequential(Named(), objective.head(4))
    loss_of(model, objective, source, [0, 1, 2])
    before = model[1].bank.clone()
    model.eval()
    one, other = (loss_of(model, objective, source, [7, 8, 9]) for _ in range(2))
    assert torch.equal(before, model[1].bank) and torch.equal(one, other)
    assert torch.isfinite(one)
    assert objective.report(model, source, torch.arange(3), torch.Generator())["match"] <= 1
    assert torch.equal(before, model[1].bank)


def test_training_lowers_the_loss_on_samples_that_were_not_trained_on(memory_source):
    generator = torch.Generator().manual_seed(0)
    source = memory_source({"image_0": torch.randn(80, 8, generator=generator)})
    objective, losses = MemoryBank(out=8, samples=80), []
    for rate in (1e-9, 1e-2):  # the same bank is known to both
        torch.manual_seed(0)
        model = nn.Sequential(Named(), nn.Linear(8, 32), nn.Tanh(), objective.head(32))
        config = TrainConfig(epochs=20, batch_size=16, learning_rate=rate)
        fit(model, source, objective, torch.arange(64), config, seed=0)
        with torch.no_grad():
            losses.append(float(loss_of(model, objective, source, list(range(64, 80)))))
    assert losses[1] < losses[0] - 0.5


def test_bank_goes_on_from_a_checkpoint(source, killed, tmp_path):
    objective = MemoryBank(out=3, samples=SAMPLES)
    config = TrainConfig(epochs=4, batch_size=4)

    def trained(objective, **more):
        torch.manual_seed(1)
        model = nn.Sequential(Named(), MemoryBank(out=3, samples=SAMPLES).head(4))
        fit(model, source, objective, torch.arange(8), config, seed=3, **more)
        return model[1].bank

    whole, path = trained(objective), tmp_path / "fit.pt"
    with pytest.raises(killed.Kill):
        trained(killed(objective, 5), checkpoint=path)
    assert path.exists() and torch.equal(trained(objective, checkpoint=path), whole)


def test_sample_without_a_place_in_the_bank_is_refused(source):
    objective = MemoryBank(out=3, samples=8)
    model = nn.Sequential(Named(), objective.head(4))
    with pytest.raises(InputError, match=r"below 8, .* got 9; raise MemoryBank.samples"):
        loss_of(model, objective, source, [0, 9])


@pytest.mark.parametrize("wrong", [{"temperature": 0.0}, {"negatives": 0}, {"out": 0}])
def test_settings_that_are_no_loss_are_refused(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        MemoryBank(**wrong)

"""The training loop: it learns, follows its schedule, and survives being killed."""

from __future__ import annotations

import json
import math
import os

import pytest
import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from ssnas_core.common.errors import InputError
from ssnas_core.common.random import seeded
from ssnas_core.objectives.contrastive import Contrastive, nt_xent
from ssnas_core.objectives.hybrid import Hybrid
from ssnas_core.objectives.supervised import Supervised
from ssnas_core.training.checkpoints import load_checkpoint, save_checkpoint
from ssnas_core.training.loop import (
    TrainConfig,
    batches,
    fit,
    loss_of,
    mean_loss,
    parts_of,
    predict,
)

SAMPLES = 24
INDICES = torch.arange(SAMPLES)
LABELS = torch.randn(SAMPLES, 3, generator=torch.Generator().manual_seed(9)) > 0
SMALL = TrainConfig(epochs=3, batch_size=8, learning_rate=0.01)  # 3 steps an epoch


class Encoder(nn.Module):
    """Batch norm and dropout, so that buffers and torch's global generator matter."""

    def __init__(self, dropout: float = 0.3) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(dropout)
        )

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        return self.body(torch.cat((features["image_0"], features["text_0"]), 1))


def network(objective, seed: int = 0, **options) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(Encoder(**options), objective.head(8))


@pytest.fixture
def source(memory_source):
    """Signs of the first three numbers are the labels."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(SAMPLES, 3, generator=generator)
    signal = 2.0 * LABELS - 1
    return memory_source({"image_0": signal, "text_0": noise})


OBJECTIVES = {
    "contrastive": Contrastive(hidden=8, out=4),
    "supervised": Supervised(labels=LABELS),
    "hybrid": Hybrid(
        supervised=Supervised(labels=LABELS),
        labelled=INDICES[::3],
        contrastive=Contrastive(hidden=8, out=4),
    ),
}


@pytest.fixture(
    params=[
        "hybrid",  # of both others
        pytest.param("contrastive", marks=pytest.mark.thorough),
        pytest.param("supervised", marks=pytest.mark.thorough),
    ]
)
def objective(request):
    return OBJECTIVES[request.param]


def assert_same_weights(first: nn.Module, second: nn.Module) -> None:
    a, b = first.state_dict(), second.state_dict()
    assert a.keys() == b.keys()
    assert [name for name in a if not torch.equal(a[name], b[name])] == []


# --- what is learned


def test_loss_falls_and_the_classes_are_found_on_data_that_show_them(source):
    objective = Supervised(labels=LABELS)
    model = network(objective)
    config = TrainConfig(epochs=40, batch_size=8, learning_rate=0.02)
    history = fit(model, source, objective, INDICES, config, seed=0)
    assert history[-1]["loss"] < 0.5 * history[0]["loss"]
    assert torch.equal(predict(model, source, INDICES) > 0, LABELS)
    assert not model.training


def test_contrastive_loss_falls_below_that_of_collapse_and_is_reported_on(source):
    objective = Contrastive(hidden=8, out=4)
    model, config = network(objective), TrainConfig(epochs=30, batch_size=12, learning_rate=0.01)
    history = fit(model, source, objective, INDICES, config, seed=0)
    assert history[-1]["loss"] < 0.9 * min(history[0]["loss"], math.log(2 * 12 - 1))
    assert {"alignment", "uniformity", "effective_rank", "match"} < history[-1].keys()
    assert json.loads(json.dumps(history)) == history
    assert [entry["epoch"] for entry in history] == list(range(30))


def test_training_is_decided_by_its_seed_and_leaves_the_callers_randomness_alone(source, objective):
    models, histories = [], []
    for seed, outside in ((1, 10), (1, 11), (2, 10)):
        model = network(objective)
        torch.manual_seed(outside)
        state = torch.get_rng_state()
        histories.append(fit(model, source, objective, INDICES, SMALL, seed=seed))
        assert torch.equal(torch.get_rng_state(), state)
        models.append(model)
    assert_same_weights(models[0], models[1])
    assert histories[0] == histories[1] != histories[2]


def test_history_holds_the_mean_loss_of_each_epochs_steps(source, objective):
    losses = []

    class Spy:
        head, report = objective.head, objective.report

        def loss(self, *args):
            losses.append(objective.loss(*args))
            return losses[-1]

    history = fit(network(objective), source, Spy(), INDICES, SMALL, seed=0)
    assert len(losses) == 9
    for epoch, entry in enumerate(history):
        mean = sum(float(loss.detach()) for loss in losses[3 * epoch : 3 * epoch + 3]) / 3
        assert entry["loss"] == pytest.approx(mean, rel=1e-6)


# --- steps and schedule


def test_an_epochs_batches_are_whole_disjoint_and_in_random_order():
    indices = torch.arange(100, 123)
    generator = torch.Generator().manual_seed(0)
    drawn = [list(batches(indices, 5, generator)) for _ in range(2)]
    for epoch in drawn:
        assert [len(batch) for batch in epoch] == [5, 5, 5, 5]  # 3 of 23 are left out
        rows = torch.cat(epoch).tolist()
        assert len(set(rows)) == 20 and set(rows) <= set(indices.tolist())
        assert rows != sorted(rows)
    assert torch.cat(drawn[0]).tolist() != torch.cat(drawn[1]).tolist()


def test_every_epoch_has_an_order_views_and_dropout_of_its_own(source, objective):
    seen = []

    class Spy:
        head, report = objective.head, objective.report

        def loss(self, model, source, indices, generator):
            drawn = torch.get_rng_state(), generator.get_state()
            seen.append((tuple(indices.tolist()), *(tuple(s.tolist()) for s in drawn)))
            return objective.loss(model, source, indices, generator)

    fit(network(objective), source, Spy(), INDICES, SMALL, seed=0)
    for rows_or_state in zip(*seen, strict=True):
        assert len(set(rows_or_state)) == 9


@pytest.mark.parametrize(
    ("epochs", "min_steps", "batch", "wanted"),
    [(2, 0, 8, 2), (2, 6, 8, 2), (2, 7, 8, 3), (2, 20, 8, 7), (5, 3, 8, 5), (1, 4, 1000, 4)],
)
def test_few_samples_are_passed_over_more_often_until_min_steps(
    source, killed, epochs, min_steps, batch, wanted
):
    objective = killed(OBJECTIVES["supervised"])
    config = TrainConfig(epochs=epochs, min_steps=min_steps, batch_size=batch)
    history = fit(network(objective), source, objective, INDICES, config, seed=0)
    assert len(history) == wanted
    assert objective.losses == wanted * (SAMPLES // min(batch, SAMPLES)) >= min_steps


@pytest.fixture
def rates():
    """Learning rates of every optimiser step in the test."""
    seen: list[set[float]] = []
    hook = register_optimizer_step_pre_hook(
        lambda optimizer, *_: seen.append({group["lr"] for group in optimizer.param_groups})
    )
    yield seen
    hook.remove()


def closed_form(step: int, warm: int, total: int, peak: float) -> float:
    if step < warm:
        return peak * (step + 1) / warm
    return peak / 2 * (1 + math.cos(math.pi * (step - warm) / (total - warm)))


@pytest.mark.parametrize(("warmup", "warm"), [(0.0, 1), (0.25, 3), (0.5, 6)])
def test_rate_warms_up_linearly_and_falls_along_a_cosine(source, rates, warmup, warm):
    objective = OBJECTIVES["supervised"]
    config = TrainConfig(epochs=4, batch_size=8, learning_rate=0.1, warmup=warmup)
    fit(network(objective), source, objective, INDICES, config, seed=0)
    wanted = [closed_form(step, warm, 12, 0.1) for step in range(12)]
    assert [rate for (rate,) in rates] == pytest.approx(wanted)
    assert max(wanted) == pytest.approx(0.1) and wanted[-1] < 0.1 * 0.1


def test_decay_shrinks_matrices_alone_and_by_rate_times_decay(source, rates):
    class Flat:
        """A loss without slope: only decay moves the weights."""

        def head(self, width):
            return nn.Linear(width, 2)

        def loss(self, model, source, indices, generator):
            return 0.0 * model(source.clean(indices)).sum()

        def report(self, *_):
            return {}

    model = network(Flat())
    model[1].weight.requires_grad_(False)  # frozen: not even decay
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    config = TrainConfig(epochs=2, batch_size=8, learning_rate=0.1, weight_decay=0.5)
    fit(model, source, Flat(), INDICES, config, seed=0)
    factor = math.prod(1 - 0.5 * rate for (rate,) in rates)
    assert factor < 0.9
    decayed = "0.body.0.weight"
    for name, p in model.named_parameters():
        wanted = before[name] * (factor if name == decayed else 1)
        torch.testing.assert_close(p.detach(), wanted, rtol=1e-5, atol=0)


def test_predictions_are_of_clean_inputs_in_order_and_independent_of_the_batch(source):
    model = network(OBJECTIVES["supervised"])
    fit(model, source, OBJECTIVES["supervised"], INDICES, SMALL, seed=0)
    indices = torch.tensor([7, 3, 3, 20, 1])
    model.train()
    whole, parts = predict(model, source, indices), predict(model, source, indices, batch_size=2)
    torch.testing.assert_close(whole, parts)
    with torch.no_grad():
        for row, index in zip(whole, indices, strict=True):
            one = model(source.clean(index[None]))[0]
            torch.testing.assert_close(row, one)


def test_predictions_that_are_not_finite_are_refused(source):
    model = network(OBJECTIVES["supervised"])
    with torch.no_grad():
        model[1].bias[2] = float("nan")
    with pytest.raises(InputError, match="outputs are NaN or infinite; lower the learning rate"):
        predict(model, source, INDICES)


# --- the report after each epoch


def test_whole_history_is_reported_after_each_epoch_once_it_is_saved(source, objective, tmp_path):
    path, calls = tmp_path / "checkpoint.pt", []

    def on_epoch(history):
        saved = load_checkpoint(path)
        assert saved is not None and saved["history"] == history
        torch.rand(3)  # of the caller's chance
        calls.append(list(history))
        history.clear()

    model = network(objective)
    history = fit(
        model, source, objective, INDICES, SMALL, seed=0, checkpoint=path, on_epoch=on_epoch
    )
    assert calls == [history[:1], history[:2], history]
    silent = network(objective)
    assert fit(silent, source, objective, INDICES, SMALL, seed=0) == history
    assert_same_weights(model, silent)


def test_run_that_goes_on_reports_first_the_saved_history(source, objective, killed, tmp_path):
    path, calls = tmp_path / "checkpoint.pt", []
    for after in (7, 99, 99):
        dying = killed(objective, after)
        options = {"seed": 0, "checkpoint": path, "on_epoch": lambda h: calls.append(len(h))}
        try:
            fit(network(objective), source, dying, INDICES, SMALL, **options)
        except killed.Kill:
            calls.append("killed")
    assert calls == [1, 2, "killed", 2, 3, 3]


# --- killed and resumed


@pytest.mark.parametrize("after", range(9))
def test_run_killed_in_any_step_resumes_bit_identical(source, objective, killed, tmp_path, after):
    whole = network(objective)
    history = fit(whole, source, objective, INDICES, SMALL, seed=5)

    path = tmp_path / "checkpoint.pt"
    with pytest.raises(killed.Kill):
        dying = killed(objective, after=after)
        fit(network(objective), source, dying, INDICES, SMALL, seed=5, checkpoint=path)
    assert path.exists() == (after >= 3)

    torch.manual_seed(after)  # another process
    resumed, counted = network(objective), killed(objective)
    resumed_history = fit(resumed, source, counted, INDICES, SMALL, seed=5, checkpoint=path)
    assert_same_weights(whole, resumed)
    assert resumed_history == history
    assert counted.losses == 9 - after // 3 * 3  # whole epochs are not trained again


def test_run_killed_twice_resumes_bit_identical(source, objective, killed, tmp_path):
    whole = network(objective)
    history = fit(whole, source, objective, INDICES, SMALL, seed=5)
    for after in (4, 4):
        with pytest.raises(killed.Kill):
            fit(
                network(objective), source, killed(objective, after), INDICES, SMALL,
                seed=5, checkpoint=tmp_path / "checkpoint.pt",
            )  # fmt: skip
    resumed = network(objective)
    path = tmp_path / "checkpoint.pt"
    assert fit(resumed, source, objective, INDICES, SMALL, seed=5, checkpoint=path) == history
    assert_same_weights(whole, resumed)


def test_finished_run_is_returned_without_a_step_whatever_the_model_starts_from(
    source, objective, killed, tmp_path
):
    path = tmp_path / "checkpoint.pt"
    model = network(objective)
    history = fit(model, source, objective, INDICES, SMALL, seed=5, checkpoint=path)
    again, dead = network(objective, seed=99), killed(objective, after=0)
    assert fit(again, source, dead, INDICES, SMALL, seed=5, checkpoint=path) == history
    assert_same_weights(model, again)
    assert not again.training


# --- seeds


def draws(*seed: int) -> tuple[float, float]:
    with seeded(*seed) as generator:
        return float(torch.rand(())), float(torch.rand((), generator=generator))


def test_seeded_restores_the_callers_state_even_after_an_error():
    torch.manual_seed(3)
    state = torch.get_rng_state()
    draws(1)
    assert torch.equal(torch.get_rng_state(), state)
    with pytest.raises(KeyError), seeded(1):
        torch.rand(())
        raise KeyError
    assert torch.equal(torch.get_rng_state(), state)


def test_seeded_draws_depend_on_every_number_of_the_seed_and_on_nothing_else():
    torch.manual_seed(3)
    first = draws(1, 2)
    torch.manual_seed(4)
    assert draws(1, 2) == first
    others = [draws(*seed) for seed in ((2, 1), (1, 3), (0, 2), (1, 2, 3), (2**40 + 1, 2))]
    assert len({first, *others}) == 6
    assert first[0] != first[1]  # two streams, not one twice


@pytest.mark.parametrize(("seed", "got"), [((-1,), "-1"), ((3, -2), "-2"), ((0.5,), "0.5")])
def test_seed_that_is_no_whole_number_from_0_on_is_refused(seed, got):
    with pytest.raises(InputError, match=f"seed must be a whole number >= 0, got {got}"):
        draws(*seed)


def test_training_with_a_negative_seed_is_refused(source, objective):
    with pytest.raises(InputError, match="seed must be a whole number >= 0, got -1"):
        fit(network(objective), source, objective, INDICES, SMALL, seed=-1)


# --- what goes wrong


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_loss_that_is_not_finite_is_refused_and_the_last_whole_epoch_kept(
    source, objective, tmp_path, value
):
    class Breaking:
        head, report = objective.head, objective.report
        calls = 0

        def loss(self, *args):
            self.calls += 1
            return objective.loss(*args) * (value if self.calls == 5 else 1)

    path = tmp_path / "checkpoint.pt"
    wanted = r"loss became (nan|inf) in epoch 1; lower the learning"
    with pytest.raises(InputError, match=wanted) as caught:
        fit(network(objective), source, Breaking(), INDICES, SMALL, seed=5)
    assert str(caught.value).endswith("NaN in the features.")  # and nothing is said to be kept
    with pytest.raises(InputError, match=rf"{wanted}.* An earlier epoch is kept in .*point\.pt\."):
        fit(network(objective), source, Breaking(), INDICES, SMALL, seed=5, checkpoint=path)
    kept = load_checkpoint(path)
    assert kept is not None and len(kept["history"]) == 1
    assert all(bool(v.isfinite().all()) for v in kept["model"].values())


def test_weights_broken_by_an_epochs_last_step_are_never_kept(source, objective, tmp_path):
    class Exploding:
        """Finite losses, but the gradient of the sixth is not."""

        head, report = objective.head, objective.report
        calls = 0

        def loss(self, model, *args):
            self.calls += 1
            loss = objective.loss(model, *args)
            if self.calls == 6:
                loss.register_hook(lambda grad: grad * float("nan"))
            return loss

    path = tmp_path / "checkpoint.pt"
    with pytest.raises(InputError, match="weights became NaN or infinite in epoch 1"):
        fit(network(objective), source, Exploding(), INDICES, SMALL, seed=5, checkpoint=path)
    kept = load_checkpoint(path)
    assert kept is not None and len(kept["history"]) == 1
    assert all(bool(v.isfinite().all()) for v in kept["model"].values())


def test_fewer_than_two_samples_are_refused(source, objective):
    with pytest.raises(InputError, match="at least two samples, got 1"):
        fit(network(objective), source, objective, INDICES[:1], SMALL, seed=0)


@pytest.mark.parametrize(
    ("change", "got"),
    [
        ({"epochs": 0}, "epochs must be >= 1, got 0"),
        ({"batch_size": 1}, "batch_size must be >= 2, got 1"),
        ({"learning_rate": 0.0}, "learning_rate must be > 0, got 0.0"),
        ({"learning_rate": float("nan")}, "learning_rate must be > 0, got nan"),
    ],
)
def test_settings_that_cannot_train_are_refused(change, got):
    with pytest.raises(InputError, match=rf"TrainConfig\.{got}"):
        TrainConfig(**change)


class Payload:
    """Unpickling it makes a folder."""

    def __init__(self, folder) -> None:
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


def test_pickled_object_in_a_checkpoint_is_refused_without_being_executed(
    source, objective, tmp_path
):
    path, folder = tmp_path / "checkpoint.pt", tmp_path / "executed"
    torch.save({"model": Payload(folder), "history": "[]"}, path)
    with pytest.raises(InputError, match=r"checkpoint\.pt is not a usable checkpoint") as caught:
        fit(network(objective), source, objective, INDICES, SMALL, seed=0, checkpoint=path)
    assert not folder.exists()
    assert "\n" not in str(caught.value)
    torch.load(path, weights_only=False)
    assert folder.exists()  # it would have been executed


def truncate(path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


BROKEN = {
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("genotype"),
    "truncated": truncate,
    "a list": lambda path: torch.save([1, 2], path),
    "without history": lambda path: torch.save({"model": {}}, path),
    "history that is not JSON": lambda path: torch.save({"history": "[1"}, path),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_checkpoint_is_refused_in_one_line_that_says_what_to_do(
    source, objective, tmp_path, case
):
    path = tmp_path / "checkpoint.pt"
    fit(network(objective), source, objective, INDICES, SMALL, seed=0, checkpoint=path)
    BROKEN[case](path)
    with pytest.raises(InputError, match=r"not a usable checkpoint .*; delete it\.$") as caught:
        fit(network(objective), source, objective, INDICES, SMALL, seed=0, checkpoint=path)
    assert "\n" not in str(caught.value)


def test_checkpoint_of_another_model_is_refused(source, objective, tmp_path):
    path = tmp_path / "checkpoint.pt"
    config = SMALL
    foreign = nn.Linear(2, 2)
    parts = {
        "other shapes": {"model": foreign, "optimizer": torch.optim.AdamW(foreign.parameters())},
        "no optimiser": {"model": network(objective)},
    }
    settings = repr((0, SMALL, SAMPLES))
    for part in parts.values():
        save_checkpoint(path, part, [], settings=settings)
        with pytest.raises(InputError, match="checkpoint of another model .*delete it or use"):
            fit(network(objective), source, objective, INDICES, config, seed=0, checkpoint=path)
    torch.save({"model": 3, "optimizer": {}, "history": "[]", "settings": settings}, path)
    with pytest.raises(InputError, match="checkpoint of another model"):
        fit(network(objective), source, objective, INDICES, config, seed=0, checkpoint=path)


OTHER_RUNS = {
    "seed": {"seed": 6},
    "configuration": {"config": TrainConfig(epochs=4, batch_size=8, learning_rate=0.01)},
    "number of samples": {"indices": INDICES[:-1]},
}


@pytest.mark.parametrize("case", OTHER_RUNS)
def test_checkpoint_of_another_run_of_the_same_shapes_is_refused(source, objective, tmp_path, case):
    path, given = tmp_path / "checkpoint.pt", {"indices": INDICES, "config": SMALL, "seed": 5}
    model = network(objective)
    fit(model, source, objective, checkpoint=path, **given)
    before = path.read_bytes()
    other, untouched = network(objective), network(objective)
    with pytest.raises(InputError, match=r"point\.pt is a checkpoint of another run: expected \("):
        fit(other, source, objective, checkpoint=path, **{**given, **OTHER_RUNS[case]})
    assert_same_weights(other, untouched)
    assert path.read_bytes() == before


def test_checkpoint_that_does_not_say_of_which_run_it_is_is_refused(source, objective, tmp_path):
    path = tmp_path / "checkpoint.pt"
    fit(network(objective), source, objective, INDICES, SMALL, seed=5, checkpoint=path)
    saved = torch.load(path, weights_only=True)
    del saved["settings"]
    torch.save(saved, path)
    with pytest.raises(InputError, match="got one that does not say; delete it or use another"):
        fit(network(objective), source, objective, INDICES, SMALL, seed=5, checkpoint=path)


# --- precision


@pytest.mark.parametrize("name", OBJECTIVES)
def test_bfloat16_trains_to_nearly_the_losses_of_float32(name, source):
    histories = {}
    for precision in ("float32", "bfloat16"):
        model = network(OBJECTIVES[name])
        histories[precision] = fit(
            model, source, OBJECTIVES[name], INDICES, SMALL, seed=1, precision=precision
        )
        assert {p.dtype for p in model.parameters()} == {torch.float32}
    exact, rounded = ([entry["loss"] for entry in history] for history in histories.values())
    assert rounded != exact
    assert rounded == pytest.approx(exact, rel=0.05)


def test_bfloat16_is_of_the_network_and_not_of_the_loss(source):
    """The loss is that of the rounded projections, computed in float32."""
    goal = OBJECTIVES["contrastive"]
    model = network(goal, dropout=0.0)
    draw = torch.Generator().manual_seed(3)
    loss = loss_of(model, goal, "bfloat16")(source, INDICES, draw)
    first, second = source.augmented(INDICES, torch.Generator().manual_seed(3), 2)
    with torch.autocast("cpu", torch.bfloat16):
        rows = model({name: torch.cat((first[name], second[name])) for name in first})
    assert rows.dtype == torch.bfloat16
    assert torch.equal(loss, nt_xent(*rows.float().chunk(2), temperature=goal.temperature))


def test_checkpoint_of_another_precision_is_refused(source, tmp_path):
    goal, options = OBJECTIVES["contrastive"], {"seed": 1, "checkpoint": tmp_path / "kept.pt"}
    fit(network(goal), source, goal, INDICES, SMALL, **options)
    with pytest.raises(InputError, match="expected .*'bfloat16'.*, got"):
        fit(network(goal), source, goal, INDICES, SMALL, **options, precision="bfloat16")


@pytest.mark.parametrize("name", ("float16", "half", ""))
def test_other_precisions_are_refused(name, source):
    goal = OBJECTIVES["contrastive"]
    with pytest.raises(InputError, match=f"precision must be float32 or bfloat16, got '{name}'"):
        fit(network(goal), source, goal, INDICES, SMALL, seed=1, precision=name)


@pytest.mark.parametrize(
    ("samples", "size", "sizes"),
    [
        (192, 96, [96, 96]), (191, 96, [96, 95]), (97, 96, [49, 48]), (96, 96, [96]),
        (2, 96, [2]), (5, 2, [3, 2]), (3, 2, [3]),
    ],
)  # fmt: skip
def test_every_sample_is_judged_and_counts_once(samples, size, sizes):
    rows = torch.arange(samples) * 10
    parts = parts_of(rows, size)
    assert torch.equal(torch.cat(parts), rows)
    assert [len(part) for part in parts] == sizes
    judged = mean_loss(lambda source, one, generator: one.double().mean(), None, parts, None)
    assert float(judged) == pytest.approx(float(rows.double().mean()))

"""Search by gates: a step computes one operation of each choice (ProxylessNAS, MMnas).

The weights w learn on `train` along one path: of each choice, one option is drawn from
p = softmax(a), and no other is computed. So what is not drawn gets no gradient and stays as
it is, and a step of the supernet costs what a step of one architecture does. The logits a
learn on `dev`, along a drawn path too, but with a gate g_k before each option's output o_k:

    out = sum_k g_k o_k,  g one-hot,    dL/dg_k = <dL/dout, o_k>,
    dL/da_i = sum_j dL/dg_j p_j (delta_ij - p_i)        (arXiv:1812.00332, eq. 4).

That asks what each option would have added to the path. All options are so computed ("full",
MMnas, arXiv:2004.12070, sec. 3.3), or two that are drawn by p ("two", ProxylessNAS, sec. 3.2.1),
whose share of p is kept: what the one gains, the other loses.

Any supernet can be searched so whose choices are weighed by `relax`; what is not drawn is left
out of the computation where the supernet does so, as those of encoder and decoder and of
convolutional cells do. Deviations
from MMnas's code: options that are not drawn are truly frozen, where Adam moves them on there;
the steps of the logits are counted over all epochs; and where MMnas's code has 3 epochs of
rising rates and 20 of fixed logits among 100, here they are shares of the epochs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from ssnas_core.common.bars import progress_bar
from ssnas_core.common.distributed import average_gradients, broadcast_parameters, join_norms
from ssnas_core.common.errors import InputError
from ssnas_core.common.random import seeded
from ssnas_core.common.typed import check_fields
from ssnas_core.objectives.base import Objective, Source
from ssnas_core.search.context import SearchContext
from ssnas_core.search.stable import check_samples, drawing, straight_through
from ssnas_core.spaces.base import GradientSpace
from ssnas_core.spaces.genotype import SearchResult
from ssnas_core.training.checkpoints import keep_epoch, resume, settings_of
from ssnas_core.training.loop import batches, cycled, finite, join, keep_freed_memory, loss_of

FAVOUR = 1.0  # logit of a prior's options; the others start at its negative
RISING = 0.03  # share of the epochs in which the weights' rate rises
RARE = 1e-12  # added to probabilities, so that two options can be drawn of any choice


@dataclass(frozen=True, kw_only=True)
class GatesConfig:
    """Search by gates (MMnas). Defaults: MMnas's search for VQA.

    Args:
        epochs: passes over `train`.
        min_steps: at least so many weight steps, by more epochs where samples are few.
        batch_size: samples in a step of either level.
        learning_rate: of the weights, by Adam with betas 0.9 and 0.98; it rises epoch by epoch
            over the first 3 % of them.
        max_norm: the weights' gradient is scaled down to this norm.
        warmup: share of the epochs, from the first, in which the logits stay as they are.
        every: an architecture step after each so many weight steps.
        arch_learning_rate: of the logits, by Adam with betas 0 and 0.999.
        options: how many options of a choice an architecture step computes: "full" or "two".
        prior: name of the architecture to start from, as "MMnas prior"; the logits of its
            options start at 1, and all others at -1.
    """

    needs: ClassVar[tuple[str, ...]] = ("supernet", "derive")

    epochs: int = 100
    min_steps: int = 0
    batch_size: int = 64
    learning_rate: float = 4e-4
    max_norm: float = 1.0
    warmup: float = 0.2
    every: int = 5
    arch_learning_rate: float = 0.1
    options: Literal["full", "two"] = "full"
    prior: str | None = None

    def __post_init__(self) -> None:
        least = {"epochs": 1, "min_steps": 0, "batch_size": 2, "every": 1}
        check_fields(self, "learning_rate", "arch_learning_rate", "max_norm", **least)
        if not 0 <= self.warmup < 1:
            raise InputError(f"GatesConfig.warmup must be in [0, 1), got {self.warmup}.")

    def search(
        self, space: GradientSpace, source: Source, objective: Objective, context: SearchContext
    ) -> SearchResult:
        """`gates` with this configuration."""
        return gates(space, source, objective, context, self)

    def as_long_as(self, samples: int) -> Self:
        """Return the same, with at least as many weight steps as on `samples` train samples."""
        least = self.epochs * (samples // min(self.batch_size, samples))
        return replace(self, min_steps=max(self.min_steps, least))

    def steps(self, history: Sequence[Mapping[str, Any]], train: int, dev: int) -> int:
        """Return how many steps, of both levels, a search of that history took."""
        return sum(entry.get("steps", 0) for entry in history)

    def rate(self, epoch: int, epochs: int) -> float:
        """Return the rate of the weights in an epoch, from 1 on."""
        return self.learning_rate * min(1.0, epoch / (round(RISING * epochs) + 1))


def one_path(scores: Tensor, chance: Generator) -> Tensor:
    """Return one option of each choice, drawn from the softmax of scores (..., O), one-hot."""
    shares = scores.detach().softmax(-1).cpu()
    drawn = torch.multinomial(shares.view(-1, shares.shape[-1]), 1, generator=chance)
    return F.one_hot(drawn.view(shares.shape[:-1]), shares.shape[-1]).to(scores)


class Gates:
    """A supernet with a head, and steps of its weights and of its logits along drawn paths.

    Raises:
        InputError: the choices cannot be sampled, or the space has no architecture of the
            prior's name.
    """

    def __init__(
        self,
        space: GradientSpace,
        source: Source,
        objective: Objective,
        context: SearchContext,
        config: GatesConfig,
    ) -> None:
        self.space: Any = space
        self.source, self.config = source, config
        with seeded(context.seed, 0):
            self.supernet: Any = space.supernet()
            self.model = join(self.supernet, self.supernet, objective).to(context.device)
        check_samples(self.supernet)
        self.named: dict[str, Tensor] = dict(self.supernet.logits.items())  # each (..., O)
        if config.prior is not None:
            self._start(config.prior)
        leaves = {id(one) for one in self.named.values()}
        learning = [p for p in self.model.parameters() if p.requires_grad]
        self.logits = [p for p in learning if id(p) in leaves]
        self.weights = [p for p in learning if id(p) not in leaves]
        self.weight_optimizer = torch.optim.Adam(
            self.weights, lr=config.learning_rate, betas=(0.9, 0.98), eps=1e-9, fused=True
        )
        self.logit_optimizer = torch.optim.Adam(
            self.logits, lr=config.arch_learning_rate, betas=(0.0, 0.999), fused=True
        )
        join_norms(self.model)
        broadcast_parameters(self.model)
        self.parts = {
            "model": self.model,
            "weights": self.weight_optimizer,
            "logits": self.logit_optimizer,
        }
        self.loss = loss_of(self.model, objective, context.precision)

    def _start(self, prior: str) -> None:
        """Give the logits the values that they have at the start from a prior."""
        named, one_hot = (getattr(self.space, name, None) for name in ("named", "one_hot"))
        if named is None or one_hot is None:
            raise InputError(
                f"prior={prior!r} needs a space that has architectures by name, as encdec, got "
                f"{type(self.space).__name__}; leave prior out."
            )
        with torch.no_grad():
            for name, favoured in one_hot(named(prior), 2 * FAVOUR).items():
                self.named[name].copy_(favoured - FAVOUR)

    def step_weights(self, rows: Tensor, rate: float, generator: Generator) -> Tensor:
        """Move the weights of one path down the gradient of its loss on train; return the loss.

        Args:
            rows: (N,) train samples.
            rate: the learning rate.
            generator: of the path, views and dropout.
        """
        self._learn(weights=True)
        self.weight_optimizer.param_groups[0]["lr"] = rate
        self.weight_optimizer.zero_grad(set_to_none=True)
        with drawing(self.supernet, one_path, generator):
            loss = self.loss(self.source, rows, generator)
        loss.backward()
        average_gradients(self.weights)
        nn.utils.clip_grad_norm_(self.weights, self.config.max_norm)
        self._freeze()
        self.weight_optimizer.step()
        return loss.detach()

    def _freeze(self) -> None:
        """Leave weights without any gradient out of the step: Adam would move them on."""
        moved = [weight for weight in self.weights if weight.grad is not None]
        still = torch.stack([weight.grad.count_nonzero() for weight in moved]) == 0  # type: ignore[union-attr]
        for weight, unused in zip(moved, still.tolist(), strict=True):
            if unused:
                weight.grad = None

    def step_logits(self, rows: Tensor, generator: Generator) -> Tensor:
        """Move the logits down the gradient of their gates on dev; return the loss of the path.

        Args:
            rows: (N,) dev samples.
            generator: of the path, views and dropout.
        """
        self._learn(weights=False)
        self.logit_optimizer.zero_grad(set_to_none=True)
        pairs: dict[str, Tensor] = {}  # (..., 2), of each choice the options that are drawn

        def full(scores: Tensor, chance: Generator) -> Tensor:
            return straight_through(one_path(scores, chance), scores.softmax(-1))

        def two(scores: Tensor, chance: Generator) -> Tensor:
            name = next((name for name, leaf in self.named.items() if leaf is scores), None)
            if name is None:
                raise InputError(
                    "options='two' keeps what two options have of a choice's probability, and "
                    f"{type(self.supernet).__name__} chooses by sums of logits; use "
                    "options='full'."
                )
            shares = scores.detach().softmax(-1).cpu().flatten(0, -2) + RARE
            pair = torch.multinomial(shares, 2, generator=chance)
            pairs[name] = pair = pair.view(*scores.shape[:-1], 2).to(scores.device)
            scored = scores.gather(-1, pair)
            gates = straight_through(one_path(scored, chance), scored.softmax(-1))
            return torch.zeros_like(scores).scatter(-1, pair, gates)

        with drawing(self.supernet, full if self.config.options == "full" else two, generator):
            loss = self.loss(self.source, rows, generator)
        loss.backward()
        average_gradients(self.logits)
        before = {name: self.named[name].detach().gather(-1, pair) for name, pair in pairs.items()}
        self.logit_optimizer.step()
        with torch.no_grad():
            for name, pair in pairs.items():
                logits = self.named[name]
                risen = logits.gather(-1, pair).logsumexp(-1, keepdim=True)
                risen = risen - before[name].logsumexp(-1, keepdim=True)
                logits.scatter_add_(-1, pair, -risen.expand(pair.shape))
        return loss.detach()

    def _learn(self, *, weights: bool) -> None:
        """Let the weights have gradients, or the logits."""
        for leaves, on in ((self.weights, weights), (self.logits, not weights)):
            for leaf in leaves:
                leaf.requires_grad_(on)

    def snapshot(self) -> dict[str, Any]:
        """Return every logit, and the genotype that they stand for, as JSON values."""
        logits = {name: value.detach().tolist() for name, value in self.named.items()}
        return {"logits": logits, "genotype": str(self.space.derive(self.named))}


def gates(
    space: GradientSpace,
    source: Source,
    objective: Objective,
    context: SearchContext,
    config: GatesConfig | None = None,
) -> SearchResult:
    """Search `space` by gates.

    Where torch.distributed has a process group, all its processes are to call
    this with the same arguments: they search together, and divide each batch.

    Args:
        space: gives the supernet and derives genotypes from its logits.
        source: views of the samples.
        objective: the loss of both levels.
        context: `train` for the weights, `dev` for the logits, seed, device and files.
        config: optimisers and schedules.

    Returns:
        The genotype derived at the end; a history with, per epoch (entry 0 is the start),
        `train_loss` and `arch_loss` (of the drawn paths; the latter where the logits moved),
        `steps` of both levels, every logit, the derived genotype, and the objective's report on
        dev; and the supernet's state.

    Raises:
        InputError: fewer than two samples in a part, a loss that is not finite, a supernet whose
            choices cannot be sampled, no such prior, or a checkpoint of another space, seed,
            configuration or number of samples.
    """
    keep_freed_memory()
    config = config or GatesConfig()
    train, dev, checkpoint = context.train, context.dev, context.checkpoint
    if min(len(train), len(dev)) < 2:
        raise InputError(
            f"a search by gates needs two samples in each part, got {len(train)} train and "
            f"{len(dev)} dev; give more samples (a search with labels: a larger label ratio)."
        )
    searched = Gates(space, source, objective, context, config)
    size, dev_size = (min(config.batch_size, len(part)) for part in (train, dev))
    in_epoch = len(train) // size  # weight steps
    epochs = max(config.epochs, math.ceil(config.min_steps / in_epoch))
    frozen = round(config.warmup * epochs)  # epochs in which the logits stay
    settings = settings_of(context.seed, config, len(train), len(dev), precision=context.precision)
    history = resume(checkpoint, searched.parts, settings, context.on_epoch)
    history = history or [{"epoch": 0, **searched.snapshot()}]
    done = (len(history) - 1) * in_epoch
    total = epochs * in_epoch
    with progress_bar(context.progress, total, "step", initial=done, leave=False) as bar:
        for epoch in range(len(history), epochs + 1):
            with seeded(context.seed, epoch, apart=True) as generator:
                searched.model.train()
                losses: dict[str, list[Tensor]] = {"train_loss": [], "arch_loss": []}
                dev_again = cycled(dev, dev_size, generator)
                rate = config.rate(epoch, epochs)
                for step, rows in enumerate(
                    batches(train, size, generator), (epoch - 1) * in_epoch + 1
                ):
                    losses["train_loss"].append(searched.step_weights(rows, rate, generator))
                    if epoch > frozen and step % config.every == 0:
                        loss = searched.step_logits(next(dev_again), generator)
                        losses["arch_loss"].append(loss)
                    bar.update()
                means = {
                    name: finite(torch.stack(taken).mean(), epoch, searched.model, checkpoint)
                    for name, taken in losses.items()
                    if taken
                }
                searched.model.eval()
                report = objective.report(searched.model, source, dev[:256], generator)
            steps = sum(len(taken) for taken in losses.values())
            entry = {"epoch": epoch, "steps": steps, **means, **report, **searched.snapshot()}
            history.append(entry)
            bar.set_postfix(loss=f"{entry['train_loss']:.3f}")
            keep_epoch(checkpoint, searched.parts, history, settings, context.on_epoch)
    state = {name: value.detach().cpu() for name, value in searched.supernet.state_dict().items()}
    return SearchResult(space.derive(searched.named), tuple(history), state)

"""A memory of every sample, which its picture and its patches have to find (PIRL, CSNAS).

PIRL (arXiv:1912.01991) as CSNAS (arXiv:2102.10557) searches by it. The head makes of a sample's
embedding f(I) a vector v, and of those of two patches another one, p. With the memory m_i of
sample i,

    loss_i = (NCE(m_i, p) + NCE(m_i, v)) / 2,

    NCE(m, z) = -log(exp(cos(m, z) / tau) / (exp(cos(m, z) / tau) + sum_n exp(cos(m_n, z) / tau)))

over memories m_n of other samples. After the step v joins the memory: m_i <- v + m_i / 2, of which
the length does not matter.

Deviations from CSNAS's released code:

- Other samples are drawn anew in each step, one set for the batch; there it is one set for all
  steps.
- A sample's memory begins as its first v, not with a pass of the untrained network over all.
- Patches are two augmented views; there one is the image itself, and the other a flipped or grey
  one. As there, nothing is solved of a jigsaw.
- It can judge samples that were never trained on: those remember their present v.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssnas_core.common.distributed import all_gather, at_least_float32, share
from ssnas_core.common.errors import InputError
from ssnas_core.common.typed import check_fields
from ssnas_core.objectives.base import Source, drawn


class _Head(nn.Module):
    """v of samples and p of their patches, and the memory of all."""

    def __init__(self, width: int, out: int, samples: int) -> None:
        super().__init__()
        self.vector = nn.Linear(width, out)
        self.joined = nn.Linear(2 * out, out)
        self.register_buffer("bank", torch.zeros(samples, out))  # 0 for who was not seen

    def forward(self, embeddings: Tensor) -> tuple[Tensor, Tensor]:
        """Return v and p (2N, D) of embeddings (3N, width) of samples and two patches; the bank."""
        v, first, second = self.vector(embeddings).chunk(3)
        return torch.cat((v, self.joined(torch.cat((first, second), 1)))), self.get_buffer("bank")


@dataclass(frozen=True, kw_only=True)
class MemoryBank:
    """Find one's memory among others', by oneself and by two patches: needs no labels.

    Three rows a sample go through the network. Equal vectors have the loss log(1 + K) nats for K
    other samples.

    Args:
        temperature: tau of the losses.
        negatives: K, others that are drawn, of those that were seen; fewer where fewer were.
        out: D, width of the vectors.
        samples: numbers of samples that have a place in the bank, from 0.

    Raises:
        InputError: a field <= 0.

    Examples:
        >>> objective = MemoryBank()
        >>> model = nn.Sequential(encoder, objective.head(8))  # embeddings (N, 8)
        >>> loss = objective.loss(model, source, torch.tensor([4, 0, 2]), torch.Generator())
        >>> loss.backward()
    """

    temperature: float = 0.07
    negatives: int = 510
    out: int = 128
    samples: int = 32_768

    def __post_init__(self) -> None:
        check_fields(self, "temperature", negatives=1, out=1, samples=2)

    def head(self, width: int) -> nn.Module:
        """Return the two linear layers, and a bank that knows nobody."""
        return _Head(width, self.out, self.samples)

    def loss(
        self, model: nn.Module, source: Source, indices: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Return the mean loss of N samples; in training they are remembered as well."""
        v, p, bank = self._vectors(model, source, indices, generator)
        rows = indices.to(bank.device)
        known = bank[rows].any(1, keepdim=True)  # (N, 1)
        memory = torch.where(known, bank[rows], v.detach())  # (N, D)
        others = self._others(bank, rows, memory, generator)
        loss = (self._nce(memory, p, others) + self._nce(memory, v, others)) / 2
        if model.training:
            with torch.no_grad():
                bank[rows] = torch.where(known, v + memory / 2, v)
        return loss

    @torch.no_grad()
    def report(
        self, model: nn.Module, source: Source, indices: Tensor, generator: torch.Generator
    ) -> dict[str, float]:
        """Return `match`: the share of samples whose patches find their v in this batch."""
        v, p, _ = self._vectors(model, source, indices, generator)
        nearest = (F.normalize(p) @ F.normalize(v).T).argmax(1)
        own = torch.arange(len(indices), device=nearest.device)
        return {"match": float((nearest == own).float().mean())}

    def _vectors(
        self, model: nn.Module, source: Source, indices: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return v and p, (N, D) each, of all samples of a batch, and the bank (samples, D)."""
        if int(indices.max()) >= self.samples:
            raise InputError(
                f"expected sample numbers below {self.samples:,}, the places in the memory bank, "
                f"got {int(indices.max()):,}; raise MemoryBank.samples (--objective.samples)."
            )
        own = share(len(indices))
        groups = [source.clean(indices[own]), *drawn(source, indices, generator, 2, own)]
        rows = {name: torch.cat([group[name] for group in groups]) for name in groups[0]}
        outputs, bank = model(rows)
        v, p = at_least_float32(all_gather(outputs, len(indices), 2)).chunk(2)
        return v, p, bank

    def _others(
        self, bank: Tensor, rows: Tensor, memory: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Return the memories (K, D) of samples that are drawn, and whose (N, K) each is.

        They are of all that were seen, this batch included.
        """
        seen = bank.any(1)
        seen[rows] = True
        numbers = seen.nonzero().flatten()
        order = torch.randperm(len(numbers), generator=generator)[: self.negatives]
        numbers = numbers[order.to(numbers.device)]
        of_batch = numbers[:, None] == rows  # (K, N)
        present = memory[of_batch.int().argmax(1)]
        others = torch.where(of_batch.any(1, keepdim=True), present, bank[numbers])
        return others, of_batch.T

    def _nce(self, memory: Tensor, vectors: Tensor, others: tuple[Tensor, Tensor]) -> Tensor:
        """Return the mean NCE of vectors (N, D) and their memories; nobody is one's own other."""
        negatives, own = others
        with torch.autocast(vectors.device.type, enabled=False):
            memory, vectors, negatives = map(F.normalize, (memory, vectors, negatives))
            positive = (memory * vectors).sum(1, keepdim=True)  # (N, 1)
            negative = (vectors @ negatives.T).masked_fill(own, -torch.inf)  # (N, K)
            logits = torch.cat((positive, negative), 1) / self.temperature
            first = torch.zeros(len(logits), dtype=torch.int64, device=logits.device)
            return F.cross_entropy(logits, first)

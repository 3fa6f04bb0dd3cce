"""The interface of all backbones, and of those of images, of texts and of arrays."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn

from ssnas_core.backbones import BACKBONES
from ssnas_core.common.errors import InputError, one_line

CONFIG_VERSION = 1  # of the fields of `Backbone.config`


class Backbone(nn.Module):
    """A network whose forward returns named features, one per tap, shallow first.

    A class of one's own derives from `ImageBackbone`, `TextBackbone` or `ArrayBackbone`,
    sets `name` and `channels` (images: `size`), and has a forward. Where its constructor
    needs arguments, `options` holds them, so that a saved folder can build it again.

    Attributes:
        modality_kind: "image", "text" or "array".
        name: a description with all options; part of the fingerprint.
        channels: tap -> number of channels, in depth order; taps are "0", "1", ...
        learns: whether it comes without knowledge, so that a preparation is to
            train it by self-supervision.
        whole: whether its maps are stored at all their positions, not pooled.
        options: arguments of the constructor, JSON values; no weights.
    """

    modality_kind: str
    name: str
    channels: dict[str, int]
    learns: bool = False
    whole: bool = False
    options: Mapping[str, Any] = MappingProxyType({})

    argument: ClassVar[str] = ""  # of the library's own: what follows its name and a colon
    made_by: str | None = None  # the name of what builds it, where that is not its class
    _grown: tuple[str, ...] = ()  # buffers whose first dimension is part of the state
    _cached: tuple[str, ...] = ()  # cached properties made from the state

    def config(self) -> dict[str, Any]:
        """Return JSON values from which `backbone_from_config` builds it again; no weights.

        Raises:
            InputError: its class is not importable, so that no file can name it.
        """
        kind = self.made_by or BACKBONES.name_of(self)
        fields = {"kind": kind, "version": CONFIG_VERSION, "name": self.name, **self.options}
        return json.loads(json.dumps(fields))

    @classmethod
    def rebuilt(cls, folder: Path | None, **options: Any) -> Self:
        """Return a new one with random weights; the state dict of the old one then fits.

        `options` come from a file: a constructor that would follow them to other files
        or to the network needs a `rebuilt` of its own.

        Args:
            folder: the one that `save_files` wrote into.
            options: as in the attribute.
        """
        return cls(**options)

    def save_files(self, folder: Path) -> None:
        """Write into `folder`, its own, what config and state dict leave out; often nothing."""

    def fingerprint(self) -> str:
        """Hex hash of the name, the taps and all weights and fitted state."""
        return content_hash([self.name, self.channels], self)

    def _forget(self) -> None:
        """Drop what was made from a state that is no longer there."""
        for name in self._cached:
            self.__dict__.pop(name, None)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for name in self._grown:
            value = state_dict.get(prefix + name)
            if value is not None and value.ndim:  # a single number is refused below
                mine = getattr(self, name)
                setattr(self, name, mine.new_zeros((len(value), *mine.shape[1:])))
        self._forget()
        super()._load_from_state_dict(state_dict, prefix, *args)


@contextmanager
def measuring(module: nn.Module) -> Iterator[None]:
    """Let a block look at the outputs of `module` in eval mode, without gradients."""
    training = module.training
    module.eval()
    with torch.no_grad():
        yield
    module.train(training)


@contextmanager
def foreign(failed: str, remedy: str) -> Iterator[None]:
    """Turn every failure of somebody else's model into an `InputError`: what, why, remedy."""
    try:
        yield
    except (InputError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # such models raise every kind
        reason = one_line(f"{type(error).__name__}: {error}")
        raise InputError(f"{failed} ({reason}); {remedy}.") from error


def content_hash(values: Any, module: nn.Module) -> str:
    """Hex hash of JSON values, and of all weights and buffers of a module."""
    digest = hashlib.sha256(json.dumps(values).encode())
    for key, value in sorted(module.state_dict().items()):
        value = value.detach().cpu().contiguous()
        digest.update(f"{key} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def words_of(vocabulary: Tensor, *rows: Tensor) -> list[str]:
    """Return the words of a fitted vocabulary, lines of UTF-8 as uint8.

    Args:
        vocabulary: (bytes,) uint8.
        rows: tensors with one row per word.

    Raises:
        InputError: something else, as in a state dict that was edited.
    """
    try:
        words = bytes(vocabulary.cpu().numpy()).decode().split("\n")
    except UnicodeDecodeError:
        words = []
    if len(set(words)) != len(words) or {len(words)} != {len(part) for part in rows}:
        raise InputError(
            "expected a vocabulary of distinct words with a row for each, got another; "
            "restore the backbone's weights."
        )
    return words


class ImageBackbone(Backbone):
    """A backbone of images; forward: (N, 3, H, W) in [0, 1] -> tap -> (N, C, H', W')."""

    modality_kind = "image"
    size: tuple[int, int]  # (H, W) that images are to be decoded to


class TextBackbone(Backbone):
    """A backbone of texts; forward: what `vectorize` returns -> tap -> (N, C, T)."""

    modality_kind = "text"

    def fit(self, texts: Sequence[str]) -> Any:
        """Learn from train texts, without labels, whatever `vectorize` needs; return self."""
        return self

    def vectorize(self, texts: Sequence[str]) -> Tensor:
        """Texts as a tensor (N, ...), float32 vectors or padded int64 tokens, on the CPU."""
        raise NotImplementedError

    def known(self, texts: Sequence[str]) -> np.ndarray:
        """Return the share of each text's words that it knows, (N,) float64 in [0, 1].

        A text of share 0 says nothing to it, whatever `vectorize` makes of it. Where a
        backbone does not tell, a text is known unless it is blank.
        """
        return np.array([float(bool(text.strip())) for text in texts])


class ArrayBackbone(Backbone):
    """A backbone of arrays; forward: what `vectorize` returns -> tap -> (N, C, P).

    `fit` learns mean and standard deviation of each channel; `vectorize` subtracts the
    one and divides by the other, so that 0 is the mean of the train rows in any units.

    Args:
        shape: of one row: (C,), a vector, or (P, C), vectors at P positions.
    """

    modality_kind = "array"
    shape: tuple[int, ...]
    mean: Tensor
    scale: Tensor

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        if len(shape) not in (1, 2) or min(shape) < 1:
            raise InputError(
                f"an array row must have shape (C,) or (P, C), all >= 1, got {tuple(shape)}; "
                "flatten or pool further dimensions first."
            )
        self.shape = tuple(int(length) for length in shape)
        self.register_buffer("mean", torch.zeros(self.shape[-1]))
        self.register_buffer("scale", torch.zeros(self.shape[-1]))  # 0: not fitted

    def _rows(self, rows: Any) -> np.ndarray:
        """Return `rows` as finite float32 (N, *shape), not copied if they already are."""
        values = np.asarray(rows)
        if values.shape[1:] != self.shape:
            raise InputError(
                f"expected array rows of shape {('N', *self.shape)}, got {values.shape}; "
                "give one row per sample, as those the backbone was built for."
            )
        with np.errstate(over="ignore"):  # refused below
            values = values.astype(np.float32, copy=False)
        if not np.isfinite(values).all():
            raise InputError(
                "expected finite array values in float32's range, got NaN or infinity; "
                "replace them, or leave those rows out."
            )
        return values

    def fit(self, rows: Any) -> Any:
        """Learn each channel's mean and standard deviation, over train rows (and positions).

        A channel that never changes keeps its unit (scale 1). Returns self.

        Args:
            rows: (n, C) or (n, P, C), n >= 1, finite.

        Raises:
            InputError: no rows, rows of another shape, or values that are not finite.
        """
        values = self._rows(rows).reshape(-1, self.shape[-1])
        if not len(values):
            raise InputError("fitting an array backbone needs at least one row, got none.")
        parts = [values[first : first + 8192] for first in range(0, len(values), 8192)]
        mean = sum(part.sum(0, dtype=np.float64) for part in parts) / len(values)
        squares = sum(np.square(part - mean).sum(0) for part in parts)  # float64, in parts
        scale = np.where(np.ptp(values, axis=0) == 0, 1.0, np.sqrt(squares / len(values)))
        scale = np.maximum(scale, np.finfo(np.float32).tiny)  # of values near float32's end
        self.mean.copy_(torch.from_numpy(np.asarray(mean)))
        self.scale.copy_(torch.from_numpy(np.asarray(scale)))
        return self

    def vectorize(self, rows: Any) -> Tensor:
        """Rows (N, C) or (N, P, C) as float32, standardised per channel, on the CPU.

        Raises:
            InputError: the backbone is not fitted, or rows it was not built for.
        """
        values = torch.from_numpy(np.array(self._rows(rows)))  # a copy: inputs are not touched
        if not bool((self.scale > 0).all()):
            raise InputError(
                "expected a fitted array backbone, got one without means; "
                "call fit(train_rows) or load a state dict first."
            )
        return values.sub_(self.mean.cpu()).div_(self.scale.cpu())


# Maxout layers, as GMU (arXiv:1702.01992) and BM-NAS (arXiv:2104.09379) put on text vectors.


class Maxout(nn.Module):
    """max over `pieces` linear maps, per output (Goodfellow et al., arXiv:1302.4389)."""

    def __init__(self, inputs: int, outputs: int, pieces: int) -> None:
        super().__init__()
        self.pieces = pieces
        self.linear = nn.Linear(inputs, outputs * pieces)

    def forward(self, vectors: Tensor) -> Tensor:
        """(N, inputs) -> (N, outputs)."""
        return self.linear(vectors).unflatten(1, (-1, self.pieces)).amax(2)


class MaxoutLayers(nn.ModuleList):
    """Maxout layers, each after a batch norm; the vector and the output of each are taps.

    Args:
        widths: of the vector (tap "0") and of each layer.
        pieces: linear maps per maxout unit.
    """

    def __init__(self, widths: Sequence[int], pieces: int) -> None:
        super().__init__(
            nn.Sequential(nn.BatchNorm1d(before), Maxout(before, after, pieces))
            for before, after in zip(widths, widths[1:], strict=False)
        )

    def forward(self, vectors: Tensor) -> dict[str, Tensor]:
        """(N, widths[0]) -> tap -> (N, C, 1)."""
        taps = {"0": vectors}
        for tap, layer in enumerate(self, start=1):
            taps[str(tap)] = vectors = layer(vectors)
        return {tap: value.unsqueeze(2) for tap, value in taps.items()}

"""Views of a sample: augmented images and texts (SimCLR, arXiv:2002.05709, sec. 3 and appendix A).

Chance and change are kept apart. `image_draws` and `seed_draws` turn a
generator into one row of chance per sample; `apply_image` and `apply_text`
are pure functions of a sample and its row. So a table drawn once for a whole
data set gives the same views whatever the batch size, and a store can resume.

Deviations from SimCLR, all for speed on a CPU:

- The whole colour jitter is one affine map of RGB per sample (brightness, then
  contrast, saturation, hue, greyscale, in this fixed order), clamped once.
- A crop that would not fit is shortened to the image instead of drawn again.
- No Gaussian blur. Crops keep at least 30 % of the area, not 8 %: a poster is
  about its whole, and a corner of it is often plain sky.
"""

from __future__ import annotations

import itertools
import math
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from torch import Generator, Tensor
from torch.nn import functional

from ssnas_core.common.errors import InputError
from ssnas_core.common.typed import check_fields
from ssnas_core.common.words import words_of

LUMA = (0.299, 0.587, 0.114)
_IQ = ((0.596, -0.274, -0.322), (0.211, -0.523, 0.312))
_DRAWS = 11  # uniform numbers per image
# Scripts that may have no spaces between words: Thai, Lao, Burmese, Khmer, kana, Chinese.
_ENDS = frozenset(".!?\u2026\u3002\uff01\uff1f")
_QUOTES = "\"'\u201d\u2019\u00bb)]\u300d"


def _check_range(owner: object, names: Sequence[str], low: float, high: float) -> None:
    for name in names:
        value = getattr(owner, name)
        if not low <= value <= high:
            kind = type(owner).__name__
            raise InputError(f"{kind}.{name} must be in [{low:g}, {high:g}], got {value}.")


@dataclass(frozen=True, kw_only=True)
class ImageAugment:
    """Strength of the image augmentation; zeros (and `min_area` 1) switch a part off."""

    min_area: float = 0.3  # smallest crop, as a part of the image's area
    max_stretch: float = 4 / 3  # largest change of the aspect ratio, either way
    flip: float = 0.5  # probability of a horizontal flip
    jitter: float = 0.8  # probability of the colour jitter
    brightness: float = 0.4  # factor in 1 +- this; likewise contrast, saturation
    contrast: float = 0.4
    saturation: float = 0.4
    hue: float = 0.1  # rotation in +- this part of a full turn of the I-Q plane
    greyscale: float = 0.2  # probability

    def __post_init__(self) -> None:
        shares = ("flip", "jitter", "greyscale", "brightness", "contrast", "saturation")
        _check_range(self, shares, 0, 1)
        _check_range(self, ("hue",), 0, 0.5)
        _check_range(self, ("min_area",), 0.01, 1)
        _check_range(self, ("max_stretch",), 1, 10)

    @property
    def moves(self) -> bool:
        """Whether pixels change place."""
        return self.min_area < 1 or self.max_stretch > 1 or self.flip > 0

    @property
    def recolours(self) -> bool:
        """Whether colours change."""
        strength = max(self.brightness, self.contrast, self.saturation, self.hue)
        return self.jitter * strength > 0 or self.greyscale > 0


@dataclass(frozen=True, kw_only=True)
class TextAugment:
    """Word dropout, and views that share no words, so that these cannot match them.

    With `parts` K > 1 the views of a block (the first K, the next K, ...) divide a text among
    them, by chance and evenly; equal words go together. Two of V stored views are of one
    block with probability (K - 1) / (V - 1), where K divides V; others share words as if each
    had lost all but 1 / K of them.

    Args:
        drop: probability with which each word of a view goes; at least one stays.
        parts: K >= 1; 1 divides nothing.
        unit: what is divided; a text of fewer than K sentences is divided by words.
    """

    drop: float = 0.3
    parts: int = 1
    unit: Literal["words", "sentences"] = "words"

    def __post_init__(self) -> None:
        _check_range(self, ("drop",), 0, 1)
        check_fields(self, parts=1)

    def first_of(self, view: int) -> int:
        """Return the number of the first view of the block that a view is in, from 0."""
        return view - view % self.parts


@dataclass(frozen=True, kw_only=True)
class ArrayAugment:
    """Channel dropout: each channel of a standardised array becomes 0, its mean, with this
    probability, at all positions alike."""

    drop: float = 0.3

    def __post_init__(self) -> None:
        _check_range(self, ("drop",), 0, 1)


@dataclass(frozen=True, kw_only=True)
class JointAugment:
    """How a view of a multimodal sample is made: each modality augmented on its own."""

    image: ImageAugment = ImageAugment()
    text: TextAugment = TextAugment()
    array: ArrayAugment = ArrayAugment()


DEFAULT_AUGMENT = JointAugment()


def image_draws(count: int, generator: Generator) -> Tensor:
    """Return the chance in `count` augmented images: (count, 11) uniform in [0, 1)."""
    return torch.rand(count, _DRAWS, generator=generator, device=generator.device)


def seed_draws(count: int, generator: Generator) -> Tensor:
    """Return the chance in `count` augmented texts or arrays: (count,) int64 seeds."""
    device = generator.device
    return torch.randint(2**62, (count,), generator=generator, dtype=torch.int64, device=device)


def _crop_grid(draws: Tensor, config: ImageAugment, shape: torch.Size) -> Tensor:
    """Sampling grid (N, H, W, 2) of a random resized crop, half of them mirrored."""
    area = config.min_area + (1 - config.min_area) * draws[:, 0]
    stretch = torch.exp((2 * draws[:, 1] - 1) * math.log(config.max_stretch))
    width = (area * stretch).sqrt().clamp(max=1)
    height = (area / stretch).sqrt().clamp(max=1)
    mirror = torch.where(draws[:, 4] < config.flip, -1.0, 1.0)
    left = (1 - width) * (2 * draws[:, 2] - 1)
    top = (1 - height) * (2 * draws[:, 3] - 1)
    # affine_grid of each image, to the bit; without its matrix products, as nothing is turned
    whole = functional.affine_grid(
        draws.new_tensor([[[1, 0, 0], [0, 1, 0]]]), [1, 1, *shape[2:]], align_corners=False
    )[0]
    grid = draws.new_empty(len(draws), *shape[2:], 2)
    grid[..., 0] = ((width * mirror)[:, None] * whole[0, :, 0] + left[:, None])[:, None, :]
    grid[..., 1] = (height[:, None] * whole[:, 0, 1] + top[:, None])[:, :, None]
    return grid


def _colour_map(images: Tensor, draws: Tensor, config: ImageAugment) -> tuple[Tensor, Tensor]:
    """Per-sample colour change as RGB -> matrix @ RGB + offset: (N, 3, 3), (N, 3, 1)."""
    jittered = draws[:, 5] < config.jitter

    def factor(column: int, strength: float) -> Tensor:
        drawn = 1 + strength * (2 * draws[:, column] - 1)
        return torch.where(jittered, drawn, 1.0)[:, None, None]

    luma = draws.new_tensor(LUMA)
    eye = torch.eye(3, dtype=draws.dtype, device=draws.device)
    grey = luma.expand(3, 3)  # every channel becomes the luma
    brightness = factor(6, config.brightness)
    contrast = factor(7, config.contrast)
    saturation = factor(8, config.saturation)
    level = images.mean((2, 3)).to(draws) @ luma  # (N,) mean luma before any change
    saturate = saturation * eye + (1 - saturation) * grey

    angle = torch.where(jittered, config.hue * 2 * math.pi * (2 * draws[:, 9] - 1), 0.0)
    cosine, sine = angle.cos(), angle.sin()
    to_yiq = torch.stack([luma, *draws.new_tensor(_IQ)])
    turn = draws.new_zeros(len(draws), 3, 3)
    turn[:, 0, 0] = 1
    turn[:, 1, 1] = turn[:, 2, 2] = cosine
    turn[:, 1, 2], turn[:, 2, 1] = -sine, sine
    hue = torch.linalg.inv(to_yiq) @ turn @ to_yiq

    # saturation, hue and greyscale map a grey to itself, so the offset passes them unchanged
    matrix = hue @ saturate * (contrast * brightness)
    offset = (1 - contrast) * brightness * level[:, None, None]
    greyed = (draws[:, 10] < config.greyscale)[:, None, None]
    matrix = torch.where(greyed, grey @ matrix, matrix)
    return matrix.to(images.dtype), offset.to(images.dtype).expand(-1, 3, 1)


def apply_image(images: Tensor, config: ImageAugment, draws: Tensor) -> Tensor:
    """Augment each image by its own row of `draws` (see `image_draws`).

    Args:
        images: (N, 3, H, W) float in [0, 1].
        config: which changes, how strong.
        draws: (N, 11) uniform in [0, 1).

    Returns:
        (N, 3, H, W) in [0, 1]; `images` itself where `config` changes nothing.

    Raises:
        InputError: not N RGB images of a floating type.
    """
    if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
        raise InputError(
            f"augmenting needs float images (N, 3, H, W) in [0, 1], got {images.dtype} "
            f"{tuple(images.shape)}; convert uint8 by images.float() / 255."
        )
    draws = draws.to(images.device)
    if config.moves and len(images):
        grid = _crop_grid(draws, config, images.shape).to(images.dtype)
        images = functional.grid_sample(images, grid, padding_mode="border", align_corners=False)
    if config.recolours and len(images):
        matrix, offset = _colour_map(images, draws, config)
        images = torch.baddbmm(offset, matrix, images.flatten(2)).view_as(images).clamp_(0, 1)
    return images


def apply_text(
    texts: Sequence[str], config: TextAugment, draws: Tensor, view: int = 0
) -> list[str]:
    """Drop words from each text by its own seed in `draws` (N,) int64 (see `seed_draws`).

    It is EDA's random deletion (arXiv:1901.11196). A text of at least one word keeps at
    least one; a text without words is returned as it is. White space separates words; where
    it does not, as in Chinese, Japanese and Thai, each letter is dropped for itself.

    Args:
        texts: N of them.
        config: how.
        draws: (N,), the same for all views of a block (`TextAugment.first_of`).
        view: number of the view; it decides which part of a divided text is in it.
    """
    if config.drop == 0 and config.parts == 1:
        return list(texts)
    result = []
    for text, seed in zip(texts, draws.tolist(), strict=True):
        uniform = random.Random(seed).random
        words, space = words_of(text)
        if config.parts > 1 and words:
            words = _part_of(words, config, seed, view % config.parts)
        rest = [word for word in words if uniform() >= config.drop]
        if words and not rest:
            rest = [words[int(uniform() * len(words))]]
        result.append(space.join(rest) if words else text)
    return result


def _part_of(words: list[str], config: TextAugment, seed: int, part: int) -> list[str]:
    """Return the words of a text that are in one of its parts, in their order."""
    units = [_alike(word) for word in words]
    if config.unit == "sentences":
        ends = itertools.accumulate(word.rstrip(_QUOTES)[-1:] in _ENDS for word in words)
        sentences = [0, *ends][:-1]
        units = sentences if len(set(sentences)) >= config.parts else units
    dealt = list(dict.fromkeys(units))
    random.Random(seed + 1).shuffle(dealt)
    mine = set(dealt[part :: config.parts] or dealt[part % len(dealt) :][:1])
    return [word for word, unit in zip(words, units, strict=True) if unit in mine]


@lru_cache(maxsize=1 << 16)  # of a corpus most words come again and again
def _alike(word: str) -> str:
    """Return a word without its case and the signs around it; signs alone as they are."""
    return re.sub(r"^\W+|\W+$", "", word.casefold()) or word


def apply_array(values: Tensor, config: ArrayAugment, draws: Tensor) -> Tensor:
    """Zero channels of each array by its own seed in `draws` (N,) int64 (see `seed_draws`).

    Args:
        values: (N, C) or (N, P, C) float, standardised: 0 is a channel's mean.
        config: how many.
        draws: (N,) int64.

    Returns:
        The same shape; `values` itself where `config` changes nothing.
    """
    if config.drop == 0:
        return values
    channels = torch.arange(values.shape[-1], device=values.device)
    mask = _uniform(draws.to(values.device)[:, None], channels) >= config.drop
    return values * (mask if values.ndim == 2 else mask[:, None]).to(values.dtype)


def _uniform(seeds: Tensor, places: Tensor) -> Tensor:
    """Uniform numbers in [0, 1), float64, that depend on seed and place alone.

    SplitMix64's finaliser (Steele et al. 2014) on counters, so that a row needs no
    generator of its own; int64 arithmetic wraps as unsigned arithmetic does.
    """
    state = seeds + (places + 1) * -7046029254386353131  # 2^64 over the golden ratio
    for shift, factor in ((30, -4658895280553007687), (27, -7723592293110705685)):
        state = (state ^ _shifted(state, shift)) * factor
    state = state ^ _shifted(state, 31)
    return _shifted(state, 11).double() / 2**53


def _shifted(state: Tensor, bits: int) -> Tensor:
    """Logical right shift of int64."""
    return (state >> bits) & ((1 << (64 - bits)) - 1)

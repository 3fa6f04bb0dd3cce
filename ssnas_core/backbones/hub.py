"""Any transformers encoder of texts or of images, from a folder, the cache or the hub.

A tap is a layer's hidden states, as the model itself gives them. No code that comes
with a model is ever run (trust_remote_code is False everywhere).
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ssnas_core.backbones._pretrained import (
    colour_map,
    even_depths,
    from_config,
    from_weights,
    loading,
    save_config,
    saved_config,
)
from ssnas_core.backbones.base import ImageBackbone, TextBackbone
from ssnas_core.backbones.image import check_images, check_size
from ssnas_core.errors import InputError


class TransformerText(TextBackbone):
    """A transformers text encoder; a tap is the mean of a layer's hidden states over tokens.

    Args:
        source: a local folder, or a model's name on the Hugging Face hub or in its cache.
        taps: how many hidden layers, at even distances, the last included.
        length: tokens a text is cut to and padded to.

    Raises:
        InputError: no such model at hand, or a length it cannot take.
    """

    _kind = "transformers-text"

    def __init__(self, source: str | Path, taps: int = 4, length: int = 128) -> None:
        super().__init__()
        from transformers import AutoTokenizer

        with loading(
            source, "Give a folder with config.json, tokenizer and weights, or go online once."
        ):
            model, config = from_weights(source, "text")
            tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        # a folder's own name, not its path: moving a model does not change it
        self._build(model, config, tokenizer, Path(source).name, taps, length)

    @classmethod
    def rebuilt(cls, folder: Path | None, taps: int, length: int) -> TransformerText:
        """From what `save_files` wrote, with random weights; a state dict brings the real ones."""
        from transformers import AutoTokenizer

        self = cls.__new__(cls)
        TextBackbone.__init__(self)
        with loading(str(folder), "Give the folder that save_files wrote."):
            config = saved_config(folder)
            tokenizer = AutoTokenizer.from_pretrained(
                str(folder), trust_remote_code=False, local_files_only=True
            )
            model = from_config(config, "text")
            self._build(model, config, tokenizer, "rebuilt", taps, length)
        return self

    def _build(
        self, model: Any, config: Any, tokenizer: Any, source: str, taps: int, length: int
    ) -> None:
        if taps < 1 or length < 3:
            raise InputError(f"taps must be >= 1 and length >= 3, got {taps} and {length}.")
        self.tokenizer = tokenizer
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        if self.tokenizer.pad_token_id is None:
            raise InputError(f"the tokenizer of {source} has no token to pad with; give it one.")
        self.tokenizer.padding_side = "right"
        longest = min(
            self.tokenizer.model_max_length,
            getattr(model.config, "max_position_embeddings", None) or length,
        )
        if length > longest:
            raise InputError(f"{source} takes up to {longest} tokens, got length {length}.")
        self.model = model
        self.length = length
        self.depths = even_depths(int(model.config.num_hidden_layers), taps)
        width = int(model.config.hidden_size)
        self.channels = {str(tap): width for tap in range(len(self.depths))}
        vocabulary = json.dumps(sorted(self.tokenizer.get_vocab().items())).encode()
        tokens = hashlib.sha256(vocabulary).hexdigest()[:8]
        self.name = (
            f"transformers:{source} layers {self.depths} length {length} vocabulary {tokens}"
        )
        self._whole_config = config
        self._options = {"taps": taps, "length": length}

    def save_files(self, folder: Path) -> None:
        """Write the model's config.json and the tokenizer's files into `folder`, its own."""
        save_config(self._whole_config, folder)
        self.tokenizer.save_pretrained(str(folder))

    def vectorize(self, texts: Sequence[str]) -> Tensor:
        """Texts as padded tokens (N, length) int64, on the CPU."""
        if not len(texts):
            return torch.zeros(0, self.length, dtype=torch.int64)
        with loading(self.name, "Restore the tokenizer's files."):
            tokens = self.tokenizer(
                list(texts),
                padding="max_length",
                truncation=True,
                max_length=self.length,
                return_tensors="pt",
            )
        found, known = tokens["input_ids"], self.model.get_input_embeddings().weight.shape[0]
        if int(found.max()) >= known:
            raise InputError(
                f"expected the tokenizer of {self.name}, got one whose tokens are not among the "
                f"model's {known}; restore its files."
            )
        return found

    def forward(self, vectorized: Tensor) -> dict[str, Tensor]:
        """(N, T) int64 tokens -> tap -> (N, C, 1), the mean over tokens that are not padding."""
        mask = (vectorized != self.tokenizer.pad_token_id).long()
        longest = max(int(mask.sum(1).max()), 1)
        tokens, mask = vectorized[:, :longest], mask[:, :longest]
        states = self.model(
            input_ids=tokens, attention_mask=mask, output_hidden_states=True
        ).hidden_states
        weights = (mask / mask.sum(1, keepdim=True).clamp(min=1)).unsqueeze(2).to(states[0])
        return {
            str(tap): (states[depth] * weights).sum(1).unsqueeze(2)
            for tap, depth in enumerate(self.depths)
        }


class TransformerImage(ImageBackbone):
    """A transformers vision encoder: ViT, DINO, BEiT, CLIP, Swin, ConvNeXt, ResNet and kin.

    A tap is the hidden states of a layer or stage, as the model gives them, brought
    to maps: the tokens of patches row by row, without class and register tokens.
    Images are normalised as the model's own processor does; they are not resized.

    Args:
        source: a local folder, or a model's name on the Hugging Face hub or in its
            cache. Of a CLIP-like pair the image part is taken.
        weights: None for random ones (from torch's seed), or "DEFAULT", the model's.
        taps: how many hidden layers, at even distances, the last included.
        size: (H, W) of the images; None for what the model's processor makes of a
            square image. Others work where the model takes them.

    Raises:
        InputError: no such model at hand, not an image encoder, or a size it cannot
            take.
    """

    _kind = "transformers-image"

    colours: Tensor  # (3, 3), of RGB in [0, 1]
    black: Tensor  # (3,)

    def __init__(
        self,
        source: str | Path,
        weights: str | None = None,
        taps: int = 4,
        size: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        from transformers import AutoConfig

        if weights not in (None, "DEFAULT"):
            raise InputError(f"weights must be None or 'DEFAULT', got {weights!r}.")
        with loading(
            source,
            "Give an image encoder's folder with config.json, preprocessor_config.json and "
            "weights, or go online once.",
        ):
            if weights is None:
                config = AutoConfig.from_pretrained(source, trust_remote_code=False)
                model = from_config(config, "image")
            else:
                model, config = from_weights(source, "image")
            own = _pair(getattr(model.config, "image_size", None) or 224)
            colours, black, made = colour_map(source, max(own))
        name = f"transformers:{Path(source).name} {weights}"
        self._build(model, config, name, taps, made if size is None else size)
        self.colours.copy_(colours)
        self.black.copy_(black)

    @classmethod
    def rebuilt(cls, folder: Path | None, taps: int, size: tuple[int, int]) -> TransformerImage:
        """From what `save_files` wrote, with random weights; a state dict brings the real ones."""
        self = cls.__new__(cls)
        ImageBackbone.__init__(self)
        with loading(str(folder), "Give the folder that save_files wrote."):
            config = saved_config(folder)
            self._build(from_config(config, "image"), config, "rebuilt", taps, size)
        return self

    def _build(self, model: Any, config: Any, name: str, taps: int, size: tuple[int, int]) -> None:
        if taps < 1:
            raise InputError(f"taps must be >= 1, got {taps}.")
        self.size = check_size(size)
        self.model = model
        self.register_buffer("colours", torch.eye(3))  # in the state dict: part of the model
        self.register_buffer("black", torch.zeros(3))
        self._resizes = "interpolate_pos_encoding" in inspect.signature(model.forward).parameters
        training = model.training
        model.eval()
        blank = torch.zeros(1, 3, *self.size)
        try:
            with torch.inference_mode():
                states = self._states(blank)
                stages = len(getattr(model.config, "depths", None) or ())
                first = 0 if len(states) == stages else 1  # most give their embedding first
                depths = even_depths(len(states) - first, taps)
                self.depths = tuple(depth - 1 + first for depth in depths)
                maps = [self._arranged(states[depth], blank) for depth in self.depths]
        except (RuntimeError, ValueError, AssertionError, IndexError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(
                f"{type(model).__name__} cannot take images of size {self.size}: "
                f"{str(error).splitlines()[0]}; choose another size, often (224, 224)."
            ) from error
        model.train(training)
        self.channels = {str(tap): value.shape[1] for tap, value in enumerate(maps)}
        self.name = f"{name} layers {self.depths} {self.size}"
        self._whole_config = config
        self._options = {"taps": taps, "size": self.size}

    def save_files(self, folder: Path) -> None:
        """Write the model's config.json into `folder`, its own; the state dict has the rest."""
        save_config(self._whole_config, folder)

    def _states(self, images: Tensor) -> list[Tensor]:
        """The model's hidden states of normalised images: maps where it has them, else tokens."""
        options: dict[str, Any] = {}
        own = getattr(self.model.config, "image_size", None)
        if self._resizes and own is not None and _pair(own) != tuple(images.shape[2:]):
            options["interpolate_pos_encoding"] = True
        out = self.model(pixel_values=images, output_hidden_states=True, **options)
        states: list[Tensor] = list(out.hidden_states or ())
        if not states:
            raise InputError(
                f"expected hidden states, got none from {type(self.model).__name__}; "
                "choose another image encoder."
            )
        maps = getattr(out, "reshaped_hidden_states", None)  # Swin and kin
        if not maps:
            return states
        widths = [state.shape[-1] for state in states]
        if [one.shape[1] for one in maps] == widths:
            return list(maps)
        return [one.permute(0, 3, 1, 2) for one in maps]  # Hiera has channels last

    def _arranged(self, state: Tensor, images: Tensor) -> Tensor:
        """(N, C, H', W') of a map as it is, of tokens (N, leading + H' * W', C) by patch size."""
        if state.ndim == 4:
            return state
        config = self.model.config
        patch = _pair(getattr(config, "patch_size", None) or 1)
        height, width = (side // one for side, one in zip(images.shape[2:], patch, strict=True))
        leading = state.shape[1] - height * width if state.ndim == 3 else -1
        # a class token, DeiT's second one, registers: they come first
        if not 0 <= leading <= 2 + int(getattr(config, "num_register_tokens", 0) or 0):
            raise InputError(
                f"expected {height} x {width} tokens after the class token, got hidden states "
                f"{tuple(state.shape)} from {type(self.model).__name__}; "
                "choose another image encoder."
            )
        return state[:, leading:].transpose(1, 2).unflatten(2, (height, width))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """(N, 3, H, W) in [0, 1] -> tap -> (N, C, H', W')."""
        check_images(images)
        normal = torch.einsum("oi,nihw->nohw", self.colours, images) + self.black.view(3, 1, 1)
        states = self._states(normal)
        return {
            str(tap): self._arranged(states[depth], normal) for tap, depth in enumerate(self.depths)
        }


def _pair(size: Any) -> tuple[int, int]:
    """(H, W) of a config's size: one number for both, or two."""
    height, width = (size, size) if isinstance(size, int) else size
    return int(height), int(width)

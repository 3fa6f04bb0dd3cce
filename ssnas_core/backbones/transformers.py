"""Any transformers encoder of texts or of images, from a folder, the cache or the hub.

A tap is a layer's hidden states, as the model itself gives them. No code that comes
with a model is ever run (trust_remote_code is False everywhere).
"""

from __future__ import annotations

import hashlib
import inspect
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from ssnas_core.backbones.base import Backbone, ImageBackbone, TextBackbone, foreign, measuring
from ssnas_core.backbones.image import check_images, check_size, sized
from ssnas_core.common.errors import InputError, one_line
from ssnas_core.common.files import file_size, read_json

# Loading transformers models: all their weights or an error, and none of their code.


@contextmanager
def loading(source: str | Path, remedy: str) -> Iterator[None]:
    """Show no progress bars, and turn every failure to load `source` into an `InputError`.

    Nor are its reports shown, as of weights that it has and an encoder does not need.
    """
    from transformers.utils import logging as transformers_logging

    showing = transformers_logging.is_progress_bar_enabled()
    said = transformers_logging.get_verbosity()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    try:
        if Path(source).is_dir():
            _check_documents(Path(source))
        yield
    except InputError:
        raise
    except BaseException as error:  # transformers and what it loads with raise many kinds
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise  # Ctrl-C; a panic is what its tokenizers answer some broken files with
        reason = one_line(str(error).strip() or type(error).__name__, 400)
        raise InputError(
            f"expected a transformers model folder or name, got {str(source)!r}: {reason} {remedy}"
        ) from error
    finally:
        transformers_logging.set_verbosity(said)
        if showing:
            transformers_logging.enable_progress_bar()


def _check_documents(folder: Path) -> None:
    """Read within bounds what transformers reads without: large tokenizers take 40 MB."""
    for file in sorted(folder.iterdir()):
        if file.suffix == ".json":
            read_json(file, limit=64 * 2**20)
        elif not file.is_dir():
            file_size(file)


def _part(model: Any, kind: str) -> Any:
    """Return the encoder of `kind` within a model, without its pooler.

    The pooler is never used here, so that its weights would never see a gradient.
    """
    if kind == "text":
        model = model.get_encoder() if model.config.is_encoder_decoder else model
        expected = "input_ids"
    else:
        model = getattr(model, "vision_model", model)  # of CLIP and its kin
        expected = "pixel_values"
    takes = getattr(model, "main_input_name", expected)
    if takes != expected or (kind == "text" and not hasattr(model.config, "num_hidden_layers")):
        raise InputError(
            f"expected an encoder of {kind}s, got {type(model).__name__}; "
            "give a model to the modality that it reads."
        )
    pooler = getattr(model, "pooler", None)
    if isinstance(pooler, nn.Module) and next(pooler.parameters(), None) is not None:
        model.pooler = None
    return model


def _encoder(source: str | Path, kind: str, *, random: bool, offline: bool) -> tuple[Any, Any]:
    """Return the encoder in float32, and the configuration of the whole model.

    It is built as the class that transformers has for encoding texts, if it has one for
    its kind: of T5 the encoder alone, whether or not the folder has a decoder too.

    Args:
        source: a folder or name.
        kind: "text" or "image".
        random: weights from torch's global seed instead of the published ones.
        offline: ask no network.
    """
    from transformers import MODEL_FOR_TEXT_ENCODING_MAPPING as ENCODERS
    from transformers import AutoConfig, AutoModel, AutoModelForTextEncoding

    options: dict[str, Any] = {"trust_remote_code": False, "local_files_only": offline}
    config = AutoConfig.from_pretrained(source, **options)
    auto = AutoModelForTextEncoding if kind == "text" and type(config) in ENCODERS else AutoModel
    if random:
        model = _part(auto.from_config(config, trust_remote_code=False), kind)
        return model.float(), config
    whole, report = auto.from_pretrained(source, output_loading_info=True, **options)
    config = whole.config
    named = {id(weight): name for name, weight in whole.named_parameters()}
    model = _part(whole, kind)
    used = {named[id(weight)] for weight in model.parameters() if id(weight) in named}
    lacking = sorted(used & set(report["missing_keys"]))
    if lacking:
        raise InputError(
            f"expected all weights of {str(source)!r}, got none for {len(lacking)} of "
            f"{len(used)} (first: {lacking[0]}); fetch the model again."
        )
    return model.float(), config


def _even_depths(layers: int, taps: int) -> tuple[int, ...]:
    """Return `taps` of `layers` layers (from 1), at even distances, the last included."""
    if taps < 1:
        raise InputError(f"taps must be >= 1, got {taps}.")
    taps = min(taps, layers)
    return tuple(-(-layers * (tap + 1) // taps) for tap in range(taps))


class _Transformer(Backbone):
    """What text and image encoders share: the files that a state dict leaves out."""

    argument = "NAME_OR_FOLDER"
    whole_config: Any  # of the model that the encoder is a part of

    @classmethod
    def rebuilt(cls, folder: Path | None, **options: Any) -> Self:
        if folder is None or not folder.is_dir():
            raise InputError(
                f"expected the folder with the files of a transformers backbone, got {folder}; "
                "pass the folder that save_files wrote."
            )
        return cls(str(folder), saved=True, **options)  # type: ignore[call-arg]  # of each subclass

    def save_files(self, folder: Path) -> None:
        """Write the model's config.json into `folder`, its own."""
        self.whole_config._name_or_path = ""  # where it lay on this machine is nobody's business
        Path(folder).mkdir(parents=True, exist_ok=True)
        self.whole_config.save_pretrained(str(folder))


def _colour_map(source: str | Path, side: int) -> tuple[Tensor, Tensor, tuple[int, int]]:
    """Return the change of colours of a model's own image processor, and its size (H, W).

    It rescales, normalises and perhaps swaps channels: an affine map, (3, 3) and
    (3,), of RGB in [0, 1]. It is read off four images of one colour each, so that any
    processor's rule holds, whatever its options are called.
    """
    from PIL import Image
    from transformers import AutoImageProcessor

    processor = AutoImageProcessor.from_pretrained(source, trust_remote_code=False)
    if getattr(processor, "do_normalize", False):
        said, _ = processor.get_image_processor_dict(source)
        silent = [name for name in ("image_mean", "image_std") if said.get(name) is None]
        if silent:
            raise InputError(
                f"expected the colours that {str(source)!r} was trained on, got no "
                f"{' and no '.join(silent)} in its preprocessor_config.json; write it there by "
                "image_processor.save_pretrained(FOLDER)."
            )
    colours = ((0, 0, 0), (255, 0, 0), (0, 255, 0), (0, 0, 255))
    images = [Image.new("RGB", (side, side), colour) for colour in colours]
    pixels = torch.stack(
        [torch.as_tensor(processor(one, return_tensors="pt")["pixel_values"])[0] for one in images]
    )
    if pixels.ndim != 4 or pixels.shape[1] != 3:
        raise InputError(
            f"expected an image processor that gives (3, H, W), got {tuple(pixels.shape[1:])} "
            f"from {str(source)!r}; choose another model."
        )
    height, width = pixels.shape[2:]
    black, *pure = pixels[:, :, height // 2, width // 2].float()
    return torch.stack([one - black for one in pure], 1), black, (int(height), int(width))


_PIECES = 4  # of a batch of texts, by their length: nearly twice as fast on plots

# Words of many scripts, and letters as of genes: a tokenizer without its files knows none.
_WORDS = (
    *("the story friend night family love house water", "A C D E G K L M"),
    *("дом ночь друг семья любовь вода день", "σπίτι νύχτα φίλος αγάπη νερό μέρα"),
    *("بيت ليل صديق عائلة حب ماء يوم", "בית לילה חבר משפחה אהבה מים יום"),
    *("घर रात दोस्त परिवार प्यार पानी दिन", "บ้าน คืน เพื่อน ครอบครัว รัก น้ำ วัน"),
    *("家 夜 朋 爱 水 日 人", "友 愛 の は する ひと そら", "집 밤 친구 가족 사랑 물 날"),
)
_VOCABULARY = re.compile(r"tokenizer\.(json|model)|vocab|merges|spiece|spm|bpe|tiktoken|tekken")


def _tokenizer(source: str | Path, *, offline: bool) -> Any:
    """Return the tokenizer of a model, which pads on the right.

    Raises:
        InputError: its files are not there, so that transformers would make up one that
            knows no word; or it has no token to pad with.
    """
    from transformers import AutoTokenizer

    folder, name = Path(source), str(source)
    alone = folder.is_dir() and not any(_VOCABULARY.search(file.name) for file in folder.iterdir())
    files, knows, tokenizer = ["tokenizer.json", "vocab.txt", "spiece.model"], False, None
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            source, trust_remote_code=False, local_files_only=offline
        )
        files = sorted({*tokenizer.vocab_files_names.values()}) or files
        knows = _knows_words(tokenizer)
    except Exception:
        if not alone:
            raise
    if not knows and alone:
        raise InputError(
            f"expected the files of a tokenizer in {name!r}, got a model alone, without "
            f"{' or '.join(files)}; write them there by tokenizer.save_pretrained({name!r})."
        )
    if not knows or tokenizer is None:
        raise InputError(
            f"expected a tokenizer that knows words, got one of {len(tokenizer or ())} tokens from "
            f"{name!r} that knows too few of any language; restore its files ({', '.join(files)})."
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.pad_token_id is None:
        raise InputError(f"the tokenizer of {folder.name} has no token to pad with; give it one.")
    tokenizer.padding_side = "right"
    return tokenizer


def _knows_words(tokenizer: Any) -> bool:
    """Return whether it has tokens for more than half of the words of any script."""
    special = {*tokenizer.all_special_ids, tokenizer.unk_token_id}
    for line in _WORDS:
        words = line.split()
        known = 0
        for numbers in tokenizer(words, add_special_tokens=False)["input_ids"]:
            said = tokenizer.convert_ids_to_tokens([n for n in numbers if n not in special])
            known += any(token.strip("▁Ġ#") for token in said)
        if 2 * known > len(words):
            return True
    return False


class TransformerText(_Transformer, TextBackbone):
    """A transformers text encoder; a tap is the mean of a layer's hidden states over tokens.

    A layer that pools tokens, as some of Funnel's, gives no tap.

    Args:
        source: a local folder, or a model's name on the Hugging Face hub or in its cache.
        taps: how many hidden layers, at even distances, the last included.
        length: tokens a text is cut to and padded to.
        saved: `source` is the folder that `save_files` wrote; weights are random.

    Raises:
        InputError: no such model at hand, no tokenizer that knows words, or a length it
            cannot take.
    """

    def __init__(
        self, source: str | Path, taps: int = 4, length: int = 128, *, saved: bool = False
    ) -> None:
        super().__init__()
        if length < 3:
            raise InputError(f"length must be >= 3, got {length}.")
        with loading(
            source, "Give a folder with config.json, tokenizer and weights, or go online once."
        ):
            self.model, self.whole_config = _encoder(source, "text", random=saved, offline=saved)
            self.tokenizer = _tokenizer(source, offline=saved)
            vocabulary = json.dumps(sorted(self.tokenizer.get_vocab().items())).encode()
            self._tokens = int(self.model.get_input_embeddings().weight.shape[0])
        # a folder's own name, not its path: moving a model does not change it
        source = Path(source).name
        longest = getattr(self.model.config, "max_position_embeddings", None) or 0
        longest = min(self.tokenizer.model_max_length, longest if longest > 0 else length)
        if length > longest:  # a model without a limit has none, or -1
            raise InputError(f"{source} takes up to {longest} tokens, got length {length}.")
        self.name, self.length = source, length
        self._trims = False
        if self.model.device.type == "meta":  # its weights' shapes are looked at, no more
            return
        words = self.vectorize([" ".join(_WORDS)])[0].tolist()
        words = [token for token in words if token not in self.tokenizer.all_special_ids]
        full = torch.tensor([words * length])[:, :length]  # without padding, which has no place
        with measuring(self.model):
            states = self._states(full, torch.ones_like(full))
        whole = [depth for depth, state in enumerate(states) if state.shape[1] == length]
        if not whole or whole[-1] != len(states) - 1:
            raise InputError(
                f"expected hidden states of {length} tokens, got {states[-1].shape[1]} from the "
                f"last layer of {type(self.model).__name__}; choose another text encoder."
            )
        self._trims = len(whole) == len(states)
        if len(states) > int(self.model.config.num_hidden_layers):
            whole = whole[1:]  # the embedding comes first
        self.depths = tuple(whole[depth - 1] for depth in _even_depths(len(whole), taps))
        self.channels = {str(n): states[depth].shape[2] for n, depth in enumerate(self.depths)}
        tokens = hashlib.sha256(vocabulary).hexdigest()[:8]
        self.name = (
            f"transformers:{source} layers {self.depths} length {length} vocabulary {tokens}"
        )
        self.options = {"taps": taps, "length": length}

    def save_files(self, folder: Path) -> None:
        """Write the model's config.json and the tokenizer's files into `folder`, its own."""
        super().save_files(folder)
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
        numbers = tokens["input_ids"]
        if int(numbers.max()) >= self._tokens:
            raise InputError(
                f"expected the tokenizer of {self.name}, got one whose tokens are not among the "
                f"model's {self._tokens}; restore its files."
            )
        return numbers

    def _states(self, tokens: Tensor, mask: Tensor) -> Sequence[Tensor]:
        """Return the hidden states, (N, T, C) each, of tokens and their mask (N, T)."""
        with foreign(
            f"{self.name} cannot take texts of {tokens.shape[1]} tokens",
            "choose another text encoder, or one that takes as many",
        ):
            out = self.model(input_ids=tokens, attention_mask=mask, output_hidden_states=True)
            return tuple(out.hidden_states)

    def known(self, texts: Sequence[str]) -> np.ndarray:
        """Share of each text's tokens that are not the one for what is unknown, (N,)."""
        tokens, unknown = self.vectorize(texts), self.tokenizer.unk_token_id
        others = {*self.tokenizer.all_special_ids} - {unknown}
        said = ~torch.isin(tokens, torch.tensor(sorted(others), dtype=torch.int64))
        known = said if unknown is None else said & (tokens != unknown)
        return (known.sum(1) / said.sum(1).clamp(min=1)).double().numpy()

    def forward(self, vectorized: Tensor) -> dict[str, Tensor]:
        """(N, T) int64 tokens -> tap -> (N, C, 1), the mean over tokens that are not padding."""
        if not self._shortens() or len(vectorized) < 2 * _PIECES:
            return self._taps(vectorized)
        # Texts of like length together: a batch's longest would pad all the others.
        order = (vectorized != self.tokenizer.pad_token_id).sum(1).argsort()
        pieces = [self._taps(vectorized[rows]) for rows in order.chunk(_PIECES)]
        back = order.argsort()
        return {tap: torch.cat([piece[tap] for piece in pieces])[back] for tap in pieces[0]}

    def _shortens(self) -> bool:
        """Whether padding is left out: not while it is traced, as shapes then depend on texts."""
        return self._trims and not torch.compiler.is_compiling()

    def _taps(self, vectorized: Tensor) -> dict[str, Tensor]:
        mask = (vectorized != self.tokenizer.pad_token_id).long()
        longest = max(int(mask.sum(1).max()), 1) if self._shortens() else mask.shape[1]
        tokens, mask = vectorized[:, :longest], mask[:, :longest]
        states = self._states(tokens, mask)
        weights = (mask / mask.sum(1, keepdim=True).clamp(min=1)).unsqueeze(2).to(states[0])
        return {
            str(tap): (states[depth] * weights).sum(1).unsqueeze(2)
            for tap, depth in enumerate(self.depths)
        }


class TransformerImage(_Transformer, ImageBackbone):
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
        saved: `source` is the folder that `save_files` wrote; weights are random, and
            a state dict brings the normalisation too.

    Raises:
        InputError: no such model at hand, not an image encoder, or a size it cannot
            take.
    """

    colours: Tensor  # (3, 3), of RGB in [0, 1]
    black: Tensor  # (3,)

    def __init__(
        self,
        source: str | Path,
        weights: str | None = None,
        taps: int = 4,
        size: tuple[int, int] | None = None,
        *,
        saved: bool = False,
    ) -> None:
        super().__init__()
        if weights not in (None, "DEFAULT"):
            raise InputError(f"weights must be None or 'DEFAULT', got {weights!r}.")
        with loading(
            source,
            "Give an image encoder's folder with config.json, preprocessor_config.json and "
            "weights, or go online once.",
        ):
            model, self.whole_config = _encoder(
                source, "image", random=weights is None, offline=saved
            )
            side = max(_pair(getattr(model.config, "image_size", None) or 224))
            colours, black = torch.eye(3), torch.zeros(3)
            if not saved:
                colours, black, made = _colour_map(source, side)
                size = made if size is None else size
            self.register_buffer("colours", colours)  # in the state dict: part of the model
            self.register_buffer("black", black.clone())
            self.size = check_size(size or (side, side))
            self.model = model
            takes = inspect.signature(model.forward).parameters
            self._resizes = "interpolate_pos_encoding" in takes
            blank = torch.zeros(1, 3, *self.size)
            with sized(type(model).__name__, self.size), measuring(model):
                states = self._states(blank)
                stages = len(getattr(model.config, "depths", None) or ())
                first = 0 if len(states) == stages else 1  # most give their embedding first
                depths = _even_depths(len(states) - first, taps)
                self.depths = tuple(depth - 1 + first for depth in depths)
                maps = [self._arranged(states[depth], blank) for depth in self.depths]
        self.channels = {str(tap): value.shape[1] for tap, value in enumerate(maps)}
        self.name = f"transformers:{Path(source).name} {weights} layers {self.depths} {self.size}"
        self.options = {"taps": taps, "size": self.size}

    def _states(self, images: Tensor) -> list[Tensor]:
        """Return the hidden states of normalised images: maps if it has them, else tokens."""
        options: dict[str, Any] = {}
        usual = getattr(self.model.config, "image_size", None)
        if self._resizes and usual is not None and _pair(usual) != tuple(images.shape[2:]):
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
        """Return maps (N, C, H', W') as they are, tokens (N, leading + H' * W', C) as maps."""
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
        with sized(self.name.split()[0], (images.shape[2], images.shape[3])):
            states = self._states(normal)
        return {
            str(tap): self._arranged(states[depth], normal) for tap, depth in enumerate(self.depths)
        }


def _pair(size: Any) -> tuple[int, int]:
    """Return (H, W) of a config's size: one number for both, or two."""
    height, width = (size, size) if isinstance(size, int) else size
    return int(height), int(width)

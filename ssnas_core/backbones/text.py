"""Text backbones: a Maxout MLP on latent semantic vectors, and any transformers encoder.

The Maxout MLP (GMU, arXiv:1702.01992; BM-NAS, arXiv:2104.09379) is 300 -> 64 -> 128
with five pieces. Deviation from both: its 300-d input is not the mean of word2vec
vectors, which MM-IMDB ships only for its own plots, but TF-IDF reduced by a
truncated SVD (latent semantic analysis), fitted on the train texts at hand.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from ssnas_core.backbones.base import TextBackbone
from ssnas_core.errors import InputError

if TYPE_CHECKING:
    from sklearn.feature_extraction.text import TfidfVectorizer

log = logging.getLogger(__name__)


class Maxout(nn.Module):
    """max over `pieces` linear maps, per output (Goodfellow et al., arXiv:1302.4389)."""

    def __init__(self, inputs: int, outputs: int, pieces: int) -> None:
        super().__init__()
        self.pieces = pieces
        self.linear = nn.Linear(inputs, outputs * pieces)

    def forward(self, vectors: Tensor) -> Tensor:
        """(N, inputs) -> (N, outputs)."""
        return self.linear(vectors).unflatten(1, (-1, self.pieces)).amax(2)


class MaxoutMLP(TextBackbone):
    """Latent semantic vector (tap "0"), then two maxout layers (taps "1" and "2").

    `fit` learns from the train texts, without labels: words (lower case, English
    stop words left out, in at least two texts, the `words` most frequent), their
    inverse document frequencies, and a truncated SVD of the TF-IDF matrix. A text
    becomes its projection, scaled to length sqrt(number of components): so the mean
    square of a component is 1. (Whitening the components, in part or wholly, was
    measured on MM-IMDB's dev split: no gain with all labels, a loss with few.)

    With fewer than `inputs` texts or words there are fewer components than
    `inputs`: the vector is padded with zeros. A text without a known word is all
    zeros.

    Args:
        inputs: length of the vector, tap "0".
        hidden: width of tap "1".
        outputs: width of tap "2".
        pieces: linear maps per maxout unit.
        words: largest vocabulary; the fitted state takes words * inputs * 4 bytes.
    """

    vocabulary: Tensor
    idf: Tensor
    components: Tensor
    scale: Tensor

    def __init__(
        self,
        inputs: int = 300,
        hidden: int = 64,
        outputs: int = 128,
        pieces: int = 5,
        words: int = 10000,
    ) -> None:
        super().__init__()
        self.name = f"maxout {inputs}-{hidden}-{outputs} pieces {pieces} words {words}"
        self.channels = {"0": inputs, "1": hidden, "2": outputs}
        self.words = words
        self.layers = nn.ModuleList()
        for before, after in ((inputs, hidden), (hidden, outputs)):
            self.layers.append(nn.Sequential(nn.BatchNorm1d(before), Maxout(before, after, pieces)))
        # the fitted state: buffers, so that every way of saving weights saves it
        self.register_buffer("vocabulary", torch.zeros(0, dtype=torch.uint8))  # lines, UTF-8
        self.register_buffer("idf", torch.zeros(0))
        self.register_buffer("components", torch.zeros(0, inputs))  # (words, inputs)
        self.register_buffer("scale", torch.tensor(0.0))  # length of a text's vector

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for name in ("vocabulary", "idf", "components"):
            value = state_dict.get(prefix + name)
            if value is not None:  # the vocabulary's size is part of the state
                mine = getattr(self, name)
                setattr(self, name, mine.new_zeros((len(value), *mine.shape[1:])))
        self.__dict__.pop("_vectorizer", None)
        super()._load_from_state_dict(state_dict, prefix, *args)

    @staticmethod
    def _tfidf(**options: Any) -> TfidfVectorizer:
        from sklearn.feature_extraction.text import TfidfVectorizer

        return TfidfVectorizer(
            sublinear_tf=True,
            stop_words="english",
            dtype=np.float32,  # type: ignore[arg-type]  # its stub says float64
            **options,
        )

    @cached_property
    def _vectorizer(self) -> TfidfVectorizer:
        words = bytes(self.vocabulary.cpu().numpy()).decode().split("\n")
        vectorizer = self._tfidf(vocabulary=words)
        vectorizer.idf_ = self.idf.cpu().numpy()
        return vectorizer

    def fit(self, texts: Sequence[str]) -> MaxoutMLP:
        """Learn vocabulary, SVD and scale from the train texts; no labels. Returns self.

        Raises:
            InputError: the texts have fewer than two distinct words.
        """
        from sklearn.decomposition import TruncatedSVD

        inputs = self.channels["0"]
        for rarest in (2, 1):  # every word of a handful of texts may be in one only
            vectorizer = self._tfidf(min_df=rarest, max_features=self.words)
            try:
                weights = vectorizer.fit_transform(texts)
            except ValueError:  # scikit-learn's word for an empty vocabulary
                continue
            if weights.shape[1] > 1:
                break
        else:
            raise InputError(
                f"fitting the text backbone needs texts with at least two distinct words, "
                f"got {len(texts)} texts without; check the text column of the train split."
            )
        rank = min(inputs, *weights.shape)
        if rank < inputs:
            log.warning(
                "%d texts with %d words give %d of %d text components; the rest is zeros",
                *weights.shape, rank, inputs,
            )  # fmt: skip
        svd = TruncatedSVD(rank, random_state=0).fit(weights)
        device = self.idf.device
        words = "\n".join(vectorizer.get_feature_names_out()).encode()
        components = np.zeros((weights.shape[1], inputs), np.float32)
        components[:, :rank] = np.asarray(svd.components_).T
        self.vocabulary = torch.tensor(list(words), dtype=torch.uint8, device=device)
        self.idf = torch.tensor(vectorizer.idf_, device=device)
        self.components = torch.from_numpy(components).to(device)
        self.scale = torch.tensor(rank**0.5, device=device)
        self.__dict__.pop("_vectorizer", None)
        return self

    def vectorize(self, texts: Sequence[str]) -> Tensor:
        """Texts as scaled latent semantic vectors (N, inputs) float32, on the CPU.

        Raises:
            InputError: the backbone is not fitted.
        """
        if not len(self.idf):
            raise InputError(
                "expected a fitted text backbone, got one without a vocabulary; "
                "call fit(train_texts) or load a state dict first."
            )
        weights = self._vectorizer.transform(texts)
        vectors = torch.from_numpy(np.asarray(weights @ self.components.cpu().numpy()))
        return nn.functional.normalize(vectors) * self.scale.cpu()

    def forward(self, vectorized: Tensor) -> dict[str, Tensor]:
        """(N, inputs) -> tap -> (N, C, 1)."""
        taps = {"0": vectorized}
        for tap, layer in enumerate(self.layers, start=1):
            taps[str(tap)] = vectorized = layer(vectorized)
        return {tap: value.unsqueeze(2) for tap, value in taps.items()}


class TransformerText(TextBackbone):
    """A transformers text encoder; a tap is the mean of a layer's hidden states over tokens.

    Args:
        source: a local folder, or a model's name on the Hugging Face hub or in its cache.
        taps: how many hidden layers, at even distances, the last included.
        length: tokens a text is cut to and padded to.

    Raises:
        InputError: no such model at hand, or a length it cannot take.
    """

    def __init__(self, source: str | Path, taps: int = 4, length: int = 128) -> None:
        super().__init__()
        if taps < 1 or length < 3:
            raise InputError(f"taps must be >= 1 and length >= 3, got {taps} and {length}.")
        model, self.tokenizer = self._load(source)
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self.tokenizer.padding_side = "right"
        longest = min(
            self.tokenizer.model_max_length,
            getattr(model.config, "max_position_embeddings", None) or length,
        )
        if length > longest:
            raise InputError(f"{source} takes up to {longest} tokens, got length {length}.")
        if hasattr(model, "pooler"):
            model.pooler = None  # never used, and its weights would never see a gradient
        self.model = model
        self.length = length
        layers = int(model.config.num_hidden_layers)
        taps = min(taps, layers)
        self.depths = tuple(-(-layers * (tap + 1) // taps) for tap in range(taps))
        self.channels = {str(tap): int(model.config.hidden_size) for tap in range(taps)}
        vocabulary = json.dumps(sorted(self.tokenizer.get_vocab().items())).encode()
        tokens = hashlib.sha256(vocabulary).hexdigest()[:8]
        # a folder's own name, not its path: moving a model does not change it
        name = Path(source).name
        self.name = f"transformers:{name} layers {self.depths} length {length} vocabulary {tokens}"

    @staticmethod
    def _load(source: str | Path) -> tuple[Any, Any]:
        from transformers import AutoModel, AutoTokenizer
        from transformers.utils import logging as transformers_logging

        showing = transformers_logging.is_progress_bar_enabled()
        transformers_logging.disable_progress_bar()  # bars are the caller's to ask for
        try:
            tokenizer = AutoTokenizer.from_pretrained(source)
            model = AutoModel.from_pretrained(source)
        except (OSError, ValueError, KeyError) as error:
            reason = str(error).strip().splitlines()[0]
            raise InputError(
                f"expected a transformers model folder or name, got {str(source)!r}: {reason} "
                "Give a folder with config.json, tokenizer and weights, or go online once."
            ) from error
        finally:
            if showing:
                transformers_logging.enable_progress_bar()
        return (model.get_encoder() if model.config.is_encoder_decoder else model), tokenizer

    def vectorize(self, texts: Sequence[str]) -> Tensor:
        """Texts as padded tokens (N, length) int64, on the CPU."""
        if not len(texts):
            return torch.zeros(0, self.length, dtype=torch.int64)
        tokens = self.tokenizer(
            list(texts),
            padding="max_length",
            truncation=True,
            max_length=self.length,
            return_tensors="pt",
        )
        return tokens["input_ids"]

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

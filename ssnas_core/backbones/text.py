"""Text backbone: a Maxout MLP on latent semantic vectors.

The Maxout MLP (GMU, arXiv:1702.01992; BM-NAS, arXiv:2104.09379) is 300 -> 64 -> 128
with five pieces. Deviation from both: its 300-d input is not the mean of word2vec
vectors, which MM-IMDB ships only for its own plots, but TF-IDF reduced by a
truncated SVD (latent semantic analysis), fitted on the train texts at hand. With
a file of word vectors, `Word2VecMLP` is theirs.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from ssnas_core.backbones.base import TextBackbone, words_of
from ssnas_core.backbones.maxout import MaxoutLayers
from ssnas_core.errors import InputError

if TYPE_CHECKING:
    from sklearn.feature_extraction.text import TfidfVectorizer

log = logging.getLogger(__name__)


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

    learns = True
    _kind = "maxout"
    _grown = ("vocabulary", "idf", "components")
    _cached = ("_vectorizer",)

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
        self.layers = MaxoutLayers((inputs, hidden, outputs), pieces)
        self._options = {
            "inputs": inputs, "hidden": hidden, "outputs": outputs, "pieces": pieces, "words": words
        }  # fmt: skip
        # the fitted state: buffers, so that every way of saving weights saves it
        self.register_buffer("vocabulary", torch.zeros(0, dtype=torch.uint8))  # lines, UTF-8
        self.register_buffer("idf", torch.zeros(0))
        self.register_buffer("components", torch.zeros(0, inputs))  # (words, inputs)
        self.register_buffer("scale", torch.tensor(0.0))  # length of a text's vector

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
        words = words_of(self.vocabulary, self.idf, self.components)
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
        self._forget()
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
        return self.layers(vectorized)

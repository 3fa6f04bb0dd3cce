"""Text backbone: a Maxout MLP on the mean of a text's word vectors, from a file of one's own.

That is the text input of GMU (arXiv:1702.01992) and BM-NAS (arXiv:2104.09379) on
MM-IMDB: the mean of the 300-d word2vec vectors of a plot's known words, then
maxout layers 64 and 128 of five pieces.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ssnas_core.backbones._word_files import read_dimension, read_vectors
from ssnas_core.backbones.base import TextBackbone, words_of
from ssnas_core.backbones.maxout import MaxoutLayers
from ssnas_core.errors import InputError

_TOKEN = re.compile(r"\b\w\w+\b")  # as MaxoutMLP's words: letters and digits, two or more


class Word2VecMLP(TextBackbone):
    """Mean word vector (tap "0"), then two maxout layers (taps "1" and "2").

    `fit` takes from the file the vectors of words that occur in the train texts, as
    written or in lower case; of these the `words` most frequent there. They become
    part of the state dict, so the file is not needed again. A text becomes the mean
    of its known words' vectors, each as often as it occurs, written as in the text
    or, where that is unknown, in lower case. The mean is divided by one number for
    all texts, such that on the train texts with a known word the mean square of a
    component is 1. A text without a known word is all zeros.

    Args:
        source: word2vec's binary format (.bin), or text (.txt, .vec), each also
            gzipped (.gz); None where a state dict brings the vectors.
        hidden: width of tap "1".
        outputs: width of tap "2".
        pieces: linear maps per maxout unit.
        words: largest vocabulary; the fitted state takes words * D * 4 bytes.
        inputs: D, the length of a vector; None for what the file has.

    Raises:
        InputError: a file that is not there or not one of word vectors.
    """

    learns = True
    _kind = "word2vec"
    _grown = ("vocabulary", "vectors")
    _cached = ("_rows",)

    vocabulary: Tensor
    vectors: Tensor
    scale: Tensor

    def __init__(
        self,
        source: str | Path | None,
        hidden: int = 64,
        outputs: int = 128,
        pieces: int = 5,
        words: int = 30000,
        inputs: int | None = None,
    ) -> None:
        super().__init__()
        self.source = None if source is None else Path(source)
        if self.source is not None:
            found = read_dimension(self.source)
            if inputs not in (None, found):
                raise InputError(f"expected vectors of {inputs} numbers in {source}, got {found}.")
            inputs = found
        if inputs is None or words < 1:
            raise InputError(
                f"word vectors need a file or a length, and words >= 1, got {source}, {inputs} "
                f"and {words}; as Word2VecMLP('vectors.bin')."
            )
        widths = (inputs, hidden, outputs)
        told = "-".join(map(str, widths))
        name = "" if self.source is None else f"{self.source.name} "  # moving a file is no change
        self.name = f"word2vec {name}{told} pieces {pieces} words {words}"
        self.channels = {str(tap): width for tap, width in enumerate(widths)}
        self.words = words
        self.layers = MaxoutLayers(widths, pieces)
        self.register_buffer("vocabulary", torch.zeros(0, dtype=torch.uint8))  # lines, UTF-8
        self.register_buffer("vectors", torch.zeros(0, inputs))  # (words, D), as in the file
        self.register_buffer("scale", torch.tensor(1.0))  # of the train texts' means
        self._options = {
            "inputs": inputs, "hidden": hidden, "outputs": outputs, "pieces": pieces, "words": words
        }  # fmt: skip

    @cached_property
    def _rows(self) -> dict[str, int]:
        """Word -> row of `vectors`."""
        words = words_of(self.vocabulary, self.vectors)
        return {word: row for row, word in enumerate(words)}

    def _means(self, texts: Sequence[str]) -> Iterator[np.ndarray]:
        """The mean vector of each text, (D,) float32 in the file's units; zeros where none."""
        vectors = self.vectors.cpu().numpy()
        for text in texts:
            rows = [
                row
                for word in _TOKEN.findall(text)
                if (row := self._rows.get(word, self._rows.get(word.lower()))) is not None
            ]
            yield vectors[rows].mean(0) if rows else np.zeros(vectors.shape[1], np.float32)

    def fit(self, texts: Sequence[str]) -> Word2VecMLP:
        """Take the train texts' words from the file, and learn the scale. Returns self.

        Raises:
            InputError: the file is broken or gone, or has none of the words.
        """
        if self.source is None:
            raise InputError(
                "expected a word2vec backbone with its file, got one built without; "
                "make it anew, as text_backbone('word2vec:vectors.bin')."
            )
        found: Counter[str] = Counter()  # of each word the file may have
        for word, count in Counter(w for text in texts for w in _TOKEN.findall(text)).items():
            for form in {word, word.lower()}:
                found[form] += count
        ordered = sorted(found, key=lambda word: (-found[word], word))
        ranks = {word.encode(): rank for rank, word in enumerate(ordered)}
        kept = read_vectors(self.source, ranks, self.words)
        if not kept:
            raise InputError(
                f"expected words of the train texts in {self.source}, got none of {len(ranks):,} "
                f"words of {len(texts):,} texts; choose vectors of the texts' language."
            )
        device = self.vectors.device
        self.vocabulary = torch.tensor(list(b"\n".join(kept)), dtype=torch.uint8, device=device)
        self.vectors = torch.from_numpy(np.stack(list(kept.values()))).to(device)
        self._forget()
        squares = [float(np.square(mean, dtype=np.float64).mean()) for mean in self._means(texts)]
        known = [square for square in squares if square > 0]
        scale = float(np.sqrt(np.mean(known))) if known else 1.0
        self.scale = torch.tensor(scale, device=device)
        return self

    def vectorize(self, texts: Sequence[str]) -> Tensor:
        """Texts as scaled mean word vectors (N, D) float32, on the CPU.

        Raises:
            InputError: the backbone is not fitted.
        """
        if not len(self.vectors):
            raise InputError(
                "expected a fitted text backbone, got one without a vocabulary; "
                "call fit(train_texts) or load a state dict first."
            )
        rows = np.zeros((len(texts), self.channels["0"]), np.float32)
        for row, mean in enumerate(self._means(texts)):
            rows[row] = mean
        return torch.from_numpy(rows).div_(self.scale.cpu())

    def forward(self, vectorized: Tensor) -> dict[str, Tensor]:
        """(N, D) -> tap -> (N, C, 1)."""
        return self.layers(vectorized)

"""Text backbones: a Maxout MLP on latent semantic vectors, or on the means of word vectors.

Latent semantic vectors are of words, or of short runs of characters, for languages
that put no spaces between words.

The Maxout MLP (GMU, arXiv:1702.01992; BM-NAS, arXiv:2104.09379) is 300 -> 64 -> 128
with five pieces. Deviation from both: its 300-d input is not the mean of word2vec
vectors, which MM-IMDB ships only for its own plots, but TF-IDF reduced by a
truncated SVD (latent semantic analysis), fitted on the train texts at hand. With
a file of word vectors, `Word2VecMLP` is theirs. Such files are read as a stream:
word2vec's binary format, and text.
"""

from __future__ import annotations

import gzip
import heapq
import logging
import re
import unicodedata
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from io import BufferedReader
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor, nn

from ssnas_core.backbones.base import MaxoutLayers, TextBackbone, words_of
from ssnas_core.common.errors import InputError

if TYPE_CHECKING:
    from sklearn.feature_extraction.text import TfidfVectorizer

log = logging.getLogger(__name__)


class _VectorMLP(TextBackbone):
    """A vector of the words of a text (tap "0"), then two maxout layers (taps "1" and "2").

    `fit` learns a vocabulary and more from the train texts; all of it is in buffers, so
    that every way of saving weights saves it.

    Args:
        name: of the vectors.
        inputs: length of the vector, tap "0".
        hidden: width of tap "1".
        outputs: width of tap "2".
        pieces: linear maps per maxout unit.
        words: largest vocabulary.
    """

    learns = True
    vocabulary: Tensor  # lines, UTF-8
    scale: Tensor

    def __init__(
        self, name: str, inputs: int, hidden: int, outputs: int, pieces: int, words: int
    ) -> None:
        super().__init__()
        self.name = f"{name} {inputs}-{hidden}-{outputs} pieces {pieces} words {words}"
        self.channels = {"0": inputs, "1": hidden, "2": outputs}
        self.words = words
        self.layers = MaxoutLayers((inputs, hidden, outputs), pieces)
        self.options = {
            "inputs": inputs, "hidden": hidden, "outputs": outputs, "pieces": pieces, "words": words
        }  # fmt: skip
        self.register_buffer("vocabulary", torch.zeros(0, dtype=torch.uint8))
        self.register_buffer("scale", torch.tensor(1.0))

    def vectorize(self, texts: Sequence[str]) -> Tensor:
        """Texts as scaled vectors (N, inputs) float32, on the CPU.

        Raises:
            InputError: the backbone is not fitted.
        """
        if not len(self.vocabulary):
            raise InputError(
                "expected a fitted text backbone, got one without a vocabulary; "
                "call fit(train_texts) or load a state dict first."
            )
        return self._vectors(texts)

    def _vectors(self, texts: Sequence[str]) -> Tensor:
        raise NotImplementedError

    def known(self, texts: Sequence[str]) -> np.ndarray:
        """Share of each text's words that are in the vocabulary, (N,); 0 where it has no word."""
        found = (list(map(self._is_known, self._words(text))) for text in texts)
        return np.array([sum(one) / len(one) if one else 0.0 for one in found])

    def _words(self, text: str) -> Sequence[str]:
        """Return what counts as a word in a text, each as often as it occurs."""
        raise NotImplementedError

    def _is_known(self, word: str) -> bool:
        raise NotImplementedError

    def forward(self, vectorized: Tensor) -> dict[str, Tensor]:
        """(N, inputs) -> tap -> (N, C, 1)."""
        return self.layers(vectorized)


class MaxoutMLP(_VectorMLP):
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

    _grown = ("vocabulary", "idf", "components")
    _cached = ("_vectorizer", "_analyzer")
    kind, unit = "maxout", "word"  # in the name, and in messages

    idf: Tensor
    components: Tensor

    def __init__(
        self,
        inputs: int = 300,
        hidden: int = 64,
        outputs: int = 128,
        pieces: int = 5,
        words: int = 10000,
    ) -> None:
        super().__init__(self.kind, inputs, hidden, outputs, pieces, words)
        self.register_buffer("idf", torch.zeros(0))
        self.register_buffer("components", torch.zeros(0, inputs))  # (words, inputs)

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
    def _analyzer(self) -> Callable[[str], Sequence[str]]:
        return self._vectorizer.build_analyzer()

    def _words(self, text: str) -> Sequence[str]:
        return self._analyzer(text)

    def _is_known(self, word: str) -> bool:
        return word in self._vectorizer.vocabulary_

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
                f"fitting the text backbone needs texts with at least two distinct {self.unit}s, "
                f"got {len(texts)} texts without; check the text column of the train split."
            )
        rank = min(inputs, *weights.shape)
        if rank < inputs:
            log.warning(
                "%d texts with %d %ss give %d of %d text components; the rest is zeros",
                *weights.shape, self.unit, rank, inputs,
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

    def _vectors(self, texts: Sequence[str]) -> Tensor:
        weights = self._vectorizer.transform(texts)
        vectors = torch.from_numpy(np.asarray(weights @ self.components.cpu().numpy()))
        return nn.functional.normalize(vectors) * self.scale.cpu()


class CharacterMLP(MaxoutMLP):
    """Maxout MLP on short runs of characters, for languages without spaces between words.

    As `MaxoutMLP`, with runs of one to three characters for words. They are taken from
    what stands between punctuation and spaces, in lower case. There are no stop words: a
    run that is in most texts has little weight.

    Args:
        inputs, hidden, outputs, pieces: as of `MaxoutMLP`.
        words: most runs of characters, the most frequent ones.
    """

    kind, unit = "characters", "character"

    def __init__(
        self,
        inputs: int = 300,
        hidden: int = 64,
        outputs: int = 128,
        pieces: int = 5,
        words: int = 20000,
    ) -> None:
        super().__init__(inputs, hidden, outputs, pieces, words)

    def _words(self, text: str) -> Sequence[str]:
        return [run for run in character_runs(text) if len(run) == 1]  # longer ones are of these

    @staticmethod
    def _tfidf(**options: Any) -> TfidfVectorizer:
        from sklearn.feature_extraction.text import TfidfVectorizer

        return TfidfVectorizer(
            sublinear_tf=True,
            analyzer=character_runs,  # type: ignore[arg-type]  # a function may be given
            dtype=np.float32,  # type: ignore[arg-type]  # its stub says float64
            **options,
        )


def character_runs(text: str) -> list[str]:
    """Return the runs of one to three characters within each piece of a text, in lower case.

    Pieces are parted by what is neither a letter, a mark on one nor a digit: Thai
    writes its vowels as marks, which `\\w` leaves out.
    """
    line = "".join(c if unicodedata.category(c)[0] in "LMN" else " " for c in text.lower())
    return [
        piece[start : start + length]
        for piece in line.split()
        for length in (1, 2, 3)
        for start in range(len(piece) - length + 1)
    ]


_File = gzip.GzipFile | BufferedReader

MAX_DIMENSION = 10_000
MAX_LINE = 1 << 20  # bytes of a text file's line
MAX_WORD = 10_000  # bytes of a word in a binary file
MAX_BLANK = 10_000  # blank lines in a text file
MAX_RATIO = 20  # a file that unpacks to more times its size is refused; text shrinks to a third
_MIN_UNPACKED = 50_000_000  # bytes that may be unpacked whatever the ratio
_BLOCK = 1 << 20


class _Header(NamedTuple):
    """The first line of a file of word vectors."""

    binary: bool
    count: int | None  # words, where the file says how many
    dimension: int
    first: bytes  # a line of words that was read already
    most: int  # bytes that the file may unpack to


@contextmanager
def _opened(path: Path) -> Iterator[tuple[_File, _Header]]:
    """Open a file at its first word, with the header."""
    name = path.name.removesuffix(".gz")
    if not name.endswith((".bin", ".txt", ".vec")):
        raise InputError(
            f"expected a file of word vectors .bin, .txt or .vec (also with .gz), got {path}; "
            "name it after its format."
        )
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else open(path, "rb") as file:
            yield file, _header(file, path, name.endswith(".bin"))
    except (OSError, EOFError, zlib.error) as error:  # BadGzipFile is an OSError
        raise InputError(
            f"expected word vectors in {path}, got {type(error).__name__}: {error}; "
            "check the path, or download the file again."
        ) from error


def _header(file: _File, path: Path, binary: bool) -> _Header:
    line = file.readline(MAX_LINE)
    fields = line.split()
    if len(fields) == 2 and all(one.isdigit() and len(one) < 13 for one in fields):
        count, dimension, first = int(fields[0]), int(fields[1]), b""
    else:
        count, dimension, first = None, len(fields) - 1, line
        if binary or dimension < 2 or _numbers(fields[1:]) is None:
            expected = "a line 'words dimension'" if binary else "'word x1 x2 ...'"
            start = repr(line[:40]) if line else "an empty file"
            raise InputError(
                f"expected {expected} at the start of {path}, got {start}; "
                "choose a file of word vectors, named .bin if it is binary, else .txt or .vec."
            )
    if not 1 <= dimension <= MAX_DIMENSION:
        raise InputError(
            f"expected vectors of 1 to {MAX_DIMENSION:,} numbers in {path}, got {dimension:,}; "
            "choose another file."
        )
    size = path.stat().st_size
    most = max(_MIN_UNPACKED, MAX_RATIO * size) if path.suffix == ".gz" else size
    return _Header(binary, count, dimension, first, most)


def _numbers(fields: list[bytes]) -> np.ndarray | None:
    try:
        with np.errstate(over="ignore"):
            return np.array([float(one) for one in fields]).astype(np.float32)
    except ValueError:
        return None


def read_vectors(path: Path, ranks: Mapping[bytes, int], most: int) -> dict[bytes, np.ndarray]:
    """Return the vectors of wanted words; of those in the file, the `most` of lowest rank.

    Reads the file once, whole, and keeps at most `most` vectors at a time. Of a word
    that comes twice the first vector counts. Words are compared as bytes: others
    need not be UTF-8.

    Args:
        path: the file.
        ranks: wanted words, UTF-8, each with a rank of its own.
        most: how many to keep, >= 1.

    Returns:
        word -> vector, (D,) float32, by rank.

    Raises:
        InputError: a file that is broken, whatever the words wanted.
    """
    path = Path(path)
    best: dict[bytes, np.ndarray] = {}
    worst: list[tuple[int, bytes]] = []  # a heap: the largest rank is at the top
    with _opened(path) as (file, header):
        entries = _binary_entries if header.binary else _text_entries
        for number, (word, payload) in enumerate(entries(file, header, path), start=1):
            rank = ranks.get(word)
            if rank is None or word in best or (len(best) == most and rank > -worst[0][0]):
                continue
            vector = _vector(payload, header, f"word {number} ({word.decode()!r}) of {path}")
            if vector is None:
                continue
            best[word] = vector
            heapq.heappush(worst, (-rank, word))
            if len(best) > most:
                del best[heapq.heappop(worst)[1]]
    return {word: best[word] for word in sorted(best, key=ranks.__getitem__)}


def _vector(payload: bytes, header: _Header, where: str) -> np.ndarray | None:
    """Return the numbers of a word, or None where the word has a space in it."""
    if header.binary:
        vector = np.frombuffer(payload, "<f4").astype(np.float32)
    else:
        fields = payload.split()
        if len(fields) > header.dimension and _numbers(fields[:1]) is None:
            return None  # GloVe has such: "at name@domain.com 0.1 ..."
        numbers = _numbers(fields)
        if numbers is None or len(fields) != header.dimension:
            raise InputError(
                f"expected {header.dimension} numbers for {where}, got {len(fields)} fields; "
                "the file is broken: download it again."
            )
        vector = numbers
    if not np.isfinite(vector).all():
        raise InputError(
            f"expected finite numbers for {where}, got NaN or infinity; "
            "the file is broken: download it again."
        )
    return vector


def _miscounted(path: Path, header: _Header, got: str) -> InputError:
    return InputError(
        f"expected {header.count:,} words of {header.dimension} numbers in {path}, as its first "
        f"line says, got {got}; the file is cut off or broken: download it again."
    )


def _swollen(path: Path, header: _Header) -> InputError:
    return InputError(
        f"expected {path} to unpack to at most {header.most:,} bytes, got more; "
        "it is no file of word vectors: download it again."
    )


def _binary_entries(file: _File, header: _Header, path: Path) -> Iterator[tuple[bytes, bytes]]:
    """Yield each word of a binary file with the bytes of its vector."""
    assert header.count is not None
    size = 4 * header.dimension
    block, place = b"", 0
    for number in range(header.count):
        while (end := block.find(b" ", place)) < 0 or end + 1 + size > len(block):
            if len(block) - place > MAX_WORD + size:
                break
            more = file.read(_BLOCK)
            if file.tell() > header.most:
                raise _swollen(path, header)
            if not more:
                raise _miscounted(path, header, f"{number:,} words")
            block, place = block[place:] + more, 0
        if not 0 <= end - place <= MAX_WORD:
            raise _miscounted(path, header, f"no word after word {number:,}")
        yield block[place:end].lstrip(b"\n"), block[end + 1 : end + 1 + size]
        place = end + 1 + size
    if (block[place:] + file.read(_BLOCK)).strip(b"\n"):
        raise _miscounted(path, header, "more")


def _text_entries(file: _File, header: _Header, path: Path) -> Iterator[tuple[bytes, bytes]]:
    """Yield each word of a text file with the text of its vector."""
    number, line = 0, header.first or file.readline(MAX_LINE)
    blank = 0
    while line:
        if file.tell() > header.most:
            raise _swollen(path, header)
        if not line.strip():
            blank += 1
            if blank > MAX_BLANK:
                raise InputError(
                    f"expected a word in each line of {path}, got {blank:,} blank lines; "
                    "choose a text file of word vectors."
                )
        else:
            number += 1
            if len(line) == MAX_LINE:
                raise InputError(
                    f"expected lines of at most {MAX_LINE:,} bytes in {path}, got a longer one "
                    f"(word {number:,}); choose a text file of word vectors."
                )
            word, _, rest = line.partition(b" ")
            if rest.count(b" ") < header.dimension - 1:  # quick: all lines pass here
                raise InputError(
                    f"expected {header.dimension} numbers for word {number:,} of {path}, got "
                    f"{len(rest.split())}; the file is cut off or broken: download it again."
                )
            yield word, rest
        line = file.readline(MAX_LINE)
    if header.count is not None and number != header.count:
        raise _miscounted(path, header, f"{number:,}")


_TOKEN = re.compile(r"\b\w\w+\b")  # as MaxoutMLP's words: letters and digits, two or more


class Word2VecMLP(_VectorMLP):
    """Mean word vector (tap "0"), then two maxout layers (taps "1" and "2").

    `fit` takes from the file the vectors of words that occur in the train texts, as
    written or in lower case; of these the `words` most frequent there. They become
    part of the state dict, so that the file is not needed again. A text becomes the mean
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

    argument = "FILE"
    _grown = ("vocabulary", "vectors")
    _cached = ("_rows",)

    vectors: Tensor

    def __init__(
        self,
        source: str | Path | None,
        hidden: int = 64,
        outputs: int = 128,
        pieces: int = 5,
        words: int = 30000,
        inputs: int | None = None,
    ) -> None:
        path = None if source is None else Path(source)
        if path is not None:
            with _opened(path) as (_, header):
                length = header.dimension
            if inputs not in (None, length):
                raise InputError(f"expected vectors of {inputs} numbers in {source}, got {length}.")
            inputs = length
        if inputs is None or words < 1:
            raise InputError(
                f"word vectors need a file or a length, and words >= 1, got {source}, {inputs} "
                f"and {words}; as Word2VecMLP('vectors.bin')."
            )
        name = "word2vec" if path is None else f"word2vec {path.name}"  # moving it is no change
        super().__init__(name, inputs, hidden, outputs, pieces, words)
        self.source = path
        self.register_buffer("vectors", torch.zeros(0, inputs))  # (words, D), as in the file

    @classmethod
    def rebuilt(cls, folder: Path | None, **options: Any) -> Self:
        return cls(None, **options)

    @cached_property
    def _rows(self) -> dict[str, int]:
        """Return word -> row of `vectors`."""
        words = words_of(self.vocabulary, self.vectors)
        return {word: row for row, word in enumerate(words)}

    def _words(self, text: str) -> Sequence[str]:
        return _TOKEN.findall(text)

    def _is_known(self, word: str) -> bool:
        return self._row(word) is not None

    def _row(self, word: str) -> int | None:
        return self._rows.get(word, self._rows.get(word.lower()))

    def _means(self, texts: Sequence[str]) -> Iterator[np.ndarray]:
        """Yield the mean vector of each text, (D,) float32 in the file's units; else zeros."""
        vectors = self.vectors.cpu().numpy()
        for text in texts:
            rows = [row for word in self._words(text) if (row := self._row(word)) is not None]
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
        counts: Counter[str] = Counter()  # of each word the file may have
        for word, count in Counter(w for text in texts for w in _TOKEN.findall(text)).items():
            for form in {word, word.lower()}:
                counts[form] += count
        ordered = sorted(counts, key=lambda word: (-counts[word], word))
        ranks = {word.encode(): rank for rank, word in enumerate(ordered)}
        vectors = read_vectors(self.source, ranks, self.words)
        if not vectors:
            raise InputError(
                f"expected words of the train texts in {self.source}, got none of {len(ranks):,} "
                f"words of {len(texts):,} texts; choose vectors of the texts' language."
            )
        device = self.vectors.device
        self.vocabulary = torch.tensor(list(b"\n".join(vectors)), dtype=torch.uint8, device=device)
        self.vectors = torch.from_numpy(np.stack(list(vectors.values()))).to(device)
        self._forget()
        squares = [float(np.square(mean, dtype=np.float64).mean()) for mean in self._means(texts)]
        known = [square for square in squares if square > 0]
        scale = float(np.sqrt(np.mean(known))) if known else 1.0
        self.scale = torch.tensor(scale, device=device)
        return self

    def _vectors(self, texts: Sequence[str]) -> Tensor:
        rows = np.zeros((len(texts), self.channels["0"]), np.float32)
        for row, mean in enumerate(self._means(texts)):
            rows[row] = mean
        return torch.from_numpy(rows).div_(self.scale.cpu())

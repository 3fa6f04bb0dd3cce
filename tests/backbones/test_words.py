"""Facts about word vectors from a file: formats, what is kept, what is refused."""

from __future__ import annotations

import gzip
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch

from ssnas_core.backbones import text as text_backbones
from ssnas_core.backbones.factory import text_backbone
from ssnas_core.backbones.text import MaxoutMLP, Word2VecMLP
from ssnas_core.common.errors import InputError

# of three numbers that float32 and a short decimal both hold
VECTORS = {
    "the": (1.0, 0.0, 0.0), "Queen": (0.0, 2.0, 0.5), "queen": (0.0, 1.0, 0.0),
    "rules": (0.25, -1.0, 4.0), "kingdom": (3.0, 0.0, -2.0), "war": (0.5, 0.5, 0.5),
}  # fmt: skip
TEXTS = ["The Queen rules the kingdom.", "A war of the kingdom, a WAR!", "xyzzy plugh"]


def binary(entries, *, line_ends: bool = False, header: bytes | None = None) -> bytes:
    """word2vec's own format; its C code ends each vector with a line end, gensim does not."""
    entries = list(entries)
    out = header or f"{len(entries)} {len(entries[0][1])}\n".encode()
    for word, vector in entries:
        word = word if isinstance(word, bytes) else word.encode()
        out += word + b" " + struct.pack(f"<{len(vector)}f", *vector) + b"\n" * line_ends
    return out


def text(entries, *, header: bool) -> bytes:
    entries = list(entries)
    lines = [f"{len(entries)} {len(entries[0][1])}"] * header
    lines += [" ".join([word, *map(str, vector)]) for word, vector in entries]
    return "\n".join([*lines, ""]).encode()


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


FORMATS = {
    "v.bin": binary(VECTORS.items()),
    "w.bin": binary(VECTORS.items(), line_ends=True),
    "v.bin.gz": binary(VECTORS.items()),
    "v.txt": text(VECTORS.items(), header=True),
    "glove.txt": text(VECTORS.items(), header=False),
    "v.vec": text(VECTORS.items(), header=True).replace(b"\n", b" \n"),  # fastText
    "v.vec.gz": text(VECTORS.items(), header=True),
    "windows.txt": text(VECTORS.items(), header=True).replace(b"\n", b"\r\n"),
}


def words_of(backbone: Word2VecMLP) -> list[str]:
    return bytes(backbone.vocabulary.numpy()).decode().split("\n")


def means_by_loops(texts: list[str]) -> np.ndarray:
    rows = []
    for words in texts:
        total, count = np.zeros(3), 0
        for word in words.replace(".", " ").replace(",", " ").replace("!", " ").split():
            vector = VECTORS.get(word, VECTORS.get(word.lower()))
            if vector is not None:
                total, count = total + np.array(vector), count + 1
        rows.append(total / max(count, 1))
    return np.array(rows)


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_mean_of_known_words_at_unit_scale(name, tmp_path):
    backbone = text_backbone(f"word2vec:{written(tmp_path / name, FORMATS[name])}")
    assert backbone.channels == {"0": 3, "1": 64, "2": 128} and backbone.learns
    vectors = backbone.fit(TEXTS).vectorize(TEXTS)
    means = means_by_loops(TEXTS)
    expected = means / np.sqrt((means[:2] ** 2).mean())  # the third text has no known word
    np.testing.assert_allclose(vectors.numpy(), expected, rtol=1e-5)
    assert vectors[:2].square().mean().item() == pytest.approx(1, rel=1e-5)
    assert not vectors[2].any() and vectors.dtype == torch.float32


def test_taps_are_the_vector_then_the_maxout_layers_of_maxout_mlp(tmp_path):
    path = written(tmp_path / "v.bin", FORMATS["v.bin"])
    backbone = Word2VecMLP(path, hidden=5, outputs=7, pieces=2).fit(TEXTS).eval()
    other = MaxoutMLP(inputs=3, hidden=5, outputs=7, pieces=2).eval()
    other.layers.load_state_dict(backbone.layers.state_dict())
    vectors = backbone.vectorize(TEXTS)
    taps, others = backbone(vectors), other(vectors)
    assert {tap: tuple(value.shape) for tap, value in taps.items()} == {
        "0": (3, 3, 1), "1": (3, 5, 1), "2": (3, 7, 1),
    }  # fmt: skip
    assert all(torch.equal(others[tap], value) for tap, value in taps.items())
    assert torch.equal(taps["0"].squeeze(2), vectors)
    assert all(value.isfinite().all() for value in taps.values())


def test_word_is_looked_up_as_written_then_in_lower_case(tmp_path):
    backbone = Word2VecMLP(written(tmp_path / "v.txt", FORMATS["v.txt"]))
    backbone.fit(["Queen queen QUEEN"])
    rows = backbone.vectorize(["Queen", "queen", "QUEEN"]) * backbone.scale
    assert rows.tolist() == [[0, 2, 0.5], [0, 1, 0], [0, 1, 0]]


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("", 0), (" ", 0), ("xyzzy plugh", 0), ("女王统治王国", 0), ("a b", 0), ("the", 1),
        ("KINGDOM, kingdom", 1), ("the xyzzy", 1 / 2), ("war war plugh plugh plugh", 2 / 5),
    ],
)  # fmt: skip
def test_share_of_the_words_that_have_a_vector_is_told(tmp_path, text, share):
    backbone = Word2VecMLP(written(tmp_path / "v.bin", FORMATS["v.bin"])).fit(TEXTS)
    assert backbone.known([text, "war"]).tolist() == [pytest.approx(share), 1]
    assert bool(backbone.vectorize([text]).any()) == (share > 0)


def test_only_the_most_frequent_words_of_the_train_texts_are_kept(tmp_path):
    path = written(tmp_path / "v.bin", FORMATS["v.bin"])
    texts = ["war war war kingdom kingdom", "The the rules queen"]
    assert words_of(Word2VecMLP(path).fit(texts)) == ["war", "kingdom", "the", "queen", "rules"]
    few = Word2VecMLP(path, words=2).fit(texts)
    assert words_of(few) == ["war", "kingdom"] and few.vectors.tolist() == [[0.5] * 3, [3, 0, -2]]
    assert not few.vectorize(["queen the rules"]).any()
    # one place, and better words come later in the file
    assert words_of(Word2VecMLP(path, words=1).fit(texts)) == ["war"]


def test_first_vector_of_a_word_that_comes_twice_counts(tmp_path):
    entries = [("war", (1.0, 2.0)), ("war", (3.0, 4.0)), ("the", (5.0, 6.0))]
    backbone = Word2VecMLP(written(tmp_path / "v.bin", binary(entries))).fit(["war the"])
    assert backbone.vectors.tolist() == [[5, 6], [1, 2]]  # by frequency, then by letter


def test_words_that_are_not_utf8_or_have_spaces_are_passed_over(tmp_path):
    entries = [(b"\xff\xfe", (9.0, 9.0)), ("war", (1.0, 2.0))]
    assert words_of(Word2VecMLP(written(tmp_path / "v.bin", binary(entries))).fit(["war"])) == [
        "war"
    ]
    lines = b"caf\xe9 9 9\nat name@domain 7 8\nat 5 6\nna\xc3\xafve 1 2\n. . . 3 4\n"
    backbone = Word2VecMLP(written(tmp_path / "glove.txt", lines)).fit(["at naïve"])
    assert words_of(backbone) == ["at", "naïve"]
    assert backbone.vectors.tolist() == [[5, 6], [1, 2]]


def test_vector_of_a_text_does_not_depend_on_the_others(tmp_path):
    backbone = Word2VecMLP(written(tmp_path / "v.bin", FORMATS["v.bin"])).fit(TEXTS)
    whole = backbone.vectorize(TEXTS)
    assert all(
        torch.equal(backbone.vectorize([one])[0], row)
        for one, row in zip(TEXTS, whole, strict=True)
    )
    assert backbone.vectorize([]).shape == (0, 3)


def test_it_comes_back_without_the_file(tmp_path, rebuilt):
    path = written(tmp_path / "v.bin", FORMATS["v.bin"])
    backbone = Word2VecMLP(path, hidden=4).fit(TEXTS).eval()
    path.unlink()
    again = rebuilt(backbone)
    vectors = backbone.vectorize(TEXTS)
    assert torch.equal(again.vectorize(TEXTS), vectors)
    assert torch.equal(again(vectors)["2"], backbone(vectors)["2"])
    with pytest.raises(InputError, match="expected a word2vec backbone with its file"):
        again.fit(TEXTS)


def test_fingerprint_follows_the_vectors_not_the_folder(tmp_path):
    def built(name: str, texts: list[str]) -> str:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        torch.manual_seed(0)
        return Word2VecMLP(written(path, FORMATS["v.bin"])).fit(texts).fingerprint()

    assert built("a/v.bin", TEXTS) == built("b/v.bin", TEXTS) != built("a/v.bin", TEXTS[:1])


def test_loading_another_vocabulary_replaces_the_fitted_one(tmp_path):
    path = written(tmp_path / "v.bin", FORMATS["v.bin"])
    one, other = Word2VecMLP(path).fit(TEXTS), Word2VecMLP(path).fit(["queen war"])
    other.vectorize(TEXTS)  # whatever is cached must go
    other.load_state_dict(one.state_dict())
    assert torch.equal(other.vectorize(TEXTS), one.vectorize(TEXTS))
    other.fit(["queen war"])
    assert not other.vectorize(["kingdom"]).any()


@pytest.mark.thorough
def test_memory_does_not_grow_with_the_file(tmp_path):
    count, dimension = 40_000, 50
    values = np.random.default_rng(0).normal(size=(count, dimension)).astype("<f4")
    path = tmp_path / "v.bin"
    with open(path, "wb") as file:
        file.write(f"{count} {dimension}\n".encode())
        for row in range(count):
            file.write(f"word{row} ".encode() + values[row].tobytes())
    assert path.stat().st_size > 8e6
    tracemalloc.start()
    backbone = Word2VecMLP(path).fit(["word17 word39999"])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5e6
    assert np.array_equal(backbone.vectors.numpy(), values[[17, 39999]])


BROKEN = {
    "empty.bin": (b"", "expected a line 'words dimension' at the start of .*an empty file"),
    "empty.txt": (b"", "expected 'word x1 x2 ...' at the start of .*an empty file"),
    "text.bin": (FORMATS["glove.txt"], "a line 'words dimension' at the start.*got b'the 1.0"),
    "prose.txt": (b"It was a dark night.\n", "'word x1 x2 ...' at the start of .*b'It was a"),
    "binary.txt": (FORMATS["v.bin"], "expected 6 words of 3 numbers in .*binary.txt"),
    "zeros.txt": (bytes(3 << 20), "expected 'word x1 x2 ...' at the start"),
    "cut.bin": (FORMATS["v.bin"][:-5], "expected 6 words of 3 numbers.*got 5 words; .*cut off"),
    "long.bin": (FORMATS["v.bin"] + b"more", "expected 6 words of 3 .*got more"),
    "lies.bin": (binary(VECTORS.items(), header=b"6 2\n"), "expected 6 words of 2 numbers"),
    "huge.bin": (b"3 99999999999\n", "vectors of 1 to 10,000 numbers.*got 99,999,999,999"),
    "none.bin": (b"3 0\n", "vectors of 1 to 10,000 numbers.*got 0"),
    "many.bin": (
        binary(VECTORS.items(), header=b"999999999999 3\n"),
        "expected 999,999,999,999 words .*got 6 words",
    ),
    "spaceless.bin": (b"9 3\n" + b"x" * 100_000, "expected 9 words.*got no word after word 0"),
    "nan.bin": (binary([("war", (1.0, float("nan")))]), "expected finite numbers for word 1 .'war"),
    "inf.txt": (b"a 1 2\nwar 1e99 1\n", "expected finite numbers for word 2 .'war'"),
    "cut.txt": (FORMATS["v.txt"][:-8], "expected 3 numbers for word 6 .*got 1"),
    "short.txt": (b"a 1 2 3\nwar 1 2\n", "expected 3 numbers for word 2 of .*got 2"),
    "long.txt": (b"a 1 2\nwar 1 2 3\n", "expected 2 numbers for word 2 .'war'.*got 3 fields"),
    "letters.txt": (b"a 1 2\nwar 1 x\n", "expected 2 numbers for word 2 .'war'"),
    "lies.txt": (FORMATS["v.txt"].replace(b"6 3", b"7 3"), "expected 7 words of 3 .*got 6"),
    "line.txt": (b"a 1 2\nb 1 " + b"2" * (2 << 20), "lines of at most 1,048,576 bytes"),
    "cut.bin.gz": (None, "expected word vectors in .*EOFError"),
    "plain.txt.gz": (None, "expected word vectors in .*BadGzipFile"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_broken_file_is_refused(name, tmp_path):
    content, message = BROKEN[name]
    path = tmp_path / name
    if content is None:
        whole = FORMATS["v.txt"]
        path.write_bytes(gzip.compress(whole)[:-20] if "cut" in name else whole)
    else:
        path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        Word2VecMLP(path).fit(["war and peace"])


@pytest.mark.parametrize("name", ["v.bin.gz", "v.txt.gz"])
def test_file_that_unpacks_to_many_times_its_size_is_refused(name, tmp_path, monkeypatch):
    entries = [("zero", (0.0, 0.0, 0.0))] * 20_000
    content = binary(entries) if "bin" in name else text(entries, header=True)
    path = written(tmp_path / name, content)
    Word2VecMLP(path).fit(["zero"])  # small enough to be let pass
    monkeypatch.setattr(text_backbones, "_MIN_UNPACKED", 0)
    with pytest.raises(InputError, match="to unpack to at most .* bytes, got more"):
        Word2VecMLP(path).fit(["zero"])


def test_blank_lines_without_end_are_refused(tmp_path):
    path = written(tmp_path / "v.txt", FORMATS["glove.txt"] + b"\n" * 10_000)
    Word2VecMLP(path).fit(["war"])
    path.write_bytes(path.read_bytes() + b"\n")
    with pytest.raises(InputError, match="a word in each line of .*v.txt, got 10,001 blank"):
        Word2VecMLP(path).fit(["war"])


def test_unusable_requests_are_refused(tmp_path):
    with pytest.raises(
        InputError, match="'maxout', 'characters', 'word2vec:FILE', 'words', 'segments"
    ):
        text_backbone("bert")
    with pytest.raises(InputError, match="word vectors in .*none.bin, got FileNotFoundError"):
        text_backbone(f"word2vec:{tmp_path / 'none.bin'}")
    with pytest.raises(InputError, match=r"word vectors \.bin, \.txt or \.vec .*got .*model.kv"):
        text_backbone(f"word2vec:{tmp_path / 'model.kv'}")
    path = written(tmp_path / "v.bin", FORMATS["v.bin"])
    with pytest.raises(InputError, match="expected a fitted text backbone"):
        Word2VecMLP(path).vectorize(["war"])
    with pytest.raises(
        InputError, match="expected words of the train texts .*none of 4 words of 2"
    ):
        Word2VecMLP(path).fit(["guerra", "Paz xyz"])
    with pytest.raises(InputError, match="word vectors need a file or a length, and words >= 1"):
        Word2VecMLP(path, words=0)
    with pytest.raises(InputError, match="expected vectors of 300 numbers in .*got 3"):
        Word2VecMLP(path, inputs=300)
    path.unlink()
    path.mkdir()
    with pytest.raises(InputError, match="expected word vectors in .*IsADirectoryError"):
        Word2VecMLP(path)

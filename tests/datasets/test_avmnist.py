"""AV-MNIST from generated files in MNIST's and FSDD's form, never the real ones."""

from __future__ import annotations

import gzip
import io
import logging
import re
import tarfile
import wave
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ssnas_core.common.errors import InputError
from ssnas_core.datasets import avmnist
from ssnas_core.datasets.avmnist import (  # fmt: skip
    HOP,
    SPAN,
    WINDOW,
    noise_like,
    principal,
    read_avmnist,
    read_recordings,
    reduced,
    spectrograms,
)
from ssnas_core.datasets.avmnist import SPECTROGRAM_SIDE as SIDE
from ssnas_core.datasets.open import form_of, open_dataset
from ssnas_core.datasets.records import Skips

TRAIN, TEST = 60, 30
PAIRS = (40, 12, 20)
SPEAKERS = ("anna", "bert", "carl", "dora")
TAKES = (0, 3, 4, 5, 8, 9, 11)


def idx(array: np.ndarray, magic: int) -> bytes:
    return np.array([magic, *array.shape], ">u4").tobytes() + array.tobytes()


def wav(samples: np.ndarray, *, rate: int = 8000, channels: int = 1, width: int = 2) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setparams((channels, width, rate, 0, "NONE", ""))
        writer.writeframes(samples.astype(f"<i{width}").tobytes())
    return file.getvalue()


def write_mnist(folder: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Images whose first pixels tell part and number, so that none is like another."""
    folder.mkdir(parents=True, exist_ok=True)
    told = {}
    for part, count in (("train", TRAIN), ("t10k", TEST)):
        rng = np.random.default_rng(count)
        images = rng.integers(256, size=(count, 28, 28), dtype=np.uint8)
        images[:, 0, 0], images[:, 0, 1] = np.arange(count), 255 * (part == "train")
        labels = rng.permutation(np.arange(count) % 10).astype(np.uint8)
        told[part] = images, labels
        for array, name, magic in ((images, "images-idx3", 0x803), (labels, "labels-idx1", 0x801)):
            (folder / f"{part}-{name}-ubyte.gz").write_bytes(gzip.compress(idx(array, magic)))
    return told


def recordings() -> dict[str, bytes]:
    """Names and contents; each has a tone of its digit's own frequency."""
    rng = np.random.default_rng(0)
    made = {}
    for digit in range(10):
        for speaker in SPEAKERS:
            for take in TAKES:
                time = np.arange(rng.integers(1500, 4000)) / 8000
                tone = 8000 * np.sin(2 * np.pi * (400 + 300 * digit) * time)
                made[f"{digit}_{speaker}_{take}.wav"] = wav(tone + rng.normal(0, 50, len(time)))
    return made


WAVS = recordings()


def write_archive(path: Path, folder: str = "free-spoken-digit-dataset-1.0.10/recordings") -> None:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in {"../README.md": b"text", **WAVS}.items():
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """MNIST's files and FSDD's archive; not to be changed."""
    home = tmp_path_factory.mktemp("avmnist")
    write_mnist(home)
    write_archive(home / "fsdd.tar.gz")
    return home


@pytest.fixture
def loose(tmp_path):
    """The same with loose wav files, to be changed."""
    write_mnist(tmp_path)
    (tmp_path / "recordings").mkdir()
    for name, content in WAVS.items():
        (tmp_path / "recordings" / name).write_bytes(content)
    return tmp_path


def sources(data):
    """(split, MNIST part, number, digit, speaker, take) of each record, by its id."""
    pattern = re.compile(r"(train|t10k)-(\d+)\+(\d)_([a-z]+)_(\d+)")
    for record in data.records:
        part, row, digit, speaker, take = pattern.fullmatch(record.id).groups()
        yield record, part, int(row), int(digit), speaker, int(take)


def content(data):
    return {r.id: {name: value.tobytes() for name, value in r.inputs.items()} for r in data.records}


def test_pairs_are_grey_images_of_both_kinds_with_one_label(folder):
    data = read_avmnist(folder, pairs=PAIRS)
    assert (data.name, data.single_label, data.classes) == ("avmnist", True, tuple("0123456789"))
    assert list(data.kinds.items()) == [("image", "image"), ("audio", "image")]
    assert tuple(len(data.indices(split)) for split in ("train", "dev", "test")) == PAIRS
    for record in data.records:
        for name, side in (("image", 28), ("audio", 112)):
            pixels = record.inputs[name]
            assert pixels.dtype == np.uint8 and pixels.shape == (3, side, side)
            assert (pixels == pixels[:1]).all() and not pixels.flags.writeable


@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    seed=st.integers(0, 2**32),
    apart=st.sampled_from(["takes", "speakers"]),
    train=st.integers(1, 45),
    dev=st.integers(1, 15),
    test=st.integers(1, TEST),
)
def test_parts_share_no_recording_and_no_image_and_pairs_keep_their_class(
    folder, seed, apart, train, dev, test
):
    data = read_avmnist(folder, pairs=(train, dev, test), seed=seed, apart=apart, noise=None)
    labels = {part: write for part, (_, write) in write_mnist(folder).items()}
    images, sounds = {}, {}
    for record, part, row, digit, speaker, take in sources(data):
        assert images.setdefault((part, row), record.id) == record.id  # in one pair at most
        assert (part == "t10k") == (record.split == "test")
        kept = {"takes": take, "speakers": speaker}[apart]
        assert sounds.setdefault(kept, record.split) == record.split
        assert record.labels == (str(digit),) == (str(labels[part][row]),)
        if apart == "takes":
            assert record.split == ("test" if take < 5 else "dev" if take < 10 else "train")


def test_every_recording_of_a_part_is_used_as_often_as_the_others(folder):
    uses: dict[tuple, int] = {}
    data = read_avmnist(folder, pairs=(TRAIN - 1, 1, TEST), noise=None)
    for record, _, _, digit, speaker, take in sources(data):
        if record.split == "train":
            uses[digit, speaker, take] = uses.get((digit, speaker, take), 0) + 1
    for digit in range(10):
        of_digit = [uses.get((digit, s, t), 0) for s in SPEAKERS for t in TAKES if t >= 10]
        assert max(of_digit) - min(of_digit) <= 1


def test_same_seed_gives_the_same_bytes_and_another_seed_others(folder):
    first, again, other = (read_avmnist(folder, pairs=PAIRS, seed=seed) for seed in (1, 1, 2))
    assert content(first) == content(again)
    assert first.fingerprint() == again.fingerprint() != other.fingerprint()
    assert not content(first).keys() <= content(other).keys()


def test_a_recording_is_in_other_noise_each_time(folder):
    data = read_avmnist(folder, pairs=(59, 1, TEST))
    by_sound: dict[tuple, list[bytes]] = {}
    for record, _, _, *sound in sources(data):
        by_sound.setdefault(tuple(sound), []).append(record.inputs["audio"].tobytes())
    twice = [seen for seen in by_sound.values() if len(seen) > 1]
    assert twice and all(len(set(seen)) == len(seen) for seen in twice)


def test_components_are_fitted_on_train_images_alone(folder, tmp_path):
    """Images of dev and test, whatever they are, change nothing in train."""
    data = read_avmnist(folder, pairs=PAIRS)
    told = write_mnist(tmp_path)
    write_archive(tmp_path / "x.tgz", "recordings")
    used = [row for record, part, row, *_ in sources(data) if record.split == "train"]
    images = 255 - told["train"][0]
    images[used] = told["train"][0][used]
    (tmp_path / "train-images-idx3-ubyte.gz").unlink()
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx(images, 0x803))  # not gzipped
    (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(
        gzip.compress(idx(255 - told["t10k"][0], 0x803))
    )
    other = read_avmnist(tmp_path, pairs=PAIRS)
    before, after = content(data), content(other)
    assert before.keys() == after.keys()
    for record in data.records:
        same = before[record.id]["image"] == after[record.id]["image"]
        assert same == (record.split == "train")
        assert before[record.id]["audio"] == after[record.id]["audio"]


@pytest.mark.parametrize("energy", [0.1, 0.25, 0.6, 0.95, 1.0])
def test_least_components_that_hold_the_energy_are_kept_as_by_singular_values(energy):
    rng = np.random.default_rng(3)
    images = rng.normal(100, 1, (50, 36)) + rng.normal(size=(50, 8)) @ rng.normal(0, 9, (8, 36))
    images = images.clip(0, 255).astype(np.uint8).reshape(50, 6, 6)
    mean, components = principal(images, energy)
    centred = images.reshape(50, 36) - images.reshape(50, 36).mean(0)
    _, values, rows = np.linalg.svd(centred, full_matrices=False)
    shares = np.cumsum(values**2) / np.sum(values**2)
    count = next(k for k, share in enumerate(shares, 1) if share >= energy - 1e-9)
    assert components.shape == (36, count)
    assert np.allclose(components.T @ components, np.eye(count))
    if energy < 1:  # of the last components, by rounding, there may be others
        assert np.allclose(components @ components.T, rows[:count].T @ rows[:count])
        kept = np.square(centred @ components).sum() / np.square(centred).sum()
        assert shares[count - 2] * (count > 1) < energy <= kept
    by_svd = centred @ rows[:count].T @ rows[:count] + images.reshape(50, 36).mean(0)
    expected = np.rint(by_svd).clip(0, 255).reshape(images.shape)
    assert np.abs(reduced(images, mean, components) - expected).max() <= (energy < 1)
    if energy == 1:
        assert np.array_equal(reduced(images, mean, components), images)


def test_all_energy_leaves_images_as_they_are(folder):
    told = write_mnist(folder)
    data = read_avmnist(folder, pairs=PAIRS, energy=1.0)
    for record, part, row, *_ in sources(data):
        if record.split == "train":
            assert np.array_equal(record.inputs["image"][0], told[part][0][row])


def test_images_that_are_all_alike_are_kept(tmp_path):
    images = np.full((5, 4, 4), 9, np.uint8)
    assert np.array_equal(reduced(images, *principal(images, 0.25)), images)


def test_spectrogram_is_the_short_time_transform_written_as_loops():
    wave_ = np.random.default_rng(0).normal(size=(1, SPAN))
    power = np.empty((SIDE, SIDE))
    for time in range(SIDE):
        for row in range(0, SIDE, 37):
            frequency = SIDE - row  # the highest is at the top; 0 is left out
            total = 0j
            for n in range(WINDOW):
                hann = np.sin(np.pi * n / WINDOW) ** 2
                turn = np.exp(-2j * np.pi * frequency * n / WINDOW)
                total += hann * wave_[0, time * HOP + n] * turn
            power[row, time] = abs(total) ** 2
    pixels = spectrograms(wave_)[0]
    rows = np.arange(0, SIDE, 37)
    decibel = 10 * np.log10(power[rows])
    ours = pixels[rows].astype(float) / 255 * 60
    offset = (ours - decibel).mean()  # the loudest point may be in another row
    assert np.abs(ours - decibel - offset).max() < 0.2
    assert pixels.max() == 255


def test_silence_is_black():
    """A long recording may have sound at its ends only, which its picture does not show."""
    with np.errstate(all="raise"):
        assert not spectrograms(np.zeros((2, SPAN))).any()


def test_tone_is_a_line_at_its_frequency():
    time = np.arange(SPAN) / 8000
    (pixels,) = spectrograms(np.sin(2 * np.pi * 1000 * time)[None])
    assert (pixels.argmax(0) == SIDE - 1000 * WINDOW // 8000).all()
    assert (pixels[:50] == 0).all()  # 60 dB below


@pytest.mark.parametrize("colour", [0.0, 1.0, 2.0])
def test_noise_falls_with_frequency_as_its_colour_says(colour):
    noise = noise_like(40, np.random.default_rng(0), (colour, colour))
    assert np.allclose(np.square(noise).mean(1), 1)
    power = np.square(np.abs(np.fft.rfft(noise))).mean(0)
    low, high = power[100:200].mean(), power[1600:3200].mean()
    assert np.log2(low / high) == pytest.approx(4 * colour, abs=0.3)  # four octaves


@pytest.mark.parametrize("level", [-20.0, 0.0, 20.0])
def test_noise_has_the_level_asked_for(folder, monkeypatch, level):
    mixed = []
    monkeypatch.setattr(avmnist, "spectrograms", lambda waves: mixed.append(waves) or waves)
    read = read_recordings(folder, Skips("x", True))
    rows = np.arange(0, len(read.names), 7)
    read.in_noise(rows, (level, level), np.random.default_rng(0))
    (waves,) = mixed
    for row, wave_ in zip(rows, waves, strict=True):
        clean = read.samples[row].astype(float)
        signal = np.square(clean).sum() / np.count_nonzero(np.abs(clean) > 0)
        ratio = 10 * np.log10(signal / np.square(wave_ - clean).mean())
        assert ratio == pytest.approx(level, abs=0.1)  # a sample of 0 or so is not counted


def test_without_noise_silence_is_black(folder):
    data = read_avmnist(folder, pairs=PAIRS, noise=None)
    for record in data.records:
        assert record.inputs["audio"].max() == 255
        assert (record.inputs["audio"][:, :, :10] == 0).all()
    noisy = read_avmnist(folder, pairs=PAIRS)
    assert all((one.inputs["audio"][:, :, :10] > 0).mean() > 0.3 for one in noisy.records)


@pytest.mark.parametrize("length", [1, 2, SPAN - 1, SPAN, SPAN + 1, 2 * SPAN, 20_001])
def test_recording_stands_in_the_middle_or_its_middle_is_taken(tmp_path, length):
    ramp = np.arange(1, length + 1) % 30_000
    (tmp_path / "3_anna_7.wav").write_bytes(wav(ramp))
    read = read_recordings(tmp_path, Skips("x", True))
    assert (read.names, read.digits.tolist(), read.takes.tolist()) == (["3_anna_7"], [3], [7])
    kept = np.rint(read.samples[0] * 2**15).astype(int)
    before = (length - SPAN) // 2 if length > SPAN else 0
    if length >= SPAN:
        assert abs(before - (length - SPAN) / 2) <= 1
        first = int(np.flatnonzero(ramp == kept[0])[0])
        assert abs(first - (length - SPAN) / 2) <= 1
        assert np.array_equal(kept, ramp[first : first + SPAN])
    else:
        there = np.flatnonzero(kept)
        assert np.array_equal(kept[there], ramp)
        assert abs(there[0] - (SPAN - 1 - there[-1])) <= 1
    assert read.power[0] == pytest.approx(np.square(ramp / 2**15).mean())


def test_layouts_of_the_recordings_give_the_same(folder, loose, tmp_path):
    expected = read_avmnist(folder, pairs=PAIRS).fingerprint()
    assert read_avmnist(loose, pairs=PAIRS).fingerprint() == expected
    release = tmp_path / "free-spoken-digit-dataset-1.0.10"
    release.mkdir()
    (loose / "recordings").rename(release / "recordings")
    assert read_avmnist(loose, pairs=PAIRS).fingerprint() == expected
    for file in (release / "recordings").iterdir():
        file.rename(loose / file.name)
    assert read_avmnist(loose, pairs=PAIRS).fingerprint() == expected


def test_folder_is_told_by_mnists_files_and_read_by_open_dataset(folder, loose, monkeypatch):
    monkeypatch.setattr(avmnist, "PAIRS", PAIRS)
    monkeypatch.setitem(read_avmnist.__kwdefaults__, "pairs", PAIRS)
    assert form_of(folder) == form_of(loose) == "avmnist"
    assert open_dataset(folder).fingerprint() == read_avmnist(folder).fingerprint()
    (loose / "recordings" / "1_bert_3.wav").write_bytes(b"")
    assert len(open_dataset(loose)) == sum(PAIRS)
    with pytest.raises(InputError, match="read with strict off"):
        open_dataset(loose, strict=True)


GOOD = WAVS["0_anna_0.wav"]
BAD = {
    b"": "not a wav file",
    b"RIFF": "not a wav file",
    b"\0" * 100: "not a wav file",
    GOOD[:40]: "not a wav file",
    GOOD[:-2]: "cut short",
    wav(np.ones(99), rate=16_000): "16000 Hz, 1 channels, 16 bit; not 8000, 1, 16",
    wav(np.ones(98), channels=2): "8000 Hz, 2 channels",
    wav(np.ones(98), width=4): "8000 Hz, 1 channels, 32 bit",
    wav(np.zeros(99)): "silent",
    wav(np.zeros(0)): "silent",
    wav(np.ones(600_000)): "larger than 1 MB",
}


@pytest.mark.parametrize("bad", BAD, ids=BAD.values())
def test_bad_recording_is_counted_and_left_out(loose, caplog, bad):
    (loose / "recordings" / "7_carl_11.wav").write_bytes(bad)
    with caplog.at_level(logging.WARNING):
        data = read_avmnist(loose, pairs=PAIRS)
    assert len(data) == sum(PAIRS) and list(data.skipped) == ["7_carl_11.wav"]
    assert BAD[bad] in data.skipped["7_carl_11.wav"] and BAD[bad] in caplog.text
    assert not any(record.id.endswith("+7_carl_11") for record in data.records)
    with pytest.raises(InputError, match=f"'7_carl_11.wav': .*{BAD[bad]}"):
        read_avmnist(loose, pairs=PAIRS, strict=True)


def test_files_of_other_names_are_told(loose):
    for name in ("x_anna_1.wav", "12_anna_1.wav", "1_an_na_1.wav", "1_anna.wav", "1_anna_1x.wav"):
        (loose / "recordings" / name).write_bytes(GOOD)
    data = read_avmnist(loose, pairs=PAIRS)
    assert set(data.skipped.values()) == {"its name is not <digit>_<speaker>_<take>.wav"}
    assert len(data.skipped) == 5


def damaged(name, change):
    def damage(folder):
        path = folder / f"{name}-ubyte.gz"
        path.write_bytes(change(path.read_bytes()))

    return damage


def regzip(change):
    return lambda raw: gzip.compress(change(gzip.decompress(raw)))


def images(array, magic=2051):
    return damaged("t10k-images-idx3", lambda _: gzip.compress(idx(array.astype("u1"), magic)))


MNIST = {
    "missing": (lambda f: (f / "t10k-labels-idx1-ubyte.gz").unlink(),
                r"expected t10k-labels-idx1-ubyte\.gz, got no such file; .*ssnas download avmnist"),
    "no gzip": (damaged("train-images-idx3", lambda _: b"<html>"), "cannot read .*Not a gzip"),
    "cut gzip": (damaged("train-images-idx3", lambda raw: raw[:-100]), "cannot read .*End|Comp"),
    "flipped": (damaged("train-images-idx3", lambda raw: raw[:-8] + bytes(8)), "cannot read .*CRC"),
    "empty": (damaged("t10k-images-idx3", regzip(lambda _: b"")), r"got the header \[\]; down"),
    "labels as images": (images(np.zeros(9), 2049),
                         r"expected an IDX file of .* 28 x 28, got the header \[2049"),
    "none": (images(np.zeros((0, 28, 28))),
             "of 1 to 200,000 rows"),
    "larger": (images(np.zeros((2, 32, 32))),
               r"28 x 28, got the header \[2051, 2, 32, 32\]"),
    "cut": (damaged("t10k-images-idx3", regzip(lambda raw: raw[:-1])),
            "expected 23,520 bytes of 30 rows, got 23,519"),
    "more": (damaged("t10k-images-idx3", regzip(lambda raw: raw + b"x")), "of 30 rows, got more"),
    "huge": (damaged("t10k-labels-idx1", regzip(lambda raw: raw[:4] + b"\xff" * 4 + raw[8:])),
             r"of 1 to 200,000 rows of one byte, got the header \[2049, 4294967295\]"),
    "fewer labels": (damaged("t10k-labels-idx1", regzip(lambda _: idx(np.zeros(9, "u1"), 2049))),
                     "one label from 0 to 9 for each of the 30 images of t10k, got 9 up to 0"),
    "no digit": (damaged("t10k-labels-idx1", regzip(lambda _: idx(np.full(30, 10, "u1"), 2049))),
                 "got 30 up to 10"),
}  # fmt: skip


@pytest.mark.parametrize("case", MNIST)
def test_files_that_are_not_mnists_are_refused(loose, case):
    change, message = MNIST[case]
    change(loose)
    with pytest.raises(InputError, match=message):
        read_avmnist(loose, pairs=PAIRS)


def hostile(path, unpacked=b"", name="x/0_anna_0.wav", **header):
    with tarfile.open(path, "w:gz") as archive:
        member = tarfile.TarInfo(name)
        member.size = len(unpacked)
        for key, value in header.items():
            setattr(member, key, value)
        archive.addfile(member, io.BytesIO(unpacked))


def test_archives_that_are_none_or_too_large_are_refused(folder, tmp_path, monkeypatch):
    write_mnist(tmp_path)
    with pytest.raises(InputError, match="got 0 archives and no wav file; fetch them by"):
        read_avmnist(tmp_path, pairs=PAIRS)
    archive = tmp_path / "a.tar.gz"
    whole = (folder / "fsdd.tar.gz").read_bytes()
    nested = gzip.compress(whole)  # the inner one could unpack to any size
    broken = (b"", b"<html>", whole[:-1000], whole[:-8] + bytes(8), gzip.compress(b"x" * 99))
    for content in (*broken, nested):
        archive.write_bytes(content)
        with pytest.raises(InputError, match=r"cannot read .*a\.tar\.gz .*download it again"):
            read_avmnist(tmp_path, pairs=PAIRS)
    hostile(archive, type=tarfile.SYMTYPE, linkname="/etc/passwd")
    with pytest.raises(InputError, match=r"expected usable recordings, got none \(0 unusable\)"):
        read_avmnist(tmp_path, pairs=PAIRS)
    hostile(archive, b"nothing")
    with pytest.raises(InputError, match="got none .1 unusable, e.g. 0_anna_0.wav: not a wav"):
        read_avmnist(tmp_path, pairs=PAIRS)
    monkeypatch.setattr(avmnist, "_MOST_ARCHIVE", 10**6)
    hostile(archive, bytes(2 * 10**6))
    with pytest.raises(InputError, match="unpacks to more than 1 MB"):
        read_avmnist(tmp_path, pairs=PAIRS)
    write_archive(tmp_path / "b.tgz")
    with pytest.raises(InputError, match="got 2 archives and no wav file"):
        read_avmnist(tmp_path, pairs=PAIRS)


def test_more_files_than_a_collection_has_are_refused(loose, monkeypatch):
    monkeypatch.setattr(avmnist, "_MOST_FILES", len(WAVS) - 1)
    with pytest.raises(InputError, match=f"at most {len(WAVS) - 1} recordings, got more"):
        read_avmnist(loose, pairs=PAIRS)


def test_recording_that_an_archive_holds_twice_is_told(folder, tmp_path):
    write_mnist(tmp_path)
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        for place in ("a", "b"):
            member = tarfile.TarInfo(f"{place}/0_anna_0.wav")
            member.size = len(GOOD)
            archive.addfile(member, io.BytesIO(GOOD))
    skips = Skips("x", False)
    assert read_recordings(tmp_path, skips).names == ["0_anna_0"]
    assert skips.reasons == {"0_anna_0.wav": "occurs twice"}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"pairs": (40, 21, 20)}, "at most 60 pairs of the images of train, got 61; give fewer"),
        ({"pairs": (40, 12, 31)}, "at most 30 pairs of the images of t10k, got 31"),
        ({"pairs": (40, 0, 20)}, r"pairs >= 1 of train, dev and test, got \(40, 0, 20\)"),
        ({"pairs": (40, 12)}, r"pairs >= 1 of train, dev and test, got \(40, 12\)"),
        ({"pairs": (40.0, 12, 20)}, "pairs >= 1"),
        ({"seed": -1}, "a seed that is a whole number >= 0, got -1"),
        ({"energy": 0.0}, r"an energy in \(0, 1\], got 0\.0"),
        ({"energy": 25}, r"an energy in \(0, 1\], got 25"),
        ({"energy": float("nan")}, r"an energy in \(0, 1\], got nan"),
        ({"noise": (5, -5)}, r"noise as a range in dB, got \(5, -5\)"),
        ({"noise": (float("nan"), 1.0)}, "noise as a range in dB"),
        ({"apart": "nothing"}, "apart 'takes' or 'speakers', got 'nothing'"),
    ],
)
def test_choices_that_make_no_sense_are_refused(folder, given, message):
    with pytest.raises(InputError, match=message):
        read_avmnist(folder, **{"pairs": PAIRS, **given})


def test_digit_that_nobody_says_in_a_part_is_told(loose):
    for speaker in SPEAKERS:
        for take in (5, 8, 9):
            (loose / "recordings" / f"4_{speaker}_{take}.wav").unlink()
    with pytest.raises(InputError, match="recordings of every digit in dev, got none of 4"):
        read_avmnist(loose, pairs=(30, 30, 20))


def test_two_speakers_cannot_be_kept_apart_in_three_parts(loose):
    for path in (loose / "recordings").glob("*_[cd]*_*.wav"):
        path.unlink()
    with pytest.raises(InputError, match="at least 3 speakers to keep apart, got 2; keep takes"):
        read_avmnist(loose, pairs=PAIRS, apart="speakers")


def test_progress_is_shown_where_asked(folder, capsys):
    read_avmnist(folder, pairs=PAIRS)
    assert capsys.readouterr() == ("", "")
    read_avmnist(folder, pairs=PAIRS, progress=True)
    assert "spectrograms: 100%" in capsys.readouterr().err

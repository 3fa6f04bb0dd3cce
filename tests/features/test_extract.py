"""Facts about inputs and the feature store: what is decoded, stored, drawn, resumed, refused."""

from __future__ import annotations

import io
import json
import logging
import os
import pickle
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from ssnas_core.backbones.image import Pixels, SmallConvNet
from ssnas_core.backbones.text import MaxoutMLP
from ssnas_core.common.errors import InputError
from ssnas_core.datasets.records import Dataset, Record
from ssnas_core.features import extract
from ssnas_core.features import live as features_live
from ssnas_core.features.augment import (
    ImageAugment,
    JointAugment,
    TextAugment,
    apply_image,
    apply_text,
    image_draws,
    seed_draws,
)
from ssnas_core.features.extract import Taps, extract_features, store_key
from ssnas_core.features.inputs import RawInputs, decode_images, draws_generator, prepare_inputs
from ssnas_core.features.live import LiveInputs
from ssnas_core.features.store import FeatureStore, draw_views
from ssnas_core.objectives.base import OnDevice, _joined, two_views

SIZE = (16, 12)
WORDS = "ship robot queen war love city train killer song desert horse winter".split()


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Small tensors are quicker on one thread, above all where others use the cores too."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def posters(folder: Path, count: int) -> list[Path]:
    random = np.random.default_rng(0)
    paths = []
    for number in range(count):
        coarse = random.integers(0, 256, (6, 5, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize((40, 60), Image.Resampling.BICUBIC)
        paths.append(folder / f"{number:03d}.jpeg")
        image.save(paths[-1])
    return paths


def dataset_of(paths: list[Path], split: str = "train") -> Dataset:
    random = np.random.default_rng(1)
    records = tuple(
        Record(
            path.stem,
            {"image": path, "text": " ".join(random.choice(WORDS, 9))},
            (),
            ("train", "dev", "test")[number % 3],
        )
        for number, path in enumerate(paths)
    )
    return Dataset("made", {"image": "image", "text": "text"}, ("a",), records)


@pytest.fixture
def dataset(tmp_path) -> Dataset:
    (tmp_path / "posters").mkdir()
    return dataset_of(posters(tmp_path / "posters", 11))


@pytest.fixture(scope="module")
def backbones():
    torch.manual_seed(0)
    texts = [" ".join(np.random.default_rng(n).choice(WORDS, 6)) for n in range(30)]
    net = SmallConvNet(SIZE, (4, 6))
    with torch.no_grad():
        net.train()(torch.rand(16, 3, *SIZE))  # running statistics of its own
    return {"image": net, "text": MaxoutMLP(inputs=5, hidden=3, outputs=4).fit(texts)}


def made_inputs(count: int) -> RawInputs:
    random = np.random.default_rng(2)
    return RawInputs(
        {
            "image": random.integers(0, 256, (count, 3, *SIZE), dtype=np.uint8),
            "text": [" ".join(random.choice(WORDS, 9)) for _ in range(count)],
        },
        {"image": "image", "text": "text"},
        "made",
    )


def stored(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.npy"))}


# --- decoding


def test_decoded_image_is_scaled_to_cover_and_cropped_in_the_centre(tmp_path):
    """A wide image of three vertical stripes: only the middle one covers a tall target."""
    stripes = np.zeros((80, 240, 3), np.uint8)
    stripes[:, :80, 0] = stripes[:, 80:160, 1] = stripes[:, 160:, 2] = 255
    Image.fromarray(stripes).save(tmp_path / "a.png")
    stripes = stripes.transpose(1, 0, 2)  # and a tall one for a wide target
    Image.fromarray(stripes).save(tmp_path / "b.jpeg", quality=95, subsampling=0)
    array, bad = decode_images(
        dataset_of([tmp_path / "a.png", tmp_path / "b.jpeg"]), "image", (20, 20), tmp_path / "x.npy"
    )
    assert bad == {} and array.shape == (2, 3, 20, 20) and array.dtype == np.uint8
    middle = array[:, :, 2:-2, 2:-2].astype(int)
    assert (middle[:, 1] > 235).all() and (middle[:, [0, 2]] < 20).all()


def test_decoded_rows_keep_the_order_of_the_records(dataset, tmp_path):
    array, _ = decode_images(dataset, "image", (60, 40), tmp_path / "x.npy")
    for row, record in zip(array, dataset.records, strict=True):
        direct = np.asarray(Image.open(record.inputs["image"])).transpose(2, 0, 1)
        np.testing.assert_array_equal(row, direct)  # already of the size asked for
    assert isinstance(array, np.memmap) and not array.flags.writeable


def spoil(dataset: Dataset) -> dict[str, Path]:
    """Breaks five of the files, each in its own way."""
    paths = {record.id: record.inputs["image"] for record in dataset.records}
    whole = paths["001"].read_bytes()
    paths["001"].write_bytes(whole[: len(whole) // 2])
    paths["003"].write_bytes(b"<html>404 not found</html>")
    paths["004"].write_bytes(b"")
    bomb = io.BytesIO()
    Image.new("1", (10_000, 10_000)).save(bomb, "PNG")
    paths["006"].write_bytes(bomb.getvalue())
    paths["009"].write_bytes(whole[:20] + bytes(200))
    return paths


def test_bad_images_are_reported_and_the_rows_are_those_without_them(dataset, tmp_path, caplog):
    whole, _ = decode_images(dataset, "image", SIZE, tmp_path / "whole.npy")
    whole = np.array(whole)
    spoil(dataset)
    array, bad = decode_images(dataset, "image", SIZE, tmp_path / "x.npy")
    assert sorted(bad) == ["001", "003", "004", "006", "009"]
    assert "truncated" in bad["001"].lower() and "10000 x 10000 pixels" in bad["006"]
    assert "5 of 11 images cannot be decoded" in caplog.text
    kept = dataset.without(bad)
    rows = [int(record.id) for record in kept.records]
    np.testing.assert_array_equal(array, whole[rows])


def test_decoding_again_uses_the_file_unless_data_or_size_changed(dataset, tmp_path, monkeypatch):
    path = tmp_path / "x.npy"
    spoil(dataset)
    first, bad = decode_images(dataset, "image", SIZE, path)
    first = np.array(first)
    calls = []
    real = decode_images.__globals__["decode_image"]
    monkeypatch.setitem(
        decode_images.__globals__, "decode_image", lambda *a: calls.append(a) or real(*a)
    )
    again, bad_again = decode_images(dataset, "image", SIZE, path)
    assert not calls and bad_again == bad
    np.testing.assert_array_equal(again, first)
    with pytest.raises(InputError, match="got 5 that cannot be decoded"):
        decode_images(dataset, "image", SIZE, path, strict=True)
    decode_images(dataset, "image", (8, 8), path)
    assert len(calls) == 11
    dataset.records[0].inputs["image"].write_bytes(dataset.records[2].inputs["image"].read_bytes())
    decode_images(replace(dataset), "image", (8, 8), path)  # read anew
    assert len(calls) == 22


def test_interrupted_decoding_leaves_no_file(dataset, tmp_path, monkeypatch):
    def interrupted(path, size):
        if path.stem == "005":
            raise KeyboardInterrupt
        return np.zeros((3, *size), np.uint8)

    monkeypatch.setitem(decode_images.__globals__, "decode_image", interrupted)
    (tmp_path / "out").mkdir()
    with pytest.raises(KeyboardInterrupt):
        decode_images(dataset, "image", SIZE, tmp_path / "out" / "x.npy")
    assert list((tmp_path / "out").iterdir()) == []


def test_one_bad_image_is_an_error_if_strict_and_all_bad_always(dataset, tmp_path):
    spoil(dataset)
    message = r"expected 11 images, got 5 .*first: 001.*do without strict"
    with pytest.raises(InputError, match=message):
        decode_images(dataset, "image", SIZE, tmp_path / "x.npy", strict=True)
    for record in dataset.records:
        record.inputs["image"].write_bytes(b"no")
    with pytest.raises(InputError, match="got 11 that cannot be decoded .*restore the files"):
        decode_images(dataset, "image", SIZE, tmp_path / "x.npy")


def test_prepared_inputs_have_one_row_per_remaining_record(dataset, backbones, tmp_path):
    spoil(dataset)
    kept, inputs = prepare_inputs(dataset, backbones, tmp_path / "inputs")
    assert len(kept) == len(inputs) == 6 and set(kept.skipped) == {
        "001",
        "003",
        "004",
        "006",
        "009",
    }
    assert inputs.columns["text"] == kept.column("text")
    assert inputs.fingerprint == kept.fingerprint()
    direct, _ = decode_images(kept, "image", SIZE, tmp_path / "direct.npy")
    np.testing.assert_array_equal(inputs.columns["image"], direct)


def test_two_image_modalities_keep_the_rows_both_have(tmp_path):
    """The one misses records 1, 3, 4, 6 and 9, the other record 2."""
    for side in ("left", "right"):
        (tmp_path / side).mkdir()
    left, right = posters(tmp_path / "left", 11), posters(tmp_path / "right", 11)
    spoil(dataset_of(left))
    right[2].write_bytes(b"")
    records = tuple(
        Record(a.stem, {"left": a, "right": b}, (), "train")
        for a, b in zip(left, right, strict=True)
    )
    both = Dataset("two", {"left": "image", "right": "image"}, (), records)
    nets = {"left": SmallConvNet((60, 40)), "right": SmallConvNet((60, 40))}
    kept, inputs = prepare_inputs(both, nets, tmp_path / "inputs")
    assert [record.id for record in kept.records] == ["000", "005", "007", "008", "010"]
    for side in ("left", "right"):
        for row, record in zip(inputs.columns[side], kept.records, strict=True):
            direct = np.asarray(Image.open(record.inputs[side])).transpose(2, 0, 1)
            np.testing.assert_array_equal(row, direct)


def test_backbones_of_another_kind_are_refused(backbones, tmp_path):
    swapped = {"image": backbones["text"], "text": backbones["image"]}
    for wrong in (swapped, {"image": backbones["image"]}):
        with pytest.raises(InputError, match="expected one backbone per modality, of its kind"):
            extract_features(made_inputs(2), wrong, tmp_path / "s")


# --- extraction


@pytest.fixture(scope="module")
def store(backbones, tmp_path_factory) -> FeatureStore:
    folder = tmp_path_factory.mktemp("features") / "store"
    return extract_features(made_inputs(40), backbones, folder, views=3, length=4, seed=7)


def test_store_names_taps_by_modality_and_depth(store):
    assert store.channels == {"image_0": 4, "image_1": 6, "text_0": 5, "text_1": 3, "text_2": 4}
    assert list(store.channels) == ["image_0", "image_1", "text_0", "text_1", "text_2"]
    assert store.positions == {"image_0": 4, "image_1": 4, "text_0": 1, "text_1": 1, "text_2": 1}
    assert len(store) == 40 and store.views == 3
    assert store.bytes == 40 * 4 * 2 * (4 * 4 + 4 * 6 + 5 + 3 + 4)
    clean = store.clean(torch.tensor([5, 0]))
    assert {name: tuple(value.shape) for name, value in clean.items()} == {
        "image_0": (2, 4, 4), "image_1": (2, 4, 6), "text_0": (2, 1, 5), "text_1": (2, 1, 3),
        "text_2": (2, 1, 4),
    }  # fmt: skip
    assert all(value.dtype == torch.float32 for value in clean.values())


def direct_features(backbones, inputs: RawInputs, seed: int, view: int) -> dict[str, torch.Tensor]:
    """All samples in one batch, in a view, straight from the definitions."""
    images = torch.from_numpy(inputs.columns["image"]).float() / 255
    texts = inputs.columns["text"]
    if view:
        draws = image_draws(len(inputs), draws_generator(seed, 0, view - 1))
        images = apply_image(images, ImageAugment(), draws)
        texts = apply_text(
            texts, TextAugment(), seed_draws(len(inputs), draws_generator(seed, 1, view - 1))
        )
    nets = {name: backbone.eval() for name, backbone in backbones.items()}
    with torch.inference_mode():
        maps = nets["image"](images)
        words = nets["text"](nets["text"].vectorize(texts))
    pooled = {
        f"image_{tap}": functional.adaptive_max_pool2d(value, 2).flatten(2).mT
        for tap, value in maps.items()
    }
    return pooled | {f"text_{tap}": value.mT for tap, value in words.items()}


@pytest.mark.parametrize("view", [0, 1, 3])
def test_stored_features_are_a_direct_forward_pass_to_half_rounding(store, backbones, view):
    """The oracle takes all samples at once, so views do not depend on the batch either."""
    expected = direct_features(backbones, made_inputs(40), 7, view)
    for name, value in expected.items():
        got = torch.from_numpy(np.load(store.folder / f"{name}.npy")[:, view]).float()
        torch.testing.assert_close(got, value, rtol=2**-10, atol=1e-5)


def test_views_of_a_sample_differ_and_are_those_of_the_seed(store, backbones, tmp_path):
    image = np.load(store.folder / "image_1.npy")
    text = np.load(store.folder / "text_0.npy")
    for first, second in ((0, 1), (1, 2), (2, 3)):
        differ = (image[:, first] != image[:, second]).any((1, 2))
        assert differ.all() and (text[:, first] != text[:, second]).any((1, 2)).mean() > 0.9
    other = extract_features(made_inputs(40), backbones, tmp_path / "s", views=3, length=4, seed=8)
    image_8 = np.load(other.folder / "image_1.npy")
    np.testing.assert_array_equal(image_8[:, 0], image[:, 0])
    assert (image_8[:, 1:] != image[:, 1:]).any((2, 3)).all()


@pytest.mark.parametrize("module", [extract, features_live])
def test_stored_text_views_of_a_block_share_no_word(backbones, tmp_path, monkeypatch, module):
    seen: list[list[str]] = []
    monkeypatch.setattr(
        module, "apply_text", lambda *args: (seen.append(apply_text(*args)), seen[-1])[1]
    )
    how, inputs = JointAugment(text=TextAugment(parts=2, drop=0)), made_inputs(30)
    own = {"views": 4, "seed": 7, "augment": how}
    if module is features_live:
        LiveInputs(inputs, backbones, tmp_path, **own)
    else:
        extract_features(inputs, backbones, tmp_path / "store", length=4, **own)
    differ = 0
    for text, *views in zip(inputs.columns["text"], *seen[-4:], strict=True):
        first, second, third, fourth = ({*view.split()} for view in views)
        assert first | second == third | fourth == {*text.split()}
        assert not first & second and not third & fourth
        differ += first not in (third, fourth)
    assert differ > 20


def test_augmented_gather_equals_a_loop_over_samples(store):
    rows = torch.tensor([3, 17, 3, 39, 0])
    views = store.augmented(rows, torch.Generator().manual_seed(5), count=2)
    arrays = {name: np.load(store.folder / f"{name}.npy") for name in store.channels}
    for place, row in enumerate(rows.tolist()):
        used = []
        for view in views:
            matching = [
                number
                for number in range(4)
                if all(
                    np.array_equal(arrays[name][row, number], view[name][place].numpy())
                    for name in arrays
                )
            ]
            assert len(matching) == 1  # one view id for all modalities
            used += matching
        assert 0 not in used and len(set(used)) == 2  # augmented ones, and different


def test_clean_gather_is_view_zero(store):
    rows = torch.tensor([39, 2, 2])
    for name, value in store.clean(rows).items():
        expected = np.load(store.folder / f"{name}.npy")[rows.numpy(), 0]
        np.testing.assert_array_equal(value.numpy(), expected.astype(np.float32))


def test_drawn_views_are_uniform_over_ordered_pairs_and_follow_the_generator(store):
    rows = torch.zeros(6000, dtype=torch.int64)
    first, second = store.augmented(rows, torch.Generator().manual_seed(0))
    stored_views = np.load(store.folder / "image_0.npy")[0].astype(np.float32)

    def ids(value):
        return (value[:, None].numpy() == stored_views[None]).all((2, 3)).argmax(1)

    pairs = np.stack([ids(first["image_0"]), ids(second["image_0"])], 1)
    found, counts = np.unique(pairs, axis=0, return_counts=True)
    assert len(found) == 6 and (found[:, 0] != found[:, 1]).all()
    assert abs(counts - 1000).max() < 140  # 4.8 standard deviations
    again = store.augmented(rows, torch.Generator().manual_seed(0))
    assert torch.equal(again[1]["text_0"], second["text_0"])
    other = store.augmented(rows, torch.Generator().manual_seed(1))
    assert not torch.equal(other[1]["image_0"], second["image_0"])


def test_more_views_than_stored_are_drawn_with_repetition(store):
    views = store.augmented(torch.arange(40), torch.Generator().manual_seed(0), count=5)
    assert len(views) == 5 and all(view["image_0"].shape == (40, 4, 4) for view in views)


def test_enough_stored_views_are_drawn_as_ever():
    generators = [torch.Generator().manual_seed(3) for _ in range(2)]
    wanted = torch.rand(50, 4, generator=generators[0]).argsort(1)[:, :2] + 1
    assert torch.equal(draw_views(50, 4, 2, generators[1]), wanted)
    assert torch.equal(*(generator.get_state() for generator in generators))


def test_single_stored_view_is_paired_with_the_clean_one_in_random_order(backbones, tmp_path):
    pairs = draw_views(4000, 1, 2, torch.Generator().manual_seed(0))
    assert set(map(tuple, pairs.tolist())) == {(0, 1), (1, 0)}
    assert abs(int(pairs[:, 0].sum()) - 2000) < 160  # 5 standard deviations
    assert torch.equal(draw_views(9, 1, 1, torch.Generator()), torch.ones(9, 1, dtype=torch.int64))
    store = extract_features(made_inputs(5), backbones, tmp_path / "s", views=1, length=1)
    first, second = store.augmented(torch.arange(5), torch.Generator().manual_seed(0))
    assert (first["image_0"] != second["image_0"]).any(1).all()
    clean = store.clean(torch.arange(5))["image_0"]
    for one, other, plain in zip(first["image_0"], second["image_0"], clean, strict=True):
        assert torch.equal(one, plain) != torch.equal(other, plain)


@pytest.mark.parametrize(("views", "count"), [(1, 2), (1, 3), (2, 3), (2, 4), (3, 8), (4, 5)])
def test_too_few_stored_views_repeat_as_little_as_they_can(views, count):
    drawn = draw_views(300, views, count, torch.Generator().manual_seed(0))
    assert drawn.shape == (300, count)
    for row in drawn.tolist():
        counts = [row.count(view) for view in range(views + 1)]
        assert max(counts) - min(counts) <= 1 and sum(counts) == count
    assert len(set(map(tuple, drawn.tolist()))) > 1


def test_store_of_clean_features_only_has_no_views_to_draw(backbones, tmp_path):
    store = extract_features(made_inputs(3), backbones, tmp_path / "s", views=0, length=1)
    assert store.clean(torch.tensor([2]))["image_0"].shape == (1, 1, 4)
    with pytest.raises(InputError, match="got a store with views=0; extract with views >= 2"):
        store.augmented(torch.tensor([0]), torch.Generator())


class StoppedError(Exception):
    pass


@pytest.mark.parametrize("calls", [1, 9, 20])
def test_extraction_killed_midway_resumes_to_the_same_bits(backbones, tmp_path, monkeypatch, calls):
    """5 chunks of 8 samples, batches of 4, 3 views; killed in forward pass number `calls`."""
    monkeypatch.setattr(extract, "CHUNK", 8)
    monkeypatch.setattr(extract, "BATCH", 4)
    inputs = made_inputs(37)
    options = {"views": 2, "length": 4, "seed": 3}
    extract_features(inputs, backbones, tmp_path / "whole", **options)
    count = 0

    def killed(*_):
        nonlocal count
        count += 1
        if count == calls:
            raise StoppedError

    handle = backbones["image"].register_forward_hook(killed)
    with pytest.raises(StoppedError):
        extract_features(inputs, backbones, tmp_path / "part", **options)
    if (tmp_path / "part").exists():
        with pytest.raises(InputError, match="got (an unfinished store|none)"):
            FeatureStore.open(tmp_path / "part")
    before = count
    count = calls + 1  # alive from now on
    extract_features(inputs, backbones, tmp_path / "part", **options)
    handle.remove()
    assert stored(tmp_path / "part") == stored(tmp_path / "whole")
    done = max(0, before - 4) // 6  # less the example's three passes and the killed one
    assert count - calls - 1 == 3 + 3 * 10 - 6 * done  # finished chunks were not done again


def test_example_and_modes_leave_no_trace(backbones, tmp_path):
    """Backbones come back in the mode they were in, unchanged."""
    backbones["image"].train()
    before = backbones["image"].fingerprint()
    extract_features(made_inputs(3), backbones, tmp_path / "s", views=1, length=1)
    assert backbones["image"].training and backbones["image"].fingerprint() == before


def test_finished_store_is_opened_and_not_computed_again(store, backbones):
    def fail(*_):
        raise AssertionError("computed again")

    handle = backbones["image"].register_forward_hook(fail)
    try:
        again = extract_features(
            made_inputs(40), backbones, store.folder, views=3, length=4, seed=7
        )
    finally:
        handle.remove()
    rows = torch.arange(40)
    for name, value in again.clean(rows).items():
        assert torch.equal(value, store.clean(rows)[name])


def test_key_names_everything_that_decides_the_features(backbones):
    inputs = made_inputs(5)
    options = {"views": 2, "length": 4, "seed": 0}
    torch.manual_seed(1)
    other_net = {**backbones, "image": SmallConvNet(SIZE, (4, 6))}
    other_data = RawInputs(inputs.columns, inputs.kinds, "other")
    weaker = JointAugment(text=TextAugment(drop=0.1))
    halves = JointAugment(text=TextAugment(parts=2))
    sentences = JointAugment(text=TextAugment(parts=2, unit="sentences"))
    keys = [
        store_key(inputs, backbones, **options),
        store_key(inputs, backbones, **{**options, "views": 3}),
        store_key(inputs, backbones, **{**options, "length": 9}),
        store_key(inputs, backbones, **{**options, "seed": 1}),
        *(store_key(inputs, backbones, **options, augment=a) for a in (weaker, halves, sentences)),
        store_key(inputs, other_net, **options),
        store_key(other_data, backbones, **options),
        store_key(made_inputs(6), backbones, **options),
    ]
    assert len(set(keys)) == len(keys)
    assert store_key(made_inputs(5), backbones, **options) == keys[0]


def test_folder_of_another_key_is_not_overwritten(store, backbones):
    with pytest.raises(InputError, match="expected features of key .* choose another folder"):
        extract_features(made_inputs(40), backbones, store.folder, views=3, length=4, seed=1)


def test_unfinished_store_of_another_key_is_not_continued(backbones, tmp_path):
    (tmp_path / "progress.json").write_text(json.dumps({"key": "0" * 16, "chunks": 1}))
    with pytest.raises(InputError, match="got 0000000000000000"):
        extract_features(made_inputs(3), backbones, tmp_path)


def test_stores_that_are_not_whole_are_refused(store, tmp_path):
    def copy(name):
        folder = tmp_path / name
        folder.mkdir()
        for path in store.folder.iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
        return folder

    with pytest.raises(InputError, match="expected a feature store in .*, got none"):
        FeatureStore.open(tmp_path)
    old = copy("old")
    told = json.loads((old / "store.json").read_text())
    (old / "store.json").write_text(json.dumps({**told, "version": 0}))
    with pytest.raises(InputError, match="of version 1 in .*, got version 0; extract again"):
        FeatureStore.open(old)
    missing = copy("missing")
    (missing / "image_1.npy").unlink()
    with pytest.raises(InputError, match=r"cannot read .*image_1.npy"):
        FeatureStore.open(missing)
    short = copy("short")
    content = (short / "text_0.npy").read_bytes()
    (short / "text_0.npy").write_bytes(content[: len(content) - 100])
    with pytest.raises(InputError, match=r"cannot read .*text_0.npy"):
        FeatureStore.open(short)
    other = copy("other")
    np.save(other / "text_0.npy", np.zeros((40, 4, 1, 6), np.float16))
    with pytest.raises(InputError, match=r"float16 \(40, 4, 1, 5\) in .*got .*\(40, 4, 1, 6\)"):
        FeatureStore.open(other)


def test_pickled_store_is_only_its_folder(store):
    data = pickle.dumps(store)
    assert len(data) < 1000
    rows = torch.arange(5)
    assert torch.equal(pickle.loads(data).clean(rows)["image_0"], store.clean(rows)["image_0"])


def test_large_features_are_clamped_to_the_largest_half(backbones, tmp_path):
    loud = SmallConvNet(SIZE, (4, 6))
    with torch.no_grad():
        loud.blocks[1][-2].weight.fill_(1e9)
    nets = {**backbones, "image": loud}
    store = extract_features(made_inputs(3), nets, tmp_path / "s", views=0, length=4)
    assert store.clean(torch.arange(3))["image_1"].max() == 65504


def test_nan_from_a_backbone_is_refused_by_name(backbones, tmp_path):
    broken = SmallConvNet(SIZE, (4, 6))
    with torch.no_grad():
        broken.blocks[1][0].weight.fill_(float("nan"))
    with pytest.raises(InputError, match=r"got NaN from image \(small .*\), tap 1"):
        extract_features(made_inputs(3), {**backbones, "image": broken}, tmp_path / "s")


def test_too_little_disk_space_is_refused_before_anything_is_written(
    backbones, tmp_path, monkeypatch
):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage(1000, 1, 999))
    with pytest.raises(InputError, match="of free disk space for .* take fewer views"):
        extract_features(made_inputs(40), backbones, tmp_path / "s")
    assert list((tmp_path / "s").iterdir()) == []


def test_size_and_time_are_logged(backbones, tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        extract_features(made_inputs(3), backbones, tmp_path / "s", views=1, length=4)
    assert "0.0 MB for 3 samples" in caplog.text
    assert "feature extraction takes about 0.0 minutes" in caplog.text


# --- where and how drawn features lie


def test_pair_of_views_is_one_tensor_of_the_store_and_not_copied(store):
    rows = torch.tensor([3, 17, 3, 39, 0])
    first, second = store.augmented(rows, torch.Generator().manual_seed(5), 2)
    both = two_views(store, rows, torch.Generator().manual_seed(5))
    drawn = store.augmented(rows, torch.Generator().manual_seed(5), 2)
    for name, value in both.items():
        assert torch.equal(value, torch.cat((first[name], second[name])))
        joined = _joined(drawn[0][name], drawn[1][name])
        assert joined.data_ptr() == drawn[0][name].data_ptr() and value.is_contiguous()


def test_joined_rows_are_those_of_both_wherever_they_lie():
    whole = torch.arange(48.0).reshape(12, 4)
    other = whole + 100
    learnt = whole.clone().requires_grad_()
    pairs = [
        (whole[:3], whole[3:6]),  # one behind the other
        (whole[2:5], whole[5:8]),
        (whole[3:6], whole[:3]),  # the wrong way round
        (whole[:3], whole[4:7]),  # with a gap
        (whole[:3], whole[2:5]),  # over each other
        (whole[:3], whole[:3]),
        (whole[:3], other[3:6]),  # of two tensors
        (whole[:3], whole[3:8]),  # of unequal length
        (whole[:3, :2], whole[1:4, 2:]),  # where it would follow, but for its strides
        (whole[:0], whole[:0]),
        (learnt[:3], learnt[3:6]),
    ]
    for first, second in pairs:
        assert torch.equal(_joined(first, second), torch.cat((first, second)))
    _joined(learnt[:3], learnt[3:6]).sum().backward()
    assert learnt.grad is not None and torch.equal(learnt.grad[:6], torch.ones(6, 4))


def test_store_on_the_cpu_is_itself_and_a_resident_one_gives_the_same(store):
    assert store.to("cpu") is store
    rows = torch.tensor([3, 17, 39])
    for resident in (True, False):
        there = store._placed(torch.device("cpu"), resident=resident)
        drawn = [one.augmented(rows, torch.Generator().manual_seed(1)) for one in (there, store)]
        for found, wanted in zip(*drawn, strict=True):
            assert found.keys() == wanted.keys()
            assert all(torch.equal(found[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize("free", [0, 1, 2, 1000])
def test_store_is_kept_on_a_device_where_it_takes_half_of_the_free_memory(store, monkeypatch, free):
    """`meta` stands for an accelerator: it has shapes and types, but no numbers."""
    monkeypatch.setattr("ssnas_core.features.store._free_memory", lambda _: free * store.bytes)
    source = OnDevice(store, "meta")
    kept = source.source
    assert isinstance(kept, FeatureStore) and kept is not store
    assert {array.device.type for array in kept._arrays.values()} == (
        {"meta"} if free >= 2 else {"cpu"}
    )
    rows = torch.tensor([3, 17, 39])
    views = kept.augmented(rows, torch.Generator().manual_seed(1))
    for view in (*views, kept.clean(rows), source.clean(rows)):
        for name, value in view.items():
            assert value.device.type == "meta" and value.dtype == torch.float32
            assert value.shape == (3, store.positions[name], store.channels[name])
    assert store.clean(rows)["image_0"].is_cpu  # the first one is left as it was


# --- speed without another result


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="this system cannot be asked")
def test_rows_are_asked_for_ahead_while_they_come_from_disk(store, monkeypatch):
    blocks, asked = [0], []

    def note(handle: int, start: int, size: int, advice: int) -> None:
        assert advice == os.POSIX_FADV_WILLNEED
        asked.append(os.pread(handle, size, start))

    monkeypatch.setattr("ssnas_core.features.store._blocks_read", lambda: blocks[0])
    monkeypatch.setattr("ssnas_core.features.store.os.posix_fadvise", note)
    store = FeatureStore.open(store.folder)
    rows = torch.tensor([3, 39, 0])

    def drawn(came_from_disk: bool) -> int:
        """How many rows were asked for, after checking that they are those that were drawn."""
        asked.clear()
        gather = torch.Tensor.index_select
        with monkeypatch.context() as patch:  # reading raises the count, or does not

            def read(*args):
                blocks[0] += came_from_disk
                return gather(*args)

            patch.setattr(torch.Tensor, "index_select", read)
            clean = store.clean(rows)
        stored_rows = [row for value in clean.values() for row in value.half()]
        assert not asked or asked == [row.numpy().tobytes() for row in stored_rows]
        return len(asked)

    everything = 3 * len(store.channels)
    assert drawn(True) == everything  # at first it is not known where they come from
    assert drawn(True) == everything
    assert drawn(False) == everything
    assert drawn(False) == 0
    assert drawn(True) == 0
    assert drawn(True) == everything


def test_a_batch_begun_ahead_changes_nothing(backbones, tmp_path, monkeypatch):
    """As on a GPU: 5 chunks of 8 samples in batches of 4, the last ones smaller."""
    monkeypatch.setattr(extract, "CHUNK", 8)
    monkeypatch.setattr(extract, "BATCH", 4)
    options = {"views": 2, "length": 4, "seed": 3}
    extract_features(made_inputs(37), backbones, tmp_path / "plain", **options)
    real, order = extract._Extractor.__post_init__, []

    def ahead(self, *args, **kwargs):
        real(self, *args, **kwargs)
        assert self.ahead == 0  # on a CPU
        self.ahead = 1

    def fetched(self, features):
        order.append("kept")
        return real_fetched(self, features)

    real_fetched = extract._Extractor._fetched
    monkeypatch.setattr(extract._Extractor, "__post_init__", ahead)
    monkeypatch.setattr(extract._Extractor, "_fetched", fetched)
    handle = backbones["text"].register_forward_hook(lambda *_: order.append("begun"))
    extract_features(made_inputs(37), backbones, tmp_path / "ahead", **options)
    handle.remove()
    assert stored(tmp_path / "ahead") == stored(tmp_path / "plain")
    begun, kept = ["begun"] * 3, ["kept"]  # three views of a batch
    assert order == begun + 4 * (begun + begun + kept + kept) + begun + begun + kept + kept


def test_one_nan_in_a_map_is_found(backbones, tmp_path):
    def spoilt(_module, _inputs, taps):
        taps["0"][-1, 2, -1, 3] = float("nan")

    handle = backbones["image"].register_forward_hook(spoilt)
    with pytest.raises(InputError, match=r"got NaN from image \(small .*\), tap 0"):
        extract_features(made_inputs(3), backbones, tmp_path / "s", length=4)
    handle.remove()


def test_bars_count_images_texts_and_samples(dataset, backbones, tmp_path, capsys):
    _, inputs = prepare_inputs(dataset, backbones, tmp_path / "inputs", progress=True)
    extract_features(inputs, backbones, tmp_path / "s", views=1, progress=True)
    LiveInputs(inputs, backbones, tmp_path, views=2, progress=True)
    told = capsys.readouterr().err
    assert "decoding image" in told and "image/s" in told
    assert "features" in told and "sample/s" in told
    assert "vectorising" in told and "33.0/33.0" in told and "text/s" in told


# --- live inputs


def test_live_inputs_are_clean_images_and_the_clean_text_vectors(backbones, tmp_path):
    inputs = made_inputs(10)
    live = LiveInputs(inputs, backbones, tmp_path, views=3)
    clean = live.clean(torch.tensor([4, 0]))
    images = torch.from_numpy(inputs.columns["image"][[4, 0]]).float() / 255
    torch.testing.assert_close(clean["image"], images)
    texts = [inputs.columns["text"][4], inputs.columns["text"][0]]
    torch.testing.assert_close(clean["text"], backbones["text"].vectorize(texts))
    assert len(live) == 10 and live.views == 3
    assert live.bytes == 10 * (3 * 16 * 12 + 4 * 5 * 4)


def test_live_views_follow_the_generator_and_differ(backbones, tmp_path):
    live = LiveInputs(made_inputs(10), backbones, tmp_path, views=3)
    rows = torch.arange(10)
    first, second = live.augmented(rows, torch.Generator().manual_seed(0))
    again = live.augmented(rows, torch.Generator().manual_seed(0))
    for name in ("image", "text"):
        assert torch.equal(first[name], again[0][name])
        assert torch.equal(second[name], again[1][name])
    assert (first["image"] != second["image"]).any((1, 2, 3)).all()
    assert (first["image"] != live.clean(rows)["image"]).any((1, 2, 3)).all()
    for place in range(10):  # two different stored views, none of them the clean one
        used = [
            (live.texts["text"][place] == view["text"][place]).all(1).nonzero().flatten().tolist()
            for view in (first, second)
        ]
        assert all(used) and (used[0] != used[1] or len(used[0]) > 1)


def test_live_inputs_feed_the_backbones(backbones, tmp_path):
    live = LiveInputs(made_inputs(4), backbones, tmp_path)
    (view,) = live.augmented(torch.arange(4), torch.Generator(), count=1)
    assert backbones["image"](view["image"])["1"].shape == (4, 6, 4, 3)
    assert backbones["text"](view["text"])["2"].shape == (4, 4, 1)


def test_vectorised_texts_are_reused_until_the_backbone_changes(backbones, tmp_path):
    LiveInputs(made_inputs(4), backbones, tmp_path)
    files = set(tmp_path.iterdir())
    LiveInputs(made_inputs(4), backbones, tmp_path)
    assert set(tmp_path.iterdir()) == files and len(files) == 1
    other = {**backbones, "text": MaxoutMLP(inputs=5).fit(made_inputs(30).columns["text"])}
    LiveInputs(made_inputs(4), other, tmp_path)
    assert len(set(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(("views", "length"), [(1, 0), (1, 2), (1, 15), (1, -4), (-1, 4)])
def test_sizes_that_no_store_has_are_refused(backbones, tmp_path, views, length):
    wrong = rf"views >= 0 and a square length .* got {views} and {length}"
    with pytest.raises(InputError, match=wrong):
        extract_features(made_inputs(2), backbones, tmp_path / "s", views=views, length=length)


def test_pixels_are_stored_whole_row_by_row_and_augmented_as_all_images_are(tmp_path):
    inputs = made_inputs(5)
    inputs = replace(inputs, columns={"image": inputs.columns["image"]}, kinds={"image": "image"})
    pixels = {"image": Pixels(SIZE)}
    store = extract_features(inputs, pixels, tmp_path / "store", views=2, length=4, seed=3)
    assert (store.channels, store.positions) == ({"image_0": 3}, {"image_0": SIZE[0] * SIZE[1]})
    images = inputs.images("image", slice(None))
    rows = torch.arange(5)

    def row_by_row(shown: torch.Tensor) -> torch.Tensor:
        places = [(y, x) for y in range(SIZE[0]) for x in range(SIZE[1])]
        return torch.stack([shown[:, :, y, x] for y, x in places], 1).half().float()

    assert torch.equal(store.clean(rows)["image_0"], row_by_row(images))
    for view in (0, 1):
        draws = image_draws(5, draws_generator(3, 0, view))
        expected = row_by_row(apply_image(images, ImageAugment(), draws))
        stored = np.load(tmp_path / "store" / "image_0.npy")[:, 1 + view]
        torch.testing.assert_close(torch.from_numpy(stored).float(), expected, atol=1e-3, rtol=0)
    live = Taps(pixels, 4)({"image": images})
    torch.testing.assert_close(live["image_0"], store.clean(rows)["image_0"], atol=1e-3, rtol=0)

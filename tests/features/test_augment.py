"""Facts about views: chance in rows, pure functions of a sample and its row."""

from __future__ import annotations

import colorsys
from collections import Counter

import pytest
import torch
from torch.nn.functional import affine_grid

from ssnas_core.common.errors import InputError
from ssnas_core.features.augment import (
    LUMA,
    ArrayAugment,
    ImageAugment,
    TextAugment,
    _crop_grid,
    apply_array,
    apply_image,
    apply_text,
    image_draws,
    seed_draws,
)

STILL = {"min_area": 1.0, "max_stretch": 1.0, "flip": 0.0}
DULL = {"jitter": 0.0, "greyscale": 0.0}


def augment_images(images, config, generator):
    return apply_image(images, config, image_draws(len(images), generator))


def augment_texts(texts, config, generator):
    return apply_text(texts, config, seed_draws(len(texts), generator))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(12, 3, 24, 16, generator=generator(99))


def test_config_that_changes_nothing_returns_the_input(images):
    out = augment_images(images, ImageAugment(**STILL, **DULL), generator())
    assert out is images


def test_zero_strengths_and_whole_crops_leave_images_as_they_are(images):
    """Through the arithmetic: a flip that is never drawn, a jitter of no strength."""
    config = ImageAugment(
        min_area=1, max_stretch=1, flip=1e-12, jitter=1, brightness=1e-12, contrast=0,
        saturation=0, hue=0, greyscale=0,
    )  # fmt: skip
    torch.testing.assert_close(augment_images(images, config, generator()), images)


def test_views_stay_in_range_and_shape_and_follow_the_generator(images):
    config = ImageAugment()
    first = augment_images(images, config, generator(1))
    assert first.shape == images.shape
    assert first.min() >= 0 and first.max() <= 1
    assert torch.equal(first, augment_images(images, config, generator(1)))
    assert not torch.equal(first, augment_images(images, config, generator(2)))


def test_different_samples_get_different_parameters(images):
    same = images[:1].expand(12, -1, -1, -1)
    for config in (ImageAugment(**DULL), ImageAugment(**STILL, jitter=1)):
        out = augment_images(same, config, generator())
        distances = torch.cdist(out.flatten(1), out.flatten(1)) + torch.eye(12)
        assert distances.min() > 1e-3


def test_view_of_a_sample_does_not_depend_on_its_batch(images):
    draws = image_draws(len(images), generator())
    whole = apply_image(images, ImageAugment(), draws)
    for row in range(len(images)):
        alone = apply_image(images[row : row + 1], ImageAugment(), draws[row : row + 1])
        torch.testing.assert_close(alone[0], whole[row])


def test_certain_flip_mirrors_every_image(images):
    config = ImageAugment(**{**STILL, **DULL, "flip": 1.0})
    torch.testing.assert_close(augment_images(images, config, generator()), images.flip(3))


def test_crop_is_the_window_that_its_draws_name():
    """On a plane a*x + b*y, bilinear sampling is exact: a crop is a plane over its window."""
    height, width = 40, 30
    y = (torch.arange(height) + 0.5) / height
    x = (torch.arange(width) + 0.5) / width
    plane = torch.stack(
        [x.expand(height, -1), y[:, None].expand(-1, width), 0 * x + 0 * y[:, None]]
    )
    draws = image_draws(50, generator())
    config = ImageAugment(**{**DULL, "flip": 0.0, "min_area": 0.25, "max_stretch": 1.5})
    out = apply_image(plane.expand(50, -1, -1, -1), config, draws)
    for crop, row in zip(out, draws, strict=True):
        area = 0.25 + 0.75 * row[0]
        stretch = 1.5 ** (2 * row[1] - 1)
        wide, high = min(1, (area * stretch).sqrt()), min(1, (area / stretch).sqrt())
        left, top = (1 - wide) * row[2], (1 - high) * row[3]
        inner = (slice(2, -2), slice(2, -2))  # away from the border, where nothing is extrapolated
        torch.testing.assert_close(
            crop[0][inner], (left + wide * x).expand(height, -1)[inner], atol=1e-4, rtol=0
        )
        torch.testing.assert_close(
            crop[1][inner], (top + high * y)[:, None].expand(-1, width)[inner], atol=1e-4, rtol=0
        )


@pytest.mark.parametrize("shape", [(24, 16), (7, 33), (1, 1)])
def test_crop_grid_is_the_affine_one_of_its_window_and_mirror(shape):
    draws = image_draws(9, generator(5))
    found = _crop_grid(draws, ImageAugment(), torch.Size((9, 3, *shape)))
    assert found.is_contiguous() and len({tuple(grid.flatten().tolist()) for grid in found}) == 9
    for (area, stretch, across, down, mirror, *_), grid in zip(
        draws.double().tolist(), found, strict=True
    ):
        area, stretch = 0.3 + 0.7 * area, (4 / 3) ** (2 * stretch - 1)
        width, height = min(1, (area * stretch) ** 0.5), min(1, (area / stretch) ** 0.5)
        signed = -width if mirror < 0.5 else width
        window = [[signed, 0, (1 - width) * (2 * across - 1)]]
        window.append([0, height, (1 - height) * (2 * down - 1)])
        expected = affine_grid(torch.tensor([window]), [1, 3, *shape], align_corners=False)[0]
        torch.testing.assert_close(grid, expected, rtol=0, atol=1e-5)


def test_colour_jitter_equals_its_steps_written_as_loops(images):
    """Mid-range colours, so that clamping once or after every step is the same."""
    images = 0.4 + 0.2 * images
    config = ImageAugment(**STILL, jitter=1, brightness=0.2, contrast=0.3, saturation=0.3, hue=0.1,
                          greyscale=0.3)  # fmt: skip
    draws = image_draws(len(images), generator())
    out = apply_image(images, config, draws)
    luma = torch.tensor(LUMA)
    yiq = torch.tensor([LUMA, (0.596, -0.274, -0.322), (0.211, -0.523, 0.312)])
    for image, row, got in zip(images, draws, out, strict=True):
        signed = 2 * row - 1
        image = image * (1 + 0.2 * signed[6])
        mean = (luma[:, None, None] * image).sum(0).mean()
        image = (image - mean) * (1 + 0.3 * signed[7]) + mean
        grey = (luma[:, None, None] * image).sum(0)
        image = grey + (1 + 0.3 * signed[8]) * (image - grey)
        y, i, q = torch.einsum("ab,bhw->ahw", yiq, image)
        turned = torch.complex(i, q) * torch.exp(1j * 2 * torch.pi * 0.1 * signed[9])
        image = torch.einsum(
            "ab,bhw->ahw", yiq.inverse(), torch.stack([y, turned.real, turned.imag])
        )
        if row[10] < 0.3:
            image = (luma[:, None, None] * image).sum(0).expand(3, -1, -1)
        torch.testing.assert_close(got, image, atol=1e-5, rtol=0)
    assert 0 < (draws[:, 10] < 0.3).sum() < len(images)


def test_jitter_happens_as_often_as_configured():
    images = torch.rand(1, 3, 4, 4, generator=generator()).expand(4000, -1, -1, -1)
    config = ImageAugment(**STILL, jitter=0.8, greyscale=0)
    changed = (augment_images(images, config, generator()) - images).abs().amax((1, 2, 3)) > 1e-5
    assert 0.77 < changed.float().mean() < 0.83  # 0.8 within 4.7 standard errors


def test_greyscale_image_has_three_equal_channels(images):
    config = ImageAugment(**STILL, jitter=0, greyscale=1)
    out = augment_images(images, config, generator())
    torch.testing.assert_close(out[:, 0], out[:, 1])
    torch.testing.assert_close(out[:, 0], torch.einsum("c,nchw->nhw", torch.tensor(LUMA), images))


def test_hue_of_a_grey_stays_and_of_a_red_turns():
    config = ImageAugment(**STILL, jitter=1, brightness=0, contrast=0, saturation=0, hue=0.1,
                          greyscale=0)  # fmt: skip
    grey = torch.full((8, 3, 2, 2), 0.5)
    torch.testing.assert_close(augment_images(grey, config, generator()), grey)
    red = torch.tensor([0.7, 0.3, 0.3])[:, None, None].expand(8, 3, 2, 2)
    hues = [
        colorsys.rgb_to_hsv(*c)[0]
        for c in augment_images(red, config, generator())[:, :, 0, 0].tolist()
    ]
    assert len({round(hue, 3) for hue in hues}) == 8


@pytest.mark.parametrize(
    ("shape", "dtype"), [((2, 1, 4, 4), torch.float32), ((3, 4, 4), torch.float32),
                         ((2, 3, 4, 4), torch.uint8)]
)  # fmt: skip
def test_unusable_images_are_refused(shape, dtype):
    with pytest.raises(InputError, match=r"float images \(N, 3, H, W\).*got"):
        augment_images(torch.zeros(shape, dtype=dtype), ImageAugment(), generator())


@pytest.mark.parametrize(
    "options", [{"flip": 1.5}, {"min_area": 0.0}, {"hue": 0.6}, {"max_stretch": 0.5}]
)
def test_impossible_strengths_are_refused(options):
    with pytest.raises(InputError, match=f"ImageAugment.{next(iter(options))} must be in"):
        ImageAugment(**options)
    with pytest.raises(InputError, match=r"TextAugment.drop must be in \[0, 1\], got 2"):
        TextAugment(drop=2)


def test_word_dropout_keeps_the_order_and_never_all_is_lost():
    words = [f"w{n}" for n in range(30)]
    texts = [" ".join(words)] * 50 + ["single", "two words"] * 50
    for drop in (0.3, 1.0):
        for text, out in zip(texts, augment_texts(texts, TextAugment(drop=drop), generator()),
                             strict=True):  # fmt: skip
            rest = iter(text.split())
            assert out and all(word in rest for word in out.split())  # a subsequence
    only = augment_texts(texts[:50], TextAugment(drop=1.0), generator())
    assert all(len(out.split()) == 1 for out in only) and len(set(only)) > 10


def test_word_dropout_drops_at_the_configured_rate():
    text = " ".join(f"w{n}" for n in range(1000))
    kept = [len(out.split()) for out in augment_texts([text] * 20, TextAugment(), generator())]
    assert 0.685 < sum(kept) / 20_000 < 0.715  # 0.7 within 4.6 standard errors


def test_texts_without_words_and_without_dropout_are_returned_as_they_are():
    texts = ["", "  ", "a  b"]
    assert augment_texts(texts, TextAugment(drop=0), generator()) == texts
    assert augment_texts(texts, TextAugment(drop=1), generator())[:2] == texts[:2]


def test_same_text_gets_different_views_that_follow_the_generator():
    texts = ["one two three four five six seven eight nine ten"] * 40
    first = augment_texts(texts, TextAugment(), generator(3))
    assert first == augment_texts(texts, TextAugment(), generator(3))
    assert first != augment_texts(texts, TextAugment(), generator(4))
    assert Counter(first).most_common(1)[0][1] < 10


UNSPACED = {
    "Chinese": "警长骑着马进了沙漠里的酒馆然后和骑手说起了他的母亲和那个冬天",
    "Chinese with punctuation": "警长骑着马，进了沙漠里的酒馆。然后和骑手说起了他的母亲、冬天！",
    "Japanese": "保安官は馬に乗って砂漠の酒場に入り、母親と真夜中のことを話し始めた。",
    "Japanese with an English name": "保安官は馬に乗って砂漠のJohnの酒場に入り母のことを話し始めた",
    "Thai": "นายอำเภอขี่ม้าเข้าไปในทะเลทรายและพบกับแม่ของเขา ในคืนฤดูหนาวที่ผ่านมา",
    "Khmer": "មេប៉ូលិសជិះសេះចូលទៅក្នុងវាលខ្សាច់ហើយជួបម្តាយរបស់គាត់",
    "Burmese": "ရဲအရာရှိသည်မြင်းစီးပြီးသဲကန္တာရထဲသို့ဝင်သွားသည်",
}
SPACED = {
    "Chinese in words": "警长 骑 着 马 进 了 沙漠 里 的 酒馆",
    "Thai in words": "นายอำเภอ ขี่ ม้า เข้า ไป ใน ทะเลทราย",
    "English": "A sheriff rides into town with 馬 on his hat.",
    "German": "Donaudampfschifffahrtsgesellschaftskapitän Rechtsschutzversicherung",
    "Korean": "보안관이 말을 타고 사막의 술집에 들어간다",
    "Russian": "Шериф въезжает в город",
}


@pytest.mark.parametrize("language", [*UNSPACED, *SPACED])
def test_texts_without_spaces_lose_letters_and_others_words(language):
    text = (UNSPACED | SPACED)[language]
    first, *more = augment_texts([text] * 40, TextAugment(), generator())
    assert len({first, *more}) > 20 or language in ("German", "Russian")
    for view in (first, *more):
        rest = iter(text if language in UNSPACED else text.split())
        assert all(one in rest for one in (view if language in UNSPACED else view.split()))
    kept = sum(map(len, (first, *more))) / 40 / len(text)
    assert language in SPACED or 0.6 < kept < 0.8
    whole = set(text.split())
    assert language in UNSPACED or all(whole.issuperset(view.split()) for view in (first, *more))


# --- arrays


PLOT = (
    "A robot wakes. The robot, alone, sails to a cold moon! Who built it? Nobody left a name. "
    'On the moon it finds a "Robot" of stone.'
)


def divided(text: str, parts: int, views: int, seed: int = 5, **more) -> list[list[str]]:
    """The words of each of some views of a text."""
    config = TextAugment(parts=parts, drop=0, **more)
    draws = [seed_draws(1, generator(seed + config.first_of(view))) for view in range(views)]
    return [apply_text([text], config, draws[v], v)[0].split() for v in range(views)]


def known(words: list[str]) -> set[str]:
    return {word.strip('.,!?"').lower() for word in words}


@pytest.mark.parametrize("parts", [2, 3, 4])
def test_views_of_a_block_share_no_word_and_have_all_of_them(parts):
    words, views = PLOT.split(), divided(PLOT, parts, parts)
    assert sorted(word for view in views for word in view) == sorted(words)
    sizes = [len(known(view)) for view in views]
    assert sum(sizes) == len(known(words)) and max(sizes) - min(sizes) <= 1
    for view in views:
        rest = iter(words)
        assert all(word in rest for word in view)  # in their order


def test_every_block_divides_a_text_in_its_own_way():
    first, second, third, fourth = divided(PLOT, 2, 4)
    assert not known(first) & known(second) and not known(third) & known(fourth)
    assert known(first) & known(third) and known(first) & known(fourth)
    assert divided(PLOT, 2, 4) == [first, second, third, fourth] != divided(PLOT, 2, 4, seed=9)


def test_sentences_stay_whole_and_few_sentences_are_divided_by_words():
    sentences = ["A robot wakes.", "The robot, alone, sails to a cold moon!", "Who built it?",
                 "Nobody left a name.", 'On the moon it finds a "Robot" of stone.']  # fmt: skip
    views = [" ".join(view) for view in divided(PLOT, 2, 2, unit="sentences")]
    for sentence in sentences:
        assert sorted(sentence in view for view in views) == [False, True]
    assert sorted(sum(one in view for one in sentences) for view in views) == [2, 3]
    for text in (
        "One sentence has no halves but words.",
        "警长骑着马进了沙漠里的酒馆然后和骑手说话",
    ):
        assert divided(text, 2, 2, unit="sentences") == divided(text, 2, 2)
    letters = [
        "".join(view) for view in divided("警长骑着马。进了沙漠里！", 2, 2, unit="sentences")
    ]
    assert sorted(letters) == sorted(["警长骑着马。", "进了沙漠里！"])


@pytest.mark.parametrize("text", ["", "  ", "word", "word Word", "?!"])
def test_text_of_too_few_words_to_divide_keeps_one_of_them(text):
    config = TextAugment(parts=3, drop=0)
    for view in range(3):
        (kept,) = apply_text([text], config, torch.tensor([7]), view)
        assert kept == text or text.split() and kept in text.split()
        assert bool(kept.split()) == bool(text.split())


def test_words_of_a_part_are_dropped_as_others_are():
    text = " ".join(f"w{n}" for n in range(2000))
    config = TextAugment(parts=2, drop=0.3)
    first, second = (apply_text([text], config, torch.tensor([3]), v)[0].split() for v in (0, 1))
    assert 600 < len(first) < 800 and 600 < len(second) < 800 and not {*first} & {*second}


@pytest.mark.parametrize(("field", "value"), [("parts", 0), ("unit", "letters")])
def test_impossible_divisions_are_refused(field, value):
    with pytest.raises(InputError, match=f"TextAugment.{field} must be"):
        TextAugment(**{field: value})


def test_array_loses_whole_channels_at_the_configured_rate():
    values = torch.ones(400, 3, 50)
    view = apply_array(values, ArrayAugment(drop=0.3), seed_draws(400, generator()))
    assert set(view.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(view[:, 0], view[:, 1]) and torch.equal(view[:, 0], view[:, 2])
    assert abs(float(view.mean()) - 0.7) < 0.01  # 20,000 channels: 3 standard errors
    per_channel = view[:, 0].mean(0)
    assert float(per_channel.min()) > 0.58 and float(per_channel.max()) < 0.82
    assert len(view[:, 0].unique(dim=0)) == 400


def test_view_of_an_array_depends_on_its_seed_alone():
    values, draws = torch.randn(20, 9), seed_draws(20, generator())
    whole = apply_array(values, ArrayAugment(), draws)
    assert torch.equal(apply_array(values[7:9], ArrayAugment(), draws[7:9]), whole[7:9])
    neighbours = torch.arange(20)  # seeds that differ in one bit
    masks = apply_array(torch.ones(20, 64), ArrayAugment(drop=0.5), neighbours)
    assert float(torch.corrcoef(masks).fill_diagonal_(0).abs().max()) < 0.6
    assert apply_array(values, ArrayAugment(drop=0), draws) is values
    assert not torch.equal(masks[1:, :-1], masks[:-1, 1:])  # nor one another's, moved by one
    assert torch.equal(apply_array(values, ArrayAugment(drop=1), draws), torch.zeros(20, 9))


def test_impossible_rates_of_arrays_are_refused():
    with pytest.raises(InputError, match=r"ArrayAugment\.drop must be in \[0, 1\], got 1\.5"):
        ArrayAugment(drop=1.5)

"""The encoder-decoder space: each architecture is there once, and the supernet holds it."""

from __future__ import annotations

import json

import pytest
import torch

from ssnas_core.common.errors import InputError
from ssnas_core.runs.recipes import RunConfig
from ssnas_core.runs.run import Run
from ssnas_core.search.bilevel import BilevelConfig
from ssnas_core.search.random import RandomConfig
from ssnas_core.spaces.encdec.blocks import grid_boxes
from ssnas_core.spaces.encdec.space import EncDecConfig, EncDecSpace, read_arch
from ssnas_core.spaces.genotype import Genotype, Node

CHANNELS = {"image_0": 3, "image_1": 6, "text_0": 5}
POSITIONS = {"image_0": 4, "image_1": 4, "text_0": 3}


def space(positions=POSITIONS, channels=CHANNELS, **options) -> EncDecSpace:
    given = {"encoder": 2, "decoder": 2, "channels": 8, "head": 4, "dropout": 0.0, **options}
    return EncDecSpace(channels, positions, EncDecConfig(**given))


def features(samples: int = 2) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        name: torch.randn(samples, POSITIONS[name], width, generator=generator)
        for name, width in CHANNELS.items()
    }


def test_the_space_has_every_chain_once_and_no_two_compute_the_same():
    one = space()
    genotypes = list(one.genotypes())
    assert len(set(genotypes)) == len(genotypes) == 2**2 * 4**2
    torch.manual_seed(0)
    state, given = one.supernet().state_dict(), features()
    outputs = torch.stack([one.inherit(g, state).eval()(given).detach() for g in genotypes])
    apart = torch.cdist(outputs.flatten(1), outputs.flatten(1)) + torch.eye(len(genotypes))
    assert apart.min() > 1e-3


def test_the_supernet_at_one_hot_logits_is_the_derived_network():
    one = space()
    torch.manual_seed(0)
    supernet = one.supernet().eval()
    for genotype in list(one.genotypes())[::5]:
        for side, values in one.one_hot(genotype).items():
            supernet.logits[side].data.copy_(values)
        assert one.derive(supernet.logits) == genotype
        derived = one.inherit(genotype, supernet.state_dict()).eval()
        torch.testing.assert_close(supernet(features()), derived(features()))


def test_choices_are_genotypes_and_samples_are_uniform():
    one = space(encoder=1, decoder=1)
    for genotype in one.genotypes():
        assert one.decode(one.encode(genotype)) == genotype
        assert Genotype.from_json(json.loads(genotype.to_json())) == genotype
    generator = torch.Generator().manual_seed(0)
    drawn = [one.sample(generator) for _ in range(800)]
    counts = [drawn.count(genotype) for genotype in one.genotypes()]
    assert sum(counts) == 800 and min(counts) > 60 and max(counts) < 145


def test_the_deepest_feature_of_each_modality_enters_and_the_last_modality_is_encoded():
    one = space()
    assert one.features == ("text_0", "image_1")
    assert str(one.genotype(["SA", "FFN"], ["GA", "RSA"])) == (
        "SA(text_0) -> FFN(encoder_0) -> GA(image_1, encoder_1) -> RSA(decoder_0)"
    )
    assert space(encoded="image").features == ("image_1", "text_0")


def test_one_position_has_no_relations():
    one = space(positions={**POSITIONS, "image_1": 1})
    assert one.pools == (("SA", "FFN"), ("SA", "GA", "FFN"))
    assert not one.supernet().related
    with pytest.raises(InputError, match=r"is not a genotype of this space: expected decoder_0 = "):
        one.genotype(["SA", "FFN"], ["RSA", "FFN"])


def boxed(**options) -> EncDecSpace:
    channels = {"regions_0": 4, "regions_1": 6, "text_0": 5}
    positions = {"regions_0": 4, "regions_1": 4, "text_0": 3}
    return space(positions, channels, boxes="regions_0", **options)


def regions(boxes: torch.Tensor) -> dict[str, torch.Tensor]:
    """Features of `boxed` from those of `features`."""
    given = features()
    return {"regions_0": boxes, "regions_1": given["image_1"], "text_0": given["text_0"]}


def test_boxes_of_each_sample_take_the_place_of_the_grid():
    one, other = boxed(), space()
    assert one.features == ("text_0", "regions_1", "regions_0")
    torch.manual_seed(0)
    ours = one.build(one.genotype(["SA", "FFN"], ["RSA", "GA"])).eval()
    theirs = other.build(other.genotype(["SA", "FFN"], ["RSA", "GA"])).eval()
    same = {name.replace("regions_1", "image_1"): w for name, w in ours.state_dict().items()}
    theirs.load_state_dict(same)
    grid = grid_boxes(4).expand(2, 4, 4)
    torch.testing.assert_close(ours(regions(grid)), theirs(features()))
    apart = grid.clone()
    apart[1, 2] = torch.tensor([5.0, 5.0, 9.0, 6.0])
    moved = (ours(regions(apart)) - ours(regions(grid))).abs().amax(1)
    assert moved[0] < 1e-6 < 1e-4 < moved[1]  # the other sample's box is no matter


def test_only_rsa_sees_boxes():
    one, boxes = boxed(), torch.rand(2, 4, 4).cumsum(-1)
    torch.manual_seed(0)
    for genotype in list(one.genotypes())[::3]:
        network = one.build(genotype).eval()
        seen = not torch.equal(network(regions(boxes)), network(regions(boxes.flip(0))))
        assert seen == ("RSA" in [node.operator for node in genotype.nodes])


def test_boxes_that_are_none_are_refused():
    for name in ("regions_1", "text_0", "regions_7"):
        with pytest.raises(InputError, match="expected a feature of 4 channels of regions as"):
            boxed().__class__(
                {"regions_0": 4, "regions_1": 6, "text_0": 4},
                {"regions_0": 4, "regions_1": 4, "text_0": 3},
                EncDecConfig(boxes=name),
            )


@pytest.mark.parametrize(("name", "millions"), [
    ("MMnas VQA", 46.2), ("MMnas ITM", 41.0), ("MMnas VGD", 43.1), ("MCAN", 44.1),
])  # fmt: skip
def test_published_stacks_have_their_published_sizes(name, millions):
    wide = {"image_0": 2048, "text_0": 300}
    config = EncDecConfig(channels=512)
    one = EncDecSpace(wide, {"image_0": 100, "text_0": 14}, config)
    with torch.device("meta"):
        network = one.build(one.named(name))
    parts = [network.encoder, network.decoder, *([network.weigh] if network.related else [])]
    weights = sum(p.numel() for part in parts for p in part.parameters())
    assert round(weights / 1e6, 1) == millions


def test_the_published_supernet_has_33_million_weights():
    with torch.device("meta"):
        network = EncDecSpace(
            {"image_0": 2048, "text_0": 300}, {"image_0": 100, "text_0": 14}
        ).supernet()
    parts = (network.encoder, network.decoder, network.weigh)
    assert sum(p.numel() for part in parts for p in part.parameters()) == 33_122_376


def test_named_stacks_repeat_to_the_depth_of_the_space():
    one = space(encoder=4, decoder=6)
    operations = [node.operator for node in one.named("MCAN").nodes]
    assert operations == ["SA", "FFN"] * 2 + ["SA", "GA", "FFN"] * 2
    with pytest.raises(InputError, match="layers of 12 and 18 blocks, .* got 4 and 6; give"):
        one.named("MMnas VQA")
    with pytest.raises(InputError, match="MCAN has layers of 2 and 3 blocks, .* got 4 and 7"):
        space(encoder=4, decoder=7).named("MCAN")
    with pytest.raises(InputError, match="expected one of MMnas VQA, .* got 'BUTD'"):
        one.named("BUTD")


def test_a_released_file_is_read(tmp_path):
    path = tmp_path / "arch.json"
    first = {"enc": [["self_att_64"]], "dec": [["guided_att_64"]]}
    last = {"enc": [["feed_forward"]], "dec": [["rel_self_att_64"]]}
    path.write_text(json.dumps({"epoch10": last, "epoch2": first}))
    assert read_arch(path) == (["FFN"], ["RSA"])
    assert read_arch(path, epoch=2) == (["SA"], ["GA"])


@pytest.mark.parametrize(("document", "told"), [
    ([], r"expected an object with epoch0 or later epochs, got \[\]"),
    ({"epoch0": {"enc": [["self_att_64"]]}}, "in each block of dec, got None"),
    ({"epoch0": {"enc": [["guided_att_64"]], "dec": []}}, "of self_att_64, feed_forward in each"),
    ({"epoch0": {"enc": [["self_att_16"]], "dec": []}}, "got .'self_att_16'.; other operations"),
    ({"epoch0": {"enc": [["feed_forward_8"]], "dec": []}}, "other operations are not in this"),
    ({"epoch0": {"enc": [[["self_att_64"]]], "dec": []}}, "other operations are not in this"),
    ({"epoch0": {"enc": [], "dec": []}}, r"in each block of enc, got \[\]"),
    ({"epoch01": {}}, "expected an object with epoch0 or later epochs"),
    ({"epoch0": {"enc": [["sep_conv_3"]], "dec": []}}, "other operations are not in this space"),
    ({"epoch0": {"enc": [["self_att_64", "x"]], "dec": []}}, "in each block of enc"),
    ({"epoch0": 3}, "in each block of enc, got None"),
])  # fmt: skip
def test_another_file_is_refused(tmp_path, document, told):
    path = tmp_path / "arch.json"
    path.write_text(json.dumps(document))
    with pytest.raises(InputError, match=told):
        read_arch(path)


@pytest.mark.parametrize(("options", "told"), [
    ({"head": 3}, "head must divide its channels, got 3 of 8; as 8"),
    ({"encoder": 0}, "encoder must be"),
    ({"decoder": 200}, "expected at most 300 parts"),
    ({"encoded": "audio"}, r"one of them to encode \(audio\), got image, text"),
    ({"channels_of": {"image_0": 3}}, "expected features of two modalities"),
    ({"channels_of": {}}, "one of them to encode, got none"),
    ({"channels_of": {"image_0": 3, "encoder_0": 2}}, "none named encoder or decoder"),
])  # fmt: skip
def test_wrong_settings_are_refused(options, told):
    channels = options.pop("channels_of", CHANNELS)
    with pytest.raises(InputError, match=told):
        space(channels=channels, **options)


def test_foreign_genotypes_are_refused():
    one = space()
    chain = one.genotype(["SA", "SA"], ["GA", "FFN"]).nodes
    wrong = {
        "another space": (Genotype("fusion", chain), "expected encdec, got fusion"),
        "fewer blocks": (Genotype("encdec", chain[:3]), "got 2 and 1"),
        "another guide": (
            Genotype("encdec", (*chain[:2], Node("decoder_0", "GA", ("image_1", "encoder_0")),
                                chain[3])),
            "GA of encoder_1 too",
        ),
        "another input": (
            Genotype("encdec", (*chain[:3], Node("decoder_1", "FFN", ("image_1",)))),
            "expected decoder_1 = .* of decoder_0",
        ),
    }  # fmt: skip
    for genotype, told in wrong.values():
        with pytest.raises(InputError, match=told):
            one.validate(genotype)


@pytest.mark.parametrize("strategy", ["bilevel", RandomConfig(trials=2), "tpe"])
def test_a_run_searches_it(tiny_data, tiny_recipe, tiny_store, tmp_path, strategy):
    sizes = EncDecConfig(encoder=2, decoder=2, channels=8, head=4, encoded="text")
    config = RunConfig(
        data=tiny_data,
        recipe=tiny_recipe,
        space=sizes,
        label_ratio=(1.0,),
        strategy=BilevelConfig(epochs=1) if strategy == "bilevel" else strategy,
    )
    if strategy == "tpe":
        config = RunConfig(data=tiny_data, recipe=tiny_recipe, space=sizes, label_ratio=(1.0,),
                           objective="supervised", strategy=config.strategy)  # fmt: skip
    run = Run(config, tmp_path / "run", store=tiny_store, device="cpu")
    genotype = run.search()
    assert genotype.space == "encdec" and len(genotype.nodes) == 4
    assert 0 <= run.evaluate("found, pretrained", 1.0)["weighted_f1"] <= 1

"""Model cards: what a run recorded and nothing else, in the hub's form, whatever names say."""

from __future__ import annotations

import dataclasses
import json
import re
from typing import Any

import pytest
import yaml

from ssnas_core.common.errors import InputError
from ssnas_core.models.card import ModelFacts, model_card
from ssnas_core.models.spec import ClassifierSpec
from ssnas_core.spaces.fusion.space import FusionConfig
from ssnas_core.spaces.genotype import Genotype, Node
from ssnas_core.spaces.layers import LayersConfig

GENOTYPE = Genotype("fusion", (Node("cell_0", "Sum", ("image_0", "text_0")),))
SPEC = ClassifierSpec(
    kinds={"image": "image", "text": "text"},
    classes=("Drama", "War", "Western"),
    single_label=False,
    threshold=0.3125,
    length=4,
    channels={"image_0": 8, "text_0": 8},
    positions={"image_0": 4, "text_0": 1},
    space=FusionConfig(channels=8, length=4, cells=1),
    genotype=GENOTYPE,
)
FACTS = ModelFacts(
    data="mmimdb",
    topic="films",
    samples={"train": 7001, "dev": 702, "test": 703, "skipped": 4},
    method="found, pretrained",
    objective="contrastive",
    strategy="bilevel",
    backbones="frozen",
    seed=17,
    feature_seed=18,
    label_ratio=0.25,
    labelled={"train": 1750, "dev": 175},
    parameters=123456,
    score="weighted_f1",
    dev_score=0.5511,
    dev_score_without={"image": 0.4422, "text": 0.3333},
    dev_score_shuffled={"image": 0.4411, "text": 0.2211},
    dev={"weighted_f1": 0.5511, "weighted_ap": 0.6677},
    test=None,
)
PARTS = {"image": "small", "text": "maxout"}


def spec_with(**changes: Any) -> ClassifierSpec:
    changes = {"genotype": None, **changes} if "baseline" in changes else changes
    return dataclasses.replace(SPEC, **changes)


def facts_with(**changes: Any) -> ModelFacts:
    return dataclasses.replace(FACTS, **changes)


def body(card: str) -> str:
    return card.split("---\n", 2)[2]


def front(card: str) -> dict[str, Any]:
    before, matter, _ = card.split("---\n", 2)
    assert before == ""
    return yaml.safe_load(matter)


def section(card: str, title: str) -> str:
    return card.split(f"## {title}\n")[1].split("\n## ")[0]


def test_card_has_the_sections_that_an_honest_card_needs():
    titles = re.findall(r"^## (.*)$", model_card(SPEC, PARTS, FACTS), flags=re.MULTILINE)
    assert titles == [
        "What it is", "How to use it", "What it was made from", "Scores", "Intended use",
        "Biases", "Limits", "Licence",
    ]  # fmt: skip


def test_front_matter_is_what_the_hub_reads():
    from huggingface_hub import ModelCard

    card = model_card(SPEC, PARTS, FACTS)
    told = front(card)
    assert told["library_name"] == "ssnas" and told["license"] == "unknown"
    assert {"multi-label-classification", "self-supervised"} < set(told["tags"])
    read = ModelCard(card)
    assert read.data.to_dict() == told and read.text == body(card)
    assert front(model_card(SPEC, PARTS, facts_with(licence="mit")))["license"] == "mit"


def test_supervised_model_is_not_called_self_supervised():
    supervised = model_card(SPEC, PARTS, facts_with(objective="supervised"))
    assert "self-supervised" not in front(supervised)["tags"]
    assert "self-supervised" not in front(model_card(SPEC, PARTS, None))["tags"]


NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?")


@pytest.mark.parametrize("test", [None, {"weighted_f1": 0.5012, "weighted_ap": 0.6023}])
def test_every_number_in_a_card_was_recorded(test):
    card = body(model_card(SPEC, PARTS, facts_with(test=test)))
    names = [str(GENOTYPE), "weighted F1"]
    for name in names:
        card = card.replace(name, "")
    allowed = {"0.3125", "3", "7,001", "702", "703", "4", "17", "18", "0.25", "1,750", "175"}
    allowed |= {"123,456", "0.551", "0.442", "0.333", "0.441", "0.221", "0.5511", "0.6677"}
    allowed |= {"0.5012", "0.6023"} if test else set()
    assert set(NUMBER.findall(card)) == allowed


def test_test_scores_are_there_only_if_they_were_read():
    unread = section(model_card(SPEC, PARTS, FACTS), "Scores")
    assert "| weighted F1 | 0.5511 | not read |" in unread
    assert "The test part was not read: there is no test score." in unread
    read = section(model_card(SPEC, PARTS, facts_with(test={"weighted_f1": 0.5})), "Scores")
    assert "| weighted F1 | 0.5511 | 0.5000 |" in read and "not read" not in read
    assert "| weighted AP | 0.6677 | - |" in read


def test_card_tells_genotype_data_labels_threshold_and_seeds():
    card = model_card(SPEC, PARTS, FACTS)
    for told in (
        "`Sum(image_0, text_0)`",
        "contrastive objective, bilevel search",
        "mmimdb; 7,001 train, 702 dev, 703 test, 4 skipped samples",
        "a ratio of 0.25, which are 1,750 train, 175 dev samples",
        "above 0.3125",
        "the highest weighted F1 on the labelled dev part",
        "Seeds: 17 of the run, 18 of its features",
        "Backbone of image: small",
        "Drama, War, Western",
    ):
        assert told in card, told


@pytest.mark.parametrize(
    "names", [(), ("War",), ("Drama", "Western"), ("Sci-Fi", "a_b", "c|d"), ("音楽",), ("#1",)]
)
def test_classes_that_nothing_labelled_has_are_named(names):
    limits = section(model_card(SPEC, PARTS, facts_with(unlearnt=names)), "Limits")
    shown = ", ".join(names)
    for mark in "_|#":
        shown = shown.replace(mark, f"\\{mark}")
    told = f"\n- Never learnt, as no labelled sample of train has them: {shown}\n"
    assert (told in limits) == bool(names) == ("Never learnt" in limits)


def test_what_a_text_of_unknown_words_counts_as_is_told_where_texts_are_read():
    unknown = "- A text without a word that its backbone knows is no text"
    assert f"\n{unknown}: it counts as not given.\n" in model_card(SPEC, PARTS, FACTS)
    alone = model_card(spec_with(baseline="text only"), PARTS, FACTS)
    assert f"\n{unknown}, and is refused.\n" in alone
    assert unknown not in model_card(spec_with(baseline="image only"), PARTS, FACTS)


def test_what_a_missing_modality_costs_is_told_where_it_was_measured():
    limits = section(model_card(SPEC, PARTS, FACTS), "Limits")
    assert "weighted F1 0.551 on the labelled dev part; without image 0.442; without text" in limits
    assert "was not trained with some missing" in limits
    unknown = facts_with(dev_score_without={})
    assert "costs was not measured" in section(model_card(SPEC, PARTS, unknown), "Limits")
    dropping = spec_with(space=dataclasses.replace(SPEC.space, modality_dropout=0.5))
    assert "was trained with some missing" in model_card(dropping, PARTS, FACTS)
    alone = spec_with(baseline="text only")
    assert "missing" not in section(model_card(alone, {"text": "maxout"}, FACTS), "Limits")
    assert "Not read, although in the data: image" in model_card(alone, PARTS, FACTS)


def test_how_a_network_came_about_is_told():
    drawn = facts_with(method="random", objective=None, strategy=None)
    assert "Drawn at random" in model_card(SPEC, PARTS, drawn)
    concat = model_card(spec_with(baseline="late concat"), PARTS, drawn)
    assert "Network: late concat, not searched" in concat
    assert "Drawn at random" not in concat


def test_films_have_their_biases_and_other_data_has_not():
    films = model_card(SPEC, PARTS, FACTS)
    for told in ("Posters sell", "non-English", "stereotypes of gender", "editors and users"):
        assert told in section(films, "Biases")
    assert "Not for decisions about people or works" in films
    sounds = spec_with(
        kinds={"sound": "array", "face": "array"},
        shapes={"sound": (8,), "face": (8,)},
        classes=("glad", "sad"),
        single_label=True,
        threshold=None,
        channels={"sound_0": 8, "face_0": 8},
        positions={"sound_0": 1, "face_0": 1},
        baseline="late concat",
    )
    parts = {"sound": "identity", "face": "identity"}
    other = model_card(sounds, parts, facts_with(data="sensors", topic=None))
    assert not re.search("film|poster|genre|plot|threshold", body(other), flags=re.IGNORECASE)
    assert "exactly one class" in other
    assert "single-label-classification" in front(other)["tags"]
    assert '{"sound": values, "face": values}' in other


def test_topic_is_that_of_the_facts_whatever_the_classes_are_called():
    told = section(model_card(SPEC, PARTS, facts_with(topic=None)), "Biases")
    assert "Posters" not in told and "Labels were assigned by somebody" in told
    assert "Posters" not in model_card(SPEC, PARTS, None)
    named = spec_with(classes=("a", "b"))
    assert "Posters sell" in section(model_card(named, PARTS, FACTS), "Biases")


def test_generated_sample_is_called_a_toy():
    card = model_card(SPEC, PARTS, facts_with(generated=True))
    assert "movies that do not exist" in card
    assert "results on the generated sample say nothing about real films" in card
    assert "toy" not in model_card(SPEC, PARTS, FACTS)


def test_model_that_no_run_made_says_so():
    card = model_card(SPEC, PARTS, None)
    assert "put together by hand" in card and "No scores are recorded." in card
    assert "whoever trained them decides" in card.lower()


def test_names_from_outside_cannot_break_the_card():
    rude = "a\n# b | c\n---\n<b>*d*"
    card = model_card(
        spec_with(classes=("x\n## Scores", "y|z")), {"image": rude}, facts_with(data=rude)
    )
    assert "a \\# b \\| c --- \\<b\\>\\*d\\*" in card
    assert "x \\#\\# Scores" in card and "y\\|z" in card
    assert len(re.findall("^#", card, flags=re.MULTILINE)) == 9  # the title and eight sections
    assert front(card) == front(model_card(SPEC, PARTS, FACTS))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kinds": {"image": "image"}}, "features of each modality"),
        ({"classes": ()}, "classes of distinct names"),
        ({"threshold": None}, r"a threshold in \[0, 1\]"),
        ({"single_label": True}, r"a threshold in \[0, 1\] for several labels only"),
        ({"length": 3}, "sizes >= 1"),
        ({"positions": {"image_0": 4, "text_0": 0}}, "sizes >= 1"),
        ({"positions": {"image_0": 4}}, "positions of the same features"),
        ({"shapes": {"image": (3,)}}, "a shape of each array"),
        ({"genotype": None}, "a genotype or a baseline"),
        ({"genotype": GENOTYPE, "baseline": "gmu"}, "a genotype or a baseline"),
        ({"baseline": "found"}, "the genotype of 'found'"),
        ({"baseline": "gmu", "space": LayersConfig()}, "a baseline's sizes"),
        ({"space": GENOTYPE}, "a space that can be opened"),
        ({"channels": {"image_0": 8, "text_1": 8}, "positions": {"image_0": 4, "text_1": 1}},
         "the features of its genotype"),
        ({"kinds": {"a b": "image", "text": "text"}}, "modalities named by identifiers"),
    ],
)  # fmt: skip
def test_specification_that_contradicts_itself_is_refused(changes, message):
    with pytest.raises(InputError, match=f"a classifier needs {message}"):
        spec_with(**changes)


def test_baseline_that_nobody_knows_is_refused():
    with pytest.raises(InputError, match="unknown method 'sound only'"):
        spec_with(baseline="sound only")


@pytest.mark.parametrize(
    ("baseline", "reads"),
    [
        ("text only", ("text",)),
        ("image maxout", ("image",)),
        ("late concat", ("image", "text")),
        ("gmu", ("image", "text")),
    ],
)
def test_name_of_a_baseline_says_which_modalities_it_reads(baseline, reads):
    assert spec_with(baseline=baseline).modalities == reads


def test_width_is_that_of_the_network():
    assert SPEC.build().width == 1 * 4 * 8
    assert spec_with(baseline="late concat").build().width == 8 * (4 + 1)
    two = FusionConfig(channels=8, length=4, cells=1, steps=2)
    steps = (
        Node("cell_0_step_0", "Sum", ("image_0", "text_0")),
        Node("cell_0_step_1", "Sum", ("image_0", "cell_0_step_0")),
        Node("cell_0", "Concat", ("cell_0_step_0", "cell_0_step_1")),
    )
    assert spec_with(space=two, genotype=Genotype("fusion", steps)).build().width == 32


def test_specification_survives_json_with_the_name_of_its_space():
    layers = Genotype("layers", (Node("layer_0", "relu", ("image_0", "text_0")),))
    for spec in (
        SPEC,
        spec_with(baseline="gmu"),
        spec_with(space=LayersConfig(channels=8), genotype=layers),
    ):
        values = json.loads(json.dumps(spec.plain()))
        assert values["space"]["name"] == spec.space.open(spec.channels).name
        assert ClassifierSpec.from_plain(values, "here") == spec


@pytest.mark.parametrize("name", ["nowhere_at_all:Config", "os:system", "ssnas_core:Run"])
def test_space_that_a_file_names_is_not_imported_or_called(name):
    values = {**SPEC.plain(), "space": {"name": name, "command": "ls"}}
    with pytest.raises(InputError):
        ClassifierSpec.from_plain(values, "here")


@pytest.mark.parametrize(
    ("name", "message"),
    [("nowhere_at_all:Net", "import nowhere_at_all"), ("os:system", "is no network")],
)
def test_baseline_that_a_file_names_is_not_imported_or_called(name, message):
    values = {**SPEC.plain(), "genotype": None, "baseline": name}
    with pytest.raises(InputError, match=message):
        ClassifierSpec.from_plain(values, "here")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"strategy": "surrogate"}, "contrastive objective, surrogate search, in the space "),
        ({"objective": None, "strategy": None}, "Drawn at random from the space "),
    ],
)
def test_space_of_the_architecture_is_told(changes, told):
    node = Node("layer_0", "relu", ("image_0", "text_0"))
    layers = LayersConfig(channels=8, modality_dropout=0.25)
    spec = spec_with(genotype=Genotype("layers", (node,)), space=layers)
    facts = facts_with(**changes)
    card = model_card(spec, PARTS, facts)
    assert f'{told}"layers"' in section(card, "What it is")
    assert f'{told}"fusion"' in section(model_card(SPEC, PARTS, facts), "What it is")
    assert "was trained with some missing" in section(card, "Limits")

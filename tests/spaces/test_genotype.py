"""Genotypes: their JSON form, their readable form, and files edited by hand."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssnas_core.common.errors import InputError
from ssnas_core.spaces.genotype import FORMAT, Genotype, Node

PAPER = Genotype(
    "fusion",
    (
        Node("cell_0", "ConcatFC", ("image_2", "text_0")),
        Node("cell_1", "LinearGLU", ("cell_0", "text_0")),
    ),
)


@st.composite
def genotypes(draw) -> Genotype:
    text = st.from_regex(r"\w[\w ._+:-]{0,7}", fullmatch=True)
    names = draw(st.lists(text, min_size=1, max_size=5, unique=True))
    nodes = []
    for place, name in enumerate(names):
        source = text.filter(lambda name, late=names[place:]: name not in late)
        inputs = draw(st.lists(st.sampled_from(names[:place]) | source if place else source))
        nodes.append(Node(name, draw(text), tuple(inputs)))
    return Genotype(draw(text), tuple(nodes))


@settings(max_examples=30)
@given(genotypes())
def test_genotype_survives_a_json_round_trip(genotype):
    copy = Genotype.from_json(json.loads(genotype.to_json()))
    assert copy == genotype
    assert hash(copy) == hash(genotype)


def test_genotype_survives_a_file(tmp_path):
    PAPER.save(tmp_path / "deep" / "genotype.json")
    assert Genotype.load(tmp_path / "deep" / "genotype.json") == PAPER


def test_readable_form_names_operators_and_inputs():
    assert str(PAPER) == "ConcatFC(image_2, text_0) -> LinearGLU(cell_0, text_0)"
    assert json.loads(PAPER.to_json())["reads"] == str(PAPER)


def test_features_are_the_inputs_that_are_no_nodes_in_order_of_use():
    assert PAPER.features == ("image_2", "text_0")


def test_genotypes_that_differ_anywhere_are_unequal():
    first, second = PAPER.nodes
    others = [
        Genotype("layers", PAPER.nodes),
        Genotype("fusion", (first,)),
        Genotype("fusion", (first, Node("cell_1", "LinearGLU", ("text_0", "cell_0")))),
        Genotype("fusion", (Node("cell_0", "Sum", first.inputs), second)),
    ]
    assert len({PAPER, *others}) == 5


def document(**changes) -> dict:
    return json.loads(PAPER.to_json()) | changes


def node(**changes) -> dict:
    return {"name": "cell_0", "operator": "Sum", "inputs": ["image_0", "text_0"]} | changes


BROKEN = {
    "another version": (document(format=FORMAT + 1), "expected a genotype of format 1, got '2'"),
    "no version": ({"space": "fusion", "nodes": [node()]}, "format 1, got 'None'"),
    "a list": ([1, 2], r"expected a genotype of format 1, got '\[1, 2\]'"),
    "null": (None, "format 1, got 'None'"),
    "no space": ({"format": FORMAT, "nodes": [node()]}, "lacks space"),
    "space of another type": (document(space=3), r"\.space: expected str, got '3'"),
    "nodes of another type": (document(nodes="cell_0"), r"\.nodes: expected tuple.*got 'cell_0'"),
    "a field of its own": (document(author="me"), "has unknown author"),
    "no nodes": (document(nodes=[]), "at least one node"),
    "a node that is no mapping": (
        document(nodes=["Sum"]),
        r"nodes\[0\]: expected an object, got 'Sum'",
    ),
    "a node without operator": (
        document(nodes=[{"name": "a", "inputs": []}]),
        r"nodes\[0\]: lacks operator",
    ),
    "a name of another type": (document(nodes=[node(name=0)]), r"\.name: expected str, got '0'"),
    "inputs as text": (document(nodes=[node(inputs="image_0")]), r"\.inputs: .*got 'image_0'"),
    "an input of another type": (document(nodes=[node(inputs=["image_0", 1])]), "restore"),
    "too many nodes": (document(nodes=[node()] * 301), "at most 300 nodes, got 301; restore"),
    "two nodes of one name": (document(nodes=[node(), node()]), "distinct node names"),
    "a node that uses itself": (
        document(nodes=[node(inputs=["cell_0", "text_0"])]),
        r"'cell_0' uses \['cell_0'\] before it is computed",
    ),
    "a node that uses a later one": (
        document(nodes=[node(inputs=["b", "text_0"]), node(name="b")]),
        r"'cell_0' uses \['b'\] before",
    ),
    "a cycle": (
        document(nodes=[node(inputs=["b"]), node(name="b", inputs=["cell_0"])]),
        "list a node after its inputs",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_file_edited_by_hand_is_refused_by_name(case, tmp_path):
    content, message = BROKEN[case]
    path = tmp_path / "genotype.json"
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=message) as caught:
        Genotype.load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_changing_what_is_only_for_people_changes_nothing():
    assert Genotype.from_json(document(reads="something else")) == PAPER


def test_file_that_is_not_json_is_refused(tmp_path):
    path = tmp_path / "genotype.json"
    path.write_text(PAPER.to_json()[:-20])
    with pytest.raises(InputError, match="genotype.json is not valid JSON"):
        Genotype.load(path)
    with pytest.raises(InputError, match="cannot read .*missing.json"):
        Genotype.load(tmp_path / "missing.json")

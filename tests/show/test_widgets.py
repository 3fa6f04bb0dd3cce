"""Widgets show, without a kernel, the figures that the plain functions draw.

What a browser does is done here on the widgets' saved state: move a control, follow the links,
and see which pages of which stacks are shown.
"""

from __future__ import annotations

import html
import io
import itertools
import json
import math
import random
import re
from base64 import b64decode
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ssnas_core.common.errors import InputError
from ssnas_core.objectives.contrastive import nt_xent
from ssnas_core.show.curves import draw_genotype, plot_scores
from ssnas_core.show.frames import frames
from ssnas_core.show.widget_figures import (
    draw_label_ratio,
    draw_temperature,
    draw_threshold,
    draw_weights,
)
from ssnas_core.show.widgets import (
    cells_editor,
    genotype_editor,
    label_ratio_widget,
    search_widget,
    temperature_widget,
    threshold_widget,
)
from ssnas_core.spaces.cells.space import CellsConfig
from ssnas_core.spaces.fusion.space import FusionConfig, FusionSpace
from ssnas_core.study.figures import plot_differences
from ssnas_core.study.widgets import differences_widget, study_widget
from ssnas_core.training.metrics import choose_threshold, f1_scores

embed = pytest.importorskip("ipywidgets.embed")

CHANNELS = {"image_0": 3, "image_1": 5, "text_0": 7}
RATIOS, METHODS, SEEDS = (0.1, 1.0), ("random", "found"), (0, 1)
ROWS = [
    {"method": method, "label_ratio": ratio, "seed": seed,
     "weighted_f1": 0.3 + 0.2 * (method == "found") + 0.1 * ratio + 0.02 * seed}
    for method in METHODS for ratio in RATIOS for seed in SEEDS
]  # fmt: skip
COUNTS = {0.1: {"Drama": 4, "War": 1}, 1.0: {"Drama": 40, "War": 12}}


class Page:
    """A widget on a page without a kernel: its saved state and nothing else."""

    def __init__(self, widget: Any) -> None:
        saved = json.loads(json.dumps(embed.dependency_state([widget], drop_defaults=False)))
        self.models = {name: dict(model["state"]) for name, model in saved.items()}
        self.kinds = {name: model["model_name"] for name, model in saved.items()}
        self.root = widget.model_id
        self.follow()

    def of(self, *kinds: str) -> list[dict]:
        return [self.models[name] for name, kind in self.kinds.items() if kind in kinds]

    def control(self, description: str) -> dict:
        (found,) = (
            model
            for model in self.of("SelectionSliderModel", "DropdownModel", "ToggleButtonsModel")
            if model["description"] == description
        )
        return found

    def move(self, description: str, index: int) -> None:
        self.control(description)["index"] = index
        self.follow()

    def follow(self) -> None:
        for link in self.of("LinkModel"):
            (source, value), (target, name) = link["source"], link["target"]
            own = self.models[source.removeprefix("IPY_MODEL_")]
            self.models[target.removeprefix("IPY_MODEL_")][name] = own[value]

    def shown(self, name: str | None = None) -> list[str]:
        """What the visible HTML widgets hold, from top to bottom."""
        name = (name or self.root).removeprefix("IPY_MODEL_")
        model, kind = self.models[name], self.kinds[name]
        if kind == "HTMLModel":
            return [model["value"]]
        children = model.get("children", [])
        if kind == "StackModel":
            children = [children[model["selected_index"]]]
        return [text for child in children for text in self.shown(child)]

    def text(self) -> str:
        lines = re.findall(r"<p[^>]*>(.*?)</p>", "".join(self.shown()))
        return html.unescape("\n".join(lines).replace("<br>", "\n"))

    def pictures(self) -> list[tuple[np.ndarray, str]]:
        """The visible pictures and their alt texts."""
        found = re.findall(r'<img alt="([^"]*)" src="data:image/png;base64,([^"]*)"',
                           "".join(self.shown()))  # fmt: skip
        return [(pixels(b64decode(data)), html.unescape(alt)) for alt, data in found]

    def bytes_of_frames(self) -> list[int]:
        values = (model["value"] for model in self.of("HTMLModel"))
        return [len(value) for value in values if "<img" in value]


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"), dtype=int)


def drawn(figure: Any) -> np.ndarray:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=160)
    return pixels(buffer.getvalue())


def same_picture(frame: np.ndarray, figure: Any) -> bool:
    """Up to the colours of the palette."""
    plain = drawn(figure)
    return frame.shape == plain.shape and np.abs(frame - plain).mean() < 0.8


@pytest.fixture(scope="module")
def scored() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = (rng.random((30, 4)) < 0.4).astype(int)
    return np.clip(0.3 * labels + 0.7 * rng.random((30, 4)), 0, 1), labels


@pytest.fixture(scope="module")
def views() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    first = rng.normal(size=(5, 3))
    return first, first + 0.3 * rng.normal(size=(5, 3))


def history(space: FusionSpace, epochs: int) -> list[dict]:
    generator = torch.Generator().manual_seed(0)
    shapes = {name: value.shape for name, value in space.supernet().logits.items()}
    logits = [
        {name: 2 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}
        for _ in range(epochs)
    ]
    return [
        {"epoch": epoch, "logits": {name: value.tolist() for name, value in own.items()},
         "genotype": str(space.derive(own)), **({"train_loss": 1 / epoch} if epoch else {})}
        for epoch, own in enumerate(logits)
    ]  # fmt: skip


def test_every_frame_is_the_figure_of_its_value(scored):
    page = Page(threshold_widget(*scored, thresholds=(0.2, 0.5, 0.8)))
    for place, threshold in enumerate((0.2, 0.5, 0.8)):
        page.move("threshold", place)
        ((picture, alt),) = page.pictures()
        assert same_picture(picture, draw_threshold(*scored, threshold))
        assert f"{threshold:g} marked" in alt
    assert not same_picture(picture, draw_threshold(*scored, 0.2))


def test_the_slider_stands_where_the_first_frame_is(scored):
    widget = threshold_widget(*scored, thresholds=(0.2, 0.5, 0.8))
    assert [child.selected_index for child in widget.children[1:]] == [1, 1]
    page = Page(widget)
    assert page.control("threshold")["index"] == 1
    assert page.control("threshold")["_options_labels"] == ["0.2", "0.5", "0.8"]


def test_threshold_text_says_the_scores_and_the_labels_per_sample(scored):
    probs, labels = scored
    page = Page(threshold_widget(probs, labels, thresholds=(0.3, 0.5)))
    page.move("threshold", 0)
    text = page.text()
    for name, value in f1_scores(probs, labels, 0.3).items():
        assert f"{name} {value:.3f}" in text
    assert f"{(probs > 0.3).sum() / 30:.2f} labels predicted per sample" in text
    assert f"{labels.sum() / 30:.2f} true" in text
    assert f"Chosen on these labels: {choose_threshold(probs, labels):.3f}." in text


def test_threshold_curves_are_the_four_averages(scored):
    axes = draw_threshold(*scored, 0.5).axes[0]
    curves = {line.get_label(): line for line in axes.lines if len(line.get_xdata()) > 2}
    for name, curve in curves.items():
        assert curve.get_ydata()[37] == f1_scores(*scored, 0.37)[name]
    assert len(curves) == 4


@pytest.mark.parametrize("temperature", [0.05, 0.5])
def test_temperature_shares_are_the_softmax_inside_nt_xent(views, temperature):
    (image,) = draw_temperature(*views, temperature).axes[0].images
    shares = image.get_array()
    assert np.allclose(shares.sum(1), 1)
    assert np.allclose(np.diag(shares), 0)
    partners = [shares[i, (i + 5) % 10] for i in range(10)]
    tensors = (torch.tensor(view) for view in views)
    assert -np.log(partners).mean() == pytest.approx(nt_xent(*tensors, temperature=temperature))


def test_temperature_text_says_the_loss_and_that_of_guessing(views):
    page = Page(temperature_widget(*views, temperatures=(0.1, 1.0)))
    page.move("temperature τ", 0)
    loss = nt_xent(*(torch.tensor(view) for view in views), temperature=0.1)
    assert page.text().startswith(f"NT-Xent {loss:.2f} nats (guessing: {math.log(9):.2f}).")


def test_label_ratio_shows_counts_means_and_the_marked_ratio():
    upper, lower = draw_label_ratio(ROWS, COUNTS, 0.1).axes
    pale, full = lower.containers
    assert [bar.get_width() for bar in pale] == [40, 12]
    assert [bar.get_width() for bar in full] == [4, 1]
    curves = {line.get_label(): line.get_ydata() for line in upper.lines}
    assert curves["found"] == pytest.approx([0.52, 0.61])
    assert [line.get_xdata() for line in upper.lines if line.get_linestyle() == "--"
            and len(line.get_xdata()) == 2 and line.get_xdata()[0] == line.get_xdata()[1]
            ] == [[0.1, 0.1]]  # fmt: skip


def test_label_ratio_text_has_every_method_with_its_interval():
    page = Page(label_ratio_widget(ROWS, COUNTS))
    assert page.control("label ratio r")["_options_labels"] == ["0.1", "1"]
    page.move("label ratio r", 1)
    lines = page.text().splitlines()
    assert lines[0] == "r = 1: 52 labels."
    half = 12.7062 * 0.02 / 2  # t(1) times the standard error of two values 0.02 apart
    assert lines[2] == f"found: 0.610 [{0.61 - half:.3f}, {0.61 + half:.3f}]"


def test_search_moves_the_graph_and_the_weights():
    space = FusionSpace(CHANNELS, FusionConfig(cells=2, channels=4, length=2))
    epochs = history(space, 2)
    page = Page(search_widget(epochs, space))
    for epoch in (1, 0):
        page.move("search epoch", epoch)
        assert page.text().splitlines()[0] == epochs[epoch]["genotype"]
        (graph, alt), (weights, _) = page.pictures()
        genotype = space.derive({k: torch.tensor(v) for k, v in epochs[epoch]["logits"].items()})
        assert same_picture(graph, draw_genotype(genotype, space.features))
        assert str(genotype) in alt
        shown = {k: v for k, v in space.labels().items() if not k.startswith("beta")}
        assert same_picture(weights, draw_weights(epochs[epoch]["logits"], shown))


def test_search_stores_equal_graphs_once():
    space = FusionSpace(CHANNELS, FusionConfig(cells=1, channels=4, length=2))
    (start,) = history(space, 1)
    page = Page(search_widget([{**start, "epoch": epoch} for epoch in range(3)], space))
    assert len(page.bytes_of_frames()) == 1 + 3  # one graph; the alt texts of the bars differ


def test_weights_are_softmaxes_with_the_names_of_their_entries():
    space = FusionSpace(CHANNELS, FusionConfig(cells=1, channels=4, length=2))
    (start,) = history(space, 1)
    figure = draw_weights(start["logits"], space.labels())
    panels = {axes.get_title(): axes for axes in figure.axes if axes.axison}
    assert set(panels) == {"alpha_0", "beta_0_0", "gamma_0_0"}
    alpha = [bar.get_width() for bar in panels["alpha_0"].patches]
    assert alpha == pytest.approx(torch.tensor(start["logits"]["alpha_0"]).softmax(0).tolist())
    beta = [bar.get_width() for bar in panels["beta_0_0"].patches]
    assert sum(beta[:2]) == pytest.approx(1)
    names = [text.get_text() for text in panels["alpha_0"].get_yticklabels()]
    assert names == ["image_0", "image_1", "text_0"]


@pytest.fixture(scope="module")
def space() -> FusionSpace:
    return FusionSpace(CHANNELS, FusionConfig(cells=1, channels=4, length=2))


@pytest.fixture(scope="module")
def editor(space: FusionSpace) -> Page:
    names = [str(genotype) for genotype in space.genotypes()]
    scores = {name: place / 100 for place, name in enumerate(names[1:], 1)}  # the first has none
    return Page(genotype_editor(space, scores, positions={"text_0": 1}))


def test_editor_reaches_every_genotype_by_its_three_controls(space, editor):
    operators = editor.control("operator")["_options_labels"]
    seen = set()
    for first, x in enumerate(CHANNELS):
        for second, y in enumerate(CHANNELS):
            for place, operator in enumerate(operators):
                editor.move("x", first)
                editor.move("y", second)
                editor.move("operator", place)
                title = editor.text().splitlines()[0]
                if x == y:
                    assert "two different inputs" in title
                else:
                    assert title in {f"{operator}({x}, {y})", f"{operator}({y}, {x})"}
                    seen.add(title)
    assert seen == {str(genotype) for genotype in space.genotypes()}


def choose(editor: Page, operator: str, x: str, y: str) -> list[str]:
    names = list(CHANNELS)
    editor.move("x", names.index(x))
    editor.move("y", names.index(y))
    editor.move("operator", editor.control("operator")["_options_labels"].index(operator))
    return editor.text().splitlines()


def test_editor_keeps_the_order_of_inputs_where_it_matters(editor):
    assert choose(editor, "Attention", "text_0", "image_0")[0] == "Attention(text_0, image_0)"
    assert choose(editor, "Attention", "image_0", "text_0")[0] == "Attention(image_0, text_0)"


def test_editor_counts_parameters_and_operations(space, editor):
    lines = choose(editor, "ConcatFC", "image_0", "text_0")
    (genotype,) = (one for one in space.genotypes() if str(one) == lines[0])
    parameters = sum(p.numel() for p in space.build(genotype).parameters())
    # stems: P x C_in x C; the operator: L x 2C x C; two operations for each
    operations = 2 * (2 * 3 * 4 + 1 * 7 * 4 + 2 * 8 * 4)
    assert lines[1] == (
        f"{parameters:,} parameters, {operations:,} floating-point operations per sample"
    )
    assert same_picture(editor.pictures()[0][0], draw_genotype(genotype, space.features))


def test_editor_says_the_score_and_its_place_or_that_there_is_none(space, editor):
    names = [str(genotype) for genotype in space.genotypes()]

    def last_line(name: str) -> str:
        operator, inputs = name.removesuffix(")").split("(")
        return choose(editor, operator, *inputs.split(", "))[-1]

    best, count = names[-1], len(names) - 1
    assert last_line(best) == f"weighted F1 once trained: {count / 100:.3f} (place 1 of {count})"
    assert last_line(names[0]) == "weighted F1 once trained: not in the table"


@pytest.fixture(scope="module")
def cells():
    """A space of cells of one node, and a loss for each of its normal cells."""
    config = CellsConfig(cells=3, nodes=1, channels=2)
    space = config.open({"image_0": 3}, {"image_0": 64})
    base = {**dict.fromkeys(space.variables, 0), "reduce_2 first": 2}
    forms = [
        space.decode({**base, "normal_2 first": first, "normal_2 second": second})
        for first in range(7) for second in range(7)
    ]  # fmt: skip
    return space, {genotype: 100.0 - number for number, genotype in enumerate(forms)}


def test_editor_of_cells_reaches_each_by_its_two_operations(cells):
    space, losses = cells
    editor, seen = Page(cells_editor(space, losses, {"image_0": 64})), set()
    for first, one in enumerate(space.variables["normal_2 first"]):
        for second, other in enumerate(space.variables["normal_2 second"]):
            editor.move("first operation", first)
            editor.move("second operation", second)
            costs, place = editor.text().splitlines()
            assert costs.startswith(f"{one}+{other}(c_k-2, c_k-1): ")
            assert place == (
                f"loss without labels: {100 - 7 * first - second:.2f} nats "
                f"(place {49 - 7 * first - second} of 49)"
            )
            seen.add(costs)
    assert len(seen) == 49
    (genotype,) = (one for one in losses if losses[one] == 52)
    assert same_picture(editor.pictures()[0][0], draw_genotype(genotype))
    parameters = sum(p.numel() for p in space.build(genotype).parameters())
    assert f" {parameters:,} parameters, " in costs


def test_editor_of_cells_counts_the_operations_of_convolutions(cells):
    """Of pools alone, what is left are the stem, the cells' inputs and the halvings."""
    space, losses = cells
    editor = Page(cells_editor(space, losses, {"image_0": 64}))
    editor.move("first operation", 0)
    editor.move("second operation", 0)
    wanted = 64 * 3 * 6 * 9  # the stem: 3 -> 6 channels, 3 x 3
    # normal, reduce and reduce again; C = 2, 4, 8 with 6 channels from the stem
    wanted += 64 * (6 * 2 + 6 * 2) + 64 * (6 * 4 + 2 * 4) + 16 * (2 * 8 + 4 * 8)
    # the reduction's identity of the first state, which is a halving there
    wanted += 16 * 4 * 4 + 4 * 8 * 8
    assert f" {2 * wanted:,} floating-point operations" in editor.text()


def test_editor_of_cells_refuses_what_it_cannot_show(cells):
    space, losses = cells
    two = CellsConfig(cells=3, nodes=2, channels=2).open({"image_0": 3}, {"image_0": 64})
    with pytest.raises(InputError, match="expected cells of one node and their losses, got 2"):
        cells_editor(two, losses, {"image_0": 64})
    with pytest.raises(InputError, match="expected a loss of .*, got none; train it as well"):
        cells_editor(space, dict(list(losses.items())[:3]), {"image_0": 64})


def test_thresholds_go_by_twentieths(scored):
    import inspect

    thresholds = inspect.signature(threshold_widget).parameters["thresholds"].default
    assert [round(20 * value) for value in thresholds] == list(range(1, 20))


def test_editor_leaves_the_random_numbers_alone(space):
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    small = FusionSpace({"image_0": 3, "text_0": 7}, space.config)
    genotype_editor(small)
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.thorough
def test_frames_are_small(scored, views, editor):
    pages = [
        Page(temperature_widget(*views, temperatures=(0.1, 1.0))),
        Page(threshold_widget(*scored, thresholds=(0.1, 0.5))),
        Page(label_ratio_widget(ROWS, COUNTS)),
        editor,
    ]
    assert max(size for page in pages for size in page.bytes_of_frames()) < 40_000


def test_frames_take_any_figure_and_tell_code_hosts_what_is_missing(scored):
    values = ("low", "high")
    widget = frames(
        values, lambda value: draw_threshold(*scored, 0.1 if value == "low" else 0.9),
        description="threshold", alt=lambda value: f'a <"{value}"> figure', label=str, start=1,
    )  # fmt: skip
    assert Page(widget).pictures()[0][1] == 'a <"high"> figure'
    bundle = widget._repr_mimebundle_()
    assert bundle["text/plain"] == "[threshold: 2 frames; they move in the built book]"
    assert "application/vnd.jupyter.widget-view+json" in bundle
    assert "ssnas-widget" in embed.embed_snippet(views=[widget])


def test_what_cannot_be_shown_is_refused(scored, views, space):
    first, second = views
    with pytest.raises(InputError, match="at least two values and a start.*got 1 and 0"):
        threshold_widget(*scored, thresholds=(0.5,))
    with pytest.raises(InputError, match="got 2 and 2"):
        frames("ab", lambda _: None, description="", alt=str, start=2)
    with pytest.raises(InputError, match=r"thresholds in \[0, 1\], got none"):
        threshold_widget(*scored, thresholds=())
    with pytest.raises(InputError, match=r"threshold in \[0, 1\], got 1.5"):
        threshold_widget(*scored, thresholds=(0.5, 1.5))
    with pytest.raises(InputError, match=r"temperature > 0, got 0"):
        temperature_widget(first, second, temperatures=(0.1, 0.0))
    with pytest.raises(InputError, match=r"N in 2..32, got \(5, 3\) and \(4, 3\)"):
        temperature_widget(first, second[:4])
    with pytest.raises(InputError, match="take the first 32 rows"):
        draw_temperature(np.ones((33, 2)), np.ones((33, 2)), 0.5)
    with pytest.raises(InputError, match=r"scores and counts, got 0.5; choose among \[0.1, 1.0\]"):
        draw_label_ratio(ROWS, COUNTS, 0.5)
    with pytest.raises(InputError, match="at least two values"):
        label_ratio_widget(ROWS, {0.1: COUNTS[0.1]})
    with pytest.raises(InputError, match="pass the space's labels"):
        draw_weights({"alpha_0": [0.0, 1.0]}, {})
    with pytest.raises(InputError, match="one cell of one step, got 2 of 1"):
        genotype_editor(FusionSpace(CHANNELS, FusionConfig(cells=2)))
    with pytest.raises(InputError, match="at most 150 genotypes, got 180; leave features out"):
        genotype_editor(FusionSpace({f"image_{i}": 2 for i in range(9)}, space.config))
    with pytest.raises(InputError, match="this space, got 'Sum.image_0, text_9.'; they read like"):
        genotype_editor(space, {"Sum(image_0, text_9)": 0.5})


# --- tables of a study, chosen by two lists

SHARES, BEST_FIRST = (0.1, 1.0), ("found", "random", "concat")


def study_of(methods: dict[str, int], key: str = "accuracy") -> list[dict[str, Any]]:
    """A study of methods with as many seeds each; ahead by 0.1 of the next one, with scatter."""
    found = []
    for method, seeds in methods.items():
        for ratio, seed in itertools.product(SHARES, range(seeds)):
            score = 0.5 - 0.1 * BEST_FIRST.index(method) + 0.2 * ratio + 0.01 * seed
            score = round(score + random.Random(f"{method} {ratio} {seed}").uniform(0, 0.02), 4)
            found.append(
                {"method": method, "label_ratio": ratio, "seed": seed, "score": score, key: score}
            )
    return found


TABLES = {
    "digits": study_of({"random": 3, "found": 3, "concat": 3}),
    "movies": study_of({"random": 2, "concat": 4}, "weighted_f1"),
}
GROUPS = {"two": ("random", "concat"), "all": ("found", "random", "concat")}
QUESTIONS = {
    "does search gain": [("found", "random")],
    "does joining gain": [("random", "concat"), ("found", "concat")],
}


@pytest.fixture(scope="module")
def curves() -> Page:
    return Page(study_widget(TABLES, GROUPS))


@pytest.fixture(scope="module")
def gains() -> Page:
    return Page(differences_widget(TABLES, QUESTIONS))


def look(page: Page, table: int, description: str, choice: int) -> None:
    page.move("data", table)
    page.move(description, choice)


@pytest.mark.parametrize(("table", "name"), [*enumerate(TABLES)])
@pytest.mark.parametrize(("group", "methods"), [*enumerate(GROUPS.values())])
def test_curves_of_each_table_with_each_group_told_apart(curves, table, name, group, methods):
    look(curves, table, "tell apart", group)
    own = [one for one in methods if one != "found" or name == "digits"]
    ((picture, alt),) = curves.pictures()
    assert same_picture(picture, plot_scores(TABLES[name], own))
    assert alt == f"Score on test against the label ratio, {name}: {'; '.join(own)}."


@pytest.mark.parametrize(("table", "name"), [*enumerate(TABLES)])
@pytest.mark.parametrize(("question", "pairs"), [*enumerate(QUESTIONS.values())])
def test_differences_of_each_table_for_each_question(gains, table, name, question, pairs):
    look(gains, table, "question", question)
    own = [pair for pair in pairs if "found" not in pair or name == "digits"]
    if own:
        ((picture, alt),) = gains.pictures()
        assert same_picture(picture, plot_differences(TABLES[name], own))
        assert alt.endswith(f"{name}: {'; '.join(' minus '.join(pair) for pair in own)}.")
    else:
        assert gains.pictures() == []
        assert gains.text() == "The table of movies has no pair for this question."


def test_both_lists_begin_at_their_first_entry():
    page = Page(study_widget(TABLES, GROUPS))
    assert page.control("data")["_options_labels"] == ["digits", "movies"]
    assert page.control("tell apart")["_options_labels"] == ["two", "all"]
    assert page.pictures()[0][1].endswith("digits: random; concat.")


def test_text_of_curves_has_the_mean_ranks_of_the_group_best_first(curves):
    look(curves, 0, "tell apart", 1)
    assert curves.text() == (
        "Mean rank of these 3 over the 6 cells of label ratio x seed that all of them have: "
        "found 1.0, random 2.0, concat 3.0."
    )
    look(curves, 0, "tell apart", 0)  # of three methods two
    assert curves.text().endswith("that all of them have: random 1.0, concat 2.0.")
    look(curves, 1, "tell apart", 0)  # of 2 and 4 seeds, 2 ratios
    assert "these 2 over the 4 cells" in curves.text()


def test_text_of_differences_is_paired_by_seed_and_a_mean_over_ratios(gains):
    look(gains, 0, "question", 1)
    first, second = gains.text().splitlines()
    score = {(r["method"], r["label_ratio"], r["seed"]): r["score"] for r in TABLES["digits"]}
    by_seed = [
        np.mean([score["found", r, seed] - score["concat", r, seed] for r in SHARES])
        for seed in range(3)
    ]
    half = 4.302653 * np.std(by_seed, ddof=1) / np.sqrt(3)  # t(2)
    mean = np.mean(by_seed)
    assert second == (
        f"found − concat, mean over all r: {mean:+.3f} [{mean - half:+.3f}, {mean + half:+.3f}], "
        "3 seeds, p = 0.250 before any correction."  # 2 of 2**3 arrangements of signs
    )
    assert first.startswith("random − concat, mean over all r: +")


def test_few_seeds_and_missing_cells_are_told_and_not_averaged_over():
    one = [row for row in TABLES["digits"] if row["seed"] == 0]
    few = [row for row in one if row["method"] != "concat" or row["label_ratio"] == 1.0]
    pairs = [("found", "random"), ("found", "concat")]
    page = Page(differences_widget({"digits": few}, {"gain": pairs}))
    single, half = page.text().splitlines()
    assert single.startswith("found − random, mean over all r: +0.099")
    assert single.endswith(", one seed.")
    assert half == "found − concat, mean over all r: no seed has every r of both."
    apart = [row for row in TABLES["digits"] if (row["method"] == "found") == (row["seed"] == 0)]
    page = Page(study_widget({"digits": apart}, {"all": ("found", "random")}))
    assert page.text() == "No ranks: there is no label ratio and seed that all of these have."
    page = Page(study_widget({"digits": one}, {"one": ("found", "unknown")}))
    assert page.text() == "The table of digits has fewer than two methods of this group."


def test_differences_that_round_to_nothing_have_no_minus_sign():
    base = [row for row in TABLES["digits"] if row["method"] == "random"]
    near = [row | {"method": "found", "score": row["score"] - 0.0001} for row in base]
    (line,) = Page(
        differences_widget({"d": [*near, *base]}, {"gain": [("found", "random")]})
    ).text().splitlines()  # fmt: skip
    assert "mean over all r: +0.000 [+0.000, +0.000]" in line


def test_a_book_page_can_hold_the_frames(curves, gains):
    assert max(*curves.bytes_of_frames(), *gains.bytes_of_frames()) < 45_000


def test_nothing_to_choose_from_is_refused():
    with pytest.raises(InputError, match="at least one table and one tell apart, got 0 and 2"):
        study_widget({}, GROUPS)
    with pytest.raises(InputError, match="one table and one question, got 2 and 0; pass both by"):
        differences_widget(TABLES, {})

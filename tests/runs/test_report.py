"""Runs are shown at any stage from their folder alone, and compared without mixing what differs."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ssnas_core.common.errors import InputError
from ssnas_core.common.files import write_json
from ssnas_core.objectives.contrastive import Contrastive
from ssnas_core.runs.compare import compare_runs, comparison_table, plot_comparison
from ssnas_core.runs.folder import FORMAT, RunFolder
from ssnas_core.runs.reading import cell_folder, logit_labels, search_history
from ssnas_core.runs.recipes import RunConfig
from ssnas_core.runs.report import show_genotype, show_run
from ssnas_core.runs.run import Run
from ssnas_core.show.curves import plot_scores
from ssnas_core.show.tables import table_csv
from ssnas_core.spaces.fusion.space import FusionConfig, FusionSpace
from ssnas_core.spaces.genotype import Genotype, Node
from ssnas_core.training.metrics import mean_interval

pytestmark = pytest.mark.usefixtures("one_thread")

# --- one run


@pytest.fixture(scope="module")
def shown(finished, tmp_path_factory):
    """What is told of the finished run, and the folder of its figures."""
    out = tmp_path_factory.mktemp("shown")
    return show_run(finished.folder.path, out=out, formats=("svg",)), out


@pytest.fixture
def copy(finished, tmp_path):
    """Copy files of the finished run into a folder of one's own."""

    def make(*patterns: str) -> Path:
        source, mine = finished.folder.path, tmp_path / "mine"
        for pattern in ("config.json", *patterns):
            for file in source.glob(pattern):
                target = mine / file.relative_to(source)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file, target)
        return mine

    return make


PREPARED = ("prepared.json", "dataset.json", "timings.jsonl")
SEARCHED = (*PREPARED, "genotype.json", "history.jsonl", "labels.json")


def test_finished_run_is_shown_whole(finished, shown):
    result, (told, out) = finished.run(), shown
    assert told["stage"] == "finished"
    assert told["genotype"] == result["genotype"]
    assert [{**row, "on": "test"} for row in result["scores"]] == told["scores"]
    assert told["seconds"] == result["seconds"]
    assert told["labelled"] == {"0.25": {"train": 9, "dev": 3}, "1": {"train": 36, "dev": 12}}
    assert told["notes"] == []
    assert list(told["figures"]) == ["genotype", "search", "losses", "scores"]
    for name, files in told["figures"].items():
        assert files == [str(out / f"{name}.svg")]
        svg = (out / f"{name}.svg").read_bytes()
        assert b"<svg" in svg and len(svg) > 5000
    json.dumps(told, allow_nan=False)


def test_text_says_what_was_found_scored_labelled_and_spent(finished, shown):
    result, (told, out) = finished.run(), shown
    lines = told["text"].splitlines()
    assert lines[0] == f"{finished.folder.path}: finished"
    for node in Genotype.load(finished.folder / "genotype.json").nodes:
        assert f"{node.name} = {node}" in lines
    words = [line.split() for line in lines]
    for row in result["scores"]:
        start = f"{row['method']} {row['label_ratio']:g} test {row['weighted_f1']:.3f}".split()
        assert any(line[: len(start)] == start for line in words)
    assert "labelled at r = 0.25: 9 train, 3 dev" in lines
    head = next(n for n, line in enumerate(words) if line[-2:] == ["other", "text"])
    assert words[head] == "method r dev other image other text".split()
    for row, line in zip(told["shuffled"], words[head + 1 :], strict=False):
        trained = cell_folder(finished.folder.path, row["method"], row["label_ratio"])
        facts = json.loads((trained / "train.json").read_text())
        numbers = facts["dev"]["weighted_f1"], *facts["shuffled"].values()
        start = f"{row['method']} {row['label_ratio']:g}".split()
        assert line == [*start, *(f"{number:.3f}" for number in numbers)]
    assert len(told["shuffled"]) == len(told["scores"])
    assert any(line.startswith("seconds: prepare ") for line in lines)
    assert any(line.startswith("peak anonymous memory: ") for line in lines)
    assert lines[-1] == f"drawn: {out / 'scores.svg'}"


def test_weights_have_names_without_the_feature_store(finished):
    folder = RunFolder.opened(finished.folder.path)
    assert logit_labels(folder, search_history(folder)) == finished.space.labels()
    assert logit_labels(folder, []) == {}


def test_search_of_a_space_of_many_features_is_read_whole(tmp_path):
    """The released relaxation has a row of two logits for each feature and earlier cell."""
    space = FusionSpace(
        {f"image_{depth}": 4 for depth in range(24)},
        FusionConfig(channels=4, relaxation="released"),
    )
    logits = {name: value.tolist() for name, value in space.supernet().logits.items()}
    history = [{"epoch": epoch, "logits": logits} for epoch in range(3)]
    (tmp_path / "config.json").write_text(json.dumps({"format": FORMAT}))
    (tmp_path / "history.jsonl").write_text("".join(json.dumps(one) + "\n" for one in history))
    folder = RunFolder.opened(tmp_path)
    assert search_history(folder) == history
    wide = {**history[0], "logits": {"alpha_0": [[0.0] * 2] * 501}}  # a broken folder's
    (tmp_path / "history.jsonl").write_text(json.dumps(wide))
    assert search_history(folder) == []


STAGES = {
    "begun": ((), [], "begun"),
    "prepared": (PREPARED, [], "prepared"),
    "searched": (SEARCHED, ["genotype", "search", "losses"], "searched"),
    "pretrained": (
        (*SEARCHED, "pretrain.json"), ["genotype", "search", "losses"], "pretrained",
    ),
    "partly trained": (
        (*SEARCHED, "pretrain.json", "cells/found_r1/*", "cells/random_r1/train.json"),
        ["genotype", "search", "losses", "scores"],
        "2 cells fine-tuned, 1 of them scored on test",
    ),
}  # fmt: skip


@pytest.mark.parametrize("stage", STAGES)
def test_run_is_shown_at_any_stage(stage, copy):
    patterns, figures, words = STAGES[stage]
    mine = copy(*patterns)
    told = show_run(mine, formats=())
    assert told["stage"] == words
    assert list(told["figures"]) == figures
    assert told["text"].startswith(f"{mine}: {words}\n")
    assert told["text"] == told["text"].rstrip()


GOING_ON = [
    ("fusion", "bilevel", "1 of 2 epochs"),
    ("fusion", "bilevel", "1 of at least 2 epochs"),
    ("fusion", "random", "1 of 2 trials"),
    ("layers", "surrogate", "1 trial"),
    pytest.param("layers", "evolution", "1 of 3 trials", marks=pytest.mark.thorough),
    pytest.param("fusion", "tpe", "1 of 3 trials", marks=pytest.mark.thorough),
]


@pytest.mark.parametrize(("space", "strategy", "words"), GOING_ON)
def test_search_that_goes_on_is_shown_up_to_its_checkpoint(
    tiny_data, tiny_store, tiny_recipe, killed, tmp_path, monkeypatch, space, strategy, words
):
    loss, left = Contrastive.loss, [9 if strategy == "bilevel" else 4]  # 6 are an epoch, 2 a trial

    def stopping(*args):
        left[0] -= 1
        if left[0] == 0:
            raise killed.Kill
        return loss(*args)

    monkeypatch.setattr(Contrastive, "loss", stopping)
    part = strategy
    if "at least" in words:
        part = replace(tiny_recipe.strategy("bilevel"), min_steps=100)
    config = RunConfig(data=tiny_data, space=space, strategy=part, recipe=tiny_recipe)
    run = Run(config, tmp_path / "run", store=tiny_store, device="cpu")
    with pytest.raises(killed.Kill):
        run.search()
    told = show_run(run.folder.path, formats=())
    assert told["stage"] == f"searching: {words}"
    assert "search" in told["figures"] and told["genotype"] is None
    assert f"space {space}, objective contrastive, strategy {strategy}, " in told["text"]


def test_score_on_dev_is_called_so(copy):
    mine = copy(*SEARCHED, "cells/found_r1/train.json")
    trained = json.loads((mine / "cells" / "found_r1" / "train.json").read_text())
    told = show_run(mine, formats=())
    (row,) = told["scores"]
    assert row["on"] == "dev" and row["weighted_f1"] == trained["dev"]["weighted_f1"]
    assert "dev: the labelled dev part, on which the threshold was chosen" in told["text"]
    assert plot_scores([row]).axes[0].get_ylabel() == "weighted F1 on dev"


def test_methods_stand_from_the_weakest_claim_up(finished, copy):
    mine = copy(*SEARCHED, "cells/*/*.json")
    methods = [row["method"] for row in show_run(mine, formats=())["scores"]]
    assert methods == [*finished.methods] * 2


def test_showing_writes_figures_and_nothing_else(copy, tree):
    mine = copy("*.json", "*.jsonl", "cells/found_r1/*.json", "checkpoint/*")
    before = tree(mine)
    torch.set_num_threads(2)  # which a run going on would write down
    try:
        told = show_run(mine, formats=("svg",))
        compare_runs([mine])
    finally:
        torch.set_num_threads(1)
    after = tree(mine)
    assert {name: after[name] for name in before} == before
    assert after.keys() - before.keys() == {f"figures/{name}.svg" for name in told["figures"]}


def test_same_run_gives_the_same_files(finished, shown, tmp_path, tree):
    show_run(finished.folder.path, out=tmp_path, formats=("svg",))
    assert tree(tmp_path) == tree(shown[1]) != {}


@pytest.mark.thorough
def test_figures_are_of_both_formats_unless_told_otherwise(finished, tmp_path, tree):
    told = [show_run(finished.folder.path, out=tmp_path / name) for name in ("first", "second")]
    assert tree(tmp_path / "first") == tree(tmp_path / "second")
    for name, files in told[0]["figures"].items():
        png, svg = files
        assert [Path(file).name for file in files] == [f"{name}.png", f"{name}.svg"]
        assert Path(png).read_bytes().startswith(b"\x89PNG") and b"<svg" in Path(svg).read_bytes()


def test_run_whose_logits_have_no_names_is_shown_with_a_note(copy):
    mine = copy(*SEARCHED)
    (mine / "labels.json").unlink()
    result = show_run(mine, formats=())
    assert "search" in result["figures"]
    assert result["notes"] == [
        "names of logits are not noted in this run; architecture weights have none"
    ]
    assert result["notes"][0] in result["text"]
    (mine / "labels.json").write_text('{"alpha_0": 3}')
    assert any("labels.json" in note for note in show_run(mine, formats=())["notes"])


def test_what_is_broken_is_a_note_and_the_rest_is_shown(copy):
    mine = copy(*PREPARED, "cells/found_r1/*")
    (mine / "checkpoint").mkdir()
    (mine / "checkpoint" / "search.pt").write_bytes(b"PK torn")
    (note,) = show_run(mine, formats=())["notes"]
    assert "search.pt is not a usable checkpoint" in note
    write_json(mine / "cells" / "other_r1" / "train.json", {"method": "found"})
    (mine / "prepared.json").write_text('{"channels": {"../../x": 1}}')
    (mine / "timings.jsonl").write_bytes(b'{"stage": "search", "seconds": 1e999}\n\xff\n[1]\n')
    told = show_run(mine, formats=())
    assert [row["method"] for row in told["scores"]] == ["found"]
    for message in (
        "other_r1/train.json is not of a trained cell: .* delete it",
        "prepared.json: expected channels of features by name",
        "search.pt is not a usable checkpoint",
        "timings.jsonl: 2 broken lines are left out",
    ):
        assert re.search(message, "\n".join(told["notes"]))
        assert re.search(message, told["text"])
    rows = compare_runs([mine])
    assert [row["method"] for row in rows if row["problem"] is None] == ["found"]
    assert "other_r1/train.json is not of a trained cell" in comparison_table(rows)


def test_cell_without_the_score_of_the_others_is_a_note(made):
    run = made("run", {("found", 0.1): 0.4, ("random", 0.1): 0.3})
    file = run / "cells" / "1" / "test.json"
    told = json.loads(file.read_text())
    method = told["method"]
    write_json(file, {name: value for name, value in told.items() if name != "weighted_f1"})
    message = f"{method} at r = 0.1 has no weighted_f1"
    shown = show_run(run, formats=())
    assert len(shown["scores"]) == 1 and "scores" in shown["figures"]
    assert any(message in note for note in shown["notes"])
    assert message in comparison_table(compare_runs([run]))


def test_what_cannot_be_shown_is_refused(copy, tmp_path):
    with pytest.raises(InputError, match="is not a run folder"):
        show_run(tmp_path / "nothing")
    with pytest.raises(InputError, match=r"named \.png, \.svg or \.pdf, got 'genotype\.gif'"):
        show_run(copy(*SEARCHED), formats=("gif",))
    with pytest.raises(InputError, match=r"cannot read .*gone\.json"):
        show_genotype(tmp_path / "gone.json")


@pytest.mark.parametrize(
    "change",
    [{"strategy": None}, {"seed": "x"}, {"space": {"name": 3}}, {"data": "two\nlines"}]
    + [{"strategy": {"name": "bilevel", "epochs": "many"}}],
)
def test_configuration_edited_by_hand_is_no_runs(copy, change):
    run = copy()
    file = run / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    for look in (show_run, lambda folder: compare_runs([folder])):
        with pytest.raises(InputError, match=r"config\.json is not of a run"):
            look(run)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("history.jsonl", "3\n[1]\n"),
        ("timings.jsonl", '{"stage": "search"}\n'),
        ("pretrain.json", '{"history": 3}'),
    ],
)
def test_notes_edited_by_hand_are_left_out(copy, name, text):
    run = copy(*PREPARED, "metrics.json")
    (run / name).write_text(text)
    assert show_run(run)["stage"] == "finished"


def test_genotype_file_is_drawn_beside_itself_or_where_told(tmp_path):
    genotype = Genotype("fusion", (Node("cell_0", "Sum", ("image_0", "text_0")),))
    genotype.save(tmp_path / "mine.json")
    told = show_genotype(tmp_path / "mine.json", formats=("png",))
    assert told["figures"] == {"genotype": [str(tmp_path / "mine.png")]}
    assert told["text"].splitlines()[0] == told["genotype"] == "Sum(image_0, text_0)"
    assert "cell_0 = Sum(image_0, text_0)" in told["text"]
    show_genotype(tmp_path / "mine.json", out=tmp_path / "new")
    assert (tmp_path / "new" / "mine.svg").read_bytes().startswith(b"<?xml")


# --- several runs


@pytest.fixture
def made(tiny_recipe, tmp_path):
    """Write a run folder by hand: its cells' weighted F1 by (method, ratio)."""

    def make(
        name: str,
        scores: dict[tuple[str, float], float],
        *,
        on: str = "test",
        prepared: str = "prepared-0",
        labels: str = "labels-0",
        done: bool = True,
        recipe: dict[str, Any] | None = None,
        more: dict[str, float] | None = None,
        **config: Any,
    ) -> Path:
        path = tmp_path / name
        settings: dict[str, Any] = {"data": tmp_path / "data", "recipe": tiny_recipe} | config
        if recipe is not None:
            settings["recipe"] = replace(tiny_recipe, **recipe)
        whole = RunConfig(**settings)
        RunFolder(path, whole.plain())
        channels = {"image_0": 2, "text_0": 2}
        note = {"folder": prepared, "labels": labels, "channels": channels}
        write_json(path / "prepared.json", note)
        for number, ((method, ratio), value) in enumerate(scores.items()):
            cell = path / "cells" / str(number)
            facts = {"method": method, "label_ratio": ratio, "seed": whole.seed, "genotype": None}
            facts |= {"parameters": 7, "labelled": {"train": 9, "dev": 3}}
            found = {"weighted_f1": value, "threshold": 0.5, **(more or {})}
            dev = found if on == "dev" else {**found, "weighted_f1": 0.99}
            write_json(cell / "train.json", {**facts, "dev": dev, "history": []})
            if on == "test":
                write_json(cell / "test.json", {**facts, **found})
        if done:
            write_json(path / "metrics.json", {})
        return path

    return make


def cells(table: str) -> list[list[str]]:
    """The lines of a comparison's table as words, without its heading and remarks."""
    lines = table.split("\n\n")[0].splitlines()
    return [line.split() for line in lines[1:]]


def test_runs_that_differ_in_the_seed_become_mean_and_interval(made):
    values = [0.4, 0.5, 0.9]
    rows = compare_runs(
        [made(f"run{s}", {("found", 0.1): v}, seed=s) for s, v in enumerate(values)]
    )
    assert [(row["seed"], row["weighted_f1"]) for row in rows] == list(enumerate(values))
    assert {(row["setting"], row["on"], row["problem"]) for row in rows} == {("", "test", None)}
    mean, low, high = mean_interval(values)
    table = comparison_table(rows)
    assert cells(table) == [
        ["found", "0.1", "fusion", "contrastive", "bilevel", "test", "3",
         f"{mean:.3f}", f"[{low:.3f},", f"{high:.3f}]"],
    ]  # fmt: skip
    assert "\n\n" not in table  # nothing to remark
    json.dumps(rows, allow_nan=False)


def test_one_seed_has_no_interval(made):
    table = comparison_table(compare_runs([made("run", {("found", 1.0): 0.5})]))
    assert cells(table)[0][-2:] == ["1", "0.500"]


def test_runs_of_another_recipe_or_strategy_are_kept_apart_and_said_to_be(made, tiny_recipe):
    longer = replace(tiny_recipe.strategy("bilevel"), epochs=7)
    rows = compare_runs(
        [
            made("a", {("found", 0.1): 0.4}, seed=0),
            made("b", {("found", 0.1): 0.6}, seed=1),
            made("c", {("found", 0.1): 0.8}, seed=0, strategy=longer),
            made("d", {("found", 0.1): 0.2}, seed=0, strategy="random"),
        ]
    )
    assert [row["setting"] for row in rows] == ["A", "A", "B", "C"]
    assert rows[2]["differs"] == "strategy=bilevel, strategy.epochs=7"
    assert rows[3]["differs"] == "strategy=random"  # its trials are compared with no other's
    table = comparison_table(rows)
    assert [line[6:9] for line in cells(table)] == [
        ["A", "2", "0.500"], ["B", "1", "0.800"], ["C", "1", "0.200"],
    ]  # fmt: skip
    assert "\nsetting B: strategy=bilevel, strategy.epochs=7; " in table
    figure = plot_comparison(rows)
    words = {text.get_text() for text in figure.axes[0].texts}
    assert words == {"found, A", "found, B", "found, C"}
    (notes,) = figure.texts
    assert "B: strategy=bilevel, strategy.epochs=7\nC: strategy=random" in notes.get_text()


def test_runs_of_another_space_are_kept_apart_and_the_table_says_which(made):
    cells_of = {("found", 0.1): 0.4}
    runs = [made("a", cells_of, strategy="random")]
    runs.append(made("b", cells_of, strategy="random", space="layers"))
    rows = compare_runs(runs)
    assert [row["space"] for row in rows] == ["fusion", "layers"]
    assert [row["differs"] for row in rows] == ["space=fusion", "space=layers"]
    assert [line[2:4] for line in cells(comparison_table(rows))] == [
        ["fusion", "contrastive"], ["layers", "contrastive"],
    ]  # fmt: skip


def test_label_ratios_of_a_run_are_no_setting(made):
    first = made("a", {("found", 0.1): 0.4}, seed=0, label_ratio=(0.1,))
    second = made("b", {("found", 0.1): 0.6, ("found", 1.0): 0.7}, seed=1)
    rows = compare_runs([first, second])
    assert {row["setting"] for row in rows} == {""}
    assert [line[:2] + line[6:8] for line in cells(comparison_table(rows))] == [
        ["found", "0.1", "2", "0.500"], ["found", "1", "1", "0.700"],
    ]  # fmt: skip


def test_same_data_at_another_path_is_the_same_and_changed_data_is_not(made, tmp_path):
    one = made("a", {("found", 0.1): 0.4}, seed=0)
    moved = made("b", {("found", 0.1): 0.5}, seed=1, data=tmp_path / "elsewhere")
    edited = made("c", {("found", 0.1): 0.6}, seed=2, prepared="prepared-1")
    other = made("d", {("found", 0.1): 0.7}, data=tmp_path / "other", prepared="prepared-2")
    assert {row["setting"] for row in compare_runs([one, moved])} == {""}
    rows = compare_runs([one, edited])
    assert [row["setting"] for row in rows] == ["A", "B"]
    assert rows[1]["differs"] == f"data={tmp_path / 'data'} (prepared-1, labels labels-0)"
    corrected = made("e", {("found", 0.1): 0.8}, seed=3, labels="labels-1")
    assert [row["setting"] for row in compare_runs([one, moved, corrected])] == ["A", "A", "B"]
    rows = compare_runs([one, other])
    assert [row["differs"] for row in rows] == [
        f"data={tmp_path / name}" for name in ("data", "other")
    ]


def test_same_seed_again_does_not_count_again(made):
    scores = {("found", 0.1): 0.4, ("random", 0.1): 0.3}
    first, second = (made(name, scores, seed=0) for name in ("first", "second"))
    rows = compare_runs([first, second, first])
    assert [row["repeats"] for row in rows] == [None, None, str(first), str(first)]
    table = comparison_table(rows)
    assert [line[-2:] for line in cells(table)] == [["1", "0.300"], ["1", "0.400"]]
    assert f"{second}: 2 cells repeat {first} (same setting and seed), not counted" in table
    assert plot_comparison(rows).axes[0].lines[0].get_ydata().tolist() == [0.3]


def test_scores_on_dev_and_on_test_are_never_averaged(made):
    tested = made("tested", {("found", 0.1): 0.4}, seed=0)
    trained = made("trained", {("found", 0.1): 0.8}, seed=1, on="dev", done=False)
    rows = compare_runs([tested, trained])
    assert [line[5:8] for line in cells(comparison_table(rows))] == [
        ["dev", "1", "0.800"], ["test", "1", "0.400"],
    ]  # fmt: skip
    table = comparison_table(rows)
    assert "dev: the labelled dev part" in table
    assert f"{trained}: not finished (1 cells fine-tuned, 0 of them scored on test)." in table
    words = {text.get_text() for text in plot_comparison(rows).axes[0].texts}
    assert words == {"found, on test", "found, on dev"}


def test_methods_of_one_label_ratio_stand_together_whatever_the_run(made):
    ratios = (1.0, 0.1)
    scores = {(m, r): 0.5 for r in ratios for m in ("found, pretrained", "text only", "random")}
    longer = {"finetune_dropout": 0.3}
    runs = [made("a", scores, seed=0), made("b", scores, seed=0, recipe=longer)]
    lines = comparison_table(compare_runs(runs)).split("\n\n")[0].splitlines()[1:]
    starts = [line[:26].split("  ")[0] for line in lines]
    assert starts == ["text only"] * 2 + ["random"] * 2 + ["found, pretrained"] * 2 + starts[6:]
    assert [" 0.1 " in line for line in lines] == [True] * 6 + [False] * 6


def test_folder_that_is_no_run_or_has_nothing_trained_is_said_not_raised(made, tmp_path):
    whole = made("whole", {("found", 0.1): 0.4})
    begun = made("begun", {}, done=False, recipe={"finetune_dropout": 0.9})
    broken = made("broken", {("found", 0.1): 0.4})
    (broken / "cells" / "0" / "test.json").write_text("{")
    rows = compare_runs([whole, begun, broken, tmp_path / "nothing"])
    assert [row["problem"] is None for row in rows] == [True, False, False, False]
    assert rows[0]["setting"] == ""  # a run that has nothing to compare makes no setting
    table = comparison_table(rows)
    assert len(cells(table)) == 1
    assert f"{begun}: no trained method yet (prepared)." in table
    assert "test.json is not valid JSON" in table
    assert "nothing is not a run folder" in table
    for nothing in ([], [tmp_path / "nothing"]):
        with pytest.raises(InputError, match="expected at least one run folder to compare"):
            compare_runs(nothing)
    assert comparison_table(compare_runs([begun])).startswith("no trained method to compare\n")
    with pytest.raises(InputError, match="expected runs with a trained method, got none"):
        plot_comparison(compare_runs([begun]))


def test_single_label_runs_are_compared_by_accuracy_or_by_what_is_asked(made):
    run = made("run", {("found", 0.1): 0.4}, more={"accuracy": 0.75})
    rows = compare_runs([run])
    assert (rows[0]["score"], rows[0]["labelled"]) == (0.75, 12)
    assert "accuracy" in comparison_table(rows) and cells(comparison_table(rows))[0][-1] == "0.750"
    assert cells(comparison_table(rows, "weighted_f1"))[0][-1] == "0.400"
    assert plot_comparison(rows).axes[0].get_ylabel() == "accuracy on test"
    assert plot_comparison(rows, "weighted_f1").axes[0].get_ylabel() == "weighted F1 on test"


def test_csv_has_a_line_per_cell_and_per_folder_without_any(made, tmp_path):
    runs = [
        made("a", {("found, pretrained", 0.1): 0.4}, seed=3),
        made("b", {("random", 1.0): 0.5}, recipe={"finetune_dropout": 0.9}),
        tmp_path / "nothing",
    ]
    first, second, third = csv.DictReader(io.StringIO(table_csv(compare_runs(runs))))
    assert (first["method"], first["seed"], first["on"]) == ("found, pretrained", "3", "test")
    assert float(second["weighted_f1"]) == 0.5 and float(second["label_ratio"]) == 1
    assert second["differs"] == "recipe.finetune_dropout=0.9"
    assert third["method"] == third["weighted_f1"] == "" and "not a run" in third["problem"]


def test_more_settings_than_letters_have_two(made):
    recipes = [{"finetune_dropout": n / 100} for n in range(28)]
    runs = [made(f"r{n}", {("found", 1.0): 0.5}, recipe=r) for n, r in enumerate(recipes)]
    rows = compare_runs(runs)
    assert [row["setting"] for row in rows[24:]] == ["Y", "Z", "AA", "AB"]
    remarks = comparison_table(rows).split("\n\n")[1].splitlines()
    assert [line.split()[1] for line in remarks[:2] + remarks[-1:]] == ["A:", "B:", "AB:"]

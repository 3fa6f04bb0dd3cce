"""A study's table survives its file, and its report compares only what is paired."""

from __future__ import annotations

import itertools
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ssnas_core.common.errors import InputError
from ssnas_core.study.methods import ACROSS, methods_in
from ssnas_core.study.methods import PAIRS as DECISIVE
from ssnas_core.study.report import study_report
from ssnas_core.study.table import difference, ranking, read_study, study_csv
from ssnas_core.training.metrics import mean_interval

TABLES = Path(__file__).parents[2] / "book" / "tables"
GAINS = {"late concat": 0.0, "random": 0.01, "SSNAS": 0.05}
RATIOS = (0.1, 0.3, 1.0)


def row(method: str, ratio: float, seed: int, score: float, **more: Any) -> dict[str, Any]:
    return {"method": method, "label_ratio": ratio, "seed": seed, "score": score, **more}


def study(seeds: int = 6, ratios: tuple[float, ...] = RATIOS) -> list[dict[str, Any]]:
    """Rows of three methods; SSNAS is better than the others with every seed."""
    found = []
    for place, (method, gain) in enumerate(GAINS.items()):
        for ratio, seed in itertools.product(ratios, range(seeds)):
            chance = random.Random(f"{method} {ratio} {seed}").uniform(-0.005, 0.005)
            score = 0.2 + 0.3 * ratio + 0.02 * seed + gain + chance
            searched = method == "SSNAS"
            found.append(
                row(
                    method, ratio, seed, score, dev_score=score + 0.1, weighted_f1=score,
                    micro_f1=score / 2, threshold=None if searched else 0.25,
                    labelled=int(1000 * ratio), search_seconds=20.0 + seed if searched else 0.0,
                    pretrain_seconds=0.0, train_seconds=3.0 * ratio, search_steps=500 * searched,
                    pretrain_steps=0, train_steps=50, parameters=1000 * (place + 1),
                    peak_anonymous_mb=200.04,
                    genotype=f"Sum(image_{seed // 4}, text_0)" if searched else None,
                )
            )  # fmt: skip
    return found


PAIRS = [("SSNAS", "random"), ("random", "late concat")]


def told(rows=None, **changes) -> str:
    return study_report(study() if rows is None else rows, title="A study", pairs=PAIRS, **changes)


def part(text: str, title: str) -> str:
    """One section of a report."""
    return re.split(r"^## ", text.split(f"\n## {title}\n")[1], flags=re.M)[0]


def tables(text: str) -> list[dict[str, dict[str, str]]]:
    """The tables of a section: by first cell of a row, the cells by column."""
    found = []
    for block in re.findall(r"(?:^\|.*\|\n)+", text, re.M):
        head, rule, *lines = [
            [cell.strip() for cell in line.strip("|\n").split("|")] for line in block.splitlines()
        ]
        assert set(rule) == {"---"}
        found.append({line[0]: dict(zip(head, line, strict=True)) for line in lines})
    return found


# --- the table


def test_table_survives_its_file(tmp_path):
    text = study_csv(study())
    (tmp_path / "study.csv").write_text(text)
    rows = read_study(tmp_path / "study.csv")
    assert study_csv(rows) == text
    assert told(rows) == told()
    (first,) = (one for one in rows if one["method"] == "SSNAS" and one["label_ratio"] == 0.3
                and one["seed"] == 5)  # fmt: skip
    assert first["genotype"] == "Sum(image_1, text_0)"
    assert first["search_seconds"] == 25.0 and type(first["parameters"]) is int
    assert first["threshold"] is None


def test_table_has_cells_then_scores_then_costs_whatever_comes_first():
    rows = [dict(reversed(one.items())) for one in study(1)]
    assert study_csv(rows).splitlines()[0] == (
        "method,label_ratio,seed,score,dev_score,micro_f1,threshold,weighted_f1,labelled,"
        "search_seconds,pretrain_seconds,train_seconds,search_steps,pretrain_steps,train_steps,"
        "parameters,peak_anonymous_mb,genotype"
    )


def test_order_in_which_cells_were_computed_changes_nothing():
    rows = study()
    mixed = [rows[0], rows[18], *random.Random(0).sample(rows[1:18] + rows[19:], len(rows) - 2)]
    methods = list(dict.fromkeys(one["method"] for one in mixed))
    assert methods == list(GAINS)  # that of the methods is the caller's
    assert mixed != rows
    assert study_csv(mixed) == study_csv(rows)
    assert told(mixed) == told(rows)


def test_numbers_are_rounded_to_what_they_mean():
    one = row("a", 0.05, np.int64(3), np.float32(0.123456), train_seconds=1.23456,
              peak_anonymous_mb=100.06, parameters=7)  # fmt: skip
    assert study_csv([one]).splitlines()[1] == "a,0.05,3,0.1235,1.23,7,100.1"


HEAD = "method,label_ratio,seed,score,parameters"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a study's table with columns .* but it lacks method"),
        ("method,seed,score\n", "it lacks label_ratio; write it anew"),
        (f"{HEAD},seed\n", "a column comes twice"),
        (f"{HEAD}\n", "expected at least one row, got none"),
        (f"{HEAD}\na,0,0,0.5,7\n", "label_ratio: expected a number from 1e-06 to 1, got '0'"),
        (f"{HEAD}\na,0.1,0,0.5,7,8\n", "line 2: expected a cell for each column"),
        (f'{HEAD}\n"a,0.1,0,0.5,7\n', r"cannot read .*unexpected end of data"),
        (f"{HEAD}\na,0.1,0,0.5\n", "line 2: expected a cell for each column"),
        (f"{HEAD}\na,0.1,0,,7\n", "line 2: expected a score, got none"),
        (f"{HEAD}\na,0.1,0,much,7\n", "score: expected a number .*, got 'much'"),
        (f"{HEAD}\na,0.1,0,nan,7\n", "score: expected a number .*, got 'nan'"),
        (f"{HEAD}\na,0.1,0,1e300,7\n", "score: expected a number from -1e.30 .*, got '1e300'"),
        (f"{HEAD}\na,0.1,1.5,0.5,7\n", "seed: expected a whole number .*, got '1.5'"),
        (f"{HEAD}\na,0.1,-1,0.5,7\n", "seed: expected a whole number from 0 .*, got '-1'"),
        (f"{HEAD}\na,0.1,0,0.5,few\n", "parameters: expected a whole number .*, got 'few'"),
        (f"{HEAD}\na,1.5,0,0.5,7\n", "label_ratio: expected a number from 1e-06 to 1, got '1.5'"),
        (f"{HEAD}\na|b,0.1,0,0.5,7\n", r"method: expected a text of one line without | \$ `"),
        (f"{HEAD}\na$b,0.1,0,0.5,7\n", r"got 'a\$b'; rename it"),
        (f"{HEAD},a b\na,0.1,0,0.5,7,1\n", "a b: expected a plain name; rename"),
        (f"{HEAD}\na,0.1,0,0.5,7\na,0.1,1,0.5,7\na,0.10,0,0.6,7\n",
         "expected each cell once, got 'a' at r = 0.1 with seed 0 twice"),
    ],
)  # fmt: skip
def test_broken_table_is_refused_with_its_place(tmp_path, text, message):
    file = tmp_path / "study.csv"
    file.write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        read_study(file)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_table_and_one_that_is_not_utf_8_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"cannot read .*none\.csv"):
        read_study(tmp_path / "none.csv")
    (tmp_path / "latin.csv").write_bytes(f"{HEAD}\n\xe9,0.1,0,0.5,7\n".encode("latin-1"))
    with pytest.raises(InputError, match=r"cannot read .*latin\.csv .*utf-8"):
        read_study(tmp_path / "latin.csv")


# --- paired numbers


def test_difference_is_over_the_seeds_that_both_have():
    scores = {"a": {0: 0.5, 1: 0.6, 2: 0.9}, "b": {1: 0.5, 2: 0.5, 3: 0.0}}
    rows = [row(m, 0.1, seed, value) for m, own in scores.items() for seed, value in own.items()]
    found = difference(rows, "a", "b", (0.1,))
    assert found.by_seed == pytest.approx({1: 0.1, 2: 0.4})
    assert found.interval == pytest.approx(mean_interval([0.1, 0.4]))
    assert found.p == 0.5
    assert difference(rows, "a", "b", (0.3,)).by_seed == {}


def test_mean_over_label_ratios_is_of_seeds_that_have_all_of_them():
    rows = [row("a", r, s, 10 * r + s) for r in (0.1, 0.2) for s in (0, 1, 2)]
    rows += [row("b", r, s, 0.0) for r in (0.1, 0.2) for s in (0, 1, 2) if (r, s) != (0.2, 1)]
    found = difference(rows, "a", "b", (0.1, 0.2))
    assert found.by_seed == pytest.approx({0: 1.5, 2: 3.5})


def test_ranking_is_over_the_cells_that_all_methods_have():
    scores = {
        "a": {(0.1, 0): 0.9, (0.1, 1): 0.9, (0.3, 0): 0.9, (0.3, 1): 0.1},
        "b": {(0.1, 0): 0.8, (0.1, 1): 0.9, (0.3, 0): 0.8},
        "c": {(0.1, 0): 0.7, (0.1, 1): 0.1, (0.3, 0): 1.0, (0.3, 1): 0.9},
    }
    rows = [row(m, *cell, value) for m, own in scores.items() for cell, value in own.items()]
    found = ranking(rows)
    assert found.blocks == ((0.1, 0), (0.1, 1), (0.3, 0))
    assert found.by_seed == {"a": {0: 1.5, 1: 1.5}, "b": {0: 2.5, 1: 1.5}, "c": {0: 2.0, 1: 3.0}}
    assert list(found.intervals) == ["a", "b", "c"]
    assert found.intervals["c"] == (2.5, 1.0, 3.0)  # of 3 ranks; 2.5 +- 6.4 otherwise
    assert len(ranking(rows, ["a", "c"]).blocks) == 4
    assert ranking([*rows, row("d", 0.2, 0, 0.5)]).blocks == ()


def test_equal_scores_share_the_mean_of_their_ranks():
    scores = np.random.default_rng(0).integers(0, 4, (30, 6)) / 10
    rows = [
        row(f"m{column}", 0.1, seed, float(score))
        for seed, line in enumerate(scores)
        for column, score in enumerate(line)
    ]
    by_seed = ranking(rows).by_seed
    for seed, line in enumerate(scores):
        for column, score in enumerate(line):
            equal = sum(other == score for other in line)
            place = 1 + sum(other > score for other in line) + (equal - 1) / 2
            assert by_seed[f"m{column}"][seed] == place


# --- the report


@pytest.mark.parametrize("table", sorted(TABLES.glob("study_*.csv")), ids=lambda path: path.stem)
def test_committed_report_is_that_of_the_committed_table(table):
    rows = read_study(table)
    assert study_csv(rows) == table.read_text()
    report = table.with_suffix(".md").read_text()
    present = {one["method"] for one in rows}
    text = study_report(
        rows,
        title=report.splitlines()[0].removeprefix("# "),
        pairs=[pair for pair in DECISIVE if present.issuperset(pair)],
        across=ACROSS if present.issuperset({"SSNAS", "BM-NAS"}) else (),
        ranked=[name for name in methods_in(("core", "ablation"), ()) if name in present] or None,
    )
    assert text == report


def test_scores_are_means_with_intervals_and_tell_another_number_of_seeds():
    rows = [one for one in study() if (one["method"], one["label_ratio"], one["seed"])
            not in {("random", 0.3, 5), ("SSNAS", 0.1, 0)}]  # fmt: skip
    rows = [one for one in rows if one["method"] != "random" or one["label_ratio"] < 1]
    section = part(told(rows), "Weighted F1")
    (table,) = tables(section)
    values = [one["score"] for one in rows
              if one["method"] == "SSNAS" and one["label_ratio"] == 0.1]  # fmt: skip
    mean, low, high = mean_interval([round(value, 4) for value in values])
    assert table["SSNAS"]["r = 0.1"] == f"{mean:.3f} [{low:.3f}, {high:.3f}], n = 5"
    assert {one["n"] for one in table.values()} == {"6"}
    assert table["random"]["r = 1"] == "-" and "A cell that is not there is -." in section
    assert table["random"]["r = 0.3"].endswith(", n = 5")
    assert "n = " not in table["late concat"]["r = 0.3"]


def test_score_is_named_only_where_a_column_says_what_it_is():
    assert "\n## Weighted F1\n" in told()
    accuracy = [row("a", 0.1, seed, 0.5, accuracy=0.5, weighted_f1=0.5) for seed in range(2)]
    assert "\n## Accuracy\n" in told(accuracy)
    assert "\n## Score\n" in told([row("a", 0.1, 0, 0.5, accuracy=0.4)])


def test_differences_have_p_and_its_correction_over_all_tests_of_the_table():
    section = part(told(), "Paired differences")
    single, means = tables(section)
    assert list(single) == ["SSNAS - random", "random - late concat"]
    for ratio in RATIOS:  # all six seeds agree: the smallest p that there is, times six tests
        cell = single["SSNAS - random"][f"r = {ratio:g}"]
        assert re.fullmatch(r"\+0\.0\d\d \[\+.*, \+.*\], p 0\.0312 \(0\.188\)", cell), cell
    assert re.search(r"p 0\.0312 \(0\.125\)$", means["SSNAS - random"]["r <= 0.3"])
    assert list(means["SSNAS - random"]) == ["first - second", "r <= 0.3", "all r"]
    assert "n = 6 seeds each. Holm's correction is over the 6 tests of this table." in section
    assert "is over the 4 tests" in section


def test_report_says_where_nothing_can_be_significant():
    five = part(told(study(5)), "Paired differences")
    floor = "The smallest p of this test is 0.0625 for n = 5. So no difference here can be"
    assert five.count(floor) == 2
    six = part(told(study(6)), "Paired differences")
    assert "Corrected for 6 tests it is at least 0.188, so none here can be significant" in six
    assert "Corrected for 4 tests it is at least 0.125" in six
    ten = part(told(study(10)), "Paired differences")
    assert "can be significant" not in ten and "cannot be" not in ten
    assert ten.count("*, ") == 0 and tables(ten)[0]["SSNAS - random"]["r = 1"].endswith(")*")
    mixed = [one for one in study(10) if one["method"] != "late concat" or one["seed"] < 5]
    section = part(told(mixed), "Paired differences")
    assert "is 0.0625 for n = 5, 0.00195 for n = 10. So a difference of n = 5 cannot be" in section
    single = tables(section)[0]
    assert single["SSNAS - random"]["r = 1"].endswith(")*, n = 10")
    assert single["random - late concat"]["r = 1"].endswith("), n = 5")


def test_star_stands_only_at_corrected_p_of_at_most_5_percent():
    for cells in tables(part(told(study(10)), "Paired differences")):
        found = [cell for line in cells.values() for cell in list(line.values())[1:]]
        assert found
        for cell in found:
            corrected = re.search(r"p \S+ \((\S+)\)(\*?)$", cell)
            assert corrected is not None, cell
            assert (float(corrected[1]) <= 0.05) == bool(corrected[2])


def test_pair_without_cells_or_of_one_seed_is_told_and_not_tested():
    lone = [*study(3), row("lone", 0.1, 1, 0.4)]
    pairs = [("lone", "random"), ("SSNAS", "nothing"), ("SSNAS", "random")]
    section = part(study_report(lone, title="A study", pairs=pairs), "Paired differences")
    single = tables(section)[0]
    assert re.fullmatch(r"\+0\.\d{3}, n = 1", single["lone - random"]["r = 0.1"])
    assert set(list(single["SSNAS - nothing"].values())[1:]) == {"-"}
    assert "Without any cell: nothing." in section
    assert (
        "over the 3 tests of this table. The smallest p of this test is 0.25 for n = 3" in section
    )


def test_one_label_ratio_has_no_mean_over_several():
    assert len(tables(part(told(study(6, (0.1,))), "Paired differences"))) == 1
    few = tables(part(told(study(6, (0.1, 0.3))), "Paired differences"))
    assert list(few[1]["SSNAS - random"]) == ["first - second", "r <= 0.3"]


def test_few_labels_are_compared_with_many_by_seed():
    across = [("SSNAS", 0.1, "random", 0.3), ("SSNAS", 0.1, "random", 0.7)]
    rows = [one for one in study(7) if (one["method"], one["seed"]) != ("random", 4)]
    text = study_report(rows, title="A study", pairs=[], across=across)
    (table,) = tables(part(text, "Paired differences"))
    scores = {(one["method"], one["label_ratio"], one["seed"]): round(one["score"], 4)
              for one in rows}  # fmt: skip
    by_seed = [scores["SSNAS", 0.1, s] - scores["random", 0.3, s] for s in (0, 1, 2, 3, 5, 6)]
    mean, low, high = mean_interval(by_seed)
    cell = table["SSNAS at r = 0.1 - random at r = 0.3"]["difference"]
    assert cell.startswith(f"{mean:+.3f} [{low:+.3f}, {high:+.3f}], p ")
    assert table["SSNAS at r = 0.1 - random at r = 0.7"]["difference"] == "-"
    assert "n = 6 seeds each. Holm's correction is over the 1 test of this table." in text
    assert len(tables(part(told(across=across), "Paired differences"))) == 3


def test_no_pairs_no_section():
    assert "Paired" not in study_report(study(), title="A study", pairs=[])


def test_ranking_says_what_it_is_over():
    section = part(told(), "Ranking")
    (table,) = tables(section)
    assert list(table)[0] == "SSNAS" and table["SSNAS"]["mean rank"] == "1.00 [1.00, 1.00]"
    assert "over the 18 blocks" in section and "6 seeds" in section and "r 0.1, 0.3, 1;" in section
    chosen = part(told(ranked=["SSNAS", "random"]), "Ranking")
    assert "Not ranked: late concat." in chosen and "best of 2" in chosen
    apart = [*study(2), row("later", 0.1, 7, 0.4)]
    assert "No label ratio and seed is there for all of" in part(told(apart), "Ranking")


def test_costs_are_medians_at_the_largest_label_ratio():
    (table,) = tables(part(told(study(5)), "Cost"))
    assert table["SSNAS"]["search s"] == "22.0" and table["SSNAS"]["train s"] == "3.0"
    assert table["SSNAS"]["parameters"] == "3,000"
    assert table["SSNAS"]["memory MB"] == "200"
    assert (table["SSNAS"]["r"], table["SSNAS"]["n"]) == ("1", "5")
    assert "\n## Cost\n" not in told([row("a", 0.1, 0, 0.5)])


def test_architectures_are_counted_over_seeds_and_told_per_ratio_where_they_differ():
    lines = part(told(), "Architectures")
    assert "- SSNAS: `Sum(image_0, text_0)` 4 of 6, `Sum(image_1, text_0)` 2 of 6\n" in lines
    assert "late concat" not in lines
    rows = study(2, (0.1, 0.3))
    for one in rows:
        if one["method"] == "SSNAS" and one["label_ratio"] == 0.3:
            one["genotype"] = f"Sum(image_{one['seed']}, text_1)"
    lines = part(told(rows), "Architectures")
    assert "- SSNAS, r = 0.1: `Sum(image_0, text_0)` 2 of 2\n" in lines
    assert "- SSNAS, r = 0.3: 2 different ones once each\n" in lines


def test_rare_architectures_are_counted_together():
    names = "z z z b b c c d d e".split()
    rows = [row("SSNAS", 0.1, seed, 0.5, genotype=name) for seed, name in enumerate(names)]
    line = "- SSNAS: `z` 3 of 10, `b` 2 of 10, `c` 2 of 10, 2 others\n"
    assert line in part(told(rows), "Architectures")


def test_budget_tells_methods_apart_only_where_they_use_other_labels():
    (table,) = tables(part(told(), "Budget of labels"))
    assert table == {
        "all methods": {
            "method": "all methods", "r = 0.1": "100", "r = 0.3": "300", "r = 1": "1,000"
        }
    }  # fmt: skip
    rows = study()
    for one in rows:
        if one["method"] == "random" and one["seed"] == 2:
            one["labelled"] += 5
    (table,) = tables(part(told(rows), "Budget of labels"))
    assert table["random"]["r = 1"] == "1,000 to 1,005"
    assert table["late concat; SSNAS"]["r = 1"] == "1,000"

"""The `ssnas` command: results on stdout, one line for a mistake, the same again after Ctrl-C."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Annotated, NamedTuple, get_args, get_origin, get_type_hints

import numpy as np
import pytest

from ssnas_core.cli import main as cli
from ssnas_core.cli.options import shown
from ssnas_core.datasets.scenes import read_captions, read_phrases
from ssnas_core.features.config import PrepareConfig
from ssnas_core.models.classifier import classifier_of
from ssnas_core.objectives import OBJECTIVES
from ssnas_core.objectives.contrastive import Contrastive
from ssnas_core.objectives.supervised import Supervised
from ssnas_core.runs import folder as runs
from ssnas_core.runs.methods import methods_of
from ssnas_core.runs.recipes import RECIPES, RunConfig
from ssnas_core.runs.run import Run
from ssnas_core.search import STRATEGIES
from ssnas_core.search.random import RandomConfig
from ssnas_core.spaces import SPACES
from ssnas_core.spaces.encdec.space import EncDecConfig
from ssnas_core.training.loop import TrainConfig

pytestmark = pytest.mark.usefixtures("one_thread")

ROOT = Path(__file__).parents[2]
POSITIONAL = {("show", "what"), ("compare", "runs"), ("download", "name"), ("list", "kind")}
RATIOS = ("--label-ratio", "0.25", "1.0")


class Told(NamedTuple):
    code: int
    out: str
    err: str


def call(*arguments: object, encoding: str = "utf-8") -> Told:
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding, "replace") for _ in range(2))
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.raises(SystemExit) as stop,
    ):
        cli.main([str(argument) for argument in arguments])
    code = stop.value.code or 0
    assert isinstance(code, int)
    for stream in (out, err):
        stream.seek(0)
    return Told(code, out.read(), err.read())


def document(told: Told) -> dict:
    """The one JSON document on standard output."""
    assert told.code == 0, told.err
    assert told.out.count("\n") == 1
    return json.loads(told.out)


def refused(told: Told, message: str) -> None:
    """Status 2 and nothing but one line, which says `message`."""
    assert told.code == 2
    assert told.out == ""
    assert told.err.startswith("ssnas: ") and told.err.endswith("\n"), told.err
    assert told.err.count("\n") == 1 and "Traceback" not in told.err, told.err
    assert re.search(message, told.err), told.err


@pytest.fixture(scope="module", autouse=True)
def tiny(tiny_recipe):
    """The recipes "two-core" and "classroom" are a tiny one."""
    with pytest.MonkeyPatch.context() as patched:
        for name in ("two-core", "classroom"):
            patched.setitem(RECIPES, name, tiny_recipe)
        yield


@pytest.fixture
def data(tiny_data, tiny_store):
    """Options that name the movies and the store that has their features."""
    return ("--data", tiny_data, "--store", tiny_store, "--device", "cpu")


@pytest.fixture(scope="module")
def finished(tiny, tiny_data, tiny_store, tmp_path_factory):
    """What a whole `ssnas run --json` printed, and the command."""
    out = tmp_path_factory.mktemp("cli") / "run"
    command = ("run", "--data", tiny_data, "--out", out, "--store", tiny_store, *RATIOS, "--json")
    return document(call(*command, "--quiet", "--device", "cpu")), command, out


@pytest.fixture
def run(finished, tiny_store, tmp_path):
    """A searched run of one's own, to be damaged; and the options that find its features."""
    import shutil

    _, _, out = finished
    mine = tmp_path / "mine"
    mine.mkdir()
    stages = ("config", "prepared", "dataset", "genotype", "labels")
    for name in (*(f"{stage}.json" for stage in stages), "history.jsonl"):
        shutil.copy(out / name, mine / name)
    return mine, ("--run", mine, "--store", tiny_store, "--device", "cpu", "--quiet")


# --- help


def test_help_names_every_subcommand_and_what_it_is_for():
    told = call("--help")
    assert told.code == 0 and told.err == ""
    for name, (command, _) in cli.COMMANDS.items():
        first = " ".join((command.__doc__ or "").split())[:30]
        assert name in told.out and first in " ".join(told.out.replace("│", " ").split())


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_help_of_a_subcommand_explains_each_of_its_options(name, monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")
    told = call(name, "--help")
    assert told.code == 0 and told.err == ""
    assert told.out.startswith(f"usage: ssnas {name} ")
    rows = [row.strip("│ ") for row in told.out.splitlines()]
    for field in dataclasses.fields(cli.COMMANDS[name][0]):
        if (name, field.name) in POSITIONAL:
            continue
        option = "--" + field.name.removesuffix("_name").replace("_", "-")
        names = [re.split(r"[ ,]+", row.split("  ")[0]) for row in rows]  # some have several
        (place,) = (k for k, some in enumerate(names) if some[0][:2] == "--" and option in some)
        row = "  ".join(rows[place : place + 2])  # a long option's words are below it
        assert re.search(r"^\S+.*?  [A-Za-z][^()]{10,}.* \((default|required)", row), row


@pytest.mark.parametrize(
    "part",
    [PrepareConfig, TrainConfig]
    + [kind.find(name) for kind in (SPACES, OBJECTIVES, STRATEGIES) for name in kind.names()],
)
def test_every_setting_of_a_part_is_explained_inherited_ones_too(part):
    made = shown(part() if isinstance(part, type) else part)
    for name, hint in get_type_hints(made, include_extras=True).items():
        if get_origin(hint) is Annotated and not dataclasses.is_dataclass(get_args(hint)[0]):
            assert len(get_args(hint)[1].help) > 5, f"{part.__name__}.{name}"


# --- what is printed


def test_run_prints_what_it_left_in_its_folder_and_the_same_again(finished, monkeypatch):
    result, command, out = finished
    assert result == json.loads((out / "metrics.json").read_text())
    assert {"genotype", "scores", "seconds", "peak_anonymous_mb"} <= result.keys()
    assert [(row["method"], row["label_ratio"]) for row in result["scores"]] == [
        (str(method), ratio) for ratio in (0.25, 1.0) for method in methods_of(("image", "text"))
    ]
    for name in ("runs.data.prepare", "runs.run.draw_genotype", "runs.run.fit"):
        monkeypatch.setattr(f"ssnas_core.{name}", None)
    monkeypatch.setattr("ssnas_core.training.tasks.predict", None)
    assert document(call(*command)) == result


def test_run_without_json_prints_a_table_of_all_methods(finished):
    result, command, out = finished
    told = call(*command[:-1])
    assert told.code == 0
    assert f"found: {result['genotype']}\ndrawn: {out / 'genotype.png'}" in told.out
    for row in result["scores"]:
        start = rf"{row['method']} +{row['label_ratio']:g}"
        assert re.search(rf"^{start} +{row['weighted_f1']:.3f} ", told.out, re.MULTILINE)
    assert "minutes, peak anonymous memory" in told.out


def test_stages_are_commands_whose_json_is_one_document(finished, run, tiny_store, tiny_data):
    whole, (mine, options) = finished[0], run
    prepared = document(call("prepare", "--data", tiny_data, "--store", tiny_store, "--json"))
    assert prepared["train"] == 36 and Path(prepared["folder"]).parent == tiny_store
    found = document(call("search", "--out", mine, *finished[1][1:3], *finished[1][5:]))
    assert found["genotype"] == whole["genotype"]
    method = ("--method", "found", "--label-ratio", "0.25", "--json")
    trained = document(call("train", *options, *method))
    assert {"folder", "threshold", "dev", "history"} <= trained.keys()
    assert not (mine / "test_reads.jsonl").exists()
    row = document(call("evaluate", *options, *method))
    known = row.pop("texts")
    assert row in whole["scores"]
    assert known == {"text": {"texts": 12, "unknown": 0, "words": 1.0}}
    assert (mine / "test_reads.jsonl").read_text().count("\n") == 1
    shown = document(call("show", mine, "--json"))
    assert shown["genotype"] == whole["genotype"]


def test_stages_print_readable_text_too(finished, run):
    mine, options = run
    told = call("train", *options, "--method", "text only", "--label-ratio", "1")
    assert re.match(r".*text-only_r1: weighted F1 0\.\d{3} on the labelled dev part\n$", told.out)
    told = call("evaluate", *options, "--method", "text only", "--label-ratio", "1")
    assert told.out.splitlines()[0].startswith("method ") and "text only" in told.out


def test_demo_runs_on_the_bundled_sample_and_shows_progress_on_stderr(
    movies, tmp_path, monkeypatch
):
    archive = movies.archive(tmp_path / "sample.tar.gz")
    monkeypatch.setattr("ssnas_core.datasets.sample.corpus.sample_archive", lambda: archive)
    told = call("demo", "--out", tmp_path / "demo", "--json")
    result = document(told)
    assert {row["label_ratio"] for row in result["scores"]} == {0.1, 1.0}
    assert {"prepare", "search", "pretrain", "train", "evaluate"} == result["seconds"].keys()
    for bar in ("unpacking MM-IMDB", "decoding image", "features", "search", "pretrain"):
        assert bar in told.err
    again = call("demo", "--out", tmp_path / "demo", "--json")
    assert document(again) == result


def test_what_a_library_prints_does_not_get_between_the_json(tiny_data, tiny_store, monkeypatch):
    from ssnas_core.features import prepare as preparation

    made = preparation.prepare

    def talking(*args, **options):
        print("Downloading: weights")
        return made(*args, **options)

    monkeypatch.setattr(preparation, "prepare", talking)
    told = call("prepare", "--data", tiny_data, "--store", tiny_store, "--json")
    document(told)
    assert "Downloading" in told.err


@pytest.mark.thorough
def test_real_command_keeps_notes_and_bars_on_stderr_and_its_result_on_stdout(movies, tmp_path):
    files = {**movies.files, movies.json(3): b"{"}
    data = movies.archive(tmp_path / "data.tar.gz", files)
    program = Path(__file__).parent / "_launched.py"  # `ssnas` with a tiny recipe
    command = [sys.executable, program, "prepare", "--data", data, "--store", tmp_path / "s"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PIDS": str(tmp_path)}
    told = subprocess.run(
        [*command, "--json"], env=environment, capture_output=True, text=True, timeout=300
    )
    result = document(Told(told.returncode, told.stdout, told.stderr))
    assert result["skipped_records"] == {"m03": "JSON unreadable or malformed"}
    assert re.search(r"ssnas: .*: left out 1 of 60 records: 1 x JSON unreadable", told.stderr)
    assert "ssnas: feature store" in told.stderr and "feature extraction takes about" in told.stderr
    assert "SimCLR of the image backbone" in told.stderr


# --- show


def test_show_prints_and_draws_a_genotype(finished, tmp_path):
    result, _, out = finished
    told = call("show", out / "genotype.json", "--out", tmp_path / "new")
    assert told.code == 0
    lines = told.out.splitlines()
    assert lines[0] == result["genotype"]
    assert [line.partition(" = ")[0] for line in lines[2:4]] == ["cell_0", "cell_1"]
    drawn = tmp_path / "new" / "genotype.png"
    assert str(drawn) in told.out
    assert drawn.read_bytes().startswith(b"\x89PNG") and drawn.stat().st_size > 5000
    assert (tmp_path / "new" / "genotype.svg").read_text().startswith("<?xml")


# --- options


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "missing subcommand: Expected one of {demo, run, .*prepare, search, train"),
        (["fly"], "Unrecognized options: fly; Available subcommands: demo, run, .*ssnas --help"),
        (["run"], r"Missing from ssnas run: --data STR --out PATH \(see ssnas run --help\)"),
        (["demo"], r"Missing from ssnas demo: --out PATH"),
        (["train", "--run", "x"], "Missing from ssnas train: --label-ratio FLOAT"),
        (["show"], "Missing from ssnas show: PATH"),
        (["run", "--data", "x", "--out", "y", "--sed", "1"], "Unrecognized options: --sed, 1"),
        (["run", "--data", "x", "--out", "y", "--seed", "a"], "parsing --seed: invalid lit.*'a'"),
        (["run", "--data", "x", "--out", "y", "--label-ratio", "half"], "--label-ratio.*'half'"),
        (
            ["run", "--data", "x", "--out", "y", "--objective", "best"],
            "unknown objective 'best'",
        ),
        (["run", "--data", "x", "--out", "y", "--inherit", "yes"], "Unrecognized options: yes"),
        (
            ["run", "--data", "x", "--out", "y", "--strategy", "tpe", "--strategy.order", "2"],
            "Unrecognized options: --strategy.order, 2",
        ),
        (
            ["run", "--data", "x", "--out", "y", "--recipe", "mine"],
            "unknown recipe 'mine'",
        ),
    ],
)
def test_options_that_do_not_parse_are_refused(arguments, message, monkeypatch):
    # whatever the terminal's width, and the letters that tyro draws its frames in
    for columns, encoding in (("200", "ascii"), ("50", "utf-8")):
        monkeypatch.setenv("COLUMNS", columns)
        refused(call(*arguments, encoding=encoding), message)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--label-ratio", "0"], r"a label ratio must be in \(0, 1\], got 0\.0"),
        (["--label-ratio", "0.1", "0.1"], "each once, got"),
        (["--label-ratio"], r"expected label ratios, each once, got \[\]"),
        (["--seed", "-1"], "seed must be >= 0, got -1"),
        (["--prepare.views", "0"], "views >= 1 beside the clean one, got 0"),
        (["--objective", "hybrid"], "a search uses labels.*got 2 ratios"),
        (["--space.modality-dropout", "1.5"], r"modality_dropout must be in \[0, 1\], got 1\.5"),
        (["--strategy.order", "3"], "--strategy.order"),
        (["--space", "layers"], "the space 'layers' has no supernet for the strategy 'bilevel'"),
        (
            ["--objective", "hybrid", "--label-ratio", "1", "--objective.weight", "2"],
            r"weight of the labels must be in \[0, 1\], got 2\.0",
        ),
        (["--objective", "supervised"], "got 2 ratios; give one --label-ratio per run"),
        (["--inherit", "--strategy", "random"], "drop --inherit"),
        (["--device", "abacus"], r"cannot use device 'abacus' .*; use cpu or auto"),
    ],
)
def test_values_that_make_no_sense_are_refused_before_anything_is_read(options, message, tmp_path):
    told = call("run", "--data", tmp_path / "data", "--out", tmp_path / "run", *options)
    refused(told, message)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--prepare.image", "eye"], "expected an image backbone 'small', 'vgg19', .*'eye'"),
        (["--prepare.text", "ear"], "expected a text backbone 'maxout', .*'ear'"),
        (["--label-ratio", "0.01"], r"label ratio 0\.01 leaves none of the 36 train samples lab"),
    ],
)
def test_values_that_do_not_fit_the_data_are_refused(options, message, data, tmp_path):
    refused(call("run", *data, "--out", tmp_path / "run", "--quiet", *options), message)


# --- data


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2000])


DATA = {
    "missing": (lambda movies, path: None, "does not exist; expected mmimdb.tar.gz or its unp"),
    "not an archive": (
        lambda movies, path: path.write_text("movies"),
        "is not a whole .tar.gz archive .* download it again",
    ),
    "truncated": (
        lambda movies, path: truncated(movies.archive(path)),
        "is not a whole .tar.gz archive",
    ),
    "a path outside": (
        lambda movies, path: movies.archive(path, {**movies.files, "../evil": b"x"}),
        r"holds a path outside of it \('../evil'\)",
    ),
    "an empty folder": (lambda movies, path: path.mkdir(), "holds nothing; expected mmimdb"),
    "a split that is not JSON": (
        lambda movies, path: movies.archive(path, {**movies.files, "split.json": b"{"}),
        "split.json is not valid JSON",
    ),
    "no usable movie": (
        lambda movies, path: movies.archive(path, {"split.json": movies.files["split.json"]}),
        "expected usable records in split 'train', got none",
    ),
}


@pytest.mark.parametrize("case", DATA)
def test_data_that_cannot_be_read_are_refused(case, movies, tmp_path):
    make, message = DATA[case]
    path = tmp_path / "deep" / "mmimdb.tar.gz"
    path.parent.mkdir()
    make(movies, path)
    for command in ("prepare", "search"):
        where = "--store" if command == "prepare" else "--out"
        told = call(command, "--data", path, where, tmp_path / command, "--quiet")
        refused(told, message)
    assert not list(tmp_path.rglob("evil"))


def with_bad_records(movies) -> tuple[dict[str, bytes], dict[str, str]]:
    """The movies with one of each kind of bad record, and what is to be said of each."""
    files = dict(movies.files)
    split = json.loads(files["split.json"])
    split["train"].append("ghost")
    files["split.json"] = json.dumps(split).encode()
    files[movies.poster(0)] = b"not an image"
    files[movies.poster(1)] = files[movies.poster(1)][:300]
    del files[movies.poster(2)]
    files[movies.json(3)] = b'{"plot": ['
    files[movies.json(4)] = b'{"genres": ["Drama"]}'
    files[movies.json(5)] = b'{"plot": 5, "genres": ["Drama"]}'
    files[movies.json(40)] = b'{"plot": ["a ship"], "genres": ["Sitcom"]}'
    return files, {
        "m00": "UnidentifiedImageError",
        "m01": "OSError: ",
        "m02": "poster missing",
        "m03": "JSON unreadable or malformed",
        "m04": "no 'plot'",
        "m05": "'plot' is not text",
        "m40": "unknown genre 'Sitcom'",
        "ghost": "JSON missing",
    }


def test_bad_records_are_skipped_counted_and_named(movies, tmp_path):
    files, wanted = with_bad_records(movies)
    data = movies.folder(tmp_path / "data", files)
    options = ("--data", data, "--store", tmp_path / "store", "--quiet", "--device", "cpu")
    ratio = ("--label-ratio", "1", "--json")
    told = document(call("run", *options, "--out", tmp_path / "run", *ratio))["data"]
    assert (told["train"], told["dev"], told["test"], told["skipped"]) == (30, 11, 12, 8)
    assert told["skipped_records"].keys() == wanted.keys()
    for name, reason in wanted.items():
        assert reason in told["skipped_records"][name]
    prepared = document(
        call("prepare", "--data", data, "--store", tmp_path / "store", "--quiet", "--json")
    )
    assert prepared["skipped_records"] == told["skipped_records"]


@pytest.mark.parametrize("number", [0, 1, 2, 3, 4, 5, 40, None])
def test_strict_refuses_each_kind_of_bad_record(number, movies, tmp_path):
    bad, wanted = with_bad_records(movies)
    files = dict(movies.files)
    if number is None:
        name = "ghost"
        files["split.json"] = bad["split.json"]
    else:
        name = movies.name(number)
        for file in (movies.poster(number), movies.json(number)):
            if file in bad:
                files[file] = bad[file]
            else:
                del files[file]
    data = movies.folder(tmp_path / "data", files)
    told = call("run", "--data", data, "--out", tmp_path / "run", "--prepare.strict", "--quiet")
    refused(told, re.escape(wanted[name]))
    assert name in told.err


# --- folders


def test_folder_of_another_configuration_is_refused(finished, tiny_data):
    _, command, out = finished
    refused(call(*command, "--seed", "1"), "holds a run with seed=0, not 1; give the same options")
    strict = r"holds a run with recipe\.prepare\.strict=false, not true"
    refused(call(*command, "--prepare.strict"), strict)
    refused(call("run", "--data", ROOT, *command[3:]), "holds a run with data=")


def test_out_that_is_a_file_or_holds_other_things_is_refused(data, tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis").write_text("")
    for name in ("file", "home"):
        refused(call("run", *data, "--out", tmp_path / name), "exists and is not a run folder")
    told = call("prepare", "--data", data[1], "--store", tmp_path / "file", "--quiet")
    refused(told, "(Not a directory|File exists): .*file")
    refused(call("run", *data, "--out", tmp_path / "file" / "run"), "Not a directory: .*file")


@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_training_in_what_is_no_run_is_refused(command, tmp_path):
    for path in (tmp_path, tmp_path / "nothing", ROOT / "pyproject.toml"):
        told = call(command, "--run", path, "--label-ratio", "1", "--quiet")
        refused(told, r"is not a run folder \(no config\.json\); see ssnas run --help")


def test_mistaken_path_of_data_does_not_take_the_folder(data, tmp_path):
    out = tmp_path / "run"
    refused(call("search", "--data", tmp_path / "dta", "--out", out), "dta does not exist")
    assert not out.exists()


def test_interrupt_while_options_are_read_is_one_line(monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "parse", interrupted)
    told = call("run", "--help")
    assert (told.code, told.out, told.err) == (130, "", "ssnas: stopped.\n")


def test_options_of_a_run_with_a_model_are_refused(tmp_path):
    model = ("--model", tmp_path, "--quiet")
    for options in (("--method", "found"), ("--label-ratio", "1"), ("--store", tmp_path)):
        refused(call("predict", *model, *options), "are options of --run; .*drop them")
    told = call("embed", *model, "--run", tmp_path, "--out", tmp_path / "e.npz")
    refused(told, "needs --run alone")


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (("search", "--data", "d", "--out", "o"), "ssnas: stopped; the same command goes on from"),
        (("download", "mmimdb"), "ssnas: stopped.\n"),  # an archive begins anew
    ],
)
def test_ctrl_c_promises_to_go_on_only_where_it_does(command, message, monkeypatch):
    def stopped(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "run_command", stopped)
    told = call(*command)
    assert told.code == 130
    assert told.err.startswith(message)


def test_training_with_a_mistake_is_refused(run):
    _, options = run
    told = call("train", *options, "--label-ratio", "1", "--method", "best")
    refused(told, "unknown method 'best'; expected one of text only; image only; late concat")
    for ratio in ("0", "1.5", "nan"):
        told = call("train", *options, "--label-ratio", ratio)
        refused(told, r"expected a label ratio in \(0, 1\], got (0\.0|1\.5|nan)")


@pytest.mark.parametrize("text", ["[]", "{", '{"format": 1}', '{"format": 4, "recipe": 3}'])
def test_configuration_edited_by_hand_is_refused(run, text):
    mine, options = run
    (mine / "config.json").write_text(text)
    message = "(expected a run of format 4, got|not valid JSON|not a run configuration)"
    refused(call("train", *options, "--label-ratio", "1"), message)


# --- genotype.json edited by hand: what must be wrong for whoever reads it ...


def edited(**changes):
    return lambda genotype: json.dumps({**genotype, **changes})


def node(number: int, **changes):
    def edit(genotype):
        nodes = [dict(entry) for entry in genotype["nodes"]]
        nodes[number] |= changes
        return json.dumps({**genotype, "nodes": nodes})

    return edit


NOT_A_GENOTYPE = {
    "not JSON": (lambda genotype: "{", "is not valid JSON"),
    "not UTF-8": (lambda genotype: "\udcff", "is not valid JSON"),
    "deep nesting": (lambda genotype: "[" * 100_000, "is not valid JSON"),
    "a list": (lambda genotype: "[]", "expected a genotype of format 1"),
    "another version": (edited(format=2), "expected a genotype of format 1, got '2'"),
    "no nodes": (edited(nodes=[]), "needs at least one node"),
    "nodes by name": (edited(nodes={}), r"nodes: expected tuple\[.*Node, \.\.\.\], got '\{\}'"),
    "a number for a node": (edited(nodes=[1]), r"nodes\[0\]: expected an object, got '1'"),
    "no operator": (node(0, operator=None), r"nodes\[0\]\.operator: expected str, got 'None'"),
    "inputs as text": (
        node(0, inputs="image_0"),
        r"nodes\[0\]\.inputs: expected tuple\[str, \.\.\.\]",
    ),
    "a later node": (node(0, inputs=["cell_1", "text_0"]), "before it is computed"),
    "two of one name": (node(1, name="cell_0"), "distinct node names"),
}
# ... and what only the space that it was found in can tell.
NOT_IN_THE_SPACE = {
    "another space": (edited(space="layers"), "expected fusion, got layers"),
    "an unknown feature": (node(0, inputs=["image_9", "text_0"]), r"it uses \['image_9'\]"),
    "an unknown operator": (node(0, operator="Mean"), r"at cell_0: .*Mean"),
    "one input": (node(0, inputs=["text_0"]), "at cell_0"),
    "three inputs": (node(0, inputs=["image_0", "image_1", "text_0"]), "at cell_0"),
    "one input twice": (node(0, inputs=["text_0", "text_0"]), "at cell_0"),
    "a cell too few": (
        lambda genotype: edited(nodes=genotype["nodes"][:1])(genotype),
        "expected 2 cells of 1 steps, got 1 nodes",
    ),
}


@pytest.mark.parametrize("case", [*NOT_A_GENOTYPE, *NOT_IN_THE_SPACE])
def test_genotype_edited_by_hand_is_refused(case, run):
    mine, options = run
    file = mine / "genotype.json"
    edit, message = {**NOT_A_GENOTYPE, **NOT_IN_THE_SPACE}[case]
    text = edit(json.loads(file.read_text()))
    file.write_bytes(text.encode(errors="surrogateescape"))
    refused(call("train", *options, "--label-ratio", "1"), message)
    assert not (mine / "cells").exists()
    if case in NOT_A_GENOTYPE:
        refused(call("show", mine, "--quiet"), message)


LOOKED_AT = [
    pytest.param(case, marks=() if case == "one input" else pytest.mark.thorough)
    for case in NOT_IN_THE_SPACE
]


@pytest.mark.parametrize("case", LOOKED_AT)
def test_genotype_of_another_space_can_still_be_looked_at(case, run):
    mine, _ = run
    file = mine / "genotype.json"
    edit, _ = NOT_IN_THE_SPACE[case]
    file.write_text(edit(json.loads(file.read_text())))
    shown = call("show", mine, "--quiet")
    if shown.code:
        refused(shown, "genotype")


def test_show_of_nothing_is_refused(tmp_path):
    refused(call("show", tmp_path), r"is not a run folder \(no config\.json\)")
    refused(call("show", tmp_path / "gone.json"), r"cannot read .*gone\.json: No such file")


# --- what goes wrong on the way


def nan(loss):
    return lambda *args: loss(*args) * float("nan")


def test_loss_of_nan_is_refused(data, run, tmp_path, monkeypatch):
    monkeypatch.setattr(Contrastive, "loss", nan(Contrastive.loss))
    monkeypatch.setattr(Supervised, "loss", nan(Supervised.loss))
    message = "the loss became nan in epoch .*; lower the learning rate"
    refused(call("run", *data, "--out", tmp_path / "run", "--quiet"), message)
    _, options = run
    refused(call("train", *options, "--label-ratio", "1"), message)  # pretraining
    refused(call("train", *options, "--label-ratio", "1", "--method", "found"), message)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("checkpoint/found_r1.pt", "is not a usable checkpoint .* delete it"),
        ("checkpoint/pretrain.pt", "is not a usable checkpoint .* delete it"),
        ("cells/found_r1/train.json", "is not valid JSON"),
        ("prepared.json", "is not valid JSON"),
        ("dataset.json", "is not valid JSON"),
    ],
)
def test_broken_file_of_a_run_is_refused(run, name, message):
    mine, options = run
    (mine / name).parent.mkdir(parents=True, exist_ok=True)
    (mine / name).write_bytes(b"PK torn")
    method = "found, pretrained" if "pretrain" in name else "found"
    refused(call("train", *options, "--label-ratio", "1", "--method", method), message)


def test_interrupted_command_says_so_in_one_line_and_goes_on_from_there(
    finished, data, tmp_path, monkeypatch
):
    loss, left = Contrastive.loss, [9]

    def interrupting(*args):
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGINT)
        return loss(*args)

    monkeypatch.setattr(Contrastive, "loss", interrupting)
    command = ("search", *data, "--out", tmp_path / "run", *RATIOS, "--quiet")
    told = call(*command)
    assert (told.code, told.out) == (130, "")
    assert told.err == "ssnas: stopped; the same command goes on from here.\n"
    assert (tmp_path / "run" / "checkpoint" / "search.pt").exists()
    monkeypatch.undo()
    assert call(*command).out == finished[0]["genotype"] + "\n"


def test_folder_that_cannot_be_written_is_refused(data, tmp_path, monkeypatch):
    def denied(*_):
        raise PermissionError(13, "Permission denied", str(tmp_path / "run"))

    monkeypatch.setattr(runs, "write_json", denied)
    refused(call("run", *data, "--out", tmp_path / "run"), "Permission denied: .*run")


def test_reader_that_stops_early_is_no_mistake():
    ours, its = os.pipe()
    os.close(ours)
    with (
        os.fdopen(its, "w") as unread,  # closing it would fail, were it still the pipe
        contextlib.redirect_stdout(unread),
        pytest.raises(SystemExit) as stop,
    ):
        cli.main(["list", "space", "--quiet"])
    assert not stop.value.code


FULL = Path("/dev/full")  # every write fails: No space left on device
OUTPUTS = {
    "text": ("list", "space"),
    "JSON": ("list", "space", "--json"),
    "quiet": ("list", "--quiet"),
    "help": ("--help",),
    "help of a command": ("predict", "--help"),
    "help of settings": ("run", "--help"),
}


@pytest.mark.skipif(not FULL.exists(), reason="a device of Linux")
@pytest.mark.parametrize("buffered", [True, False])
@pytest.mark.parametrize("case", OUTPUTS)
def test_output_that_cannot_be_written_is_told_in_one_line(case, buffered):
    err = io.StringIO()
    raw = open(FULL, "wb", buffering=-1 if buffered else 0)  # noqa: SIM115
    with (
        io.TextIOWrapper(raw, "utf-8", write_through=not buffered) as full,
        contextlib.redirect_stdout(full),
        contextlib.redirect_stderr(err),
        pytest.raises(SystemExit) as stop,
    ):
        cli.main([*OUTPUTS[case]])
    told = "ssnas: cannot write to standard output: No space left on device; send it elsewhere.\n"
    assert (stop.value.code, err.getvalue()) == (2, told)


@pytest.mark.parametrize("case", OUTPUTS)
def test_closed_output_is_refused_before_any_work(case, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(cli, "parse", None)
    with pytest.raises(SystemExit) as stop:
        cli.main([*OUTPUTS[case]])
    told = "ssnas: standard output is closed, so no result can be printed; send it to a file.\n"
    assert (stop.value.code, capsys.readouterr().err) == (2, told)


def test_notes_that_cannot_be_written_do_not_keep_the_result(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stderr", None)
    with pytest.raises(SystemExit) as stop:
        cli.main(["list", "space"])
    assert not stop.value.code and capsys.readouterr().out.startswith("space:\n")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "shift_jis", "koi8-r", "utf-8"])
def test_letters_that_the_terminal_lacks_are_escaped(encoding, monkeypatch):
    text = "Comédie 音楽 Драма 😀 /data/caf\udce9"
    monkeypatch.setattr(cli, "run_command", lambda _: ([text], text, 0))
    for more in ((), ("--json",)):
        raw = io.BytesIO()
        out = io.TextIOWrapper(raw, encoding)  # strict, as a terminal's
        with contextlib.redirect_stdout(out), pytest.raises(SystemExit) as stop:
            cli.main(["list", *more])
        assert not stop.value.code
        line = raw.getvalue().decode(encoding)
        if more:
            assert json.loads(line) == [text]
        else:
            assert line == text.encode(encoding, "backslashreplace").decode(encoding) + "\n"


def _warned(kind: str) -> None:
    import logging
    import warnings

    if kind.startswith("logger"):
        logging.getLogger(kind.removeprefix("logger ")).warning("beware")
    elif kind == "a filter of its own":
        warnings.simplefilter("always")
        warnings.warn("beware", DeprecationWarning, stacklevel=1)
    elif kind == "scikit-learn":
        from sklearn.exceptions import ConvergenceWarning

        warnings.warn("beware", ConvergenceWarning, stacklevel=1)
    else:
        warnings.warn("beware", getattr(sys.modules["builtins"], kind), stacklevel=1)


@pytest.mark.parametrize(
    "kind",
    ["UserWarning", "FutureWarning", "RuntimeWarning", "scikit-learn", "a filter of its own",
     "logger transformers.models", "logger ssnas_core.datasets", "logger lightning.fabric"],
)  # fmt: skip
def test_quiet_commands_show_no_warnings_of_any_library(kind, monkeypatch):
    import logging
    import warnings

    def talking(_):
        _warned(kind)
        return [], "done", 0

    monkeypatch.setattr(cli, "run_command", talking)
    handler = logging.StreamHandler()
    monkeypatch.setattr(logging.getLogger(kind.removeprefix("logger ")), "handlers", [handler])
    monkeypatch.setattr(handler, "emit", lambda record: print(record.getMessage(), file=sys.stderr))
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        monkeypatch.setattr(warnings, "showwarning", lambda told, *_: print(told, file=sys.stderr))
        assert call("list", "--quiet") == (0, "done\n", "")
        assert "beware" in call("list").err


def test_study_that_lacks_cells_prints_its_table_and_ends_with_status_1(tmp_path, monkeypatch):
    from ssnas_core.study import runner

    files = tuple(tmp_path / name for name in ("s.csv", "s.md", "s.png"))
    files[1].write_text("the table")
    monkeypatch.setattr(runner, "write_study", lambda rows, csv: files)
    study = ("study", "--data", tmp_path, "--out", tmp_path / "out")
    for rows, problems, code in (([{}], ["found, r = 0.1: gone"], 1), ([{}], [], 0)):
        monkeypatch.setattr(runner, "run_study", lambda *_, r=(rows, problems), **__: r)
        told = call(*study)
        assert told.code == code and told.out.startswith("the table\n")
        assert ("not scored: found, r = 0.1: gone" in told.out) == bool(problems)
        told = call(*study, "--json")
        assert told.code == code and json.loads(told.out)["problems"] == problems
    monkeypatch.setattr(runner, "run_study", lambda *_, **__: ([], ["found: gone"]))
    refused(call(*study), "no cell of the study is scored: found: gone")


# --- using a result


@pytest.fixture(scope="module")
def trained(finished, tiny_store):
    """Options that name the finished run and its features."""
    _, _, out = finished
    return ("--run", out, "--store", tiny_store, "--device", "cpu", "--quiet")


def test_predict_names_genres_and_a_saved_model_says_the_same(trained, tiny_data, tmp_path):
    asked = ("--poster", tiny_data / "dataset" / "m03.jpeg", "--plot", "a ship at war", "--json")
    told = document(call("predict", *trained, *asked))
    assert len(told["probabilities"]) == 23 and told["missing"] == []
    assert list(told["probabilities"].values()) == sorted(told["probabilities"].values())[::-1]
    assert 0 <= told["threshold"] <= 1
    model = tmp_path / "model"
    assert document(call("save", *trained, "--out", model, "--json")) == {"model": str(model)}
    assert (model / "README.md").exists()
    assert document(call("predict", "--model", model, *asked)) == told
    other = document(call("predict", *trained, *asked, "--method", "text only"))
    assert other["probabilities"] != told["probabilities"]
    ratio = document(call("predict", *trained, *asked, "--label-ratio", "0.25"))
    assert ratio["probabilities"] != told["probabilities"]


PLOTS = [
    "- a ship at war", "--a ship at war", "-a ship at war", "-h a ship at war", "-1 ship at war",
    "--help? a ship at war", "None, a ship at war", "True ship = war",
]  # fmt: skip


@pytest.mark.parametrize("plot", PLOTS)
def test_a_plot_may_be_any_text(trained, plot):
    told = call("predict", *trained, "--plot", plot)
    assert told.code == 0 and told.out == call("predict", *trained, "--input", f"text={plot}").out


@pytest.mark.parametrize(
    "plot", ["None", "", "  ", "--", "-1", "zz qq", "False", "--help?", "警长"]
)
def test_a_plot_of_no_known_word_is_refused_or_counts_as_missing(trained, tiny_data, plot):
    refused(call("predict", *trained, "--plot", plot), "gives nothing that the model knows: no wor")
    poster = ("--poster", tiny_data / "dataset" / "m03.jpeg")
    text = call("predict", *trained, *poster, "--plot", plot).out.splitlines()
    assert text[:-1] == call("predict", *trained, *poster).out.splitlines()[:-1]
    assert text[-1].startswith("(without text, of which no word is known: its mean stands in, so")
    told = document(call("predict", *trained, *poster, "--plot", plot, "--json"))
    assert told["missing"] == ["text"]


def test_a_forgotten_plot_is_no_option(trained):
    refused(call("predict", *trained, "--plot", "--poster", "x.jpg"), "Missing value .*--plot")


@pytest.mark.parametrize("command", ["predict", "save", "embed", "export"])
@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--label-ratio", "0.7"), r"'found, pretrained' at r = 0\.7 .* are: r = 0\.25, r = 1\."),
        (("--label-ratio", "0.5", "--method", "text only"), "'text only' at r = 0.5 .*r = 0.25, r"),
        (
            ("--method", "gmu"),
            "'gmu' at r = 1 is not .* are: 'text only' at r = 0.25, 'image only'",
        ),
    ],
)
def test_what_is_not_trained_is_refused_with_what_is(trained, tmp_path, command, options, told):
    more = ("--plot", "ship") if command == "predict" else ("--out", tmp_path / "e.npz")
    said = call(command, *trained, *options, *more)
    refused(said, told)
    assert not list(tmp_path.iterdir())
    remedy = re.search(
        r"ssnas train --run (\S+) --method ('[^']*'|\S+) --label-ratio \S+$", said.err
    )
    assert remedy is not None and Path(remedy[1]) == trained[1]


def test_prediction_without_a_modality_says_so(trained, tiny_data):
    told = call("predict", *trained, "--plot", "a ship at war")
    lines = told.out.splitlines()
    assert told.code == 0 and len(lines) == 23 + 2
    assert sum("-- threshold" in line for line in lines) == 1
    assert lines[-1].startswith("(without image: its mean stands in")
    named = call("predict", *trained, "--input", "text=a ship at war")
    assert named.out == told.out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), r"gives nothing that the model reads; give at least one of image, text"),
        (("--poster", "gone.jpeg"), "image is no usable image .*gone.jpeg"),
        (("--poster", __file__), "image is no usable image .UnidentifiedImageError"),
        (("--input", "sound=x"), "NAME=VALUE with a name among image, text, got 'sound=x'"),
        (("--plot", "x", "--method", "best"), "unknown method 'best'"),
        (("--plot", "x", "--label-ratio", "2"), r"label ratio in \(0, 1\], got 2"),
    ],
)
def test_prediction_of_nothing_usable_is_refused(trained, options, message):
    refused(call("predict", *trained, *options), message)


def test_prediction_needs_one_model(trained, tmp_path):
    refused(call("predict", "--plot", "x"), "expected either --run or --model; give one of them")
    both = call("predict", *trained, "--model", tmp_path, "--plot", "x")
    refused(both, "expected either --run or --model")
    refused(call("predict", "--model", tmp_path / "none", "--plot", "x"), "is not a folder")


def test_embeddings_are_written_for_other_tools(trained, tmp_path):
    import numpy as np

    told = document(call("embed", *trained, "--out", tmp_path / "e.npz", "--json"))
    with np.load(tmp_path / "e.npz", allow_pickle=False) as found:
        assert found["embeddings"].shape == (told["samples"], told["width"]) == (60, 2 * 4 * 8)
    refused(call("embed", *trained, "--out", tmp_path / "e.txt"), r"\.npz or a \.csv")
    refused(call("embed", "--model", tmp_path, "--out", tmp_path / "e.npz"), "needs --run")


def test_a_model_becomes_one_file_whose_inputs_are_told(trained, tmp_path):
    import torch

    told = call("export", *trained, "--out", tmp_path / "m.pt2")
    assert told.code == 0 and re.search(
        r"m\.pt2: differs from the model by at most \S+$", told.out, re.M
    )
    assert re.search(
        r"^image \(N, 3, 32, 32\) uint8: levels 0 to 255 of red, green", told.out, re.M
    )
    assert re.search(r"^text \(N, 300\) float32: .*vectorize\(raw\)$", told.out, re.M)
    assert re.search(r"^threshold: 0\.\d+$", told.out, re.M)
    extra = {"ssnas.json": ""}
    torch.export.load(tmp_path / "m.pt2", extra_files=extra)
    assert json.loads(extra["ssnas.json"])["classes"][0] == "Drama"
    refused(call("export", *trained, "--out", tmp_path / "m.pt"), r"\.onnx or a \.pt2 file, got")


def test_runs_are_compared_as_one_table(finished, run, tmp_path):
    _, _, out = finished
    files = ("--csv", tmp_path / "table.csv", "--png", tmp_path / "scores.png")
    told = call("compare", out, run[0], *files)
    assert told.code == 0 and "found, pretrained" in told.out
    assert (tmp_path / "table.csv").read_text().startswith("run,stage,space,objective,")
    assert (tmp_path / "scores.png").read_bytes().startswith(b"\x89PNG")
    assert isinstance(document(call("compare", out, "--json")), list)
    refused(call("compare", tmp_path), "run folder")


def test_download_of_a_dead_mirror_is_refused(tmp_path):
    dead = "http://127.0.0.1:9/mmimdb.tar.gz"  # the discard port: nobody answers
    told = call("download", "mmimdb", "--out", tmp_path, "--url", dead, "--quiet")
    refused(told, re.escape(dead))
    assert not [path for path in tmp_path.iterdir() if not path.name.startswith(".")]


# --- every source


def test_table_of_ones_own_runs_from_the_command_line(movies, tiny_data, tmp_path):
    rows = ["id,poster,plot,genres,split"]
    for split, names in movies.split.items():
        for name in names:
            movie = json.loads((tiny_data / "dataset" / f"{name}.json").read_text())
            genres = "|".join(movie["genres"])
            rows.append(f"{name},dataset/{name}.jpeg,{movie['plot'][0]},{genres},{split}")
    data = movies.folder(tmp_path / "mine")
    (data / "split.json").unlink()
    (data / "movies.csv").write_text("\n".join(rows))
    options = ("--data", data, "--store", tmp_path / "store", "--device", "cpu", "--quiet")
    ratio = ("--label-ratio", "1", "--json")
    result = document(call("run", *options, "--out", tmp_path / "run", *ratio))
    assert result["data"]["train"] == 36 and len(result["scores"]) == 6


SHORT = TrainConfig(epochs=1)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A saved model of either task, with a record of its data."""
    made = {}
    for read in (read_phrases, read_captions):
        folder, data = tmp_path_factory.mktemp("answers"), read(10)
        config = RunConfig(
            data=data,
            recipe=dataclasses.replace(RECIPES["scenes"], pretrain=SHORT, finetune=SHORT),
            space=EncDecConfig(encoder=1, decoder=2, channels=8, head=8, boxes="regions_0"),
            strategy=RandomConfig(trials=1, train=SHORT),
            label_ratio=(1.0,),
        )
        run = Run(config, folder / "run", device="cpu")
        classifier_of(run, "random", 1.0).save_pretrained(folder / "model")
        regions = folder / "scene.npy"
        np.save(regions, data.records[0].inputs["regions"])
        made[data.task] = (folder, data.records[0], ("--input", f"regions={regions}"))
    return made


def test_a_phrase_is_answered_by_a_region_its_box_and_a_drawing(models):
    folder, record, regions = models["grounding"]
    asked = ("predict", "--model", folder / "model", *regions, "--text", record.inputs["phrase"])
    told = document(call(*asked, "--png", folder / "seen.png", "--json", "--quiet"))
    boxes = record.inputs["regions"][:, -4:]
    assert told["box"] == boxes[told["region"]].tolist() and boxes[told["region"]].any()
    assert 0 < told["probability"] <= 1
    assert (folder / "seen.png").read_bytes().startswith(b"\x89PNG")
    line = call(*asked, "--quiet").out
    assert line.startswith(f"region {told['region']}: box ")
    blind = asked[:3] + asked[5:]
    refused(call(*blind, "--quiet"), "expected the regions of a picture, got none; give --input")


def test_captions_are_told_best_first(models):
    folder, record, regions = models["matching"]
    file = folder / "captions.txt"
    texts = [record.inputs["caption"], "a small red circle", "--quiet", "a blue square"]
    file.write_text("\n".join(texts) + "\n\n")
    asked = ("predict", "--model", folder / "model", *regions, "--captions", file, "--quiet")
    told = document(call(*asked, "--json"))
    assert sorted(one["text"] for one in told) == sorted(texts)
    assert [one["match"] for one in told] == sorted((one["match"] for one in told), reverse=True)
    assert call(*asked).out.splitlines() == [f"{one['match']:.3f}  {one['text']}" for one in told]
    file.write_text("\n")
    refused(
        call(*asked), "needs a picture, no other caption, and a file .* got regions and 0 texts"
    )


@pytest.mark.parametrize(
    ("task", "option", "message"),
    [
        ("grounding", "--captions", "--captions is for a model of matching, this is one of ground"),
        ("matching", "--png", "--png is for a model of grounding, this is one of matching; drop"),
    ],
)
def test_options_of_another_task_are_refused(models, task, option, message):
    folder, _, regions = models[task]
    told = call("predict", "--model", folder / "model", *regions, option, folder / "x", "--quiet")
    refused(told, message)

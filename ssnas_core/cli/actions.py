"""Do the subcommands of `ssnas`: each gives a result as JSON values, and as text."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssnas_core.cli import commands
from ssnas_core.common.errors import InputError

if TYPE_CHECKING:
    from ssnas_core.models.classifier import MultimodalClassifier
    from ssnas_core.runs.run import Run


def recipe_of(command: commands.RecipeCommand) -> tuple[Any, dict[str, Any]]:
    """Return the named recipe with the options' settings, and those of its axes and of tables."""
    from ssnas_core.cli.options import given
    from ssnas_core.runs.recipes import recipe_named
    from ssnas_core.spaces import OPERATORS

    recipe = recipe_named(command.recipe)
    for name in getattr(getattr(command, "space", None), "operators", ()):
        OPERATORS.find(name)  # who names it here trusts it; a configuration itself imports nothing
    configs = {
        key: given(getattr(command, key), config)
        for key, config in commands.defaults(type(command), commands.names_in(command)).items()
    }
    rest = ("space", "objective", "strategy", "table")
    parts = {key: configs.pop(key) for key in rest if key in configs}
    return dataclasses.replace(recipe, **configs), parts


def start(command: commands.RunCommand | commands.DemoCommand) -> Run:
    """Return a run that the command begins, or goes on with."""
    from ssnas_core.runs.recipes import RECIPES, RunConfig
    from ssnas_core.runs.run import Run

    progress = not command.quiet
    if isinstance(command, commands.DemoCommand):
        from ssnas_core.datasets.sample.corpus import sample_archive

        recipe = RECIPES["classroom"]
        config = RunConfig(data=sample_archive(), seed=command.seed, recipe=recipe)
        return Run(config, command.out, progress=progress)
    recipe, axes = recipe_of(command)
    names = commands.names_in(command)
    parts = {axis: axes.get(axis, names[axis]) for axis in ("space", "objective", "strategy")}
    fields = ("seed", "label_ratio", "views", "backbones", "inherit", "precision")
    parts |= {name: getattr(command, name) for name in fields}
    table = axes["table"]
    config = RunConfig(data=_data(command.data, table), recipe=recipe, table=table, **parts)
    options = {name: getattr(command, name) for name in ("store", "device", "log")}
    return Run(config, command.out, progress=progress, **options)


def run_command(command: Any) -> tuple[Any, str, int]:
    """Do what `command` says: its result as JSON values, and as text; and its exit status."""
    for module in command.parts:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise InputError(f"cannot import {module!r} of --parts ({error}).") from error
    actions = dict(COMMANDS.values())
    kind = next(kind for kind in type(command).__mro__ if kind in actions)
    result, text = actions[kind](command)
    lacking = isinstance(command, commands.StudyCommand) and result["problems"]
    return result, text, 1 if lacking else 0


def _data(text: str, table: Any) -> Any:
    """Return the path that an option gives, or the dataset that it names."""
    from ssnas_core.datasets.open import is_named, open_dataset

    return open_dataset(text, table=table) if is_named(text) else Path(text)


def _open(path: Path, command: commands.TrainCommand | commands.ModelCommand) -> Run:
    """The run in a folder."""
    from ssnas_core.runs.folder import RunFolder
    from ssnas_core.runs.recipes import RunConfig
    from ssnas_core.runs.run import Run

    config = RunConfig.from_plain(RunFolder.config_of(path))
    progress = not command.quiet
    return Run(config, path, store=command.store, device=command.device, progress=progress)


def _prepare(command: commands.PrepareCommand) -> tuple[Any, str]:
    from ssnas_core.features.prepare import prepare
    from ssnas_core.runs.folder import pick_device

    recipe, parts = recipe_of(command)
    prepared = prepare(
        _data(command.data, parts["table"]),
        command.store,
        recipe.prepare,
        table=parts["table"],
        device=pick_device(command.device),
        progress=not command.quiet,
    )
    result = prepared.describe()
    lines = [f"{name}: {value}" for name, value in result.items() if name != "texts"]
    for modality, known in result["texts"].items():
        shares = (f"{one['words']:.0%} in {split}" for split, one in known.items())
        lines.append(f"words of {modality} known: {', '.join(shares)}")
    return result, "\n".join(lines)


def _check(command: commands.CheckCommand) -> tuple[Any, str]:
    from ssnas_core.features.check import check_data, check_text

    recipe, parts = recipe_of(command)
    found = check_data(
        command.data, recipe.prepare, table=parts["table"], progress=not command.quiet
    )
    return found, check_text(found)


def _search(command: commands.SearchCommand) -> tuple[Any, str]:
    run = start(command)
    genotype = str(run.search())
    return {"genotype": genotype, **run.folder.cost()}, genotype


def _run(command: commands.RunCommand | commands.DemoCommand) -> tuple[Any, str]:
    from ssnas_core.show.tables import scores_text

    run = start(command)
    if isinstance(command, commands.DemoCommand) and not (run.folder / "metrics.json").exists():
        import torch

        threads = torch.get_num_threads()
        _ = run.prepared  # on all cores; the small steps after it gain nothing from a second
        torch.set_num_threads(1)  # thread, and wait for it ten times as long beside another program
        try:
            result = run.run()
        finally:
            torch.set_num_threads(threads)
    else:
        result = run.run()
    minutes = sum(result["seconds"].values()) / 60
    text = [
        f"found: {result['genotype']}",
        f"drawn: {run.folder / 'genotype.png'}",
        "",
        scores_text(result["scores"]),
        "",
        f"{minutes:.1f} minutes, peak anonymous memory {result['peak_anonymous_mb']:.0f} MB",
    ]
    return result, "\n".join(text)


def _train(command: commands.TrainCommand) -> tuple[Any, str]:
    from ssnas_core.runs.reading import read_trained

    run = _open(command.run, command)
    cell, name = run.train(command.method, command.label_ratio), run.task.primary
    result = {"folder": str(cell), **read_trained(cell / "train.json", name)}
    score = f"{name.replace('_f1', ' F1')} {result['dev'][name]:.3f}"
    return result, f"{cell}: {score} on the labelled dev part"


def _evaluate(command: commands.EvaluateCommand) -> tuple[Any, str]:
    from ssnas_core.common.typed import plain
    from ssnas_core.features.coverage import unknown_texts
    from ssnas_core.show.tables import scores_text

    run = _open(command.run, command)
    row, known = run.evaluate(command.method, command.label_ratio), run.prepared.known()
    result = {**row, "texts": {name: plain(parts["test"]) for name, parts in known.items()}}
    return result, "\n".join([scores_text([row]), *unknown_texts(known, ("test",))])


def _show(command: commands.ShowCommand) -> tuple[Any, str]:
    from ssnas_core.runs.report import show_genotype, show_run

    show = show_run if command.what.is_dir() else show_genotype
    result = show(command.what, out=command.out, formats=command.format)
    return {name: value for name, value in result.items() if name != "text"}, result["text"]


def _compare(command: commands.CompareCommand) -> tuple[Any, str]:
    from ssnas_core.common.files import write_text
    from ssnas_core.runs import compare
    from ssnas_core.show.style import save
    from ssnas_core.show.tables import table_csv

    rows = compare.compare_runs(command.runs)
    if command.csv is not None:
        write_text(command.csv, table_csv(rows))
    if command.png is not None:
        save(compare.plot_comparison(rows), command.png)
    return rows, compare.comparison_table(rows)


def _study(command: commands.StudyCommand) -> tuple[Any, str]:
    from ssnas_core.study.jobs import StudyConfig
    from ssnas_core.study.runner import run_study, study_files, write_study

    fields = ("methods", "label_ratio", "seeds", "decisive", "decisive_seeds")
    recipe, parts = recipe_of(command)
    study = StudyConfig(
        data=_data(command.data, parts["table"]),
        recipe=recipe,
        table=parts["table"],
        **{name: getattr(command, name) for name in fields},
    )
    table_at = command.csv or command.out / "study.csv"
    study_files(table_at)  # refused before hours of work
    machine = ("store", "workers", "scheduler", "device", "threads")
    options = {name: getattr(command, name) for name in machine}
    rows, problems = run_study(study, command.out, progress=not command.quiet, **options)
    if problems and not rows:
        others = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise InputError(f"no cell of the study is scored: {problems[0]}{others}")
    written = write_study(rows, table_at)
    report = written[1].read_text(encoding="utf-8")
    lines = [report, *(f"not scored: {problem}" for problem in problems)]
    lines.append(f"written: {' '.join(map(str, written))}")
    files = [str(path) for path in written]
    return {"rows": rows, "problems": problems, "files": files}, "\n".join(lines)


def _classifier(command: commands.ModelCommand) -> MultimodalClassifier:
    """The model that the command names, on its device."""
    from ssnas_core.models.classifier import MultimodalClassifier, classifier_of
    from ssnas_core.runs.folder import pick_device

    if (command.run is None) == (command.model is None):
        raise InputError("expected either --run or --model; give one of them.")
    if command.model is not None:
        whose = (command.method != type(command).method, command.label_ratio, command.store)
        if any(whose):
            raise InputError(
                "--method, --label-ratio and --store are options of --run; a saved model is one "
                "method's at one ratio: drop them."
            )
        model = MultimodalClassifier.from_pretrained(command.model)
    else:
        assert command.run is not None
        model = classifier_of(_trained(command.run, command), command.method, command.label_ratio)
    return model.to(pick_device(command.device)).eval()


def _trained(path: Path, command: commands.ModelCommand) -> Run:
    """Return a run that has trained the command's method at its label ratio.

    Raises:
        InputError: it has not; to train may take hours, which nobody asked for.
    """
    from ssnas_core.runs.reading import read_cells

    run = _open(path, command)
    ratio = max(run.config.label_ratio) if command.label_ratio is None else command.label_ratio
    if not run.is_trained(command.method, ratio):
        run.part(ratio)  # what could not be trained either has a message of its own
        cells, _ = read_cells(run.folder, run.prepared.store.channels)
        own = [f"r = {one['label_ratio']:g}" for one in cells if one["method"] == command.method]
        others = [f"{one['method']!r} at r = {one['label_ratio']:g}" for one in cells]
        raise InputError(
            f"{command.method!r} at r = {ratio:g} is not trained in {path}; trained are: "
            f"{', '.join(own or others[:6]) or 'none'}. Give one of these as --method and "
            f"--label-ratio, or train it: ssnas train --run {shlex.quote(str(path))} "
            f"--method {shlex.quote(command.method)} --label-ratio {ratio:g}"
        )
    return run


def _predict(command: commands.PredictCommand) -> tuple[Any, str]:
    model = _classifier(command)
    task, asked = model.spec.task, {"--captions": command.captions, "--png": command.png}
    for option, own in (("--captions", "matching"), ("--png", "grounding")):
        if asked[option] is not None and task != own:
            raise InputError(f"{option} is for a model of {own}, this is one of {task}; drop it.")
    inputs = _sample(command, model.kinds)
    if command.captions is not None:
        return _ranked(model, inputs, command.captions)
    probabilities = model.predict(inputs)
    if task == "grounding":
        return _grounded(probabilities, inputs, command.png)
    lines = [f"{name:<20}{value:>7.3f}" for name, value in probabilities.items()]
    if model.threshold is not None:
        above = sum(value > model.threshold for value in probabilities.values())
        lines.insert(above, f"{'-- threshold':<20}{model.threshold:>7.3f}")
    missing = model.missing_of(inputs)
    if missing:
        told = (f"{n}, of which no word is known" if n in inputs else n for n in missing)
        lines.append(f"(without {', '.join(told)}: its mean stands in, so trust this less)")
    result = {"probabilities": probabilities, "threshold": model.threshold, "missing": missing}
    return result, "\n".join(lines)


def _grounded(
    probabilities: dict[str, float], inputs: dict[str, Any], png: Path | None
) -> tuple[Any, str]:
    """Return the region that is meant and its box, the last four columns of its row."""
    import numpy as np

    from ssnas_core.show.regions import draw_regions
    from ssnas_core.show.style import save

    regions = next((value for value in inputs.values() if isinstance(value, np.ndarray)), None)
    if regions is None:
        raise InputError("expected the regions of a picture, got none; give --input NAME=FILE.npy.")
    region, share = next(iter(probabilities.items()))
    box = [round(float(value), 1) for value in regions[int(region), -4:]]
    result = {"region": int(region), "box": box, "probability": share}
    lines = [f"region {region}: box {' '.join(f'{value:g}' for value in box)} ({share:.3f})"]
    if png is not None:
        shares = [probabilities[str(row)] for row in range(len(regions))]
        title = next((value for value in inputs.values() if isinstance(value, str)), "")
        save(draw_regions(regions[:, -4:], shares, title=title), png)
        result["drawn"] = str(png)
        lines.append(f"drawn: {png}")
    return result, "\n".join(lines)


def _ranked(model: MultimodalClassifier, inputs: dict[str, Any], file: Path) -> tuple[Any, str]:
    """Return the texts of a file by how well they fit a picture."""
    from ssnas_core.common.files import MAX_JSON, read_bytes

    name = next(name for name, kind in model.kinds.items() if kind == "text")
    try:
        texts = [line for line in read_bytes(file, MAX_JSON).decode().splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: expected texts in UTF-8; convert it.") from error
    if name in inputs or not inputs or not texts:
        raise InputError(
            f"--captions needs a picture, no other {name}, and a file with a text in each line, "
            f"got {', '.join(inputs) or 'nothing'} and {len(texts)} texts; give these."
        )
    rows = model.predict([{**inputs, name: text} for text in texts])
    order = sorted(range(len(texts)), key=lambda place: -rows[place]["match"])
    result = [{"text": texts[place], "match": rows[place]["match"]} for place in order]
    return result, "\n".join(f"{one['match']:.3f}  {one['text']}" for one in result)


def _sample(command: commands.PredictCommand, kinds: dict[str, str]) -> dict[str, Any]:
    """Return one sample from the options, by modality."""
    from ssnas_core.common.files import map_array

    sample: dict[str, Any] = {}
    for option, kind, value in (
        ("--poster", "image", command.poster),
        ("--plot", "text", command.plot),
    ):
        names = [name for name, of in kinds.items() if of == kind]
        if value is not None and len(names) != 1:
            raise InputError(
                f"{option} is for a model with one {kind}, this one has {len(names)}; "
                f"give --input NAME=VALUE with a name among {', '.join(kinds)}."
            )
        if value is not None:
            sample[names[0]] = _text(value) if isinstance(value, str) else value
    for given in command.input:
        name, sign, value = given.partition("=")
        if not sign or name not in kinds:
            raise InputError(
                f"expected --input NAME=VALUE with a name among {', '.join(kinds)}, got {given!r}."
            )
        if kinds[name] == "text":
            sample[name] = _text(value)
        else:
            sample[name] = Path(value) if kinds[name] == "image" else map_array(Path(value))
    return sample


def _text(argument: str) -> str:
    """Return an argument as the text that it is in UTF-8, whatever the locale."""
    try:
        return argument.encode("utf-8", "surrogateescape").decode()
    except UnicodeDecodeError as error:
        raise InputError(f"expected a text in UTF-8, got {argument[:60]!a}; convert it.") from error


def _save(command: commands.SaveCommand) -> tuple[Any, str]:
    model = _classifier(command)
    model.save_pretrained(command.out)
    return {"model": str(command.out)}, f"{command.out}: weights, config.json and model card"


def _embed(command: commands.EmbedCommand) -> tuple[Any, str]:
    from ssnas_core.models.export import export_embeddings

    if command.run is None or command.model is not None:
        raise InputError("ssnas embed needs --run alone, whose data set is embedded; give that.")
    run = _trained(command.run, command)
    rows, width = export_embeddings(run, command.method, command.label_ratio, command.out)
    result = {"file": str(command.out), "samples": rows, "width": width}
    return result, f"{command.out}: {rows} embeddings of {width} numbers"


def _export(command: commands.ExportCommand) -> tuple[Any, str]:
    from ssnas_core.models.graph import export_model

    notes = export_model(_classifier(command), command.out)
    lines = [f"{command.out}: differs from the model by at most {notes['difference']:.1g}"]
    for name, told in {**notes["inputs"], **notes["outputs"]}.items():
        shape = ", ".join(map(str, told["shape"]))
        lines += ["", f"{name} ({shape}) {told['dtype']}: {told.get('from') or told.get('to')}"]
    threshold = notes["threshold"]
    lines += ["", f"classes: {', '.join(notes['classes'])}"]
    lines += [] if threshold is None else [f"threshold: {threshold:g}"]
    return {"file": str(command.out), **notes}, "\n".join(lines)


def _download(command: commands.DownloadCommand) -> tuple[Any, str]:
    from ssnas_core.datasets.download import download

    path = download(
        command.name,
        command.out,
        urls=command.url or None,
        sha256=command.sha256,
        progress=not command.quiet,
    )
    return {"path": str(path)}, f"{path}"


def _list(command: commands.ListCommand) -> tuple[Any, str]:
    """Return every part by kind: its name, its first line, and where it stands."""
    from ssnas_core.backbones import BACKBONES
    from ssnas_core.datasets import DATASETS
    from ssnas_core.objectives import OBJECTIVES
    from ssnas_core.runs import BASELINES
    from ssnas_core.runs.recipes import RECIPES
    from ssnas_core.search import STRATEGIES
    from ssnas_core.spaces import OPERATORS, SPACES
    from ssnas_core.study.methods import METHOD_SETS, STUDY_METHODS

    tables = (SPACES, OBJECTIVES, STRATEGIES, OPERATORS, BACKBONES, DATASETS, BASELINES)
    rows = {
        table.kind: [
            {"name": name, "source": source, "about": line}
            for name, source, line in table.described()
        ]
        for table in tables
    }
    for module in command.parts:
        for kind, row in _parts_in(module):
            rows[kind].append(row)
    sets = {name: "; ".join(names) for name, names in METHOD_SETS.items()}
    for kind, source, about in (
        ("method", "study.methods:STUDY_METHODS", STUDY_METHODS),
        ("method set", "study.methods:METHOD_SETS", sets),
        ("recipe", "runs.recipes:RECIPES", RECIPES),
    ):
        rows[kind] = [
            {"name": name, "source": f"ssnas_core.{source}", "about": str(one)}
            for name, one in about.items()
        ]
    if command.kind != "all" and command.kind not in rows:
        raise InputError(f"unknown kind {command.kind!r}; expected all, {', '.join(rows)}.")
    shown = {kind: part for kind, part in rows.items() if command.kind in ("all", kind)}
    lines = []
    for kind, part in shown.items():
        width = max((len(row["name"]) for row in part), default=0) + 2
        lines += ["", f"{kind}:"]
        lines += [f"  {row['name']:<{width}}{row['about']}  [{row['source']}]" for row in part]
    return shown, "\n".join(lines).strip()


def _parts_in(module: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the parts that a module defines, each with its kind, judged by what it has."""
    import torch

    for name, one in vars(importlib.import_module(module)).items():
        if not isinstance(one, type) or one.__module__ != module:
            continue
        if issubclass(one, torch.nn.Module):
            inputs = inspect.signature(one.forward).parameters
            kind = "operator" if len(inputs) == 3 else "backbone"
        elif hasattr(one, "search"):
            kind = "strategy"
        elif hasattr(one, "loss") or hasattr(one, "uses_labels"):
            kind = "objective"
        elif hasattr(one, "open"):
            kind = "space"
        else:
            continue
        line = (inspect.getdoc(one) or "").partition("\n")[0]
        yield kind, {"name": f"{module}:{name}", "source": module, "about": line}


COMMANDS: dict[str, tuple[type, Callable[[Any], tuple[Any, str]]]] = {
    "demo": (commands.DemoCommand, _run),
    "run": (commands.RunCommand, _run),
    "check": (commands.CheckCommand, _check),
    "prepare": (commands.PrepareCommand, _prepare),
    "search": (commands.SearchCommand, _search),
    "train": (commands.TrainCommand, _train),
    "evaluate": (commands.EvaluateCommand, _evaluate),
    "show": (commands.ShowCommand, _show),
    "compare": (commands.CompareCommand, _compare),
    "study": (commands.StudyCommand, _study),
    "predict": (commands.PredictCommand, _predict),
    "save": (commands.SaveCommand, _save),
    "embed": (commands.EmbedCommand, _embed),
    "export": (commands.ExportCommand, _export),
    "download": (commands.DownloadCommand, _download),
    "list": (commands.ListCommand, _list),
}
"""The subcommands by name: the type of the options, and what does the work."""

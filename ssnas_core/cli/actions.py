"""What the subcommands of `ssnas` do: a result as JSON values, and as text."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssnas_core.cli import commands
from ssnas_core.common.errors import InputError

if TYPE_CHECKING:
    from ssnas_core.models.classifier import MultimodalClassifier
    from ssnas_core.runs.run import Run

# From the options of a command to the recipe and the run that they name.


_OF_BILEVEL = ("order", "alternate", "sampling", "beta_decay", "select", "stop")
_BY_TRIALS = ("random", "evolution", "tpe")


def recipe_of(command: commands.RecipeCommand) -> Any:
    """The named recipe with what the options say instead."""
    from ssnas_core.runs.recipes import RECIPES

    def changed(part: Any, **values: Any) -> Any:
        given = {name: value for name, value in values.items() if value is not None}
        return dataclasses.replace(part, **given)

    recipe = RECIPES[command.recipe]
    prepare = changed(
        recipe.prepare,
        image=command.image_backbone,
        text=command.text_backbone,
        array=command.array_backbone,
        views=command.views,
        strict=command.strict,
    )
    recipe = changed(recipe, prepare=prepare)
    if isinstance(command, commands.RunCommand):
        search = changed(
            recipe.search,
            epochs=command.search_epochs,
            **{name: getattr(command, name) for name in _OF_BILEVEL},
        )
        dropout = command.modality_dropout
        fusion = changed(
            recipe.fusion,
            modality_dropout=dropout,
            relaxation=command.relaxation,
            taps=command.taps,
        )
        layers = changed(recipe.layers, modality_dropout=dropout)
        weight = command.hybrid_weight
        recipe = changed(recipe, search=search, fusion=fusion, layers=layers, hybrid_weight=weight)
        if command.strategy in _BY_TRIALS:
            trials = changed(getattr(recipe, command.strategy), trials=command.trials)
            recipe = changed(recipe, **{command.strategy: trials})
    return recipe


def start(command: commands.RunCommand | commands.DemoCommand) -> Run:
    """A run that the command begins, or goes on with."""
    from ssnas_core.runs.recipes import RunConfig
    from ssnas_core.runs.run import Run

    progress = not command.quiet
    if isinstance(command, commands.DemoCommand):
        from ssnas_core.datasets.sample.corpus import sample_archive

        config = RunConfig(data=sample_archive(), seed=command.seed)
        return Run(config, command.out, progress=progress)
    _refuse_unused(command)
    config = RunConfig(
        data=command.data,
        seed=command.seed,
        label_ratio=command.label_ratio,
        space=command.space,
        objective=command.objective,
        strategy=command.strategy,
        views="live" if command.live_views else "stored",
        backbones=command.backbones,
        inherit=command.inherit,
        precision=command.precision,
        recipe=recipe_of(command),
    )
    return Run(
        config,
        command.out,
        store=command.store,
        device=command.device,
        log=command.log,
        progress=progress,
    )


def _refuse_unused(command: commands.RunCommand) -> None:
    """Refuse options of another objective or strategy than the one that is chosen."""
    for needed, is_chosen, names in (
        ("--objective hybrid", command.objective == "hybrid", ("hybrid_weight",)),
        (
            "--strategy bilevel",
            command.strategy == "bilevel",
            ("search_epochs", *_OF_BILEVEL),
        ),
        (f"--strategy {' or '.join(_BY_TRIALS)}", command.strategy in _BY_TRIALS, ("trials",)),
        ("--space fusion", command.space == "fusion", ("relaxation", "taps")),
    ):
        given = [name for name in names if getattr(command, name) is not None]
        if given and not is_chosen:
            option = given[0].replace("_", "-")
            raise InputError(f"--{option} is an option of {needed}; give that too, or drop it.")


def run_command(command: Any) -> tuple[Any, str]:
    """Do what `command` says: its result as JSON values, and as text."""
    do = {
        commands.PrepareCommand: _prepare,
        commands.SearchCommand: _search,
        commands.RunCommand: _run,
        commands.DemoCommand: _run,
        commands.TrainCommand: _train,
        commands.EvaluateCommand: _evaluate,
        commands.ShowCommand: _show,
        commands.CompareCommand: _compare,
        commands.StudyCommand: _study,
        commands.PredictCommand: _predict,
        commands.SaveCommand: _save,
        commands.EmbedCommand: _embed,
        commands.DownloadCommand: _download,
    }
    return do[type(command)](command)


def table(rows: list[dict[str, Any]]) -> str:
    """Test scores as a table of methods by label ratio."""
    columns = {
        "accuracy": "accuracy",
        "weighted_f1": "weighted F1",
        "weighted_f1_at_0.3": "at 0.3",
        "weighted_f1_at_0.5": "at 0.5",
        "micro_f1": "micro",
        "macro_f1": "macro",
        "samples_f1": "samples",
        "weighted_ap": "weighted AP",
        "threshold": "threshold",
    }
    columns = {name: head for name, head in columns.items() if name in rows[0]}
    width = max(len("method"), *(len(row["method"]) for row in rows)) + 2
    heads = "".join(f"{head:>13}" for head in columns.values())
    lines = [f"{'method':<{width}}{'r':>6}{heads}"]
    for row in rows:
        cells = "".join(f"{row[name]:>13.3f}" for name in columns)
        lines.append(f"{row['method']:<{width}}{row['label_ratio']:>6g}{cells}")
    return "\n".join(lines)


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

    prepared = prepare(
        command.data,
        command.out,
        recipe_of(command).prepare,
        device=pick_device(command.device),
        progress=not command.quiet,
    )
    result = prepared.describe()
    return result, "\n".join(f"{name}: {value}" for name, value in result.items())


def _search(command: commands.SearchCommand) -> tuple[Any, str]:
    run = start(command)
    genotype = str(run.search())
    return {"genotype": genotype, **run.folder.cost()}, genotype


def _run(command: commands.RunCommand | commands.DemoCommand) -> tuple[Any, str]:
    run = start(command)
    result = run.run()
    minutes = sum(result["seconds"].values()) / 60
    text = [
        f"found: {result['genotype']}",
        f"drawn: {run.folder / 'genotype.png'}",
        "",
        table(result["scores"]),
        "",
        f"{minutes:.1f} minutes, peak anonymous memory {result['peak_anonymous_mb']:.0f} MB",
    ]
    return result, "\n".join(text)


def _train(command: commands.TrainCommand) -> tuple[Any, str]:
    from ssnas_core.runs.reading import read_trained

    run = _open(command.run, command)
    cell = run.train(command.method, command.label_ratio)
    result = {"folder": str(cell), **read_trained(cell / "train.json", run.scoring.primary)}
    name = run.scoring.primary
    told = f"{name.replace('_f1', ' F1')} {result['dev'][name]:.3f}"
    return result, f"{cell}: {told} on the labelled dev part"


def _evaluate(command: commands.EvaluateCommand) -> tuple[Any, str]:
    result = _open(command.run, command).evaluate(command.method, command.label_ratio)
    return result, table([result])


def _show(command: commands.ShowCommand) -> tuple[Any, str]:
    from ssnas_core.runs.report import show_genotype, show_run

    show = show_run if command.what.is_dir() else show_genotype
    result = show(command.what, out=command.out, formats=command.format)
    return {name: value for name, value in result.items() if name != "text"}, result["text"]


def _compare(command: commands.CompareCommand) -> tuple[Any, str]:
    from ssnas_core.common.files import write_text
    from ssnas_core.runs import report as reports

    rows = reports.compare_runs(command.runs)
    if command.csv is not None:
        write_text(command.csv, reports.comparison_csv(rows))
    if command.png is not None:
        reports.draw_comparison(rows, command.png)
    return rows, reports.comparison_table(rows)


def _study(command: commands.StudyCommand) -> tuple[Any, str]:
    from ssnas_core.study.jobs import StudyConfig
    from ssnas_core.study.methods import TUNED
    from ssnas_core.study.runner import run_study, study_files, write_study

    study = StudyConfig(
        data=command.data,
        methods=command.methods,
        label_ratio=command.label_ratio,
        seeds=command.seeds,
        decisive=command.decisive,
        decisive_seeds=command.decisive_seeds,
        recipe=recipe_of(command),
        tuned=TUNED.get(command.recipe, {}),  # with other backbones too
    )
    table_at = command.csv or command.out / "study.csv"
    study_files(table_at)  # told before hours of work
    rows, problems = run_study(
        study,
        command.out,
        store=command.store,
        workers=command.workers,
        scheduler=command.scheduler,
        device=command.device,
        threads=command.threads,
        progress=not command.quiet,
    )
    if problems and not rows:
        others = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise InputError(f"no cell of the study is scored: {problems[0]}{others}")
    written = write_study(rows, table_at)
    report = written[1].read_text(encoding="utf-8")
    told = [report, *(f"not scored: {problem}" for problem in problems)]
    told.append(f"written: {' '.join(map(str, written))}")
    files = [str(path) for path in written]
    return {"rows": rows, "problems": problems, "files": files}, "\n".join(told)


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
        run = _open(command.run, command)
        model = classifier_of(run, command.method, command.label_ratio)
    return model.to(pick_device(command.device)).eval()


def _predict(command: commands.PredictCommand) -> tuple[Any, str]:
    model = _classifier(command)
    inputs = _sample(command, model.kinds)
    found = model.predict(inputs)
    lines = [f"{name:<20}{value:>7.3f}" for name, value in found.items()]
    if model.threshold is not None:
        above = sum(value > model.threshold for value in found.values())
        lines.insert(above, f"{'-- threshold':<20}{model.threshold:>7.3f}")
    missing = [name for name in model.spec.modalities if name not in inputs]
    if missing:
        lines.append(f"(without {', '.join(missing)}: its mean stands in, so trust this less)")
    return {"probabilities": found, "threshold": model.threshold, "missing": missing}, "\n".join(
        lines
    )


def _sample(command: commands.PredictCommand, kinds: dict[str, str]) -> dict[str, Any]:
    """What the options give of one sample, by modality."""
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
            sample[names[0]] = value
    for given in command.input:
        name, sign, value = given.partition("=")
        if not sign or name not in kinds:
            raise InputError(
                f"expected --input NAME=VALUE with a name among {', '.join(kinds)}, got {given!r}."
            )
        sample[name] = value if kinds[name] == "text" else Path(value)
        if kinds[name] == "array":
            sample[name] = _array(Path(value))
    return sample


def _array(path: Path) -> Any:
    from ssnas_core.common.files import map_array

    return map_array(path)


def _save(command: commands.SaveCommand) -> tuple[Any, str]:
    model = _classifier(command)
    model.save_pretrained(command.out)
    return {"model": str(command.out)}, f"{command.out}: weights, config.json and model card"


def _embed(command: commands.EmbedCommand) -> tuple[Any, str]:
    from ssnas_core.models.classifier import export_embeddings

    if command.run is None or command.model is not None:
        raise InputError("ssnas embed needs --run alone, whose data set is embedded; give that.")
    run = _open(command.run, command)
    rows, width = export_embeddings(run, command.method, command.label_ratio, command.out)
    result = {"file": str(command.out), "samples": rows, "width": width}
    return result, f"{command.out}: {rows} embeddings of {width} numbers"


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

"""The `ssnas` command: each subcommand is a dataclass whose fields are its options.

Progress and notes go to standard error, results to standard output. A user's
mistake gets exit status 2 and one line.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import logging
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

import tyro

from ssnas_core.errors import InputError

if TYPE_CHECKING:
    from ssnas_core.studies import Run


Flag = Annotated[bool, tyro.conf.FlagCreatePairsOff]


@dataclass(frozen=True, kw_only=True)
class Output:
    """Options of every subcommand."""

    json: Flag = False
    """Print exactly one JSON document on standard output."""
    quiet: Flag = False
    """No progress bars and no notes on standard error."""


@dataclass(frozen=True, kw_only=True)
class PrepareCommand(Output):
    """Compute and store the features of a data set (no labels are used)."""

    data: Path
    """mmimdb.tar.gz as published, or its unpacked folder."""
    out: Path
    """Folder for prepared data; give it to other commands as --store."""
    recipe: Literal["two-core", "bm-nas"] = "two-core"
    """Sizes and schedules: for two CPU cores, or the published ones (VGG-19, C 192, L 16)."""
    image_backbone: str | None = None
    """small, vgg19 or torchvision:MODEL instead of the recipe's."""
    text_backbone: str | None = None
    """maxout or transformers:NAME_OR_FOLDER instead of the recipe's."""
    views: int | None = None
    """Stored augmented views per sample instead of the recipe's."""
    strict: Flag = False
    """Stop at the first bad record instead of counting and skipping it."""
    device: str = "auto"
    """cpu, cuda, or auto: a GPU where there is one."""


@dataclass(frozen=True, kw_only=True)
class RunCommand(PrepareCommand):
    """All stages: prepare, search, pretrain, fine-tune and score every method."""

    out: Path
    """Run folder; the same command again resumes, or prints the result."""
    store: Path | None = None
    """Folder for prepared data, to share between runs; OUT/store if not given."""
    seed: int = 0
    """Decides the search, the labelled parts and all initial weights."""
    label_ratio: tuple[float, ...] = (0.1, 1.0)
    """Ratios r of labels, in train and dev, that fine-tuning may use."""
    objective: Literal["contrastive", "supervised"] = "contrastive"
    """What the search optimises; supervised uses the labelled part of one label ratio."""
    strategy: Literal["bilevel", "random"] = "bilevel"
    """How the architecture is found."""
    search_epochs: int | None = None
    """Epochs of the search instead of the recipe's."""
    inherit: Flag = False
    """Start pretraining from the supernet's weights instead of fresh ones."""
    backbones: Literal["frozen", "trained"] = "frozen"
    """Keep backbones behind stored features, or train them along after the search."""


@dataclass(frozen=True, kw_only=True)
class SearchCommand(RunCommand):
    """Find an architecture; leaves genotype.json, genotype.png and history.jsonl."""


@dataclass(frozen=True, kw_only=True)
class DemoCommand(Output):
    """Everything on the bundled sample of generated movies, in a few minutes on two cores."""

    out: Path
    """Run folder; the same command again resumes, or prints the result."""
    seed: int = 0
    """Decides the search, the labelled parts and all initial weights."""


@dataclass(frozen=True, kw_only=True)
class TrainCommand(Output):
    """Pretrain (where the method does) and fine-tune one method of a run on a labelled part."""

    run: Path
    """Run folder that `ssnas search` or `ssnas run` made."""
    label_ratio: float
    """Ratio r of labels, in train and dev."""
    method: str = "found, pretrained"
    """One of: text only; image only; late concat; random; found; found, pretrained."""
    store: Path | None = None
    """Folder of prepared data, where the run was made with one."""
    device: str = "auto"
    """cpu, cuda, or auto: a GPU where there is one."""


@dataclass(frozen=True, kw_only=True)
class EvaluateCommand(TrainCommand):
    """Score a trained method of a run on the test part; the reading is recorded."""


@dataclass(frozen=True, kw_only=True)
class ShowCommand(Output):
    """A genotype as text and as a drawing."""

    what: Annotated[Path, tyro.conf.Positional]
    """A genotype.json, or a run folder."""
    png: Path | None = None
    """Where to draw it; beside the genotype if not given."""


COMMANDS = {
    "demo": DemoCommand,
    "run": RunCommand,
    "prepare": PrepareCommand,
    "search": SearchCommand,
    "train": TrainCommand,
    "evaluate": EvaluateCommand,
    "show": ShowCommand,
}


def main(arguments: list[str] | None = None) -> NoReturn:
    """Entry point of the `ssnas` command; always exits."""
    command = parse(sys.argv[1:] if arguments is None else arguments)
    logging.basicConfig(
        level=logging.ERROR if command.quiet else logging.INFO,
        format="ssnas: %(message)s",
        stream=sys.stderr,
    )
    for noisy in ("httpx", "huggingface_hub", "matplotlib", "PIL"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(sys.stderr):  # torch.hub prints where it downloads from
            result, text = run_command(command)
    except InputError as error:
        fail(str(error))
    except KeyboardInterrupt:
        print("ssnas: stopped; the same command goes on from here.", file=sys.stderr)
        sys.exit(130)
    except OSError as error:
        fail(f"{error.strerror or error}: {error.filename}" if error.filename else str(error))
    print(json.dumps(result) if command.json else text)
    sys.exit(0)


def parse(arguments: list[str]) -> Any:
    """The subcommand that `arguments` name; a mistake exits with status 2 and one line."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.extras.subcommand_cli_from_dict(
                COMMANDS, prog="ssnas", description=DESCRIPTION, args=arguments
            )
    except SystemExit as stop:
        if not stop.code:  # --help
            raise
        fail(_one_line(said.getvalue()))


DESCRIPTION = (
    "Self-supervised architecture search for multimodal networks: find a fusion network for "
    "images and texts without labels, pretrain it without labels, fine-tune it on few."
)


def fail(message: str) -> NoReturn:
    """Print one line on standard error and exit with status 2."""
    print(f"ssnas: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(2)


def run_command(command: Any) -> tuple[Any, str]:
    """Do what `command` says: its result as JSON values, and as text."""
    if isinstance(command, ShowCommand):
        return _show(command)
    if type(command) is PrepareCommand:
        return _prepare(command)
    if isinstance(command, TrainCommand):
        run = _open(command)
        if isinstance(command, EvaluateCommand):
            result = run.evaluate(command.method, command.label_ratio)
            return result, table([result])
        cell = run.train(command.method, command.label_ratio)
        result = {"folder": str(cell), **_read(cell / "train.json")}
        dev = result["dev"]["weighted_f1"]
        return result, f"{cell}: weighted F1 {dev:.3f} on the labelled dev part"
    run = _start(command)
    if isinstance(command, SearchCommand):
        genotype = run.search()
        cost = run.folder.cost()
        return {"genotype": str(genotype), **cost}, str(genotype)
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


def table(rows: list[dict[str, Any]]) -> str:
    """Test scores as a table of methods by label ratio."""
    columns = {
        "weighted_f1": "weighted F1",
        "weighted_f1_at_0.3": "at 0.3",
        "weighted_f1_at_0.5": "at 0.5",
        "micro_f1": "micro",
        "macro_f1": "macro",
        "samples_f1": "samples",
        "weighted_ap": "weighted AP",
        "threshold": "threshold",
    }
    lines = [f"{'method':<19}{'r':>6}" + "".join(f"{head:>13}" for head in columns.values())]
    for row in rows:
        cells = "".join(f"{row[name]:>13.3f}" for name in columns)
        lines.append(f"{row['method']:<19}{row['label_ratio']:>6g}{cells}")
    return "\n".join(lines)


def _recipe(command: PrepareCommand) -> Any:
    from ssnas_core.recipes import RECIPES

    recipe = RECIPES[command.recipe]
    changes = {
        "image": command.image_backbone,
        "text": command.text_backbone,
        "views": command.views,
        "strict": command.strict,
    }
    given = {name: value for name, value in changes.items() if value is not None}
    recipe = dataclasses.replace(recipe, prepare=dataclasses.replace(recipe.prepare, **given))
    if isinstance(command, RunCommand) and command.search_epochs is not None:
        search = dataclasses.replace(recipe.search, epochs=command.search_epochs)
        recipe = dataclasses.replace(recipe, search=search)
    return recipe


def _start(command: Any) -> Run:
    from ssnas_core.recipes import RunConfig
    from ssnas_core.studies import Run

    progress = not command.quiet
    if isinstance(command, DemoCommand):
        from ssnas_core.datasets.sample import sample_archive

        config = RunConfig(data=sample_archive(), seed=command.seed)
        return Run(config, command.out, progress=progress)
    config = RunConfig(
        data=command.data,
        seed=command.seed,
        label_ratio=command.label_ratio,
        objective=command.objective,
        strategy=command.strategy,
        backbones=command.backbones,
        inherit=command.inherit,
        recipe=_recipe(command),
    )
    return Run(config, command.out, store=command.store, device=command.device, progress=progress)


def _open(command: TrainCommand) -> Run:
    from ssnas_core.recipes import RunConfig
    from ssnas_core.runs import RunFolder
    from ssnas_core.studies import Run

    config = RunConfig.from_plain(RunFolder.config_of(command.run))
    progress = not command.quiet
    return Run(config, command.run, store=command.store, device=command.device, progress=progress)


def _prepare(command: PrepareCommand) -> tuple[Any, str]:
    from ssnas_core.preparation import prepare
    from ssnas_core.runs import pick_device

    prepared = prepare(
        command.data,
        command.out,
        _recipe(command).prepare,
        device=pick_device(command.device),
        progress=not command.quiet,
    )
    result = prepared.describe()
    return result, "\n".join(f"{name}: {value}" for name, value in result.items())


def _show(command: ShowCommand) -> tuple[Any, str]:
    from ssnas_core.files import atomic_path
    from ssnas_core.genotype import Genotype
    from ssnas_core.plots import draw_genotype

    file = command.what / "genotype.json" if command.what.is_dir() else command.what
    genotype = Genotype.load(file)
    png = command.png or file.with_suffix(".png")
    figure = draw_genotype(genotype)
    with atomic_path(png) as temporary:
        figure.savefig(temporary, format="png", dpi=150)
    lines = [str(genotype), ""]
    lines += [f"{node.name} = {node}" for node in genotype.nodes]
    lines += ["", f"drawn: {png}"]
    return {"genotype": str(genotype), "png": str(png)}, "\n".join(lines)


def _read(path: Path) -> Any:
    from ssnas_core.files import read_json

    return read_json(path)


def _one_line(boxed: str) -> str:
    """What is wrong, from tyro's framed message: its text, and what it says to look at."""
    groups: list[list[str]] = [[]]  # of rows, between rules; the frame may be ASCII
    for row in boxed.splitlines():
        row = row.strip("│╭╮╰╯─")
        if not row.strip(" -─"):
            groups.append([])
        elif row[:8].strip():  # deep inside stands what an option means, which --help says too
            groups[-1].append(row.strip())
    shown = [group for group in groups if group]
    title = shown[0].pop(0)
    text, *more = (" ".join(group) for group in shown if group)
    if not text.lower().startswith(title.lower()):
        text = f"{title.lower()}: {text}"
    told = [text, *(part for part in more if part.startswith("Available subcommands"))]
    usage = re.findall(r"ssnas[a-z ]* --help", " ".join(more)) or ["ssnas --help"]
    return f"{'; '.join(told)} (see {usage[-1]})"

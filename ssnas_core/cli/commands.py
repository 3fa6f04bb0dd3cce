"""The subcommands of `ssnas`: each is a dataclass whose fields are its options.

The settings of a space, an objective, a strategy, of preparation and of the schedules are not
declared here: `type_of` adds to a command those of the parts that its options name.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

Flag = Annotated[bool, tyro.conf.FlagCreatePairsOff]
# With a constructor the word None is a name like any other, not the keyword.
Place = Annotated[Path | None, tyro.conf.arg(metavar="PATH", constructor=Path)]
Log = Literal["csv", "tensorboard"]


@dataclass(frozen=True, kw_only=True)
class Output:
    """Options of every subcommand."""

    json: Flag = False
    """Print exactly one JSON document on standard output."""
    quiet: Flag = False
    """No progress bars and no notes on standard error."""
    parts: tuple[str, ...] = ()
    """Modules to import first: those of your own parts that a run or a model names."""


@dataclass(frozen=True, kw_only=True)
class RecipeCommand(Output):
    """Options of what starts from raw data: which, and what is made of it."""

    data: str
    """MM-IMDB, (AV-)MNIST, CIFAR, NLVR, VQA v2, Flickr30k or RefCOCO as published; images by class;
    a table; a .npz; scenes[:grounding|:captions]; digits; package.module:Name; READER:PATH."""
    recipe: str = "two-core"
    """Sizes, schedules and backbones: two-core is small, bm-nas as published; sentence-encoder,
    published-encoders, classroom, av-mnist, scenes, digits, or package.module:Name."""


@dataclass(frozen=True, kw_only=True)
class PrepareCommand(RecipeCommand):
    """Compute and store the features of a data set (no labels are used)."""

    store: Path
    """Folder for prepared data; give it to other commands too."""
    device: str = "auto"
    """cpu, cuda, or auto: a GPU where there is one."""


@dataclass(frozen=True, kw_only=True)
class CheckCommand(RecipeCommand):
    """What would be read of a data set, what would be left out, and what preparing it costs."""


@dataclass(frozen=True, kw_only=True)
class SeveralCommand(Output):
    """Options of what can train in several processes."""

    device: str = "auto"
    """cpu, cuda, or auto: a GPU where there is one."""
    devices: int | Literal["auto"] = 1
    """Processes on this machine, one per GPU; they divide each batch. auto: every GPU."""
    num_nodes: int = 1
    """Machines; the same command is started on each of them, by torchrun, SLURM or by hand."""


@dataclass(frozen=True, kw_only=True)
class RunCommand(RecipeCommand, SeveralCommand):
    """All stages: prepare, search, pretrain, fine-tune and score every method."""

    out: Path
    """Run folder; the same command again resumes, or prints the result."""
    store: Place = None
    """Folder for prepared data, to share between runs; OUT/store if not given."""
    seed: int = 0
    """Decides the search, the labelled parts and all initial weights."""
    label_ratio: tuple[float, ...] = (0.1, 1.0)
    """Ratios r of labels, in train and dev, that fine-tuning may use."""
    space_name: Annotated[str, tyro.conf.arg(name="space")] = "fusion"
    """What may be chosen: fusion (BM-NAS), layers (MFAS), encdec (MMnas), cells (DARTS), joint
    (cells and fusion), or package.module:Name. --space NAME --help shows its options."""
    objective_name: Annotated[str, tyro.conf.arg(name="objective")] = "contrastive"
    """What the search optimises, without labels: contrastive, swapped, comm, clip, matching,
    memory-bank; with a labelled part: supervised, hybrid; or package.module:Name."""
    strategy_name: Annotated[str, tyro.conf.arg(name="strategy")] = "bilevel"
    """How the architecture is found: bilevel, gates, random, evolution, tpe,
    surrogate, or package.module:Name."""
    views: Literal["stored", "live"] = "stored"
    """Stored views, or views made anew for each step of search and pretraining (slow)."""
    inherit: Flag = False
    """Start pretraining from the supernet's weights instead of fresh ones."""
    backbones: Literal["frozen", "trained", "supervised"] = "frozen"
    """Frozen, trained without labels; trained along; or frozen, trained on the labelled part."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of products in networks that train; bfloat16 is faster where the machine has it."""
    log: Annotated[Log | None, tyro.conf.arg(metavar="csv|tensorboard")] = None
    """Log every epoch into OUT/logs as it ends."""


@dataclass(frozen=True, kw_only=True)
class SearchCommand(RunCommand):
    """Find an architecture; leaves genotype.json, genotype.png and history.jsonl."""


@dataclass(frozen=True, kw_only=True)
class DemoCommand(Output):
    """Everything on the bundled sample of generated movies, in a minute or two on two cores."""

    out: Path
    """Run folder; the same command again resumes, or prints the result."""
    seed: int = 0
    """Decides the search, the labelled parts and all initial weights."""


@dataclass(frozen=True, kw_only=True)
class TrainCommand(SeveralCommand):
    """Pretrain (where the method does) and fine-tune one method of a run on a labelled part."""

    run: Path
    """Run folder that `ssnas search` or `ssnas run` made."""
    label_ratio: float
    """Ratio r of labels, in train and dev."""
    method: str = "found, pretrained"
    """As: found, pretrained; found; random; late concat; text only; gmu; centralnet."""
    store: Place = None
    """Folder of prepared data, if it was moved since the run."""


@dataclass(frozen=True, kw_only=True)
class EvaluateCommand(TrainCommand):
    """Score a trained method of a run on the test part; the reading is recorded."""


@dataclass(frozen=True, kw_only=True)
class ShowCommand(Output):
    """What a run found and scored, as text and as figures; or one genotype."""

    what: Annotated[Path, tyro.conf.Positional]
    """A run folder at any stage, or a genotype.json."""
    out: Place = None
    """Folder for the figures; in the run folder, or beside the genotype, if not given."""
    format: tuple[Literal["png", "svg"], ...] = ("png", "svg")
    """File formats of the figures."""


@dataclass(frozen=True, kw_only=True)
class CompareCommand(Output):
    """Several runs as one table; runs that differ only in their seed become mean and interval."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Run folders."""
    csv: Place = None
    """Where to write the table as CSV."""
    png: Place = None
    """Where to draw the scores."""


@dataclass(frozen=True, kw_only=True)
class StudyCommand(RecipeCommand):
    """Methods x label ratios x seeds: one table, with intervals, paired tests and costs."""

    out: Path
    """Folder of the study; the same command again goes on where it was stopped."""
    store: Place = None
    """Folder for prepared data; OUT/store if not given."""
    methods: tuple[str, ...] = ("core", "ablation", "baselines")
    """Methods, or sets: core, ablation, baselines, hybrid, taps, strategies, backbones."""
    label_ratio: tuple[float, ...] = (0.01, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0)
    """Ratios r of labels, in train and dev."""
    seeds: int = 5
    """Seeds of each method, from 0 on."""
    decisive: tuple[str, ...] = ()
    """Methods, or sets of them, that get --decisive-seeds."""
    decisive_seeds: int = 10
    """Seeds of the decisive methods."""
    workers: int = 2
    """Processes on this machine, by Dask; 0: all in this one."""
    scheduler: Annotated[str | None, tyro.conf.arg(metavar="ADDRESS", constructor=str)] = None
    """Address of a Dask scheduler, as tcp://HOST:PORT, whose workers see OUT and the store."""
    threads: int = 1
    """Threads of each worker."""
    device: str = "cpu"
    """cpu, cuda, or auto: where each worker computes."""
    csv: Place = None
    """Where to write the table, its report (.md) and figure (.png); OUT/study.csv if not given."""


@dataclass(frozen=True, kw_only=True)
class ModelCommand(Output):
    """Options of what uses one trained model."""

    run: Place = None
    """Run folder; its model of --method at --label-ratio is used."""
    model: Place = None
    """Or a model folder that `ssnas save` made."""
    method: str = "found, pretrained"
    """Method of the run."""
    label_ratio: Annotated[float | None, tyro.conf.arg(metavar="R", constructor=float)] = None
    """Label ratio that it was trained at; the run's largest if not given."""
    store: Place = None
    """Folder of prepared data, if it was moved since the run."""
    device: str = "auto"
    """cpu, cuda, or auto: a GPU where there is one."""


@dataclass(frozen=True, kw_only=True)
class PredictCommand(ModelCommand):
    """The answer to one sample: classes, the region that a text means, or texts by how they fit."""

    poster: Annotated[
        Path | None, tyro.conf.arg(metavar="PATH", constructor=Path, aliases=["--image"])
    ] = None
    """Image file, for the model's only image modality."""
    plot: Annotated[
        str | None, tyro.conf.arg(metavar="TEXT", constructor=str, aliases=["--question", "--text"])
    ] = None
    """Text, for the model's only text modality."""
    input: tuple[str, ...] = ()
    """Others as NAME=VALUE: a path of an image or .npy array, or a text."""
    captions: Place = None
    """Of a model of matching: a file with a text in each line, to be told best first."""
    png: Place = None
    """Of a model of grounding: where to draw the regions and the one that is meant."""


@dataclass(frozen=True, kw_only=True)
class SaveCommand(ModelCommand):
    """Write a run's model as a folder of its own, with its model card."""

    out: Path
    """The folder to write."""


@dataclass(frozen=True, kw_only=True)
class EmbedCommand(ModelCommand):
    """Write the fusion network's embeddings of a run's data set, for other tools."""

    out: Path
    """A .npz or .csv file."""


@dataclass(frozen=True, kw_only=True)
class ExportCommand(ModelCommand):
    """Write a model as one file that runs without ssnas, and say what goes into it."""

    out: Path
    """A .onnx file (needs ssnas[onnx]), or a .pt2 of torch.export."""


@dataclass(frozen=True, kw_only=True)
class DownloadCommand(Output):
    """Fetch a public data set and check it."""

    name: Annotated[Literal["mmimdb", "mmimdb-hdf5", "avmnist"], tyro.conf.Positional]
    """mmimdb: the raw archive; mmimdb-hdf5: multimodal_imdb.hdf5; avmnist: MNIST and FSDD."""
    out: Path = Path("data")
    """Folder to put it in."""
    url: tuple[str, ...] = ()
    """Mirrors to try instead of the known ones; of avmnist, folders that hold its files."""
    sha256: Annotated[str | None, tyro.conf.arg(metavar="HEX", constructor=str)] = None
    """Expected SHA-256; what is downloaded is checked against it."""


@dataclass(frozen=True, kw_only=True)
class ListCommand(Output):
    """Every part by name: spaces, objectives, strategies, operators, backbones, methods, ..."""

    kind: Annotated[str, tyro.conf.Positional] = "all"
    """As space, objective, strategy, operator, backbone, dataset, baseline, method, recipe."""


_HIDDEN = ("augment", "image_training", "text_training", "array_training", "contrastive")


def type_of(command: type, arguments: list[str]) -> Any:
    """Return the type `command`, with the settings of the parts in `arguments`.

    Raises:
        InputError: a part that there is not.
    """
    if not issubclass(command, RecipeCommand):
        return command
    from ssnas_core.cli.options import group, shown

    groups = {
        key: shown(config, _HIDDEN)
        for key, config in defaults(command, _named(command, arguments)).items()
    }
    flat: dict[str, Any] = {"table": tyro.conf.OmitArgPrefixes}  # --labels, not --table.labels
    fields = [
        (key, flat[key][kind] if key in flat else kind, group(kind)) for key, kind in groups.items()
    ]
    made = dataclasses.make_dataclass(
        command.__name__, fields, bases=(command,), frozen=True, kw_only=True
    )
    made.__doc__ = command.__doc__
    return made


def defaults(command: type[RecipeCommand], names: dict[str, str]) -> dict[str, Any]:
    """Return the configurations whose settings a command has, by the prefix of their options."""
    from ssnas_core.datasets.table import TableOptions
    from ssnas_core.runs.recipes import recipe_named

    recipe = recipe_named(names["recipe"])
    configs: dict[str, Any] = {"table": TableOptions(), "prepare": recipe.prepare}
    if issubclass(command, RunCommand):
        axes = ("space", "objective", "strategy")
        configs |= {axis: getattr(recipe, axis)(names[axis]) for axis in axes}
    if not issubclass(command, PrepareCommand | CheckCommand):
        configs |= {"pretrain": recipe.pretrain, "finetune": recipe.finetune}
    return {key: config for key, config in configs.items() if dataclasses.is_dataclass(config)}


def names_in(command: RecipeCommand) -> dict[str, str]:
    """Return the recipe and the parts that a command names."""
    names = ("recipe", "space_name", "objective_name", "strategy_name")
    return {n.removesuffix("_name"): getattr(command, n) for n in names if hasattr(command, n)}


def _named(command: type[RecipeCommand], arguments: list[str]) -> dict[str, str]:
    """Return the recipe and the parts that the options name, before they are all parsed."""
    fields = {one.name.removesuffix("_name"): one.default for one in dataclasses.fields(command)}
    names = ("recipe", "space", "objective", "strategy")
    chosen = {name: str(fields[name]) for name in names if name in fields}
    for place, word in enumerate(arguments):
        option, equals, value = word.partition("=")
        name = option.removeprefix("--")
        if option.startswith("--") and name in chosen and (equals or place + 1 < len(arguments)):
            chosen[name] = value if equals else arguments[place + 1]
    return chosen

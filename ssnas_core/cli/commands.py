"""The subcommands of `ssnas`: each is a dataclass whose fields are its options."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

Flag = Annotated[bool, tyro.conf.FlagCreatePairsOff]


@dataclass(frozen=True, kw_only=True)
class Output:
    """Options of every subcommand."""

    json: Flag = False
    """Print exactly one JSON document on standard output."""
    quiet: Flag = False
    """No progress bars and no notes on standard error."""


@dataclass(frozen=True, kw_only=True)
class RecipeCommand(Output):
    """Options of what starts from raw data: which, and what is made of it."""

    data: Path
    """MM-IMDB's tar.gz, its unpacked folder or its HDF5 file; a folder of AV-MNIST's files; or a
    CSV beside your own images."""
    recipe: Literal["two-core", "sentence-encoder", "classroom", "av-mnist", "bm-nas"] = "two-core"
    """Sizes, schedules and backbones; two-core is small, bm-nas has the published sizes."""
    image_backbone: str | None = None
    """small, vgg19, torchvision:MODEL or transformers:NAME_OR_FOLDER instead of the recipe's."""
    text_backbone: str | None = None
    """maxout, word2vec:FILE or transformers:NAME_OR_FOLDER instead of the recipe's."""
    array_backbone: str | None = None
    """maxout or identity instead of the recipe's."""
    views: int | None = None
    """Stored augmented views per sample instead of the recipe's."""
    strict: Flag = False
    """Stop at the first bad record instead of counting and skipping it."""


@dataclass(frozen=True, kw_only=True)
class PrepareCommand(RecipeCommand):
    """Compute and store the features of a data set (no labels are used)."""

    out: Path
    """Folder for prepared data; give it to other commands as --store."""
    device: str = "auto"
    """cpu, cuda, or auto: a GPU where there is one."""


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
class RunCommand(PrepareCommand, SeveralCommand):
    """All stages: prepare, search, pretrain, fine-tune and score every method."""

    out: Path
    """Run folder; the same command again resumes, or prints the result."""
    store: Path | None = None
    """Folder for prepared data, to share between runs; OUT/store if not given."""
    seed: int = 0
    """Decides the search, the labelled parts and all initial weights."""
    label_ratio: tuple[float, ...] = (0.1, 1.0)
    """Ratios r of labels, in train and dev, that fine-tuning may use."""
    space: Literal["fusion", "layers"] = "fusion"
    """What may be chosen: cells of BM-NAS, or layers of MFAS (no bilevel search)."""
    objective: Literal["contrastive", "supervised", "hybrid"] = "contrastive"
    """What the search optimises; all but contrastive use the labelled part of one label ratio."""
    hybrid_weight: float | None = None
    """Supervised share of a hybrid search, in [0, 1], instead of the recipe's."""
    strategy: Literal["bilevel", "random", "evolution", "tpe", "surrogate"] = "bilevel"
    """How the architecture is found; all but bilevel train architectures one by one."""
    search_epochs: int | None = None
    """Epochs of a bilevel search instead of the recipe's."""
    trials: int | None = None
    """Architectures that random, evolution or tpe try, instead of the recipe's."""
    sampling: Literal["softmax", "gumbel"] | None = None
    """Mix all choices, or draw one of each in every step (GDAS), instead of the recipe's."""
    beta_decay: float | None = None
    """Weight of Beta-Decay at the end of the search (beta-DARTS), instead of the recipe's."""
    select: Literal["argmax", "perturbation"] | None = None
    """Derive by the largest logits, or by what is missed most (DARTS-PT)."""
    stop: Literal["never", "eigenvalue"] | None = None
    """End the search where the loss gets sharp in the architecture (RobustDARTS)."""
    relaxation: Literal["pairs", "released"] | None = None
    """Of the fusion space: ours, or as BM-NAS's released code has it."""
    taps: int | None = None
    """Features of each modality, the deepest, that the fusion space has, instead of all."""
    order: Literal[1, 2] | None = None
    """First or second order steps of the architecture, instead of the recipe's."""
    alternate: Literal["step", "epoch"] | None = None
    """Weights and architecture take turns by step or by epoch, instead of the recipe's."""
    modality_dropout: float | None = None
    """Probability that a sample loses a modality, in search, pretraining and fine-tuning."""
    live_views: Flag = False
    """Make views anew for each step of search and pretraining (slow: runs the backbones)."""
    inherit: Flag = False
    """Start pretraining from the supernet's weights instead of fresh ones."""
    backbones: Literal["frozen", "trained", "supervised"] = "frozen"
    """Frozen, trained without labels; trained along; or frozen, trained on the labelled part."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of products in networks that train; bfloat16 is faster where the machine has it."""
    log: Literal["csv", "tensorboard"] | None = None
    """Log every epoch into OUT/logs as it ends."""


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
class TrainCommand(SeveralCommand):
    """Pretrain (where the method does) and fine-tune one method of a run on a labelled part."""

    run: Path
    """Run folder that `ssnas search` or `ssnas run` made."""
    label_ratio: float
    """Ratio r of labels, in train and dev."""
    method: str = "found, pretrained"
    """As: found, pretrained; found; random; late concat; text only; gmu; centralnet."""
    store: Path | None = None
    """Folder of prepared data, if it was moved since the run."""


@dataclass(frozen=True, kw_only=True)
class EvaluateCommand(TrainCommand):
    """Score a trained method of a run on the test part; the reading is recorded."""


@dataclass(frozen=True, kw_only=True)
class ShowCommand(Output):
    """What a run found and scored, as text and as figures; or one genotype."""

    what: Annotated[Path, tyro.conf.Positional]
    """A run folder at any stage, or a genotype.json."""
    out: Path | None = None
    """Folder for the figures; in the run folder, or beside the genotype, if not given."""
    format: tuple[Literal["png", "svg"], ...] = ("png", "svg")
    """File formats of the figures."""


@dataclass(frozen=True, kw_only=True)
class CompareCommand(Output):
    """Several runs as one table; runs that differ only in their seed become mean and interval."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Run folders."""
    csv: Path | None = None
    """Where to write the table as CSV."""
    png: Path | None = None
    """Where to draw the scores."""


@dataclass(frozen=True, kw_only=True)
class StudyCommand(RecipeCommand):
    """Methods x label ratios x seeds: one table, with intervals, paired tests and costs."""

    out: Path
    """Folder of the study; the same command again goes on where it was stopped."""
    store: Path | None = None
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
    scheduler: str | None = None
    """Address of a Dask scheduler, as tcp://HOST:PORT, whose workers see OUT and the store."""
    threads: int = 1
    """Threads of each worker."""
    device: str = "cpu"
    """cpu, cuda, or auto: where each worker computes."""
    csv: Path | None = None
    """Where to write the table, its report (.md) and figure (.png); OUT/study.csv if not given."""


@dataclass(frozen=True, kw_only=True)
class ModelCommand(Output):
    """Options of what uses one trained model."""

    run: Path | None = None
    """Run folder; its model of --method at --label-ratio is used."""
    model: Path | None = None
    """Or a model folder that `ssnas save` made."""
    method: str = "found, pretrained"
    """Method of the run."""
    label_ratio: float | None = None
    """Label ratio of the run; its largest if not given."""
    store: Path | None = None
    """Folder of prepared data, if it was moved since the run."""
    device: str = "auto"
    """cpu, cuda, or auto: a GPU where there is one."""


@dataclass(frozen=True, kw_only=True)
class PredictCommand(ModelCommand):
    """Classes of one sample with their probabilities; a modality may be missing."""

    poster: Path | None = None
    """Image file, for the model's only image modality."""
    plot: str | None = None
    """Text, for the model's only text modality."""
    input: tuple[str, ...] = ()
    """Others as NAME=VALUE: a path of an image or .npy array, or a text."""


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
class DownloadCommand(Output):
    """Fetch a public data set and check it."""

    name: Annotated[Literal["mmimdb", "mmimdb-hdf5", "avmnist"], tyro.conf.Positional]
    """mmimdb: the raw archive; mmimdb-hdf5: multimodal_imdb.hdf5; avmnist: MNIST and FSDD."""
    out: Path = Path("data")
    """Folder to put it in."""
    url: tuple[str, ...] = ()
    """Mirrors to try instead of the known ones; of avmnist, folders that hold its files."""
    sha256: str | None = None
    """Expected SHA-256; what is downloaded is checked against it."""


COMMANDS = {
    "demo": DemoCommand,
    "run": RunCommand,
    "prepare": PrepareCommand,
    "search": SearchCommand,
    "train": TrainCommand,
    "evaluate": EvaluateCommand,
    "show": ShowCommand,
    "compare": CompareCommand,
    "study": StudyCommand,
    "predict": PredictCommand,
    "save": SaveCommand,
    "embed": EmbedCommand,
    "download": DownloadCommand,
}

"""Self-supervised neural architecture search for multimodal networks.

Names are imported when first used, so that `import ssnas_core` stays cheap.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from ssnas_core.backbones import array_backbone as array_backbone
    from ssnas_core.backbones import image_backbone as image_backbone
    from ssnas_core.backbones import text_backbone as text_backbone
    from ssnas_core.datasets.arrays import ArrayDataset as ArrayDataset
    from ssnas_core.datasets.avmnist import read_avmnist as read_avmnist
    from ssnas_core.datasets.hdf5 import read_mmimdb_hdf5 as read_mmimdb_hdf5
    from ssnas_core.datasets.mmimdb import read_mmimdb as read_mmimdb
    from ssnas_core.datasets.records import Dataset as Dataset
    from ssnas_core.datasets.records import Record as Record
    from ssnas_core.datasets.sample import generate_sample as generate_sample
    from ssnas_core.datasets.sample import sample_archive as sample_archive
    from ssnas_core.datasets.splits import labelled_part as labelled_part
    from ssnas_core.datasets.table import read_table as read_table
    from ssnas_core.downloads import download as download
    from ssnas_core.errors import InputError as InputError
    from ssnas_core.features import FeatureStore as FeatureStore
    from ssnas_core.features import LiveFeatures as LiveFeatures
    from ssnas_core.genotype import Genotype as Genotype
    from ssnas_core.genotype import Node as Node
    from ssnas_core.genotype import SearchResult as SearchResult
    from ssnas_core.label_study import STUDY_METHODS as STUDY_METHODS
    from ssnas_core.label_study import StudyConfig as StudyConfig
    from ssnas_core.label_study import run_study as run_study
    from ssnas_core.label_study import write_study as write_study
    from ssnas_core.lessons import classroom as classroom
    from ssnas_core.logs import csv_log as csv_log
    from ssnas_core.logs import tensorboard_log as tensorboard_log
    from ssnas_core.models import MultimodalClassifier as MultimodalClassifier
    from ssnas_core.models import classifier_of as classifier_of
    from ssnas_core.models import export_embeddings as export_embeddings
    from ssnas_core.objectives import Contrastive as Contrastive
    from ssnas_core.objectives import Hybrid as Hybrid
    from ssnas_core.objectives import Supervised as Supervised
    from ssnas_core.objectives import nt_xent as nt_xent
    from ssnas_core.plots import draw_genotype as draw_genotype
    from ssnas_core.plots import plot_ablation as plot_ablation
    from ssnas_core.plots import plot_costs as plot_costs
    from ssnas_core.plots import plot_differences as plot_differences
    from ssnas_core.plots import plot_history as plot_history
    from ssnas_core.plots import plot_losses as plot_losses
    from ssnas_core.plots import plot_ranking as plot_ranking
    from ssnas_core.plots import plot_scores as plot_scores
    from ssnas_core.plots import plot_study as plot_study
    from ssnas_core.preparation import PrepareConfig as PrepareConfig
    from ssnas_core.preparation import prepare as prepare
    from ssnas_core.recipes import RECIPES as RECIPES
    from ssnas_core.recipes import Recipe as Recipe
    from ssnas_core.recipes import RunConfig as RunConfig
    from ssnas_core.reports import compare_runs as compare_runs
    from ssnas_core.reports import comparison_table as comparison_table
    from ssnas_core.reports import read_study as read_study
    from ssnas_core.reports import show_run as show_run
    from ssnas_core.reports import study_report as study_report
    from ssnas_core.search.bilevel import BilevelConfig as BilevelConfig
    from ssnas_core.search.bilevel import bilevel as bilevel
    from ssnas_core.search.evolution import EvolutionConfig as EvolutionConfig
    from ssnas_core.search.evolution import evolution as evolution
    from ssnas_core.search.random import RandomConfig as RandomConfig
    from ssnas_core.search.random import random_search as random_search
    from ssnas_core.search.surrogate import SurrogateConfig as SurrogateConfig
    from ssnas_core.search.surrogate import surrogate as surrogate
    from ssnas_core.search.tpe import TPEConfig as TPEConfig
    from ssnas_core.search.tpe import tpe as tpe
    from ssnas_core.significance import holm as holm
    from ssnas_core.significance import permutation_test as permutation_test
    from ssnas_core.significance import smallest_p as smallest_p
    from ssnas_core.sources import open_dataset as open_dataset
    from ssnas_core.spaces.fusion import FusionConfig as FusionConfig
    from ssnas_core.spaces.fusion import FusionSpace as FusionSpace
    from ssnas_core.spaces.layers import LayersConfig as LayersConfig
    from ssnas_core.spaces.layers import LayerSpace as LayerSpace
    from ssnas_core.studies import Run as Run
    from ssnas_core.training import TrainConfig as TrainConfig
    from ssnas_core.training import fit as fit
    from ssnas_core.training import predict as predict

_HOME = {
    "array_backbone": "backbones",
    "image_backbone": "backbones",
    "text_backbone": "backbones",
    "ArrayDataset": "datasets.arrays",
    "read_avmnist": "datasets.avmnist",
    "read_mmimdb_hdf5": "datasets.hdf5",
    "read_mmimdb": "datasets.mmimdb",
    "Dataset": "datasets.records",
    "Record": "datasets.records",
    "generate_sample": "datasets.sample",
    "sample_archive": "datasets.sample",
    "labelled_part": "datasets.splits",
    "read_table": "datasets.table",
    "download": "downloads",
    "InputError": "errors",
    "FeatureStore": "features",
    "LiveFeatures": "features",
    "Genotype": "genotype",
    "Node": "genotype",
    "SearchResult": "genotype",
    "STUDY_METHODS": "label_study",
    "StudyConfig": "label_study",
    "run_study": "label_study",
    "write_study": "label_study",
    "classroom": "lessons",
    "csv_log": "logs",
    "tensorboard_log": "logs",
    "MultimodalClassifier": "models",
    "classifier_of": "models",
    "export_embeddings": "models",
    "Contrastive": "objectives",
    "Hybrid": "objectives",
    "Supervised": "objectives",
    "nt_xent": "objectives",
    "draw_genotype": "plots",
    "plot_ablation": "plots",
    "plot_costs": "plots",
    "plot_differences": "plots",
    "plot_history": "plots",
    "plot_losses": "plots",
    "plot_ranking": "plots",
    "plot_scores": "plots",
    "plot_study": "plots",
    "PrepareConfig": "preparation",
    "prepare": "preparation",
    "RECIPES": "recipes",
    "Recipe": "recipes",
    "RunConfig": "recipes",
    "compare_runs": "reports",
    "comparison_table": "reports",
    "read_study": "reports",
    "show_run": "reports",
    "study_report": "reports",
    "BilevelConfig": "search.bilevel",
    "bilevel": "search.bilevel",
    "EvolutionConfig": "search.evolution",
    "evolution": "search.evolution",
    "RandomConfig": "search.random",
    "random_search": "search.random",
    "SurrogateConfig": "search.surrogate",
    "surrogate": "search.surrogate",
    "TPEConfig": "search.tpe",
    "tpe": "search.tpe",
    "holm": "significance",
    "permutation_test": "significance",
    "smallest_p": "significance",
    "open_dataset": "sources",
    "FusionConfig": "spaces.fusion",
    "FusionSpace": "spaces.fusion",
    "LayerSpace": "spaces.layers",
    "LayersConfig": "spaces.layers",
    "Run": "studies",
    "TrainConfig": "training",
    "fit": "training",
    "predict": "training",
}

__all__ = ["__version__", *sorted(_HOME)]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__

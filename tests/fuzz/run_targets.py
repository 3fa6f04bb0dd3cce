"""Targets of the fuzz tests: every reader of what runs, stores and saved models leave behind."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import random
import shutil
import tempfile
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import run_inputs
import torch
from making import ODD, dumps, movies, write_folder
from run_inputs import ANY, ARRAYS, JSON, Spoil, spoiled
from targets import Target

from ssnas_core.backbones.arrays import IdentityArray
from ssnas_core.backbones.transformers import TransformerImage, TransformerText
from ssnas_core.common.errors import InputError
from ssnas_core.common.files import load_tensors, map_array
from ssnas_core.features.config import PrepareConfig
from ssnas_core.features.store import FeatureStore
from ssnas_core.models.classifier import MultimodalClassifier, classifier_of
from ssnas_core.models.inputs import as_tensor
from ssnas_core.models.spec import ClassifierSpec
from ssnas_core.objectives.contrastive import Contrastive
from ssnas_core.runs import compare
from ssnas_core.runs import report as reports
from ssnas_core.runs.folder import RunFolder
from ssnas_core.runs.recipes import Recipe, RunConfig
from ssnas_core.runs.run import Run
from ssnas_core.search.bilevel import BilevelConfig
from ssnas_core.show.style import save
from ssnas_core.show.tables import scores_text, table_csv
from ssnas_core.spaces.fusion.space import FusionConfig, FusionSpace
from ssnas_core.spaces.genotype import Genotype, Node
from ssnas_core.training.loop import TrainConfig

_METHOD = "found, pretrained"


@cache
def valid() -> Path:
    """A folder with a finished run (`run`, its `store` inside), the same one killed in its search
    (`begun`), its features (`store`) and its saved model (`model`)."""
    home = Path(tempfile.mkdtemp(prefix="fuzz-runs-"))
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    torch.set_num_threads(1)  # what is forked has no other threads
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # else torch looks for a driver each time
    data = write_folder(home, movies(36))
    simclr = Contrastive(hidden=8, out=4)
    short = TrainConfig(epochs=1, batch_size=12)
    recipe = Recipe(
        prepare=PrepareConfig(
            image_size=(24, 16), views=1, image_training=short, text_training=short,
            contrastive=simclr,
        ),
        parts=(FusionConfig(channels=4, length=4), BilevelConfig(epochs=2, batch_size=12)),
        contrastive=simclr,
        pretrain=short,
        finetune=short,
    )  # fmt: skip
    config = RunConfig(data=data, label_ratio=(1.0,), recipe=recipe)
    run = Run(config, home / "run", device="cpu")
    run.run()
    classifier_of(run, _METHOD).save_pretrained(home / "model")
    _hub(home / "published").save_pretrained(home / "hub")
    (features,) = (home / "run" / "store").glob("prepared-*/features")
    shutil.copytree(features, home / "store")
    shutil.copytree(home / "run" / "store", home / "begun" / "store")
    begun = Run(config, home / "begun", device="cpu")
    begun._logger = lambda name: _stop
    with contextlib.suppress(KeyboardInterrupt):
        begun.search()
    return home


@cache
def warm() -> None:
    """Have each reader read once what is valid, so that children load no library."""
    home = valid()
    with tempfile.TemporaryDirectory() as once:
        for name, read in (
            ("run", look),
            ("run", use),
            ("begun", go_on),
            ("model", predict),
            ("hub", predict),
        ):
            shutil.copytree(home / name, Path(once) / name, dirs_exist_ok=True)
            read(Path(once) / name)
        Path(once, "a.json").write_bytes(_paper())
        read_genotype(Path(once, "a.json"))


def _hub(home: Path) -> MultimodalClassifier:
    """A classifier over tiny random transformers of images and of texts."""
    import tokenizers
    import transformers

    transformers.utils.logging.disable_progress_bar()
    sizes: dict[str, Any] = {
        "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8
    }  # fmt: skip
    known = "[PAD] [UNK] a ship war the story friend night love".split()
    words = {word: n for n, word in enumerate(known)}
    plain = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    plain.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()  # type: ignore[misc]
    tokens = transformers.PreTrainedTokenizerFast(
        tokenizer_object=plain, pad_token="[PAD]", unk_token="[UNK]"
    )
    tokens.save_pretrained(home / "bert")
    bert = transformers.BertConfig(vocab_size=len(words), max_position_embeddings=16, **sizes)
    transformers.BertModel(bert).save_pretrained(home / "bert")
    vit = transformers.ViTConfig(image_size=16, patch_size=8, **sizes)
    transformers.ViTModel(vit).save_pretrained(home / "vit")
    transformers.ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(home / "vit")
    spec = ClassifierSpec(
        kinds={"image": "image", "text": "text"},
        classes=("Drama", "War"),
        single_label=False,
        threshold=0.5,
        length=4,
        channels={"image_0": 8, "text_0": 8},
        positions={"image_0": 4, "text_0": 1},
        space=FusionConfig(channels=4, length=4, cells=1),
        genotype=Genotype("fusion", (Node("cell_0", "ConcatFC", ("image_0", "text_0")),)),
    )
    image = TransformerImage(home / "vit", "DEFAULT", taps=1, size=(16, 16))
    text = TransformerText(home / "bert", taps=1, length=8)
    return MultimodalClassifier(spec, {"image": image, "text": text})


def _stop(history: list[dict[str, Any]]) -> None:
    if len(history) == 2:
        raise KeyboardInterrupt


def files_of(folder: Path, *patterns: str) -> list[str]:
    found = {file for pattern in patterns for file in folder.glob(pattern) if file.is_file()}
    return sorted(str(file.relative_to(folder)) for file in found)


def make(kind: str, patterns: tuple[str, ...], folder: Path, rng: random.Random) -> Path:
    """A copy of a valid folder with one of the files spoiled."""
    warm()
    source = valid() / kind
    how = spoiled(source, folder / kind, files_of(source, *patterns), rng)
    (folder / "how.txt").write_text(how)
    return folder / kind


# --- readers


def look(path: Path) -> str:
    """What `ssnas show` and `ssnas compare` do."""
    told = reports.show_run(path, out=path.parent / "figures", formats=("png",))
    rows = compare.compare_runs([path, path.parent / "none"])
    table_csv(rows)
    compare.comparison_table(rows)
    if any(row.get("method") for row in rows):
        save(compare.plot_comparison(rows), path.parent / "figures" / "comparison.png")
    assert told["text"].isprintable() or "\n" in told["text"]
    return f"{told['stage']}, {len(told['notes'])} notes"


def _opened(path: Path) -> Run:
    config = RunConfig.from_plain(RunFolder.config_of(path))
    return Run(config, path, store=path / "store", device="cpu")


def use(path: Path) -> str:
    """What `ssnas run`, `train`, `evaluate`, `predict` and `save` do with a run."""
    run = _opened(path)
    result = run.run()
    scores_text(result["scores"])
    cell = run.train(_METHOD, 1.0)
    scores_text([run.evaluate(_METHOD, 1.0)])
    model = classifier_of(run, _METHOD)
    model.predict({"text": "a ship"})
    model.save_pretrained(path.parent / "saved")
    return f"{cell.name}"


def go_on(path: Path) -> str:
    """What `ssnas run` does with a run that was killed."""
    run = _opened(path)
    return str(run.search())


def predict(path: Path) -> str:
    """What `ssnas predict --model` does."""
    model = MultimodalClassifier.from_pretrained(path)
    picture = np.zeros((3, 30, 20), np.uint8)
    model.card()
    return str(model.predict([{"text": "a ship at war", "image": picture}, {"text": "a ship"}]))[
        :80
    ]


def open_store(path: Path) -> str:
    """A feature store, its clean and its augmented views."""
    store = FeatureStore.open(path)
    rows = torch.arange(len(store))
    store.clean(rows[:4])
    store.augmented(rows[:4], torch.Generator())
    return f"{len(store)} rows of {len(store.channels)} features"


def read_genotype(path: Path) -> str:
    """What `ssnas show` and a run's space do with a genotype file."""
    genotype = Genotype.load(path)
    told = reports.show_genotype(path, out=path.parent / "figures", formats=("svg", "png"))
    try:
        FusionSpace({"image_0": 4, "text_0": 4}, FusionConfig(channels=4)).build(genotype)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    return told["genotype"]


def read_array(path: Path) -> str:
    """What `ssnas predict --input NAME=FILE` does with a file of numbers."""
    array = map_array(path)  # as cli/actions.py reads it
    spec: Any = type("Spec", (), {"kinds": {path.stem: "array"}, "shapes": {path.stem: (2, 3)}})
    backbone = IdentityArray((2, 3)).fit(np.random.default_rng(0).normal(size=(9, 2, 3)))
    return str(tuple(as_tensor(path.stem, [array], spec, backbone).shape))


def read_tensors(path: Path) -> str:
    return f"{len(load_tensors(path))} tensors"


# --- inputs of a single file


def _single(name: str, data: Callable[[], bytes], cases: dict[str, Spoil]) -> Callable[..., Path]:
    def one(folder: Path, rng: random.Random) -> Path:
        path = folder / name
        path.write_bytes(data())
        how = rng.choice(sorted(cases))
        cases[how](path, rng)
        (folder / "how.txt").write_text(how)
        return path

    return one


def _many(nodes: int, inputs: int = 2) -> Callable[[], bytes]:
    def made() -> bytes:
        chain = [
            {
                "name": f"cell_{n}",
                "operator": "Sum",
                "inputs": [f"cell_{n - 1}" if n else "image_0", "text_0"][:inputs]
                + ["image_0"] * (inputs - 2),
            }
            for n in range(nodes)
        ]
        return dumps({"format": 1, "space": "fusion", "nodes": chain})

    return made


def _paper() -> bytes:
    nodes = (
        Node("cell_0", "ConcatFC", ("image_0", "text_0")),
        Node("cell_1", "LinearGLU", ("cell_0", "text_0")),
    )
    return Genotype("fusion", nodes).to_json().encode()


def _renamed(path: Path, rng: random.Random) -> None:
    """Each name in turn becomes an odd one, wherever it stands."""
    text = path.read_text()
    old = rng.choice(("fusion", "cell_0", "cell_1", "image_0", "text_0", "ConcatFC"))
    odd = rng.choice([one for one in ODD if isinstance(one, str)] + ["$\\frac{", "a$b$", "%s"])
    path.write_text(text.replace(json.dumps(old), json.dumps(odd)))


GENOTYPES: dict[str, Spoil] = {
    "other names": _renamed,
    "a million nodes": lambda p, rng: p.write_bytes(_many(10**6)()) and None,
    "a thousand nodes": lambda p, rng: p.write_bytes(_many(1000)()) and None,
    "all the parts it may have": lambda p, rng: p.write_bytes(_many(66)()) and None,
    "one node of many inputs": lambda p, rng: p.write_bytes(_many(1, 199)()) and None,
    "a million inputs": lambda p, rng: p.write_bytes(_many(1, 10**6)()) and None,
}


def _array() -> bytes:
    return run_inputs.npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3)}\n") + bytes(
        24
    )


def _weights() -> bytes:
    return (valid() / "model" / "model.safetensors").read_bytes()


def _checkpoint(folder: Path, rng: random.Random) -> Path:
    return make("begun", ("checkpoint/search.pt",), folder, rng)


TARGETS: dict[str, Target] = {
    "genotype": Target(
        _single("genotype.json", _paper, {**ANY, **JSON, **GENOTYPES}), read_genotype
    ),
    "run, shown": Target(partial(make, "run", ("*.json*", "cells/*/*.json", "checkpoint/*")), look),
    "run, used": Target(
        partial(make, "run", ("*.json*", "cells/*/*", "checkpoint/*", "store/prepared-*/**/*")),
        use,
    ),
    "begun run, shown": Target(_checkpoint, look),
    "begun run, gone on with": Target(_checkpoint, go_on),
    "store": Target(partial(make, "store", ("*",)), open_store),
    "model": Target(partial(make, "model", ("**/*",)), predict),
    "transformers": Target(partial(make, "hub", ("backbones/*/*", "config.json")), predict),
    "array": Target(_single("left.npy", _array, {**ANY, **ARRAYS}), read_array),
    "tensors": Target(
        _single("left.safetensors", _weights, {**ANY, **run_inputs.TENSORS}), read_tensors
    ),
}

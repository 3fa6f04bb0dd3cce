"""The card that goes with every saved model: what it is, what it was made from, what it cannot.

A card only repeats what a run recorded. A number that nobody computed is
missing from it, and the card says so (Mitchell et al., arXiv:1810.03993).
Its text is the template card.md beside this module.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from huggingface_hub import ModelCard, ModelCardData

from ssnas_core.models.spec import ClassifierSpec

_TEMPLATE = Path(__file__).with_name("card.md")


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """Facts that a run recorded of a model.

    Args:
        data: name of the data set.
        topic: what its samples are, where the card has something to say of that: "films".
        generated: whether it is the bundled sample of movies that do not exist.
        samples: usable samples by split, and `"skipped"` ones.
        method: one of the run's methods.
        objective, strategy: how the architecture was found; None where none was searched.
        backbones: "frozen", "supervised" and frozen then, or "trained" along.
        seed: of the run.
        feature_seed: of the backbones that were trained, and of the stored views.
        label_ratio: share of the labels that was used.
        labelled: labelled samples that were used, by split.
        unlearnt: classes that no labelled sample of train has.
        parameters: of what was trained with labels.
        score: name of the score in `dev_score` and the two below it.
        dev_score: on the labelled dev part, with nothing missing.
        dev_score_without: the same with one modality taken away, by modality.
        dev_score_shuffled: the same with one modality of other samples, by modality.
        dev: all scores on the labelled dev part.
        test: all scores on the test part; None where it was not read.
        licence: of the weights, as the hub names licences.
    """

    data: str
    topic: str | None = None
    generated: bool = False
    samples: Mapping[str, int]
    method: str
    objective: str | None = None
    strategy: str | None = None
    backbones: str
    seed: int
    feature_seed: int
    label_ratio: float
    labelled: Mapping[str, int]
    unlearnt: tuple[str, ...] = ()
    parameters: int
    score: str
    dev_score: float
    dev_score_without: Mapping[str, float] = field(default_factory=dict)
    dev_score_shuffled: Mapping[str, float] = field(default_factory=dict)
    dev: Mapping[str, float]
    test: Mapping[str, float] | None = None
    licence: str = "unknown"


def model_card(spec: ClassifierSpec, backbones: Mapping[str, str], facts: ModelFacts | None) -> str:
    """Return the card as Markdown, with the front matter that the Hugging Face hub reads.

    Args:
        spec: the model's architecture, classes and threshold.
        backbones: modality -> name of its backbone, of the modalities that are read.
        facts: what the run recorded; None for a model that no run made.
    """
    label = "single-label" if spec.single_label else "multi-label"
    tags = ["multimodal", "neural-architecture-search", f"{label}-classification"]
    if facts is not None and facts.objective == "contrastive":
        tags.append("self-supervised")
    data = ModelCardData(
        license=facts.licence if facts else "unknown",
        library_name="ssnas",
        tags=[*tags, "pytorch_model_hub_mixin"],
    )
    card = ModelCard.from_template(
        data,
        template_path=str(_TEMPLATE),
        spec=spec,
        facts=facts,
        backbones=backbones,
        reads_text=any(spec.kinds[name] == "text" for name in spec.modalities),
        modality_dropout=getattr(spec.space, "modality_dropout", 0),
        plain=_plain,
        score=_score,
        counts=_counts,
    )
    return str(card)


def _plain(text: str) -> str:
    """Return text from outside as one line that no Markdown reader takes for a mark."""
    return "".join(f"\\{c}" if c in "\\`*_[]<>|#" else c for c in " ".join(text.split()))


def _score(name: str) -> str:
    """Return `weighted_f1_at_0.3` as people write it."""
    return _plain(name.replace("_f1", " F1").replace("_ap", " AP").replace("_", " "))


def _counts(numbers: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {_plain(name)}" for name, count in numbers.items())

"""The card that goes with every saved model: what it is, what it was made from, what it cannot.

A card only repeats what a run recorded. A number that nobody computed is
missing from it, and the card says so (Mitchell et al., arXiv:1810.03993).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ssnas_core.datasets.mmimdb import GENRES

if TYPE_CHECKING:
    from ssnas_core.models.spec import ClassifierSpec


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """What a run recorded of a model.

    Args:
        data: name of the data set.
        generated: whether it is the bundled sample of movies that do not exist.
        samples: usable samples by split, and `"skipped"` ones.
        method: one of the run's methods.
        objective, strategy: how the architecture was found; None where none was searched.
        backbones: "frozen", "supervised" and frozen then, or "trained" along.
        seed: of the run.
        feature_seed: of the backbones that were trained, and of the stored views.
        label_ratio: share of the labels that was used.
        labelled: labelled samples that were used, by split.
        parameters: of what was trained with labels.
        score: name of the score in `dev_score` and `dev_score_without`.
        dev_score: on the labelled dev part, with nothing missing.
        dev_score_without: the same with one modality taken away, by modality.
        dev: all scores on the labelled dev part.
        test: all scores on the test part; None where it was not read.
        licence: of the weights, as the hub names licences.
    """

    data: str
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
    parameters: int
    score: str
    dev_score: float
    dev_score_without: Mapping[str, float] = field(default_factory=dict)
    dev: Mapping[str, float]
    test: Mapping[str, float] | None = None
    licence: str = "unknown"


def model_card(spec: ClassifierSpec, parts: Mapping[str, str], facts: ModelFacts | None) -> str:
    """The card as Markdown, with the front matter that the Hugging Face hub reads.

    Args:
        spec: the model's architecture, classes and threshold.
        parts: modality -> name of its backbone, of the modalities that are read.
        facts: what the run recorded; None for a model that no run made.
    """
    films = bool(set(spec.classes) & set(GENRES)) and bool(
        {"image", "text"} & {*spec.kinds.values()}
    )
    generated = facts is not None and facts.generated
    sections = {
        "What it is": _identity(spec, parts, facts),
        "How to use it": _usage(spec),
        "What it was made from": _origin(spec, facts),
        "Scores": _scores(spec, facts),
        "Intended use": _use(films, generated),
        "Biases": _biases(films, generated),
        "Limits": _limits(spec, facts),
        "Licence": _licence(parts, facts),
    }
    body = "\n\n".join(f"## {title}\n\n{text}" for title, text in sections.items())
    title = f"A classifier of {_and(spec.modalities)} into {len(spec.classes)} classes"
    return f"{_front_matter(spec, facts)}\n# {title}\n\n{body}\n"


def _front_matter(spec: ClassifierSpec, facts: ModelFacts | None) -> str:
    label = "single-label" if spec.single_label else "multi-label"
    tags = ["multimodal", "neural-architecture-search", f"{label}-classification"]
    if facts is not None and facts.objective == "contrastive":
        tags.append("self-supervised")
    tags.append("pytorch_model_hub_mixin")
    lines = [f"license: {facts.licence if facts else 'unknown'}", "library_name: ssnas", "tags:"]
    return "\n".join(["---", *lines, *(f"- {tag}" for tag in tags), "---", ""])


def _identity(spec: ClassifierSpec, parts: Mapping[str, str], facts: ModelFacts | None) -> str:
    kind = (
        "exactly one class of each sample, the one of the largest probability"
        if spec.single_label
        else "any number of classes of each sample, those with a probability above "
        f"{spec.threshold:.4g}"
    )
    space = "the space of fusion networks" if spec.layers is None else "the space of fusion layers"
    lines = [f"It predicts {kind}.", ""]
    if spec.genotype is not None:
        lines.append(f"- Fusion network: `{spec.genotype}`")
    else:
        lines.append(f"- Fusion network: {', '.join(spec.features)}, concatenated; not searched")
    if facts is not None:
        if facts.objective is not None:
            lines.append(
                f"- Found by: {facts.objective} objective, {facts.strategy} search, in {space}"
            )
        elif spec.genotype is not None:
            lines.append(f"- Drawn at random from {space}, not searched")
        lines.append(f"- Method: {_plain(facts.method)}; backbones {_plain(facts.backbones)}")
        lines.append(f"- Trained parameters: {facts.parameters:,}")
    lines += [f"- Backbone of {modality}: {_plain(name)}" for modality, name in parts.items()]
    unread = [name for name in spec.kinds if name not in spec.modalities]
    if unread:
        lines.append(f"- Not read, although in the data: {', '.join(unread)}")
    return "\n".join([*lines, f"- Classes: {', '.join(map(_plain, spec.classes))}"])


def _usage(spec: ClassifierSpec) -> str:
    examples = {"image": '"poster.jpg"', "text": '"A plot."', "array": "values"}
    given = ", ".join(f'"{name}": {examples[spec.kinds[name]]}' for name in spec.modalities)
    return "\n".join(
        [
            "```python",
            "from ssnas_core import MultimodalClassifier",
            "",
            'model = MultimodalClassifier.from_pretrained("this folder, or its name on the hub")',
            f"model.predict({{{given}}})  # class -> probability, largest first",
            "```",
        ]
    )


def _origin(spec: ClassifierSpec, facts: ModelFacts | None) -> str:
    if facts is None:
        return "Not told: this model was put together by hand, not by a run."
    counts = ", ".join(f"{count:,} {_plain(name)}" for name, count in facts.samples.items())
    used = ", ".join(f"{count:,} {_plain(name)}" for name, count in facts.labelled.items())
    threshold = (
        []
        if spec.single_label
        else [
            "- Threshold: one for all classes, that of the highest weighted F1 on the labelled dev "
            "part (the middle of the widest best step)"
        ]
    )
    made = " (the generated sample of ssnas: movies that do not exist)" if facts.generated else ""
    return "\n".join(
        [
            f"- Data set: {_plain(facts.data)}{made}; {counts} samples",
            f"- Labels: a ratio of {facts.label_ratio:g}, which are {used} samples; the others "
            "were used without their labels, if at all",
            *threshold,
            f"- Seeds: {facts.seed} of the run, {facts.feature_seed} of its features (one run: "
            "the spread between seeds is not in the scores below)",
        ]
    )


def _scores(spec: ClassifierSpec, facts: ModelFacts | None) -> str:
    if facts is None:
        return "None: nobody told any."
    rows = [
        f"| {_score(name)} | {_number(facts.dev, name)} | {_number(facts.test, name)} |"
        for name in {**facts.dev, **(facts.test or {})}
    ]
    told = []
    if facts.test is None:
        told.append("The test part was not read: there is no test score.")
    if not spec.single_label:
        told.append("The dev scores are of the samples that chose the threshold: they flatter.")
    return "\n".join(["| score | dev | test |", "|---|---|---|", *rows, "", *told])


def _use(films: bool, generated: bool) -> str:
    lines = [
        "For research and teaching about architecture search, self-supervision and multimodal "
        "fusion; to be compared with others on the same data and backbones."
    ]
    if generated:
        lines.append(
            "It knows a toy: results on the generated sample say nothing about real films."
        )
    if films:
        lines.append(
            "Not for decisions about people or works: not to recommend, rate, fund, censor or age-"
            "rate films, and not to judge who is in a picture or who wrote a text. A genre is no "
            "measure of quality or suitability."
        )
    else:
        lines.append("Not for decisions about people without a study of its own for that use.")
    return "\n\n".join(lines)


def _biases(films: bool, generated: bool) -> str:
    if not films:
        return (
            "Labels were assigned by somebody, for some purpose; the model repeats their habits, "
            "errors and gaps. Classes with few samples are predicted rarely and badly."
        )
    lines = [
        "- Genres are conventions, assigned by editors and users who disagree; they mix subject, "
        "mood, form and audience.",
        "- Posters sell: they show what was thought to attract, in the fashion of their time and "
        "market, not what happens.",
        "- Old, short and non-English films are rare in collections of this kind, and so are the "
        "small genres: the model is worst where it has seen least.",
        "- Posters and plots carry stereotypes of gender, age and origin, and the model learns "
        "whatever goes along with a genre.",
    ]
    if generated:
        lines.append(
            "- The generated sample copies such conventions on purpose (a desert means a Western) "
            "and has no real people in it; see its data card."
        )
    return "\n".join(lines)


def _limits(spec: ClassifierSpec, facts: ModelFacts | None) -> str:
    lines = []
    if len(spec.modalities) > 1:
        trained = "was" if spec.modality_dropout else "was not"
        lines.append(
            "- A modality that is not given is replaced by the mean of its features over the train "
            f"part. The network {trained} trained with some missing."
        )
        if facts is not None and facts.dev_score_without:
            told = "; ".join(
                f"without {_plain(name)} {value:.3f}"
                for name, value in facts.dev_score_without.items()
            )
            same = "" if spec.single_label else ", at the same threshold"
            lines.append(
                f"- With nothing missing: {_score(facts.score)} {facts.dev_score:.3f} on the "
                f"labelled dev part; {told}{same}."
            )
        else:
            lines.append("- What a missing modality costs was not measured.")
    lines += [
        "- Probabilities are not calibrated.",
        "- It answers for any input, also for one that is nothing like its training data.",
    ]
    return "\n".join(lines)


def _licence(parts: Mapping[str, str], facts: ModelFacts | None) -> str:
    known = facts is not None and facts.licence != "unknown"
    weights = (
        f"The weights: {facts.licence}."
        if facts is not None and known
        else "The weights: not told. Whoever trained them decides, within what the licence of the "
        "data allows."
    )
    return (
        f"{weights} The code that made them, ssnas, is under the MIT licence. Published weights of "
        "a backbone keep the licence that they came with. No picture and no text of the data is in "
        "this folder; a fitted text backbone lists single words."
    )


def _number(scores: Mapping[str, float] | None, name: str) -> str:
    if scores is None:
        return "not read"
    return f"{scores[name]:.4f}" if name in scores else "-"


def _score(name: str) -> str:
    """`weighted_f1_at_0.3` as people write it."""
    return _plain(name.replace("_f1", " F1").replace("_ap", " AP").replace("_", " "))


def _and(names: Iterable[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def _plain(text: str) -> str:
    """Text from outside as one line that no Markdown reader takes for a mark."""
    return "".join(f"\\{c}" if c in "\\`*_[]<>|#" else c for c in " ".join(text.split()))

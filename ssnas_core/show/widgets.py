"""Figures that move with a slider, alive with and without a kernel.

A widget holds precomputed pictures, its *frames*, in a stack that shows one of
them; a control is linked to the stack in the browser (`jslink`). No Python runs
when it is moved: the same widget works in a notebook and on a static page, and
what it shows was computed by the page that it stands on.

Draw one frame plainly first (`draw_threshold(probs, labels, 0.5)`), then the
widget (`threshold_widget(probs, labels)`): if drawing fails, it fails loudly.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ssnas_core.common.errors import InputError
from ssnas_core.show.curves import draw_genotype
from ssnas_core.show.frames import box, frames, image, linked, page, sentence
from ssnas_core.show.tables import mean_curves, with_interval
from ssnas_core.show.widget_figures import (
    draw_label_ratio,
    draw_temperature,
    draw_threshold,
    draw_weights,
    pair_shares,
    partner_shares,
)
from ssnas_core.spaces.cells.space import CellsSpace
from ssnas_core.spaces.fusion.space import FusionSpace
from ssnas_core.spaces.genotype import Genotype, Node
from ssnas_core.training.metrics import choose_threshold, f1_scores

if TYPE_CHECKING:
    from ipywidgets import HTML, VBox
    from matplotlib.figure import Figure

_MOST_GENOTYPES = 150  # in an editor: each is a frame


def label_ratio_widget(
    rows: Iterable[Mapping[str, Any]],
    counts: Mapping[float, Mapping[str, int]],
    metric: str = "weighted_f1",
) -> VBox:
    """Return `draw_label_ratio` at every label ratio that has both scores and counts."""
    rows = list(rows)
    curves = mean_curves(rows, metric)
    ratios = sorted({ratio for curve in curves.values() for ratio in curve} & set(counts))

    def caption(ratio: float) -> str:
        lines = [f"r = {ratio:g}: {sum(counts[ratio].values())} labels."]
        for method, curve in curves.items():
            if ratio in curve:
                lines.append(f"{method}: {with_interval(curve[ratio])}")
        return "\n".join(lines)

    return frames(
        ratios,
        lambda ratio: draw_label_ratio(rows, counts, ratio, metric),
        description="label ratio r",
        alt=lambda ratio: (
            f"Score of each method against the label ratio, r = {ratio:g} marked, "
            "and the number of labelled samples of each class."
        ),
        caption=caption,
    )


def temperature_widget(
    first: Any, second: Any, temperatures: Sequence[float] = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
) -> VBox:
    """Return `draw_temperature` at several temperatures, with the loss at each."""

    def caption(temperature: float) -> str:
        shares = partner_shares(pair_shares(first, second, temperature))
        return (
            f"NT-Xent {-np.log(shares).mean():.2f} nats "
            f"(guessing: {np.log(len(shares) - 1):.2f}). "
            f"A partner gets {shares.mean():.2f} on average."
        )

    return frames(
        temperatures,
        lambda temperature: draw_temperature(first, second, temperature),
        description="temperature τ",
        alt=lambda temperature: (
            f"Matrix of softmax shares between all views at temperature {temperature:g}; "
            "the partners' places are framed."
        ),
        caption=caption,
        start=len(temperatures) // 2,
    )


def search_widget(
    history: Iterable[Mapping[str, Any]], space: FusionSpace, weights: str = "alpha gamma"
) -> VBox:
    """Return a search, epoch by epoch: the genotype so far above the weights that decide it.

    Args:
        history: `SearchResult.history`; entries without logits are left out.
        space: the space that was searched.
        weights: beginnings of the names of the logit vectors to show.

    Raises:
        InputError: fewer than two epochs with logits.
    """
    epochs = {entry["epoch"]: entry for entry in history if "logits" in entry}
    labels = {
        name: texts for name, texts in space.labels().items()
        if name.startswith(tuple(weights.split()))
    }  # fmt: skip

    def genotype(epoch: int) -> Genotype:
        logits = {name: torch.tensor(value) for name, value in epochs[epoch]["logits"].items()}
        return space.derive(logits)

    def draw(epoch: int) -> tuple[Figure, Figure]:
        return (
            draw_genotype(genotype(epoch), space.features),
            draw_weights(epochs[epoch]["logits"], labels),
        )

    def caption(epoch: int) -> str:
        losses = [
            f"{text} {epochs[epoch][key]:.3f}"
            for key, text in (("train_loss", "loss of the weights"), ("arch_loss", "of the logits"))
            if key in epochs[epoch]
        ]
        return "\n".join(filter(None, (str(genotype(epoch)), ", ".join(losses))))

    return frames(
        list(epochs),
        draw,
        description="search epoch",
        alt=lambda epoch: (
            f"The network {genotype(epoch)} as a graph.",
            f"The softmaxed logits after epoch {epoch} as bars.",
        ),
        caption=caption,
        label=str,
        start=len(epochs) - 1,
    )


def threshold_widget(
    probs: Any, labels: Any, thresholds: Sequence[float] = tuple(np.arange(1, 20) / 20)
) -> VBox:
    """Return `draw_threshold` at several thresholds, with the scores at each."""
    if not len(thresholds):
        raise InputError("expected thresholds in [0, 1], got none; leave the argument out.")
    best = choose_threshold(probs, labels)

    def caption(threshold: float) -> str:
        averages = f1_scores(probs, labels, threshold).items()
        predicted = (np.asarray(probs) > threshold).sum(1).mean()
        return (
            f"F1 {', '.join(f'{name} {value:.3f}' for name, value in averages)}.\n"
            f"{predicted:.2f} labels predicted per sample, "
            f"{np.asarray(labels).sum(1).mean():.2f} true. Chosen on these labels: {best:.3f}."
        )

    return frames(
        thresholds,
        lambda threshold: draw_threshold(probs, labels, threshold),
        description="threshold",
        alt=lambda threshold: (
            f"Four averages of F1 against the threshold, {threshold:g} marked; the best for "
            f"weighted F1 is {best:.2f}."
        ),
        caption=caption,
        label="{:.3g}".format,
        start=int(np.abs(np.asarray(thresholds) - 0.5).argmin()),
    )


def genotype_editor(
    space: FusionSpace,
    scores: Mapping[str, float] | None = None,
    *,
    metric: str = "weighted F1",
    positions: Mapping[str, int] | None = None,
) -> VBox:
    """Choose two inputs and an operator; see the graph, its cost, and its score once trained.

    Args:
        space: of one cell and one step, with at most 150 genotypes (6 features: 75).
        scores: by genotype as text, e.g. `{"Sum(image_0, text_0)": 0.41}`; more is better.
        metric: what the scores are.
        positions: of each feature, as `FeatureStore.positions`; the operations
            depend on it. By default all have the space's length.

    Raises:
        InputError: another or a larger space, or a score of a genotype outside it.
    """
    from ipywidgets import Dropdown, HBox, Layout, ToggleButtons

    if (space.config.cells, space.config.steps) != (1, 1):
        raise InputError(
            f"expected a space of one cell of one step, got {space.config.cells} of "
            f"{space.config.steps}; use FusionSpace(channels, FusionConfig(cells=1))."
        )
    genotypes = {str(genotype): genotype for genotype in space.genotypes()}
    if len(genotypes) > _MOST_GENOTYPES:
        raise InputError(
            f"expected at most {_MOST_GENOTYPES} genotypes, got {len(genotypes)}; "
            "leave features out."
        )
    strange = set(scores or {}) - set(genotypes)
    if strange:
        raise InputError(
            f"expected scores of genotypes of this space, got {sorted(strange)[0]!r}; "
            f"they read like {next(iter(genotypes))!r}."
        )

    length = dict.fromkeys(space.features, space.config.length) | dict(positions or {})

    @functools.cache
    def known(text: str) -> HTML:
        genotype = genotypes[text]
        parameters, flops = _cost(space, genotype, length)
        costs = f"{parameters:,} parameters, {flops:,} floating-point operations per sample"
        lines = [text, costs]
        if scores is not None:
            place = "not in the table"
            if text in scores:
                rank = 1 + sum(other > scores[text] for other in scores.values())
                place = f"{scores[text]:.3f} (place {rank} of {len(scores)})"
            lines.append(f"{metric} once trained: {place}")
        graph = image(draw_genotype(genotype, space.features), f"The network {text} as a graph.")
        return page(graph + sentence("\n".join(lines)))

    same = page(sentence("An operator needs two different inputs: choose another."))
    operators = list(dict.fromkeys(one.nodes[0].operator for one in genotypes.values()))

    def leaf(x: int, y: int, operator: int) -> HTML:
        inputs = (space.features[x], space.features[y])
        for pair in (inputs, inputs[::-1]):  # either order, where it is the same
            text = str(Genotype(space.name, (Node("cell_0", operators[operator], pair),)))
            if text in genotypes:
                return known(text)
        return same

    wide = Layout(width="auto", min_width="140px")
    style = {"description_width": "2em"}
    x, y = (
        Dropdown(options=space.features, index=place, description=name, layout=wide, style=style)
        for place, name in ((0, "x"), (len(space.features) - 1, "y"))
    )
    operator = ToggleButtons(
        options=operators,
        index=len(operators) - 1,
        description="operator",
        style={"button_width": "auto", "description_width": "initial"},
    )
    inputs = HBox([x, y], layout=Layout(flex_flow="row wrap"))
    pages = linked([x, y, operator], leaf)
    return box([inputs, operator, pages], f"genotype editor: {len(genotypes)} genotypes")


def cells_editor(
    space: CellsSpace, losses: Mapping[Genotype, float], positions: Mapping[str, int]
) -> VBox:
    """Choose the two operations of a normal cell; see it, its cost, and its loss without labels.

    Args:
        space: of cells of one node.
        losses: of the 49 genotypes with one reduction cell, that of the first; less is better.
        positions: of the pixels, as `FeatureStore.positions`.

    Raises:
        InputError: a space of more nodes, or a loss is missing.
    """
    from ipywidgets import Dropdown, HBox, Layout

    if space.config.nodes != 1 or not losses:
        raise InputError(
            f"expected cells of one node and their losses, got {space.config.nodes} nodes and "
            f"{len(losses)} losses; use CellsConfig(nodes=1)."
        )
    operations, base = space.variables["normal_2 first"], space.encode(next(iter(losses)))

    def leaf(first: int, second: int) -> HTML:
        genotype = space.decode({**base, "normal_2 first": first, "normal_2 second": second})
        if genotype not in losses:
            raise InputError(f"expected a loss of {genotype!s:.300}, got none; train it as well.")
        node, loss = str(genotype.nodes[2]), losses[genotype]
        parameters, flops = _cost(space, genotype, positions)
        place = 1 + sum(other < loss for other in losses.values())
        lines = (
            f"{node}: {parameters:,} parameters, {flops:,} floating-point operations per sample",
            f"loss without labels: {loss:.2f} nats (place {place} of {len(losses)})",
        )
        graph = image(draw_genotype(genotype), f"The cells with {node} as two graphs.")
        return page(graph + sentence("\n".join(lines)))

    chosen = [
        Dropdown(
            options=operations, index=base[f"normal_2 {which}"], description=f"{which} operation",
            layout=Layout(width="auto", min_width="220px"),
            style={"description_width": "initial"},
        )
        for which in ("first", "second")
    ]  # fmt: skip
    controls = HBox(chosen, layout=Layout(flex_flow="row wrap"))
    return box([controls, linked(chosen, leaf)], f"cell editor: {len(losses)} cells")


def _cost(
    space: FusionSpace | CellsSpace, genotype: Genotype, length: Mapping[str, int]
) -> tuple[int, int]:
    """Return parameters, and operations (2 per multiply-add of matrix products) for one sample.

    Args:
        space: of the genotype.
        genotype: of the network.
        length: positions of each feature.
    """
    from torch.utils.flop_counter import FlopCounterMode

    with torch.random.fork_rng(devices=[]):
        network = space.build(genotype).eval()
    sample = {name: torch.zeros(1, length[name], width) for name, width in space.channels.items()}
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(sample)
    return sum(p.numel() for p in network.parameters()), counter.get_total_flops()

"""From the options of a command to the recipe and the run that they name."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from ssnas_core.cli import _commands as commands
from ssnas_core.errors import InputError

if TYPE_CHECKING:
    from ssnas_core.studies import Run

_OF_BILEVEL = ("order", "alternate", "sampling", "beta_decay", "select", "stop")
_BY_TRIALS = ("random", "evolution", "tpe")


def recipe_of(command: commands.RecipeCommand) -> Any:
    """The named recipe with what the options say instead."""
    from ssnas_core.recipes import RECIPES

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
    from ssnas_core.recipes import RunConfig
    from ssnas_core.studies import Run

    progress = not command.quiet
    if isinstance(command, commands.DemoCommand):
        from ssnas_core.datasets.sample import sample_archive

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

"""A run on the bundled sample, small enough for a lesson, kept from one page to the next.

The book's pages share it: what one page has computed, the next one opens.
"""

from __future__ import annotations

from importlib import metadata
from typing import Any

from ssnas_core.common.files import cache_folder
from ssnas_core.datasets.sample.corpus import sample_archive
from ssnas_core.features.inputs import content_key
from ssnas_core.runs.folder import FORMAT
from ssnas_core.runs.recipes import RECIPES, RunConfig
from ssnas_core.runs.run import Run


def classroom(**changes: Any) -> Run:
    """A run of the recipe "classroom" on the bundled sample.

    Its results stay in a folder of this machine, so that they are computed once:
    `SSNAS_CACHE`, else `ssnas` in the user's folder for caches. Another
    configuration or version gets a folder of its own; who edits the library
    deletes them all. Notebooks that need the same result at once compute it once: the
    others wait, and say so.

    Args:
        changes: fields of `RunConfig`, as `seed=1` or `objective="supervised"`.

    Raises:
        InputError: values that make no sense together.
    """
    config = RunConfig(**{"data": sample_archive(), "recipe": RECIPES["classroom"], **changes})
    cache = cache_folder() / f"{metadata.version('ssnas')}-format-{FORMAT}"
    folder = cache / f"run-{content_key(config.plain())}"
    run = Run(config, folder, store=cache / "store", device="cpu")
    run.folder.wait = True
    return run

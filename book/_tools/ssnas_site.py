"""Sphinx extension of the book: local scripts, and buttons where the repository is known.

Local scripts: what `vendor.py` fetched is served with the site, so that no
page asks another server. Buttons: launching a page elsewhere (Colab, Binder)
needs the repository's address; the environment variable SSNAS_REPOSITORY sets
it (`make book REPOSITORY=...`), or `repository.url` in `_config.yml`.
"""

from __future__ import annotations

import os
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.util import logging

logger = logging.getLogger(__name__)

COLAB, BINDER = "https://colab.research.google.com", "https://mybinder.org"


def configure(app: Sphinx, config: Config) -> None:
    vendor = Path(app.srcdir) / "_vendor"
    if (vendor / "packages.txt").is_file():
        config.html_static_path.append(str(vendor))
        config.nb_ipywidgets_js = {"widgets/embed.js": {}}
        config.mathjax_path = "mathjax/tex-chtml.js"
    else:
        logger.info("scripts of widgets and formulas will come from a public server.")
    config.html_context = {
        "default_mode": "auto",
        **config.html_context,
    }  # light or dark
    options = config.html_theme_options
    options["navbar_persistent"] = []  # the side bar has a search field already
    url = os.environ.get("SSNAS_REPOSITORY") or options.get("repository_url")
    options["use_repository_button"] = bool(url)
    if url:
        options["repository_url"] = url
        options["launch_buttons"] = {
            "colab_url": COLAB,
            "binderhub_url": BINDER,
        }


def without_thebe(app: Sphinx, page: str, template: str, context: dict, doctree: object) -> None:
    """Leave out code cells that run on another server: unused, and loaded twice on each page."""
    context["script_files"] = [
        script
        for script in context["script_files"]
        if "thebe" not in f"{script.filename} {script.attributes.get('body')}".lower()
    ]


def readable_defaults(
    app: Sphinx,
    what: str,
    name: str,
    thing: object,
    options: object,
    arguments: str | None,
    returns: str | None,
) -> tuple[str | None, str | None]:
    """`...` for a dataclass field's made default, which is no Python and so would not be parsed."""
    return arguments and arguments.replace("<factory>", "..."), returns


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("config-inited", configure)
    app.connect("html-page-context", without_thebe)
    if "autodoc-process-signature" in app.events.events:
        app.connect("autodoc-process-signature", readable_defaults)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

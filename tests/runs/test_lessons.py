"""The classroom's run: of the bundled sample, in a folder of its own, found again."""

from __future__ import annotations

import pytest

from ssnas_core.common.errors import InputError
from ssnas_core.datasets.sample.corpus import sample_archive
from ssnas_core.runs import lessons
from ssnas_core.runs.recipes import RECIPES


def test_classroom_is_the_sample_with_its_recipe(monkeypatch, tmp_path):
    monkeypatch.setenv("SSNAS_CACHE", str(tmp_path))
    run = lessons.classroom()
    assert run.config.data == sample_archive()
    assert run.recipe == RECIPES["classroom"]
    assert run.folder.path.is_relative_to(tmp_path) and run.data.store.is_relative_to(tmp_path)
    assert (run.folder / "config.json").exists()


def test_same_configuration_is_found_again_and_another_has_its_own_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("SSNAS_CACHE", str(tmp_path))
    first, again, other = lessons.classroom(), lessons.classroom(), lessons.classroom(seed=1)
    assert first.folder.path == again.folder.path != other.folder.path
    assert first.data.store == other.data.store


def test_axes_that_make_no_sense_are_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("SSNAS_CACHE", str(tmp_path))
    with pytest.raises(InputError, match="give one --label-ratio per run"):
        lessons.classroom(objective="supervised")

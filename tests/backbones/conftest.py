"""What the tests of backbones share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ssnas_core.backbones.base import Backbone
from ssnas_core.backbones.factory import backbone_from_config
from ssnas_core.common.files import read_json, write_json


@pytest.fixture(scope="package", autouse=True)
def one_thread():
    """Small tensors are quicker on one thread, above all where others use the cores too."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def plots() -> list[str]:
    return [
        "A detective hunts a killer through the rainy city.",
        "Two friends travel to the sea and laugh at the rain.",
        "The killer hides in the city, the killer of a queen, while the detective sleeps.",
        "A young queen rules the kingdom and fights a war.",
        "The war ends and the young kingdom crowns another.",
        "Friends laugh and laugh through the war while they travel by sea.",
    ]


@pytest.fixture
def no_network(monkeypatch):
    """Any attempt to connect fails the test."""

    def refused(*args, **kwargs):
        raise AssertionError(f"went online: {args}")

    monkeypatch.setattr("socket.socket.connect", refused)
    monkeypatch.setattr("socket.getaddrinfo", refused)


@pytest.fixture
def rebuilt(tmp_path, no_network) -> Callable[[Backbone], Backbone]:
    """A backbone written into a folder as config, state and files, and made again from them."""

    def remade(backbone: Backbone) -> Backbone:
        folder: Path = tmp_path / "rebuilt"
        backbone.save_files(folder / "files")
        write_json(folder / "config.json", backbone.config())
        torch.save(backbone.state_dict(), folder / "state.pt")
        before = torch.get_rng_state()
        again = backbone_from_config(read_json(folder / "config.json"), folder / "files")
        assert torch.equal(torch.get_rng_state(), before)
        again.load_state_dict(torch.load(folder / "state.pt", weights_only=True), strict=True)
        assert again.fingerprint() == backbone.fingerprint()
        assert (again.name, again.channels) == (backbone.name, backbone.channels)
        assert again.config() == backbone.config()
        assert again.learns == backbone.learns and type(again) is type(backbone)
        return again.eval()

    return remade

"""Facts about searched cells as a backbone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ssnas_core.backbones.factory import backbone_from_config, image_backbone
from ssnas_core.common.errors import InputError
from ssnas_core.common.files import write_json
from ssnas_core.features.cells import CellsBackbone
from ssnas_core.features.prepare import prepare
from ssnas_core.spaces import SPACES
from ssnas_core.spaces.cells.space import CellsConfig
from ssnas_core.spaces.fusion.space import FusionConfig
from ssnas_core.spaces.genotype import Genotype

pytestmark = pytest.mark.usefixtures("one_thread")

SIZES = CellsConfig(cells=4, channels=2, stem=1, drop_path=0.3)


def found(seed: int = 0) -> Genotype:
    space = SIZES.open({"image_0": 3}, {"image_0": 64})
    return space.sample(torch.Generator().manual_seed(seed))


@pytest.fixture
def run(tmp_path) -> Path:
    """The files of a run that searched cells, as far as a backbone reads them."""
    found().save(tmp_path / "genotype.json")
    write_json(tmp_path / "config.json", {"space": SPACES.plain(SIZES)})
    return tmp_path


def test_its_taps_are_the_maps_of_the_cells_network(run):
    torch.manual_seed(0)
    backbone = image_backbone(f"cells:{run / 'genotype.json'}", size=(8, 12)).eval()
    assert backbone.learns and backbone.channels == {"0": 8, "1": 16, "2": 32}
    maps = backbone(torch.rand(3, 3, 8, 12))
    shapes = [tuple(value.shape) for value in maps.values()]
    assert shapes == [(3, 8, 8, 12), (3, 16, 4, 6), (3, 32, 2, 3)]
    square = torch.rand(3, 3, 8, 8)
    pixels = {"image_0": square.flatten(2).mT}
    torch.testing.assert_close(
        backbone(square)["2"].mean((2, 3)), backbone.stack(pixels), rtol=1e-5, atol=1e-6
    )
    assert not any(getattr(module, "drop", 0) for module in backbone.modules())


def test_it_is_built_again_without_the_run(run):
    backbone = CellsBackbone(run / "genotype.json", (8, 8)).eval()
    for file in run.iterdir():
        file.unlink()
    again = backbone_from_config(backbone.config(), None, backbone.state_dict()).eval()
    again.load_state_dict(backbone.state_dict())
    image = torch.rand(2, 3, 8, 8)
    assert torch.equal(again(image)["2"], backbone(image)["2"])
    assert again.fingerprint() == backbone.fingerprint()
    other = CellsBackbone(found(1), (8, 8), SIZES)
    assert other.name != backbone.name and other.channels == backbone.channels


def test_it_is_trained_without_labels_and_its_features_are_fused(run, tiny_data, tiny_recipe):
    part = f"cells:{run / 'genotype.json'}"
    config = replace(tiny_recipe.prepare, image=part, image_size=(16, 16))
    prepared = prepare(tiny_data, run / "store", config)
    assert {n: c for n, c in prepared.store.channels.items() if n.startswith("image")} == {
        "image_0": 8, "image_1": 16, "image_2": 32,
    }  # fmt: skip
    assert (prepared.folder / "image-training.json").exists()
    space = FusionConfig(channels=4).open(prepared.store.channels, prepared.store.positions)
    genotype = space.sample(torch.Generator().manual_seed(0))
    rows = torch.arange(4)
    assert space.build(genotype)(prepared.store.clean(rows)).shape[0] == 4
    held = prepared.backbones()["image"].eval()
    live = held(prepared.live().clean(rows)["image"])["2"]
    stored = prepared.store.clean(rows)["image_2"]
    pooled = torch.nn.functional.adaptive_max_pool2d(live, 2).flatten(2).mT
    torch.testing.assert_close(pooled, stored.float(), rtol=1e-2, atol=1e-2)


def test_what_it_cannot_build_is_refused(run):
    file = run / "genotype.json"
    with pytest.raises(InputError, match=r"a size \(H, W\) that 4 divides, got \(8, 10\)"):
        CellsBackbone(file, (8, 10))
    with pytest.raises(InputError, match="cells:GENOTYPE.json"):
        image_backbone("cells")
    write_json(run / "config.json", {"space": SPACES.plain(FusionConfig())})
    with pytest.raises(InputError, match="of a run of the space cells, got .*, of fusion"):
        CellsBackbone(file, (8, 8))
    with pytest.raises(InputError, match="none.json"):
        CellsBackbone(run / "none.json", (8, 8))

"""Searched convolutional cells as a backbone of images: what one run found, others build on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from torch import Tensor

from ssnas_core.backbones.base import ImageBackbone
from ssnas_core.backbones.image import check_images, check_size
from ssnas_core.common.errors import InputError
from ssnas_core.common.files import read_fields
from ssnas_core.common.typed import plain, typed
from ssnas_core.spaces import SPACES
from ssnas_core.spaces.cells.space import CellsConfig, CellsSpace
from ssnas_core.spaces.genotype import Genotype


class CellsBackbone(ImageBackbone):
    """A stack of searched cells; its taps are the outputs of the last cells of each size.

    Weights are random, from torch's global seed: a preparation trains them without labels.

    Args:
        genotype: of the space cells; or the genotype.json of a run's folder, of which the
            config.json beside it tells the sizes.
        size: (H, W) of the images; 4 divides both.
        config: sizes, where `genotype` is no file.

    Raises:
        InputError: the file is not of a run that searched cells, or a size that cells cannot
            halve twice.
    """

    learns = True
    argument = "GENOTYPE.json"

    def __init__(
        self,
        genotype: Genotype | Path | str,
        size: tuple[int, int] = (32, 32),
        config: CellsConfig | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(genotype, Genotype):
            genotype, config = _found_by_run(Path(genotype))
        self.size = check_size(size)
        if self.size[0] % 4 or self.size[1] % 4:
            raise InputError(
                f"cells halve an image twice: expected a size (H, W) that 4 divides, got "
                f"{self.size}; give such --prepare.image-size, as 32 32."
            )
        config = replace(config or CellsConfig(), drop_path=0.0)
        ((feature, *_),) = {node.inputs for node in genotype.nodes if node.operator == "stem"}
        space = CellsSpace({feature: 3}, {feature: 16}, config)  # of any square
        self.stack = space.build(genotype)
        self.channels = {str(tap): width for tap, (_, width) in enumerate(space.maps())}
        self.name = f"cells {self.size} {genotype}"
        self.options = {
            "genotype": plain(genotype),
            "size": self.size,
            "config": plain(config),
        }

    @classmethod
    def rebuilt(cls, folder: Path | None, **options: Any) -> Self:
        genotype = typed(Genotype, options["genotype"], "genotype")
        config = typed(CellsConfig, options["config"], "config")
        return cls(genotype, typed(tuple[int, int], options["size"], "size"), config)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """(N, 3, H, W) in [0, 1] -> tap -> (N, C, H / 2^tap, W / 2^tap)."""
        check_images(images)
        return dict(zip(self.channels, self.stack.maps(images), strict=True))


def _found_by_run(file: Path) -> tuple[Genotype, CellsConfig]:
    """Return the cells that a run found, and their sizes."""
    genotype, beside = Genotype.load(file), file.parent / "config.json"
    config = SPACES.from_plain(read_fields(beside, "space")["space"], f"{beside}: space")
    if not isinstance(config, CellsConfig):
        raise InputError(
            f"expected the genotype of a run of the space cells, got {file}, of "
            f"{SPACES.name_of(config)}; give one of ssnas run --space cells."
        )
    return genotype, config

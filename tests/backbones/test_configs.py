"""Facts about the configs of backbones; each kind's round trip stands with its other tests."""

from __future__ import annotations

import pytest

from ssnas_core.backbones.factory import array_backbone, backbone_from_config
from ssnas_core.backbones.image import SmallConvNet
from ssnas_core.common.errors import InputError

SMALL = {"kind": "small", "version": 1, "name": "small", "size": [32, 32], "widths": [4, 8]}


def test_name_of_the_config_is_kept_whatever_the_class_would_say():
    backbone = backbone_from_config({**SMALL, "name": "what it was made as"})
    assert backbone.name == "what it was made as"
    assert backbone.fingerprint() != backbone_from_config(SMALL).fingerprint()


def test_rebuilding_does_not_change_the_config_and_a_config_not_the_backbone():
    told = dict(SMALL)
    backbone = backbone_from_config(told)
    assert told == SMALL
    backbone.config()["widths"].append(3)
    assert backbone.config() == SMALL


def test_state_of_another_backbone_is_refused():
    backbone = backbone_from_config(SMALL)
    with pytest.raises(RuntimeError, match="size mismatch"):
        backbone.load_state_dict(SmallConvNet((32, 32), (8, 8)).state_dict())


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({**SMALL, "kind": "large"}, "unknown backbone 'large'; expected small, vgg19, "),
        ({"version": 1}, "got kind None"),
        ([SMALL], "got kind None"),
        ({**SMALL, "name": 3}, "name 3"),
        ({**SMALL, "version": 2}, "of version 1, got 2; use the ssnas that wrote it"),
        ({key: SMALL[key] for key in ("kind", "name")}, "of version 1, got None"),
        ({**SMALL, "width": 3}, "expected options of a 'small' backbone, got .*'width'"),
        ({**SMALL, "widths": "wide"}, "expected options of a 'small' backbone"),
        ({**SMALL, "size": [32]}, r"an image size must be \(H, W\)"),
        ({**SMALL, "size": 32}, "expected options of a 'small' backbone"),
        ({"kind": "word2vec", "version": 1, "name": "w"}, "word vectors need a file or a length"),
        ({"kind": "maxout-array", "version": 1, "name": "a"}, "options of a 'maxout-array'"),
        (
            {"kind": "torchvision", "version": 1, "name": "t", "model_name": "resnet"}
            | {"taps": 4, "size": [64, 64], "pretrained": False},
            "expected a torchvision classification model, got 'resnet'",
        ),
    ],
)  # fmt: skip
def test_config_that_is_none_of_ours_is_refused(config, message):
    with pytest.raises(InputError, match=message):
        backbone_from_config(config)


def test_options_that_lead_to_other_files_or_to_the_network_are_refused(no_network, tmp_path):
    (tmp_path / "v.bin").write_bytes(b"1 2\na " + bytes(8))
    torchvision = {"model_name": "resnet18", "taps": 4, "size": [64, 64], "pretrained": True}
    for kind, options in {
        "word2vec": {"source": str(tmp_path / "v.bin")},
        "vgg19": {"size": [64, 64], "weights": "DEFAULT"},
        "torchvision": {**torchvision, "weights": "DEFAULT"},
        "transformers-text": {"taps": 1, "length": 8, "source": "bert-base-uncased"},
        "transformers-image": {"taps": 1, "size": [32, 32], "saved": False},
    }.items():
        with pytest.raises(InputError, match=f"expected options of a '{kind}' backbone"):
            backbone_from_config({"kind": kind, "version": 1, "name": "x", **options}, tmp_path)


def test_most_backbones_need_no_files_beside(tmp_path):
    array_backbone("identity", (3,)).save_files(tmp_path)
    backbone_from_config(SMALL).save_files(tmp_path)
    assert not list(tmp_path.iterdir())

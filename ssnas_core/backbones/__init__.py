"""Raw input to named feature maps, shallow to deep."""

from ssnas_core.common.parts import Parts

# A name that two kinds of modality share has the kind at its end; users leave it out.
BACKBONES = Parts(
    "backbone",
    {
        "small": "ssnas_core.backbones.image:SmallConvNet",
        "vgg19": "ssnas_core.backbones.image:VGG19",
        "torchvision": "ssnas_core.backbones.image:TorchvisionNet",
        "timm": "ssnas_core.backbones.image:TimmNet",
        "transformers-image": "ssnas_core.backbones.transformers:TransformerImage",
        "pixels": "ssnas_core.backbones.image:Pixels",
        "cells": "ssnas_core.features.cells:CellsBackbone",
        "maxout-text": "ssnas_core.backbones.text:MaxoutMLP",
        "characters": "ssnas_core.backbones.text:CharacterMLP",
        "word2vec": "ssnas_core.backbones.text:Word2VecMLP",
        "words": "ssnas_core.backbones.words:Words",
        "segments": "ssnas_core.backbones.segments:Segments",
        "transformers-text": "ssnas_core.backbones.transformers:TransformerText",
        "identity": "ssnas_core.backbones.arrays:IdentityArray",
        "regions": "ssnas_core.backbones.arrays:RegionArray",
        "maxout-array": "ssnas_core.backbones.arrays:MaxoutArray",
    },
)

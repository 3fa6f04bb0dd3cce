"""Search spaces: the possible architectures, and the operators that they are made of."""

from ssnas_core.common.parts import Parts

SPACES = Parts(
    "space",
    {
        "fusion": "ssnas_core.spaces.fusion.space:FusionConfig",
        "layers": "ssnas_core.spaces.layers:LayersConfig",
        "encdec": "ssnas_core.spaces.encdec.space:EncDecConfig",
        "cells": "ssnas_core.spaces.cells.space:CellsConfig",
        "joint": "ssnas_core.spaces.joint:JointConfig",
    },
)
OPERATORS = Parts(
    "operator",
    {
        "Sum": "ssnas_core.spaces.operators:Sum",
        "Attention": "ssnas_core.spaces.operators:Attention",
        "LinearGLU": "ssnas_core.spaces.operators:LinearGLU",
        "ConcatFC": "ssnas_core.spaces.operators:ConcatFC",
        "Product": "ssnas_core.spaces.operators:Product",
    },
)

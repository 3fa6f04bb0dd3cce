"""Objectives: the losses by which weights and architectures are judged."""

from ssnas_core.common.parts import Parts

OBJECTIVES = Parts(
    "objective",
    {
        "contrastive": "ssnas_core.objectives.contrastive:Contrastive",
        "supervised": "ssnas_core.objectives.supervised:SupervisedConfig",
        "hybrid": "ssnas_core.objectives.hybrid:HybridConfig",
    },
)

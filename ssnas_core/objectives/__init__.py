"""Objectives: the losses by which weights and architectures are judged."""

from ssnas_core.common.parts import Parts

OBJECTIVES = Parts(
    "objective",
    {
        "contrastive": "ssnas_core.objectives.contrastive:Contrastive",
        "swapped": "ssnas_core.objectives.contrastive:SWAPPED",
        "comm": "ssnas_core.objectives.contrastive:COMM",
        "clip": "ssnas_core.objectives.contrastive:CLIP",
        "matching": "ssnas_core.objectives.matching:Matching",
        "memory-bank": "ssnas_core.objectives.memory_bank:MemoryBank",
        "supervised": "ssnas_core.objectives.supervised:SupervisedConfig",
        "hybrid": "ssnas_core.objectives.hybrid:HybridConfig",
    },
)

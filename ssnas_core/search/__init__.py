"""Strategies: ways to search a space for an architecture."""

from ssnas_core.common.parts import Parts

STRATEGIES = Parts(
    "strategy",
    {
        "bilevel": "ssnas_core.search.bilevel:BilevelConfig",
        "gates": "ssnas_core.search.gates:GatesConfig",
        "random": "ssnas_core.search.random:RandomConfig",
        "evolution": "ssnas_core.search.evolution:EvolutionConfig",
        "tpe": "ssnas_core.search.tpe:TPEConfig",
        "surrogate": "ssnas_core.search.surrogate:SurrogateConfig",
    },
)

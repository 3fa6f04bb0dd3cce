"""One run, its folder, its report."""

from ssnas_core.common.parts import Parts

BASELINES = Parts(
    "baseline",
    {
        "late concat": "ssnas_core.runs.baselines:LateConcat",
        "gmu": "ssnas_core.runs.baselines:GMU",
        "centralnet": "ssnas_core.runs.baselines:CentralNet",
        "only": "ssnas_core.runs.baselines:LateConcat",
        "transfer": "ssnas_core.runs.baselines:Transfer",
        "maxout": "ssnas_core.runs.baselines:MaxoutNetwork",
    },
)

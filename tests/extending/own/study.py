"""A method of a study: a point on the three axes, and what is scored there."""

from own.objective import Decorrelation
from own.space import OneFeatureConfig
from own.strategy import Untrained
from ssnas_core.runs.methods import Method
from ssnas_core.study.methods import StudyMethod

MINE = StudyMethod(
    cell=Method("found", pretrained=True),
    space=OneFeatureConfig(width=6),
    objective=Decorrelation(),
    strategy=Untrained(trials=2),
    name="mine",
)

"""How a batch becomes an update: methods, and what a method of your own is made of."""

from noisylabels.data.batches import Batch
from noisylabels.methods.base import Method, MethodContext, Task
from noisylabels.methods.candidates import Candidates
from noisylabels.methods.dividemix import DivideMix
from noisylabels.methods.elr import EarlyLearningRegularization
from noisylabels.methods.engine import Engine, SingleProcess
from noisylabels.methods.gjs import GeneralizedJensenShannon
from noisylabels.methods.pair import CoTeaching, JoCoR
from noisylabels.methods.single import Single

__all__ = ["METHODS", "Batch", "Engine", "Method", "MethodContext", "SingleProcess", "Task"]

METHODS: dict[str, type[Method]] = {
    "single": Single,
    "candidates": Candidates,
    "elr": EarlyLearningRegularization,
    "gjs": GeneralizedJensenShannon,
    "coteaching": CoTeaching,
    "jocor": JoCoR,
    "dividemix": DivideMix,
}

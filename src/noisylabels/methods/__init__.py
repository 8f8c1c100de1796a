"""How a batch becomes an update."""

from noisylabels.methods.base import Method
from noisylabels.methods.dividemix import DivideMix
from noisylabels.methods.elr import EarlyLearningRegularization
from noisylabels.methods.gjs import GeneralizedJensenShannon
from noisylabels.methods.pair import CoTeaching, JoCoR
from noisylabels.methods.single import Single

__all__ = ["METHODS", "Method"]

METHODS: dict[str, type[Method]] = {
    "single": Single,
    "elr": EarlyLearningRegularization,
    "gjs": GeneralizedJensenShannon,
    "coteaching": CoTeaching,
    "jocor": JoCoR,
    "dividemix": DivideMix,
}

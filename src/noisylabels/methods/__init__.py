"""How a batch becomes an update."""

from noisylabels.methods.base import Method
from noisylabels.methods.single import Single

__all__ = ["METHODS", "Method"]

METHODS: dict[str, type[Method]] = {"single": Single}

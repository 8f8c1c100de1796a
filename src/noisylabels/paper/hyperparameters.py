"""The values that the paper chose for each loss and dataset (its table 1), and later losses' own.

References:
    Li, Xia, Zhu, Liu, Zhang, Liu, "Dynamics-Aware Loss for Learning with Label Noise", 2023. The
    loss that it calls CE+SR multiplies its weight by rho after every epoch (r = 1) of 150.
"""

from typing import Any

Values = dict[str, float]

DATASETS = ("CIFAR-10", "CIFAR-100", "Animal-10N", "WebVision")

_SR_CIFAR100 = {"tau": 0.5, "lamb": 8.0, "r": 1, "p": 0.01, "rho": 1.02}
_DAL_CIFAR100 = {"q_start": 0.6, "q_end": 1.5, "lambda_end": 1.0}

HYPERPARAMETERS: dict[str, dict[str, Values]] = {
    "gce": {"CIFAR-10": {"q": 0.9}, "CIFAR-100": {"q": 0.7}},
    "sce": {
        "CIFAR-10": {"alpha": 0.1, "beta": 10.0},
        "CIFAR-100": {"alpha": 6.0, "beta": 1.0},
        "Animal-10N": {"alpha": 6.0, "beta": 1.0},
        "WebVision": {"alpha": 10.0, "beta": 1.0},
    },
    "nlnl": {"CIFAR-10": {"n": 1}, "CIFAR-100": {"n": 110}},
    "btl": {"CIFAR-10": {"t1": 0.7, "t2": 3.0}, "CIFAR-100": {"t1": 0.7, "t2": 1.5}},
    "nce+rce": {
        "CIFAR-10": {"alpha": 1.0, "beta": 0.1},
        "CIFAR-100": {"alpha": 10.0, "beta": 0.1},
        "Animal-10N": {"alpha": 10.0, "beta": 0.1},
        "WebVision": {"alpha": 50.0, "beta": 0.1},
    },
    "tce": {"CIFAR-10": {"order": 3}, "CIFAR-100": {"order": 18}},
    "nce+agce": {
        "CIFAR-10": {"alpha": 1.0, "beta": 0.4, "a": 6.0, "q": 1.5},
        "CIFAR-100": {"alpha": 10.0, "beta": 0.1, "a": 3.0, "q": 3.0},
        "Animal-10N": {"alpha": 0.0, "beta": 1.0, "a": 1e-5, "q": 0.7},
        "WebVision": {"alpha": 0.0, "beta": 1.0, "a": 1e-5, "q": 0.5},
    },
    "ce+sr": {
        "CIFAR-10": {"tau": 0.5, "lamb": 1.5, "r": 1, "p": 0.1, "rho": 1.02},
        "CIFAR-100": _SR_CIFAR100,
        "Animal-10N": _SR_CIFAR100,
        "WebVision": _SR_CIFAR100 | {"lamb": 2.0},
    },
    "js": {
        "CIFAR-10": {"pi": 0.9},
        "CIFAR-100": {"pi": 0.5},
        "Animal-10N": {"pi": 0.5},
        "WebVision": {"pi": 0.1},
    },
    "poly1": {"CIFAR-10": {"epsilon": 10.0}, "CIFAR-100": {"epsilon": 2.0}},
    "dal": {
        "CIFAR-10": _DAL_CIFAR100 | {"q_start": 0.8},
        "CIFAR-100": _DAL_CIFAR100,
        "Animal-10N": _DAL_CIFAR100,
        "WebVision": _DAL_CIFAR100 | {"q_start": 0.4},
    },
}

_ANL_CIFAR10 = {"alpha": 5.0, "beta": 5.0}
_ANL_CIFAR100 = {"alpha": 10.0, "beta": 1.0}
_EPSILON_CIFAR100 = {"beta": 1.0, "m": 1e4}

LATER: dict[str, dict[str, Values]] = {
    "anl-ce": {
        "CIFAR-10": _ANL_CIFAR10,
        "CIFAR-100": _ANL_CIFAR100,
        "WebVision": {"alpha": 20.0, "beta": 1.0},
    },
    "anl-fl": {
        "CIFAR-10": _ANL_CIFAR10 | {"gamma": 0.5},
        "CIFAR-100": _ANL_CIFAR100 | {"gamma": 0.5},
    },
    "eps-softmax": {
        "CIFAR-10, symmetric": {"alpha": 0.01, "beta": 5.0, "m": 1e5},
        "CIFAR-10, asymmetric": {"alpha": 0.02, "beta": 5.0, "m": 1e3},
        "CIFAR-10, instance": {"alpha": 0.045, "beta": 10.0, "m": 1e5},
        "CIFAR-100, clean": _EPSILON_CIFAR100 | {"alpha": 0.1},
        "CIFAR-100, symmetric 20 %": _EPSILON_CIFAR100 | {"alpha": 0.05},
        "CIFAR-100, symmetric 40 %": _EPSILON_CIFAR100 | {"alpha": 0.03},
        "CIFAR-100, symmetric 60 %": _EPSILON_CIFAR100 | {"alpha": 0.0125},
        "CIFAR-100, symmetric 80 %": _EPSILON_CIFAR100 | {"alpha": 0.0075},
        "CIFAR-100, asymmetric 10 %": {"alpha": 0.015, "beta": 1.0, "m": 1e2},
        "CIFAR-100, asymmetric 20 %": {"alpha": 0.007, "beta": 1.0, "m": 1e2},
        "CIFAR-100, asymmetric 30 %": {"alpha": 0.005, "beta": 1.0, "m": 1e2},
        "CIFAR-100, asymmetric 40 %": {"alpha": 0.004, "beta": 1.0, "m": 1e2},
        "WebVision": {"alpha": 0.015, "beta": 0.3, "m": 1e3},
    },
    "truncated-gce": {
        "CIFAR-10": {"q": 0.7, "k": 0.5},
        "CIFAR-100": {"q": 0.7, "k": 0.5},
    },
    "logit-clip": {
        "CIFAR-10, symmetric up to 40 %": {"delta": 1.0},
        "CIFAR-10, symmetric from 60 %": {"delta": 1.5},
        "CIFAR-10, asymmetric": {"delta": 2.5},
        "CIFAR-100, symmetric": {"delta": 0.5},
        "CIFAR-100, asymmetric": {"delta": 2.5},
    },
    "ldr-kl": {
        "CIFAR-10": {"lamb": 10.0, "margin": 0.1},
        "CIFAR-100": {"lamb": 1.0, "margin": 0.1},
        "WebVision": {"lamb": 1.0, "margin": 0.1},
    },
}
"""What the authors of later losses chose, by dataset and, where they chose for it, kind of noise.

No experiment of the paper reads it. Each loss's page in ``docs/losses`` says where its values were
published; those of LogitClip and LDR-KL are as the authors of epsilon-softmax ran them.
"""
PUBLISHED = HYPERPARAMETERS | LATER
"""All of them, the paper's and those of later losses."""


def describe(values: dict[str, Any]) -> str:
    """Write values in one line.

    Args:
        values: Hyper-parameters by name.

    Returns:
        For example ``"alpha 1, beta 0.1"``.

    Example:
        >>> describe(HYPERPARAMETERS["nce+rce"]["CIFAR-10"])
        'alpha 1, beta 0.1'
    """
    return ", ".join(
        f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in values.items()
        if value is not None
    )

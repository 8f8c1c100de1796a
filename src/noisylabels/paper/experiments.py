"""The paper's tables and figures as runs: what stands in rows, what in columns, over seeds."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from noisylabels.errors import ConfigError, unknown
from noisylabels.paper.hyperparameters import PUBLISHED
from noisylabels.paper.protocol import DATASETS, SETTINGS, Protocol, Setting, recipe

Changes = Mapping[str, Any]
"""Values by dotted key of a run's file."""

LOSSES = {
    "CE": "ce",
    "GCE": "gce",
    "SCE": "sce",
    "NLNL": "nlnl",
    "BTL": "btl",
    "NCE+RCE": "nce+rce",
    "TCE": "tce",
    "NCE+AGCE": "nce+agce",
    "CE+SR": "ce+sr",
    "JS": "js",
    "Poly-1": "poly1",
    "DGCE": "dgce",
    "DAL": "dal",
}
"""The methods of tables 2 and 3 as the paper calls them, and their losses' keys."""
LATER_LOSSES = {
    "adaptive DAL": "adaptive-dal",
    "ANL-CE": "anl-ce",
    "ANL-FL": "anl-fl",
    "JAL-CE": "jal-ce",
    "JAL-FL": "jal-fl",
    "ε-softmax": "eps-softmax",
    "LogitClip": "logit-clip",
    "LDR-KL": "ldr-kl",
    "OGC": "ogc",
    "truncated GCE": "truncated-gce",
    "forward": "forward",
    "backward": "backward",
    "peer": "peer",
}
"""Losses that are not in the paper, most of them later ones, and their keys."""
HOSTS = {
    "ELR": "elr",
    "GJS": "gjs",
    "Co-teaching": "coteaching",
    "JoCoR": "jocor",
    "DivideMix": "dividemix",
}
"""The bigger methods of table 5, and their keys."""
PAIRED_LOSSES = {"TCE": ("tce", "dtce"), "JS": ("js", "djs")}
"""Losses of table 5, and the same with a parameter that moves as DAL's does."""
INSIDE = {"name": "dal", "q_start": 0.0, "q_end": 1.0}
"""DAL in the place of a bigger method's own loss."""
CURVES = Setting("symmetric", 0.4)
"""The noise of figures 1 and 4 where no other is asked for."""
PAIRS = ("coteaching", "jocor")
"""Methods that are told the noise rate."""


@dataclass(frozen=True)
class Column:
    """What the runs of a column have in common.

    Args:
        key: Its short name.
        title: Its name for people.
        setting: The noise; None where the labels are the dataset's own.
        changes: What else it changes.
    """

    key: str
    title: str
    setting: Setting | None = None
    changes: Changes = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """What the runs of a row have in common.

    Args:
        title: Its name, the paper's where it has one.
        changes: ``column -> what it changes``.
        chosen: Whether its values were chosen for this scale: tuned, or published for it.
    """

    title: str
    changes: Callable[[Column], Changes]
    chosen: bool


@dataclass(frozen=True)
class Part:
    """The runs of an experiment on one dataset.

    Args:
        dataset: The dataset.
        rows: Its rows.
        columns: Its columns.
    """

    dataset: str
    rows: Sequence[Row]
    columns: Sequence[Column]


@dataclass(frozen=True)
class Experiment:
    """A table or a figure.

    Args:
        name: What it is called on the command line.
        about: What it shows, in a line.
        scales: The scales that it can be done at.
        parts: ``protocol -> its parts``.
        values: The numbers of ``result.json`` that it shows.
        against: The row that others are compared with.
        curves: Whether every epoch is evaluated.
        across: What its columns differ in.
    """

    name: str
    about: str
    scales: Sequence[str]
    parts: Callable[[Protocol], Sequence[Part]]
    values: Sequence[str] = ("test_accuracy",)
    against: str | None = "DAL"
    curves: bool = False
    across: str = "noise"

    @property
    def folder(self) -> str:
        """The folder of its runs: those whose every epoch is evaluated have one of their own."""
        return "curves" if self.curves else "runs"


def loss_values(
    protocol: Protocol, dataset: str, key: str, *, either_decay: bool = False
) -> dict[str, Any]:
    """Return a loss as it is used on a dataset: tuned at the scale, or as it was published.

    Args:
        protocol: How the experiment is done.
        dataset: The dataset.
        key: The loss's key.
        either_decay: Whether an L1 penalty was tried in place of the L2 penalty too.

    Returns:
        Values by dotted key of a run's file.
    """
    tuned = protocol.tuned(dataset, either_decay=either_decay)
    if key in tuned:
        return {"loss.name": key} | tuned[key]
    # Nobody has published values for digits: those of ten other classes are the nearest.
    name = DATASETS["cifar10" if dataset == "digits" else dataset]
    own = PUBLISHED.get("dal" if key == "dgce" else key, {}).get(name, {})
    if key == "dgce":
        own = {name: own[name] for name in ("q_start", "q_end")}
    return {"loss.name": key} | {f"loss.{name}": value for name, value in own.items()}


def _is_chosen(protocol: Protocol, dataset: str, key: str, *, either_decay: bool = False) -> bool:
    """Return whether values of a loss or method were chosen for a scale."""
    tuned = protocol.tuned(dataset, either_decay=either_decay)
    return key in tuned or (protocol.scale == "paper" and not either_decay)


def _settings(settings: Iterable[Setting]) -> list[Column]:
    return [Column(each.key, each.title, each) for each in settings]


def _fixed(title: str, changes: Changes, *, chosen: bool) -> Row:
    return Row(title, lambda column: changes, chosen)


def _loss_rows(
    protocol: Protocol,
    dataset: str,
    titles: Iterable[str],
    losses: Mapping[str, str] = LOSSES,
    *,
    either_decay: bool = False,
) -> list[Row]:
    return [
        _fixed(
            title,
            loss_values(protocol, dataset, losses[title], either_decay=either_decay),
            chosen=_is_chosen(protocol, dataset, losses[title], either_decay=either_decay),
        )
        for title in titles
    ]


def _comparison(dataset: str) -> Callable[[Protocol], list[Part]]:
    """Return the parts of a table of all losses in all settings."""

    def parts(protocol: Protocol) -> list[Part]:
        own = "digits" if protocol.scale == "digits" else dataset
        return [Part(own, _loss_rows(protocol, own, LOSSES), _settings(SETTINGS))]

    return parts


def _fair(protocol: Protocol) -> list[Part]:
    """Return the parts of a table of all losses, those that came after the paper among them."""
    datasets = ("digits",) if protocol.scale == "digits" else ("cifar10", "cifar100")
    every = LOSSES | LATER_LOSSES
    return [
        Part(
            dataset,
            _loss_rows(protocol, dataset, every, every, either_decay=True),
            _settings(SETTINGS),
        )
        for dataset in datasets
    ]


REAL = ("CE", "SCE", "NCE+RCE", "NCE+AGCE", "CE+SR", "JS", "DAL")
"""The methods for which the paper's table 1 has values on Animal-10N and WebVision."""


def _real_noise(protocol: Protocol) -> list[Part]:
    column = Column("own", "its own labels")
    return [
        Part(dataset, _loss_rows(protocol, dataset, REAL), [column])
        for dataset in ("animal10n", "webvision")
    ]


def _hosts(protocol: Protocol) -> list[Part]:
    dataset = "digits" if protocol.scale == "digits" else "cifar100"
    rows = []
    for title, (key, moving) in PAIRED_LOSSES.items():
        (own,) = _loss_rows(protocol, dataset, [title], {title: key})
        alone = loss_values(protocol, dataset, key)
        inside = _with(alone, {"loss.name": moving})
        rows += [own, _fixed(f"{title} + DAL", inside, chosen=own.chosen)]
    for title, method in HOSTS.items():
        if method == "gjs" and protocol.scale == "features":
            # It compares two views of an image, and frozen vectors have one.
            continue
        rows += [_host(protocol, dataset, title, method, dal=dal) for dal in (False, True)]
    return [Part(dataset, rows, _settings(SETTINGS))]


def _with(values: Changes, changes: Changes) -> Changes:
    """Take another loss with the same optimiser: its own parameters are another's."""
    kept = {key: value for key, value in values.items() if not key.startswith("loss.")}
    return {**kept, **changes}


def _host(protocol: Protocol, dataset: str, title: str, method: str, *, dal: bool) -> Row:
    def changes(column: Column) -> Changes:
        setting = column.setting
        assert setting is not None, "every column of this table has one"
        if protocol.scale == "paper":
            left_out = {"data", "noise", *(["model"] if protocol.network else [])}
            own = {k: v for k, v in recipe(method, dataset).items() if k not in left_out}
        else:
            tuned = protocol.tuned(dataset).get(host_key(method, dal=dal), {})
            own = {"method.name": method, "loss.name": own_loss(method), **tuned}
        if method in PAIRS:
            # As JoCoR's authors have it: asymmetric noise leaves half of the classes alone.
            half = setting.kind == "asymmetric"
            own = own | {"method.forget_rate": setting.rate / 2 if half else setting.rate}
        if method == "gjs" and setting.kind == "symmetric":
            pi = GJS_PI[setting.rate]
            own = own | {"method.pi": pi, "loss.pi": pi}
        if method == "dividemix" and setting.kind == "asymmetric":
            # Its warm-up would soon be sure of what half of the classes are taken for.
            own = own | {"method.confidence_penalty": True}
        if method == "dividemix" and protocol.scale == "paper":
            own = own | {"method.lambda_u": 25.0 if setting.key == "symmetric:0.2" else 150.0}
        return _with(own, {"loss": INSIDE}) if dal else own

    chosen = _is_chosen(protocol, dataset, host_key(method, dal=dal))
    return Row(f"{title} + DAL" if dal else title, changes, chosen)


def host_key(method: str, *, dal: bool) -> str:
    """Return what a bigger method's tuned values are kept by: each side is tuned by itself.

    Args:
        method: The method's key.
        dal: Whether DAL is in the place of its own loss.
    """
    return f"{method}+dal" if dal else method


def own_loss(method: str) -> str:
    """Return the key of a bigger method's own loss.

    Args:
        method: The method's key.
    """
    return "js" if method == "gjs" else "ce"


GJS_PI = {0.2: 0.3, 0.4: 0.5, 0.6: 0.9, 0.8: 0.1}
"""Its authors' weights for symmetric noise on CIFAR-100."""


WITH_MAE = LOSSES | {"MAE": "mae"}
"""The methods of figures 1 and 4."""


def _moved(
    protocol: Protocol,
    dataset: str,
    title: str,
    parameter: str,
    values: Iterable[float],
    name: str,
) -> list[Row]:
    """Return rows of a loss as it is used on a dataset, but for one parameter."""
    own = loss_values(protocol, dataset, LOSSES[title])
    chosen = _is_chosen(protocol, dataset, LOSSES[title])
    return [
        _fixed(name.format(value), own | {f"loss.{parameter}": value}, chosen=chosen)
        for value in values
    ]


def _curves(protocol: Protocol) -> list[Part]:
    dataset = "digits" if protocol.scale == "digits" else "cifar100"
    start = loss_values(protocol, dataset, "dal").get("loss.q_start", 0.6)
    starts = (round(start - 0.05, 4), start, round(start + 0.05, 4))
    rows = [
        *_loss_rows(protocol, dataset, ["CE", "MAE"], WITH_MAE),
        *_moved(protocol, dataset, "GCE", "q", (0.3, 0.5, 0.7, 0.9), "GCE {:g}"),
        *_moved(protocol, dataset, "DAL", "q_start", starts, "DAL {:g}"),
    ]
    return [Part(dataset, rows, _settings([CURVES]))]


def _sensitivity(protocol: Protocol) -> list[Part]:
    first, second = ("digits", "digits") if protocol.scale == "digits" else ("cifar10", "cifar100")
    steps = (-0.05, -0.025, 0.0, 0.025, 0.05)
    rows, ends = [], []
    for title, key in (("GCE", "q"), ("DAL", "q_start")):
        middle = loss_values(protocol, first, LOSSES[title]).get(f"loss.{key}", 0.7)
        values = [round(middle + step, 4) for step in steps]
        rows += _moved(protocol, first, title, key, values, f"{title} {key} {{:g}}")
    other = loss_values(protocol, second, "dal")
    for key, moves in (("q_end", (-0.3, 0.0, 0.3)), ("lambda_end", (-0.5, 0.0, 0.5))):
        middle = other.get(f"loss.{key}", DEFAULTS[key])
        values = [max(0.0, round(middle + move, 4)) for move in moves]
        ends += _moved(protocol, second, "DAL", key, values, f"DAL {key} {{:g}}")
    setting = _settings([Setting("instance", 0.4)])
    if first == second:
        return [Part(first, rows + ends, setting)]
    return [Part(first, rows, setting), Part(second, ends, setting)]


DEFAULTS = {"q_end": 1.5, "lambda_end": 1.0}
"""What DAL has in the paper for every dataset."""


def _case_study(protocol: Protocol) -> list[Part]:
    return [
        Part(
            dataset,
            _loss_rows(protocol, dataset, ["CE", "MAE", "GCE", "DAL"], WITH_MAE),
            _settings([CURVES]),
        )
        for dataset in protocol.datasets
        if dataset in ("cifar10", "cifar100", "digits")
    ]


TRIGGERS = ("local", "global")
"""The kinds of trigger of table 6, see ``noisylabels.data.poison``."""
ROBUST = ("CE", "GCE", "DAL")
"""The methods of table 6."""
SHARES = (0.002, 0.005, 0.01, 0.02, 0.05)
"""Shares of the training images that are poisoned, the paper's first."""


def _poison(kind: str, **parameters: float) -> dict[str, Any]:
    own = {"name": "trigger", "kind": kind} | parameters
    return {f"poison.{key}": value for key, value in own.items()}


def _triggers(protocol: Protocol) -> list[Part]:
    columns = [
        Column(kind, f"{kind} trigger", changes=_poison(kind, share=SHARES[0])) for kind in TRIGGERS
    ]
    return [
        Part(dataset, _loss_rows(protocol, dataset, ROBUST), columns)
        for dataset in ("cifar10", "cifar100")
    ]


def _poisoned_shares(protocol: Protocol) -> list[Part]:
    columns = [
        Column(f"{share:g}", f"{100 * share:g} %", changes={"poison.share": share})
        for share in SHARES
    ]
    return [
        Part(
            dataset,
            [
                _fixed(
                    f"{title} {kind}",
                    loss_values(protocol, dataset, LOSSES[title]) | _poison(kind),
                    chosen=_is_chosen(protocol, dataset, LOSSES[title]),
                )
                for kind in TRIGGERS
                for title in ROBUST
            ],
            columns,
        )
        for dataset in ("cifar10", "cifar100")
    ]


EVERYWHERE = ("paper", "small", "features", "digits")
IMAGES = ("paper", "small")
ATTACKED = ("test_accuracy", "attack_success")
EXPERIMENTS = {
    each.name: each
    for each in (
        Experiment(
            "table2", "CIFAR-10: every loss, every noise", EVERYWHERE, _comparison("cifar10")
        ),
        Experiment(
            "table3",
            "CIFAR-100: every loss, every noise",
            ("paper", "small", "features"),
            _comparison("cifar100"),
        ),
        Experiment(
            "table4", "Animal-10N and WebVision: labels as they came", ("paper",), _real_noise
        ),
        Experiment(
            "table5",
            "CIFAR-100: bigger methods without and with DAL",
            EVERYWHERE,
            _hosts,
            against=None,
        ),
        Experiment(
            "table6",
            "CIFAR-10 and CIFAR-100: a trigger in a few training images",
            IMAGES,
            _triggers,
            values=ATTACKED,
            across="trigger",
        ),
        Experiment(
            "fair",
            "every loss, those that came after the paper too, L1 and L2 decay tried alike",
            ("small", "features", "digits"),
            _fair,
        ),
        Experiment(
            "figure1",
            "test accuracy by epoch: CE, MAE, GCE and DAL with several parameters",
            EVERYWHERE,
            _curves,
            against=None,
            curves=True,
        ),
        Experiment(
            "figure3",
            "how much GCE and DAL depend on their parameters",
            EVERYWHERE,
            _sensitivity,
            against=None,
        ),
        Experiment(
            "figure4",
            "what CE, MAE, GCE and DAL learn and memorise, by epoch",
            EVERYWHERE,
            _case_study,
            curves=True,
        ),
        Experiment(
            "figure5",
            "how many images with a trigger it takes until a loss gives way",
            IMAGES,
            _poisoned_shares,
            values=ATTACKED,
            against=None,
            across="poisoned",
        ),
    )
}
"""The experiments that consist of runs, by name."""


def find(name: str) -> Experiment:
    """Find an experiment.

    Args:
        name: Its name.

    Raises:
        ConfigError: There is none of that name.
    """
    if name not in EXPERIMENTS:
        raise ConfigError(unknown("experiment", name, EXPERIMENTS))
    return EXPERIMENTS[name]

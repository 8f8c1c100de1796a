"""The command line: parse, call, print."""

import re
import shlex
import sys
import textwrap
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

from noisylabels.errors import ConfigError, MissingExtraError, check_choice, check_range, unknown

if TYPE_CHECKING:
    from noisylabels.run.folder import RunFolder
    from noisylabels.studies.study import Study

try:
    import tyro
except ImportError as error:
    raise MissingExtraError("tyro", "train") from error


@dataclass(frozen=True)
class Demo:
    """Train on digits with 40 % label noise: CE, GCE and DAL, several seeds each; show the table.

    Real handwritten digits, nothing to download, little more than a minute on two cores. Running it
    again continues what is not finished.
    """

    seeds: int = 3
    """Runs of each loss."""
    out: Path = Path("runs")
    """Folder of run folders."""
    report: Path = Path("report.html")
    """The report to write: table and curves in one file."""


@dataclass(frozen=True)
class Train:
    """Make one run from a TOML file, or continue it, or find it finished.

    Any key of the file can be set here too, typed like in the file: --epochs 10
    --loss.name gce --loss.q 0.7. Naming another component starts from its own defaults. Keys: data
    (required), noise, poison, features, model, method, loss, optimizer, lr_schedule,
    momentum_schedule, augment, epochs, batch_size, seed, precision, validation, validation_labels,
    test_labels, test, compile, clip_norm, accumulate, on_nan, devices, nodes, sync_batchnorm,
    workers, evaluate_every, checkpoint_minutes, trackers, save_model.
    """

    config: tyro.conf.Positional[Path]
    """The run's TOML file."""
    out: Path = Path("runs")
    """Folder of run folders."""


@dataclass(frozen=True)
class Predict:
    """Predict the classes of new inputs with a finished run, into a CSV file.

    Inputs are decoded, resized and normalised as those of the run. One that cannot be used is named
    and has no class but an error in the file; only where none can be used is the exit status 2, and
    nothing written.
    """

    run: tyro.conf.Positional[Path]
    """The run folder, or a .safetensors file that export made of one."""
    inputs: tyro.conf.Positional[tuple[Path, ...]]
    """Folders or files of images; or a table (.csv, .tsv, .parquet) of paths or texts; or an .npz
    file with x."""
    out: Path = Path("predictions.csv")
    """The file to write: path (or row), class, probability, error."""
    all: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Write the probability of every class, too."""
    column: str | None = None
    """A table's column of paths, or of texts; by default path, or text."""
    root: Path | None = None
    """Folder that a table's paths are relative to, and must lie in; by default the table's own."""


@dataclass(frozen=True)
class Export:
    """Write a finished run's classifier as one file, compared with the run before it is kept.

    Its input is uint8 images of the run's size, or features; its output is class probabilities. The
    class names and how images are decoded stand in its metadata. A run on texts is for safetensors.
    """

    run: tyro.conf.Positional[Path]
    """The run folder, or a .safetensors file that export made of one."""
    format: str = "onnx"
    """onnx, torch-export (.pt2) or safetensors."""
    out: Path | None = None
    """The file to write; by default it is named like the run."""


@dataclass(frozen=True)
class Sweep:
    """Make all runs of a study: a base run and axes, whose product is made.

    Every run is checked before the first starts. The same command continues what is not finished
    and tries again what failed; two at once share the work. Any key of the base can be set here
    too, as in train: --epochs 10.
    """

    study: tyro.conf.Positional[Path]
    """The study's TOML file."""
    out: Path = Path("runs")
    """Folder of run folders."""
    jobs: int | None = None
    """Runs made at once; by default one per GPU, else one."""
    launcher: str = "local"
    """Where they are made: local (processes of this machine), slurm or ray."""
    dry_run: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Say what there is to do, and do nothing."""


@dataclass(frozen=True)
class Tune:
    """Choose keys of a run on a hold-out of its noisy labels, then train with what was chosen.

    No trial sees the test set. The same command continues; several at once, also on several
    machines, share a study. Any key of the run can be set here too, as in train: --epochs 10.
    """

    config: tyro.conf.Positional[Path]
    """The run's TOML file."""
    space: Path
    """A TOML file of keys and their ranges or choices: "loss.q" = { low = 0.1, high = 1.0 }."""
    trials: int = 40
    """Trials in the end, those that failed among them."""
    seeds: int = 1
    """Runs of each trial, and final runs."""
    jobs: int | None = None
    """Runs made at once; by default one per GPU, else one."""
    launcher: str = "local"
    """Where they are made: local (processes of this machine) or ray."""
    storage: str | None = None
    """Where trials are kept: sqlite:///FILE, postgresql://..., or the path of a journal; by default
    a journal beside the run folders."""
    prune: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Give trials up that are worse than the median after a third of their epochs."""
    out: Path = Path("runs")
    """Folder of run folders."""
    report: Path = Path("tune.html")
    """The page to write: the choice, every trial, accuracy against each parameter."""


@dataclass(frozen=True)
class Paper:
    """Make a table or a figure of the paper from runs, beside the numbers that it prints.

    Runs that are finished are found, the others are made; the same command continues. Names: table2
    (CIFAR-10) and table3 (CIFAR-100), every loss and noise; table4, real noise; table5, bigger
    methods with DAL; table6 and figure5, triggers; figure1 and figure4, curves; figure2, gradients;
    figure3, sensitivity. Not the paper's: fair, its losses and those that came later, tuned alike.
    Any key of a run can be set here too, as in train: --epochs 10.
    """

    experiment: tyro.conf.Positional[str]
    """table2 to table6, figure1 to figure5, or fair."""
    scale: str = "paper"
    """paper (for GPUs), small (5,000 images), features (frozen, 20 to 50 s a run) or digits."""
    out: Path = Path("paper")
    """Folder of the runs, their study, and the table or figure."""
    data: Path = Path("data")
    """Folder of the data sets; CIFAR is downloaded to it where it is not there."""
    labels: Path | None = None
    """Folder of the published label files; by default noise is made."""
    weights: Path | None = None
    """Weights of tf_efficientnet_lite0 for features; by default they are downloaded."""
    rows: str = ""
    """Rows to make, with commas between them, such as ce,gce,dal; all by default."""
    columns: str = ""
    """Columns to make, such as symmetric:0.6,symmetric:0.8; all by default."""
    datasets: str = ""
    """Datasets to make them on, such as cifar10; all by default."""
    seeds: int | None = None
    """How many seeds; 5 at scales paper and digits, else 3."""
    network: str | None = None
    """Another network at scales paper and small: resnet34 or cnn."""
    instance: str = "instance"
    """Another kind of instance-dependent noise: margin."""
    results: tuple[Path, ...] = ()
    """Runs that are finished elsewhere: archives (.jsonl), run folders, or folders of them."""
    jobs: int | None = None
    """Runs made at once; by default one per GPU, else one."""
    launcher: str = "local"
    """Where they are made: local (processes of this machine), slurm or ray."""
    dry_run: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Say what there is to do and what it costs, and do nothing."""


@dataclass(frozen=True)
class Features:
    """Compute the frozen features of a run's data, and keep them for every run that wants them.

    They lie in $NOISYLABELS_CACHE, or the user's cache folder. More than 10 GiB are never kept:
    what was not used for longest goes first. Any key of the file can be set here too, as in train:
    --features.size 64.
    """

    config: tyro.conf.Positional[str | None] = None
    """A run's TOML file with features; none where features are only deleted."""
    prune: float | None = None
    """Delete kept features, the longest unused first, until at most so many GiB are left."""


@dataclass(frozen=True)
class Fit:
    """Train on data with wrong labels, find them, and leave a model that can be used.

    Looks at the data, takes images through a pretrained network if its weights can be had, trains
    with the dynamics-aware loss, chooses its schedule by held-out labels, and audits all labels.
    """

    data: tyro.conf.Positional[str]
    """The dataset: a folder of images, a table, an .npz, or its name and options, see data show."""
    out: Path = Path("fit")
    """Folder for the runs, the suspects and the page."""
    backbone: str = "tf_efficientnet_lite0"
    """Network of timm that images are taken through."""
    weights: Path | None = None
    """A local file of its weights; by default they are downloaded."""
    seed: int = 0
    """Seed, at least 0."""
    minutes: float = 20.0
    """How long training may take where there is no pretrained network."""


@dataclass(frozen=True)
class Report:
    """Make the table and the curves of any runs."""

    runs: tyro.conf.Positional[tuple[Path, ...]] = (Path("runs"),)
    """Run folders, or folders of run folders."""
    out: Path = Path("report.html")
    """The report to write: table and curves in one file."""


@dataclass(frozen=True)
class Table:
    """Make a table of any runs: settings in rows and columns, one result in the cells.

    Keys are settings: epochs, noise.rate, or loss, which stands for the whole component. Cells are
    mean ± standard deviation over seeds, the best of each column is bold. Example:
    noisylabels table runs --rows loss --columns noise,noise.rate --against dal
    """

    runs: tyro.conf.Positional[tuple[Path, ...]] = (Path("runs"),)
    """Run folders, or folders of run folders."""
    rows: str = "loss"
    """Keys with commas between them."""
    columns: str = "noise"
    """Keys with commas between them; "" for one column."""
    value: str = "test_accuracy"
    """A number of result.json; several, with commas between them, are several tables."""
    where: str = ""
    """Runs to take, as key=value with commas between them, such as epochs=150,loss=dal."""
    against: str | None = None
    """A row that the others are compared with, seed by seed, such as dal."""
    best: str = "auto"
    """What is bold: high, low, none, or what suits the value (auto)."""
    format: str | None = None
    """text, markdown, csv, latex or html; by default what the file ends with, or text."""
    out: Path | None = None
    """The file to write; by default the table is printed. RUNS.jsonl keeps the runs themselves."""


@dataclass(frozen=True)
class Status:
    """Show runs or a study: state, epoch, accuracy, time spent and time left."""

    runs: tyro.conf.Positional[tuple[Path, ...]] = (Path("runs"),)
    """Run folders, or folders of them; or a study's TOML file."""
    out: Path = Path("runs")
    """Folder of a study's run folders."""


@dataclass(frozen=True)
class Audit:
    """Find labels that look wrong: how many, which, and a page to keep or change them one by one.

    Of finished runs of one set of labels (several seeds are averaged), or of data: then runs are
    made first, below --out, as the run's TOML file says, or as fit makes them. No label is changed:
    the page saves decisions, which `noisylabels apply` makes new labels of.
    """

    data: tyro.conf.Positional[tuple[str, ...]]
    """Run folders, or a folder of them; or a run's TOML file, a dataset, a file or folder."""
    out: Path = Path("audit")
    """Folder to write: audit.html, suspects.csv and audit.npz (cleanlab's labels, pred_probs)."""
    score: str = "posterior"
    """What suspects are ranked by: posterior, mean-given, mean-margin, last-given, ..."""
    photos: int = 500
    """Suspects on the page; suspects.csv has all."""
    folds: int = 0
    """Of data: make so many runs, each on all folds but one, and judge it by what it held out."""
    backbone: str = "tf_efficientnet_lite0"
    """Of data without a run's file: network of timm that images are taken through."""
    weights: Path | None = None
    """A local file of its weights; by default they are downloaded."""
    minutes: float = 20.0
    """How long training may take where there is no pretrained network."""


@dataclass(frozen=True)
class Apply:
    """Make new labels of the decisions of an audit; the data itself stays as it is.

    Example: noisylabels apply decisions.json --data photos --out labels.csv
    """

    decisions: tyro.conf.Positional[Path]
    """What the page saved; with --above the audit's folder or suspects.csv."""
    data: str
    """What was audited: a run folder, a run's TOML file, a dataset, a file or folder."""
    out: Path = Path("labels.csv")
    """A .csv table of image files, a .npy file of labels, or an .npz archive of arrays."""
    above: float | None = None
    """Give all suspects of at least this score their suggested label, without a person."""


@dataclass(frozen=True)
class Losses:
    """List every loss: key, formula, hyper-parameters, the paper's values for each dataset."""

    key: tyro.conf.Positional[str | None] = None
    """One loss to show in full, such as dal."""


@dataclass(frozen=True)
class NoiseList:
    """List every kind of label noise and what exactly it does."""


@dataclass(frozen=True)
class NoiseMake:
    """Make the labels that a run with this noise would train on: a .npy file and its manifest.

    Further parameters of the kind are typed like in a run's file: --noise.map digits
    --noise.matrix matrix.npy.
    """

    kind: tyro.conf.Positional[str]
    """A kind of noise, see `noisylabels noise list`."""
    data: tyro.conf.Positional[str]
    """The dataset: digits, cifar10:FOLDER, parquet:FOLDER, a file or folder, or a run's TOML."""
    rate: float | None = None
    """Nominal rate, in [0, 1]."""
    seed: int = 0
    """Seed, at least 0."""
    out: Path = Path("labels.npy")
    """The labels; the manifest is the same with .json."""


@dataclass(frozen=True)
class NoiseInspect:
    """Say what is in a label file: actual rate, transitions, class counts, the likely kind."""

    file: tyro.conf.Positional[Path]
    """A .npy file of labels, or a .pt file of CIFAR-10N or CIFAR-100N."""
    key: str | None = None
    """Which labels of a .pt file, such as worse_label."""
    clean: Path | None = None
    """A file of the true labels."""
    data: str | None = None
    """The dataset that the labels belong to: its labels are the true ones."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print JSON."""
    out: Path | None = None
    """Draw the transition matrix into this SVG file."""


@dataclass(frozen=True)
class DataShow:
    """Make a page of a dataset's classes, counts and some of its images."""

    data: tyro.conf.Positional[str]
    """The dataset: digits, folder:FOLDER,size=64, table:FILE, a file or folder, or a run's TOML."""
    out: Path = Path("data.html")
    """The page to write."""


@dataclass(frozen=True)
class DataCheck:
    """Check a published dataset's files: counts, class map, and which "mini" it is."""

    name: tyro.conf.Positional[str]
    """webvision."""
    root: tyro.conf.Positional[Path]
    """Its folder."""


@dataclass(frozen=True)
class Noise:
    """Make label noise, or look at it."""

    command: (
        Annotated[NoiseList, tyro.conf.subcommand("list")]
        | Annotated[NoiseMake, tyro.conf.subcommand("make")]
        | Annotated[NoiseInspect, tyro.conf.subcommand("inspect")]
    )


@dataclass(frozen=True)
class Data:
    """Look at a dataset."""

    command: (
        Annotated[DataShow, tyro.conf.subcommand("show")]
        | Annotated[DataCheck, tyro.conf.subcommand("check")]
    )


Command = (
    Annotated[Demo, tyro.conf.subcommand("demo")]
    | Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Predict, tyro.conf.subcommand("predict")]
    | Annotated[Export, tyro.conf.subcommand("export")]
    | Annotated[Features, tyro.conf.subcommand("features")]
    | Annotated[Fit, tyro.conf.subcommand("fit")]
    | Annotated[Sweep, tyro.conf.subcommand("sweep")]
    | Annotated[Tune, tyro.conf.subcommand("tune")]
    | Annotated[Paper, tyro.conf.subcommand("paper")]
    | Annotated[Report, tyro.conf.subcommand("report")]
    | Annotated[Table, tyro.conf.subcommand("table")]
    | Annotated[Status, tyro.conf.subcommand("status")]
    | Annotated[Audit, tyro.conf.subcommand("audit")]
    | Annotated[Apply, tyro.conf.subcommand("apply")]
    | Annotated[Losses, tyro.conf.subcommand("losses")]
    | Annotated[Noise, tyro.conf.subcommand("noise")]
    | Annotated[Data, tyro.conf.subcommand("data")]
)


CLASSES: dict[str, type] = {
    "demo": Demo,
    "train": Train,
    "predict": Predict,
    "export": Export,
    "features": Features,
    "fit": Fit,
    "sweep": Sweep,
    "tune": Tune,
    "paper": Paper,
    "report": Report,
    "table": Table,
    "status": Status,
    "audit": Audit,
    "apply": Apply,
    "losses": Losses,
    "noise": Noise,
    "noise list": NoiseList,
    "noise make": NoiseMake,
    "noise inspect": NoiseInspect,
    "data": Data,
    "data show": DataShow,
    "data check": DataCheck,
}
"""What each command takes."""
COMMANDS = {
    name: [other.partition(" ")[2] for other in CLASSES if other.startswith(f"{name} ")]
    for name in CLASSES
    if " " not in name
}
"""The commands, and those that each has below it."""


def options(command: type, *, flags: bool = True) -> list[str]:
    """Return the options of a command: all that it takes but its positional words.

    Args:
        command: One of ``CLASSES``.
        flags: Whether those that take no value are among them.

    Example:
        >>> options(Report)
        ['--out']
    """
    positional = get_args(tyro.conf.Positional[int])[1]
    return [
        f"--{field.name.replace('_', '-')}"
        for field in fields(command)
        if positional not in get_args(field.type) and (flags or bool not in get_args(field.type))
    ]


def run(words: Sequence[str]) -> None:
    """Run a command.

    Args:
        words: The command and its arguments.

    Raises:
        NoisyLabelsError: What the user gave cannot be used.
        SystemExit: There is no such command or option, or help was asked for.
    """
    _check_command(words)
    _check_repetition(words)
    words = _file_first(words)
    command, spare = tyro.cli(
        Command,
        prog="noisylabels",
        description="Train classifiers on data whose labels are partly wrong. "
        "Also: --version; --debug shows the traceback of an error.",
        args=words,
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes),
        return_unknown_args=True,
    )
    overrides = _overrides(words, spare)
    if isinstance(command, Demo):
        _demo(command)
    elif isinstance(command, Train):
        _train(command, overrides)
    elif isinstance(command, Predict):
        _predict(command)
    elif isinstance(command, Export):
        _export(command)
    elif isinstance(command, Features):
        _features(command, overrides)
    elif isinstance(command, Fit):
        _fit(command)
    elif isinstance(command, Sweep):
        _sweep(command, overrides)
    elif isinstance(command, Tune):
        _tune(command, overrides)
    elif isinstance(command, Paper):
        _paper(command, overrides)
    elif isinstance(command, Report):
        _report(command.runs, command.out)
    elif isinstance(command, Table):
        _table(command)
    elif isinstance(command, Status):
        _status(command)
    elif isinstance(command, Audit):
        _audit(command)
    elif isinstance(command, Apply):
        _apply(command)
    elif isinstance(command, Losses):
        _losses(command.key)
    elif isinstance(command.command, NoiseList):
        _noise_list()
    elif isinstance(command.command, NoiseMake):
        _noise_make(command.command, overrides)
    elif isinstance(command.command, NoiseInspect):
        _noise_inspect(command.command)
    elif isinstance(command.command, DataShow):
        _data_show(command.command)
    else:
        _data_check(command.command)


def _check_repetition(words: Sequence[str]) -> None:
    """Refuse an option that is given twice, of which only the last would count."""
    named = [word.partition("=")[0] for word in words if word.startswith("--")]
    for option in named:
        if named.count(option) > 1 and any(option in options(each) for each in CLASSES.values()):
            raise ConfigError(f"{option} is given twice: a command has one value of it")


def _check_command(words: Sequence[str]) -> None:
    """Refuse a command that there is none of, with the nearest that there is."""
    if not words or words[0].startswith("-"):
        return
    name, *rest = words
    if name not in COMMANDS:
        raise ConfigError(unknown("command", name, COMMANDS))
    below = COMMANDS[name]
    if below and rest and not rest[0].startswith("-") and rest[0] not in below:
        raise ConfigError(unknown(f"command of {name}", rest[0], below))


def _file_first(words: Sequence[str]) -> list[str]:
    """Put a run's file before its overrides, after which no positional word is looked for."""
    if words[:1] not in (["train"], ["features"], ["sweep"], ["tune"]):
        return list(words)
    # The file of an option stays where it is.
    valued = options(CLASSES[words[0]], flags=False)
    first = [
        place
        for place, word in enumerate(words)
        if word.endswith(".toml") and not word.startswith("-") and words[place - 1] not in valued
    ]
    rest = [word for place, word in enumerate(words[1:], 1) if place not in first]
    return [words[0], *(words[place] for place in first), *rest]


def _overrides(words: Sequence[str], spare: Sequence[str]) -> list[str]:
    """Return the words that set keys of a run's file, of those that no command knows.

    Raises:
        ConfigError: A word is an option of no command.
    """
    name = " ".join(words[: 2 if COMMANDS.get(words[0]) else 1])
    prefix = {
        "train": "--",
        "features": "--" if words[1:] and not words[1].startswith("-") else "",
        "sweep": "--",
        "tune": "--",
        "paper": "--",
        "noise make": "--noise.",
    }.get(name)
    for word in spare:
        option = word.partition("=")[0]
        if option.startswith("--") and not (prefix and option.startswith(prefix)):
            raise ConfigError(unknown(f"option of {name}", option, options(CLASSES[name])))
    if spare and not prefix:
        raise ConfigError(f"{name}: unexpected {' '.join(spare)!r}")
    return list(spare)


def _train(command: Train, overrides: Sequence[str]) -> None:
    from rich.console import Console

    from noisylabels.display import Display
    from noisylabels.run import config
    from noisylabels.run.folder import RunFolder
    from noisylabels.run.launch import is_global_zero
    from noisylabels.run.noise_rates import tell
    from noisylabels.run.plan import plan
    from noisylabels.run.trainer import train

    run = config.load(command.config, overrides)
    try:
        made = plan(run)
    except ConfigError as error:
        raise ConfigError(f"{command.config}: {error}") from error
    # The other processes' would draw over it.
    console = Console(stderr=True, quiet=not is_global_zero(made.config))
    with Display(runs=1, epochs=run.epochs, console=console) as display:
        folder = RunFolder(train(made, command.out, [display]))
    if is_global_zero(made.config):
        if folder.finished:
            for sentence in tell(folder.result(), len(folder.data()["classes"])):
                print(sentence, file=sys.stderr)
        print(folder.path)


def _predict(command: Predict) -> None:
    from noisylabels.inference import predictions
    from noisylabels.inference.classifier import load
    from noisylabels.studies import pages

    def say(sentence: str) -> None:
        print(sentence, file=sys.stderr)

    pages.check(command.out)
    classifier = load(command.run)
    found = classifier.listed(command.inputs, column=command.column, root=command.root)
    predictions.write(classifier, found, command.out, every=command.all, say=say)
    print(command.out)


def _export(command: Export) -> None:
    from noisylabels.inference.classifier import load
    from noisylabels.inference.export import FORMATS, SUFFIXES, export, sample
    from noisylabels.run.folder import RunFolder
    from noisylabels.studies import pages

    check_choice("--format", command.format, FORMATS)
    path = command.run.resolve()
    name = path.stem if path.is_file() else path.name
    out = command.out or Path(f"{name}{SUFFIXES[command.format]}")
    pages.check(out)
    classifier = load(command.run)
    samples, kind = sample(RunFolder(command.run), classifier)
    difference = export(classifier, out, command.format, samples)
    compared = (
        f"compared on {len(samples)} {kind}: probabilities differ by at most {difference:.1g}"
    )
    print(compared, file=sys.stderr)
    print(out)


def _demo(command: Demo) -> None:
    from noisylabels import demo
    from noisylabels.display import Display
    from noisylabels.run.plan import plan
    from noisylabels.run.trainer import train
    from noisylabels.studies import pages

    pages.require(drawings=True)
    pages.check(command.report)
    plans = [plan(run) for run in demo.runs(command.seeds)]
    with Display(runs=len(plans), epochs=sum(made.config.epochs for made in plans)) as display:
        folders = [train(made, command.out, [display]) for made in plans]
    _report(folders, command.report)


def _megabytes(count: int) -> str:
    return f"{count / 2**20:,.1f} MiB"


def _features(command: Features, overrides: Sequence[str]) -> None:
    from noisylabels.features import cache
    from noisylabels.run import config
    from noisylabels.run.labelling import label
    from noisylabels.run.plan import build, plan

    if command.config is None and command.prune is None:
        raise ConfigError("features: expected a run's TOML file, or --prune GIB")
    if command.prune is not None:
        check_range("--prune", command.prune)
        deleted = cache.prune(round(command.prune * 2**30))
        print(f"deleted {_megabytes(deleted)} of features, {_megabytes(cache.size())} are left")
    if command.config is None:
        return
    # What trains is not tried, nor are torch's optimisers imported, which takes a second.
    made = plan(config.load(Path(command.config), overrides), trial=False)
    if made.features is None or not made.features.freeze:
        raise ConfigError(f"{command.config}: expected frozen features, such as those of timm")
    build(made.features.check, "features", made.config.features)
    dataset, _ = label(made, lambda sentence: print(sentence, file=sys.stderr))
    (width,) = dataset.train.shape
    print(f"{len(dataset.train)} training and {len(dataset.test)} test vectors of {width} numbers")
    print(f"{_megabytes(cache.size())} of features are kept", file=sys.stderr)


def _fit(command: Fit) -> None:
    from rich.console import Console

    from noisylabels.display import Display
    from noisylabels.run import config, spec
    from noisylabels.run.labelling import keeping_data
    from noisylabels.studies import audit, audit_page, fitting, pages

    def say(sentence: str) -> None:
        print(sentence, file=sys.stderr)

    page = command.out / "audit.html"
    pages.require()
    pages.check(page)
    if Path(command.data).suffix == ".toml":
        ignored = [key for key in config.read_toml(Path(command.data)) if key != "data"]
        if ignored:
            keys = ", ".join(ignored)
            say(f"of {command.data} only data counts, not {keys}: fit chooses what is trained")
    with keeping_data():
        recipe = fitting.recommend(
            spec.parse(command.data),
            backbone=command.backbone,
            weights=command.weights,
            seed=command.seed,
            minutes=command.minutes,
            say=say,
        )
        runs = len(recipe) + 1
        epochs = sum(run.epochs for run in recipe) + recipe[0].epochs
        with Display(runs=runs, epochs=epochs, console=Console(stderr=True)) as display:
            made = fitting.fit(recipe, command.out / "runs", [display], say)
        found = audit.judge(audit.read([made.folder]))
        files = [page, *audit.write(found, command.out)]
        audit_page.write(found, page, say=say)
    for sentence in (*made.sentences(), *found.sentences()):
        print(sentence)
    for path in files:
        print(path)
    model = shlex.quote(str(made.folder.path))
    print(f"to use the model: noisylabels predict {model} INPUTS --out predictions.csv")


def _sweep(command: Sweep, overrides: Sequence[str]) -> None:
    from noisylabels.studies import study

    read = study.read(command.study, overrides)
    _make(read, command.out, command.launcher, command.jobs, dry_run=command.dry_run)


def _make(
    read: "Study",
    out: Path,
    launcher: str,
    jobs: int | None,
    *,
    dry_run: bool,
    elsewhere: Container[str] = (),
) -> None:
    """Make the runs of a study that are finished nowhere, or say what there is to do."""
    from noisylabels.display import SweepDisplay
    from noisylabels.run.trainer import check_writable
    from noisylabels.studies import launchers, sweep

    made = launchers.launcher(launcher, jobs, read.options)
    prepared = sweep.prepare(read, out)
    progress = sweep.begin(prepared, made.width, elsewhere)
    for note in prepared.notes:
        print(note)
    if dry_run:
        sweep.time_kinds(progress)
        print(sweep.sentence(progress))
        for job in prepared.jobs:
            state = "finished" if job.run_id in progress.done else job.folder.state()
            print(f"{job.run_id}  {state:11}  {job.title}")
        return
    check_writable(out)
    if not progress.waiting:
        print(sweep.sentence(progress))
        return
    with made:
        # What makes the runs starts while the first of each kind is timed.
        made.warm_up(len(progress.waiting))
        sweep.time_kinds(progress)
        print(sweep.sentence(progress), flush=True)
        with SweepDisplay() as display:
            sweep.run(prepared, made, display, progress)


def _gradients(command: Paper, overrides: Sequence[str]) -> None:
    """Draw the figure that is of losses alone, without any run."""
    from noisylabels.paper import figures
    from noisylabels.studies import pages

    defaults = {field.name: field.default for field in fields(Paper)}
    counting = {"experiment", "out", "dry_run"}
    given = [k for k in defaults if k not in counting and getattr(command, k) != defaults[k]]
    if given or overrides:
        ignored = ", ".join([*(f"--{name}" for name in given), *overrides[:1]])
        raise ConfigError(f"figure2 is drawn without any run: {ignored} must be left out")
    path = command.out / "figure2.svg"
    pages.require(drawings=True)
    if not command.dry_run:
        pages.write(path, figures.gradients())
    print(path)


def _paper(command: Paper, overrides: Sequence[str]) -> None:
    from noisylabels.paper import claims, experiments, figures, results
    from noisylabels.paper.protocol import Protocol
    from noisylabels.studies import formats, pages, records, table
    from noisylabels.studies.sweep import SweepError

    if command.experiment == "figure2":
        _gradients(command, overrides)
        return
    experiment = experiments.find(command.experiment)
    if experiment.name in figures.DRAWINGS:
        pages.require(drawings=True)
    protocol = Protocol(
        scale=command.scale,
        data=command.data,
        labels=command.labels,
        weights=command.weights,
        network=command.network,
        instance=command.instance,
    )
    rows, columns = table.keys(command.rows), table.keys(command.columns)
    datasets = table.keys(command.datasets)
    choice = results.Choice(rows, columns, command.seeds, overrides, datasets)
    plans = results.prepare(experiment, protocol, choice, command.out, write=not command.dry_run)
    stem = command.out / f"{experiment.name}-{protocol.scale}"
    archive = stem.with_suffix(".jsonl")
    # The runs that it keeps stay in it; what is damaged ends this before any run.
    if archive.exists():
        records.read([archive])
    folder = command.out / experiment.folder
    there = results.collect(plans, command.results, folder, curves=experiment.curves)
    failed: list[SweepError] = []
    for made in plans:
        print(f"{made.study.path}: {results.describe(made, there)}")
        if not there.keys() >= made.run_ids:
            try:
                _make(
                    made.study,
                    folder,
                    command.launcher,
                    command.jobs,
                    dry_run=command.dry_run,
                    elsewhere=there,
                )
            except SweepError as error:
                # The others are finished, and stand in the table.
                failed.append(error)
    if command.dry_run:
        return
    runs = results.collect(plans, command.results, folder, curves=experiment.curves)
    tables = [each for made in plans for each in results.tabulate(experiment, protocol, made, runs)]
    if tables:
        judged = claims.judge(experiment.name, plans, runs)
        page = formats.markdown(tables) + (f"\n{claims.markdown(judged)}" if judged else "")
        # All is written before anything is said: who listens may have gone.
        # Read anew, for another command may have added its runs in the meantime.
        kept = records.read([archive]) if archive.exists() else []
        known = {run.run_id: run for run in kept} | runs
        records.archive(known.values(), archive, metrics=experiment.curves)
        files = [stem.with_suffix(".md"), archive]
        if experiment.name in figures.DRAWINGS:
            files.insert(0, stem.with_suffix(".svg"))
            pages.write(files[0], figures.DRAWINGS[experiment.name](plans, runs))
        pages.write(stem.with_suffix(".md"), page)
        print(formats.text(tables), end="")
        for sentence in claims.sentences(judged):
            print(sentence)
        for file in files:
            print(file)
    if failed:
        raise failed[0]


def _tune(command: Tune, overrides: Sequence[str]) -> None:
    from noisylabels.display import TuneDisplay
    from noisylabels.paper.hyperparameters import PUBLISHED
    from noisylabels.run import config
    from noisylabels.studies import pages, space, tune, tune_page
    from noisylabels.studies.launchers import launcher

    pages.require(drawings=True)
    pages.check(command.report)
    # On Slurm, where a study's file would say how, each machine runs the command itself.
    check_choice("--launcher", command.launcher, ("local", "ray"))
    read = space.read(command.space)
    tuning = tune.prepare(
        config.load(command.config, overrides),
        read,
        command.out,
        trials=command.trials,
        seeds=command.seeds,
        prune=command.prune,
        storage=command.storage,
        name=command.config.stem,
        suggestions=PUBLISHED,
    )
    made = launcher(command.launcher, command.jobs)
    trials = tune.open_trials(tuning)
    print(tune.describe(tuning, trials), flush=True)
    with TuneDisplay() as display:
        outcome = tune.run(tuning, trials, made, display)
    for sentence in outcome.sentences():
        print(sentence)
    print(tuning.chosen)
    tune_page.write(outcome, command.report)
    print(command.report)


def _status(command: Status) -> None:
    from noisylabels.studies import status, sweep

    files = [place for place in command.runs if place.suffix == ".toml"]
    places = [place for place in command.runs if place not in files]
    for file in files:
        _study_status(file, command.out)
    if not places:
        return
    _print_table(status.HEADER, [found.row() for found in status.find(places)])
    for place in places:
        for name, jobs in sweep.find_studies(place):
            print(f"{name}: {sweep.summary(jobs)}")


def _audit(command: Audit) -> None:
    from noisylabels.studies import audit, audit_page, pages

    check_choice("--score", command.score, audit.SCORES)
    if command.photos < 0:
        raise ConfigError(f"--photos: expected at least 0, got {command.photos}")
    training = ("backbone", "weights", "minutes")
    defaults = {field.name: field.default for field in fields(Audit)}
    given = [name for name in training if getattr(command, name) != defaults[name]]
    folders = audit.find([Path(word) for word in command.data], folds=command.folds, given=given)
    page = command.out / "audit.html"
    pages.require()
    pages.check(page)
    if folders is None:
        folders = _train_for_audit(command)
    for folder in folders:
        if not folder.finished:
            print(f"not finished, left out: {folder.path}", file=sys.stderr)
    found = audit.judge(audit.read(folders), command.score)
    for sentence in found.sentences():
        print(sentence)
    files = audit.write(found, command.out)
    audit_page.write(
        found, page, photos=command.photos, say=lambda sentence: print(sentence, file=sys.stderr)
    )
    for path in (page, *files):
        print(path)


def _train_for_audit(command: Audit) -> list["RunFolder"]:
    from rich.console import Console

    from noisylabels.display import Display
    from noisylabels.run.labelling import keeping_data
    from noisylabels.studies import fitting

    def say(sentence: str) -> None:
        print(sentence, file=sys.stderr)

    with keeping_data():
        jury = fitting.empanel(
            command.data[0],
            folds=command.folds,
            backbone=command.backbone,
            weights=command.weights,
            minutes=command.minutes,
            say=say,
        )
        runs, console = jury.runs, Console(stderr=True)
        say(f"training {'a run' if runs == 1 else f'{runs} runs'} first")
        with Display(runs=runs, epochs=jury.epochs, console=console) as display:
            return jury.train(command.out / "runs", [display], say)


def _apply(command: Apply) -> None:
    from noisylabels.studies import decisions

    found = decisions.read(command.decisions, command.above)
    made = decisions.apply(found, decisions.configuration(command.data))
    setting = decisions.write(made, command.out)
    counts = [made.counts[action] for action in decisions.ACTIONS]
    print("{} kept, {} relabelled, {} set aside".format(*counts))
    if changed := int((made.test != made.dataset.test.labels).sum()):
        print(f"{changed} of them in the test set: accuracy is counted against their new labels")
    if made.dataset.train.targets is not None:
        print("of votes or sets of candidates one label of each example is left: the rest is lost")
    print(command.out)
    print(f"to train on them: {setting}")


def _study_status(file: Path, out: Path) -> None:
    from noisylabels.studies import study, sweep

    overrides = sweep.last_overrides(file, out)
    if overrides:
        print(f"{file}: as it was last made, with {shlex.join(overrides)}")
    prepared = sweep.prepare(study.read(file, overrides), out)
    _print_table(sweep.STATE_HEADER, sweep.state_rows(prepared))
    for note in prepared.notes:
        print(note)
    for line in sweep.failures(prepared.jobs):
        print(line)
    print(f"{file}: {sweep.summary(prepared.jobs)}")


def _print_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table()
    for name in header:
        words = ("run", "point", "data", "method", "loss")
        table.add_column(name, justify="left" if name in words else "right", overflow="fold")
    listed = list(rows)
    for row in listed:
        table.add_row(*row)
    console = Console(width=None if sys.stdout.isatty() else 120)
    boundless = console.options.update_width(sys.maxsize)
    if console.measure(table, options=boundless).minimum <= console.width:
        console.print(table)
        return
    # A table would have to break words.
    for first, *rest in listed:
        said = ", ".join(f"{n} {value}" for n, value in zip(header[1:], rest, strict=True) if value)
        lines = textwrap.wrap(
            f"{first}: {said}",
            console.width,
            subsequent_indent="  ",
            break_long_words=False,
            break_on_hyphens=False,
        )
        print("\n".join(lines))


def _losses(key: str | None) -> None:
    import inspect

    from noisylabels.losses import LOSSES, hyperparameters
    from noisylabels.paper.hyperparameters import PUBLISHED, describe
    from noisylabels.run.config import find

    chosen = LOSSES if key is None else {key: find(key, LOSSES, "loss")}
    width = max(map(len, chosen))
    for key, loss in chosen.items():
        print(f"{key:{width}} {loss().formula}")
        defaults = describe(hyperparameters(loss))
        print(f"{'':{width}} {loss.__name__}({defaults})")
        for dataset, values in PUBLISHED.get(key, {}).items():
            print(f"{'':{width}} {dataset}: {describe(values)}")
    if len(chosen) == 1:
        # As in the reference, but for the marks that only Sphinx reads.
        text = re.sub(r":[a-z]+:`~?([^`]*)`", r"\1", inspect.getdoc(loss) or "")
        print(f"\n{text.replace('``', '')}")


def _noise_list() -> None:
    from noisylabels.noise import NOISES

    for name, kind in NOISES.items():
        meaning = (kind.__doc__ or "").partition("\n")[0].replace("``", "")
        print(f"{name:19} {meaning}")


def _noise_make(command: NoiseMake, overrides: Sequence[str]) -> None:
    from noisylabels.run import config, spec
    from noisylabels.run.labelling import label
    from noisylabels.run.plan import plan
    from noisylabels.studies import inspection

    changes = config.override_tables(overrides).get("noise", {})
    rate = {} if command.rate is None else {"rate": command.rate}
    if "name" in changes:
        raise ConfigError("--noise.name: must be left out beside the kind")
    if "rate" in changes and rate:
        raise ConfigError("--noise.rate: must be left out beside --rate")
    made = plan(
        config.parse(
            {
                "data": spec.parse(command.data).table(),
                "noise": {"name": command.kind, **rate, **changes},
                "seed": command.seed,
            }
        ),
        trial=False,
    )
    dataset, true = label(made, vectors=False)
    if true is None:
        raise ConfigError(f"noise make: expected a kind of noise, got {command.kind!r}")
    if dataset.train.candidates is not None:
        raise ConfigError(
            f"noise make: {command.kind!r} makes sets of candidates, and a label file holds one "
            f"label for each example: give it to a run, as noise"
        )
    found = inspection.inspect(
        dataset.train.labels, true, dataset.classes, num_classes=len(dataset.classes)
    )
    noise = made.config.noise
    manifest = {
        "kind": noise.name,
        "nominal_rate": noise.parameters.get("rate"),
        "actual_rate": found.rate,
        "seed": noise.parameters.get("seed", command.seed),
        "parameters": dict(noise.parameters),
        "transition_counts": None if found.counts is None else inspection.cells(found.counts),
        "data": {
            **made.config.data.table(),
            "digest": made.source.digest(),
            "examples": len(true),
            "classes": dataset.classes,
        },
    }
    inspection.write(command.out, dataset.train.labels, manifest=manifest)
    print(found.text())
    print(command.out)


def _noise_inspect(command: NoiseInspect) -> None:
    import json

    from noisylabels import labels
    from noisylabels.noise import NOISES
    from noisylabels.run import spec
    from noisylabels.studies import inspection

    given, true = labels.read_with_clean(command.file, command.key)
    classes = None
    if command.data is not None:
        dataset = spec.source(spec.parse(command.data)).load()
        true, classes = dataset.train.labels, dataset.classes
        # Where the file holds clean labels too, these must be the dataset's.
        NOISES["file"](true, path=command.file, key=command.key, num_classes=len(classes))
    if command.clean is not None:
        true = labels.read_clean(command.clean)
    if true is not None:
        num_classes = len(classes) if classes else int(true.max()) + 1
        labels.check(given, command.file, count=len(true), num_classes=num_classes)
    found = inspection.inspect(given, true, classes)
    doubt = inspection.verify(command.file)
    if command.out is not None:
        inspection.draw(found, command.out)
    if command.json:
        print(json.dumps(found.tables(), indent=2))
    else:
        print(found.text())
    if doubt:
        print(doubt, file=sys.stderr)


def _data_show(command: DataShow) -> None:
    from noisylabels.data.decoding import default_workers
    from noisylabels.run import spec
    from noisylabels.studies import preview

    dataset = spec.source(spec.parse(command.data)).load(default_workers())
    for note in dataset.notes:
        print(note)
    preview.write(command.out, command.data, dataset)
    print(command.out)


def _data_check(command: DataCheck) -> None:
    from noisylabels.data.files import WebVision

    checks = {"webvision": WebVision}
    if command.name not in checks:
        raise ConfigError(unknown("dataset to check", command.name, checks))
    for sentence in checks[command.name](root=command.root).check():
        print(sentence)


def _report(runs: Sequence[Path], out: Path) -> None:
    from rich.console import Console
    from rich.measure import Measurement
    from rich.table import Table

    from noisylabels.studies import records, report

    summary = report.summarise(records.read(runs))
    console = Console(width=None if sys.stdout.isatty() else 120)
    settings, rows = len(summary.settings), summary.rows()

    def table(
        header: Sequence[str], rows: Iterable[Sequence[str]], left: int, widest: int | None = None
    ) -> Table:
        made = Table(title=summary.shared, title_justify="left", show_lines=widest is not None)
        for name in header[:left]:
            made.add_column(name, overflow="fold")
        for name in header[left:]:
            made.add_column(name, justify="right", overflow="fold", max_width=widest)
        for row in rows:
            made.add_row(*row)
        return made

    shown = table(summary.header, rows, settings)
    if Measurement.get(console, console.options.update_width(10**6), shown).minimum > console.width:
        # Words would be cut: what tells the groups apart goes into one column.
        titles = [group.title for group in summary.groups]
        told = [(title, *row[settings:]) for title, row in zip(titles, rows, strict=True)]
        shown = table(("runs", *summary.header[settings:]), told, 1, widest=13)
    console.print(shown)
    for line in summary.legend:
        console.print(line, markup=False, highlight=False)
    for run in summary.unfinished:
        print(f"not finished, not in the table: {run.folder}", file=sys.stderr)
    report.write_html(summary, out)
    print(out)


def _table(command: Table) -> None:
    from rich.console import Console

    from noisylabels.studies import formats, pages, records, table

    suffix = command.out.suffix.lower() if command.out else ""
    if command.out and suffix == records.ARCHIVE and not command.format:
        chosen = table.select(records.read(command.runs), command.where)
        records.archive(chosen, command.out, metrics=True)
        print(command.out)
        return
    if command.out and not command.format and suffix not in formats.SUFFIXES:
        known = ", ".join([*formats.SUFFIXES, records.ARCHIVE])
        raise ConfigError(f"--out {command.out}: expected a name that ends in one of {known}")
    format = command.format or formats.SUFFIXES.get(suffix, "text")
    check_choice("--format", format, formats.FORMATS)
    values = table.keys(command.value)
    if not values:
        raise ConfigError("--value: expected a key such as test_accuracy, got none")
    chosen = table.select(records.read(command.runs), command.where)
    rows, columns = table.keys(command.rows), table.keys(command.columns)
    made = [
        table.pivot(chosen, rows, columns, value, best=command.best, against=command.against)
        for value in values
    ]
    for run in chosen:
        if run.result is None:
            print(f"not finished, not in the table: {run.folder}", file=sys.stderr)
    if command.out is not None:
        pages.write(command.out, formats.FORMATS[format](made))
        print(command.out)
    elif format == "text" and sys.stdout.isatty():
        formats.show(made, Console())
    else:
        print(formats.FORMATS[format](made), end="")

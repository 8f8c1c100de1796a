"""A person's decisions about suspicious labels, and the new labels that they make.

No file of the data is changed: what is written is a new table, a label file, or a new archive.
"""

import csv
import io
import json
import os
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from noisylabels.atomic import replacing
from noisylabels.data.batches import derive_seed
from noisylabels.data.examples import Dataset, Examples, LoadReport, Texts, stratified_split
from noisylabels.data.label_encoding import encode_labels
from noisylabels.data.source import LABEL_BEFORE, ImageSource
from noisylabels.data.tables import read_text, write_csv
from noisylabels.errors import ConfigError, DataError, check_range
from noisylabels.run import config, spec
from noisylabels.run.config import Component, RunConfig
from noisylabels.run.folder import RunFolder
from noisylabels.run.labelling import label, read_clean
from noisylabels.run.plan import plan
from noisylabels.studies import pages

FORMAT = "noisylabels decisions 1"
ACTIONS = ("keep", "relabel", "aside")
PARTS = ("train", "validation", "test")
KINDS = (".csv", ".npy", ".npz")
IMAGE_SETTINGS = ("size", "storage", "memory_budget")
"""What a source of images and a table of them can be told alike."""


@dataclass(frozen=True)
class Decision:
    """What is to become of one label.

    Args:
        where: Where the decision stands, for messages.
        part: The part of the data that the example is of.
        row: Its position there.
        place: Where it comes from; "" where that is not known.
        given: The label that it had when it was audited.
        action: ``"keep"``, ``"relabel"`` or ``"aside"``, out of the training set.
        label: The label that it is to have.
    """

    where: str
    part: str
    row: int
    place: str
    given: str
    action: str
    label: str


def read(path: Path, above: float | None = None) -> list[Decision]:
    """Read decisions.

    Args:
        path: What the page of an audit saves (``.json``); or, with ``above``, ``suspects.csv`` or
            the folder of the audit.
        above: Relabel all suspects of at least this score as is suggested, in [0, 1].

    Returns:
        The decisions.

    Raises:
        ConfigError: ``above`` is out of its range, or given or missing where it must not be.
        DataError: The file is missing or damaged, or decides twice about one example.
    """
    if above is not None:
        check_range("above", above, high=1.0)
        path = path / "suspects.csv" if path.is_dir() else path
        if path.suffix.lower() != ".csv":
            raise ConfigError(f"{path}: --above takes suspects.csv, not decisions that were made")
        found = _read_suspects(path, above)
    elif path.suffix.lower() == ".json":
        found = _read_json(path)
    else:
        raise ConfigError(
            f"{path}: expected the .json that the page of an audit saves, or suspects.csv with "
            f"--above 0.95"
        )
    seen: dict[tuple[str, int], str] = {}
    for decision in found:
        example = decision.part, decision.row
        if example in seen:
            raise DataError(f"{decision.where}: decides again about the example of {seen[example]}")
        seen[example] = decision.where
    return found


def _read_json(path: Path) -> list[Decision]:
    try:
        stored = json.loads(read_text(path, errors="surrogateescape"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: expected JSON ({error})") from error
    if not isinstance(stored, dict) or stored.get("format") != FORMAT:
        raise DataError(f"{path}: expected decisions that the page of an audit saved ({FORMAT!r})")
    entries = stored.get("decisions")
    if not isinstance(entries, list):
        raise DataError(f"{path}: expected a list 'decisions', got {entries!r:.80}")
    return [
        _decision(f"{path}: decision {number}", entry)
        for number, entry in enumerate(entries, start=1)
    ]


def _decision(where: str, entry: Any) -> Decision:
    if not isinstance(entry, dict):
        raise DataError(f"{where}: expected an object, got {entry!r:.80}")
    part, row, action = entry.get("part"), entry.get("row"), entry.get("action")
    if action not in ACTIONS:
        raise DataError(f"{where}: expected action {', '.join(ACTIONS)}, got {action!r:.80}")
    if part not in PARTS or type(row) is not int or row < 0:
        raise DataError(f"{where}: expected a part and a row, got {part!r:.80} and {row!r:.80}")
    given = entry.get("given")
    texts = given, entry.get("path", ""), entry.get("label", given)
    if not all(isinstance(text, str) for text in texts):
        raise DataError(f"{where}: expected text for given, path and label, got {texts!r:.120}")
    given, place, new = map(str, texts)
    if action == "relabel" and "label" not in entry:
        raise DataError(f"{where}: expected the label to give, got none")
    return Decision(
        where, str(part), row, place, given, action, new if action == "relabel" else given
    )


def _read_suspects(path: Path, above: float) -> list[Decision]:
    rows = csv.DictReader(io.StringIO(read_text(path, errors="surrogateescape"), newline=""))
    needed = ("part", "row", "path", "given", "suggested", "score")
    missing = [name for name in needed if name not in (rows.fieldnames or ())]
    if missing:
        raise DataError(f"{path}: expected columns {', '.join(missing)} of an audit's suspects.csv")
    found = []
    for number, row in enumerate(rows, start=2):
        where = f"{path}: row {number}"
        try:
            score, position = float(row["score"]), int(row["row"])
        except (ValueError, TypeError) as error:
            raise DataError(f"{where}: expected numbers for score and row ({error})") from error
        if row["part"] not in PARTS or position < 0 or row["suggested"] is None:
            raise DataError(f"{where}: expected a row of an audit's suspects.csv, got {row!r:.120}")
        if score >= above:
            place, given, new = row["path"], row["given"], row["suggested"]
            found.append(Decision(where, row["part"], position, place, given, "relabel", new))
    return found


@dataclass(frozen=True)
class Relabelled:
    """A dataset with the labels that decisions give it.

    Args:
        config: The run whose data it is, without hold-out and limit.
        dataset: The whole dataset with its labels as given.
        train: New labels of the training set, -1 for those set aside.
        test: The same of the test set.
        counts: How many decisions of each action there were.
        true_known: Whether the true labels of the training set are known.
    """

    config: RunConfig
    dataset: Dataset
    train: Tensor
    test: Tensor
    counts: Counter[str]
    true_known: bool


def configuration(data: str) -> RunConfig:
    """Return the run that a word on the command line stands for.

    Args:
        data: A dataset in one word, see :func:`noisylabels.run.spec.parse`; a run's TOML file; or a
            run folder.

    Raises:
        ConfigError: It is none of these.
        DataError: A file of the run folder is damaged.
    """
    path = Path(data)
    if path.suffix == ".toml":
        return config.load(path)
    if (path / "config.json").exists():
        return config.parse(RunFolder(path).config())
    found = spec.parse(data)
    # Texts are no numbers: the quickest way to make some of them.
    features = {"features": "tfidf"} if found.name == "text" else {}
    return config.parse({"data": found.table(), **features})


def apply(found: Sequence[Decision], run: RunConfig) -> Relabelled:
    """Give a dataset's examples the labels that were decided.

    Args:
        found: The decisions.
        run: The run whose data was audited, or one of the same data.

    Returns:
        The dataset with its new labels.

    Raises:
        DataError: A decision is about an example that is not there, or had another label.
    """
    limit = run.data.parameters.get("limit")
    data = {key: value for key, value in run.data.parameters.items() if key != "limit"}
    # A test set that the run left alone belongs to the new table all the same.
    whole = run.replace(data=Component(run.data.name, data), validation=0.0, test=True)
    whole = whole.replace(validation_labels=None, test_labels=None)
    dataset, true = label(plan(whole, trial=False), vectors=False)
    given = {"train": dataset.train.labels, "test": dataset.test.labels}
    new = {part: labels.clone() for part, labels in given.items()}
    # Where the rows of each part, as they were audited, stand in the whole training set.
    rows = torch.arange(len(dataset.train))[: None if limit is None else int(limit)]
    positions = {"train": rows, "test": torch.arange(len(dataset.test))}
    # An audit of all folds counts rows as the data has them.
    if run.validation and not isinstance(run.validation, str):
        seed = derive_seed(run.seed, "validation")
        kept, out = stratified_split(given["train"][rows], run.validation, seed)
        positions |= {"train": rows[kept], "validation": rows[out]}
    elif run.validation_labels is not None:
        clean, _ = read_clean(plan(run, trial=False), "train", dataset)
        assert clean is not None, "as the run says"
        held = clean[rows] >= 0
        positions |= {"train": rows[~held], "validation": rows[held]}
    spellings = Counter(map(pages.legible, dataset.classes))
    # As the page has names that are no text, unless they are no longer told apart.
    numbers = {
        name: number
        for number, own in enumerate(dataset.classes)
        for name in (own, pages.legible(own))
        if name == own or spellings[name] == 1
    }
    for decision in found:
        own = positions.get(decision.part, rows[:0])
        if decision.row >= len(own):
            raise DataError(
                f"{decision.where}: expected a row of {decision.part} below {len(own)}, got "
                f"{decision.row}: this is not the data that was audited"
            )
        part = "test" if decision.part == "test" else "train"
        place = int(own[decision.row])
        _check_given(decision, dataset, part, place)
        if decision.label not in numbers:
            known = ", ".join(dataset.classes[:10]) + ", ..." * (len(numbers) > 10)
            raise DataError(f"{decision.where}: expected a class ({known}), got {decision.label!r}")
        new[part][place] = -1 if decision.action == "aside" else numbers[decision.label]
    counts = Counter(decision.action for decision in found)
    return Relabelled(whole, dataset, new["train"], new["test"], counts, true is not None)


def _check_given(decision: Decision, dataset: Dataset, part: str, row: int) -> None:
    """Refuse a decision that is about another example than the one in that row."""
    examples = dataset.train if part == "train" else dataset.test
    label = dataset.classes[int(examples.labels[row])]
    place = "" if examples.places is None else str(examples.places[row])
    names = label, Path(place).name
    # The page has U+FFFD where a name is no text.
    if [*map(pages.legible, names)] != [
        *map(pages.legible, (decision.given, Path(decision.place).name))
    ]:
        named = f" of {place}" if place else f" in row {row} of {part}"
        raise DataError(
            f"{decision.where}: expected the label {decision.given!r} of "
            f"{decision.place or 'that row'}, got {label!r}{named}: this is not the data that was "
            f"audited"
        )


def write(relabelled: Relabelled, out: Path) -> str:
    """Write the new labels.

    Args:
        relabelled: The dataset with its new labels.
        out: ``.csv``, a table of image files that ``data = {name = "table"}`` reads, or of texts
            that ``data = {name = "text"}`` reads, with the labels as they were in a column of their
            own, without the examples that were set aside, and of votes or sets of candidates with
            one label of each;
            ``.npy``, a label file that ``noise = {name = "file"}`` reads; or ``.npz``, an archive
            of arrays that ``data = {name = "arrays"}`` reads.

    Returns:
        What to write in a run's file, or set on the command line, to train on them.

    Raises:
        ConfigError: ``out`` ends in something else, or cannot hold this data.
        DataError: It cannot be written.
    """
    kind = out.suffix.lower()
    if kind == ".csv":
        texts = isinstance(relabelled.dataset.train.inputs, Texts)
        return _write_texts(relabelled, out) if texts else _write_table(relabelled, out)
    if kind == ".npy":
        return _write_labels(relabelled, out)
    if kind == ".npz":
        return _write_arrays(relabelled, out)
    raise ConfigError(f"{out}: expected a name that ends in {', '.join(KINDS)}")


def _rows(
    relabelled: Relabelled, values: Callable[[Examples], Sequence[str]]
) -> list[tuple[str, str, str, str]]:
    """Return value, label, split and label before of every example that is not set aside.

    Labels of a test set that are right have none before, unless they were changed all the same.
    """
    dataset, classes = relabelled.dataset, relabelled.dataset.classes
    parts = (("train", dataset.train, relabelled.train), ("test", dataset.test, relabelled.test))
    rows = []
    for part, examples, new in parts:
        labels = zip(examples.labels.tolist(), new.tolist(), strict=True)
        for value, (before, now) in zip(values(examples), labels, strict=True):
            if now >= 0:
                own = part == "train" or dataset.test_is_given or now != before
                rows.append((value, classes[now], part, classes[before] if own else ""))
    return rows


def _write_texts(relabelled: Relabelled, out: Path) -> str:
    def values(examples: Examples) -> list[str]:
        assert isinstance(examples.inputs, Texts), "as the training set's are"
        return list(map(str, examples.inputs.values))

    rows = _rows(relabelled, values)
    _write_csv(out, "text", rows)
    labels = [now for _, now, *_ in rows]
    return _table_of(relabelled, labels, 'name = "text"', f"path = {_toml(out)}")


def _write_csv(out: Path, first: str, rows: Sequence[Sequence[str]]) -> None:
    table = io.StringIO()
    write_csv(table, [(first, "label", "split", LABEL_BEFORE), *rows])
    pages.write(out, table.getvalue())


def _write_table(relabelled: Relabelled, out: Path) -> str:
    rows = _rows(relabelled, lambda examples: _files(examples, out))
    _check_once(rows, out)
    root = Path(os.path.commonpath([Path(path).parent for path, *_ in rows]))
    beside = out.absolute().parent.resolve()
    inside = root.is_relative_to(beside)
    top = beside if inside else root
    _write_csv(
        out, "path", [(Path(path).relative_to(top).as_posix(), *cells) for path, *cells in rows]
    )
    where = [] if inside else [f"root = {_toml(root)}"]
    labels = [now for _, now, *_ in rows]
    return _table_of(relabelled, labels, 'name = "table"', f"path = {_toml(out)}", *where)


def _check_once(rows: Sequence[tuple[str, str, str, str]], out: Path) -> None:
    """Refuse a file that several links make several examples of, unless they are the same."""
    seen: dict[str, tuple[str, str]] = {}
    for path, now, part, _ in rows:
        before = seen.setdefault(path, (now, part))
        if before != (now, part):
            raise ConfigError(
                f"{out}: a table names each file once, and {path} is linked to as {before[0]!r} "
                f"({before[1]}) and as {now!r} ({part}): set one of them aside, or write a .npy "
                f'of labels for noise = {{name = "file"}}'
            )


def _table_of(relabelled: Relabelled, labels: Iterable[str], *settings: str) -> str:
    """Return the data of a run's file that reads a table."""
    listed = list(settings)
    if not _reads_back(set(labels)):
        listed.append('labels = "names"')
    source = spec.source(relabelled.config.data)
    if isinstance(source, ImageSource):
        # What is seen of an image is to stay the same.
        listed += [
            f"{name} = {json.dumps(value)}"
            for name in IMAGE_SETTINGS
            if (value := getattr(source, name)) != getattr(ImageSource, name)
        ]
    return f"data = {{ {', '.join(listed)} }}"


def _reads_back(labels: Collection[str]) -> bool:
    """Return whether labels that nobody says to be names are read as those that they are."""
    listed = sorted(labels)
    try:
        numbers, classes, _ = encode_labels(listed, listed, None, LoadReport("raise"))
    except DataError:
        return False
    return [classes[number] for number in numbers.tolist()] == listed


def _toml(path: Path) -> str:
    return json.dumps(str(path), ensure_ascii=False)


def _files(examples: Examples, out: Path) -> list[str]:
    """Return the image file of every example, absolute."""
    places = [] if examples.places is None else [str(place) for place in examples.places]
    missing = next((place for place in places if not Path(place).is_file()), None)
    if len(places) != len(examples) or missing is not None:
        got = f"such as {missing}" if missing else "but arrays"
        raise ConfigError(
            f"{out}: a table names image files, and these are none ({got}): write a .npy of labels "
            f'for noise = {{name = "file"}}, or an .npz'
        )
    return [str(Path(place).resolve()) for place in places]


def _write_labels(relabelled: Relabelled, out: Path) -> str:
    if relabelled.dataset.train.targets is not None:
        raise ConfigError(
            f"{out}: a label file replaces labels, and votes or sets of candidates are learnt "
            f"here: write a .csv (image files, texts) or an .npz (arrays)"
        )
    aside = int((relabelled.train < 0).sum())
    if aside:
        raise ConfigError(
            f"{out}: a label file has a label for every training example, and {aside} are set "
            f"aside: write a .csv (image files) or an .npz (arrays)"
        )
    if not torch.equal(relabelled.test, relabelled.dataset.test.labels):
        raise ConfigError(
            f"{out}: a label file has the labels of the training set alone, and some of the test "
            f"set are relabelled: write a .csv (image files) or an .npz (arrays)"
        )
    _save(out, lambda file: np.save(file, relabelled.train.numpy()))
    # Or the labels as they were would count as the true ones.
    corrects = "" if relabelled.true_known else ", corrects = true"
    return f'noise = {{ name = "file", path = {_toml(out)}{corrects} }}'


def _write_arrays(relabelled: Relabelled, out: Path) -> str:
    dataset = relabelled.dataset
    arrays: dict[str, Any] = {"classes": np.array(dataset.classes)}
    parts = (("train", dataset.train, relabelled.train), ("test", dataset.test, relabelled.test))
    for part, examples, new in parts:
        kept = new >= 0
        arrays |= {
            f"x_{part}": examples.tensor()[kept].numpy(),
            f"y_{part}": new[kept].numpy(),
        }
        before = examples.labels[kept]
        if part == "train" or dataset.test_is_given or not torch.equal(new[kept], before):
            arrays[f"{LABEL_BEFORE}_{part}"] = before.numpy()
    _save(out, lambda file: np.savez_compressed(file, **arrays))
    return f'data = {{ name = "arrays", path = {_toml(out)} }}'


def _save(out: Path, save: Any) -> None:
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with replacing(out) as temporary, temporary.open("wb") as file:
            save(file)
    except OSError as error:
        raise DataError(f"{out}: cannot be written ({error.strerror})") from error

"""Run folders: the one place that knows what their files are called and what is in them."""

import json
import os
import shutil
import socket
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from torch import Tensor

from noisylabels.atomic import replacing, write_json
from noisylabels.errors import CheckpointError, DataError
from noisylabels.labels import read_archive
from noisylabels.run import checkpoint, lock

Metrics = dict[str, float | int | None]
Array = np.ndarray[Any, Any]
State = Literal["finished", "running", "failed", "stopped", "not started"]

FILES = {
    "config.json": "the configuration with every default filled in",
    "identity.json": "all that the result depends on; the folder's name is its hash",
    "setup.json": "device, precision and memory format, chosen once",
    "data.json": "classes, pixel statistics, how many examples, what was found and done while "
    "reading them, and the place and reason of each that was left out; `test_labels`: what test "
    "accuracy is counted against, `clean` where a file of them was named, `given` where those of "
    "the test set are as noisy as the rest, else `true`; null if it is left alone",
    "labels.npz": "`given`, and `true` where it is known, in the order of the training set; "
    "`test`; `validation` (as given) and `validation_rows` (where they stood in the training set) "
    "where examples are held out; `test_clean` and `validation_clean`, -1 where they are not "
    "known, where a file of clean labels was named; and the `places` that examples from files "
    "come from (`test_places`, `validation_places`); and in a poisoned run "
    "the rows that have the trigger (`poisoned`, `validation_poisoned`); where examples have "
    "sets of candidates these too, bool, N x K (`candidates`, ...; `given` has one of each), and "
    "where they have class probabilities those (`shares`, ...)",
    "metrics.jsonl": "a line per epoch",
    "events.*": "the same for TensorBoard",
    "progress.json": "where the last checkpoint stands, and the seconds spent",
    "checkpoint.pt": "all that is needed to continue, and `checkpoint.previous.pt` the one before; "
    "a finished run has neither",
    "predictions.npz": "`train_probabilities`, `test_probabilities` and, with a hold-out, "
    "`validation_probabilities`, float16, N x K, of the last epoch; of methods with several "
    "networks also those of each, `train_networks`, ..., networks x N x K; of a poisoned run "
    "`triggered_probabilities`, of the test set with the trigger; and of each part with given "
    "labels, over the `train_evaluations` epochs that were evaluated (see "
    "`evaluate_every`): `train_mean_probabilities`, `train_mean_given` (the given label's), "
    "`train_mean_margin` (by how much it was above the likeliest other class) and "
    "`train_disagreements` (in how many epochs another class was predicted)",
    "model.safetensors": "the trained weights; its metadata has the class names, the network and "
    "its features (what they have learnt is among the weights, `features/...`), the input shape, "
    "how images are decoded and what inputs are normalised with",
    "result.json": "the last epoch's numbers; it is there if and only if the run is finished. "
    "`mean_candidates`, `test_mean_candidates`: how many candidates an example of the training and "
    "the test set has on average, where it has a set of them; "
    "`actual_noise_rate`: the share of wrong labels, or of sets without the true one; "
    "`commonest_class`: the share of the training labels that is of the commonest class; "
    "`estimated_noise_rate`: which share of the training labels seems wrong, with an interval of "
    "95 % (`_low`, `_high`) and how it was found (`_by`); `test_noise_rate`: the same of test "
    "labels that may be wrong, and `reachable_test_accuracy`: what a classifier without mistakes "
    "would have against them",
    "failure.json": "why the run failed, in one line, and the log that tells more, its path from "
    "here; the next attempt removes it",
    "nonfinite.npz": "the batch of a step that stopped the run, for it was not finite",
    "mlflow.json": "the id that MLflow knows the run by",
}
"""The files of a run folder and what they hold; not every run has all of them."""
REQUIRED = {
    "config.json": ("data", "method", "loss", "seed", "epochs"),
    "identity.json": ("version", "settings", "contents"),
    "result.json": ("run_id", "test_accuracy", "precision", "seconds"),
}
"""What a finished run's files have in any case."""
FAILURE = "failure.json"
LEARNT = "features/"
"""What the names of tensors begin with that are no network's, but its features'."""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Name the file that a block cannot write.

    Args:
        path: The file or folder that the block writes.

    Raises:
        CheckpointError: The block raised an OSError.
    """
    try:
        yield
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be written ({error.strerror or error})") from error


@dataclass(frozen=True)
class RunFolder:
    """A folder that holds, or will hold, one run.

    What is read raises DataError, what is written CheckpointError; both name the file.

    Args:
        path: The folder; its name is the run's id.

    Example:
        >>> RunFolder(Path("runs/0123456789ab")).finished
        False
    """

    path: Path

    @classmethod
    def find(cls, places: Iterable[Path]) -> "list[RunFolder]":
        """Find run folders.

        Args:
            places: Run folders, or folders of run folders.

        Returns:
            The run folders, each once, those of one place in the order of their names.

        Raises:
            DataError: A place is no run folder and holds none.
        """
        found: dict[Path, RunFolder] = {}
        for place in places:
            config = "config.json"
            own = [place / config] if (place / config).exists() else place.glob(f"*/{config}")
            folders = [cls(path.parent) for path in sorted(own)]
            if not folders:
                raise DataError(
                    f"{place}: expected a run folder (with {config}), or a folder of them"
                    + ("" if place.exists() else ", got none")
                )
            for folder in folders:
                found.setdefault(folder.path.resolve(), folder)
        return list(found.values())

    @property
    def finished(self) -> bool:
        """Whether the run is finished."""
        return (self.path / "result.json").exists()

    def state(self) -> State:
        """Return how far the run has come."""
        if self.finished:
            return "finished"
        if lock.is_held(self.path):
            return "running"
        if (self.path / FAILURE).exists():
            return "failed"
        return "stopped" if self.metrics() else "not started"

    @contextmanager
    def held(self) -> Iterator[None]:
        """Make the folder and hold it for this process; a new folder that stays empty is removed.

        Raises:
            CheckpointError: Another process holds it, or it cannot be made.
        """
        parent = self.path.parent
        new, new_parent = not self.path.exists(), not parent.exists()
        with writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        held = False
        try:
            with ExitStack() as stack:
                with writing(self.path):
                    stack.enter_context(lock.locked(self.path))
                held = True
                yield
        finally:
            # Nothing was made: the data was refused, say. Nor is it another process's folder.
            if new and held and {path.name for path in self.path.glob("*")} <= {lock.NAME}:
                shutil.rmtree(self.path, ignore_errors=True)
                if new_parent:
                    with suppress(OSError):
                        parent.rmdir()

    def config(self) -> dict[str, Any]:
        """Read the configuration's tables."""
        return self._read("config.json", REQUIRED["config.json"])

    def identity(self) -> dict[str, Any]:
        """Read what the result depends on."""
        return self._read("identity.json", REQUIRED["identity.json"])

    def failure(self) -> dict[str, Any]:
        """Read why the run failed, and when; nothing if it did not, or is being tried again."""
        there = (self.path / FAILURE).exists()
        return self._read(FAILURE, ("error", "log", "at")) if there else {}

    def setup(self) -> dict[str, Any]:
        """Read how the run was computed so far; nothing if it never was."""
        return self._read("setup.json") if (self.path / "setup.json").exists() else {}

    def result(self) -> dict[str, Any]:
        """Read the last epoch's numbers; the run must be finished."""
        return self._read("result.json", REQUIRED["result.json"])

    def data(self) -> dict[str, Any]:
        """Read what is known of the data."""
        return self._read("data.json", ("classes",))

    def progress(self) -> dict[str, Any]:
        """Read where the last checkpoint stands; nothing if there was none."""
        there = (self.path / "progress.json").exists()
        return self._read("progress.json", ("epoch", "total")) if there else {}

    def labels(self) -> dict[str, Array]:
        """Read the labels, by name."""
        return read_archive(self.path / "labels.npz")

    def predictions(self) -> dict[str, Array]:
        """Read class probabilities of the last epoch, and means over all epochs, by name."""
        return read_archive(self.path / "predictions.npz")

    def model(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Read the trained weights by name, and what is known of the network."""
        from safetensors import SafetensorError, safe_open

        path = self.path / "model.safetensors"
        try:
            with safe_open(path, framework="pt") as file:
                described = json.loads(file.metadata()["noisylabels"])
                return {name: file.get_tensor(name) for name in file.keys()}, described  # noqa: SIM118
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise DataError(f"{path}: expected the weights of a finished run ({error})") from error

    def metrics(self) -> list[Metrics]:
        """Read the metrics of each epoch, in order.

        A last line that was cut while it was written is left out; a run that has not started has
        none.
        """
        path = self.path / "metrics.jsonl"
        if not path.exists():
            return []
        try:
            lines = path.read_text(encoding="utf-8").split("\n")
        except UnicodeDecodeError as error:
            raise DataError(f"{path}: expected UTF-8 text ({error})") from error
        metrics = []
        # What follows the last newline is empty, or cut.
        for number, line in enumerate(lines[:-1], start=1):
            try:
                value = json.loads(line)
                metrics.append({"epoch": int(value["epoch"]), **value})
            except (ValueError, TypeError, KeyError) as error:
                raise DataError(f"{path}: line {number}: expected metrics with an epoch") from error
        return metrics

    def open(
        self, config: Mapping[str, Any], identity: Mapping[str, Any], setup: Mapping[str, Any]
    ) -> None:
        """Write what a run starts with, and remove what a dead process left half-written.

        Args:
            config: The configuration's tables.
            identity: All that the result depends on.
            setup: How the run is computed.
        """
        with writing(self.path):
            for left in self.path.glob(".*.tmp"):
                # The folder is held, so nobody is writing it.
                left.unlink()
            (self.path / FAILURE).unlink(missing_ok=True)
        listing = "".join(f"* `{name}`: {meaning}\n" for name, meaning in FILES.items())
        # What a run starts with need not outlast a power cut before its first checkpoint does.
        readme = self.path / "README.md"
        with writing(readme), replacing(readme, lasting=False) as path:
            path.write_text(f"# A run of noisylabels\n\n{listing}", encoding="utf-8")
        self._write("config.json", config, lasting=False)
        self._write("identity.json", identity, lasting=False)
        self._write("setup.json", setup, lasting=False)

    def fail(self, config: Mapping[str, Any], error: str) -> None:
        """Write why the run failed; its folder is made if it got none.

        Args:
            config: The configuration's tables.
            error: What went wrong, in one line.
        """
        with writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        if not (self.path / "config.json").exists():
            self._write("config.json", config)
        # From this folder, for where it is seen from, and where it will be, nobody knows.
        log = f"../{self.log.relative_to(self.path.parent).as_posix()}"
        self._write(FAILURE, {"error": error, "log": log, "at": time.time()})

    @property
    def log(self) -> Path:
        """Where the log of a failed run is: not in its folder, which others may hold."""
        return self.path.parent / "logs" / f"{self.path.name}.log"

    def write_log(self, text: str) -> Path:
        """Write the log of a failed run, and return its path."""
        with writing(self.log):
            self.log.parent.mkdir(parents=True, exist_ok=True)
            with replacing(self.log) as temporary:
                temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
        return self.log

    def discard_log(self) -> None:
        """Remove the log of an attempt that failed before."""
        with writing(self.log):
            self.log.unlink(missing_ok=True)

    def write_data(self, data: Mapping[str, Any]) -> None:
        """Write what is known of the data."""
        self._write("data.json", data, lasting=False)

    def write_progress(self, progress: Mapping[str, Any]) -> None:
        """Write where the last checkpoint stands."""
        self._write("progress.json", progress, lasting=False)

    def write_labels(self, labels: Mapping[str, Array]) -> None:
        """Write the labels, by name."""
        self._save("labels.npz", labels, lasting=False)

    def write_nonfinite(self, batch: Mapping[str, Array], rank: int | None = None) -> Path:
        """Write a batch that stopped the run.

        Args:
            batch: Its arrays, by name.
            rank: Which process had it, if there are several.

        Returns:
            The file.
        """
        return self._save("nonfinite.npz" if rank is None else f"nonfinite.{rank}.npz", batch)

    def write_metrics(self, metrics: Iterable[Metrics]) -> None:
        """Write the metrics of all epochs so far."""
        path = self.path / "metrics.jsonl"
        with writing(path), replacing(path, lasting=False) as temporary:
            temporary.write_text("".join(map(_line, metrics)), encoding="utf-8")

    def append_metrics(self, metrics: Metrics) -> None:
        """Add the metrics of one epoch."""
        path = self.path / "metrics.jsonl"
        with writing(path), path.open("a", encoding="utf-8") as file:
            file.write(_line(metrics))

    def new_events(self) -> Path:
        """Return a name for TensorBoard's events that no other file has."""
        # TensorBoard knows its files by such names.
        name = f"events.out.tfevents.{time.time():010.0f}.{socket.gethostname()}.{os.getpid()}"
        return self.path / name

    def service(self, name: str) -> dict[str, Any]:
        """Read what a tracking service knows the run by; nothing if it does not."""
        path = f"{name}.json"
        return self._read(path) if (self.path / path).exists() else {}

    def write_service(self, name: str, value: Mapping[str, Any]) -> None:
        """Write what a tracking service knows the run by."""
        self._write(f"{name}.json", value)

    def finish(
        self,
        result: Mapping[str, Any],
        predictions: Mapping[str, Array],
        weights: Sequence[Mapping[str, Tensor]],
        model: Mapping[str, Any],
        learnt: Mapping[str, Tensor] = MappingProxyType({}),
    ) -> None:
        """Write what a run ends with; from then on it is finished, and needs no checkpoints.

        Args:
            result: The last epoch's numbers.
            predictions: Class probabilities of the last epoch, and means over all, by name.
            weights: The weights of each network, by name; nothing where they are not to be kept.
                Of several networks their number comes first in a name, as in ``1.head.bias``.
            model: What is known of the network.
            learnt: What its features have learnt, by name; kept with the weights.
        """
        from safetensors.torch import save

        self._save("predictions.npz", predictions)
        if weights:
            several = len(weights) > 1
            tensors = {
                f"{number}.{name}" if several else name: tensor.detach().cpu().contiguous().clone()
                for number, network in enumerate(weights)
                for name, tensor in network.items()
            }
            tensors |= {f"{LEARNT}{name}": tensor for name, tensor in learnt.items()}
            # One entry, for several come in any order, and the same run is to give the same bytes.
            metadata = {"noisylabels": json.dumps(model)}
            path = self.path / "model.safetensors"
            with writing(path), replacing(path) as temporary:
                # Not save_file, which lets only its owner read the file.
                temporary.write_bytes(save(tensors, metadata))
        self._write("result.json", result)
        self.discard_checkpoints()

    def save_checkpoint(self, state: dict[str, Any]) -> None:
        """Save a checkpoint; the one that was there before becomes the previous one."""
        with writing(self._checkpoint):
            checkpoint.save(self._checkpoint, self.path.name, state)

    def load_checkpoint(self, *, repair: bool) -> tuple[dict[str, Any] | None, str | None]:
        """Load the latest checkpoint that can be read.

        Args:
            repair: Whether to rename a damaged one, lest it become the previous one.

        Returns:
            The state, or None where there is no checkpoint; and what is wrong with the latest, if
            the previous one had to be taken.

        Raises:
            CheckpointError: There is a checkpoint, and none that can be read.
        """
        state, doubt = checkpoint.load_latest(self._checkpoint, self.path.name)
        if doubt and repair:
            with writing(self._checkpoint):
                checkpoint.set_aside(self._checkpoint)
        return state, doubt

    def discard_checkpoints(self) -> None:
        """Remove what only a run that is not finished needs."""
        with writing(self._checkpoint):
            for path in (self._checkpoint, checkpoint.previous(self._checkpoint)):
                path.unlink(missing_ok=True)

    @property
    def _checkpoint(self) -> Path:
        return self.path / "checkpoint.pt"

    def _read(self, name: str, keys: Iterable[str] = ()) -> dict[str, Any]:
        path = self.path / name
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DataError(f"{path}: expected JSON ({error})") from error
        if not isinstance(value, dict):
            raise DataError(f"{path}: expected a JSON object, got {type(value).__name__}")
        missing = [key for key in keys if key not in value]
        if missing:
            raise DataError(f"{path}: expected {', '.join(missing)} in it")
        return value

    def _write(self, name: str, value: Mapping[str, Any], *, lasting: bool = True) -> None:
        with writing(self.path / name):
            write_json(self.path / name, value, lasting=lasting)

    def _save(self, name: str, arrays: Mapping[str, Array], *, lasting: bool = True) -> Path:
        path = self.path / name
        with (
            writing(path),
            replacing(path, lasting=lasting) as temporary,
            temporary.open("wb") as file,
        ):
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
        return path


def _line(metrics: Metrics) -> str:
    return json.dumps(metrics) + "\n"

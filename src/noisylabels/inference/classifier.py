"""A finished run as a classifier."""

import functools
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from noisylabels.data.augment import centre
from noisylabels.data.decoding import decode_for, default_workers
from noisylabels.data.digests import file_digest
from noisylabels.data.examples import Examples, Texts
from noisylabels.data.source import Facts
from noisylabels.data.unlabelled import (
    PillowImages,
    Unlabelled,
    of_array,
    of_images,
    of_texts,
    read_places,
    read_texts,
)
from noisylabels.errors import ConfigError, DataError
from noisylabels.features import Compute, Features
from noisylabels.features.base import WEIGHTS
from noisylabels.inference.metadata import KEY, Description, read
from noisylabels.inference.network import Whole
from noisylabels.run import config
from noisylabels.run.config import Component
from noisylabels.run.device import default_device
from noisylabels.run.folder import LEARNT, RunFolder
from noisylabels.run.plan import REGISTRIES, build, source_digest

Array = np.ndarray[Any, Any]
Inputs = Path | str | Sequence[Path | str] | Image.Image | Sequence[Image.Image] | Tensor | Array
"""What people have: places, images of Pillow's, arrays."""

BATCH = 64
SECONDS_BETWEEN_SENTENCES = 10.0


class Classifier:
    """A trained classifier, see :func:`load`.

    Args:
        described: What its weights say of themselves.
        weights: The weights, by name.
        where: The run folder or file, for messages.

    Attributes:
        classes: The K class names.
        described: What its weights say of themselves.

    Raises:
        ConfigError: A component is not known here, or is not what it was.
        DataError: The weights or a file do not fit.
    """

    def __init__(self, described: Description, weights: Mapping[str, Tensor], where: Path) -> None:
        if described.shares is None:
            raise ConfigError(
                f"{where}: its method combines the predictions of its networks in a way of its "
                f"own, which only the run itself knows"
            )
        self.classes: Final = described.classes
        self.described: Final = described
        self._where = where
        self._device = default_device()
        # First weights are overwritten: the user's own draws go on as if nothing was.
        with torch.random.fork_rng(devices=[]):
            self._features = self._find_features()
            self._learnt: dict[str, Tensor] = {}
            if self._features is not None and self._features.learns:
                self._learnt = {k: v for k, v in weights.items() if k.startswith(LEARNT)}
                weights = {k: v for k, v in weights.items() if k not in self._learnt}
                restore = self._features.restore
                try:
                    restore({k.removeprefix(LEARNT): v for k, v in self._learnt.items()})
                except DataError as error:
                    raise DataError(f"{where}: {error}") from error
            self._whole = self._assemble(weights, described.shares).to(self._device).eval()
        self._whole.requires_grad_(False)

    @property
    def network(self) -> Whole:
        """The whole network: uint8 images, or raw features, in; class probabilities out.

        Images are (N, channels, height, width) of the run's own size, see :attr:`input_shape`;
        normalisation, frozen features and the mean over several networks are inside. It is in
        evaluation mode, its parameters want no gradients, and it is on the default device.

        Raises:
            ConfigError: The run's features are no network.
        """
        if self.apart:
            raise ConfigError(
                f"{self._where}: its features {self.described.features['name']!r} are no "
                f"network (their class has no module), so the whole is none"
            )
        return self._whole

    @property
    def head(self) -> Whole:
        """What is computed by networks: all of it, or all behind features that are none."""
        return self._whole

    @property
    def apart(self) -> bool:
        """Whether frozen features are computed outside the network, for they are none."""
        frozen = self._features is not None and self._features.freeze
        return frozen and self._whole.features is None

    @property
    def recipe(self) -> str:
        """How inputs become the vectors that such features are, in words; "" where nobody says."""
        return self._features.recipe if self._features is not None and self.apart else ""

    def tensors(self) -> dict[str, Tensor]:
        """Return all that is needed to predict: weights, and what the features have learnt."""
        # A tensor of its own for each name: some networks share them.
        own = self._whole.state_dict() | self._learnt
        return {name: tensor.detach().contiguous().clone() for name, tensor in own.items()}

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input: channels, height and width of an image, or (D,)."""
        return self.described.input

    def predict(self, inputs: Inputs) -> list[str]:
        """Predict classes.

        Args:
            inputs: As for :meth:`predict_proba`.

        Returns:
            A class name for each input.

        Raises:
            DataError: As for :meth:`predict_proba`.
        """
        return [self.classes[number] for number in self.predict_proba(inputs).argmax(1)]

    def predict_proba(self, inputs: Inputs) -> Array:
        """Predict class probabilities, as the run does: float32, in batches.

        Args:
            inputs: A folder of images, an image file, a list of image files; a table of paths, a
                Parquet file or an ``.npz`` file; images of Pillow's; or a tensor or array: uint8
                images (N, channels, height, width), (N, height, width, channels) or (N, height,
                width), or features (N, D) in their own units. Images are decoded, resized and
                normalised as those of the run. Of a run on texts: a text, a list of them, or the
                ``Path`` of a table.

        Returns:
            float32 of shape (N, K), in the order of the inputs (a folder's are in alphabetical
            order).

        Raises:
            DataError: An input cannot be read, or is of another kind than the run's.
        """
        found = self._listed(inputs)
        probabilities, bad = self.predict_listed(found)
        _refuse(found, bad)
        return probabilities

    def inputs(self, inputs: Inputs) -> Tensor:
        """Bring inputs to what :attr:`network` takes.

        Args:
            inputs: As for :meth:`predict_proba`.

        Returns:
            uint8 images of :attr:`input_shape`, or float32 features, on the CPU.

        Raises:
            DataError: As for :meth:`predict_proba`.
        """
        found = self._listed(inputs)
        bad = dict(found.bad)
        values: list[Tensor] = []
        for position, value in zip(found.positions(), self._values(found), strict=True):
            if isinstance(value, str):
                bad[position] = value
            else:
                values.append(value)
        _refuse(found, bad)
        return torch.stack(values)

    def predict_listed(
        self, found: Unlabelled, say: Callable[[str], None] = lambda sentence: None
    ) -> tuple[Array, dict[int, str]]:
        """Predict the class probabilities of listed inputs, the bad ones left out.

        Args:
            found: The inputs.
            say: Told now and then how far it has come.

        Returns:
            float32 of shape (N, K), NaN for those that cannot be used; and why, by position.

        Raises:
            DataError: All are of another kind than the run's.
        """
        bad = dict(found.bad)
        result = np.full((len(found.names), len(self.classes)), np.nan, dtype=np.float32)
        positions: list[int] = []
        batch: list[Tensor] = []

        spoke = time.monotonic()

        def flush() -> None:
            nonlocal spoke
            if not batch:
                return
            result[positions] = self._probabilities(torch.stack(batch))
            if time.monotonic() - spoke > SECONDS_BETWEEN_SENTENCES:
                spoke = time.monotonic()
                say(f"{positions[-1] + 1:,} of {len(found.names):,} inputs")
            batch.clear()
            positions.clear()

        if isinstance(found.inputs, Texts):
            # Features take as many as there are.
            if len(found.inputs.values):
                result[found.positions()] = self._probabilities(found.inputs)
            return result, bad
        for position, value in zip(found.positions(), self._values(found), strict=True):
            if isinstance(value, str):
                bad[position] = value
                continue
            positions.append(position)
            batch.append(value)
            if len(batch) == BATCH:
                flush()
        flush()
        return result, bad

    def listed(
        self, places: Sequence[Path], *, column: str | None = None, root: Path | None = None
    ) -> Unlabelled:
        """List what lies at some places, for :meth:`predict_listed`.

        Args:
            places: As for :func:`noisylabels.data.unlabelled.read_places`; of a run on texts one
                table.
            column: A table's column of paths, ``path`` by default, or of texts, ``text`` by
                default.
            root: Folder that a table's paths are relative to; by default that of the table.

        Raises:
            ConfigError: A column or root is given that would be ignored.
            DataError: A place is missing, or has nothing of the kind.
        """
        if not self._texts:
            return read_places(places, column=column, root=root)
        if root is not None:
            raise ConfigError(f"root is for a table of paths: expected none of texts, got {root}")
        if len(places) != 1:
            raise DataError(f"expected one table of texts, got {len(places)} places")
        return read_texts(places[0], column or "text")

    @property
    def _texts(self) -> bool:
        return not self.input_shape

    def _listed(self, inputs: Inputs) -> Unlabelled:
        if self._texts and not isinstance(inputs, Path):
            given = [inputs] if isinstance(inputs, str) else inputs
            texts = [t for t in given if isinstance(t, str)] if isinstance(given, Sequence) else []
            if not isinstance(given, Sequence) or not texts or len(texts) < len(given):
                raise DataError(
                    f"expected texts, or the Path of a table of texts, got {inputs!r:.100}"
                )
            return of_texts(texts)
        if isinstance(inputs, str | Path):
            return self.listed([Path(inputs)])
        if isinstance(inputs, Image.Image):
            return of_images([inputs])
        if isinstance(inputs, Tensor):
            given = inputs.detach().cpu()
            # NumPy knows no bfloat16.
            inputs = (given.float() if given.is_floating_point() else given).numpy()
        if isinstance(inputs, np.ndarray):
            # As torch wants it: not read-only, nor from back to front.
            inputs = np.require(inputs, requirements=("C", "W"))
            # An array that fits as it is may look like another layout too.
            if inputs.dtype == np.uint8 and inputs.shape[1:] == self.input_shape and len(inputs):
                names = list(map(str, range(len(inputs))))
                return Unlabelled(torch.from_numpy(inputs), names, {}, "row")
            return of_array(inputs)
        if isinstance(inputs, Sequence):
            images = [each for each in inputs if isinstance(each, Image.Image)]
            if inputs and len(images) == len(inputs):
                return of_images(images)
            places = [Path(each) for each in inputs if isinstance(each, str | Path)]
            if inputs and len(places) == len(inputs):
                return read_places(places)
        raise DataError(
            f"expected paths, images of Pillow's, or a tensor or array, got {inputs!r:.100}"
        )

    def _values(self, found: Unlabelled) -> Iterator[Tensor | str]:
        """Yield each input as the network takes it, or why it cannot."""
        inputs, images = found.inputs, self.described.images
        if isinstance(inputs, Texts):
            raise DataError("texts are no inputs of a network")
        shape = f"(N, {', '.join(map(str, self.input_shape))})"
        if isinstance(inputs, Tensor):
            if inputs.shape[1:] == self.input_shape:
                yield from inputs
                return
            if inputs.ndim != 4 or images is None:
                raise DataError(
                    f"expected inputs of shape {shape} as those that {self._where} was trained "
                    f"on, got {tuple(inputs.shape)}"
                )
            # Of another size: the way of image files.
            pixels = inputs.permute(0, 2, 3, 1).squeeze(3).numpy()
            inputs = of_images([Image.fromarray(each) for each in pixels]).inputs
            assert isinstance(inputs, PillowImages), "as made in the line before"
        elif images is None:
            kind = "numbers" if len(self.input_shape) == 1 else "arrays"
            raise DataError(
                f"expected {kind} of shape {shape} as those that {self._where} was trained on, got "
                f"image files or images of Pillow's"
            )
        # So few that starting processes takes longer.
        workers = 0 if len(inputs) < 2 * BATCH else default_workers()
        resize = centre((images.height, images.width)) if images.margin else None
        for _, image, _ in decode_for(self._device, inputs, images.spec(), workers, resize):
            yield image

    def _probabilities(self, inputs: Tensor | Texts) -> Array:
        if self._features is not None and self.apart:
            count = inputs.shape[0]
            examples = Examples(inputs, torch.zeros(count, dtype=torch.int64))
            compute = Compute(self._device, 0, lambda *_: "32", lambda *_: torch.contiguous_format)
            extract = functools.partial(
                self._features.extract, {"test": examples}, examples.take(torch.arange(0)), compute
            )
            inputs = build(extract, "features", Component.parse(self.described.features))["test"]
        assert isinstance(inputs, Tensor), "texts have features, which are no network"
        with torch.inference_mode():
            found: Array = self._whole(inputs.to(self._device)).float().cpu().numpy()
        return found

    def _find_features(self) -> Features | None:
        component = Component.parse(self.described.features)
        if component.name == "none":
            return None
        # What was fine-tuned is among the run's own weights, and an export has everything.
        files = not self.described.whole and bool(component.parameters.get("freeze", True))
        target, parameters = self._find("features", component, files=files)
        images, highest = len(self.input_shape) == 3, self.described.highest
        facts = Facts(self.input_shape, images, highest=highest)
        made: Features = build(lambda: target(facts, **parameters), "features", component, Features)
        folders = made.contents()
        for name, value in parameters.items():
            known = self.described.contents.get(f"features.{name}")
            if known is None or isinstance(value, Path) or folders.get(name) == known:
                continue
            where = f"{self._where}: features.{name}"
            if name not in folders:
                raise DataError(f"{where}: expected the folder {value}, which is not there")
            raise DataError(f"{where}: {value} is not the folder that it was when the run was made")
        known = None if self.described.whole else self.described.contents.get(WEIGHTS)
        if known is not None and made.weights_digest() != known:
            raise DataError(
                f"{self._where}: the published weights of its features ({component.name!r}) are "
                f"others than when it was made, in another version of their library or on their hub"
            )
        return made

    def _find(self, what: str, component: Component, *, files: bool) -> tuple[Any, dict[str, Any]]:
        """Find a component, and refuse one that has changed since the run."""
        contents = self.described.contents
        if component.name.partition(":")[0].partition(".")[0] in sys.stdlib_module_names:
            # A file of weights can come from anywhere: it is not to run what it likes.
            raise ConfigError(f"{self._where}: {what} {component.name!r} is no network of anyone's")
        target = config.find(component.name, REGISTRIES[what], f"{self._where}: {what}")
        parameters = config.bind(component, target, f"{self._where}: {what}")
        if ":" in component.name and source_digest(target) != contents.get(
            f"{what} {component.name}"
        ):
            raise ConfigError(
                f"{self._where}: {what} {component.name!r} is not what it was when the run was "
                f"made: its file, or one that it uses, has changed since"
            )
        for name, value in parameters.items():
            if files and isinstance(value, Path):
                try:
                    digest = file_digest(value)
                except DataError as error:
                    raise DataError(f"{self._where}: {what}.{name}: {error}") from error
                if digest != contents.get(f"{what}.{name}"):
                    raise DataError(
                        f"{self._where}: {what}.{name}: {value} is not the file that it was when "
                        f"the run was made"
                    )
        return target, parameters

    def _assemble(self, weights: Mapping[str, Tensor], shares: Sequence[float]) -> Whole:
        described, features = self.described, self._features
        component = Component.parse(described.model)
        target, parameters = self._find("model", component, files=not described.whole)
        make, module = functools.partial(target, **parameters), None
        if features is not None and features.freeze:
            find = functools.partial(features.module, filled=not described.whole)
            module = build(find, "features", Component.parse(described.features))
            if module is None:
                # Then an export does not have their files inside either.
                self._find("features", Component.parse(described.features), files=True)
        elif features is not None:
            make = functools.partial(features.network, head=make, filled=False)
        shape, count = described.shape, len(self.classes)
        counting = [number for number, share in enumerate(shares) if share]
        networks = [
            build(lambda: make(shape, count), "model", component, nn.Module) for _ in counting
        ]
        broadcast = (-1, *[1] * (len(shape) - 1))
        mean, std = (
            torch.tensor(values, dtype=torch.float32).reshape(broadcast)
            for values in (described.mean, described.std)
        )
        made = Whole(module, mean, std, networks, [shares[number] for number in counting])
        parts: list[tuple[nn.Module, Mapping[str, Tensor]]] = [(made, weights)]
        if not described.whole:
            several = described.networks > 1
            prefixes = [f"{number}." if several else "" for number in counting]
            owned = [
                {k[len(prefix) :]: v for k, v in weights.items() if k.startswith(prefix)}
                for prefix in prefixes
            ]
            parts = list(zip(networks, owned, strict=True))
        for network, named in parts:
            try:
                network.load_state_dict(named)
            except RuntimeError as error:
                reason = " ".join(str(error).split())
                raise DataError(
                    f"{self._where}: its weights do not fit its network ({reason:.300})"
                ) from error
        return made


def _refuse(found: Unlabelled, bad: Mapping[int, str]) -> None:
    if bad:
        position = min(bad)
        more = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
        raise DataError(f"{found.place(position)}: {bad[position]}{more}")


def load(run: Path | str) -> Classifier:
    """Load the classifier that a run has trained.

    Args:
        run: The run folder, or a ``.safetensors`` file that ``noisylabels export`` made of one.

    Returns:
        The classifier.

    Raises:
        ConfigError: A network is not known here, or a module of the user's own has changed.
        DataError: The run is not finished or kept no weights; a file is missing, damaged or not
            what it was.
        MissingExtraError: A library that its features need is not installed.

    Example:
        >>> import tempfile
        >>> from noisylabels.run.trainer import train
        >>> run = {"data": "digits", "model": "linear", "epochs": 20}
        >>> with tempfile.TemporaryDirectory() as out:
        ...     classifier = load(train(run, out))
        >>> zeros = torch.zeros(2, 1, 8, 8, dtype=torch.uint8)
        >>> classifier.predict_proba(zeros).shape
        (2, 10)
    """
    path = Path(run)
    if path.is_file():
        return _load_file(path)
    folder = RunFolder(path)
    if not (path / "config.json").exists():
        got = "got none" if path.exists() else "which does not exist"
        raise DataError(f"{path}: expected a run folder (with config.json), {got}")
    if not folder.finished:
        raise DataError(f"{path}: expected a finished run, this one is {folder.state()}")
    if not (path / "model.safetensors").exists():
        kept = folder.config().get("save_model", True)
        reason = "model.safetensors is missing" if kept else "it was made with save_model = false"
        raise DataError(f"{path}: expected a run with its weights, but {reason}")
    weights, described = folder.model()
    return Classifier(read(described, path), weights, path)


def _load_file(path: Path) -> Classifier:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            described = json.loads(file.metadata()[KEY])
            if not described["whole"]:
                raise ValueError("it has no more than a run's own weights")
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{path}: expected a run folder, or what noisylabels export --format safetensors wrote "
            f"({error})"
        ) from error
    return Classifier(read(described, path), weights, path)

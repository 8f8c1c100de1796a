"""Texts as vectors: by their words, or by a pretrained network for sentences."""

import functools
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from noisylabels.data.digests import tensors_digest, tree_digest
from noisylabels.data.examples import Examples, Texts
from noisylabels.data.source import Facts
from noisylabels.errors import ConfigError, DataError, MissingExtraError
from noisylabels.features.base import Compute, Features, Meter
from noisylabels.features.hub import without_retries
from noisylabels.features.reduction import Dimensions

BATCH = 64
TOGETHER = 32 * BATCH
"""Texts that a network is given at once: it puts those of one length into one batch."""
Words = Annotated[int, Field(ge=1)]


class TextFeatures(Features):
    """What takes texts, and cannot be fine-tuned here.

    Args:
        facts: The source's facts.
        name: What it is called, for messages.

    Raises:
        ConfigError: The inputs are no texts.
    """

    freeze = True

    def __init__(self, facts: Facts, name: str) -> None:
        if not facts.texts:
            raise ConfigError(f"{name!r} is for texts, and the data has none")


class Tfidf(TextFeatures):
    """Weights of words and pairs of words, reduced to a few directions; made by :func:`tfidf`."""

    def __init__(self, facts: Facts, dimensions: int, words: int, seed: int) -> None:
        super().__init__(facts, "tfidf")
        self._dimensions = dimensions
        self._words = words
        self._seed = seed

        self._learnt: dict[str, Tensor] | None = None

    learns = True
    recipe = (
        "scikit-learn's TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), "
        "strip_accents='unicode') with the vocabulary in features/words (UTF-8, one in each line) "
        "and the weights in features/idf; times the transpose of features/directions; each vector "
        "divided by its length, if that is not 0"
    )

    def check(self) -> None:
        """Do nothing: there is nothing that can be missing."""

    def learnt(self) -> dict[str, Tensor]:
        """Return the words (UTF-8, a line each), their weights and the directions."""
        assert self._learnt is not None, "asked after the vectors"
        return self._learnt

    def restore(self, learnt: Mapping[str, Tensor]) -> None:
        """Use words, weights and directions that were learnt before.

        Raises:
            DataError: One of them is missing.
        """
        missing = {"words", "idf", "directions"} - set(learnt)
        if missing:
            raise DataError(f"tfidf: expected {', '.join(sorted(missing))} among what was learnt")
        self._learnt = dict(learnt)

    def extract(
        self, parts: Mapping[str, Examples], train: Examples, compute: Compute
    ) -> dict[str, Tensor]:
        """Learn words and directions from the training texts, and apply them to all."""
        if self._learnt is None:
            self._learnt = self._learn(texts(train))
        return {part: self._apply(texts(each), self._learnt) for part, each in parts.items()}

    def _learn(self, learnt: list[str]) -> dict[str, Tensor]:
        from sklearn.decomposition import TruncatedSVD

        weights = self._vectorizer(max_features=self._words)
        try:
            found = weights.fit_transform(learnt)
        except ValueError as error:
            raise DataError(f"tfidf: the training texts have no words ({error})") from error
        dimensions = min(self._dimensions, *(size - 1 for size in found.shape))
        if dimensions < 1:
            raise DataError(f"tfidf: expected more words than {found.shape[1]} in the texts")
        reduced = TruncatedSVD(dimensions, random_state=self._seed).fit(found)
        words = "\n".join(weights.get_feature_names_out().tolist()).encode()
        return {
            "words": torch.frombuffer(bytearray(words), dtype=torch.uint8),
            "idf": torch.from_numpy(weights.idf_),
            "directions": torch.from_numpy(reduced.components_.copy()).float(),
        }

    def _apply(self, given: list[str], learnt: Mapping[str, Tensor]) -> Tensor:
        directions = learnt["directions"]
        if not given:
            return torch.zeros(0, len(directions))
        words = learnt["words"].numpy().tobytes().decode().split("\n")
        weights = self._vectorizer(vocabulary=words)
        weights.idf_ = learnt["idf"].numpy()
        found = weights.transform(given) @ directions.numpy().T
        # A text without any known word stays zero.
        return F.normalize(torch.from_numpy(found).float(), dim=1)

    @staticmethod
    def _vectorizer(**options: Any) -> Any:
        from sklearn.feature_extraction.text import TfidfVectorizer

        return TfidfVectorizer(
            sublinear_tf=True, ngram_range=(1, 2), strip_accents="unicode", **options
        )


class Sentences(TextFeatures):
    """A network of sentence-transformers; made by :func:`sentence`."""

    def __init__(self, facts: Facts, model: str) -> None:
        super().__init__(facts, "sentence")
        self._model = model
        self.recipe = (
            f"SentenceTransformer({model!r}).encode(texts) of the library sentence-transformers, "
            f"whose weights are not in this file"
        )

    def check(self) -> None:
        """Refuse a network that cannot be had."""
        self._load("cpu")

    def contents(self) -> dict[str, str]:
        """Return the digest of a local folder."""
        folder = Path(self._model).expanduser()
        return {"model": tree_digest(folder)} if folder.is_dir() else {}

    def weights_digest(self) -> str | None:
        """Return the digest of a network of the hub."""
        return None if self.contents() else tensors_digest(self._load("cpu").state_dict())

    def extract(
        self, parts: Mapping[str, Examples], train: Examples, compute: Compute
    ) -> dict[str, Tensor]:
        """Encode all texts."""
        network = self._load(compute.device.type)
        meter = Meter(sum(map(len, parts.values())), "texts", compute.say)
        vectors = {}
        for part, examples in parts.items():
            given, rows = texts(examples), []
            for start in range(0, len(given), TOGETHER):
                some = given[start : start + TOGETHER]
                found = network.encode(
                    some, batch_size=BATCH, convert_to_tensor=True, show_progress_bar=False
                )
                rows.append(found.float().cpu())
                meter.add(len(some))
            width = network.get_embedding_dimension()
            vectors[part] = torch.cat(rows) if rows else torch.zeros(0, width)
        meter.end()
        return vectors

    def _load(self, device: str) -> Any:
        name = str(Path(self._model).expanduser()) if self.contents() else self._model
        return _load_network(name, device, *self.contents().values())


@functools.lru_cache(maxsize=1)
def _load_network(model: str, device: str, *digests: str) -> Any:
    """Load a network once in a process: a study of a hundred runs has one."""
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise MissingExtraError("sentence_transformers", "text") from error
    try:
        # A digest is a local folder's.
        with nullcontext() if digests else without_retries():
            return SentenceTransformer(model, device=device, trust_remote_code=False)
    except Exception as error:  # a hub that cannot be reached, a folder of something else
        reason = str(error).partition("\n")[0]
        raise ConfigError(
            f"{model!r}: expected a folder of sentence-transformers, or a name on its hub "
            f"({reason:.200})"
        ) from error


def texts(examples: Examples) -> list[str]:
    """Return the texts of examples.

    Args:
        examples: The examples.

    Raises:
        DataError: They are something else.
    """
    if not isinstance(examples.inputs, Texts):
        raise DataError("expected texts, got inputs of another kind")
    return [str(value) for value in examples.inputs.values]


def tfidf(
    facts: Facts, *, dimensions: Dimensions = 256, words: Words = 50_000, seed: int = 0
) -> Features:
    """Make features of words: TF-IDF of words and pairs of words, then truncated SVD.

    They are learnt from the training texts, and nothing is downloaded.

    Args:
        facts: The source's facts.
        dimensions: Length of the vectors, at least 2; fewer where there are fewer words.
        words: The most words and pairs of words that count, the commonest.
        seed: Seed of the decomposition.

    Raises:
        ConfigError: The data has no texts.

    References:
        Deerwester et al., "Indexing by Latent Semantic Analysis", 1990.
    """
    return Tfidf(facts, dimensions, words, seed)


def sentence(facts: Facts, *, model: str) -> Features:
    """Make features of a pretrained network for sentences.

    Args:
        facts: The source's facts.
        model: A folder of sentence-transformers, of which the contents count, or a name on its
            hub. No code of either is run.

    Raises:
        ConfigError: The data has no texts.
    """
    return Sentences(facts, model)

"""``RobustClassifier`` beside cleanlab's ``CleanLearning`` over logistic regression.

    python benchmarks/cleanlearning.py --images data/cifar10 --weights lite0.pth

Digits, breast cancer and wine as scikit-learn brings them, 30 % of each held out for testing, five
seeds; and the first 5,000 images of CIFAR-10 as 256 principal components of their vectors by
tf_efficientnet_lite0 at 128 pixels, with the 10,000 test images, three seeds. Of the training
labels 20 or 40 % are redrawn among the other classes. Every model has its default parameters, but
for the iterations that logistic regression needs, and the row without a hidden layer, which is a
linear model as logistic regression is; nothing was tuned on these labels or test sets. Seconds are
of the processor, of one thread. Writes ``docs/results/sklearn.json`` and ``sklearn.md``. About six
minutes on one core.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import chain
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cleanlab
import numpy as np
import sklearn
import torch
from cleanlab.classification import CleanLearning
from sklearn.datasets import load_breast_cancer, load_digits, load_wine
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, f1_score
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

from noisylabels.noise import symmetric_exclusive
from noisylabels.run.config import parse
from noisylabels.run.labelling import label
from noisylabels.run.plan import plan
from noisylabels.sklearn import RobustClassifier

FOLDER = Path(__file__).parents[1] / "docs/results"
TABLES = {"digits": load_digits, "breast cancer": load_breast_cancer, "wine": load_wine}
IMAGES = "CIFAR-10 features"
RATES = (0.2, 0.4)
SEEDS = {"digits": 5, "breast cancer": 5, "wine": 5, IMAGES: 3}
TEST = 0.3
COUNT = 5_000
Row = dict[str, Any]
Array = np.ndarray


@dataclass
class Split:
    """Training examples with their true labels, and test examples."""

    x: Array
    y: Array
    x_test: Array
    y_test: Array


@dataclass
class Outcome:
    """Test predictions, how suspicious each training label is, and which count as wrong."""

    predicted: Array
    score: Array | None = None
    is_issue: Array | None = None


def tables(name: str, seed: int) -> Split:
    """Split one of scikit-learn's datasets."""
    x, y = TABLES[name](return_X_y=True)
    x, x_test, y, y_test = train_test_split(x, y, test_size=TEST, random_state=seed, stratify=y)
    return Split(x, y, x_test, y_test)


def images(folder: Path, weights: Path) -> Split:
    """Return images as vectors."""
    features = {"name": "timm", "model": "tf_efficientnet_lite0", "weights": str(weights)}
    run = parse(
        {
            "data": {"name": "parquet", "root": str(folder), "limit": 2 * COUNT},
            "features": features | {"size": 128, "dimensions": 256},
        }
    )
    dataset, _ = label(plan(run), print)
    train, test = dataset.train, dataset.test
    x, y = train.tensor()[:COUNT], train.labels[:COUNT]
    return Split(x.numpy(), y.numpy(), test.tensor().numpy(), test.labels.numpy())


def robust(loss: str, **options: Any) -> Callable[[Split, Array, int], Outcome]:
    """Train with a loss; the training set is judged by the training itself."""

    def fit(split: Split, given: Array, seed: int) -> Outcome:
        classifier = RobustClassifier(loss, random_state=seed, **options).fit(split.x, given)
        issues = classifier.find_label_issues()
        predicted = classifier.predict(split.x_test)
        return Outcome(predicted, issues.wrong_probability, issues.is_issue)

    return fit


def logistic(split: Split, given: Array, seed: int) -> Outcome:
    """Fit logistic regression to the labels as they are."""
    scaler = StandardScaler().fit(split.x)
    model = LogisticRegression(max_iter=1000).fit(scaler.transform(split.x), given)
    return Outcome(model.predict(scaler.transform(split.x_test)))


def clean_learning(split: Split, given: Array, seed: int) -> Outcome:
    """Fit logistic regression to what is left by cleanlab, which judges by five folds."""
    scaler = StandardScaler().fit(split.x)
    model = CleanLearning(
        LogisticRegression(max_iter=1000), seed=seed, find_label_issues_kwargs={"n_jobs": 1}
    )
    model.fit(scaler.transform(split.x), given)
    issues = model.get_label_issues()
    predicted = model.predict(scaler.transform(split.x_test))
    return Outcome(predicted, 1 - issues["label_quality"], issues["is_label_issue"])


MODELS = {
    "RobustClassifier, DAL, hidden layer of 256": robust("dal", hidden_layer_sizes=256),
    "RobustClassifier, DAL, no hidden layer": robust("dal", hidden_layer_sizes=()),
    "RobustClassifier, CE, hidden layer of 256": robust("ce", hidden_layer_sizes=256),
    "LogisticRegression": logistic,
    "CleanLearning(LogisticRegression)": clean_learning,
}


def measure(data: str, split: Split, rate: float, seed: int) -> list[Row]:
    """Try every model with one draw of wrong labels."""
    torch.set_num_threads(1)
    true = torch.from_numpy(split.y).long()
    given = symmetric_exclusive(true, rate=rate, seed=seed).numpy()
    wrong = given != split.y
    rows = []
    for model, fit in MODELS.items():
        begun = time.process_time()
        found = fit(split, given, seed)
        row = {"data": data, "rate": rate, "seed": seed, "model": model}
        row["wrong"] = float(wrong.mean())
        row["seconds"] = time.process_time() - begun
        row["accuracy"] = float((found.predicted == split.y_test).mean())
        if found.score is not None:
            row["average precision"] = float(average_precision_score(wrong, found.score))
            row["F1"] = float(f1_score(wrong, found.is_issue))
            row["issues"] = float(np.mean(found.is_issue))
        rows.append(row)
    return rows


def page(rows: list[Row]) -> str:
    """Write the tables: mean ± standard deviation over seeds."""

    def cell(own: list[Row], name: str, digits: int, factor: float = 1) -> str:
        values = [factor * row[name] for row in own if name in row]
        if not values:
            return ""
        return f"{statistics.mean(values):.{digits}f} ± {statistics.stdev(values):.{digits}f}"

    said = []
    for data in dict.fromkeys(row["data"] for row in rows):
        for rate in RATES:
            setting = [row for row in rows if (row["data"], row["rate"]) == (data, rate)]
            seeds = len({row["seed"] for row in setting})
            wrong = cell(setting, "wrong", 1, 100)
            said += [f"**{data}**, {wrong} % of the labels wrong, {seeds} seeds:", ""]
            said.append(
                "| model | test accuracy, % | average precision | F1 of what is called wrong | "
                "called wrong, % | seconds |"
            )
            said.append("|---|---|---|---|---|---|")
            for model in MODELS:
                own = [row for row in setting if row["model"] == model]
                cells = [
                    model,
                    cell(own, "accuracy", 1, 100),
                    cell(own, "average precision", 3),
                    cell(own, "F1", 3),
                    cell(own, "issues", 1, 100),
                    cell(own, "seconds", 2),
                ]
                said.append(f"| {' | '.join(cells)} |")
            said.append("")
    return "\n".join(said)


def main() -> None:
    """Measure, and write what came out."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=Path, required=True, help="folder of CIFAR-10's Parquet")
    parser.add_argument("--weights", type=Path, required=True, help="of tf_efficientnet_lite0")
    parser.add_argument("--jobs", type=int, default=1, help="processes, of one thread each")
    options = parser.parse_args()
    vectors = images(options.images, options.weights)
    tasks = [
        (data, vectors if data == IMAGES else tables(data, seed), rate, seed)
        for data, seeds in SEEDS.items()
        for rate in RATES
        for seed in range(seeds)
    ]
    with ProcessPoolExecutor(options.jobs, get_context("spawn")) as pool:
        rows = list(chain.from_iterable(pool.map(measure, *zip(*tasks, strict=True))))
    machine = (
        f"{platform.machine()}, one thread, torch {torch.__version__}, scikit-learn "
        f"{sklearn.__version__}, cleanlab {cleanlab.__version__}, {time.strftime('%Y-%m-%d')}"
    )
    (FOLDER / "sklearn.json").write_text(json.dumps({"machine": machine, "rows": rows}, indent=1))
    (FOLDER / "sklearn.md").write_text(page(rows))


if __name__ == "__main__":
    main()

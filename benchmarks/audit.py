"""How well runs tell wrong labels, and how many there are: every score, beside cleanlab's.

    python benchmarks/audit.py --images data/cifar10 --labels data/label \
        --weights lite0.pth --snippets data/text/crowd_snippets.parquet

The first 10,000 training images of CIFAR-10 as vectors of tf_efficientnet_lite0 at 128 pixels, with
published label files and with labels that were mistaken as people mistake them; heads of one layer
and of two, trained with CE, GCE and DAL for 30 epochs of SGD at a learning rate of 0.01; the same
from 8x8 and from 2x2 pixels, for weak models; 1,437 digits as they are; and 19,503 snippets of
reviews with one rater's label against the consensus of all. Writes ``docs/results/audit.json`` and
``audit.md``. Runs that are in ``--out`` are not made again; computing the vectors takes minutes,
once.
"""

import argparse
import json
import platform
import time
from pathlib import Path
from typing import Any

import cleanlab
import numpy as np
import torch
from cleanlab.count import estimate_joint
from cleanlab.rank import get_label_quality_scores
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from noisylabels.estimation import ESTIMATORS, wrong_share
from noisylabels.run.config import parse
from noisylabels.run.folder import RunFolder
from noisylabels.run.labelling import label
from noisylabels.run.plan import plan
from noisylabels.run.trainer import train
from noisylabels.studies import audit

FOLDER = Path(__file__).parents[1] / "docs/results"
COUNT = 10_000
FILES = {
    "symmetric 20 %": "symmetric/cifar10_20",
    "symmetric 40 %": "symmetric/cifar10_40",
    "asymmetric 20 %": "asymmetric/cifar10_20",
    "asymmetric 40 %": "asymmetric/cifar10_40",
    "instance 40 %": "instance/cifar10_40",
}
MISTAKEN = {"mistaken 9 %": 0.09, "mistaken 17 %": 0.17}
"""Labels drawn from what another classifier makes of each image: wrong where images are hard."""
LOSSES = {
    "ce": {"name": "ce"},
    "gce": {"name": "gce"},
    "dal": {"name": "dal", "q_start": 0.6, "q_end": 1.5},
}
HEADS = {"linear": {"name": "linear"}, "mlp": {"name": "mlp", "hidden": [256]}}
CLEANLAB = ("self_confidence", "normalized_margin", "confidence_weighted_entropy")
ABOVE = 0.95
HELD_OUT = 0.2
"""Share of the examples that are held out where estimates are made of these."""
DIGITS = {
    "symmetric 30 %": {"name": "symmetric", "rate": 0.3},
    "pairflip 30 %": {"name": "pairflip", "rate": 0.3},
    "none": {"name": "none"},
}
VERDICT = """\
**What follows.** None is best. On held-out examples the confident joint and disagreement take
some of a network's own mistakes for wrong labels: much where it predicts 85 % of the images,
little on digits, where it predicts 95 %. The posterior takes fewer, and has the least error on
the images; but it takes predictions for probabilities, and where these are too sure or too unsure
it misses half of the wrong labels or more (on digits by means over epochs, and with CE). Of what
was mistaken on hard examples the confident joint finds 92 and 54 %, the posterior a fifth,
and disagreement as many as are wrong or more. So the confident joint stays the default of
`estimate_noise_rate`: but for such mistakes its error is upwards and at most the network's own
error rate, which is known; nothing tells the posterior's. On examples that were trained on none
tells much with CE, which learns wrong labels, and with DAL and GCE all are alike. A hundred clean
labels tell more than any of them (`validation_labels`, see [data](../data.md))."""
Row = dict[str, Any]


def images(folder: Path, weights: Path, out: Path) -> dict[str, Path]:
    """Write the images as vectors, and as a few pixels; return the archives by name."""
    run = parse(
        {
            "data": {"name": "parquet", "root": str(folder), "limit": COUNT},
            "features": {
                "name": "timm",
                "model": "tf_efficientnet_lite0",
                "weights": str(weights),
                "size": 128,
            },
        }
    )
    sides = {"features": None, "pixels": 8, "few": 2}
    paths = {name: out / f"{name}.npz" for name in sides}
    for name, path in paths.items():
        if not path.exists():
            side = sides[name]
            dataset, _ = label(plan(run), print, vectors=side is None)
            arrays = {}
            for part, examples in (("train", dataset.train), ("test", dataset.test)):
                x = examples.tensor().float()
                if side is not None:
                    x = torch.nn.functional.adaptive_avg_pool2d(x, side).flatten(1)
                arrays |= {f"x_{part}": x.numpy(), f"y_{part}": examples.labels.numpy()}
            np.savez(path, **arrays)
    return paths


def snippets(file: Path, out: Path) -> tuple[Path, np.ndarray]:
    """Write the snippets as vectors with the consensus as labels; return one rater's beside."""
    import pandas
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    frame = pandas.read_parquet(file)
    classes = sorted(frame["consensus"].unique())
    true, given = (frame[name].map(classes.index).to_numpy() for name in ("consensus", "one_rater"))
    order = np.random.default_rng(0).permutation(len(frame))
    train_, test = order[: -len(order) // 5], order[-len(order) // 5 :]
    path = out / "snippets.npz"
    if not path.exists():
        words = TfidfVectorizer(ngram_range=(1, 2), min_df=3, sublinear_tf=True)
        x = words.fit_transform(frame["text"])
        x = TruncatedSVD(300, random_state=0).fit_transform(x).astype(np.float32)
        np.savez(path, x_train=x[train_], y_train=true[train_], x_test=x[test], y_test=true[test])
    return path, given[train_].astype(np.int64)


def noises(labels: Path, archive: Path) -> dict[str, np.ndarray]:
    """Return the given labels by kind of noise."""
    arrays = np.load(archive)
    true = arrays["y_train"]
    given = {name: np.load(labels / f"{file}.npy")[:COUNT] for name, file in FILES.items()}
    x, rows = arrays["x_train"], np.arange(COUNT)
    scale = x.std(0) + 1e-6
    people = LogisticRegression(C=0.003, tol=1e-2, max_iter=200)
    people.fit((arrays["x_test"] - x.mean(0)) / scale, arrays["y_test"])
    p = people.predict_proba((x - x.mean(0)) / scale)
    hard = 1 - p[rows, true]
    p[rows, true] = 0
    cumulated = (p / p.sum(1, keepdims=True)).cumsum(1)
    for name, rate in MISTAKEN.items():
        draws = np.random.default_rng(0)
        low, high = 0.0, 100.0
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (
                (middle, high) if np.minimum(1, middle * hard).mean() < rate else (low, middle)
            )
        flipped = draws.random(COUNT) < np.minimum(1, low * hard)
        other = (cumulated < draws.random(COUNT)[:, None]).sum(1).clip(max=9)
        given[name] = np.where(flipped, other, true)
    draws = np.random.default_rng(1)
    few = draws.random(COUNT) < 0.05 * 10 / 9
    given["symmetric 5 %"] = np.where(few, draws.integers(0, 10, COUNT), true)
    given["none"] = true
    return {name: each.astype(np.int64) for name, each in given.items()}


def judge(folder: Path) -> Row:
    """Compare what a run tells with the truth."""
    evidence = audit.read([RunFolder(folder)])
    wrong = evidence.labels != evidence.true
    count = int(wrong.sum())
    labels = torch.from_numpy(evidence.labels)
    row: Row = {"accuracy": evidence.accuracy, "wrong": float(wrong.mean()), "estimates": {}}
    for name, joint in ESTIMATORS.items():
        for of, p in (("mean", evidence.mean), ("last", evidence.last)):
            row["estimates"][f"{name}, {of}"] = wrong_share(joint(torch.from_numpy(p), labels))
    scores = {name: np.clip(score(evidence), 0, 1) for name, score in audit.SCORES.items()}
    row["estimates"]["mean score"] = float(scores[audit.DEFAULT_SCORE].mean())
    theirs = estimate_joint(evidence.labels, evidence.mean)
    row["estimates"]["cleanlab, mean"] = float(1 - np.trace(theirs))
    for of, p in (("mean", evidence.mean), ("last", evidence.last)):
        for method in CLEANLAB:
            quality = get_label_quality_scores(evidence.labels, p.astype(float), method=method)
            scores[f"cleanlab {method}, {of}"] = 1 - quality
    if count:
        row["scores"] = {
            name: {
                "average precision": audit.average_precision(wrong, score),
                "precision at k": audit.precision_at(wrong, score, count),
                "area": float(roc_auc_score(wrong, score)),
            }
            for name, score in scores.items()
        }
    found = audit.judge(evidence)
    sure = found.score >= ABOVE
    row["above"] = int(sure.sum())
    row["skill"], row["alike"] = found.skill, found.alike
    row["precision"] = {}
    for first in (100, audit.FIRST, len(found.suspects)):
        suspects = found.suspects[:first]
        row["precision"][str(first) if first < len(found.suspects) else "all"] = {
            "suspects": len(suspects),
            "expected": found.precision(first),
            "real": float(wrong[suspects].mean()) if len(suspects) else 0.0,
        }
    if sure.any():
        row["above wrong"] = float(wrong[sure].mean())
        row["above right suggestion"] = float((found.suggested == evidence.true)[sure].mean())
    return row


def judge_held_out(folder: Path) -> dict[str, float]:
    """Estimate how many labels are wrong from examples that a run was not trained on."""
    evidence = audit.read([RunFolder(folder)])
    out = evidence.parts == "validation"
    labels = torch.from_numpy(evidence.labels[out])
    return {
        f"{name}, {of}": wrong_share(joint(torch.from_numpy(p[out]), labels))
        for name, joint in ESTIMATORS.items()
        for of, p in (("mean", evidence.mean), ("last", evidence.last))
    }


def judge_digits(out: Path) -> list[Row]:
    """Estimate how many labels of held-out digits are wrong, which a network predicts well."""
    rows = []
    for noise, table in DIGITS.items():
        for name, loss in LOSSES.items():
            run = {
                "data": "digits",
                "noise": table,
                "model": {"name": "mlp", "hidden": [64]},
                "loss": loss,
                "optimizer": {"name": "sgd", "lr": 0.1},
                "epochs": 60,
                "validation": 0.25,
            }
            folder = train(plan(parse(run)), out)
            result = RunFolder(folder).result()
            estimates = judge_held_out(folder)
            about = {"noise": noise, "loss": name, "accuracy": result["test_accuracy"]}
            rows.append(about | {"wrong": result["actual_noise_rate"], "estimates": estimates})
    return rows


def main() -> None:
    """Make the runs, and write what came out."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=Path, required=True, help="folder of CIFAR-10's Parquet")
    parser.add_argument("--labels", type=Path, required=True, help="folder of label files")
    parser.add_argument("--weights", type=Path, required=True, help="of tf_efficientnet_lite0")
    parser.add_argument("--snippets", type=Path, required=True, help="crowd_snippets.parquet")
    parser.add_argument("--out", type=Path, default=Path("runs/audit"))
    options = parser.parse_args()
    out: Path = options.out
    out.mkdir(parents=True, exist_ok=True)
    archives = images(options.images, options.weights, out)
    text, rater = snippets(options.snippets, out)
    wanted: list[tuple[str, str, Path, str, np.ndarray]] = []
    for noise, given in noises(options.labels, archives["features"]).items():
        wanted += [(noise, head, archives["features"], head, given) for head in HEADS]
        if noise in ("symmetric 40 %", "instance 40 %"):
            wanted.append((noise, "linear, pixels", archives["pixels"], "linear", given))
            wanted.append((noise, "linear, few pixels", archives["few"], "linear", given))
    wanted.append(("one rater, snippets", "linear", text, "linear", rater))
    rows = []
    for noise, title, archive, head, given in wanted:
        path = out / f"{archive.stem} {noise.replace(' %', '')}.npy"
        np.save(path, given)
        for loss in LOSSES:
            run = {
                "data": {"name": "arrays", "path": str(archive)},
                "noise": {"name": "file", "path": str(path)},
                "model": HEADS[head],
                "loss": LOSSES[loss],
                "optimizer": {"name": "sgd", "lr": 0.01},
                "epochs": 30,
            }
            folder = train(plan(parse(run)), out)
            rows.append({"noise": noise, "head": title, "loss": loss} | judge(folder))
            if "few" not in title:
                held_out = train(plan(parse(run | {"validation": HELD_OUT})), out)
                rows[-1]["held out"] = judge_held_out(held_out)
            print(noise, title, loss, f"{rows[-1]['accuracy']:.3f}", flush=True)
    for noise, share in (("digits, symmetric 40 %", 0.4), ("digits, none", 0.0)):
        for loss in LOSSES:
            run = {
                "data": "digits",
                "noise": {"name": "symmetric", "rate": share},
                "model": HEADS["mlp"],
                "loss": LOSSES[loss],
                "optimizer": {"name": "sgd", "lr": 0.05},
                "epochs": 100,
            }
            folder = train(plan(parse(run)), out)
            rows.append({"noise": noise, "head": "mlp", "loss": loss} | judge(folder))
    machine = (
        f"{platform.machine()}, one thread, torch {torch.__version__}, cleanlab "
        f"{cleanlab.__version__}, {time.strftime('%Y-%m-%d')}, one seed"
    )
    FOLDER.mkdir(parents=True, exist_ok=True)
    digits = judge_digits(out)
    found = {"machine": machine, "rows": rows, "digits": digits}
    (FOLDER / "audit.json").write_text(json.dumps(found, indent=1))
    (FOLDER / "audit.md").write_text(page(rows, digits, machine))


def table(header: list[str], cells: list[list[str]]) -> str:
    """Lay out a Markdown table."""
    lines = [header, ["---"] * len(header), *cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def page(rows: list[Row], digits: list[Row], machine: str) -> str:
    """Write the tables."""
    ours = list(audit.SCORES)
    ranked, counted, sure, trusted = [], [], [], []
    for row in rows:
        about = [row["noise"], row["head"], row["loss"], f"{100 * row['accuracy']:.1f}"]
        if "scores" in row:
            precision = {name: score["average precision"] for name, score in row["scores"].items()}
            theirs = {
                of: [precision[f"cleanlab {method}, {of}"] for method in CLEANLAB]
                for of in ("mean", "last")
            }
            at = [row["scores"][audit.DEFAULT_SCORE]["precision at k"]]
            at.append(row["scores"]["cleanlab self_confidence, mean"]["precision at k"])
            ranked.append(
                [
                    *about,
                    *(f"{precision[name]:.3f}" for name in ours),
                    *(f"{value:.3f}" for value in theirs["mean"][:2]),
                    f"{theirs['last'][0]:.3f}",
                    *(f"{value:.3f}" for value in at),
                    f"{row['scores'][audit.DEFAULT_SCORE]['area']:.3f}",
                ]
            )
        estimates = {name: f"{100 * value:.1f}" for name, value in row["estimates"].items()}
        counted.append([*about, f"{100 * row['wrong']:.1f}", *estimates.values()])
        above = [
            f"{100 * row.get(f'above {what}', 0):.1f}" for what in ("wrong", "right suggestion")
        ]
        known = row["precision"]
        cells = [
            f"{100 * known[first]['expected']:.0f} / {100 * known[first]['real']:.0f}"
            if first in known
            else ""
            for first in ("100", str(audit.FIRST), "all")
        ]
        trusted.append([*about, f"{row['alike']:.2f}", *cells, f"{known['all']['suspects']:,}"])
        sure.append([*about, f"{row['above']:,}", *(above if row["above"] else ["", ""])])
    summary = []
    for noise in dict.fromkeys(row["noise"] for row in rows if "scores" in row):
        own = [
            {name: score["average precision"] for name, score in row["scores"].items()}
            for row in rows
            if row["noise"] == noise and row["loss"] != "ce" and "pixels" not in row["head"]
        ]
        means = {name: float(np.mean([each[name] for each in own])) for name in own[0]}
        shown = [means[audit.DEFAULT_SCORE], means["mean-given"]]
        shown += [means[f"cleanlab {method}, mean"] for method in CLEANLAB]
        shown += [means["cleanlab self_confidence, last"]]
        summary.append([noise, *(f"{value:.3f}" for value in shown)])
    lost_header = ["cleanlab's score", "mean gain", "greatest loss", "where", "below by over 0.001"]
    lost = []
    ranked_rows = [row for row in rows if "scores" in row]
    for of in ("mean", "last"):
        for method in CLEANLAB:
            gains = []
            for row in ranked_rows:
                own = row["scores"][audit.DEFAULT_SCORE]["average precision"]
                gain = own - row["scores"][f"cleanlab {method}, {of}"]["average precision"]
                gains.append((gain, f"{row['noise']}, {row['head']}, {row['loss']}"))
            worst, where = min(gains)
            many = sum(gain < -0.001 for gain, _ in gains)
            mean = float(np.mean([gain for gain, _ in gains]))
            title = f"{method.replace('_', ' ')}, {of}"
            lost.append([title, f"{mean:+.3f}", f"{worst:+.4f}", where, str(many)])
    names = list(rows[0]["estimates"])
    sound = [
        row for row in rows if "pixels" not in row["head"] and not row["noise"].startswith("digits")
    ]
    errors = []
    for loss in LOSSES:
        for of in ("estimates", "held out"):
            own = [row for row in sound if row["loss"] == loss]
            means = [
                100 * np.mean([abs(row[of][name] - row["wrong"]) for row in own])
                if name in own[0][of]
                else None
                for name in names
            ]
            cells = ["" if value is None else f"{value:.1f}" for value in means]
            errors.append([loss, "training" if of == "estimates" else "held-out", *cells])
    signed = []
    for noise in dict.fromkeys(row["noise"] for row in sound):
        own = [row for row in sound if row["noise"] == noise and row["loss"] != "ce"]
        means = [
            100 * np.mean([row[of][f"{name}, mean"] - row["wrong"] for row in own])
            for of in ("estimates", "held out")
            for name in ESTIMATORS
        ]
        wrong = 100 * own[0]["wrong"]
        signed.append([noise, f"{wrong:.1f}", *(f"{value:+.1f}" for value in means)])
    easy = [
        [
            *(row["noise"], row["loss"], f"{100 * row['accuracy']:.1f}"),
            *(f"{100 * value:.1f}" for value in (row["wrong"], *row["estimates"].values())),
        ]
        for row in digits
    ]
    mean_errors = [
        100 * np.mean([abs(row["estimates"][name] - row["wrong"]) for row in digits])
        for name in digits[0]["estimates"]
    ]
    easy.append(["mean absolute error", "", "", "", *(f"{value:.1f}" for value in mean_errors)])
    signed_header = [f"{name}, {of}" for of in ("training", "held-out") for name in ESTIMATORS]
    summary_header = [
        "noise",
        "posterior (default)",
        "mean-given",
        "cleanlab self-confidence",
        "cleanlab normalised margin",
        "cleanlab confidence-weighted entropy",
        "cleanlab self-confidence, last",
    ]
    head = ["noise", "head", "loss", "test accuracy, %"]
    theirs_header = ["cleanlab self-confidence", "cleanlab margin", "cleanlab self-conf., last"]
    return f"""# Which labels are wrong

What `noisylabels audit` makes of runs, against the true labels: `benchmarks/audit.py`
({machine}). Data, labels and settings are in its first lines. "mean" is over the 30 epochs of
training, "last" the last epoch alone; cleanlab's scores are of the same probabilities, those of the
runs (not out-of-fold).

## In short

Mean average precision over the heads, with DAL and GCE: ours, and cleanlab's scores.

{table(summary_header, summary)}

## Against cleanlab

The default score less each of cleanlab's, in average precision, over all {len(ranked)} rows
below. On the same probabilities it is nowhere below cleanlab's own default, the self-confidence, by
more than the first row says: it is the same order where wrong labels go no one way, and a better
one where they do. The other scores are above it on some kinds of rows:

{table(lost_header, lost)}

* The margin, where the wrong labels were learnt by heart (CE): it looks at the class that is taken
  for the label instead, whose probability falls last. `--score mean-margin` is the same.
* The entropy, where the network is weak or people mistook hard examples: it divides by how unsure
  the network is, so that sure disagreement comes first. With symmetric labels it loses up to 0.06.
* The last epoch, where a robust loss has learnt no wrong label by then (`--score last-given` is the
  same). With CE the last epoch loses 0.15, and no run says beforehand which of both it is.

## Ranking

Average precision of each score; at the end, the precision of the first k for k wrong labels (ours,
then cleanlab's self-confidence), and the area under the curve of ours.

{table([*head, *ours, *theirs_header, "P@k", "P@k cleanlab", "area"], ranked)}

## How many are wrong

Estimates in percent of all labels. "mean score" is the mean of the posterior score.

{table([*head, "wrong", *names], counted)}

Mean absolute error in percentage points, over the rows above but those of pixels and digits; by
the examples that were trained on, as above, and by {100 * HELD_OUT:.0f} % of them, held out of
another run:

{table(["loss", "examples", *names], errors)}

By how much the share of wrong labels is overestimated, in percentage points, by means over epochs
(averages over the heads, with DAL and GCE):

{table(["noise", "wrong", *signed_header], signed)}

The same estimates by held-out digits (a quarter of the training set; a perceptron, 60 epochs),
which are easy, in percent:

{table(["noise", "loss", "test accuracy, %", "wrong", *digits[0]["estimates"]], easy)}

{VERDICT}

## How far the ranking can be trusted

The expected and the real share of wrong labels among the first 100, the first {audit.FIRST} and all
suspects, in percent; "alike" is the share of what looks wrong that may be the network's own
mistakes. Above {audit.TOO_MANY} the page says so in place of a number, and below a skill of
{audit.WEAK} (accuracy above chance) that the network is too weak.

{table([*head, "alike", "first 100", f"first {audit.FIRST}", "all", "suspects"], trusted)}

## Without a person

Labels whose posterior score is at least {ABOVE} (`noisylabels apply --above {ABOVE}`): how many,
how many of them are wrong, and how many suggestions are the true class, in percent.

{table([*head, "labels", "wrong", "suggestion right"], sure)}
"""


if __name__ == "__main__":
    main()

r"""Tune every loss alike at a scale, on a hold-out of noisy labels.

    python benchmarks/paper_tuning.py features cifar10 --labels label --weights lite0.pth
    python benchmarks/paper_tuning.py features cifar100 --names elr,elr+dal,jocor,jocor+dal ...
    python benchmarks/paper_tuning.py digits digits --names later
    python benchmarks/paper_tuning.py digits digits --names all --decay l1

Each loss has the same number of trials over its own parameters, the learning rate and the weight
decay (``benchmarks/spaces``), chosen by the accuracy on a tenth of the training set with 40 %
symmetric noise, held out with its given labels; no test label is seen. The bigger methods of table
5 are tuned in the same way, each side by itself: with its own loss, and with DAL in its place
(GJS, whose two weights must agree, is not). The chosen values go into
``src/noisylabels/paper/tuned/SCALE.toml``, where ``noisylabels paper`` finds them, and every trial
into ``docs/results/paper/tuning-SCALE-DATASET.json``. With ``--decay l1`` the penalty on the
weights is L1 in place of L2; where a loss has been tuned with both, the better one by its hold-out
goes into ``SCALE-either.toml``, for ``noisylabels paper fair``. The same command continues.
"""

import argparse
import json
import tomllib
from pathlib import Path
from typing import Any

from noisylabels.atomic import replacing
from noisylabels.display import TuneDisplay
from noisylabels.paper.experiments import (
    CURVES,
    HOSTS,
    INSIDE,
    LATER_LOSSES,
    LOSSES,
    PAIRS,
    host_key,
    own_loss,
)
from noisylabels.paper.hyperparameters import PUBLISHED
from noisylabels.paper.protocol import SCALES, Protocol
from noisylabels.run import config
from noisylabels.studies import space, study, tune
from noisylabels.studies.launchers import launcher

HERE = Path(__file__).parents[1]
SPACES = HERE / "benchmarks/spaces"
TUNED = HERE / "src/noisylabels/paper/tuned"
RESULTS = HERE / "docs/results/paper"
NAMED = {
    "paper": list(LOSSES.values()),
    "later": list(LATER_LOSSES.values()),
    "all": [*LOSSES.values(), *LATER_LOSSES.values()],
}
L1 = {"low": 1e-8, "high": 1e-3, "log": True}
"""The range of an L1 penalty: that of the L2 penalty times weights of about a hundredth."""
WITHOUT_L2 = {"weight_decay": 0.0}
Found = dict[str, Any]


def main() -> None:
    """Tune, and write what was chosen."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.add_argument("scale", choices=SCALES)
    parser.add_argument("dataset")
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--labels", type=Path)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--names", default="paper", help="paper, later, all, or keys")
    parser.add_argument("--decay", choices=("l2", "l1"), default="l2")
    parser.add_argument("--precision", default="auto", help="that of a run's file")
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("runs"))
    given = parser.parse_args()
    protocol = Protocol(given.scale, given.data, given.labels, given.weights)
    noise = protocol.noise(given.dataset, CURVES)
    base = protocol.base(given.dataset) | {
        "noise": noise,
        "evaluate_every": 1000,
        "precision": given.precision,
    }
    suffix = "-l1" if given.decay == "l1" else ""
    searchable = {path.stem for path in SPACES.glob("*.toml")}
    named = {key: tuned_alike(key) for key in NAMED.get(given.names, given.names.split(","))}
    if missing := [key for key, (_, name) in named.items() if name not in searchable]:
        parser.error(f"--names: nothing to search for {', '.join(missing)} in {SPACES}")
    for key, (changes, name) in named.items():
        searched = tomllib.loads((SPACES / f"{name}.toml").read_text())
        own = config.parse(base | changes)
        if given.decay == "l1":
            del searched["optimizer.weight_decay"]
            searched["optimizer.l1_decay"] = L1
            own = config.parse(base | changes | {"optimizer": own.optimizer.table() | WITHOUT_L2})
        tuning = tune.prepare(
            own,
            space.parse(searched, SPACES / f"{name}.toml"),
            given.out,
            trials=given.trials,
            name=f"{given.scale}-{given.dataset}-{key}{suffix}",
            suggestions=PUBLISHED,
        )
        trials = tune.open_trials(tuning)
        print(tune.describe(tuning, trials), flush=True)
        with TuneDisplay() as display:
            outcome = tune.run(tuning, trials, launcher("local", given.jobs), display)
        chosen = dict(outcome.chosen.trial.values)
        if given.decay == "l2":
            keep(given.scale, given.dataset, key, chosen)
        described = [
            {"number": each.number, "values": each.values, "accuracy": each.accuracy}
            for each in outcome.trials
        ]
        path = RESULTS / f"tuning-{given.scale}-{given.dataset}.json"
        found = json.loads(path.read_text()) if path.exists() else {}
        found[key + suffix] = {
            "chosen": outcome.chosen.trial.number,
            "hold-out accuracy": outcome.chosen.mean,
            "trials": described,
        }
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(found, indent=1) + "\n")
        if key in found and f"{key}-l1" in found:
            keep(
                f"{given.scale}-either", given.dataset, key, better(found[key], found[f"{key}-l1"])
            )


def better(l2: Found, l1: Found) -> dict[str, object]:
    """Return the values chosen with either penalty, those with the better hold-out accuracy.

    It is the mean over seeds, where both have it, else that of the first.
    """
    chosen = [
        next(trial for trial in each["trials"] if trial["number"] == each["chosen"])
        for each in (l2, l1)
    ]
    means = [each.get("hold-out accuracy") for each in (l2, l1)]
    l2_has, l1_has = [t["accuracy"] for t in chosen] if None in means else means
    with_l1 = l1_has > l2_has
    trial = chosen[with_l1]
    without = {f"optimizer.{name}": value for name, value in WITHOUT_L2.items()} if with_l1 else {}
    return trial["values"] | without


def tuned_alike(key: str) -> tuple[dict[str, object], str]:
    """Return what is tuned by a key, as changes of a run's file, and the name of its space."""
    method = key.removesuffix("+dal")
    if method not in HOSTS.values():
        return {"loss": key}, key
    told = {"forget_rate": CURVES.rate} if method in PAIRS else {}
    loss = INSIDE if key == host_key(method, dal=True) else own_loss(method)
    return {"method": {"name": method, **told}, "loss": loss}, method


def keep(name: str, dataset: str, key: str, values: dict) -> None:
    """Write chosen values beside those of other losses and datasets."""
    path = TUNED / f"{name}.toml"
    tables = tomllib.loads(path.read_text()) if path.exists() else {}
    rounded = {
        name: float(f"{value:.3g}") if isinstance(value, float) else value
        for name, value in values.items()
    }
    tables.setdefault(dataset, {})[key] = rounded
    study.write(path, tables, "Chosen on noisy hold-outs by benchmarks/paper_tuning.py.")


if __name__ == "__main__":
    main()

r"""Tune every loss of the paper alike at a scale, on a hold-out of noisy labels.

    python benchmarks/paper_tuning.py features cifar10 --labels label --weights lite0.pth
    python benchmarks/paper_tuning.py features cifar100 --names elr,elr+dal,jocor,jocor+dal ...

Each loss has the same number of trials over its own parameters, the learning rate and the weight
decay (``benchmarks/spaces``), chosen by the accuracy on a tenth of the training set with 40 %
symmetric noise, held out with its given labels; no test label is seen. The bigger methods of table
5 are tuned in the same way, each side by itself: with its own loss, and with DAL in its place
(GJS, whose two weights must agree, is not). The chosen values go into
``src/noisylabels/paper/tuned/SCALE.toml``, where ``noisylabels paper`` finds them, and every trial
into ``docs/results/paper/tuning-SCALE-DATASET.json``. The same command continues.
"""

import argparse
import json
import tomllib
from pathlib import Path

from noisylabels.display import TuneDisplay
from noisylabels.paper.experiments import CURVES, HOSTS, INSIDE, LOSSES, PAIRS, host_key, own_loss
from noisylabels.paper.hyperparameters import HYPERPARAMETERS
from noisylabels.paper.protocol import SCALES, Protocol
from noisylabels.run import config
from noisylabels.studies import space, study, tune
from noisylabels.studies.launchers import launcher

HERE = Path(__file__).parents[1]
SPACES = HERE / "benchmarks/spaces"
TUNED = HERE / "src/noisylabels/paper/tuned"
RESULTS = HERE / "docs/results/paper"


def main() -> None:
    """Tune, and write what was chosen."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.add_argument("scale", choices=SCALES)
    parser.add_argument("dataset")
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--labels", type=Path)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--names", default=",".join(LOSSES.values()))
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("runs"))
    given = parser.parse_args()
    protocol = Protocol(given.scale, given.data, given.labels, given.weights)
    noise = protocol.noise(given.dataset, CURVES)
    base = protocol.base(given.dataset) | {"noise": noise, "evaluate_every": 1000}
    for key in given.names.split(","):
        changes, name = tuned_alike(key)
        tuning = tune.prepare(
            config.parse(base | changes),
            space.read(SPACES / f"{name}.toml"),
            given.out,
            trials=given.trials,
            name=f"{given.scale}-{given.dataset}-{key}",
            suggestions=HYPERPARAMETERS,
        )
        trials = tune.open_trials(tuning)
        print(tune.describe(tuning, trials), flush=True)
        with TuneDisplay() as display:
            outcome = tune.run(tuning, trials, launcher("local", given.jobs), display)
        keep(given.scale, given.dataset, key, dict(outcome.chosen.trial.values))
        described = [
            {"number": each.number, "values": each.values, "accuracy": each.accuracy}
            for each in outcome.trials
        ]
        path = RESULTS / f"tuning-{given.scale}-{given.dataset}.json"
        found = json.loads(path.read_text()) if path.exists() else {}
        found[key] = {"chosen": outcome.chosen.trial.number, "trials": described}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(found, indent=1) + "\n")


def tuned_alike(key: str) -> tuple[dict[str, object], str]:
    """Return what is tuned by a key, as changes of a run's file, and the name of its space."""
    method = key.removesuffix("+dal")
    if method not in HOSTS.values():
        return {"loss": key}, key
    told = {"forget_rate": CURVES.rate} if method in PAIRS else {}
    loss = INSIDE if key == host_key(method, dal=True) else own_loss(method)
    return {"method": {"name": method, **told}, "loss": loss}, method


def keep(scale: str, dataset: str, key: str, values: dict) -> None:
    """Write chosen values beside those of other losses and datasets."""
    path = TUNED / f"{scale}.toml"
    tables = tomllib.loads(path.read_text()) if path.exists() else {}
    rounded = {
        name: float(f"{value:.3g}") if isinstance(value, float) else value
        for name, value in values.items()
    }
    tables.setdefault(dataset, {})[key] = rounded
    study.write(path, tables, "Chosen on noisy hold-outs by benchmarks/paper_tuning.py.")


if __name__ == "__main__":
    main()

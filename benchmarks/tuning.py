r"""Whether values that were chosen on a noisy hold-out are good: chosen, best and worst by test.

    noisylabels tune benchmarks/studies/tuning/gce.toml \
        --space benchmarks/studies/tuning/gce-space.toml --out runs/tuning
    python benchmarks/tuning.py benchmarks/studies/tuning/gce.toml \
        --space benchmarks/studies/tuning/gce-space.toml --out runs/tuning

Takes the same words as ``noisylabels tune`` did (``--seeds`` and overrides such as ``--noise.name
pairflip --noise.rate 0.4`` among them). Trains with the values of every finished trial on all
training data, tests it, and writes every number to ``docs/results/tuning-NAME.json`` and a table
to ``tuning-NAME.md``. Nothing is chosen by these test accuracies: they judge the choice.
"""

import argparse
import json
import statistics
import sys
from pathlib import Path

from scipy.stats import spearmanr

from noisylabels.display import SweepDisplay
from noisylabels.run import config
from noisylabels.run.folder import RunFolder
from noisylabels.run.plan import plan
from noisylabels.studies import space, sweep, tune
from noisylabels.studies.launchers import launcher
from noisylabels.studies.tuning import Trial, Tuning, percent, ranked

FOLDER = Path(__file__).parents[1] / "docs/results"


def test_accuracies(tuning: Tuning, trials: list[Trial], seeds: int, jobs: int) -> list[list]:
    """Return the test accuracies of each trial's values, trained on all training data."""
    runs = [[tuning.final(trial.values, seed) for seed in range(seeds)] for trial in trials]
    prepared = sweep.prepare([run for each in runs for run in each], tuning.out)
    made = launcher("local", jobs)
    progress = sweep.begin(prepared, made.width)
    with SweepDisplay() as display:
        sweep.run(prepared, made, display, progress)
    return [
        [RunFolder(tuning.out / plan(run).run_id).result()["test_accuracy"] for run in each]
        for each in runs
    ]


def main() -> None:
    """Make the runs and write what came out."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.add_argument("run", type=Path)
    parser.add_argument("--space", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs"))
    parser.add_argument("--storage")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--test-seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1)
    given, overrides = parser.parse_known_args()
    tuning = tune.prepare(
        config.load(given.run, overrides),
        space.read(given.space),
        given.out,
        seeds=given.seeds,
        storage=given.storage,
        name=given.run.stem,
    )
    if not tuning.chosen.exists():
        sys.exit(f"{tuning.chosen} is not there: first the same with noisylabels tune")
    trials = ranked(tune.open_trials(tuning).list())
    found = test_accuracies(tuning, trials, given.test_seeds, given.jobs)
    chosen_id = plan(config.load(tuning.chosen)).run_id
    chosen = next(
        place
        for place, trial in enumerate(trials)
        if plan(tuning.final(trial.values, 0)).run_id == chosen_id
    )
    means = [statistics.fmean(each) for each in found]
    order = sorted(range(len(trials)), key=lambda place: -means[place])
    agreement = spearmanr([trial.accuracy for trial in trials], means).statistic
    rows = [
        f"| {name} | {space.title(trials[place].values)} | {100 * trials[place].accuracy:.1f} % | "
        f"{percent(found[place])} | {order.index(place) + 1} of {len(trials)} |"
        for name, place in (("chosen", chosen), ("best", order[0]), ("worst", order[-1]))
    ]
    text = "\n".join(
        [
            "| by test accuracy | values | hold-out | test | rank |",
            "|---|---|---|---|---|",
            *rows,
            "",
            f"Rank correlation of hold-out and test accuracy over {len(trials)} trials: "
            f"{agreement:.2f}.",
            "",
        ]
    )
    stored = {
        "command": " ".join(["python", *sys.argv]),
        "base": tuning.base.tables(),
        "space": tuning.space.tables(),
        "rank_correlation": agreement,
        "trials": [
            {
                "number": trial.number,
                "values": trial.values,
                "hold_out": list(trial.accuracies),
                "test": each,
                "chosen": place == chosen,
            }
            for place, (trial, each) in enumerate(zip(trials, found, strict=True))
        ],
    }
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / f"tuning-{tuning.name}.json").write_text(json.dumps(stored, indent=1) + "\n")
    (FOLDER / f"tuning-{tuning.name}.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()

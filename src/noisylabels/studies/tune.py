"""Choose values of a run's keys on a hold-out of the noisy labels, then train with them.

No run that anything is chosen by sees the test set: such runs have ``test = false``, and put it
away right after loading.
"""

import datetime
import hashlib
import json
import os
import re
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from noisylabels.errors import ConfigError, NoisyLabelsError, check_count
from noisylabels.run.config import RunConfig
from noisylabels.run.folder import RunFolder
from noisylabels.run.interruption import StoppedError, listening
from noisylabels.run.plan import Plan, plan
from noisylabels.run.trainer import check_writable
from noisylabels.studies import study
from noisylabels.studies.launchers.jobs import Advanced, Event, Job, Launcher
from noisylabels.studies.space import Space, fit, own_values, title
from noisylabels.studies.sweep import Follower, Progress, Runner
from noisylabels.studies.trials import Trials
from noisylabels.studies.tuning import (
    FOLDER,
    HOLD_OUT,
    Candidate,
    Outcome,
    State,
    Trial,
    Tuning,
    Watcher,
    held_out,
    ranked,
)

BEST = 3
"""How many trials are looked at more closely in the end."""
REPEATS = 3
"""Seeds that each of these has at least."""
WARMUP = 3
"""Of so many parts of a trial the first is never pruned: robust losses start slowly."""
SECONDS_FOR_VALUES = 60.0
"""After which a trial that still lacks values is one that somebody has died over."""
SECONDS_FOR_A_START = 60.0
"""After which a trial of another machine that has no run folder is one that somebody has died over.

If nobody has, nothing is done twice: whoever comes second finds the run folder held.
"""
METRIC = "validation_accuracy"


class TuneError(NoisyLabelsError):
    """No trial has finished, or what was to follow them has failed."""

    status = 1


def prepare(
    run: RunConfig,
    space: Space,
    out: Path = Path("runs"),
    *,
    trials: int = 40,
    seeds: int = 1,
    prune: bool = False,
    storage: str | None = None,
    name: str = "run",
    suggestions: Mapping[str, Mapping[str, Mapping[str, Any]]] | None = None,
) -> Tuning:
    """Check everything before the first trial.

    Args:
        run: The run whose keys are chosen.
        space: The keys and their values.
        out: Folder of run folders.
        trials: How many trials there are in the end, at least 1.
        seeds: Runs of each trial, at least 1.
        prune: Whether trials are given up early; not with several seeds.
        storage: An address or a path, see :class:`noisylabels.studies.trials.Trials`; by default a
            journal beside the run folders.
        name: What the study's name begins with. The rest is a hash of what the hold-out accuracy of
            a trial depends on: the run, its data, the number of seeds, and the space. Change any of
            them, and it is another study.
        suggestions: For each loss, values of its parameters by dataset that are worth a try, such
            as the paper's.

    Returns:
        What there is to do.

    Raises:
        ConfigError: The run is not valid, a range or choice does not fit, or a number is too small.
        DataError: A file that the run names is missing.
        CheckpointError: The folder cannot be written.
    """
    check_count("trials", trials, low=1)
    check_count("seeds", seeds, low=1)
    if prune and seeds > 1:
        raise ConfigError(
            f"prune: a trial is given up by the epochs of a single run, got seeds {seeds}: "
            f"leave out one of the two"
        )
    base = plan(run).config
    if base.devices * base.nodes > 1:
        raise ConfigError(
            f"a trial has one process, got devices {base.devices}, nodes {base.nodes}: --jobs "
            f"makes several trials at once"
        )
    space = fit(space, held_out(base))
    check_writable(out)
    identity = [plan(held_out(base)).identity, space.tables(), seeds]
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True, default=str).encode()).hexdigest()
    name = f"{re.sub(r'[^A-Za-z0-9_.-]+', '-', name)}-{digest[:8]}"
    return Tuning(
        base=base,
        space=space,
        out=out,
        trials=trials,
        seeds=seeds,
        prune=prune,
        storage=storage or str(out / FOLDER / f"{name}.journal"),
        name=name,
        first=first_values(base, space, suggestions or {}),
    )


def first_values(
    base: RunConfig, space: Space, suggestions: Mapping[str, Mapping[str, Mapping[str, Any]]]
) -> list[dict[str, Any]]:
    """Return the values to try before any others: the run's own, then those worth a try.

    Args:
        base: The run, with every default filled in.
        space: The keys that are chosen.
        suggestions: For each loss, values of its parameters by dataset.

    Returns:
        Values by key, each set once, as far as they lie in the space; the rest of a set is the
        run's own.
    """
    own = own_values(space, base)
    parameters = {each.key: each for each in space.parameters}
    points = [own]
    if not {"loss", "loss.name"} & set(parameters):
        for values in suggestions.get(base.loss.name, {}).values():
            keyed = {f"loss.{name}": value for name, value in values.items()}
            known = {
                key: value
                for key, value in keyed.items()
                if key in parameters and parameters[key].holds(value)
            }
            points.append(own | known)
    return [point for number, point in enumerate(points) if point and point not in points[:number]]


def open_trials(tuning: Tuning) -> Trials:
    """Open a study's storage; the study is made if it is not there.

    Args:
        tuning: What is chosen.

    Raises:
        ConfigError: It cannot be reached.
    """
    base = tuning.base
    warmup = base.epochs // WARMUP
    return Trials(tuning.storage, tuning.name, tuning.space, seed=base.seed, warmup=warmup)


def describe(tuning: Tuning, trials: Trials) -> str:
    """Say before the start what there is to do.

    Args:
        tuning: What is chosen.
        trials: Its trials.
    """
    states = Counter(trial.state for trial in trials.list())
    there = states["finished"] + states["pruned"] + states["failed"]
    kept = f"study {tuning.name} in {trials.storage}"
    # What waits is a suggestion that nobody has begun.
    begun = states["running"]
    found = f"{there} of {max(there, tuning.trials)} trials are there"
    if begun:
        found += f", {begun} begun"
    elif not there:
        found = "new"
    base = tuning.base
    if base.validation_labels is not None:
        held = f"the training examples whose right labels are in {base.validation_labels}"
    else:
        share = f"{100 * (base.validation or HOLD_OUT):g} %"
        held = f"{share} of the training set, held out with its given labels"
    seeds = f", {tuning.seeds} seeds each" if tuning.seeds > 1 else ""
    return f"{kept}: {found}; chosen by accuracy on {held}{seeds}"


def run(tuning: Tuning, trials: Trials, launcher: Launcher, watcher: Watcher) -> Outcome:
    """Make the trials, look at the best more closely, and train with the chosen values.

    Args:
        tuning: What is chosen.
        trials: Its trials, see :func:`open_trials`.
        launcher: Where the runs are made.
        watcher: Told of what happens.

    Returns:
        What was chosen.

    Raises:
        StoppedError: SIGINT or SIGTERM came; every run was ended after its step, whole.
        TuneError: All trials have failed, or a final run has.
        DataError: The storage cannot be reached any more.
    """
    with launcher, listening() as request:
        return _Chooser(tuning, trials, launcher, watcher, lambda: request.number).choose()


def write_chosen(tuning: Tuning, trial: Trial) -> None:
    """Write the run with the chosen values as a file that ``noisylabels train`` takes.

    Args:
        tuning: What was chosen, see :attr:`Tuning.chosen`.
        trial: The trial with the values.

    Raises:
        CheckpointError: The file cannot be written.
    """
    said = f"Trial {trial.number} of study {tuning.name}, chosen by noisylabels tune."
    study.write(tuning.chosen, tuning.final(trial.values, 0).tables(), said)


class _Chooser(Follower):
    """The loop around the trials, the repeats of the best, and the final runs."""

    def __init__(
        self,
        tuning: Tuning,
        trials: Trials,
        launcher: Launcher,
        watcher: Watcher,
        asked: Callable[[], int],
    ) -> None:
        self._tuning = tuning
        self._trials = trials
        self._launcher = launcher
        self._watcher = watcher
        self._asked = asked
        self._state = State(tuning, Progress({}, launcher.width))
        self._runner = Runner(launcher, self, self._state.runs)
        self._own: dict[int, Trial] = {}
        self._planned: dict[tuple[int, int], Plan] = {}
        self._pruned: set[str] = set()

    def choose(self) -> Outcome:
        self._make_trials()
        candidates = self._repeat_best()
        chosen = candidates[0].trial
        write_chosen(self._tuning, chosen)
        finals = self._make_final(chosen)
        first = self._folder(self._jobs(chosen, 1)[0].run_id)
        return Outcome(
            tuning=self._tuning,
            storage=self._trials.storage,
            trials=self._trials.list(),
            candidates=candidates,
            finals=finals,
            hold_out=first.data()["validation"],
            classes=len(first.data()["classes"]),
            noise_rate=first.result()["actual_noise_rate"],
        )

    def on_message(self, sentence: str) -> None:
        self._watcher.on_message(sentence)

    def on_event(self, event: Event, progress: Progress) -> None:
        if self._tuning.prune and isinstance(event, Advanced):
            self._consider(event)
        self._watcher.on_event(event, progress)

    def _make_trials(self) -> None:
        """Make trials until there are enough, here and elsewhere."""
        state, tuning = self._state, self._tuning
        state.trials = self._trials.list()
        self._trials.suggest(tuning.first[: max(0, tuning.trials - len(state.trials))])
        state.began = time.monotonic()
        self._watcher.on_trials(state)
        while True:
            state.trials = self._trials.list()
            waiting = self._take_up()
            while not self._asked() and self._runner.room > 0 and state.begun < tuning.trials:
                self._begin(self._trials.ask())
                state.trials = self._trials.list()
            if not (waiting or self._own or state.begun < tuning.trials):
                break
            self._step()
            self._settle()
        if not ranked(state.trials):
            failed = [trial for trial in state.trials if trial.state == "failed"]
            if not failed:
                raise TuneError("no trial has finished: others are making all of them")
            raise TuneError(
                f"{len(failed)} of {state.begun} trials failed and none has finished, such as "
                f"{title(failed[0].values)}: {failed[0].error}"
            )

    def _take_up(self) -> bool:
        """Continue what was interrupted; return whether there is something to wait for."""
        waiting = False
        for trial in self._state.trials:
            if trial.state != "running" or trial.number in self._own:
                continue
            if len(trial.values) < len(self._tuning.space.parameters):
                # Somebody is drawing its values just now, or has died over it.
                if _age(trial) > SECONDS_FOR_VALUES:
                    self._trials.fail(trial, "it was interrupted before it had its values")
                waiting = True
                continue
            folders = [job.folder for job in self._jobs(trial, self._tuning.seeds)]
            if any(folder.state() == "running" for folder in folders) or _is_anothers(trial):
                waiting = True
            elif trial.host in ("", socket.gethostname()) or any(
                folder.path.exists() for folder in folders
            ):
                if self._runner.room > 0 and not self._asked():
                    self._begin(trial)
                waiting = True
            elif self._tuning.sees(trial):
                # Another machine's workers may just be starting.
                if _age(trial) > SECONDS_FOR_A_START and self._runner.room > 0:
                    self._begin(trial)
                waiting = True
        return waiting

    def _begin(self, trial: Trial) -> None:
        """Make a trial's runs; a trial that another process has left continues where it was."""
        try:
            jobs = self._jobs(trial, self._tuning.seeds)
        except NoisyLabelsError as error:
            self._trials.fail(trial, str(error))
            self._end(trial)
            return
        self._trials.assign(trial, [job.run_id for job in jobs], jobs[0].out)
        self._own[trial.number] = trial
        for job in jobs:
            self._runner.add(job)

    def _jobs(self, trial: Trial, seeds: int) -> list[Job]:
        """Return a trial's runs, with seeds from the base's on."""
        here = trial.host == socket.gethostname() and trial.out.is_dir()
        out = trial.out if here else self._tuning.out
        jobs = []
        for seed in range(seeds):
            made = self._plan(trial, seed)
            name = f"trial {trial.number}: {title(trial.values)}"
            name += f", seed {made.config.seed}" if seeds > 1 else ""
            jobs.append(Job(made.run_id, name, made.config.tables(), out))
        return jobs

    def _plan(self, trial: Trial, seed: int) -> Plan:
        """Return the plan of one run; it is made once, for it reads all files of the data."""
        key = (trial.number, seed)
        if key not in self._planned:
            self._planned[key] = plan(self._tuning.run(trial.values, seed))
        return self._planned[key]

    def _step(self) -> None:
        """Let something happen; once asked to stop, wait for the runs to end and stop."""
        asked = self._asked()
        self._runner.step(stop=asked > 0)
        if asked and not self._runner.busy:
            self._settle()
            made = f"{self._state.made} of {self._tuning.trials} trials"
            where = made if self._state.stage == "trials" else f"{made}, in the {self._state.stage}"
            raise StoppedError(asked, f"stopped: {where}; the same command continues")

    def _settle(self) -> None:
        """Write what came of the trials whose runs have ended."""
        runs = self._state.runs
        for trial in list(self._own.values()):
            jobs = [runs.jobs[job.run_id] for job in self._jobs(trial, self._tuning.seeds)]
            failed = next((job for job in jobs if job.run_id in runs.failed), None)
            if failed is not None:
                error = f"{runs.failed[failed.run_id]} (log: {failed.folder.log})"
                self._trials.fail(trial, error)
            elif all(job.run_id in runs.done for job in jobs):
                results = [job.folder.result() for job in jobs]
                seconds = sum(result["seconds"] for result in results)
                self._trials.finish(trial, [result[METRIC] for result in results], seconds)
            elif any(job.run_id in self._pruned & runs.stopped for job in jobs):
                self._trials.prune(trial)
            elif not self._asked() and any(job.run_id in runs.stopped for job in jobs):
                raise StoppedError(
                    signal.SIGTERM,
                    f"somebody stopped trial {trial.number}; the same command continues",
                )
            else:
                continue
            self._end(trial)

    def _end(self, trial: Trial) -> None:
        self._own.pop(trial.number, None)
        self._state.trials = self._trials.list()
        self._state.ended += 1
        self._watcher.on_trial(self._state.trials[trial.number - 1], self._state)

    def _consider(self, event: Advanced) -> None:
        """Give a trial up where it is worse than the median of the others."""
        accuracy = event.metrics.get(METRIC)
        if accuracy is None or event.epoch >= self._state.runs.jobs[event.run_id].tables["epochs"]:
            return
        for trial in self._own.values():
            if event.run_id in (job.run_id for job in self._jobs(trial, 1)) and (
                self._trials.report(trial, event.epoch, accuracy)
            ):
                self._pruned.add(event.run_id)
                self._launcher.stop([event.run_id])

    def _repeat_best(self) -> list[Candidate]:
        """Compare the best trials by the same seeds, the best first."""
        seeds = max(REPEATS, self._tuning.seeds)
        best: list[Trial] = []
        for trial in ranked(self._state.trials):
            if len(best) < BEST and trial.values not in [each.values for each in best]:
                best.append(trial)
        jobs = {trial.number: self._jobs(trial, seeds) for trial in best}
        self._make(
            "repeats",
            f"the best {len(best)} of {self._state.made} trials: {seeds} seeds each",
            [job for each in jobs.values() for job in each],
        )
        candidates = []
        for trial in best:
            failed = self._failures(jobs[trial.number])
            if failed:
                self._watcher.on_message(f"trial {trial.number} is left out: {failed}")
                continue
            results = [self._folder(job.run_id).result() for job in jobs[trial.number]]
            candidates.append(Candidate(trial, [result[METRIC] for result in results]))
        if not candidates:
            raise TuneError(f"no repeat of the best trials has finished: {failed}")
        return sorted(candidates, key=lambda each: (-each.mean, each.trial.number))

    def _make_final(self, trial: Trial) -> list[RunFolder]:
        """Train with the chosen values."""
        made = [plan(self._tuning.final(trial.values, n)) for n in range(self._tuning.seeds)]
        jobs = [
            Job(
                each.run_id,
                f"final run, seed {each.config.seed}",
                each.config.tables(),
                self._tuning.out,
            )
            for each in made
        ]
        how = "on all training data" if not self._tuning.base.holds_out else "as in its file"
        self._make("final runs", f"trial {trial.number} is chosen; its final run {how}", jobs)
        if failed := self._failures(jobs):
            raise TuneError(f"{self._tuning.chosen} was written, but its run failed: {failed}")
        return [self._folder(job.run_id) for job in jobs]

    def _make(self, stage: str, sentence: str, jobs: Sequence[Job]) -> None:
        """Make runs to the end."""
        self._state.stage = stage
        self._watcher.on_stage(sentence, self._state)
        for job in jobs:
            self._runner.add(job)
        while self._runner.busy or self._asked():
            self._step()

    def _failures(self, jobs: Sequence[Job]) -> str:
        """Say which of some runs have no result, and why."""
        runs = self._state.runs
        return "; ".join(
            f"{job.title}: {runs.failed.get(job.run_id, 'stopped')} (log: {job.folder.log})"
            for job in jobs
            if job.run_id not in runs.done
        )

    def _folder(self, run_id: str) -> RunFolder:
        return self._state.runs.jobs[run_id].folder


def _is_anothers(trial: Trial) -> bool:
    """Return whether another process of this machine is at a trial, its workers just starting."""
    if trial.host != socket.gethostname() or trial.process in (0, os.getpid()):
        return False
    if sys.platform == "win32":
        # Where asking a process by a signal would end it.
        return False
    try:
        os.kill(trial.process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _age(trial: Trial) -> float:
    """Return the seconds since a trial was begun."""
    began = trial.began or datetime.datetime.now()
    return (datetime.datetime.now() - began).total_seconds()

"""What the paper claims of its tables and figures, judged by runs: paired over seeds."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from noisylabels.paper.experiments import HOSTS, PAIRED_LOSSES
from noisylabels.paper.protocol import DATASETS
from noisylabels.paper.results import Plan
from noisylabels.studies.records import Run
from noisylabels.studies.table import Difference, difference

Verdict = Literal["held", "not held", "not shown"]
Numbers = Mapping[int, float]
"""A result by seed."""
Look = Callable[[str, str, str], Numbers]
"""``(row, column, value) -> results of a cell``."""
Pairs = Iterable[tuple[str, Numbers, Numbers]]
"""Where, what ought to be more there, and what ought to be less."""
LEVEL = 0.05
"""Chance of a difference as large if there were none, below which it counts as shown."""


@dataclass(frozen=True)
class Claim:
    """Something that is more than something else.

    Args:
        text: What is claimed.
        pairs: ``(what looks cells up, the rows, the columns) -> what is compared``.
    """

    text: str
    pairs: Callable[[Look, Sequence[str], Sequence[str]], Pairs]


@dataclass(frozen=True)
class Judgement:
    """What runs say of a claim in one place.

    Args:
        claim: The claim.
        place: Where it was looked at: the dataset, and the column.
        difference: What is more there, by how much.
    """

    claim: str
    place: str
    difference: Difference

    @property
    def verdict(self) -> Verdict:
        """Whether the claim held, did not, or neither can be said with these seeds."""
        if self.difference.p is None or self.difference.p >= LEVEL:
            return "not shown"
        return "held" if self.difference.mean > 0 else "not held"


def ordering(more: str, less: str, value: str = "test_accuracy") -> Claim:
    """Claim that one row has more than another, in every column.

    Args:
        more: The row that has more.
        less: The other.
        value: Of what.
    """

    def pairs(look: Look, rows: Sequence[str], columns: Sequence[str]) -> Pairs:
        for column in columns:
            yield column, look(more, column, value), look(less, column, value)

    said = {
        "test_accuracy": f"{more} is more accurate than {less}",
        "train_accuracy_wrong": f"{more} memorises more wrong labels than {less}",
        "attack_success": f"a trigger works more often with {more} than with {less}",
    }
    return Claim(said[value], pairs)


def growth(more: str, less: str) -> Claim:
    """Claim that the lead of one row over another grows with the rate of symmetric noise.

    Args:
        more: The row that has more.
        less: The other.
    """

    def pairs(look: Look, rows: Sequence[str], columns: Sequence[str]) -> Pairs:
        rates = [column for column in columns if column.startswith("symmetric:")]
        for low, high in itertools.pairwise(rates):
            yield f"{low} to {high}", lead(look, high), lead(look, low)

    def lead(look: Look, column: str) -> Numbers:
        ours, theirs = (look(row, column, "test_accuracy") for row in (more, less))
        return {seed: ours[seed] - theirs[seed] for seed in ours.keys() & theirs.keys()}

    return Claim(f"the lead of {more} over {less} grows with the noise", pairs)


def sensitivity(more: str, less: str) -> Claim:
    """Claim that accuracy depends more on one parameter than on another, each moved as far.

    Args:
        more: What the rows of the first have in common, the loss and the parameter.
        less: What those of the other have.
    """

    def pairs(look: Look, rows: Sequence[str], columns: Sequence[str]) -> Pairs:
        for column in columns:
            first, second = (
                spread([look(row, column, "test_accuracy") for row in rows if row.startswith(name)])
                for name in (f"{more} ", f"{less} ")
            )
            yield column, first, second

    def spread(values: Sequence[Numbers]) -> Numbers:
        """Return the greatest less the least by seed, of seeds that have all of them."""
        seeds = set.intersection(*(set(each) for each in values)) if len(values) > 1 else set()
        by_seed = {seed: [each[seed] for each in values] for seed in seeds}
        return {seed: max(own) - min(own) for seed, own in by_seed.items()}

    return Claim(f"accuracy depends more on {more} than on {less}", pairs)


EVERY_LOSS = (
    ordering("DAL", "DGCE"),
    ordering("DGCE", "GCE"),
    ordering("DAL", "GCE"),
    ordering("DAL", "CE"),
    growth("DAL", "GCE"),
)
CLAIMS: Mapping[str, Sequence[Claim]] = {
    "table2": EVERY_LOSS,
    "table3": EVERY_LOSS,
    "table5": [ordering(f"{host} + DAL", host) for host in (*PAIRED_LOSSES, *HOSTS)],
    "table6": [ordering(other, "DAL", "attack_success") for other in ("CE", "GCE")],
    "figure3": [sensitivity("GCE q", "DAL q_start")],
    "figure4": [
        ordering("CE", "DAL", "train_accuracy_wrong"),
        ordering("GCE", "DAL", "train_accuracy_wrong"),
        ordering("DAL", "MAE"),
    ],
}
"""The claims, by the experiment that they are made of."""


def judge(experiment: str, plans: Iterable[Plan], runs: Mapping[str, Run]) -> list[Judgement]:
    """Judge the claims of an experiment.

    Args:
        experiment: Its name.
        plans: Its plans.
        runs: Finished runs by id.

    Returns:
        A judgement for each claim and place that there are runs for.
    """
    found = []
    for made in plans:
        rows = {row.title: number for number, row in enumerate(made.part.rows)}
        columns = {column.key: number for number, column in enumerate(made.part.columns)}
        titles = {column.key: column.title for column in made.part.columns}

        def look(
            row: str,
            column: str,
            value: str,
            made: Plan = made,
            rows: Mapping[str, int] = rows,
            columns: Mapping[str, int] = columns,
        ) -> Numbers:
            place = (rows.get(row), columns.get(column))
            return {
                slot.seed: number
                for slot in made.slots
                if (slot.row, slot.column) == place
                and slot.run_id in runs
                and (number := (runs[slot.run_id].result or {}).get(value)) is not None
            }

        for claim in CLAIMS.get(experiment, ()):
            for where, more, less in claim.pairs(look, list(rows), list(columns)):
                gap = difference(more, less)
                if gap is not None:
                    place = f"{DATASETS[made.part.dataset]}, {titles.get(where, where)}"
                    found.append(Judgement(claim.text, place, gap))
    return found


def sentences(judgements: Sequence[Judgement]) -> Iterator[str]:
    """Say of each claim in how many places it held.

    Args:
        judgements: The judgements.

    Yields:
        A line.
    """
    for claim, counts in _counted(judgements):
        said = ", ".join(f"{verdict} in {count}" for verdict, count in counts.items())
        yield f"claimed: {claim}: {said}"


def _counted(judgements: Sequence[Judgement]) -> Iterator[tuple[str, dict[Verdict, int]]]:
    """Yield each claim, and in how many places it held, did not, and neither can be said."""
    for claim in dict.fromkeys(each.claim for each in judgements):
        own = [each.verdict for each in judgements if each.claim == claim]
        yield claim, {verdict: own.count(verdict) for verdict in get_args(Verdict)}


def markdown(judgements: Sequence[Judgement]) -> str:
    """Write judgements as a table in Markdown.

    Args:
        judgements: The judgements.

    Returns:
        A line for each claim, with its places by verdict; and below it a line for each judgement.
    """
    lines = [f"| the paper claims | {' | '.join(get_args(Verdict))} |", "|---|---:|---:|---:|"]
    for claim, counts in _counted(judgements):
        lines.append(f"| {claim} | {' | '.join(map(str, counts.values()))} |")
    lines += [
        "",
        "| claim | where | difference, points | p | seeds | |",
        "|---|---|---:|---:|---:|---|",
    ]
    for each in judgements:
        gap = each.difference
        spread = "" if gap.std is None else f" ± {100 * gap.std:.1f}"
        p = "–" if gap.p is None else "< 0.001" if gap.p < 0.001 else f"{gap.p:.3f}"
        lines.append(
            f"| {each.claim} | {each.place} | {100 * gap.mean:+.1f}{spread} | {p} | {gap.seeds} | "
            f"{each.verdict} |"
        )
    return "\n".join(lines) + "\n"

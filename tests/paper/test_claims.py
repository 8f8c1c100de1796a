import pytest

from noisylabels.paper import claims
from noisylabels.paper.experiments import Column, Part, Row, find
from noisylabels.paper.protocol import Protocol
from noisylabels.paper.results import Choice, Plan, Slot, prepare
from noisylabels.studies.records import Run
from noisylabels.studies.study import Study


def made(results, tmp_path, columns=("symmetric:0.2", "symmetric:0.4")):
    """Make a plan and its runs of accuracies by row and column, one for each seed."""
    part = Part(
        "cifar10",
        [Row(title, lambda column: {}, chosen=True) for title in results],
        [Column(key, key) for key in columns],
    )
    slots, runs = [], {}
    for row, title in enumerate(results):
        for column, values in enumerate(results[title]):
            for seed, value in enumerate(values):
                run_id = f"{row}-{column}-{seed}"
                slots.append(Slot(row, column, seed, run_id))
                runs[run_id] = Run(tmp_path, {}, {}, {"test_accuracy": value})
    return Plan(part, slots, Study(tmp_path, [])), runs


def test_claims_are_judged_pair_by_pair(tmp_path):
    plan, runs = made(
        {
            "GCE": [[0.80, 0.81, 0.82], [0.70, 0.72, 0.71]],
            "DAL": [[0.79, 0.799, 0.811], [0.80, 0.82, 0.811]],
        },
        tmp_path,
    )
    judged = {(each.claim, each.place): each for each in claims.judge("table2", [plan], runs)}
    lower = judged["DAL is more accurate than GCE", "CIFAR-10, symmetric:0.2"]
    assert lower.verdict == "not held"
    assert lower.difference.mean == pytest.approx(-0.01)
    higher = judged["DAL is more accurate than GCE", "CIFAR-10, symmetric:0.4"]
    assert (higher.verdict, higher.difference.seeds) == ("held", 3)
    grown = judged[
        "the lead of DAL over GCE grows with the noise", "CIFAR-10, symmetric:0.2 to symmetric:0.4"
    ]
    assert grown.verdict == "held"
    assert grown.difference.mean == pytest.approx(0.1 / 1 + 0.01 + (0.001) / 3, abs=1e-3)
    # Nothing is said of rows that there are no runs of.
    assert {claim for claim, _ in judged} == {
        "DAL is more accurate than GCE",
        "the lead of DAL over GCE grows with the noise",
    }


def test_what_differs_by_chance_is_not_shown(tmp_path):
    one = ("symmetric:0.2",)
    plan, runs = made({"GCE": [[0.8, 0.9, 0.7]], "DAL": [[0.9, 0.8, 0.75]]}, tmp_path, one)
    (judged,) = claims.judge("table2", [plan], runs)
    assert judged.verdict == "not shown"
    plan, runs = made({"GCE": [[0.1]], "DAL": [[0.9]]}, tmp_path, one)
    (judged,) = claims.judge("table2", [plan], runs)
    # One seed shows nothing.
    assert (judged.verdict, judged.difference.p) == ("not shown", None)


def test_verdicts_are_counted_and_listed(tmp_path):
    plan, runs = made(
        {"GCE": [[0.8, 0.81], [0.5, 0.6]], "DAL": [[0.9, 0.9101], [0.6, 0.5]]}, tmp_path
    )
    judged = claims.judge("table2", [plan], runs)
    assert "claimed: DAL is more accurate than GCE: held in 1, not held in 0, not shown in 1" in (
        claims.sentences(judged)
    )
    text = claims.markdown(judged)
    assert "| DAL is more accurate than GCE | 1 | 0 | 1 |" in text
    where = "DAL is more accurate than GCE | CIFAR-10, symmetric:0.2"
    assert f"| {where} | +10.0 ± 0.0 | < 0.001 | 2 | held |" in text
    plan, runs = made({"GCE": [[0.8, 0.81]], "DAL": [[0.9, 0.91]]}, tmp_path, ("symmetric:0.2",))
    # Two differences that are the same can be so by chance.
    assert f"| {where} | +10.0 ± 0.0 | – | 2 | not shown |" in claims.markdown(
        claims.judge("table2", [plan], runs)
    )


def test_what_depends_more_on_its_parameter_is_judged_seed_by_seed(tmp_path):
    results = {
        "GCE q 0.6": [[0.70, 0.71, 0.72]],
        "GCE q 0.7": [[0.80, 0.80, 0.81]],
        "DAL q_start 0.5": [[0.80, 0.82, 0.81]],
        "DAL q_start 0.6": [[0.79, 0.80, 0.83, 0.9]],
        "DAL q_end 1.2": [[0.1, 0.1, 0.1]],
    }
    plan, runs = made(results, tmp_path, ("instance:0.4",))
    (judged,) = claims.judge("figure3", [plan], runs)
    assert judged.claim == "accuracy depends more on GCE q than on DAL q_start"
    # Ranges of 0.10, 0.09, 0.09 against 0.01, 0.02, 0.02.
    assert judged.difference.mean == pytest.approx((0.09 + 0.07 + 0.07) / 3)
    assert (judged.verdict, judged.difference.seeds) == ("held", 3)
    alone, runs = made({"DAL q_end 1.2": [[0.5]], "DAL q_end 1.5": [[0.6]]}, tmp_path, ("a",))
    assert claims.judge("figure3", [alone], runs) == []


@pytest.mark.parametrize("name", claims.CLAIMS)
def test_every_claim_is_of_rows_that_there_are(name, tmp_path):
    """Each row that a claim compares is in the experiment, at the paper's scale."""
    plans = prepare(find(name), Protocol("paper"), Choice(seeds=2), tmp_path)
    value = {"test_accuracy": 0.5, "train_accuracy_wrong": 0.5, "attack_success": 0.5}
    runs = {slot.run_id: Run(tmp_path, {}, {}, value) for made in plans for slot in made.slots}
    judged = {each.claim for each in claims.judge(name, plans, runs)}
    assert len(judged) == len(claims.CLAIMS[name])

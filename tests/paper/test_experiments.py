import pytest

from noisylabels import losses
from noisylabels.errors import ConfigError
from noisylabels.paper import protocol as protocols
from noisylabels.paper.experiments import (
    EXPERIMENTS,
    HOSTS,
    LATER_LOSSES,
    LOSSES,
    find,
    loss_values,
)
from noisylabels.paper.hyperparameters import HYPERPARAMETERS
from noisylabels.paper.protocol import Protocol
from noisylabels.paper.published import find as published
from noisylabels.run import config
from noisylabels.run.plan import plan
from noisylabels.studies.study import with_changes


def cells(part, protocol):
    """Yield the configuration of each cell, with digits for data: none has to be there."""
    base = config.parse(protocol.base(part.dataset)).tables()
    for row in part.rows:
        for column in part.columns:
            changes = {**column.changes, **row.changes(column)}
            yield row, column, config.parse(with_changes(base, changes))


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_cell_is_a_valid_run(name):
    experiment = find(name)
    for scale in experiment.scales:
        protocol = Protocol(scale)
        for part in experiment.parts(protocol):
            titles = [row.title for row in part.rows]
            assert len(set(titles)) == len(titles)
            seen = set()
            for row, column, run in cells(part, protocol):
                # Most rows bring the same to every column.
                brought = {repr(row.changes(column)), repr(column.changes)}
                if brought <= seen:
                    continue
                seen |= brought
                images = {"model": "auto", "augment": "auto", "features": "none"}
                small = config.parse(run.tables() | images | {"data": "digits"})
                made = plan(small, trial=False)
                assert made.config.epochs == run.epochs, (row.title, column.key)


@pytest.mark.parametrize(("name", "dataset"), [("table2", "CIFAR-10"), ("table3", "CIFAR-100")])
def test_losses_have_the_papers_values_at_its_scale(name, dataset):
    (part,) = find(name).parts(Protocol("paper"))
    assert [row.title for row in part.rows] == list(LOSSES)
    for row, _, run in cells(part, Protocol("paper")):
        key = LOSSES[row.title]
        assert run.loss.name == key
        if key == "dgce":
            dal = HYPERPARAMETERS["dal"][dataset]
            assert run.loss.parameters == {name: dal[name] for name in ("q_start", "q_end")}
        else:
            assert run.loss.parameters == HYPERPARAMETERS.get(key, {}).get(dataset, {})


def test_the_fair_table_has_every_loss_with_the_better_of_both_penalties(monkeypatch):
    rows = LOSSES | LATER_LOSSES
    parts = {"mae", "rce", "nce", "agce"}
    assert set(rows.values()) == set(losses.LOSSES) - parts - {"dtce", "djs"}
    tuned = {
        "digits": {"digits": {"ce": {"optimizer.lr": 0.5}}},
        "digits-either": {"digits": {"ce": {"optimizer.lr": 0.25, "optimizer.l1_decay": 1e-5}}},
    }
    monkeypatch.setattr(protocols, "_tuned", tuned.get)
    (part,) = find("fair").parts(Protocol("digits"))
    assert [row.title for row in part.rows] == list(rows)
    for row, _, run in cells(part, Protocol("digits")):
        assert run.loss.name == rows[row.title]
        if row.title == "CE":
            assert run.optimizer.parameters["l1_decay"] == 1e-5
            assert run.optimizer.parameters["lr"] == 0.25
    assert [row.title for row in part.rows if row.chosen] == ["CE"]
    assert loss_values(Protocol("digits"), "digits", "ce")["optimizer.lr"] == 0.5


@pytest.mark.parametrize("name", ["table2", "table3", "table5"])
def test_rows_and_columns_are_the_papers(name):
    (part,) = find(name).parts(Protocol("paper"))
    printed = published(name, part.dataset, "test_accuracy")
    assert [row.title for row in part.rows] == list(printed)
    for row in part.rows:
        assert row.chosen
        assert [column.key for column in part.columns] == list(printed[row.title])


def test_dal_takes_the_place_of_a_hosts_own_loss():
    (part,) = find("table5").parts(Protocol("paper"))
    runs = {(row.title, column.key): run for row, column, run in cells(part, Protocol("paper"))}
    for title, method in HOSTS.items():
        for column in part.columns:
            alone, with_dal = (runs[each, column.key] for each in (title, f"{title} + DAL"))
            assert alone.method == with_dal.method
            assert alone.method.name == method
            assert alone.loss.name == ("js" if method == "gjs" else "ce")
            assert with_dal.loss.table() == {"name": "dal", "q_start": 0.0, "q_end": 1.0}
            assert alone.replace(loss=with_dal.loss) == with_dal
    forget = {key: runs["JoCoR", key].method.parameters["forget_rate"] for _, key in runs}
    assert forget["symmetric:0.8"] == 0.8
    assert forget["asymmetric:0.4"] == 0.2
    assert runs["GJS", "symmetric:0.6"].method.parameters["pi"] == 0.9
    assert runs["GJS", "symmetric:0.6"].loss.parameters["pi"] == 0.9
    assert runs["TCE + DAL", "symmetric:0.2"].loss.name == "dtce"
    assert runs["JS + DAL", "symmetric:0.2"].loss.name == "djs"


def test_dividemix_is_kept_from_being_sure_of_asymmetric_labels():
    (part,) = find("table5").parts(Protocol("paper"))
    for row, column, run in cells(part, Protocol("paper")):
        if row.title.startswith("DivideMix"):
            penalty = run.method.parameters.get("confidence_penalty", False)
            assert penalty == column.key.startswith("asymmetric")


def test_curves_of_other_parameters_have_the_tuned_optimiser():
    protocol = Protocol("features")
    (part,) = find("figure1").parts(protocol)
    tuned = protocol.tuned("cifar100")
    for row, _, run in cells(part, protocol):
        key = {"GCE": "gce", "DAL": "dal", "CE": "ce"}.get(row.title.split(" ")[0])
        assert row.chosen == (key is not None)
        if key is not None:
            assert run.optimizer.parameters["lr"] == tuned[key]["optimizer.lr"]
            assert run.optimizer.parameters["weight_decay"] == tuned[key]["optimizer.weight_decay"]
    for name in ("figure1", "figure3", "figure4", "figure5"):
        for part in find(name).parts(Protocol("small")):
            assert not any(row.chosen for row in part.rows)


def test_frozen_features_have_no_views_for_gjs():
    (part,) = find("table5").parts(Protocol("features"))
    assert not any(row.title.startswith("GJS") for row in part.rows)
    assert len(part.rows) == 12


def test_another_network_is_every_rows():
    protocol = Protocol("paper", network="cnn")
    (part,) = find("table5").parts(protocol)
    assert {run.model.name for _, _, run in cells(part, protocol)} == {"cnn"}


def test_sensitivity_moves_each_parameter_around_its_own_value():
    first, second = find("figure3").parts(Protocol("paper"))
    titles = [row.title for row in first.rows]
    assert titles[:5] == [f"GCE q {q}" for q in (0.85, 0.875, 0.9, 0.925, 0.95)]
    assert titles[5:] == [f"DAL q_start {q}" for q in (0.75, 0.775, 0.8, 0.825, 0.85)]
    assert [row.title for row in second.rows] == [
        *(f"DAL q_end {value}" for value in (1.2, 1.5, 1.8)),
        *(f"DAL lambda_end {value}" for value in ("0.5", "1", "1.5")),
    ]


def test_values_of_a_loss_without_any_are_its_defaults():
    assert loss_values(Protocol("paper"), "cifar10", "ce") == {"loss.name": "ce"}
    assert loss_values(Protocol("paper"), "webvision", "dal")["loss.q_start"] == 0.4


def test_experiments_that_there_are_none_of():
    with pytest.raises(ConfigError, match="unknown experiment 'tabel2': did you mean 'table2'"):
        find("tabel2")

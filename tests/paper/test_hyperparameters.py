import pytest

from noisylabels.losses import build
from noisylabels.paper.hyperparameters import DATASETS, HYPERPARAMETERS, LATER

# The paper's table 1 as it is printed: a cell's numbers are in the order of the names.
PRINTED = """
loss     | names                    | CIFAR-10              | CIFAR-100            | Animal-10N           | WebVision
gce      | q                        | 0.9                   | 0.7                  |                      |
sce      | alpha, beta              | 0.1, 10               | 6, 1                 | 6, 1                 | 10, 1
nlnl     | n                        | 1                     | 110                  |                      |
btl      | t1, t2                   | 0.7, 3.0              | 0.7, 1.5             |                      |
nce+rce  | alpha, beta              | 1, 0.1                | 10, 0.1              | 10, 0.1              | 50, 0.1
tce      | order                    | 3                     | 18                   |                      |
nce+agce | alpha, beta, a, q        | 1, 0.4, 6, 1.5        | 10, 0.1, 3, 3        | 0, 1, 1e-5, 0.7      | 0, 1, 1e-5, 0.5
ce+sr    | tau, lamb, r, p, rho     | 0.5, 1.5, 1, 0.1, 1.02 | 0.5, 8, 1, 0.01, 1.02 | 0.5, 8, 1, 0.01, 1.02 | 0.5, 2, 1, 0.01, 1.02
js       | pi                       | 0.9                   | 0.5                  | 0.5                  | 0.1
poly1    | epsilon                  | 10                    | 2                    |                      |
dal      | q_start, q_end, lambda_end | 0.8, 1.5, 1         | 0.6, 1.5, 1          | 0.6, 1.5, 1          | 0.4, 1.5, 1
"""  # noqa: E501


def printed():
    lines = [[cell.strip() for cell in line.split("|")] for line in PRINTED.strip().splitlines()]
    (_, _, *datasets), *rows = lines
    for key, names, *cells in rows:
        for dataset, cell in zip(datasets, cells, strict=True):
            if cell:
                numbers = map(float, cell.split(","))
                yield key, dataset, dict(zip(names.split(", "), numbers, strict=True))


def test_the_table_is_the_papers():
    ours = {
        (key, dataset): values
        for key, columns in HYPERPARAMETERS.items()
        for dataset, values in columns.items()
    }
    assert ours == {(key, dataset): values for key, dataset, values in printed()}
    assert len(ours) == 34
    assert {dataset for _, dataset in ours} == set(DATASETS)


def test_later_values_are_none_of_the_papers():
    assert not set(LATER) & set(HYPERPARAMETERS)
    assert {column.partition(",")[0] for columns in LATER.values() for column in columns} <= set(
        DATASETS
    )


@pytest.mark.parametrize("key", HYPERPARAMETERS | LATER)
def test_every_value_reaches_its_loss(key):
    for values in (HYPERPARAMETERS | LATER)[key].values():
        loss = build(key, **values)
        assert {name: getattr(loss, name) for name in values} == values

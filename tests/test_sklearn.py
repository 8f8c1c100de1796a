"""The classifier of scikit-learn, by scikit-learn's own checks and on real tables."""

import pickle
import re
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch
from scipy.sparse import csr_array, csr_matrix
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_digits, load_wine
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.metrics import average_precision_score
from sklearn.model_selection import GridSearchCV, cross_val_predict, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from noisylabels.errors import ConfigError, DataError, MissingExtraError
from noisylabels.losses import LOSSES, CrossEntropyLoss, GeneralizedCrossEntropyLoss
from noisylabels.noise import symmetric_exclusive
from noisylabels.sklearn import ONE_VIEW, RobustClassifier, _warn_of_collapse


@pytest.fixture(scope="module")
def wine():
    """Raw columns, of which one is a thousand times another; 30 % of the labels are wrong."""
    x, y = load_wine(return_X_y=True)
    given = symmetric_exclusive(torch.from_numpy(y), rate=0.3, seed=0).numpy()
    return x, y, given


def robust(*args, **options) -> RobustClassifier:
    wide = {"epochs": 100, "hidden_layer_sizes": 256, "random_state": 0}
    return RobustClassifier(*args, **wide | options)


# Without any expected failure. Fewer, larger steps than by default, for there are a hundred fits.
@parametrize_with_checks([RobustClassifier(epochs=20, learning_rate=0.5)])
# Checks are skipped with a warning, such as that of another array library.
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
# Trained for so short a time, on so few examples.
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_it_keeps_the_contract(estimator, check):
    check(estimator)


def test_digits_with_wrong_labels_are_learnt_and_the_labels_found():
    x, y = load_digits(return_X_y=True)
    x, x_test, y, y_test = train_test_split(x, y, test_size=360, random_state=0, stratify=y)
    given = symmetric_exclusive(torch.from_numpy(y), rate=0.4, seed=0).numpy()
    classifier = RobustClassifier(random_state=0).fit(x, given)
    assert classifier.epochs_ == 125  # 1,500 steps of 12 an epoch
    assert classifier.score(x_test, y_test) > 0.92
    issues, wrong = classifier.find_label_issues(), given != y
    assert len(issues) == len(y)
    assert average_precision_score(wrong, issues.wrong_probability) > 0.98
    assert abs(issues.noise_rate - wrong.mean()) < 0.05
    assert wrong[issues.rows].mean() > 0.95
    assert (issues.predicted == y)[issues.rows].mean() > 0.9
    assert (given == issues.given).all()


@pytest.mark.parametrize("method", ONE_VIEW)
def test_every_method_learns_from_raw_columns(wine, method):
    x, y, given = wine
    classifier = robust("ce", method=method, epochs=30).fit(x, given)
    assert classifier.score(x, y) > 0.85
    issues = classifier.find_label_issues()
    # Those from whom a noise rate was estimated are judged too.
    assert np.isfinite(issues.wrong_probability).all()
    np.testing.assert_allclose(issues.mean_probabilities.sum(1), 1, rtol=1e-4)


def test_a_method_tells_what_it_estimates(wine, capsys):
    x, _, given = wine
    robust("ce", method="coteaching", epochs=5, verbose=True).fit(x, given)
    assert "forget_rate is not given: estimated from 18 held-out" in capsys.readouterr().out
    robust("ce", method="coteaching", method_params={"forget_rate": 0.3}, epochs=12).fit(x, given)
    assert not capsys.readouterr().out


def test_the_evidence_is_the_mean_over_epochs(wine):
    x, _, given = wine
    still = robust("ce", epochs=1, learning_rate=1e-9).fit(x, given)
    np.testing.assert_allclose(still.mean_probabilities_, still.predict_proba(x), atol=1e-6)
    seen = []

    class Watching(RobustClassifier):
        def _make_method(self, *args):
            method = super()._make_method(*args)
            predict = method.predict

            def noted(part):
                found = predict(part)
                if part == "train" and found is not (seen[-1] if seen else None):
                    seen.append(found)
                return found

            method.predict = noted
            return method

    moving = Watching("ce", epochs=120, hidden_layer_sizes=256, random_state=0).fit(x, given)
    assert len(seen) == 40  # every third of 120
    mean = torch.stack([each[0].exp() for each in seen]).mean(0)
    np.testing.assert_allclose(moving.mean_probabilities_, mean, rtol=1e-4)
    # What was learnt late, by heart, is in the mean only in part.
    own = np.arange(len(given)), given
    assert moving.mean_probabilities_[own].mean() < moving.predict_proba(x)[own].mean() - 0.02


def test_issues_out_of_fold_leave_the_estimator_alone(wine):
    x, y, given = wine
    classifier = robust("ce", epochs=30)
    issues = classifier.find_label_issues(x, given, cv=3)
    assert issues.out_of_fold
    assert not hasattr(classifier, "network_")
    wrong = given != y
    own = classifier.fit(x, given).find_label_issues()
    assert not own.out_of_fold
    found = average_precision_score(wrong, issues.wrong_probability)
    # Cross entropy has learnt the wrong labels by heart, but not those of other folds.
    assert found > 0.85
    assert issues.mean_probabilities.argmax(1)[wrong].tolist() != given[wrong].tolist()
    again = robust("ce", epochs=30).find_label_issues(x, given, cv=3)
    assert (again.wrong_probability == issues.wrong_probability).all()


def test_out_of_fold_means_never_trained_on():
    """Labels that say nothing of the rows can be learnt, but not told of other rows."""
    draws = np.random.default_rng(0)
    x, y = draws.normal(size=(200, 20)), draws.integers(0, 2, 200)
    classifier = robust("ce", epochs=60).fit(x, y)
    assert (classifier.predict(x) == y).mean() > 0.9
    inside = (classifier.find_label_issues().predicted == y).mean()
    outside = (classifier.find_label_issues(x, y).predicted == y).mean()
    assert inside > 0.9
    assert 0.35 < outside < 0.65


def test_issues_as_a_frame(wine):
    x, _, given = wine
    issues = robust().fit(x, np.array(["a", "b", "c"])[given]).find_label_issues()
    frame = issues.frame()
    assert list(frame.columns) == ["is_issue", "wrong_probability", "given", "predicted"]
    assert frame["is_issue"].sum() == len(issues.rows) > 0
    assert set(frame["given"]) == {"a", "b", "c"}
    assert (frame["wrong_probability"].iloc[issues.rows].diff().dropna() <= 0).all()


def test_issues_of_a_frame_are_called_as_it_calls_its_rows(wine):
    """By ``loc`` they are the same rows as by ``iloc``, however the frame was shuffled."""
    x, y, given = wine
    frame = pandas.DataFrame(x, columns=list(map(str, range(x.shape[1])))).sample(
        frac=1, random_state=0
    )
    labels = pandas.Series(np.array(["a", "b", "c"])[given])[frame.index]
    right = np.array(["a", "b", "c"])[y]
    classifier = robust().fit(frame, labels)
    for issues in (
        classifier.find_label_issues(),
        robust().find_label_issues(frame, labels, cv=2),
        # Of arrays and series the latter's.
        robust().find_label_issues(frame.to_numpy(), labels, cv=2),
    ):
        told = issues.frame()
        assert told.index.equals(frame.index)
        assert (told["given"] == labels.loc[told.index]).all()
        assert (told.index[issues.rows] == frame.iloc[issues.rows].index).all()
        assert (right[told.index[issues.rows[:20]]] != labels.iloc[issues.rows[:20]]).all()
    assert pickle.loads(pickle.dumps(classifier)).find_label_issues().index.equals(frame.index)


def test_issues_need_both_or_neither(wine):
    x, _, given = wine
    with pytest.raises(ConfigError, match="expected both X and y, or neither"):
        robust().find_label_issues(x)
    with pytest.raises(ConfigError, match="expected X and y with sample_weight"):
        robust().find_label_issues(sample_weight=given)
    with pytest.raises(NotFittedError):
        robust().find_label_issues()
    once = [(np.arange(100), np.arange(100, 178))]
    with pytest.raises(DataError, match="every row to be held out, got 100 not"):
        robust(epochs=1).find_label_issues(x, given, cv=once)


def test_hyperparameters_are_searched_for(wine):
    x, _, given = wine
    names = np.array(["a", "b", "c"])[given]
    grid = {
        "robustclassifier__loss": ["gce", GeneralizedCrossEntropyLoss],
        "robustclassifier__loss__q": [0.2, 0.8],
        "robustclassifier__epochs": np.array([5]),
    }
    pipeline = make_pipeline(MinMaxScaler(), robust())
    search = GridSearchCV(pipeline, grid, cv=2, error_score="raise").fit(x, names)
    best = search.best_estimator_[-1]
    assert best.loss_params == {"q": search.best_params_["robustclassifier__loss__q"]}
    assert set(search.predict(x)) <= {"a", "b", "c"}
    scores = search.cv_results_["mean_test_score"]
    # A key and its class are the same loss.
    assert scores[0] == scores[2]
    assert scores[1] == scores[3]


def test_parameters_of_loss_and_method_have_names_of_their_own():
    classifier = RobustClassifier("gce")
    classifier.set_params(loss__q=0.4, method="elr", method__lamb=1.0)
    assert classifier.loss_params == {"q": 0.4}
    found = classifier.get_params()
    assert (found["loss__q"], found["method__lamb"]) == (0.4, 1.0)
    assert clone(classifier).get_params() == found
    assert "loss__q" not in classifier.get_params(deep=False)
    with pytest.raises(ValueError, match="Invalid parameter"):
        classifier.set_params(optimizer__lr=0.1)


def test_losses_by_key_class_function_and_instance(wine):
    x, _, given = wine
    made = GeneralizedCrossEntropyLoss(q=0.7)
    fits = [
        robust(loss, epochs=3).fit(x, given).predict_proba(x)
        for loss in ("gce", GeneralizedCrossEntropyLoss, made)
    ]
    assert (fits[0] == fits[1]).all()
    assert (fits[0] == fits[2]).all()
    assert made.progress == 0  # a copy was trained with
    dynamic = robust(LOSSES["dgce"], epochs=3, loss_params={"q_start": 0.7, "q_end": 0.7})
    np.testing.assert_allclose(dynamic.fit(x, given).predict_proba(x), fits[0], rtol=1e-6)


def test_progress_and_schedules_are_told(wine):
    """The loss of the last epoch is that of its own progress, and stateful schedules hear."""
    x, _, given = wine
    heard = []

    class Listening:
        def __call__(self, progress):
            heard.append(progress)
            return 0.5

        def update(self, metrics):
            heard.append(sorted(metrics))

        def state_dict(self):
            return {}

        def load_state_dict(self, state):
            pass

    robust("gce", loss_params={"q": Listening()}, epochs=4, batch_size=178).fit(x, given)
    told = [each for each in heard if isinstance(each, float)]
    assert {0.0, 0.25, 0.5, 0.75} <= set(told)
    assert heard.count(["epoch", "loss", "lr", "q"]) == 4


def test_frames_strings_and_booleans(wine):
    x, _, given = wine
    frame = pandas.DataFrame(x, columns=load_wine().feature_names)
    names = pandas.Series(["a", "b", "c"]).iloc[given].reset_index(drop=True)
    classifier = robust(epochs=5).fit(frame, names)
    assert list(classifier.feature_names_in_) == list(frame.columns)
    assert classifier.n_features_in_ == 13
    assert set(classifier.predict(frame)) <= {"a", "b", "c"}
    with pytest.raises(ValueError, match="feature names should match"):
        classifier.predict(frame[frame.columns[::-1]])
    assert robust(epochs=5).fit(x, given == 0).predict(x).dtype == bool


@pytest.mark.parametrize("container", [csr_matrix, csr_array])
def test_sparse_rows_are_the_same_rows(container):
    x, y = load_digits(return_X_y=True)
    x, y = x[:300], y[:300]
    sparse = robust("ce", epochs=10, standardize=False).fit(container(x / 16), y)
    dense = robust("ce", epochs=10, standardize=False).fit(x / 16, y)
    np.testing.assert_allclose(sparse.predict_proba(x / 16), dense.predict_proba(x / 16))
    scaled = robust("ce", epochs=10).fit(container(x), y)
    assert scaled.score(container(x), y) > 0.9
    by_hand = StandardScaler(with_mean=False).fit(x)
    alike = robust("ce", epochs=10, standardize=False).fit(by_hand.transform(x), y)
    np.testing.assert_allclose(
        scaled.predict_proba(x), alike.predict_proba(by_hand.transform(x)), rtol=1e-6
    )


def test_columns_are_standardised_inside(wine):
    x, _, given = wine
    scaler = StandardScaler().fit(x)
    inside = robust(epochs=20).fit(x, given).predict_proba(x)
    outside = robust(epochs=20, standardize=False).fit(scaler.transform(x), given)
    np.testing.assert_allclose(inside, outside.predict_proba(scaler.transform(x)), rtol=1e-7)
    other_units = robust(epochs=20).fit(x * 1000 - 7, given).predict_proba(x * 1000 - 7)
    np.testing.assert_allclose(inside, other_units, rtol=1e-6)


def test_single_and_double_precision(wine):
    x, _, given = wine
    single = robust("ce", epochs=20).fit(x.astype(np.float32), given)
    double = robust("ce", epochs=20).fit(x, given)
    assert next(single.network_.parameters()).dtype == torch.float32
    assert next(double.network_.parameters()).dtype == torch.float64
    np.testing.assert_allclose(single.predict_proba(x), double.predict_proba(x), atol=1e-3)


def test_devices_without_float64_are_given_float32(wine, monkeypatch):
    monkeypatch.setattr("noisylabels.sklearn.SINGLE_ONLY", ("cpu",))
    x, _, given = wine
    single = robust("ce", epochs=3).fit(x.astype(np.float32), given)
    double = robust("ce", epochs=3).fit(x, given)
    assert next(double.network_.parameters()).dtype == torch.float32
    np.testing.assert_allclose(single.predict_proba(x), double.predict_proba(x), atol=1e-3)
    robust("ce", epochs=3).fit(csr_array(x), given).predict(csr_array(x))


def test_the_seed_decides_and_no_generator_is_touched(wine):
    x, _, given = wine

    def drawn():
        return np.random.get_state()[1].copy()  # noqa: NPY002

    torch.manual_seed(1)
    numpy_state, torch_state = drawn(), torch.get_rng_state()
    # A loss that draws.
    first = robust("nlnl", epochs=5).fit(x, given).predict_proba(x)
    assert (drawn() == numpy_state).all()
    assert torch.equal(torch.get_rng_state(), torch_state)
    torch.manual_seed(2)
    assert (robust("nlnl", epochs=5).fit(x, given).predict_proba(x) == first).all()
    assert (robust("nlnl", epochs=5, random_state=1).fit(x, given).predict_proba(x) != first).any()
    going_on = robust("nlnl", epochs=5, random_state=np.random.RandomState(0))
    one, other = (going_on.fit(x, given).predict_proba(x) for _ in range(2))
    assert (one != other).any()


def test_pickled_it_predicts_and_judges(wine):
    x, _, given = wine
    classifier = robust(LOSSES["gce"], epochs=5).fit(x, given)
    again = pickle.loads(pickle.dumps(classifier))
    assert (again.predict_proba(x) == classifier.predict_proba(x)).all()
    assert (again.find_label_issues().rows == classifier.find_label_issues().rows).all()


def test_predictions_of_other_folds(wine):
    x, y, given = wine
    found = cross_val_predict(robust(), x, given, cv=3)
    assert (found == y).mean() > 0.85


def test_class_weights_move_the_border():
    x, y = load_breast_cancer(return_X_y=True)
    x = x[:, :2]  # so that there is something to weigh
    counts = [
        (robust("ce", class_weight=weight, epochs=30).fit(x, y).predict(x) == 1).sum()
        for weight in ({0: 10, 1: 1}, None, {0: 1, 1: 10})
    ]
    assert counts[0] < counts[1] - 20 < counts[2] - 40
    few = np.r_[np.flatnonzero(y == 0), np.flatnonzero(y == 1)[:20]]
    balanced = robust("ce", class_weight="balanced", epochs=30).fit(x[few], y[few])
    plain = robust("ce", epochs=30).fit(x[few], y[few])
    assert (balanced.predict(x) == 1).sum() > (plain.predict(x) == 1).sum()


def test_examples_of_no_weight_are_judged_but_not_trained_on(wine):
    x, _, given = wine
    weight = np.ones(len(given))
    weight[:20] = 0
    weighted = robust(epochs=20).fit(x, given, sample_weight=weight)
    removed = robust(epochs=20).fit(x[20:], given[20:])
    assert (weighted.predict_proba(x) == removed.predict_proba(x)).all()
    assert (weighted.mean_probabilities_[20:] == removed.mean_probabilities_).all()
    assert (weighted.mean_probabilities_[:20].sum(1) > 0.99).all()


def test_constant_and_heavy_columns_do_no_harm():
    draws = np.random.default_rng(0)
    x = np.exp(3 * draws.normal(size=(300, 10)))
    x[:, 3] = 7
    y = (x[:, 0] > 1).astype(int)
    assert robust("ce").fit(x, y).score(x, y) > 0.7


def test_no_hidden_layer_is_a_linear_model(wine):
    x, _, given = wine
    classifier = robust("ce", hidden_layer_sizes=(), epochs=5).fit(x, given)
    assert [tuple(p.shape) for p in classifier.network_.parameters()] == [(3, 13), (3,)]
    one = robust("ce", hidden_layer_sizes=np.int64(5), epochs=9).fit(x, given)
    assert next(one.network_.parameters()).shape == (5, 13)


def test_few_rows_have_no_hidden_layer():
    x, y = load_digits(return_X_y=True)
    widths = [
        len(
            list(
                robust("ce", hidden_layer_sizes="auto", epochs=9)
                .fit(x[:n], y[:n])
                .network_.parameters()
            )
        )
        for n in (999, 1000)
    ]
    assert widths == [2, 4]


def test_a_collapse_is_said():
    x, y = load_digits(return_X_y=True)
    with pytest.warns(ConvergenceWarning, match="every training example is predicted as the same"):
        robust("mae", epochs=2, learning_rate=1e-6, hidden_layer_sizes=(1,)).fit(x[:500], y[:500])


@pytest.mark.parametrize(("rare", "said"), [(20, True), (3, False)])
def test_a_class_that_is_given_up_is_named(rare, said):
    labels = torch.tensor([0] * 20 + [1] * 20 + [2] * rare)
    predicted = torch.where(labels == 2, 1, labels)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        _warn_of_collapse(predicted, labels, np.array(["red", "rosy", "white"]))
    assert [each.category for each in found] == [ConvergenceWarning] * said
    assert all("no training example is predicted as 'white', which" in str(w) for w in found)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "dall"}, "unknown loss 'dall': did you mean 'dal'"),
        ({"loss": "gce", "loss_params": {"w": 1}}, r"parameter of loss 'gce' 'w'.*known: .*, q, "),
        ({"loss_params": 5}, "loss_params must be a dictionary of values by name, got 5"),
        ({"method": "elr", "method_params": "x"}, "method_params must be a dictionary"),
        ({"loss": "gce", "loss_params": {"q": -1}}, r"q must be in \[0, inf\), got -1"),
        ({"loss": CrossEntropyLoss(), "loss_params": {"q": 1}}, "expected none beside a loss"),
        ({"loss": torch.nn.CrossEntropyLoss}, "loss must make a Loss, got"),
        ({"loss": 3}, "loss must be a key, a class or a Loss, got 3"),
        ({"loss": torch.nn.CrossEntropyLoss()}, "loss must be a key, a class or a Loss, got Cro"),
        ({"standardize": "no"}, "standardize must be True or False, got 'no'"),
        ({"method": "dividemix"}, "method must be 'single' or 'elr' or"),
        ({"method": "elr", "method_params": {"w": 1}}, "unexpected keyword argument 'w'"),
        ({"epochs": "many"}, "epochs must be 'auto', got 'many'"),
        ({"epochs": 0}, r"epochs must be in \[1, inf\), got 0"),
        ({"batch_size": 1.5}, "batch_size must be a whole number, got 1.5"),
        ({"device": "gpu"}, "device: 'gpu' cannot be used"),
        ({"device": "meta"}, "device: 'meta' cannot be used"),
        ({"hidden_layer_sizes": (0,)}, "hidden_layer_sizes must be in"),
        ({"hidden_layer_sizes": "many"}, "hidden_layer_sizes must be 'auto', got 'many'"),
        ({"learning_rate": 0}, "learning_rate must be in"),
        ({"learning_rate": "a"}, "learning_rate must be a number, got 'a'"),
        ({"class_weight": "bal"}, "class_weight must be 'balanced', got 'bal'"),
        ({"class_weight": {"red": 2}}, "unknown class in class_weight 'red'"),
        ({"class_weight": {"1": 2}}, "unknown class in class_weight '1'"),
        ({"method": "elr", "class_weight": "balanced"}, "the method must be 'single', got 'elr'"),
    ],
)
def test_what_cannot_be_is_refused(wine, options, message):
    x, _, given = wine
    with pytest.raises(ConfigError, match=message):
        robust(**options).fit(x, given)


def test_weights_are_checked(wine):
    x, _, given = wine
    with pytest.raises(DataError, match="sample_weight: expected weights of at least 0"):
        robust().fit(x, given, sample_weight=given - 1.0)
    with pytest.raises(DataError, match="at least 2 classes, got 48 examples of one class"):
        robust().fit(x, load_wine().target, sample_weight=load_wine().target == 2)


def test_it_needs_scikit_learn_and_numpy_alone():
    """What the extra does not bring is blocked; and then scikit-learn too."""
    blocked = "PIL pydantic rich tyro lightning_fabric torchvision tensorboard safetensors"
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({blocked.split()})); import numpy as np\n"
        "from noisylabels.sklearn import RobustClassifier\n"
        "x = np.arange(8.0)[:, None]\n"
        "classifier = RobustClassifier(epochs=2).fit(x, x[:, 0] > 3)\n"
        "print(len(classifier.find_label_issues()))\n"
        "sys.modules['sklearn.base'] = None; del sys.modules['noisylabels.sklearn']\n"
        "import noisylabels.sklearn\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.stdout == "8\n", run.stderr
    assert run.stderr.endswith(
        "scikit-learn is not installed: pip install 'noisylabels[sklearn]'\n"
    )


def test_a_frame_needs_pandas(wine, monkeypatch):
    x, _, given = wine
    issues = robust(epochs=1).fit(x, given).find_label_issues()
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'noisylabels\[report\]'"):
        issues.frame()


@pytest.mark.slow
def test_the_page_is_true(tmp_path, monkeypatch, capsys):
    page = Path(__file__).parents[1] / "docs" / "sklearn.md"
    blocks = re.findall(r"^```python\n(.*?)^```$", page.read_text(encoding="utf-8"), re.M | re.S)
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    names: dict = {}
    for block in blocks:
        exec(block, names)
    printed = capsys.readouterr().out.splitlines()
    assert float(printed[0].removeprefix("test accuracy ")) > 0.9
    told = re.match(r"about (\d+)% of the labels are wrong, these first: \[", printed[1])
    assert abs(int(told[1]) - 40) < 5
    assert (names["given"] != names["y"])[names["issues"].is_issue].mean() > 0.9
    assert names["cleaned"].score(names["X_test"], names["y_test"]) > 0.9
    assert (tmp_path / "net.pt").exists()

import csv
import json
import os
import shutil
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch

from noisylabels.__main__ import main
from noisylabels.data.datasets import SOURCES
from noisylabels.errors import ConfigError, DataError
from noisylabels.run import spec
from noisylabels.run.config import Component, parse
from noisylabels.run.folder import RunFolder
from noisylabels.run.labelling import label
from noisylabels.run.plan import plan
from noisylabels.studies import decisions, pages
from pictures import pixels, save, split_folders

DIGITS = parse({"data": {"name": "digits", "limit": 100}})


def entry(row, given, action="keep", **more):
    return {"part": "train", "row": row, "path": "", "given": given, "action": action} | more


def write(path, *entries, **more):
    stored = {"format": decisions.FORMAT, "decisions": list(entries)} | more
    path.write_text(json.dumps(stored))
    return path


def digits():
    return [str(number) for number in SOURCES["digits"]().load().train.labels.tolist()]


def other(name):
    return str((int(name) + 1) % 10)


@pytest.fixture
def photos(tmp_path):
    """A folder of twelve photos of two classes, the last of each in a test set."""
    return split_folders(tmp_path / "photos")


def test_decisions_make_labels(tmp_path):
    given = digits()
    found = decisions.read(
        write(
            tmp_path / "d.json",
            entry(0, given[0]),
            entry(1, given[1], "relabel", label=other(given[1])),
            entry(2, given[2], "aside"),
        )
    )
    made = decisions.apply(found, DIGITS)
    # All of the data, beyond the limit too.
    assert len(made.train) == 1437
    expected = torch.tensor([int(name) for name in given])
    expected[1], expected[2] = (expected[1] + 1) % 10, -1
    assert torch.equal(made.train, expected)
    assert made.counts == {"keep": 1, "relabel": 1, "aside": 1}


def test_rows_are_those_of_the_run_with_its_hold_out(tmp_path):
    run = DIGITS.replace(validation=0.2, seed=3)
    dataset, _ = label(plan(run))
    kept, out = (str(int(part.labels[4])) for part in (dataset.train, dataset.validation))
    path = write(
        tmp_path / "d.json",
        entry(4, kept, "relabel", label=other(kept)),
        entry(4, out, "aside", part="validation"),
    )
    made = decisions.apply(decisions.read(path), run)
    before = made.dataset.train
    (changed,), (aside,) = (
        torch.nonzero((made.train != before.labels) & (made.train >= 0)).tolist(),
        torch.nonzero(made.train < 0).tolist(),
    )
    assert torch.equal(before.tensor()[changed][0], dataset.train.tensor()[4])
    assert torch.equal(before.tensor()[aside][0], dataset.validation.tensor()[4])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"action": "drop"}, r"decision 1: expected action keep, relabel, aside, got 'drop'"),
        ({"row": -1}, "decision 1: expected a part and a row, got 'train' and -1"),
        ({"row": True}, "expected a part and a row"),
        ({"part": "rest"}, "expected a part and a row, got 'rest'"),
        ({"given": 3}, "expected text for given, path and label"),
        ({"action": "relabel"}, "expected the label to give, got none"),
        ({"row": 100}, "expected a row of train below 100, got 100: this is not the data"),
        ({"part": "validation"}, "expected a row of validation below 0"),
        ({"given": "?"}, r"expected the label '\?' of that row, got '\d' in row 0 of train"),
        ({"path": "a.png"}, "this is not the data that was audited"),
        ({"action": "relabel", "label": "x"}, r"expected a class \(0, 1, .*\), got 'x'"),
    ],
)
def test_decisions_that_do_not_fit_are_named(tmp_path, changes, said):
    path = write(tmp_path / "d.json", entry(0, digits()[0]) | changes)
    with pytest.raises(DataError, match=said):
        decisions.apply(decisions.read(path), DIGITS)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "expected JSON"),
        ("[" * 100_000, "expected JSON"),
        ("[]", "expected decisions that the page of an audit saved"),
        ('{"format": "other"}', "expected decisions that the page of an audit saved"),
        (json.dumps({"format": decisions.FORMAT}), "expected a list 'decisions', got None"),
        (json.dumps({"format": decisions.FORMAT, "decisions": [3]}), "expected an object, got 3"),
    ],
)
def test_files_that_are_no_decisions_are_named(tmp_path, text, said):
    (tmp_path / "d.json").write_text(text)
    with pytest.raises(DataError, match=rf"d.json: .*{said}"):
        decisions.read(tmp_path / "d.json")


def test_two_decisions_about_one_example_are_refused(tmp_path):
    path = write(tmp_path / "d.json", entry(0, "3"), entry(0, "3", "aside"))
    with pytest.raises(DataError, match=r"decision 2: decides again about the example of .* 1"):
        decisions.read(path)


def suspects(path, *rows):
    header = "rank,part,row,path,given,suggested,score\n"
    path.write_text(header + "".join(f"{row}\n" for row in rows))
    return path


def test_suspects_above_a_score_are_relabelled_without_a_person(tmp_path):
    suspects(tmp_path / "suspects.csv", "1,train,7,,3,4,0.97", "2,train,8,,5,6,0.94")
    (found,) = decisions.read(tmp_path, above=0.95)
    assert (found.row, found.given, found.action, found.label) == (7, "3", "relabel", "4")
    assert len(decisions.read(tmp_path / "suspects.csv", above=0.94)) == 2


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("1,train,7,,3,4,high", "row 2: expected numbers for score and row"),
        ("1,train,7,,3", "row 2: expected"),
        ("1,rest,7,,3,4,0.99", "row 2: expected a row of an audit's suspects.csv"),
    ],
)
def test_damaged_suspects_are_named(tmp_path, row, said):
    with pytest.raises(DataError, match=said):
        decisions.read(suspects(tmp_path / "s.csv", row), above=0.5)


def test_what_can_be_read_is_said(tmp_path):
    (tmp_path / "s.csv").write_text("a,b\n")
    with pytest.raises(DataError, match="expected columns part, row, path"):
        decisions.read(tmp_path / "s.csv", above=0.5)
    with pytest.raises(ConfigError, match=r"or suspects.csv with --above"):
        decisions.read(tmp_path / "s.csv")
    with pytest.raises(ConfigError, match="--above takes suspects.csv"):
        decisions.read(write(tmp_path / "d.json"), above=0.5)
    with pytest.raises(ConfigError, match="above"):
        decisions.read(tmp_path / "s.csv", above=1.5)
    with pytest.raises(DataError, match="cannot be read"):
        decisions.read(tmp_path / "none.json")


def read(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("where", ["labels.csv", "photos/labels.csv", "elsewhere/labels.csv"])
def test_a_table_has_the_old_labels_in_a_column(photos, tmp_path, monkeypatch, where, capsys):
    monkeypatch.chdir(tmp_path)
    path = write(
        tmp_path / "d.json",
        entry(0, "ant", "relabel", path=str(photos / "train/ant/00.png"), label="bee"),
        entry(1, "ant", "aside", path="/moved/train/ant/02.png"),
        entry(0, "ant", "relabel", part="test", path="10.png", label="bee"),
    )
    assert main(["apply", str(path), "--data", "photos", "--out", where]) == 0
    said = capsys.readouterr().out
    assert "0 kept, 2 relabelled, 1 set aside" in said
    assert "1 of them in the test set: accuracy is counted against their new labels" in said
    rows = read(tmp_path / where)
    assert list(rows[0]) == ["path", "label", "split", "label_before"]
    assert len(rows) == 11
    assert {row["split"] for row in rows} == {"train", "test"}
    changed = {row["path"].rpartition("/")[2]: row for row in rows if row["label"] == "bee"}
    assert changed["00.png"]["label_before"] == changed["10.png"]["label_before"] == "ant"
    # One line of a run's file reads it.
    data = said.splitlines()[-1].removeprefix("to train on them: ")
    (tmp_path / "run.toml").write_text(f"epochs = 1\nmodel = 'mlp'\n{data}\n")
    assert main(["train", "run.toml", "--save_model", "false"]) == 0
    labels = RunFolder(tmp_path / capsys.readouterr().out.strip()).labels()
    assert sorted(labels["given"].tolist()) == [0, 0, 0, 1, 1, 1, 1, 1, 1]
    assert sorted(labels["test"].tolist()) == [1, 1]


def test_names_of_files_may_hold_anything(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = ["a\rb", "c\r\nd", "e\nf", 'g,"h', "i;j", "\r", "ordinary"]
    for number in range(28):
        name, own = f"{names[number % 7]}{number}.png", number < 14
        # The first of each class lies in the other's folder.
        folder = ("dark", "bright")[own != (number % 14 == 0)]
        save(tmp_path / "photos" / folder / name, pixels(number, (8, 8, 3)) // 2 + 128 * own)
    (tmp_path / "run.toml").write_text(
        "data = {name = 'folder', root = 'photos'}\nmodel = 'linear'\naugment = 'none'\n"
        "epochs = 30\nbatch_size = 4\noptimizer = {name = 'sgd', lr = 0.01}\n"
    )
    assert main(["audit", "run.toml"]) == 0
    moved = [row for row in read(tmp_path / "audit/suspects.csv") if row["given"] == "dark"]
    assert [Path(row["path"]).name for row in moved] == ["a\rb0.png"]
    apply = ["apply", "audit", "--above", "0", "--data", "run.toml", "--out", "labels.csv"]
    capsys.readouterr()
    assert main(apply) == 0
    data = capsys.readouterr().out.splitlines()[-1].removeprefix("to train on them: ")
    made, _ = label(plan(parse(tomllib.loads(f"{data}\nmodel = 'linear'")), trial=False))
    found = np.concatenate([made.train.places, made.test.places])
    assert len(found) == 28
    assert all(Path(str(place)).is_file() for place in found)
    (run,) = (tmp_path / "audit/runs").iterdir()
    assert main(["predict", str(run), "photos", "--out", "predictions.csv"]) == 0
    predicted = read(tmp_path / "predictions.csv")
    assert len(predicted) == 28
    assert all(Path(row["path"]).is_file() and not row["error"] for row in predicted)


def test_names_that_are_numbers_stay_names(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for number in range(12):
        place = tmp_path / "photos" / ("10", "20")[number % 2] / f"{number}.png"
        save(place, pixels(number, (8, 8, 3)))
    write(tmp_path / "d.json")
    assert main(["apply", "d.json", "--data", "photos"]) == 0
    assert 'labels = "names"' in capsys.readouterr().out


def test_what_a_label_file_cannot_hold_is_said(tmp_path):
    given = digits()
    run = parse({"data": "digits"})
    aside = decisions.apply(
        decisions.read(write(tmp_path / "d.json", entry(0, given[0], "aside"))), run
    )
    with pytest.raises(ConfigError, match=r"labels.npy: .* and 1 are set aside"):
        decisions.write(aside, tmp_path / "labels.npy")
    with pytest.raises(ConfigError, match=r"labels.csv: a table names image files"):
        decisions.write(aside, tmp_path / "labels.csv")
    with pytest.raises(ConfigError, match=r"expected a name that ends in .csv, .npy, .npz"):
        decisions.write(aside, tmp_path / "labels.txt")
    test = SOURCES["digits"]().load().test.labels
    tested = entry(0, str(int(test[0])), "relabel", part="test", label=other(str(int(test[0]))))
    made = decisions.apply(decisions.read(write(tmp_path / "d.json", tested)), run)
    with pytest.raises(ConfigError, match="some of the test set are relabelled"):
        decisions.write(made, tmp_path / "labels.npy")
    setting = decisions.write(aside, tmp_path / "labels.npz")
    arrays = np.load(tmp_path / "labels.npz")
    assert len(arrays["y_train"]) == 1436
    assert setting == f'data = {{ name = "arrays", path = "{tmp_path / "labels.npz"}" }}'
    assert SOURCES["arrays"](path=tmp_path / "labels.npz").load().train.shape == (1, 8, 8)


RUN = """
epochs = 12
batch_size = 64
data = "digits"
noise = { name = "symmetric-exclusive", rate = 0.3 }
model = { name = "mlp", hidden = [64] }
loss = { name = "dal", q_start = 0.2 }
optimizer = { name = "sgd", lr = 0.1, momentum = 0.9 }
"""


def test_wrong_labels_in_accuracy_up(tmp_path, monkeypatch, capsys):
    """Audit, apply what is sure, train again: fewer wrong labels, and plain CE is the better."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.toml").write_text(RUN)
    ce = ["--loss.name", "ce", "--epochs", "60", "--model.hidden", "[256]"]
    assert main(["train", "run.toml", *ce]) == 0
    before = RunFolder(tmp_path / capsys.readouterr().out.strip()).result()
    assert main(["audit", "run.toml", "--out", "found"]) == 0
    said = capsys.readouterr().out
    assert "the true labels are known here: 30.9 % are wrong" in said
    apply = ["apply", "found", "--above", "0.8", "--data", "run.toml", "--out", "labels.npy"]
    assert main(apply) == 0
    assert 'noise = { name = "file", path = "labels.npy" }' in capsys.readouterr().out
    noise = ["--noise.name", "file", "--noise.path", "labels.npy"]
    assert main(["train", "run.toml", *ce, *noise]) == 0
    after = RunFolder(tmp_path / capsys.readouterr().out.strip()).result()
    assert before["actual_noise_rate"] == pytest.approx(0.309, abs=1e-3)
    assert after["actual_noise_rate"] < 0.1
    assert after["test_accuracy"] > before["test_accuracy"] + 0.03


@pytest.mark.parametrize("kind", [".csv", ".npz"])
def test_a_test_set_that_was_split_off_stays_one_of_given_labels(tmp_path, kind):
    for number in range(40):
        name = ("ant", "bee")[number % 2]
        save(tmp_path / "photos" / name / f"{number:02}.png", pixels(number, (8, 8, 3)))
    whole = f"folder:{tmp_path / 'photos'}"
    made = decided(tmp_path, whole, entry(0, "ant", "aside", path="00.png"))
    assert made.dataset.test_is_given
    again = loaded(decisions.write(made, tmp_path / f"labels{kind}"))
    assert len(again.train) == len(made.dataset.train) - 1
    assert again.test_is_given
    # One of its own keeps its labels, and their word, unless one of them was changed.
    (tmp_path / "photos").rename(tmp_path / "all")
    for part in ("train", "test"):
        shutil.copytree(tmp_path / "all", tmp_path / "photos" / part)
    for entries, is_given in (
        ((), False),
        ((entry(0, "ant", "relabel", part="test", path="00.png", label="bee"),), True),
    ):
        made = decided(tmp_path, whole, *entries)
        assert not made.dataset.test_is_given
        again = loaded(decisions.write(made, tmp_path / f"more{kind}"))
        assert again.test_is_given == is_given


def test_labels_that_were_put_right_are_not_measured_by_those_before(tmp_path, capsys):
    for number in range(40):
        name = ("ant", "bee")[number % 2]
        save(tmp_path / "photos" / name / f"{number:02}.png", pixels(number, (8, 8, 3)))
    words = ["--data.name", "folder", "--data.root", str(tmp_path / "photos")]
    made = decided(
        tmp_path,
        f"folder:{tmp_path / 'photos'}",
        entry(0, "ant", "relabel", path="00.png", label="bee"),
    )
    out = tmp_path / "labels.npy"
    setting = decisions.write(made, out)
    assert setting == f'noise = {{ name = "file", path = "{out}", corrects = true }}'
    (tmp_path / "run.toml").write_text(f'data = "digits"\nmodel = "mlp"\nepochs = 1\n{setting}\n')
    for corrects, known in (("true", False), ("false", True)):
        own = [*words, "--noise.corrects", corrects, "--out", str(tmp_path / "runs")]
        assert main(["train", str(tmp_path / "run.toml"), *own]) == 0
        result = RunFolder(tmp_path / capsys.readouterr().out.strip()).result()
        assert (result["actual_noise_rate"] is not None) == known


def test_the_data_can_be_named_by_its_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.toml").write_text(RUN)
    assert main(["train", "run.toml", "--epochs", "1"]) == 0
    folder = capsys.readouterr().out.strip()
    assert decisions.configuration(folder).noise.name == "symmetric-exclusive"
    assert decisions.configuration("run.toml").epochs == 12
    assert decisions.configuration("digits,limit=9").data.parameters == {"limit": 9}


def test_texts_are_audited_and_relabelled(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = {"ant": 'small, six legs, "antennae"', "bee": "honey, wings and\na sting"}
    fillers = ("often", "seldom", "here", "there", "always")
    with (tmp_path / "texts.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("text", "label"))
        for number in range(60):
            name = ("ant", "bee")[number % 2]
            # Every seventh has the other's label.
            given = ("ant", "bee")[(number + (number % 7 == 0)) % 2]
            writer.writerow((f"{words[name]} {fillers[number % 5]}", given))
    (tmp_path / "run.toml").write_text(
        "data = {name = 'text', path = 'texts.csv'}\nfeatures = 'tfidf'\nepochs = 20\n"
        "batch_size = 8\noptimizer = {name = 'sgd', lr = 0.1}\nloss = 'gce'\n"
    )
    assert main(["audit", "run.toml"]) == 0
    page = (tmp_path / "audit" / "audit.html").read_text()
    assert "honey, wings and\\na sting" in page
    apply = ["apply", "audit", "--above", "0.5", "--data", "run.toml", "--out", "new/labels.csv"]
    capsys.readouterr()
    assert main(apply) == 0
    said = capsys.readouterr().out
    assert 'data = { name = "text", path = "new/labels.csv" }' in said
    rows = read(tmp_path / "new" / "labels.csv")
    assert list(rows[0]) == ["text", "label", "split", "label_before"]
    assert len(rows) == 60
    right = [("ant" if "legs" in row["text"] else "bee") == row["label"] for row in rows]
    assert sum(right) >= 58
    assert sum(row["label"] != row["label_before"] for row in rows) >= 7
    data = decisions.configuration("text:new/labels.csv")
    assert len(label(plan(data, trial=False), vectors=False)[0].train) == 48


def decided(tmp_path, data, *entries):
    """A dataset in one word, with decisions about it."""
    found = decisions.read(write(tmp_path / "d.json", *entries))
    return decisions.apply(found, decisions.configuration(data))


def loaded(setting):
    """The dataset that a line of a run's file names."""
    return spec.source(Component.parse(tomllib.loads(setting)["data"])).load()


@pytest.mark.parametrize(
    ("names", "short"),
    [
        (("ant", "bee"), True),
        (("0", "1"), True),
        (("nan", "dosa"), False),
        (("-1", "-2"), False),
        (("1.0", "2.0"), False),
        (("10", "20"), False),
    ],
)
def test_the_printed_line_reads_the_same_classes(tmp_path, names, short):
    for number in range(12):
        save(tmp_path / "photos" / names[number % 2] / f"{number}.png", pixels(number, (8, 8, 3)))
    made = decided(tmp_path, f"folder:{tmp_path / 'photos'}")
    setting = decisions.write(made, tmp_path / "labels.csv")
    assert ("labels" not in setting.partition("labels.csv")[2]) is short
    again = loaded(setting)
    assert set(again.classes) == set(made.dataset.classes) == set(names)
    for part in ("train", "test"):
        before, after = getattr(made.dataset, part), getattr(again, part)
        named = [
            {place: data.classes[label] for place, label in zip(each.places, labels, strict=True)}
            for data, each, labels in (
                (made.dataset, before, before.labels.tolist()),
                (again, after, after.labels.tolist()),
            )
        ]
        assert named[0] == named[1]


def test_the_printed_line_keeps_how_images_are_seen(photos, tmp_path):
    made = decided(tmp_path, f"folder:{photos},size=16,storage=stream")
    setting = decisions.write(made, tmp_path / "labels.csv")
    assert setting.endswith('size = 16, storage = "stream" }')
    assert loaded(setting).train.shape == made.dataset.train.shape == (3, 16, 16)
    made = decided(tmp_path, f"folder:{photos},memory_budget=0")
    assert decisions.write(made, tmp_path / "labels.csv").endswith("memory_budget = 0 }")


def test_what_is_lost_of_votes_is_said(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rows = "".join(f"text {n},{'ab'[n % 2]},{'ab'[n % 3 > 0]}\n" for n in range(20))
    (tmp_path / "texts.csv").write_text(f"text,one,two\n{rows}")
    (tmp_path / "run.toml").write_text(
        "data = {name = 'text', path = 'texts.csv', votes = ['one', 'two']}\nfeatures = 'tfidf'\n"
    )
    write(tmp_path / "d.json")
    assert main(["apply", "d.json", "--data", "run.toml", "--out", "new.csv"]) == 0
    assert "one label of each example is left" in capsys.readouterr().out
    assert main(["apply", "d.json", "--data", "run.toml", "--out", "new.npy"]) == 2
    assert "votes or sets of candidates are learnt here" in capsys.readouterr().err
    assert not (tmp_path / "new.npy").exists()


def test_a_file_in_two_classes_is_named(photos, tmp_path):
    link = photos / "train" / "bee" / "00.png"
    link.symlink_to(photos / "train" / "ant" / "00.png")
    made = decided(tmp_path, f"folder:{photos}")
    with pytest.raises(ConfigError, match=r"ant/00.png is linked to as 'ant' .* and as 'bee'"):
        decisions.write(made, tmp_path / "labels.csv")
    row = [str(place) for place in made.dataset.train.places].index(str(link))
    aside = entry(row, "bee", "aside", path=str(link))
    setting = decisions.write(decided(tmp_path, f"folder:{photos}", aside), tmp_path / "labels.csv")
    assert len(loaded(setting).train) == len(made.dataset.train) - 1


def test_names_that_are_no_text(photos, tmp_path):
    """They come out of every file as they went in, or as the page of an audit has them."""
    odd = Path(os.fsdecode(os.fsencode(photos / "train" / "ant") + b"/caf\xe9.png"))
    try:
        save(odd, pixels(99, (8, 8, 3)))
    except OSError:
        pytest.skip("the file system has no names that are not UTF-8")
    data = f"folder:{photos}"
    row = [str(place) for place in decided(tmp_path, data).dataset.train.places].index(str(odd))
    table = f"part,row,path,given,suggested,score\ntrain,{row},{odd},ant,bee,0.9\n"
    pages.write(tmp_path / "suspects.csv", table)
    assert b"/caf\xe9.png" in (tmp_path / "suspects.csv").read_bytes()
    (found,) = decisions.read(tmp_path / "suspects.csv", above=0.5)
    assert found.place == str(odd)
    made = decisions.apply([found], decisions.configuration(data))
    setting = decisions.write(made, tmp_path / "labels.csv")
    assert b"/caf\xe9.png,bee,train,ant\n" in (tmp_path / "labels.csv").read_bytes()
    assert str(odd) in loaded(setting).train.places
    seen = entry(row, "ant", "relabel", path="caf\ufffd.png", label="bee")
    assert int(decided(tmp_path, data, seen).train[row]) == 1
    with pytest.raises(DataError, match="not the data that was audited"):
        decided(tmp_path, data, seen | {"path": "cafe.png"})

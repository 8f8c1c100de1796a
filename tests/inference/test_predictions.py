import csv

import numpy as np
import pytest

from noisylabels.data.unlabelled import read_places
from noisylabels.errors import CheckpointError, DataError
from noisylabels.inference.classifier import load
from noisylabels.inference.predictions import write
from noisylabels.run.trainer import train
from pictures import class_folders, encode, pixels, save
from pictures import write as write_parquet


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    root = class_folders(tmp_path_factory.mktemp("photos"))
    run = {
        "data": {"name": "folder", "root": str(root), "size": 16},
        "model": "linear",
        "augment": "none",
        "epochs": 20,
        "batch_size": 4,
        "optimizer": {"name": "adam"},
    }
    return load(train(run, tmp_path_factory.mktemp("runs")))


def rows(path):
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        return list(csv.DictReader(file))


def test_every_input_has_a_row_in_order(classifier, tmp_path):
    light = save(tmp_path / "new" / "a, light.png", pixels(50, (30, 20, 3)) // 2 + 128)
    save(tmp_path / "new" / "b.png", b"no image")
    save(tmp_path / "new" / "c.png", b"")
    dark = save(tmp_path / "new" / "d.png", pixels(51, (20, 20, 3)) // 2)
    said, out = [], tmp_path / "out.csv"
    write(classifier, read_places([tmp_path / "new"]), out, every=True, say=said.append)
    found = rows(out)
    assert list(found[0]) == ["path", "class", "probability", "p_bright", "p_dark", "error"]
    assert [row["path"] for row in found] == [str(path) for path in sorted(light.parent.iterdir())]
    assert [row["class"] for row in found] == ["bright", "", "", "dark"]
    assert found[1]["error"] == "expected an encoded image (no image format is recognised)"
    assert found[1]["probability"] == found[1]["p_dark"] == ""
    assert found[2]["error"] == "expected an encoded image, got 0 bytes"
    assert said == [f"{row['path']}: {row['error']}" for row in found[1:3]]
    expected = classifier.predict_proba([light, dark])
    for row, probabilities in zip([found[0], found[3]], expected, strict=True):
        assert float(row["probability"]) == pytest.approx(probabilities.max(), abs=1e-6)
        assert float(row["p_dark"]) == pytest.approx(probabilities[1], abs=1e-6)
    write(classifier, read_places([tmp_path / "new"]), out)
    assert list(rows(out)[0]) == ["path", "class", "probability", "error"]


def test_tables_arrays_and_embedded_images(classifier, tmp_path):
    images = [pixels(seed, (16, 16, 3)) // 2 + 128 * (seed % 2) for seed in range(3)]
    out, classes = tmp_path / "out.csv", ["dark", "bright", "dark"]
    for number, image in enumerate(images):
        save(tmp_path / f"{number}.png", image)
    (tmp_path / "t.csv").write_text("path\n0.png\n1.png\nnone.png\n2.png\n")
    write(classifier, read_places([tmp_path / "t.csv"]), out)
    assert [row["class"] for row in rows(out)] == [*classes[:2], "", "dark"]
    assert rows(out)[2]["path"] == "none.png"
    assert "No such file" in rows(out)[2]["error"]
    write_parquet(tmp_path / "t.parquet", [*map(encode, images), b"bad"], [0, 0, 0, 0])
    write(classifier, read_places([tmp_path / "t.parquet"]), out)
    assert [row["class"] for row in rows(out)] == [*classes, ""]
    assert [row["row"] for row in rows(out)] == ["0", "1", "2", "3"]
    np.savez(tmp_path / "t.npz", x=np.stack(images))
    write(classifier, read_places([tmp_path / "t.npz"]), out)
    assert [row["class"] for row in rows(out)] == classes


def test_nothing_is_written_where_nothing_can_be_used(classifier, tmp_path):
    out = tmp_path / "out.csv"
    out.write_text("before")
    places = read_places([tmp_path / "none.png", tmp_path / "other.png"])
    with pytest.raises(DataError, match="2 of 2 inputs cannot be used, nothing written"):
        write(classifier, places, out)
    assert out.read_text() == "before"
    good = read_places([save(tmp_path / "a.png", pixels(0))])
    write(classifier, good, tmp_path / "new" / "folder" / "out.csv")
    assert len(rows(tmp_path / "new" / "folder" / "out.csv")) == 1
    with pytest.raises(CheckpointError, match="cannot be written"):
        write(classifier, good, out / "out.csv")


def test_many_inputs_are_decoded_by_workers_in_order(classifier, tmp_path, monkeypatch):
    """More than a batch, and a bad one within each."""
    for number in range(150):
        content = b"bad" if number % 40 == 3 else encode(pixels(number) // 2 + 128 * (number % 2))
        save(tmp_path / "new" / f"{number:03}.png", content)
    monkeypatch.setattr("noisylabels.inference.classifier.SECONDS_BETWEEN_SENTENCES", 0)
    said = []
    write(classifier, read_places([tmp_path / "new"]), tmp_path / "out.csv", say=said.append)
    assert said[:3] == ["66 of 150 inputs", "132 of 150 inputs", "150 of 150 inputs"]
    assert len(said) == 3 + 4
    for number, row in enumerate(rows(tmp_path / "out.csv")):
        expected = "" if number % 40 == 3 else "bright" if number % 2 else "dark"
        assert row["class"] == expected

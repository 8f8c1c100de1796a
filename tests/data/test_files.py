import datetime
import inspect
import json
import os
import pickle
import shutil
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from noisylabels.data import digests
from noisylabels.data.datasets import SOURCES
from noisylabels.data.examples import StreamedImages
from noisylabels.data.files import encoded_column, extensions
from noisylabels.data.source import Facts
from noisylabels.errors import ConfigError, DataError
from noisylabels.votes import CONSENSUSES
from pictures import bomb, change_one_byte, encode, pixels, save, table, write


def tensor(seed, shape=(6, 5, 3)):
    return torch.from_numpy(pixels(seed, shape)).permute(2, 0, 1)


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "photos"
    for number in range(30):
        name = ("ant", "bee", "cow")[number % 3]
        save(root / name / f"{number:02}.png", pixels(number))
    return root


def load(name="folder", **options):
    return SOURCES[name](**options).load()


# --- folder ---


def test_a_folder_per_class_is_split_by_class(folder):
    data = load(root=folder)
    assert data.classes == ("ant", "bee", "cow")
    assert torch.bincount(data.test.labels).tolist() == [2, 2, 2]
    assert len(data.train) == 24
    names = [place.removeprefix(f"{folder}/") for place in data.train.places]
    assert names == sorted(names)
    for place, image, label in zip(
        data.train.places, data.train.inputs, data.train.labels, strict=True
    ):
        assert torch.equal(image, tensor(int(place[-6:-4])))
        assert f"/{data.classes[label]}/" in place
    assert "no test set given: 6 of 30 examples were split off" in data.notes[0]
    again = load(root=folder)
    assert again.test.places.tolist() == data.test.places.tolist()
    other = load(root=folder, split_seed=1)
    assert other.test.places.tolist() != data.test.places.tolist()


@pytest.mark.parametrize("name", ["test", "val", "validation"])
def test_folders_train_and_test(tmp_path, folder, name):
    shutil.copytree(folder, tmp_path / "both" / "train")
    save(tmp_path / "both" / name / "bee" / "x.png", pixels(99))
    data = load(root=tmp_path / "both")
    assert len(data.train) == 30
    assert data.test.labels.tolist() == [1]
    assert torch.equal(data.test.inputs[0], tensor(99))


@pytest.mark.parametrize("names", [("train", "test"), ("Train", "Test"), ("training", "testing")])
def test_a_stray_file_does_not_turn_splits_into_classes(tmp_path, folder, names):
    root = tmp_path / "both"
    for name in names:
        shutil.copytree(folder, root / name)
    (root / names[0] / "README.txt").write_text("read me")
    (root / "validation").mkdir()
    data = load(root=root)
    assert data.classes == ("ant", "bee", "cow")
    assert (len(data.train), len(data.test)) == (30, 30)
    assert any("README.txt" in note for note in data.notes)
    assert any("folders that are neither train nor test, left out: " in note for note in data.notes)


def test_numbers_as_class_folders_are_in_the_order_of_numbers(tmp_path):
    for number in range(24):
        save(tmp_path / str(number % 12) / f"{number}.png", pixels(number))
    data = load(root=tmp_path)
    assert data.classes == tuple(map(str, range(12)))
    for place, label in zip(data.train.places, data.train.labels, strict=True):
        assert f"/{label}/" in place


def test_a_class_called_train_is_a_class_and_said(tmp_path):
    for number in range(10):
        save(tmp_path / ("train", "tram")[number % 2] / f"{number}.png", pixels(number))
    data = load(root=tmp_path)
    assert data.classes == ("train", "tram")
    assert f"{tmp_path / 'train'}: named like a part of a set, is a class here" in data.notes


@pytest.mark.parametrize(
    "names",
    [
        ("train", "test"),
        ("train", "test1"),
        ("Training_Set", "test_set"),
        ("train images", "test-images"),
        ("val", "test"),
        ("train", "holdout"),
        ("dev2", "eval.old"),
    ],
)
@pytest.mark.parametrize("below", ["", "ant"])
def test_folders_named_like_parts_are_no_classes(tmp_path, names, below):
    for number in range(10):
        place = tmp_path / names[number % 2]
        save(place / ("" if names[0] == "train" else below) / f"{number}.png", pixels(number))
    with pytest.raises(DataError, match="expected train/<class>/.* nothing tells the") as error:
        load(root=tmp_path)
    assert all(name in str(error.value) for name in names)


def test_a_class_named_like_a_part_is_a_class_in_train(tmp_path):
    for number in range(10):
        name = ("training", "trainer")[number % 2]
        save(tmp_path / "train" / name / f"{number}.png", pixels(number))
        save(tmp_path / "plain" / ("trains", "tests")[number % 2] / f"{number}.png", pixels(number))
    assert load(root=tmp_path).classes == ("trainer", "training")
    assert load(root=tmp_path / "plain").classes == ("tests", "trains")


@pytest.mark.parametrize("other", ["pseudo", "masks", "test1", "holdout"])
def test_train_is_used_alone_beside_other_folders(tmp_path, folder, other):
    shutil.copytree(folder, tmp_path / "both" / "train")
    save(tmp_path / "both" / other / "x.png", pixels(1))
    save(tmp_path / "both" / "@eaDir" / "x.png", pixels(1))
    data = load(root=tmp_path / "both")
    assert data.classes == ("ant", "bee", "cow")
    assert (len(data.train), len(data.test)) == (24, 6)
    assert any(f"left out: {tmp_path / 'both' / other}" in note for note in data.notes)
    assert any("file manager made, ignored: 1" in note for note in data.notes)


@pytest.mark.parametrize("names", [("Train", "train"), ("TEST", "Test")])
def test_parts_that_differ_in_case_only_are_refused(tmp_path, folder, names):
    root = tmp_path / "both"
    for name in dict.fromkeys(("train", *names)):
        shutil.copytree(folder, root / name, dirs_exist_ok=True)
    if len(list(root.iterdir())) < len({"train", *names}):
        pytest.skip("this file system does not tell case")
    with pytest.raises(DataError, match=f"got '{names[0]}' and '{names[1]}'"):
        load(root=root)


def test_hidden_files_and_others_are_left_out_and_said(folder):
    (folder / "ant" / ".DS_Store").write_bytes(b"x")
    (folder / ".git").mkdir()
    (folder / "ant" / "notes.txt").write_text("no picture")
    data = load(root=folder)
    assert len(data.train) + len(data.test) == 30
    assert any("files without an image extension, ignored: 1" in note for note in data.notes)
    assert any("notes.txt" in note for note in data.notes)


def test_pictures_below_class_folders_count(folder):
    save(folder / "ant" / "deep" / "er" / "x.png", pixels(50))
    data = load(root=folder)
    assert len(data.train) + len(data.test) == 31


def test_links_that_lead_out_are_followed_and_said(tmp_path, folder):
    outside = save(tmp_path / "elsewhere" / "x.png", pixels(70))
    (folder / "ant" / "link.png").symlink_to(outside)
    (folder / "dog").symlink_to(outside.parent)
    data = load(root=folder)
    assert data.classes == ("ant", "bee", "cow", "dog")
    assert any(f"links that lead out of {folder}, followed: 2" in note for note in data.notes)


def test_linked_folders_below_a_class_are_followed_once_and_said(tmp_path, folder):
    digest = SOURCES["folder"](root=folder).digest()
    for number in range(4):
        save(tmp_path / "else" / "more" / f"{number}.png", pixels(70 + number))
    save(tmp_path / "else" / "x.png", pixels(80))
    save(folder / "ant" / "deep" / "y.png", pixels(81))
    for link, target in (
        (folder / "ant" / "deep" / "linked", tmp_path / "else" / "more"),
        (folder / "ant" / "linked", tmp_path / "else"),
        (folder / "bee" / "other", folder / "cow"),
        # These lead to nothing new.
        (folder / "ant" / "again", folder / "ant" / "deep"),
        (folder / "ant" / "round", folder),
        (tmp_path / "else" / "more" / "back", tmp_path / "else"),
        (tmp_path / "else" / "more" / "home", folder / "ant"),
    ):
        link.symlink_to(target)
    data = load(root=folder)
    places = [*data.train.places, *data.test.places]
    found = sorted(str(place).removeprefix(f"{folder}/") for place in places)
    assert [name for name in found if name.startswith("ant") and name.count("/") > 1] == [
        *(f"ant/deep/linked/{number}.png" for number in range(4)),
        "ant/deep/y.png",
        "ant/linked/x.png",
    ]
    assert sum(name.startswith("bee/other/") for name in found) == 10
    assert len(found) == 30 + 6 + 10
    for said in (
        f"links that lead out of {folder}, followed: 2 (ant/deep/linked, ant/linked)",
        f"links to elsewhere in {folder}, followed: 1 (bee/other)",
    ):
        assert said in data.notes
    linked = SOURCES["folder"](root=folder).digest()
    save(tmp_path / "else" / "more" / "0.png", pixels(90))
    assert len({digest, linked, SOURCES["folder"](root=folder).digest()}) == 3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: shutil.rmtree(root), "photos: expected a folder, got none"),
        (lambda root: (shutil.rmtree(root), root.write_text("")), "expected a folder, got a file"),
        (lambda root: (shutil.rmtree(root), root.mkdir()), "expected a folder per class there"),
        (lambda root: (root / "emu").mkdir(), "emu: expected images of this class, got none"),
        (
            lambda root: [shutil.rmtree(root / name) for name in ("bee", "cow")],
            "expected examples of at least two classes, got only 'ant'",
        ),
        (
            lambda root: (root / "ant" / "00.png").write_bytes(b""),
            "ant/00.png: expected an image, got a file of 0 bytes",
        ),
        (
            lambda root: (root / "ant" / "00.png").write_bytes(b"not an image"),
            "ant/00.png: expected an encoded image",
        ),
        (
            lambda root: (root / "ant" / "00.png").write_bytes(
                encode(pixels(0, (99, 99, 3)))[:999]
            ),
            "ant/00.png: expected an encoded image .*truncated",
        ),
        (
            lambda root: (root / "ant" / "00.png").write_bytes(bomb()),
            "ant/00.png: refused as a decompression bomb",
        ),
        (lambda root: (root / "bee" / "01.png").chmod(0), "01.png: cannot be read"),
        (
            lambda root: (root / "bee" / "x.png").symlink_to("nowhere"),
            "x.png: expected an image file .*No such file",
        ),
    ],
)
def test_bad_folders_are_refused_by_name_or_skipped(folder, make, message):
    make(folder)
    if "cannot be read" in message and os.geteuid() == 0:
        pytest.skip("root reads every file")
    with pytest.raises(DataError, match=message):
        load(root=folder)
    if "emu" in message or ".png" in message:
        data = load(root=folder, on_error="skip")
        assert data.classes == ("ant", "bee", "cow")
        assert len(data.train) + len(data.test) == (
            30 if "emu" in message or "x.png" in message else 29
        )
        assert len(data.skipped) == 1
        assert any(note.startswith("left out: 1 (the first: ") for note in data.notes)


def test_mixed_pictures_are_brought_to_one_form_and_counted(folder):
    save(folder / "ant" / "a.png", pixels(0, (12, 10, 3)))
    save(folder / "ant" / "b.png", pixels(0, (6, 5)))
    save(folder / "bee" / "c.png", pixels(0, (6, 5, 4)))
    save(folder / "bee" / "d.jpg", Image.new("CMYK", (5, 6)), kind="JPEG")
    save(folder / "cow" / "e.png", Image.fromarray(np.full((6, 5), 700, dtype=np.uint16)))
    data = load(root=folder, test_share=0.3)
    assert data.train.shape == (3, 6, 5)
    counted = " ".join(data.notes)
    for phrase in (
        "resized to 6x5: 1",
        "gray shown as RGB: 2",
        "transparency laid on white: 1",
        "CMYK converted to RGB: 1",
        "16-bit values of 0..4095 reduced to 8 bits: 1",
    ):
        assert phrase in counted


def test_size_and_storage_are_chosen_and_said(folder):
    data = load(root=folder, size=16, memory_budget=30 * 3 * 16 * 16)
    assert data.train.shape == (3, 16, 16)
    assert '30 images of 3x16x16 in memory (storage = "auto"' in data.notes[1]
    data = load(root=folder, size=16, memory_budget=30 * 3 * 16 * 16 - 1)
    assert isinstance(data.train.inputs, StreamedImages)
    assert data.train.shape == (3, 16, 16)
    assert "stream from their files" in data.notes[1]
    assert isinstance(load(root=folder, storage="memory").train.inputs, torch.Tensor)
    with pytest.raises(DataError, match="stream from their files: this needs them in memory"):
        data.train.tensor()


def test_large_pictures_are_reduced_and_the_facts_say_so(tmp_path):
    for number in range(4):
        save(tmp_path / "ab"[number % 2] / f"{number}.png", pixels(number, (97, 120, 3)))
    source = SOURCES["folder"](root=tmp_path)
    assert source.facts() == Facts((3, 224, 224), images=True)
    assert SOURCES["folder"](root=tmp_path, size=64).facts() == Facts((3, 64, 64), images=True)


def test_one_set_under_two_roots_has_one_digest(folder, tmp_path):
    digest = SOURCES["folder"](root=folder).digest()
    moved = tmp_path / "moved"
    shutil.copytree(folder, moved)
    assert SOURCES["folder"](root=moved).digest() == digest
    (moved / "ant" / "00.png").rename(moved / "bee" / "00.png")
    assert SOURCES["folder"](root=moved).digest() != digest


def test_the_digest_follows_the_bytes_of_images_and_not_their_times(folder):
    digest = SOURCES["folder"](root=folder).digest()
    path = folder / "ant" / "00.png"
    os.utime(path, ns=(1, 1))
    assert SOURCES["folder"](root=folder).digest() == digest
    content = path.read_bytes()
    change_one_byte(path)
    # As a copy that keeps times would.
    os.utime(path, ns=(1, 1))
    assert SOURCES["folder"](root=folder).digest() != digest
    path.write_bytes(content)
    assert SOURCES["folder"](root=folder).digest() == digest


def test_the_digest_follows_the_split(folder):
    source, other = SOURCES["folder"](root=folder), SOURCES["folder"](root=folder, split_seed=1)
    assert source.digest() != other.digest()


def test_a_file_that_cannot_be_read_is_left_to_loading(folder, monkeypatch):
    """Whoever runs the tests may be root, who reads every file."""
    before = SOURCES["folder"](root=folder, on_error="skip").digest()
    path, found = str(folder / "ant" / "00.png"), digests._hash
    monkeypatch.setattr(
        digests, "_hash", lambda name: PermissionError() if name == path else found(name)
    )
    assert SOURCES["folder"](root=folder, on_error="skip").digest() != before


def test_the_identity_is_what_options_come_to(folder, tmp_path):
    found = SOURCES["folder"](root=folder).identity()
    split = {"test_share": 0.2, "split_seed": 0}
    spec = {"channels": 3, "height": 6, "width": 5}
    assert found == {**split, **spec, "storage": "memory"}
    assert json.loads(json.dumps(found)) == found
    same = {"storage": "memory", "test_share": 0.2, "split_seed": 0}
    assert SOURCES["folder"](root=folder, **same).identity() == found
    assert SOURCES["folder"](root=folder, memory_budget=10**9).identity() == found
    streams = SOURCES["folder"](root=folder, memory_budget=0).identity()
    assert streams == SOURCES["folder"](root=folder, storage="stream").identity() != found
    changed = SOURCES["folder"](root=folder, size=8, split_seed=3, limit=9).identity()
    assert changed == {
        "limit": 9,
        "test_share": 0.2,
        "split_seed": 3,
        "channels": 3,
        "height": 8,
        "width": 8,
        "storage": "memory",
    }
    both = tmp_path / "both"
    for part in ("train", "test"):
        shutil.copytree(folder, both / part)
    assert SOURCES["folder"](root=both).identity() == {**spec, "storage": "memory"}


@pytest.mark.parametrize("change", [{"test_share": 0.2}, {"split_seed": 0}])
def test_options_of_a_split_are_refused_where_folders_give_a_test_set(folder, tmp_path, change):
    for part in ("train", "test"):
        shutil.copytree(folder, tmp_path / "both" / part)
    source = SOURCES["folder"](root=tmp_path / "both", **change)
    for use in (source.load, source.facts, source.identity, source.digest):
        with pytest.raises(ConfigError, match=f"{next(iter(change))} must be left out because the"):
            use()


@pytest.mark.parametrize("storage", ["memory", "stream"])
def test_a_budget_that_nobody_looks_at_is_refused(tmp_path, storage):
    with pytest.raises(ConfigError, match=f"left out unless .* got 1 with storage = '{storage}'"):
        SOURCES["folder"](root=tmp_path, storage=storage, memory_budget=1)


@pytest.mark.parametrize("name", ["animal10n", "webvision"])
@pytest.mark.parametrize("option", ["test_share", "split_seed"])
def test_published_sets_have_no_options_of_a_split(name, option):
    assert option not in inspect.signature(SOURCES[name]).parameters


def test_streaming_with_skip_decodes_once_and_leaves_out(folder):
    (folder / "ant" / "00.png").write_bytes(encode(pixels(0, (99, 99, 3)))[:999])
    data = load(root=folder, storage="stream", on_error="skip")
    assert len(data.train.inputs.encoded) + len(data.test.inputs.encoded) == 29
    assert len(data.skipped) == 1


# --- table ---


ROWS = [(f"img/{n}.png", ("ant", "bee")[n % 2]) for n in range(10)]


def csv(tmp_path, rows, header="path,label", name="labels.csv", sep=","):
    for number in range(10):
        if not (tmp_path / "img" / f"{number}.png").exists():
            save(tmp_path / "img" / f"{number}.png", pixels(number))
    lines = [header.replace(",", sep), *(sep.join(map(str, row)) for row in rows)]
    (tmp_path / name).write_text("\n".join(lines) + "\n", encoding="utf-8-sig")
    return tmp_path / name


@pytest.mark.parametrize("sep", [",", ";", "\t"])
def test_a_table_of_names(tmp_path, sep):
    data = load("table", path=csv(tmp_path, ROWS, sep=sep))
    assert data.classes == ("ant", "bee")
    assert len(data.train) == 8
    for place, image in zip(data.train.places, data.train.inputs, strict=True):
        assert torch.equal(image, tensor(int(place[-5])))


def test_a_table_with_splits_and_numbers(tmp_path):
    rows = [(f"img/{n}.png", n % 2, "test" if n > 6 else "Train") for n in range(10)]
    data = load("table", path=csv(tmp_path, rows, header="path,label,split"))
    assert (len(data.train), len(data.test)) == (7, 3)
    assert data.classes == ("0", "1")
    assert data.test.labels.tolist() == [1, 0, 1]
    rows[0] = (*rows[0][:2], "val")
    data = load("table", path=csv(tmp_path, rows, header="path,label,split"))
    assert len(data.train) == 6
    assert any("rows of another split than train and test, left out: 1" in n for n in data.notes)


def test_a_parquet_table_with_other_columns_and_root(tmp_path):
    csv(tmp_path, ROWS)
    columns = {"file": [path for path, _ in ROWS], "species": [label for _, label in ROWS]}
    (tmp_path / "tables").mkdir()
    pq.write_table(pa.table(columns), tmp_path / "tables" / "a.parquet")
    data = load(
        "table",
        path=tmp_path / "tables" / "a.parquet",
        root=tmp_path,
        path_column="file",
        label_column="species",
    )
    assert data.classes == ("ant", "bee")


def test_a_column_of_splits_that_is_named_must_be_there(tmp_path):
    rows = [(*row, "test" if n > 6 else "train") for n, row in enumerate(ROWS)]
    path = csv(tmp_path, rows, header="path,label,part")
    assert len(load("table", path=path, split_column="part").test) == 3
    with pytest.raises(DataError, match="expected a column 'split', got 'path', 'label', 'part'"):
        load("table", path=path, split_column="split")


def test_the_identity_of_a_table_is_what_its_columns_lead_to(tmp_path):
    rows = [(*row, "test" if n > 6 else "train") for n, row in enumerate(ROWS)]
    path = csv(tmp_path, rows, header="path,label,split")
    first = SOURCES["table"](path=path, root=tmp_path)
    assert first.identity() == {"channels": 3, "height": 6, "width": 5, "storage": "memory"}
    assert SOURCES["table"](path=path, split_column="split").identity() == first.identity()
    other = csv(tmp_path, rows, header="path,species,part", name="other.csv")
    same = SOURCES["table"](path=other, label_column="species", split_column="part")
    assert (same.identity(), same.digest()) == (first.identity(), first.digest())
    relabelled = [(rows[0][0], "bee", "train"), *rows[1:]]
    path = csv(tmp_path, relabelled, header="path,label,split", name="third.csv")
    assert SOURCES["table"](path=path).digest() != first.digest()


def test_the_digest_of_a_table_follows_its_labels_and_every_byte_of_its_images(tmp_path):
    path = csv(tmp_path, [*ROWS[:-1], ("img/9.png", "antt")])
    seen = {SOURCES["table"](path=path).digest()}
    change_one_byte(tmp_path / "img" / "3.png")
    seen.add(SOURCES["table"](path=path).digest())
    path.write_text(path.read_text().replace("antt", "anti"))
    seen.add(SOURCES["table"](path=path).digest())
    assert len(seen) == 3


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (("img/77.png", "ant"), "row 12: expected an image file 'img/77.png' .No such file"),
        (("../secret.png", "ant"), "row 12: expected a path inside .*got '../secret.png', which"),
        (("/etc/passwd", "ant"), "row 12: expected a path inside .*got '/etc/passwd', which"),
        (("img/out.png", "ant"), "row 12: expected a path inside .*got 'img/out.png', which"),
        (("", "ant"), "row 12: expected a path, got none"),
        (("img/x.png", ""), "row 12: expected a label among ant, bee, got none"),
        (("img/1.png", "ant"), "row 12: expected each path once, .* another label than at row 3"),
        (("img/./1.png", "ant"), "row 12: expected each path once"),
    ],
)
def test_bad_rows_of_a_table(tmp_path, row, message):
    root = tmp_path / "root"
    path = csv(root, [*ROWS, row])
    save(tmp_path / "secret.png", pixels(0))
    save(root / "img" / "x.png", pixels(0))
    (root / "img" / "out.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(DataError, match=f"labels.csv: {message}"):
        load("table", path=path)
    data = load("table", path=path, on_error="skip")
    assert len(data.train) + len(data.test) == 10
    assert data.skipped[0][0].endswith("labels.csv: row 12")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("", "expected a column 'path', got  "),
        ("file,label\na.png,1\n", "expected a column 'path', got 'file', 'label'"),
        ("path,class\na.png,1\n", "expected a column 'label'"),
        ("path,label\n", "labels.csv: expected images, got none"),
        ("path,label\na.png\n", "row 2: expected 2 columns, got 1"),
        ('path,label\n"a.png,1\n', "row 2: not valid CSV"),
        ("path,label,split\nimg/1.png,1,hold\n", "row 2: expected split train or test, got 'hold'"),
        (b"path,label\n\xff\xfe,1\n", r"row 2: .* \(No such .*; the name is no UTF-8 text\)"),
        (b"path,label\nimg/1.png,\xff\n", "row 2: expected a label in UTF-8"),
        ("img/1.png,1\n", "got 'img/1.png', '1' .a first line path,label names the columns"),
    ],
)
def test_bad_tables(tmp_path, lines, message):
    path = csv(tmp_path, [])
    path.write_bytes(lines if isinstance(lines, bytes) else lines.encode())
    with pytest.raises(DataError, match=message):
        load("table", path=path)
    with pytest.raises(DataError, match=r"no.csv: cannot be read \(No such file"):
        load("table", path=tmp_path / "no.csv")


def test_equal_rows_count_once_and_numbers_out_of_range_are_refused(tmp_path):
    data = load("table", path=csv(tmp_path, [*ROWS, ROWS[3]]))
    assert len(data.train) + len(data.test) == 10
    assert any("rows that repeat an earlier one, counted once: 1" in note for note in data.notes)
    rows = [(path, label == "bee") for path, label in ROWS]
    rows = [(path, int(label)) for path, label in rows]
    rows[4] = (rows[4][0], -1)
    with pytest.raises(DataError, match="row 6: expected a label in 0, 1, .* got '-1'"):
        load("table", path=csv(tmp_path, rows))
    rows[4] = (rows[4][0], 4)
    data = load("table", path=csv(tmp_path, rows))
    assert "classes without training examples: 2 of 5: 2 (2), 3 (3)" in data.notes


def test_an_image_in_both_splits_is_refused(tmp_path):
    rows = [(*row, "train") for row in ROWS] + [(*ROWS[2], "test")]
    with pytest.raises(DataError, match="row 12: expected each path once.*another split than at"):
        load("table", path=csv(tmp_path, rows, header="path,label,split"))


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (["0.0", "1.0", "11.0", "2.0"], 12),
        (["0", "1", " 2 ", "10"], 11),
    ],
)
def test_numbers_written_oddly_are_numbers(tmp_path, labels, classes):
    rows = [(f"img/{n}.png", labels[n % 4]) for n in range(10)]
    data = load("table", path=csv(tmp_path, rows))
    assert data.classes == tuple(map(str, range(classes)))


@pytest.mark.parametrize(
    ("label", "got"),
    [("", "none"), ("NaN", "'NaN', which says"), ("900", "'900'"), ("9" * 5000, "'9999")],
)
def test_a_number_that_can_be_none_is_no_class(tmp_path, label, got):
    rows = [(f"img/{n}.png", n % 3) for n in range(10)]
    rows[5] = (rows[5][0], label)
    with pytest.raises(DataError, match=f"row 7: expected a label in 0, 1, .* got {got}"):
        load("table", path=csv(tmp_path, rows))
    data = load("table", path=csv(tmp_path, rows), on_error="skip")
    assert data.classes == ("0", "1", "2")
    assert len(data.skipped) == 1


def test_a_bad_image_of_a_table_is_named_with_its_row(tmp_path):
    path = csv(tmp_path, ROWS)
    (tmp_path / "img" / "3.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"labels.csv: row 5: .*img/3.png: expected an encoded"):
        load("table", path=path)
    rows = [*ROWS, ("img", "ant")]
    with pytest.raises(DataError, match="row 12: expected an image file, got a folder: 'img'"):
        load("table", path=csv(tmp_path, rows))


def test_names_with_unusual_line_breaks_and_quotes(tmp_path):
    save(tmp_path / "img" / "a\u2028,b.png", pixels(20))
    rows = [*ROWS, ('"img/a\u2028,b.png"', "ant")]
    data = load("table", path=csv(tmp_path, rows))
    assert len(data.train) + len(data.test) == 11


# --- parquet, hf ---


@pytest.fixture
def root(tmp_path):
    write(
        tmp_path / "train-00000-of-00002.parquet",
        [encode(pixels(i)) for i in range(3)],
        [0, 1, 2],
        names=["ant", "bee", "cow"],
    )
    write(tmp_path / "train-00001-of-00002.parquet", [encode(pixels(3))], [1])
    write(tmp_path / "test.parquet", [encode(pixels(4)), encode(pixels(5))], [2, 0])
    return tmp_path


def load_parquet(root, **options):
    return load("parquet", root=root, **options)


def test_streamed_parts_hold_the_files_they_are_in_once(tmp_path):
    images = [encode(pixels(number)) for number in range(10)]
    write(tmp_path / "train.parquet", images, [0, 1] * 5)
    write(tmp_path / "test.parquet", images[:4], [0, 1] * 2)
    apart = SOURCES["parquet"](root=tmp_path, storage="stream").load()
    held = [
        [isinstance(chunk, pa.ChunkedArray) for chunk in part.inputs.encoded.chunks]
        for part in (apart.train, apart.test)
    ]
    assert sorted(held) == [[False, True], [True, False]]
    single = tmp_path / "one" / "all.parquet"
    single.parent.mkdir()
    write(single, images, [0, 1] * 5)
    split = SOURCES["parquet"](root=single, storage="stream").load()
    (train,), (test,) = (part.inputs.encoded.chunks for part in (split.train, split.test))
    assert train is test


def test_row_groups_are_opened_anew_in_another_process(root):
    chunk = encoded_column(root / "test.parquet", "img")
    copy = pickle.loads(pickle.dumps(chunk))
    assert [copy[row].as_py() for row in range(2)] == [chunk[row].as_py() for row in range(2)]


def test_parquet_reads_shards_in_order(root):
    data = load_parquet(root)
    assert data.classes == ("ant", "bee", "cow")
    assert data.train.labels.tolist() == [0, 1, 2, 1]
    assert data.test.labels.tolist() == [2, 0]
    for number in range(4):
        expected = torch.from_numpy(pixels(number)).permute(2, 0, 1)
        assert torch.equal(data.train.inputs[number], expected)


def test_parquet_in_folder_data_and_gray_and_named_columns(tmp_path):
    (tmp_path / "data").mkdir()
    for split in ("train", "test"):
        gray = [encode(pixels(i, (4, 4))) for i in range(2)]
        path = tmp_path / "data" / f"{split}.parquet"
        write(path, gray, [0, 1], label="digit", image="picture")
    data = load_parquet(tmp_path, label="digit", image="picture")
    assert data.train.inputs.shape == (2, 1, 4, 4)
    assert data.classes == ("0", "1")


def test_the_digest_of_parquet_follows_the_contents(root, tmp_path_factory):
    digest = SOURCES["parquet"](root=root).digest()
    moved = tmp_path_factory.mktemp("moved")
    for path in root.iterdir():
        (moved / path.name).write_bytes(path.read_bytes())
    assert SOURCES["parquet"](root=moved).digest() == digest
    # Within an image: the rest of the file is found by its ends.
    content = (moved / "test.parquet").read_bytes()
    at = content.index(b"IDAT") + 8
    (moved / "test.parquet").write_bytes(content[:at] + b"?" + content[at + 1 :])
    assert SOURCES["parquet"](root=moved).digest() != digest


def test_the_identity_of_parquet_has_its_columns(root):
    found = SOURCES["parquet"](root=root).identity()
    spec = {"channels": 3, "height": 6, "width": 5}
    assert found == {**spec, "storage": "memory", "image": "img", "label": "label"}
    assert SOURCES["parquet"](root=root, image="img", label="label").identity() == found


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        ([encode(pixels(0)), b"GIF89a"], [0, 1], "row 1: expected an encoded image"),
        ([encode(pixels(0)), encode(pixels(1))[:60]], [0, 1], "row 1: expected an encoded image"),
        ([encode(pixels(0)), b""], [0, 1], "row 1: expected an encoded image"),
        ([encode(pixels(0)), None], [0, 1], "row 1: expected an encoded image"),
        ([encode(pixels(0))] * 2, [0, -1], "row 1: expected a label in 0, 1, .* got -1"),
        ([encode(pixels(0))] * 2, [0, None], "row 1: expected a label in 0, 1, .* got none"),
        ([], [], "expected examples of at least two|expected training examples"),
    ],
)
def test_bad_rows_are_named(root, images, labels, message):
    for old in root.glob("train*"):
        old.unlink()
    write(root / "train.parquet", images, pa.array(labels, type=pa.int64()))
    with pytest.raises(DataError, match=message):
        load_parquet(root)


def test_labels_of_the_test_set_must_fit(root):
    write(root / "test.parquet", [encode(pixels(4))], [3])
    with pytest.raises(DataError, match=r"test.parquet: row 0: expected a label in 0..2, got 3"):
        load_parquet(root)


def test_missing_files_and_columns_are_named(root, tmp_path):
    with pytest.raises(DataError, match="nowhere: no such folder"):
        load_parquet(tmp_path / "nowhere")
    with pytest.raises(DataError, match="expected a column 'species' of one label per row"):
        load_parquet(root, label="species")
    with pytest.raises(DataError, match="expected an image column 'photo' .* got img"):
        load_parquet(root, image="photo")
    (root / "test.parquet").write_bytes(b"PAR1 and then nothing")
    with pytest.raises(DataError, match=r"test.parquet: cannot be read as Parquet"):
        load_parquet(root)
    for path in root.glob("train*"):
        path.unlink()
    with pytest.raises(DataError, match=r"expected train\*.parquet"):
        load_parquet(root)


def test_rows_of_other_sizes_are_brought_to_the_commonest(root):
    write(root / "test.parquet", [encode(pixels(4, (6, 6, 3)))], [0])
    data = load_parquet(root)
    assert data.test.shape == (3, 6, 5)
    assert "resized to 6x5: 1" in data.notes


def test_what_datasets_saves_to_disk(tmp_path):
    parts = {"train": [0, 1, 2, 1], "validation": [2, 0]}
    for part, labels in parts.items():
        images = [encode(pixels(n + len(labels))) for n in range(len(labels))]
        (tmp_path / part).mkdir()
        made = table(images, labels, names=["ant", "bee", "cow"], image="image")
        path = str(tmp_path / part / "data-00000-of-00001.arrow")
        with pa.OSFile(path, "wb") as file, pa.ipc.new_stream(file, made.schema) as stream:
            stream.write_table(made, max_chunksize=2)
    data = load_parquet(tmp_path)
    assert data.classes == ("ant", "bee", "cow")
    assert data.train.labels.tolist() == [0, 1, 2, 1]
    assert data.test.labels.tolist() == [2, 0]
    assert torch.equal(data.train.inputs[3], tensor(7))


def test_parquet_without_a_test_set_is_split(root):
    (root / "test.parquet").unlink()
    write(root / "train-00001-of-00002.parquet", [encode(pixels(3))] * 17, [0, 1] * 8 + [2])
    data = load_parquet(root)
    assert (len(data.train), len(data.test)) == (16, 4)
    alone = load_parquet(root / "train-00001-of-00002.parquet")
    assert (len(alone.train), len(alone.test)) == (14, 3)


def test_numbers_are_positions_even_where_names_are_numbers(root):
    names = ["0", "1", "10", "2"]
    for path in root.glob("*.parquet"):
        path.unlink()
    for part in ("train", "test"):
        write(
            root / f"{part}.parquet",
            [encode(pixels(n)) for n in range(4)],
            [0, 1, 2, 3],
            names=names,
        )
    data = load_parquet(root)
    assert data.classes == tuple(names)
    assert data.train.labels.tolist() == [0, 1, 2, 3]


def test_files_must_agree_on_class_names(root):
    write(root / "test.parquet", [encode(pixels(4))], [0], names=["bee", "ant", "cow"])
    with pytest.raises(DataError, match="test.parquet: expected the class names of .*ant, bee"):
        load_parquet(root)


def test_the_map_of_asymmetric_noise_needs_the_names_of_cifar(root):
    assert SOURCES["parquet"](root=root).facts().class_map is None
    names = ["airplane", *"abcdefgh", "truck"]
    for path in root.glob("*.parquet"):
        path.unlink()
    write(
        root / "train.parquet",
        [encode(pixels(n)) for n in range(20)],
        list(range(10)) * 2,
        names=names,
    )
    assert SOURCES["parquet"](root=root).facts().class_map == "cifar10"


def test_bad_rows_of_parquet_are_skipped(root):
    write(root / "train.parquet", [encode(pixels(0)), b"no", None], [1, 1, 0])
    data = load_parquet(root, on_error="skip")
    assert len(data.train) == 5
    assert [place.rpartition("/")[2] for place, _ in data.skipped] == [
        "train.parquet: row 1",
        "train.parquet: row 2",
    ]


# --- animal10n ---


def test_animal10n_as_published(tmp_path):
    for number in range(20):
        part = "training" if number < 15 else "testing"
        save(tmp_path / part / f"{number % 10}_{number:05}.jpg", pixels(number, (64, 64, 3)))
    data = load("animal10n", root=tmp_path)
    assert data.classes[:2] == ("cat", "lynx")
    assert data.classes[9] == "guinea pig"
    assert (len(data.train), len(data.test)) == (15, 5)
    assert data.train.labels.sort().values.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 6, 7, 8, 9]
    assert any("15 images, published were 50000" in note for note in data.notes)
    save(tmp_path / "training" / "dog_1.jpg", pixels(0))
    with pytest.raises(DataError, match="dog_1.jpg: expected a label among cat, .* got 'dog'"):
        load("animal10n", root=tmp_path)
    shutil.rmtree(tmp_path / "testing")
    with pytest.raises(DataError, match="testing: expected a folder, got none"):
        load("animal10n", root=tmp_path)


# --- webvision ---


@pytest.fixture
def webvision(tmp_path):
    (tmp_path / "info").mkdir()
    train = [f"google/q{n:04}/{n}.jpg {n % 60}" for n in range(180)]
    test = [f"val{n:06}.jpg {n % 60}" for n in range(120)]
    (tmp_path / "info" / "train_filelist_google.txt").write_text("\n".join(train) + "\n")
    (tmp_path / "info" / "val_filelist.txt").write_text("\n".join(test) + "\n")
    names = ["n01440764 tench, Tinca tinca", *(f"n{n:08} thing {n}" for n in range(1, 60))]
    (tmp_path / "info" / "synsets.txt").write_text("\n".join(names) + "\n")
    picture = encode(pixels(0, (9, 12, 3)), "JPEG")
    for line in train:
        save(tmp_path / line.split()[0], picture)
    for line in test:
        save(tmp_path / "val_images_256" / line.split()[0], picture)
    return tmp_path


def test_webvision_keeps_the_first_classes(webvision):
    data = load("webvision", root=webvision)
    assert (len(data.train), len(data.test)) == (150, 100)
    assert len(data.classes) == 50
    assert data.classes[0] == "n01440764 tench, Tinca tinca"
    assert data.train.labels.max() == 49
    assert len(load("webvision", root=webvision, num_classes=60).train) == 180


def test_webvision_check_counts_and_names_the_mini(webvision, monkeypatch):
    said = SOURCES["webvision"](root=webvision).check()
    assert "180 images, of which 150 of 50 of the first 50 classes" in said[0]
    assert "class 0 is 'n01440764 tench, Tinca tinca'" in said[-2]
    assert said[-1].startswith("this is none of the known minis: 150 training and 100 validation")
    (webvision / "google" / "q0000" / "0.jpg").unlink()
    said = SOURCES["webvision"](root=webvision).check()
    assert any("1 of 150 images are not there, the first: " in sentence for sentence in said)
    names = (webvision / "info" / "synsets.txt").read_text().splitlines()
    (webvision / "info" / "synsets.txt").write_text("\n".join(names[::-1]))
    said = SOURCES["webvision"](root=webvision).check()
    assert any("expected class 0 to be the tench" in sentence for sentence in said)


@pytest.mark.parametrize(
    ("count", "which"),
    [(65_944, '"mini" of the file list'), (61_234, '"mini" of the resized archive')],
)
def test_webvision_check_knows_both_minis(tmp_path, count, which):
    """One empty file that is listed again and again: only that each is there counts."""
    lists = {"train_filelist_google.txt": count, "val_filelist.txt": 2_500}
    for path in ("info/x", "google/x.jpg", "val_images_256/google/x.jpg"):
        save(tmp_path / path, b"")
    for name, rows in lists.items():
        lines = "\n".join(f"google/x.jpg {n % 50}" for n in range(rows))
        (tmp_path / "info" / name).write_text(lines)
    assert which in SOURCES["webvision"](root=tmp_path).check()[-1]


@pytest.mark.parametrize("name", ["../secret.png", "/etc/passwd", "google/../../x.png"])
def test_webvision_lists_stay_inside_their_folder(webvision, name):
    path = webvision / "info" / "train_filelist_google.txt"
    path.write_text(path.read_text() + f"{name} 3\n")
    with pytest.raises(DataError, match="row 181: expected a path inside its folder, got"):
        load("webvision", root=webvision)


def test_webvision_lists_that_do_not_fit(webvision):
    path = webvision / "info" / "val_filelist.txt"
    path.write_text("val0.jpg\n")
    with pytest.raises(DataError, match=r"val_filelist.txt: row 1: expected a path and a class"):
        load("webvision", root=webvision)
    path.unlink()
    with pytest.raises(DataError, match="val_filelist.txt: cannot be read"):
        load("webvision", root=webvision)
    (webvision / "info" / "synsets.txt").write_text("n01440764 tench\n")
    path.write_text("val000000.jpg 0\n")
    with pytest.raises(DataError, match="expected at least 50 lines, one per class, got 1"):
        load("webvision", root=webvision)


LABELS = {
    "ages": (["0_10", "0_11", "0_12", "1_0", "1_1", "1_2"], 6),
    "padded": (["01", "02", "10"], 3),
    "grades": (["A1", "1", "2_0"], 3),
}


@pytest.mark.parametrize("case", LABELS)
def test_labels_are_text_unless_they_are_plain_numbers(tmp_path, case):
    labels, count = LABELS[case]
    rows = [(f"img/{n}.png", labels[n % count]) for n in range(5 * count)]
    path = csv(tmp_path, rows)
    for number in range(5 * count):
        save(tmp_path / "img" / f"{number}.png", pixels(number))
    data = load("table", path=path)
    assert data.classes == tuple(sorted(labels))
    for part in (data.train, data.test):
        for place, label in zip(part.places, part.labels.tolist(), strict=True):
            number = int(place.rpartition("/")[2].removesuffix(".png"))
            assert data.classes[label] == labels[number % count]


def test_numbers_can_be_said_to_be_names_and_names_numbers(tmp_path):
    rows = [(f"img/{n}.png", (111, 112, 121)[n % 3]) for n in range(9)]
    path = csv(tmp_path, rows)
    with pytest.raises(DataError, match=r'row 2: .* labels = "names" takes any text.* got \'111\''):
        load("table", path=path)
    assert load("table", path=path, labels="names").classes == ("111", "112", "121")
    assert len(load("table", path=path, labels="numbers").classes) == 122
    padded = csv(tmp_path, [(f"img/{n}.png", f"0{n % 3}") for n in range(9)])
    assert load("table", path=padded).classes == ("00", "01", "02")
    assert load("table", path=padded, labels="numbers").classes == ("0", "1", "2")


def test_splits_of_any_case_are_splits_and_other_folders_are_left_out(tmp_path, folder):
    for names in (("Train", "Validate"), ("train", "TEST")):
        root = tmp_path / names[0] / names[1]
        for name in names:
            shutil.copytree(folder, root / name)
        save(root / "unlabeled" / "x.png", pixels(1))
        data = load(root=root)
        assert data.classes == ("ant", "bee", "cow")
        assert (len(data.train), len(data.test)) == (30, 30)
        assert any("neither train nor test" in n and "unlabeled" in n for n in data.notes)


def test_a_test_folder_without_classes_is_refused_for_what_it_is(tmp_path, folder):
    shutil.copytree(folder, tmp_path / "both" / "train")
    for number in range(3):
        save(tmp_path / "both" / "test" / f"{number}.png", pixels(number))
    with pytest.raises(DataError, match=r"test: expected a folder per class .* got 3 images whose"):
        load(root=tmp_path / "both")
    shutil.rmtree(tmp_path / "both" / "test")
    (tmp_path / "both" / "test").mkdir()
    with pytest.raises(
        DataError, match=r"test: expected a folder per class .* got an empty folder"
    ):
        load(root=tmp_path / "both")
    (tmp_path / "both" / "test" / "labels.csv").write_text("")
    with pytest.raises(DataError, match="test: expected a folder per class .* got no images;"):
        load(root=tmp_path / "both")


def test_what_systems_and_file_managers_leave_is_ignored_and_said(tmp_path, folder):
    plain = load(root=folder)
    places = ("@eaDir", "__MACOSX", "ant/@eaDir/1.png", "bee/.thumbnails", "lost+found")
    servers = ("@Recycle", "#recycle", "#snapshot", "CVS", ".git", "$RECYCLE.BIN")
    for place in (*places, *servers, "System Volume Information"):
        save(folder / place / "x.png", pixels(5))
    save(folder / "ant" / "._1.png", pixels(5))
    for name in ("Thumbs.db", "desktop.ini", ".DS_Store"):
        (folder / "ant" / name).write_bytes(b"system")
    data = load(root=folder)
    assert data.classes == plain.classes
    assert sorted([*data.train.places, *data.test.places]) == sorted(
        [*plain.train.places, *plain.test.places]
    )
    (note,) = [note for note in data.notes if "file manager made, ignored" in note]
    assert "$RECYCLE.BIN" in note
    assert note.startswith("folders that a system or a file manager made, ignored: 12 ")
    assert not any("without an image extension" in note for note in data.notes)


def test_letters_composed_and_decomposed_are_one_class(tmp_path):
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    for number in range(6):
        save(tmp_path / (composed, decomposed)[number % 2] / f"{number}.png", pixels(number))
        save(tmp_path / "tea" / f"{number}.png", pixels(number))
        save(tmp_path / "Tea" / f"{number}.png", pixels(number))
    data = load(root=tmp_path)
    assert data.classes == ("Tea", composed, "tea")
    assert any(
        "differ only in case or in what cannot be seen: 'Tea', 'tea'" in n for n in data.notes
    )
    rows = [(f"img/{n}.png", (composed, decomposed, "tea", "tea\u200b")[n % 4]) for n in range(10)]
    for number in range(10):
        save(tmp_path / "table" / "img" / f"{number}.png", pixels(number))
    data = load("table", path=csv(tmp_path / "table", rows))
    assert data.classes == (composed, "tea", "tea\u200b")
    assert any("'tea', 'tea\\u200b'" in note for note in data.notes)


@pytest.mark.skipif(os.name == "nt", reason="names are text there")
@pytest.mark.parametrize("parent", ["ant", os.fsdecode(b"caf\xe9")])
def test_a_name_that_is_no_text_is_read_like_any_other(tmp_path, folder, parent):
    name = os.fsdecode(b"caf\xe9.png")
    try:
        save(folder / parent / name, pixels(7))
        save(folder / parent / "other.png", pixels(8))
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    data = load(root=folder)
    places = [*data.train.places, *data.test.places]
    assert sum(place.endswith(name) for place in places) == 1
    assert parent in data.classes
    assert len(SOURCES["folder"](root=folder).digest()) == 64


DAYS = [datetime.date(2024, 1, 1), datetime.date(2024, 1, 2)]
TIMES = [f"1970-01-01 00:00:00{end}" for end in ("", ".000", ".000000", ".000000000")]
REFUSED = None
ARROW = [
    (pa.bool_(), [False, True], ("False", "True")),
    (pa.int8(), [0, 1], ("0", "1")),
    (pa.uint64(), [0, 1], ("0", "1")),
    (pa.float16(), [np.float16(0), np.float16(1)], ("0", "1")),
    (pa.float64(), [0.0, 1.0], ("0", "1")),
    (pa.decimal128(5, 1), [Decimal("1.5"), Decimal("2.5")], ("1.5", "2.5")),
    (pa.decimal256(50, 12), [Decimal(0), Decimal(1)], ("0", "1")),
    (pa.string(), ["no", "yes"], ("no", "yes")),
    (pa.large_string(), ["no", "yes"], ("no", "yes")),
    (pa.binary(), [b"no", b"yes"], ("no", "yes")),
    (pa.large_binary(), [b"no", b"yes"], ("no", "yes")),
    (pa.binary(2), [b"no", b"ya"], ("no", "ya")),
    (pa.dictionary(pa.int32(), pa.string()), ["no", "yes"], ("no", "yes")),
    (pa.date32(), DAYS, ("2024-01-01", "2024-01-02")),
    (pa.date64(), DAYS, ("2024-01-01", "2024-01-02")),
    (pa.time32("s"), [0, 1], ("00:00:00", "00:00:01")),
    (pa.time32("ms"), [0, 1], ("00:00:00.000", "00:00:00.001")),
    (pa.time64("us"), [0, 1], ("00:00:00.000000", "00:00:00.000001")),
    (pa.time64("ns"), [0, 1], ("00:00:00.000000000", "00:00:00.000000001")),
    (pa.timestamp("ms"), [0, 1], (TIMES[1], TIMES[1][:-1] + "1")),
    (pa.timestamp("us"), [0, 1], (TIMES[2], TIMES[2][:-1] + "1")),
    (pa.timestamp("ns"), [0, 1], (TIMES[3], TIMES[3][:-1] + "1")),
    (pa.timestamp("ns", "UTC"), [0, 1], (TIMES[3] + "Z", TIMES[3][:-1] + "1Z")),
    (pa.timestamp("us", "Nowhere/Town"), [0, 1], REFUSED),
    (pa.duration("ns"), [0, 1], ("0", "1")),
    (pa.null(), [None, None], REFUSED),
    (pa.list_(pa.int64()), [[0], [1]], REFUSED),
    (pa.struct([("a", pa.int64())]), [{"a": 0}, {"a": 1}], REFUSED),
    (pa.map_(pa.string(), pa.int64()), [[("a", 0)], [("a", 1)]], REFUSED),
]


@pytest.mark.parametrize("source", ["parquet", "arrow", "table"])
@pytest.mark.parametrize(("kind", "values", "classes"), ARROW, ids=lambda v: str(v)[:24])
def test_labels_of_any_arrow_type_are_labels_or_refused(tmp_path, kind, values, classes, source):
    images = [{"bytes": encode(pixels(n)), "path": None} for n in range(8)]
    paths = [f"img/{number}.png" for number in range(8)]
    for name, image in zip(paths, images, strict=True):
        save(tmp_path / name, image["bytes"])
    other = pa.array([1] * 8, pa.timestamp("ns"))
    table = pa.table(
        {"img": images, "path": paths, "label": pa.array(values * 4, type=kind), "other": other}
    )
    if source == "arrow":
        path = str(tmp_path / "a.arrow")
        with pa.OSFile(path, "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
            writer.write_table(table)
    else:
        pq.write_table(table, tmp_path / "train.parquet")
    where = {"path": tmp_path / "train.parquet"} if source == "table" else {"root": tmp_path}
    name = "table" if source == "table" else "parquet"
    if classes is not REFUSED:
        found = load(name, **where).classes
        # Parquet has no times of whole seconds: they get decimal places.
        assert len(found) == 2
        assert all(map(str.startswith, found, classes))
        return
    message = "at least one label" if kind == pa.null() else f"column 'label': .* {str(kind)[:4]}"
    with pytest.raises(DataError, match=message):
        load(name, **where)


def write_arrow(path, numbers):
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [{"bytes": encode(pixels(n)), "path": None} for n in numbers]
    table = pa.table({"img": rows, "label": [n % 2 for n in numbers]})
    if path.suffix != ".arrow":
        pq.write_table(table, path)
        return
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("cifar-train.arrow", "cifar-test.arrow"),
        ("test_me-train-00000-of-00001.arrow", "test_me-validation-00000-of-00001.arrow"),
        ("Train.parquet", "TEST.parquet"),
        ("training2.PARQUET", "val.0.parquet"),
        ("data/set_train.parquet", "data/set_eval.parquet"),
        ("Train/0.parquet", "Test/0.parquet"),
        ("train/train-0.parquet", "test/train-0.parquet"),
        ("train.parquet", "data/test-0.parquet"),
    ],
)
def test_a_word_in_a_files_name_tells_its_part(tmp_path, train, test):
    write_arrow(tmp_path / train, range(10))
    write_arrow(tmp_path / test, range(10, 14))
    write_arrow(tmp_path / "._train.parquet", range(3))
    data = load_parquet(tmp_path)
    assert (len(data.train), len(data.test)) == (10, 4)
    assert torch.equal(data.test.inputs[0], tensor(10))
    assert not any("left out" in note for note in data.notes)
    write_arrow(tmp_path / "data" / "contrain.parquet", range(3))
    data = load_parquet(tmp_path)
    assert (len(data.train), len(data.test)) == (10, 4)
    assert any("neither train nor test, left out: 1 " in note for note in data.notes)


def test_arrow_files_of_a_test_set_alone_are_no_training_set(tmp_path):
    write_arrow(tmp_path / "cifar-test.arrow", range(10))
    with pytest.raises(DataError, match=r"expected train\*.parquet"):
        load_parquet(tmp_path)


@pytest.mark.parametrize("part", ["train", "test"])
@pytest.mark.parametrize("again", ["data/{}.parquet", "{}/0.parquet", "{}/0.arrow", "x-{}.arrow"])
def test_one_part_in_two_places_is_refused(tmp_path, part, again):
    for name in ("train", "test"):
        write_arrow(tmp_path / f"{name}.parquet", range(10))
    write_arrow(tmp_path / again.format(part), range(10))
    with pytest.raises(DataError, match="in one place and format") as error:
        load_parquet(tmp_path)
    for name in (f"{part}.parquet", again.format(part)):
        assert str(tmp_path / name) in str(error.value)


def test_what_datasets_made_while_it_worked_is_not_read(tmp_path):
    write_arrow(tmp_path / "train" / "data-00000-of-00001.arrow", range(10))
    write_arrow(tmp_path / "train" / "cache-0123456789abcdef.arrow", range(10))
    assert len(load_parquet(tmp_path).train) + len(load_parquet(tmp_path).test) == 10
    state = tmp_path / "train" / "state.json"
    state.write_text(json.dumps({"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}))
    data = load_parquet(tmp_path)
    assert len(data.train) + len(data.test) == 10
    for name in ("_indices_files", "_indices_data_files"):
        files = [{"filename": "data-00000-of-00001.arrow"}]
        state.write_text(json.dumps({"_data_files": files, name: [{"filename": "x.arrow"}]}))
        with pytest.raises(DataError, match="train: it was saved with a selection of rows"):
            load_parquet(tmp_path)
    state.write_text("{}")
    with pytest.raises(DataError, match=r"state.json: expected the files of a saved set"):
        load_parquet(tmp_path)


def test_every_photograph_that_pillow_reads_is_one_by_its_extension(tmp_path):
    assert {".jfif", ".apng", ".dib", ".jpx", ".jpg", ".webp", ".tif", ".mpo"} <= extensions()
    assert not {".pdf", ".eps", ".mpg", ".h5"} & extensions()
    for number, name in enumerate(("a.jfif", "b.apng", "c.dib", "d.JPG", "e.mpo")):
        kind = ("JPEG", "PNG", "DIB", "JPEG", "MPO")[number]
        for label in ("x", "y"):
            save(tmp_path / label / name, encode(pixels(number), kind))
    data = load(root=tmp_path)
    assert len(data.train) + len(data.test) == 10


def test_a_list_without_a_header_is_a_table(tmp_path):
    for number in range(10):
        save(tmp_path / "images" / "0 1" / f"{number}.png", pixels(number))
    lines = [f"images/0 1/{number}.png {number % 2}" for number in range(10)]
    (tmp_path / "clean_train_kv.txt").write_text("\n".join(lines) + "\n")
    data = load("table", path=tmp_path / "clean_train_kv.txt")
    assert len(data.train) + len(data.test) == 10
    assert data.classes == ("0", "1")
    tabs = [f"images/0 1/{number}.png\tred {number % 2}" for number in range(10)]
    (tmp_path / "tabs.lst").write_text("\n".join(tabs) + "\n")
    assert load("table", path=tmp_path / "tabs.lst").classes == ("red 0", "red 1")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("images/0.png\n", "bad.txt: row 1: expected at least one label, got none"),
        ("images/0.png,0\n", "row 1: .*'images/0.png,0' .*path and a label .* ends in .csv"),
        ("images/0.png, 0\n", "row 1: .*'images/0.png,' .*path and a label .* ends in .csv"),
        ("path label\nimages/0.png 0\n", "row 1: .*'path' .*'im/x0.png 0', and no header"),
        (b"caf\xe9.png 0\n", "row 1: .*No such file .*the name is no UTF-8 text"),
    ],
)
def test_bad_lines_of_a_list_are_told_what_a_line_is(tmp_path, lines, message):
    save(tmp_path / "images" / "0.png", pixels(0))
    (tmp_path / "bad.txt").write_bytes(lines if isinstance(lines, bytes) else lines.encode())
    with pytest.raises(DataError, match=message):
        load("table", path=tmp_path / "bad.txt")


@pytest.mark.skipif(os.name == "nt", reason="names are text there")
def test_names_that_are_no_text_are_skipped_row_by_row(tmp_path):
    path = csv(tmp_path, ROWS)
    path.write_bytes(path.read_bytes() + b"caf\xe9.png,ant\nimg/1.png,caf\xe9\n")
    data = load("table", path=path, on_error="skip")
    assert [place.rpartition(" ")[2] for place, _ in data.skipped] == ["13", "12"]


@pytest.mark.parametrize("storage", ["memory", "stream"])
def test_the_scale_of_sixteen_bits_is_that_of_all_classes(tmp_path, storage):
    for name, low in (("dark", 0), ("light", 60_000)):
        for number in range(120):
            array = np.full((4, 4), low + number, dtype=np.uint16)
            save(tmp_path / name / f"{number}.png", encode(Image.fromarray(array)))
    data = load(root=tmp_path, storage=storage)
    assert len(data.train) + len(data.test) == 240
    spec = SOURCES["folder"](root=tmp_path)._image_spec
    assert spec.depth == 16


def test_paths_written_on_windows_are_understood(tmp_path):
    rows = [(path.replace("/", "\\"), label) for path, label in ROWS]
    plain = load("table", path=csv(tmp_path, ROWS, name="plain.csv"))
    data = load("table", path=csv(tmp_path, rows))
    assert data.train.places.tolist() == plain.train.places.tolist()
    with pytest.raises(DataError, match="which leads out of it"):
        load("table", path=csv(tmp_path, [("..\\..\\x.png", "bee"), *rows]))


def test_too_few_examples_to_split_a_test_set_off_is_said(tmp_path):
    for name in ("ant", "bee"):
        save(tmp_path / name / "1.png", pixels(1))
    with pytest.raises(DataError, match="expected two examples or more of some class, to split"):
        load(root=tmp_path)


def test_a_test_set_that_was_split_off_has_given_labels(tmp_path, folder):
    assert load(root=folder).test_is_given
    for name in ("train", "test"):
        shutil.copytree(folder, tmp_path / "both" / name)
    assert not load(root=tmp_path / "both").test_is_given


def test_a_table_of_candidates(tmp_path):
    rows = [(f"img/{n}.png", ("ant|bee", "bee")[n % 2], "train") for n in range(8)]
    rows += [("img/8.png", "ant", "test"), ("img/9.png", "bee", "test")]
    path = csv(tmp_path, rows, header="path,label,split")
    data = load("table", path=path, candidate_separator="|")
    assert data.classes == ("ant", "bee")
    assert data.train.candidates.tolist() == [[True, True], [False, True]] * 4
    plain = SOURCES["table"](path=path)
    assert len(plain.load().classes) == 3
    assert plain.digest() != SOURCES["table"](path=path, candidate_separator="|").digest()


def test_a_bad_row_of_a_table_is_left_out_once(tmp_path):
    rows = [(f"img/{n}.png", ("ant|bee", "bee")[n % 2], "train" if n else "test") for n in range(4)]
    path = csv(tmp_path, [*rows, ("img/4.png", "|", "train")], header="path,label,split")
    data = load("table", path=path, candidate_separator="|", on_error="skip")
    assert [place for place, _ in data.skipped] == [f"{path}: row 6"]
    rows = [*COUNTED, ("img/4.png", "-1", "-1", "-1", "train")]
    path = csv(tmp_path, rows, header=VOTERS)
    data = load("table", path=path, votes=("ann", "bob", "eve"), on_error="skip")
    assert [place for place, _ in data.skipped] == [f"{path}: row 6: ann"]


VOTED = [
    ("img/0.png", "ant", "bee", "bee", "train"),
    ("img/1.png", "ant", "", "ant", "train"),
    ("img/2.png", "bee", "bee", "bee", "train"),
    ("img/3.png", "cow", "ant", "ant", "test"),
]
VOTERS = "path,ann,bob,eve,split"


def test_a_table_of_votes(tmp_path):
    path = csv(tmp_path, VOTED, header=VOTERS)
    options = {"path": path, "votes": ("ann", "bob", "eve")}
    data = load("table", **options)
    assert data.classes == ("ant", "bee", "cow")
    assert data.train.labels.tolist() == [1, 0, 1]
    expected = torch.tensor([[1 / 3, 2 / 3, 0], [1, 0, 0], [0, 1, 0]])
    torch.testing.assert_close(data.train.targets, expected)
    assert data.test.labels.tolist() == [0]
    assert data.test.targets is None
    assert (
        "labels are the soft consensus of 11 votes by 3 raters, 2.8 for each example" in data.notes
    )
    plain = load("table", consensus="majority", **options)
    assert plain.train.targets is None
    assert plain.train.labels.tolist() == [1, 0, 1]
    believing = load("table", consensus="dawid-skene", **options)
    digests = {SOURCES["table"](consensus=by, **options).digest() for by in CONSENSUSES}
    assert len(digests) == 3
    assert believing.train.targets.sum(1).tolist() == pytest.approx([1, 1, 1])


def test_votes_that_are_no_text_are_refused(tmp_path):
    path = csv(tmp_path, VOTED, header=VOTERS)
    path.write_bytes(path.read_bytes().replace(b"cow", b"caf\xe9"))
    with pytest.raises(DataError, match=r"row 5: expected a label in UTF-8, .*caf\\udce9"):
        load("table", path=path, votes=("ann", "bob", "eve"))


def test_votes_of_a_table_that_are_not_sound(tmp_path):
    rows = [*VOTED, ("img/4.png", "", "", "", "train")]
    path = csv(tmp_path, rows, header=VOTERS)
    options = {"path": path, "votes": ("ann", "bob", "eve")}
    with pytest.raises(DataError, match=r"row 6: expected a vote in ann, bob, eve, got none"):
        load("table", **options)
    data = load("table", on_error="skip", **options)
    assert data.train.labels.tolist() == [1, 0, 1]
    assert len(data.skipped) == 1
    with pytest.raises(DataError, match="expected a column 'joe'"):
        load("table", path=path, votes=("ann", "joe"))
    with pytest.raises(DataError, match="expected images with votes, got none"):
        load("table", path=csv(tmp_path, rows[-1:], header=VOTERS), votes=("ann",), on_error="skip")
    with pytest.raises(ConfigError, match="raters: expected a column for each of 1"):
        load("table", path=path, votes=("ann",), raters=("bob", "eve"))


COUNTED = [
    ("img/0.png", "1", "3", "", "train"),
    ("img/1.png", "4", "0", "0", "train"),
    ("img/2.png", "0", "2", "2.0", "train"),
    ("img/3.png", "0", "0", "1", "test"),
]


def test_a_table_of_counts(tmp_path):
    path = csv(tmp_path, COUNTED, header="path,bee,ant,cow,split")
    data = load("table", path=path, vote_counts=("bee", "ant", "cow"))
    assert data.classes == ("bee", "ant", "cow")
    expected = torch.tensor([[0.25, 0.75, 0], [1, 0, 0], [0, 0.5, 0.5]])
    torch.testing.assert_close(data.train.targets, expected)
    assert data.train.labels.tolist() == [1, 0, 1]
    assert data.test.labels.tolist() == [2]
    assert "labels are the soft consensus of 13 votes, 3.2 for each example" in data.notes
    plain = load("table", path=path, vote_counts=("bee", "ant", "cow"), consensus="majority")
    assert plain.train.targets is None
    assert plain.train.labels.tolist() == [1, 0, 1]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("many", "row 6: cow: expected a count of votes, got 'many'"),
        ("-1", "row 6: cow: expected a count of votes, got '-1'"),
        ("0.5", "row 6: cow: expected a count of votes, got '0.5'"),
        ("nan", "row 6: expected a vote in bee, ant, cow, got none"),
        (" ", "row 6: expected a vote in bee, ant, cow, got none"),
        ("inf", "row 6: cow: expected a count of votes, got 'inf'"),
        ("0", "row 6: expected a vote in bee, ant, cow, got none"),
    ],
)
def test_counts_that_are_none(tmp_path, value, message):
    rows = [*COUNTED, ("img/4.png", "0", "", value, "train")]
    options = {"path": csv(tmp_path, rows, header="path,bee,ant,cow,split")}
    options |= {"vote_counts": ("bee", "ant", "cow")}
    with pytest.raises(DataError, match=message):
        load("table", **options)
    assert load("table", on_error="skip", **options).train.labels.tolist() == [1, 0, 1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"votes": ("a",)}, "votes must be left out where there are vote_counts"),
        ({"consensus": "dawid-skene"}, "which do not say who gave which vote"),
        ({"labels": "numbers"}, "labels must be left out where there are vote_counts"),
        ({"vote_counts": ("bee",)}, "a column for each of at least two classes, got bee"),
        ({"vote_counts": ("bee", "ant", "bee")}, "at least two classes, got bee, ant, bee"),
        ({"candidate_separator": "|"}, "candidate_separator must be left out"),
        ({"label_column": "ant"}, "label_column must be left out .* got 'ant'"),
        ({"vote_counts": (), "consensus": "majority"}, "consensus must be left out .* 'majority'"),
    ],
)
def test_settings_of_counts_that_do_not_fit(tmp_path, options, message):
    path = csv(tmp_path, COUNTED, header="path,bee,ant,cow,split")
    with pytest.raises(ConfigError, match=message):
        load("table", **({"path": path, "vote_counts": ("bee", "ant")} | options))

import os
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from noisylabels.data.datasets import SOURCES
from noisylabels.data.examples import StreamedImages
from noisylabels.errors import DataError
from pictures import bomb, encode, pixels, save, table, write


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
    assert "no test set given: 6 of 30 examples became it" in data.notes[0]
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
    assert any("folders of other splits, left out: " in note for note in data.notes)


def test_numbers_as_class_folders_are_in_the_order_of_numbers(tmp_path):
    for number in range(24):
        save(tmp_path / str(number % 12) / f"{number}.png", pixels(number))
    data = load(root=tmp_path)
    assert data.classes == tuple(map(str, range(12)))
    for place, label in zip(data.train.places, data.train.labels, strict=True):
        assert f"/{label}/" in place


def test_a_class_called_train_is_a_class(tmp_path):
    for number in range(10):
        save(tmp_path / ("train", "tram")[number % 2] / f"{number}.png", pixels(number))
    assert load(root=tmp_path).classes == ("train", "tram")


def test_hidden_files_and_others_are_left_out_and_said(folder):
    (folder / "ant" / ".DS_Store").write_bytes(b"x")
    (folder / ".git").mkdir()
    (folder / "ant" / "notes.txt").write_text("no picture")
    data = load(root=folder)
    assert len(data.train) + len(data.test) == 30
    assert any("left out, for want of an image's extension: 1" in note for note in data.notes)
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
    assert isinstance(
        load(root=folder, storage="memory", memory_budget=0).train.inputs, torch.Tensor
    )
    with pytest.raises(DataError, match="stream from their files: this needs them in memory"):
        data.train.tensor()


def test_large_pictures_suit_other_networks(tmp_path):
    for number in range(4):
        save(tmp_path / "ab"[number % 2] / f"{number}.png", pixels(number, (97, 120, 3)))
    source = SOURCES["folder"](root=tmp_path)
    assert source.suits()[:2] == ("resnet50", "resized-crop")
    assert SOURCES["folder"](root=tmp_path, size=64).suits()[:2] == ("resnet18", "crop-flip")


def test_the_digest_follows_names_and_labels(folder, tmp_path):
    digest = SOURCES["folder"](root=folder).digest()
    moved = tmp_path / "moved"
    shutil.copytree(folder, moved)
    assert SOURCES["folder"](root=moved).digest() == digest
    (moved / "ant" / "00.png").rename(moved / "bee" / "00.png")
    assert SOURCES["folder"](root=moved).digest() != digest


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
        ("", "expected a column 'path', got $"),
        ("file,label\na.png,1\n", "expected a column 'path', got 'file', 'label'"),
        ("path,class\na.png,1\n", "expected a column 'label'"),
        ("path,label\n", "labels.csv: expected images, got none"),
        ("path,label\na.png\n", "row 2: expected 2 columns, got 1"),
        ('path,label\n"a.png,1\n', "row 2: expected 2 columns, got 1"),
        ("path,label,split\nimg/1.png,1,hold\n", "row 2: expected split train or test, got 'hold'"),
        (b"path,label\n\xff\xfe,1\n", "expected UTF-8 text"),
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
        (["00", "1", "2", "3"], 4),
    ],
)
def test_numbers_written_oddly_are_numbers(tmp_path, labels, classes):
    rows = [(f"img/{n}.png", labels[n % 4]) for n in range(10)]
    data = load("table", path=csv(tmp_path, rows))
    assert data.classes == tuple(map(str, range(classes)))


@pytest.mark.parametrize(
    ("label", "got"),
    [("l", "'l'"), ("NaN", "none"), ("1.5", "'1.5'"), ("900", "'900'"), ("9" * 5000, "'9999")],
)
def test_a_typing_error_among_numbers_is_no_class(tmp_path, label, got):
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


def test_digest_follows_the_contents(root, tmp_path_factory):
    digest = SOURCES["parquet"](root=root).digest()
    moved = tmp_path_factory.mktemp("moved")
    for path in root.iterdir():
        (moved / path.name).write_bytes(path.read_bytes())
    assert SOURCES["parquet"](root=moved).digest() == digest
    write(moved / "test.parquet", [encode(pixels(4)), encode(pixels(6))], [2, 0])
    assert SOURCES["parquet"](root=moved).digest() != digest


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
    with pytest.raises(DataError, match="expected an integer column 'species' among img, label"):
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


@pytest.mark.parametrize("name", ["parquet", "hf"])
def test_what_datasets_saves_to_disk(tmp_path, name):
    parts = {"train": [0, 1, 2, 1], "validation": [2, 0]}
    for part, labels in parts.items():
        images = [encode(pixels(n + len(labels))) for n in range(len(labels))]
        (tmp_path / part).mkdir()
        made = table(images, labels, names=["ant", "bee", "cow"], image="image")
        path = str(tmp_path / part / "data-00000-of-00001.arrow")
        with pa.OSFile(path, "wb") as file, pa.ipc.new_stream(file, made.schema) as stream:
            stream.write_table(made, max_chunksize=2)
    data = load(name, root=tmp_path)
    assert data.classes == ("ant", "bee", "cow")
    assert data.train.labels.tolist() == [0, 1, 2, 1]
    assert data.test.labels.tolist() == [2, 0]
    assert torch.equal(data.train.inputs[3], tensor(7))


def test_parquet_without_a_test_set_is_split(root):
    (root / "test.parquet").unlink()
    write(root / "train-00001-of-00002.parquet", [encode(pixels(3))] * 17, [0, 1] * 8 + [2])
    data = load_parquet(root)
    assert (len(data.train), len(data.test)) == (16, 4)


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
    assert SOURCES["parquet"](root=root).suits().map is None
    names = ["airplane", *"abcdefgh", "truck"]
    for path in root.glob("*.parquet"):
        path.unlink()
    write(
        root / "train.parquet",
        [encode(pixels(n)) for n in range(20)],
        list(range(10)) * 2,
        names=names,
    )
    assert SOURCES["parquet"](root=root).suits().map == "cifar10"


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
    with pytest.raises(DataError, match="dog_1.jpg: expected a label in 0..9, got 'dog'"):
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
    """Real files, empty: only that they are there counts."""
    (tmp_path / "info").mkdir()
    for folder in ("google", "val_images_256"):
        (tmp_path / folder).mkdir()
    train = [(f"google/{n}.jpg", n % 50) for n in range(count)]
    test = [(f"{n}.jpg", n % 50) for n in range(2_500)]
    for name, rows in (("train_filelist_google.txt", train), ("val_filelist.txt", test)):
        lines = "\n".join(f"{path} {label}" for path, label in rows)
        (tmp_path / "info" / name).write_text(lines)
    for path, _ in train:
        os.mknod(tmp_path / path)
    for path, _ in test:
        os.mknod(tmp_path / "val_images_256" / path)
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

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from noisylabels.data.unlabelled import PillowImages, of_images, read_places, read_texts
from noisylabels.errors import ConfigError, DataError
from pictures import encode, exif, pixels, save, write


def test_folders_are_walked_and_files_taken_as_given(tmp_path):
    for name in ("b.png", "a/deep/er.jpg", ".hidden.png", "@eaDir/thumb.png", "notes.txt"):
        save(tmp_path / "photos" / name, pixels(0))
    other = save(tmp_path / "x.PNG", pixels(1))
    found = read_places([tmp_path / "photos", other, tmp_path / "none.png"])
    names = ["photos/b.png", "photos/a/deep/er.jpg", "x.PNG", "none.png"]
    assert found.names == [str(tmp_path / name) for name in names]
    assert found.column == "path"
    assert not found.bad
    assert found.inputs.read(2) == other.read_bytes()
    with pytest.raises(DataError, match="cannot be read"):
        found.inputs.read(3)


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet"])
def test_tables_of_paths_need_no_labels(tmp_path, suffix):
    save(tmp_path / "im" / "a.png", pixels(0))
    paths = ["im/a.png", "im/none.png", "../out.png", "", "im/a.png"]
    table = tmp_path / f"table{suffix}"
    if suffix == ".parquet":
        pq.write_table(pa.table({"file": paths, "n": range(5)}), table)
    else:
        comma = "\t" if suffix == ".tsv" else ","
        table.write_text("\n".join(f"{path}{comma}{n}" for n, path in enumerate(["file", *paths])))
    found = read_places([table], column="file")
    assert found.names == paths
    assert found.positions() == [0, 1, 4]
    assert set(found.bad) == {2, 3}
    assert found.bad[2].startswith("row 4: expected a path inside")
    assert found.bad[3] == "row 5: expected a path, got none"
    assert found.inputs.read(2) == (tmp_path / "im" / "a.png").read_bytes()
    moved = read_places([table], column="file", root=tmp_path / "im" / "..")
    assert moved.positions() == [0, 1, 4]
    with pytest.raises(DataError, match="expected a column 'path', got 'file', '[0n]'"):
        read_places([table])


def test_texts_that_are_empty_or_no_utf_8_are_bad_ones(tmp_path):
    table = tmp_path / "t.csv"
    table.write_text("text,n\nfine,0\ncaf\xe9,1\n ,2\ndull,3\n", encoding="cp1252")
    found = read_texts(table)
    assert found.inputs.values.tolist() == ["fine", "dull"]
    assert found.positions() == [0, 3]
    assert found.bad == {
        1: "expected UTF-8 text, save it as that",
        2: "expected a text, got none",
    }


def test_parquet_of_images_has_rows(tmp_path):
    contents = [encode(pixels(seed)) for seed in range(3)]
    write(tmp_path / "t.parquet", contents, [0, 1, 0])
    found = read_places([tmp_path / "t.parquet"])
    assert (found.names, found.column) == (["0", "1", "2"], "row")
    assert [found.inputs.read(index) for index in range(3)] == contents
    for option in ({"column": "image"}, {"root": tmp_path}):
        with pytest.raises(ConfigError, match=r"t\.parquet: \w+ is for a table of paths"):
            read_places([tmp_path / "t.parquet"], **option)


def test_arrays(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, test_images=np.zeros((4, 6, 5, 3), np.uint8), test_labels=[1, 2, 3, 4])
    assert read_places([path]).inputs.shape == (4, 3, 6, 5)
    np.savez(path, x=[[1, 2], [np.inf, 0], [3, 4]])
    found = read_places([path])
    assert found.inputs.tolist() == [[1, 2], [3, 4]]
    assert (found.names, found.positions()) == (["0", "1", "2"], [0, 2])
    assert found.bad == {1: "expected finite numbers, got NaN or inf"}
    np.savez(path, y=[1])
    with pytest.raises(DataError, match=r"a\.npz: expected an array x, got y"):
        read_places([path])
    np.savez(path, x=np.array([{"a": 1}], dtype=object))
    with pytest.raises(DataError, match=r"a\.npz"):
        read_places([path])


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "expected a folder, files, a table or an .npz file, got none"),
        (["empty"], r"empty: expected images, got none \(1 files without"),
        (["notes.txt"], r"notes\.txt: expected a folder, an image, a table"),
        (["a.csv", "b.png"], r"a\.csv: expected it alone"),
        (["a.csv"], r"a\.csv: expected rows, got none"),
        (["torn.csv"], r"torn\.csv: row 3: expected 2 columns, got 1"),
        (["none.csv"], r"none\.csv: cannot be read"),
        (["bad.parquet"], r"bad\.parquet: cannot be read as Parquet"),
        (["bad.npz"], r"bad\.npz"),
    ],
)
def test_what_cannot_be_listed(tmp_path, names, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "README").write_text("nothing")
    (tmp_path / "notes.txt").write_text("a 1")
    (tmp_path / "a.csv").write_text("path\n")
    (tmp_path / "torn.csv").write_text("path,n\na.png,1\nb.png\n")
    for name in ("bad.parquet", "bad.npz"):
        (tmp_path / name).write_bytes(b"\x80\x04.")
    with pytest.raises(DataError, match=message):
        read_places([tmp_path / name for name in names])


def test_images_of_pillow_are_kept_as_they_are(tmp_path):
    image = Image.fromarray(pixels(0))
    again = Image.open(io.BytesIO(of_images([image]).inputs.read(0)))
    assert np.array_equal(np.array(again), np.array(image))
    with Image.open(save(tmp_path / "y", encode(image, "JPEG", exif=exif(6)))) as turned:
        written = Image.open(io.BytesIO(PillowImages([turned]).read(0)))
        assert written.getexif()[0x0112] == 6
        assert PillowImages([turned, image]).place(0) == str(tmp_path / "y")
    assert PillowImages([image]).place(0) == "image 0"
    cut = Image.open(io.BytesIO(encode(pixels(0, (64, 64, 3)))[:900]))
    with pytest.raises(DataError, match="expected an image"):
        PillowImages([cut]).read(0)
    with pytest.raises(DataError, match="floating-point"):
        PillowImages([image.convert("F")]).read(0)

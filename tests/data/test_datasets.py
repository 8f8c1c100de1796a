import io
import json
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from noisylabels.data.datasets import SOURCES, channel_statistics, first
from noisylabels.errors import ConfigError, DataError


def encode(array, kind="PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, kind)
    return file.getvalue()


def pixels(seed, shape=(6, 5, 3)):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def write(path, images, labels, *, names=None, label="label", image="img"):
    struct = pa.array(
        [{"bytes": content, "path": f"{i}.png"} for i, content in enumerate(images)],
        type=pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
    )
    table = pa.table({image: struct, label: labels})
    if names:
        features = {"info": {"features": {label: {"names": names, "_type": "ClassLabel"}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(features)})
    pq.write_table(table, path)


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


def load(root, **options):
    return SOURCES["parquet"](root=root, **options).load()


def test_digits_are_the_published_ones_split_by_class():
    data = SOURCES["digits"]().load()
    assert data.train.images.shape == (1437, 1, 8, 8)
    assert data.test.images.shape == (360, 1, 8, 8)
    assert data.train.images.max() == 16
    shares = torch.bincount(data.test.labels) / torch.bincount(
        torch.cat([data.train.labels, data.test.labels])
    )
    assert (shares - 0.2).abs().max() < 0.01
    again = SOURCES["digits"]().load()
    assert torch.equal(again.test.images, data.test.images)


def test_parquet_reads_shards_in_order(root):
    data = load(root)
    assert data.classes == ("ant", "bee", "cow")
    assert data.train.labels.tolist() == [0, 1, 2, 1]
    assert data.test.labels.tolist() == [2, 0]
    for number in range(4):
        expected = torch.from_numpy(pixels(number)).permute(2, 0, 1)
        assert torch.equal(data.train.images[number], expected)


def test_parquet_in_folder_data_and_gray_and_named_columns(tmp_path):
    (tmp_path / "data").mkdir()
    for split in ("train", "test"):
        gray = [encode(pixels(i, (4, 4))) for i in range(2)]
        path = tmp_path / "data" / f"{split}.parquet"
        write(path, gray, [0, 1], label="digit", image="picture")
    data = load(tmp_path, label="digit", image="picture")
    assert data.train.images.shape == (2, 1, 4, 4)
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
        (
            [encode(pixels(0)), encode(pixels(1, (5, 6, 3)))],
            [0, 1],
            r"row 1: expected an image of the first one's shape \(3, 6, 5\), got \(3, 5, 6\)",
        ),
        ([encode(pixels(0))] * 2, [0, -1], "row 1: expected a label in 0, 1, ..., got -1"),
        ([encode(pixels(0))] * 2, [0, None], "row 1: expected a label in 0, 1, ..., got None"),
        ([], [], "expected examples in train"),
    ],
)
def test_bad_rows_are_named(root, images, labels, message):
    for old in root.glob("train*"):
        old.unlink()
    write(root / "train.parquet", images, pa.array(labels, type=pa.int64()))
    with pytest.raises(DataError, match=message):
        load(root)


def test_labels_and_shapes_of_the_test_set_must_fit(root):
    write(root / "test.parquet", [encode(pixels(4))], [3])
    with pytest.raises(DataError, match=r"test.parquet: row 0: expected a label in 0..2, got 3"):
        load(root)
    write(root / "test.parquet", [encode(pixels(4, (6, 6, 3)))], [0])
    with pytest.raises(DataError, match="expected test images of the training images' shape"):
        load(root)


def test_missing_files_and_columns_are_named(root, tmp_path):
    with pytest.raises(DataError, match="nowhere: no such folder"):
        load(tmp_path / "nowhere")
    with pytest.raises(DataError, match="expected an integer column 'species' among img, label"):
        load(root, label="species")
    with pytest.raises(DataError, match="expected an image column 'photo' .* got img"):
        load(root, image="photo")
    (root / "test.parquet").write_bytes(b"PAR1 and then nothing")
    with pytest.raises(DataError, match=r"test.parquet: cannot be read as Parquet"):
        load(root)
    (root / "test.parquet").unlink()
    with pytest.raises(DataError, match=r"expected test\*.parquet"):
        load(root)


def test_limit_keeps_the_first(root):
    data = load(root)
    assert first(data, None) is data
    assert first(data, 3).train.labels.tolist() == [0, 1, 2]
    assert len(first(data, 3).test) == 2
    with pytest.raises(DataError, match="limit 5: the dataset has 4 training examples"):
        first(data, 5)
    with pytest.raises(ConfigError, match="limit must be at least 1, got 0"):
        SOURCES["digits"](limit=0)


def test_statistics_are_per_channel():
    images = torch.randint(0, 256, (50, 2, 7, 3), dtype=torch.uint8)
    images[:, 1] = 9
    mean, std = channel_statistics(images)
    torch.testing.assert_close(mean, images.float().mean((0, 2, 3)))
    assert std[0].item() == pytest.approx(images[:, 0].float().std(correction=0).item(), rel=1e-5)
    assert std[1] == 1


def test_cifar10_without_files_or_network_leaves_nothing(tmp_path, monkeypatch):
    from torchvision.datasets import CIFAR10

    monkeypatch.setattr(CIFAR10, "url", "http://127.0.0.1:9/cifar-10-python.tar.gz")
    root = tmp_path / "new" / "data"
    with pytest.raises(DataError, match="expected the published cifar-10-batches-py there"):
        SOURCES["cifar10"](root=root).load()
    assert not (tmp_path / "new").exists()


def test_cifar10_with_a_changed_batch_is_not_read(tmp_path, monkeypatch):
    from torchvision.datasets import CIFAR10

    monkeypatch.setattr(CIFAR10, "url", "http://127.0.0.1:9/cifar-10-python.tar.gz")
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for name, _ in [*CIFAR10.train_list, *CIFAR10.test_list, ("batches.meta", "")]:
        (folder / name).write_bytes(b"cos\nsystem\n(S'touch pwned'\ntR.")
    with pytest.raises(DataError, match="with its checksums"):
        SOURCES["cifar10"](root=tmp_path).load()
    assert not (tmp_path / "pwned").exists()


@pytest.mark.slow
def test_cifar10_is_the_same_from_both_layouts(shared, tmp_path):
    tool = shared / "tools" / "make_cifar10.py"
    subprocess.run([sys.executable, str(tool), str(tmp_path)], check=True, capture_output=True)
    published = SOURCES["cifar10"](root=tmp_path).load()
    parquet = load(shared / "data" / "cifar10")
    assert published.classes[:3] == ("airplane", "automobile", "bird")
    for ours, theirs in ((parquet.train, published.train), (parquet.test, published.test)):
        assert torch.equal(ours.images, theirs.images)
        assert torch.equal(ours.labels, theirs.labels)
    # The constants that every CIFAR-10 recipe writes down.
    torch.testing.assert_close(
        published.mean / 255, torch.tensor([0.4914, 0.4822, 0.4465]), atol=1e-4, rtol=0
    )
    torch.testing.assert_close(
        published.std / 255, torch.tensor([0.2470, 0.2435, 0.2616]), atol=1e-4, rtol=0
    )

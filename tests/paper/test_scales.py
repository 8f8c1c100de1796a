"""Every experiment starts and steps at the paper's own scale: its networks, methods and data."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from noisylabels import cli
from noisylabels.__main__ import main
from noisylabels.studies import records
from pictures import encode, save, smooth_images, write

SHARED = Path(__file__).parents[3] / "shared"
CIFAR = {
    "cifar10": ("label", ["airplane", *map(str, range(8)), "truck"]),
    "cifar100": ("fine_label", ["apple", *map(str, range(98)), "worm"]),
}
CHOICES = {
    "table2": ("DAL", "symmetric:0.6", 1),
    "table3": ("DAL", "instance:0.4", 1),
    "table4": ("DAL", "", 2),
    "table5": (
        "TCE + DAL,ELR + DAL,GJS + DAL,Co-teaching + DAL,JoCoR + DAL,DivideMix + DAL",
        "asymmetric:0.4",
        6,
    ),
    "figure1": ("CE", "", 1),
    "figure3": ("DAL q_start 0.8,DAL lambda_end 1", "", 2),
    "figure4": ("DAL", "", 2),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A few images in the layout of each dataset, real ones where they are at hand."""
    root = tmp_path_factory.mktemp("data")
    images = [image.permute(1, 2, 0).numpy() for image in smooth_images(32, 3, 32, 32)]
    for name, (label, names) in CIFAR.items():
        (root / name).mkdir()
        for part in ("train", "test"):
            file = root / name / f"{part}.parquet"
            if SHARED.is_dir():
                rows = pq.read_table(SHARED / "data" / name / f"{part}.parquet")
                given = rows.column(label).to_pylist()
                # These say how many classes there are by their greatest label.
                pq.write_table(rows.take([given.index(max(given)), *range(31)]), file)
            else:
                labels = [number % len(names) for number in range(32)]
                encoded = [encode(image) for image in images]
                write(file, encoded, labels, names=names, label=label)
    photos = [encode(Image.fromarray(image).resize((64, 64)), "JPEG") for image in images]
    for part, count in (("training", 30), ("testing", 10)):
        for number in range(count):
            save(root / "animal10n" / part / f"{number % 10}_{number:05}.jpg", photos[number % 32])
    large = encode(Image.fromarray(images[0]).resize((256, 256)), "JPEG")
    listed = {
        "train_filelist_google.txt": [f"google/q{n:04}/{n}.jpg" for n in range(100)],
        "val_filelist.txt": [f"val{n:06}.jpg" for n in range(50)],
    }
    web = root / "webvision"
    (web / "info").mkdir(parents=True)
    for file, paths in listed.items():
        lines = [f"{path} {number % 50}\n" for number, path in enumerate(paths)]
        (web / "info" / file).write_text("".join(lines))
        for path in paths:
            save(web / ("val_images_256" if path.startswith("val") else ".") / path, large)
    return root


# One of them all ways through; the others differ from it in networks, methods and data.
OTHERS = [pytest.param(name, marks=pytest.mark.long) for name in CHOICES if name != "table2"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["table2", *OTHERS])
def test_every_experiment_steps_at_the_papers_scale(name, data, tmp_path, capsys):
    rows, columns, count = CHOICES[name]
    choice = ["--rows", rows, "--columns", columns, "--seeds", "1", "--data", str(data)]
    few = ["--epochs", "1", "--batch_size", "4", "--data.limit", "8"]
    words = ["paper", name, "--scale", "paper", "--out", str(tmp_path), *choice, *few]
    assert main(words) == 0
    assert "expected time: about" in capsys.readouterr().out
    runs = records.read([tmp_path / f"{name}-paper.jsonl"])
    assert len(runs) == count
    for run in runs:
        assert run.result["epochs"] == 1
        assert run.result["images_per_second"] > 0
        assert 0 <= run.result["test_accuracy"] <= 1


def test_one_dataset_of_several(data, tmp_path, monkeypatch):
    begun = []
    monkeypatch.setattr(cli, "_make", lambda study, *_, **__: begun.append(study.path.name))
    words = ["figure4", "--scale", "paper", "--seeds", "1", "--rows", "dal", "--data", str(data)]
    for given, names in (([], ["cifar10", "cifar100"]), (["--datasets", "CIFAR10"], ["cifar10"])):
        begun.clear()
        assert main(["paper", *words, "--out", str(tmp_path), "--dry-run", *given]) == 0
        assert begun == [f"figure4-paper-{name}.toml" for name in names]

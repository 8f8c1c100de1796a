import html
import json
import re

import numpy as np
import pytest
import torch
from PIL import Image

from browser import browse
from noisylabels.__main__ import main
from noisylabels.data.examples import Dataset, Examples
from noisylabels.studies.preview import write
from pictures import save

WIDTHS = (390, 1000, 1400)
COLOURS = {"ant": (230, 30, 40), "bee": (20, 200, 60), "<b>cow</b>": (40, 60, 220)}


@pytest.fixture
def page(tmp_path, capsys):
    for name, colour in COLOURS.items():
        folder = name.replace("/", "-")
        for number in range(10):
            array = np.full((8, 8, 3), colour, dtype=np.uint8)
            save(tmp_path / "photos" / folder / f"{number}.png", array)
    (tmp_path / "photos" / "ant" / "bad.png").write_bytes(b"no")
    out = tmp_path / "page.html"
    spec = f"folder:{tmp_path / 'photos'},on_error=skip"
    assert main(["data", "show", spec, "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "left out: 1 (the first: " in shown
    assert shown.endswith(f"{out}\n")
    return out


def test_the_page_holds_classes_counts_and_samples(page):
    text = page.read_text(encoding="utf-8")
    assert re.search(r"25 training and 6 test examples of 3 classes|24 training", text)
    for name in ("ant", "bee", "&lt;b&gt;cow"):
        assert name in text
    assert "<b>cow" not in text
    assert text.count("<img") == 24
    assert "1 rows left out" in text
    assert "http" not in text


@pytest.mark.slow
def test_a_browser_shows_every_class_in_its_colours(page, tmp_path):
    browse(
        tmp_path,
        "--window-size=1200,900",
        "--hide-scrollbars",
        f"--screenshot={tmp_path / 'page.png'}",
        page.as_uri(),
    )
    shot = np.array(Image.open(tmp_path / "page.png").convert("RGB")).astype(int)
    places = []
    for colour in COLOURS.values():
        near = np.abs(shot - colour).max(2) <= 3
        # Eight samples of 96 x 96 pixels, none of them cut off or drawn over.
        assert near.sum() == 8 * 96 * 96
        places.append(np.flatnonzero(near.any(1)).mean())
    # In alphabetical order, "<" first, one below the other.
    assert places[2] < places[0] < places[1]
    bars = np.abs(shot - (0, 0x72, 0xB2)).max(2) <= 3
    assert bars.any(1).sum() >= 3 * 8


# Frames are as wide as asked, where a browser's window has a least width of its own.
MEASURE = """<!doctype html><body><script>
addEventListener("load", () => {
  const found = [...document.querySelectorAll("iframe")].map((frame) => {
    const page = frame.contentDocument, root = page.documentElement;
    for (const details of page.querySelectorAll("details")) details.open = true;
    const all = [...page.body.querySelectorAll("*")];
    const images = [...page.images].map((image) => image.getBoundingClientRect().width);
    return {
      frame: frame.contentWindow.innerWidth, shown: root.clientWidth, needed: root.scrollWidth,
      right: Math.max(...all.map((element) => element.getBoundingClientRect().right)),
      font: Math.min(...all.map((each) => parseFloat(getComputedStyle(each).fontSize))),
      heading: Math.min(...[...page.querySelectorAll("h2")].map((each) => each.clientWidth)),
      image: Math.min(...images, 96),
    };
  });
  document.body.innerHTML = "<pre>" + JSON.stringify(found) + "</pre>";
});
</script>"""


def dataset_of(names, shape):
    labels = torch.arange(2 * len(names)) % len(names)
    if len(shape) == 1:
        inputs = torch.full((len(labels), *shape), -1.2345e-12)
    else:
        inputs = torch.zeros(len(labels), *shape, dtype=torch.uint8)
    places = np.array([f"/data/{'deep/' * 9}{'p' * 150}{i}.png" for i in range(len(labels))])
    examples = Examples(inputs, labels, places)
    skipped = ((f"/data/{'s' * 200}", "expected an encoded image " + "x" * 99),)
    notes = ("left out: 1 (the first: " + "n" * 300 + ")",)
    return Dataset(
        examples, examples, tuple(names), torch.zeros(1), torch.ones(1), None, notes, skipped
    )


@pytest.mark.slow
def test_no_page_is_wider_than_a_phone_or_a_window(tmp_path):
    datasets = {
        "long": dataset_of(["c" * 200, "a name of several words " * 9, "dog"], (3, 8, 8)),
        "many": dataset_of([f"class{i}" for i in range(300)], (1, 28, 28)),
        "features": dataset_of(["a", "b"], (40,)),
    }
    frames = ""
    for name, dataset in datasets.items():
        write(tmp_path / f"{name}.html", f"folder:/data/{'t' * 150}", dataset)
        text = html.escape((tmp_path / f"{name}.html").read_text(encoding="utf-8"))
        for width in WIDTHS:
            style = f"width: {width}px; height: 800px; border: 0"
            frames += f'<iframe style="{style}" srcdoc="{text}"></iframe>'
    (tmp_path / "frames.html").write_text(MEASURE + frames, encoding="utf-8")
    shown = browse(tmp_path, "--dump-dom", (tmp_path / "frames.html").as_uri())
    found = json.loads(re.search("<pre>(.*)</pre>", shown)[1])
    assert [each["frame"] for each in found] == list(WIDTHS) * len(datasets)
    for each in found:
        assert each["needed"] <= each["shown"]
        assert each["right"] <= each["shown"]
        assert each["font"] >= 13
        assert each["heading"] >= 200
        assert each["image"] == 96


def test_features_are_shown_as_numbers(tmp_path):
    x = np.arange(40.0).reshape(20, 2)
    np.savez(tmp_path / "a.npz", x=x, y=np.arange(20) % 2)
    assert main(["data", "show", str(tmp_path / "a.npz"), "--out", str(tmp_path / "p.html")]) == 0
    text = (tmp_path / "p.html").read_text()
    assert "<img" not in text
    assert 'class="features"' in text


def test_streamed_images_are_shown_too(page, tmp_path):
    spec = f"folder:{tmp_path / 'photos'},on_error=skip,storage=stream"
    assert main(["data", "show", spec, "--out", str(tmp_path / "s.html")]) == 0
    images = re.findall('base64,[^"]+', (tmp_path / "s.html").read_text())
    assert sorted(images) == sorted(re.findall('base64,[^"]+', page.read_text()))

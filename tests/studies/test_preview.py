import re
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from noisylabels.__main__ import main
from pictures import save

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
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser is None:
        pytest.skip("no chromium on this machine: apt-get install chromium")
    command = [
        browser,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        f"--user-data-dir={tmp_path / 'profile'}",
        "--window-size=1200,900",
        "--hide-scrollbars",
        f"--screenshot={tmp_path / 'page.png'}",
        page.as_uri(),
    ]
    subprocess.run(command, check=True, capture_output=True, timeout=100)
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

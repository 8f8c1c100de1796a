"""The documentation as a reader has it: built, and opened from the disk in a real browser."""

import fcntl
import pkgutil
import re
import subprocess
import sys
from dataclasses import fields
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from browser import open_tab
from noisylabels.__main__ import main
from noisylabels.cli import CLASSES, COMMANDS
from noisylabels.losses import LOSSES
from noisylabels.paper import experiments
from noisylabels.studies.audit import Audit

ROOT = Path(__file__).parents[1]
DOCS, BUILT = ROOT / "docs", ROOT / "docs" / "_build" / "html"
MADE = ("_build", "pictures", "plots", "__pycache__")
WIDTHS = (390, 1200)


def is_built():
    sources = [
        path
        for folder in (DOCS, ROOT / "src")
        for path in folder.rglob("*")
        if path.is_file() and not set(MADE) & set(path.relative_to(ROOT).parts)
    ]
    # What Sphinx writes last.
    last = BUILT / "searchindex.js"
    return last.exists() and last.stat().st_mtime > max(map(_changed, sources))


def _changed(path):
    return path.stat().st_mtime


@pytest.fixture(scope="session")
def site():
    """Return the folder of the built site, which `make docs` has made or this does."""
    BUILT.mkdir(parents=True, exist_ok=True)
    with (BUILT.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not is_built():
            command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-E"]
            subprocess.run([*command, DOCS, BUILT], check=True, timeout=900)
    return BUILT


class Page(HTMLParser):
    """A page's anchors, links, and what it consists of."""

    def __init__(self, path):
        super().__init__()
        self.path, self.anchors, self.links, self.parts = path, {"", "top"}, [], []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.anchors |= {given[key] for key in ("id", "name") if given.get(key)}
        if tag == "a" and given.get("href"):
            self.links.append(given["href"])
        elif tag == "link" and given.get("rel") not in ("canonical", "author"):
            self.parts.append(given["href"])
        elif given.get("src"):
            self.parts.append(given["src"])


def faults(folder):
    """Return links that lead nowhere, parts that are missing, and parts from the network."""
    pages = {path: Page(path) for path in sorted(folder.rglob("*.html"))}
    assert pages, f"no page in {folder}"
    found = []
    for path, page in pages.items():
        for kind, urls in (("link", page.links), ("part", page.parts)):
            for url in urls:
                to = urlsplit(url)
                if to.scheme == "data" or (kind == "link" and to.scheme in ("http", "https")):
                    continue
                name = f"{path.relative_to(folder)}: {kind} {url}"
                if to.scheme or to.netloc:
                    found.append(f"{name} is not in the site")
                    continue
                target = (path.parent / unquote(to.path)).resolve() if to.path else path
                if target not in pages and not target.is_file():
                    found.append(f"{name} leads nowhere")
                elif target in pages and unquote(to.fragment) not in pages[target].anchors:
                    found.append(f"{name} has no such place")
    return found


# What reaches beyond the window, but for what scrolls in a box of its own.
LOOK = """(() => {
  const width = document.documentElement.clientWidth;
  const scrolls = element => {
    for (let each = element; each && each !== document.body; each = each.parentElement)
      if (getComputedStyle(each).overflowX !== "visible" ||
          getComputedStyle(each).position === "fixed") return true;
    return false;
  };
  const tooWide = document.documentElement.scrollWidth > width
    ? [...document.body.querySelectorAll("*")]
        .filter(each => each.getBoundingClientRect().right > width + 1 && !scrolls(each))
        .slice(0, 2).map(each => each.outerHTML.slice(0, 80))
    : null;
  const missing = [...document.images].filter(each => !each.complete || !each.naturalWidth);
  return {tooWide, missing: missing.map(each => each.getAttribute("src").slice(0, 80))};
})()"""


def look(tab, path):
    """Return what is wrong with a page in a browser."""
    tab.visit(path.as_uri())
    found = [
        f"asks the network for {request['request']['url']}"
        for request in tab.of("Network.requestWillBeSent")
        if urlsplit(request["request"]["url"]).scheme not in ("file", "data", "blob", "about")
    ]
    found += [
        f"fails: {thrown['exceptionDetails'].get('exception', {}).get('description')}"
        for thrown in tab.of("Runtime.exceptionThrown")
    ]
    for width in WIDTHS:
        tab.resize(width)
        seen = tab.evaluate(LOOK)
        if seen["tooWide"] is not None:
            found.append(f"is wider than {width} pixels: {seen['tooWide']}")
    return found + [f"lacks the picture {name}" for name in seen["missing"]]


FAULTY = """<!doctype html><title>Faulty</title><body>
<a href="nowhere.html">a</a> <a href="#nowhere">b</a> <a href="good.html#here">c</a>
<img src="missing.png" alt=""> <img src="http://127.0.0.1:9/picture.png" alt="">
<div style="width: 800px">wide</div>
<div style="overflow-x: auto"><div style="width: 2000px">scrolls</div></div>
<script>undefinedName()</script></body>"""
GOOD = '<!doctype html><title>Good</title><body id="here"><a href="faulty.html">a</a></body>'


@pytest.fixture
def planted(tmp_path):
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "faulty.html").write_text(FAULTY)
    (folder / "good.html").write_text(GOOD)
    return folder


def test_the_link_check_finds_planted_faults(planted):
    assert faults(planted) == [
        "faulty.html: link nowhere.html leads nowhere",
        "faulty.html: link #nowhere has no such place",
        "faulty.html: part missing.png leads nowhere",
        "faulty.html: part http://127.0.0.1:9/picture.png is not in the site",
    ]


@pytest.mark.slow
def test_the_browser_finds_planted_faults(planted, tmp_path):
    with open_tab(tmp_path) as tab:
        assert look(tab, planted / "good.html") == []
        found = look(tab, planted / "faulty.html")
    assert len(found) == 5
    assert found[0] == "asks the network for http://127.0.0.1:9/picture.png"
    assert "undefinedName is not defined" in found[1]
    assert found[2].startswith('is wider than 390 pixels: [\'<div style="width: 800px">')
    assert found[3:] == [
        "lacks the picture missing.png",
        "lacks the picture http://127.0.0.1:9/picture.png",
    ]


@pytest.mark.slow
def test_every_link_leads_somewhere_and_nothing_comes_from_the_network(site):
    assert faults(site) == []


@pytest.mark.slow
def test_every_page_fits_every_window(site, tmp_path):
    listings = sorted((site / "_modules").rglob("*.html"), key=lambda path: path.stat().st_size)
    # Those of source code are all alike.
    pages = sorted(set(site.rglob("*.html")) - set(listings[:-3]))
    assert len(pages) > 50
    with open_tab(tmp_path) as tab:
        found = {page: look(tab, page) for page in pages}
    assert {str(page): wrong for page, wrong in found.items() if wrong} == {}


FIRST_RESULT = """new Promise((resolve, reject) => {
  const wait = tries => {
    const found = document.querySelector("#search-results li a");
    if (found) resolve(found.getAttribute("href"));
    else if (tries) setTimeout(wait, 100, tries - 1);
    else reject(new Error("nothing was found"));
  };
  wait(100);
})"""


@pytest.mark.slow
def test_search_works_from_the_disk(site, tmp_path):
    with open_tab(tmp_path) as tab:
        tab.visit((site / "search.html").as_uri() + "?q=DivideMix")
        assert "dividemix" in tab.evaluate(FIRST_RESULT)


@pytest.mark.slow
def test_formulas_are_mathml_and_tutorials_have_their_output(site):
    text = (site / "losses" / "dal.html").read_text(encoding="utf-8")
    source = (DOCS / "losses" / "dal.md").read_text(encoding="utf-8")
    formulas = re.findall(r"\$\$[^$]+\$\$|\$[^$]+\$", source)
    assert text.count("<math") == len(formulas) > 5
    assert not re.search(r"<script[^>]*mathjax", text, re.IGNORECASE)
    for page in (DOCS / "tutorials").glob("*.md"):
        if "{code-cell}" in page.read_text(encoding="utf-8"):
            made = (site / "tutorials" / f"{page.stem}.html").read_text(encoding="utf-8")
            assert made.count('class="cell_output') >= 3, page


@pytest.fixture
def docs(monkeypatch):
    monkeypatch.syspath_prepend(DOCS)


def test_a_formula_that_cannot_be_read_fails(docs):
    from sphinx.errors import SphinxError

    import mathml

    assert mathml.convert(r"\frac{1}{q}") == "<math><mfrac><mn>1</mn><mi>q</mi></mfrac></math>"
    with pytest.raises(SphinxError, match="unknwon"):
        mathml.convert(r"\unknwon{q}")


def test_the_reference_has_every_command_and_option(docs, capsys):
    import commands

    sections = dict(
        re.findall(r"## noisylabels ([\w ]+)\n(.*?)(?=\n## |\Z)", commands.reference(), re.S)
    )
    assert list(sections) == [name for name in CLASSES if not COMMANDS.get(name)]
    for name, section in sections.items():
        with pytest.raises(SystemExit):
            main([*name.split(), "--help"])
        offered = set(re.findall(r"^. (--[\w-]+)", capsys.readouterr().out, re.M))
        assert offered == set(re.findall(r"^`(--[\w-]+)`$", section, re.M)), name
        assert section.count("\n: ") == len(re.findall(r"^`[-\w.]+`$", section, re.M))


def test_the_landing_page_shows_what_was_measured(docs):
    import landing

    every = experiments.LOSSES | experiments.LATER_LOSSES
    for page, losses in ((landing.cifar10(), experiments.LOSSES), (landing.fair(), every)):
        rows = [line.split(" | ") for line in page.splitlines() if line.startswith("| `")]
        assert [row[0] for row in rows[:4]] == ["| `ce`", "| `gce`", "| `dgce`", "| `dal`"]
        assert {row[0].strip("| `") for row in rows} == {*losses.values()}
        for column in range(1, 9):
            values = [float(row[column].strip("*| ")) for row in rows]
            bold = {value for row, value in zip(rows, values, strict=True) if "**" in row[column]}
            assert bold == {max(values)}
    # Of the last page: where DAL loses is what its rows say.
    sentences = [line for line in landing.fair().splitlines() if line.startswith("* ")]
    assert len(sentences) == 8
    for column, sentence in enumerate(sentences, start=1):
        means = {row[0].strip("| `"): float(row[column].strip("*| ")) for row in rows}
        said = re.search(r"of 25 losses are higher, `(\S+)` by the most, ([\d.]+) poi", sentence)
        if said is None:
            assert means["dal"] == max(means.values())
        else:
            assert means[said[1]] == max(means.values())
            assert means[said[1]] - means["dal"] == pytest.approx(float(said[2]), abs=0.11)
    assert "| symmetric 40 % | 78 % | 92 % | 92 % |" in landing.suspects()
    assert "| `ce` | 100.0 ± 0.0 | 72.4 ± 3.8 | 100.0 ± 0.0 |" in landing.digits()


def test_the_loss_of_the_tutorial_is_the_one_of_contributing():
    (block,) = re.findall(
        r"```python\n# my_loss.py\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.S
    )
    assert block in (DOCS / "tutorials" / "own.md").read_text()


def test_the_names_for_those_who_come_from_elsewhere_are_there():
    text = "\n".join(page.read_text(encoding="utf-8") for page in (DOCS / "coming").glob("*.md"))
    names = set(re.findall(r"`(noisylabels(?:\.\w+)+)", text))
    found = set(re.findall(r"noisylabels\.audit\([^)]*\)\.(\w+)", text))
    assert len(names) > 4
    assert len(found) > 4
    assert {name for name in names if pkgutil.resolve_name(name) is None} == set()
    assert found - {field.name for field in fields(Audit)} - set(dir(Audit)) == set()
    keys = set(re.findall(r'loss = \{ name = "([^"]+)"|\| `\{ name = "([^"]+)"', text))
    noises = {"symmetric", "asymmetric", "instance", "file"}
    assert {key for pair in keys for key in pair if key} <= set(LOSSES) | noises

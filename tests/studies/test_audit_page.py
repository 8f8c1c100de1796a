import html
import json
import re
import shutil

import numpy as np
import pytest

import noisylabels
from browser import browse
from noisylabels.__main__ import main
from noisylabels.errors import ConfigError, DataError
from noisylabels.run.config import parse
from noisylabels.run.folder import RunFolder
from noisylabels.run.trainer import train
from noisylabels.studies import audit, audit_page, decisions
from pictures import pixels, save


def found(folder):
    return audit.judge(audit.read([RunFolder(folder)]))


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    run = {
        "data": {"name": "digits", "limit": 300},
        "noise": {"name": "symmetric-exclusive", "rate": 0.3},
        "model": {"name": "mlp", "hidden": [16]},
        "epochs": 2,
    }
    return train(parse(run), tmp_path_factory.mktemp("digits"))


@pytest.fixture
def page(digits, tmp_path):
    audit_page.write(found(digits), tmp_path / "audit.html", photos=20)
    return tmp_path / "audit.html"


def stored(text):
    return json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])


def test_the_page_needs_no_other_file(page):
    text = page.read_text(encoding="utf-8")
    data = stored(text)
    assert len(data["items"]) == 20
    assert all(item["image"].startswith("data:image/webp;base64,") for item in data["items"])
    assert not re.search(r'(src|href)="(?!data:)', text)
    assert not re.search(r"https?://", text)
    for sentence in ("labels are wrong", "The true labels are known here"):
        assert sentence in text
    assert text.count('<td class="name">') >= 10


def test_the_first_suspects_are_shown(digits, tmp_path):
    made = found(digits)
    audit_page.write(made, tmp_path / "a.html", photos=3)
    items = stored((tmp_path / "a.html").read_text())["items"]
    assert [item["row"] for item in items] == [suspect.row for suspect in made.listed()[:3]]
    audit_page.write(made, tmp_path / "a.html", photos=0)
    assert stored((tmp_path / "a.html").read_text())["items"] == []


KEYS = """
<script>
addEventListener("load", async () => {
  const press = key => (document.activeElement || document.body).dispatchEvent(
    new KeyboardEvent("keydown", {key, bubbles: true, cancelable: true}));
  const blobs = [];
  URL.createObjectURL = blob => { blobs.push(blob); return "#"; };
  %s
  document.getElementById("save").click();
  const result = document.createElement("pre");
  result.id = "result";
  result.textContent = JSON.stringify({
    saved: JSON.parse(await blobs[0].text()),
    count: document.getElementById("count").textContent,
    focused: document.activeElement.item ? document.activeElement.item.rank : null,
    extra: typeof extra === "undefined" ? null : extra,
  });
  document.body.append(result);
});
</script></body>
"""


def press(page, script):
    """Open the page in a browser with a script that presses keys; return what it saved."""
    pressed = page.with_name("pressed.html")
    text = page.read_text(encoding="utf-8")
    pressed.write_text(text.replace("</body>", KEYS % script), encoding="utf-8")
    shown = browse(page.parent, "--virtual-time-budget=3000", "--dump-dom", pressed.as_uri())
    return json.loads(
        html.unescape(re.search(r'<pre id="result">(.*?)</pre>', shown, re.DOTALL)[1])
    )


@pytest.mark.slow
def test_keys_decide_and_decisions_are_saved(page, digits):
    items = stored(page.read_text(encoding="utf-8"))["items"]
    seen = press(
        page,
        """
        press("ArrowRight"); press("k"); press("r"); press("s");
        press("ArrowRight"); press("ArrowLeft"); press("r"); press("ArrowLeft"); press("u");
        press("c");
        const choose = document.activeElement;
        choose.value = "7"; choose.dispatchEvent(new Event("change"));
        var extra = choose.tagName;
        """,
    )
    assert seen["extra"] == "SELECT"
    assert seen["count"] == "1 kept, 2 relabelled, 1 set aside, 16 open here"
    assert seen["focused"] == 4
    by_row = {decision["row"]: decision for decision in seen["saved"]["decisions"]}
    actions = [by_row[item["row"]]["action"] for item in items[:4]]
    assert actions == ["keep", "relabel", "aside", "relabel"]
    assert by_row[items[1]["row"]]["label"] == str(items[1]["suggested"])
    assert by_row[items[3]["row"]]["label"] == "7"
    # What is saved is what `apply` reads, of the same data.
    file = page.with_name("decisions.json")
    file.write_text(json.dumps(seen["saved"]))
    made = decisions.apply(decisions.read(file), decisions.configuration(str(digits)))
    assert made.counts == {"keep": 1, "relabel": 2, "aside": 1}
    assert int(made.train[items[3]["row"]]) == 7


@pytest.mark.slow
def test_decisions_are_loaded_back_and_those_of_others_are_kept(page):
    first = stored(page.read_text(encoding="utf-8"))["items"][0]
    names = stored(page.read_text(encoding="utf-8"))["classes"]
    entries = [
        {"part": "train", "row": first["row"], "path": "", "given": names[first["given"]],
         "action": "aside"},
        {"part": "train", "row": 99999, "path": "", "given": "3", "action": "keep"},
    ]  # fmt: skip
    content = json.dumps({"format": decisions.FORMAT, "examples": 300, "decisions": entries})
    seen = press(
        page,
        f"""
        load({json.dumps(content)});
        pair.value = "*"; arrange();
        var extra = [document.querySelectorAll("h3").length,
                     document.querySelectorAll("article[data-action=aside]").length];
        try {{ load("{{}}"); }} catch (error) {{ extra.push(error.message); }}
        """,
    )
    assert seen["saved"]["decisions"] == [entries[1], entries[0]]
    assert seen["count"].startswith("1 kept, 0 relabelled, 1 set aside, 19 open")
    groups, aside, refused = seen["extra"]
    assert groups >= 2
    assert aside == 1
    assert refused == "expected decisions that were saved from a page of this audit"


FRAMES = """
<body>%s<script>
addEventListener("load", () => {
  const seen = [...document.querySelectorAll("iframe")].map(({contentDocument: page}) => ({
    width: page.defaultView.innerWidth,
    page: page.documentElement.scrollWidth,
    cut: [...page.querySelectorAll("article, p, li, button, #bar")].filter(each =>
      each.getBoundingClientRect().right > page.defaultView.innerWidth).length,
    images: [...page.querySelectorAll("img")].slice(0, 3).map(image => image.clientWidth),
  }));
  document.body.textContent = JSON.stringify(seen);
});
</script></body>
"""


@pytest.mark.slow
def test_the_page_fits_windows_of_any_width(page):
    source = html.escape(page.read_text(encoding="utf-8"))
    frames = [
        f'<iframe style="width: {width}px; height: 900px; border: 0" srcdoc="{source}"></iframe>'
        for width in (390, 1000, 1400)
    ]
    page.with_name("frames.html").write_text(FRAMES % "".join(frames), encoding="utf-8")
    shown = browse(page.parent, "--dump-dom", page.with_name("frames.html").as_uri())
    for seen in json.loads(html.unescape(re.search(r"<body>(\[.*\])", shown)[1])):
        assert seen["page"] <= seen["width"]
        assert seen["cut"] == 0
        assert seen["images"] == [96, 96, 96]


def test_pictures_are_of_the_suspects(tmp_path, monkeypatch, capsys):
    """Photos come from their files, those of a test set that was split off too."""
    monkeypatch.chdir(tmp_path)
    for number in range(40):
        name = ("<b>ant</b>", "bee & wasp")[number % 2].replace("/", "")
        save(tmp_path / "photos" / name / f"{number:02}.png", pixels(number, (12, 9, 3)))
    (tmp_path / "run.toml").write_text(
        "data = {name = 'folder', root = 'photos'}\nmodel = 'mlp'\nepochs = 1\n"
    )
    assert main(["audit", "run.toml"]) == 0
    assert "labels are wrong" in capsys.readouterr().out
    text = (tmp_path / "audit" / "audit.html").read_text()
    assert "<b>" not in text
    data = stored(text)
    assert data["examples"] == 40
    for item in data["items"]:
        assert item["image"].startswith("data:image/webp")
        assert item["path"].startswith("photos")


def test_features_are_shown_as_text(tmp_path):
    draws = np.random.default_rng(0)
    x, y = draws.normal(size=(60, 12)), draws.integers(0, 3, 60)
    np.savez(tmp_path / "a.npz", x=x, y=y)
    run = {"data": {"name": "arrays", "path": str(tmp_path / "a.npz")}, "epochs": 1}
    made = found(train(parse(run), tmp_path))
    audit_page.write(made, tmp_path / "a.html")
    items = stored((tmp_path / "a.html").read_text())["items"]
    assert items
    for item in items:
        assert item["image"] == ""
        assert re.fullmatch(r"(-?[\d.e-]+, ){8}\.\.\.", item["text"])


def test_data_that_is_not_there_any_more_is_said(tmp_path):
    draws = np.random.default_rng(0)
    file = tmp_path / "a.npz"
    np.savez(file, x=draws.normal(size=(60, 3)), y=draws.integers(0, 3, 60))
    made = found(
        train(parse({"data": {"name": "arrays", "path": str(file)}, "epochs": 1}), tmp_path)
    )
    np.savez(file, x=draws.normal(size=(60, 3)), y=draws.integers(0, 3, 60))
    said = []
    audit_page.write(made, tmp_path / "a.html", say=said.append)
    assert "labels are not those that the run was given" in said[0]
    file.unlink()
    audit_page.write(made, tmp_path / "a.html", say=said.append)
    assert said[1].startswith("no pictures: ")
    assert all(not item["text"] for item in stored((tmp_path / "a.html").read_text())["items"])


def test_many_classes_are_listed(digits, tmp_path, monkeypatch):
    monkeypatch.setattr(audit_page, "MATRIX_CLASSES", 9)
    audit_page.write(found(digits), tmp_path / "a.html")
    text = (tmp_path / "a.html").read_text()
    assert 'id="confusions"' in text
    assert 'id="matrix"' not in text


def test_the_command_takes_runs_or_data(digits, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(digits, tmp_path / "runs" / "unfinished")
    (tmp_path / "runs" / "unfinished" / "result.json").unlink()
    assert main(["audit", str(digits), "runs", "--out", "found", "--photos", "2"]) == 0
    seen = capsys.readouterr()
    assert "not finished, left out: runs/unfinished" in seen.err
    assert seen.out.splitlines()[-3:] == [
        "found/audit.html", "found/suspects.csv", "found/audit.npz",
    ]  # fmt: skip
    (tmp_path / "held.toml").write_text("data = 'digits'\nvalidation = 0.1\n")
    for words, said in (
        (["audit", "digits", "digits"], "expected one dataset, or run folders alone"),
        (["audit", str(digits), "--photos", "-1"], "--photos: expected at least 0"),
        (["audit", str(digits), "--score", "best"], "--score must be 'posterior'"),
        (["audit", "nowhere"], "nowhere"),
        (["audit", str(digits), "--folds", "3"], "expected data to make runs of"),
        (["audit", "digits", "--folds", "1"], "folds: expected at least 2"),
        (["audit", str(digits), "--minutes", "3"], "minutes: expected data to make runs of"),
        (["audit", "held.toml", "--minutes", "3"], "minutes must be left out"),
        (["audit", "held.toml", "--backbone", "x"], "backbone must be left out"),
        (["audit", "held.toml", "--weights", "x"], "weights must be left out"),
        (["audit", "held.toml", "--folds", "3"], "validation must be left out"),
    ):
        assert main(words) == 2
        err = capsys.readouterr().err
        assert said in err
        assert err.count("\n") == 1


def test_folds_are_judged_by_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.toml").write_text(
        "data = {name = 'digits', limit = 90}\nmodel = 'mlp'\nepochs = 1\n"
    )
    assert main(["audit", "run.toml", "--folds", "3"]) == 0
    assert "training 3 runs first" in capsys.readouterr().err
    data = stored((tmp_path / "audit" / "audit.html").read_text())
    assert data["examples"] == 90
    assert all(item["image"] for item in data["items"])
    # The runs themselves tell the same.
    assert main(["audit", "audit/runs", "--out", "again"]) == 0
    assert stored((tmp_path / "again" / "audit.html").read_text()) == data


def test_suspects_are_there_even_where_the_page_fails(digits, tmp_path, monkeypatch):
    def fail(*args, **options):
        raise DataError("no page")

    monkeypatch.setattr(audit_page, "write", fail)
    assert main(["audit", str(digits), "--out", str(tmp_path / "found")]) == 2
    assert (tmp_path / "found" / "suspects.csv").exists()
    assert (tmp_path / "found" / "audit.npz").exists()


def test_python_refuses_what_finished_runs_would_ignore(digits, tmp_path):
    for options, said in (
        ({"folds": 5}, "folds: expected data to make runs of"),
        ({"weights": "w.pth"}, "weights: expected data to make runs of"),
        ({"folds": 1}, "folds: expected at least 2"),
    ):
        with pytest.raises(ConfigError, match=said):
            noisylabels.audit(digits, **options)
    with pytest.raises(ConfigError, match="run folders alone, got nowhere too"):
        noisylabels.audit([digits, "nowhere"])

import dataclasses
import html
import html.parser
import json
import re
import shutil

import numpy as np
import pytest

from browser import browse
from folders import alter
from noisylabels.errors import DataError
from noisylabels.run.config import parse
from noisylabels.run.trainer import train
from noisylabels.studies import records, report
from pictures import encode, pixels, write

CONFIG = {
    "data": {"name": "digits"},
    "method": {"name": "single"},
    "loss": {"name": "ce"},
    "seed": 0,
    "epochs": 9,
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs")
    base = {
        "data": "digits",
        "noise": {"name": "symmetric", "rate": 0.4},
        "model": {"name": "mlp", "hidden": [16]},
        "epochs": 2,
    }
    for loss in ("ce", {"name": "gce", "q": 0.7}):
        for seed in (1, 0):
            train(parse(base | {"loss": loss, "seed": seed}), out)
    return out


class Page(html.parser.HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.cells, self.tags, self.links, self._cell = [], [], [], False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href") and value]
        self._cell = self._cell or tag == "td"

    def handle_data(self, data):
        if self._cell:
            self.cells.append(data.replace("\xa0", " "))
            self._cell = False


def test_rows_are_means_over_seeds(runs):
    summary = report.summarise(records.read([runs]))
    # Not in the order of the folders' names, which are hashes.
    assert [group.title for group in summary.groups] == ["ce", "gce (q 0.7)"]
    assert "noise symmetric (rate 0.4)" in summary.shared
    for group in summary.groups:
        assert [run.config["seed"] for run in group.runs] == [0, 1]
        values = [100 * run.result["test_accuracy"] for run in group.runs]
        mean = sum(values) / 2
        std = abs(values[0] - values[1]) / 2**0.5
        row = dict(zip(report.NUMBERS, group.numbers(), strict=True))
        assert row["test accuracy"] == f"{mean:.1f} ± {std:.1f} %"
        assert row["seeds"] == "2"
        assert re.fullmatch(r"3\d\.\d ± \d\.\d / 40 %", row["noise, actual / nominal"])


def test_one_run_has_no_deviation_and_other_settings_are_told_apart(runs, tmp_path):
    run = {"data": "digits", "noise": "none", "model": {"name": "mlp", "hidden": [16]}, "epochs": 1}
    folders = [train(parse(run | {"batch_size": size}), tmp_path) for size in (64, 128)]
    summary = report.summarise(records.read(folders))
    titles = [group.title for group in summary.groups]
    loss = "dal (q_start 0.6, q_end 1.5, lambda_end 1)"
    assert titles == [f"{loss}, batch_size {size}" for size in (64, 128)]
    assert summary.header == ("loss", "batch_size", *report.NUMBERS)
    assert [row[:3] for row in summary.rows()] == [(loss, size, "1") for size in ("64", "128")]
    row = dict(zip(report.NUMBERS, summary.groups[0].numbers(), strict=True))
    assert re.fullmatch(r"\d+\.\d %", row["test accuracy"])
    assert row["wrong labels memorised"] == "unknown"
    assert row["noise, actual / nominal"] == "0.0 / 0 %"


def test_a_name_stands_for_its_values_where_it_has_one_set_of_them(runs, tmp_path):
    first = next(runs.iterdir())
    settings = [
        {"method": {"name": "elr", "beta": 0.9}, "batch_size": 64},
        {"method": {"name": "gjs", "pi": 0.3}, "batch_size": 64},
        {"method": {"name": "gjs"}, "batch_size": 9},
    ]
    folders = [alter(first, tmp_path / str(n), **own) for n, own in enumerate(settings)]
    summary = report.summarise(records.read(folders))
    assert sorted(group.title.partition(", ")[2] for group in summary.groups) == [
        "method elr, batch_size 64",
        "method gjs (pi 0.3), batch_size 64",
        "method gjs, batch_size 9",
    ]
    assert summary.settings == ["loss", "method", "batch_size"]
    assert summary.legend == ["method elr (beta 0.9)"]
    report.write_html(summary, tmp_path / "report.html")
    assert "method elr (beta 0.9)" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_components_of_one_name_are_compared_by_parameter(runs, tmp_path):
    first = next(runs.iterdir())
    noises = [{"name": "symmetric", "rate": rate, "seed": 3} for rate in (0.2, 0.1234567)]
    folders = [alter(first, tmp_path / str(n), noise=noise) for n, noise in enumerate(noises)]
    summary = report.summarise(records.read(folders))
    assert summary.settings == ["loss", "noise rate"]
    assert {group.settings[1] for group in summary.groups} == {"0.2", "0.1234567"}
    assert "noise symmetric (seed 3);" in summary.shared


def test_what_no_result_depends_on_makes_no_row_of_its_own(tmp_path):
    train_images, test_images = ([encode(pixels(n, (4, 4, 3))) for n in range(k)] for k in (12, 6))
    for folder in ("one", "other"):
        (tmp_path / folder).mkdir()
        write(tmp_path / folder / "train.parquet", train_images, [0, 1] * 6)
        write(tmp_path / folder / "test.parquet", test_images, [0, 1] * 3)
    base = {"model": {"name": "mlp", "hidden": [4]}, "loss": "ce", "epochs": 2}
    for seed, (source, folder, settings) in enumerate(
        [
            ("parquet", "one", {}),
            ("hf", "one", {"workers": 0}),
            ("parquet", "other", {"evaluate_every": 2}),
            ("parquet", "one", {"precision": "32"}),
        ]
    ):
        data = {"name": source, "root": str(tmp_path / folder)}
        train(parse(base | settings | {"data": data, "seed": seed}), tmp_path / "runs")
    (group,) = report.summarise(records.read([tmp_path / "runs"])).groups
    assert len(group.runs) == 4
    # One of them knows the last epoch's only.
    assert report.mean_series(group.runs, "test_accuracy")[0] == [2]


def test_precisions_are_rows_that_say_so(runs, tmp_path):
    computed = [{}, {"precision": "bf16"}, {"tf32": True}]
    folders = [
        alter(run, tmp_path / f"{run.name}-{number}", result=result)
        for run in sorted(runs.iterdir())
        for number, result in enumerate(computed)
    ]
    summary = report.summarise(records.read(folders))
    assert summary.settings == ["loss", "precision"]
    assert [group.settings for group in summary.groups] == [
        [loss, precision]
        for loss in ("ce", "gce (q 0.7)")
        for precision in ("bfloat16", "float32", "float32, TF32")
    ]
    assert [len(group.runs) for group in summary.groups] == [2] * 6
    assert "precision" not in summary.shared


def test_sets_of_other_contents_are_told_apart(tmp_path):
    base = {"model": {"name": "mlp", "hidden": [4]}, "loss": "ce", "epochs": 1}
    for name in ("ants", "bees"):
        rng = np.random.default_rng(len(name) + ord(name[0]))
        np.savez(tmp_path / f"{name}.npz", x=rng.normal(size=(30, 3)), y=np.arange(30) % 2)
        for seed in (0, 1):
            data = {"name": "arrays", "path": str(tmp_path / f"{name}.npz")}
            train(parse(base | {"data": data, "seed": seed}), tmp_path / "runs")
    summary = report.summarise(records.read([tmp_path / "runs"]))
    assert summary.settings == ["loss", "contents of data"]
    assert [len(group.runs) for group in summary.groups] == [2, 2]
    first, second = (group.settings[1] for group in summary.groups)
    assert first != second
    said = "\n".join(summary.legend)
    for digest, group in zip((first, second), summary.groups, strict=True):
        path = group.runs[0].config["data"]["path"]
        assert f"contents of data {digest}: {path}, as run" in said


def test_methods_of_two_networks_show_both(tmp_path):
    run = {
        "data": "digits",
        "method": {"name": "coteaching", "forget_rate": 0.0},
        "model": {"name": "mlp", "hidden": [16]},
        "epochs": 1,
    }
    folder = train(parse(run), tmp_path)
    (group,) = report.summarise(records.read([folder])).groups
    result = json.loads((folder / "result.json").read_text())
    shown = [100 * result[key] for key in ("test_accuracy", "test_accuracy_ensemble")]
    assert group.numbers()[1] == "{:.1f} % (both networks {:.1f} %)".format(*shown)


@pytest.mark.parametrize("all_given", [True, False])
def test_accuracies_against_given_labels_say_so(runs, tmp_path, all_given):
    folders = []
    for run in runs.iterdir():
        loss = json.loads((run / "config.json").read_text())["loss"]["name"]
        given = {"test_labels": "given"} if all_given or loss == "ce" else {}
        folders.append(alter(run, tmp_path / run.name, result=given))
    summary = report.summarise(records.read(folders))
    name = "test accuracy against given labels" if all_given else "test accuracy"
    place = summary.header.index(name)
    ends = [row[place].endswith(" % against given labels") for row in summary.rows()]
    # By the loss: CE comes before GCE.
    assert ends == ([False, False] if all_given else [True, False])
    report.write_html(summary, tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "may be as wrong as those of the training set" in text
    assert text.count("test, against given labels") == (2 if all_given else 1)


def test_what_is_known_of_noisy_labels_has_columns_of_its_own(runs, tmp_path):
    folders = []
    for run in runs.iterdir():
        loss = json.loads((run / "config.json").read_text())["loss"]["name"]
        known = {"validation_accuracy": 0.75, "reachable_test_accuracy": 0.7}
        unknown = {"actual_noise_rate": None, "estimated_noise_rate": 0.25}
        result = known | unknown if loss == "ce" else {}
        folders.append(alter(run, tmp_path / run.name, result=result))
    summary = report.summarise(records.read(folders))
    columns = ("hold-out accuracy", "perfect model against given labels", "noise, estimated")
    assert summary.header[-3:] == columns
    ce, gce = summary.rows()
    assert ce[-3:] == ("75.0 ± 0.0 %", "70.0 ± 0.0 %", "25.0 ± 0.0 %")
    assert gce[-3:-1] == ("unknown", "unknown")
    # Where noise is known nobody asks for an estimate.
    assert report.summarise(records.read([runs])).header[-1] == "noise, actual / nominal"


def test_page_is_whole_and_self_contained(runs, tmp_path):
    path = tmp_path / "report.html"
    summary = report.summarise(records.read([runs]))
    report.write_html(summary, path)
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert page.cells == [cell for row in summary.rows() for cell in row]
    # One of all test accuracies, and one of each row.
    assert page.tags.count("figure") == 3
    assert page.tags.count("svg") == 3 + len(summary.groups)
    assert all(link.startswith("#") for link in page.links)
    assert not {"script", "link", "img"} & set(page.tags)
    for label, _, _ in report.CURVES.values():
        assert label in text
    assert "against given" not in text
    report.write_html(summary, path)
    assert path.read_text(encoding="utf-8") == text


MEASURE = """
<body>%s<script>
addEventListener("load", () => {
  const inside = (inner, outer) => {
    const [i, o] = [inner.getBoundingClientRect(), outer.getBoundingClientRect()];
    return i.left >= o.left - 1 && i.right <= o.right + 1;
  };
  const seen = [...document.querySelectorAll("iframe")].map(({contentDocument: page}) => {
    const cells = [...page.querySelectorAll("td, th")].filter((cell) => cell.offsetParent);
    const words = [...page.querySelectorAll("svg text")];
    const label = getComputedStyle(page.querySelector("td"), "::before").content;
    return {
      width: page.defaultView.innerWidth,
      page: page.documentElement.scrollWidth,
      cells: cells.length,
      clipped: cells.filter((cell) => cell.scrollWidth > cell.clientWidth + 1 ||
        !inside(cell, page.body) || [...cell.children].some((child) => !inside(child, cell)))
        .map((cell) => cell.textContent),
      outside: words.filter((word) => !inside(word, word.ownerSVGElement)).length,
      labelled: label !== "none",
    };
  });
  document.body.textContent = JSON.stringify(seen);
});
</script></body>
"""
WIDTHS = (390, 1000, 1400)


def measure(page, folder):
    """Lay a page out in windows of several widths, and return what a browser says of each."""
    # A window of its own would be no narrower than 500 pixels.
    source = html.escape(page.read_text(encoding="utf-8"))
    style = "height: 900px; border: 0"
    frames = [
        f'<iframe style="width: {width}px; {style}" srcdoc="{source}"></iframe>' for width in WIDTHS
    ]
    (folder / "frames.html").write_text(MEASURE % "".join(frames), encoding="utf-8")
    shown = browse(folder, "--dump-dom", (folder / "frames.html").as_uri())
    return json.loads(html.unescape(re.search(r"<body>(\[.*\])", shown)[1]))


@pytest.mark.slow
@pytest.mark.parametrize("columns", [1, 3, 9])
def test_the_page_fits_windows_of_any_width(runs, tmp_path, columns):
    long = "a_loss_of_ones_own_with_a_long_name " * 4 + "q" * 10
    folders = []
    for number, first in enumerate(sorted(runs.iterdir())):
        settings = {
            name: {"name": f"{name}{number}", "beta": 0.25 + number}
            for name in ("method", "model", "optimizer", "augment", "lr_schedule", "noise")
        } | {"batch_size": number + 1, "epochs": number + 1}
        own = dict(list(settings.items())[: columns - 1])
        loss = {"name": long[:140] + str(number), "q": 0.7}
        folders.append(alter(first, tmp_path / str(number), loss=loss, **own))
    summary = report.summarise(records.read(folders))
    assert len(summary.settings) == columns
    assert len(summary.groups[0].settings[0]) >= 147
    report.write_html(summary, tmp_path / "report.html")
    seen = measure(tmp_path / "report.html", tmp_path)
    assert [each["width"] for each in seen] == list(WIDTHS)
    for each in seen:
        assert each["page"] <= each["width"]
        assert each["clipped"] == []
        assert each["outside"] == 0
        # A cell that stands below others says what it is.
        listed = each["cells"] == len(summary.groups) * len(summary.header)
        assert each["labelled"] is listed
    assert seen[0]["labelled"]
    assert seen[1]["labelled"] is (columns > 3)


def test_curves_are_means_over_seeds(runs):
    group = report.summarise(records.read([runs])).groups[0]
    for key in report.CURVES:
        one, two = ([line[key] for line in run.metrics] for run in group.runs)
        epochs, means, deviations = report.mean_series(group.runs, key)
        assert epochs == [1, 2]
        assert means == pytest.approx([50 * (a + b) for a, b in zip(one, two, strict=True)])
        wanted = [100 * abs(a - b) / 2**0.5 for a, b in zip(one, two, strict=True)]
        assert deviations == pytest.approx(wanted)
    assert report.mean_series(group.runs, "unknown") == ([], [], [])


def test_every_curve_is_drawn_with_its_band(runs):
    svg = report.draw_curves(report.summarise(records.read([runs])).groups[0])
    assert svg.startswith("<svg")
    assert svg.count("fill-opacity: 0.2") == 3
    for _, colour, _ in report.CURVES.values():
        assert f"stroke: {colour.lower()}" in svg.replace("stroke-dashoffset", "")


def test_the_overlay_has_a_curve_of_its_own_look_for_every_row(runs, tmp_path):
    first = next(runs.iterdir())
    count = len(report.COLOURS) + 3
    folders = [alter(first, tmp_path / str(n), batch_size=n + 1) for n in range(count)]
    summary = report.summarise(records.read(folders))
    svg = report.draw_overlay(summary)
    curves = re.findall(r'<path d="[^"]*" clip-path[^>]*style="(fill: none; stroke[^"]*)"', svg)
    curves = [curve for curve in curves if "#b0b0b0" not in curve]
    assert len(curves) == count
    looks = [report.look(number) for number in range(len(report.STYLES) * len(report.MARKERS))]
    without_colour = {(look.style, look.marker) for look in looks}
    assert len(without_colour) == len(looks), "two curves that only their colour tells apart"
    assert {look.dashes for look in looks} == set(report.STYLES.values())
    report.write_html(summary, tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    for look, group, curve in zip(looks, summary.groups, curves, strict=False):
        assert f"stroke: {look.colour.lower()}" in curve
        assert ("stroke-dasharray" in curve) is (look.style != "-")
        assert re.search(f">{look.sign}</text></svg><span>{re.escape(group.title)}</span>", text)


def test_unfinished_runs_are_left_out_and_named(runs, tmp_path):
    folder = tmp_path / "abc"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    with pytest.raises(DataError, match="expected at least one finished run, got 1 unfinished"):
        report.summarise(records.read([tmp_path]))
    summary = report.summarise(records.read([runs, tmp_path]))
    assert [run.folder for run in summary.unfinished] == [folder]
    report.write_html(summary, tmp_path / "report.html")
    assert "(epoch 0 of 9)" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_runs_reached_twice_count_once(runs, tmp_path):
    one = next(runs.iterdir())
    assert len(records.read([runs, one, runs])) == 4
    shutil.copytree(one, tmp_path / "copy")
    assert len(records.read([runs, tmp_path])) == 4


def test_runs_that_differ_in_the_noise_seed_are_told_apart(tmp_path):
    base = {"data": "digits", "model": {"name": "mlp", "hidden": [4]}, "epochs": 1}
    for seed in (0, 1):
        noise = {"name": "symmetric", "rate": 0.2, "seed": seed}
        train(parse(base | {"noise": noise}), tmp_path)
    titles = [group.title for group in report.summarise(records.read([tmp_path])).groups]
    assert len(titles) == 2
    assert all(f"seed {seed}" in title for seed, title in enumerate(sorted(titles)))


def test_bad_folders_are_named(tmp_path):
    with pytest.raises(DataError, match="expected run folders"):
        records.read([])
    with pytest.raises(DataError, match="expected a run folder"):
        records.read([tmp_path])
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(DataError, match=r"config.json: expected JSON"):
        records.read([tmp_path])
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(DataError, match=r"config.json: expected a JSON object, got list"):
        records.read([tmp_path])
    (tmp_path / "config.json").write_text('{"epochs": 3}')
    with pytest.raises(DataError, match=r"config.json: expected data, method, loss, seed in it"):
        records.read([tmp_path])
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "result.json").write_text("{}")
    with pytest.raises(DataError, match=r"result.json: expected run_id, test_accuracy"):
        records.read([tmp_path])


def test_names_from_files_are_escaped(runs, tmp_path):
    read = records.read([runs])[:1]
    config = dict(read[0].config) | {"loss": {"name": "<script>alert(1)</script>"}}
    run = dataclasses.replace(read[0], config=config)
    report.write_html(report.summarise([run]), tmp_path / "report.html")
    assert "<script" not in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_unwritable_report_is_named(runs, tmp_path):
    summary = report.summarise(records.read([runs]))
    report.write_html(summary, tmp_path / "new" / "report.html")
    with pytest.raises(DataError, match=r"inside: cannot be written"):
        report.write_html(summary, tmp_path / "new" / "report.html" / "inside")

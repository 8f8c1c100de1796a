from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from noisylabels.data.datasets import SOURCES
from noisylabels.errors import ConfigError
from noisylabels.run import spec
from noisylabels.run.config import Component
from pictures import class_folders, pixels, save

MY_SOURCES = """
from dataclasses import dataclass
from noisylabels.data.source import Source

class Undecorated(Source):
    def __init__(self, *, colour: str = "red"):
        pass
    def load(self, workers=0): ...
    def facts(self): ...

class Foreign:
    def load(self, workers=0): ...

@dataclass(frozen=True, kw_only=True)
class Mine(Source):
    def load(self, workers=0):
        return "data"
    def facts(self): ...

def made():
    return Mine()
"""


def test_names_places_and_parameters():
    assert spec.parse("digits") == Component("digits")
    assert spec.parse("digits,limit=5").parameters == {"limit": 5}
    assert spec.parse("folder:a/b,size=64,on_error=skip").parameters == {
        "root": "a/b",
        "size": 64,
        "on_error": "skip",
    }
    assert spec.parse("arrays:x.npz") == Component("arrays", {"path": "x.npz"})
    assert spec.parse("hf:a/b,size=8") == spec.parse("parquet:a/b,size=8")


def test_what_is_there_says_what_it_is(tmp_path):
    save(tmp_path / "photos" / "ant" / "1.png", pixels(0))
    for name in ("a.csv", "a.parquet", "a.npz"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "train-0.parquet").write_bytes(b"")
    for part in ("training", "testing"):
        save(tmp_path / "animals" / part / "0_00001.jpg", pixels(0))
        save(tmp_path / "classes" / part / "cat" / "0_00001.jpg", pixels(0))
    (tmp_path / "web" / "info").mkdir(parents=True)
    (tmp_path / "web" / "info" / "train_filelist_google.txt").write_text("")
    (tmp_path / "run.toml").write_text('data = { name = "digits", limit = 3 }\n')
    kinds = {
        "photos": "folder",
        "a.csv": "table",
        "a.parquet": "table",
        "a.npz": "arrays",
        "hf": "parquet",
        "animals": "animal10n",
        "classes": "folder",
        "web": "webvision",
    }
    for name, kind in kinds.items():
        assert spec.parse(str(tmp_path / name)).name == kind
        assert str(tmp_path / name) in spec.parse(str(tmp_path / name)).parameters.values()
    with_more = spec.parse(f"{tmp_path / 'photos'},size=8")
    assert with_more == Component("folder", {"root": str(tmp_path / "photos"), "size": 8})
    assert spec.parse(str(tmp_path / "run.toml")) == Component("digits", {"limit": 3})
    (tmp_path / "a.doc").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"a.doc: expected a .csv, .txt, .parquet"):
        spec.parse(str(tmp_path / "a.doc"))


def test_a_table_is_what_its_columns_say(tmp_path):
    columns = {
        "path": ["a.png"],
        "text": ["words"],
        "label": [1],
        "img": [{"bytes": b"", "path": ""}],
    }
    for kind, names in {
        "table": ["path", "text", "label"],
        "text": ["text", "label"],
        "parquet": ["img", "label"],
    }.items():
        file = tmp_path / f"{kind}.parquet"
        parquet.write_table(pa.table({name: columns[name] for name in names}), file)
        assert spec.parse(str(file)).name == kind
    for header in ("text,label", "\ufefflabel;text", '"label"\t"text"'):
        (tmp_path / "texts.csv").write_text(f"{header}\n", encoding="utf-8")
        assert spec.parse(str(tmp_path / "texts.csv")).name == "text"
    (tmp_path / "texts.csv").write_text("label,texts\nant,text\n")
    assert spec.parse(str(tmp_path / "texts.csv")).name == "table"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("digit", "unknown data 'digit': did you mean 'digits'?"),
        ("digits,5", "expected key=value after the comma, got '5'"),
        ("digits:here", "Digits lies nowhere, so it takes no path"),
        ("digits,size=3", "unknown parameter of 'digits' 'size'"),
        ("folder:x,size=big", "data.size: expected"),
        ("folder", "'folder' needs root"),
    ],
)
def test_specs_that_say_nothing(text, message):
    with pytest.raises(ConfigError, match=message):
        spec.source(spec.parse(text))


@pytest.mark.parametrize("name", ["digits", "hf"])
def test_a_folder_that_is_called_as_a_source_is_told_from_it(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    class_folders(tmp_path / name)
    said = rf"'{name}' is a file or folder here.*\./{name} is the first, {name}: the second"
    with pytest.raises(ConfigError, match=said):
        spec.parse(name)
    assert spec.parse(f"./{name}").name == "folder"
    assert spec.parse(f"{name}:").name in SOURCES
    assert spec.parse(f"{name},limit=5").parameters["limit"].text == "5"


def test_another_name_is_resolved(tmp_path):
    made = spec.source(Component("hf", {"root": str(tmp_path)}))
    assert made == spec.source(Component("parquet", {"root": str(tmp_path)}))


@pytest.mark.parametrize("name", ["Undecorated", "Foreign", "made"])
def test_a_source_of_the_users_must_be_one(own_module, name):
    own_module("my_sources", MY_SOURCES)
    component = Component(f"my_sources:{name}")
    if name == "made":
        assert spec.source(component).load() == "data"
        return
    expected = {
        "Undecorated": "on the class 'my_sources:Undecorated' itself, not only on the one that",
        "Foreign": "expected 'my_sources:Foreign' to be a subclass of",
    }
    with pytest.raises(ConfigError, match=expected[name]):
        spec.source(component)


def test_a_source_is_made(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.zeros((4, 2)), y=np.array([0, 1, 0, 1]))
    made = spec.source(spec.parse(f"arrays:{tmp_path / 'a.npz'},test_share=0.5"))
    assert made.path == Path(tmp_path / "a.npz")
    assert len(made.load().test) == 2


def test_a_folder_that_is_not_there_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"unknown data 'photos2' .*nor is photos2 a file or fol"):
        spec.parse("photos2")


def test_a_list_is_a_table(tmp_path):
    (tmp_path / "clean_train_kv.txt").write_text("a.png 1\n")
    assert spec.parse(str(tmp_path / "clean_train_kv.txt")).name == "table"

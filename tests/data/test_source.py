"""What a source of the user's own inherits."""

import os
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from noisylabels.data.source import Facts, Source, check_source
from noisylabels.errors import ConfigError, DataError
from pictures import change_one_byte


@dataclass(frozen=True, kw_only=True)
class Mine(Source):
    table: Path
    images: Path | None = None
    colour: str = "red"
    channels: list[int] = field(default_factory=lambda: [0, 1])
    year: int

    def load(self, workers=0):
        raise NotImplementedError

    def facts(self):
        return Facts((3,), images=False)


@pytest.fixture
def mine(tmp_path):
    (tmp_path / "table.txt").write_text("a table")
    (tmp_path / "images" / "below").mkdir(parents=True)
    (tmp_path / "images" / "below" / "1.png").write_bytes(b"an image")
    return Mine(table=tmp_path / "table.txt", images=tmp_path / "images", year=2020)


def test_the_identity_is_what_differs_from_the_defaults(mine):
    assert mine.identity() == {"year": 2020}
    changed = Mine(table=mine.table, year=1, colour="blue", channels=[2], limit=3)
    assert changed.identity() == {"limit": 3, "colour": "blue", "channels": [2], "year": 1}
    same = Mine(table=Path("elsewhere"), year=2020, colour="red", channels=[0, 1])
    assert same.identity() == mine.identity()


def test_the_digest_is_what_the_paths_hold(mine, tmp_path):
    before = mine.digest()
    moved = tmp_path / "moved"
    moved.mkdir()
    for name in ("table.txt", "images"):
        (tmp_path / name).rename(moved / name)
    assert Mine(table=moved / "table.txt", images=moved / "images", year=1).digest() == before
    assert Mine(table=moved / "table.txt", year=1).digest() != before
    os.utime(moved / "table.txt", ns=(1, 1))
    assert Mine(table=moved / "table.txt", images=moved / "images", year=1).digest() == before
    seen = {before}
    for name in ("table.txt", "images/below/1.png"):
        change_one_byte(moved / name)
        source = Mine(table=moved / "table.txt", images=moved / "images", year=1)
        seen.add(source.digest())
    assert len(seen) == 3


def test_a_path_that_leads_nowhere_is_named(tmp_path):
    with pytest.raises(DataError, match=r"no.txt: cannot be read \(No such file or directory\)"):
        Mine(table=tmp_path / "no.txt", year=1).digest()


def test_only_dataclasses_are_sources(mine):
    class Hidden(Mine):
        """Its own fields would not be seen."""

    assert check_source(mine, "my:Mine") is mine
    with pytest.raises(ConfigError, match="on the class 'my:x' itself, not only on the one that"):
        check_source(Hidden(table=mine.table, year=1), "my:x")
    for made, kind in ((7, "int"), (Mine, "ABCMeta")):
        with pytest.raises(ConfigError, match=f"expected 'my:x' to be a subclass .* got {kind}"):
            check_source(made, "my:x")

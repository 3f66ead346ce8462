from __future__ import annotations

import tomllib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from handloom.stores.errors import HandloomError
from handloom.stores.folder_meta import FrameFacts, noted, origin_of, read_facts, read_layout, write_meta

ROWS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 2), st.integers(0, 2), st.integers(0, 2)), max_size=12)


@settings(max_examples=50, deadline=None)
@given(rows=ROWS)
def test_what_is_written_is_read(
    rows: list[tuple[int, int, int, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("f")
    (folder / "frames.csv").write_text("frame\n")
    frames = np.cumsum([gap + 1 for gap, *_ in rows]).tolist()
    columns = np.array([row[1:] for row in rows]).reshape(len(rows), 3).T
    facts = FrameFacts(columns[0].astype(np.int32), columns[1].astype(np.int32), columns[2].astype(np.uint8))
    write_meta(folder / "meta.toml", {"hand": "left"}, frames, facts, origin="u")
    meta = tomllib.loads((folder / "meta.toml").read_text())
    again = read_facts(meta, frames, where="meta.toml")
    for name in ("subject", "sequence", "split"):
        np.testing.assert_array_equal(getattr(facts, name), getattr(again, name))
    assert noted(meta) == {"hand": "left"}
    if frames:
        (parent,) = origin_of(meta, folder, frames)
        assert (parent["uuid"], parent["frame_ids"]) == ("u", [min(frames), max(frames)])


def test_a_few_lines_by_hand() -> None:
    meta = tomllib.loads(
        '[[frames]]\nfirst = 3\nlast = 900\nsplit = "test"\n[[frames]]\nfirst = 0\nlast = 0\nsubject = 2'
    )
    facts = read_facts(meta, [0, 2, 3, 7], where="meta.toml")
    assert (facts.split.tolist(), facts.subject.tolist()) == ([0, 0, 2, 2], [2, 0, 0, 0])


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("frames = 3", "no list of tables"),
        ("frames = [1]", "no list of tables"),
        ("[[frames]]\nfirst = 1", "'last' is no number of 0 or more"),
        ("[[frames]]\nfirst = true\nlast = 2", "'first' is no number of 0 or more"),
        ("[[frames]]\nfirst = 0\nlast = 2\nsubject = -1", "'subject' is no number of 0 or more"),
        ("[[frames]]\nfirst = 0\nlast = 2\nsequence = 2147483648", "'sequence' is no number of 0 or more"),
        ("[[frames]]\nfirst = 5\nlast = 2", "'first' comes after 'last'"),
        ('[[frames]]\nfirst = 0\nlast = 2\nsplit = "practice"', "'split' is none"),
        ("[[frames]]\nfirst = 0\nlast = 2\nsplit = []", "'split' is none"),
        ("[[frames]]\nfirst = 0\nlast = 2\nsujbect = 1", "Unknown key 'sujbect'"),
        ("[[frames]]\nfirst = 0\nlast = 2\n[[frames]]\nfirst = 2\nlast = 4", "Frame 2 is in two tables"),
    ],
)
def test_what_makes_no_sense_is_refused(text: str, what: str) -> None:
    with pytest.raises(HandloomError, match=what) as caught:
        read_facts(tomllib.loads(text), [0, 1, 2, 3], where="meta.toml")
    assert caught.value.where.startswith("meta.toml")


def test_a_layout_that_nobody_knows(tmp_path: Path) -> None:
    with pytest.raises(HandloomError) as caught:
        read_layout({"layout": "hand99"}, where=str(tmp_path / "meta.toml"))
    assert caught.value.where == f"{tmp_path}/meta.toml, layout"

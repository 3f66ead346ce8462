"""Whatever a file holds, it is read or refused in words, and no header makes a reader take more than the file is worth.

Every parser of `parsers.py` reads a good file, and files damaged in ways that hypothesis draws: words and bytes
exchanged, doubled, dropped, cut off. `tests/fuzz.py` does the same for as long as one likes, led by coverage.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from parsers import PARSERS, Parser, attempt

TESTS = Path(__file__).parent
QUICK = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    phases=(Phase.generate, Phase.shrink),
    suppress_health_check=list(HealthCheck),
)
DEEP = settings(QUICK, max_examples=3000, derandomize=False)
WORDS = (
    "", "0", "-1", "1.5", "nan", "inf", "-inf", "1e400", "1e39", '"x"', "'", "[]", "[[", "{}", "true", "null", "~",
    "\x00", "\ufeff", "../..", "9" * 400, "9" * 20, "4294967295", "4294967296", ",", "=", ":", "\n", "\r", "-", "*a",
    "&a",     "!!binary", "2020-13-45", "<<", "0x", "1_0", "\u0663", "\ud800", "#", "\t", "  ", "e", "0.0.0",
)  # fmt: skip
NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


@st.composite
def damaged(draw: st.DrawFn, good: bytes) -> bytes:
    """A good file after one to four accidents."""
    data = bytearray(good)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        match draw(st.sampled_from(("word", "byte", "number", "drop", "double", "cut", "swap"))):
            case "word":
                # From here to the end of the word; columns and keys are words too.
                end = at
                while end < len(data) and data[end : end + 1] not in (b" ", b",", b"\n", b"=", b":"):
                    end += 1
                data[at:end] = draw(st.sampled_from(WORDS)).encode("utf-8", "surrogatepass")
            case "byte":
                data[at : at + 1] = bytes([draw(st.integers(0, 255))])
            case "number":
                order = "big" if draw(st.booleans()) else "little"
                data[at : at + 4] = draw(st.sampled_from(NUMBERS)).to_bytes(4, order)
            case "drop":
                del data[at : at + draw(st.integers(1, 80))]
            case "double":
                piece = data[at : at + draw(st.integers(1, 80))]
                data[at:at] = piece * draw(st.integers(1, 3))
            case "cut":
                del data[at:]
            case "swap":
                lines = bytes(data).split(b"\n")
                one, two = (draw(st.integers(0, len(lines) - 1)) for _ in range(2))
                lines[one], lines[two] = lines[two], lines[one]
                data = bytearray(b"\n".join(lines))
    return bytes(data)


def look(parser: Parser, folder: Path, how: settings) -> None:
    path = folder / parser.file

    @how
    @given(data=damaged(parser.good()))
    def check(data: bytes) -> None:
        path.write_bytes(parser.mended(data))
        attempt(parser, path)

    check()


@pytest.mark.parametrize("name", PARSERS)
def test_a_good_file_is_read_and_a_damaged_one_read_or_refused(name: str, tmp_path: Path) -> None:
    parser = PARSERS[name]
    (tmp_path / parser.file).write_bytes(parser.mended(parser.good()))
    assert attempt(parser, tmp_path / parser.file), "the good file"
    look(parser, tmp_path, QUICK)


@pytest.mark.slow
@pytest.mark.parametrize("name", PARSERS)
def test_three_thousand_damaged_files_each(name: str, tmp_path: Path) -> None:
    look(PARSERS[name], tmp_path, DEEP)


@pytest.mark.parametrize("name", PARSERS)
def test_things_that_are_no_files(name: str, tmp_path: Path) -> None:
    """A folder, a device without end, a link to itself, nothing at all."""
    parser = PARSERS[name]
    if not parser.alone:
        pytest.skip("read in its place among others; see test_bad_input.py")
    path = tmp_path / parser.file
    assert not attempt(parser, path)
    path.mkdir()
    assert not attempt(parser, path)
    path.rmdir()
    path.symlink_to("/dev/zero")
    assert not attempt(parser, path)
    path.unlink()
    path.symlink_to(path)
    assert not attempt(parser, path)


def test_a_database_whose_own_complaint_is_no_text(tmp_path: Path) -> None:
    """SQLite quotes the damaged name, and Python cannot decode the quotation."""
    parser = PARSERS["RealSense db3"]
    data = parser.good()
    for name in (b"messages", b"topics"):
        path = tmp_path / "a.db3"
        path.write_bytes(data.replace(b"table" + name, b"table" + b"\xba" * len(name)))
        assert path.read_bytes() != data
        assert attempt(parser, path)
        assert parser.read(path) is None


def test_headers_that_promise_more_than_the_file_holds() -> None:
    """In a process that may take 600 MB beside what its imports need: see `header_bombs.py`."""
    pytest.importorskip("resource")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(TESTS.parent / ".dev"), str(TESTS)])}
    done = subprocess.run(
        [sys.executable, str(TESTS / "header_bombs.py")], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert done.stdout.splitlines()[-1].endswith("refused"), done.stdout

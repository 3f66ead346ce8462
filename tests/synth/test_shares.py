"""Shares of one recording made by many machines: whole units, no commits, joined by a resume."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from handloom.cli import main
from handloom.stores.errors import HandloomError
from handloom.stores.recording import Recording, open_recording
from handloom.synth.generate import SynthConfig, make_share, synthesise

from recording_hash import array_hash

CONFIG = SynthConfig(frames=150, unit_frames=32, views=2, crop_px=64, subjects=3, seed=6)
OPTIONS = ("--jobs", 1, *(text for name in ("frames", "unit_frames", "views", "crop_px", "subjects", "seed")
           for text in ("-o", f"{name}={getattr(CONFIG, name)}")))  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    return synthesise(CONFIG, tmp_path_factory.mktemp("shares") / "whole.zarr", jobs=1)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


def test_shares_that_begin_at_once_are_joined_by_a_resume(tmp_path: Path, whole: Recording) -> None:
    out = tmp_path / "s.zarr"
    failed: list[BaseException] = []

    def make(share: range) -> None:
        try:
            make_share(CONFIG, out, share, jobs=1)
        except BaseException as error:
            failed.append(error)

    # Threads of one process: of several only the first may make the recording.
    threads = [threading.Thread(target=make, args=(share,)) for share in (range(64), range(64, 96), range(128, 150))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert [path.name for path in tmp_path.iterdir()] == ["s.zarr"]
    assert open_recording(out).n_frames == 0  # nobody reads what nobody has committed
    before = {path: path.stat().st_mtime_ns for path in out.glob("*/units/*.json")}
    assert len(before) == 3 * 4
    told: list[int] = []
    made = synthesise(CONFIG, out, jobs=1, resume=True, progress=lambda done, total: told.append(done))
    assert told[0] == 150 - 32
    assert all(path.stat().st_mtime_ns == at for path, at in before.items())
    assert array_hash(made) == array_hash(whole)


@pytest.mark.parametrize(
    ("share", "what", "fix"),
    [
        (range(40), "A share must be whole units", "--share 0:64"),
        (range(10, 64), "A share must be whole units", "--share 0:64"),
        (range(128, 149), "A share must be whole units", "--share 128:150"),
        (range(128, 192), "The share lies outside the recording", "--share 128:150"),
        (range(320, 352), "The share lies outside the recording", "a share inside 0:150"),
    ],
)
def test_tasks_that_are_not_whole_units_are_refused(tmp_path: Path, share: range, what: str, fix: str) -> None:
    with pytest.raises(HandloomError) as caught:
        make_share(CONFIG, tmp_path / "s.zarr", share, jobs=1)
    assert (caught.value.what, caught.value.fix) == (what, fix)
    assert list(tmp_path.iterdir()) == []


def test_a_share_is_refused_where_someone_commits_or_another_configuration_was_begun(tmp_path: Path) -> None:
    out = tmp_path / "s.zarr"
    refused: list[str] = []

    def progress(done: int, total: int) -> None:
        with pytest.raises(HandloomError, match="Another process is writing") as caught:
            make_share(CONFIG, out, range(32), jobs=1)
        refused.append(str(caught.value))

    synthesise(CONFIG, out, jobs=1, progress=progress)
    assert refused
    with pytest.raises(HandloomError, match="another configuration"):
        make_share(CONFIG.model_copy(update={"seed": 7}), out, range(32), jobs=1)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("x")
    with pytest.raises(HandloomError, match="is not a recording"):
        make_share(CONFIG, tmp_path / "notes", range(32), jobs=1)
    assert [path.name for path in (tmp_path / "notes").iterdir()] == ["a.txt"]


def test_the_command_says_what_is_there_and_how_to_join_it(tmp_path: Path, whole: Recording) -> None:
    out = tmp_path / "s.zarr"
    for share in ("0:64", "64:150"):
        done = run("synth", "run", "--out", out, *OPTIONS, "--share", share)
        assert done.exit_code == 0, done.output
    assert done.stdout == (
        f"{out}: 3 units of 5 are written, samples 64 to 149\n"
        f"next: handloom synth run --out {out} … --resume, when all shares are there\n"
    )
    joined = run("synth", "run", "--out", out, *OPTIONS, "--resume")
    assert joined.stdout.splitlines()[1] == "  no views were left to make"
    assert array_hash(open_recording(out)) == array_hash(whole)
    assert run("synth", "run", "--out", out, *OPTIONS, "--share", "0:64", "--overwrite").exit_code == 2

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from handloom.cli import main
from handloom.stores.camera import Rig
from handloom.stores.durable import sealed
from handloom.stores.edit import repack
from handloom.stores.errors import HandloomError
from handloom.stores.recording import Recording, create_recording, open_recording
from handloom.stores.table import Appender
from handloom.stores.verify import verify
from handloom.synth.config import SynthConfig
from handloom.synth.generate import synthesise

from recording_faults import rewrite

COUNT = 10


def make(
    path: Path,
    rig: Rig,
    *,
    depth: dict[int, np.ndarray] | None = None,
    joints: np.ndarray | None = None,
    time: np.ndarray | None = None,
) -> Recording:
    """A noisy wall 500 mm away; `depth` replaces images of the first camera."""
    rng = np.random.default_rng(0)
    recording = create_recording(path, kind="captured", rig=rig, hand="right", provenance={"source": "test"})
    number = np.arange(COUNT)
    both = np.repeat((number if time is None else time)[:, None], 2, 1)
    images = {
        f"depth/{c.name}": np.rint(rng.normal(500, 5, (COUNT, c.height, c.width)) / c.depth_unit_mm)
        for c in rig.cameras
    }
    for row, image in (depth or {}).items():
        images["depth/left"][row] = image
    times = dict.fromkeys(("t_device_ns", "t_host_ns", "frame_number"), both)
    ids = {"frame_id": number, "subject": number * 0, "sequence": number // 8, "split": number % 3}
    with Appender(recording.create_frames(depth=True, unit_frames=4)) as appender:
        appender.append({**images, **times, **ids, "present": np.ones((COUNT, 2), np.uint8)})
    if joints is None:
        joints = rng.uniform(-40, 40, (COUNT, 26, 3))
    recording.replace_labels(joints.astype(np.float32), layout="openxr26")
    return open_recording(path)


def codes(path: Path, *, deep: bool = True) -> set[tuple[str, str]]:
    return {(finding.code, finding.where) for finding in verify(path, deep=deep).findings}


@pytest.mark.parametrize("deep", [False, True])
def test_a_sound_recording_is_clean(rig: Rig, tmp_path: Path, deep: bool) -> None:
    make(tmp_path / "r.zarr", rig)
    assert verify(tmp_path / "r.zarr", deep=deep).findings == ()


def test_sixty_flipped_bits_are_all_found_where_they_are(rig: Rig, tmp_path: Path) -> None:
    path = tmp_path / "r.zarr"
    make(path, rig).annotate(note="one")
    files = sorted(file for file in path.rglob("*") if file.is_file() and file.stat().st_size)
    rng = np.random.default_rng(7)
    for draw in range(60):
        # Every file first, whatever its size; then any byte of the whole.
        sizes = np.array([file.stat().st_size for file in files])
        file = files[draw] if draw < len(files) else files[int(rng.choice(len(files), p=sizes / sizes.sum()))]
        data = bytearray(file.read_bytes())
        place, bit = int(rng.integers(len(data))), int(rng.integers(8))
        data[place] ^= 1 << bit
        whole = file.read_bytes()
        file.write_bytes(data)
        found = verify(path, deep=True)
        file.write_bytes(whole)
        array = (
            file.relative_to(path).as_posix() if file.suffix == ".json" else file.parent.relative_to(path).as_posix()
        )
        named = [finding for finding in found.findings if finding.where == array]
        assert not found.clean, (file, place, bit)
        assert named, (file, place, bit)
        if file.suffix != ".json":
            unit = int(file.name.split(".")[1])
            size = open_recording(path).labels.unit_frames if "labels" in array else 4  # type: ignore[union-attr]
            rows = [row for finding in named for row in finding.rows]
            assert rows
            assert all(row // size == unit for row in rows)
    assert verify(path, deep=True).findings == ()


def test_a_lost_file_is_named(rig: Rig, tmp_path: Path) -> None:
    make(tmp_path / "r.zarr", rig)
    (tmp_path / "r.zarr/frames/depth/left/c.1.0.0").unlink()
    found, skipped = verify(tmp_path / "r.zarr").findings
    assert (skipped.code, skipped.rows) == ("skipped", (4, 5, 6, 7))
    assert (found.code, found.where, found.rows) == ("damaged", "frames/depth/left", (4, 5, 6, 7))


def test_a_shape_ahead_of_the_commit_is_a_note(rig: Rig, tmp_path: Path) -> None:
    recording = make(tmp_path / "r.zarr", rig)
    assert recording.frames is not None
    recording.frames.resize(12)
    found = verify(tmp_path / "r.zarr", deep=True)
    assert [finding.code for finding in found.findings] == ["ahead"]
    assert found.clean


def test_times_that_run_backwards(rig: Rig, tmp_path: Path) -> None:
    time = np.arange(COUNT)
    time[3] = 1
    make(tmp_path / "r.zarr", rig, time=time)
    found = [f for f in verify(tmp_path / "r.zarr").findings if f.where == "frames/t_device_ns, left"]
    assert [finding.rows for finding in found] == [(3,)]


def test_frozen_empty_and_failing_cameras(rig: Rig, tmp_path: Path) -> None:
    still = np.random.default_rng(1).integers(450, 550, (48, 64))
    holes = still.copy()
    holes[:24] = 0
    make(tmp_path / "r.zarr", rig, depth={2: still, 3: still, 5: np.zeros((48, 64)), 7: holes})
    found = {f.code: f.rows for f in verify(tmp_path / "r.zarr", deep=True).findings if f.where == "frames/depth/left"}
    assert found == {"frozen": (3,), "empty": (5,), "invalid-share": (7,)}


def test_metres_for_millimetres(rig: Rig, tmp_path: Path) -> None:
    joints = np.random.default_rng(1).uniform(-0.05, 0.05, (COUNT, 26, 3))
    near = dict.fromkeys(range(COUNT), np.ones((48, 64)))
    make(tmp_path / "r.zarr", rig, joints=joints, depth=near)
    assert {("unit", "labels/joints"), ("unit", "frames/depth/left")} <= codes(tmp_path / "r.zarr")


def test_joints_outside_the_image(rig: Rig, tmp_path: Path) -> None:
    joints = np.random.default_rng(1).uniform(-50, 50, (COUNT, 26, 3))
    joints[4] += (2000, 0, 0)
    make(tmp_path / "r.zarr", rig, joints=joints)
    assert [(f.code, f.rows) for f in verify(tmp_path / "r.zarr").findings if f.where.endswith(", left")] == [
        ("outside", (4,))
    ]


def test_a_rig_that_was_changed_and_a_newer_version(rig: Rig, tmp_path: Path) -> None:
    path = tmp_path / "r.zarr"
    make(path, rig)
    values = json.loads((path / "zarr.json").read_text())
    values["attributes"]["rig"]["camera"][0]["K"][0] += 1
    (path / "zarr.json").write_text(json.dumps(sealed(values), indent=2))
    assert ("manifest", "zarr.json") in codes(path)
    values["attributes"]["version"] = 9
    (path / "zarr.json").write_text(json.dumps(sealed(values), indent=2))
    assert ("newer", "zarr.json") in codes(path)


def test_what_is_no_recording(tmp_path: Path) -> None:
    (tmp_path / "r.zarr").mkdir()
    (tmp_path / "f.zarr").write_bytes(b"PK")
    for name in ("none.zarr", "r.zarr", "f.zarr"):
        with pytest.raises(HandloomError, match=r"recording"):
            verify(tmp_path / name)


def test_the_command_says_so_and_ends_with_one(rig: Rig, tmp_path: Path) -> None:
    path = tmp_path / "r.zarr"
    make(path, rig)
    clean = CliRunner().invoke(main, ["store", "verify", str(path), "--deep"])
    assert (clean.exit_code, clean.stdout) == (0, "10 frames, every byte and 20 image rows read: nothing found\n")
    file = path / "frames/depth/left/c.1.0.0"
    data = bytearray(file.read_bytes())
    data[20] ^= 1
    file.write_bytes(data)
    found = CliRunner().invoke(main, ["store", "verify", str(path), "--deep"])
    assert found.exit_code == 1
    assert found.stdout == (
        "error: frames/depth/left: the bytes are missing or do not match their checksum\n"
        "  (row 4)\n"
        "  fix: copy the recording again, whole, or record or synthesise it again\n"
        "note: content: not looked at for these errors: images of the damaged rows (row\n"
        "  4)\n"
        "10 frames, every byte and 20 image rows read: 1 error, 1 note\n"
    )
    assert CliRunner().invoke(main, ["store", "verify", str(tmp_path / "none.zarr")]).exit_code == 2


def test_damage_in_one_place_does_not_hide_what_is_wrong_elsewhere(rig: Rig, tmp_path: Path) -> None:
    """A lost file ended all checks of the content, without a word."""
    path = tmp_path / "r.zarr"
    make(path, rig, depth={2: np.zeros((48, 64))})
    (path / "frames/depth/left/c.1.0.0").unlink()
    assert {("damaged", "frames/depth/left"), ("empty", "frames/depth/left"), ("skipped", "content")} == codes(path)
    (path / "frames/sequence/c.0").unlink()
    assert {("damaged", "frames/sequence"), ("damaged", "frames/depth/left"), ("skipped", "content")} == codes(path)


def test_a_rendered_hand_that_its_arm_hides_is_no_fault_and_many_are(tmp_path: Path) -> None:
    made = synthesise(SynthConfig(frames=64, views=1, crop_px=64, unit_frames=64), tmp_path / "s.zarr", jobs=1)
    for hidden, severity in ((1, "note"), (9, "warning")):
        out = repack(made.path, tmp_path / f"{hidden}.zarr", unit_frames=64)
        rewrite(out.path, "crops/crop", lambda crop, n=hidden: crop.__setitem__(slice(0, n), 0))
        (found,) = [f for f in verify(out.path, deep=True).findings if f.code == "empty"]
        assert (found.severity, found.rows) == (severity, tuple(range(hidden)))

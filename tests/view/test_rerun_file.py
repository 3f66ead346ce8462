"""Rerun files read back with Rerun's own reader: what lies where, how much, in which units."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from handloom.stores.errors import HandloomError
from handloom.stores.joints import layout_named
from handloom.view.rerun_file import write_rerun
from handloom.view.shown import showing

pytest.importorskip("rerun", reason="the extra 'view' is not installed")

Table = dict[str, list[tuple[Any, ...]]]


def read(path: Path) -> dict[str, Table]:
    """By entity and column: (frame, time in s, value) in the frames' order; frame and time None where static."""
    from rerun.chunk import RrdReader

    out: dict[str, Table] = {}
    for chunk in RrdReader(path).stream().to_chunks():
        batch = chunk.to_record_batch()
        columns = {
            name: (batch.column(i).cast("int64") if name == "time" else batch.column(i)).to_pylist()
            for i, name in enumerate(batch.schema.names)
            if name != "log_time"
        }
        nothing = [None] * chunk.num_rows
        frames, times = columns.pop("frame", nothing), columns.pop("time", nothing)
        for name, values in columns.items():
            rows = out.setdefault(chunk.entity_path, {}).setdefault(name, [])
            seconds = [None if time is None else time / 1e9 for time in times]
            rows += [row for row in zip(frames, seconds, values, strict=True) if row[2] is not None]
    for table in out.values():
        for rows in table.values():
            rows.sort(key=lambda row: -1 if row[0] is None else row[0])
    return out


def one(table: Table, column: str, frame: int | None = None) -> Any:
    (found,) = [value for at, _, value in table[column] if at == frame]
    return found


@pytest.fixture
def whole(scene: SimpleNamespace, tmp_path: Path) -> dict[str, Table]:
    scene.write(tmp_path / "r.zarr")
    shown = showing(tmp_path / "r.zarr", poses=scene.poses(tmp_path / "p.csv"))
    made = write_rerun(shown, tmp_path / "r.rrd")
    assert (made.frames, made.images, made.dropped) == (scene.frames, 2 * scene.frames - 1, 1)
    assert made.size_bytes == (tmp_path / "r.rrd").stat().st_size
    return read(tmp_path / "r.rrd")


def test_cameras_stand_where_the_rig_says_in_metres(scene: SimpleNamespace, whole: dict[str, Table]) -> None:
    for camera in scene.rig.cameras:
        place, image = whole[f"/rig/cameras/{camera.name}"], whole[f"/rig/cameras/{camera.name}/image"]
        turn = np.reshape(one(place, "Transform3D:mat3x3")[0], (3, 3)).T  # Rerun's matrices go column by column
        origin = np.array(one(place, "Transform3D:translation")[0])
        point = np.array([30.0, -20.0, 480.0])
        assert turn @ (point / 1000) + origin == pytest.approx(camera.to_rig(point) / 1000, abs=1e-6)
        k = np.reshape(one(image, "Pinhole:image_from_camera")[0], (3, 3)).T
        fx, fy, cx, cy = camera.k
        assert k == pytest.approx(np.array([[fx, 0, cx + 0.5], [0, fy, cy + 0.5], [0, 0, 1]]))
        assert one(image, "Pinhole:resolution")[0] == [camera.width, camera.height]


def test_depth_is_as_stored_and_says_its_unit(scene: SimpleNamespace, whole: dict[str, Table], tmp_path: Path) -> None:
    frames = showing(tmp_path / "r.zarr").recording.frames
    assert frames is not None
    for v, camera in enumerate(scene.rig.cameras):
        table = whole[f"/rig/cameras/{camera.name}/image/depth"]
        seen = [row for row in range(scene.frames) if (row, v) != scene.dropped]
        assert [frame for frame, _, _ in table["DepthImage:buffer"]] == seen
        for row in seen:
            data = np.array(one(table, "DepthImage:buffer", row)[0], np.uint8).view(np.uint16)
            assert (data == frames.read(f"depth/{camera.name}", row, row + 1).ravel()).all()
            steps_per_m = one(table, "DepthImage:meter", row)[0]
            near = data[data > 0].min() / steps_per_m
            assert near == pytest.approx((camera.to_camera(scene.palm(row))[2] - scene.radius_mm) / 1000, abs=2e-3)
        cleared = [] if v == 0 else [scene.dropped[0]]
        assert [frame for frame, _, _ in table.get("Clear:is_recursive", [])] == cleared


def test_points_of_all_cameras_lie_on_one_ball(scene: SimpleNamespace, whole: dict[str, Table]) -> None:
    colours = set()
    for camera in scene.rig.cameras:
        table = whole[f"/rig/points/{camera.name}"]
        for frame, _, points in table["Points3D:positions"]:
            away = np.linalg.norm(np.array(points) - scene.palm(frame) / 1000, axis=1)
            assert len(points) > 200
            assert np.abs(away - scene.radius_mm / 1000).max() < 1e-3
        colours |= {colour for _, _, (colour,) in table["Points3D:colors"]}
    assert len(colours) == 2


def test_skeletons_have_a_bone_an_edge_and_vanish_where_unknown(
    scene: SimpleNamespace, whole: dict[str, Table]
) -> None:
    layout = layout_named("openxr26")
    bones = whole["/rig/labels/bones"]
    known = [row for row in range(scene.frames) if row != scene.unlabelled]
    assert [frame for frame, _, _ in bones["LineStrips3D:strips"]] == known
    assert [frame for frame, _, _ in whole["/rig/labels"]["Clear:is_recursive"]] == [scene.unlabelled]
    for row in known:
        strips = np.array(one(bones, "LineStrips3D:strips", row))
        truth = scene.joints("openxr26", row)
        assert strips == pytest.approx(truth[np.array(layout.edges)] / 1000, abs=1e-6)
        points = np.array(one(whole["/rig/labels/joints"], "Points3D:positions", row))
        near = np.array(one(whole["/rig/predicted/near/joints"], "Points3D:positions", row))
        assert np.linalg.norm(near - points, axis=1) == pytest.approx(0.005, abs=2e-6)
        assert one(whole["/rig/labels/joints"], "Points3D:labels", row) == list(layout.points)
    assert len(set(one(bones, "LineStrips3D:colors", 0))) == 6
    assert len(set(one(whole["/rig/predicted/near/bones"], "LineStrips3D:colors", 0))) == 1
    assert [frame for frame, _, _ in whole["/rig/predicted/side"]["Clear:is_recursive"]] == [scene.dropped[0]]


def test_hand_errors_and_times(scene: SimpleNamespace, whole: dict[str, Table]) -> None:
    cube, center = (whole[f"/rig/cameras/side/hand/{name}"] for name in ("cube", "center"))
    camera = scene.rig.cameras[1]
    assert one(cube, "Boxes3D:half_sizes", 4)[0] == pytest.approx([0.12] * 3)
    assert one(center, "Points3D:positions", 4)[0] == pytest.approx(camera.to_camera(scene.palm(4)) / 1000, abs=1e-6)
    assert one(center, "Points3D:labels", 4) == ["located 0.75"]
    errors = whole["/error_mm/near"]["Scalars:scalars"]
    assert [frame for frame, _, _ in errors] == [row for row in range(scene.frames) if row != scene.unlabelled]
    assert [value for _, _, (value,) in errors] == pytest.approx([5.0] * (scene.frames - 1), abs=2e-3)
    assert [time for _, time, _ in errors] == pytest.approx([0.04 * frame for frame, _, _ in errors])
    assert one(whole["/error_mm/fused"], "SeriesLines:names") == ["fused"]
    assert "**metres**" in one(whole["/about"], "TextDocument:text")[0]


def test_crops_bring_a_pinhole_each(scene: SimpleNamespace, tmp_path: Path) -> None:
    recording = scene.write(tmp_path / "r.zarr", whole=False, layout="nyu36", hand="left", times=False)
    write_rerun(showing(tmp_path / "r.zarr", frames="0:4"), tmp_path / "r.rrd")
    found = read(tmp_path / "r.rrd")
    k = recording.crops.read("k")
    for v, camera in enumerate(scene.rig.cameras):
        table = found[f"/rig/cameras/{camera.name}/image"]
        for frame, time, (values,) in table["Pinhole:image_from_camera"]:
            assert time is None
            assert np.reshape(values, (3, 3))[2, :2] == pytest.approx(k[frame, v, 2:] + 0.5, rel=1e-5)
        assert len(table["Pinhole:image_from_camera"]) == 4 - (v == 1)
    assert len(one(found["/rig/labels/bones"], "LineStrips3D:strips", 0)) == len(layout_named("nyu36").edges)
    assert not any(name.startswith(("/rig/predicted", "/error_mm")) for name in found)
    assert "left hand" in one(found["/about"], "TextDocument:text")[0]


def test_a_recording_without_labels_or_hand(scene: SimpleNamespace, tmp_path: Path) -> None:
    scene.write(tmp_path / "r.zarr", layout=None, crops=False)
    write_rerun(showing(tmp_path / "r.zarr"), tmp_path / "r.rrd")
    found = read(tmp_path / "r.rrd")
    assert not any("labels" in name for name in found)
    assert not any(name.endswith(("/cube", "/center")) for name in found)
    assert len(found["/rig/points/near"]["Points3D:positions"]) == scene.frames


def test_a_file_is_not_overwritten_unasked_and_not_left_half(
    scene: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recording = scene.write(tmp_path / "r.zarr")
    shown = showing(tmp_path / "r.zarr")
    out = tmp_path / "new" / "r.rrd"
    with pytest.raises(HandloomError, match=r"A Rerun file ends in \.rrd"):
        write_rerun(shown, tmp_path / "r.mp4")
    files = (path for path in (recording.path / "frames/depth/near").rglob("*") if path.is_file())
    shard = max(files, key=lambda path: path.stat().st_size)
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 4
    shard.write_bytes(bytes(data))
    with pytest.raises(HandloomError, match="damaged"):
        write_rerun(shown, out)
    assert list(out.parent.iterdir()) == []
    scene.write(tmp_path / "s.zarr")
    write_rerun(showing(tmp_path / "s.zarr"), out)
    with pytest.raises(HandloomError, match="The Rerun file exists already"):
        write_rerun(showing(tmp_path / "s.zarr"), out)
    assert [file.name for file in out.parent.iterdir()] == ["r.rrd"]


def test_a_disk_that_is_full_leaves_no_file(scene: SimpleNamespace, tmp_path: Path) -> None:
    """Rerun only logged that it could not write, and its next flush waited for ever in two of three runs."""
    scene.write(tmp_path / "r.zarr")
    code = (
        "import resource, signal, sys; from pathlib import Path\n"
        "from handloom.view.shown import showing; from handloom.view.rerun_file import write_rerun\n"
        "from handloom.stores.errors import HandloomError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (60000, 60000))\n"
        "try: write_rerun(showing(Path(sys.argv[1])), Path(sys.argv[2]))\n"
        "except HandloomError as error: print(error.exit_code, error.what)\n"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "r.zarr"), str(tmp_path / "r.rrd")],
        capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(root / ".dev")}, check=True, timeout=60,
    )  # fmt: skip
    assert done.stdout == "3 The Rerun file cannot be written\n", done.stderr
    assert sorted(file.name for file in tmp_path.iterdir()) == ["r.zarr"]


def test_the_layout_shows_space_images_and_errors(scene: SimpleNamespace, tmp_path: Path) -> None:
    from rerun.chunk import RrdReader

    scene.write(tmp_path / "r.zarr")
    write_rerun(showing(tmp_path / "r.zarr", poses=scene.poses(tmp_path / "p.csv")), tmp_path / "r.rrd")
    reader = RrdReader(tmp_path / "r.rrd")
    (blueprint,) = reader.blueprints()
    kinds = []
    for chunk in reader.stream(store=blueprint).to_chunks():
        batch = chunk.to_record_batch()
        for i, name in enumerate(batch.schema.names):
            if name.endswith("class_identifier"):
                kinds += [value[0] for value in batch.column(i).to_pylist()]
    assert sorted(kinds) == ["2D", "2D", "3D", "TextDocument", "TimeSeries"], json.dumps(kinds)

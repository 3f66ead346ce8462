"""Every fault that `store verify` promises to find, made in recordings of every kind; and no alarm without one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from handloom.capture.importing import import_folder
from handloom.capture.locating import locate
from handloom.capture.record import record
from handloom.capture.virtual import VirtualConfig, VirtualRig
from handloom.stores.columns import Column, create_array
from handloom.stores.durable import seal_file, sealed
from handloom.stores.edit import repack
from handloom.stores.errors import HandloomError
from handloom.stores.export import export
from handloom.stores.recording import open_recording
from handloom.stores.verify import verify
from handloom.synth.config import SynthConfig
from handloom.synth.generate import synthesise
from handloom.synth.twin import make_twins
from handloom.synth.twin_units import TwinSettings

from recording_faults import copy, flip, redescribe, rewrite, tables

KINDS = ("captured", "imported", "synthetic", "twins")
WITH_DEPTH = ("captured", "imported")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A capture with dropped images and two sequences, the same through a plain folder, its twins, a synthesis."""
    folder = tmp_path_factory.mktemp("made")
    paths = {kind: folder / f"{kind}.zarr" for kind in KINDS}
    config = VirtualConfig(frames=20, sequence_frames=10, scene=False, drop=0.05, transport="direct", jobs=1, seed=5)
    with VirtualRig(config) as source:
        record(source, paths["captured"], keep_truth=True)
    locate(paths["captured"])
    export(paths["captured"], folder / "plain")
    import_folder(folder / "plain", paths["imported"])
    locate(paths["imported"])
    synthesise(SynthConfig(frames=20, seed=2, crop_px=96), paths["synthetic"], jobs=1)
    make_twins(paths["captured"], paths["twins"], settings=TwinSettings(seed=0))
    return paths


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def path(made: dict[str, Path], kind: str, tmp_path: Path) -> Path:
    return copy(made[kind], tmp_path / "r.zarr")


def found(path: Path, code: str, where: str = "", *, real: Path | None = None) -> tuple[int, ...]:
    """The rows of the one finding of this code there; and that nothing was found elsewhere of that name."""
    result = verify(path, deep=True, real=real)
    mine = [f for f in result.findings if f.code == code and f.where.startswith(where)]
    assert mine, result.findings
    assert len({f.rows for f in mine}) == 1, mine
    return mine[0].rows


def seen(path: Path, count: int = 2) -> list[int]:
    """Neighbouring rows of one sequence in which every camera gave an image, the hand found in all."""
    recording = open_recording(path)
    assert recording.frames is not None
    whole = recording.frames.read("present").all(1)
    if recording.crops is not None:
        whole &= (recording.crops.read("center_source") > 0).all(1)
    sequence = recording.frames.read("sequence")
    for row in range(2, len(whole) - count):
        rows = list(range(row, row + count))
        if whole[rows].all() and (recording.kind == "synthetic" or len(set(sequence[rows].tolist())) == 1):
            return rows
    raise AssertionError("no such rows")


@pytest.mark.parametrize("deep", [False, True])
def test_no_false_alarm(made: dict[str, Path], kind: str, deep: bool) -> None:
    real = made["captured"] if kind == "twins" else None
    assert verify(made[kind], deep=deep, real=real).findings == ()


def test_sixty_flipped_bits_over_all_arrays_and_kinds(path: Path, kind: str) -> None:
    rng = np.random.default_rng(KINDS.index(kind))
    for _ in range(60 // len(KINDS)):
        hurt, before = flip(path, rng)
        findings = [f for f in verify(path, deep=True).findings if f.code == "damaged"]
        assert [(f.where, set(f.rows)) for f in findings] == [(hurt.array, hurt.rows)]
        hurt.undo(before)
    assert verify(path, deep=True).findings == ()


@pytest.mark.slow
def test_sixty_flipped_bits_of_each_kind(path: Path, kind: str) -> None:
    rng = np.random.default_rng(100 + KINDS.index(kind))
    for _ in range(60):
        hurt, before = flip(path, rng)
        findings = [f for f in verify(path, deep=True).findings if f.code == "damaged"]
        assert [(f.where, set(f.rows)) for f in findings] == [(hurt.array, hurt.rows)]
        hurt.undo(before)


def test_a_missing_chunk_of_any_array(path: Path) -> None:
    for name, table in tables(path).items():
        for column_name, column in table.columns.items():
            file = table.path / column.unit_key(0)
            whole = file.read_bytes()
            file.unlink()
            last = min(table.unit_frames, table.committed)
            assert found(path, "damaged", f"{name}/{column_name}") == tuple(range(last))
            file.write_bytes(whole)


def test_a_shape_ahead_of_the_commit(path: Path) -> None:
    for table in tables(path).values():
        table.resize(table.committed + 3)
    result = verify(path, deep=True)
    assert [(f.severity, f.code) for f in result.findings] == [("note", "ahead")] * len(tables(path))


def test_tables_of_different_lengths(path: Path) -> None:
    rows = tables(path)["crops"].committed
    redescribe(path, lambda said: said.update(rows=rows - 2), file="crops/committed.json")
    (finding,) = [f for f in verify(path, deep=True).findings if f.code == "count"]
    assert finding.what == f"{rows - 2} rows for {rows} frames"


def test_an_array_of_fewer_rows_than_its_table(path: Path) -> None:
    file = path / "crops/center/zarr.json"
    values = json.loads(file.read_text())
    values["shape"][0] -= 1
    file.write_text(json.dumps(sealed(values), indent=2))
    (finding,) = [f for f in verify(path, deep=True).findings if f.code == "shape"]
    assert (finding.severity, finding.where) == ("error", "crops/center")
    with pytest.raises(HandloomError, match="'center' is not what its table says"):
        open_recording(path)


def test_frame_ids_that_repeat(path: Path) -> None:
    rewrite(path, "frames/frame_id", lambda ids: ids.__setitem__(4, ids[1]))
    assert found(path, "frame-id", "frames/frame_id") == (4,)


def test_times_that_do_not_ascend(path: Path, kind: str) -> None:
    if kind not in WITH_DEPTH:
        pytest.skip("rendered frames that follow nothing have no times")
    first, second = seen(path)
    camera = open_recording(path).rig.names[1]
    for array in ("t_device_ns", "t_host_ns", "frame_number"):
        whole = copy(path, path.parent / array)
        rewrite(whole, f"frames/{array}", lambda values: values.__setitem__((second, 1), values[first, 1] - 1))
        assert second in found(whole, "time", f"frames/{array}, {camera}")


def test_a_set_of_images_that_repeats(path: Path, kind: str) -> None:
    first, second = seen(path)
    if kind in WITH_DEPTH:
        for name in open_recording(path).rig.names:
            rewrite(path, f"frames/depth/{name}", lambda depth: depth.__setitem__(second, depth[first]))
        assert found(path, "duplicate", "frames/depth") == (second,)
    else:
        rewrite(path, "crops/crop", lambda crop: crop.__setitem__(second, crop[first]))
        assert found(path, "duplicate", "crops/crop") == (second,)


def test_a_frozen_camera_is_one_line(path: Path, kind: str) -> None:
    if kind not in WITH_DEPTH:
        pytest.skip("rendered frames that follow nothing cannot stand still")
    first, *later = seen(path, 3)
    name = open_recording(path).rig.names[2]
    rewrite(path, f"frames/depth/{name}", lambda depth: depth.__setitem__(later, depth[first]))
    assert found(path, "frozen", f"frames/depth/{name}") == tuple(later)
    said = " ".join(verify(path, deep=True).lines())
    assert f"stands still while other cameras move (2 rows: {later[0]}-{later[1]})" in " ".join(said.split())


def test_a_view_without_a_return(path: Path, kind: str) -> None:
    row = seen(path)[0]
    name = open_recording(path).rig.names[1]
    if kind in WITH_DEPTH:
        rewrite(path, f"frames/depth/{name}", lambda depth: depth.__setitem__(row, 0))
        assert found(path, "empty", f"frames/depth/{name}") == (row,)
    rewrite(path, "crops/crop", lambda crop: crop.__setitem__((row, 1), 0))
    assert found(path, "empty", f"crops/crop, {name}") == (row,)


def test_a_jump_of_the_share_without_return(path: Path, kind: str) -> None:
    if kind not in WITH_DEPTH:
        pytest.skip("rendered frames that follow nothing do not jump")
    row = seen(path, 3)[1]
    name = open_recording(path).rig.names[0]
    # The virtual rig sees nothing but the hand: a wall that is there in one image only.
    rewrite(path, f"frames/depth/{name}", lambda depth: np.putmask(depth[row], depth[row] == 0, 900))
    assert set(found(path, "invalid-share", f"frames/depth/{name}")) == {row, row + 1}


def test_a_dropped_image_that_is_there(path: Path, kind: str) -> None:
    if kind not in WITH_DEPTH:
        pytest.skip("only cameras drop images")
    recording = open_recording(path)
    assert recording.frames is not None
    row, view = np.argwhere(recording.frames.read("present") == 0)[0].tolist()
    name = recording.rig.names[view]
    rewrite(path, f"frames/depth/{name}", lambda depth: depth.__setitem__(row, 700))
    assert found(path, "dropped", f"frames/depth/{name}") == (row,)
    rewrite(path, "frames/frame_number", lambda number: number.__setitem__((row, view), 5))
    assert found(path, "dropped", f"frames/frame_number, {name}") == (row,)


def test_metres_for_millimetres(path: Path, kind: str) -> None:
    joints, depth, rig = (copy(path, path.parent / name) for name in ("joints", "depth", "rig"))
    rewrite(joints, "labels/joints", lambda values: np.divide(values, 1000, out=values))
    rows = tables(path)["labels"].committed
    assert found(joints, "unit", "labels/joints") == tuple(range(rows))

    def unit(said: dict[str, Any]) -> None:
        for camera in said["rig"]["camera"]:
            camera["depth_unit_mm"] *= 0.001

    redescribe(depth, unit)
    found(depth, "unit", "frames/depth/" if kind in WITH_DEPTH else "crops/crop")
    found(depth, "unit", "crops/crop")

    def places(said: dict[str, Any]) -> None:
        for camera in said["rig"]["camera"]:
            camera["t"] = [x / 1000 for x in camera["t"]]

    redescribe(rig, places)
    assert found(rig, "unit", "zarr.json, rig") == ()


def test_joints_outside_the_image_and_far_from_the_surface(path: Path) -> None:
    away, far = copy(path, path.parent / "away"), copy(path, path.parent / "far")
    row = seen(path)[0]
    for name in ("labels/joints", "labels/visible"):
        rewrite(
            away, name, lambda values: values.__setitem__(row, 5000 if values.ndim == 3 and values.dtype == "f4" else 1)
        )
    assert found(away, "outside", "labels/joints") == (row,)
    camera = open_recording(path).rig.cameras[0]
    # 150 mm further along the first camera's axis: it stays inside the images.
    step = (150 * camera.rotation[2]).astype(np.float32)
    rewrite(far, "labels/joints", lambda joints: joints.__setitem__(slice(None), joints + step))
    assert row in found(far, "far", "labels/joints")


def test_centres_and_ks_that_do_not_belong_together(path: Path) -> None:
    row = seen(path)[0]
    name = open_recording(path).rig.names[1]
    rewrite(path, "crops/k", lambda k: k.__setitem__((row, 1, 2), k[row, 1, 2] + 3))
    assert found(path, "center", f"crops/k, {name}") == (row,)


def camera_of(change: Callable[[dict[str, Any]], Any]) -> Callable[[dict[str, Any]], Any]:
    return lambda said: change(said["rig"]["camera"][1])


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (camera_of(lambda c: c.update(R=[[1.0, 0, 0], [0, 2.0, 0], [0, 0, 1.0]])), "R is not a rotation"),
        (camera_of(lambda c: c.update(R=[[1.0, 0, 0], [0, 1.0, 0], [0, 0, -1.0]])), "R is a reflection"),
        (camera_of(lambda c: c.update(K=[0.0, 1.0, 1.0, 1.0])), "intrinsics are not usable"),
        (lambda said: said["rig"]["camera"][1].update(name=said["rig"]["camera"][0]["name"]), "Two cameras of the rig"),
        (camera_of(lambda c: c.update(dist_model="fisheye")), "Unknown distortion model"),
    ],
)
def test_a_rig_that_cannot_be(path: Path, change: Callable[[dict[str, Any]], Any], what: str) -> None:
    redescribe(path, change)
    (finding,) = [f for f in verify(path, deep=True).findings if f.code == "unreadable"]
    assert what in finding.what
    with pytest.raises(HandloomError, match=what):
        open_recording(path)


def test_a_rig_that_no_longer_matches_the_manifest(path: Path) -> None:
    redescribe(path, camera_of(lambda c: c.update(K=[*c["K"][:2], c["K"][2] + 1, c["K"][3]])), kept=False)
    result = verify(path, deep=True)
    assert [f.code for f in result.findings] == ["manifest", "skipped"]
    with pytest.raises(HandloomError, match="changed after it was written"):
        open_recording(path)


def test_columns_and_folders_that_nobody_knows(path: Path) -> None:
    table = tables(path)["labels"]
    column = Column("mood", (), "f4")
    create_array(zarr.open_group(path / "labels", mode="r+"), column, table.unit_frames)
    seal_file(path / "labels/mood/zarr.json")
    (finding,) = verify(path, deep=True).findings
    assert (finding.severity, finding.code, finding.where) == ("note", "leftover", "labels/mood")
    values = json.loads((path / "labels/zarr.json").read_text())["attributes"]
    entry = {**values["columns"][0], "name": "mood", "shape": [], "dtype": "f4"}
    redescribe(path, lambda said: said["columns"].append(entry), file="labels/zarr.json")
    codes = {f.code: f for f in verify(path, deep=True).findings}
    assert codes["unknown"].where == "labels/mood"
    assert codes["unknown"].severity == "warning"


def test_twins_that_point_nowhere(made: dict[str, Path], tmp_path: Path) -> None:
    real, path = made["captured"], copy(made["twins"], tmp_path / "t.zarr")
    assert verify(path, deep=True, real=repack(real, tmp_path / "again.zarr").path).findings == ()
    assert verify(path, deep=True, real=made["imported"]).findings == (), "the same frames, by way of a plain folder"
    rewrite(path, "labels/twin", lambda twin: twin.__setitem__(3, 999))
    assert found(path, "twin", "labels/twin", real=real) == (3,)
    assert found(path, "twin", "zarr.json", real=made["synthetic"]) == ()
    redescribe(path, lambda said: said["attributes"].update(twins_of=said["uuid"]))
    assert found(path, "twin", "zarr.json") == ()


def test_each_finding_fits_eighty_columns(path: Path) -> None:
    shutil.rmtree(path / "crops/center")
    redescribe(path, lambda said: said.update(hand="left"), kept=False)
    lines = verify(path).lines()
    assert len(lines) > 3
    assert max(map(len, lines)) <= 80

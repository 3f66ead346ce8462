"""What is shown of a recording: rows, images with their K, times, errors."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from handloom.stores.camera import depth_to_points, project
from handloom.stores.errors import HandloomError
from handloom.view import shown as shown_module
from handloom.view.shown import all_errors_mm, moments, showing


@pytest.mark.parametrize("whole", [True, False])
def test_every_image_s_points_lie_on_the_ball(scene: SimpleNamespace, tmp_path: Path, whole: bool) -> None:
    scene.write(tmp_path / "r.zarr")
    found = list(moments(showing(tmp_path / "r.zarr", whole=whole)))
    assert [moment.row for moment in found] == list(range(scene.frames))
    assert [moment.frame_id for moment in found] == [100 + row for row in range(scene.frames)]
    for moment in found:
        for v, view in enumerate(moment.views):
            assert moment.dropped[v] == ((moment.row, v) == scene.dropped)
            if moment.dropped[v]:
                assert view is None
                continue
            assert view is not None
            assert view.depth.shape == ((view.camera.height, view.camera.width) if whole else (48, 48))
            points = view.camera.to_rig(depth_to_points(view.depth * view.camera.depth_unit_mm, view.k))
            away = np.linalg.norm(points - scene.palm(moment.row), axis=1)
            # A crop's pixels are the nearest ones of the image, half of one of its own off: 2.8 mm at 500 mm.
            assert (
                np.abs(away - scene.radius_mm).max() < 1.0 if whole else np.median(np.abs(away - scene.radius_mm)) < 2
            )
            assert view.camera.to_rig(view.center_mm) == pytest.approx(scene.palm(moment.row), abs=1e-3)
            assert (view.center_source, view.center_score) == ("located", 0.75)


def test_reduced_images_keep_their_geometry(scene: SimpleNamespace, tmp_path: Path) -> None:
    scene.write(tmp_path / "r.zarr")
    moment = next(moments(showing(tmp_path / "r.zarr")))
    view = moment.views[1]
    assert view is not None
    small = view.reduced(48)
    assert small.depth.shape == (36, 48)
    points = view.camera.to_rig(depth_to_points(small.depth * 0.25, small.k))
    away = np.linalg.norm(points - scene.palm(0), axis=1)
    assert np.median(np.abs(away - scene.radius_mm)) < 2
    # The image's corner stays its corner: half a pixel before the first centre.
    corner = (np.array([-0.5, -0.5]) - view.k[2:]) / view.k[:2]
    assert project([*corner, 1.0], small.k) == pytest.approx([-0.5, -0.5], abs=1e-9)
    assert view.reduced(96) is view


def test_rows_are_chosen(scene: SimpleNamespace, tmp_path: Path) -> None:
    path = tmp_path / "r.zarr"
    scene.write(path)
    assert showing(path, frames="1:5", every=2).rows.tolist() == [1, 3]
    assert showing(path, frames="4:").rows.tolist() == [4, 5]
    assert showing(path, frames=":99").asked == scene.frames
    for wrong in ("9:12", "3:3", "5:2"):
        with pytest.raises(HandloomError, match="There is no such frame"):
            showing(path, frames=wrong)
    for wrong in ("3", "a:b", ":", "-1:3"):
        with pytest.raises(HandloomError, match="--frames takes rows A:B"):
            showing(path, frames=wrong)


def test_times_count_from_the_first_frame_shown(scene: SimpleNamespace, tmp_path: Path) -> None:
    scene.write(tmp_path / "r.zarr")
    scene.write(tmp_path / "untimed.zarr", times=False)
    times = [moment.time_s for moment in moments(showing(tmp_path / "r.zarr", frames="2:5"))]
    assert times == pytest.approx([0.0, 0.04, 0.08])
    assert [moment.time_s for moment in moments(showing(tmp_path / "untimed.zarr"))] == [None] * scene.frames


def test_a_few_frames_are_read_at_a_time(
    scene: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.write(tmp_path / "r.zarr")
    at_once = list(moments(showing(tmp_path / "r.zarr")))
    sizes = []
    read = shown_module._read
    monkeypatch.setattr(shown_module, "READ_BYTES", 50_000)
    monkeypatch.setattr(shown_module, "_read", lambda shown, rows: sizes.append(len(rows)) or read(shown, rows))
    singly = list(moments(showing(tmp_path / "r.zarr")))
    assert sizes == [2, 2, 2]
    for one, other in zip(at_once, singly, strict=True):
        assert one.time_s == other.time_s
        for a, b in zip(one.views, other.views, strict=True):
            assert (a is None) == (b is None)
            assert a is None or b is None or (a.depth == b.depth).all()


def test_errors_are_the_distances_put_in(scene: SimpleNamespace, tmp_path: Path) -> None:
    scene.write(tmp_path / "r.zarr")
    found = showing(tmp_path / "r.zarr", poses=scene.poses(tmp_path / "p.csv", off_mm=5.0))
    for moment in moments(found):
        errors = found.errors_mm(moment.truth_mm, moment.predicted_mm)
        if moment.row == scene.unlabelled:
            assert moment.truth_mm is None
            assert errors == {}
            continue
        side = {} if moment.row == scene.dropped[0] else {"side": 10.0}
        assert errors == pytest.approx({"near": 5.0, "rig": 2.5} | side, abs=2e-3)
    curves = all_errors_mm(found, found.rows.tolist())
    assert list(curves) == ["near", "side", "rig"]
    assert np.flatnonzero(np.isnan(curves["side"])).tolist() == [scene.dropped[0], scene.unlabelled]
    assert np.nanmax(np.abs(curves["near"] - 5)) < 2e-3


def test_canonical_poses_are_measured_against_other_labels_and_others_are_not(
    scene: SimpleNamespace, tmp_path: Path
) -> None:
    path = tmp_path / "r.zarr"
    scene.write(path, layout="nyu36")
    found = showing(path, poses=scene.poses(tmp_path / "p.csv"))
    assert found.comparable
    errors = all_errors_mm(found, found.rows.tolist())
    assert np.isfinite(errors["near"]).sum() == scene.frames - 1
    icvl = showing(path, poses=scene.poses(tmp_path / "q.csv", layout="icvl16"))
    assert not icvl.comparable
    assert all_errors_mm(icvl, icvl.rows.tolist()) == {}


def test_what_cannot_be_shown_is_said(scene: SimpleNamespace, tmp_path: Path) -> None:
    scene.write(tmp_path / "crops.zarr", whole=False)
    scene.write(tmp_path / "whole.zarr", crops=False)
    other = scene.poses(tmp_path / "p.csv")
    other.write_text(other.read_text().replace("\n10", "\n50"))
    with pytest.raises(HandloomError, match="keeps no whole images"):
        showing(tmp_path / "crops.zarr", whole=True)
    with pytest.raises(HandloomError, match="no crops yet") as raised:
        showing(tmp_path / "whole.zarr", whole=False)
    assert raised.value.fix == f"handloom capture locate {tmp_path / 'whole.zarr'}"
    with pytest.raises(HandloomError, match="None of these poses belongs to a frame that is shown"):
        showing(tmp_path / "whole.zarr", poses=other)
    assert not showing(tmp_path / "crops.zarr").whole
    assert showing(tmp_path / "whole.zarr").whole
    assert next(moments(showing(tmp_path / "whole.zarr"))).views[0].center_mm is None  # type: ignore[union-attr]

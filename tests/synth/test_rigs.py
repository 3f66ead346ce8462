"""Made rigs look at the volume from where they say; rigs that cannot be drawn are refused by name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from handloom.stores.camera import Camera, Rig, project, write_rig
from handloom.stores.errors import HandloomError
from handloom.synth.config import SynthConfig
from handloom.synth.rigs import check_volume, dome_rig, line_rig, ring_rig, volume_share

MADE = {
    "ring": ring_rig(5),
    "full ring": ring_rig(6, spread_deg=360),
    "line": line_rig(4),
    "high line": line_rig(3, elevation_deg=35),
    "dome": dome_rig(7, spread_deg=120),
    "hemisphere": dome_rig(24, spread_deg=180, elevation_deg=30),
    "sphere": dome_rig(40, spread_deg=360),
}


def positions(rig: Rig) -> np.ndarray:
    return np.array([camera.to_rig(np.zeros(3)) for camera in rig.cameras])


@pytest.mark.parametrize("name", MADE)
def test_cameras_look_at_the_origin_upright_from_their_distance(name: str) -> None:
    rig = MADE[name]
    for camera in rig.cameras:
        middle = (camera.width - 1) / 2, (camera.height - 1) / 2
        assert project(camera.to_camera(np.zeros(3)), camera.k) == pytest.approx(middle, abs=1e-6)
        down = project(camera.to_camera(np.array([0.0, 20.0, 0.0])), camera.k) - middle
        assert abs(down[0]) < 1e-6  # what hangs straight down does so in the image
        assert down[1] > 0.3
    away = np.linalg.norm(positions(rig), axis=1)
    if "line" in name:
        assert away.min() >= 500 - 1e-6
    else:
        assert away == pytest.approx(500, abs=1e-6)
    assert len({tuple(np.round(p, 3)) for p in positions(rig)}) == len(rig)


@pytest.mark.parametrize("name", MADE)
def test_the_volume_lies_inside_the_images(name: str) -> None:
    assert min(volume_share(MADE[name], 100.0)) > 0.99


@pytest.mark.parametrize("views", [2, 3, 6])
def test_a_bar_is_straight_even_and_as_wide_as_it_says(views: int) -> None:
    places = positions(line_rig(views, distance_mm=600, spread_deg=60, elevation_deg=20))
    assert np.linalg.matrix_rank(places - places[0], tol=1e-6) == 1
    assert np.diff(np.sort(places[:, 0])) == pytest.approx(2 * 600 * np.tan(np.radians(30)) / (views - 1))
    assert np.linalg.norm(places.mean(0)) == pytest.approx(600)
    assert (places[:, 1] < 0).all()  # above: y points down
    ends = places[np.abs(places[:, 0]).argsort()[-2:]]
    # As the volume sees them, at the bar's own height.
    assert np.degrees(2 * np.arctan(np.abs(ends[:, 0]) / 600)) == pytest.approx(60)


def test_parallel_cameras_on_a_bar_look_the_same_way() -> None:
    rig = line_rig(3, spread_deg=30, toe_in=False, elevation_deg=15)
    axes = np.array([camera.rotation[2] for camera in rig.cameras])
    assert np.abs(axes - axes[0]).max() < 1e-12
    assert axes[0] @ positions(rig)[0] == pytest.approx(-500)
    with pytest.raises(HandloomError, match="Camera 'cam0' does not see the volume"):
        SynthConfig(cameras="line", toe_in=False, spread_deg=100, views=2).make_rig()


@pytest.mark.parametrize("opening", [60.0, 180.0, 360.0])
def test_a_dome_covers_its_cap_evenly_and_no_camera_stands_straight_above(opening: float) -> None:
    places = positions(dome_rig(30, spread_deg=opening)) / 500
    assert places[0] == pytest.approx([0, 0, -1])
    assert np.degrees(np.arccos((-places[:, 2]).clip(-1, 1))).max() == pytest.approx(opening / 2, abs=1e-3)
    assert np.degrees(np.arccos(np.abs(places[:, 1]).max())) > 4
    # Of 30 points on a cap of solid angle A the nearest neighbours lie about √(A / 30) apart.
    gap = np.linalg.norm(places[:, None] - places[None], axis=-1) + 9 * np.eye(30)
    solid = 2 * np.pi * (1 - np.cos(np.radians(opening / 2)))
    assert gap.min() > 0.5 * np.sqrt(solid / 30)


def test_a_bar_cannot_spread_around_the_hand() -> None:
    with pytest.raises(HandloomError, match="cannot spread so far"):
        line_rig(3, spread_deg=180)


def test_share_of_the_volume() -> None:
    camera = ring_rig(1).cameras[0]
    turned = replace(camera, name="turned", r=((-1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, -1.0)))
    # A principal point on the image's edge leaves half of the ball.
    half = replace(camera, name="half", k=(241.0, 241.0, -0.5, 119.5))
    behind = replace(camera, name="behind", t=(0.0, 0.0, -500.0))
    shares = volume_share(Rig((camera, turned, half, behind)), 100.0)
    assert shares[0] == 1.0
    assert shares[1] == 1.0  # it stands on the other side and looks back
    assert shares[2] == pytest.approx(0.5, abs=0.06)
    assert shares[3] == 0.0


def test_a_rig_whose_origin_is_elsewhere_is_refused(tmp_path: Path) -> None:
    off = Camera("left", 320, 240, (241.0, 241.0, 159.5, 119.5), t=(900.0, 0.0, 500.0))
    path = tmp_path / "rig.toml"
    write_rig(Rig((off, replace(off, name="right", t=(-700.0, 0.0, 500.0)))), path)
    with pytest.raises(HandloomError, match="No camera sees the volume") as caught:
        SynthConfig(rig=path).make_rig()
    assert str(path) in str(caught.value)
    assert "sees 0% of a ball of 100 mm about the rig's origin" in str(caught.value)
    check_volume(ring_rig(2), 100.0, where="here")


def test_a_camera_with_lens_distortion_is_refused_by_name(tmp_path: Path) -> None:
    good = ring_rig(2).cameras
    bent = replace(good[1], name="wide", dist_model="brown-conrady", dist=(0.1, -0.02, 0.0, 0.0, 0.0))
    path = tmp_path / "rig.toml"
    write_rig(Rig((good[0], bent)), path)
    with pytest.raises(HandloomError, match="Camera 'wide' has lens distortion") as caught:
        SynthConfig(rig=path).make_rig()
    assert "pinhole" in str(caught.value)
    flat = replace(bent, dist=(0.0,) * 5)
    write_rig(Rig((good[0], flat)), path)
    assert SynthConfig(rig=path).make_rig().names == ("cam0", "wide")


def test_steps_of_depth_that_end_before_the_hands_are_refused(tmp_path: Path) -> None:
    """`depth_unit_mm=0.001` (metres taken for a scale) made a recording of nothing but zeros."""
    with pytest.raises(HandloomError, match="Camera 'cam0' cannot store the depth of the volume") as caught:
        SynthConfig(depth_unit_mm=0.001).make_rig()
    assert "65535 steps of depth_unit_mm = 0.001 reach to 66 mm, hands to 750 mm" in str(caught.value)
    path = tmp_path / "rig.toml"
    # Half of the hands would be there.
    write_rig(ring_rig(2, depth_unit_mm=0.009), path)
    with pytest.raises(HandloomError, match="cannot store the depth") as caught:
        SynthConfig(rig=path).make_rig()
    assert str(path) in str(caught.value)
    SynthConfig(depth_unit_mm=0.012).make_rig()


def test_a_rig_is_found_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker of a cluster stands in another folder than the command was given in."""
    write_rig(ring_rig(2), tmp_path / "rig.toml")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    config = SynthConfig(rig=Path("rig.toml"), hand_mapping=Path("names.yaml"))
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert config.make_rig() == ring_rig(2)
    assert config.hand_mapping == tmp_path / "names.yaml"

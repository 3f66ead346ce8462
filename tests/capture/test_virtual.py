from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from handloom.capture.calibrate import calibrate
from handloom.capture.record import record
from handloom.capture.targets import SphereTarget
from handloom.capture.virtual import KEPT_SEQUENCES, Motion, VirtualConfig, VirtualRig
from handloom.stores.camera import Rig, project
from handloom.stores.errors import HandloomError
from handloom.stores.joints import OPENXR26
from handloom.stores.recording import open_recording
from handloom.synth.props import SIDES, tube
from handloom.synth.rigs import ring_rig
from handloom.synth.room import axes_of, room
from handloom.synth.sensor import ActiveStereo, Sensor, TimeOfFlight, describe

from ball_scenes import errors

RIG = ring_rig(2, width=96, height=72, focal_px=72.0)
QUIET = VirtualConfig(frames=10, sequence_frames=5, transport="direct", jobs=1, seed=7)


def images(config: VirtualConfig, rig: Rig = RIG) -> dict[tuple[int, int], np.ndarray]:
    with VirtualRig(config, rig=rig) as source:
        return {(image.frame_number, image.camera): image.depth for image in source.frames()}


def test_images_depend_on_the_seed_and_on_nothing_else() -> None:
    once = images(QUIET)
    again = images(QUIET.model_copy(update={"jobs": 3}))
    other = images(QUIET.model_copy(update={"seed": 8}))
    assert set(once) == {(k, v) for k in range(1, 11) for v in range(2)}
    assert all((once[key] == again[key]).all() for key in once)
    assert all((once[key] != other[key]).any() for key in once)


def test_sets_that_are_lost_leave_the_others_as_they_are() -> None:
    full, gappy = images(QUIET), images(QUIET.model_copy(update={"drop": 0.3}))
    assert 0 < len(gappy) < len(full)
    assert all((gappy[key] == full[key]).all() for key in gappy)


@pytest.mark.parametrize("hand", ["right", "left"])
def test_the_truth_lies_inside_the_hand_that_is_seen(hand: str) -> None:
    config = QUIET.model_copy(update={"hand": hand, "sensor": None})
    with VirtualRig(config, rig=RIG) as source:
        inside = []
        for image in source.frames():
            camera = RIG.cameras[image.camera]
            joints = camera.to_camera(source.moment(image.camera, image.frame_number).labels["joints"])
            u, v = np.rint(project(joints, camera.k)).astype(int).T
            surface = image.depth[v.clip(0, 71), u.clip(0, 95)] * camera.depth_unit_mm
            # Behind the skin that is seen, at most as deep as another finger before it and a hand are thick.
            inside += list((joints[:, 2] - surface > -6) & (joints[:, 2] - surface < 160))
    assert np.mean(inside) > 0.9


def test_left_and_right_hands_show_the_palm_to_the_front_with_the_thumb_inward() -> None:
    side = {}
    for hand in ("right", "left"):
        config = QUIET.model_copy(update={"hand": hand, "motion": Motion(spread_deg=0.0)})
        with VirtualRig(config, rig=RIG) as source:
            assert source.hand == hand
            joints = source.moment(0, 1).labels["joints"]
        thumb, little = (joints[OPENXR26.index(f"{name}_proximal")] for name in ("thumb", "little"))
        side[hand] = float((thumb - little) @ axes_of(RIG).right)
    # A person's right palm, held up to us, has its thumb on our right ... of their body's middle.
    assert side["right"] > 20
    assert side["left"] < -20


def test_sequences_take_turns_between_subjects_and_splits() -> None:
    config = VirtualConfig(frames=60, sequence_frames=10, subjects=2, val_share=0.2, test_share=0.3, transport="direct")
    with VirtualRig(config, rig=RIG) as source:
        moments = [source.moment(0, k) for k in range(1, 61)]
        shapes = {m.subject: m.labels["shape"].tobytes() for m in moments}
    assert [m.sequence for m in moments[::10]] == [0, 1, 2, 3, 4, 5]
    assert [m.subject for m in moments[::10]] == [0, 1, 0, 1, 0, 1]
    assert [m.split for m in moments[::10]] == [0, 0, 0, 1, 2, 2]
    assert len(set(shapes.values())) == 2


def test_a_long_session_keeps_the_motion_of_a_few_sequences_only() -> None:
    config = VirtualConfig(frames=40, sequence_frames=1, scene=False, sensor=None, transport="direct", seed=2)
    with VirtualRig(config, rig=ring_rig(1, width=32, height=24, focal_px=24.0)) as source:
        before = source.moment(0, 1).labels["joints"]
        assert sum(1 for _ in source.frames()) == 40
        assert len(source._trajectories) == KEPT_SEQUENCES
        assert 0 not in source._trajectories
        assert (source.moment(0, 1).labels["joints"] == before).all()


def test_it_records_as_unlabelled_or_with_its_truth(tmp_path: Path) -> None:
    config = QUIET.model_copy(update={"frames": 20, "drop": 0.1})
    with VirtualRig(config, rig=RIG) as source:
        bare = record(source, tmp_path / "bare.zarr")
    assert bare.labels is None
    assert bare.provenance["virtual"] is True
    assert bare.provenance["config"]["seed"] == 7
    with VirtualRig(config, rig=RIG) as source:
        made = record(source, tmp_path / "truth.zarr", keep_truth=True)
        assert made.labels is not None
        assert made.frames is not None
        number = made.frames.read("frame_number").max(axis=1)
        truth = [source.moment(0, int(k)).labels for k in number]
    for name in ("joints", "pose", "root", "shape"):
        assert np.array_equal(made.labels.read(name), [labels[name] for labels in truth])
    assert made.frames.read("sequence").tolist() == ((number - 1) // 5).tolist()
    report = made.attributes["sync"]
    assert report["cameras"]["cam0"]["fps"] == pytest.approx(30, abs=0.2)
    assert report["skew_ms"]["max"] < 10
    # Clocks that are apart by a minute and more were brought together: every set shows one instant.
    both = made.frames.read("present").all(axis=1)
    assert np.ptp(made.frames.read("t_device_ns")[both], axis=1).min() > 1e9
    assert (np.ptp(made.frames.read("frame_number")[both], axis=1) == 0).all()


def test_a_limit_ends_the_recording(tmp_path: Path) -> None:
    with VirtualRig(QUIET, rig=RIG) as source:
        assert record(source, tmp_path / "r.zarr", max_sets=4).n_frames == 4
    assert open_recording(tmp_path / "r.zarr").n_frames == 4


def test_around_a_ring_of_cameras_nobody_sits() -> None:
    ring = ring_rig(4, spread_deg=360, width=96, height=72, focal_px=72.0)
    assert not axes_of(ring).has_front
    assert len(room(ring).vertices) < len(room(RIG).vertices)
    for depth in images(VirtualConfig(frames=1, sensor=None, transport="direct"), rig=ring).values():
        assert ((depth > 300) & (depth < 800)).sum() > 100  # the hand


def test_cameras_with_distortion_are_refused() -> None:
    from dataclasses import replace

    bent = Rig((replace(RIG.cameras[0], dist_model="brown-conrady", dist=(0.1, 0, 0, 0, 0)),))
    with pytest.raises(HandloomError, match="'cam0' has lens distortion"):
        VirtualRig(QUIET, rig=bent)


def test_a_failure_while_rendering_reaches_the_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no such pose")

    with VirtualRig(QUIET, rig=RIG) as source:
        monkeypatch.setattr(VirtualRig, "_render", fail)
        with pytest.raises(RuntimeError, match="no such pose"):
            list(source.frames())


def test_fast_motion_is_faster() -> None:
    def way(speed: float) -> float:
        motion = Motion(median_mm_s=speed, p95_mm_s=4 * speed)
        with VirtualRig(VirtualConfig(frames=90, motion=motion, transport="direct"), rig=RIG) as source:
            palms = np.array([source.moment(0, k).labels["joints"][0] for k in range(1, 91)])
        return float(np.linalg.norm(np.diff(palms, axis=0), axis=1).sum())

    assert way(60.0) > 1.5 * way(10.0)


def test_tubes_are_closed() -> None:
    mesh = tube(np.array([[0, 0, 0], [0, 100, 0], [0, 150, 50]]), [30.0, 25.0, 20.0])
    edges = np.sort(np.concatenate([mesh.faces[:, [0, 1]], mesh.faces[:, [1, 2]], mesh.faces[:, [2, 0]]]), axis=1)
    _, count = np.unique(edges, axis=0, return_counts=True)
    assert (count == 2).all()
    assert len(mesh.vertices) == 3 * SIDES + 2


def test_the_room_stands_behind_and_below_the_hand() -> None:
    axes = axes_of(RIG)
    assert np.allclose(np.cross(axes.back, axes.up), axes.right)
    vertices = room(RIG).vertices
    near = np.linalg.norm(vertices, axis=1) < 180
    assert not near.any()


@pytest.mark.parametrize("sensor", [ActiveStereo(baseline_mm=55.0), TimeOfFlight(edge_hole=0.1)])
def test_the_rig_looks_through_any_sensor_and_says_which(sensor: Sensor) -> None:
    config = VirtualConfig.model_validate(
        {"frames": 1, "transport": "direct", "sensor": describe(sensor), "seed": 7, "scene": False}
    )
    assert config.sensor == sensor
    # Cameras of 96 px are too coarse for a stereo camera: its σ would be 5 mm, half its window 20 mm on the hand.
    rig = ring_rig(1)
    with VirtualRig(config, rig=rig) as source:
        assert source.provenance["sensor"] == describe(sensor)
        noisy = next(iter(source.frames())).depth
    clean = images(config.model_copy(update={"sensor": None}), rig)[1, 0]
    both = (noisy > 0) & (clean > 0)
    assert both.sum() > 0.5 * (clean > 0).sum() > 500
    assert 0 < np.median(np.abs(noisy[both].astype(float) - clean[both])) < 5


def test_a_ball_instead_of_a_hand_calibrates_the_rig_within_what_is_promised(tmp_path: Path) -> None:
    config = QUIET.model_copy(update={"frames": 24, "ball_mm": 30.0})
    rig = ring_rig(2, width=160, height=120, focal_px=120.0)
    with VirtualRig(config, rig=rig) as source:
        recording = record(source, tmp_path / "ball.zarr")
    assert recording.labels is None
    fit = calibrate(tmp_path / "ball.zarr", SphereTarget(30.0))
    ((angle_deg, _),) = errors(fit.rig, rig)
    found, true = (r.cameras[1].to_camera(r.cameras[0].to_rig(np.array([0.0, 0.0, 500.0]))) for r in (fit.rig, rig))
    assert angle_deg < 2 * fit.cameras[1].within_deg
    assert np.linalg.norm(found - true) < 2 * fit.cameras[1].within_mm
    assert fit.cameras[1].within_mm < 3

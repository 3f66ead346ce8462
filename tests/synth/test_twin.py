"""Twins show the poses of the labelled frames, whatever layout they are labelled in."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from handloom.cli import main
from handloom.stores.camera import Rig
from handloom.stores.crops import resample
from handloom.stores.errors import HandloomError
from handloom.stores.joints import LAYOUTS, OPENXR26, layout_named
from handloom.stores.recording import Recording, create_recording, open_recording
from handloom.stores.table import Appender
from handloom.synth.anatomy import builtin_hand
from handloom.synth.forearm import WRIST_DOFS, with_forearm
from handloom.synth.formats import save_hand
from handloom.synth.generate import SynthConfig, synthesise
from handloom.synth.hand import FOREARM, landmarks, pose_hand
from handloom.synth.people import CHUNK_FRAMES, Person, labelled_frames
from handloom.synth.sensor import StructuredLight
from handloom.synth.twin import make_twins
from handloom.synth.twin_units import FITS, TwinSettings

CONFIG = SynthConfig(frames=72, unit_frames=32, views=2, crop_px=96, subjects=2, seed=5, sensor="none")
CLEAN = TwinSettings(seed=0, unit_frames=32)
NOISE_MM = 1.5
"""Standard deviation of the labels in each direction: 2.4 mm in the mean."""
JOINTS_WITHIN_MM = {"openxr26": 1.65, "mediapipe21": 1.8, "mano21": 1.8, "msra21": 1.8, "bighand21": 1.8, "icvl16": 2.4,
                    "nyu36": 1.7, "nyu14": 2.6}  # fmt: skip
"""Mean distance of the twins' 26 joints from the truth: fewer points leave more open. It changes by a few
hundredths with the poses that are drawn."""
IOU = 0.86


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    """A rendered recording in the part of the real one: its poses are known."""
    return synthesise(CONFIG, tmp_path_factory.mktemp("real") / "r.zarr", jobs=1)


@pytest.fixture
def copy(real: Recording, tmp_path: Path) -> Recording:
    shutil.copytree(real.path, tmp_path / "r.zarr")
    return open_recording(tmp_path / "r.zarr", writable=True)


def joints_of(recording: Recording) -> np.ndarray:
    assert recording.labels is not None
    return recording.labels.read("joints")


def label(recording: Recording, name: str) -> str:
    assert recording.labels is not None
    return recording.labels.read(name)


def twins_of(recording: Recording) -> np.ndarray:
    assert recording.labels is not None
    return recording.labels.read("twin").astype(int)


def silhouettes_agree(real: Recording, twins: Recording, *, arm: bool) -> np.ndarray:
    """(n, V) intersection over union of the hands' masks, the twin's seen through the real crop's K."""
    assert real.crops is not None
    assert twins.crops is not None
    side, rows = CONFIG.crop_px, twins_of(twins)
    out = np.zeros((len(rows), len(real.rig)))
    for i, row in enumerate(rows):
        for view in range(len(real.rig)):
            k, own_k = (r.crops.read("k", j, j + 1)[0, view] for r, j in ((real, row), (twins, i)))  # type: ignore[union-attr]
            one, other = (r.crops.read("parts", j, j + 1)[0, view] for r, j in ((real, row), (twins, i)))  # type: ignore[union-attr]
            other = resample(other + np.uint8(1), own_k, k, width=side, height=side) - np.uint8(1)
            masks = [(m != 255) & (arm | (m != FOREARM)) for m in (one, other)]
            out[i, view] = (masks[0] & masks[1]).sum() / max((masks[0] | masks[1]).sum(), 1)
    return out


def middle_finger_mm(joints: np.ndarray) -> float:
    """Wrist to middle finger tip along the bones, mean of the frames."""
    names = ("wrist", "middle_proximal", "middle_intermediate", "middle_distal", "middle_tip")
    chain = joints[:, [OPENXR26.index(name) for name in names]]
    return float(np.linalg.norm(np.diff(chain, axis=1), axis=-1).sum(1).mean())


@pytest.mark.parametrize("name", LAYOUTS)
def test_twins_of_noisy_labels_of_each_layout(real: Recording, copy: Recording, tmp_path: Path, name: str) -> None:
    layout, truth = layout_named(name), joints_of(real)
    noise = np.random.default_rng(0).normal(size=(len(truth), len(layout), 3)) * NOISE_MM
    copy.replace_labels((landmarks(layout, truth) + noise).astype(np.float32), layout=name)
    twins = make_twins(copy.path, tmp_path / "t.zarr", settings=CLEAN)
    rows = twins_of(twins)
    assert len(rows) == CONFIG.frames
    error = np.linalg.norm(joints_of(twins) - truth[rows], axis=-1)
    assert error.mean() < JOINTS_WITHIN_MM[name]
    # No more is left of the labels' distance than their noise.
    assert 0.5 < np.asarray(label(twins, "fit_error_mm")).mean() < 2.4
    assert silhouettes_agree(copy, twins, arm=False).mean() > IOU
    assert twins.frames is not None
    for who in (0, 1):
        mine = twins.frames.read("subject") == who
        assert middle_finger_mm(joints_of(twins)[mine]) == pytest.approx(
            middle_finger_mm(truth[rows][mine]), rel=0.02
        )  # fmt: skip


def test_twins_of_exact_labels_are_the_frames_again(real: Recording, tmp_path: Path) -> None:
    twins = make_twins(real.path, tmp_path / "t.zarr", settings=CLEAN)
    assert twins.attributes["twins_of"] == real.uuid
    assert twins.attributes["twins"]["left_out"] == 0
    assert twins_of(twins).tolist() == list(range(CONFIG.frames))
    assert np.abs(joints_of(twins) - joints_of(real)).max() < 1.5
    # The same picture, but for the forearm, whose direction no joint holds.
    assert silhouettes_agree(real, twins, arm=False).mean() > 0.93
    assert np.asarray(label(twins, "fit_error_mm")).max() < 0.5
    assert not (twins.path / FITS).exists()


def test_forearms_go_where_the_real_images_show_them(real: Recording, copy: Recording, tmp_path: Path) -> None:
    """No label says where the arm is; a twin without the real crops has it nearly straight."""
    seen = make_twins(real.path, tmp_path / "a.zarr", settings=CLEAN)
    shutil.rmtree(copy.path / "crops")
    unseen = make_twins(copy.path, tmp_path / "b.zarr", settings=CLEAN)
    truth = np.asarray(label(real, "pose"))[:, WRIST_DOFS]
    off = {
        name: np.degrees(np.linalg.norm(np.asarray(label(twins, "pose"))[:, WRIST_DOFS] - truth, axis=1))
        for name, twins in (("seen", seen), ("unseen", unseen))
    }
    assert np.median(off["seen"]) < 12
    assert np.percentile(off["seen"], 90) < 25
    assert np.median(off["unseen"]) > 1.5 * np.median(off["seen"])
    assert np.array_equal(joints_of(seen), joints_of(unseen))
    # Of the whole mask, arm included.
    assert silhouettes_agree(real, seen, arm=True).mean() > 0.8


def test_mislabelled_frames_are_left_out_and_counted(real: Recording, copy: Recording, tmp_path: Path) -> None:
    assert copy.frames is not None
    labels, subject = joints_of(real).copy(), copy.frames.read("subject")
    fingers = {f: [i for i, n in enumerate(OPENXR26) if n.startswith(f)] for f in ("index", "middle", "little")}
    for row, other in ((3, "little"), (11, "middle")):  # a finger taken for another
        labels[row, fingers["index"]], labels[row, fingers[other]] = (
            labels[row, fingers[other]],
            labels[row, fingers["index"]],
        )
    labels[8, fingers["middle"]] = labels[8, fingers["middle"]][::-1]
    labels[20, OPENXR26.index("ring_tip")] += [40, -40, 20]
    labels[25, OPENXR26.index("palm")] += [0, 0, 60]
    labels[30] *= [1, 1, -1]  # a hand that cannot be: its mirror image
    labels[40, 5:] = np.nan  # five points
    labels[41] = np.nan  # not labelled at all
    copy.replace_labels(labels.astype(np.float32), layout="openxr26")
    twins = make_twins(copy.path, tmp_path / "t.zarr", settings=CLEAN)
    left = sorted(set(range(CONFIG.frames)) - set(twins_of(twins).tolist()))
    assert left == [3, 8, 11, 20, 25, 30, 40, 41]
    counted = twins.attributes["twins"]
    assert counted["made"] == twins.n_frames == CONFIG.frames - 8
    assert counted["left_out"] == 7
    assert counted["reasons"]["too_few_points"] == 1
    assert counted["reasons"]["badly_fitted"] + counted["reasons"]["point_off"] == 6
    assert counted["reasons"]["badly_fitted"] >= 3
    assert counted["reasons"]["point_off"] >= 2
    for who in (0, 1):
        mine = counted["subjects"][str(who)]
        assert sum(mine.values()) == ((subject == who) & (np.arange(len(subject)) != 41)).sum()
    # The others are fitted as if nothing had been wrong.
    assert np.asarray(label(twins, "fit_error_mm")).max() < 0.5
    assert np.abs(joints_of(twins) - joints_of(real)[twins_of(twins)]).max() < 1.5


def test_gaps_in_labels_are_bridged(real: Recording, copy: Recording, tmp_path: Path) -> None:
    layout = layout_named("mediapipe21")
    targets = landmarks(layout, joints_of(real)).astype(np.float32)
    targets[10, layout.index("ring_tip")] = np.nan
    targets[11, [layout.index(f"index_{n}") for n in ("pip", "dip")]] = np.nan
    copy.replace_labels(targets, layout="mediapipe21")
    twins = make_twins(copy.path, tmp_path / "t.zarr", settings=CLEAN)
    assert {10, 11} <= set(twins_of(twins))
    assert np.linalg.norm(joints_of(twins)[10:12] - joints_of(real)[10:12], axis=-1).max() < 12


def test_a_left_hand_and_the_hand_of_a_file(tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"frames": 40, "side": "left", "subjects": 1})
    left = synthesise(config, tmp_path / "r.zarr", jobs=1)
    save_hand(builtin_hand(), tmp_path / "hand.npz")
    twins = make_twins(left.path, tmp_path / "t.zarr", settings=replace(CLEAN, hand=str(tmp_path / "hand.npz")))
    assert twins.hand == "left"
    assert twins.n_frames == 40
    assert np.abs(joints_of(twins) - joints_of(left)).max() < 1.5
    assert silhouettes_agree(left, twins, arm=False).mean() > 0.93
    assert twins.provenance["hand"]["source"].endswith("hand.npz")


def test_what_the_recording_keeps_draws_its_twins_again(real: Recording, tmp_path: Path) -> None:
    """Everyone's fitted hand is in the attributes: it moves the kit's hand to the twins' joints."""
    twins = make_twins(real.path, tmp_path / "t.zarr", settings=CLEAN)
    assert twins.frames is not None
    who = int(twins.frames.read("subject")[5])
    hand = with_forearm(Person.from_dict(twins.attributes["people"][str(who)]).hand(builtin_hand()))
    posed = pose_hand(hand, *(np.asarray(label(twins, name))[5:6].astype(float) for name in ("pose", "root", "shape")))
    assert np.abs(posed.joints[0] - joints_of(twins)[5]).max() < 1e-3


def test_a_sensor_and_many_processes(real: Recording, tmp_path: Path) -> None:
    noisy = replace(CLEAN, sensor=StructuredLight())
    one = make_twins(real.path, tmp_path / "a.zarr", settings=noisy)
    two = make_twins(real.path, tmp_path / "b.zarr", settings=noisy, jobs=2)
    clean = make_twins(real.path, tmp_path / "c.zarr", settings=CLEAN)
    crops = [r.crops.read("crop") for r in (one, two, clean) if r.crops]
    assert np.array_equal(crops[0], crops[1])
    assert (crops[0] != crops[2]).mean() / (crops[2] > 0).mean() > 0.3
    assert one.provenance["sensor"]["model"] == "structured-light"


class Cut(Exception):
    pass


@pytest.mark.parametrize("share", [0.1, 0.7])
def test_an_interrupted_run_is_continued(real: Recording, tmp_path: Path, share: float) -> None:
    whole = make_twins(real.path, tmp_path / "a.zarr", settings=CLEAN)

    def cut(done: int, total: int) -> None:
        if done >= share * total:
            raise Cut

    with pytest.raises(Cut):
        make_twins(real.path, tmp_path / "b.zarr", settings=CLEAN, progress=cut)
    assert open_recording(tmp_path / "b.zarr").n_frames < CONFIG.frames
    with pytest.raises(HandloomError, match="begun otherwise") as caught:
        make_twins(real.path, tmp_path / "b.zarr", settings=replace(CLEAN, seed=3), resume=True)
    assert "'seed' was 0 and is now 3" in str(caught.value)
    told: list[tuple[int, int]] = []
    again = make_twins(
        real.path, tmp_path / "b.zarr", settings=CLEAN, resume=True, progress=lambda *at: told.append(at)
    )  # fmt: skip
    assert told[-1] == (2 * CONFIG.frames, 2 * CONFIG.frames)
    for table in ("frames", "crops", "labels"):
        one, other = getattr(whole, table), getattr(again, table)
        for name in one.columns:
            assert np.array_equal(one.read(name), other.read(name)), name


def test_resuming_notices_other_labels(real: Recording, copy: Recording, tmp_path: Path) -> None:
    def cut(done: int, total: int) -> None:
        raise Cut

    with pytest.raises(Cut):
        make_twins(copy.path, tmp_path / "t.zarr", settings=CLEAN, progress=cut)
    labels = joints_of(real).copy()
    labels[7] = np.nan
    copy.replace_labels(labels, layout="openxr26")
    with pytest.raises(HandloomError, match="other frames of the real recording are labelled now"):
        make_twins(copy.path, tmp_path / "t.zarr", settings=CLEAN, resume=True)


def test_frames_kept_for_testing_and_frames_left_out_by_hand(real: Recording, tmp_path: Path) -> None:
    some = make_twins(real.path, tmp_path / "t.zarr", settings=CLEAN, rows=np.array([9, 3, 4]))
    assert twins_of(some).tolist() == [3, 4, 9]
    with pytest.raises(HandloomError, match="exists already"):
        make_twins(real.path, tmp_path / "t.zarr", settings=CLEAN, rows=np.array([3]))


def test_labelled_frames_are_found_unit_by_unit(tmp_path: Path) -> None:
    """Subjects, splits and gaps over many units; frames of the test split are not looked at."""
    count, rig = 3 * CHUNK_FRAMES, Rig(CONFIG.make_rig().cameras[:1])
    made = create_recording(tmp_path / "r.zarr", kind="captured", rig=rig, hand="right", provenance={"made": "here"})
    row = np.arange(count)
    joints = np.tile(np.linspace(-60, 60, 26, dtype=np.float32)[:, None], (count, 1, 3))
    joints[row % 7 == 0] = np.nan
    joints[row % 11 == 0, 4:] = np.nan
    subject, split = (row // 500).astype(np.int32), np.where(row >= 1200, 2, 0).astype(np.uint8)
    with Appender(made.create_labels(layout="openxr26")) as labels:
        labels.append({"joints": joints, "visible": np.ones((count, 1, 26), np.uint8)})
    none = np.full((count, 1), -1, np.int64)
    with Appender(made.create_frames(depth=False)) as frames:
        frames.append(
            {"present": np.ones((count, 1), np.uint8), "t_device_ns": none, "t_host_ns": none, "frame_number": none,
             "frame_id": row.astype(np.uint64), "subject": subject, "sequence": subject, "split": split}
        )  # fmt: skip
    found = labelled_frames(open_recording(tmp_path / "r.zarr"), None)
    expected = (row % 7 != 0) & (row % 11 != 0) & (split != 2)
    assert found.frames["row"].tolist() == row[expected].tolist()
    assert found.frames["subject"].tolist() == subject[expected].tolist()
    few = (row % 11 == 0) & (row % 7 != 0) & (split != 2)
    assert found.too_few_points == {int(w): int((few & (subject == w)).sum()) for w in (0, 1, 2)}


def test_a_recording_that_cannot_have_twins_is_refused(copy: Recording, tmp_path: Path) -> None:
    where = tmp_path / "t.zarr"
    rng = np.random.default_rng(0)
    copy.replace_labels(rng.normal(size=(CONFIG.frames, 26, 3)).astype(np.float32) * 100, layout="openxr26")
    with pytest.raises(HandloomError, match="No labelled frame could be fitted"):
        make_twins(copy.path, where, settings=CLEAN)
    assert not where.exists()
    copy.replace_labels(joints_of(copy) * 10, layout="openxr26")
    with pytest.raises(HandloomError, match="not those of a hand in millimetres"):
        make_twins(copy.path, where, settings=CLEAN)
    assert not where.exists()
    copy.replace_labels(np.full((CONFIG.frames, 26, 3), np.nan, np.float32), layout="openxr26")
    with pytest.raises(HandloomError, match="No frame of the recording is labelled"):
        make_twins(copy.path, where, settings=CLEAN)
    shutil.rmtree(copy.path / "labels")
    with pytest.raises(HandloomError, match="no labels"):
        make_twins(copy.path, where, settings=CLEAN)


def test_cameras_with_distortion_are_refused(tmp_path: Path) -> None:
    camera = replace(CONFIG.make_rig().cameras[0], dist_model="brown-conrady", dist=(0.1, 0.0, 0.0, 0.0, 0.0))
    made = create_recording(tmp_path / "r.zarr", kind="captured", rig=Rig((camera,)), hand="right", provenance={"a": 1})
    with Appender(made.create_labels(layout="openxr26")):
        pass
    made.create_frames(depth=False)
    with pytest.raises(HandloomError, match="'cam0' has lens distortion"):
        make_twins(made.path, tmp_path / "t.zarr", settings=CLEAN)


def test_the_command_says_what_was_left_out(real: Recording, copy: Recording, tmp_path: Path) -> None:
    labels = joints_of(real).copy()
    assert copy.frames is not None
    who = int(copy.frames.read("subject")[20])
    labels[20, OPENXR26.index("ring_tip")] += [40, -40, 20]
    copy.replace_labels(labels.astype(np.float32), layout="openxr26")
    out = tmp_path / "t.zarr"
    done = CliRunner().invoke(main, ["synth", "twin", "--real", str(copy.path), "--out", str(out), "--jobs", "1"])
    assert done.exit_code == 0, done.output
    assert done.stdout == (
        f"{out}: twins of 71 labelled frames, median fit error 0.0 mm\n"
        f"  subject {who}: left out 1 with one point far off\n"
        f"next: handloom train murauer --preset quick --synth S.zarr --synth {out} --real {copy.path} --run runs/full\n"
    )
    assert json.loads((out / "zarr.json").read_text())["attributes"]["attributes"]["twins"]["left_out"] == 1

"""Errors on recordings: what is compared with what, around which centre, and what is said about it."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from handloom.cli import main
from handloom.learn import train
from handloom.learn.estimators import MeanPose, TorchEstimator, open_estimator
from handloom.learn.evaluate import CHOSEN_BY, crops_of, evaluate_model, evaluate_models, label_seed_of, mean_pose
from handloom.learn.export import export
from handloom.learn.held_out import held_out_notes
from handloom.learn.inputs import DepthView
from handloom.learn.model import load_model
from handloom.learn.murauer_nets import Volume, camera_change, view_condition
from handloom.learn.views import _condition, predict_views, predicts_views
from handloom.stores.camera import project
from handloom.stores.edit import split
from handloom.stores.errors import HandloomError
from handloom.stores.joints import Layout, converted, layout_named
from handloom.stores.reading import Resident
from handloom.stores.recording import Recording, open_recording

LAYOUT = layout_named("openxr26")


@dataclass
class Oracle:
    """An estimator that is given the answer: the joints of the images in the order in which they come."""

    answers: list[np.ndarray]
    layout: Layout = LAYOUT
    hand: str = "right"
    input_px: int = 16
    cube_mm: float = 300.0
    seen: int = 0

    def predict_crops(self, crops: np.ndarray) -> np.ndarray:
        """The next answers."""
        found = self.answers[self.seen : self.seen + len(crops)]
        self.seen += len(crops)
        return np.array(found, np.float32)


def relative_truth(recording: Recording, *, stored: bool) -> list[np.ndarray]:
    """(J, 3) of every image about its true palm or its stored centre, frame by frame, camera by camera."""
    assert recording.labels is not None
    assert recording.crops is not None
    joints, center = recording.labels.read("joints"), recording.crops.read("center")
    out = []
    for row in range(recording.n_frames):
        for v, camera in enumerate(recording.rig.cameras):
            points = camera.to_camera(joints[row])
            out.append(points - (center[row, v] if stored else points[0]))
    return out


@pytest.fixture(scope="module")
def real(recordings: Any) -> Recording:
    """32 frames of 3 views, rows 24 to 31 test, located centres."""
    return open_recording(recordings.real)


def test_around_the_true_palm(real: Recording):
    answers = [a + np.array([0, 3, 4]) for a in relative_truth(real, stored=False)]
    found = evaluate_model(Oracle(answers), real, seed=0, center="truth", split="all")
    assert found.metrics.images == 96
    assert found.metrics.mean_mm == pytest.approx(5, abs=1e-3)
    assert (found.center, found.passes) == ("truth", 1)
    assert found.metrics.interval.unit.startswith(("frames", "blocks"))


def test_around_located_centres(real: Recording):
    answers = [a + np.array([0, 3, 4]) for a in relative_truth(real, stored=True)]
    found = evaluate_model(Oracle(answers), real, seed=0, center="located", split="all", passes=1)
    assert found.metrics.mean_mm == pytest.approx(5, abs=1e-3)
    assert found.center_mm[:3] == pytest.approx(real.crops.read("center")[0])  # type: ignore[union-attr]


def test_only_the_frames_asked_for(real: Recording):
    answers = relative_truth(real, stored=False)
    assert evaluate_model(Oracle(answers), real, seed=0, center="truth").row.tolist() == [
        row for row in range(24, 32) for _ in range(3)
    ]
    some = [answers[3 * row + 1] for row in (2, 5, 6)]
    found = evaluate_model(Oracle(some), real, seed=0, center="truth", rows=[6, 2, 5], views=[1])
    assert found.row.tolist() == [2, 5, 6]
    assert set(found.view) == {1}
    assert found.metrics.mean_mm == pytest.approx(0, abs=1e-3)
    assert found.split == "3 chosen"


def test_several_models_see_the_same_images(real: Recording):
    answers = relative_truth(real, stored=False)
    both = evaluate_models(
        {"good": Oracle(list(answers)), "bad": Oracle([a + 20 for a in answers])},
        real,
        seed=0,
        center="truth",
        split="all",
    )
    assert both["good"].metrics.mean_mm == pytest.approx(0, abs=1e-3)
    assert both["bad"].metrics.mean_mm == pytest.approx(20 * 3**0.5, abs=1e-3)
    assert (both["good"].row == both["bad"].row).all()


def test_a_hand_that_was_not_located_is_a_failure_and_a_dropped_image_is_none(
    tmp_path: Path, toy: SimpleNamespace, captured: Resident
):
    data = replace(captured, center_source=captured.center_source.copy(), present=captured.present.copy())
    data.center_source[0, 0] = 0
    data.present[1, 2] = False
    recording = open_recording(toy.write(tmp_path / "r.zarr", data))
    answers = relative_truth(recording, stored=True)
    kept = [a for i, a in enumerate(answers) if i not in (0, 5)]
    found = evaluate_model(Oracle(kept), recording, seed=0, split="all", passes=1)
    assert (found.metrics.images, found.metrics.missed) == (95, 1)
    assert found.metrics.mean_mm == pytest.approx(0, abs=1e-3)
    assert found.metrics.success[0] == pytest.approx(94 / 95)
    assert np.isnan(found.prediction_mm[0]).all()
    assert "1 of 95 images" in found.notes[0]


def test_layouts_that_convert_and_those_that_do_not(
    tmp_path: Path, toy: SimpleNamespace, real: Recording, captured: Resident
):
    nyu = layout_named("nyu14")
    answers = relative_truth(real, stored=False)
    theirs = [converted(a, LAYOUT, nyu) for a in answers]
    found = evaluate_model(Oracle(theirs, layout=nyu), real, seed=0, center="truth", split="all")
    assert found.metrics.mean_mm == pytest.approx(0, abs=1e-3)
    assert found.metrics.joint_names == nyu.points
    labelled = replace(
        captured,
        joints=converted(captured.joints, LAYOUT, nyu),
        layout=nyu,  # type: ignore[arg-type]
    )
    other = open_recording(toy.write(tmp_path / "nyu.zarr", labelled))
    found = evaluate_model(Oracle(list(answers)), other, seed=0, center="truth", split="all")
    assert found.layout == nyu
    assert found.metrics.mean_mm == pytest.approx(0, abs=1e-3)
    with pytest.raises(HandloomError, match="cannot be compared"):
        evaluate_model(Oracle([], layout=layout_named("icvl16")), other, seed=0, center="truth", split="all")


def test_unknown_joints_spoil_what_rests_on_them_only():
    joints = np.zeros((1, 26, 3))
    joints[0, LAYOUT.index("thumb_tip")] = np.nan
    made = converted(joints, LAYOUT, layout_named("nyu14"))
    lost = [p for p, row in zip(layout_named("nyu14").points, made[0], strict=True) if np.isnan(row).any()]
    assert lost == ["thumb_0"]


def test_the_mirror(real: Recording):
    """A model of left hands meets mirrored crops; mirrored answers come back right."""
    answers = [a * [-1, 1, 1] for a in relative_truth(real, stored=False)]
    found = evaluate_model(Oracle(answers, hand="left"), real, seed=0, center="truth", split="all")
    assert found.metrics.mean_mm == pytest.approx(0, abs=1e-3)


def test_the_mean_pose_is_the_mean_of_the_labels(real: Recording):
    baseline = mean_pose(real)
    found = evaluate_model(baseline, real, seed=0, center="truth", split="all")
    spread = found.truth_mm - found.truth_mm[:, :1]
    assert baseline.relative_mm == pytest.approx(spread.mean(axis=0), abs=0.01)
    expected = np.linalg.norm(spread - spread.mean(axis=0), axis=-1).mean()
    assert found.metrics.mean_mm == pytest.approx(expected, abs=0.01)
    assert found.n_labels is None
    assert isinstance(baseline, MeanPose)


def test_bad_requests(tmp_path: Path, recordings: Any, real: Recording):
    model = Oracle([])
    with pytest.raises(HandloomError, match="no labels"):
        evaluate_model(model, open_recording(recordings.unlabelled), seed=0)
    with pytest.raises(HandloomError, match="true ones, not located"):
        evaluate_model(model, open_recording(recordings.synth), seed=0, split="all")
    with pytest.raises(HandloomError, match="no val frames") as caught:
        evaluate_model(model, real, seed=0, split="val")
    assert "train 24, val 0, test 8" in caught.value.why
    with pytest.raises(HandloomError, match="no split"):
        evaluate_model(model, real, seed=0, split="tset")


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory, toy: SimpleNamespace, captured: Resident) -> Recording:
    """The capture as three people's: 0 in rows 0 to 15, all for training; 1 for test; 2 in both."""
    subject = np.repeat(np.array([0, 1, 2], np.int32), [16, 8, 8])
    split = np.repeat(np.array([0, 2, 0, 2], np.uint8), [16, 8, 4, 4])
    data = replace(captured, subject=subject, split=split, sequence=np.arange(32, dtype=np.int32) // 4)
    return open_recording(toy.write(tmp_path_factory.mktemp("people") / "r.zarr", data))


def test_errors_by_person_camera_and_sequence(people: Recording):
    answers = relative_truth(people, stored=False)
    who = np.repeat([0, 1, 2], [48, 24, 24])
    moved = [a + np.array([0, 0, 1 + who[i] + 10 * (i % 3)]) for i, a in enumerate(answers)]
    found = evaluate_model(Oracle(moved), people, seed=0, center="truth", split="all")
    parts = found.metrics.parts
    assert [(p.name, p.images) for p in parts["subject"]] == [("0", 48), ("1", 24), ("2", 24)]
    assert [p.mean_mm for p in parts["subject"]] == pytest.approx([11, 12, 13], abs=1e-3)
    assert [(p.name, p.images) for p in parts["view"]] == [("cam0", 32), ("cam1", 32), ("cam2", 32)]
    assert parts["view"][1].mean_mm - parts["view"][0].mean_mm == pytest.approx(10, abs=1e-3)
    assert len(parts["sequence"]) == 8
    assert found.metrics.interval.unit == "sequences"


def test_one_person_alone(people: Recording):
    answers = relative_truth(people, stored=False)
    theirs: dict[str, Any] = {"subjects": ["2"], "center": "truth", "seed": 0}
    found = evaluate_model(Oracle(answers[72:]), people, split="all", **theirs)
    assert found.row.tolist() == [row for row in range(24, 32) for _ in range(3)]
    assert found.subjects == ("2",)
    assert found.lines()[0].endswith("all frames, subject 2")
    assert "whether subject 2 was held out is not known: the model names no recordings" in found.notes
    some = evaluate_model(Oracle(answers[85:]), people, views=[1], rows=[28], **theirs)
    assert some.title().endswith("1 chosen frames, subject 2, cam1 only")
    with pytest.raises(HandloomError, match="no test frames of these subjects") as caught:
        evaluate_model(Oracle([]), people, seed=0, subjects=["0"])
    assert caught.value.why == "frames by split: train 16, val 0, test 0"
    with pytest.raises(HandloomError, match="no subject 'P7'") as caught:
        evaluate_model(Oracle([]), people, seed=0, subjects=["P7"])
    assert caught.value.why == "it has 0, 1, 2"


def test_who_was_held_out(people: Recording, tmp_path: Path):
    def notes(*numbers: int, on: Recording = people, **said: Any) -> list[str]:
        return held_out_notes(said, on, numbers)

    here = {"real": {"uuid": people.uuid, "path": str(people.path)}}
    assert notes(0, 1, 2, sources=here) == [
        "warning: subject 0 was not held out: 16 of the model's 20 real training frames show them",
        "subject 1 was held out: on none of the model's 20 real training frames",
        "warning: subject 2 was not held out: 4 of the model's 20 real training frames show them",
    ]
    assert notes(0, sources=here, config={"hold_out": 0}) == [
        "subject 0 was held out: on none of the model's 4 real training frames"
    ]
    assert notes(1, sources={"real": None}) == ["subject 1 was held out: the model saw no real frames"]
    assert "is not at hand" in notes(1, sources={"real": {"uuid": "other", "path": "gone.zarr"}})[0]
    # Parts cut from one recording keep their people's numbers, and say where they come from.
    parts = {part.path.name: part for part in split(people.path, tmp_path / "parts", by="subject")}
    trained = parts["subject-2.zarr"]
    there = {"real": {"uuid": trained.uuid, "path": str(trained.path)}}
    assert notes(2, sources=there, on=people)[0].startswith("warning: subject 2 was not held out: 4 of the model's 4")
    assert notes(1, sources=there, on=parts["subject-1.zarr"]) == [
        "subject 1 was held out: on none of the model's 4 real training frames"
    ]


# --- trained models ---


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, recordings: Any) -> Callable[[str], Path]:
    """Runs of a few steps, by arm, made once."""
    folder = tmp_path_factory.mktemp("runs")

    def run(arm: str) -> Path:
        path = folder / arm
        if not path.exists():
            values: dict[str, Any] = {"labels": 5, "batch": 8}
            values |= {"steps": 1} if arm == "preview" else {"pretrain_steps": 2, "joint_steps": 2}
            synth = [] if arm == "preview" else [recordings.synth, recordings.twins]
            config = train.preset("murauer", "quick", arm, values)
            train.train(config, synth=synth, real=recordings.real, run_dir=path)
        return path

    return run


@pytest.mark.parametrize(("labels", "seed"), [(5, 3), (0, 3), ("2%", 3), ("labelling/frames.txt", None), (None, None)])
def test_labels_of_a_file_were_drawn_by_no_seed(labels: object, seed: int | None):
    """Of a run with `--labels labelling/frames.txt` evaluations said: 'labels = 20 (drawn by seed 0)'."""
    assert label_seed_of({"labels": labels, "label_seed": 3}) == seed


def test_a_run_and_its_export_have_the_same_error(runs: Callable[[str], Path], real: Recording, tmp_path: Path):
    export(runs("full"), tmp_path / "m.onnx")
    both = evaluate_models(
        {"torch": open_estimator(runs("full")), "onnx": open_estimator(tmp_path / "m.onnx")}, real, seed=0
    )
    a, b = both["torch"], both["onnx"]
    assert a.metrics.mean_mm == pytest.approx(b.metrics.mean_mm, abs=0.01)
    assert (a.n_labels, b.n_labels) == (5, 5)
    assert (a.label_seed, b.label_seed) == (0, 0)
    text = "\n".join(b.lines())
    assert "center = predicted (located), 2 crops an image; labels = 5 (drawn by seed 0)" in text
    assert "chosen by no frames: the last step" in text
    assert a.to_dict()["metrics"]["images"] == 24
    assert b.view_mae is None, "the export has no view decoder"
    assert a.view_mae == pytest.approx(predict_views(load_model(runs("full")), real, np.arange(24, 32)).mae)
    assert f"predicted views    {a.view_mae:.3f} mean absolute error" in a.lines()


def test_the_commands(runs: Callable[[str], Path], real: Recording, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    export(runs("full"), Path("m.onnx"))
    Path("run").symlink_to(runs("full"))
    Path("r.zarr").symlink_to(real.path)

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(main, ["eval", *arguments])

    shown = run("model", "run", "--on", "r.zarr")
    assert shown.exit_code == 0, shown.output
    lines = shown.output.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0] == "run on r.zarr, test frames"
    assert "center = predicted (located), 2 crops an image; labels = 5 (drawn by seed 0)" in lines
    assert "chosen by no frames: the last step of the run" in lines
    assert sum(line.startswith("  cam") for line in lines) == 3
    said = json.loads(run("model", "run", "--on", "r.zarr", "--json").output)
    kept = ("center", "n_labels", "label_seed", "chosen_by", "split", "subjects", "cameras")
    assert [said[name] for name in kept] == ["predicted", 5, 0, CHOSEN_BY, "test", [], []]
    assert [part["name"] for part in said["metrics"]["parts"]["view"]] == ["cam0", "cam1", "cam2"]

    drawn = run("model", "run", "--on", "r.zarr", "--report", "page.html")
    assert drawn.output.splitlines()[-2:] == [
        "page.metrics.jsonl: these numbers, a JSON object a line",
        "page.html: the same as a page, with pictures",
    ]
    (line,) = Path("page.metrics.jsonl").read_text().splitlines()
    assert json.loads(line) == {"kind": "evaluation"} | said
    page = Path("page.html").read_text()
    assert "Mean error by view." in page
    assert '<table class="sortable"' in page
    assert "<h1>run</h1>" in page
    assert "on a drawn hand: run" in page
    taken = run("model", "run", "--on", "r.zarr", "--report", "page.html")
    assert (taken.exit_code, "exists already" in taken.stderr) == (2, True)
    again = run("compare", "run", "m.onnx", "--on", "r.zarr", "--report", "page.html", "--overwrite")
    assert again.exit_code == 0, again.output
    page = Path("page.html").read_text()
    assert "<h1>run / m.onnx</h1>" in page
    assert "Error of run minus that of m.onnx at each joint (mm) on a drawn hand" in page
    assert "run against m.onnx: no difference to rely on." in page

    both = run("compare", "run", "m.onnx", "--on", "r.zarr")
    assert both.exit_code == 0, both.output
    lines = both.output.splitlines()
    assert max(map(len, lines)) <= 80
    assert "  no difference to rely on" in lines
    said = json.loads(run("compare", "run", "m.onnx", "--on", "r.zarr", "--json").output)
    assert [one["name"] for one in said["models"]] == ["run", "m.onnx"]
    (difference,) = said["differences"]
    assert abs(difference["difference_mm"]) < 0.01
    assert len(difference["joints"]) == 26

    # A person: all of their frames, and the model has seen some of them.
    person = run("model", "run", "--on", "r.zarr", "--subject", "0", "--view", "cam1")
    assert person.output.splitlines()[0] == "run on r.zarr, all frames, subject 0, cam1 only"
    assert "warning: subject 0 was not held out: 24 of the model's 24 real training frames" in person.output
    for wrong, words in {
        ("model", "run", "--on", "r.zarr", "--view", "cam7"): "there is no camera 'cam7': cam0, cam1, cam2",
        ("model", "run", "--on", "r.zarr", "--subject", "Ann"): "The recording has no subject 'Ann'",
        ("compare", "run", "--on", "r.zarr"): "give two models or more, each once",
        ("compare", "run", "run", "--on", "r.zarr"): "give two models or more, each once",
        ("compare", "run", "m.onnx"): "give --on R.zarr for models, or --truth GT.txt",
        ("compare", "run", "m.onnx", "--truth", "t.txt"): "--truth needs --dataset",
    }.items():
        refused = run(*wrong)
        assert refused.exit_code == 2
        assert words in refused.stderr


def test_training_frames_are_warned_of(runs: Callable[[str], Path], real: Recording):
    model = TorchEstimator(load_model(runs("full")))
    assert evaluate_model(model, real, seed=0).notes == ()
    (note,) = evaluate_model(model, real, seed=0, split="train").notes
    assert "was trained on" in note


def test_crops_to_draw_on(runs: Callable[[str], Path], real: Recording):
    found = evaluate_model(TorchEstimator(load_model(runs("full"))), real, seed=0)
    crops, k = crops_of(found, real, [0, 7], input_px=96, cube_mm=300.0)
    assert crops.shape == (2, 96, 96)
    for i, image in enumerate([0, 7]):
        px = np.rint(project(found.truth_mm[image], k[i])).astype(int)
        inside = ((px >= 0) & (px < 96)).all(axis=1)
        on_hand = crops[i][px[inside, 1], px[inside, 0]] < 1
        assert on_hand.mean() > 0.6, "joints lie on the hand"


@pytest.mark.parametrize("arm", ["full", "preview"])
def test_predicted_views(runs: Callable[[str], Path], real: Recording, arm: str):
    model = load_model(runs(arm))
    assert predicts_views(model)
    rows = np.arange(24, 28)
    views = predict_views(model, real, rows)
    assert views.predicted.shape == (4 * 6, 64, 64)
    assert np.abs(views.predicted).max() <= 1
    assert views.mae == pytest.approx(np.abs(views.predicted - views.target).mean())
    one = predict_views(model, real, rows, pair=(0, 1))
    first = (views.pair == (0, 1)).all(axis=1)
    assert one.predicted == pytest.approx(views.predicted[first], abs=1e-4)
    assert one.target == pytest.approx(views.source[(views.pair == (1, 0)).all(axis=1)])
    with pytest.raises(HandloomError, match="no such pair"):
        predict_views(model, real, rows, pair=(0, 7))


def test_views_are_conditioned_as_in_training(runs: Callable[[str], Path], toy: SimpleNamespace, captured: Resident):
    """The decoder is told the same about the cameras here as by the training's batches."""
    model = load_model(runs("full"))
    volume = Volume(**{k: tuple(v) for k, v in model.description["volume"].items()})
    bank, rig = toy.bank(captured), captured.rig
    pairs = [(3 * t + i, 3 * t + j) for t in range(4) for i, j in ((0, 1), (2, 0))]
    source, target = torch.tensor(pairs).unbind(1)
    theirs = view_condition(bank.center_mm[source], volume, camera_change(bank, source, target))

    def shown(n: int) -> DepthView:
        t, v = divmod(n, 3)
        center = captured.center[t, v].astype(float)
        return DepthView(t, v, rig.cameras[v], captured.crop[t, v], captured.k[t, v], center)

    ours = _condition(model, [shown(i) for i, _ in pairs], [shown(j) for _, j in pairs])
    assert ours.numpy() == pytest.approx(theirs.numpy(), abs=1e-4)


def test_arms_that_predict_no_views(runs: Callable[[str], Path], real: Recording):
    model = replace(load_model(runs("full")), arm="real+synthetic")
    with pytest.raises(HandloomError, match="predicts no views"):
        predict_views(model, real, np.arange(2))

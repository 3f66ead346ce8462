"""The score without labels: what it measures, what it cannot see, and that it picks the better model."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner

from handloom.cli import main
from handloom.learn import train
from handloom.learn.agreement import agreement, lines, pairwise_mm, spearman
from handloom.stores.errors import HandloomError
from handloom.stores.joints import layout_named
from handloom.stores.recording import Recording, open_recording

LAYOUT = layout_named("openxr26")


class Noisy:
    """Knows the truth of the images in the order in which they come, and errs by noise and by a shift of its own."""

    layout, hand, input_px, cube_mm = LAYOUT, "right", 16, 300.0

    def __init__(self, recording: Recording, *, noise_mm: float, shift_rig_mm: float = 0.0, seed: int = 0) -> None:
        assert recording.labels is not None
        assert recording.crops is not None
        joints, center = recording.labels.read("joints"), recording.crops.read("center")
        rng, self.answers, self.seen = np.random.default_rng(seed), [], 0
        for row in range(recording.n_frames):
            # Some frames are harder than others, for all cameras.
            hard = noise_mm * (0.5 + (row % 4) / 2)
            for v, camera in enumerate(recording.rig.cameras):
                moved = joints[row] + shift_rig_mm + rng.normal(size=(26, 3)) * hard
                self.answers.append(camera.to_camera(moved) - center[row, v])

    def predict_crops(self, crops: np.ndarray) -> np.ndarray:
        # Both passes ask for the same images; the second is about the palm that the first gave.
        found = self.answers[self.seen : self.seen + len(crops)]
        self.seen += len(crops)
        return np.array(found, np.float32)


@pytest.fixture
def labelled(recordings: SimpleNamespace) -> Recording:
    return open_recording(recordings.real)


def one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    import handloom.learn.agreement as module

    real = module.predict_all
    monkeypatch.setattr(module, "predict_all", lambda *a, **k: real(*a, passes=1, **k))


def test_pairs_of_independent_errors_give_the_error() -> None:
    rng = np.random.default_rng(3)
    truth = rng.normal(size=(26, 3)) * 50
    errors = rng.normal(size=(400, 3, 26, 3)) * 6.0
    measured = np.mean([pairwise_mm(truth + e) for e in errors])
    assert measured == pytest.approx(np.linalg.norm(errors, axis=-1).mean(), rel=0.02)


def test_agreement_ranks_models_and_frames(labelled: Recording, monkeypatch: pytest.MonkeyPatch) -> None:
    one_pass(monkeypatch)
    models = {f"{n} mm": Noisy(labelled, noise_mm=n, seed=int(n)) for n in (8.0, 2.0, 16.0, 4.0)}
    found = agreement(models, labelled, seed=0)
    assert [one.name for one in found] == ["2.0 mm", "4.0 mm", "8.0 mm", "16.0 mm"]
    for one in found:
        assert one.error_mm == pytest.approx(one.disagreement_mm, rel=0.05)
        assert one.rank_correlation is not None
        assert one.rank_correlation > 0.8
    text = lines(found, labelled, seed=0)
    assert text[-1] == "rank correlation of disagreement and true error over the models: 1.00"
    assert max(map(len, text[1:])) <= 80


def test_what_all_cameras_get_wrong_is_not_seen(labelled: Recording, monkeypatch: pytest.MonkeyPatch) -> None:
    one_pass(monkeypatch)
    (found,) = agreement({"m": Noisy(labelled, noise_mm=0.0, shift_rig_mm=30.0)}, labelled, seed=0)
    assert found.disagreement_mm < 1e-3
    assert found.error_mm == pytest.approx(30 * np.sqrt(3), rel=1e-3)


def test_unlabelled_frames_are_scored(recordings: SimpleNamespace, tmp_path: Path) -> None:
    config = train.preset("murauer", "quick", "synthetic-only", {"pretrain_steps": 2, "batch": 4})
    train.train(config, synth=[recordings.synth], real=None, run_dir=tmp_path / "run")
    result = CliRunner().invoke(main, ["eval", "agreement", str(tmp_path / "run"), "--on", str(recordings.unlabelled)])
    assert result.exit_code == 0, result.output
    head, columns, row = result.output.splitlines()
    assert head.startswith("disagreement of 3 cameras on 6 frames of")
    assert columns.split() == ["disagree", "95", "%", "interval", "views"]
    assert float(row.split()[-4]) > 0


def test_one_camera_is_refused(toy: SimpleNamespace, tmp_path: Path) -> None:
    alone = open_recording(toy.write(tmp_path / "one.zarr", toy.resident(4, 3, views=1, located_mm=5.0)))
    with pytest.raises(HandloomError, match="nobody to agree with"):
        agreement({}, alone, seed=0)


def test_ranks_with_ties_and_unknowns() -> None:
    x = np.array([1.0, 2.0, 2.0, 4.0, np.nan])
    assert spearman(x, np.array([1.0, 3.0, 3.0, 9.0, 0.0])) == pytest.approx(1.0)
    assert spearman(x, -x) == pytest.approx(-1.0)
    assert spearman(x[:3], x[:3]) is None
    assert spearman(x, np.ones(5)) is None


def test_a_hand_that_was_found_nowhere_is_an_error_in_words(toy: SimpleNamespace, tmp_path: Path) -> None:
    lost = toy.resident(4, 3, located_mm=5.0)
    lost = replace(lost, center=np.zeros_like(lost.center))
    recording = open_recording(toy.write(tmp_path / "lost.zarr", lost))
    with pytest.raises(HandloomError, match="No frame was seen by two cameras"):
        agreement(
            {"m": Noisy(open_recording(toy.write(tmp_path / "o.zarr", toy.resident(4, 3))), noise_mm=1.0)},
            recording,
            seed=0,
        )

"""Whole runs of Crossing Nets: killed and resumed, read back, started from another, refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from killed_training import Killed, digest, kill_after

from handloom.learn.crossing_nets import CrossingNets
from handloom.learn.model import load_model, read_checkpoint
from handloom.learn.train import preset, train
from handloom.stores.errors import HandloomError
from handloom.stores.joints import LAYOUTS

from tiny_crossing import tiny


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory, recordings: Any) -> Path:
    """A run that nothing disturbed."""
    run = tmp_path_factory.mktemp("runs") / "straight"
    train(tiny(labels=5, save_every=1), synth=[recordings.synth], real=recordings.real, run_dir=run)
    return run


@pytest.mark.parametrize("killed_after", [2, 3, 4, 5, 6, 7, 9])
def test_a_killed_and_resumed_run_has_the_same_bits(
    killed_after: int, tmp_path: Path, straight: Path, recordings: Any
) -> None:
    # Inside each of the four stages (3 + 2 + 2 + 3 steps) and exactly between them; the last checkpoint is
    # that of the step before the kill.
    given = {"synth": [recordings.synth], "real": recordings.real, "run_dir": tmp_path / "cut"}
    with pytest.raises(Killed):
        train(tiny(labels=5, save_every=1), progress=kill_after(killed_after), **given)
    assert read_checkpoint(tmp_path / "cut")["description"]["step"] == killed_after - 1
    train(tiny(labels=5, save_every=1), resume=True, **given)
    one, two = read_checkpoint(straight), read_checkpoint(tmp_path / "cut")
    assert digest(one) == digest(two)


def test_a_run_resumes_at_the_boundary_of_two_stages(tmp_path: Path, straight: Path, recordings: Any) -> None:
    # save_every = 1 and a kill at the log of the step after leave a checkpoint at the very end of a stage.
    given = {"synth": [recordings.synth], "real": recordings.real, "run_dir": tmp_path / "cut"}
    for boundary in (3, 5, 7):
        with pytest.raises(Killed):
            train(
                tiny(labels=5, save_every=1),
                progress=kill_after(boundary + 1),
                resume=boundary > 3,
                **given,
            )
        state = read_checkpoint(tmp_path / "cut")
        assert state["description"]["step"] == boundary
        assert state["training"]["stage"] == {3: "vae", 5: "gan", 7: "align"}[boundary]
    train(tiny(labels=5, save_every=1), resume=True, **given)
    assert digest(read_checkpoint(straight)) == digest(read_checkpoint(tmp_path / "cut"))


def test_a_model_reads_back_and_predicts(straight: Path) -> None:
    model = load_model(straight)
    assert (model.method, model.arm, model.layout, model.cube_mm) == ("crossing", "full", LAYOUTS["openxr26"], 250)
    crops = torch.rand(5, 1, 32, 32) * 2 - 1
    joints = model.predict_mm(crops)
    assert joints.shape == (5, 26, 3)
    # Running statistics: no crop sees another.
    torch.testing.assert_close(joints[:2], model.predict_mm(crops[:2]), atol=1e-3, rtol=0)
    assert not model.nets.training


@pytest.mark.parametrize(("layout", "joints"), [("nyu36", 36), ("nyu14", 14)])
def test_other_layouts_make_other_decoders(layout: str, joints: int, tmp_path: Path, recordings: Any) -> None:
    config = tiny(labels=5, layout=layout)
    train(config, synth=[recordings.synth], real=recordings.real, run_dir=tmp_path / "run")
    model = load_model(tmp_path / "run")
    assert model.predict_mm(torch.zeros(2, 1, 32, 32)).shape == (2, joints, 3)
    assert isinstance(model.nets, CrossingNets)
    assert model.nets.palm == LAYOUTS[layout].palm
    assert model.nets.vae.enter.in_features == 3 * joints


def test_a_run_starts_from_another_without_its_first_two_stages(
    tmp_path: Path, straight: Path, recordings: Any
) -> None:
    given = {"synth": [recordings.synth], "real": recordings.real}
    quiet = {"joint_rate": 1e-12, "align_rate": 1e-12}
    result = train(tiny(labels=5, **quiet), init=straight, run_dir=tmp_path / "run", **given)
    assert result.steps == 5
    old, new = (read_checkpoint(run)["weights"] for run in (straight, tmp_path / "run"))
    for name in ("vae.enter.weight", "gen.leave.weight", "ali.linear.weight", "pos.leave.weight"):
        torch.testing.assert_close(new[name], old[name], atol=1e-7, rtol=0)
    with pytest.raises(HandloomError, match="differs in architecture"):
        train(tiny(labels=5, channels=5), init=straight, run_dir=tmp_path / "other", **given)


def test_the_papers_arm_without_a_label_is_refused(tmp_path: Path, recordings: Any) -> None:
    for config in (tiny("paper", labels=0), tiny("real-only", labels=0)):
        with pytest.raises(HandloomError, match="learns from labelled real frames"):
            train(config, synth=[], real=recordings.real, run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_recorded_configuration_makes_the_run_again(straight: Path) -> None:
    import yaml

    recorded = yaml.safe_load((straight / "config.yaml").read_text())
    assert preset("crossing", recorded["preset"], recorded["arm"], recorded) == tiny(
        labels=5,
        save_every=1,
        memory_mb=None,  # "auto" was decided
    )

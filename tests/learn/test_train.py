from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner
from killed_training import Killed, digest, kill_after
from torch import Tensor

from handloom.cli import main
from handloom.learn import murauer, murauer_batches
from handloom.learn import train as training
from handloom.learn.config import TrainConfig
from handloom.learn.data import load_training_data, load_validation
from handloom.learn.model import load_model, read_checkpoint
from handloom.learn.murauer_nets import Architecture
from handloom.learn.train import preset, train
from handloom.learn.updates import FiniteGuard, adam
from handloom.stores.edit import merge, repack, subset
from handloom.stores.errors import HandloomError
from handloom.stores.joints import LAYOUTS
from handloom.stores.reading import Resident
from handloom.stores.recording import CENTER_SOURCES

CPU = torch.device("cpu")
TINY = Architecture(features="plain", stem=4, channels=(8,), mid=(), feature_width=16, view_channels=(8, 4))


def tiny(arm: str = "full", **overrides: Any) -> TrainConfig:
    values: dict[str, Any] = {
        "input_px": 32,
        "architecture": TINY,
        "batch": 16,
        "pretrain_steps": 0 if arm == "real-only" else 4,
        "joint_steps": 0 if arm == "synthetic-only" else 6,
        "log_every": 2,
        "save_every": 3,
        "labels": 5,
    }
    return preset("murauer", "quick", arm, values | overrides)


@pytest.mark.parametrize("killed_after", [2, 4, 8])
def test_a_killed_and_resumed_run_has_the_same_bits(
    tmp_path: Path, recordings: SimpleNamespace, killed_after: int
) -> None:
    # Killed before the first checkpoint, in pre-training and in joint training (checkpoints at 3, 6, 9, 10).
    given = {"synth": [recordings.synth, recordings.twins], "real": recordings.real}
    train(tiny(), run_dir=tmp_path / "straight", **given)
    cut = tmp_path / "cut"
    with pytest.raises(Killed):
        train(tiny(), run_dir=cut, progress=kill_after(killed_after), **given)
    result = train(tiny(), run_dir=cut, resume=True, **given)
    assert result.steps == 10
    one, two = read_checkpoint(tmp_path / "straight"), read_checkpoint(cut)
    assert digest(one) == digest(two)

    def lines(run: Path) -> list[dict[str, float]]:
        kept = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        return [{k: v for k, v in line.items() if k != "steps_per_s"} for line in kept]

    assert lines(cut) == lines(tmp_path / "straight")
    assert [line["step"] for line in lines(cut)] == [2, 4, 6, 8, 10]


KILLED_FROM_OUTSIDE = """
import json, os, signal, sys
from pathlib import Path
from handloom.learn.train import preset, train

given = json.loads(sys.argv[1])

def progress(done, total, metrics):
    if done == 8:
        os.kill(os.getpid(), signal.SIGKILL)

train(
    preset("murauer", "quick", "full", given["config"]),
    synth=[Path(path) for path in given["synth"]],
    real=Path(given["real"]),
    run_dir=Path(given["run"]),
    progress=progress,
)
"""


def test_a_run_that_kill_9_ended_resumes_to_the_same_bits(tmp_path: Path, recordings: SimpleNamespace) -> None:
    sets, config = [recordings.synth, recordings.twins], tiny()
    train(config, synth=sets, real=recordings.real, run_dir=tmp_path / "straight")
    cut = tmp_path / "cut"
    given = {"synth": [str(path) for path in sets], "real": str(recordings.real), "run": str(cut)}
    given |= {"config": config.model_dump(mode="json")}  # type: ignore[dict-item]
    top = str(Path(__file__).parents[2] / ".dev")
    ended = subprocess.run(
        [sys.executable, "-c", KILLED_FROM_OUTSIDE, json.dumps(given)],
        env=os.environ | {"PYTHONPATH": top},
        check=False,
        timeout=120,
    )
    assert ended.returncode == -signal.SIGKILL
    assert read_checkpoint(cut)["description"]["step"] == 6
    train(config, synth=sets, real=recordings.real, run_dir=cut, resume=True)
    assert digest(read_checkpoint(cut)) == digest(read_checkpoint(tmp_path / "straight"))


def test_a_run_that_is_told_to_stop_goes_on_to_the_same_bits(tmp_path: Path, recordings: SimpleNamespace) -> None:
    given: dict[str, Any] = {"synth": [recordings.synth, recordings.twins], "real": recordings.real}
    train(tiny(), run_dir=tmp_path / "straight", **given)
    cut = tmp_path / "cut"
    for done in range(1, 10):
        result = train(tiny(), run_dir=cut, resume=True, minutes=0, **given)
        assert (result.steps, result.of_steps, result.finished) == (done, 10, False), "one step a call at the least"
        assert read_checkpoint(cut)["description"]["step"] == done
    result = train(tiny(), run_dir=cut, resume=True, minutes=60, **given)
    assert result.finished
    assert digest(read_checkpoint(tmp_path / "straight")) == digest(read_checkpoint(cut))
    log = [json.loads(line)["step"] for line in (cut / "metrics.jsonl").read_text().splitlines()]
    assert log == [2, 4, 6, 8, 10]


def test_the_command_says_how_to_go_on(tmp_path: Path, recordings: SimpleNamespace) -> None:
    values = tiny("synthetic-only").model_dump(mode="json")
    changes = [f"{name}={values[name]}" for name in ("input_px", "batch", "pretrain_steps")]
    changes.append(f"architecture={json.dumps(values['architecture'])}")
    command = ["train", "murauer", "--arm", "synthetic-only", "--synth", str(recordings.synth), "--resume"]
    command += [part for change in changes for part in ("-o", change)]
    done = CliRunner().invoke(main, [*command, "--run", str(tmp_path / "run"), "--minutes", "0"])
    assert done.exit_code == 0, done.output
    said = re.sub(r"after \d+ s", "after 0 s", done.stdout).splitlines()
    assert said[-2:] == [
        f"{tmp_path / 'run'}: 1 of 4 steps, stopped after 0 s",
        "next: the same command with --resume goes on from there",
    ]
    done = CliRunner().invoke(main, [*command, "--run", str(tmp_path / "run"), "--minutes", "9"])
    assert done.exit_code == 0, done.output
    assert f"{tmp_path / 'run'}: 4 steps in " in done.stdout


def test_how_a_step_is_computed_may_change_on_a_resume(tmp_path: Path, recordings: SimpleNamespace) -> None:
    given: dict[str, Any] = {"synth": [recordings.synth], "real": None, "run_dir": tmp_path / "run"}
    train(tiny("synthetic-only"), minutes=0, **given)
    old = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    for name in ("precision", "channels_last", "graph", "compile"):  # as a run of an earlier version
        del old[name]
    (tmp_path / "run" / "config.yaml").write_text(yaml.safe_dump(old))
    assert train(tiny("synthetic-only", precision="bf16"), resume=True, **given).finished
    assert load_model(tmp_path / "run").description["execution"]["precision"] == "bf16"


def test_another_seed_has_other_bits(tmp_path: Path, recordings: SimpleNamespace) -> None:
    runs = [tmp_path / str(seed) for seed in (0, 1)]
    for seed, run in enumerate(runs):
        train(tiny("synthetic-only", seed=seed), synth=[recordings.synth], real=None, run_dir=run)
    one, two = (read_checkpoint(run)["weights"] for run in runs)
    assert digest(one) != digest(two)


def test_a_run_says_what_it_was(tmp_path: Path, recordings: SimpleNamespace) -> None:
    run = tmp_path / "run"
    seen: list[tuple[int, int]] = []
    result = train(
        tiny(),
        synth=[recordings.synth, recordings.twins],
        real=recordings.real,
        run_dir=run,
        val=recordings.real,
        progress=lambda done, total, metrics: seen.append((done, total)),
    )
    assert seen == [(2, 10), (4, 10), (6, 10), (8, 10), (10, 10)]
    assert result.metrics["step"] == 10
    assert 20 < result.metrics["val/mean_mm"] < 300
    assert any(name.startswith("grad_m/") for name in result.metrics)
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert preset("murauer", config["preset"], config["arm"], config) == tiny(memory_mb=None)  # 'auto' was decided
    frames = [int(line) for line in (run / "labelled_frames.txt").read_text().split()]
    assert len(frames) == 5
    sources = json.loads((run / "data.json").read_text())
    assert sources["labelled_frames"] == frames
    again = load_training_data(
        tiny(labels=run / "labelled_frames.txt"),
        synth=[recordings.synth, recordings.twins],
        real=recordings.real,
        device=CPU,
    )
    assert again.sources["labelled_frames"] == frames


def test_a_joint_run_starts_from_a_synthetic_one(tmp_path: Path, recordings: SimpleNamespace) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    train(tiny("synthetic-only"), synth=[recordings.synth], real=None, run_dir=first)
    given = {"synth": [recordings.synth], "real": recordings.real, "init": first}
    frozen = tiny(labels=0, learning_rate=1e-12, weight_decay=0.0)
    with pytest.raises(Killed):
        train(frozen, run_dir=second, progress=kill_after(4), **given)
    result = train(frozen, run_dir=second, resume=True, **given)
    assert result.steps == 6, "its own pre-training is left out"
    old, new = (read_checkpoint(run)["weights"]["pose.second.weight"] for run in (first, second))
    assert torch.allclose(old, new, atol=1e-8)


@pytest.mark.parametrize("arm", ["full", "real-only"])
def test_labels_of_other_frames_and_splits_are_invisible(
    tmp_path: Path, toy: SimpleNamespace, recordings: SimpleNamespace, captured: Resident, arm: str
) -> None:
    data = load_training_data(tiny(arm), synth=[recordings.synth, recordings.twins], real=recordings.real, device=CPU)
    assert data.real is not None
    assert data.real.frames == 24, "test frames are not loaded"
    known = torch.isfinite(data.real.joints_mm).all(dim=2).all(dim=1)
    assert known.sum() == 5
    assert set(torch.nonzero(known)[:, 0].tolist()) == set(data.labelled.tolist())
    assert set(data.real.frame_id.tolist()) == set(captured.frame_id[:24].tolist())


def test_more_labels_include_fewer(recordings: SimpleNamespace) -> None:
    chosen = []
    for n in (3, 9):
        data = load_training_data(tiny("real-only", labels=n), synth=[], real=recordings.real, device=CPU)
        chosen.append(set(data.sources["labelled_frames"]))
    assert chosen[0] < chosen[1]
    other = load_training_data(tiny("real-only", labels=9, label_seed=5), synth=[], real=recordings.real, device=CPU)
    assert set(other.sources["labelled_frames"]) != chosen[1]
    share = load_training_data(tiny("real-only", labels="12.5%"), synth=[], real=recordings.real, device=CPU)
    assert set(share.sources["labelled_frames"]) == chosen[0], "12.5 % of 24 training frames"
    with pytest.raises(HandloomError, match="asks for more labelled frames"):
        load_training_data(tiny("real-only", labels="150%"), synth=[], real=recordings.real, device=CPU)


def test_twins_are_found_and_may_be_incomplete(recordings: SimpleNamespace) -> None:
    data = load_training_data(
        tiny(labels=None), synth=[recordings.synth, recordings.twins], real=recordings.real, device=CPU
    )
    assert data.n_labels == 24
    assert data.twin_of.tolist() == [*range(12), *[-1] * 12]
    assert data.synth is not None
    assert data.synth.frames == 48, "twins are not among the synthetic frames"
    assert data.sources["centers"] == "located"


def test_twins_of_frames_whose_labels_are_hidden_are_not_read(recordings: SimpleNamespace) -> None:
    """A labelled frame without a twin takes another's, which was any frame's: the pose of a hidden label."""
    synth = [recordings.synth, recordings.twins]
    for n in (4, 9):
        data = load_training_data(tiny(labels=n), synth=synth, real=recordings.real, device=CPU)
        assert data.twins is not None
        twinned = sum(frame < 12 for frame in data.labelled.tolist())
        assert data.twins.frames == twinned
        assert sorted(place for place in data.twin_of.tolist() if place >= 0) == list(range(twinned))


def test_twins_stay_those_of_an_edited_recording(tmp_path: Path, recordings: SimpleNamespace) -> None:
    """An edit gives a new uuid: its twins were taken for another recording's."""
    synth = [recordings.synth, recordings.twins]
    again = repack(recordings.real, tmp_path / "again.zarr").path
    some = subset(recordings.real, tmp_path / "some.zarr", rows=np.arange(3, 24)).path
    data = load_training_data(tiny(labels=None), synth=synth, real=again, device=CPU)
    assert data.twin_of.tolist() == [*range(12), *[-1] * 12]
    data = load_training_data(tiny(labels=None), synth=synth, real=some, device=CPU)
    assert data.twin_of.tolist() == [*range(9), *[-1] * 12], "three twins show frames that were left out"


def test_twins_of_renumbered_frames_are_refused(
    tmp_path: Path, toy: SimpleNamespace, recordings: SimpleNamespace, captured: Resident
) -> None:
    other = toy.write(tmp_path / "other.zarr", captured)
    both = merge([other, recordings.real], tmp_path / "both.zarr", renumber=True).path
    synth = [recordings.synth, recordings.twins]
    with pytest.raises(HandloomError, match="renumbered after these twins were made"):
        load_training_data(tiny(labels=None), synth=synth, real=both, device=CPU)
    twins = merge([recordings.twins], tmp_path / "twins.zarr", real=both).path
    data = load_training_data(tiny(labels=None), synth=[recordings.synth, twins], real=both, device=CPU)
    paired = [(label, twin) for label, twin in zip(data.labelled.tolist(), data.twin_of.tolist(), strict=True)]
    assert [label for label, twin in paired if twin >= 0] == list(range(len(captured), len(captured) + 12))
    assert data.synth.offset_mm.unique().tolist() == [15.0]
    assert data.real is not None
    assert data.real.offset_mm.unique().tolist() == [15.0]


def test_synthetic_labels_convert_to_another_layout(tmp_path: Path, recordings: SimpleNamespace) -> None:
    run = tmp_path / "run"
    train(tiny("synthetic-only", layout="nyu14"), synth=[recordings.synth], real=None, run_dir=run)
    model = load_model(run)
    assert model.layout.name == "nyu14"
    assert model.predict_mm(torch.ones(3, 1, 32, 32)).shape == (3, 14, 3)


def test_unlabelled_share_takes_part_of_the_frames(recordings: SimpleNamespace) -> None:
    counts = []
    for share in (0.0, 0.25, 1.0):
        data = load_training_data(
            tiny("+view-prediction", labels=0, unlabelled_share=share),
            synth=[recordings.synth],
            real=recordings.real,
            device=CPU,
        )
        counts.append(len(data.unlabelled))
    assert counts == [0, 6, 24]


N0 = {"arm": "full", "labels": 0}
REFUSALS: list[tuple[dict[str, Any], list[str], str | None, str, str]] = [
    ({"arm": "full"}, ["synth"], "real", "no synthetic twins", "handloom synth twin"),
    ({"arm": "full"}, ["synth"], None, "a real recording, and none is given", "--real"),
    ({"arm": "full"}, [], "real", "synthetic data, and none is given", "handloom synth run"),
    ({"arm": "real-only", "labels": 0}, [], "real", "none to learn from", "--labels"),
    ({"arm": "real-only", "labels": 25}, [], "real", "more labelled frames", "0 to 24"),
    ({"arm": "real-only"}, [], "unlabelled", "more labelled frames", "0 to 0"),
    (N0, ["mono"], "real", "at least two cameras", "+distribution"),
    (N0, ["synth"], "mono", "at least two cameras", "one view"),
    (N0, ["synth"], "left", "different hands", "--side left"),
    (N0, ["synth"], "small", "different sizes", "96 px"),
    ({"arm": "full", "labels": 3}, ["synth", "alien"], "real", "another recording", "synth twin"),
    (N0, ["synth", "mono"], "real", "numbers of cameras", "one rig"),
    ({"arm": "synthetic-only", "layout": "nyu14"}, ["mano"], None, "cannot train", "--layout"),
    ({"arm": "full"}, ["nowhere"], "real", "There is no recording", "nowhere"),
]  # fmt: skip


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory, toy: SimpleNamespace, recordings: SimpleNamespace) -> dict[str, Path]:
    """Recordings that do not go with the others."""
    folder = tmp_path_factory.mktemp("odd")
    plain: Resident = toy.resident(7, 3)
    small = replace(plain, crop=plain.crop[..., ::2, ::2].copy(), center_source=plain.center_source + 1)
    mano = replace(plain, layout=LAYOUTS["mano21"], joints=plain.joints[:, :21])  # type: ignore[index]
    twin = replace(plain, twin=plain.frame_id)
    made = {
        "mono": toy.write(folder / "mono.zarr", toy.resident(8, 3, views=1)),
        "left": toy.write(folder / "left.zarr", plain, hand="left"),
        "small": toy.write(folder / "small.zarr", small),
        "mano": toy.write(folder / "mano.zarr", mano),
        "alien": toy.write(folder / "alien.zarr", twin, twins_of="somebody"),
        "nowhere": folder / "nowhere",
    }
    return made | {name: getattr(recordings, name) for name in ("synth", "real", "twins", "unlabelled")}


@pytest.mark.parametrize(("config", "synth", "real", "what", "also"), REFUSALS)
def test_data_that_do_not_go_together_are_refused_before_the_first_step(
    tmp_path: Path,
    odd: dict[str, Path],
    config: dict[str, Any],
    synth: list[str],
    real: str | None,
    what: str,
    also: str,
) -> None:
    run = tmp_path / "run"
    with pytest.raises(HandloomError, match=what) as caught:
        train(
            tiny(**config),
            synth=[odd[name] for name in synth],
            real=odd[real] if real else None,
            run_dir=run,
        )
    assert also in str(caught.value)
    assert not run.exists(), "nothing is written before the data are known to be good"


def test_one_camera_trains_without_view_prediction(tmp_path: Path, odd: dict[str, Path]) -> None:
    config = tiny("+distribution-matching", labels=0)
    train(config, synth=[odd["mono"]], real=odd["mono"], run_dir=tmp_path / "run")
    assert load_model(tmp_path / "run").arm == "+distribution-matching"


def test_existing_runs_are_kept(tmp_path: Path, recordings: SimpleNamespace) -> None:
    run = tmp_path / "run"
    config = tiny("synthetic-only")
    given: dict[str, Any] = {"synth": [recordings.synth], "real": None, "run_dir": run}
    train(config, **given)
    before = digest(read_checkpoint(run))
    with pytest.raises(HandloomError, match="The run exists"):
        train(config, **given)
    with pytest.raises(HandloomError, match="batch = 16, now it is 32"):
        train(tiny("synthetic-only", batch=32), resume=True, **given)
    with pytest.raises(HandloomError, match="other data: 'synth' differs"):
        train(config, resume=True, **(given | {"synth": [recordings.synth, recordings.synth]}))
    with pytest.raises(HandloomError, match="none is given"):
        train(config, overwrite=True, **(given | {"synth": []}))
    assert digest(read_checkpoint(run)) == before
    assert train(config, resume=True, **given).steps == 4, "a finished run resumes to itself"
    assert digest(read_checkpoint(run)) == before
    train(tiny("synthetic-only", seed=3), overwrite=True, **given)
    assert digest(read_checkpoint(run)) != before
    other = tmp_path / "papers"
    other.mkdir()
    (other / "thesis.txt").write_text("years of work")
    with pytest.raises(HandloomError, match="is not a run"):
        train(config, overwrite=True, **(given | {"run_dir": other}))
    assert (other / "thesis.txt").exists()


def test_a_run_that_stops_leaves_its_last_checkpoint(
    tmp_path: Path, recordings: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    given: dict[str, Any] = {"synth": [recordings.synth], "real": None, "run_dir": run}
    original = murauer_batches.Batches.pretraining

    def spoil(self: Any, step: int) -> Any:
        batch = original(self, step)
        if step == 3:
            batch.joints[[2, 5]] = torch.inf
        return batch

    monkeypatch.setattr(murauer_batches.Batches, "pretraining", spoil)
    with pytest.raises(HandloomError, match="pose loss is not finite") as caught:
        train(tiny("synthetic-only"), **given)
    listed = json.loads((run / "not_finite.json").read_text())
    assert (listed["step"], listed["term"], len(listed["samples"])) == (3, "pose loss", 16)
    bad = [sample for sample in listed["samples"] if not sample["finite"]]
    assert [listed["samples"].index(sample) for sample in bad] == [2, 5]
    named = ", ".join(f"frame {s['frame_id']} camera {s['camera']} (pretraining)" for s in bad)
    assert f"step 3: {named}; all in {run / 'not_finite.json'}" in str(caught.value)
    assert "2 of its 16 samples have depths or joints that are not finite" in str(caught.value)
    state = read_checkpoint(run)
    assert state["description"]["step"] == 3
    assert all(torch.isfinite(v).all() for v in state["weights"].values())


def test_networks_that_diverge_are_told_from_bad_data(
    tmp_path: Path, recordings: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = murauer.Learner._joint_step

    def spoil(self: Any, step: int, *, log: bool) -> Any:
        if step == 2:
            self.nets.view.last.weight.data[0] = torch.nan
        return original(self, step, log=log)

    monkeypatch.setattr(murauer.Learner, "_joint_step", spoil)
    with pytest.raises(HandloomError, match="view loss is not finite") as caught:
        train(tiny(), synth=[recordings.synth, recordings.twins], real=recordings.real, run_dir=tmp_path / "run")
    listed = json.loads((tmp_path / "run" / "not_finite.json").read_text())
    assert listed["step"] == 4 + 2, "over both stages"
    assert {sample["sub_batch"] for sample in listed["samples"]} == {"view_real", "view_synth"}
    assert all(sample["finite"] for sample in listed["samples"])
    assert "the networks diverged" in str(caught.value)
    assert "lower the learning rate" in str(caught.value)


def test_devices_are_checked() -> None:
    assert training.pick_device("cpu") == CPU
    with pytest.raises(HandloomError, match="no device"):
        training.pick_device("abacus")
    if not torch.cuda.is_available():
        with pytest.raises(HandloomError, match="no CUDA device") as caught:
            training.pick_device("cuda")
        assert caught.value.exit_code == 3
        assert training.pick_device("auto") == CPU


def test_validation_measures_millimetres(recordings: SimpleNamespace) -> None:
    data = load_training_data(tiny("synthetic-only"), synth=[recordings.synth], real=None, device=CPU)
    validation = load_validation(recordings.real, tiny("synthetic-only"), data)
    assert len(validation.crops) == 32 * 3

    class Centre(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.zeros(len(x), 26, 3)

    bank = validation.bank
    joints = bank.joints_camera(validation.crops) - bank.center_mm[validation.crops][:, None]
    expected = float(joints.norm(dim=-1).mean())
    assert validation.mean_error_mm(Centre()) == pytest.approx(expected, rel=1e-4)
    assert 30 < expected < 150
    assert np.isfinite(expected)


def test_overrides_replace_only_what_they_name() -> None:
    plain = preset("murauer", "quick", "full")
    changed = preset("murauer", "quick", "full", {"weights": {"view": 3e-4}, "architecture": {"stem": 4}})
    before, after = plain.model_dump(), changed.model_dump()
    assert after["weights"] == before["weights"] | {"view": 3e-4}
    assert after["architecture"] == before["architecture"] | {"stem": 4}
    assert {k for k in before if before[k] != after[k]} == {"weights", "architecture"}
    with pytest.raises(HandloomError, match=r"weights\.veiw"):
        preset("murauer", "quick", "full", {"weights": {"veiw": 3e-4}})
    with pytest.raises(HandloomError, match="of another arm"):
        preset("murauer", "quick", "full", plain.model_dump() | {"arm": "control"})


def test_crops_of_low_score_are_not_trained_on(tmp_path: Path, toy: SimpleNamespace, captured: Resident) -> None:
    source = captured.center_source.copy()
    source[4] = CENTER_SOURCES.index("truth")
    score = np.full(source.shape, 0.9, np.float32)
    score[1, 2], score[3, 0], score[4, 0] = 0.1, 0.29, 0.0  # a true centre needs no score
    path = toy.write(tmp_path / "unsure.zarr", replace(captured, center_source=source), center_score=score)
    chosen = tmp_path / "labels.txt"
    chosen.write_text(f"{captured.frame_id[3]}\n{captured.frame_id[5]}\n")
    data = load_training_data(tiny("real-only", labels=chosen), synth=[], real=path, device=CPU)
    assert data.real is not None
    # That of frame 3 stays: its label says where the hand is.
    assert data.sources["crops_of_low_score"] == 1
    assert torch.nonzero(~data.real.present)[:, 0].tolist() == [1 * 3 + 2]
    every = tiny("real-only", labels=chosen, min_center_score=0.0)
    assert load_training_data(every, synth=[], real=path, device=CPU).sources["crops_of_low_score"] == 0


def test_labelled_crops_off_the_hand_are_not_trained_on(
    tmp_path: Path, toy: SimpleNamespace, captured: Resident
) -> None:
    # A hand finder that takes the elbow for the hand in one view of two frames; the label tells.
    center = captured.center.copy()
    center[2, 1, 0] += 250
    center[5, 0, 2] += 250
    moved = toy.write(tmp_path / "moved.zarr", replace(captured, center=center))
    data = load_training_data(tiny("real-only", labels=None), synth=[], real=moved, device=CPU)
    assert data.real is not None
    assert data.sources["labelled_crops_off_the_hand"] == 2
    assert torch.nonzero(~data.real.present)[:, 0].tolist() == [2 * 3 + 1, 5 * 3]
    few = load_training_data(tiny("real-only", labels=3), synth=[], real=moved, device=CPU)
    assert few.sources["labelled_crops_off_the_hand"] <= 2, "only labels that may be seen tell"


def test_on_a_gpu_the_update_is_skipped_and_the_loop_told_later() -> None:
    # The same tensors on the CPU: what differs there is only that nobody looks at them at each step.
    guard = FiniteGuard(CPU)
    guard.looks = False
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = adam([weight])

    def step(number: int, loss: Tensor) -> None:
        guard.begin(number, 0.1)
        guard.check({"pose loss": loss})
        optimizer.zero_grad()
        loss.backward()
        guard.update(optimizer, name="f")

    step(0, weight.square().sum())
    guard.raise_if_found()
    kept = weight.detach().clone()
    assert not torch.equal(kept, torch.ones(3))
    step(1, weight.square().sum() * torch.inf)
    step(2, weight.square().sum())
    assert torch.equal(weight.detach(), kept), "no update after the first bad one, not even a good one"
    with pytest.raises(HandloomError, match="pose loss is not finite") as caught:
        guard.raise_if_found()
    assert "step 1" in str(caught.value)

"""Two processes (gloo) train the run that one would; a process of each rank does all jobs, started once."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from handloom.learn import crossing, crossing_nets, murauer, murauer_updates, preview
from handloom.learn.data import load_training_data
from handloom.learn.model import read_checkpoint
from handloom.learn.murauer_batches import REAL, make_stream
from handloom.learn.murauer_losses import pose_loss
from handloom.learn.murauer_nets import Groups
from handloom.learn.ranks import ALONE, Launch, Ranks, joined, launched
from handloom.learn.train import preset, train
from handloom.stores.errors import HandloomError

CPU = torch.device("cpu")
TINY = {"features": "plain", "stem": 4, "channels": [8], "mid": [], "feature_width": 16, "view_channels": [8, 4]}
MURAUER = {
    "input_px": 32,
    "architecture": TINY,
    "batch": 16,
    "pretrain_steps": 4,
    "joint_steps": 6,
    "log_every": 1,
    "save_every": 3,
    "labels": 5,
    "memory_mb": None,
    "learning_rate": 1e-3,
}
CROSSING = {
    "input_px": 32,
    "channels": 4,
    "batch": 8,
    "gan_batch": 8,
    "align_rate": 1e-3,
    "joint_rate": 1e-3,
    "vae_batch": 16,
    "vae_steps": 3,
    "gan_steps": 2,
    "align_steps": 2,
    "joint_steps": 3,
    "log_every": 1,
    "labels": 5,
    "memory_mb": None,
}
TOLERANCE = 1e-5
"""Of a loss, relative; rounding differs by 5e-7 or less over these steps."""
PAIR = (Ranks(0, 2), Ranks(1, 2))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def environment(rank: int, **more: str) -> dict[str, str]:
    """Of a rank of two; whatever the test itself was started with is left out."""
    top = Path(__file__).parents[2]
    names = ("PATH", "HOME", "TMPDIR", "NUMBA_CACHE_DIR", "VIRTUAL_ENV")
    kept = {name: os.environ[name] for name in names if name in os.environ}
    given = {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    return kept | given | {"PYTHONPATH": str(top / ".dev"), "OMP_NUM_THREADS": "1"} | more


# --- one process with the batch normalisation of two ---


def halves(self: Any, sizes: Mapping[str, int]) -> Groups:
    """The groups of `sizes`, each as the two that two ranks make of it; running statistics are their mean."""
    real = [name in REAL for name in sizes]
    plain = Groups.of(list(sizes.values()), real, domains=1, device=CPU)
    split = tuple(n // 2 for n in sizes.values() for _ in PAIR)
    return Groups(split, plain.weight.repeat_interleave(2, dim=1) / 2, plain.keep)


def normalise_as_two(learner: crossing.Learner) -> None:
    """Give every batch normalisation of Crossing Nets the statistics of each rank's own rows."""
    n = learner.labelled.sizes
    generator = {*learner.nets.gen.modules(), *learner.nets.ali.modules()}
    original = crossing_nets.BatchNorm.forward

    def split(module: crossing_nets.BatchNorm, x: Tensor, track: bool) -> Tensor:
        if not module.training:
            return original(module, x, track)
        captured = module not in generator and (track or not torch.is_grad_enabled())
        sizes = n
        if len(x) == 2 * sum(n):  # joint: labelled and unlabelled images; or images of Z_l and of Z_r
            sizes = [*n, sum(n)] if captured and learner.updates.stage == "joint" else [*n, *n]
        out, before = torch.empty_like(x), (module.mean.clone(), module.variance.clone())
        after = []
        for ranks in PAIR:
            module.mean, module.variance = (value.clone() for value in before)
            rows = ranks.rows(sizes, CPU)
            out = out.index_copy(0, rows, original(module, x[rows], track))
            after.append((module.mean, module.variance))
        module.mean, module.variance = ((one + other) / 2 for one, other in zip(*after, strict=True))
        return out

    for module in learner.nets.modules():
        if isinstance(module, crossing_nets.BatchNorm):
            module.forward = split.__get__(module)  # type: ignore[method-assign]


# --- what two processes do ---


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory, recordings: SimpleNamespace) -> SimpleNamespace:
    """Folder of the runs, and the exit codes of both ranks."""
    folder = tmp_path_factory.mktemp("two")
    sets, real = [str(recordings.synth), str(recordings.twins)], str(recordings.real)
    full = {"method": "murauer", "arm": "full", "values": MURAUER, "synth": sets, "real": real}
    synthetic = full | {
        "arm": "synthetic-only",
        "values": MURAUER | {"joint_steps": 0},
        "synth": sets[:1],
        "real": None,
    }
    game = {"method": "crossing", "arm": "full", "values": CROSSING, "synth": sets[:1], "real": real}
    steps = {"steps": 3, "batch": 8, "labels": 5, "log_every": 1}
    preview = {"method": "murauer", "arm": "preview", "values": steps, "synth": [], "real": real}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(murauer_updates.Updates, "_groups", halves)
        run_one(full, folder / "one")
        with pytest.raises(KeyboardInterrupt):
            run_one(full, folder / "one_to_two", stop=7)
    jobs = {
        "murauer": full | {"val": real},
        "two_to_one": full | {"stop": 7},
        "one_to_two": full | {"resume": True},
        "crossing": game,
        "preview": preview,
        "uneven": full | {"values": MURAUER | {"batch": 12}},
        "other_data": synthetic | {"synth_of_rank_one": sets[:1] * 2},
        "no_file": full | {"real_of_rank_one": str(folder / "nowhere")},
        "spoiled": synthetic | {"spoil": 2},
        "died": synthetic | {"die": 2},
    }
    listed = folder / "jobs.json"
    listed.write_text(
        json.dumps([job | {"run": str(folder / name), "port": free_port()} for name, job in jobs.items()])
    )
    worker = Path(__file__).with_name("ranks_worker.py")
    running = [
        subprocess.Popen(
            [sys.executable, str(worker), str(listed)], env=environment(rank), stderr=subprocess.PIPE, text=True
        )
        for rank in (0, 1)
    ]
    errors = [process.communicate(timeout=300)[1] for process in running]
    codes = [process.returncode for process in running]
    assert codes == [0, -signal.SIGKILL], "\n".join(errors)
    return SimpleNamespace(folder=folder, sets=sets, real=real, full=full, game=game)


def run_one(job: Mapping[str, Any], run: Path, *, stop: int = 0, resume: bool = False) -> None:
    def progress(done: int, total: int, metrics: Mapping[str, float]) -> None:
        if done == stop:
            raise KeyboardInterrupt

    train(
        preset(job["method"], "quick", job["arm"], job["values"]),
        synth=[Path(path) for path in job["synth"]],
        real=Path(job["real"]),
        run_dir=run,
        resume=resume,
        progress=progress,
    )


def ended(two: SimpleNamespace, name: str) -> list[str]:
    """What each rank said of a job."""
    return [(two.folder / f"{name}.rank{rank}").read_text() for rank in (0, 1)]


def lines(run: Path) -> list[dict[str, float]]:
    kept = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("steps_per_s", "val/mean_mm")} for line in kept]


def assert_same_losses(one: list[dict[str, float]], other: list[dict[str, float]], *, tolerance: float) -> None:
    assert [line["step"] for line in one] == [line["step"] for line in other] == list(range(1, len(one) + 1))
    for a, b in zip(one, other, strict=True):
        assert a.keys() == b.keys()
        for name, value in a.items():
            assert b[name] == pytest.approx(value, rel=tolerance, abs=1e-7), (a["step"], name)


def test_two_ranks_make_the_run_of_one_with_twice_the_groups(two: SimpleNamespace) -> None:
    assert ended(two, "murauer") == ["done", "done"]
    one, both = two.folder / "one", two.folder / "murauer"
    assert_same_losses(lines(one), lines(both), tolerance=TOLERANCE)
    expected, found = read_checkpoint(one)["weights"], read_checkpoint(both)["weights"]
    for name, value in expected.items():
        if "running" in name:  # what both ranks saw
            assert torch.allclose(found[name], value, rtol=2e-3, atol=2e-4), name


def test_without_the_groups_it_is_another_run(two: SimpleNamespace, tmp_path: Path) -> None:
    """What the comparison above can tell apart."""
    run_one(two.full, tmp_path / "plain")
    plain, both = lines(tmp_path / "plain"), lines(two.folder / "murauer")
    apart = [abs(a["loss/pose"] / b["loss/pose"] - 1) for a, b in zip(plain, both, strict=True)]
    assert max(apart) > 10 * TOLERANCE


def test_a_run_goes_on_with_fewer_processes(two: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    run = two.folder / "two_to_one"
    said = ended(two, "two_to_one")
    assert said[0] == "stopped after 7 steps"
    assert said[1].startswith("Stopped, because rank 0 did: stopped after 7 steps")
    assert read_checkpoint(run)["description"]["step"] == 6
    monkeypatch.setattr(murauer_updates.Updates, "_groups", halves)
    run_one(two.full, run, resume=True)
    assert_same_losses(lines(two.folder / "one"), lines(run), tolerance=TOLERANCE)


def test_a_run_goes_on_with_more_processes(two: SimpleNamespace) -> None:
    assert ended(two, "one_to_two") == ["done", "done"]
    assert_same_losses(lines(two.folder / "one"), lines(two.folder / "one_to_two"), tolerance=TOLERANCE)


def test_the_games_of_crossing_nets_are_those_of_one_process(
    two: SimpleNamespace, request: pytest.FixtureRequest
) -> None:
    assert ended(two, "crossing") == ["done", "done"]
    config = preset("crossing", "quick", "full", CROSSING)
    data = load_training_data(config, synth=[Path(two.sets[0])], real=Path(two.real), device=CPU)
    learner = crossing.Learner(config, data)  # type: ignore[arg-type]
    normalise_as_two(learner)
    learner.nets.train()
    threads = torch.get_num_threads()
    request.addfinalizer(lambda: torch.set_num_threads(threads))
    torch.set_num_threads(1)  # as each rank
    one = []
    for index in range(learner.total_steps):
        terms = learner.step(index, log=True)
        one.append({"step": index + 1} | {name: float(value) for name, value in terms.items()})
    both = lines(two.folder / "crossing")
    for line in [*one, *both]:
        # Of the pairs in a rank's own batch, and by a rank's own running statistics.
        for name in ("gan/diversity", "gan/collapsed", "space/reconstruction"):
            line.pop(name, None)
    # Until the heads' first update they agree as above. Then Adam makes steps of whole size out of gradients that
    # are zero but for rounding (phi's bias cancels in differences): a change of 1e-7 in the initial weights of one
    # process alone changes these losses by up to 2e-5.
    assert_same_losses(one[:6], both[:6], tolerance=TOLERANCE)
    assert_same_losses(one, both, tolerance=2e-4)


def test_a_batch_that_cannot_be_shared_is_refused(two: SimpleNamespace) -> None:
    first, second = ended(two, "uneven")
    assert first.startswith("3 samples cannot be shared by 2 processes")
    assert "-o batch=" in first
    assert second.startswith("Stopped, because rank 0 did: 3 samples cannot be shared")
    assert not (two.folder / "uneven").exists()


def test_ranks_with_other_recordings_stop(two: SimpleNamespace) -> None:
    for text in ended(two, "other_data"):
        assert "The processes do not train the same" in text
        assert "another data" in text
    assert not (two.folder / "other_data").exists()


def test_the_preview_arm_is_shared(two: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ended(two, "preview") == ["done", "done"]
    config = preset("murauer", "quick", "preview", {"steps": 3, "batch": 8, "labels": 5, "memory_mb": None})
    data = load_training_data(config, synth=[], real=Path(two.real), device=CPU)
    learner = preview.Learner(config, data)  # type: ignore[arg-type]
    # Its batch is pairs of any frames, then of labelled ones: the ranks' rows are no halves but 0 1 4 5 and 2 3 6 7.
    rows = torch.cat([ranks.rows([4, 4], CPU) for ranks in PAIR])
    original = preview.GroupedBatchNorm.forward

    def split(self: Any, x: Tensor, groups: Groups, domain: int = -1) -> Tensor:
        return torch.empty_like(x).index_copy(0, rows, original(self, x[rows], groups, domain))

    monkeypatch.setattr(preview.GroupedBatchNorm, "forward", split)
    plain = learner.groups
    learner.groups = Groups((4, 4), plain.weight.repeat(1, 2) / 2, plain.keep)
    # Equal groups are interleaved by the decoder; here the rows are put in order around each normalisation instead.
    monkeypatch.setattr(Groups, "equal", False)
    learner.nets.train()
    one = []
    for index in range(3):
        terms = learner.step(index, log=True)
        one.append({"step": index + 1} | {name: float(value) for name, value in terms.items()})
    assert_same_losses(one, lines(two.folder / "preview"), tolerance=1e-4)


def test_a_rank_that_cannot_read_its_data_stops_all(two: SimpleNamespace) -> None:
    first, second = ended(two, "no_file")
    assert first.startswith("Stopped, because rank 1 did: There is no recording")
    assert second.startswith("There is no recording")
    assert not (two.folder / "no_file").exists()


def test_a_label_that_is_not_finite_on_one_rank_stops_all_before_the_update(two: SimpleNamespace) -> None:
    first, second = ended(two, "spoiled")
    assert first.startswith("Training stopped: the pose loss is not finite")
    assert "1 of its 16 samples have depths or joints that are not finite" in first
    assert second.startswith("Stopped, because rank 0 did: Training stopped: the pose loss is not finite")
    listed = json.loads((two.folder / "spoiled" / "not_finite.json").read_text())
    (bad,) = [sample for sample in listed["samples"] if not sample["finite"]]
    assert f"frame {bad['frame_id']} camera {bad['camera']} (pretraining)" in first
    assert listed["samples"].index(bad) == 8 + 3, "the fourth of the second rank's half"
    assert listed["step"] == 2
    assert not (two.folder / "spoiled" / "checkpoint.pt").exists()


def test_a_rank_that_is_killed_ends_the_other_in_words(two: SimpleNamespace) -> None:
    text = (two.folder / "died.rank0").read_text()
    assert text.startswith("Another process is gone or does not answer")
    assert "--resume" in text
    assert not (two.folder / "died.rank1").exists()


def test_a_rank_that_nobody_meets_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    port = str(free_port())
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}.items():
        monkeypatch.setenv(name, value)
    with (
        pytest.raises(HandloomError, match="not all 2 came within 1 s") as caught,
        joined(launched(), CPU, timeout_s=1),
    ):
        pass
    assert f"MASTER_PORT = {port}" in str(caught.value)
    assert caught.value.exit_code == 3


@pytest.mark.slow
def test_torchrun_trains_and_one_process_goes_on(tmp_path: Path, recordings: SimpleNamespace) -> None:
    run = tmp_path / "run"
    steps = ["pretrain_steps=6", "joint_steps=0", "log_every=2", "save_every=2", "batch=8"]
    command = ["train", "murauer", "--arm", "synthetic-only", "--synth", str(recordings.synth), "--run-dir", str(run)]
    command += [word for step in steps for word in ("-o", step)]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    given: dict[str, Any] = {
        "env": {name: value for name, value in environment(0).items() if name not in STARTED},
        "capture_output": True,
        "text": True,
        "timeout": 200,
    }
    done = subprocess.run([*torchrun, "-m", "handloom", *command], check=False, **given)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0].startswith(f"{run}: 6 steps in ")
    assert done.stdout.count("steps in") == 1, "only rank 0 speaks"
    assert [line["step"] for line in lines(run)] == [2, 4, 6]
    again = subprocess.run([*torchrun, "-m", "handloom", *command], check=False, **given)
    assert again.returncode == 1
    assert again.stderr.count("error: The run exists") == 1
    alone = subprocess.run([sys.executable, "-m", "handloom", *command, "--resume"], check=False, **given)
    assert alone.returncode == 0, alone.stderr


# --- shares ---


@pytest.mark.parametrize("count", [1, 2, 4])
def test_every_crop_is_drawn_once_an_epoch_by_all_ranks_together(count: int, recordings: SimpleNamespace) -> None:
    config = preset("murauer", "quick", "synthetic-only", MURAUER | {"joint_steps": 0})
    data = load_training_data(config, synth=[recordings.synth], real=None, device=CPU)
    assert data.synth is not None
    items = data.synth.singles()
    streams = [make_stream(config, "synth", data.synth, items, 8, ranks=Ranks(rank, count)) for rank in range(count)]
    whole = make_stream(config, "synth", data.synth, items, 8)
    assert whole is not None
    steps, drawn = len(items) // 8, []
    for step in range(2 * steps):
        parts = [stream.draw(step) for stream in streams if stream is not None]
        expected = whole.draw(step)
        assert torch.equal(torch.cat([part.place for part in parts]), expected.place)
        assert torch.equal(torch.cat([p.geometry.roll_rad for p in parts]), expected.geometry.roll_rad)
        assert torch.equal(torch.cat([p.geometry.center_mm for p in parts]), expected.geometry.center_mm)
        drawn += [part.place for part in parts]
    for epoch in torch.cat(drawn).split(len(items)):
        assert sorted(epoch.tolist()) == list(range(len(items)))


def test_ranks_cut_the_images_of_one_process(recordings: SimpleNamespace) -> None:
    config = preset("murauer", "quick", "full", MURAUER)
    data = load_training_data(config, synth=[recordings.synth, recordings.twins], real=recordings.real, device=CPU)
    alone, *pair = (murauer.Learner(config, data, ranks) for ranks in (ALONE, *PAIR))  # type: ignore[arg-type]
    whole, parts = alone.batches.joint(3), [learner.batches.joint(3) for learner in pair]
    for name, images in whole.images.items():
        assert torch.equal(torch.cat([part.images[name] for part in parts]), images), name
    for name, known in whole.labelled.items():
        assert torch.equal(torch.cat([part.labelled[name].joints for part in parts]), known.joints), name


def test_a_mean_over_few_known_joints_counts_those_of_all_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    predicted, joints = (torch.from_numpy(rng.normal(size=(8, 4, 3))) for _ in range(2))
    known = torch.from_numpy(rng.random((8, 4)) < 0.2)
    known[:4] = False
    known[0, 0] = True
    assert known[:4].sum() == 1
    assert known[4:].sum() > 2
    monkeypatch.setattr(Ranks, "total", lambda self, value: known.sum() * 3)
    parts = [pose_loss(*(x[ranks.part(8)] for x in (predicted, joints, known)), ranks) for ranks in PAIR]  # type: ignore[call-arg]
    assert torch.stack(parts).mean().item() == pytest.approx(pose_loss(predicted, joints, known).item(), rel=1e-12)


# --- how processes are told where they are ---

STARTED = {"RANK": "1", "WORLD_SIZE": "4", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


def test_what_torchrun_sets_is_read() -> None:
    assert launched({}) == Launch()
    assert launched({"WORLD_SIZE": "1", "MASTER_ADDR": "somewhere"}) == Launch()
    assert launched(STARTED) == Launch(Ranks(1, 4), 1, 4)
    local = {"LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
    assert launched(STARTED | local | {"RANK": "3"}) == Launch(Ranks(3, 4), 1, 2)
    assert launched(STARTED | {"RANK": "0", "WORLD_SIZE": "1"}) == Launch()


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"MASTER_ADDR": ""}, "MASTER_ADDR is not set"),
        ({"MASTER_ADDR": "", "MASTER_PORT": ""}, "MASTER_ADDR and MASTER_PORT are not set"),
        ({"RANK": ""}, "RANK is not set"),
        ({"WORLD_SIZE": ""}, "WORLD_SIZE is not set"),
        ({"RANK": "4"}, "RANK = 4 and WORLD_SIZE = 4"),
        ({"RANK": "-1"}, "RANK is no whole number"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE is no whole number"),
        ({"LOCAL_RANK": "2", "LOCAL_WORLD_SIZE": "2"}, "LOCAL_RANK = 2 and LOCAL_WORLD_SIZE = 2"),
        ({"MASTER_PORT": "http"}, "MASTER_PORT is no port"),
    ],
)
def test_an_environment_that_contradicts_itself_is_refused(change: dict[str, str], what: str) -> None:
    with pytest.raises(HandloomError, match=what) as caught:
        launched(STARTED | change)
    assert caught.value.exit_code == 3
    assert "torchrun" in str(caught.value)

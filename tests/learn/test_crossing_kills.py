"""A run of all four stages that is killed with SIGKILL in each of them ends with the bits of one that was not."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from handloom.learn.model import read_checkpoint
from handloom.learn.train import preset, train

LENGTHS = {"vae_steps": 4, "gan_steps": 3, "align_steps": 3, "joint_steps": 4}
VALUES = {"input_px": 32, "channels": 4, "batch": 8, "gan_batch": 6, "vae_batch": 16, "labels": 5}
EVERY = {"log_every": 1, "save_every": 2}
WORKER = """
import json, os, signal, sys
from pathlib import Path
import torch
from handloom.learn.train import preset, train

torch.set_num_threads(1)
values, synth, real, run, killed_at = json.loads(sys.argv[1])

def progress(done, total, metrics):
    if done == killed_at:
        os.kill(os.getpid(), signal.SIGKILL)

config = preset("crossing", "quick", "full", values)
train(config, synth=[Path(synth)], real=Path(real), run_dir=Path(run), resume=True, progress=progress)
"""


def bits(state: Any) -> Any:
    """Nested tensors as bytes, to be compared as wholes."""
    match state:
        case torch.Tensor():
            return state.contiguous().numpy().tobytes()
        case dict():
            return {str(name): bits(value) for name, value in state.items()}
        case list() | tuple():
            return [bits(value) for value in state]
        case _:
            return repr(state)


@pytest.mark.slow
def test_kill_9_in_each_stage_changes_no_bit(tmp_path: Path, recordings: Any) -> None:
    values = VALUES | LENGTHS | EVERY
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    given = {"synth": [recordings.synth], "real": recordings.real}
    train(preset("crossing", "quick", "full", values), run_dir=tmp_path / "straight", **given)
    torch.set_num_threads(threads)
    root = Path(__file__).parents[2]
    # Step 3 is of the VAE, 6 of the GAN, 9 of the alignment, 12 of joint training; the last one finishes.
    for killed_at in (3, 6, 9, 12, 0):
        given_there = json.dumps(
            [values, str(recordings.synth), str(recordings.real), str(tmp_path / "cut"), killed_at]
        )
        done = subprocess.run(
            [sys.executable, "-c", WORKER, given_there],
            env={"PYTHONPATH": str(root / ".dev"), "OMP_NUM_THREADS": "1", "HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == (-signal.SIGKILL if killed_at else 0), done.stderr
        if killed_at:
            assert read_checkpoint(tmp_path / "cut")["description"]["step"] == killed_at // 2 * 2 - 2 * (
                killed_at % 2 == 0
            )
    assert bits(read_checkpoint(tmp_path / "straight")) == bits(read_checkpoint(tmp_path / "cut"))
    logs = [(tmp_path / name / "metrics.jsonl").read_text().splitlines() for name in ("straight", "cut")]
    clean = [[{k: v for k, v in json.loads(line).items() if k != "steps_per_s"} for line in log] for log in logs]
    assert clean[0] == clean[1]
    pictures = [{p.name: p.read_bytes() for p in (tmp_path / n / "samples").iterdir()} for n in ("straight", "cut")]
    assert pictures[0] == pictures[1]

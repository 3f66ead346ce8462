"""One rank of `test_ranks.py`: trains what the jobs of a file say, one after the other, and writes how each ended."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from handloom.learn import murauer_batches
from handloom.learn.train import preset, train
from handloom.stores.errors import HandloomError

RANK = int(os.environ["RANK"])


class Stopped(Exception):
    pass


def spoil_labels_of_rank_one(at: int) -> None:
    original = murauer_batches.Batches.pretraining

    def spoiled(self: Any, step: int) -> Any:
        batch = original(self, step)
        if RANK == 1 and step == at:
            batch.joints[3] = torch.inf
        return batch

    murauer_batches.Batches.pretraining = spoiled  # type: ignore[method-assign]


def die_in_rank_one(at: int) -> None:
    original = murauer_batches.Batches.pretraining

    def dying(self: Any, step: int) -> Any:
        if RANK == 1 and step == at:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(self, step)

    murauer_batches.Batches.pretraining = dying  # type: ignore[method-assign]


def run(job: Mapping[str, Any]) -> str:
    os.environ["MASTER_PORT"] = str(job["port"])
    before = murauer_batches.Batches.pretraining
    if "spoil" in job:
        spoil_labels_of_rank_one(job["spoil"])
    if "die" in job:
        die_in_rank_one(job["die"])

    def progress(done: int, total: int, metrics: Mapping[str, float]) -> None:
        if done == job.get("stop"):
            raise Stopped(f"stopped after {done} steps")

    real = job["real"] if "real_of_rank_one" not in job or RANK == 0 else job["real_of_rank_one"]
    synth = job["synth"] if "synth_of_rank_one" not in job or RANK == 0 else job["synth_of_rank_one"]
    try:
        train(
            preset(job["method"], "quick", job["arm"], job["values"]),
            synth=[Path(path) for path in synth],
            real=Path(real) if real else None,
            val=Path(job["val"]) if "val" in job else None,
            run_dir=Path(job["run"]),
            resume=job.get("resume", False),
            progress=progress,
        )
    except (HandloomError, Stopped) as error:
        return str(error)
    finally:
        murauer_batches.Batches.pretraining = before  # type: ignore[method-assign]
    return "done"


if __name__ == "__main__":
    torch.set_num_threads(1)
    for one in json.loads(Path(sys.argv[1]).read_text()):
        Path(f"{one['run']}.rank{RANK}").write_text(run(one))

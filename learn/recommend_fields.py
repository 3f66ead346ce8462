"""The fields of a recommended configuration below method, arm and preset, each with its reason."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from ..stores.joints import Layout
from .config import TrainConfig
from .pooled import memory_mb_for
from .recommend_sets import Given, Sets, free_path, timed
from .recommended import Recommendation, gib, step_took, took
from .timing import stages_of, total_s

MANY_EPOCHS: Final = 150
CHECKPOINT_S: Final = 600.0
"""No more than this should be lost by a kill."""
LOG_S: Final = 30.0
WORTH: Final = 2 / 3
"""bfloat16 is taken where it needs less than this share of float32's time: for less, another rounding than that of
all our results is not worth it."""


def data_fields(out: Recommendation, given: Given, sets: Sets, config: TrainConfig, n: int, layout: Layout) -> None:
    """Labels, points and centres."""
    if config.needs.real:
        available = sum(one.labelled for one in sets.captured)
        value = str(given.labels) if isinstance(given.labels, Path) else given.labels
        if given.labels is not None:
            out.say("labels", value, f"as asked for: {n:,} of {available:,} labelled training frames")
        elif n:
            out.say("labels", None, f"all {n:,} labelled training frames")
        else:
            out.say("labels", 0, "no training frame of the capture is labelled")
    said_by = next((one for one in [*(sets.captured if n else []), *sets.rendered] if one.layout), None)
    out.say("layout", layout.name, f"the points that {said_by.path} is labelled with" if said_by else "the kit's own")
    located = sum(one.located for one in sets.captured)
    found = sum(one.found for one in sets.captured)
    if not config.needs.real:
        out.say("centers", "located", "no capture says which centres the model will meet; predict looks for the hand")
        return
    if located or not sets.all_cropped:
        why = f"{located:,} of {found:,} captured crops lie around centres that a hand finder gave"
        out.say("centers", "located", why if sets.all_cropped else "the hand is still to be looked for")
        unsure = sum(one.unsure for one in sets.captured)
        if sets.all_cropped:
            out.say("min_center_score", config.min_center_score, f"leaves out {unsure:,} of these {located:,} crops")
    else:
        out.say("centers", "true", f"all {found:,} captured crops lie around true or given centres")


def length_fields(out: Recommendation, given: Given, sets: Sets, config: TrainConfig) -> None:
    """Batch and steps; the preset's, shortened where there is not the time."""
    values = config.model_dump()
    times = {stage.stage: stage for stage in out.times.get(config.preset, ())}
    seconds = total_s(list(times.values()))
    share = min(1.0, given.hours * 3600 / seconds) if seconds else 1.0
    crops = sum(one.train * one.cameras for one in sets.rendered if config.needs.synth)
    labelled = sum(one.labelled for one in sets.captured)
    of = f"{crops:,} rendered crops" if crops else f"the {labelled:,} labelled frames"
    out.say("batch", values["batch"], f"the preset's, which its learning rate goes with; one pass over {of} takes "
            f"{max(1, round((crops or labelled) / values['batch'])):,} steps")  # fmt: skip
    shortened = {}
    for stage, steps in stages_of(config):
        key = "joint_steps" if stage == "pose" else f"{'pretrain' if stage == 'pretraining' else stage}_steps"
        if stage == "pose":
            steps = values["joint_steps"]
        fits = max(1, int(steps * share))
        known = times.get(stage)
        cost = f"a step took {step_took(known.step_s)} here" if known else "not timed"
        whole = f": {took(fits * known.step_s)}" if known else ""
        cut = f", of the preset's {steps:,}" if fits < steps else ""
        out.say(key, fits, f"{cost}{whole}{cut}")
        shortened[stage] = fits
    if seconds and share < 1:
        out.times[config.preset] = tuple(replace(t, steps=shortened[t.stage]) for t in out.times[config.preset])
        out.warn(
            f"{config.preset} wants {took(seconds)} here; with --hours {given.hours:g} it is cut short and learns less"
        )
    slowest = max((stage.step_s for stage in times.values()), default=0.0)
    every = config.save_every if slowest * config.save_every <= CHECKPOINT_S else max(1, int(CHECKPOINT_S / slowest))
    why = f"at {step_took(slowest)} a step a kill costs {took(every * slowest)} at most" if slowest else "the preset's"
    out.say("save_every", every, why)
    log = config.log_every if slowest * config.log_every <= LOG_S else max(1, int(LOG_S / slowest))
    out.say("log_every", log, f"a line every {took(log * slowest)} or less" if slowest else "the preset's")
    total = sum(shortened.values())
    if given.val is not None:
        out.say("val_every", max(1, total // 10), f"ten looks at {given.val} on the way")
    steps = next((shortened[stage] for stage in ("pretraining", "joint", "pose") if stage in shortened), 0)
    epochs = steps * values["batch"] / max(crops, 1)
    if crops and epochs > MANY_EPOCHS:
        path = sets.plain[0].path
        more = free_path(path.with_name("more.zarr"))
        out.warn(
            f"{crops:,} rendered crops are few: each comes {epochs:.0f} times; more are made in minutes, then "
            f"--synth {more} as well",
            "handloom", "synth", "run", "--config", path, "--frames", "10000", "--seed", str(given.seed + 1),
            "--out", more,
        )  # fmt: skip


def execution_fields(
    out: Recommendation, sets: Sets, config: TrainConfig, rows: NDArray[np.int64], layout: Layout
) -> None:
    """Where and how steps are computed, and where the images lie."""
    where, machine = out.where, out.where.machine
    free = machine.free_bytes
    if where.gpu is not None:
        out.say("device", "auto", f"takes the GPU: {where.gpu.name}, {gib(where.gpu.memory_bytes)}")
        kind = "it multiplies bfloat16" if where.gpu.bfloat16 else "it has no bfloat16, so float32"
        out.say("precision", "auto", f"{kind}; a step is replayed as one CUDA graph (docs/gpu.md)")
    else:
        out.say("device", "cpu", "no GPU that CUDA can use")
        _bfloat16(out, sets, config, rows, layout)
    size = sum(one.decoded_bytes for one in sets.rendered if config.needs.synth)
    captured = sum(one.decoded_bytes for one in [*sets.captured, *sets.of(sets.twins)] if config.needs.real)
    room = where.gpu.memory_bytes if where.gpu else free
    pool = memory_mb_for(size, free=free, room=room)
    if size:
        place = f"{gib(where.gpu.memory_bytes)} of the GPU" if where.gpu and room < free else f"{gib(free)} free"
        why = f"the rendered crops take {gib(size)} decoded, there are {place}"
        out.say("memory_mb", pool, f"{why}: {'all are kept' if pool is None else 'they are read through a pool'}")
    if captured > 0.8 * min(room, free):
        out.warn(
            f"the captured crops take {gib(captured)} and stay in memory as a whole, of which "
            f"{gib(min(room, free))} is free: train on a part of them",
            "handloom", "store", "subset", sets.reals[0].path, "--frames",
            f"0:{int(sets.captured[0].frames * 0.5 * min(room, free) / captured)}", "--out",
            free_path(sets.reals[0].path.with_name("part.zarr")),
        )  # fmt: skip
    if out.times and machine.load > 1.5 * machine.cores:
        times = out.times.get(config.preset, ())
        alone = sum(stage.steps * stage.cpu_s for stage in times) / torch.get_num_threads()
        out.warn(
            f"steps were timed on a busy machine: {machine.load:.1f} processes wanted its {machine.cores:g} cores"
            + (f"; by the processor's own time it would be about {took(alone)}" if alone else "")
        )


def _bfloat16(out: Recommendation, sets: Sets, config: TrainConfig, rows: NDArray[np.int64], layout: Layout) -> None:
    """Number format on the CPU: by the clock, where the processor has units for bfloat16."""
    flag = out.where.machine.bfloat16
    plain = out.times.get(config.preset)
    if not flag or plain is None:
        why = "the processor has no units for bfloat16" if not flag else f"{flag} is there, and nothing was timed"
        out.say("precision", "fp32", why)
        return
    rounded = config.model_copy(update={"precision": "bf16", "channels_last": True})
    times = timed(out, sets, rounded, rows, layout)
    assert times is not None
    # By the processor's time: what else runs here meanwhile would decide by the clock.
    ratio = sum(a.steps * b.cpu_s for a, b in zip(plain, times, strict=True)) / sum(a.steps * a.cpu_s for a in plain)
    told = f"timed on this processor's {flag}: bfloat16 with channels last takes {ratio:.2f} of float32's time"
    if ratio < WORTH:
        out.say("precision", "bf16", f"{told}; results differ by rounding")
        out.say("channels_last", True, "the order of memory that was timed with it")
        out.times[config.preset] = tuple(replace(stage, step_s=ratio * stage.step_s) for stage in plain)
    else:
        out.say("precision", "fp32", told)

"""Which training fits these recordings and this machine: `handloom train recommend`.

Every choice follows from something that was read or timed, and says which: counts of the recordings (`facts.py`),
cores and memory (`stores/machine.py`), the time of a few real steps (`timing.py`). The order of the questions:

    method, arm   what there is to learn from: rendered, labelled, unlabelled frames, a second camera
    preset        the largest that ends within the hours given, and that the crops have the pixels for
    the rest      from the preset, but for lengths that the time or the memory forbid

What is missing is said with the command that makes it; what training cannot do without comes first in the order of
commands (`Recommendation.first`). Which arm and method are better on a user's own data nobody can know beforehand:
they are chosen by what they can make use of, and docs/losses.md says what that was worth to us.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from ..stores.errors import BAD_ENVIRONMENT, HandloomError
from ..stores.joints import Layout
from ..stores.machine import Machine, this_machine
from .config import TrainConfig
from .data import choose_labels, load_training_rows, open_validation, read_frame_ids
from .given import check_agreement, check_presence, layout_of
from .recommend_fields import data_fields, execution_fields, length_fields
from .recommend_gaps import twins_first, what_is_missing
from .recommend_sets import Given, Sets, free_path, open_sets, timed
from .recommended import Gpu, Recommendation, Tell, Where, listed, said, took
from .timing import total_s
from .train import pick_device, preset

PRESETS: Final = ("quick", "fast", "paper")
MOSTLY: Final = 0.9
"""From this share of labelled frames on, hardly any is left to learn from without labels."""
SHARPENS: Final = 0.75
"""A crop with less than this share of the input's pixels is not worth a larger network."""


def recommend(given: Given, where: Where, *, tell: Tell = lambda note: None) -> Recommendation:
    """Choose a training.

    Args:
        given: recordings and wishes.
        where: the machine it is for; steps are timed if it is this one.
        tell: called before each timing, with what is timed.

    Raises:
        HandloomError: the recordings do not go together, or nothing in them says where joints are.
    """
    sets = open_sets(given)
    out = Recommendation(where, list(sets.facts.values()), val=given.val, tell=tell)
    out.synth = [*given.synth]
    _captures(out, sets)
    rows, n = _labels_in_use(given, sets)
    method, arm, why = _arm(given, sets, n)
    config = _checked(preset(method, "quick", arm, {"labels": given.labels}), sets, n)
    layout = layout_of(config, sets.plain, sets.twins, sets.reals[0] if sets.reals else None, labelled=n > 0)
    if given.val is not None:
        open_validation(given.val, layout)
    chosen, why_preset = _preset(out, given, sets, method, arm, rows, layout)
    out.say("method", method, why[0])
    out.say("preset", chosen, why_preset)
    out.say("arm", arm, why[1])
    out.say("seed", given.seed, "everything random follows from it; a second run with another tells luck from gain")
    config = preset(method, chosen, arm)
    data_fields(out, given, sets, config, n, layout)
    length_fields(out, given, sets, config)
    execution_fields(out, sets, config, rows, layout)
    twins_first(out, sets, config, n, rows)
    what_is_missing(out, given, sets, n)
    preset(method, chosen, arm, out.config)  # what was chosen is a configuration
    out.run_dir = free_path(Path("runs") / arm.lstrip("+").replace("+", "-"))
    return out


def here(*, timing: bool = True) -> Where:
    """This machine, with the GPU that training would take; `timing`: whether steps are to be timed."""
    gpu = None
    if pick_device("auto").type == "cuda":
        about = torch.cuda.get_device_properties(0)
        gpu = Gpu(about.name, about.total_memory, torch.cuda.is_bf16_supported(including_emulation=False))
    return Where(this_machine(), gpu, "" if timing else "as asked for")


def elsewhere(text: str) -> Where:
    """Another machine, by its numbers: 'cores=16,memory=64,gpu=80', memory in GiB; without gpu it has none.

    Raises:
        HandloomError: it reads otherwise.
    """
    numbers: dict[str, float] = {}
    for part in text.split(","):
        name, _, number = part.strip().partition("=")
        try:
            numbers[name] = float(number)
        except ValueError:
            numbers[name] = 0.0
        if name not in ("cores", "memory", "gpu") or not 0 < numbers[name] < 1e6:
            raise HandloomError(
                f"'{part}' says nothing of a machine", where="--machine", why="the form is cores=16,memory=64,gpu=80"
            )
    missing = {"cores", "memory"} - set(numbers)
    if missing:
        raise HandloomError("The machine is not said", where="--machine", why=f"without {listed(sorted(missing))}")
    size = int(numbers["memory"] * 2**30)
    machine = Machine(processor="", cores=numbers["cores"], memory_bytes=size, free_bytes=size)
    gpu = Gpu("a GPU", int(numbers["gpu"] * 2**30), bfloat16=True) if "gpu" in numbers else None
    return Where(machine, gpu, "it is another machine than this")


# --- what there is ---


def _captures(out: Recommendation, sets: Sets) -> None:
    """What captures need before they can be trained from: crops, and to be one recording."""
    for one in sets.captured:
        if not one.crop_px:
            out.first.append(said("handloom", "capture", "locate", one.path))
    if len(sets.reals) < 2:
        out.real = sets.reals[0].path if sets.reals else None
        return
    first = sets.reals[0]
    for other in sets.reals[1:]:
        if [c.to_dict() for c in other.rig.cameras] != [c.to_dict() for c in first.rig.cameras]:
            raise HandloomError(
                "A training takes one capture, and these were recorded with different rigs",
                where=f"{first.path} and {other.path}",
                why="only recordings of one rig can be merged",
                fix=f"give one of them: handloom train recommend --real {first.path}",
            )
    out.real = free_path(first.path.with_name("merged.zarr"))
    paths = [recording.path for recording in sets.reals]
    out.first.append(said("handloom", "store", "merge", *paths, "--renumber", "--out", out.real))


def _labels_in_use(given: Given, sets: Sets) -> tuple[NDArray[np.int64], int]:
    """Rows of the first capture whose labels may be seen, and how many frames of all captures."""
    none = np.zeros(0, np.int64)
    available = sum(one.labelled for one in sets.captured)
    if not sets.reals or not available:
        return none, 0
    config = preset("murauer", "quick", "full", {"labels": given.labels})
    if len(sets.reals) == 1 and sets.captured[0].crop_px:
        real = sets.reals[0]
        data = load_training_rows(real, images=False)
        rows = data.rows[choose_labels(config, data, real)]
        return rows, len(rows)
    match config.labels:
        case int() as asked:
            return none, min(asked, available)
        case str() as asked:
            return none, round(float(asked.rstrip("%")) / 100 * available)
        case Path() as path:
            return none, len(read_frame_ids(path))
        case _:
            return none, available


# --- which training ---


def _arm(given: Given, sets: Sets, n: int) -> tuple[str, str, tuple[str, str]]:
    """Method, arm, and why each."""
    train = sum(one.train for one in sets.captured)
    names = listed([one.path for one in sets.captured]) if sets.captured else ""
    if not sets.plain and not n:
        raise _nothing_known(given, sets)
    left = train - n
    if not sets.plain:
        few = n < MOSTLY * train
        method = given.method or ("crossing" if few else "murauer")
        told = (
            f"nothing rendered is given, and {left:,} of the {train:,} training frames of {names} carry no label in "
            "use: Crossing Nets learn from such frames without rendered ones, MURAUER would leave them out"
            if few
            else f"nothing rendered is given, and {n:,} of the {train:,} training frames of {names} are labelled"
        )
        why = _asked(given, told)
        if method == "crossing" and few:
            return method, "paper", (why, f"{n:,} labelled frames and {left:,} without labels, none rendered")
        return method, "real-only", (why, f"{n:,} labelled frames of {names}, none rendered")
    rendered = sum(one.train * one.cameras for one in sets.rendered)
    method = given.method or "murauer"
    why = _asked(
        given,
        f"{rendered:,} rendered crops to learn from"
        + (f" and {train:,} captured frames: MURAUER maps one kind to the other" if train else ", no capture"),
    )
    if not sets.reals:
        return method, "synthetic-only", (why, "no capture is given")
    if left <= (1 - MOSTLY) * train:
        told = f"{n:,} of the {train:,} training frames of {names} are labelled: hardly one is left for losses without"
        return method, "real+synthetic", (why, told)
    told = f"{left:,} of the {train:,} training frames of {names} carry no label in use"
    if method == "crossing":
        return method, "full", (why, told)
    alone = [one.path for one in [*sets.captured, *sets.rendered] if one.cameras < 2]
    if alone:
        have = "has" if len(alone) == 1 else "have"
        told = f"{told}; {listed(alone)} {have} one camera: there is no other view to predict"
        return method, "+distribution-matching", (why, told)
    return method, "full", (why, f"{told}, and every frame is seen by two cameras or more")


def _asked(given: Given, why: str) -> str:
    return f"as asked for; {why}" if given.method else why


def _nothing_known(given: Given, sets: Sets) -> HandloomError:
    if given.labels == 0 and any(one.labelled for one in sets.captured):
        why, fix = "--labels is 0 and nothing rendered is given", "leave --labels away, or give --synth S.zarr"
    else:
        path = sets.reals[0].path if sets.reals else "R.zarr"
        why = "no training frame is labelled, and no synthetic recording but twins is given"
        fix = (
            f"handloom bootstrap {path} --out bootstrap   renders hands with its cameras, trains and compares; "
            "or handloom synth run --out S.zarr --frames 10000, then --synth S.zarr"
        )
    where = listed([one.path for one in [*sets.captured, *sets.of(sets.twins)]])
    return HandloomError("Nothing here says where joints are", where=where, why=why, fix=fix)


def _checked(config: TrainConfig, sets: Sets, n: int) -> TrainConfig:
    """The configuration, once `train` would take these recordings for it: crops that are still to be made aside."""
    if sets.all_cropped:
        check_presence(config, config.needs, sets.plain, sets.reals[0] if sets.reals else None)
    used = [one for one in [*sets.plain, *(sets.twins if n else []), *sets.reals[:1]] if one.crops is not None]
    if used:
        real = sets.reals[0] if sets.reals and sets.reals[0].crops is not None else None
        check_agreement(config, used, sets.plain, real)
    return config


def _preset(
    out: Recommendation,
    given: Given,
    sets: Sets,
    method: str,
    arm: str,
    rows: NDArray[np.int64],
    layout: Layout,
) -> tuple[str, str]:
    """The largest preset that ends in time, and why."""
    where = out.where
    why = where.untimed or ("" if sets.all_cropped else "the crops are not made yet")
    if why:
        if where.gpu is not None:
            return _with_pixels("paper", sets, f"there is {where.gpu.name}; nothing was timed: {why}")
        return "quick", f"made for a few cores without a GPU; nothing was timed: {why}"
    best, told = "", []
    for name in PRESETS:
        times = timed(out, sets, preset(method, name, arm), rows, layout)
        if times is None and not best:
            raise HandloomError(
                "The GPU's memory does not hold a step of the smallest preset",
                where=where.line(),
                fix="nvidia-smi   shows what else is on it",
                exit_code=BAD_ENVIRONMENT,
            )
        if times is None:
            told.append(f"{name} does not fit the GPU's memory")
            break
        out.times[name] = times
        seconds = total_s(times)
        told.append(f"{name} takes about {took(seconds)}")
        if seconds > given.hours * 3600:
            break
        best = name
    if not best:
        return "quick", f"the smallest; {listed(told)} here, so its stages are shortened to fit --hours {given.hours:g}"
    count = len(told)
    rest = (
        ""
        if count == len(PRESETS) or "does not fit" in told[-1]
        else f"; what is larger takes longer still than --hours {given.hours:g}"
    )
    return _with_pixels(best, sets, f"the largest that ends within --hours {given.hours:g}: {listed(told)} here{rest}")


def _with_pixels(name: str, sets: Sets, why: str) -> tuple[str, str]:
    """A smaller preset where the crops hold too few pixels for this one's input."""
    px = min((one.px_of_cube for one in [*sets.rendered, *sets.captured] if one.crop_px), default=0.0)
    if name == "paper" and px and px < SHARPENS * 128:
        return (
            "fast",
            f"the crops show 300 mm with {px:.0f} pixels, so paper's input of 128 would only blow them up; {why}",
        )
    return name, why

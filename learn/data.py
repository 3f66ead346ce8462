"""From recordings to what a training run may see: checked, cut to the train split, labels hidden.

Everything a user can get wrong about the data is found here, before the first step and before the first image is
read: images of a large set take minutes, all else seconds. Labels outside the chosen subset do not reach the
device: the training code could not use them if it tried.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..stores.documents import read_ids
from ..stores.errors import HandloomError
from ..stores.joints import Layout
from ..stores.lineage import usable_twins
from ..stores.pool import Source, row_bytes, shared_columns
from ..stores.reading import Resident, load_resident
from ..stores.recording import Recording, open_recording
from .batches import LOCATED, Bank, bank_of, cut, label, still
from .config import TrainConfig
from .given import check_agreement, check_presence, has_twins, layout_of, no_labels, twin_command, twins_for
from .pooled import Pooling
from .sampling import key_of, subset

TRAIN: Final = 0
"""The value of `split` that marks training frames."""


@dataclass(frozen=True, slots=True)
class TrainingData:
    """What the recordings hold for training, on the device."""

    layout: Layout
    hand: str
    synth: Bank | None
    twins: Bank | None
    real: Bank | None
    labelled: Tensor
    """(n,) int64: frames of `real` whose labels may be seen; only their joints are there."""
    twin_of: Tensor
    """(n,) int64: the frame of `twins` that shows the same pose, -1 where there is none."""
    unlabelled: Tensor
    """(M,) int64: frames of `real` whose images may be used without labels (labelled ones among them)."""
    sources: dict[str, Any]
    """Where it came from, in plain values: paths, uuids, counts, the labelled frame ids."""
    pooling: Pooling | None = None
    """Where the images of `synth` come from, where the bank itself holds none."""

    @property
    def n_labels(self) -> int:
        """How many labelled real frames."""
        return len(self.labelled)

    @property
    def device(self) -> torch.device:
        """Where it lies."""
        return self.labelled.device


def load_training_data(
    config: TrainConfig,
    *,
    synth: Sequence[Path],
    real: Path | None,
    device: torch.device,
    check: Callable[[TrainingData], object] | None = None,
) -> TrainingData:
    """Read and check the recordings an arm uses.

    A recording in `synth` that carries twins is used as the twins of `real`, every other as synthetic data.

    Args:
        config: of the run.
        synth: synthetic recordings.
        real: the captured one.
        device: where the data will lie.
        check: what a method asks of the data; called with all but the images, before these are read.

    Raises:
        HandloomError: something the arm needs is missing, or two recordings do not go together; or `check` raises.
    """
    needs = config.needs
    sets = [open_recording(path) for path in synth]
    captured = open_recording(real) if real is not None and needs.real else None
    plain = [s for s in sets if not has_twins(s)] if needs.synth else []
    twins = twins_for(captured, [s for s in sets if has_twins(s)]) if needs.twins else []
    check_presence(config, needs, plain, captured)
    used = [*plain, *twins, *([captured] if captured else [])]
    check_agreement(config, used, plain, captured)

    if config.hold_out is not None and captured is None:
        raise HandloomError(
            "A held-out person is one of the real recording, and this run takes none",
            where=f"arm '{config.arm}', hold_out = {config.hold_out}",
            fix="leave --hold-out away, or take an arm that learns from --real",
        )

    seen = load_training_rows(captured, images=False, hold_out=config.hold_out) if captured else None
    chosen = (
        choose_labels(config, seen, captured) if seen is not None and captured is not None else np.zeros(0, np.int64)
    )
    if captured is not None and needs.labels and not len(chosen):
        raise no_labels(config, captured)
    if captured is not None and needs.twins and len(chosen) and not twins:
        raise HandloomError(
            "The labelled real frames have no synthetic twins",
            where=str(captured.path),
            why=f"the arm '{config.arm}' compares each labelled frame with its twin",
            fix=twin_command(captured),
        )
    plan = _Plan(
        plain=plain,
        captured=captured,
        chosen=chosen,
        twins=_twin_rows(twins, captured, seen.frame_id[chosen]) if seen is not None and len(chosen) else [],
        layout=layout_of(config, plain, twins, captured, labelled=len(chosen) > 0),
        located=_located(config, seen),
        pooling=_pooling(config, plain),
    )
    if check is not None:
        check(_assemble(config, plan, device, images=False))
    return _assemble(config, plan, device, images=True)


@dataclass(frozen=True, slots=True)
class _Plan:
    """What will be read, and of whom."""

    plain: Sequence[Recording]
    captured: Recording | None
    chosen: NDArray[np.int64]
    """Training rows of `captured` whose labels may be seen."""
    twins: Sequence[tuple[Recording, NDArray[np.int64], list[int]]]
    """Rows of each recording of twins, and the frame that each shows."""
    layout: Layout
    located: bool
    pooling: Pooling | None


def _assemble(config: TrainConfig, plan: _Plan, device: torch.device, *, images: bool) -> TrainingData:
    """The data of a plan; without `images` its banks hold none, and it costs seconds whatever the size."""
    captured, chosen, layout = plan.captured, plan.chosen, plan.layout

    def bank(data: Sequence[Resident], *, real: bool, labelled: NDArray[np.bool_] | None = None) -> Bank:
        return bank_of(
            data,
            layout=layout,
            labelled=None if labelled is None else [labelled],
            offset_true_mm=config.offset_true_mm,
            offset_located_mm=config.offset_located_mm,
            located=plan.located and not real,
            device=device,
        )

    kept = [load_training_rows(r, images=images and plan.pooling is None) for r in plan.plain]
    synth_bank = bank(kept, real=False) if plan.plain else None
    real_bank, missed, unsure, unlabelled = None, 0, 0, np.zeros(0, np.int64)
    if captured is not None:
        data = load_training_rows(captured, images=images, hold_out=config.hold_out)
        data, unsure = _without_unsure_centers(data, captured, config.min_center_score, kept=chosen)
        count = len(data)
        real_bank = bank([data], real=True, labelled=np.isin(np.arange(count), chosen))
        real_bank, missed = without_missed_hands(real_bank, layout, cube_mm=config.cube_mm)
        share = round(config.unlabelled_share * count)
        unlabelled = np.union1d(subset(np.arange(count), share, key_of(config.label_seed, "unlabelled")), chosen)
    twin_bank, twin_of = None, np.full(len(chosen), -1, np.int64)
    if plan.twins and real_bank is not None:
        twin_bank = bank([load_resident(r, rows=rows, images=images) for r, rows, _ in plan.twins], real=False)
        place = {frame: i for i, frame in enumerate(chain.from_iterable(shown for _, _, shown in plan.twins))}
        twin_of = np.array([place.get(int(f), -1) for f in real_bank.frame_id[chosen]], np.int64)
    sources: dict[str, Any] = {
        "synth": [_source(recording) for recording in plan.plain],
        "twins": [_source(recording) for recording, _, _ in plan.twins],
        "real": _source(captured) if captured else None,
        "labelled_frames": [int(f) for f in real_bank.frame_id[chosen]] if real_bank else [],
        "labelled_crops_off_the_hand": missed,
        "crops_of_low_score": unsure,
        "centers": "located" if plan.located else "true",
        "images": "in memory" if plan.pooling is None else f"pool of {plan.pooling.memory_mb:g} MB",
    }
    return TrainingData(
        layout=layout,
        hand=(captured or plan.plain[0]).hand,
        synth=synth_bank,
        twins=twin_bank,
        real=real_bank,
        labelled=torch.from_numpy(chosen).to(device),
        twin_of=torch.from_numpy(twin_of).to(device),
        unlabelled=torch.from_numpy(unlabelled).to(device),
        sources=sources,
        pooling=plan.pooling,
    )


def _source(recording: Recording) -> dict[str, Any]:
    return {"path": str(recording.path), "uuid": recording.uuid, "frames": recording.n_frames}


def _pooling(config: TrainConfig, plain: Sequence[Recording]) -> Pooling | None:
    """Through a pool, if the training frames' images take more than `memory_mb`; 'auto' is decided before a run."""
    if config.memory_mb is None or config.memory_mb == "auto" or not plain:
        return None
    sources = tuple(Source(recording, training_rows(recording)) for recording in plain)
    size = row_bytes(shared_columns(sources, ("crop",))) * sum(len(source.chosen) for source in sources)
    return Pooling(sources, config.memory_mb, config.seed) if size > config.memory_mb * 1e6 else None


def _twin_rows(
    twins: Sequence[Recording], real: Recording | None, wanted: NDArray[np.uint64]
) -> list[tuple[Recording, NDArray[np.int64], list[int]]]:
    """Of each set the rows that show the `wanted` frames of `real`, and which; sets without any are left out.

    Others are not read: a labelled frame without a twin takes another's, and that must not be the pose of a frame
    whose label is not to be seen.
    """
    assert real is not None
    found = []
    for recording in twins:
        assert recording.labels is not None
        ids, here = usable_twins(recording, real).translated(recording.labels.read("twin"))
        rows = np.flatnonzero(here & np.isin(ids, wanted))
        if len(rows):
            found.append((recording, rows, ids[rows].tolist()))
    if twins and not found:
        raise HandloomError(
            "None of the labelled frames in use has a twin in the recordings given",
            where=", ".join(str(t.path) for t in twins),
            fix=twin_command(real),
        )
    return found


def load_training_rows(recording: Recording, *, images: bool = True, hold_out: int | None = None) -> Resident:
    """Its training frames; validation and test frames and those of a held-out person are not even read."""
    return load_resident(recording, rows=training_rows(recording, hold_out), images=images)


def training_rows(recording: Recording, hold_out: int | None = None) -> NDArray[np.int64]:
    """Rows of the training split, without those of a held-out person.

    Raises:
        HandloomError: there are none, or the recording does not show that person.
    """
    assert recording.frames is not None
    rows = np.flatnonzero(recording.frames.read("split") == TRAIN)
    if hold_out is not None:
        subject = recording.frames.read("subject")
        known = np.unique(subject).tolist()
        if hold_out not in known:
            raise HandloomError(
                f"The recording shows no person {hold_out} who could be held out",
                where=str(recording.path),
                why=f"its frames are of subject {', '.join(map(str, known))}",
            )
        kept = rows[subject[rows] != hold_out]
        if len(rows) and not len(kept):
            raise HandloomError(
                f"Without person {hold_out} the recording has no training frames",
                where=str(recording.path),
                why="all of them are of that person",
            )
        rows = kept
    if not len(rows):
        raise HandloomError(
            "The recording has no training frames",
            where=str(recording.path),
            why=f"all of its {recording.n_frames} frames are kept for validation and test",
        )
    return rows


def _without_unsure_centers(
    data: Resident, recording: Recording, least: float, *, kept: NDArray[np.int64]
) -> tuple[Resident, int]:
    """The frames without crops whose located centre scores less, and how many these are.

    Those of the labels in use (`kept`) stay: their label says where the hand is, see `without_missed_hands`.
    """
    assert recording.crops is not None
    score = recording.crops.read_rows("center_score", data.rows)
    low = data.present & (data.center_source == LOCATED) & (score < least)
    low[kept] = False
    return replace(data, present=data.present & ~low), int(low.sum())


def without_missed_hands(bank: Bank, layout: Layout, *, cube_mm: float) -> tuple[Bank, int]:
    """The bank without crops whose labelled palm lies outside their cube, and how many these are.

    There the hand finder took something else for the hand: such a label asks for what cannot be seen.
    """
    crops = bank.singles()
    off = (bank.joints_camera(crops)[:, layout.palm] - bank.center_mm[crops]).norm(dim=-1) > cube_mm / 2
    present = bank.present.clone()
    present[crops[off]] = False
    return replace(bank, present=present), int(off.sum())


def choose_labels(config: TrainConfig, data: Resident, recording: Recording) -> NDArray[np.int64]:
    """Rows of the training frames whose labels may be seen, sorted."""
    available = np.zeros(0, np.int64)
    if data.joints is not None:
        known = np.isfinite(data.joints).all(axis=-1).any(axis=-1)
        available = np.flatnonzero(known & data.present.any(axis=-1))
    match config.labels:
        case None:
            return available
        case int() | str() as asked:
            n = asked if isinstance(asked, int) else round(float(asked[:-1]) / 100 * len(available))
            if not 0 <= n <= len(available):
                raise HandloomError(
                    f"--labels {asked} asks for more labelled frames than there are",
                    where=str(recording.path),
                    why=f"{len(available)} of its {len(data)} training frames carry labels and show a hand",
                    fix=f"give a number from 0 to {len(available)}",
                )
            return subset(available, n, key_of(config.label_seed, "labels"))
        case Path() as path:
            wanted = read_frame_ids(path)
            chosen = available[np.isin(data.frame_id[available], wanted)]
            if len(chosen) != len(wanted):
                lost = sorted({int(w) for w in wanted} - {int(f) for f in data.frame_id[chosen]})
                raise HandloomError(
                    f"{len(lost)} of the {len(wanted)} frames listed are not labelled training frames",
                    where=str(path),
                    why=f"frame_id {lost[0]} is the first of them",
                )
            return chosen


def read_frame_ids(path: Path) -> NDArray[np.uint64]:
    """The frame ids of a text file with one a line.

    Raises:
        HandloomError: the file is missing or a line is not a number.
    """
    try:
        return np.unique(np.array(read_ids(path), np.uint64))
    except (OSError, ValueError) as error:
        raise HandloomError(
            "The list of labelled frames cannot be read",
            where=str(path),
            why=str(error),
            fix="one frame_id a line",
        ) from error


def _located(config: TrainConfig, real: Resident | None) -> bool:
    """Whether the crops a model will meet have located centres."""
    if config.centers != "auto":
        return config.centers == "located"
    return real is not None and bool((real.center_source == LOCATED).any())


@dataclass(frozen=True, slots=True)
class Validation:
    """A labelled recording that training only looks at for its log."""

    bank: Bank
    crops: Tensor
    """(M,) crop numbers with at least one known joint."""
    input_px: int
    cube_mm: float

    @torch.no_grad()
    def mean_error_mm(self, net: nn.Module, *, batch: int = 256) -> float:
        """Mean Euclidean joint error in mm over known joints, then crops, at the stored centres."""
        errors = []
        for crop in self.crops.split(batch):
            geometry = still(self.bank, crop)
            images = cut(self.bank, crop, geometry, input_px=self.input_px, cube_mm=self.cube_mm)
            truth = label(self.bank, crop, geometry, images, cube_mm=self.cube_mm)
            distance = (net(images.image) - truth.joints * (self.cube_mm / 2)).norm(dim=-1) * truth.known
            errors.append(distance.sum(dim=1) / truth.known.sum(dim=1))
        return float(torch.cat(errors).mean())


def open_validation(path: Path, layout: Layout) -> Recording:
    """The validation recording of a run that predicts the points of `layout`.

    Raises:
        HandloomError: it has no labels or crops, or its layout does not go with the model's.
    """
    recording = open_recording(path)
    if recording.crops is None or recording.labels is None or recording.layout is None:
        lacks, command = "labels", f"handloom label {path} --select 100 --out labels"
        if recording.crops is None:
            lacks, command = "crops", f"handloom capture locate {path}"
        raise HandloomError(
            "The validation recording needs crops and labels",
            where=f"--val {path}",
            why=f"it has no {lacks}",
            fix=command,
        )
    if recording.layout.name not in (layout.name, "openxr26"):
        raise HandloomError(
            f"The validation labels are '{recording.layout.name}', the model predicts '{layout.name}'",
            where=f"--val {path}",
            why="only the 26 canonical joints (openxr26) convert to other layouts",
            fix=f"--layout {recording.layout.name}, or another --val",
        )
    return recording


def load_validation(path: Path, config: TrainConfig, data: TrainingData) -> Validation:
    """The validation recording of a run, in the layout of its training data.

    Raises:
        HandloomError: as `open_validation`.
    """
    recording = open_validation(path, data.layout)
    resident = load_resident(recording)
    bank = bank_of(
        [resident],
        layout=data.layout,
        labelled=None,
        offset_true_mm=0.0,
        offset_located_mm=0.0,
        located=False,
        device=data.device,
    )
    singles = bank.singles()
    known = (~torch.isnan(bank.joints_mm).any(dim=-1)).any(dim=-1)
    return Validation(bank, singles[known[singles // bank.views]], config.input_px, config.cube_mm)

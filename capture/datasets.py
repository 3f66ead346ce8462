"""`capture import --dataset`: a published data set becomes a recording that keeps its own points and parts.

Frames are read, and written, a few at a time: memory does not grow with the set, but for NYU's labels (see
`stores.label_files.nyu_points`). What lies at the output is whole or not there.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from ..stores.camera import Rig, project
from ..stores.errors import HandloomError
from ..stores.locate import Found
from ..stores.recording import CENTER_SOURCES, Hand, Recording, create_recording, open_recording, prepare_output
from ..stores.table import Appender
from .locating import crops_around
from .published import Frame, Name, PublishedSet, Split, open_set
from .record import Progress, software

BATCH_FRAMES: Final = 16
UNIT_FRAMES: Final = 32
"""Three Kinects' frames of a unit are 59 MB."""
TRUTH: Final = CENTER_SOURCES.index("truth")

Center = Literal["none", "labels"]


def import_dataset(
    folder: Path,
    out: Path,
    *,
    dataset: Name,
    split: Split | None = None,
    test_subject: int | None = None,
    frames: int | None = None,
    center: Center = "none",
    hand: Hand | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Recording:
    """Read a data set, as `capture.published` describes it, into a labelled recording of kind `captured`.

    Args:
        folder: the set as it was unpacked.
        out: the recording to make.
        dataset: which set it is.
        split: only this part.
        test_subject: of MSRA15, who is kept for testing.
        frames: only so many, the first.
        center: 'labels' cuts crops around the labels' palm (center_source 'truth'); 'none' leaves that to
            `capture locate`.
        hand: which hand it shows, where the set does not say so; right if not given.
        overwrite: replace a recording that is there, once the new one is whole.
        progress: told of frames done and in all.

    Raises:
        HandloomError: `out` exists; the set is not as published. Nothing is left at `out` then.
    """
    if not overwrite:
        prepare_output(out, overwrite=False)
    found = open_set(dataset, folder, split=split, test_subject=test_subject)
    if found.hand and hand and hand != found.hand:
        raise HandloomError(f"{dataset} shows {found.hand} hands", why=f"--hand {hand} was given")
    total = found.count if frames is None else min(frames, found.count)
    if not total:
        raise HandloomError("The set holds no frame", where=str(folder))
    partial = out.with_name(f".{out.name}.importing")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        recording = create_recording(
            partial,
            kind="captured",
            rig=found.rig,
            hand=found.hand or hand or "right",
            provenance={
                "source": dataset,
                "folder": str(folder.resolve()),
                "hand": "published" if found.hand else "given" if hand else "assumed",
                **found.said,
                "written_by": software(),
            },
        )
        _write(recording, found, total, center, progress)
        prepare_output(out, overwrite=overwrite)
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return open_recording(out)


def _write(recording: Recording, found: PublishedSet, total: int, center: Center, progress: Progress | None) -> None:
    names, done = found.rig.names, 0
    with ExitStack() as stack:
        frames = stack.enter_context(Appender(recording.create_frames(depth=True, unit_frames=UNIT_FRAMES)))
        attributes = {"source": recording.provenance["source"]}
        labels = stack.enter_context(Appender(recording.create_labels(layout=found.layout, attributes=attributes)))
        crops = stack.enter_context(Appender(recording.create_crops(parts=False))) if center == "labels" else None
        for batch in _batches(islice(found.frames(), total)):
            depth = [np.stack([frame.depth[view] for frame in batch]) for view in range(len(names))]
            points = np.stack([frame.points_mm for frame in batch])
            frames.append(_frame_rows(batch, depth, names))
            labels.append({"joints": points.astype(np.float32), "visible": _in_image(points, found.rig)})
            if crops is not None:
                assert recording.crops is not None
                assert recording.layout is not None
                palms = [Found(palm, 1.0) for palm in points[:, recording.layout.palm]]
                size = recording.crops.attributes
                present = np.ones((len(batch), len(names)), np.bool_)
                crops.append(
                    crops_around(
                        recording, depth, present, palms, int(size["crop_px"]), float(size["window_mm"]), source=TRUTH
                    )
                )
            done += len(batch)
            if progress is not None:
                progress(done, total)
    assert done == total, f"{done} of {total} frames"


def _batches(frames: Iterator[Frame]) -> Iterator[list[Frame]]:
    while batch := list(islice(frames, BATCH_FRAMES)):
        yield batch


def _frame_rows(batch: list[Frame], depth: list[NDArray[np.uint16]], names: tuple[str, ...]) -> dict[str, NDArray[Any]]:
    shape = (len(batch), len(names))
    number = np.array([frame.number for frame in batch], np.int64)
    unknown = np.full(shape, -1, np.int64)
    return {
        **{f"depth/{name}": images for name, images in zip(names, depth, strict=True)},
        "present": np.ones(shape, np.uint8),
        "t_device_ns": unknown,
        "t_host_ns": unknown,
        "frame_number": np.repeat(number[:, None], shape[1], axis=1),
        "frame_id": number.astype(np.uint64),
        "subject": np.array([frame.subject for frame in batch], np.int32),
        "sequence": np.array([frame.sequence for frame in batch], np.int32),
        "split": np.array([frame.split for frame in batch], np.uint8),
    }


def _in_image(points: NDArray[np.float64], rig: Rig) -> NDArray[np.uint8]:
    """(n, V, J) 1 where a point lies before a camera and inside its image; what hides it no set says."""
    out = np.zeros((len(points), len(rig), points.shape[1]), np.uint8)
    for view, camera in enumerate(rig.cameras):
        seen = camera.to_camera(points)
        before = seen[..., 2] > 1
        uv = project(np.where(before[..., None], seen, (0, 0, 1)), camera.k)
        inside = (uv > -0.5) & (uv < np.array([camera.width, camera.height]) - 0.5)
        out[:, view] = before & inside.all(axis=-1)
    return out

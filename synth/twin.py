"""Synthetic twins: the hand of every labelled real frame, fitted and rendered clean by the real cameras.

MURAUER's consistency loss compares the features of a real frame with those of a synthetic one that shows the
same pose. Proportions, skeleton and the layout's offsets are fitted over all frames of a person, then each
frame's pose (`synth/people.py`) and, from the real depth, its forearm's direction. Frames that fit badly, on the
whole or in one point, carry wrong labels more often than strange hands: they are left out and counted. The others
are rendered in whole units, as `synth run` does it: by any number of processes, resumable, each frame the same
whoever makes it.

Cost: about 1 ms a frame for the fit, 0.6 ms a view for the picture; see benchmarks/RESULTS.md.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..stores.camera import refuse_distortion
from ..stores.errors import HandloomError
from ..stores.joints import OPENXR26
from ..stores.recording import Recording, create_recording, open_recording
from ..stores.table import Table
from .executor import Executor, open_executor
from .formats import hand_named
from .generate import plain_disk_errors
from .hand import POSE_SIZE, ROOT_SIZE, SHAPE_NAMES, SHAPE_SIZE, RiggedHand
from .people import CHUNK_FRAMES, FitWork, Labelled, Person, fit_people, labelled_frames, write_array
from .provenance import packages_of, provenance_of, versions
from .twin_units import FITS, TwinSettings, TwinWork
from .units import TABLES

Progress = Callable[[int, int], None]

REASONS: Final = ("too_few_points", "badly_fitted", "point_off")
"""Why a labelled frame has no twin."""


def make_twins(
    real: Path,
    out: Path,
    *,
    settings: TwinSettings,
    rows: NDArray[np.int64] | None = None,
    jobs: int = 1,
    overwrite: bool = False,
    resume: bool = False,
    progress: Progress | None = None,
) -> Recording:
    """Make the recording of twins; its labels' `twin` is the `frame_id` in the real one.

    Args:
        real: a recording with labels, in whatever layout.
        out: where.
        settings: what is made.
        rows: (n,) of the real recording; default all labelled ones that are not kept for testing.
        jobs: worker processes; one works in this process.
        overwrite: replace a recording that is there.
        resume: continue one that was interrupted.
        progress: is told frames done and in all; a frame counts half when fitted, half when drawn.

    Returns:
        the recording. Labels have `twin` and `fit_error_mm`; `attributes["twins"]` counts what was made and what
        was left out and why, by subject; `attributes["people"]` is everyone's fitted hand.

    Raises:
        HandloomError: nothing is labelled, no frame fits, a camera has lens distortion, or the output is taken.
    """
    source, real, out = open_recording(real), real.resolve(), out.resolve()
    if source.labels is None or source.layout is None:
        raise HandloomError(
            "The recording has no labels", where=str(real), why="a twin shows the pose of a labelled frame"
        )
    refuse_distortion(source.rig, where=str(real))
    base = hand_named(settings.hand, side=source.hand, mapping=settings.hand_mapping)
    labelled = labelled_frames(source, rows)
    decisive = versions(("handloom", *packages_of(settings.renderer)))
    with (
        open_executor("local", jobs=jobs, scheduler=None, versions=decisive) as made_by,
        plain_disk_errors(out),
    ):
        made = _continued(out, source, settings, labelled, hand=base.provenance()) if resume else None
        if made is None:
            made = _created(
                out, source, settings, labelled, hand=base.provenance(), overwrite=overwrite or resume
            )  # fmt: skip
        tables = [_table(made, name) for name in TABLES]
        try:
            for table in tables:
                table.lock()
            total = 2 * len(labelled.frames)

            def tell(done: int) -> None:
                if progress is not None:
                    progress(done, total)

            if "twins" not in made.attributes:
                people = _people(made, base.hand, source, labelled)
                work = FitWork(real, out / FITS, settings.hand, settings.hand_mapping, people)
                _fit(work, made_by, labelled, made, settings, tell)
            _draw(made, tables, source, settings, made_by, tell)
        finally:
            for table in tables:
                table.unlock()
    shutil.rmtree(out / FITS, ignore_errors=True)
    return open_recording(out)


def _people(made: Recording, hand: RiggedHand, source: Recording, labelled: Labelled) -> dict[int, Person]:
    """Everyone's hand: fitted, or what an interrupted run has fitted already."""
    assert source.layout is not None
    if "people" not in made.attributes:
        people = fit_people(hand, source, source.layout, labelled.frames)
        made.annotate(people={str(who): person.to_dict() for who, person in people.items()})
    return {int(who): Person.from_dict(values) for who, values in made.attributes["people"].items()}


def _fit(
    work: FitWork,
    made_by: Executor,
    labelled: Labelled,
    made: Recording,
    settings: TwinSettings,
    tell: Callable[[int], Any],
) -> None:
    """All poses, then those that fit well together in one file, and the counts in the recording's attributes."""
    chunks, done = -(-len(labelled.frames) // CHUNK_FRAMES), 0
    todo = [chunk for chunk in range(chunks) if not work.path(chunk).exists()]
    done = len(labelled.frames) - CHUNK_FRAMES * len(todo) if todo else len(labelled.frames)
    tell(max(done, 0))
    for _ in made_by.run(work, todo):
        done += CHUNK_FRAMES
        tell(min(max(done, 0), len(labelled.frames)))
    kept: list[NDArray[np.void]] = []
    counts = {
        str(who): dict.fromkeys(("made", *REASONS), 0)
        for who in sorted({*labelled.too_few_points, *np.unique(labelled.frames["subject"]).tolist()})
    }
    for who, count in labelled.too_few_points.items():
        counts[str(who)]["too_few_points"] = count
    for chunk in range(chunks):
        fits = np.load(work.path(chunk))
        bad = ~(fits["error_mm"] <= settings.max_fit_error_mm)
        off = ~bad & ~(fits["worst_mm"] <= settings.max_point_error_mm)
        kept.append(fits[~bad & ~off])
        for name, which in (("made", ~bad & ~off), ("badly_fitted", bad), ("point_off", off)):
            for who, count in zip(*np.unique(fits["subject"][which], return_counts=True), strict=True):
                counts[str(who)][name] += int(count)
    fits = np.concatenate(kept)
    if not len(fits):
        shutil.rmtree(made.path)
        raise HandloomError(
            "No labelled frame could be fitted",
            where=str(work.real),
            why=(
                f"all {len(labelled.frames)} stay farther off than {settings.max_fit_error_mm:g} mm, or one of their "
                f"points than {settings.max_point_error_mm:g} mm"
            ),
            fix="check the labels' layout and the recording's hand, or raise --max-fit-error-mm",
        )
    write_array(work.folder / "fits.npy", fits)
    left_out = {name: sum(count[name] for count in counts.values()) for name in REASONS}
    made.annotate(
        twins={
            "made": len(fits),
            "left_out": sum(left_out.values()),
            "reasons": left_out,
            "subjects": counts,
            "max_fit_error_mm": settings.max_fit_error_mm,
            "max_point_error_mm": settings.max_point_error_mm,
            "median_fit_error_mm": round(float(np.median(fits["error_mm"])), 3),
        }
    )


def _draw(
    made: Recording,
    tables: list[Table],
    source: Recording,
    settings: TwinSettings,
    made_by: Executor,
    tell: Callable[[int], Any],
) -> None:
    """All units that are not there yet."""
    twins = made.attributes["twins"]
    count, unit_frames, left_out = twins["made"], settings.unit_frames, twins["left_out"]
    units = -(-count // unit_frames)
    for table in tables:
        table.resize(count)
    committed = min(table.committed for table in tables)
    first = units if committed == count else committed // unit_frames
    done = set(range(first)) | {u for u in range(first, units) if all(table.marked(u) for table in tables)}
    people = {int(who): Person.from_dict(values) for who, values in made.attributes["people"].items()}
    geometry = tables[0].attributes
    work = TwinWork(
        source.path.resolve(), made.path, source.rig, source.hand, settings, people,
        int(geometry["crop_px"]), float(geometry["window_mm"]),
    )  # fmt: skip
    # What was left out is done with as well.
    fitted = count + left_out - twins["reasons"]["too_few_points"]

    def commit() -> None:
        for table in tables:
            table.commit_prefix(done)
        drawn = sum(min(unit_frames, count - unit * unit_frames) for unit in done)
        tell(2 * fitted if len(done) == units else fitted + drawn)

    commit()
    for unit in made_by.run(work, [unit for unit in range(units) if unit not in done]):
        done.add(unit)
        commit()


def _created(
    out: Path,
    source: Recording,
    settings: TwinSettings,
    labelled: Labelled,
    *,
    hand: Mapping[str, Any],
    overwrite: bool,
) -> Recording:
    """The empty recording of twins, with the list of frames to fit."""
    described = settings.describe()
    made = create_recording(
        out,
        kind="synthetic",
        rig=source.rig,
        hand=source.hand,
        provenance={
            **provenance_of(settings.renderer),
            "command": "synth twin",
            "real": str(source.path),
            "twin_config": described,
            "seed": settings.seed,
            "sensor": described["sensor"],
            "hand": dict(hand),
        },
        attributes={"twins_of": source.uuid},
        overwrite=overwrite,
    )
    geometry = source.crops.attributes if source.crops else {}
    made.create_crops(
        parts=True,
        crop_px=int(geometry.get("crop_px", 192)),
        window_mm=float(geometry.get("window_mm", 450.0)),
        unit_frames=settings.unit_frames,
    )
    made.create_labels(
        layout="openxr26", pose_size=POSE_SIZE, shape_size=SHAPE_SIZE, root_size=ROOT_SIZE, twin=True,
        fit_error=True, attributes={"joint_names": list(OPENXR26), "shape_names": list(SHAPE_NAMES)},
        unit_frames=settings.unit_frames,
    )  # fmt: skip
    (out / FITS).mkdir()
    write_array(out / FITS / "frames.npy", labelled.frames)
    # The last: a recording that has it has the others.
    made.create_frames(depth=False, unit_frames=settings.unit_frames)
    return made


def _continued(
    out: Path, source: Recording, settings: TwinSettings, labelled: Labelled, *, hand: Mapping[str, Any]
) -> Recording | None:
    """The interrupted recording at `out`; None where there is none yet, or it was cut off at its beginning."""
    if not out.exists() or not (out / "frames" / "committed.json").exists():
        return None
    made = open_recording(out, writable=True)
    before = made.provenance.get("twin_config")
    if made.provenance.get("command") != "synth twin" or not isinstance(before, Mapping):
        raise HandloomError("This recording was not made by 'synth twin'", where=str(out))
    now = settings.describe()
    changed = sorted(name for name in {*before, *now} if before.get(name) != now.get(name))
    why = f"'{changed[0]}' was {before.get(changed[0])!r} and is now {now.get(changed[0])!r}" if changed else ""
    if made.attributes.get("twins_of") != source.uuid:
        why = "it was of another recording"
    elif not why and made.provenance.get("hand") != dict(hand):
        why = "the hand's file has changed"
    elif not why and (out / FITS).exists():
        frames = np.load(out / FITS / "frames.npy")
        why = "" if np.array_equal(frames, labelled.frames) else "other frames of the real recording are labelled now"
    if why:
        raise HandloomError(
            "The twins were begun otherwise", where=str(out), why=why,
            fix="resume with the same options, or give --overwrite instead of --resume to begin again",
        )  # fmt: skip
    return made


def _table(recording: Recording, name: str) -> Table:
    table: Table | None = getattr(recording, name)
    assert table is not None, name
    return table

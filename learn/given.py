"""Whether the recordings that an arm is given go together; nothing but their descriptions is read.

Every refusal names the recording and the command that mends it, with the user's own paths.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ..stores.errors import HandloomError
from ..stores.joints import Layout, layout_named
from ..stores.lineage import usable_twins
from ..stores.recording import Recording
from .config import Needs, TrainConfig


def has_twins(recording: Recording) -> bool:
    """Whether its rows are the synthetic twins of another recording's frames."""
    return recording.labels is not None and "twin" in recording.labels.columns


def twins_for(real: Recording | None, twins: Sequence[Recording]) -> list[Recording]:
    """Those of this real recording's frames; a set made for another one is an error, not a silent loss."""
    if real is None:
        return []
    for recording in twins:
        usable_twins(recording, real)
    return list(twins)


def check_presence(config: TrainConfig, needs: Needs, plain: Sequence[Recording], real: Recording | None) -> None:
    """What the arm learns from is there, with crops and, if it is synthetic, labels."""
    where = f"arm '{config.arm}'"
    if needs.synth and not plain:
        raise HandloomError(
            "This arm learns from synthetic data, and none is given",
            where=where,
            fix="handloom synth run --out S.zarr --frames 10000, then --synth S.zarr",
        )
    if needs.real and real is None:
        raise HandloomError(
            "This arm learns from a real recording, and none is given",
            where=where,
            fix="give --real R.zarr, or take --arm synthetic-only",
        )
    for recording in [*plain, *([real] if real else [])]:
        if recording.crops is None:
            raise HandloomError(
                "The recording has no crops to train from",
                where=str(recording.path),
                fix=f"handloom capture locate {recording.path}",
            )
    for recording in plain:
        if recording.labels is None:
            raise HandloomError("The synthetic recording has no labels", where=str(recording.path))


def check_agreement(
    config: TrainConfig, used: Sequence[Recording], plain: Sequence[Recording], real: Recording | None
) -> None:
    """Crop sizes, hands and cameras: what all recordings must have in common."""
    model = real or used[0]
    sides = {str(r.path): r.crops.columns["crop"].shape[-1] for r in used if r.crops is not None}
    side = sides[str(model.path)]
    for path, other in sides.items():
        if other != side:
            raise HandloomError(
                "The recordings have crops of different sizes",
                where=f"{path} and {model.path}",
                why=f"{other} px and {side} px",
                fix=f"render {path} again with 'handloom synth run ... -o crop_px={side}'",
            )
    for recording in used:
        if recording.hand != model.hand:
            raise HandloomError(
                "The recordings show different hands",
                where=f"{recording.path} and {model.path}",
                why=f"a {recording.hand} hand and a {model.hand} one",
                fix=f"render {recording.path} again with 'handloom synth run ... --side {model.hand}'; "
                "a model is of one hand",
            )
    if len({r.n_views for r in plain}) > 1:
        raise HandloomError(
            "The synthetic recordings have different numbers of cameras",
            where=", ".join(f"{r.path}: {r.n_views}" for r in plain),
            fix="render them with one rig",
        )
    if config.needs.pairs:
        without = {"full": "+distribution-matching", "+view-prediction": "real+synthetic"}.get(config.arm, "real-only")
        for recording in [*([real] if real else []), *plain]:
            if recording.n_views < 2:
                raise HandloomError(
                    f"View prediction (--arm {config.arm}) needs frames seen by at least two cameras",
                    where=str(recording.path),
                    why="the recording has one view",
                    fix=f"take the arm without it: --arm {without}",
                )


def no_labels(config: TrainConfig, real: Recording) -> HandloomError:
    """For an arm that learns from labelled real frames alone: none is there, or none is to be used."""
    if real.labels is None:
        why, fix = "the recording has no labels", f"handloom label {real.path} --select 100 --out labels"
    else:
        why, fix = f"--labels is {config.labels}", "give --labels a number above 0"
        if config.labels is None:
            why = "no training frame of the recording carries a label and shows a hand"
            fix = f"handloom label {real.path} --select 100 --out labels"
    return HandloomError(
        f"The arm '{config.arm}' learns from labelled real frames, and there are none to learn from",
        where=str(real.path),
        why=why,
        fix=f"{fix}; or an arm that learns from synthetic frames: --arm full --synth S.zarr",
    )


def twin_command(real: Recording) -> str:
    """What makes the twins of a recording, by its own path."""
    out = f"{str(real.path).removesuffix('.zarr')}-twins.zarr"
    return f"handloom synth twin --real {real.path} --out {out}, then give --synth {out} as well"


def layout_of(
    config: TrainConfig,
    plain: Sequence[Recording],
    twins: Sequence[Recording],
    real: Recording | None,
    *,
    labelled: bool,
) -> Layout:
    """What the model predicts: as asked, else as the real labels in use have it, else the synthetic ones."""
    sources = [*([real] if real and labelled else []), *plain, *(twins if labelled else [])]
    known = [(r, r.layout) for r in sources if r.layout is not None]
    if config.layout is not None:
        target = layout_named(config.layout)
    elif known:
        target = known[0][1]
    else:
        target = layout_named("openxr26")
    for recording, layout in known:
        if layout.name not in (target.name, "openxr26"):
            raise HandloomError(
                f"Labels in layout '{layout.name}' cannot train a model of '{target.name}'",
                where=str(recording.path),
                why="only the 26 canonical joints (openxr26) convert to other layouts",
                fix=_common_layout({r.path: at.name for r, at in known}),
            )
    return target


def _common_layout(names: Mapping[Path, str]) -> str:
    """The layout that the labels of all recordings convert to, if there is one."""
    fixed = sorted({name for name in names.values() if name != "openxr26"})
    if len(fixed) == 1:
        return f"--layout {fixed[0]}"
    said = ", ".join(f"{path}: {name}" for path, name in names.items())
    return f"leave recordings out until all have one layout, or openxr26 ({said})"

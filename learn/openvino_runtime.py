"""OpenVINO in bfloat16 instead of onnxruntime in float32: faster where the CPU has units for it, and not exact.

bfloat16 keeps 8 bits of a number. What that does to a pose depends on the network and on what it sees, so a file may
only be run so if `handloom export --openvino --on VAL.zarr` has measured it on captured frames: an export whose poses
move more than `MOST_MOVED_MM` on any of them is refused. The file says what was measured, and `load` asks for it.

Measured (benchmarks/predict.py --openvino): the large `paper` network gains; the small ones lose, the call itself costs
more than they do.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from ..stores.errors import BAD_ENVIRONMENT, HandloomError, missing_extra

if TYPE_CHECKING:
    from ..stores.recording import Recording
    from .predict import Estimator

MOST_MOVED_MM: Final = 0.5
READ_ROWS: Final = 8


class OpenvinoSession:
    """The part of onnxruntime's session that predictions use, run by OpenVINO.

    Args:
        data: the ONNX file.
        threads: of the network.
        where: the file's name, for errors.

    Raises:
        HandloomError: OpenVINO is missing, this CPU has no bfloat16 units, or the network does not run.
    """

    def __init__(self, data: bytes, *, threads: int, where: str) -> None:
        try:
            import openvino
        except ImportError as error:
            raise missing_extra("openvino", "openvino") from error
        core = openvino.Core()
        if "BF16" not in capabilities(core):
            raise HandloomError(
                "This CPU has no bfloat16 units: OpenVINO would be no faster than onnxruntime",
                where=where,
                why=f"it offers {', '.join(capabilities(core))}",
                fix="leave out --openvino and --runtime openvino",
                exit_code=BAD_ENVIRONMENT,
            )
        hints = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "bf16"}
        try:
            compiled = core.compile_model(core.read_model(data), "CPU", hints)
        except RuntimeError as error:
            why = str(error).strip().splitlines()[-1]
            raise HandloomError("OpenVINO cannot run the model", where=where, why=why) from error
        self._request, self._output = compiled.create_infer_request(), compiled.output(0)

    def run(self, _: None, feed: Mapping[str, NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        """Joints (B, J, 3) of `feed["crop"]` (B, 1, P, P)."""
        # A copy: the request's own buffer is written again by the next call.
        return [np.array(self._request.infer(dict(feed))[self._output], np.float32)]


def capabilities(core: Any) -> Sequence[str]:
    """What the CPU offers, in OpenVINO's words."""
    return list(core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"))


@dataclass(frozen=True, slots=True)
class Drift:
    """How far poses moved, on captured images."""

    largest_mm: float
    """Of any image: the mean over its joints."""
    mean_mm: float
    images: int

    def to_text(self, recording: str) -> str:
        """As it is kept in a model file."""
        values = {"precision": "bf16", "moved_mm": round(self.largest_mm, 4), "mean_mm": round(self.mean_mm, 4)}
        return json.dumps(values | {"images": self.images, "recording": recording})


def drift(exact: Estimator, other: Estimator, recording: Recording, rows: Sequence[int]) -> Drift:
    """How far the poses of `other` lie from those of `exact` in the images of some rows, crops and all.

    Raises:
        HandloomError: none of them shows a hand.
    """
    from .inputs import recording_views, usable
    from .predict import estimates

    moved: list[NDArray[np.float64]] = []
    mirrored = recording.hand != exact.hand
    for start in range(0, len(rows), READ_ROWS):
        shown = [
            view
            for row in rows[start : start + READ_ROWS]
            for _, view in recording_views(recording, row, row + 1)
            if view.center_mm is not None and usable(view.center_mm)
        ]
        if shown:
            centers = np.array([view.center_mm for view in shown], np.float64)
            a, b = (estimates(model, shown, centers, mirrored=mirrored).joints_mm for model in (exact, other))
            moved.append(np.linalg.norm(a.astype(np.float64) - b, axis=-1).mean(axis=-1))
    if not moved:
        raise HandloomError("The recording shows no hand to compare poses on", where=str(recording.path))
    every = np.concatenate(moved)
    return Drift(float(every.max()), float(every.mean()), len(every))


def refuse_drift(found: Drift, *, where: str) -> None:
    """The gate.

    Raises:
        HandloomError: a pose moved more than `MOST_MOVED_MM`.
    """
    if not found.largest_mm <= MOST_MOVED_MM:
        raise HandloomError(
            "In bfloat16 this network's poses move too far",
            where=where,
            why=f"by up to {found.largest_mm:.2f} mm over {found.images} images (mean {found.mean_mm:.2f}); "
            f"{MOST_MOVED_MM:g} mm are allowed",
            fix="export it without --openvino",
        )


def refuse_unmeasured(text: str | None, *, where: str) -> None:
    """Stop where a file does not say that it passed the gate.

    Raises:
        HandloomError: it does not, or says something else.
    """
    try:
        moved = float(json.loads(text)["moved_mm"]) if text else None
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError):
        moved = None
    if moved is None or not moved <= MOST_MOVED_MM:
        raise HandloomError(
            "It is not known what bfloat16 does to this model's poses",
            where=where,
            why="it was exported without --openvino",
            fix="handloom export RUN --out MODEL.onnx --openvino --on VAL.zarr",
        )

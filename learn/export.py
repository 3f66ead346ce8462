"""A trained network as one ONNX file that carries all a prediction needs besides the depth.

Weights, joint names, units, the crop and its normalisation, provenance and a checksum lie in the one file;
`learn/predict.py` reads it without torch. Only the network is a graph: cropping stays in numpy and its
parameters in the metadata. Every export is run against torch on random crops and refused if its joints move.
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from ..stores import no_telemetry as no_telemetry  # before onnxruntime

import onnxruntime  # isort: skip

from ..stores.errors import HandloomError
from ..stores.recording import Recording, open_recording
from .confidence import Confidence, calibrate
from .crossing_graph import pose_graph
from .crossing_nets import PoseNet as CrossingPoseNet
from .model import PoseModel, load_model
from .model_file import CHECKSUM_MARK, signed
from .openvino_runtime import Drift, drift, refuse_drift
from .predict import BATCH, CROP, FORMAT, NORMALISATION, VERSION, load

OPSET: Final = 17
TOLERANCE_MM: Final = 0.05
"""What float32 sums in another order may move a joint; more is another network."""
CHECK_CROPS: Final = 8
BATCHES: Final = {"crossing": 8}
"""Images at a time where `BATCH` is not the fastest: maps that many operators read should stay in the cache."""
VAL: Final = 1
"""Of a recording's splits."""


@dataclass(frozen=True, slots=True)
class Exported:
    """What an export made."""

    path: Path
    parity_mm: float
    """Largest distance between a joint by onnxruntime and by torch."""
    size_bytes: int
    metadata: Mapping[str, str]
    confidence: Confidence | None = None
    """As fitted to the validation recording, if one was given."""
    moved: Drift | None = None
    """By bfloat16, if that was asked for."""


def export(
    run: Path | PoseModel,
    out: Path,
    *,
    overwrite: bool = False,
    tolerance_mm: float = TOLERANCE_MM,
    provenance: Mapping[str, Any] | None = None,
    on: Path | None = None,
    openvino: bool = False,
) -> Exported:
    """Write the model of a run as one ONNX file.

    Args:
        run: a run directory or checkpoint, or a model in memory.
        out: the file to write.
        overwrite: replace it.
        tolerance_mm: largest difference from torch that is accepted.
        provenance: more to keep in the file, beside configuration, recordings and versions.
        on: a validation recording (its `val` frames, or all where none are): if it has labels, the confidence is
            fitted to it, see `confidence.py`.
        openvino: let OpenVINO run the file in bfloat16, if the poses on `on` allow it, see `openvino_runtime.py`.

    Raises:
        HandloomError: there is no model, `out` exists, the exported network disagrees with torch, or the poses move
            too far in bfloat16.
    """
    assert on is not None or not openvino, "bfloat16 is measured on a recording"
    if out.exists() and not overwrite:
        raise HandloomError("The output exists already", where=str(out), fix="--overwrite replaces it")
    model = load_model(run) if isinstance(run, Path) else run
    # Minimal filtering multiplies by numbers up to 8 and takes differences: that is for float32.
    graph = _graph(model, filtered=not openvino)
    parity_mm = _parity_mm(graph, model)
    if not parity_mm <= tolerance_mm:
        raise HandloomError(
            "The exported network does not agree with the trained one",
            where=str(out),
            why=f"joints move by up to {parity_mm:.3f} mm, {tolerance_mm:g} are allowed",
        )
    metadata = describe(model, provenance=provenance or {}, parity_mm=parity_mm)
    data = _with_metadata(graph, metadata)
    out.parent.mkdir(parents=True, exist_ok=True)
    beside = out.with_name(out.name + ".writing")
    try:
        beside.write_bytes(data)
        confidence, moved = None, None
        if on is not None:
            recording, rows = _validation(on)
            if recording.labels is not None:
                confidence = calibrate(load(beside), recording, rows)
                metadata["confidence"] = confidence.to_text()
            if openvino:
                moved = drift(load(beside), load(beside, runtime="openvino", gated=False), recording, rows)
                refuse_drift(moved, where=str(out))
                metadata["openvino"] = moved.to_text(recording.uuid)
            data = _with_metadata(graph, metadata)
            beside.write_bytes(data)
        beside.replace(out)
    finally:
        beside.unlink(missing_ok=True)
    return Exported(out, parity_mm, len(data), metadata, confidence, moved)


def _validation(path: Path) -> tuple[Recording, list[int]]:
    """The recording and the rows of it to measure on."""
    recording = open_recording(path)
    assert recording.frames is not None
    split = recording.frames.read("split")
    rows = np.flatnonzero(split == VAL) if (split == VAL).any() else np.arange(recording.n_frames)
    return recording, rows.tolist()


def describe(model: PoseModel, *, provenance: Mapping[str, Any], parity_mm: float) -> dict[str, str]:
    """What the file says of itself; every value is text, compound ones are JSON."""
    versions = {name: importlib.metadata.version(name) for name in ("torch", "numpy", "onnx", "onnxruntime")}
    versions |= {"handloom": _own_version(), "python": platform.python_version()}
    kept = ("config", "sources")
    description = {name: value for name, value in model.description.items() if name not in kept}
    sources = _without_paths(dict(model.description.get("sources") or {}))
    sources.pop("labelled_frames", None)  # a count says enough, and thousands would swell the file
    made = {"config": model.description.get("config", {}), "sources": sources, "versions": versions}
    made |= provenance
    return {
        "format": FORMAT,
        "version": str(VERSION),
        "method": model.method,
        "preset": model.preset,
        "arm": model.arm,
        "layout": model.layout.name,
        "joints": json.dumps(model.layout.points),
        "units": "mm",
        "output": "joints relative to the crop's centre, camera frame: x right, y down, z forward",
        "hand": model.hand,
        "input_px": str(model.input_px),
        "cube_mm": repr(float(model.cube_mm)),
        "crop": CROP,
        "normalisation": NORMALISATION,
        "batch": str(BATCHES.get(model.method, BATCH)),
        "description": json.dumps(description, default=str, sort_keys=True),
        "provenance": json.dumps(made, default=str, sort_keys=True),
        "parity_mm": f"{parity_mm:.6f}",
    }


def _graph(model: PoseModel, *, filtered: bool) -> bytes:
    """The network as a graph with nothing left to fold: it is loaded faster, and may run faster."""
    net = model.net.eval()
    if isinstance(net, CrossingPoseNet):
        made = pose_graph(net, input_px=model.input_px, joints=len(model.layout), filtered=filtered)
        if made is not None:
            return made
    example = torch.zeros(1, 1, model.input_px, model.input_px, device=next(net.parameters()).device)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), torch.no_grad():
        target = Path(folder) / "graph.onnx"
        # The newer exporter needs onnxscript and is no better here; the older one warns that it is old.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            net,
            (example,),
            target,
            dynamo=False,
            opset_version=OPSET,
            input_names=["crop"],
            output_names=["joints_mm"],
            dynamic_axes={"crop": {0: "batch"}, "joints_mm": {0: "batch"}},
        )
        return _simplified(target.read_bytes(), Path(folder) / "simple.onnx")


def _simplified(graph: bytes, beside: Path) -> bytes:
    """Batch normalisation in the convolutions, constants folded: what onnxruntime does that holds on every machine.

    It does so on loading anyhow; done here, a model is loaded in half the time.
    """
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(beside)
    options.log_severity_level = 3
    onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    simple = onnx.load(beside)
    used = {node.domain for node in simple.graph.node}
    for i in reversed(range(len(simple.opset_import))):
        if simple.opset_import[i].domain not in used:
            del simple.opset_import[i]
    return bytes(simple.SerializeToString())


def _parity_mm(graph: bytes, model: PoseModel) -> float:
    """Largest distance between torch's joints and onnxruntime's, over hand-like random crops."""
    crops = _check_crops(model.input_px)
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    ours: NDArray[np.float32] = session.run(None, {"crop": crops})[0]
    theirs = model.predict_mm(torch.from_numpy(crops)).numpy()
    if ours.shape != theirs.shape:
        return float("inf")
    return float(np.linalg.norm(ours.astype(np.float64) - theirs, axis=-1).max())


def _check_crops(side: int) -> NDArray[np.float32]:
    """Smooth surfaces inside a disc, +1 around it: what the network meets, more or less."""
    rng = np.random.default_rng(0)
    grid = np.linspace(-1, 1, side)
    x, y = np.meshgrid(grid, grid)
    crops = np.ones((CHECK_CROPS, 1, side, side), np.float32)
    for crop in crops:
        tilt, middle, radius = rng.uniform(-0.4, 0.4, 2), rng.uniform(-0.3, 0.3, 2), rng.uniform(0.3, 0.8)
        inside = np.hypot(x - middle[0], y - middle[1]) < radius
        surface = tilt[0] * x + tilt[1] * y + rng.normal(0, 0.03, x.shape)
        crop[0][inside] = surface[inside]
    return crops


def _with_metadata(graph: bytes, metadata: Mapping[str, str]) -> bytes:
    """The graph with its description, and the checksum filled in."""
    proto = onnx.load_model_from_string(graph)
    proto.producer_name, proto.producer_version = "handloom", _own_version()
    for name, value in metadata.items():
        proto.metadata_props.add(key=f"handloom.{name}", value=value)
    proto.metadata_props.add(key="handloom.checksum", value=CHECKSUM_MARK.decode("ascii") + "0" * 64)
    return signed(proto.SerializeToString())


def _without_paths(value: Any) -> Any:
    """Recordings by name, id and size: where they lay on the maker's disk is nobody's business."""
    match value:
        case dict():
            return {
                k: Path(v).name if k in ("path", "val", "init") and isinstance(v, str) else _without_paths(v)
                for k, v in value.items()
            }
        case list():
            return [_without_paths(item) for item in value]
        case _:
            return value


def _own_version() -> str:
    from .. import __version__

    return __version__

"""Depth in, joints out, on a CPU with onnxruntime and numpy: no torch, nothing else of the kit's weight.

An exported model is one file with everything a prediction needs: network, crop, normalisation, joints, units
and a checksum (`learn/export.py` writes it). For each image: where the hand is, the cube around it, the
network; then once more with the cube around the palm just predicted, which takes out most of the first
centre's error. `learn/poses.py` does it for whole recordings and folders.

    model = load(Path("model.onnx"))         # handloom.load_model("model.onnx") is the same
    pose = model.predict(depth, camera)      # None where no hand is found
    pose.joints_mm                           # (J, 3) in the camera's frame, names in model.layout.points
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..stores import no_telemetry as no_telemetry  # before onnxruntime

import onnxruntime  # isort: skip

from ..stores.camera import Camera
from ..stores.errors import HandloomError
from ..stores.joints import LAYOUTS, Layout, converted, layout_named
from .confidence import Confidence, from_text
from .cuts import cut_all
from .inputs import DepthView, cut, single_image, usable
from .model_file import checked_bytes

FORMAT: Final = "handloom-model"
VERSION: Final = 1
NORMALISATION: Final = "(depth - center_z) / (cube / 2); 1 outside the cube and where there is no return"
CROP: Final = "nearest pixel of a camera with fx = input_px * center_z / cube, fy / fx as the sensor's, centre central"
BATCH: Final = 32
"""Images at a time, unless the model file says otherwise."""
PASSES: Final = 2
"""Crops an image: around the centre found, then around the palm predicted."""
LARGEST_INPUT_PX: Final = 1024
LARGEST_BATCH: Final = 1024
LARGEST_CUBE_MM: Final = 2000.0


class Estimator(Protocol):
    """What can be run and measured: an exported model, or a trained one (`evaluate.TorchEstimator`)."""

    @property
    def layout(self) -> Layout:
        """The joints it predicts."""

    @property
    def hand(self) -> str:
        """The hand it was trained on; the other one is mirrored."""

    @property
    def input_px(self) -> int:
        """Side P of its input."""

    @property
    def cube_mm(self) -> float:
        """Side of the cube its input shows."""

    def predict_crops(self, crops: NDArray[np.float32]) -> NDArray[np.float32]:
        """Crops (B, 1, P, P) to joints (B, J, 3), mm relative to the crop's centre."""


@dataclass(frozen=True, slots=True)
class Pose:
    """One predicted hand.

        pose.joint("index_tip")        # (3,) mm: x right, y down, z forward
        pose.joints_as("mediapipe21")  # (21, 3) mm

    What `Model.predict` gives; of several cameras together it is `rig_pose.RigPose`.
    """

    joints_mm: NDArray[np.float32]
    """(J, 3) in the camera's frame."""
    center_mm: NDArray[np.float32]
    """(3,) of the last crop."""
    center_source: str
    """'located' or 'given'."""
    center_score: float
    """How sure the locating was, 0 to 1."""
    spread_mm: float
    """Mean way of the joints from the first crop's pose to the last one's: how much it depends on the crop."""
    confidence: float
    """From 0 to 1, larger is surer; a probability where `Model.confidence.calibrated` (`learn/confidence.py`)."""
    layout: Layout
    """Names the joints."""

    def joint(self, name: str) -> NDArray[np.float32]:
        """(3,) mm in the camera's frame of one joint, `index_tip` say.

        Raises:
            HandloomError: the layout has no such joint.
        """
        return np.asarray(self.joints_mm[self.layout.index(name)])

    def joints_as(self, layout: str) -> NDArray[np.float32]:
        """(K, 3) mm in the order of another layout: `mediapipe21`, `mano21`, `nyu14` and so on.

        Raises:
            HandloomError: there is no such layout, or the model's joints do not convert to it.
        """
        return converted_joints(self.joints_mm, self.layout, layout_named(layout))


@dataclass(frozen=True, slots=True)
class Model:
    """An exported model, ready to run on the CPU; `handloom.load_model` opens one."""

    path: Path
    """The .onnx file."""
    layout: Layout
    """Names of the joints, in the order of the predictions."""
    hand: str
    """The hand it was trained on, 'right' or 'left'; images of the other one are mirrored."""
    input_px: int
    """Side P of a crop, pixels."""
    cube_mm: float
    """Side of the cube that a crop shows, mm."""
    metadata: Mapping[str, str]
    """All that the file says of itself, `handloom.` left off the names."""
    session: Any
    """onnxruntime's, or what stands in for it (`openvino_runtime.py`)."""
    confidence: Confidence
    """From how a pose behaves to how sure it is."""
    batch: int = BATCH
    """Crops that the network takes at a time."""

    @property
    def provenance(self) -> dict[str, Any]:
        """How it was made: configuration, recordings, versions."""
        values: dict[str, Any] = json.loads(self.metadata.get("provenance", "{}"))
        return values

    def predict_crops(self, crops: NDArray[np.float32]) -> NDArray[np.float32]:
        """Crops (B, 1, P, P) to joints (B, J, 3), mm relative to the crop's centre."""
        size = self.batch
        parts = [
            self.session.run(None, {"crop": crops[start : start + size]})[0] for start in range(0, len(crops), size)
        ]
        empty = np.zeros((0, len(self.layout), 3), np.float32)
        return np.concatenate(parts) if parts else empty

    def predict(
        self,
        depth: NDArray[Any],
        camera: Camera,
        *,
        center_mm: ArrayLike | None = None,
        hand: str | None = None,
    ) -> Pose | None:
        """The hand in one image, None if there is none.

        Args:
            depth: (H, W) uint16 in the camera's `depth_unit_mm`, 0 = no return; or floating mm.
            camera: its intrinsics.
            center_mm: (3,) where the hand is, in the camera; it is looked for if this is left out. Where nothing is
                within the model's cube around it, there is no hand.
            hand: 'right' or 'left'; the hand the model was trained on if this is left out.

        Raises:
            HandloomError: the depth is no image of this camera or in metres, or `hand` is neither.
        """
        if hand not in (None, "right", "left"):
            raise HandloomError(f"'{hand}' is no hand", fix="'right' or 'left'")
        view = single_image(depth, camera, center_mm=center_mm)
        if view.center_mm is None or not usable(view.center_mm) or shows_nothing(self, view):
            return None
        found = estimates(self, [view], view.center_mm[None], mirrored=(hand or self.hand) != self.hand)
        spread_mm = float(found.spread_mm[0])
        return Pose(
            joints_mm=found.joints_mm[0],
            center_mm=found.center_mm[0],
            center_source=view.center_source,
            center_score=view.center_score,
            spread_mm=spread_mm,
            confidence=float(self.confidence.view(spread_mm)),
            layout=self.layout,
        )


def load(
    path: Path, *, threads: int = 1, layout: str | None = None, runtime: str = "onnxruntime", gated: bool = True
) -> Model:
    """Open an exported model.

    Args:
        path: the file `handloom export` wrote.
        threads: of the network.
        layout: the joints the caller needs; None takes what the model has.
        runtime: 'onnxruntime', or 'openvino' for a model exported for it, in bfloat16.
        gated: False runs one with OpenVINO that was not; for the measurement itself.

    Raises:
        HandloomError: it is missing, damaged, not ours, of a newer version, or of another layout.
    """
    data = checked_bytes(path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise HandloomError("The model file cannot be run", where=str(path), why=str(error).splitlines()[0]) from error
    said = session.get_modelmeta().custom_metadata_map
    metadata = {name.removeprefix("handloom."): value for name, value in said.items()}
    try:
        _check_metadata(path, metadata, layout)
        known, hand = LAYOUTS[metadata["layout"]], metadata["hand"]
        input_px, cube_mm = int(metadata["input_px"]), float(metadata["cube_mm"])
        batch = int(metadata.get("batch", BATCH))
        plausible = 0 < input_px <= LARGEST_INPUT_PX and 0 < cube_mm <= LARGEST_CUBE_MM and 0 < batch <= LARGEST_BATCH
        if hand not in ("right", "left") or not plausible:
            raise ValueError(f"hand '{hand}', input_px {input_px}, cube_mm {cube_mm}, batch {batch}")
        for name in ("description", "provenance"):
            if not isinstance(json.loads(metadata.get(name, "{}")), dict):
                raise ValueError(f"its {name} is no object")
        confidence = from_text(metadata.get("confidence"))
    except (KeyError, ValueError, RecursionError) as error:
        raise HandloomError(
            "The model's description is incomplete or wrong", where=str(path), why=str(error)
        ) from error
    shapes = (session.get_inputs()[0].shape[1:], session.get_outputs()[0].shape[1:])
    if shapes != ([1, input_px, input_px], [len(known), 3]):
        raise HandloomError(
            "The network does not fit the model's description",
            where=str(path),
            why=f"its shapes are {shapes}",
        )
    if runtime == "openvino":
        from .openvino_runtime import OpenvinoSession, refuse_unmeasured

        if gated:
            refuse_unmeasured(metadata.get("openvino"), where=str(path))
        session = OpenvinoSession(data, threads=threads, where=str(path))
    elif runtime != "onnxruntime":
        raise HandloomError(f"There is no runtime '{runtime}'", fix="'onnxruntime' or 'openvino'")
    return Model(path, known, hand, input_px, cube_mm, metadata, session, confidence, batch)


def _check_metadata(path: Path, metadata: Mapping[str, str], layout: str | None) -> None:
    if metadata.get("format") != FORMAT:
        raise HandloomError("This is not a model exported by handloom", where=str(path))
    version = metadata.get("version", "")
    if not version.isdecimal() or int(version) > VERSION:
        raise HandloomError(
            "The model was exported by a newer handloom",
            where=str(path),
            why=f"its version is '{version}', this handloom reads up to {VERSION}",
            fix="pip install --upgrade handloom",
        )
    name = metadata.get("layout", "")
    if name not in LAYOUTS or json.loads(metadata.get("joints", "[]")) != list(LAYOUTS[name].points):
        raise HandloomError(
            "The model predicts joints of an unknown layout",
            where=str(path),
            why=f"layout '{name}'; known with exactly their joints: {', '.join(LAYOUTS)}",
        )
    if layout is not None and name != layout:
        raise HandloomError(
            f"The model predicts {name}, not {layout}",
            where=str(path),
            why=f"{len(LAYOUTS[name])} joints",
            fix=f"train with --layout {layout}",
        )
    if (metadata.get("units"), metadata.get("normalisation")) != ("mm", NORMALISATION):
        raise HandloomError(
            "The model wants another input or unit",
            where=str(path),
            why=f"units '{metadata.get('units')}', normalisation '{metadata.get('normalisation')}'",
        )


def converted_joints(joints: NDArray[Any], source: Layout, target: Layout) -> NDArray[np.float32]:
    """Points (..., J, 3) of the model's layout as those of another.

    Raises:
        HandloomError: only the 26 canonical joints convert.
    """
    if source.name not in ("openxr26", target.name):
        raise HandloomError(
            f"The model's joints are those of {source.name}, not of {target.name}",
            why="only the 26 canonical joints (openxr26) convert to other layouts",
            fix=f"--joints {source.name}, or a model trained with --layout openxr26",
        )
    return converted(joints, source, target)


@dataclass(frozen=True, slots=True)
class Estimates:
    """The poses of B images."""

    joints_mm: NDArray[np.float32]
    """(B, J, 3) in each image's camera."""
    center_mm: NDArray[np.float32]
    """(B, 3) around which they were read."""
    spread_mm: NDArray[np.float64]
    """(B,) mean way of the joints between the last two passes; NaN of a single pass."""


def estimates(
    estimator: Estimator,
    views: Sequence[DepthView],
    centers_mm: NDArray[np.float64],
    *,
    mirrored: bool,
    passes: int = PASSES,
) -> Estimates:
    """The poses in B images.

    Args:
        estimator: the network.
        views: B images.
        centers_mm: (B, 3) where to look first.
        mirrored: the images show the other hand than the network knows. The crop of a mirrored image is the
            mirrored crop, so mirroring crop and joints about the centre is exact.
        passes: 1 crops around `centers_mm`; each further one around the palm just predicted.
    """
    centers = np.array(centers_mm, np.float64)
    side, cube = estimator.input_px, estimator.cube_mm
    joints = np.zeros((len(views), len(estimator.layout), 3), np.float32)
    spread = np.full(len(views), np.nan)
    # Of one image the calls are what costs, 0.02 ms in all: hence no np.linalg.norm, which takes twice as long.
    for step in range(passes):
        crops = cut_all(views, centers, input_px=side, cube_mm=cube)
        relative = estimator.predict_crops(crops[..., ::-1].copy() if mirrored else crops)
        if mirrored:
            relative = relative * np.array([-1, 1, 1], np.float32)
        before, joints = joints, (centers[:, None] + relative).astype(np.float32)
        if step:
            moved = joints - before
            spread = np.sqrt((moved * moved).sum(axis=-1)).mean(axis=-1).astype(np.float64)
        if step + 1 < passes:
            palm = joints[:, estimator.layout.palm].astype(np.float64)
            away = palm - centers
            good = usable(palm) & ((away * away).sum(axis=1) < (cube / 2) ** 2)
            centers = palm if good.all() else np.where(good[:, None], palm, centers)
    return Estimates(joints, centers.astype(np.float32), spread)


def shows_nothing(estimator: Estimator, view: DepthView) -> bool:
    """Whether a centre that was given, not found in the image, has nothing of the image around it."""
    if view.center_source != "given" or view.center_mm is None:
        return False
    crop = cut(view, view.center_mm, input_px=estimator.input_px, cube_mm=estimator.cube_mm)
    return bool((crop >= 1).all())


def estimate(
    estimator: Estimator,
    views: Sequence[DepthView],
    centers_mm: NDArray[np.float64],
    *,
    mirrored: bool,
    passes: int = PASSES,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Joints (B, J, 3) and the centres (B, 3) they were read around, mm in each image's camera: see `estimates`."""
    found = estimates(estimator, views, centers_mm, mirrored=mirrored, passes=passes)
    return found.joints_mm, found.center_mm

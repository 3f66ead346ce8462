"""The models that can be measured: trained ones run by torch, exported ones by onnxruntime, a mean pose."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..stores.joints import Layout
from .predict import Estimator, Model, load

if TYPE_CHECKING:
    from .model import PoseModel


@dataclass(frozen=True, slots=True)
class TorchEstimator:
    """A trained model, run by torch."""

    model: PoseModel

    @property
    def layout(self) -> Layout:
        """The joints it predicts."""
        return self.model.layout

    @property
    def hand(self) -> str:
        """The hand it was trained on."""
        return self.model.hand

    @property
    def input_px(self) -> int:
        """Side P of its input."""
        return self.model.input_px

    @property
    def cube_mm(self) -> float:
        """Side of the cube its input shows."""
        return self.model.cube_mm

    def predict_crops(self, crops: NDArray[np.float32]) -> NDArray[np.float32]:
        """Crops (B, 1, P, P) to joints (B, J, 3), mm relative to the crop's centre."""
        import torch

        return np.asarray(self.model.predict_mm(torch.from_numpy(crops)).numpy(), np.float32)


@dataclass(frozen=True, slots=True)
class MeanPose:
    """The baseline that does not look: the same joints about every centre."""

    layout: Layout
    hand: str
    relative_mm: NDArray[np.float32]
    """(J, 3) in the camera, relative to the palm."""
    input_px: int = 8
    cube_mm: float = 300.0

    def predict_crops(self, crops: NDArray[np.float32]) -> NDArray[np.float32]:
        """Crops (B, 1, P, P) to the mean joints (B, J, 3)."""
        return np.repeat(self.relative_mm[None], len(crops), axis=0)


def open_estimator(path: str | Path, *, device: str = "cpu") -> Estimator:
    """An exported model (.onnx) or the model of a run, to predict and to be measured with.

    Args:
        path: the file, or the run's folder.
        device: of a run's networks; exported models run on the CPU.

    Raises:
        HandloomError: it is neither.
    """
    path = Path(path)
    if path.suffix == ".onnx":
        return load(path)
    from .model import load_model

    return TorchEstimator(load_model(path, device=device))


def said_of(estimator: Estimator) -> dict[str, Any]:
    """What a model says of its training, whichever kind it is; empty where it says nothing."""
    if isinstance(estimator, Model):
        told: dict[str, Any] = json.loads(estimator.metadata.get("description", "{}"))
        return told | {k: v for k, v in estimator.provenance.items() if k in ("config", "sources")}
    if isinstance(estimator, TorchEstimator):
        return dict(estimator.model.description)
    return {}

"""How well a model predicts what another camera sees: MURAUER's g and the preview arm.

The error is the mean absolute difference of the normalised depths over all pixels, as in the paper (0.107 on
the whole of NYU); 1 is half the cube. The target is the other camera's crop around its own centre.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..stores.errors import HandloomError
from ..stores.recording import Recording
from .inputs import DepthView, cut, recording_views, usable
from .latent import latent_of
from .model import PoseModel
from .murauer_nets import Volume, view_condition

BATCH: Final = 64


@dataclass(frozen=True, slots=True)
class ViewPrediction:
    """Predicted second views and what they should have been."""

    source: NDArray[np.float32]
    """(n, P, P) inputs in [-1, 1]."""
    target: NDArray[np.float32]
    """(n, P, P) what the other camera saw."""
    predicted: NDArray[np.float32]
    """(n, P, P) in [-1, 1]."""
    row: NDArray[np.int64]
    """(n,)."""
    pair: NDArray[np.int64]
    """(n, 2) cameras of input and target."""

    @property
    def mae(self) -> float:
        """Mean absolute error over pixels and pairs; NaN without any."""
        return float(np.abs(self.predicted - self.target).mean()) if len(self.row) else float("nan")


def predicts_views(model: PoseModel) -> bool:
    """Whether the model has a view decoder that its arm trains."""
    return model.method == "murauer" and model.arm in ("full", "+view-prediction", "preview")


def predict_views(
    model: PoseModel,
    recording: Recording,
    rows: NDArray[np.int64],
    *,
    pair: tuple[int, int] | None = None,
    real: bool | None = None,
) -> ViewPrediction:
    """Predict the views of other cameras, in eval mode, around the stored centres.

    Args:
        model: with a view decoder.
        recording: seen by two cameras or more.
        rows: frames to use.
        pair: input and target camera; None: the pair the model was trained on, else every pair.
        real: whether the images are real (they pass m); None: as the recording's kind says.

    Raises:
        HandloomError: the model predicts no views, or the recording has no two of them.
    """
    if not predicts_views(model):
        raise HandloomError(f"The arm '{model.arm}' of {model.method} predicts no views")
    trained = (model.description.get("config") or {}).get("view_pair")
    chosen = pair or (tuple(trained) if trained else None)
    pairs = [(i, j) for i in range(recording.n_views) for j in range(recording.n_views) if i != j]
    pairs = [p for p in pairs if chosen is None or p == chosen]
    if not pairs:
        raise HandloomError("The recording has no such pair of cameras", where=str(recording.path))
    found = [
        (row, shown[i], shown[j])
        for row in rows.tolist()
        for shown in [{v.view: v for _, v in recording_views(recording, row, row + 1) if _has_hand(v)}]
        for i, j in pairs
        if i in shown and j in shown
    ]

    def crops(views: list[DepthView]) -> NDArray[np.float32]:
        images = [cut(v, _center(v), input_px=model.input_px, cube_mm=model.cube_mm) for v in views]
        return np.array(images, np.float32).reshape(-1, model.input_px, model.input_px)

    sources, targets = [s for _, s, _ in found], [t for _, _, t in found]
    images = crops(sources)
    predicted = [
        _decode(
            model,
            torch.from_numpy(images[start : start + BATCH])[:, None],
            _condition(model, sources[start : start + BATCH], targets[start : start + BATCH]),
            real=recording.kind == "captured" if real is None else real,
        )
        for start in range(0, len(found), BATCH)
    ]
    return ViewPrediction(
        images,
        crops(targets),
        np.concatenate(predicted) if predicted else crops([]),
        np.array([row for row, _, _ in found], np.int64),
        np.array([(s.view, t.view) for _, s, t in found], np.int64).reshape(-1, 2),
    )


def _has_hand(view: DepthView) -> bool:
    return view.center_mm is not None and bool(usable(view.center_mm))


def _center(view: DepthView) -> NDArray[np.float64]:
    assert view.center_mm is not None
    return view.center_mm


@torch.no_grad()
def _decode(model: PoseModel, images: Tensor, condition: Tensor, *, real: bool) -> NDArray[np.float32]:
    nets: Any = model.nets
    device = next(model.nets.parameters()).device
    z = latent_of(model, images.to(device), real=real)
    if model.description.get("released"):
        z = nets.pose.hidden(z)
    domains = int(model.description.get("domains", 1))
    made = nets.view(z, condition.to(device), None, -1 if real or domains == 1 else 0)
    return np.asarray(made[:, 0].cpu().numpy(), np.float32)


def _condition(model: PoseModel, sources: list[DepthView], targets: list[DepthView]) -> Tensor:
    said = model.description["volume"]
    volume = Volume(tuple(said["middle_mm"]), tuple(said["half_mm"]))
    centers = torch.tensor(np.array([_center(s) for s in sources]), dtype=torch.float32)
    if model.description["condition"] == 3:
        return view_condition(centers, volume)
    rotation = np.array([t.camera.rotation @ s.camera.rotation.T for s, t in zip(sources, targets, strict=True)])
    moved = np.array(
        [t.camera.translation - r @ s.camera.translation for r, s, t in zip(rotation, sources, targets, strict=True)]
    )
    between = torch.tensor(rotation, dtype=torch.float32), torch.tensor(moved, dtype=torch.float32)
    return view_condition(centers, volume, between)

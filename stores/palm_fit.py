"""Fitting the last layer of `palm_net.py` to renders of a rig, a sensor and hands of your own."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from .camera import Camera
from .errors import HandloomError
from .palm_net import HALF_MM, LEAST_SEEN, Net, cut_patches, hidden, ray_axes

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

LEAST_PATCHES: Final = 200
"""Fewer say too little to fit 387 factors to, with their penalty."""
SIGMAS_MM: Final = (8.0, 25.0)
"""How far from the palm the patches are taken: where the second look is, and the first."""
PENALTY: Final = 0.02
"""Of moving away from the network's own factors, as a share of what the features vary."""


def patches_about(palm_mm: F64, image_mm: NDArray[Any], camera: Camera, rng: np.random.Generator) -> tuple[F32, F64]:
    """Patches (n, PATCH_PX, PATCH_PX) near a palm (3,), rig frame, and offsets (n, 3) in half patches to it."""
    places = np.array([palm_mm + rng.normal(size=3) * sigma for sigma in SIGMAS_MM])
    here = camera.to_camera(places)
    here = here[here[:, 2] > 100]
    axes = ray_axes(here) if len(here) else np.zeros((0, 3, 3))
    cut = cut_patches(image_mm, camera, here, axes, None)
    offsets = np.einsum("nij,nj->ni", axes, camera.to_camera(palm_mm) - here) / HALF_MM
    good = (cut < 1).sum((1, 2)) >= LEAST_SEEN
    return cut[good], offsets[good]


def fit(net: Net, patches: F32, offsets: F64, *, where: str = "") -> Net:
    """The network with its offsets fitted to patches whose palm is known: ridge regression about what it says.

    Args:
        net: to start from; its other outputs and its trust stay.
        patches: (n, PATCH_PX, PATCH_PX).
        offsets: (n, 3) from the middle of each to the palm, in half patches along `ray_axes`.
        where: what to name in the error.

    Raises:
        HandloomError: too few patches.
    """
    if len(patches) < LEAST_PATCHES:
        raise HandloomError(
            "Too few hands to calibrate with", where=where, why=f"{len(patches)} patches of at least {LEAST_PATCHES}"
        )
    features = np.column_stack([hidden(net, patches, again=True).astype(np.float64), np.ones(len(patches))])
    own = np.vstack([net.weights["again.out"], net.weights["again.out_bias"]]).astype(np.float64)
    left = offsets - features @ own[:, :3]
    gram = features.T @ features
    penalty = PENALTY * np.trace(gram) / len(gram) * np.eye(len(gram))
    step = np.linalg.solve(gram + penalty, features.T @ left)
    own[:, :3] += step
    weights = {**net.weights, "again.out": own[:-1].astype(np.float32), "again.out_bias": own[-1].astype(np.float32)}
    return replace(net, weights=weights)

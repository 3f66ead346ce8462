"""The third renderer: rays through the pixel centres, by Open3D's `RaycastingScene` (Embree).

Another method by another team: what it and the z-buffer agree on is no fault they share. The rays are
((u − cx) / fx, (v − cy) / fy, 1), so that a hit's distance along one is its z, not its range; they start at
`NEAR_MM`, where the z-buffer clips. Embree counts in float32: depth agrees with the z-buffer's to 1e-4 mm at
half a metre, and a pixel whose centre an edge meets may fall to either side.

Cost: the tree over the triangles is built anew for each mesh, which is most of it; see benchmarks/render.py.
Open3D is imported only when a renderer is made.
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..stores.errors import BAD_ENVIRONMENT, HandloomError, missing_extra
from ..stores.libusb import load_libusb
from .render import NEAR_MM, Rendered, RendererName


class Open3dRenderer:
    """Casts rays in one thread: processes scale better, see `generate.synthesise`."""

    name: RendererName = "open3d"

    def __init__(self) -> None:
        self._open3d = _load()

    def render(
        self, vertices_mm: NDArray[Any], faces: NDArray[Any], k: NDArray[Any], width: int, height: int
    ) -> Rendered:
        """See `Renderer.render`."""
        fx, fy, cx, cy = (float(x) for x in k)
        rays = np.empty((height, width, 6), np.float32)
        rays[..., 3] = (np.arange(width) - cx) / fx
        rays[..., 4] = ((np.arange(height) - cy) / fy)[:, None]
        rays[..., 5] = 1.0
        rays[..., :3] = rays[..., 3:] * np.float32(NEAR_MM)
        tensor = self._open3d.core.Tensor.from_numpy
        scene = self._open3d.t.geometry.RaycastingScene(nthreads=1)
        scene.add_triangles(
            tensor(np.ascontiguousarray(vertices_mm, np.float32)), tensor(np.ascontiguousarray(faces, np.uint32))
        )
        hits = scene.cast_rays(tensor(rays), nthreads=1)
        along = hits["t_hit"].numpy()
        hit = np.isfinite(along)
        depth = np.where(hit, along + np.float32(NEAR_MM), np.float32(0))
        # Where nothing is hit the number is the largest uint32, −1 as int32; a copy, since Open3D owns it.
        triangle = np.where(hit, hits["primitive_ids"].numpy().view(np.int32), np.int32(-1))
        return Rendered(depth, triangle)


def _load() -> Any:
    load_libusb()
    try:
        return importlib.import_module("open3d")
    except ModuleNotFoundError as error:
        if error.name != "open3d":
            raise _cannot_load(error) from error
        raise missing_extra("open3d", "open3d") from error
    except (ImportError, OSError) as error:  # a library of the system that it links to
        raise _cannot_load(error) from error


def _cannot_load(error: Exception) -> HandloomError:
    return HandloomError(
        "The renderer 'open3d' cannot load Open3D",
        why=f"{type(error).__name__}: {error}",
        fix="apt install libegl1 libgl1 libx11-6 libusb-1.0-0, or use --renderer raster",
        exit_code=BAD_ENVIRONMENT,
    )

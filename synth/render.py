"""One protocol for what turns a mesh into depth, and the three that do: `raster`, `pyrender` and `open3d`.

`raster` is the default: exact, fast and free of OpenGL. `pyrender` draws the same picture by OpenGL, for those
who have a GPU to draw with; `open3d` casts rays. Both are there to check the first.

All three: z-depth, not range; pixel centres at integer coordinates; no triangle culled; what lies nearer than
`NEAR_MM` cut away, so that a mesh may reach behind the camera.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

RendererName = Literal["raster", "pyrender", "open3d"]
RENDERERS: Final[tuple[RendererName, ...]] = get_args(RendererName)
NEAR_MM: Final = 10.0
"""Nothing nearer than this is drawn."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """What one camera sees of a mesh."""

    depth_mm: NDArray[np.float32]
    """(H, W) z-depth, 0 where nothing is seen."""
    triangle: NDArray[np.int32]
    """(H, W) number of the nearest face, −1 where nothing is seen."""


class Renderer(Protocol):
    """Draws triangle meshes as depth."""

    name: RendererName

    def render(
        self, vertices_mm: NDArray[Any], faces: NDArray[Any], k: NDArray[Any], width: int, height: int
    ) -> Rendered:
        """Depth of a mesh (N, 3) mm in the camera's frame, faces (F, 3), by a camera `k` (4,) in pixels."""
        ...


class RasterRenderer:
    """The z-buffer of `raster.py`."""

    name: RendererName = "raster"

    def render(
        self, vertices_mm: NDArray[Any], faces: NDArray[Any], k: NDArray[Any], width: int, height: int
    ) -> Rendered:
        """As `Renderer.render`: vertices (N, 3) mm and triangles (F, 3) to depth (H, W)."""
        from .raster import rasterise

        return Rendered(*rasterise(vertices_mm, faces, k, width, height))


def open_renderer(name: RendererName) -> Renderer:
    """The renderer of that name.

    Raises:
        HandloomError: the machine cannot run it.
    """
    match name:
        case "raster":
            return RasterRenderer()
        case "pyrender":
            from .gl import PyrenderRenderer

            return PyrenderRenderer()
        case "open3d":
            from .embree import Open3dRenderer

            return Open3dRenderer()

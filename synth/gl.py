"""The second renderer: pyrender (OpenGL, offscreen by EGL), put right for depth.

As shipped pyrender 0.1.45 reads one off-centre sample of a four times multisampled buffer, culls back faces
in DEPTH_ONLY and SEG whatever is asked, and puts pixel centres at half integers. Here it draws with one
sample, culls nothing, gets cx and cy half a pixel larger than OpenCV's and near and far planes close to the
mesh, which leaves 2e-4 mm of the 24 bits of depth. Each triangle has its number for a colour. OpenGL is
imported only when a renderer is made: a machine without it can use all else.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..stores.errors import BAD_ENVIRONMENT, HandloomError
from .render import NEAR_MM, Rendered, RendererName

MARGIN: Final = 1.05
"""Near and far plane lie this factor before and behind the mesh."""
STEP_PX: Final = 64
"""Framebuffers come in multiples of this."""


class PyrenderRenderer:
    """Draws by OpenGL in one offscreen context."""

    name: RendererName = "pyrender"

    def __init__(self) -> None:
        # pyrender reads this when it makes its context; without a display EGL is the one that works.
        os.environ.setdefault("PYOPENGL_PLATFORM", "egl")
        try:
            self._pyrender: Any = importlib.import_module("pyrender")
            self._context: Any = self._pyrender.OffscreenRenderer(STEP_PX, STEP_PX)
        except Exception as error:  # PyOpenGL fails in many ways: AttributeError, ImportError, GLError ...
            raise _no_opengl(error) from error

    def render(
        self, vertices_mm: NDArray[Any], faces: NDArray[Any], k: NDArray[Any], width: int, height: int
    ) -> Rendered:
        """See `Renderer.render`."""
        vertices, triangles = np.asarray(vertices_mm, np.float32), np.asarray(faces, np.int32)
        depth = vertices[:, 2]
        near = max(float(depth.min()) / MARGIN, NEAR_MM)
        far = float(depth.max()) * MARGIN
        if far <= near:
            return Rendered(np.zeros((height, width), np.float32), np.full((height, width), -1, np.int32))
        # A framebuffer is made anew for each size: few sizes, and the image in its upper left corner.
        self._context.viewport_width = -(-width // STEP_PX) * STEP_PX
        self._context.viewport_height = -(-height // STEP_PX) * STEP_PX
        scene = self._scene(vertices, triangles, np.asarray(k, np.float64), near, far)
        flags = self._pyrender.RenderFlags
        with _one_sample(importlib.import_module("pyrender.renderer")):
            colour, z = self._context.render(scene, flags.FLAT | flags.SKIP_CULL_FACES)
        number = colour[:height, :width].astype(np.int32) @ np.array([1, 256, 65536], np.int32) - 1
        return Rendered(np.ascontiguousarray(z[:height, :width], np.float32), number)

    def close(self) -> None:
        """Give the context back."""
        self._context.delete()

    def _scene(
        self, vertices: NDArray[np.float32], faces: NDArray[np.int32], k: NDArray[np.float64],
        near: float, far: float,
    ) -> Any:  # fmt: skip
        """The mesh with every triangle in the colour of its number, seen from the origin."""
        pyrender = self._pyrender
        corners = vertices[faces].reshape(-1, 3)
        code = np.repeat(np.arange(1, len(faces) + 1), 3)
        colour = np.stack([code & 255, code >> 8 & 255, code >> 16 & 255], axis=1).astype(np.float32) / 255
        primitive = pyrender.Primitive(
            positions=corners * np.array([1, -1, -1], np.float32),  # OpenGL looks along −z, y up
            color_0=np.concatenate([colour, np.ones((len(colour), 1), np.float32)], axis=1),
            material=pyrender.MetallicRoughnessMaterial(doubleSided=True),
            mode=4,
        )
        # pyrender asks for bounds, which numpy 2 breaks, only to guess planes that are given here.
        scene = pyrender.Scene(bg_color=[0, 0, 0, 0], ambient_light=[1, 1, 1])
        scene.add(pyrender.Mesh([primitive]))
        camera = pyrender.IntrinsicsCamera(k[0], k[1], k[2] + 0.5, k[3] + 0.5, znear=near, zfar=far)
        scene.add(camera, pose=np.eye(4))
        return scene


@contextmanager
def _one_sample(module: Any) -> Iterator[None]:
    """Let pyrender make its framebuffer without multisampling meanwhile; it offers no option for it."""
    original = module.glRenderbufferStorageMultisample

    def single(target: Any, samples: int, *rest: Any) -> Any:
        return original(target, 0, *rest)

    module.glRenderbufferStorageMultisample = single
    try:
        yield
    finally:
        module.glRenderbufferStorageMultisample = original


def _no_opengl(error: Exception) -> HandloomError:
    return HandloomError(
        "The renderer 'pyrender' needs OpenGL, which this machine lacks",
        why=f"{type(error).__name__}: {error}",
        fix="apt install libegl1 libegl-mesa0 libgl1-mesa-dri, or use --renderer raster",
        exit_code=BAD_ENVIRONMENT,
    )

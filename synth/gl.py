"""The second renderer: pyrender, that is OpenGL through EGL, put right for depth.

As shipped, pyrender 0.1.45 reads one off-centre sample of a 4x multisampled buffer, culls back faces in its
depth-only pass, and takes a principal point measured from the pixel's corner. Here the buffer has one sample,
nothing is culled (the colour pass obeys `doubleSided`), cx and cy are shifted by half a pixel, and the near and
far planes hug the mesh, since a 24-bit depth buffer resolves z² (1/near - 1/far) 2⁻²⁴: 1e-4 mm for a hand.
The colour pass carries each triangle's number.

Its OpenGL context must not be inherited by a fork. Nothing of OpenGL is imported before `PyrenderRenderer()`.
"""

from __future__ import annotations

import os
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..stores.errors import BAD_ENVIRONMENT, HandloomError
from .render import Rendered, RendererName

NEAR_MM: Final = 10.0
"""The same plane as the rasteriser's."""
MAX_FACES: Final = 2**24 - 1


class PyrenderRenderer:
    """OpenGL depth of triangle meshes.

    Raises:
        HandloomError: this machine has no EGL.
    """

    name: RendererName = "pyrender"

    def __init__(self) -> None:
        os.environ.setdefault("PYOPENGL_PLATFORM", "egl")
        try:
            import pyrender

            self._offscreen = pyrender.OffscreenRenderer(64, 64)
        except Exception as error:  # PyOpenGL raises ImportError, AttributeError, GLError or its own EGLError
            raise HandloomError(
                "pyrender cannot open an OpenGL context",
                why=f"{type(error).__name__}: {error}",
                fix="apt install libegl1 libegl-mesa0 libgl1-mesa-dri, or use --renderer raster",
                exit_code=BAD_ENVIRONMENT,
            ) from error
        self._pyrender = pyrender
        _one_sample(pyrender.renderer)

    def render(
        self, vertices_mm: NDArray[Any], faces: NDArray[Any], k: NDArray[Any], width: int, height: int
    ) -> Rendered:
        """See `Renderer.render`."""
        assert len(faces) < MAX_FACES
        pyrender = self._pyrender
        nothing = Rendered(np.zeros((height, width), np.float32), np.full((height, width), -1, np.int32))
        z = vertices_mm[:, 2]
        if len(faces) == 0 or z.max() <= NEAR_MM:
            return nothing
        near, far = max(NEAR_MM, float(z.min()) * 0.99), float(z.max()) * 1.01
        fx, fy, cx, cy = (float(value) for value in k)
        scene = pyrender.Scene(bg_color=[0, 0, 0, 0])
        scene.add(pyrender.Mesh([self._numbered(vertices_mm, faces)]))
        scene.add(pyrender.IntrinsicsCamera(fx, fy, cx + 0.5, cy + 0.5, znear=near, zfar=far))
        self._offscreen.viewport_width, self._offscreen.viewport_height = width, height
        flags = pyrender.RenderFlags.FLAT | pyrender.RenderFlags.RGBA | pyrender.RenderFlags.SKIP_CULL_FACES
        color, depth = self._offscreen.render(scene, flags=flags)
        number = color[..., :3].astype(np.int32) @ np.array([1, 256, 65536], np.int32) - 1
        return Rendered(np.where(number >= 0, depth, 0).astype(np.float32), number.astype(np.int32))

    def _numbered(self, vertices_mm: NDArray[Any], faces: NDArray[Any]) -> Any:
        """Triangles that share no vertex, each in the colour of its number plus one."""
        number = np.repeat(np.arange(1, len(faces) + 1), 3)
        color = np.stack([number & 255, number >> 8 & 255, number >> 16, np.full_like(number, 255)], 1)
        corners = np.asarray(vertices_mm, np.float32)[faces].reshape(-1, 3)
        return self._pyrender.Primitive(
            positions=corners * np.array([1, -1, -1], np.float32),  # OpenGL: y up, looking along -z
            color_0=(color / 255).astype(np.float32),
            material=self._pyrender.MetallicRoughnessMaterial(doubleSided=True),
        )

    def close(self) -> None:
        """Give the OpenGL context back."""
        self._offscreen.delete()


def _one_sample(module: Any) -> None:
    """Let pyrender's 'multisample' buffers have no extra samples; its own call asks for 4."""
    original = module.glRenderbufferStorageMultisample

    def storage(target: int, _samples: int, kind: int, width: int, height: int) -> None:
        original(target, 0, kind, width, height)

    if original.__name__ != storage.__name__:
        module.glRenderbufferStorageMultisample = storage

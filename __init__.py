"""Handloom weaves synthetic and unlabelled depth into a 3-D hand tracker.

    import handloom

    model = handloom.load_model("model.onnx")
    camera = handloom.Camera("front", width=640, height=480, k=(475.0, 475.0, 320.0, 240.0))
    pose = model.predict(depth, camera)  # depth (480, 640) uint16 mm; None where no hand is found
    pose.joints_mm                       # (26, 3) mm, x right, y down, z forward

See docs/predict.md. Importing this costs nothing: what a name needs is loaded when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import os

    from .learn.predict import Model, Pose
    from .stores.camera import Camera, Rig, read_rig
    from .stores.errors import HandloomError
    from .stores.recording import Recording, open_recording

__version__ = "0.1.0"
__all__ = [
    "Camera",
    "HandloomError",
    "Model",
    "Pose",
    "Recording",
    "Rig",
    "__version__",
    "load_model",
    "open_recording",
    "read_rig",
]

_HOMES: Final = {
    "Camera": "stores.camera",
    "HandloomError": "stores.errors",
    "Model": "learn.predict",
    "Pose": "learn.predict",
    "Recording": "stores.recording",
    "Rig": "stores.camera",
    "open_recording": "stores.recording",
    "read_rig": "stores.camera",
}


def load_model(path: str | os.PathLike[str], *, threads: int = 1, runtime: str = "onnxruntime") -> Model:
    """Open a model that `handloom export` wrote, to run on this machine's CPU.

    Args:
        path: the .onnx file.
        threads: of the network; one is the fastest for one image at a time.
        runtime: 'onnxruntime', or 'openvino' for a model that was exported with --openvino, in bfloat16.

    Raises:
        HandloomError: it is missing, damaged, of a newer version or no model of handloom.
    """
    from pathlib import Path

    from .learn.predict import load

    return load(Path(path), threads=threads, runtime=runtime)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(f".{_HOMES[name]}", __name__), name)
    raise AttributeError(f"module 'handloom' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

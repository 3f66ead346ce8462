"""Depth sensors: what a real camera makes of a clean depth image.

Three models, each a dataclass of parameters with units in their names and a compiled kernel: `StructuredLight`
(Kinect 1), `ActiveStereo` (RealSense D4xx) and `TimeOfFlight` (Kinect 2, Azure Kinect). They work on the camera's
own pixels, on the full frame or on a window of it; every draw is hashed from (seed, frame, view, absolute pixel),
so both give the same image wherever the window has a margin of `margin_px` around what is used.

A sensor's file is YAML: `model: structured-light`, `stereo` or `tof`, then any of its parameters.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from ..stores.errors import HandloomError
from . import stereo, structured_light, tof
from .sensor_noise import key_of
from .stereo import ActiveStereo
from .structured_light import StructuredLight
from .tof import TimeOfFlight

__all__ = ["ActiveStereo", "Sensor", "SensorName", "StructuredLight", "TimeOfFlight"]

F32 = NDArray[np.float32]
Sensor = StructuredLight | ActiveStereo | TimeOfFlight
SensorName = Literal["structured-light", "stereo", "tof"]
SENSOR_NAMES: Final[tuple[SensorName, ...]] = get_args(SensorName)


def sensor_name(sensor: Sensor) -> SensorName:
    """What files and options call the model."""
    match sensor:
        case StructuredLight():
            return "structured-light"
        case ActiveStereo():
            return "stereo"
        case TimeOfFlight():
            return "tof"


def sensor_type(name: SensorName) -> type[Sensor]:
    """The parameters of the model of that name."""
    match name:
        case "structured-light":
            return StructuredLight
        case "stereo":
            return ActiveStereo
        case "tof":
            return TimeOfFlight


def section_of(name: SensorName) -> str:
    """The key of a configuration that holds the model's parameters."""
    return name.replace("-", "_")


def describe(sensor: Sensor) -> dict[str, Any]:
    """Plain values, for a recording's provenance and for a file; `parse_sensor` reads them."""
    return {"model": sensor_name(sensor), **asdict(sensor)}


def parse_sensor(values: Mapping[str, Any], *, where: str = "") -> Sensor:
    """The sensor of `model` and any of its parameters.

    Raises:
        HandloomError: no model or an unknown one, an unknown parameter or a value that does not fit.
    """
    from ..stores.config import checked_dataclass

    name = values.get("model")
    if name not in SENSOR_NAMES:
        raise HandloomError(
            "The sensor has no model" if name is None else f"There is no sensor model '{name}'",
            where=where,
            why="the key 'model' says what the other keys mean",
            fix=f"write 'model: …' with one of {', '.join(SENSOR_NAMES)}",
        )
    rest = {key: value for key, value in values.items() if key != "model"}
    return checked_dataclass(sensor_type(name), rest, where=where)


def read_sensor(path: Path) -> Sensor:
    """The sensor of a YAML file.

    Raises:
        HandloomError: it is missing, cannot be parsed, or holds what no model knows.
    """
    from ..stores.config import read_yaml

    return parse_sensor(read_yaml(path), where=str(path))


def write_sensor(sensor: Sensor, path: Path) -> None:
    """Write all parameters, so that `read_sensor` gives them back."""
    from ..stores.config import write_yaml

    write_yaml(describe(sensor), path)


def reach_px(sensor: Sensor | None) -> int:
    """Pixels around all that is there beyond which nothing matters: edges move and grow no farther."""
    match sensor:
        case None:
            return 0
        case StructuredLight():
            return structured_light.reach_px(sensor)
        case ActiveStereo():
            return stereo.reach_px(sensor)
        case TimeOfFlight():
            return tof.reach_px(sensor)


def margin_px(sensor: Sensor | None, fx: float, *, near_mm: float, far_mm: float) -> int:
    """Pixels around a window that the sensor must see for what lies between `near_mm` and `far_mm`."""
    match sensor:
        case None:
            return 0
        case StructuredLight():
            return structured_light.margin_px(sensor, fx, near_mm=near_mm, far_mm=far_mm)
        case ActiveStereo():
            return stereo.margin_px(sensor, fx, near_mm=near_mm, far_mm=far_mm)
        case TimeOfFlight():
            return tof.margin_px(sensor, fx, near_mm=near_mm, far_mm=far_mm)


def apply(
    sensor: Sensor | None,
    depth_mm: F32,
    k_full: NDArray[Any] | tuple[float, ...],
    *,
    window: tuple[int, int] = (0, 0),
    depth_unit_mm: float,
    seed: int,
    frame: int,
    view: int,
) -> NDArray[np.uint16]:
    """The uint16 depth (H, W) that the camera gives for clean z-depth (H, W) mm, 0 = nothing there.

    Args:
        sensor: None rounds to the unit and does nothing else.
        depth_mm: (H, W) float32, native pixels.
        k_full: fx, fy, cx, cy of the full frame.
        window: left and top pixel of `depth_mm` in the full frame.
        depth_unit_mm: mm of one step of the result.
        seed: of the data set.
        frame: index of the frame; two frames have independent noise.
        view: index of the camera, likewise.
    """
    depth = np.ascontiguousarray(depth_mm, np.float32)
    assert depth.ndim == 2, depth.shape
    assert depth.size, depth.shape
    assert min(window) >= 0, window
    fx, fy, cx, cy = (float(x) for x in k_full)
    k = (fx, fy, cx, cy)
    match sensor:
        case None:
            steps = np.rint(depth / np.float32(depth_unit_mm))
            return np.where(steps <= 65535, steps, 0).astype(np.uint16)
        case StructuredLight():
            return structured_light.sense(sensor, depth, k, window, depth_unit_mm, key_of(seed, frame, view))
        case ActiveStereo():
            return stereo.sense(sensor, depth, k, window, depth_unit_mm, key_of(seed, frame, view))
        case TimeOfFlight():
            return tof.sense(sensor, depth, k, window, depth_unit_mm, key_of(seed, frame, view))

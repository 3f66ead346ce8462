"""What `handloom synth run` is told; every value has a default, unknown keys are refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from ..stores.camera import Rig, read_rig, refuse_distortion
from ..stores.config import checked, load_config, with_overrides
from ..stores.documents import said
from ..stores.errors import HandloomError
from ..stores.recording import open_recording
from .render import RendererName
from .rigs import Arrangement, Images, check_volume, dome_rig, line_rig, ring_rig
from .sensor import (
    SENSOR_NAMES,
    ActiveStereo,
    Sensor,
    SensorName,
    StructuredLight,
    TimeOfFlight,
    read_sensor,
    section_of,
    sensor_name,
)
from .surroundings import SceneConfig

BUILTIN = "builtin"
"""The kit's own hand."""
POSE_SOURCES = ("prior", "trajectory")
"""What draws poses, beside files that hold them."""
BLOCK_FRAMES = 32
"""Frames that are skinned together; units hold whole blocks, so that a frame's neighbours never change it."""


def _resolved(value: str | Path) -> Path:
    """Where a path leads, wherever it was said."""
    try:
        path = Path(value).resolve()
        path.exists()
    except (OSError, ValueError, RuntimeError) as error:  # too long, a NUL in it, links in a circle
        raise ValueError(f"no file can have this name: {said(error)}") from error
    return path


class SynthConfig(BaseModel):
    """A synthetic recording. Sample k depends on `seed` and k alone, whoever makes it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    frames: int = Field(default=2000, ge=1)
    """Poses; each is seen by every camera."""
    seed: int = Field(default=0, ge=0)

    views: int = Field(default=3, ge=1)
    """How many cameras, unless there is a `rig`."""
    cameras: Arrangement = "ring"
    """How they stand about the volume: on an arc, on a straight bar, or over a dome."""
    rig: Path | None = None
    """A rig.toml: your own cameras, its origin in the middle of the volume."""
    distance_mm: float = Field(default=500.0, gt=0)
    """From the volume's centre; of a bar, its middle's."""
    spread_deg: float = Field(default=80.0, ge=0, le=360)
    """Angle between the outermost cameras as the volume sees them; of a dome, its opening."""
    elevation_deg: float | None = Field(default=None, gt=-90, lt=90)
    """Of a bar or a dome above the volume, default 0; in a ring every second camera stands this much above
    and below, default 12."""
    toe_in: bool = True
    """Whether the cameras on a bar look at the volume's centre; else their axes are parallel."""
    width_px: int = Field(default=320, ge=16)
    height_px: int = Field(default=240, ge=16)
    focal_px: float = Field(default=241.0, gt=0)
    depth_unit_mm: float = Field(default=1.0, gt=0)

    hand: str = BUILTIN
    """`builtin`, or a file that holds one (`synth/formats.py`)."""
    side: Literal["right", "left"] = "right"
    """Which hand is seen; a file's hand of the other side is mirrored."""
    hand_mapping: Path | None = None
    """YAML file that names the joints of a hand's file (`synth/naming.py`)."""
    subjects: int = Field(default=64, ge=1)
    """People; each sample shows one of them, whose proportions follow from `seed` and the subject's number."""
    first_subject: int = Field(default=0, ge=0)
    """Number of the first, to make sets of other people with the same seed."""
    poses: str = "prior"
    """`prior`, `trajectory` (people moving), or a file of poses (`synth/pose_files.py`): sample k shows its row
    k mod n."""
    fps: float = Field(default=30.0, gt=0)
    """Of a trajectory."""
    sequence_frames: int = Field(default=150, ge=1)
    """Samples of one person's motion, before the next begins."""
    placement: Literal["random", "file"] = "random"
    """A file's hand turned and placed at random, or where the file has it: points of a camera before the rig's
    first camera, those of a rig as they are."""
    shapes: Literal["drawn", "fitted"] = "drawn"
    """Whose hand does what a file says: people drawn as for the prior, or the file's own, as fitted."""
    max_fit_error_mm: float = Field(default=8.0, gt=0)
    """A file's frame whose points stay farther off than this in the mean is left out."""
    volume_radius_mm: float = Field(default=100.0, ge=0)
    """The palm lies anywhere in a ball of this radius about the rig's origin."""

    scene: SceneConfig = SceneConfig()
    """What stands around the hand: `scene=desk`, or `scene.sleeve=0.3 scene.background=0.5` and so on."""

    sensor: SensorName | Literal["none"] = "structured-light"
    """Which depth sensor to imitate; a sensor's file (`sensor.read_sensor`) becomes its model and that section."""
    structured_light: StructuredLight = StructuredLight()
    stereo: ActiveStereo = ActiveStereo()
    tof: TimeOfFlight = TimeOfFlight()
    renderer: RendererName = "raster"
    crop_px: int = Field(default=192, ge=16)
    window_mm: float = Field(default=450.0, gt=0)
    parts: bool = True
    """Keep the bone of each pixel."""
    unit_frames: int = Field(default=256, ge=BLOCK_FRAMES)
    """Frames that one worker makes and commits at once; a multiple of 32."""

    @model_validator(mode="before")
    @classmethod
    def _sensor_of_a_file(cls, values: Any) -> Any:
        """Read a sensor's file now, so that what is kept with the recording needs no file."""
        named = values.get("sensor") if isinstance(values, Mapping) else None
        if not isinstance(named, (str, Path)) or named in ("none", *SENSOR_NAMES):
            return values
        if Path(named).suffix not in (".yaml", ".yml"):
            raise HandloomError(
                f"There is no sensor '{named}'",
                why=f"it is none, {', '.join(SENSOR_NAMES)} or a file that ends in .yaml",
            )
        sensor = read_sensor(Path(named))
        section = section_of(sensor_name(sensor))
        given = values.get(section) or {}
        given = given if isinstance(given, Mapping) else asdict(given)
        return {**values, "sensor": sensor_name(sensor), section: {**asdict(sensor), **given}}

    @field_validator("unit_frames")
    @classmethod
    def _whole_blocks(cls, value: int) -> int:
        if value % BLOCK_FRAMES:
            raise ValueError(f"must be a multiple of {BLOCK_FRAMES}")
        return value

    @field_validator("hand", mode="before")
    @classmethod
    def _hand_or_side(cls, value: object) -> object:
        if value in ("right", "left"):
            raise ValueError(f"names a hand or its file; which side is seen is said by side={value}")
        return str(_resolved(value)) if isinstance(value, (str, Path)) and value not in (BUILTIN, "") else value

    @field_validator("rig", "hand_mapping")
    @classmethod
    def _anywhere(cls, value: Path | None) -> Path | None:
        """What is kept with the recording, and sent to workers, must not depend on where it was said."""
        return None if value is None else _resolved(value)

    @field_validator("poses", mode="before")
    @classmethod
    def _poses_or_file(cls, value: object) -> object:
        known = value in (*POSE_SOURCES, "")
        return str(_resolved(value)) if isinstance(value, (str, Path)) and not known else value

    @model_validator(mode="after")
    def _nothing_idle(self) -> Self:
        idle = {"trajectory": ("fps", "sequence_frames"), "a file": ("placement", "shapes", "max_fit_error_mm")}
        used = self.poses if self.poses in POSE_SOURCES else "a file"
        for source, names in idle.items():
            for name in names:
                if source != used and getattr(self, name) != type(self).model_fields[name].default:
                    raise ValueError(f"{name} needs poses={source}, and poses is {self.poses}")
        for sensor in SENSOR_NAMES:
            section = section_of(sensor)
            if sensor != self.sensor and getattr(self, section) != type(self).model_fields[section].default:
                raise ValueError(f"{section} needs sensor={sensor}, and sensor is {self.sensor}")
        return self

    @property
    def poses_from_file(self) -> bool:
        """Whether `poses` names a file."""
        return self.poses not in POSE_SOURCES

    @property
    def units(self) -> int:
        """How many units the frames fill, the last of them perhaps short."""
        return -(-self.frames // self.unit_frames)

    def make_rig(self) -> Rig:
        """The cameras.

        Raises:
            HandloomError: the rig cannot be read or made, has lens distortion or does not see the volume.
        """
        if self.rig is not None:
            rig = read_rig(self.rig)
            refuse_distortion(rig, where=str(self.rig))
            check_volume(rig, self.volume_radius_mm, where=str(self.rig))
            return rig
        images = Images(
            width=self.width_px, height=self.height_px, focal_px=self.focal_px, depth_unit_mm=self.depth_unit_mm
        )
        place = {"distance_mm": self.distance_mm, "spread_deg": self.spread_deg}
        if self.elevation_deg is not None:
            place["elevation_deg"] = self.elevation_deg
        match self.cameras:
            case "ring":
                rig = ring_rig(self.views, **place, **images)
            case "line":
                rig = line_rig(self.views, **place, toe_in=self.toe_in, **images)
            case "dome":
                rig = dome_rig(self.views, **place, **images)
        check_volume(rig, self.volume_radius_mm, where=f"cameras={self.cameras}", every=True)
        return rig

    def make_sensor(self) -> Sensor | None:
        """The depth sensor to imitate, None for exact depth."""
        match self.sensor:
            case "none":
                return None
            case "structured-light":
                return self.structured_light
            case "stereo":
                return self.stereo
            case "tof":
                return self.tof


def load_settings(source: Path | None, overrides: Sequence[str] = ()) -> SynthConfig:
    """The configuration of a YAML file, or that of a recording which `synth run` made, with overrides over it.

    Raises:
        HandloomError: as `load_config`; or the recording was made otherwise.
    """
    if source is None or not source.is_dir():
        return load_config(SynthConfig, source, overrides)
    made = open_recording(source).provenance
    values = made.get("config")
    if made.get("command") != "synth run" or not isinstance(values, Mapping):
        raise HandloomError(
            "The recording holds no configuration of 'synth run'", where=str(source),
            fix="give one that 'handloom synth run' made, or a YAML file",
        )  # fmt: skip
    scene = SceneConfig.model_validate(values.get("scene", {}))
    preset = SceneConfig(preset=scene.preset)
    # What the preset filled in is left to the preset: another one may be put over it.
    own = {name: value for name, value in scene if value != getattr(preset, name)}
    values = {**values, "scene": {"preset": scene.preset, **own}}
    sensors = [value for key, _, value in (override.partition("=") for override in overrides) if key == "sensor"]
    if sensors and sensors[-1] != values.get("sensor"):
        # Another sensor may be put over the recording's, whose own settings would then be idle.
        values = {name: value for name, value in values.items() if name not in map(section_of, SENSOR_NAMES)}
    return checked(SynthConfig, with_overrides(values, overrides), where=str(source))

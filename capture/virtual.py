"""A rig that exists in software only: our renderer and sensor model behind the RealSense SDK's own devices.

A hand moves before the cameras, with its arm, a person, a desk and a wall behind it. Each camera is an
`rs.software_device`: what is rendered passes through the SDK's sensor and callback like the images of hardware.
Without the SDK the images are handed over directly; `provenance["transport"]` says which, and every virtual
recording says `virtual: true`. The images of set k depend on (configuration, seed, k) alone.

Cameras have clocks of their own (offset, drift, jitter), arrivals are late by milliseconds, images get lost
where the configuration says so: what `sync` has to undo. The cameras are triggered together, so all images of
a set show the same instant and its truth is exact.

With `open.py`, which opens it, this is the only module of `capture` that knows `synth`.
"""

from __future__ import annotations

import importlib.util
import queue
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from types import TracebackType
from typing import Any, Final, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, field_validator

from ..stores.camera import Rig, refuse_distortion
from ..stores.errors import missing_extra
from ..synth.anatomy import builtin_hand
from ..synth.hand import POSE_SIZE, ROOT_SIZE, SHAPE_SIZE, WRIST, RiggedHand, mirror, pose_hand
from ..synth.pose import MotionStyle, sample_trajectory
from ..synth.props import Mesh, joined
from ..synth.render import open_renderer
from ..synth.rigs import ring_rig
from ..synth.room import axes_of, resting_hand, room, shoulder, sleeve
from ..synth.rotation import rotation_vector
from ..synth.scene import in_camera, render_frame
from ..synth.sensor import Sensor, StructuredLight, describe, parse_sensor
from ..synth.subject_sizes import sample_shape
from ..synth.target import ball_path, held_ball
from .sdk import load_sdk
from .software import SoftwareCamera
from .source import Image, Moment

QUEUE_IMAGES: Final = 12
AHEAD_SETS: Final = 6
"""Sets rendered ahead of the one that is handed over."""
START_NS: Final = 1_000_000_000
POSED_AT_ONCE: Final = 64
KEPT_SEQUENCES: Final = 16
"""More than can be under way at once; all of a day's would take a gigabyte."""


class Motion(BaseModel):
    """How the hand moves; see `synth.pose.MotionStyle`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    facing: bool = True
    """Stay about a hand held up to the cameras; else any rotation."""
    spread_deg: float = Field(50.0, ge=0)
    median_deg_s: float = Field(21.0, gt=0)
    p95_deg_s: float = Field(144.0, gt=0)
    median_mm_s: float = Field(60.0, gt=0)
    p95_mm_s: float = Field(300.0, gt=0)
    radius_mm: float = Field(80.0, ge=0)
    """The palm stays in a ball of this radius about the rig's origin."""


class Clocks(BaseModel):
    """What the cameras' clocks do; each camera draws its own offset and drift."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    offset_s: float = Field(100.0, ge=0)
    """Offsets are uniform in [0, this]."""
    drift_ppm: float = 30.0
    """Standard deviation of the drifts."""
    jitter_ms: float = Field(0.2, ge=0)
    """Standard deviation of one stamp."""
    latency_ms: float = Field(4.0, ge=0)
    """Mean of an exponential delay of arrival, beyond a constant 2 ms."""


class VirtualConfig(BaseModel):
    """A virtual capture session: who moves before the cameras, how, and what sensor and clocks make of it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    frames: int = Field(300, ge=1)
    """Sets to record."""
    fps: float = Field(30.0, gt=0)
    sequence_frames: int = Field(150, ge=1)
    """A new motion begins after so many sets."""
    subjects: int = Field(1, ge=1)
    """Hands of different proportions; they take turns, sequence by sequence."""
    val_share: float = Field(0.0, ge=0, lt=1)
    """Share of the sequences, before those of the test, that are marked `val`."""
    test_share: float = Field(0.0, ge=0, lt=1)
    """Share of the sequences, at the end, that are marked `test`."""
    hand: Literal["right", "left"] = "right"
    ball_mm: float | None = Field(None, ge=5, le=300)
    """Show a ball of this radius on a stick, to calibrate with, instead of a hand."""
    motion: Motion = Motion()
    sensor: Sensor | None = StructuredLight()
    """One of the three models; from plain values by their key `model`."""
    scene: bool = True
    """Person, desk and wall; else the hand and its forearm before nothing."""
    clocks: Clocks = Clocks()
    drop: float = Field(0.0, ge=0, lt=1)
    """Probability that an image is lost before it reaches us."""
    transport: Literal["auto", "software_device", "direct"] = "auto"
    jobs: int = Field(2, ge=1)
    """Threads that render; changes nothing but the time it takes."""
    seed: int = Field(0, ge=0)

    @field_validator("sensor", mode="before")
    @classmethod
    def _by_model(cls, value: Any) -> Any:
        """Parameters alone would leave open whose they are: the models share names."""
        return parse_sensor(value) if isinstance(value, Mapping) else value


def virtual_rig(*, frames: int, views: int, rig: Rig | None, seed: int, ball_mm: float | None = None) -> VirtualRig:
    """The session that the command line offers: one person before an arc of cameras, or before `rig`."""
    return VirtualRig(VirtualConfig(frames=frames, seed=seed, ball_mm=ball_mm), rig=rig or ring_rig(views))


def arc(views: int, size: tuple[int, int]) -> Rig:
    """Cameras on an arc whose images have so many columns and rows, with the opening angle of `ring_rig`'s."""
    return ring_rig(views, width=size[0], height=size[1], focal_px=241.0 * size[0] / 320.0)


class VirtualRig:
    """A depth source that renders what it gives.

    Args:
        config: the session.
        rig: the cameras, about the rig's origin; an arc of three by default.

    Raises:
        HandloomError: the SDK is asked for by `transport` and not installed.
    """

    clock = "hardware_clock"
    live = False

    def __init__(self, config: VirtualConfig, *, rig: Rig | None = None) -> None:
        self.config = config
        self._rig = _with_serials(rig if rig is not None else ring_rig(3))
        has_sdk = importlib.util.find_spec("pyrealsense2") is not None
        if config.transport == "software_device" and not has_sdk:
            raise missing_extra("pyrealsense2", "realsense")
        self._transport = "rs.software_device" if has_sdk and config.transport != "direct" else "direct"
        refuse_distortion(self._rig, where="the virtual rig")
        self._renderer = open_renderer("raster")
        self._times = _Times(config, len(self._rig))
        self._stop = threading.Event()
        self._queue: queue.Queue[Image | None] = queue.Queue(QUEUE_IMAGES)
        self._feeder: threading.Thread | None = None
        self._failure: BaseException | None = None

    @property
    def rig(self) -> Rig:
        """The cameras; their serial numbers say that they are virtual."""
        return self._rig

    @property
    def hand(self) -> Literal["right", "left"]:
        """Which hand is seen."""
        return self.config.hand

    @property
    def provenance(self) -> dict[str, Any]:
        """`virtual: true`, the transport and the whole configuration."""
        out: dict[str, Any] = {
            "source": "virtual-rig",
            "virtual": True,
            "transport": self._transport,
            "clock": self.clock,
            "hand_model": self._hand.name,
            "config": self.config.model_dump(mode="json", exclude={"sensor"}),
            "sensor": None if self.config.sensor is None else describe(self.config.sensor),
        }
        if self._transport != "direct":
            out["sdk"] = f"pyrealsense2 {load_sdk().__version__}"
        return out

    @property
    def n_images(self) -> int | None:
        """Images that will not be lost."""
        return int((~self._times.lost).sum())

    def moment(self, camera: int, frame_number: int) -> Moment:
        """The truth of the set that an image belongs to."""
        k = frame_number - 1
        sequence, within = divmod(k, self.config.sequence_frames)
        subject = sequence % self.config.subjects
        if self.config.ball_mm is not None:
            return Moment(subject, sequence, _split(self.config, sequence), {})
        pose, root = self._trajectory(sequence)
        shape = self._shapes[subject]
        posed = pose_hand(self._hand, pose[within : within + 1], root[within : within + 1], shape[None])
        labels = {
            "joints": posed.joints[0],
            "pose": pose[within].astype(np.float32),
            "root": root[within].astype(np.float32),
            "shape": shape.astype(np.float32),
        }
        return Moment(subject, sequence, _split(self.config, sequence), labels)

    def frames(self) -> Iterator[Image]:
        """Images of all cameras in order of arrival."""
        assert self._feeder is None, "a source is read once"
        feed = self._feed_direct if self._transport == "direct" else self._feed_sdk
        self._feeder = threading.Thread(target=self._guarded, args=(feed,), name="virtual-rig", daemon=True)
        self._feeder.start()
        while (image := self._queue.get()) is not None:
            yield image
        if self._failure is not None:
            raise self._failure

    def close(self) -> None:
        """Stop rendering and the devices."""
        self._stop.set()
        if self._feeder is not None:
            while self._feeder.is_alive():
                try:
                    self._queue.get(timeout=0.02)
                except queue.Empty:
                    continue
            self._feeder.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- what is shown -----------------------------------------------------------------------------------

    @cached_property
    def _hand(self) -> RiggedHand:
        right = builtin_hand()
        return right if self.config.hand == "right" else mirror(right)

    @cached_property
    def _shapes(self) -> list[NDArray[np.float64]]:
        return [sample_shape(np.random.default_rng([self.config.seed, 1, s])) for s in range(self.config.subjects)]

    @cached_property
    def _room(self) -> list[NDArray[np.float32] | None]:
        """Clean depth of all that does not move, by camera; None without a scene."""
        if not self.config.scene:
            return [None for _ in self._rig.cameras]
        mesh = room(self._rig)
        return [
            self._renderer.render(in_camera(c, mesh.vertices), mesh.faces, np.array(c.k), c.width, c.height).depth_mm
            for c in self._rig.cameras
        ]

    @cached_property
    def _trajectories(self) -> dict[int, tuple[NDArray[np.float64], NDArray[np.float64]]]:
        return {}

    def _trajectory(self, sequence: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Poses (n, 25) and roots (n, 6) of one sequence; the last few are kept, any is the same when drawn again."""
        known = self._trajectories.get(sequence)
        if known is not None:
            return known
        config = self.config
        style = _style(config.motion, self._rig, config.hand)
        count = min(config.sequence_frames, config.frames - sequence * config.sequence_frames)
        pose, root = sample_trajectory(
            self._hand,
            np.random.default_rng([config.seed, 2, sequence]),
            n_frames=count,
            fps=config.fps,
            style=style,
            shape=self._shapes[sequence % config.subjects],
        )
        assert pose.shape == (count, POSE_SIZE)
        assert root.shape == (count, ROOT_SIZE)
        if len(self._trajectories) >= KEPT_SEQUENCES:
            self._trajectories.pop(min(self._trajectories), None)
        self._trajectories[sequence] = pose, root
        return pose, root

    def _meshes(self) -> Iterator[Mesh]:
        """What moves, set by set."""
        config, hand = self.config, self._hand
        if config.ball_mm is not None:
            axes = axes_of(self._rig)
            yield from (held_ball(center, config.ball_mm, axes) for center in ball_path(config.frames, axes))
            return
        stump = Stump(hand)
        goal = shoulder(axes_of(self._rig), config.hand)
        for sequence in range(-(-config.frames // config.sequence_frames)):
            pose, root = self._trajectory(sequence)
            shape = self._shapes[sequence % config.subjects]
            for start in range(0, len(pose), POSED_AT_ONCE):
                part = slice(start, start + POSED_AT_ONCE)
                shapes = np.broadcast_to(shape, (len(pose[part]), SHAPE_SIZE))
                posed = pose_hand(hand, pose[part], root[part], shapes)
                for vertices, joints in zip(posed.vertices, posed.joints, strict=True):
                    mesh = Mesh(vertices.astype(np.float64), hand.faces)
                    arm = sleeve(*stump.of(vertices, joints[WRIST]), goal)
                    yield joined([mesh, arm]) if config.scene else mesh

    def _render(self, k: int, mesh: Mesh) -> list[Image]:
        """The images of set k, in order of arrival."""
        images = []
        for view, camera in enumerate(self._rig.cameras):
            if self._times.lost[k, view]:
                continue
            depth = render_frame(
                self._renderer, camera, mesh.vertices, mesh.faces,
                background=self._room[view], sensor=self.config.sensor, seed=self.config.seed, frame=k, view=view,
            )  # fmt: skip
            device, host = int(self._times.device_ns[k, view]), int(self._times.host_ns[k, view])
            images.append(Image(view, depth, device, host, k + 1))
        return sorted(images, key=lambda image: image.t_host_ns)

    def _sets(self) -> Iterator[list[Image]]:
        """All sets in order, rendered by a few threads a little ahead (the kernels let go of the lock)."""
        with ThreadPoolExecutor(self.config.jobs) as pool:
            ahead: list[Future[list[Image]]] = []
            for k, mesh in enumerate(self._meshes()):
                if self._stop.is_set():
                    break
                ahead.append(pool.submit(self._render, k, mesh))
                if len(ahead) > AHEAD_SETS:
                    yield ahead.pop(0).result()
            for future in ahead:
                yield future.result()

    # -- how it is handed over ---------------------------------------------------------------------------

    def _guarded(self, feed: Any) -> None:
        try:
            feed()
        except BaseException as error:  # it must surface where the images are read
            self._failure = error
        finally:
            self._put(None)

    def _put(self, image: Image | None) -> None:
        while not self._stop.is_set():
            try:
                self._queue.put(image, timeout=0.1)
            except queue.Full:
                continue
            return

    def _feed_direct(self) -> None:
        for images in self._sets():
            for image in images:
                self._put(image)

    def _feed_sdk(self) -> None:
        devices = [SoftwareCamera(camera, fps=self.config.fps, clock=self.clock) for camera in self._rig.cameras]
        try:
            for view, device in enumerate(devices):
                device.start(self._receiver(view))
            for images in self._sets():
                for image in images:
                    if self._stop.is_set():
                        return
                    devices[image.camera].send(image)
        finally:
            for device in devices:
                device.stop()

    def _receiver(self, view: int) -> Any:
        """The callback of one camera: only what the SDK hands over goes on."""
        arrival = load_sdk().frame_metadata_value.time_of_arrival

        def receive(frame: Any) -> None:
            self._put(
                Image(
                    view,
                    np.array(frame.get_data()),
                    round(frame.get_timestamp() * 1e6),
                    int(frame.get_frame_metadata(arrival)) * 1_000_000,
                    int(frame.get_frame_number()),
                )
            )

        return receive


class _Times:
    """Stamps, arrivals and losses of all images, drawn before the first is rendered."""

    def __init__(self, config: VirtualConfig, views: int) -> None:
        rng = np.random.default_rng([config.seed, 3])
        clocks = config.clocks
        true_ns = START_NS + np.arange(config.frames)[:, None] * (1e9 / config.fps)
        offset_ns = rng.uniform(0, clocks.offset_s, views) * 1e9
        drift = rng.normal(0, clocks.drift_ppm, views) * 1e-6
        jitter_ns = rng.normal(0, clocks.jitter_ms * 1e6, (config.frames, views))
        stamped = offset_ns + true_ns * (1 + drift) + jitter_ns
        late_ns = 2e6 + rng.exponential(clocks.latency_ms * 1e6, (config.frames, views))
        self.device_ns = np.rint(stamped).astype(np.int64)
        # One cable carries one camera's images in order.
        self.host_ns = np.maximum.accumulate(np.rint(true_ns + late_ns).astype(np.int64), axis=0)
        self.lost = rng.random((config.frames, views)) < config.drop


class Stump:
    """Where a hand mesh's forearm ends, found once at rest and followed by its vertices."""

    def __init__(self, hand: RiggedHand) -> None:
        y = hand.vertices[:, 1]
        self.end = y < y.min() + 12

    def of(
        self, vertices: NDArray[np.float32], wrist: NDArray[np.float32]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
        """Middle (3,) of the end, unit direction (3,) in which the arm goes on, and its radius."""
        ring = vertices[self.end].astype(np.float64)
        middle = ring.mean(0)
        direction = (middle - wrist) / np.linalg.norm(middle - wrist)
        beside = ring - middle - np.outer((ring - middle) @ direction, direction)
        return middle, direction, float(np.percentile(np.linalg.norm(beside, axis=1), 90))


def _style(motion: Motion, rig: Rig, side: Literal["right", "left"]) -> MotionStyle:
    facing = None
    if motion.facing:
        x, y, z = (float(a) for a in rotation_vector(resting_hand(axes_of(rig), side)))
        facing = (x, y, z)
    return MotionStyle(
        facing=facing,
        facing_spread_deg=motion.spread_deg,
        median_deg_s=motion.median_deg_s,
        p95_deg_s=motion.p95_deg_s,
        median_mm_s=motion.median_mm_s,
        p95_mm_s=motion.p95_mm_s,
        radius_mm=motion.radius_mm,
    )


def _split(config: VirtualConfig, sequence: int) -> int:
    """0 train, 1 val, 2 test: whole sequences, the last ones for the test."""
    count = -(-config.frames // config.sequence_frames)
    test = round(config.test_share * count)
    val = round(config.val_share * count)
    return 2 if sequence >= count - test else 1 if sequence >= count - test - val else 0


def _with_serials(rig: Rig) -> Rig:
    """Cameras without a serial number get one that says what they are."""
    from dataclasses import replace

    return Rig(
        tuple(
            camera if camera.serial else replace(camera, serial=f"VIRTUAL{i:03d}")
            for i, camera in enumerate(rig.cameras)
        )
    )

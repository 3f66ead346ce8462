"""Sets of images as rows of `frames/`, and what a source that knows more says of them until the recording ends."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..stores.camera import project
from ..stores.recording import Recording
from ..stores.table import Appender
from .source import Annotated, Moment
from .sync import ImageSet


class Keeper:
    """Turns sets into rows, counts them, and remembers what the source knows of each."""

    def __init__(self, recording: Recording, annotated: Annotated | None, first_id: int, first_sequence: int) -> None:
        self._recording, self._annotated = recording, annotated
        self._first_id, self._first_sequence = first_id, first_sequence
        self._moments: list[Moment] = []
        self.count = 0
        """Sets so far."""

    def rows(self, one: ImageSet) -> dict[str, NDArray[Any]]:
        """A set as one row of every column of `frames/`."""
        images = one.images
        out: dict[str, NDArray[Any]] = {}
        for view, camera in enumerate(self._recording.rig.cameras):
            image = images[view]
            depth = np.zeros((camera.height, camera.width), np.uint16) if image is None else image.depth
            out[f"depth/{camera.name}"] = depth[None]
        first = next(image for image in images if image is not None)
        moment = self._annotated.moment(first.camera, first.frame_number) if self._annotated is not None else Moment()
        stamps = (
            [-1 if image is None else image.t_device_ns for image in images],
            [-1 if image is None else image.t_host_ns for image in images],
            [-1 if image is None else image.frame_number for image in images],
        )
        row = self._first_id + self.count
        self.count += 1
        if self._annotated is not None:
            self._moments.append(moment)
        out["present"] = np.array([[image is not None for image in images]], np.uint8)
        for name, values in zip(("t_device_ns", "t_host_ns", "frame_number"), stamps, strict=True):
            out[name] = np.array([values], np.int64)
        out["frame_id"] = np.array([row], np.uint64)
        out["subject"] = np.array([moment.subject], np.int32)
        out["sequence"] = np.array([self._first_sequence + moment.sequence], np.int32)
        out["split"] = np.array([moment.split], np.uint8)
        return out

    def write_labels(self) -> None:
        """The truth of every set as `labels/`."""
        if not self._moments or not self._moments[0].labels:
            return
        known = self._moments[0].labels
        pose, shape, root = (len(known[name]) if name in known else 0 for name in ("pose", "shape", "root"))
        table = self._recording.create_labels(
            layout="openxr26",
            pose_size=pose,
            shape_size=shape,
            root_size=root,
            attributes={"source": "virtual truth"},
        )
        rows = {name: np.stack([moment.labels[name] for moment in self._moments]) for name in known}
        views = len(self._recording.rig)
        rows["visible"] = np.array([_in_image(self._recording, joints) for joints in rows["joints"]])
        assert rows["visible"].shape[1] == views
        with Appender(table) as appender:
            appender.append(rows)

    def people(self) -> dict[str, Any]:
        """How many subjects and sequences there are, this segment's beside those before it."""
        before = self._recording.attributes if self._first_sequence else {}
        subjects = len({moment.subject for moment in self._moments}) if self._moments else min(self.count, 1)
        sequences = len({moment.sequence for moment in self._moments}) if self._moments else min(self.count, 1)
        return {
            "subjects": max(subjects, before.get("subjects", 0)),
            "sequences": sequences + self._first_sequence,
        }


def _in_image(recording: Recording, joints_mm: NDArray[np.float32]) -> NDArray[np.uint8]:
    """(V, 26) 1 where a joint projects into the view's image; what hides it is not looked at."""
    out = []
    for camera in recording.rig.cameras:
        points = camera.to_camera(joints_mm)
        u, v = project(points, camera.k).T
        inside = (u >= -0.5) & (v >= -0.5) & (u < camera.width - 0.5) & (v < camera.height - 0.5)
        out.append(inside & (points[:, 2] > 0))
    return np.array(out, np.uint8)

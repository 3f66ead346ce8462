"""A recording: one Zarr group with the rig in its attributes and up to three tables below it.

    frames/   what the cameras gave: depth/<camera>, present, times and numbers, who and in which sequence
    crops/    where the hand is: square crops with their own K, the centres, the bones' masks
    labels/   what is known of it: joints in the rig's frame, visibility, the parameters that made them, and where
              these were fitted to labels (twins) whose frame it is and how far off the fit stays

Rows correspond across the tables. Synthetic and captured recordings have the same form; nothing else of the
kit asks which one it reads. A recording is as long as `frames/`; `crops/` of a capture may lag behind, and
`labels/` may come much later (`replace_labels`).
"""

from __future__ import annotations

import hashlib
import json
import shutil
import uuid as uuid_module
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, Self, get_args

import numpy as np
import zarr
from numpy.typing import NDArray

from .camera import Rig
from .columns import Column
from .documents import read_json_object
from .durable import flush, refuse_changed, seal_file, sealed, write_json
from .errors import HandloomError
from .joints import Layout, layout_named
from .s3 import S3Path, located, sizes_below
from .table import Appender, Table, refuse_if_written

FORMAT: Final = "handloom-recording"
VERSION: Final = 1
UNIT_FRAMES: Final = 256
OPEN_UNIT_FRAMES: Final = 16
"""Unit of an open capture's frames: what a power cut may cost."""

Kind = Literal["synthetic", "captured"]
Hand = Literal["right", "left"]
SPLITS: Final = ("train", "val", "test")
CENTER_SOURCES: Final = ("none", "truth", "located", "given")
ENTRIES: Final = ("zarr.json", "frames", "crops", "labels", "labels.new", "labels.old", "twin-fits")
"""What writers make in a recording's folder; the last while twins are being fitted."""
NO_PART: Final = 255
"""Value of a pixel in `parts` that shows no bone."""


@dataclass(slots=True)
class Recording:
    """An open recording; make one with `create_recording` or `open_recording`.

    recording = handloom.open_recording("R.zarr")
    recording.frames.read("depth/cam0", 0, 16)   # (16, H, W) uint16 times recording.depth_unit_mm[0]; 0 = no return
    recording.crops.read("center")               # (T, V, 3) mm in the camera, where the hand was found
    recording.labels.read("joints")              # (T, J, 3) mm in the rig's frame, NaN where unknown

    As long as `n_frames` says; rows of the three tables belong together.
    """

    path: Path
    """The folder, or an address on S3."""
    kind: Kind
    """Rendered or recorded; nothing else asks which."""
    uuid: str
    """By which others name it (twins, runs), wherever it lies; a changed copy has another."""
    rig: Rig
    """The cameras, in the order of the views."""
    hand: Hand
    """Which hand is seen."""
    provenance: dict[str, Any]
    """How it came to be: source or configuration, versions, parents."""
    attributes: dict[str, Any]
    """Whatever else was said of it: `twins_of`, `sequences`, `subjects`."""
    frames: Table | None = None
    """What the cameras gave; None where the rendered frames were not kept."""
    crops: Table | None = None
    """Where the hand is; None before it was looked for."""
    labels: Table | None = None
    """What is known of it; None before anything was labelled."""

    @property
    def n_frames(self) -> int:
        """Committed rows."""
        table = self.frames or self.crops
        return table.committed if table else 0

    @property
    def n_views(self) -> int:
        """Cameras of the rig."""
        return len(self.rig)

    @property
    def layout(self) -> Layout | None:
        """Layout of the labels, if there are any."""
        return layout_named(str(self.labels.attributes["layout"])) if self.labels else None

    @property
    def has_depth(self) -> bool:
        """Whether the full frames were kept."""
        return self.frames is not None and f"depth/{self.rig.names[0]}" in self.frames.columns

    @property
    def depth_unit_mm(self) -> NDArray[np.float32]:
        """(V,) float32, mm of one step of each camera's depth."""
        return np.array([camera.depth_unit_mm for camera in self.rig.cameras], np.float32)

    def create_frames(self, *, depth: bool, unit_frames: int = UNIT_FRAMES) -> Table:
        """Add the table of what the cameras gave, with full frames where `depth` is set."""
        codec = "capture" if self.kind == "captured" else "synthesis"
        views = (self.n_views,)
        columns = [
            Column("present", views, "u1", codec=codec),
            Column("t_device_ns", views, "i8", -1, codec),
            Column("t_host_ns", views, "i8", -1, codec),
            Column("frame_number", views, "i8", -1, codec),
            Column("frame_id", (), "u8", codec=codec),
            Column("subject", (), "i4", codec=codec),
            Column("sequence", (), "i4", codec=codec),
            Column("split", (), "u1", codec=codec),
        ]
        if depth:
            columns += [
                Column(f"depth/{camera.name}", (camera.height, camera.width), "u2", codec=codec)
                for camera in self.rig.cameras
            ]
        self.frames = Table.create(self.path / "frames", columns, unit_frames=unit_frames, attributes={})
        return self.frames

    def create_crops(
        self,
        *,
        parts: bool,
        crop_px: int = 192,
        window_mm: float = 450.0,
        unit_frames: int = UNIT_FRAMES,
    ) -> Table:
        """Add the table of where the hand is.

        Args:
            parts: whether there is a mask of bones with each crop, as rendered hands have it.
            crop_px: side S of a crop.
            window_mm: side of the square that it shows at the hand's distance.
            unit_frames: rows that are committed at a time.
        """
        views, image = self.n_views, (self.n_views, crop_px, crop_px)
        columns = [
            Column("crop", image, "u2"),
            Column("center", (views, 3), "f4"),
            Column("k", (views, 4), "f4"),
            Column("center_source", (views,), "u1"),
            Column("center_score", (views,), "f4"),
        ]
        if parts:
            columns.append(Column("parts", image, "u1", NO_PART))
        attributes = {"crop_px": crop_px, "window_mm": window_mm}
        self.crops = Table.create(self.path / "crops", columns, unit_frames=unit_frames, attributes=attributes)
        return self.crops

    def create_labels(
        self,
        *,
        layout: str,
        pose_size: int = 0,
        shape_size: int = 0,
        root_size: int = 0,
        twin: bool = False,
        fit_error: bool = False,
        attributes: Mapping[str, Any] | None = None,
        unit_frames: int = UNIT_FRAMES,
        folder: str = "labels",
    ) -> Table:
        """Add the table of what is known of the hand.

        Args:
            layout: name of the layout of the joints.
            pose_size: length of the rows of `pose`, the angles that were drawn or fitted; 0: no such column.
            shape_size: of `shape`, the hand's proportions.
            root_size: of `root`, where the hand is.
            twin: add `twin`, the `frame_id` in the recording that this one shows the synthetic twins of.
            fit_error: add `fit_error_mm`, how far the fitted points stay from the labels, mean of the frame.
            attributes: said of the table, beside its layout.
            unit_frames: rows that are committed together.
            folder: where, below the recording.
        """
        count = len(layout_named(layout))
        columns = [Column("joints", (count, 3), "f4"), Column("visible", (self.n_views, count), "u1")]
        sizes = {"pose": pose_size, "shape": shape_size, "root": root_size}
        columns += [Column(name, (size,), "f4") for name, size in sizes.items() if size]
        if twin:
            columns.append(Column("twin", (), "u8"))
        if fit_error:
            columns.append(Column("fit_error_mm", (), "f4"))
        self.labels = Table.create(
            self.path / folder,
            columns,
            unit_frames=unit_frames,
            attributes={**(attributes or {}), "layout": layout},
        )
        return self.labels

    def replace_labels(
        self,
        joints_mm: NDArray[np.float32],
        *,
        layout: str,
        visible: NDArray[np.uint8] | None = None,
        attributes: Mapping[str, Any] | None = None,
    ) -> Table:
        """Give every row new labels: written beside the old ones, then put in their place.

        Args:
            joints_mm: (T, J, 3) in the rig's frame, NaN where unknown.
            layout: name of the layout of the J points.
            visible: (T, V, J), 1 where the point is seen; all seen when left out.
            attributes: said of the table, beside its layout.
        """
        rows, count = joints_mm.shape[:2]
        assert rows == self.n_frames, f"{rows} rows of labels for {self.n_frames} frames"
        if visible is None:
            visible = np.ones((rows, self.n_views, count), np.uint8)
        assert self.frames is not None
        self.frames.lock()
        try:
            here, new, old = (self.path / name for name in ("labels", "labels.new", "labels.old"))
            if not here.exists() and old.exists():  # the last swap was cut off
                new.rename(here)
            shutil.rmtree(new, ignore_errors=True)
            shutil.rmtree(old, ignore_errors=True)
            with Appender(self.create_labels(layout=layout, attributes=attributes, folder=new.name)) as appender:
                appender.append({"joints": joints_mm, "visible": visible})
            if here.exists():
                here.rename(old)
            new.rename(here)
            flush(self.path)
            shutil.rmtree(old, ignore_errors=True)
        finally:
            self.frames.unlock()
        self.labels = Table.open(here)
        return self.labels

    def annotate(self, **attributes: Any) -> None:
        """Add to `attributes`, or replace what is there."""
        if isinstance(self.path, S3Path):
            self.path.refuse()
        self.attributes.update(attributes)
        described = json.loads((self.path / "zarr.json").read_text())
        described["attributes"]["attributes"] = self.attributes
        write_json(self.path / "zarr.json", sealed(described))

    @classmethod
    def _from_attributes(cls, path: Path, values: Mapping[str, Any]) -> Self:
        provenance, attributes = (values.get(name, {}) for name in ("provenance", "attributes"))
        said = {
            "kind": values.get("kind") in get_args(Kind),
            "hand": values.get("hand") in get_args(Hand),
            "uuid": isinstance(values.get("uuid"), str),
            "rig": isinstance(values.get("rig"), dict),
            "provenance": isinstance(provenance, dict),
            "attributes": isinstance(attributes, dict),
        }
        for name, usable in said.items():
            if not usable:
                raise HandloomError(
                    f"The recording's description has no usable '{name}'",
                    where=str(path / "zarr.json"),
                    why=f"{name} is {str(values.get(name))[:80]!r}" if name in values else "it is missing",
                    fix="copy the recording again, or record or synthesise it again",
                )
        return cls(
            path=path,
            kind=values["kind"],
            uuid=values["uuid"],
            rig=Rig.from_dict(values["rig"], where=str(path)),
            hand=values["hand"],
            provenance=dict(provenance),
            attributes=dict(attributes),
        )

    def _check_rig(self) -> None:
        """Refuse tables of other cameras than the rig's."""
        frames = self.frames
        assert frames is not None
        for camera in self.rig.cameras if any(name.startswith("depth/") for name in frames.columns) else ():
            column = frames.columns.get(f"depth/{camera.name}")
            if column is None or column.shape != (camera.height, camera.width):
                found = "there is none" if column is None else f"it holds images of {column.shape}"
                raise self._disagrees(f"frames/depth/{camera.name}", found)
        for table, name in ((frames, "present"), (self.crops, "center_source")):
            column = table.columns.get(name) if table is not None else None
            if table is not None and (column is None or column.shape != (self.n_views,)):
                found = "there is none" if column is None else f"it is of {column.shape[0]} cameras"
                raise self._disagrees(f"{table.path.name}/{name}", found)

    def _disagrees(self, array: str, found: str) -> HandloomError:
        return HandloomError(
            "The recording's images are of other cameras than its rig",
            where=str(self.path / array),
            why=f"{found}; the rig has {', '.join(f'{c.name} {c.width} x {c.height}' for c in self.rig.cameras)}",
            fix="copy the recording again, or record or synthesise it again",
        )


def create_recording(
    path: Path,
    *,
    kind: Kind,
    rig: Rig,
    hand: Hand,
    provenance: Mapping[str, Any],
    attributes: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Recording:
    """A new recording without tables; `create_frames`, `create_crops` and `create_labels` add them.

    Args:
        path: the folder to make.
        kind: 'synthetic' or 'captured'.
        rig: the cameras, in the order of the views.
        hand: 'right' or 'left'.
        provenance: how it comes to be, in plain values.
        attributes: whatever else is to be said of it.
        overwrite: replace a recording that is there.

    Raises:
        HandloomError: something lies at `path`; with `overwrite`, something that is no recording.
    """
    prepare_output(path, overwrite=overwrite)
    values: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "uuid": str(uuid_module.uuid4()),
        "kind": kind,
        "hand": hand,
        "rig": rig.to_dict(),
        "provenance": dict(provenance),
        "attributes": dict(attributes or {}),
    }
    values["manifest"] = manifest(values)
    path.parent.mkdir(parents=True, exist_ok=True)
    zarr.create_group(path, attributes=values)
    seal_file(path / "zarr.json")
    return Recording._from_attributes(path, values)


def prepare_output(path: Path, *, overwrite: bool) -> None:
    """Make sure a recording can be made at `path`, removing the one that is there if `overwrite`.

    Raises:
        HandloomError: the path is taken, or another process writes there.
    """
    there = located(path)
    if isinstance(there, S3Path):
        there.refuse()
    if not path.exists():
        return
    if not overwrite:
        raise HandloomError(
            "The output exists already", where=str(path), fix="add --overwrite, or choose another --out"
        )
    if not (path.is_dir() and (_is_empty(path) or _is_recording(path))):
        raise HandloomError(
            "Refusing to overwrite what is not a recording", where=str(path), fix="choose another --out"
        )
    strange = [entry.name for entry in sorted(path.iterdir()) if not _is_ours(entry.name)]
    if strange:
        raise HandloomError(
            f"Refusing to remove what is not the recording's: '{strange[0]}'",
            where=str(path),
            why=f"{len(strange)} file{'s' * (len(strange) != 1)} or folders of others lie in its folder",
            fix="move them elsewhere, or choose another --out",
        )
    for name in ("frames", "crops", "labels"):
        refuse_if_written(path / name)
    shutil.rmtree(path)


def open_recording(path: str | Path, *, writable: bool = False, check: bool = True) -> Recording:
    """The recording at `path`, its tables clamped to what was committed; nothing is read of them yet.

    Args:
        path: of the recording; s3://BUCKET/R.zarr, for reading.
        writable: whether it will be written.
        check: look for the files of all committed rows; `verify` has done so itself.

    Raises:
        HandloomError: nothing is there, it is no recording, of a newer version, or incomplete.
    """
    path = located(Path(path) if isinstance(path, str) else path)
    if writable and isinstance(path, S3Path):
        path.refuse()
    values = _read_attributes(path)
    version = values.get("version")
    if type(version) is not int or version < 1:
        raise HandloomError(
            "The recording does not say its version", where=str(path / "zarr.json"), why=f"version is {version!r}"
        )
    if version > VERSION:
        raise HandloomError(
            "The recording was written by a newer Handloom",
            where=str(path),
            why=f"its version is {version}, this Handloom reads up to {VERSION}",
            fix="pip install --upgrade handloom",
        )
    if values.get("manifest") != manifest(values):
        raise HandloomError(
            "The recording's description was changed after it was written",
            where=str(path / "zarr.json"),
            why="rig, kind or hand no longer match the manifest, so the geometry may be wrong",
            fix="restore zarr.json, or make the recording again",
        )
    refuse_changed(path / "zarr.json", read_json_object(path / "zarr.json"))
    recording = Recording._from_attributes(path, values)
    for name in ("frames", "crops", "labels"):
        folder = path / name
        if name == "labels" and not folder.exists() and (path / "labels.old").exists():
            folder = path / "labels.new"  # whole: cut off between the two renames of `replace_labels`
        if folder.exists():
            setattr(recording, name, Table.open(folder, writable=writable, check=check))
    if recording.frames is None:
        raise HandloomError(
            "The recording is incomplete",
            where=str(path / "frames"),
            why="the table is missing",
            fix="copy the recording again, or record or synthesise it again",
        )
    recording._check_rig()
    return recording


def describe(recording: Recording) -> dict[str, Any]:
    """What `handloom store info` prints: plain values."""
    frames = recording.frames
    assert frames is not None
    split = frames.read("split")
    present = frames.read("present")
    labels = recording.labels
    labelled = int(np.isfinite(labels.read("joints")).any((1, 2)).sum()) if labels else 0
    located = int((recording.crops.read("center_source") > 0).any(1).sum()) if recording.crops else 0
    tables = {name: getattr(recording, name) for name in ("frames", "crops", "labels")}
    size = sum(sizes_below(recording.path).values())
    return {
        "path": str(recording.path),
        "kind": recording.kind,
        "uuid": recording.uuid,
        "hand": recording.hand,
        "frames": recording.n_frames,
        "cameras": [
            {"name": c.name, "size": f"{c.width}x{c.height}", "depth_unit_mm": c.depth_unit_mm}
            for c in recording.rig.cameras
        ],
        "images": int(present.sum()),
        "dropped_images": int((present == 0).sum()),
        "with_crops": located,
        "labelled": labelled,
        "layout": recording.layout.name if recording.layout else None,
        "splits": {name: int((split == i).sum()) for i, name in enumerate(SPLITS)},
        "sequences": len(np.unique(frames.read("sequence"))),
        "tables": {
            name: {"rows": table.committed, "unit_frames": table.unit_frames, "arrays": sorted(table.columns)}
            for name, table in tables.items()
            if table
        },
        "bytes": size,
        "provenance": recording.provenance,
    }


def _read_attributes(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise HandloomError("There is no recording", where=str(path))
    if not (path / "zarr.json").is_file():
        raise HandloomError("This is not a recording", where=str(path), why="it holds no zarr.json")
    try:
        values = read_json_object(path / "zarr.json")["attributes"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise HandloomError(
            "The recording's description cannot be read", where=str(path / "zarr.json"), why=str(error)
        ) from error
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise HandloomError(
            "This is not a recording", where=str(path), why=f"the Zarr group is not of format '{FORMAT}'"
        )
    return values


def _is_ours(name: str) -> bool:
    """Whether a writer makes such an entry in a recording's folder, whole or cut off."""
    return name in ENTRIES or name.endswith(".partial") or name.startswith(".zarr.json.")


def _is_empty(path: Path) -> bool:
    """Whether a folder holds nothing, or only what Zarr had not renamed yet when it was killed."""
    return all(entry.suffix == ".partial" for entry in path.iterdir())


def _is_recording(path: Path) -> bool:
    try:
        _read_attributes(path)
    except HandloomError:
        return False
    return True


def manifest(values: Mapping[str, Any]) -> str:
    """Hash of what the geometry rests on."""
    kept = {name: values.get(name) for name in ("format", "version", "uuid", "kind", "hand", "rig")}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()

"""Which codec suits a recording's own images: all are tried on some of them, a table says why one was chosen.

Depth from stereo, from structured light and from time of flight is noisy in different ways, and a crop holds less
of it than a full frame; so what packs one sensor's frames best is found by packing them. Each row is packed alone,
as it lies in a shard, with its CRC-32C; times are CPU time of one core, the best of two passes.

    record    the smallest that leaves half of one core free at the rig's frame rate
    train     the fastest to unpack among those at most 1 / 0.9 times as large as the smallest
    archive   the smallest
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

import google_crc32c
import numpy as np
from numcodecs import blosc
from numpy.typing import NDArray

from .codec import SHUFFLES, Codec, codec_named
from .columns import BLOCK_BYTES
from .errors import HandloomError
from .recording import Recording
from .shards import CRC_BYTES
from .table import Table

Goal = Literal["record", "train", "archive"]
GOALS: Final = ("record", "train", "archive")
LEVELS: Final = {"lz4": (1, 5, 9), "lz4hc": (5,), "zstd": (1, 3, 6), "blosclz": (5,), "zlib": (1,)}
"""What is tried: beyond these a level costs much and gives nothing on depth."""
NEAR: Final = 0.9
"""A ratio this close to the best is as good where speed matters."""
FREE: Final = 0.5
"""Share of a core that packing may take while a rig records."""
FPS: Final = 30.0
"""Where the recording's times do not say."""
TICK_S: Final = 1e-6

Progress = Callable[..., None]


@dataclass(frozen=True, slots=True)
class Tried:
    """What a codec did to the images."""

    codec: str
    ratio: float
    """Raw bytes a packed byte."""
    pack_mb_s: float
    """Raw MB a second of one core."""
    unpack_mb_s: float


@dataclass(frozen=True, slots=True)
class Tuning:
    """The table of one kind of images and what was chosen from it."""

    what: Literal["frames", "crops"]
    rows: int
    raw_mb: float
    """Of the images that were tried on."""
    current: str
    """What the recording is packed with."""
    needed_mb_s: float | None
    """What a recorder has to pack a second; None: not the goal."""
    tried: tuple[Tried, ...]
    """Smallest first."""
    chosen: str
    why: str

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    def lines(self) -> list[str]:
        """For people, within 80 columns."""
        out = [
            f"{self.what}: {self.rows} images, {self.raw_mb:.1f} MB raw; packed now with {self.current}",
            f"  {'codec':<22}{'ratio':>8}{'pack MB/s':>12}{'unpack MB/s':>13}",
        ]
        for one in self.tried:
            mark = "*" if one.codec == self.chosen else " "
            out.append(f"{mark} {one.codec:<22}{one.ratio:>8.2f}{one.pack_mb_s:>12.0f}{one.unpack_mb_s:>13.0f}")
        return [*out, f"  {self.chosen}: {self.why}"]


def tune(
    recording: Recording,
    *,
    goal: Goal,
    frames: int,
    fps: float | None = None,
    progress: Progress | None = None,
) -> list[Tuning]:
    """Try all codecs on some full frames and on some crops of a recording, whichever it has.

    Args:
        recording: closed or growing; only what is committed is looked at.
        goal: what is wanted of the codec.
        frames: how many rows, spread evenly over the recording.
        fps: images a second of each camera, for the goal 'record'; None: as the recording's times say.
        progress: told of codecs done.

    Raises:
        HandloomError: it has no images, or they are damaged.
    """
    kinds = _images(recording, frames)
    if not kinds:
        raise HandloomError("The recording has no images to try codecs on", where=str(recording.path))
    codecs = [Codec(c, level, s) for c, levels in LEVELS.items() for level in levels for s in SHUFFLES]  # type: ignore[arg-type]
    for name in {table.columns[column].codec for table, column, _ in kinds}:
        if codec_named(name) not in codecs:
            codecs.append(codec_named(name))
    out, done, total = [], 0, len(codecs) * len(kinds)
    for table, column, images in kinds:
        tried = []
        for codec in codecs:
            tried.append(try_codec(codec, images))
            done += 1
            if progress is not None:
                progress(done, total, note=codec.name)
        what: Literal["frames", "crops"] = "frames" if table is recording.frames else "crops"
        needed = None
        if goal == "record" and what == "frames":
            needed = (fps or frame_rate(recording)) * sum(c.width * c.height * 2 for c in recording.rig.cameras) / 1e6
        tried.sort(key=lambda one: -one.ratio)
        chosen, why = choose(tried, goal, needed)
        current = codec_named(table.columns[column].codec).name
        raw_mb = sum(image.nbytes for image in images) / 1e6
        out.append(Tuning(what, len(images), raw_mb, current, needed, tuple(tried), chosen.codec, why))
    return out


def try_codec(codec: Codec, images: Sequence[NDArray[Any]]) -> Tried:
    """Pack and unpack each image alone, checksum included; what comes back is compared with what went in."""
    raw = sum(image.nbytes for image in images)
    pack, unpack, size = [], [], 0
    room = [np.zeros_like(image) for image in images]  # touched, so that no page is first used inside a timing
    threads = blosc.set_nthreads(1)
    try:
        for _ in range(2):
            started = time.thread_time()
            packed = [_packed(codec, image) for image in images]
            between = time.thread_time()
            good = [_unpacked(body, crc, out) for (body, crc), out in zip(packed, room, strict=True)]
            pack.append(between - started)
            unpack.append(time.thread_time() - between)
            size = sum(len(body) + CRC_BYTES for body, _ in packed)
            assert all(good), codec.name
            assert all((out == image).all() for out, image in zip(room, images, strict=True)), codec.name
    finally:
        blosc.set_nthreads(threads)
    return Tried(codec.name, raw / size, raw / 1e6 / max(min(pack), TICK_S), raw / 1e6 / max(min(unpack), TICK_S))


def choose(tried: Sequence[Tried], goal: Goal, needed_mb_s: float | None) -> tuple[Tried, str]:
    """The codec for a goal, and why; of those that pack equally well the fastest."""
    smallest = max(tried, key=lambda one: (round(one.ratio, 2), one.unpack_mb_s))
    match goal:
        case "archive":
            return smallest, "the smallest"
        case "record" if needed_mb_s is not None:
            enough = [one for one in tried if one.pack_mb_s * FREE >= needed_mb_s]
            if not enough:
                fastest = max(tried, key=lambda one: one.pack_mb_s)
                return fastest, f"the fastest; none packs {needed_mb_s:.0f} MB/s in half a core, so use more cores"
            best = max(enough, key=lambda one: (round(one.ratio, 2), one.pack_mb_s))
            return best, f"the smallest that packs the rig's {needed_mb_s:.0f} MB/s in half a core"
        case _:
            near = [one for one in tried if one.ratio >= NEAR * smallest.ratio]
            fastest = max(near, key=lambda one: one.unpack_mb_s)
            return fastest, f"the fastest to unpack within {1 - NEAR:.0%} of the best ratio"


def frame_rate(recording: Recording) -> float:
    """Images a second of a camera, by the median time between them; `FPS` where no time is known."""
    assert recording.frames is not None
    times = recording.frames.read("t_device_ns")
    steps = np.diff(times, axis=0)[(times[1:] > 0) & (times[:-1] > 0)]
    steps = steps[steps > 0]
    return 1e9 / float(np.median(steps)) if len(steps) else FPS


def _packed(codec: Codec, image: NDArray[Any]) -> tuple[bytes, int]:
    body = blosc.compress(
        image, codec.compressor.encode(), codec.level, SHUFFLES[codec.shuffle], BLOCK_BYTES, image.itemsize
    )
    return body, int(google_crc32c.value(body))


def _unpacked(body: bytes, crc: int, out: NDArray[Any]) -> bool:
    if google_crc32c.value(body) != crc:
        return False
    blosc.decompress(body, out)
    return True


def _images(recording: Recording, frames: int) -> list[tuple[Table, str, list[NDArray[Any]]]]:
    """Tables with images, one of their arrays, and rows of all of them as they are packed."""
    rows = np.unique(np.linspace(0, recording.n_frames - 1, min(frames, recording.n_frames)).round().astype(int))
    found: list[tuple[Table, str, list[NDArray[Any]]]] = []
    cameras = [f"depth/{name}" for name in recording.rig.names]
    for table, names in ((recording.frames, cameras), (recording.crops, ["crop"])):
        there = [name for name in names if table is not None and name in table.columns and len(rows)]
        if table is None or not there:
            continue
        some = rows[rows < table.committed]
        # A camera each in turn: its own noise counts, and no more rows are packed than asked for.
        images = [np.ascontiguousarray(table.read_rows(name, some[i :: len(there)])) for i, name in enumerate(there)]
        found.append((table, there[0], [row for part in images for row in part]))
    return [one for one in found if one[2]]

"""Training reads of a closed recording beside what else people keep crops in, in one run on the same crops.

    python benchmarks/reads.py [--recording R.zarr] [--frames 512] [--rounds 25] [--cold 5]

Every round reads the same 64 random crops (192², uint16; all views of a frame together) in each way, in turns. A
warm figure is the median over the rounds, with all files in the page cache: CPU time of the process, which on a
machine that others use too is what one idle core takes, and wall time. In a cold round the kernel was asked to
drop the pages of the way's files, which are opened anew; what the process then really fetched from storage is
printed, since a virtual disk may have a cache of its own. The pool is measured over whole epochs, reading
included. h5py, LMDB and tensorstore come with the extra 'bench'; what is not installed is left out with a line.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["OPENBLAS_NUM_THREADS"] = "1"
os.environ["NUMBA_NUM_THREADS"] = "1"

import cv2
import numpy as np
import zarr
from numcodecs import blosc
from numpy.typing import NDArray

from handloom.stores.camera import Camera
from handloom.stores.crops import take_crop
from handloom.stores.png import read_depth_png, write_depth_png
from handloom.stores.pool import PoolReader, Source
from handloom.stores.reading import load_resident
from handloom.stores.recording import Recording, open_recording

CROPS = 64
BUDGET_MS = {"recording, random rows": 0.05, "recording, pool": 0.05, "resident": 0.01}
Read = Callable[[NDArray[np.int64]], object]


@dataclass(frozen=True, slots=True)
class Way:
    """A form on the disk and how rows are read from it."""

    name: str
    path: Path | None
    """File or folder; None: memory."""
    opened: Callable[[], Read]
    """Makes the reader: for rows (n,), all their crops as uint16."""

    @property
    def files(self) -> list[Path]:
        """All of them."""
        if self.path is None:
            return []
        return [self.path] if self.path.is_file() else [f for f in self.path.rglob("*") if f.is_file()]


def main() -> None:
    """Print one line a figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recording", type=Path, help="a recording with crops; one is synthesised without")
    parser.add_argument("--frames", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--cold", type=int, default=5, help="rounds without the page cache")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = options.recording or synthesised(Path(folder) / "s.zarr", options.frames)
        measure(open_recording(path), Path(folder), options.rounds, options.cold)


def synthesised(path: Path, frames: int) -> Path:
    """Three views of the built-in hand through the structured-light sensor."""
    from handloom.synth.generate import SynthConfig, synthesise

    synthesise(SynthConfig(frames=frames, sensor="structured-light"), path, jobs=1)
    return path


def measure(recording: Recording, folder: Path, rounds: int, cold: int) -> None:
    """Time every way of reading in turns and print the medians."""
    cpu = time.process_time()
    resident = load_resident(recording)
    load_ms = 1e3 * (time.process_time() - cpu) / resident.crop[:, :, 0, 0].size
    count, views, side = resident.crop.shape[:3]
    ways = [*ours(recording, resident.crop), *others(recording, resident.crop, folder)]
    rng = np.random.default_rng(0)
    picked = [rng.choice(count, max(1, CROPS // views), replace=False) for _ in range(rounds + 2)]
    readers = {way.name: way.opened() for way in ways}
    for way in ways:
        same = np.asarray(readers[way.name](picked[0])).reshape(len(picked[0]), views, side, side)
        assert (same == resident.crop[picked[0]]).all(), way.name
    taken: dict[str, list[tuple[float, float]]] = {way.name: [] for way in ways}
    for turn, rows in enumerate(picked):
        for way in ways:
            spent = timed(readers[way.name], rows, views)
            if turn >= 2:
                taken[way.name].append(spent)
    readers.clear()  # pages that something maps are not dropped
    print(f"{count} frames, {views} views, crops of {side} px; ms a crop, medians of {rounds} rounds in turns")
    print(f"{'':<28}{'CPU':>8}{'wall':>8}{'cold CPU':>10}{'cold wall':>11}{'kB on disk':>12}{'kB fetched':>12}")
    for way in ways:
        cpu_ms, wall_ms = np.median(taken[way.name], axis=0)
        line = f"{way.name:<28}{cpu_ms:>8.4f}{wall_ms:>8.4f}"
        if way.path is not None and cold:
            line += cold_line(way, picked[:cold], views, count)
        print(line + goal(way.name, cpu_ms))
    print(pool_lines(recording, views))
    print(f"{'decoding all, once:':<28}{load_ms:.4f} ms CPU")
    print(f"{'cutting a crop of 640x480:':<28}{cutting_ms(rounds):.4f} ms CPU")


def goal(name: str, cpu_ms: float) -> str:
    """What the budget says of it."""
    return f"  (goal {BUDGET_MS[name]:g})" if name in BUDGET_MS else ""


def timed(read: Read, rows: NDArray[np.int64], views: int) -> tuple[float, float]:
    """CPU and wall ms a crop."""
    cpu, wall = time.process_time(), time.perf_counter()
    read(rows)
    n = len(rows) * views / 1e3
    return (time.process_time() - cpu) / n, (time.perf_counter() - wall) / n


def cold_line(way: Way, rounds: Iterable[NDArray[np.int64]], views: int, count: int) -> str:
    """Medians without the page cache, bytes a crop on the disk, and bytes a crop that came from storage."""
    spent, fetched = [], []
    reader: Read | None = None
    for rows in rounds:
        del reader
        for file in way.files:
            drop(file)
        reader = way.opened()
        before = storage_bytes()
        spent.append(timed(reader, rows, views))
        fetched.append((storage_bytes() - before) / len(rows) / views / 1e3)
    cpu_ms, wall_ms = np.median(spent, axis=0)
    size = sum(file.stat().st_size for file in way.files) / count / views / 1e3
    return f"{cpu_ms:>10.4f}{wall_ms:>11.4f}{size:>12.1f}{np.median(fetched):>12.1f}"


def drop(file: Path) -> None:
    """Ask the kernel to forget a file's pages; dirty ones would stay, so they are written first."""
    handle = os.open(file, os.O_RDONLY)
    try:
        os.fsync(handle)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(handle)


def storage_bytes() -> int:
    """What this process has had read from storage so far; 0 where the system does not say."""
    try:
        lines = Path("/proc/self/io").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("read_bytes")), 0)


def ours(recording: Recording, crop: NDArray[np.uint16]) -> list[Way]:
    """Memory, and the recording by our reader and through Zarr."""
    path = recording.path

    def rows_of() -> Read:
        crops = open_recording(path).crops
        assert crops is not None
        return lambda rows: crops.read_rows("crop", rows)

    def through_zarr() -> Read:
        array = zarr.open_group(path / "crops", mode="r")["crop"]
        return lambda rows: [array[int(row)] for row in rows]

    def oindex() -> Read:
        array = zarr.open_group(path / "crops", mode="r")["crop"]
        return lambda rows: array.oindex[np.sort(rows)][np.argsort(np.argsort(rows))]

    stored = path / "crops/crop"
    return [
        Way("resident", None, lambda: lambda rows: crop[rows]),
        Way("recording, random rows", stored, rows_of),
        Way("Zarr, one row at a time", stored, through_zarr),
        Way("Zarr, oindex", stored, oindex),
    ]


def others(recording: Recording, crop: NDArray[np.uint16], folder: Path) -> list[Way]:
    """What else crops are kept in, those of these that are installed; each is written here."""
    count, views = crop.shape[:2]
    pngs, raw = folder / "png", folder / "crops.npy"
    pngs.mkdir()
    for row in range(count):
        for view in range(views):
            write_depth_png(pngs / f"{row}_{view}.png", crop[row, view])
    np.save(raw, crop)

    def each_png(read: Callable[[Path], object]) -> Callable[[], Read]:
        return lambda: lambda rows: [read(pngs / f"{int(r)}_{v}.png") for r in rows for v in range(views)]

    def mapped() -> Read:
        array = np.load(raw, mmap_mode="r")
        return lambda rows: array[rows]

    ways = [
        Way("PNG folder", pngs, each_png(read_depth_png)),
        Way("PNG folder, cv2.imread", pngs, each_png(lambda p: cv2.imread(str(p), cv2.IMREAD_UNCHANGED))),
        Way("raw memmap", raw, mapped),
    ]
    makers = {"h5py": _h5py, "lmdb": _lmdb, "tensorstore": _tensorstore}
    for package, make in makers.items():
        if find_spec(package) is None:
            print(f"{package} is not installed and left out: pip install 'handloom[bench]'")
        else:
            ways += make(recording, crop, folder)
    return ways


def _h5py(_: Recording, crop: NDArray[np.uint16], folder: Path) -> list[Way]:
    import h5py

    ways = []
    for name, how in {"lzf": {"compression": "lzf"}, "gzip-1": {"compression": "gzip", "compression_opts": 1}}.items():
        path = folder / f"{name}.h5"
        with h5py.File(path, "w") as file:
            file.create_dataset("crop", data=crop, chunks=(1, *crop.shape[1:]), shuffle=True, fletcher32=True, **how)

        def opened(path: Path = path) -> Read:
            array = h5py.File(path, "r")["crop"]
            return lambda rows: [array[int(row)] for row in rows]

        ways.append(Way(f"h5py, a row a chunk, {name}", path, opened))
    return ways


def _lmdb(_: Recording, crop: NDArray[np.uint16], folder: Path) -> list[Way]:
    import lmdb

    shape = crop.shape[1:]

    def packed(row: NDArray[np.uint16]) -> bytes:
        return blosc.compress(np.ascontiguousarray(row), b"zstd", 1, blosc.SHUFFLE, 1 << 18, 2)

    def unpacked(data: bytes) -> NDArray[np.uint16]:
        out = np.empty(shape, np.uint16)
        blosc.decompress(data, out)
        return out

    forms = {
        "raw": (lambda row: row.tobytes(), lambda data: np.frombuffer(data, np.uint16).reshape(shape)),
        "zstd-1": (packed, unpacked),
    }
    ways = []
    for name, (write, read) in forms.items():
        path = folder / f"{name}.lmdb"
        with lmdb.open(str(path), map_size=4 * crop.nbytes) as env, env.begin(write=True) as transaction:
            for number, row in enumerate(crop):
                transaction.put(str(number).encode(), write(row))

        def opened(path: Path = path, read: Callable[[bytes], NDArray[np.uint16]] = read) -> Read:
            transaction = _environment(path).begin()
            return lambda rows: [read(transaction.get(str(int(row)).encode())) for row in rows]

        ways.append(Way(f"LMDB, {name}", path, opened))
    return ways


_OPEN: dict[Path, object] = {}


def _environment(path: Path):
    """LMDB refuses to open an environment twice in a process: the one before is closed, and its pages with it."""
    import lmdb

    if path in _OPEN:
        _OPEN.pop(path).close()  # type: ignore[attr-defined]
        for file in path.iterdir():
            drop(file)
    _OPEN[path] = lmdb.open(str(path), readonly=True, lock=False)
    return _OPEN[path]


def _tensorstore(recording: Recording, crop: NDArray[np.uint16], folder: Path) -> list[Way]:
    import tensorstore

    def opened() -> Read:
        context = {"cache_pool": {"total_bytes_limit": 0}, "data_copy_concurrency": {"limit": 1}}
        store = {"driver": "file", "path": str(recording.path / "crops/crop")}
        array = tensorstore.open({"driver": "zarr3", "kvstore": store, "context": context}, read=True).result()
        return lambda rows: array[rows].read().result()

    return [Way("tensorstore, our shards", recording.path / "crops/crop", opened)]


def pool_lines(recording: Recording, views: int) -> str:
    """Whole epochs through a pool of a quarter of the set: reading in the draw, and by a thread beside it."""
    frames = recording.n_frames
    assert recording.crops is not None
    size_mb = frames * np.prod(recording.crops.columns["crop"].shape) * 2 / 1e6
    lines = []
    for threads in (0, 1):
        with PoolReader([Source(recording)], memory_mb=size_mb / 4, seed=0, threads=threads) as reader:
            spent = []
            for _ in range(4):
                cpu, wall = time.process_time(), time.perf_counter()
                for batch in reader.epoch(CROPS // views):
                    assert len(batch)
                n = frames * views / 1e3
                spent.append(((time.process_time() - cpu) / n, (time.perf_counter() - wall) / n))
            cpu_ms, wall_ms = np.median(spent[1:], axis=0)
        name = "recording, pool" + (", read ahead" if threads else "")
        lines.append(f"{name:<28}{cpu_ms:>8.4f}{wall_ms:>8.4f}" + goal(name, cpu_ms))
    return "\n".join(lines)


def cutting_ms(rounds: int) -> float:
    """CPU time of one `take_crop`, median."""
    camera = Camera("camera", 640, 480, (475.0, 475.0, 320.0, 240.0))
    depth = np.random.default_rng(0).integers(400, 900, (480, 640)).astype(np.uint16)
    values = []
    for _ in range(rounds):
        cpu = time.process_time()
        for _ in range(50):
            take_crop(depth, camera.k, [10.0, 5.0, 600.0])
        values.append(1e3 * (time.process_time() - cpu) / 50)
    return float(np.median(values))


if __name__ == "__main__":
    main()

"""What several cameras, tracking, confidence and smoothing are worth on captured frames with truth.

    python benchmarks/tracking.py [--model M.onnx --on R.zarr] [--steps 1200] [--keep DIR]

Without a model and a recording it makes both: 2000 synthetic poses, a quick network trained on them alone, and a
virtual capture (another hand, another sensor, a room; 16 sequences of 30 frames at 30 Hz before three cameras) whose
centres were found without labels. Nothing is chosen on the frames that are measured: the curve of the confidence is
fitted on the recording's `val` frames, everything else is reported on its `test` frames.

fusion      mean joint error of each camera's pose, of the plain mean and the median of all, of the fused pose; also
            with one camera's pose moved 150 mm off, as a crop on the arm would
tracking    the same frames with the hand looked for in every frame, and followed; ms of CPU a frame of three cameras
confidence  Spearman's correlation of confidence and error, and how often a pose of that confidence was within 20 mm
smoothing   error and trembling (mean length of the second difference) of the tracked joints, with and without
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

JOB = tuple[Any, Any, np.ndarray]


def make(folder: Path, steps: int) -> tuple[Path, Path]:
    """A model and a capture to try it on."""
    import torch
    from click.testing import CliRunner

    from handloom.capture.locating import locate
    from handloom.capture.record import record
    from handloom.capture.virtual import VirtualConfig, VirtualRig
    from handloom.cli import main

    torch.set_num_threads(2)
    synth, capture, run, model = (folder / name for name in ("S.zarr", "R.zarr", "run", "m.onnx"))
    config = VirtualConfig(frames=480, sequence_frames=30, seed=11, subjects=2, val_share=0.25, test_share=0.5)
    with VirtualRig(config) as source:
        record(source, capture, keep_truth=True)
    locate(capture)
    train = (
        "train",
        "murauer",
        "--arm",
        "synthetic-only",
        "--synth",
        synth,
        "--run",
        run,
        "-o",
        f"pretrain_steps={steps}",
    )
    for command in (("synth", "run", "--out", synth, "--frames", "2000"), train, ("export", run, "--out", model)):
        done = CliRunner().invoke(main, [str(word) for word in command])
        if done.exit_code:
            raise SystemExit(done.output)
    return model, capture


def rows_of(recording: Any, split: str) -> list[int]:
    """Rows of a split: 'val' or 'test'."""
    return np.flatnonzero(recording.frames.read("split") == {"val": 1, "test": 2}[split]).tolist()


def error(joints: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Mean joint error, mm, of poses (..., J, 3)."""
    return np.linalg.norm(joints - truth, axis=-1).mean(axis=-1)


def fusion(model: Any, recording: Any, rows: Sequence[int]) -> None:
    """The table of one pose against several."""
    from handloom.learn.fusion import fuse
    from handloom.learn.inputs import recording_views, usable
    from handloom.learn.predict import estimates

    truth = recording.labels.read("joints")
    poses, trust, true = [], [], []
    for row in rows:
        shown = [v for _, v in recording_views(recording, row, row + 1)]
        if len(shown) < len(recording.rig) or not all(v.center_mm is not None and usable(v.center_mm) for v in shown):
            continue
        read = estimates(model, shown, np.array([v.center_mm for v in shown]), mirrored=False)
        poses.append([v.camera.to_rig(j) for v, j in zip(shown, read.joints_mm, strict=True)])
        trust.append(model.confidence.view(read.spread_mm))
        true.append(truth[row])
    views, trust, true = np.array(poses), np.array(trust), np.array(true)
    each = error(views, true[:, None])
    cameras = each.mean(axis=0)
    print(f"\nfusion, {len(views)} frames of {views.shape[1]} cameras, mean joint error (mm)")
    print(f"  cameras one by one            {', '.join(f'{c:.2f}' for c in cameras)}; mean {each.mean():.2f}")
    moved = views.copy()
    moved[:, 0] += [0.0, 150.0, 0.0]
    for name, given in (("as they are", views), ("first camera 150 mm off", moved)):
        fused = np.array([fuse(v, t).joints_mm for v, t in zip(given, trust, strict=True)])
        plain = error(given.mean(axis=1), true).mean()
        median = error(np.median(given, axis=1), true).mean()
        print(f"  {name:<24}      plain mean {plain:.2f}, median {median:.2f}, fused {error(fused, true).mean():.2f}")


def tracking(model: Any, recording: Any, rows: Sequence[int]) -> None:
    """Followed against looked for, and smoothed."""
    from handloom.learn.inputs import recording_views, with_centers
    from handloom.learn.smoothing import OneEuro
    from handloom.learn.tracking import Tracker

    truth, sequence = recording.labels.read("joints"), recording.frames.read("sequence")
    names = {"stored": "centres stored (not live)", "looked for": "looked for in each frame", "tracked": "tracked"}
    found: dict[str, list[float]] = {name: [] for name in (*names, "smoothed")}
    spent = dict.fromkeys(names, 0.0)
    trembling: dict[str, list[float]] = {"tracked": [], "smoothed": [], "truth": []}
    past: dict[str, list[np.ndarray]] = {}
    tracker, smooth, followed = Tracker(model, recording.rig), OneEuro(), 0
    for i, row in enumerate(rows):
        if i == 0 or sequence[row] != sequence[rows[i - 1]]:
            tracker.forget()
            smooth.reset()
            past = {name: [] for name in trembling}
        bare = [v for _, v in recording_views(recording, row, row + 1, locate=False)]
        stored = [v for _, v in recording_views(recording, row, row + 1)]
        t_ns = min(v.t_ns for v in bare)
        poses = {}
        start = time.process_time()
        poses["stored"] = read(model, stored)
        spent["stored"] += time.process_time() - start
        start = time.process_time()
        poses["looked for"] = read(model, with_centers(bare))
        spent["looked for"] += time.process_time() - start
        start = time.process_time()
        poses["tracked"] = pose = tracker.follow(bare, t_ns)
        spent["tracked"] += time.process_time() - start
        for name, one in poses.items():
            if one is not None:
                found[name].append(float(error(one.joints_mm, truth[row])))
        if pose is None:
            continue
        followed += pose.source == "tracked"
        smoothed = smooth(pose.joints_mm, t_ns)
        found["smoothed"].append(float(error(smoothed, truth[row])))
        for name, joints in (("tracked", pose.joints_mm), ("smoothed", smoothed), ("truth", truth[row])):
            past[name] = [*past[name][-2:], joints]
            if len(past[name]) == 3:
                a, b, c = past[name]
                trembling[name].append(float(np.linalg.norm(a - 2 * b + c, axis=-1).mean()))
    print(f"\ntracking, {len(rows)} frames of {len(recording.rig)} cameras")
    print(f"  {'':<26} mean error   no hand   ms of CPU a frame")
    for name, words in names.items():
        ms, none = 1e3 * spent[name] / len(rows), len(rows) - len(found[name])
        print(f"  {words:<26} {np.mean(found[name]):>8.2f}   {none:>7}   {ms:>8.1f}")
    print(f"  {100 * followed / len(rows):.1f} % of the frames tracked, the rest found anew or missed")
    print("\nsmoothing (One-Euro), fused joints of the tracked frames")
    for name in ("tracked", "smoothed"):
        print(f"  {name:<10} mean error {np.mean(found[name]):.2f} mm, trembling {np.mean(trembling[name]):.2f} mm")
    print(f"  {'truth':<10} {'':<20} trembling {np.mean(trembling['truth']):.2f} mm")


def read(model: Any, views: Sequence[Any]) -> Any:
    """The fused pose of images whose hand is known, None where it is not."""
    from handloom.learn.predict import estimates
    from handloom.learn.rig_pose import rig_pose

    views = [v for v in views if v.center_mm is not None]
    if not views:
        return None
    centers = np.array([v.center_mm for v in views])
    return rig_pose(model, views, estimates(model, views, centers, mirrored=False))


def confidence(model: Any, recording: Any, val: Sequence[int], test: Sequence[int]) -> None:
    """How much it knows of the error, on frames that it was not fitted to."""
    from handloom.learn import confidence as c

    fitted = c.calibrate(model, recording, val)
    measured = c._measured(model, recording, test)
    print(
        f"\nconfidence = P(mean joint error < 20 mm), fitted on {fitted.frames} val frames, on {len(measured)} of test"
    )
    views = np.concatenate([np.stack([s, c._errors(rig, truth)], axis=1) for rig, s, truth in measured])
    fused = np.array([c._fused(fitted.view, *frame) for frame in measured])
    for name, curve, found in (("one camera", fitted.view, views), ("fused", fitted.fused, fused)):
        p, within = curve(found[:, 0]), found[:, 1] < c.WITHIN_MM
        rank = c.rank_correlation(-p, found[:, 1])
        order = np.argsort(p)
        bins = ", ".join(f"{p[part].mean():.2f}/{within[part].mean():.2f}" for part in np.array_split(order, 4))
        print(f"  {name:<10} rank correlation of doubt and error {rank:.2f}; said/true by quarters {bins}")
        kept = order[len(order) // 2 :]
        print(f"  {'':<10} mean error {found[:, 1].mean():.2f} mm, of the surer half {found[kept, 1].mean():.2f}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--on", type=Path, help="labelled recording with val and test frames")
    parser.add_argument("--steps", type=int, default=1200, help="of training, without --model")
    parser.add_argument("--frames", type=int, help="test frames at most")
    parser.add_argument("--keep", type=Path, help="keep what is made here")
    options = parser.parse_args()
    from handloom.learn.predict import load
    from handloom.stores.recording import open_recording

    with tempfile.TemporaryDirectory() as folder:
        model_path, capture = options.model, options.on
        if not (model_path and capture):
            start = time.time()
            place = options.keep or Path(folder)
            place.mkdir(parents=True, exist_ok=True)
            model_path, capture = make(place, options.steps)
            print(f"made a model and a capture in {time.time() - start:.0f} s")
        model, recording = load(model_path), open_recording(capture)
        test = rows_of(recording, "test")[: options.frames]
        print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
        fusion(model, recording, test)
        tracking(model, recording, test)
        confidence(model, recording, rows_of(recording, "val"), test)


if __name__ == "__main__":
    main()

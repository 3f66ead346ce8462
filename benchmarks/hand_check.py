"""How well depth -> pose -> depth tells hands from what is none: AUC of the reconstruction distance.

    python benchmarks/hand_check.py RUN --on R.zarr [--split val] [--images 300] [--subject N]

RUN is one of Crossing Nets with a generator, R.zarr a labelled recording with full frames whose frames it was not
trained on (a virtual capture: its truth says where no hand is). Around every hand that was found four things are cut
that a hand finder may take for one: the scene at another place, the forearm behind the wrist, nothing at all, and the
hand's own pixels in another order. A centre that lies 40 mm or more beside the palm is no hand's: `missed`. Flagged is
what lies above the threshold that the run keeps.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

MISSED_MM = 40.0
"""So far beside the palm a stored centre is a mistake of the hand finder."""
FAR_MM = 250.0
"""A place of the scene is at least so far from the palm."""
ARM_MM = 200.0
"""The middle of a forearm's crop lies so far behind the palm."""


def crops_of(model, recording, split: str, images: int, subject: int | None, seed: int) -> dict[str, np.ndarray]:  # type: ignore[no-untyped-def]
    """Crops (n, P, P) by what they show, from the same images."""
    from handloom.learn.inputs import cut, recording_views
    from handloom.learn.predictions import rows_of
    from handloom.stores.joints import converted

    rng = np.random.default_rng(seed)
    rows = rows_of(recording, split, None)
    if subject is not None:
        rows = rows[recording.frames.read("subject")[rows] == subject]
    count = min(len(rows), -(-images // recording.n_views))
    rows = rows[np.linspace(0, len(rows) - 1, count).round().astype(int)]
    joints = converted(recording.labels.read("joints"), recording.layout, model.layout)
    points = model.layout.points
    palm, wrist = model.layout.palm, points.index("wrist")
    size = {"input_px": model.input_px, "cube_mm": model.cube_mm}
    names = ("hand", "missed", "scene", "forearm", "empty", "shuffled")
    made: dict[str, list[np.ndarray]] = {name: [] for name in names}
    for row in rows.tolist():
        for _, view in recording_views(recording, row, row + 1):
            if view.center_mm is None:
                continue
            hand = cut(view, view.center_mm, **size)
            there = view.camera.to_camera(joints[row])
            if np.linalg.norm(view.center_mm - there[palm]) >= MISSED_MM:
                made["missed"].append(hand)
                continue
            made["hand"].append(hand)
            made["empty"].append(np.ones_like(hand))
            made["shuffled"].append(rng.permutation(hand.reshape(-1)).reshape(hand.shape))
            away = there[wrist] - there[palm]
            made["forearm"].append(cut(view, there[palm] + away * (ARM_MM / np.linalg.norm(away)), **size))
            v, u = np.nonzero(view.depth)
            z = view.depth[v, u] * view.unit_mm
            places = np.stack([(u - view.k[2]) / view.k[0] * z, (v - view.k[3]) / view.k[1] * z, z], axis=1)
            far = places[np.linalg.norm(places - there[palm], axis=1) > FAR_MM]
            if len(far):
                made["scene"].append(cut(view, far[rng.integers(len(far))], **size))
    return {name: np.stack(found) for name, found in made.items() if found}


def auc(hand: np.ndarray, other: np.ndarray) -> float:
    """The chance that another crop's distance is larger than a hand's; ties count half."""
    order = np.concatenate([hand, other])
    ranks = np.unique(order, return_inverse=True, return_counts=True)
    middle = np.cumsum(ranks[2]) - (ranks[2] - 1) / 2
    above = middle[ranks[1]][len(hand) :].sum() - len(other) * (len(other) + 1) / 2
    return float(above / (len(hand) * len(other)))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--on", type=Path, required=True)
    parser.add_argument("--split", default="val", choices=["train", "val", "test", "all"])
    parser.add_argument("--subject", type=int)
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    import torch

    from handloom.learn.crossing_check import LIMIT, MEASURE, as_input, distances
    from handloom.learn.model import load_model
    from handloom.stores.recording import open_recording

    torch.set_num_threads(1)
    model, recording = load_model(options.run), open_recording(options.on)
    kept = model.description.get("hand_check") or {}
    kept = kept if kept.get("measure") == MEASURE else None  # of an earlier version: no threshold
    crops = crops_of(model, recording, options.split, options.images, options.subject, options.seed)
    found = {
        name: distances(model.nets, as_input(model, torch.from_numpy(images[:, None]))).numpy()
        for name, images in crops.items()
    }
    threshold = float(kept["quantiles"][LIMIT]) if kept else float("nan")
    print(f"{options.run}, {options.split} frames of {options.on}; threshold {threshold:.3f}")
    print(f"{'crops of':<10}{'images':>8}{'median':>9}{'AUC':>8}{'flagged':>10}")
    for name, values in found.items():
        area = "" if name == "hand" else f"{auc(found['hand'], values):.3f}"
        flagged = f"{100 * (values > threshold).mean():.1f} %" if kept else "-"
        print(f"{name:<10}{len(values):>8}{np.median(values):>9.3f}{area:>8}{flagged:>10}")


if __name__ == "__main__":
    main()

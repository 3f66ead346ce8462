"""How well the hand is found without labels: virtual sessions with torso, wall, desk and arms from any side.

    python benchmarks/locating.py [--full] [--seed 7000] [--jobs 2]

Every set of every session counts, seen by three, two and one of the cameras; hands are followed over time as
`capture locate` does it. Printed: the share within 30 mm of the true palm, of all and of those with a score above
0.5, with the share that this leaves out; median and 95th percentile; the worst of all tracks; how far scores are
from shares (expected calibration error); CPU time of a set on one core. The seed is not one that anything was
developed on: those are 100 to 131.
"""

from __future__ import annotations

import argparse
import os
import time

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["OPENBLAS_NUM_THREADS"] = "1"
os.environ["NUMBA_NUM_THREADS"] = "1"

from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from multiprocessing import get_context

import numpy as np
from arm_sessions import Film, Session, film, sessions
from numpy.typing import NDArray

from handloom.capture.locating import BACKGROUND_SAMPLES
from handloom.stores.camera import Rig
from handloom.stores.locate import background_of, follow, hand_candidates

VIEWS = ((0, 1, 2), (0, 1), (0,))
SURE = 0.5


@dataclass(frozen=True, slots=True)
class Result:
    """Of one session seen by some of its cameras, or of several."""

    error_mm: NDArray[np.float64]
    """(T,), infinite where nothing was found."""
    score: NDArray[np.float64]
    track: NDArray[np.int64]
    ms: float
    """CPU time of a set."""


def found_in(shown: Film, views: tuple[int, ...]) -> Result:
    """Look for the hand as `capture locate` does."""
    rig = Rig(tuple(shown.rig.cameras[v] for v in views))
    count = len(shown.palm_mm)
    rows = np.unique(np.linspace(0, count - 1, min(BACKGROUND_SAMPLES, count)).astype(int))
    unit = [np.float32(camera.depth_unit_mm) for camera in rig.cameras]
    behind = [background_of(shown.depth[v][rows]) * u for v, u in zip(views, unit, strict=True)]
    start = time.process_time()
    candidates = [
        hand_candidates([shown.depth[v][k] * u for v, u in zip(views, unit, strict=True)], rig, background_mm=behind)
        for k in range(count)
    ]
    edges = [0, *(np.flatnonzero(np.diff(shown.sequence)) + 1), count]
    found = [one for low, high in pairwise(edges) for one in follow(candidates[low:high])]
    spent = 1e3 * (time.process_time() - start) / count
    error = [
        np.inf if one is None else float(np.linalg.norm(one.palm_mm - palm))
        for one, palm in zip(found, shown.palm_mm, strict=True)
    ]
    score = [0.0 if one is None else one.score for one in found]
    return Result(np.array(error), np.array(score), shown.sequence + 1000 * shown.session.seed, spent)


def measured(session: Session) -> list[Result]:
    """By each of `VIEWS`."""
    shown = film(session)
    # The first call compiles nothing but warms caches.
    return [found_in(shown, views) for views in VIEWS]


def joined(results: list[Result]) -> Result:
    """All sets of all sessions."""
    parts = [np.concatenate([getattr(r, name) for r in results]) for name in ("error_mm", "score", "track")]
    return Result(parts[0], parts[1], parts[2], float(np.mean([r.ms for r in results])))


def line(name: str, result: Result) -> str:
    """One row of the table."""
    good = result.error_mm < 30
    sure = result.score > SURE
    worst = min(good[result.track == t].mean() for t in np.unique(result.track))
    return (
        f"{name:<52} {good.mean():6.1%}  {good[sure].mean() if sure.any() else 0:6.1%} ({1 - sure.mean():5.1%})  "
        f"{np.median(result.error_mm):5.1f} {np.percentile(np.minimum(result.error_mm, 9999), 95):7.1f}  "
        f"{worst:5.0%}  {calibration_error(result):.3f}  {result.ms:5.1f}"
    )


def calibration_error(result: Result) -> float:
    """Mean distance of score and share in ten bins, weighted by how many fall into each (Naeini et al. 2015)."""
    good = result.error_mm < 30
    bins = np.minimum((result.score * 10).astype(int), 9)
    parts = [(bins == b) for b in range(10) if (bins == b).any()]
    return float(sum(abs(result.score[p].mean() - good[p].mean()) * p.mean() for p in parts))


def reliability(result: Result) -> list[str]:
    """Score against share within 30 mm."""
    good = result.error_mm < 30
    bins = np.minimum((result.score * 5).astype(int), 4)
    return [
        f"  score {b / 5:.1f} to {(b + 1) / 5:.1f}: {good[bins == b].mean():6.1%} within 30 mm, "
        f"{np.mean(bins == b):6.1%} of sets"
        for b in range(5)
        if (bins == b).any()
    ]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="three times as many sessions")
    parser.add_argument("--seed", type=int, default=7000)
    parser.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_args()
    what = sessions(arguments.seed, 36 if arguments.full else 12)
    with ProcessPoolExecutor(arguments.jobs, mp_context=get_context("spawn")) as pool:
        results = list(pool.map(measured, what))
    head = f"{'session':<52} {'<30 mm':>6}  {'sure':>6} (  out)  {'med':>5} {'p95':>7}  worst  calib  ms/set"
    for number, views in enumerate(VIEWS):
        print(f"{len(views)} {'view' if len(views) == 1 else 'views'}\n{head}")
        for session, result in zip(what, results, strict=True):
            print(line(session.name, result[number]))
        together = joined([result[number] for result in results])
        print(line("all", together))
        print("\n".join(reliability(together)))


if __name__ == "__main__":
    main()

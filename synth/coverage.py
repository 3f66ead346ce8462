"""From which sides the cameras of a recording see the hand, and whether all sides are seen alike often.

The direction from palm to camera in the hand's own axes (y to the fingers, z to the back of the hand) is a
point on a sphere. The sphere is cut into cells of one area, bands of equal height (Archimedes) times equal
longitudes, and the cells are counted:

    χ² = Σ_cells (count − expected)² / expected.

The cameras of a frame look along directions that hang together, and so do the frames of a motion; χ² has its
usual distribution only for independent ones. The expected value and p are therefore simulated: were all views
alike likely, turning every sequence (a frame on its own is one) by a random rotation would change nothing.

Cost: about 0.2 ms a row, once.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..stores.errors import HandloomError
from ..stores.recording import Recording
from .anatomy import builtin_hand
from .fit import fit_pose
from .hand import mirror
from .points import known
from .rotation import quaternion_matrix, rotation_matrix

F64 = NDArray[np.float64]

BANDS: Final = 8
SECTORS: Final = 16
"""Cells: bands of latitude of equal area, from the wrist's side to the fingers', times sectors of longitude."""
ROUNDS: Final = 299
"""Simulated recordings; no p below 1/300 can be told."""
FLAGGED_P: Final = 0.01
_STREAM: Final = 0xC0FE


@dataclass(frozen=True, slots=True)
class Coverage:
    """Views of a hand counted by side."""

    counts: NDArray[np.int64]
    """(BANDS, SECTORS) views in each cell: bands of y from −1 (wrist) to 1 (fingers), sectors of longitude from
    −180° (the hand's back) over −90° (thumb) and 0° (palm) to 180°."""
    chi2: float
    expected_chi2: float
    """Mean of χ² over simulated recordings without preference for any side."""
    p_value: float
    """Share of those whose χ² is as large or larger."""
    sequences: int
    """Independent pieces: frames on their own, or motions."""

    @property
    def views(self) -> int:
        """Images counted."""
        return int(self.counts.sum())

    @property
    def unseen(self) -> float:
        """Share of the sphere from which the hand is never seen."""
        return float((self.counts == 0).mean())

    @property
    def even(self) -> bool:
        """Whether chance explains the differences between the sides."""
        return self.p_value > FLAGGED_P

    @property
    def p_text(self) -> str:
        """`p = 0.16`, or `p ≤ 0.0033` where no simulated recording was as uneven."""
        return f"p {'≤' if self.p_value * (1 + ROUNDS) < 1.5 else '='} {self.p_value:.2g}"

    def summary(self) -> str:
        """One line for people."""
        verdict = "alike often from all sides" if self.even else "more often from some sides than chance explains"
        return (
            f"seen {verdict}: {self.views} views of {self.sequences} independent pieces, "
            f"χ² {self.chi2:.0f} (uniform: {self.expected_chi2:.0f}, {self.p_text}), "
            f"{100 * self.unseen:.0f} % of the sphere unseen"
        )


def coverage(recording: Recording) -> Coverage:
    """Count from where the cameras of a labelled recording see its hand.

    Rows without labels and images in which the hand was not found (`center_source` none) are left out.

    Raises:
        HandloomError: nothing is labelled.
    """
    directions, row = view_directions(recording)
    sequence = np.arange(recording.n_frames) if recording.frames is None else recording.frames.read("sequence")
    return count_directions(directions, sequence[row])


def count_directions(directions: NDArray[Any], piece: NDArray[Any], *, seed: int = 0) -> Coverage:
    """Counts of directions (n, 3) from palm to camera, in the hand's axes.

    Args:
        directions: unit vectors.
        piece: (n,) which independent piece each belongs to.
        seed: of the simulated recordings.
    """
    _, piece = np.unique(piece, return_inverse=True)
    pieces = int(piece.max()) + 1
    counts = _counted(directions)
    # A stream of its own: the recording's rotations drawn again would undo them.
    rng = np.random.default_rng((seed, _STREAM))
    simulated = np.empty(ROUNDS)
    for i in range(ROUNDS):
        turn = quaternion_matrix(rng.normal(size=(pieces, 4)))[piece]
        simulated[i] = _chi2(_counted((turn @ directions[..., None])[..., 0]))
    found = _chi2(counts)
    # The recording itself is one of the equally likely ones.
    p = (1 + int((simulated >= found).sum())) / (1 + ROUNDS)
    return Coverage(counts, found, float(simulated.mean()), p, pieces)


def view_directions(recording: Recording) -> tuple[F64, NDArray[np.intp]]:
    """Directions (n, 3) from palm to camera in the hand's axes, thumb to −x on either hand, and their rows (n,).

    Raises:
        HandloomError: nothing is labelled.
    """
    labels, layout = recording.labels, recording.layout
    if labels is None or layout is None:
        raise HandloomError("The recording has no labels", where=str(recording.path), why="views are told from them")
    joints = labels.read("joints").astype(np.float64)
    usable = known(joints).sum(axis=1) >= 3
    usable &= known(joints[:, layout.palm])
    if not usable.any():
        raise HandloomError("No frame of the recording is labelled", where=str(recording.path))
    rows = np.flatnonzero(usable)
    joints = joints[rows]
    if "root" in labels.columns:
        root = labels.read("root")[rows].astype(np.float64)
    else:
        hand = builtin_hand() if recording.hand == "right" else mirror(builtin_hand())
        root = fit_pose(hand, joints, layout).root
    eyes = np.stack([camera.to_rig(np.zeros(3)) for camera in recording.rig.cameras])
    look = eyes - joints[:, layout.palm, None]
    look /= np.linalg.norm(look, axis=-1, keepdims=True)
    directions = look @ rotation_matrix(root[:, :3])
    if recording.hand == "left":
        directions[..., 0] *= -1
    seen = np.ones(directions.shape[:2], np.bool_)
    if recording.crops is not None and recording.crops.committed > rows.max():
        seen = recording.crops.read("center_source")[rows] > 0
    frame, view = np.nonzero(seen)
    return directions[frame, view], rows[frame]


def longitude_deg(directions: NDArray[Any]) -> F64:
    """(...,) about the hand's y: 0 the palm, −90 the thumb's side, ±180 the back, of directions (..., 3)."""
    out: F64 = np.degrees(np.arctan2(directions[..., 0], -directions[..., 2]))
    return out


def _counted(directions: F64) -> NDArray[np.int64]:
    band = np.clip(((directions[..., 1] + 1) * (BANDS / 2)).astype(int), 0, BANDS - 1)
    sector = ((longitude_deg(directions) + 180) * (SECTORS / 360)).astype(int) % SECTORS
    return np.bincount(band * SECTORS + sector, minlength=BANDS * SECTORS).reshape(BANDS, SECTORS)


def _chi2(counts: NDArray[np.int64]) -> float:
    expected = counts.sum() / counts.size
    return float(((counts - expected) ** 2).sum() / expected)


def draw_coverage(cover: Coverage) -> bytes:
    """PNG of the counts on an equal-area map (Mollweide) of the sphere about the hand."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    expected = cover.views / cover.counts.size
    figure = Figure(figsize=(7.6, 4.6), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(projection="mollweide")
    edges = np.radians(np.linspace(-180, 180, SECTORS + 1)), np.arcsin(np.linspace(-1, 1, BANDS + 1))
    # Cells get finer, so that their edges follow the map's curves.
    fine = [np.unique(np.concatenate([np.linspace(a, b, 9) for a, b in pairwise(e)])) for e in edges]
    shade = np.kron(cover.counts / expected, np.ones((8, 8)))
    mesh = axes.pcolormesh(*fine, shade, cmap="viridis", vmin=0, vmax=2, rasterized=True)
    axes.grid(visible=False)
    axes.set_xticks([])
    axes.set_yticks([])
    sides = {"palm": (0, 0), "thumb's side": (-90, 0), "little finger's side": (90, 0), "fingertips": (0, 76)}
    sides |= {"arm": (0, -78), "back": (-164, 0), "back ": (164, 0)}
    for text, (longitude, latitude) in sides.items():
        axes.text(
            np.radians(longitude), np.radians(latitude), text.strip(), ha="center", va="center", fontsize=9,
            color="#111", bbox={"boxstyle": "round,pad=0.2", "fc": "#ffffffb0", "ec": "none"},
        )  # fmt: skip
    bar = figure.colorbar(mesh, ax=axes, orientation="horizontal", shrink=0.6, pad=0.03, extend="max")
    bar.set_label("views, 1 = as many as if all sides were alike likely", fontsize=9)
    axes.set_title(
        f"Where the cameras stand about the hand: {cover.views} views\n"
        f"χ² {cover.chi2:.0f}, uniform {cover.expected_chi2:.0f}, {cover.p_text}",
        fontsize=10,
    )
    out = io.BytesIO()
    figure.savefig(out, format="png")
    return out.getvalue()

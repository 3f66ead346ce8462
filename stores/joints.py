r"""The 26 canonical joints (OpenXR's) and the layouts in which others keep a hand's points.

                    15     20
              10     |      |    25        palm 0   wrist 1
               |    14     19     |        thumb    2  3  4  5
               9     |      |    24        index    6  7  8  9 10
         5     |    13     18     |        middle  11 12 13 14 15
          \    8     |      |    23        ring    16 17 18 19 20
           4   |    12     17     |        little  21 22 23 24 25
            \  7     \     /     22
             3  \     | 0 |      /         metacarpal, proximal, (intermediate,) distal, tip:
              \  6   11  16    21          each the proximal end of its bone
               2   \  |  |  /
                 \    1   /

Every other layout says which blend of canonical joints comes nearest to each of its points. The blend is an
approximation (NYU's points are centres of spheres, say): an inverse-kinematics fit adds an offset a point.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from .errors import HandloomError

FINGERS: Final = ("thumb", "index", "middle", "ring", "little")
FINGER_COLORS: Final[Mapping[str, str]] = {
    "thumb": "#d55e00",
    "index": "#e69f00",
    "middle": "#009e73",
    "ring": "#56b4e9",
    "little": "#cc79a7",
    "": "#b0b7bf",
}
"""One colour a finger wherever a skeleton is drawn, told apart by all eyes (Okabe and Ito, "Color Universal Design",
2008); wrist and palm share the last."""


def _openxr_names() -> tuple[str, ...]:
    names = ["palm", "wrist"]
    for finger in FINGERS:
        bones = ["metacarpal", "proximal", "intermediate", "distal", "tip"]
        names += [f"{finger}_{bone}" for bone in bones if not (finger == "thumb" and bone == "intermediate")]
    return tuple(names)


@dataclass(frozen=True, slots=True)
class Layout:
    """The points one dataset or library keeps of a hand, in its order."""

    name: str
    points: tuple[str, ...]
    palm: int
    """The point that serves as the hand's centre."""
    blend: tuple[tuple[tuple[str, float], ...], ...]
    """For each point the canonical joints and weights (sum 1) that come nearest to it."""
    edges: tuple[tuple[int, int], ...]
    """Pairs of points to draw as bones."""

    def __len__(self) -> int:
        return len(self.points)

    def matrix(self) -> NDArray[np.float64]:
        """(J, 26) float64: `matrix() @ joints26` are this layout's points."""
        rows = np.zeros((len(self), len(OPENXR26)))
        for row, terms in zip(rows, self.blend, strict=True):
            for joint, weight in terms:
                row[OPENXR26.index(joint)] = weight
        return rows

    def index(self, point: str) -> int:
        """The row of a named point.

        Raises:
            HandloomError: the layout has no point of that name.
        """
        if point not in self.points:
            raise HandloomError(f"Unknown joint '{point}'", why=f"{self.name} has: {', '.join(self.points)}")
        return self.points.index(point)


OPENXR26: Final = _openxr_names()
PARENTS: Final[tuple[int, ...]] = tuple(
    -1 if name == "wrist" else 1 if name == "palm" or name.endswith("_metacarpal") else i - 1
    for i, name in enumerate(OPENXR26)
)
"""For each canonical joint the joint it hangs on; the wrist is the root."""


def _chain(*groups: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    return tuple((a, b) for group in groups for a, b in itertools.pairwise(group))


def _fingers(finger: str) -> tuple[str, str, str, str]:
    """MCP, PIP, DIP, tip (for the thumb CMC, MCP, IP, tip) in canonical names."""
    if finger == "thumb":
        return ("thumb_metacarpal", "thumb_proximal", "thumb_distal", "thumb_tip")
    return (f"{finger}_proximal", f"{finger}_intermediate", f"{finger}_distal", f"{finger}_tip")


def _exact(points: tuple[tuple[str, str], ...]) -> tuple[tuple[tuple[str, float], ...], ...]:
    return tuple(((joint, 1.0),) for _, joint in points)


def _openxr() -> Layout:
    edges = tuple((p, i) for i, p in enumerate(PARENTS) if p >= 0)
    return Layout("openxr26", OPENXR26, 0, tuple(((n, 1.0),) for n in OPENXR26), edges)


def _mediapipe() -> Layout:
    bones = {"thumb": ("cmc", "mcp", "ip", "tip")}
    points = [("wrist", "wrist")]
    for finger in FINGERS:
        names = bones.get(finger, ("mcp", "pip", "dip", "tip"))
        points += [(f"{finger}_{n}", j) for n, j in zip(names, _fingers(finger), strict=True)]
    edges = _chain(*((0, *range(1 + 4 * f, 5 + 4 * f)) for f in range(5)), (5, 9, 13, 17))
    return Layout("mediapipe21", tuple(n for n, _ in points), 9, _exact(tuple(points)), edges)


def _mano() -> Layout:
    order = ("index", "middle", "little", "ring", "thumb")
    points = [("wrist", "wrist")]
    for finger in order:
        points += [(f"{finger}{i + 1}", j) for i, j in enumerate(_fingers(finger)[:3])]
    points += [(f"{finger}_tip", f"{finger}_tip") for finger in ("thumb", "index", "middle", "ring", "little")]
    tips = {"thumb": 16, "index": 17, "middle": 18, "ring": 19, "little": 20}
    edges = _chain(*((0, 1 + 3 * i, 2 + 3 * i, 3 + 3 * i, tips[f]) for i, f in enumerate(order)))
    return Layout("mano21", tuple(n for n, _ in points), 4, _exact(tuple(points)), edges)


def _msra() -> Layout:
    order = ("index", "middle", "ring", "little", "thumb")
    points = [("wrist", "wrist")]
    for finger in order:
        points += [(f"{finger}_{n}", j) for n, j in zip(("mcp", "pip", "dip", "tip"), _fingers(finger), strict=True)]
    edges = _chain(*((0, *range(1 + 4 * i, 5 + 4 * i)) for i in range(5)))
    return Layout("msra21", tuple(n for n, _ in points), 5, _exact(tuple(points)), edges)


def _bighand() -> Layout:
    # The five knuckles first, then finger by finger; the thumb's "MCP" is its joint at the wrist's side (CMC).
    points = [("wrist", "wrist")]
    points += [(f"{finger}_mcp", _fingers(finger)[0]) for finger in FINGERS]
    for finger in FINGERS:
        points += [(f"{finger}_{n}", j) for n, j in zip(("pip", "dip", "tip"), _fingers(finger)[1:], strict=True)]
    edges = _chain(*((0, 1 + f, *range(6 + 3 * f, 9 + 3 * f)) for f in range(5)))
    return Layout("bighand21", tuple(n for n, _ in points), 3, _exact(tuple(points)), edges)


def _icvl() -> Layout:
    points = [("palm", "palm")]
    for finger in FINGERS:
        joints = _fingers(finger)
        points += [
            (f"{finger}_{n}", j) for n, j in zip(("root", "mid", "tip"), (joints[0], joints[1], joints[3]), strict=True)
        ]
    edges = _chain(*((0, 1 + 3 * i, 2 + 3 * i, 3 + 3 * i) for i in range(5)))
    return Layout("icvl16", tuple(n for n, _ in points), 0, _exact(tuple(points)), edges)


NYU14_OF_36: Final = (0, 3, 6, 9, 12, 15, 18, 21, 24, 25, 27, 30, 31, 32)
"""The points of NYU's 36 on which methods are compared."""


def _nyu36() -> Layout:
    def one(joint: str) -> tuple[tuple[str, float], ...]:
        return ((joint, 1.0),)

    def half(a: str, b: str) -> tuple[tuple[str, float], ...]:
        return ((a, 0.5), (b, 0.5))

    names: list[str] = []
    blend: list[tuple[tuple[str, float], ...]] = []
    for finger in ("little", "ring", "middle", "index"):
        mcp, pip, dip, tip = _fingers(finger)
        names += [f"{finger}_{i}" for i in range(6)]
        blend += [one(tip), half(tip, dip), one(dip), one(pip), half(pip, mcp), one(mcp)]
    cmc, mcp, ip, tip = _fingers("thumb")
    names += [f"thumb_{i}" for i in range(6)]
    blend += [one(tip), one(ip), half(ip, mcp), one(mcp), half(mcp, cmc), one(cmc)]
    # 30 and 31 flank the wrist, 32 is the palm's centre, 33 to 35 lie between palm and wrist.
    side = {
        "wrist_outer": (("wrist", 0.8), ("little_metacarpal", 0.2)),
        "wrist_inner": (("wrist", 0.8), ("thumb_metacarpal", 0.2)),
        "palm": (("palm", 1.0),),
        "palm_outer": (("palm", 0.5), ("little_metacarpal", 0.5)),
        "palm_inner": (("palm", 0.5), ("index_metacarpal", 0.5)),
        "wrist": (("wrist", 1.0),),
    }
    names += side
    blend += side.values()
    edges = _chain(*((32, 5 + 6 * i, *range(4 + 6 * i, -1 + 6 * i, -1)) for i in range(5)), (32, 30), (32, 31))
    return Layout("nyu36", tuple(names), 32, tuple(blend), edges)


def _nyu14() -> Layout:
    full = _nyu36()
    points = tuple(full.points[i] for i in NYU14_OF_36)
    edges = (
        (13, 1),
        (1, 0),
        (13, 3),
        (3, 2),
        (13, 5),
        (5, 4),
        (13, 7),
        (7, 6),
        (13, 10),
        (10, 9),
        (9, 8),
        (13, 11),
        (13, 12),
    )
    return Layout("nyu14", points, 13, tuple(full.blend[i] for i in NYU14_OF_36), edges)


LAYOUTS: Final[Mapping[str, Layout]] = {
    layout.name: layout
    for layout in (_openxr(), _mediapipe(), _mano(), _msra(), _bighand(), _icvl(), _nyu36(), _nyu14())
}


def finger_of(point: str) -> str:
    """The finger a layout's point belongs to, '' for wrist and palm."""
    return next((f for f in FINGERS if point.startswith(f)), "")


def layout_named(name: str) -> Layout:
    """The layout of that name.

    Raises:
        HandloomError: no layout is called so.
    """
    if name not in LAYOUTS:
        raise HandloomError(f"Unknown joint layout '{name}'", why=f"known: {', '.join(LAYOUTS)}")
    return LAYOUTS[name]


def converted(joints: NDArray[Any], source: Layout, target: Layout) -> NDArray[np.float32]:
    """Points (..., J, 3) of one layout as those of another; NaN where a point they rest on is unknown.

    Only the canonical 26 joints convert (`Layout.matrix`); equal layouts pass through.
    """
    if source.name == target.name:
        return joints.astype(np.float32)
    assert source.name == "openxr26", source.name
    matrix = target.matrix()
    made = matrix @ np.nan_to_num(joints)
    unknown = np.isnan(joints).any(axis=-1)
    made[(unknown[..., None, :] & (matrix != 0)).any(axis=-1)] = np.nan
    return np.asarray(made, np.float32)

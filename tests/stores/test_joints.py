from __future__ import annotations

import numpy as np
import pytest

from handloom.stores.errors import HandloomError
from handloom.stores.joints import LAYOUTS, NYU14_OF_36, OPENXR26, PARENTS, Layout, layout_named


def test_every_joint_hangs_on_the_wrist() -> None:
    assert len(OPENXR26) == 26
    for joint in range(26):
        steps = 0
        while PARENTS[joint] >= 0:
            joint, steps = PARENTS[joint], steps + 1
        assert OPENXR26[joint] == "wrist"
        assert steps <= 5


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=lambda layout: layout.name)
def test_a_layout_is_whole(layout: Layout) -> None:
    count = int("".join(c for c in layout.name if c.isdigit()))
    assert len(layout) == len(set(layout.points)) == len(layout.blend) == count
    assert layout.matrix().sum(1) == pytest.approx(1)
    assert {i for edge in layout.edges for i in edge} <= set(range(count))
    palm = layout.matrix()[layout.palm]
    assert palm[OPENXR26.index("palm")] == 1 or palm[OPENXR26.index("middle_proximal")] == 1


def test_the_fourteen_are_of_the_thirty_six() -> None:
    full, few = layout_named("nyu36"), layout_named("nyu14")
    assert tuple(full.points[i] for i in NYU14_OF_36) == few.points
    assert (full.matrix()[list(NYU14_OF_36)] == few.matrix()).all()


def test_drawn_bones_connect_all_drawn_points() -> None:
    for name in ("openxr26", "mediapipe21", "mano21", "msra21", "bighand21", "icvl16", "nyu14"):
        layout = layout_named(name)
        reached, edges = {layout.edges[0][0]}, set(layout.edges)
        while new := {b for a, b in edges if a in reached} | {a for a, b in edges if b in reached}:
            if new <= reached:
                break
            reached |= new
        assert reached == set(range(len(layout))), name


def test_bighands_points_are_msras_in_another_order() -> None:
    # Wrist, TMCP, IMCP, MMCP, RMCP, PMCP, TPIP, TDIP, TTIP, IPIP, … PTIP; MSRA: wrist, index ×4, …, thumb ×4.
    big, msra = layout_named("bighand21"), layout_named("msra21")
    order = [0, 17, 1, 5, 9, 13, 18, 19, 20, 2, 3, 4, 6, 7, 8, 10, 11, 12, 14, 15, 16]
    assert (big.matrix() == msra.matrix()[order]).all()
    assert big.points[:9] == (
        "wrist", "thumb_mcp", "index_mcp", "middle_mcp", "ring_mcp", "little_mcp", "thumb_pip", "thumb_dip", "thumb_tip"
    )  # fmt: skip


def test_an_unknown_name_lists_the_known() -> None:
    with pytest.raises(HandloomError, match="mediapipe21"):
        layout_named("coco")
    with pytest.raises(HandloomError, match="index_tip"):
        layout_named("openxr26").index("pointer_tip")
    assert np.isfinite(layout_named("nyu36").matrix()).all()

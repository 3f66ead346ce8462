from __future__ import annotations

import numpy as np
import pytest

from handloom.capture.bundle import turned
from handloom.capture.sphere_rig import _linear, _moved, _State
from handloom.capture.view_graph import agreed_motion, chained, check_views, groups, rigid, shared_views
from handloom.stores.errors import HandloomError


def test_the_jacobian_of_the_ball_is_its_derivative_along_a_random_direction() -> None:
    rng = np.random.default_rng(5)
    state = _State(
        turned(rng.normal(0, 0.5, (3, 3))),
        rng.normal(0, 50, (3, 3)) + np.array([0.0, 0.0, 500.0]),
        rng.normal(0, 5, 3),
        rng.normal(0, 80, (6, 3)),
    )
    camera, structure = np.repeat(np.arange(3), 6), np.tile(np.arange(6), 3)
    measured, whiten = rng.normal(0, 100, (18, 3)), rng.normal(0, 1, (18, 3, 3))
    step_c, step_s = rng.normal(0, 1e-4, (3, 7)), rng.normal(0, 1e-2, (6, 3))
    ahead = _linear(_moved(state, step_c, step_s), camera, structure, measured, whiten).residual
    behind = _linear(_moved(state, -step_c, -step_s), camera, structure, measured, whiten).residual
    here = _linear(state, camera, structure, measured, whiten)
    predicted = np.einsum("nma,na->nm", here.by_camera, step_c[camera])
    predicted += np.einsum("nma,na->nm", here.by_structure, step_s[structure])
    np.testing.assert_allclose((ahead - behind) / 2, predicted, rtol=1e-5, atol=1e-7)


def test_turned_gives_rotations_even_of_nothing() -> None:
    out = turned(np.array([[0.0, 0.0, 0.0], [0.0, 0.0, np.pi / 2]]))
    np.testing.assert_allclose(out, [np.eye(3), [[0, -1, 0], [1, 0, 0], [0, 0, 1]]], atol=1e-12)


def test_a_rigid_motion_is_found_among_mistakes() -> None:
    rng = np.random.default_rng(2)
    rotation, shift = turned(np.array([0.3, -0.8, 0.2])), np.array([100.0, -20.0, 30.0])
    points = rng.uniform(-100, 100, (60, 3))
    other = points @ rotation.T + shift + rng.normal(0, 0.5, (60, 3))
    other[:15] = rng.uniform(-300, 300, (15, 3))
    found, moved = agreed_motion(points, other, tolerance_mm=10, where="here")
    assert np.degrees(np.arccos((np.trace(found @ rotation.T) - 1) / 2)) < 0.2
    assert np.linalg.norm(moved - shift) < 0.5
    assert np.linalg.norm(rigid(points, other)[1] - shift) > 5  # without the agreement the mistakes win


def test_a_target_moved_along_a_line_is_refused() -> None:
    line = np.linspace(0, 200, 40)[:, None] * np.array([1.0, 0.2, 0.1])
    with pytest.raises(HandloomError, match="along a line"):
        agreed_motion(line, line + 5.0, tolerance_mm=10, where="here")


def test_cameras_that_disagree_are_refused() -> None:
    rng = np.random.default_rng(3)
    with pytest.raises(HandloomError, match="do not agree on how the target moved"):
        agreed_motion(rng.uniform(-200, 200, (40, 3)), rng.uniform(-200, 200, (40, 3)), tolerance_mm=5, where="here")


def test_poses_are_chained_along_the_widest_links() -> None:
    # 0–2 share few frames, so 2 hangs on 1.
    shared = np.array([[50, 40, 11], [40, 50, 30], [11, 30, 50]])
    asked = []

    def link(a: int, b: int) -> tuple[np.ndarray, np.ndarray]:
        asked.append((a, b))
        return turned(np.array([0.0, 0.1, 0.0])), np.array([1.0, 0.0, 0.0])

    poses = chained(shared, link)
    assert asked == [(0, 1), (1, 2)]
    np.testing.assert_allclose(poses[2][0], turned(np.array([0.0, 0.2, 0.0])))


def test_a_camera_that_never_saw_the_target_is_named_with_its_count() -> None:
    seen = np.ones((412, 3), bool)
    seen[:, 2] = False
    with pytest.raises(HandloomError) as raised:
        check_views(seen, ("cam0", "cam1", "cam2"), where="R.zarr", hint="move the ball")
    assert raised.value.what == "cam2 never saw the target"
    assert raised.value.why.startswith("cam2: 0 of 412 frames; cam0: 412, cam1: 412")


def test_groups_that_share_nothing_are_named() -> None:
    seen = np.zeros((80, 4), bool)
    seen[:40, :2] = True
    seen[37:, 2:] = True
    assert groups(shared_views(seen)) == [[0, 1], [2, 3]]
    with pytest.raises(HandloomError) as raised:
        check_views(seen, ("a", "b", "c", "d"), where="R.zarr", hint="")
    assert "groups: a, b | c, d; at most 3 shared frames" in raised.value.why

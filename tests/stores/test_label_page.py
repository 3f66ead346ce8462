"""The labelling page: what it holds, its geometry against numpy's, and joints dragged by a real mouse."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.optimize

from handloom.learn.labelling import prepare
from handloom.stores.camera import Camera, project
from handloom.stores.crops import take_crop
from handloom.stores.errors import HandloomError
from handloom.stores.joints import OPENXR26, layout_named
from handloom.stores.label_page import BEYOND, CROP_PX, CUBE_MM, FLESH_MM, WINDOW_MM
from handloom.stores.labels import take_labels
from handloom.stores.recording import Recording, open_recording
from handloom.synth.anatomy import SCALE, skeleton
from handloom.synth.config import SynthConfig
from handloom.synth.generate import synthesise

from browser import Page, open_page

REST_MM = skeleton()[0] * SCALE


@pytest.fixture(scope="module")
def unlabelled(hand_capture: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("label") / "r.zarr"
    shutil.copytree(hand_capture, out)
    shutil.rmtree(out / "labels")
    return out


@pytest.fixture(scope="module")
def made(unlabelled: Path) -> Path:
    out = unlabelled.parent / "labelling"
    prepare(unlabelled, out, select=4, frames=None, rest_mm=REST_MM, min_score=0, seed=0)
    return out


@pytest.fixture
def page(made: Path, tmp_path: Path) -> Iterator[Page]:
    with open_page(made / "index.html", width=1280, height=800) as page:
        page.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
        page.wait_for("document.body.dataset.ready === '0'")
        page.click("#close-help")
        page.key("0")  # the whole crops
        yield page


def truth_of(hand_capture: Path, frame: int) -> np.ndarray:
    labels = open_recording(hand_capture).labels
    assert labels is not None
    return labels.read_rows("joints", [frame])[0].astype(np.float64)


def frames_of(out: Path) -> list[int]:
    return [int(line) for line in (out / "frames.txt").read_text().split()]


def downloaded(path: Path) -> Path:
    deadline = time.monotonic() + 20
    while not path.exists():
        assert time.monotonic() < deadline, f"{path.name} was never saved"
        time.sleep(0.02)
    return path


def data_of(out: Path) -> dict[str, Any]:
    text = (out / "index.html").read_text()
    start = text.index('id="data">') + len('id="data">')
    value: dict[str, Any] = json.loads(text[start : text.index("</script>", start)])
    return value


def test_the_page_holds_all_it_needs_and_the_list_is_one_for_training(made: Path, unlabelled: Path) -> None:
    text = (made / "index.html").read_text()
    assert "http" not in text.replace("http-equiv", "").replace("http://www.w3.org/2000/svg", "")
    data = data_of(made)
    assert [int(frame["id"]) for frame in data["frames"]] == frames_of(made)
    assert len({frame["sequence"] for frame in data["frames"]}) == 4
    assert {frame["source"] for frame in data["frames"]} == {"rest"}
    per_view = len(text) / sum(len(frame["views"]) for frame in data["frames"])
    assert per_view * 300 < 20e6  # a hundred frames of three views
    with pytest.raises(HandloomError, match="exists already"):
        prepare(unlabelled, made, select=4, frames=None, rest_mm=REST_MM, min_score=0, seed=0)


def test_a_hand_at_rest_lies_where_the_hand_was_found_thumb_to_the_right(made: Path, unlabelled: Path) -> None:
    recording = open_recording(unlabelled)
    assert recording.crops is not None
    frame = data_of(made)["frames"][0]
    rest = np.array(frame["prefill"])
    palm = recording.rig.cameras[0].to_camera(rest[0])
    assert palm == pytest.approx(recording.crops.read_rows("center", [frame["row"]])[0, 0], abs=0.1)
    cam = recording.rig.cameras[0].to_camera(rest) - palm
    assert cam[OPENXR26.index("middle_tip"), 1] < -80  # up
    assert cam[OPENXR26.index("thumb_tip"), 0] > 20  # a right palm held to the camera
    assert cam[OPENXR26.index("little_tip"), 0] < -20
    lengths = [np.linalg.norm(rest[a] - rest[b]) for a, b in layout_named("openxr26").edges]
    assert lengths == pytest.approx(
        [np.linalg.norm(REST_MM[a] - REST_MM[b]) for a, b in layout_named("openxr26").edges], abs=0.01
    )


def test_labels_and_given_frames_begin_as_they_are(hand_capture: Path, tmp_path: Path) -> None:
    listed = tmp_path / "some.txt"
    listed.write_text("7\n3\n")
    done = prepare(hand_capture, tmp_path / "out", select=None, frames=listed, rest_mm=REST_MM, seed=0)
    assert done.sources == {"labels": 2, "model": 0, "rest": 0}
    assert frames_of(tmp_path / "out") == [3, 7]
    for frame in data_of(tmp_path / "out")["frames"]:
        assert np.allclose(frame["prefill"], truth_of(hand_capture, int(frame["id"])), atol=1e-3)


def test_the_flesh_is_what_rendered_hands_have(tmp_path: Path) -> None:
    recording = synthesise(SynthConfig(frames=60, seed=3, sensor="none"), tmp_path / "s.zarr", jobs=1)
    crops, labels = recording.crops, recording.labels
    assert crops is not None
    assert labels is not None
    joints, visible, crop, k = labels.read("joints"), labels.read("visible"), crops.read("crop"), crops.read("k")
    gaps: list[list[float]] = [[] for _ in OPENXR26]
    for row, view in np.ndindex(visible.shape[:2]):
        camera = recording.rig.cameras[view]
        cam = camera.to_camera(joints[row])
        for j, (u, v) in enumerate(np.rint(project(cam, k[row, view])).astype(int)):
            if visible[row, view, j] and 0 <= u < crop.shape[-1] and 0 <= v < crop.shape[-1] and crop[row, view, v, u]:
                gaps[j].append(cam[j, 2] - crop[row, view, v, u] * camera.depth_unit_mm)
    found = np.array([np.median(g) for g in gaps])
    assert np.abs(found - FLESH_MM).mean() < 2.5
    assert np.abs(found - FLESH_MM).max() < 10


# -- in a browser -----------------------------------------------------------------------------------------------


def looking_at(rng: np.random.Generator) -> Camera:
    """A camera 400 to 900 mm from the origin that looks at it, turned about its axis at random."""
    z = rng.normal(size=3)
    z /= np.linalg.norm(z)
    x = np.cross(z, rng.normal(size=3))
    x /= np.linalg.norm(x)
    r = np.stack([x, np.cross(z, x), z])
    rows = tuple(tuple(float(e) for e in row) for row in r)
    f = float(rng.uniform(150, 600))
    return Camera("c", 256, 256, (f, f * 1.02, 127.0, 130.0), rows, (3.0, -2.0, float(rng.uniform(400, 900))))  # type: ignore[arg-type]


def as_view(camera: Camera) -> dict[str, Any]:
    return {"k": camera.k, "R": camera.rotation.ravel().tolist(), "t": camera.translation.tolist()}


def test_triangulation_and_alignment_are_numpy_s(page: Page) -> None:
    rng = np.random.default_rng(0)
    for count in (2, 2, 2, 3, 5, 8):
        cameras, point = [looking_at(rng) for _ in range(count)], rng.uniform(-80, 80, 3)
        pixels = np.array([project(c.to_camera(point), c.k) for c in cameras]) + rng.normal(0, 2, (count, 2))
        marks = [{"view": as_view(c), "u": u, "v": v} for c, (u, v) in zip(cameras, pixels.tolist(), strict=True)]
        start = (point + rng.normal(0, 40, 3)).tolist()
        found = page.evaluate(f"handloomLabel.triangulate({json.dumps(marks)}, {start})")

        def residual(p: np.ndarray, cameras: list[Camera] = cameras, pixels: np.ndarray = pixels) -> np.ndarray:
            return (np.array([project(c.to_camera(p), c.k) for c in cameras]) - pixels).ravel()

        best = scipy.optimize.least_squares(residual, point, method="lm", xtol=1e-14, ftol=1e-14)
        assert np.sum(residual(np.array(found)) ** 2) <= 2 * best.cost * (1 + 1e-6) + 1e-9
        assert np.linalg.norm(np.array(found) - best.x) < 0.01

        points = rng.normal(0, 40, (count + 2, 3))
        q, _ = np.linalg.qr(rng.normal(size=(3, 3)))
        q *= np.linalg.det(q)
        moved = points @ q.T * 1.1 + rng.uniform(-100, 100, 3) + rng.normal(0, 2, points.shape)
        weights = rng.uniform(0.5, 2, len(points))
        call = f"handloomLabel.alignment({points.tolist()}, {moved.tolist()}, {weights.tolist()}, false)"
        aligned = np.array(page.evaluate(f"{points.tolist()}.map({call})"))
        assert np.allclose(aligned, kabsch(points, moved, weights), atol=1e-6)


def kabsch(points: np.ndarray, moved: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The points rigidly laid on `moved` (Kabsch 1976)."""
    a, b = np.average(points, 0, weights), np.average(moved, 0, weights)
    u, _, vt = np.linalg.svd((weights[:, None] * (points - a)).T @ (moved - b))
    d = np.diag([1, 1, np.linalg.det(vt.T @ u.T)])
    return np.asarray((points - a) @ (vt.T @ d @ u.T).T + b)


def test_the_depth_on_the_page_is_the_recording_s(page: Page, made: Path, unlabelled: Path) -> None:
    recording = open_recording(unlabelled)
    frames, crops = recording.frames, recording.crops
    assert frames is not None
    assert crops is not None
    row = frames_of(made)[0]  # a capture counts its frames
    for view, camera in enumerate(recording.rig.cameras):
        center = crops.read_rows("center", [row])[0, view].astype(np.float64)
        depth = frames.read_rows(f"depth/{camera.name}", [row])[0]
        crop, _ = take_crop(depth, camera.k, center, crop_px=CROP_PX, window_mm=WINDOW_MM)
        mm = np.rint(crop * np.float64(camera.depth_unit_mm))
        want = np.where((crop > 0) & (np.abs(mm - center[2]) > CUBE_MM / 2), BEYOND, mm)
        found = page.evaluate(f"handloomLabel.decodeDepth(handloomLabel.views(0)[{view}]).then((d) => Array.from(d))")
        assert np.array_equal(np.array(found).reshape(want.shape), want)


def drag_joint(page: Page, view: int, joint: int, target: np.ndarray, recording: Recording) -> None:
    """Take a joint with the mouse where the page has it in a view, let it go at the projection of `target` (rig).

    By whole CSS pixels, as a mouse moves: the joint ends within half of one in each direction.
    """
    page.evaluate(f"document.querySelectorAll('#joints button')[{joint}].click()")
    k = page.evaluate(f"handloomLabel.views(0)[{view}].k")
    u, v = project(recording.rig.cameras[view].to_camera(target), k)
    to_x, to_y = page.evaluate(f"handloomLabel.screen({view}, {u}, {v})")
    x, y = drawn_at(page, view, joint)
    if abs(x - to_x) + abs(y - to_y) < 6:  # so near that it would be a click
        page.drag(x, y, x + 12, y + 12)
        x, y = drawn_at(page, view, joint)
    start_x, start_y = round(x), round(y)
    page.drag(start_x, start_y, round(to_x - x + start_x), round(to_y - y + start_y), steps=3)


def drawn_at(page: Page, view: int, joint: int) -> tuple[float, float]:
    """Where a joint's circle is on the screen."""
    x, y, width, height = page.evaluate(
        f"(() => {{ const b = document.querySelector('#view-{view} [data-joint=\"{joint}\"]').getBoundingClientRect();"
        " return [b.x, b.y, b.width, b.height]; })()"
    )
    return x + width / 2, y + height / 2


def point_of(page: Page, frame: int, joint: int) -> dict[str, Any]:
    value: dict[str, Any] = page.evaluate(f"handloomLabel.state().frames['{frame}'].joints[{joint}]")
    return value


def test_joints_dragged_in_two_views_become_labels(
    page: Page, made: Path, hand_capture: Path, unlabelled: Path, tmp_path: Path
) -> None:
    """All 26, by a mouse, then joints.csv, `store label`, and the truth: as near as whole CSS pixels allow."""
    recording = open_recording(unlabelled)
    frame = frames_of(made)[0]
    truth = truth_of(hand_capture, frame)
    first, second = 0, 1
    for joint in range(26):
        drag_joint(page, first, joint, truth[joint], recording)
        drag_joint(page, second, joint, truth[joint], recording)
        assert point_of(page, frame, joint)["by"] == "views"
    page.screenshot(tmp_path / "page.png")
    red = "Array.from(document.querySelectorAll('#bones td.n.bad')).length"
    assert page.evaluate("document.querySelectorAll('.bone.off').length") == page.evaluate(red) == 0
    for _ in range(8):  # the little finger's tip, 40 pixels off in one view
        page.key("ArrowDown", modifiers=8)
    assert page.evaluate(red) == 1
    assert page.evaluate("document.querySelectorAll('#view-2 .bone.off').length") == 1
    for _ in range(8):
        page.key("z", modifiers=2)
    page.key("Enter")
    page.wait_for("document.body.dataset.ready === '1'")
    page.click("#save")
    file = downloaded(tmp_path / "joints.csv")
    assert page.problems == []

    copy = tmp_path / "r.zarr"
    shutil.copytree(unlabelled, copy)
    done = take_labels(copy, file)
    assert (done.frames, done.joints, done.findings) == (1, 26, ())
    labels = open_recording(copy).labels
    assert labels is not None
    error = np.linalg.norm(labels.read_rows("joints", [frame])[0] - truth, axis=1)
    assert error.mean() < 1.0
    assert error.max() < 2.0


def test_one_view_keeps_the_depth_or_takes_the_skin_s(
    page: Page, made: Path, hand_capture: Path, unlabelled: Path
) -> None:
    recording = open_recording(unlabelled)
    frame = frames_of(made)[0]
    camera, truth = recording.rig.cameras[0], truth_of(hand_capture, frame)
    view = page.evaluate("handloomLabel.views(0)[0]")
    depth = page.evaluate("handloomLabel.decodeDepth(handloomLabel.views(0)[0]).then((d) => Array.from(d))")
    depth = np.array(depth).reshape(view["h"], view["w"])

    def around(u: float, v: float) -> np.ndarray:
        u, v = round(u), round(v)
        return depth[v - 1 : v + 2, u - 1 : u + 2]

    # A sensor's holes may lie before any one joint.
    at = project(camera.to_camera(truth), view["k"])
    joint = next(j for j in range(11, 16) if (around(*at[j]) > BEYOND).all())
    before = camera.to_camera(data_of(made)["frames"][0]["prefill"][joint])
    page.key("d")  # from the surface, as a hand at rest begins; now not
    drag_joint(page, 0, joint, truth[joint], recording)
    now = point_of(page, frame, joint)
    assert now["by"] == "ray"
    assert camera.to_camera(now["p"])[2] == pytest.approx(before[2], abs=1e-6)
    page.key("d")
    now = point_of(page, frame, joint)
    assert now["by"] == "surface"
    near = around(*now["m"]["0"])
    skin = near[near > BEYOND].min()
    assert camera.to_camera(now["p"])[2] == pytest.approx(skin + FLESH_MM[joint], abs=0.1)
    # The others followed: the palm is no longer where it lay, its distance to the knuckle is.
    rest = np.array(data_of(made)["frames"][0]["prefill"])
    palm = np.array(point_of(page, frame, 0)["p"])
    assert np.linalg.norm(palm - rest[0]) > 3
    assert np.linalg.norm(palm - now["p"]) == pytest.approx(np.linalg.norm(rest[0] - rest[joint]), abs=2)


def test_keys_undo_and_what_is_kept(page: Page, made: Path, hand_capture: Path, tmp_path: Path) -> None:
    recording, frame = open_recording(hand_capture), frames_of(made)[0]
    truth = truth_of(hand_capture, frame)
    drag_joint(page, 0, 10, truth[10], recording)
    drag_joint(page, 1, 10, truth[10], recording)
    placed = point_of(page, frame, 10)["p"]
    u, v = point_of(page, frame, 10)["m"]["1"]
    page.key("ArrowUp", modifiers=8)
    assert point_of(page, frame, 10)["m"]["1"] == [u, v - 5]
    page.key("z", modifiers=2)
    assert point_of(page, frame, 10)["p"] == placed
    steps = 0
    while point_of(page, frame, 10)["m"]:  # a short way is dragged in two steps
        steps += 1
        page.key("z", modifiers=2)
        assert set(point_of(page, frame, 10)["m"]) in ({"0", "1"}, {"0"}, set())
    for _ in range(steps):
        page.key("y", modifiers=2)
    assert 2 <= steps <= 4
    assert point_of(page, frame, 10)["p"] == placed
    page.key("j")  # the next joint, not to be told
    page.key("u")
    assert point_of(page, frame, 11)["by"] == "unknown"
    page.key("ArrowRight")  # nudged in the view used last, it is known again
    assert list(point_of(page, frame, 11)["m"]) == ["1"]
    page.key("u")
    page.key("j")  # and one that is right where it is drawn
    page.key("m")
    at = point_of(page, frame, 12)
    assert at["m"]["1"] == pytest.approx(
        project(recording.rig.cameras[1].to_camera(at["p"]), page.evaluate("handloomLabel.views(0)[1].k")).tolist()
    )
    page.key("r")
    page.key("Enter")
    page.wait_for("document.body.dataset.ready === '1'")
    page.key("s")
    page.wait_for("document.body.dataset.ready === '2'")
    text = page.evaluate("handloomLabel.csv()")
    # Joints at rest, and the unknown one, are no labels.
    assert [line.split(",")[:2] for line in text.splitlines()[1:]] == [[str(frame), OPENXR26[10]]]
    page.click("#save-state")
    saved = json.loads(downloaded(tmp_path / "labelling-state.json").read_text())
    assert saved["frames"][str(frame)]["status"] == "done"

    page.evaluate("document.body.dataset.ready = ''")
    # The page as it was is gone, and so is what the browser kept: the saved state brings all back.
    page.evaluate("localStorage.clear()")
    page.open((made / "index.html").resolve().as_uri())
    page.wait_for("document.body.dataset.ready === '0'")
    page.click("#close-help")
    assert page.evaluate("handloomLabel.csv()") == "frame,joint,x_mm,y_mm,z_mm\n"
    load_state(page, tmp_path / "labelling-state.json")
    page.wait_for(f"handloomLabel.state().frames['{frame}']?.status === 'done'")
    assert page.evaluate("handloomLabel.csv()") == text
    other = tmp_path / "other.json"
    other.write_text(json.dumps(saved | {"recording": "another"}))
    load_state(page, other)
    page.wait_for("document.getElementById('said').textContent.startsWith('That file is not a state')")
    assert page.evaluate("handloomLabel.csv()") == text

    page.evaluate("document.body.dataset.ready = ''")
    page.open((made / "index.html").resolve().as_uri())  # closed and opened: it goes on where it was
    page.wait_for("document.body.dataset.ready === '2'")
    assert page.evaluate("document.getElementById('about-page').open") is False
    assert page.evaluate("handloomLabel.csv()") == text
    assert page.problems == []


def test_crosses_stay_on_the_hand_when_it_is_located_again(made: Path, unlabelled: Path, tmp_path: Path) -> None:
    """A cross is a pixel of a crop, and a page made later may show another window."""
    copy, frame = tmp_path / "r.zarr", frames_of(made)[0]
    shutil.copytree(unlabelled, copy)
    listed = tmp_path / "one.txt"
    listed.write_text(f"{frame}\n")
    writing = open_recording(copy, writable=True)
    crops = writing.crops
    assert crops is not None
    rows = {name: crops.read(name) for name in crops.columns}
    rows["center"] = rows["center"] + np.array([9, -14, 20], np.float32)
    crops.write_unit(0, rows)
    prepare(copy, tmp_path / "later", select=None, frames=listed, rest_mm=REST_MM, seed=0)
    with open_page(made / "index.html", width=1280, height=800) as page:
        page.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
        page.wait_for("document.body.dataset.ready === '0'")
        page.click("#close-help")
        truth = np.array(data_of(made)["frames"][0]["prefill"][10]) + np.array([12, 5, 8])
        drag_joint(page, 0, 10, truth, open_recording(copy))
        drag_joint(page, 1, 10, truth, open_recording(copy))
        before = point_of(page, frame, 10)
        page.click("#save-state")
        downloaded(tmp_path / "labelling-state.json")
        page.open((tmp_path / "later" / "index.html").resolve().as_uri())
        page.wait_for("document.body.dataset.ready === '0'")
        load_state(page, tmp_path / "labelling-state.json")
        page.wait_for("document.getElementById('said').textContent.startsWith('Loaded')")
        after, views = point_of(page, frame, 10), page.evaluate("handloomLabel.views(0)")
        assert after["p"] == before["p"]
        for v in (0, 1):
            camera = open_recording(copy).rig.cameras[v]
            assert np.linalg.norm(np.subtract(after["m"][str(v)], before["m"][str(v)])) > 3
            shown = project(camera.to_camera(before["p"]), views[v]["k"])
            assert after["m"][str(v)] == pytest.approx(shown.tolist(), abs=1.0)


def load_state(page: Page, file: Path) -> None:
    root = page.call("DOM.getDocument")["root"]["nodeId"]
    node = page.call("DOM.querySelector", nodeId=root, selector="#load")["nodeId"]
    page.call("DOM.setFileInputFiles", files=[str(file)], nodeId=node)


def test_the_whole_hand_moves_and_turns_and_the_view_zooms(page: Page, made: Path, unlabelled: Path) -> None:
    camera, frame = open_recording(unlabelled).rig.cameras[0], frames_of(made)[0]
    rest = camera.to_camera(data_of(made)["frames"][0]["prefill"])
    left, top, width, height = page.box("#view-0 svg")
    corner, middle = (left + 20, top + 20), (left + width / 2, top + height / 2)

    def hand() -> np.ndarray:
        return camera.to_camera([point_of(page, frame, j)["p"] for j in range(26)])

    page.drag(*corner, corner[0] + 30, corner[1] + 12, modifiers=8)
    moved = hand() - rest
    assert np.ptp(moved, axis=0).max() < 1e-6
    assert moved[0, 2] == pytest.approx(0, abs=1e-6)
    scale = page.evaluate("handloomLabel.screen(0, 1, 0)[0] - handloomLabel.screen(0, 0, 0)[0]")
    k = page.evaluate("handloomLabel.views(0)[0].k")
    assert moved[0, 0] == pytest.approx(30 / scale / k[0] * rest[:, 2].mean(), abs=0.01)
    before = hand()
    page.drag(*corner, corner[0] + 120, corner[1], modifiers=1)
    turned = hand()
    assert turned.mean(0) == pytest.approx(before.mean(0), abs=1e-6)
    edges = np.array(layout_named("openxr26").edges)
    lengths = [np.linalg.norm(h[edges[:, 0]] - h[edges[:, 1]], axis=1) for h in (before, turned)]
    assert lengths[0] == pytest.approx(lengths[1], abs=1e-6)
    # As if the mouse held its near side: what lies on the right goes away from the camera.
    side, away = before[:, 0] - before[:, 0].mean(), (turned - before)[:, 2]
    assert away[side > 10].min() > 5
    assert away[side < -10].max() < -5

    u, v = page.evaluate(
        f"(() => {{ const [x, y] = handloomLabel.screen(0, 0, 0), s = {scale};"
        f" return [({middle[0]} - x) / s, ({middle[1]} - y) / s]; }})()"
    )
    page.wheel(*middle, -400)
    page.wait_for(f"handloomLabel.screen(0, 1, 0)[0] - handloomLabel.screen(0, 0, 0)[0] > {1.5 * scale}")
    assert page.evaluate(f"handloomLabel.screen(0, {u}, {v})") == pytest.approx(middle, abs=0.6)
    page.drag(*corner, corner[0] - 9, corner[1] + 7)  # the ground moves the picture
    assert page.evaluate(f"handloomLabel.screen(0, {u}, {v})") == pytest.approx((middle[0] - 9, middle[1] + 7), abs=0.6)
    assert page.problems == []

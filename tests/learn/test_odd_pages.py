"""Pages of recordings that are not as one expects: one camera, one frame, unknown joints, strange names."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from handloom.learn.compare import compare_evaluations
from handloom.learn.evaluate import evaluate_models, mean_pose
from handloom.learn.figures import line_name, success_chart
from handloom.learn.pages import evaluation_report
from handloom.learn.tables import told_apart
from handloom.stores.reading import Resident
from handloom.stores.recording import open_recording

from browser import open_page

STRANGE = ('<b>bold & "co"', "_under$x_{1}$", "模型\n$\\frac")
"""Names that a folder may have; `$\\frac` is a formula that matplotlib cannot read."""


def no_palms(data: Resident) -> Resident:
    joints = data.joints.copy()
    joints[:, 0] = np.nan
    return replace(data, joints=joints)


def gaps(data: Resident) -> Resident:
    """A finger nobody labelled, a frame without any label."""
    joints = data.joints.copy()
    joints[:, 5:10] = np.nan
    joints[0] = np.nan
    return replace(data, joints=joints)


def nothing_known(data: Resident) -> Resident:
    return replace(data, joints=np.full_like(data.joints, np.nan))


def as_it_is(data: Resident) -> Resident:
    return data


ODD = {
    "one camera": (6, 1, as_it_is, "Smallest mean joint error"),
    "one frame": (1, 3, as_it_is, "no difference to rely on: all images are of one moment"),
    "unknown joints": (6, 3, gaps, "Smallest mean joint error"),
    "no palms": (6, 1, no_palms, "There is no image with a known palm"),
    "no joint": (4, 1, nothing_known, "No image has a label."),
}


@pytest.mark.parametrize("kind", ODD)
def test_the_page_stands(kind: str, toy: SimpleNamespace, tmp_path: Path) -> None:
    frames, views, change, said = ODD[kind]
    change_: Callable[[Resident], Resident] = change
    data = change_(toy.resident(1, frames, views=views, located_mm=8.0))
    recording = open_recording(toy.write(tmp_path / "r.zarr", data))
    mean = mean_pose(recording)
    models = {name: replace(mean, relative_mm=mean.relative_mm + np.float32(6 * i)) for i, name in enumerate(STRANGE)}
    found = evaluate_models(models, recording, seed=0, split="all")
    page = tmp_path / "page.html"
    evaluation_report(found, compare_evaluations(found, seed=0), recording, made_by="x").write(page)
    html = re.sub(r'data:image/png[^"]*|<script>.*', "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert said in html
    assert "<b>" not in html.replace("<b style", "")
    assert not re.search(r"\bnan\b|\binf\b", html, re.IGNORECASE)
    with open_page(page) as view:
        assert view.evaluate("document.querySelector('h1').textContent").startswith("<b>bold")
        assert view.evaluate("document.documentElement.scrollWidth") <= 1200
        assert view.problems == []


def test_a_single_frame_has_no_interval_to_show(toy: SimpleNamespace, tmp_path: Path) -> None:
    """Resampling one group gives one value again: `6.99 to 6.99` was shown, and `better by 3.93 mm (3.93 to 3.93)`."""
    recording = open_recording(toy.write(tmp_path / "r.zarr", toy.resident(1, 1, located_mm=8.0)))
    mean = mean_pose(recording)
    found = evaluate_models(
        {"a": mean, "b": replace(mean, relative_mm=mean.relative_mm + np.float32(20))}, recording, seed=0, split="all"
    )
    (difference,) = compare_evaluations(found, seed=0)
    assert difference.interval.groups == 1
    assert not difference.sure
    assert not any(joint.sure for joint in difference.joints)
    html = evaluation_report(found, [difference], recording, made_by="x").html()
    assert "±" not in re.sub(r"± is half", "", html)


def test_names_are_drawn_as_they_are() -> None:
    assert line_name("runs/full") == "runs/full"
    assert line_name("_a$b$") == "\N{HAIR SPACE}_a\\$b\\$"
    assert len(line_name("x" * 80)) == 44
    assert success_chart({name: np.array([10.0, 50.0]) for name in STRANGE}).dark


def test_names_of_paths_are_their_ends() -> None:
    assert told_apart(["runs/a", "runs/b"]) == ["a", "b"]
    assert told_apart(["one/full", "two/full", "x"]) == ["one/full", "two/full", "x"]
    assert told_apart(["full", "one/full"]) == ["full", "one/full"]
    assert told_apart(["same", "same"]) == ["same", "same"]
    assert told_apart([]) == []

"""What stands around a hand hides and shades it, but changes neither the hand nor its labels."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest

from handloom.stores.config import load_config
from handloom.stores.errors import HandloomError
from handloom.synth.config import SynthConfig
from handloom.synth.generate import synthesise
from handloom.synth.hand import FOREARM, PALM, pose_hand
from handloom.synth.props import Mesh, ball, box, cylinder
from handloom.synth.replay import replay
from handloom.synth.sampling import draw_samples
from handloom.synth.surroundings import SceneConfig, Surroundings, around
from handloom.synth.units import make_unit, studio_of

COUNT = 24
OPTIONS = {
    "sleeve": SceneConfig(sleeve=1.0),
    "desk": SceneConfig(background=1.0, background_kind="desk"),
    "wall": SceneConfig(background=1.0, background_kind="wall"),
    "boxes": SceneConfig(background=1.0, background_kind="boxes"),
    "occluder": SceneConfig(occluder=1.0),
    "second_hand": SceneConfig(second_hand=1.0),
}


def config(scene: SceneConfig, **values: object) -> SynthConfig:
    return SynthConfig(frames=COUNT, unit_frames=32, views=2, seed=5, sensor="none", scene=scene, **values)


@cache
def rows(name: str, **values: object) -> dict[str, dict[str, np.ndarray]]:
    made = config(OPTIONS.get(name, SceneConfig()), **values)
    return make_unit(made, studio_of(made, made.make_rig()), 0)


def scenes(name: str) -> tuple[Surroundings, np.ndarray, np.ndarray, list[Mesh | None]]:
    """Surroundings, vertices (n, N, 3), joints, and what is around each sample."""
    made = config(OPTIONS[name])
    studio = studio_of(made, made.make_rig())
    assert studio.scene is not None
    samples = draw_samples(made, studio.hand, 0, COUNT)
    posed = pose_hand(studio.hand, samples.pose, samples.root, samples.shape)
    drawn = [around(studio.scene, k, posed.vertices[k], posed.joints[k]) for k in range(COUNT)]
    return studio.scene, posed.vertices, posed.joints, drawn


@pytest.mark.parametrize("name", OPTIONS)
def test_the_hand_and_its_labels_stay_as_they_are(name: str) -> None:
    bare, dressed = rows("none"), rows(name)
    for column in ("joints", "pose", "root", "shape"):
        assert np.array_equal(bare["labels"][column], dressed["labels"][column])
    for column in ("center", "k", "center_source"):
        assert np.array_equal(bare["crops"][column], dressed["crops"][column])
    # Where the hand is seen it is seen at the same depth; where it is not, something nearer is.
    old, new = bare["crops"], dressed["crops"]
    mine = new["parts"] != 255
    assert (new["parts"] == old["parts"])[mine].all()
    assert (new["crop"] == old["crop"])[mine].all()
    hidden = (old["parts"] != 255) & ~mine
    assert (new["crop"][hidden] < old["crop"][hidden] + 1).all()
    beyond = (old["parts"] == 255) & (new["crop"] > 0)
    assert beyond.sum() > 1000
    # A joint is seen no more often than without.
    assert (dressed["labels"]["visible"] <= bare["labels"]["visible"]).all()


def test_what_each_option_hides() -> None:
    bare = rows("none")["crops"]["parts"]

    def hidden(name: str, parts: np.ndarray) -> float:
        return float(((rows(name)["crops"]["parts"] == 255) & parts).sum() / parts.sum())

    arm, hand = bare == FOREARM, (bare != FOREARM) & (bare != 255)
    assert hidden("sleeve", arm) > 0.5
    assert hidden("sleeve", hand) < 0.08  # an arm before its hand
    assert hidden("desk", hand) == hidden("wall", hand) == 0
    assert hidden("boxes", hand) < 0.02
    assert 0.01 < hidden("occluder", hand) < 0.4
    assert hidden("second_hand", hand) < 0.35
    seen = rows("occluder")["labels"]["visible"].sum() / rows("none")["labels"]["visible"].sum()
    assert 0.6 < seen < 0.99


@pytest.mark.parametrize("name", ["desk", "wall", "boxes", "second_hand"])
def test_nothing_runs_through_the_hand(name: str) -> None:
    """There is a plane with the hand on one side and each thing on the other."""
    scene, vertices, joints, drawn = scenes(name)
    ways = np.random.default_rng(0).normal(size=(4000, 3))
    ways /= np.linalg.norm(ways, axis=1, keepdims=True)
    some = 0
    for k, mesh in enumerate(drawn):
        if mesh is None:
            continue
        near = vertices[k][np.linalg.norm(vertices[k] - joints[k, PALM], axis=1) < 250].astype(float)
        size = len(mesh.vertices) if name == "second_hand" else 8
        for first in range(0, len(mesh.vertices), size):
            thing = mesh.vertices[first : first + size]
            sides = (thing[[1, 2, 4]] - thing[0]) / np.linalg.norm(thing[[1, 2, 4]] - thing[0], axis=1)[:, None]
            tried = np.concatenate([ways, sides, -sides])
            apart = (thing @ tried.T).min(0) - (near @ tried.T).max(0)
            assert apart.max() > -12, f"{name} of sample {k}"  # random ways come within 2 degrees
            some += 1
    assert some >= COUNT // 2
    assert scene.rig.names == ("cam0", "cam1")


def test_what_is_held_fits_the_hand() -> None:
    scene, vertices, joints, drawn = scenes("occluder")
    held = 0
    for k, mesh in enumerate(drawn):
        if mesh is None or np.linalg.norm(mesh.vertices.mean(0) - joints[k, PALM]) > 90:
            continue
        held += 1
        # No vertex of the hand lies deeper in a thing than flesh yields: from a plane of each face inwards.
        a, b, c = (mesh.vertices[mesh.faces[:, i]] for i in range(3))
        normals = np.cross(b - a, c - a)
        normals /= np.linalg.norm(normals, axis=1, keepdims=True)
        flesh = vertices[k][scene.flesh].astype(float)
        depth = -(flesh @ normals.T - np.einsum("fi,fi->f", a, normals)).max(1)
        assert depth.max() < 4
    assert held >= 4


def test_each_option_draws_for_itself() -> None:
    """A sleeve is the same with and without a wall, and sample k the same in any company."""
    both = SceneConfig(sleeve=1.0, background=1.0, background_kind="wall")
    made = config(both)
    studio = studio_of(made, made.make_rig())
    alone, vertices, joints, drawn = scenes("sleeve")
    assert studio.scene is not None
    for k in (0, 7):
        mesh = around(studio.scene, k, vertices[k], joints[k])
        sleeve = drawn[k]
        assert mesh is not None
        assert sleeve is not None
        assert np.array_equal(mesh.vertices[: len(sleeve.vertices)], sleeve.vertices)
        again = around(alone, k, vertices[k], joints[k])
        assert again is not None
        assert np.array_equal(again.vertices, sleeve.vertices)


def test_probabilities_are_shares_of_the_samples() -> None:
    made = config(SceneConfig(occluder=0.3))
    studio = studio_of(made, made.make_rig())
    assert studio.scene is not None
    samples = draw_samples(made, studio.hand, 0, 1)
    posed = pose_hand(studio.hand, samples.pose, samples.root, samples.shape)
    there = [around(studio.scene, k, posed.vertices[0], posed.joints[0]) is not None for k in range(300)]
    assert np.mean(there) == pytest.approx(0.3, abs=0.09)


def test_the_sensor_sees_all_of_it() -> None:
    """A wall close behind the hand turns grazing and shadow: returns go missing beside the hand."""
    clean, noisy = rows("wall"), rows_with_sensor("wall")
    lost = (clean["crops"]["crop"] > 0) & (noisy["crops"]["crop"] == 0) & (clean["crops"]["parts"] == 255)
    assert lost.sum() > 2000
    kept = (clean["crops"]["crop"] > 0) & (noisy["crops"]["crop"] > 0) & (clean["crops"]["parts"] == 255)
    error = noisy["crops"]["crop"][kept].astype(float) - clean["crops"]["crop"][kept]
    assert 0.5 < np.median(np.abs(error)) < 20


def rows_with_sensor(name: str) -> dict[str, dict[str, np.ndarray]]:
    made = config(OPTIONS[name]).model_copy(update={"sensor": "structured-light"})
    return make_unit(made, studio_of(made, made.make_rig()), 0)


def test_a_cluttered_recording_is_the_same_by_any_process_and_again(tmp_path: Path) -> None:
    made = SynthConfig(frames=70, unit_frames=32, views=2, crop_px=64, seed=8, scene=SceneConfig(preset="cluttered"))
    one, two = (synthesise(made, tmp_path / f"{jobs}.zarr", jobs=jobs) for jobs in (1, 2))
    assert one.crops is not None
    assert two.crops is not None
    for name in ("crop", "parts"):
        assert np.array_equal(one.crops.read(name), two.crops.read(name))
    assert replay(two.path, range(20, 45)).identical


def test_presets_and_single_values() -> None:
    assert load_config(SynthConfig, None, []).scene.empty
    desk = load_config(SynthConfig, None, ["scene=desk"]).scene
    assert (desk.background, desk.background_kind, desk.occluder) == (1.0, "desk", 0.0)
    mixed = load_config(SynthConfig, None, ["scene.preset=cluttered", "scene.sleeve=0.1"]).scene
    assert (mixed.sleeve, mixed.second_hand) == (0.1, 0.25)
    # What a recording keeps of its configuration gives the same scene again.
    assert SceneConfig.model_validate(mixed.model_dump(mode="json")) == mixed
    for override, words in (("scene.sleve=1", "known: preset"), ("scene.sleeve=2", "less than or equal to 1"),
                            ("scene=messy", "'none', 'desk' or 'cluttered'")):  # fmt: skip
        with pytest.raises(HandloomError) as caught:
            load_config(SynthConfig, None, [override])
        assert words in str(caught.value)


@pytest.mark.parametrize(
    ("mesh", "volume"),
    [
        (ball(np.array([1.0, 2.0, 3.0]), 10.0), 4 / 3 * np.pi * 1000),
        (cylinder(np.zeros(3), np.array([0.0, 30.0, 0.0]), 5.0), np.pi * 25 * 60),
        (box(np.zeros(3), list(np.diag([1.0, 2.0, 3.0]))), 48.0),
    ],
    ids=["ball", "cylinder", "box"],
)
def test_bodies_are_closed_and_wound_outward(mesh: Mesh, volume: float) -> None:
    edges = np.sort(mesh.faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1)
    assert (np.unique(edges, axis=0, return_counts=True)[1] == 2).all()
    a, b, c = (mesh.vertices[mesh.faces[:, i]] for i in range(3))
    assert np.einsum("fi,fi->", a, np.cross(b, c)) / 6 == pytest.approx(volume, rel=0.05)

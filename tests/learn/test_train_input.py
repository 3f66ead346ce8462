"""Data that a training cannot use, as the user meets it: the whole message, before an image is read."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import numpy as np
import pytest
from click.testing import CliRunner

from handloom.cli import main
from handloom.learn import data as training_data
from handloom.stores.joints import LAYOUTS
from handloom.stores.reading import Resident
from handloom.stores.recording import open_recording

MURAUER = ("-o", "pretrain_steps=2", "-o", "joint_steps=2")
CROSSING = ("-o", "vae_steps=2", "-o", "gan_steps=2", "-o", "align_steps=2", "-o", "joint_steps=2")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, toy: SimpleNamespace) -> Path:
    """Recordings that go together (real, twins, synth) and such that do not."""
    folder = tmp_path_factory.mktemp("input")
    captured: Resident = toy.resident(1, 6, located_mm=8.0)
    rendered: Resident = toy.resident(0, 6)
    assert captured.joints is not None
    assert rendered.joints is not None

    def laid_out(data: Resident, name: str) -> Resident:
        joints = np.resize(data.joints, (len(data), len(LAYOUTS[name]), 3))  # type: ignore[arg-type]
        return replace(data, joints=joints, layout=LAYOUTS[name])

    fingertip = captured.joints.copy()
    fingertip[:, 10] = np.nan
    apart = captured.present.copy()
    apart[:, 1:] = False
    # Nothing is shown to both cameras of any pair.
    one_view: Resident = toy.resident(3, 6, views=1, located_mm=8.0)
    made = {
        "real": captured,
        "synth": rendered,
        "unlabelled": replace(captured, joints=None, layout=None),
        "apart": replace(captured, present=apart, center_source=captured.center_source * apart),
        "fingertip": replace(captured, joints=fingertip),
        "small": replace(captured, crop=captured.crop[..., ::2, ::2].copy()),
        "small_synth": replace(rendered, crop=rendered.crop[..., ::2, ::2].copy()),
        "mano": laid_out(captured, "mano21"),
        "mano_synth": laid_out(rendered, "mano21"),
        "icvl_synth": laid_out(rendered, "icvl16"),
        "mono": one_view,
        "mono_synth": replace(one_view, center_source=one_view.center_source - 1),
        "left": captured,
    }
    for name, data in made.items():
        toy.write(folder / f"{name}.zarr", data, hand="left" if name == "left" else "right")
    others = replace(rendered, twin=captured.frame_id)
    of = open_recording(folder / "real.zarr").uuid
    toy.write(folder / "twins.zarr", others, twins_of=of)
    toy.write(folder / "twins_of_none.zarr", replace(others, twin=captured.frame_id + np.uint64(50)), twins_of=of)
    toy.write(folder / "aliens.zarr", others, twins_of="another")
    return folder


def parses(command: str) -> bool:
    """Whether a command that a message tells to type can be typed."""
    group: click.Command = main
    context = None
    words = shlex.split(command.replace("...", ""))
    assert words.pop(0) == "handloom"
    while isinstance(group, click.Group):
        context = context or click.Context(main)
        found = group.get_command(context, words.pop(0))
        assert found is not None, command
        group = found
    group.make_context(group.name, words)
    return True


CASES: dict[str, tuple[Sequence[str], str]] = {
    # --- one view, and two views that never see the same ---
    "one view, full": (
        ("murauer", "--synth", "synth", "--real", "mono", "--labels", "0"),
        """error: View prediction (--arm full) needs frames seen by at least two cameras
  where: mono.zarr
  why:   the recording has one view
  fix:   take the arm without it: --arm +distribution-matching
""",
    ),
    "one view, +view-prediction": (
        ("murauer", "--arm", "+view-prediction", "--synth", "mono_synth", "--real", "real", "--labels", "0"),
        """error: View prediction (--arm +view-prediction) needs frames seen by at least two cameras
  where: mono_synth.zarr
  why:   the recording has one view
  fix:   take the arm without it: --arm real+synthetic
""",
    ),
    "one view, preview": (
        ("murauer", "--arm", "preview", "--real", "mono"),
        """error: View prediction (--arm preview) needs frames seen by at least two cameras
  where: mono.zarr
  why:   the recording has one view
  fix:   take the arm without it: --arm real-only
""",
    ),
    "never two views of a frame": (
        ("murauer", "--synth", "synth", "--real", "apart", "--labels", "0"),
        """error: There is no image for the sub-batch 'view_real'
  where: the real recording
  why:   no training frame has an image of a located hand from both cameras of a pair
  fix:   look at it: handloom store info
""",
    ),
    "a camera that is not there": (
        ("murauer", "--synth", "synth", "--real", "real", "--labels", "0", "-o", "view_pair=[0,3]"),
        """error: view_pair (0, 3) names a camera the rig does not have
  why:   it has 3, counted from 0
  fix:   -o view_pair=null uses every pair
""",
    ),
    "no unlabelled frame": (
        ("murauer", "--synth", "synth", "--real", "real", "--labels", "0", "-o", "unlabelled_share=0"),
        """error: There is no image for the sub-batch 'view_real'
  where: the real recording
  why:   unlabelled_share = 0 leaves none of its 6 frames
  fix:   -o unlabelled_share=1, or an arm without unlabelled frames: --arm real+synthetic
""",
    ),
    # --- twins ---
    "no twins": (
        ("murauer", "--synth", "synth", "--real", "real"),
        """error: The labelled real frames have no synthetic twins
  where: real.zarr
  why:   the arm 'full' compares each labelled frame with its twin
  fix:   handloom synth twin --real real.zarr --out real-twins.zarr, then give --synth real-twins.zarr as well
""",
    ),
    "twins of other frames": (
        ("murauer", "--synth", "synth", "--synth", "twins_of_none", "--real", "real"),
        """error: None of the labelled frames in use has a twin in the recordings given
  where: twins_of_none.zarr
  fix:   handloom synth twin --real real.zarr --out real-twins.zarr, then give --synth real-twins.zarr as well
""",
    ),
    # --- layouts ---
    "real labels in another layout than asked for": (
        ("murauer", "--arm", "real-only", "--real", "mano", "--layout", "nyu14"),
        """error: Labels in layout 'mano21' cannot train a model of 'nyu14'
  where: mano.zarr
  why:   only the 26 canonical joints (openxr26) convert to other layouts
  fix:   --layout mano21
""",
    ),
    "synthetic labels in another layout than the real ones": (
        (
            "murauer",
            "--arm",
            "real+synthetic",
            "-o",
            "weights.correspondence=0",
            "--synth",
            "mano_synth",
            "--real",
            "real",
        ),
        """error: Labels in layout 'mano21' cannot train a model of 'openxr26'
  where: mano_synth.zarr
  why:   only the 26 canonical joints (openxr26) convert to other layouts
  fix:   --layout mano21
""",
    ),
    "mixed layouts": (
        ("crossing", "--synth", "icvl_synth", "--real", "mano"),
        """error: Labels in layout 'icvl16' cannot train a model of 'mano21'
  where: icvl_synth.zarr
  why:   only the 26 canonical joints (openxr26) convert to other layouts
  fix:   leave recordings out until all have one layout, or openxr26 (mano.zarr: mano21, icvl_synth.zarr: icvl16)
""",
    ),
    "mixed layouts, nearest": (
        ("crossing", "--arm", "nearest", "--synth", "mano_synth", "--real", "real"),
        """error: Labels in layout 'mano21' cannot train a model of 'openxr26'
  where: mano_synth.zarr
  why:   only the 26 canonical joints (openxr26) convert to other layouts
  fix:   --layout mano21
""",
    ),
    "validation in another layout": (
        ("murauer", "--arm", "synthetic-only", "--synth", "synth", "--val", "mano"),
        """error: The validation labels are 'mano21', the model predicts 'openxr26'
  where: --val mano.zarr
  why:   only the 26 canonical joints (openxr26) convert to other layouts
  fix:   --layout mano21, or another --val
""",
    ),
    "validation without labels": (
        ("crossing", "--synth", "synth", "--real", "real", "--val", "unlabelled"),
        """error: The validation recording needs crops and labels
  where: --val unlabelled.zarr
  why:   it has no labels
  fix:   handloom label unlabelled.zarr --select 100 --out labels
""",
    ),
    # --- crops and hands ---
    "crops of another size": (
        ("murauer", "--synth", "synth", "--real", "small", "--labels", "0"),
        """error: The recordings have crops of different sizes
  where: synth.zarr and small.zarr
  why:   192 px and 96 px
  fix:   render synth.zarr again with 'handloom synth run ... -o crop_px=96'
""",
    ),
    "crops of another size, crossing": (
        ("crossing", "--synth", "synth", "--synth", "small_synth", "--real", "real"),
        """error: The recordings have crops of different sizes
  where: small_synth.zarr and real.zarr
  why:   96 px and 192 px
  fix:   render small_synth.zarr again with 'handloom synth run ... -o crop_px=192'
""",
    ),
    "the other hand": (
        ("murauer", "--synth", "synth", "--real", "left", "--labels", "0"),
        """error: The recordings show different hands
  where: synth.zarr and left.zarr
  why:   a right hand and a left one
  fix:   render synth.zarr again with 'handloom synth run ... --side left'; a model is of one hand
""",
    ),
    "the other hand, crossing": (
        ("crossing", "--synth", "synth", "--real", "left"),
        """error: The recordings show different hands
  where: synth.zarr and left.zarr
  why:   a right hand and a left one
  fix:   render synth.zarr again with 'handloom synth run ... --side left'; a model is of one hand
""",
    ),
    # --- Crossing Nets ---
    "paper without a label": (
        ("crossing", "--arm", "paper", "--real", "unlabelled"),
        """error: The arm 'paper' learns from labelled real frames, and there are none to learn from
  where: unlabelled.zarr
  why:   the recording has no labels
  fix:   handloom label unlabelled.zarr --select 100 --out labels; or an arm that learns from synthetic frames: \
--arm full --synth S.zarr
""",
    ),
    "paper with none of the labels": (
        ("crossing", "--arm", "paper", "--real", "real", "--labels", "0"),
        """error: The arm 'paper' learns from labelled real frames, and there are none to learn from
  where: real.zarr
  why:   --labels is 0
  fix:   give --labels a number above 0; or an arm that learns from synthetic frames: --arm full --synth S.zarr
""",
    ),
    "paper without a whole pose": (
        ("crossing", "--arm", "paper", "--real", "fingertip"),
        """error: No labelled frame in use shows a whole pose
  where: layout 'openxr26'
  why:   Crossing Nets learn from frames in which all 26 joints are known
  fix:   label whole hands, or take MURAUER, which learns from single joints too
""",
    ),
    "a latent larger than the pose": (
        ("crossing", "--synth", "synth", "--real", "real", "--layout", "nyu14", "-o", "latent=40"),
        """error: A latent of 40 dimensions is larger than the pose itself
  where: key 'latent'
  why:   the 14 joints of layout 'nyu14' are 39 numbers about the palm
  fix:   -o latent=20
""",
    ),
    "one image to look for": (
        ("crossing", "--arm", "paper-nearest", "--real", "mono", "--labels", "1"),
        """error: A nearest-neighbour search needs at least two labelled images
  where: arm 'paper-nearest'
  why:   there is one
  fix:   give a larger --labels, or --arm nearest with --synth S.zarr
""",
    ),
    # --- labels ---
    "more labels than there are": (
        ("crossing", "--arm", "paper", "--real", "real", "--labels", "7"),
        """error: --labels 7 asks for more labelled frames than there are
  where: real.zarr
  why:   6 of its 6 training frames carry labels and show a hand
  fix:   give a number from 0 to 6
""",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_data_that_do_not_go_together_are_refused_in_words_before_an_image_is_read(
    case: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, expected = CASES[case]
    monkeypatch.chdir(folder)
    load = training_data.load_resident

    def no_images(*args: Any, **options: Any) -> Resident:
        assert options.get("images") is False, "an image was read before the data were known to be good"
        return load(*args, **options)

    monkeypatch.setattr(training_data, "load_resident", no_images)
    words = [
        f"{word}.zarr" if i and given[i - 1] in ("--synth", "--real", "--val") else word for i, word in enumerate(given)
    ]
    steps = () if "nearest" in given[2] or "preview" in given else MURAUER if given[0] == "murauer" else CROSSING
    steps = tuple(
        word for pair in zip(steps[::2], steps[1::2], strict=True) for word in pair if _wanted(given, pair[1])
    )
    done = CliRunner().invoke(main, ["train", *words, *steps, "--run", "run"])
    assert done.stderr == expected
    assert done.exit_code == 2
    assert not Path("run").exists()
    for command in re.findall(r"handloom [^;,']*[^;,' \n]", done.stderr.partition("  fix: ")[2]):
        if "store info" not in command and "synth run" not in command:
            assert parses(command)


def _wanted(given: Sequence[str], override: str) -> bool:
    """Arms without a stage refuse its length."""
    name = override.partition("=")[0]
    return not (name == "pretrain_steps" and "real-only" in given) and not (
        name == "joint_steps" and "synthetic-only" in given
    )


def test_twins_of_another_recording_are_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    words = ["murauer", "--synth", "synth.zarr", "--synth", "aliens.zarr", "--real", "real.zarr", *MURAUER]
    done = CliRunner().invoke(main, ["train", *words, "--run", "run"])
    uuid = open_recording(folder / "real.zarr").uuid
    assert (
        done.stderr
        == f"""error: These twins belong to another recording
  where: aliens.zarr
  why:   their frames are those of another, not of real.zarr ({uuid})
  fix:   handloom synth twin --real real.zarr --out TWINS.zarr
"""
    )
    assert done.exit_code == 2


@pytest.mark.parametrize("method", ["murauer", "crossing"])
def test_labels_that_are_not_used_may_be_in_any_layout(
    method: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A capture with MANO's points, none of them to be used: the conversion of what nobody sees ended in an assert."""
    monkeypatch.chdir(folder)
    words = [method, "--synth", "synth.zarr", "--real", "mano.zarr", "--labels", "0", "-o", "batch=8"]
    steps = MURAUER if method == "murauer" else (*CROSSING, "-o", "vae_batch=8", "-o", "gan_batch=8")
    done = CliRunner().invoke(main, ["train", *words, *steps, "--run", str(tmp_path / "run")], catch_exceptions=False)
    assert done.exit_code == 0, done.output

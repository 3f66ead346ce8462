from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from handloom.cli import main
from handloom.learn.data import load_training_data
from handloom.learn.train import preset
from handloom.stores.errors import HandloomError
from handloom.stores.reading import Resident

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def three_people(tmp_path_factory: pytest.TempPathFactory, toy: SimpleNamespace, captured: Resident) -> Path:
    """A labelled capture of 32 frames, 24 of them for training; person 0, 1, 2 in turns."""
    count = len(captured.crop)
    people = replace(
        captured,
        subject=(np.arange(count) % 3).astype(np.int32),
        split=(np.arange(count) >= 24).astype(np.uint8) * 2,
    )
    path: Path = toy.write(tmp_path_factory.mktemp("people") / "three.zarr", people)
    return path


@pytest.mark.parametrize("method", ["murauer", "crossing"])
def test_nothing_of_a_held_out_person_is_seen(method: str, three_people: Path, captured: Resident) -> None:
    config = preset(method, "quick", "real-only", {"hold_out": 1})
    data = load_training_data(config, synth=[], real=three_people, device=CPU)
    others = np.flatnonzero((np.arange(24) % 3) != 1)
    assert data.real is not None
    assert data.real.frame_id.tolist() == captured.frame_id[others].tolist()
    assert len(data.real.crops) == len(others) * 3, "images as little as labels"
    assert data.n_labels == 16
    assert data.sources["labelled_frames"] == captured.frame_id[others].tolist()


@pytest.mark.parametrize(("labels", "count"), [("2%", 0), ("10%", 2), ("25%", 6), ("12.5%", 3), ("100%", 24)])
@pytest.mark.parametrize("method", ["murauer", "crossing"])
def test_labels_are_a_number_or_a_share_of_those_there_are(
    method: str, labels: str, count: int, three_people: Path
) -> None:
    config = preset(method, "quick", "full" if method == "crossing" else "preview", {"labels": labels})
    data = load_training_data(config, synth=[three_people], real=three_people, device=CPU)
    assert data.n_labels == count


def test_a_smaller_share_lies_inside_a_larger_one_and_a_person_less_takes_its_share_of_the_rest(
    three_people: Path,
) -> None:
    def chosen(**values: object) -> set[int]:
        config = preset("crossing", "quick", "paper", values)
        data = load_training_data(config, synth=[], real=three_people, device=CPU)
        return set(data.sources["labelled_frames"])

    assert chosen(labels="10%") < chosen(labels="25%") < chosen(labels="50%")
    assert len(chosen(labels="50%", hold_out=2)) == 8


@pytest.mark.parametrize(
    ("arm", "hold_out", "words"),
    [
        ("paper", 3, ["shows no person 3", "subject 0, 1, 2"]),
        ("synthetic-only", 1, ["one of the real recording", "leave --hold-out away"]),
    ],
)
def test_who_cannot_be_held_out_is_said(arm: str, hold_out: int, words: list[str], three_people: Path) -> None:
    config = preset("crossing", "quick", arm, {"hold_out": hold_out})
    with pytest.raises(HandloomError) as caught:
        load_training_data(config, synth=[three_people], real=three_people, device=CPU)
    for word in words:
        assert word in str(caught.value)


def test_a_recording_of_one_person_cannot_do_without(tmp_path: Path, toy: SimpleNamespace, captured: Resident) -> None:
    path = toy.write(tmp_path / "one.zarr", captured)
    with pytest.raises(HandloomError, match="Without person 0 the recording has no training frames"):
        load_training_data(preset("crossing", "quick", "paper", {"hold_out": 0}), synth=[], real=path, device=CPU)


def test_the_command_takes_both(three_people: Path, tmp_path: Path, make_run: Callable[..., list[str]]) -> None:
    made = CliRunner().invoke(
        main,
        make_run(three_people, tmp_path / "run", "--labels", "25%", "--hold-out", "2"),
        catch_exceptions=False,
    )
    assert made.exit_code == 0, made.output
    assert len((tmp_path / "run" / "labelled_frames.txt").read_text().split()) == 4
    assert "hold_out: 2\n" in (tmp_path / "run" / "config.yaml").read_text()
    again = CliRunner().invoke(main, make_run(three_people, tmp_path / "run", "--labels", "25%", "--resume"))
    assert again.exit_code == 2
    assert "started with hold_out = 2, now it is None" in again.output
    over = CliRunner().invoke(main, make_run(three_people, tmp_path / "other", "--labels", "150%"))
    assert over.exit_code == 2
    assert "more labelled frames than there are" in over.output


@pytest.fixture
def make_run() -> Callable[..., list[str]]:
    """Arguments of a `handloom train` that takes a second."""

    def arguments(real: Path, run: Path, *rest: str) -> list[str]:
        lengths = {"vae_steps": 1, "align_steps": 1, "joint_steps": 1, "input_px": 32, "channels": 4, "batch": 4}
        sets = [part for name, value in lengths.items() for part in ("-o", f"{name}={value}")]
        command = ["train", "crossing", "--arm", "paper-scratch", "--real", str(real), "--run", str(run)]
        return [*command, "--device", "cpu", *sets, *rest]

    return arguments

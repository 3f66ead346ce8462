"""`train recommend` in different situations: what it chooses, why, and that `train` takes it."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from click.testing import CliRunner, Result

from handloom.cli import main
from handloom.learn import recommend_sets
from handloom.learn.recommend import elsewhere, recommend
from handloom.learn.recommend_sets import Given
from handloom.learn.recommended import took
from handloom.learn.timing import StageTime
from handloom.stores.camera import Camera, Rig
from handloom.stores.errors import HandloomError
from handloom.stores.folder import write_folder
from handloom.stores.reading import Resident

TINY = {
    "murauer": {
        "input_px": 32, "batch": 8,
        "architecture": {"features": "plain", "stem": 4, "channels": [8], "mid": [], "feature_width": 16,
                         "view_channels": [8, 4]},
    },
    "crossing": {"input_px": 32, "channels": 4, "batch": 4, "gan_batch": 4, "vae_batch": 8},
}  # fmt: skip
LARGE = "cores=16,memory=64,gpu=80"
"""A machine with a GPU."""


def run(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


@pytest.fixture
def folder(recordings: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """S, R (24 training frames, all labelled), T (twins of 12), U (unlabelled) where the commands run."""
    monkeypatch.chdir(tmp_path)
    for name, path in {"S": "synth", "R": "real", "T": "twins", "U": "unlabelled"}.items():
        shutil.copytree(getattr(recordings, path), tmp_path / f"{name}.zarr")
    return tmp_path


def recommended(*words: object, machine: str = "cores=2,memory=8") -> dict[str, Any]:
    done = run("train", "recommend", *words, "--machine", machine, "--json", "--out", "config.yaml", "--overwrite")
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.stdout)
    text = Path("config.yaml").read_text()
    assert yaml.safe_load(text) == found["config"]
    assert max(map(len, text.splitlines())) <= 160
    above = re.findall(r"^# (.*)\n(?:# .*\n)*(\w+):", text, re.MULTILINE)
    assert {key for _, key in above} == set(found["config"]), "each key has its reason above it"
    return found


def assert_trains(found: dict[str, Any]) -> None:
    """Paste the last command; only what makes it large is cut."""
    words = shlex.split(found["commands"][-1])
    assert words.pop(0) == "handloom"
    method, arm = found["config"]["method"], found["config"]["arm"]
    few = {key: 1 for key in found["config"] if key.endswith("_steps")} | {"log_every": 1}
    for key, value in (TINY[method] | few).items():
        words += ["-o", f"{key}={json.dumps(value)}"]
    done = run(*words)
    assert done.exit_code == 0, done.output
    made = yaml.safe_load((Path(words[words.index("--run") + 1]) / "config.yaml").read_text())
    assert (made["method"], made["arm"]) == (method, arm)
    kept = set(found["config"]) - set(few) - set(TINY[method])
    assert {key: made[key] for key in kept} == {key: found["config"][key] for key in kept}


@pytest.mark.usefixtures("folder")
def test_synthetic_recordings_alone() -> None:
    found = recommended("--synth", "S.zarr")
    config, why = found["config"], found["reasons"]
    assert (config["method"], config["preset"], config["arm"]) == ("murauer", "quick", "synthetic-only")
    assert why["arm"] == "no capture is given"
    assert "labels" not in config
    assert why["batch"].endswith("one pass over 144 rendered crops takes 4 steps")
    assert why["memory_mb"].startswith("the rendered crops take 10 MiB decoded, there are 8.0 GiB free: all are kept")
    (few, _) = found["notes"]
    assert few["what"].startswith("144 rendered crops are few: each comes 2222 times")
    assert few["command"] == "handloom synth run --config S.zarr --frames 10000 --seed 1 --out more.zarr"
    assert found["commands"] == [
        "handloom train murauer --config config.yaml --synth S.zarr --run runs/synthetic-only"
    ]  # fmt: skip
    assert_trains(found)
    # What lies there now is not written over by the next recommendation.
    assert recommended("--synth", "S.zarr")["commands"][-1].endswith("--run runs/synthetic-only-2")


def test_few_labels_without_twins(folder: Path) -> None:
    found = recommended("--synth", "S.zarr", "--real", "R.zarr", "--labels", "5")
    config, why = found["config"], found["reasons"]
    assert (config["arm"], config["labels"]) == ("full", 5)
    assert why["arm"] == (
        "19 of the 24 training frames of R.zarr carry no label in use, and every frame is seen by two cameras or more"
    )
    assert why["labels"] == "as asked for: 5 of 24 labelled training frames"
    assert why["centers"] == "72 of 72 captured crops lie around centres that a hand finder gave"
    twins, train = found["commands"]
    assert twins == "handloom synth twin --real R.zarr --out R-twins.zarr"
    assert train.endswith("--synth S.zarr --synth R-twins.zarr --real R.zarr --run runs/full")
    shutil.copytree(folder / "T.zarr", folder / "R-twins.zarr")  # a ball-and-stick hand cannot be fitted
    assert_trains(found)
    again = recommended("--synth", "S.zarr", "--real", "R.zarr", "--labels", "5")
    assert len(again["commands"]) == 1, "twins that lie there are taken"
    assert "R-twins.zarr holds twins of R.zarr and was not given: it is taken" in [n["what"] for n in again["notes"]]


@pytest.mark.usefixtures("folder")
def test_many_labels() -> None:
    found = recommended("--synth", "S.zarr", "--synth", "T.zarr", "--real", "R.zarr")
    assert found["config"]["arm"] == "real+synthetic"
    assert found["reasons"]["arm"].startswith("24 of the 24 training frames of R.zarr are labelled")
    assert found["config"]["labels"] is None
    notes = [note["what"] for note in found["notes"]]
    assert "12 of the 24 labelled frames in use have no twin; they go without that loss" in notes
    assert len(found["commands"]) == 1
    assert_trains(found)


@pytest.mark.usefixtures("folder")
def test_no_labels() -> None:
    found = recommended("--synth", "S.zarr", "--real", "U.zarr")
    assert (found["config"]["arm"], found["config"]["labels"]) == ("full", 0)
    label = next(note for note in found["notes"] if "labelled: a hundred" in note["what"])
    assert label["command"] == "handloom label U.zarr --select 100 --out labelling"
    assert_trains(found)


def test_one_camera(folder: Path, toy: SimpleNamespace) -> None:
    toy.write(folder / "one.zarr", toy.resident(5, 6, views=1, located_mm=8.0, labelled=False))
    found = recommended("--synth", "S.zarr", "--real", "one.zarr")
    assert found["config"]["arm"] == "+distribution-matching"
    assert found["reasons"]["arm"].endswith("one.zarr has one camera: there is no other view to predict")
    assert_trains(found)


@pytest.mark.usefixtures("folder")
def test_memory_smaller_than_the_set() -> None:
    found = recommended("--synth", "S.zarr", machine="cores=2,memory=0.02")
    assert found["config"]["memory_mb"] == 6
    assert found["reasons"]["memory_mb"] == (
        "the rendered crops take 10 MiB decoded, there are 20 MiB free: they are read through a pool"
    )
    assert_trains(found)
    data = json.loads(Path("runs/synthetic-only/data.json").read_text())
    assert data["images"] == "pool of 6 MB"


@pytest.mark.usefixtures("folder")
def test_a_gpu() -> None:
    found = recommended("--synth", "S.zarr", machine=LARGE)
    config = found["config"]
    assert (config["preset"], config["device"], config["precision"]) == ("paper", "auto", "auto")
    assert found["reasons"]["preset"] == "there is a GPU; nothing was timed: it is another machine than this"
    assert found["reasons"]["device"] == "takes the GPU: a GPU, 80.0 GiB"
    assert found["seconds"] is None
    assert_trains(found)


def test_crops_that_have_not_the_pixels_for_a_large_network(
    folder: Path, synthetic: Resident, toy: SimpleNamespace
) -> None:
    small = replace(synthetic, crop=synthetic.crop[:, :, ::2, ::2].copy(), k=synthetic.k / 2)
    toy.write(folder / "small.zarr", small)
    found = recommended("--synth", "small.zarr", machine=LARGE)
    assert found["config"]["preset"] == "fast"
    assert found["reasons"]["preset"].startswith("the crops show 300 mm with 64 pixels")


@pytest.mark.usefixtures("folder")
def test_captures_alone() -> None:
    few = recommended("--real", "R.zarr", "--labels", "5")
    assert (few["config"]["method"], few["config"]["arm"]) == ("crossing", "paper")
    assert "19 of the 24 training frames of R.zarr carry no label in use" in few["reasons"]["method"]
    assert "handloom synth run --out S-2.zarr --frames 10000" in [note["command"] for note in few["notes"]]
    assert_trains(few)
    many = recommended("--real", "R.zarr")
    assert (many["config"]["method"], many["config"]["arm"]) == ("murauer", "real-only")
    assert_trains(many)


@pytest.mark.usefixtures("folder")
def test_crossing_nets_when_they_are_asked_for() -> None:
    found = recommended("--synth", "S.zarr", "--real", "R.zarr", "--labels", "5", "--method", "crossing")
    assert found["config"]["arm"] == "full"
    assert set(found["config"]) >= {"vae_steps", "gan_steps", "align_steps", "joint_steps"}
    assert found["reasons"]["method"].startswith("as asked for; ")
    assert_trains(found)


def test_nothing_says_where_joints_are(folder: Path) -> None:
    done = run("train", "recommend", "--real", "U.zarr", "--out", "config.yaml")
    assert done.exit_code == 2
    assert done.stderr.startswith(
        "error: Nothing here says where joints are\n  where: U.zarr\n"
        "  why:   no training frame is labelled, and no synthetic recording but twins is given\n"
        "  fix:   handloom bootstrap U.zarr --out bootstrap "
    )
    assert not (folder / "config.yaml").exists()
    zero = run("train", "recommend", "--real", "R.zarr", "--labels", "0")
    assert "leave --labels away, or give --synth S.zarr" in zero.stderr


def test_two_captures_of_one_rig_are_merged_first(folder: Path, toy: SimpleNamespace) -> None:
    toy.write(folder / "V.zarr", toy.resident(6, 4, located_mm=8.0, labelled=False))
    found = recommended("--synth", "S.zarr", "--real", "U.zarr", "--real", "V.zarr")
    merge, train = found["commands"]
    assert merge == "handloom store merge U.zarr V.zarr --renumber --out merged.zarr"
    assert "10 of the 10 training frames of U.zarr and V.zarr carry no label" in found["reasons"]["arm"]
    done = run(*shlex.split(merge)[1:])
    assert done.exit_code == 0, done.output
    assert " --real merged.zarr " in train
    assert_trains(found)
    toy.write(folder / "one.zarr", toy.resident(5, 6, views=1, located_mm=8.0, labelled=False))
    with pytest.raises(HandloomError, match="different rigs"):
        recommend(Given(synth=(folder / "S.zarr",), real=(folder / "U.zarr", folder / "one.zarr")), elsewhere(LARGE))


def test_a_capture_without_crops_is_located_first(folder: Path) -> None:
    rig = Rig((Camera("a", 32, 24, (30, 30, 16, 12)), Camera("b", 32, 24, (30, 30, 16, 12))))
    images = [(t, view, np.full((24, 32), 500, np.uint16), t, t) for t in range(3) for view in range(2)]
    write_folder(folder / "raw", rig, images, joints={2: np.zeros((26, 3))})
    assert run("capture", "import", "raw", "--out", "raw.zarr").exit_code == 0
    found = recommended("--synth", "S.zarr", "--real", "raw.zarr")
    assert found["commands"][0] == "handloom capture locate raw.zarr"
    assert found["commands"][1] == "handloom synth twin --real raw.zarr --out raw-twins.zarr"
    assert found["reasons"]["centers"] == "the hand is still to be looked for"
    assert any("was not looked for in all frames yet" in note["what"] for note in found["notes"])


def test_validation_frames(folder: Path, captured: Resident, toy: SimpleNamespace) -> None:
    split = np.repeat(np.array([0, 1], np.uint8), [24, 8])
    toy.write(folder / "W.zarr", replace(captured, split=split))
    found = recommended("--synth", "S.zarr", "--real", "W.zarr", "--labels", "0")
    note = next(note for note in found["notes"] if "labelled validation frames" in note["what"])
    assert note["command"] == "handloom store subset W.zarr --split val --out W-val.zarr"
    done = run(*shlex.split(note["command"])[1:])
    assert done.exit_code == 0, done.output
    watched = recommended("--synth", "S.zarr", "--real", "W.zarr", "--labels", "0", "--val", "W-val.zarr")
    assert watched["config"]["val_every"] == 1120
    assert not any("validation" in note["what"] for note in watched["notes"])
    assert_trains(watched)
    people = replace(captured, subject=np.arange(32, dtype=np.int32) % 3, sequence=np.arange(32, dtype=np.int32) // 4)
    toy.write(folder / "X.zarr", people)
    notes = recommended("--synth", "S.zarr", "--real", "X.zarr", "--labels", "0")["notes"]
    keep = next(note for note in notes if "is kept for validation" in note["what"])
    assert run(*shlex.split(keep["command"])[1:]).exit_code == 0
    assert any(note["what"].startswith("3 people are in the training frames") for note in notes)


@pytest.mark.usefixtures("folder")
def test_steps_are_timed_and_shortened_to_the_time_there_is() -> None:
    done = run("train", "recommend", "--synth", "S.zarr", "--hours", "0.001", "--out", "config.yaml")
    assert done.exit_code == 0, done.output
    first, *rest = done.stdout.splitlines()
    assert re.fullmatch(r"config.yaml: MURAUER, arm synthetic-only, preset quick, about \d+ s here", first)
    assert rest[-1] == "next: handloom train murauer --config config.yaml --synth S.zarr --run runs/synthetic-only"
    text = Path("config.yaml").read_text()
    config = yaml.safe_load(text)
    assert 1 <= config["pretrain_steps"] < 10_000
    flowing = text.replace("\n# ", " ")
    assert re.search(r"\d+: a step took [\d.]+ m?s here: \d+ s, of the preset's 10,000", flowing)
    assert re.search(r"Note: quick wants [\d.]+ \w+ here; with --hours 0.001 it is cut short and learns less", flowing)
    assert "quick: the smallest; quick takes about" in flowing
    assert re.search(r"(fp32|bf16): (timed on|the processor has no units)", flowing)
    again = run("train", "recommend", "--synth", "S.zarr", "--no-timing", "--out", "config.yaml")
    assert (again.exit_code, again.stderr.splitlines()[0]) == (2, "error: The output exists already")


@pytest.mark.usefixtures("folder")
def test_without_a_file_it_prints_one() -> None:
    done = run("train", "recommend", "--synth", "S.zarr", "--no-timing")
    assert done.exit_code == 0, done.output
    assert yaml.safe_load(done.stdout)["arm"] == "synthetic-only"
    assert "#   handloom train murauer --config config.yaml --synth S.zarr --run runs/synthetic-only\n" in done.stdout
    assert run("train", "recommend").exit_code == 2


def test_presets_that_do_not_fit_a_gpu_s_memory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fit = ["quick", "fast"]

    def timed(config: Any, **_: Any) -> tuple[StageTime, ...] | None:
        return (StageTime("pretraining", 100, 0.01, 0.01, 5),) if config.preset in fit else None

    monkeypatch.setattr(recommend_sets, "time_stages", timed)
    where = replace(elsewhere("cores=2,memory=8,gpu=4"), untimed="")
    notes: list[str] = []
    found = recommend(Given(synth=(folder / "S.zarr",)), where, tell=notes.append)
    assert found.config["preset"] == "fast"
    why = next(choice.why for choice in found.choices if choice.key == "preset")
    assert why.endswith("quick takes about 1 s, fast takes about 1 s and paper does not fit the GPU's memory here")
    assert notes == ["quick", "fast", "paper"]
    fit.clear()
    with pytest.raises(HandloomError, match="does not hold a step of the smallest preset"):
        recommend(Given(synth=(folder / "S.zarr",)), where)


def test_what_is_known_of_another_machine() -> None:
    where = elsewhere("cores=16,memory=64,gpu=80")
    assert (where.machine.cores, where.machine.free_bytes) == (16, 64 << 30)
    assert where.line() == "16 cores, 64.0 GiB of memory free, a GPU, 80.0 GiB"
    for wrong in ("cores=16", "cores=0,memory=4", "cores=two,memory=4", "cores=2,memory=4,disks=3", "", "gpu=nan"):
        with pytest.raises(HandloomError):
            elsewhere(wrong)


def test_help_fits_eighty_columns() -> None:
    text = CliRunner().invoke(main, ["train", "recommend", "--help"], terminal_width=80).output
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize(
    ("seconds", "said"), [(17.2, "17 s"), (200, "3 minutes"), (12_000, "3.3 hours"), (864_000, "10 days")]
)
def test_lengths_of_time(seconds: float, said: str) -> None:
    assert took(seconds) == said


def test_the_commands_of_notes_can_be_typed_too(folder: Path, make_context: Callable[[str], None]) -> None:
    for words in (
        ("--synth", "S.zarr", "--real", "R.zarr", "--labels", "5"),
        ("--real", "R.zarr"),
        ("--synth", "S.zarr"),
    ):
        found = recommended(*words)
        for command in [*found["commands"], *(note["command"] for note in found["notes"] if note["command"])]:
            make_context(command)


@pytest.fixture
def make_context() -> Callable[[str], None]:
    """Parse a command without running it."""
    import click

    def parse(text: str) -> None:
        words = shlex.split(text)
        assert words.pop(0) == "handloom"
        command: click.Command = main
        while isinstance(command, click.Group):
            found = command.get_command(click.Context(command), words.pop(0))
            assert found is not None, text
            command = found
        command.make_context("handloom", words)

    return parse

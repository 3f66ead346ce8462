"""`handloom bootstrap` from a small capture to a model file, its refusals, and going on after a stop."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from handloom import bootstrap
from handloom.capture.record import record
from handloom.capture.virtual import VirtualConfig, VirtualRig
from handloom.cli import main
from handloom.learn.predict import load
from handloom.stores.camera import Rig, read_rig
from handloom.stores.errors import HandloomError
from handloom.stores.recording import open_recording
from handloom.synth.rigs import ring_rig

SHORT = ("-o", "pretrain_steps=3", "-o", "joint_steps=2", "-o", "batch=4", "--frames", "32", "--jobs", "1")
ORIGIN_MM = np.array([300.0, -50.0, 900.0])


class Elsewhere:
    """A virtual rig that says its origin is far from the hand, as most rigs' origins are."""

    def __init__(self, source: VirtualRig) -> None:
        self._source = source

    @property
    def rig(self) -> Rig:
        return bootstrap.moved(self._source.rig, -ORIGIN_MM)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)


def captured(path: Path, *, views: int) -> Path:
    with VirtualRig(
        VirtualConfig(frames=40, transport="direct", seed=4, jobs=1, scene=False), rig=ring_rig(views)
    ) as source:
        record(Elsewhere(source), path)  # type: ignore[arg-type]
    return path


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["bootstrap", *map(str, arguments)])


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    folder = tmp_path_factory.mktemp("bootstrap")
    return folder, invoke(captured(folder / "R.zarr", views=2), "--out", folder / "run", *SHORT)


def test_a_capture_becomes_a_tracker(done: tuple[Path, Result]) -> None:
    folder, result = done
    assert result.exit_code == 0, result.output
    model = load(folder / "run" / "model.onnx")
    config = model.provenance["config"]
    assert (config["labels"], config["centers"]) == (0, "located")
    assert model.provenance["sources"]["synth"][0]["frames"] == 32
    assert {"sensor.yaml", "noise.html", "rig.toml", "report.html", "report.metrics.jsonl", "synth.zarr"} <= {
        path.name for path in (folder / "run").iterdir()
    }
    assert "nothing suspicious" in result.output
    assert f"next: handloom predict {folder / 'run' / 'model.onnx'} {folder / 'R.zarr'}" in result.output
    assert f"handloom label {folder / 'R.zarr'} --select 100" in result.output


def test_hands_are_rendered_where_the_capture_shows_them(done: tuple[Path, Result]) -> None:
    folder, _ = done
    mine, used = open_recording(folder / "R.zarr").rig, read_rig(folder / "run" / "rig.toml")
    middle, radius = bootstrap.volume_of(open_recording(folder / "R.zarr"))
    assert np.linalg.norm(middle - ORIGIN_MM) < 100
    assert 30 < radius < 250
    for a, b in zip(mine.cameras, used.cameras, strict=True):
        assert a.k == b.k
        np.testing.assert_allclose(a.to_camera(middle), b.to_camera(np.zeros(3)), atol=1e-3)
        np.testing.assert_allclose(a.rotation, b.rotation, atol=1e-6)


def test_the_model_that_agrees_better_is_taken(done: tuple[Path, Result]) -> None:
    _, result = done
    lines = [line.split(": the cameras disagree by ") for line in result.output.splitlines() if "disagree by" in line]
    scores = {name.strip(): float(value.split()[0]) for name, value in lines}
    assert set(scores) == {"synthetic-only", "full"}
    taken = next(line for line in result.output.splitlines() if line.endswith(" is taken")).split()[0]
    assert scores[taken] == min(scores.values())


def test_a_stopped_bootstrap_goes_on(done: tuple[Path, Result], monkeypatch: pytest.MonkeyPatch) -> None:
    folder, _ = done

    def untouched(*_: object, **__: object) -> None:
        raise AssertionError("what is there must not be made again")

    monkeypatch.setattr(bootstrap, "locate", untouched)
    monkeypatch.setattr(bootstrap, "fit_noise", untouched)
    (folder / "run" / "model.onnx").unlink()
    again = invoke(folder / "R.zarr", "--out", folder / "run", *SHORT, "--resume")
    assert again.exit_code == 0, again.output
    assert load(folder / "run" / "model.onnx")


def test_what_is_there_is_not_replaced_unasked(done: tuple[Path, Result], tmp_path: Path) -> None:
    folder, _ = done
    refused = invoke(folder / "R.zarr", "--out", folder / "run")
    assert refused.exit_code == 2
    assert "--resume goes on, --overwrite replaces it" in refused.output
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    refused = invoke(folder / "R.zarr", "--out", tmp_path / "mine", "--overwrite")
    assert refused.exit_code == 2
    assert (tmp_path / "mine" / "thesis.tex").exists()


def test_one_camera_goes_without_views_and_score(tmp_path: Path) -> None:
    result = invoke(captured(tmp_path / "one.zarr", views=1), "--out", tmp_path / "run", *SHORT)
    assert result.exit_code == 0, result.output
    assert "nothing was compared" in result.output
    assert load(tmp_path / "run" / "model.onnx").provenance["config"]["arm"] == "+distribution-matching"


def test_a_synthetic_recording_is_refused(done: tuple[Path, Result], tmp_path: Path) -> None:
    folder, _ = done
    with pytest.raises(HandloomError, match="from a capture"):
        bootstrap.run(
            folder / "run" / "synth.zarr", tmp_path / "out", settings=bootstrap.Settings(seed=0), resume=False,
            overwrite=False, say=lambda _: None,
        )  # fmt: skip
    assert not (tmp_path / "out").exists()

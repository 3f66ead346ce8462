"""`handloom label`: what it chooses, what each frame begins with, what it prints."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn

from handloom.cli import main
from handloom.learn.data import read_frame_ids
from handloom.learn.export import export
from handloom.learn.labelling import prepare
from handloom.learn.model import PoseModel
from handloom.learn.poses import predict_to
from handloom.learn.predict import load
from handloom.stores.errors import HandloomError
from handloom.stores.joints import layout_named
from handloom.stores.reading import Resident
from handloom.stores.recording import open_recording
from handloom.synth.anatomy import SCALE, skeleton

LAYOUT = layout_named("openxr26")
REST_MM = skeleton()[0] * SCALE
SIDE = 16


class Leaning(nn.Module):
    """A hand at rest about the crop's centre, thrown by how much of the crop is hand."""

    def __init__(self, points: int) -> None:
        super().__init__()
        rest = torch.tensor(REST_MM[:points] - REST_MM[0], dtype=torch.float32)
        self.rest = nn.Parameter(rest)

    def forward(self, crops: Tensor) -> Tensor:
        """(B, 1, P, P) -> (B, J, 3) mm."""
        full = (crops[:, 0] < 1).float().mean(dim=(1, 2))
        return self.rest * (1 + full[:, None, None])


def model_file(folder: Path, layout: str = "openxr26") -> Path:
    known = layout_named(layout)
    net = Leaning(len(known))
    export(PoseModel("murauer", "quick", "full", known, "right", SIDE, 300.0, net, net, {}), folder / "m.onnx")
    return folder / "m.onnx"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_file(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def partly(toy: SimpleNamespace, captured: Resident, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """32 captured frames, crops only, the first four labelled."""
    assert captured.joints is not None
    joints = captured.joints.copy()
    joints[4:] = np.nan
    path: Path = toy.write(tmp_path_factory.mktemp("partly") / "r.zarr", replace(captured, joints=joints))
    return path


def data_of(page: Path) -> dict[str, Any]:
    text = page.read_text()
    start = text.index('id="data">') + len('id="data">')
    value: dict[str, Any] = json.loads(text[start : text.index("</script>", start)])
    return value


def prepared(path: Path, out: Path, **options: Any) -> Any:
    return prepare(path, out, **{"select": 6, "frames": None, "rest_mm": REST_MM, "min_score": 0, "seed": 0, **options})


def test_a_model_s_fused_poses_fill_the_page_in(partly: Path, model: Path, tmp_path: Path) -> None:
    done = prepared(partly, tmp_path / "out", model=model)
    assert done.sources == {"labels": 0, "model": 6, "rest": 0}
    assert done.metric == "RMS joint of the model's poses"
    predict_to(load(model), partly, tmp_path / "poses.csv", fused=True)
    with (tmp_path / "poses.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["camera"] == "rig"]
    for frame in data_of(done.page.path)["frames"]:
        mine = [[float(row[c]) for c in ("x_mm", "y_mm", "z_mm")] for row in rows if row["frame"] == frame["id"]]
        assert np.allclose(frame["prefill"], mine, atol=2e-3)
        assert frame["source"] == "model"
        assert all(view["w"] == 192 for view in frame["views"])  # crops are all it keeps


def test_the_same_seed_chooses_the_same_and_never_a_labelled_frame(partly: Path, tmp_path: Path) -> None:
    one, two = prepared(partly, tmp_path / "a"), prepared(partly, tmp_path / "b")
    assert one.page.path.read_bytes() == two.page.path.read_bytes()
    chosen = read_frame_ids(one.page.frames_file)  # as training reads it
    frames = open_recording(partly).frames
    assert frames is not None
    assert not np.isin(chosen, frames.read("frame_id")[:4]).any()
    assert one.selection.labelled_before == 4
    assert data_of(one.page.path)["bones"]["0"][0][0] is not None  # of the four


def test_another_layout(toy: SimpleNamespace, partly: Path, model: Path, tmp_path: Path) -> None:
    with pytest.raises(HandloomError, match="labels are of openxr26, not of nyu14"):
        prepared(partly, tmp_path / "out", layout="nyu14")
    bare = toy.write(tmp_path / "bare.zarr", toy.resident(5, 8, located_mm=8.0, labelled=False))
    done = prepared(bare, tmp_path / "out", layout="nyu14", model=model, select=3)
    seen = data_of(prepared(bare, tmp_path / "o2", model=model, select=3).page.path)["frames"]
    data = data_of(done.page.path)
    assert data["layout"]["points"] == list(layout_named("nyu14").points)
    for mine, canonical in zip(data["frames"], seen, strict=True):
        assert np.allclose(mine["prefill"], layout_named("nyu14").matrix() @ np.array(canonical["prefill"]), atol=1e-2)
    nyu = model_file(tmp_path, "nyu14")
    with pytest.raises(HandloomError, match="only the 26 canonical joints"):
        prepared(bare, tmp_path / "o3", layout="openxr26", model=nyu, select=3)


def test_poses_need_a_model(partly: Path, tmp_path: Path) -> None:
    with pytest.raises(HandloomError, match="--by poses needs a model"):
        prepared(partly, tmp_path / "out", by="poses")


def test_a_frame_without_a_hand_is_refused(toy: SimpleNamespace, tmp_path: Path) -> None:
    data = toy.resident(5, 8, located_mm=8.0, labelled=False)
    data.center_source[3] = 0
    path = toy.write(tmp_path / "r.zarr", data)
    listed = tmp_path / "f.txt"
    listed.write_text("6003\n")
    with pytest.raises(HandloomError, match="not found in frame 6003"):
        prepared(path, tmp_path / "out", select=None, frames=listed)
    listed.write_text("17\n")
    with pytest.raises(HandloomError, match="No frame has the frame_id 17"):
        prepared(path, tmp_path / "out", select=None, frames=listed)


def test_the_command_says_what_it_made(partly: Path, tmp_path: Path) -> None:
    out = tmp_path / "labelling"
    arguments = ["label", str(partly), "--out", str(out), "--select", "8", "--min-score", "0"]
    done = CliRunner().invoke(main, arguments)
    assert (done.exit_code, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    size = (out / "index.html").stat().st_size / 1e6
    assert lines[0] == f"{out}/index.html: 8 frames, 24 images, {size:.1f} MB; 8 begin with a hand at rest"
    assert lines[1] == f"{out}/frames.txt: chosen from 32 frames, beside 4 labelled before"
    assert lines[2] == "  distance to the nearest of them, mm (RMS depth over the crops):"
    assert lines[3] == "  frames half within 90 % within  all within"
    table = np.array([line.split() for line in lines[4:8]], float)
    assert table[:, 0].tolist() == [4, 6, 8, 12]
    assert (np.diff(table[:, 1:], axis=0) <= 0).all()  # more centres come no farther away
    assert (np.diff(table[:, 1:], axis=1) >= 0).all()
    assert lines[8].startswith("  neighbours in time differ by ")
    assert lines[9:] == [
        "open the page in a browser; it works offline and saves joints.csv",
        f"next: handloom store label {partly} --joints joints.csv --merge",
    ]
    assert max(map(len, lines[2:9])) <= 80
    again = CliRunner().invoke(main, arguments)
    assert (again.exit_code, again.stderr) == (
        2,
        f"error: The labelling page exists already\n  where: {out}/index.html\n  fix:   --overwrite replaces it\n",
    )
    neither = CliRunner().invoke(main, ["label", str(partly), "--out", str(out)])
    assert neither.exit_code == 2
    assert "give either --select" in neither.stderr

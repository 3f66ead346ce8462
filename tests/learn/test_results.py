"""Peers' result files: published figures where the data is at hand, every trap on files written here."""

from pathlib import Path

import numpy as np
import pytest

from handloom.learn.results import DATASETS, evaluate_results, read_results, sniff
from handloom.stores.errors import HandloomError

NYU_DATA = Path(__file__).parents[2] / ".." / "shared" / "data" / "nyu"


def some_hands(dataset: str, frames: int = 60, seed: int = 0) -> np.ndarray:
    """(T, J, 3) mm, y as in the data set: blobs of joints that wander through the image."""
    rng = np.random.default_rng(seed)
    joints = len(DATASETS[dataset].layout)
    center = np.stack([rng.uniform(-120, 120, frames), rng.uniform(-80, 80, frames), rng.uniform(500, 800, frames)], 1)
    return center[:, None] + rng.normal(0, 35, (frames, joints, 3))


def to_uvd(xyz: np.ndarray, dataset: str) -> np.ndarray:
    fx, fy, cx, cy = DATASETS[dataset].k
    z = xyz[..., 2]
    return np.stack([xyz[..., 0] / z * fx + cx, xyz[..., 1] / z * fy + cy, z], -1)


def write(path: Path, values: np.ndarray) -> Path:
    np.savetxt(path, values.reshape(len(values), -1), fmt="%.4f")
    return path


@pytest.mark.skipif(not NYU_DATA.is_dir(), reason="the NYU truth and peers' files are not at ../shared/data/nyu")
@pytest.mark.parametrize(
    ("file", "kind", "mean_mm"),
    [("ren_9x6x6_uvd.txt", "uvd", 12.694), ("murauer_n100_xyz.txt", "xyz", 12.17)],
)
def test_published_figures(file: str, kind: str, mean_mm: float):
    metrics, notes = evaluate_results(
        NYU_DATA / "results" / file, NYU_DATA / "test_14_joints_uvd.txt", DATASETS["nyu"], seed=0
    )
    assert metrics.mean_mm == pytest.approx(mean_mm, abs=0.005 if mean_mm == 12.17 else 0.0005)
    assert (metrics.images, metrics.missed) == (8252, 0)
    assert metrics.interval.unit == "blocks of 100 frames"
    assert notes == (f"read as: prediction {kind}, truth uvd",)


@pytest.mark.parametrize("dataset", ["nyu", "icvl", "msra"])
@pytest.mark.parametrize("kinds", [("uvd", "uvd"), ("uvd", "xyz"), ("xyz", "uvd"), ("xyz", "xyz")])
def test_any_mix_of_uvd_and_xyz_gives_the_same_error(tmp_path: Path, dataset: str, kinds: tuple[str, str]):
    truth = some_hands(dataset)
    prediction = truth + np.array([3.0, 0.0, 4.0])
    files = []
    for name, values, kind in (("p.txt", prediction, kinds[0]), ("t.txt", truth, kinds[1])):
        files.append(write(tmp_path / name, to_uvd(values, dataset) if kind == "uvd" else values))
    metrics, notes = evaluate_results(*files, DATASETS[dataset], seed=0)
    assert metrics.mean_mm == pytest.approx(5.0, abs=0.01)
    assert notes[-1] == f"read as: prediction {kinds[0]}, truth {kinds[1]}"
    assert not any("warning" in note for note in notes)


def test_a_flipped_y_is_a_warning_that_names_it(tmp_path: Path):
    truth = some_hands("nyu") + np.array([0, 100, 0])
    flipped = (truth + np.array([0, 0, 5])) * [1, -1, 1]
    metrics, notes = evaluate_results(
        write(tmp_path / "p.txt", flipped),
        write(tmp_path / "t.txt", to_uvd(truth, "nyu")),
        DATASETS["nyu"],
        seed=0,
    )
    assert metrics.mean_mm > 100, "a flipped file is reported, not mended"
    (warning,) = [n for n in notes if n.startswith("warning")]
    assert "y is flipped" in warning
    assert "5.0 mm" in warning


def test_a_hand_in_the_positive_quadrant_is_told_apart_by_the_error(tmp_path: Path):
    truth = np.abs(some_hands("icvl")) + np.array([50, 50, 0])
    path = write(tmp_path / "p.txt", truth + 1.0)
    assert sniff(truth) == "uvd"
    metrics, notes = evaluate_results(path, write(tmp_path / "t.txt", to_uvd(truth, "icvl")), DATASETS["icvl"], seed=0)
    assert metrics.mean_mm == pytest.approx(3**0.5, abs=0.01)
    assert "agrees with the truth as xyz" in " ".join(notes)


def test_a_forced_kind_is_obeyed(tmp_path: Path):
    truth = some_hands("icvl")
    path = write(tmp_path / "p.txt", to_uvd(truth, "icvl"))
    assert read_results(path, DATASETS["icvl"], kind="xyz").joints_mm == pytest.approx(to_uvd(truth, "icvl"), abs=1e-4)


def test_another_number_of_lines_names_both(tmp_path: Path):
    truth = some_hands("nyu")
    with pytest.raises(HandloomError, match="The prediction has 59 lines, the truth 60"):
        evaluate_results(
            write(tmp_path / "p.txt", truth[:-1]), write(tmp_path / "t.txt", truth), DATASETS["nyu"], seed=0
        )


def test_another_number_of_columns_names_both_and_the_data_set_it_fits(tmp_path: Path):
    path = write(tmp_path / "p.txt", some_hands("icvl"))
    with pytest.raises(HandloomError) as caught:
        read_results(path, DATASETS["nyu"])
    assert caught.value.what == "A line has 48 numbers, nyu needs 42"
    assert caught.value.where.endswith("line 1")
    assert caught.value.fix == "--dataset icvl"


def test_one_short_line_is_found(tmp_path: Path):
    path = write(tmp_path / "p.txt", some_hands("nyu", frames=5))
    lines = path.read_text().splitlines()
    lines[3] = " ".join(lines[3].split()[:-1])
    path.write_text("\n".join(lines))
    with pytest.raises(HandloomError) as caught:
        read_results(path, DATASETS["nyu"])
    assert caught.value.where.endswith("line 4")
    assert "41 numbers" in caught.value.what


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "no lines"),
        (" ".join(["1"] * 41 + ["x"]), "number"),
        (" ".join(["1"] * 41 + ["nan"]), "not finite"),
    ],
)
def test_files_that_are_no_results(tmp_path: Path, text: str, what: str):
    path = tmp_path / "p.txt"
    path.write_text(text)
    with pytest.raises(HandloomError, match=what):
        read_results(path, DATASETS["nyu"])


def test_missing_and_binary_files(tmp_path: Path):
    with pytest.raises(HandloomError, match="cannot be read"):
        read_results(tmp_path / "none.txt", DATASETS["nyu"])
    (tmp_path / "b.txt").write_bytes(bytes(range(256)))
    with pytest.raises(HandloomError, match="cannot be read"):
        read_results(tmp_path / "b.txt", DATASETS["nyu"])


def test_thirty_six_points_are_cut_to_fourteen(tmp_path: Path):
    values = np.random.default_rng(0).uniform(100, 700, (4, 36, 3))
    found = read_results(write(tmp_path / "p.txt", values), DATASETS["nyu"], kind="xyz")
    assert found.joints_mm.shape == (4, 14, 3)
    assert found.joints_mm[:, 1] == pytest.approx(values[:, 3], abs=1e-4)
    assert "36" in found.notes[0]


def test_an_image_name_before_the_numbers_is_skipped(tmp_path: Path):
    uvd = to_uvd(some_hands("icvl", frames=2), "icvl")
    path = tmp_path / "labels.txt"
    path.write_text(
        "\n".join(f"test_seq_1/image_{i}.png " + " ".join(map(str, row.ravel())) for i, row in enumerate(uvd))
    )
    assert read_results(path, DATASETS["icvl"]).joints_mm.shape == (2, 16, 3)


def test_msra_joint_files_look_the_other_way(tmp_path: Path):
    truth = some_hands("msra")
    own = write(tmp_path / "p.txt", truth * [1, -1, -1])
    found = read_results(own, DATASETS["msra"])
    assert found.kind == "xyz"
    assert found.joints_mm == pytest.approx(truth, abs=1e-4)

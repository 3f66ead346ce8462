"""Peers' result files: published figures where the data is at hand, every trap on files written here."""

import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from handloom.cli import main
from handloom.learn.result_files import DATASETS, read_results, sniff
from handloom.learn.results import Stated, compare_results, evaluate_results
from handloom.stores.errors import HandloomError
from handloom.stores.joints import NYU14_OF_36

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
    found = evaluate_results(NYU_DATA / "results" / file, NYU_DATA / "test_14_joints_uvd.txt", DATASETS["nyu"], seed=0)
    assert found.metrics.mean_mm == pytest.approx(mean_mm, abs=0.005 if mean_mm == 12.17 else 0.0005)
    assert (found.metrics.images, found.metrics.missed) == (8252, 0)
    assert found.metrics.interval.unit == "blocks of 100 frames"
    assert found.notes == (f"read as: prediction {kind}, truth uvd",)


@pytest.mark.parametrize("dataset", ["nyu", "icvl", "msra"])
@pytest.mark.parametrize("kinds", [("uvd", "uvd"), ("uvd", "xyz"), ("xyz", "uvd"), ("xyz", "xyz")])
def test_any_mix_of_uvd_and_xyz_gives_the_same_error(tmp_path: Path, dataset: str, kinds: tuple[str, str]):
    truth = some_hands(dataset)
    prediction = truth + np.array([3.0, 0.0, 4.0])
    files = []
    for name, values, kind in (("p.txt", prediction, kinds[0]), ("t.txt", truth, kinds[1])):
        files.append(write(tmp_path / name, to_uvd(values, dataset) if kind == "uvd" else values))
    found = evaluate_results(*files, DATASETS[dataset], seed=0)
    assert found.metrics.mean_mm == pytest.approx(5.0, abs=0.01)
    assert found.notes[-1] == f"read as: prediction {kinds[0]}, truth {kinds[1]}"
    assert not any("warning" in note for note in found.notes)


def test_a_flipped_y_is_a_warning_that_names_it(tmp_path: Path):
    truth = some_hands("nyu") + np.array([0, 100, 0])
    flipped = (truth + np.array([0, 0, 5])) * [1, -1, 1]
    found = evaluate_results(
        write(tmp_path / "p.txt", flipped),
        write(tmp_path / "t.txt", to_uvd(truth, "nyu")),
        DATASETS["nyu"],
        seed=0,
    )
    assert found.metrics.mean_mm > 100, "a flipped file is reported, not mended"
    (warning,) = [n for n in found.notes if n.startswith("warning")]
    assert "y is flipped" in warning
    assert "5.0 mm" in warning


def test_a_hand_in_the_positive_quadrant_is_told_apart_by_the_error(tmp_path: Path):
    truth = np.abs(some_hands("icvl")) + np.array([50, 50, 0])
    path = write(tmp_path / "p.txt", truth + 1.0)
    assert sniff(truth) == "uvd"
    found = evaluate_results(path, write(tmp_path / "t.txt", to_uvd(truth, "icvl")), DATASETS["icvl"], seed=0)
    assert found.metrics.mean_mm == pytest.approx(3**0.5, abs=0.01)
    assert "agrees with the truth as xyz" in " ".join(found.notes)


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


def test_joints_in_another_order_are_a_warning_that_names_the_order(tmp_path: Path):
    truth = some_hands("icvl")
    theirs = [0, *range(13, 16), *range(1, 13)]  # the little finger first
    path = write(tmp_path / "p.txt", to_uvd(truth[:, theirs] + np.array([2.0, 0, 0]), "icvl"))
    found = evaluate_results(path, write(tmp_path / "t.txt", to_uvd(truth, "icvl")), DATASETS["icvl"], seed=0)
    assert found.metrics.mean_mm > 20, "reported, not mended"
    (warning,) = [note for note in found.notes if note.startswith("warning")]
    assert "another order" in warning
    assert "2.0 mm with 15 of 16 joints exchanged (thumb_root is joint 5 of its lines, not 2)" in warning
    assert "icvl's order: palm, thumb_root, thumb_mid, thumb_tip, index_root" in warning


def test_a_bad_model_is_not_taken_for_another_order(tmp_path: Path):
    truth = some_hands("icvl")
    bad = truth + np.random.default_rng(5).normal(0, 25, truth.shape)
    found = evaluate_results(write(tmp_path / "p.txt", bad), write(tmp_path / "t.txt", truth), DATASETS["icvl"], seed=0)
    assert found.metrics.mean_mm > 30
    assert not any(note.startswith("warning") for note in found.notes)


def test_metres_are_a_warning(tmp_path: Path):
    truth = some_hands("msra")
    path = tmp_path / "p.txt"
    np.savetxt(path, (truth / 1000).reshape(len(truth), -1))
    found = evaluate_results(path, write(tmp_path / "t.txt", truth), DATASETS["msra"], seed=0)
    (warning,) = [note for note in found.notes if note.startswith("warning")]
    assert "metres, not mm?" in warning


def test_nyu_pixels_use_a_negative_fy():
    """A point above the axis (v < 240) has a positive y in NYU's xyz files."""
    x, y, z = DATASETS["nyu"].to_xyz(np.array([320.0, 140.0, 587.07]))
    assert (x, y, z) == pytest.approx((0, 100, 587.07))
    assert DATASETS["icvl"].to_xyz(np.array([160.0, 20.0, 240.96]))[1] == pytest.approx(-100)


def test_msra_joint_files_as_published(tmp_path: Path):
    """A count, then lines with y up and z negative; several files one after the other; a count that lies."""
    truth = some_hands("msra", frames=7)
    theirs = truth * [1, -1, -1]
    lines = [" ".join(f"{value:.3f}" for value in frame.ravel()) for frame in theirs]
    path = tmp_path / "joint.txt"
    path.write_text("\n".join(["4", *lines[:4], "3", *lines[4:]]) + "\n")
    found = read_results(path, DATASETS["msra"])
    assert found.kind == "xyz"
    assert found.joints_mm == pytest.approx(truth, abs=1e-3)
    assert "negative depths" in found.notes[0]
    for text, why in (
        (["8", *lines], "7 lines; a count promises 8"),
        (["4", *lines[:3]], "3 lines; a count promises 4"),
    ):
        path.write_text("\n".join(text))
        with pytest.raises(HandloomError, match="another number of lines than it says") as caught:
            read_results(path, DATASETS["msra"])
        assert caught.value.why == why


def test_negative_depths_of_a_hand_in_one_quadrant_are_xyz(tmp_path: Path):
    truth = np.abs(some_hands("msra")) + np.array([20, 20, 0])
    path = write(tmp_path / "p.txt", truth * [1, -1, -1])
    assert read_results(path, DATASETS["msra"]).joints_mm == pytest.approx(truth, abs=1e-3)


def test_arrays_for_truth(tmp_path: Path):
    truth = some_hands("nyu")
    wide = np.full((len(truth), 36, 3), 1.0)
    wide[:, list(NYU14_OF_36)] = to_uvd(truth, "nyu")
    np.savez(tmp_path / "t.npz", u=wide[..., 0], v=wide[..., 1], d=wide[..., 2])
    found = evaluate_results(write(tmp_path / "p.txt", truth), tmp_path / "t.npz", DATASETS["nyu"], seed=0)
    assert found.metrics.mean_mm == pytest.approx(0, abs=1e-3)
    assert (found.kind, found.truth_kind) == ("xyz", "uvd")
    np.savez(tmp_path / "x.npz", xyz=truth)
    assert read_results(tmp_path / "x.npz", DATASETS["nyu"]).joints_mm == pytest.approx(truth)
    for arrays in ({"xyz": truth[:, :5]}, {"u": truth[..., 0]}, {}, {"xyz": truth[..., None]}, {"xyz": truth[:0]}):
        np.savez(tmp_path / "w.npz", **arrays)
        with pytest.raises(HandloomError, match="no arrays of nyu's joints"):
            read_results(tmp_path / "w.npz", DATASETS["nyu"])
    np.savez(tmp_path / "w.npz", xyz=truth.astype(str))
    with pytest.raises(HandloomError, match="Not everything"):
        read_results(tmp_path / "w.npz", DATASETS["nyu"])


def test_commas_and_frame_numbers_are_named(tmp_path: Path):
    truth = some_hands("icvl", frames=3)
    path = tmp_path / "p.txt"
    np.savetxt(path, truth.reshape(3, -1), delimiter=",")
    with pytest.raises(HandloomError) as caught:
        read_results(path, DATASETS["icvl"])
    assert caught.value.why == "its numbers are parted by commas"
    np.savetxt(path, np.column_stack([np.arange(3), truth.reshape(3, -1)]))
    with pytest.raises(HandloomError) as caught:
        read_results(path, DATASETS["icvl"])
    assert caught.value.what == "A line has 49 numbers, icvl needs 48"
    assert "take away the frame's number" in caught.value.fix


def test_what_editors_do_is_no_mistake(tmp_path: Path):
    truth = some_hands("icvl", frames=4)
    path = write(tmp_path / "p.txt", truth)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n") + b"\r\n \r\n")
    assert read_results(path, DATASETS["icvl"]).joints_mm == pytest.approx(truth, abs=1e-4)


def test_the_parts_of_the_published_test_sets(tmp_path: Path):
    """NYU's two people and ICVL's two sequences, known by the number of lines."""
    for dataset, name, counts in (("nyu", "subject", (2440, 5812)), ("icvl", "sequence", (702, 894))):
        frames = sum(counts)
        truth = some_hands(dataset, frames=frames)
        prediction = truth.copy()
        prediction[counts[0] :] += [0, 0, 8]
        path = write(tmp_path / "p.txt", prediction)
        found = evaluate_results(path, write(tmp_path / "t.txt", truth), DATASETS[dataset], seed=0)
        first, second = found.metrics.parts[name]
        assert (first.images, second.images) == counts
        assert (first.mean_mm, second.mean_mm) == pytest.approx((0, 8), abs=1e-3)
    assert DATASETS["nyu"].part_of(100) is None


def test_what_a_file_does_not_say_can_be_stated(tmp_path: Path):
    truth = some_hands("icvl", frames=4)
    files = write(tmp_path / "p.txt", truth), write(tmp_path / "t.txt", truth)
    unknown = evaluate_results(*files, DATASETS["icvl"], seed=0)
    assert unknown.stated.lines()[0] == "center = unknown: a result file does not say"
    assert [unknown.to_dict()[name] for name in ("center", "n_labels", "label_seed", "chosen_by")] == [None] * 4
    stated = Stated(n_labels=100, label_seed=3, center="gt", chosen_by="1000 validation frames")
    found = evaluate_results(*files, DATASETS["icvl"], seed=0, stated=stated)
    assert found.stated.lines() == ["center = gt", "labels = 100 (drawn by seed 3)", "chosen by 1000 validation frames"]


def test_two_files_against_one_truth(tmp_path: Path):
    truth = some_hands("nyu", frames=400)
    rng = np.random.default_rng(0)
    hard = rng.normal(0, 10, truth.shape)
    paths = [
        write(tmp_path / "a.txt", to_uvd(truth + hard, "nyu")),
        write(tmp_path / "b.txt", truth + 1.2 * hard),
        write(tmp_path / "c.txt", truth + hard[::-1]),
    ]
    found, differences = compare_results(paths, write(tmp_path / "t.txt", truth), DATASETS["nyu"], seed=0)
    assert [one.kind for one in found] == ["uvd", "xyz", "xyz"]
    first, second = differences
    assert first.sure
    assert first.difference_mm == pytest.approx(found[0].metrics.mean_mm - found[1].metrics.mean_mm)
    assert first.a_better > 0.95
    assert not second.sure
    done = CliRunner().invoke(
        main, ["eval", "compare", *map(str, paths[:2]), "--truth", str(tmp_path / "t.txt"), "--dataset", "nyu"]
    )
    assert done.exit_code == 0, done.output
    assert "is better than" in done.output
    assert "center = unknown: a result file does not say" in done.output


def test_result_files_have_a_page_too(tmp_path: Path):
    """NYU's y points up: a picture of it has the higher joint above."""
    truth = some_hands("nyu")
    truth[:, 0] = truth[:, DATASETS["nyu"].layout.palm] + (0.0, 90.0, 0.0)
    paths = [write(tmp_path / "t.txt", truth)]
    for name, error in (("<a>.txt", 3.0), ("b.txt", 6.0)):
        missed = truth + np.array([error, 0.0, 0.0])
        paths.append(write(tmp_path / name, missed))
    page = tmp_path / "page.html"
    asked = ["--truth", str(paths[0]), "--dataset", "nyu", "--report", str(page)]
    done = CliRunner().invoke(main, ["eval", "results", str(paths[1]), *asked])
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines()[-1] == f"{page}: the same as a page, with pictures"
    html = page.read_text(encoding="utf-8")
    assert "<h1>&lt;a&gt;.txt</h1>" in html
    assert "Mean joint error: 3.00 mm (60 images" in html
    dots = re.findall(r'stroke="#cc79a7" stroke-width="[\d.]+"/></g>', html)
    assert len(dots) == 10, "five frames, the truth and the file"
    little = re.findall(r'<path d="(M[\d. ]+h0)', html)
    first = [float(x) for x in little[0][1:-2].split()]
    assert first[1] == pytest.approx(64 - 90 * 128 / 300, abs=0.1), "above the middle"
    assert CliRunner().invoke(main, ["eval", "results", str(paths[1]), *asked]).exit_code == 2, "it is there already"
    done = CliRunner().invoke(main, ["eval", "compare", *map(str, paths[1:]), *asked, "--overwrite"])
    assert done.exit_code == 0, done.output
    html = page.read_text(encoding="utf-8")
    assert "&lt;a&gt;.txt against b.txt: &lt;a&gt;.txt is better than b.txt by 3.00 mm" in html
    assert "at each joint (mm) on a drawn hand" in html


@pytest.mark.parametrize("kind", ["<f4", "<f2"])
def test_signalling_nans_are_not_finite_and_no_warning(tmp_path: Path, kind: str):
    arrays = {name: np.full((4, 36), 300, kind) for name in "uvd"}
    signalling = np.array([0x7FA0_0000], "<u4").view("<f4") if kind == "<f4" else np.array([0x7D00], "<u2").view("<f2")
    arrays["d"][2, 3:4] = signalling
    np.savez(tmp_path / "t.npz", **arrays)
    with pytest.raises(HandloomError, match="not finite"):
        read_results(tmp_path / "t.npz", DATASETS["nyu"])

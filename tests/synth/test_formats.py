"""Hands into files and back: the same to the bit, and nothing but a plain error from a file that is none."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from handloom.cli import main
from handloom.stores.config import load_config
from handloom.stores.errors import HandloomError
from handloom.synth.anatomy import builtin_hand
from handloom.synth.config import SynthConfig
from handloom.synth.formats import hand_of, open_hand, save_hand
from handloom.synth.generate import synthesise
from handloom.synth.hand import DOFS, RiggedHand, mirror
from handloom.synth.handfile import ARRAYS, GIVE, arrays_of, digest


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


def same(one: RiggedHand, other: RiggedHand) -> None:
    """Equal to the bit, kinds of numbers as well."""
    assert (one.name, one.side, one.dof) == (other.name, other.side, other.dof)
    before, after = arrays_of(one), arrays_of(other)
    assert before.keys() == after.keys()
    for name in before:
        assert before[name].dtype == after[name].dtype, name
        assert np.array_equal(before[name], after[name]), name


@pytest.fixture(scope="module")
def stiff() -> RiggedHand:
    """A left hand whose first knuckle is stiffer than the kit's."""
    dof = tuple(replace(d, high_rad=1.0) if d.name == "index_mcp_flexion" else d for d in DOFS)
    return replace(mirror(builtin_hand()), name="mine", dof=dof)


def npz(path: Path, **changed: object) -> Path:
    """The built-in hand's archive with entries changed (None leaves one out), its checksum made to fit."""
    save_hand(builtin_hand(), path, overwrite=True)
    with np.load(io.BytesIO(path.read_bytes())) as file:
        entries = dict(file.items())
    entries |= {name: np.asarray(value) for name, value in changed.items() if value is not None}
    entries = {name: array for name, array in entries.items() if name not in changed or changed[name] is not None}
    if "sha256" not in changed:
        entries["sha256"] = np.array(digest({name: entries[name] for name in (*ARRAYS, *GIVE) if name in entries}))
    np.savez(path, **entries)
    return path


def test_an_archive_gives_back_the_same_hand(stiff: RiggedHand, tmp_path: Path) -> None:
    save_hand(stiff, tmp_path / "h.npz")
    same(stiff, open_hand(str(tmp_path / "h.npz")).hand)
    with pytest.raises(HandloomError, match="exists already"):
        save_hand(stiff, tmp_path / "h.npz")
    with pytest.raises(HandloomError, match="No hand is written under this name"):
        save_hand(stiff, tmp_path / "h.stl")


def test_an_archive_without_correctives_is_a_hand_without(tmp_path: Path) -> None:
    path = npz(tmp_path / "h.npz", **dict.fromkeys(GIVE))
    assert open_hand(str(path)).hand.correctives is None


def test_an_archive_that_is_no_hand_says_why(tmp_path: Path) -> None:
    arrays = arrays_of(builtin_hand())
    holed, inward = arrays["faces"][1:], arrays["faces"][:, ::-1]
    nan = arrays["vertices"].copy()
    nan[3, 1] = np.nan
    weak = arrays["bone_weight"] * np.float32(0.9)
    for changed, words in (
        ({"faces": holed, "parts": arrays["parts"][1:]}, "the mesh is not closed: 3 open edges"),
        ({"faces": inward}, "wound inward"),
        ({"vertices": nan}, "'vertices' has values that are not finite"),
        ({"bone_weight": weak}, "do not sum to 1"),
        ({"bone_index": arrays["bone_index"] + 40}, "'bone_index' has numbers beyond"),
        ({"joints": None}, "'joints' is missing"),
        ({"joints": arrays["joints"][:21]}, "'joints' has shape (21, 3) and not (26, 3)"),
        ({"frames": arrays["frames"] * 2}, "frames are not rotations"),
        ({"vertices": arrays["vertices"] / 1000}, "mm from the wrist"),
        ({"give_dof": None}, "'give_dof' is missing"),
        ({"give_dof": arrays["give_dof"] + 25}, "'give_dof' has numbers beyond 24"),
        ({"give_function": arrays["give_function"] + 1}, "'give_function' has numbers beyond 1"),
        ({"give_offset": arrays["give_offset"][:, :-1]}, "'give_offset' has shape"),
        ({"side": "both"}, "neither right nor left"),
        ({"version": 99}, "its version is 99"),
        ({"format": "other"}, "something else than a hand"),
        ({"sha256": "0" * 64}, "checksum does not fit"),
        ({"name": np.array([object()], object)}, "Python objects"),
    ):
        path = npz(tmp_path / "h.npz", **changed)
        with pytest.raises(HandloomError) as caught:
            open_hand(str(path))
        assert words in str(caught.value)
        assert str(path) in str(caught.value)


def test_a_header_that_promises_more_than_is_there_costs_no_memory(tmp_path: Path) -> None:
    import zipfile

    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (1 << 40,)})
    with zipfile.ZipFile(tmp_path / "h.npz", "w") as archive:
        archive.writestr("format.npy", header.getvalue() + b"\0" * 64)
    with pytest.raises(HandloomError, match="cannot be read") as caught:
        open_hand(str(tmp_path / "h.npz"))
    assert "is cut off" in str(caught.value)


def test_what_is_no_hand_at_all(tmp_path: Path) -> None:
    (tmp_path / "h.npz").write_bytes(b"glTF, not an archive")
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    for source, words in (
        (tmp_path / "none.npz", "No such file"),
        (tmp_path / "h.npz", "not a zip file"),
        (tmp_path / "other.npz", "its arrays: a"),
        ("hand.stl", "known: builtin, or a file that ends in"),
    ):
        with pytest.raises(HandloomError) as caught:
            open_hand(str(source))
        assert words in str(caught.value)


def test_a_configuration_names_hand_and_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_hand(builtin_hand(), Path("h.npz"))
    config = load_config(SynthConfig, None, ["hand=h.npz", "side=left"])
    assert config.hand == str(tmp_path / "h.npz")
    assert SynthConfig.model_validate(config.model_dump(mode="json")) == config
    found = hand_of(config)
    assert found.hand.side == "left"
    same(mirror(found.hand), builtin_hand())
    with pytest.raises(HandloomError, match="'hand' is not valid") as caught:
        load_config(SynthConfig, None, ["hand=left"])
    assert "side=left" in str(caught.value)


def test_resuming_notices_another_hand_under_the_same_name(stiff: RiggedHand, tmp_path: Path) -> None:
    file = tmp_path / "h.npz"
    save_hand(builtin_hand(), file)
    config = SynthConfig(frames=8, unit_frames=32, views=1, crop_px=32, sensor="none", hand=str(file))
    made = synthesise(config, tmp_path / "s.zarr", jobs=1)
    assert made.provenance["hand"]["sha256"] == open_hand(str(file)).sha256
    save_hand(stiff, file, overwrite=True)
    with pytest.raises(HandloomError, match="begun with another hand"):
        synthesise(config, tmp_path / "s.zarr", jobs=1, resume=True)


def test_commands_say_what_a_hand_is_and_write_it(tmp_path: Path) -> None:
    out = tmp_path / "h.npz"
    done = run("hand", "export", "--side", "left", "--out", out)
    count = len(builtin_hand().vertices)
    assert done.stdout == (
        f"{out}: left hand, {count} vertices\n"
        f"next: handloom hand show --hand {out}\n  or: handloom synth run --out S.zarr --hand {out} --side left\n"
    )
    lines = run("hand", "show", "--hand", out).stdout.splitlines()
    assert lines[0] == f"hand           {out}, left"
    assert lines[1].startswith(f"mesh           {count} vertices, {len(builtin_hand().faces)} triangles, closed, ")
    assert lines[2:] == [
        lines[2],
        "forearm        yes",
        f"next: handloom synth run --out S.zarr --hand {out} --side left",
    ]
    facts = json.loads(run("hand", "show", "--json").stdout)
    assert (facts["side"], facts["closed"], facts["forearm"], facts["notes"]) == ("right", True, True, [])
    assert 150 < facts["wrist_to_middle_tip_mm"] < 200
    again = run("hand", "export", "--out", out)
    assert again.stderr == f"error: The output exists already\n  where: {out}\n  fix:   --overwrite replaces it\n"

"""MANO's files, of exactly its layout: read as data, brought to the kit's hand; and what a pickle may not do."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from handloom.stores.errors import HandloomError
from handloom.stores.joints import LAYOUTS, OPENXR26
from handloom.synth.anatomy import builtin_hand
from handloom.synth.formats import open_hand
from handloom.synth.hand import landmarks, mirror
from handloom.synth.plain_pickle import Kept, plain, read_pickle

from hand_writers import MANO_TIPS, mano, mano_pickle


@pytest.fixture(scope="module")
def entries() -> dict[str, np.ndarray]:
    return mano(builtin_hand())


def refused(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    with pytest.raises(HandloomError) as caught:
        open_hand(str(path))
    assert str(path) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("protocol", [0, 1, 2, 4])
def test_the_pickle_gives_the_hand_it_was_made_from(
    protocol: int, entries: dict[str, np.ndarray], tmp_path: Path
) -> None:
    light = {name: array for name, array in entries.items() if name not in ("posedirs", "shapedirs")}
    light |= {"posedirs": np.zeros((778, 3, 1)), "shapedirs": entries["shapedirs"][:, :, :1]}
    (tmp_path / "MANO_RIGHT.pkl").write_bytes(mano_pickle(light, protocol=protocol))
    found = open_hand(str(tmp_path / "MANO_RIGHT.pkl"))
    hand, truth = found.hand, builtin_hand()
    assert hand.side == "right"
    away = np.linalg.norm(hand.joints - truth.joints, axis=1)
    # MANO's tips lie on the skin, the kit's at the end of the bone.
    tips = np.array([name.endswith("tip") for name in OPENXR26])
    assert away[~tips].max() < 1.5, dict(zip(OPENXR26, away.round(1).tolist(), strict=True))
    assert away[tips].max() < 8
    points = landmarks(LAYOUTS["mano21"], hand.joints)
    rest = landmarks(LAYOUTS["mano21"], truth.joints)
    assert np.linalg.norm(points - rest, axis=1)[:16].max() < 1.5
    assert found.notes[:3] == (
        "filled in: palm, index_metacarpal, middle_metacarpal, ring_metacarpal, little_metacarpal",
        found.notes[1],
        "it has no forearm: the mesh ends at the wrist",
    )
    assert found.notes[1].startswith("the open end at the wrist was closed (")


def test_the_published_tips_are_vertices(entries: dict[str, np.ndarray], tmp_path: Path) -> None:
    np.savez(tmp_path / "MANO_RIGHT.npz", **entries)
    hand = open_hand(str(tmp_path / "MANO_RIGHT.npz")).hand
    for finger in MANO_TIPS:
        tip = hand.joints[OPENXR26.index(f"{finger}_tip")]
        assert np.linalg.norm(hand.vertices - tip, axis=1).min() < 1e-3, finger


def test_side_is_told_by_the_name_or_by_the_joints(entries: dict[str, np.ndarray], tmp_path: Path) -> None:
    left = mano(mirror(builtin_hand()))
    for name in ("MANO_LEFT.npz", "hand.npz"):
        np.savez(tmp_path / name, **left)
        assert open_hand(str(tmp_path / name)).hand.side == "left"
    np.savez(tmp_path / "MANO_LEFT.npz", **entries)
    with pytest.raises(HandloomError, match="calls its hand a left one, but its joints lie like a right hand's"):
        open_hand(str(tmp_path / "MANO_LEFT.npz"))


def test_shape_parameters_of_the_mapping_file(entries: dict[str, np.ndarray], tmp_path: Path) -> None:
    path, mapping = tmp_path / "MANO_RIGHT.pkl", tmp_path / "m.yaml"
    path.write_bytes(mano_pickle(entries))
    mean = open_hand(str(path))
    mapping.write_text("betas: [2.0, 0.5]\n")
    large = open_hand(str(path), mapping=mapping)
    # The test's first parameter is 5 % of size each.
    assert np.abs(large.hand.joints - 1.1 * mean.hand.joints).max() < 0.1
    assert large.sha256 != mean.sha256
    mapping.write_text(f"betas: {[0.0] * 11}\n")
    with pytest.raises(HandloomError, match="no 11 shape parameters"):
        open_hand(str(path), mapping=mapping)


def test_files_that_are_no_mano_say_what_is_wrong(entries: dict[str, np.ndarray], tmp_path: Path) -> None:
    light = {name: entries[name] for name in ("v_template", "f", "weights", "J_regressor", "kintree_table")}
    nan = light["v_template"].copy()
    nan[5] = np.nan
    for changed, words in (
        ({"weights": None}, "'weights' is missing"),
        ({"weights": light["weights"][:, :15]}, "'weights' has shape (778, 15) and not (778, 16)"),
        ({"weights": light["weights"] * 0.8}, "do not sum to 1"),
        ({"v_template": nan}, "'v_template' has values that are no coordinates"),
        ({"v_template": light["v_template"] * 37}, "The hand's size is no hand's"),
        ({"f": light["f"] + 1}, "triangles name vertices that it does not have"),
        ({"f": light["f"][:-3]}, "The mesh is not closed"),
        ({"J_regressor": light["J_regressor"].astype(str)}, "'J_regressor' is <U"),
    ):
        values = {name: array for name, array in (light | changed).items() if array is not None}
        np.savez(tmp_path / "h.npz", **values)
        assert words in refused(tmp_path / "h.npz", (tmp_path / "h.npz").read_bytes()), words
    path = tmp_path / "h.pkl"
    assert "it is a list" in refused(path, pickle.dumps([1, 2]))
    assert "'v_template' is missing; it has" in refused(path, pickle.dumps({"f": light["f"]}))
    data = mano_pickle(light | {"posedirs": nan, "shapedirs": nan})
    assert "cannot be read as data" in refused(path, data[: len(data) // 2])
    assert "cannot be read as data" in refused(path, b"glTF")


class _Evil:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_a_pickle_cannot_run_anything(protocol: int, entries: dict[str, np.ndarray], tmp_path: Path) -> None:
    path, witness = tmp_path / "MANO_RIGHT.pkl", tmp_path / "ran"
    for evil in (
        _Evil(os.system, f"touch {witness}"),
        _Evil(eval, f"open({str(witness)!r}, 'w')"),
        _Evil(getattr, "x", "upper"),
        _Evil(np.load, str(witness)),
        _Evil(open, str(witness), "w"),
    ):
        for values in (evil, {**entries, "v_template": evil}, [evil]):
            why = refused(path, pickle.dumps(values, protocol))
            assert "it asks for " in why
            assert not witness.exists()


def test_instructions_that_plain_data_do_not_need() -> None:
    for data, words in (
        (b"cos\nsystem\n.", "asks for os.system"),
        (b"(S'x'\nios\nsystem\n.", "no plain data need"),
        (b"cnumpy\nndarray\n(S'a'\nS'b'\ndb.", "changes what is no array"),
        (b"]]R.", "calls what is no array"),
        (b"\x80\x04\x96" + (1 << 40).to_bytes(8, "little") + b".", "more bytes than a hand has"),
        (b"\x80\x02\x82\x01.", "no plain data need"),
        (b"Pname\n.", "no plain data need"),
        # A memo entry of a number for which the C reader would make room.
        (b"]r\xff\xff\xff\xff0.", "pop"),
    ):
        with pytest.raises(HandloomError) as caught:
            read_pickle(data, where="h.pkl")
        assert words in str(caught.value), data


def test_stand_ins_hold_arrays_of_the_bytes_that_are_there() -> None:
    array = np.arange(12, dtype=">i2").reshape(3, 4)
    for value in (array, np.asfortranarray(array), np.float32(2.5), np.array([True, False])):
        for protocol in (0, 2, 4, 5):
            found = plain(read_pickle(pickle.dumps(value, protocol), where=""))
            assert np.array_equal(found, value)
            assert np.asarray(found).dtype == np.asarray(value).dtype
    with pytest.raises(ValueError, match="no plain number"):
        plain(read_pickle(pickle.dumps(np.array([{}], object)), where=""))
    large = Kept("ndarray", (), (1, (1 << 39,), Kept("dtype", ("f8",), None), False, b"1234"))
    with pytest.raises(ValueError, match="bytes do not fit its shape"):
        plain(large)
    inside = Kept("chumpy.Ch")
    inside.state = {"x": inside}
    with pytest.raises(ValueError, match="within each other"):
        plain(inside)

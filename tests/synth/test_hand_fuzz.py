"""Damaged files of hands: a plain error or a whole hand, never anything else, and no room taken for a number."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest

from handloom.stores.errors import HandloomError
from handloom.synth.anatomy import builtin_hand
from handloom.synth.formats import open_hand, save_hand
from handloom.synth.handfile import arrays_of, hand_of_arrays

from hand_writers import container, intricate_glb, mano, mano_pickle, parts_of, simple_glb, sketch

KINDS = ("simple.glb", "intricate.glb", "own.glb", "own.npz", "mano.npz", "mano.pkl")
MUTANTS = 120


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fuzz")
    hand = builtin_hand()
    (folder / "simple.glb").write_bytes(simple_glb(sketch()).bytes())
    (folder / "intricate.glb").write_bytes(intricate_glb(sketch()).bytes())
    save_hand(hand, folder / "own.glb")
    save_hand(hand, folder / "own.npz")
    entries = {k: v for k, v in mano(hand).items() if k not in ("posedirs", "hands_components", "hands_coeffs")}
    np.savez(folder / "mano.npz", **entries)
    few = {"posedirs": np.zeros((1, 1)), "shapedirs": entries["shapedirs"][:, :, :1]}
    (folder / "mano.pkl").write_bytes(mano_pickle({**entries, **few}))
    return folder


def damaged(data: bytes, rng: np.random.Generator) -> bytes:
    """Bits flipped, bytes set, pieces cut out, doubled or zeroed; half of it near the beginning or the end."""
    out = bytearray(data)
    for _ in range(int(rng.integers(1, 5))):
        near = rng.random()
        span = min(len(out), 3000)
        at = int(rng.integers(span) if near < 0.4 else len(out) - 1 - rng.integers(span) if near < 0.6
                 else rng.integers(len(out)))  # fmt: skip
        match int(rng.integers(6)):
            case 0:
                out[at] ^= 1 << int(rng.integers(8))
            case 1:
                out[at] = int(rng.choice([0, 1, 0x7F, 0x80, 0xFF]))
            case 2:
                out[at : at + 4] = int(rng.choice([0, 1, 0x7FFFFFFF, 0xFFFFFFFF])).to_bytes(4, "little")
            case 3:
                del out[at : at + int(rng.integers(1, 64))]
            case 4:
                out[at:at] = out[at : at + int(rng.integers(1, 64))]
            case _:
                del out[max(at, 16) :]
    return bytes(out)


def changed_json(data: bytes, rng: np.random.Generator) -> bytes:
    """One value somewhere in a GLB's JSON replaced by one that does not belong there."""
    values, buffer = parts_of(data)
    place: object = values
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))  # type: ignore[arg-type, call-overload]
        key = keys[int(rng.integers(len(keys)))]
        inner = place[key]  # type: ignore[index]
        if not isinstance(inner, (dict, list)) or not inner or rng.random() < 0.15:
            odd = (None, -1, 0, 1, 1 << 31, 1 << 70, 1e308, float("nan"), "x", [], {}, [[]], True, [0] * 16)
            place[key] = odd[int(rng.integers(len(odd)))]  # type: ignore[index]
            return container(json.dumps(values).encode(), buffer)
        place = inner


def check(path: Path) -> None:
    """The file gives an error of ours, or a hand whose arrays pass every check of a hand's."""
    try:
        found = open_hand(str(path))
    except HandloomError as error:
        if str(path) not in str(error):
            raise RuntimeError("the error does not name the file") from error
        return
    hand_of_arrays(arrays_of(found.hand), name="", side=found.hand.side, where=str(path))


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files(kind: str, folder: Path, tmp_path: Path) -> None:
    data = (folder / kind).read_bytes()
    check(folder / kind)
    path = tmp_path / kind
    for seed in range(MUTANTS):
        rng = np.random.default_rng((seed, KINDS.index(kind)))
        mutant = changed_json(data, rng) if kind.endswith("glb") and seed % 2 else damaged(data, rng)
        path.write_bytes(mutant)
        try:
            check(path)
        except Exception as error:
            raise AssertionError(f"{kind}, seed {seed}") from error


@pytest.mark.parametrize("kind", ["own.npz", "mano.npz"])
def test_archives_whose_arrays_were_changed(kind: str, folder: Path, tmp_path: Path) -> None:
    """Beyond the archive's own checksums: whole files of wrong arrays."""
    with np.load(io.BytesIO((folder / kind).read_bytes())) as file:
        entries = dict(file.items())
    path = tmp_path / kind
    for seed in range(MUTANTS):
        rng = np.random.default_rng((seed, 77))
        changed = dict(entries)
        name = list(entries)[int(rng.integers(len(entries)))]
        array = np.array(entries[name])
        match int(rng.integers(5)):
            case 0:
                array = array.reshape(-1)
            case 1:
                array = array[..., None] if array.ndim else array.reshape(1, 1)
            case 2 if array.ndim:
                array = array[: int(rng.integers(3))]
            case 3 if array.dtype.kind in "fiu" and array.size:
                array.reshape(-1)[int(rng.integers(array.size))] = 2**31 - 1 if array.dtype.kind == "i" else 200
            case _:
                array = array.astype("U8")
        changed[name] = array
        np.savez(path, **changed)
        try:
            check(path)
        except Exception as error:
            raise AssertionError(f"{kind}, seed {seed}, {name}") from error

"""Hands by name: the built-in one, or one of a file, whatever its kind; and hands into files.

| file | read by | |
|---|---|---|
| `.glb`, `.gltf` | `gltf.py`, `foreign.py` | a skinned hand of any program; our own comes back to the bit |
| `.pkl`, `.npz` | `mano.py`, `foreign.py` | MANO's model files, a pickle as data only |
| `.npz` | `handfile.py` | our own arrays |

What a file's hand had to be given or mended (a wrist closed, joints filled in) is said in its notes.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from ..stores.errors import HandloomError
from ..stores.npz import read_archive
from .anatomy import builtin_hand
from .config import BUILTIN, SynthConfig
from .foreign import adopt
from .gltf import skin_of_gltf
from .gltf_data import parse_gltf
from .gltf_write import own_hand, write_glb
from .hand import FOREARM, RiggedHand, mirror
from .handfile import arrays_of, digest, hand_of_npz, write_npz
from .mano import is_mano, mano_entries, skin_of_mano
from .naming import HandMapping, read_mapping
from .surface import is_closed, volume

KINDS: Final = (".glb", ".gltf", ".pkl", ".npz")
MAX_BYTES: Final = 1 << 28
"""Of a hand's file."""


@dataclass(frozen=True, slots=True)
class HandFile:
    """A hand and where it comes from."""

    hand: RiggedHand
    source: str
    """`builtin` or the file."""
    sha256: str
    """Of the file's bytes, and of the mapping's after them; of the built-in hand's arrays."""
    notes: tuple[str, ...] = ()
    """What was given to it or mended."""

    def provenance(self) -> dict[str, Any]:
        """What a recording says of its hand."""
        return {"name": self.hand.name, "source": self.source, "sha256": self.sha256, "notes": list(self.notes)}


def hand_of(config: SynthConfig) -> HandFile:
    """The hand that a configuration names, of the side that it asks for.

    Raises:
        HandloomError: see `open_hand`.
    """
    stamps = tuple(_stamp(Path(file)) for file in (config.hand, config.hand_mapping) if file not in (BUILTIN, None))
    return _cached(config.hand, config.hand_mapping, config.side, stamps)


def _stamp(path: Path) -> tuple[int, int]:
    """Changes when the file does."""
    try:
        return path.stat().st_mtime_ns, path.stat().st_size
    except OSError:
        return 0, 0  # `open_hand` says what is the matter


@lru_cache(maxsize=2)
def _cached(source: str, mapping: Path | None, side: str, stamps: tuple[tuple[int, int], ...]) -> HandFile:
    return of_side(open_hand(source, mapping=mapping), side)


def hand_named(source: str | None, *, side: str | None = None, mapping: Path | None = None) -> HandFile:
    """The hand of a command's options; without `side` on the side it is.

    Raises:
        HandloomError: see `open_hand`.
    """
    return of_side(open_hand(source or BUILTIN, mapping=mapping), side)


def of_side(file: HandFile, side: str | None) -> HandFile:
    """The hand, mirrored if it is of the other side."""
    return file if side in (None, file.hand.side) else replace(file, hand=mirror(file.hand))


def open_hand(source: str, *, mapping: Path | None = None) -> HandFile:
    """The built-in hand, or the hand of a file, on the side it is.

    Args:
        source: `builtin` or the path of a file.
        mapping: YAML file that names the joints of a file of others, see `naming.py`.

    Raises:
        HandloomError: there is no such file, it holds no hand, or one that cannot be used; how to mend it.
    """
    if source == BUILTIN:
        hand = builtin_hand()
        return HandFile(hand, BUILTIN, digest(arrays_of(hand)))
    path = Path(source)
    kind = path.suffix.lower()
    if kind not in KINDS:
        raise HandloomError(
            f"'{source}' is no hand", why=f"known: {BUILTIN}, or a file that ends in {', '.join(KINDS)}"
        )
    data = _bytes(path)
    hand, notes = _read(data, path, kind, read_mapping(mapping))
    both = data if mapping is None else data + _bytes(mapping)
    return HandFile(hand, str(path), hashlib.sha256(both).hexdigest(), notes)


def _bytes(path: Path) -> bytes:
    try:
        if path.exists() and not path.is_file():
            raise HandloomError("The hand cannot be read", where=str(path), why="it is no file")
        if path.stat().st_size > MAX_BYTES:
            raise HandloomError("The file is too large for a hand", where=str(path), why=f"more than {MAX_BYTES} bytes")
        return path.read_bytes()
    except OSError as error:
        raise HandloomError("The hand cannot be read", where=str(path), why=error.strerror or str(error)) from error


def _read(data: bytes, path: Path, kind: str, mapping: HandMapping) -> tuple[RiggedHand, tuple[str, ...]]:
    where = str(path)
    if kind in (".glb", ".gltf"):
        gltf = parse_gltf(data, where=where)
        own = own_hand(gltf)
        if isinstance(own, RiggedHand):
            return own, ()
        hand, notes = adopt(skin_of_gltf(gltf, mapping, name=path.stem), mapping)
        return hand, notes if own is None else (f"handloom's own arrays were not taken: {own}", *notes)
    entries = mano_entries(data, where=where) if kind == ".pkl" else read_archive(data, where=where)
    if is_mano(entries) or kind == ".pkl":
        return adopt(skin_of_mano(entries, mapping, name=path.stem, where=where), mapping)
    if "format" not in entries:
        raise HandloomError("The archive holds no hand", where=where, why=f"its arrays: {', '.join(entries)}"[:300])
    return hand_of_npz(entries, where=where), ()


def save_hand(hand: RiggedHand, out: Path, *, overwrite: bool = False) -> None:
    """Write a hand as a file of the kind that the name's end says; old or new, never half.

    Raises:
        HandloomError: the file exists, or nothing is written under such a name.
    """
    if out.exists() and not overwrite:
        raise HandloomError("The output exists already", where=str(out), fix="--overwrite replaces it")
    match out.suffix.lower():
        case ".npz":
            write_npz(hand, out)
        case ".glb":
            write_glb(hand, out)
        case _:
            raise HandloomError("No hand is written under this name", where=str(out), why="known endings: .glb, .npz")


def facts(file: HandFile) -> dict[str, Any]:
    """What there is to know of a hand: counts, volume in cm³, length in mm, and so on."""
    hand = file.hand
    joints = hand.joints.astype(float)
    middle = joints[11:16]
    length = abs(float(middle[1, 1])) + float(sum(((middle[2:] - middle[1:-1]) ** 2).sum(1) ** 0.5))
    return {
        "hand": file.source,
        "name": hand.name,
        "side": hand.side,
        "vertices": len(hand.vertices),
        "triangles": len(hand.faces),
        "closed": is_closed(hand.faces),
        "volume_cm3": round(volume(hand.vertices, hand.faces) / 1000, 1),
        "wrist_to_middle_tip_mm": round(length, 1),
        "forearm": FOREARM in hand.bones,
        "sha256": file.sha256,
        "notes": list(file.notes),
    }

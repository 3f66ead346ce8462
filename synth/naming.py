"""Which joint of a file is which joint of a hand: by name, in the styles that are about, or by a mapping file.

Names are cut into words (`LeftHandIndex1`, `index-finger-phalanx-proximal`, `b_l_thumb3`,
`INDEX_FINGER_MCP`, `XR_HAND_JOINT_RING_TIP_EXT`), and the words name a finger and a place on it. Numbered
joints count from the knuckle: 1, 2, 3, and 4 the tip, 0 the metacarpal; a thumb's 1 is its metacarpal.

A mapping file says it outright, in YAML:

    joints:                      # of the hand: of the file
      wrist: Bone.001
      thumb_metacarpal: Bone.002
    side: left                   # optional
    scale_mm: 1000               # optional: millimetres in one unit of the file
    betas: [0.1, -0.4]           # optional: MANO's shape parameters

What it does not name is recognised as without it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from ..stores.config import load_config
from ..stores.errors import HandloomError
from ..stores.joints import OPENXR26

JOINTS: Final = (*OPENXR26, "forearm")
"""The joints that a file may have."""
NEEDED: Final = (
    "wrist",
    *(n for n in OPENXR26 if n.endswith(("proximal", "intermediate", "distal"))),
    "thumb_metacarpal",
)
"""The joints that it must have: MANO's sixteen. The others can be filled in."""

_FINGER_WORDS: Final = {
    "thumb": "thumb", "index": "index", "pointer": "index", "middle": "middle", "long": "middle",
    "ring": "ring", "little": "little", "pinky": "little", "pinkie": "little",
}  # fmt: skip
_PLACE_WORDS: Final = {
    "metacarpal": "metacarpal", "meta": "metacarpal", "proximal": "proximal", "intermediate": "intermediate",
    "medial": "intermediate", "distal": "distal", "tip": "tip", "end": "tip", "nub": "tip",
}  # fmt: skip
_ANATOMY: Final = {
    "finger": {"mcp": "proximal", "pip": "intermediate", "dip": "distal"},
    "thumb": {"cmc": "metacarpal", "mcp": "proximal", "ip": "distal"},
}
_NUMBERED: Final = {
    "finger": ("metacarpal", "proximal", "intermediate", "distal", "tip"),
    "thumb": ("", "metacarpal", "proximal", "distal", "tip"),
}
_SIDES: Final = {"left": "left", "l": "left", "right": "right", "r": "right"}


class HandMapping(BaseModel):
    """What a mapping file says."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    joints: dict[str, str] = Field(default_factory=dict)
    """Joint of the hand (`JOINTS`) → name in the file."""
    side: Literal["right", "left"] | None = None
    scale_mm: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Millimetres in one unit of the file."""
    betas: tuple[float, ...] = Field(default=(), max_length=300)
    """MANO's shape parameters; the mean hand without them."""


def read_mapping(path: Path | None) -> HandMapping:
    """The mapping of a file; an empty one without a file.

    Raises:
        HandloomError: it cannot be read, or names a joint that no hand has.
    """
    mapping = load_config(HandMapping, path)
    unknown = sorted(set(mapping.joints) - set(JOINTS))
    if unknown:
        raise HandloomError(f"No hand has a joint '{unknown[0]}'", where=str(path), why=f"known: {', '.join(JOINTS)}")
    return mapping


def words(name: str) -> list[str]:
    """A name cut where its case, its kind of character or a sign changes, in lower case."""
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", name[:200])]


def side_of(names: Sequence[str]) -> Literal["right", "left"] | None:
    """The side that names agree on, if any names one."""
    found = {_SIDES[word] for name in names for word in words(name) if word in _SIDES}
    if len(found) != 1:
        return None
    return "left" if "left" in found else "right"


def joint_of(name: str) -> str | None:
    """The joint of `JOINTS` that a name means, None if it names none."""
    parts = [word for word in words(name) if word not in _SIDES]
    fingers = [_FINGER_WORDS[word] for word in parts if word in _FINGER_WORDS]
    if not fingers:
        return _stem_of(parts)
    finger = next((f for f in fingers if f != "middle"), "middle")
    kind = "thumb" if finger == "thumb" else "finger"
    places = [_PLACE_WORDS[word] for word in parts if word in _PLACE_WORDS]
    places += [_ANATOMY[kind][word] for word in parts if word in _ANATOMY[kind]]
    if "middle" in fingers and finger != "middle":
        places.append("intermediate")
    numbers = [int(word) for word in parts if word.isdigit()]
    if not places and numbers and numbers[-1] < 5:
        places = [_NUMBERED[kind][numbers[-1]]]
    return f"{finger}_{places[-1]}" if len(places) == 1 and places[0] else None


def _stem_of(parts: Sequence[str]) -> str | None:
    said = set(parts)
    if said & {"forearm", "elbow", "lowerarm", "ulna", "radius"} or {"lower", "arm"} <= said or {"fore", "arm"} <= said:
        return "forearm"
    if "wrist" in said:
        return "wrist"
    if "palm" in said:
        return "palm"
    # A bare "hand" is the bone that begins at the wrist.
    return "wrist" if parts and parts[-1] == "hand" else None


def recognise(names: Sequence[str], mapping: HandMapping, *, where: str) -> dict[str, int]:
    """Joint of the hand → number in `names`.

    Raises:
        HandloomError: a name of the mapping is not in the file, two joints of the file are the same joint of
            the hand, or one of `NEEDED` is missing; with the names that were found.
    """
    found: dict[str, int] = {}
    for joint, name in mapping.joints.items():
        if name not in names:
            raise HandloomError(
                f"The file has no joint '{name}', which the mapping gives for {joint}", where=where, why=_listed(names)
            )
        found[joint] = names.index(name)
    given = set(found.values())
    guessed: dict[str, int] = {}
    for number, name in enumerate(names):
        meant = joint_of(name)
        if number in given or meant is None or meant in found:
            continue
        if meant in guessed:
            raise HandloomError(
                f"Two joints of the file may be {meant}", where=where, why=f"'{names[guessed[meant]]}' and '{name}'",
                fix=_MEND,
            )  # fmt: skip
        guessed[meant] = number
    found |= _renamed_thumb(guessed)
    missing = [joint for joint in NEEDED if joint not in found]
    if missing:
        raise HandloomError(
            f"{len(missing)} of the hand's joints were not found in the file: {', '.join(missing)}",
            where=where,
            why=_listed(names),
            fix=_MEND,
        )
    return found


_MEND: Final = (
    "write a mapping file and give it with --hand-mapping: 'joints:' and below it a line a joint, "
    "as in '  index_proximal: NAME IN THE FILE'"
)


def _renamed_thumb(guessed: dict[str, int]) -> dict[str, int]:
    """Some give a thumb three phalanges, like a finger: they are its metacarpal and its two."""
    if "thumb_intermediate" not in guessed:
        return guessed
    out = dict(guessed)
    second = out.pop("thumb_intermediate")
    if "thumb_metacarpal" not in out and "thumb_proximal" in out:
        out["thumb_metacarpal"], out["thumb_proximal"] = out["thumb_proximal"], second
    return out


def _listed(names: Sequence[str]) -> str:
    shown = [name[:60] for name in names[:60]]
    return f"its joints: {', '.join(shown)}{' …' if len(names) > len(shown) else ''}"

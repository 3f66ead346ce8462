"""How rows are packed: Blosc's compressor, its level and what it does to the bytes first.

A codec has a name such as 'zstd-1-shuffle'. 'capture' (lz4-5-shuffle, keeps up with cameras) and 'synthesis'
(zstd-1-shuffle, packs rendered depth to a tenth) are the kit's own; `store tune` finds others. Whatever a row was
packed with, Blosc's header in front of it says how it is unpacked, so every reader reads every codec.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, cast

from .errors import HandloomError

Shuffle = Literal["noshuffle", "shuffle", "bitshuffle"]
Compressor = Literal["lz4", "lz4hc", "zstd", "blosclz", "zlib"]
SHUFFLES: Final[dict[Shuffle, int]] = {"noshuffle": 0, "shuffle": 1, "bitshuffle": 2}
"""Blosc's own numbers."""
COMPRESSORS: Final = ("lz4", "lz4hc", "zstd", "blosclz", "zlib")
MOST: Final = 9
"""The highest level."""


@dataclass(frozen=True, slots=True, order=True)
class Codec:
    """One way to pack rows; level 0 stores them as they are."""

    compressor: Compressor
    level: int
    shuffle: Shuffle

    @property
    def name(self) -> str:
        """As it is written in a table and on the command line."""
        return f"{self.compressor}-{self.level}-{self.shuffle}"


OWN: Final = {"capture": Codec("lz4", 5, "shuffle"), "synthesis": Codec("zstd", 1, "shuffle")}


def codec_named(name: str, *, where: str = "--codec") -> Codec:
    """The codec of a name.

    Raises:
        HandloomError: there is none of this name.
    """
    if name in OWN:
        return OWN[name]
    compressor, _, rest = name.partition("-")
    level, _, shuffle = rest.partition("-")
    if compressor in COMPRESSORS and level.isdigit() and int(level) <= MOST and shuffle in SHUFFLES:
        return Codec(cast(Compressor, compressor), int(level), shuffle)
    raise HandloomError(
        f"'{name}' is no codec",
        where=where,
        why=f"a name is one of {', '.join(COMPRESSORS)}, a level from 0 to {MOST} and one of {', '.join(SHUFFLES)}",
        fix="zstd-1-shuffle, say; 'handloom store tune' finds the best one for a recording",
    )

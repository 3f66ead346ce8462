"""Every kind of hand against the one conformance suite."""

from __future__ import annotations

from pathlib import Path

import pytest

from handloom.synth.anatomy import builtin_hand
from handloom.synth.formats import save_hand
from handloom.synth.hand import RiggedHand, mirror

from hand_conformance import HandConformance


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a hand of every kind of file."""
    folder = tmp_path_factory.mktemp("hands")
    save_hand(mirror(builtin_hand()), folder / "left.npz")
    return folder


class TestBuiltin(HandConformance):
    @pytest.fixture
    def source(self) -> str | None:
        return "builtin"


class TestBuiltinLeft(HandConformance):
    @pytest.fixture
    def hand(self) -> RiggedHand:
        return mirror(builtin_hand())


class TestOurArchive(HandConformance):
    @pytest.fixture
    def source(self, folder: Path) -> str | None:
        return str(folder / "left.npz")

"""Every kind of hand against the one conformance suite."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from handloom.synth.anatomy import builtin_hand
from handloom.synth.formats import save_hand
from handloom.synth.hand import RiggedHand, mirror

from hand_conformance import HandConformance
from hand_writers import intricate_glb, mano, mano_pickle, simple_glb, sketch, webxr, with_seams, without, write


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a hand of every kind of file."""
    folder = tmp_path_factory.mktemp("hands")
    save_hand(mirror(builtin_hand()), folder / "left.npz")
    save_hand(builtin_hand(), folder / "own.glb")
    write(folder / "nested.glb", intricate_glb(with_seams(sketch())))
    odd = sketch()
    lines = [f"  {name}: Bone.{i:03}" for i, name in enumerate(odd.names)]
    write(folder / "odd.glb", simple_glb(replace(odd, names=[f"Bone.{i:03}" for i in range(27)])))
    (folder / "odd.yaml").write_text("\n".join(["joints:", *lines, ""]))
    bare = sketch(mirror(builtin_hand()), forearm=False, oblique=1.0)
    named = replace(bare, names=[webxr(name) for name in bare.names])
    write(folder / "flat.glb", simple_glb(with_seams(without(named, "palm", "forearm")), flat=True, in_cm=True))
    (folder / "MANO_RIGHT.pkl").write_bytes(mano_pickle(mano(builtin_hand())))
    np.savez(folder / "MANO_LEFT.npz", **mano(mirror(builtin_hand())))
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


class TestOurGltf(HandConformance):
    @pytest.fixture
    def source(self, folder: Path) -> str | None:
        return str(folder / "own.glb")


class TestNestedGltf(HandConformance):
    """16-bit joints, 8-bit weights, interleaved and sparse, split at seams, lying anywhere."""

    @pytest.fixture
    def source(self, folder: Path) -> str | None:
        return str(folder / "nested.glb")


class TestFlatGltf(HandConformance):
    """A left hand with WebXR's names, in centimetres under a scaled node, cut off obliquely at the wrist."""

    @pytest.fixture
    def source(self, folder: Path) -> str | None:
        return str(folder / "flat.glb")


class TestMappedGltf(HandConformance):
    """Joints whose names say nothing, named by a mapping file."""

    @pytest.fixture
    def source(self, folder: Path) -> str | None:
        return str(folder / "odd.glb")

    @pytest.fixture
    def mapping(self, folder: Path) -> Path | None:
        return folder / "odd.yaml"


class TestManoPickle(HandConformance):
    @pytest.fixture
    def source(self, folder: Path) -> str | None:
        return str(folder / "MANO_RIGHT.pkl")


class TestManoArchive(HandConformance):
    @pytest.fixture
    def source(self, folder: Path) -> str | None:
        return str(folder / "MANO_LEFT.npz")

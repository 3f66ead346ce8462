"""Hands from and into glTF: the same to the bit when it is ours, within a hair when another program wrote it."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trimesh
from click.testing import CliRunner

from handloom.cli import main
from handloom.stores.errors import HandloomError
from handloom.stores.joints import OPENXR26
from handloom.synth.anatomy import builtin_hand
from handloom.synth.formats import open_hand, save_hand
from handloom.synth.hand import WRIST, mirror
from handloom.synth.handfile import arrays_of
from handloom.synth.rotation import quaternion_matrix

from hand_writers import Glb, Sketch, container, parts_of, simple_glb, sketch, webxr, with_seams, without, write


def refused(path: Path, *, mapping: Path | None = None) -> str:
    with pytest.raises(HandloomError) as caught:
        open_hand(str(path), mapping=mapping)
    assert str(path) in str(caught.value) or str(mapping) in str(caught.value)
    return str(caught.value)


def test_what_we_write_reads_back_to_the_bit(tmp_path: Path) -> None:
    for hand in (builtin_hand(), replace(mirror(builtin_hand()), name="näme")):
        path = tmp_path / f"{hand.side}.glb"
        save_hand(hand, path)
        found = open_hand(str(path))
        before, after = arrays_of(hand), arrays_of(found.hand)
        assert before.keys() == after.keys()
        for name, array in before.items():
            assert array.dtype == after[name].dtype
            assert np.array_equal(array, after[name]), name
        assert (found.hand.name, found.hand.side, found.hand.dof, found.notes) == (hand.name, hand.side, hand.dof, ())


def test_other_programs_find_mesh_and_skeleton(tmp_path: Path) -> None:
    hand = builtin_hand()
    save_hand(hand, tmp_path / "h.glb")
    mesh = trimesh.load(tmp_path / "h.glb", force="mesh")
    assert np.abs(mesh.bounds - np.stack([hand.vertices.min(0), hand.vertices.max(0)]) / 1000).max() < 1e-6
    values, data = parts_of((tmp_path / "h.glb").read_bytes())
    names = [values["nodes"][j]["name"] for j in values["skins"][0]["joints"]]
    assert names == [*OPENXR26, "forearm"]
    assert len(values["nodes"][WRIST]["children"]) == 6
    # A viewer that hangs the nodes on each other and multiplies by the bind matrices shows the mesh as it is.
    where = values["bufferViews"][values["accessors"][values["skins"][0]["inverseBindMatrices"]]["bufferView"]]
    inverse = np.frombuffer(data, "<f4", 27 * 16, where["byteOffset"]).reshape(27, 4, 4).transpose(0, 2, 1)
    world = in_scene(values["nodes"], values["scenes"][0]["nodes"])
    assert np.abs(world[:27] @ inverse - np.eye(4)).max() < 1e-6
    assert values["meshes"][0]["primitives"][0]["attributes"].keys() == {"POSITION", "NORMAL", "JOINTS_0", "WEIGHTS_0"}


def in_scene(nodes: list[dict[str, Any]], roots: list[int]) -> np.ndarray:
    """(n, 4, 4) of every node, walked down from the roots."""
    out = np.tile(np.eye(4), (len(nodes), 1, 1))

    def walk(node: int, above: np.ndarray) -> None:
        x, y, z, w = nodes[node].get("rotation", (0, 0, 0, 1))
        local = np.eye(4)
        local[:3, :3] = quaternion_matrix(np.array([w, x, y, z]))
        local[:3, 3] = nodes[node].get("translation", (0, 0, 0))
        out[node] = above @ local
        for child in nodes[node].get("children", []):
            walk(child, out[node])

    for root in roots:
        walk(root, np.eye(4))
    return out


def test_our_file_read_as_anybodys_is_the_same_hand(tmp_path: Path) -> None:
    """Nodes, bind matrices and weights alone say where everything is."""
    hand = builtin_hand()
    save_hand(hand, tmp_path / "h.glb")
    values, data = parts_of((tmp_path / "h.glb").read_bytes())
    del values["extras"]
    (tmp_path / "h.glb").write_bytes(container(json.dumps(values).encode(), data))
    found = open_hand(str(tmp_path / "h.glb")).hand
    assert np.abs(found.joints - hand.joints).max() < 0.01
    assert np.abs(found.frames - hand.frames).max() < 1e-4
    nearest = np.linalg.norm(found.vertices[:, None] - hand.vertices[None], axis=-1).min(axis=1)
    assert nearest.max() < 0.01


def test_a_mesh_that_was_changed_since_is_read_as_it_is_now(tmp_path: Path) -> None:
    save_hand(builtin_hand(), tmp_path / "h.glb")
    values, data = parts_of((tmp_path / "h.glb").read_bytes())
    at = values["bufferViews"][values["accessors"][0]["bufferView"]]
    xyz = np.frombuffer(data, "<f4", at["byteLength"] // 4, at["byteOffset"]) * np.float32(1.02)
    data = data[: at["byteOffset"]] + xyz.tobytes() + data[at["byteOffset"] + at["byteLength"] :]
    (tmp_path / "h.glb").write_bytes(container(json.dumps(values).encode(), data))
    found = open_hand(str(tmp_path / "h.glb"))
    assert found.notes[0] == "handloom's own arrays were not taken: its mesh was changed since"
    assert np.ptp(found.hand.vertices[:, 1]) == pytest.approx(1.02 * np.ptp(builtin_hand().vertices[:, 1]), rel=1e-4)


@pytest.mark.parametrize("side", ["right", "left"])
def test_a_hand_lying_anywhere_is_found_again(side: str, tmp_path: Path) -> None:
    hand = builtin_hand() if side == "right" else mirror(builtin_hand())
    found = open_hand(str(write(tmp_path / "h.glb", simple_glb(with_seams(sketch(hand)))))).hand
    assert found.side == side
    assert np.abs(found.joints - hand.joints).max() < 0.01
    assert np.abs(found.frames - hand.frames).max() < 1e-3
    assert len(found.faces) <= len(hand.faces)


def test_bones_twisted_by_the_file_keep_their_twist(tmp_path: Path) -> None:
    """A file whose axes follow one convention says where a finger's back is; ours only guesses it."""
    base = sketch()
    # Turned by a convention: x along the bone, y out of the back.
    convention = np.array([[0, 0, 1], [1, 0, 0], [0, 1, 0]], float)
    rest = base.rest.copy()
    rest[:, :3, :3] = rest[:, :3, :3] @ convention
    found = open_hand(str(write(tmp_path / "h.glb", simple_glb(replace(base, rest=rest))))).hand
    assert np.abs(found.frames - builtin_hand().frames).max() < 1e-3


def test_bent_and_spread_fingers_are_laid_as_the_kits(tmp_path: Path) -> None:
    """A hand modelled relaxed: its zero pose is the kit's all the same."""
    from handloom.synth.hand import DOFS, ROOT_SIZE, SHAPE_SIZE, kinematics, skin

    hand = builtin_hand()
    pose = np.array([[0.35 if "flexion" in d.name and "wrist" not in d.name else 0.0 for d in DOFS]])
    state = kinematics(hand, pose, np.zeros((1, ROOT_SIZE)), np.zeros((1, SHAPE_SIZE)))
    base = sketch(moved=False)
    first = np.array([np.linalg.norm(hand.vertices / 1000 - v, axis=1).argmin() for v in base.vertices])
    rest = base.rest.copy()
    rest[:, :3, :3] = state.rotation[0] @ rest[:, :3, :3]
    rest[:, :3, 3] = state.position[0] / 1000
    bent = replace(base, vertices=skin(hand, state)[0][first] / 1000, rest=rest)
    found = open_hand(str(write(tmp_path / "h.glb", simple_glb(bent))))
    assert any("into the kit's rest pose" in note for note in found.notes)
    fingers = [i for i, n in enumerate(OPENXR26) if n.endswith(("proximal", "distal"))]
    assert np.abs(found.hand.frames[fingers] - hand.frames[fingers]).max() < 1e-4
    tips = [i for i, n in enumerate(OPENXR26) if n.endswith("tip")]
    # The ring and the little metacarpal stay as they were modelled.
    assert np.abs(found.hand.joints[tips] - hand.joints[tips]).max() < 25


def test_missing_joints_are_filled_in(tmp_path: Path) -> None:
    hand = builtin_hand()
    sixteen = without(sketch(hand, forearm=False), "finger", "tip", "palm", "forearm")
    keep = [n for n in sixteen.names if not (n.endswith("metacarpal") and not n.startswith("thumb"))]
    sixteen = without(sixteen, *(n for n in sixteen.names if n not in keep))
    assert len(sixteen.names) == 16
    found = open_hand(str(write(tmp_path / "h.glb", simple_glb(sixteen))))
    away = np.linalg.norm(found.hand.joints - hand.joints, axis=1)
    worst = dict(zip(OPENXR26, away.round(1).tolist(), strict=True))
    assert away.max() < 6, worst
    assert found.notes[:2] == (
        "tips found on the mesh: thumb, index, middle, ring, little",
        "filled in: palm, index_metacarpal, middle_metacarpal, ring_metacarpal, little_metacarpal",
    )
    assert "the open end at the wrist was closed" in found.notes[2]
    # The palm, one block in the file, cups all the same.
    assert {OPENXR26.index("ring_metacarpal"), OPENXR26.index("little_metacarpal")} <= set(found.hand.bones)


def test_a_mapping_file_names_what_names_do_not(tmp_path: Path) -> None:
    base = sketch()
    odd = replace(base, names=[f"Bone.{i:03}" for i in range(27)])
    path = write(tmp_path / "h.glb", simple_glb(odd))
    why = refused(path)
    assert "16 of the hand's joints were not found in the file: wrist, thumb_proximal" in why
    assert "Bone.000, Bone.001" in why
    assert "--hand-mapping" in why
    mapping = tmp_path / "m.yaml"
    lines = [f"  {name}: Bone.{i:03}" for i, name in enumerate(base.names)]
    mapping.write_text("\n".join(["joints:", *lines, "side: right", ""]))
    found = open_hand(str(path), mapping=mapping)
    assert np.abs(found.hand.joints - builtin_hand().joints).max() < 0.01
    for text, words in (
        ("joints:\n  knuckle: Bone.001\n", "No hand has a joint 'knuckle'"),
        ("joints:\n  wrist: Bone.100\n", "no joint 'Bone.100', which the mapping gives for wrist"),
        ("scale_mm: -3\n", "'scale_mm' is not valid"),
        ("scale: 3\n", "Unknown key 'scale'"),
    ):
        mapping.write_text(text)
        assert words in refused(path, mapping=mapping)


def test_the_unit_is_the_formats_unless_that_makes_no_hand(tmp_path: Path) -> None:
    base = sketch(moved=False)
    rest = base.rest.copy()
    rest[:, :3, 3] *= 100
    path = write(tmp_path / "h.glb", simple_glb(replace(base, vertices=base.vertices * 100, rest=rest)))
    found = open_hand(str(path))
    assert "read in centimetres: in metres it would be no hand" in found.notes
    assert np.abs(found.hand.joints - builtin_hand().joints).max() < 0.01
    (tmp_path / "m.yaml").write_text("scale_mm: 11\n")
    larger = open_hand(str(path), mapping=tmp_path / "m.yaml").hand
    assert np.abs(larger.joints - 1.1 * builtin_hand().joints).max() < 0.01
    (tmp_path / "m.yaml").write_text("scale_mm: 1000\n")
    assert "The hand's size is no hand's" in refused(path, mapping=tmp_path / "m.yaml")


def test_names_of_many_programs_are_understood() -> None:
    from handloom.synth.naming import joint_of, side_of

    for name, joint, side in (
        ("index-finger-phalanx-proximal", "index_proximal", None),
        ("middle-finger-phalanx-intermediate", "middle_intermediate", None),
        ("thumb-phalanx-distal", "thumb_distal", None),
        ("pinky-finger-tip", "little_tip", None),
        ("XR_HAND_JOINT_RING_METACARPAL_EXT", "ring_metacarpal", None),
        ("INDEX_FINGER_MCP", "index_proximal", None),
        ("THUMB_CMC", "thumb_metacarpal", None),
        ("THUMB_IP", "thumb_distal", None),
        ("MIDDLE_FINGER_DIP", "middle_distal", None),
        ("mixamorig:LeftHandThumb1", "thumb_metacarpal", "left"),
        ("LeftHandPinky3", "little_distal", "left"),
        ("b_r_index4", "index_tip", "right"),
        ("b_l_thumb3", "thumb_distal", "left"),
        ("f_ring.02.R", "ring_intermediate", "right"),
        ("LeftForeArm", "forearm", "left"),
        ("RightHand", "wrist", "right"),
        ("Armature", None, None),
        ("thumb", None, None),
    ):
        assert (joint_of(name), side_of([name])) == (joint, side), name
    for name in OPENXR26:
        assert joint_of(name) == joint_of(webxr(name)) == name


def test_a_thumb_of_three_phalanges_and_two_joints_of_one_name(tmp_path: Path) -> None:
    base = sketch()
    other = {"thumb_metacarpal": "thumb_proximal", "thumb_proximal": "thumb_intermediate"}
    renamed = replace(base, names=[other.get(n, n) for n in base.names])
    found = open_hand(str(write(tmp_path / "h.glb", simple_glb(renamed)))).hand
    assert np.abs(found.joints - builtin_hand().joints).max() < 0.01
    twice = replace(base, names=[n.replace("ring_proximal", "little_proximal") for n in base.names])
    assert "Two joints of the file may be little_proximal" in refused(write(tmp_path / "h.glb", simple_glb(twice)))


def test_a_side_that_names_and_joints_disagree_on(tmp_path: Path) -> None:
    base = sketch()
    path = write(tmp_path / "h.glb", simple_glb(replace(base, names=[f"left_{n}" for n in base.names])))
    assert "calls its hand a left one, but its joints lie like a right hand's" in refused(path)
    (tmp_path / "m.yaml").write_text("side: right\n")
    assert open_hand(str(path), mapping=tmp_path / "m.yaml").hand.side == "right"


def broken(base: Sketch, **changed: Any) -> Glb:
    return simple_glb(replace(base, **changed))


def test_meshes_that_cannot_be_used_say_where_they_are_broken(tmp_path: Path) -> None:
    base, path = sketch(), tmp_path / "h.glb"
    tip = builtin_hand().joints[OPENXR26.index("ring_tip")] / 1000
    local = (base.vertices - base.rest[WRIST, :3, 3]) @ base.rest[WRIST, :3, :3]
    hole = np.linalg.norm(local[base.faces].mean(1) - tip, axis=1).argmin()
    why = refused(write(path, broken(base, faces=np.delete(base.faces, hole, axis=0))))
    assert "The mesh is not closed: 3 open edges" in why
    assert "near the ring_tip" in why
    fin = np.concatenate([base.faces, [[*base.faces[7][:2], base.faces[900][0]]]])
    assert "more than two triangles meet" in refused(write(path, broken(base, faces=fin)))
    light = base.weight.copy()
    light[17] *= 0.5
    assert "The weights of 1 of" in refused(write(path, broken(base, weight=light)))
    nan = base.vertices.copy()
    nan[3, 0] = np.nan
    assert "vertices hold values that are no coordinates" in refused(write(path, broken(base, vertices=nan)))
    same = base.rest.copy()
    same[OPENXR26.index("index_distal")] = same[OPENXR26.index("index_intermediate")]
    assert "Two joints of the index lie at one place" in refused(write(path, broken(base, rest=same)))


def test_winding_is_mended_and_told(tmp_path: Path) -> None:
    base = sketch()
    some = base.faces.copy()
    some[::7] = some[::7, ::-1]
    for faces, words in (
        (base.faces[:, ::-1], "triangles were wound inward and were turned"),
        (some, "wound against their neighbours and were turned"),
    ):
        found = open_hand(str(write(tmp_path / "h.glb", broken(base, faces=faces))))
        assert any(words in note for note in found.notes)
        assert trimesh.Trimesh(found.hand.vertices, found.hand.faces, process=False).is_volume


def test_files_that_are_not_what_they_are_called(tmp_path: Path) -> None:
    good = simple_glb(sketch())
    data = good.bytes()

    def changed(**values: Any) -> bytes:
        return container(json.dumps({**good.json, **values}).encode(), good.data)

    def node(**values: Any) -> list[dict[str, Any]]:
        return [{**good.json["nodes"][0], **values}, *good.json["nodes"][1:]]

    views = good.json["bufferViews"]
    for content, words in (
        (b"", "neither GLB nor JSON"),
        (b"PK\x03\x04 an archive", "neither GLB nor JSON"),
        (data[:15], "cut off within its header"),
        (data[: len(data) // 2], "it is cut off"),
        (data[:4] + b"\x01\0\0\0" + data[8:], "GLB version 1"),
        (changed(asset={"version": "1.0"}), "glTF 1.0, not 2.0"),
        (changed(skins=[]), "The file has no skin"),
        (changed(extensionsRequired=["KHR_draco_mesh_compression"]), "without compression"),
        (changed(bufferViews=[{**views[0], "byteLength": 1 << 33}, *views[1:]]), "ends before its data do"),
        (changed(accessors=[{**good.json["accessors"][0], "count": 1 << 33}]), "a hand has at most"),
        (changed(nodes=node(matrix=[0] * 16)), "scaled by zero or mirrored"),
        (changed(nodes=node(matrix=[-1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1])), "scaled by zero or mirrored"),
        (changed(nodes=node(children=[len(good.json["nodes"]) - 1])), "in a ring"),
        (changed(nodes=node(children=[10_000])), "child that is not there"),
        (changed(buffers=[{"uri": "hand.bin", "byteLength": 3}]), "its data lie in another file (hand.bin)"),
    ):
        (tmp_path / "h.glb").write_bytes(content)
        assert words in refused(tmp_path / "h.glb"), words


def test_gltf_with_its_data_inside(tmp_path: Path) -> None:
    glb = simple_glb(sketch())
    uri = "data:application/octet-stream;base64," + base64.b64encode(glb.data).decode()
    values = {**glb.json, "buffers": [{"uri": uri, "byteLength": len(glb.data)}]}
    (tmp_path / "h.gltf").write_text(json.dumps(values))
    assert np.abs(open_hand(str(tmp_path / "h.gltf")).hand.joints - builtin_hand().joints).max() < 0.01


def test_a_skin_without_bind_matrices_is_taken_in_its_nodes_pose(tmp_path: Path) -> None:
    """Every vertex hangs on one joint, in whose axes it is given."""
    base = sketch()
    owner = base.index[np.arange(len(base.index)), base.weight.argmax(1)]
    inverse = np.linalg.inv(base.rest)[owner]
    local = np.einsum("nij,nj->ni", inverse[:, :3, :3], base.vertices) + inverse[:, :3, 3]
    weight = np.zeros_like(base.weight)
    weight[:, 0] = 1
    index = np.zeros_like(base.index)
    index[:, 0] = owner
    glb = simple_glb(replace(base, vertices=local, index=index, weight=weight))
    del glb.json["skins"][0]["inverseBindMatrices"]
    found = open_hand(str(write(tmp_path / "h.glb", glb))).hand
    assert np.abs(found.joints - builtin_hand().joints).max() < 0.01


def test_the_hand_is_drawn(tmp_path: Path) -> None:
    import cv2

    path, out = tmp_path / "h.glb", tmp_path / "h.png"
    save_hand(mirror(builtin_hand()), path)
    done = CliRunner().invoke(main, ["hand", "show", "--hand", str(path), "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines()[-2:] == [
        f"picture        {out}",
        f"next: handloom synth run --out S.zarr --hand {path} --side left",
    ]
    picture = cv2.imread(str(out))
    cells = picture.reshape(picture.shape[0] // 200, 200, 6, 200, 3).swapaxes(1, 2)
    inked = (cells.min(axis=-1) < 200).mean(axis=(2, 3))
    # Six sides and twenty-two gestures, the last row filled up with paper.
    assert (inked.reshape(-1)[:28] > 0.03).all()
    assert (inked.reshape(-1)[28:] == 0).all()
    again = CliRunner().invoke(main, ["hand", "show", "--out", str(out)])
    assert "The output exists already" in again.stderr
    pose = tmp_path / "p.yaml"
    pose.write_text("index_mcp_flexion: 60\n")
    for name, words in (("fist", ""), (str(pose), ""), ("fits", "Unknown gesture 'fits'"), ("none.yaml", "no config")):
        drawn = CliRunner().invoke(main, ["hand", "show", "--pose", name, "--out", str(out), "--overwrite"])
        assert (drawn.exit_code == 0) == (not words)
        assert words in drawn.stderr
    assert CliRunner().invoke(main, ["hand", "show", "--pose", "fist"]).exit_code == 2

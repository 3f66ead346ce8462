"""A model file from a stranger: its graph is looked through before anything runs it."""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from handloom.learn.model_file import CHECKSUM_MARK, OPERATORS, refuse_strange, signed
from handloom.learn.predict import CROP, FORMAT, NORMALISATION, load
from handloom.stores.errors import HandloomError
from handloom.stores.joints import layout_named

SIDE, JOINTS = 8, len(layout_named("nyu14"))
Change = Callable[[onnx.ModelProto], None]


def proto() -> onnx.ModelProto:
    """The smallest model there is: a matrix from pixels to joints."""
    weights = np.random.default_rng(0).normal(0, 1, (SIDE * SIDE, 3 * JOINTS)).astype(np.float32)
    nodes = [
        helper.make_node("Flatten", ["crop"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["row"]),
        helper.make_node("Reshape", ["row", "shape"], ["joints_mm"]),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("crop", TensorProto.FLOAT, ["batch", 1, SIDE, SIDE])],
        [helper.make_tensor_value_info("joints_mm", TensorProto.FLOAT, ["batch", JOINTS, 3])],
        [
            numpy_helper.from_array(weights, "weights"),
            numpy_helper.from_array(np.array([-1, JOINTS, 3], np.int64), "shape"),
        ],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    layout = layout_named("nyu14")
    said = {
        "format": FORMAT, "version": "1", "layout": layout.name, "units": "mm", "hand": "right", "crop": CROP,
        "joints": str(list(layout.points)).replace("'", '"'), "normalisation": NORMALISATION,
        "input_px": str(SIDE), "cube_mm": "300.0", "checksum": CHECKSUM_MARK.decode() + "0" * 64,
    }  # fmt: skip
    for name, value in said.items():
        made.metadata_props.add(key=f"handloom.{name}", value=value)
    return made


def write(path: Path, change: Change | None = None) -> Path:
    """The model, changed, with a checksum that fits: as somebody who means harm would write it."""
    made = proto()
    if change is not None:
        change(made)
    path.write_bytes(signed(made.SerializeToString()))
    return path


def test_a_model_that_is_one_runs(tmp_path: Path):
    model = load(write(tmp_path / "m.onnx"))
    assert model.predict_crops(np.ones((2, 1, SIDE, SIDE), np.float32)).shape == (2, JOINTS, 3)
    assert model.confidence.calibrated is False


def outside(made: onnx.ModelProto) -> None:
    tensor = made.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")


def named_outside_only(made: onnx.ModelProto) -> None:
    made.graph.initializer[0].external_data.add(key="location", value="../secret")


def own_operator(made: onnx.ModelProto) -> None:
    made.graph.node[1].domain = "ai.onnx.contrib"
    made.graph.node[1].op_type = "PyOp"


def own_opset(made: onnx.ModelProto) -> None:
    made.opset_import.add(domain="com.microsoft", version=1)


def function(made: onnx.ModelProto) -> None:
    made.functions.add(name="Mine", domain="mine")


def loop(made: onnx.ModelProto) -> None:
    body = helper.make_graph([], "body", [], [])
    made.graph.node.append(helper.make_node("Loop", ["", ""], [], body=body))


def hidden_loop(made: onnx.ModelProto) -> None:
    made.graph.node[0].attribute.append(helper.make_attribute("body", helper.make_graph([], "body", [], [])))


def bomb(made: onnx.ModelProto) -> None:
    made.graph.node.append(helper.make_node("ConstantOfShape", ["shape"], ["bomb"]))


def empty_giant(made: onnx.ModelProto) -> None:
    made.graph.initializer.add(name="giant", data_type=TensorProto.FLOAT, dims=[1 << 20, 1 << 20])


def negative(made: onnx.ModelProto) -> None:
    made.graph.initializer[0].dims[0] = -64


def giant_in_a_constant(made: onnx.ModelProto) -> None:
    tensor = TensorProto(data_type=TensorProto.FLOAT, dims=[1 << 40])
    made.graph.node.append(helper.make_node("Constant", [], ["giant"], value=tensor))


def wide_padding(made: onnx.ModelProto) -> None:
    made.graph.node.append(helper.make_node("MaxPool", ["crop"], ["p"], kernel_shape=[1, 1], pads=[1 << 30] * 4))


def sparse(made: onnx.ModelProto) -> None:
    made.graph.sparse_initializer.add()


def second_network(made: onnx.ModelProto) -> None:
    made.ClearField("graph")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (outside, "another file"),
        (named_outside_only, "another file"),
        (own_operator, "PyOp of 'ai.onnx.contrib'"),
        (own_opset, "operators of 'com.microsoft'"),
        (function, "functions of its own"),
        (loop, "operator Loop"),
        (hidden_loop, "network of its own"),
        (bomb, "operator ConstantOfShape"),
        (empty_giant, "a tensor of 1048576 x 1048576"),
        (negative, "a tensor of -64"),
        (giant_in_a_constant, "a tensor of 1099511627776"),
        (wide_padding, "a number beyond 4096"),
        (sparse, "sparse weights"),
        (second_network, "0 networks"),
    ],
)
def test_what_no_model_of_ours_holds_is_not_run(tmp_path: Path, change: Change, why: str):
    with pytest.raises(HandloomError, match="is not run") as caught:
        load(write(tmp_path / "m.onnx", change))
    assert why in caught.value.why


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("provenance", "[" * 100_000),
        ("provenance", "[1]"),
        ("description", "nonsense"),
        ("confidence", "{}"),
        ("input_px", "1000000000"),
        ("cube_mm", "1e300"),
        ("joints", "[" * 100_000),
    ],
)
def test_descriptions_that_are_none(tmp_path: Path, name: str, value: str):
    def change(made: onnx.ModelProto) -> None:
        kept = [p for p in made.metadata_props if p.key != f"handloom.{name}"]
        del made.metadata_props[:]
        made.metadata_props.extend(kept)
        made.metadata_props.insert(0, onnx.StringStringEntryProto(key=f"handloom.{name}", value=value))

    with pytest.raises(HandloomError, match="incomplete or wrong"):
        load(write(tmp_path / "m.onnx", change))


def test_a_pipe_and_a_folder_are_no_models(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe.onnx")
    for path in (tmp_path / "pipe.onnx", tmp_path):
        with pytest.raises(HandloomError, match="There is no model"):
            load(path)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_any_bytes_are_read_or_refused(data: st.DataObject):
    """Flipped, cut and repeated parts of a real file, and noise: ValueError at the most, at once."""
    whole = proto().SerializeToString()
    start = data.draw(st.integers(0, len(whole)))
    made = bytearray(whole[: data.draw(st.integers(0, 400))] + whole[start : start + data.draw(st.integers(0, 400))])
    for place, byte in data.draw(st.lists(st.tuples(st.integers(0, 799), st.integers(0, 255)), max_size=8)):
        if place < len(made):
            made[place] = byte
    with suppress(ValueError):
        refuse_strange(bytes(made) + data.draw(st.binary(max_size=30)))


def test_no_operator_that_branches_or_inflates_is_allowed():
    grown = {"If", "Loop", "Scan", "SequenceMap", "ConstantOfShape", "Expand", "Tile", "Range", "Pad", "Resize"}
    assert not grown & OPERATORS

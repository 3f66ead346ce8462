"""What is checked of an exported model before anything runs it: it may come from a stranger.

An ONNX file is data: no pickle, no Python. What could still do harm is refused here, from the file's bytes and
without the onnx package: operators that are not in the standard (they live in libraries), operators that are none a
pose network has (loops, and those that make large tensors of small files), weights kept in other files, and shapes
that the file does not fill. A network may still be slow; it cannot reach beyond itself.

The wire format is that of Protocol Buffers; the field numbers are those of `onnx.proto`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any, Final

from ..stores.errors import HandloomError

CHECKSUM_MARK: Final = b"handloom-sha256:"
"""Stands in the file before the 64 hex digits of the sha256 of the file with zeros in their place."""
LARGEST_BYTES: Final = 1 << 30
"""No pose network is larger; Protocol Buffers end at twice that."""
LARGEST_ATTRIBUTE: Final = 4096
"""Of strides, padding, axes and kernels."""
OPERATORS: Final = frozenset(
    {
        "Abs", "Add", "AveragePool", "BatchNormalization", "Cast", "Clip", "Concat", "Constant", "Conv", "Div",
        "Elu", "Erf", "Exp", "Flatten", "Gather", "Gemm", "GlobalAveragePool", "HardSigmoid", "HardSwish",
        "Identity", "LayerNormalization", "LeakyRelu", "Less", "Log", "MatMul", "Max", "MaxPool", "Min", "Mod",
        "Mul", "Neg", "Not", "PRelu", "Pow", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum", "Relu",
        "Reshape", "Shape", "Sigmoid", "Slice", "Softmax", "Softplus", "Split", "Sqrt", "Squeeze", "Sub", "Sum",
        "Tanh", "Transpose", "Unsqueeze", "Where",
    }
)  # fmt: skip
"""What networks that read a crop are made of. Left out: loops and branches, and what makes a tensor of any size out
of a number (ConstantOfShape, Expand, Tile, Range, Pad, Resize)."""
STANDARD: Final = (b"", b"ai.onnx")

# Field numbers of onnx.proto.
_GRAPH, _OPSET, _TRAINING, _FUNCTIONS = 7, 8, 20, 25
_NODE, _INITIALIZER, _SPARSE = 1, 5, 15
_OP_TYPE, _ATTRIBUTE, _NODE_DOMAIN = 4, 5, 7
_INT, _TENSOR, _SUBGRAPH, _INTS, _TENSORS, _SUBGRAPHS, _SPARSE_TENSORS = 3, 5, 6, 8, 10, 11, (22, 23)
_DIMS, _EXTERNAL_DATA, _DATA_LOCATION = 1, 13, 14


def checked_bytes(path: Path) -> bytes:
    """The file, its checksum verified and its graph looked through.

    Raises:
        HandloomError: it is missing, damaged, not ours, or holds what no model of ours holds.
    """
    data = _read(path)
    start = data.rfind(CHECKSUM_MARK) + len(CHECKSUM_MARK)
    if start < len(CHECKSUM_MARK):
        raise HandloomError(
            "This is not a model exported by handloom, or it is damaged",
            where=str(path),
            why="it carries no checksum",
            fix="handloom export RUN --out MODEL.onnx",
        )
    if checksum(data, start) != data[start : start + 64]:
        raise HandloomError(
            "The model file is damaged",
            where=str(path),
            why="its checksum does not match its contents",
            fix="copy it again, or handloom export RUN --out MODEL.onnx",
        )
    try:
        refuse_strange(data)
    except ValueError as error:
        raise HandloomError(
            "The model file holds what no model of handloom holds, and is not run", where=str(path), why=str(error)
        ) from error
    return data


def checksum(data: bytes, start: int) -> bytes:
    """The 64 hex digits for a file whose digits begin at `start`: of the file with zeros in their place."""
    digest = hashlib.sha256(memoryview(data)[:start])
    digest.update(b"0" * 64)
    digest.update(memoryview(data)[start + 64 :])
    return digest.hexdigest().encode("ascii")


def signed(data: bytes) -> bytes:
    """The file with its checksum filled in; it holds `CHECKSUM_MARK` and 64 zeros."""
    start = data.rfind(CHECKSUM_MARK) + len(CHECKSUM_MARK)
    return data[:start] + checksum(data, start) + data[start + 64 :]


def refuse_strange(data: bytes) -> None:
    """Look through an ONNX file.

    Raises:
        ValueError: it is none, or has operators, references or shapes that are refused.
    """
    graphs = 0
    for number, value in _fields(memoryview(data)):
        if number == _GRAPH:
            graphs += 1
            _look_at_graph(_message(value))
        elif number == _OPSET:
            # Field 1 of an opset is its domain.
            for domain in (bytes(_message(v)) for n, v in _fields(_message(value)) if n == 1):
                if domain not in STANDARD:
                    raise ValueError(f"it needs operators of '{_shown(domain)}'")
        elif number in (_TRAINING, _FUNCTIONS):
            raise ValueError("it defines functions of its own")
    if graphs != 1:
        raise ValueError(f"it has {graphs} networks")


def _read(path: Path) -> bytes:
    try:
        if path.exists() and not path.is_file():
            raise HandloomError("There is no model", where=str(path), why="it is no file", fix="name the .onnx file")
        if path.is_file() and path.stat().st_size > LARGEST_BYTES:
            size = f"{path.stat().st_size / 1e9:.1f} GB"
            raise HandloomError("This is not a model exported by handloom", where=str(path), why=f"it has {size}")
        return path.read_bytes()
    except OSError as error:
        raise HandloomError(
            "There is no model",
            where=str(path),
            why=error.strerror or "",
            fix=f"handloom export RUN --out {path}",
        ) from error


def _look_at_graph(graph: memoryview) -> None:
    for number, value in _fields(graph):
        if number == _NODE:
            _look_at_node(_message(value))
        elif number == _INITIALIZER:
            _look_at_tensor(_message(value))
        elif number == _SPARSE:
            raise ValueError("it has sparse weights")


def _look_at_node(node: memoryview) -> None:
    fields = list(_fields(node))
    op_type = b"".join(bytes(_message(v)) for n, v in fields if n == _OP_TYPE)
    domain = b"".join(bytes(_message(v)) for n, v in fields if n == _NODE_DOMAIN)
    if domain not in STANDARD:
        raise ValueError(f"it needs the operator {_shown(op_type)} of '{_shown(domain)}'")
    if op_type.decode("ascii", "replace") not in OPERATORS:
        raise ValueError(f"it uses the operator {_shown(op_type)}")
    for number, value in fields:
        if number == _ATTRIBUTE:
            _look_at_attribute(_message(value), _shown(op_type))


def _look_at_attribute(attribute: memoryview, op_type: str) -> None:
    for number, value in _fields(attribute):
        if number in (_SUBGRAPH, _SUBGRAPHS, *_SPARSE_TENSORS):
            raise ValueError(f"its {op_type} holds a network of its own")
        if number in (_TENSOR, _TENSORS):
            _look_at_tensor(_message(value))
        elif number in (_INT, _INTS) and any(abs(n) > LARGEST_ATTRIBUTE for n in _integers(value)):
            raise ValueError(f"its {op_type} has a number beyond {LARGEST_ATTRIBUTE}")


def _look_at_tensor(tensor: memoryview) -> None:
    dims: list[int] = []
    for number, value in _fields(tensor):
        if number == _DIMS:
            dims += _integers(value)
        elif number == _EXTERNAL_DATA or (number == _DATA_LOCATION and value != 0):
            raise ValueError("its weights lie in another file")
    # Eight to a byte would be the densest that could be; what promises more only fills the memory.
    if any(n < 0 for n in dims) or prod(dims) > 8 * len(tensor):
        shape = " x ".join(str(n)[:20] for n in dims[:6])
        raise ValueError(f"a tensor of {shape} has {len(tensor)} bytes")


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Number and value of each field of a message: an int, or the bytes of what has a length."""
    at, end = 0, len(data)
    while at < end:
        key, at = _varint(data, at)
        value: int | memoryview
        match key & 7:
            case 0:
                value, at = _varint(data, at)
            case 1:
                value, at = data[at : at + 8], at + 8
            case 2:
                size, at = _varint(data, at)
                value, at = data[at : at + size], at + size
            case 5:
                value, at = data[at : at + 4], at + 4
            case _:
                raise ValueError("it is no ONNX file")
        if at > end:
            raise ValueError("it is cut off")
        yield key >> 3, value


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for i in range(10):
        if at + i >= len(data):
            raise ValueError("it is cut off")
        byte = data[at + i]
        value |= (byte & 0x7F) << (7 * i)
        if byte < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, at + i + 1
    raise ValueError("it is no ONNX file")


def _message(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise ValueError("it is no ONNX file")
    return value


def _integers(value: int | memoryview) -> list[int]:
    """One int64, or those of a packed field."""
    found: list[int] = []
    if isinstance(value, int):
        found = [value]
    else:
        at = 0
        while at < len(value):
            one, at = _varint(value, at)
            found.append(one)
    return [n - (1 << 64) if n >= 1 << 63 else n for n in found]


def _shown(name: Any) -> str:
    return bytes(name)[:40].decode("ascii", "replace")

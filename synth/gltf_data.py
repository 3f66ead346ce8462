"""The container of glTF 2.0: JSON and buffers of `.glb` and `.gltf`, and the numbers that accessors name.

Khronos, glTF 2.0, §3.6 (buffers, views, accessors; strides, sparse and normalised ones) and §4.4 (GLB).
Every number is checked against the bytes that are there before anything of its size is made.
"""

from __future__ import annotations

import base64
import binascii
import json
import struct
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..stores.errors import HandloomError

F64 = NDArray[np.float64]
JSON_CHUNK: Final = 0x4E4F534A
BIN_CHUNK: Final = 0x004E4942
_TYPES: Final = {5120: "<i1", 5121: "<u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
_WIDTHS: Final = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT3": 9, "MAT4": 16}
_HARMLESS: Final = ("KHR_mesh_quantization", "KHR_materials", "KHR_texture", "EXT_texture", "KHR_lights")
"""Extensions that may be required without changing where vertices, joints and weights are found."""


@dataclass(frozen=True, slots=True)
class Gltf:
    """A parsed file: its JSON, and the bytes of its buffers."""

    where: str
    json: dict[str, Any]
    buffers: tuple[bytes, ...]

    def refuse(self, why: str, fix: str = "export the hand again as binary glTF (.glb)") -> HandloomError:
        """The error for a file that does not keep to the format."""
        return HandloomError("The glTF file cannot be read", where=self.where, why=why, fix=fix)

    def items(self, kind: str) -> list[Any]:
        """A top-level array, empty where there is none."""
        found = self.json.get(kind, [])
        if not isinstance(found, list):
            raise self.refuse(f"'{kind}' is no list")
        return found

    def item(self, kind: str, number: Any) -> dict[str, Any]:
        """Object `number` of a top-level array."""
        found = self.items(kind)
        if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < len(found):
            raise self.refuse(f"it has no {kind}[{str(number)[:40]}]")
        if not isinstance(found[number], dict):
            raise self.refuse(f"{kind}[{number}] is no object")
        out: dict[str, Any] = found[number]
        return out

    def integer(self, owner: dict[str, Any], key: str, default: int | None = None) -> int:
        """A whole number that is not negative."""
        value = owner.get(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 40:
            raise self.refuse(f"'{key}' is {str(value)[:40]!r} and no count")
        return value

    def numbers(self, owner: dict[str, Any], key: str, count: int) -> F64 | None:
        """`count` finite numbers, None where there are none."""
        values = owner.get(key)
        if values is None:
            return None
        plain = isinstance(values, list) and len(values) == count
        if not plain or not all(isinstance(v, (int, float)) and abs(v) < 1e9 for v in values):
            raise self.refuse(f"'{key}' is not {count} numbers")
        return np.array(values, np.float64)


def parse_gltf(data: bytes, *, where: str) -> Gltf:
    """The JSON and buffers of a `.glb` or `.gltf` file.

    Raises:
        HandloomError: it is no glTF 2.0, is cut off, is compressed, or keeps its data in other files.
    """
    blank = Gltf(where, {}, ())
    if data[:4] == b"glTF":
        text, binary = _chunks(blank, data)
    else:
        text, binary = data, None
    try:
        values = json.loads(text.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise blank.refuse(f"it is neither GLB nor JSON: {error}") from error
    if not isinstance(values, dict) or not isinstance(values.get("asset"), dict):
        raise blank.refuse("it has no 'asset'")
    version = values["asset"].get("version")
    if not isinstance(version, str) or not version.startswith("2."):
        raise blank.refuse(f"it is glTF {str(version)[:20]}, not 2.0")
    half = Gltf(where, values, ())
    for name in half.items("extensionsRequired"):
        if not str(name).startswith(_HARMLESS):
            raise half.refuse(f"it needs the extension {str(name)[:60]}", "export it without compression")
    buffers = []
    for number in range(len(half.items("buffers"))):
        buffer = half.item("buffers", number)
        content = _data_of(half, buffer.get("uri"), binary if number == 0 else None)
        length = half.integer(buffer, "byteLength")
        if length > len(content):
            raise half.refuse(f"buffer {number} is cut off: {len(content)} of {length} bytes")
        buffers.append(content[:length])
    return Gltf(where, values, tuple(buffers))


def _chunks(blank: Gltf, data: bytes) -> tuple[bytes, bytes | None]:
    if len(data) < 20:
        raise blank.refuse("it is cut off within its header")
    _, version, length = struct.unpack_from("<4sII", data)
    if version != 2:
        raise blank.refuse(f"it is GLB version {version}, not 2")
    if length > len(data):
        raise blank.refuse(f"it is cut off: {len(data)} of {length} bytes")
    found: dict[int, bytes] = {}
    at = 12
    while at + 8 <= length:
        size, kind = struct.unpack_from("<II", data, at)
        if at + 8 + size > length:
            raise blank.refuse("a chunk is longer than the file")
        found.setdefault(kind, data[at + 8 : at + 8 + size])
        at += 8 + size
    if JSON_CHUNK not in found:
        raise blank.refuse("it has no JSON chunk")
    return found[JSON_CHUNK], found.get(BIN_CHUNK)


def _data_of(gltf: Gltf, uri: Any, binary: bytes | None) -> bytes:
    if uri is None:
        if binary is None:
            raise gltf.refuse("a buffer has no data")
        return binary
    if not isinstance(uri, str) or not uri.startswith("data:") or ";base64," not in uri[:100]:
        raise gltf.refuse(f"its data lie in another file ({str(uri)[:60]})")
    try:
        return base64.b64decode(uri.partition(";base64,")[2], validate=True)
    except (binascii.Error, ValueError) as error:
        raise gltf.refuse(f"a buffer's base64 is damaged: {error}") from error


def accessor(gltf: Gltf, number: Any, *, most: int, types: tuple[str, ...]) -> NDArray[Any]:
    """(count, width) values of an accessor, normalised ones as float64.

    Args:
        gltf: the file.
        number: of the accessor.
        most: refuse more elements than this.
        types: that are expected, of `_WIDTHS`.
    """
    what = gltf.item("accessors", number)
    kind, component = what.get("type"), what.get("componentType")
    count = gltf.integer(what, "count")
    if kind not in types or not isinstance(component, int) or component not in _TYPES:
        raise gltf.refuse(
            f"accessor {number} is {str(kind)[:20]} of {str(component)[:20]}; {' or '.join(types)} is needed"
        )
    if count > most:
        raise gltf.refuse(f"accessor {number} has {count} elements; a hand has at most {most}")
    dtype, width = np.dtype(_TYPES[component]), _WIDTHS[kind]
    if kind.startswith("MAT") and dtype.itemsize < 4:
        raise gltf.refuse(f"accessor {number} keeps matrices in {dtype.itemsize} bytes a number")
    if what.get("bufferView") is None:
        values = np.zeros((count, width), dtype)
    else:
        values = _strided(gltf, what["bufferView"], gltf.integer(what, "byteOffset", 0), count, width, dtype).copy()
    sparse = what.get("sparse")
    if isinstance(sparse, dict):
        few = gltf.integer(sparse, "count")
        places, new = sparse.get("indices"), sparse.get("values")
        if few > count or not isinstance(places, dict) or not isinstance(new, dict):
            raise gltf.refuse(f"accessor {number} is sparse in a way that is not glTF's")
        if places.get("componentType") not in (5121, 5123, 5125):
            raise gltf.refuse(f"accessor {number} has sparse indices of {str(places.get('componentType'))[:20]}")
        where = _strided(
            gltf, places.get("bufferView"), gltf.integer(places, "byteOffset", 0), few, 1,
            np.dtype(_TYPES[places["componentType"]]),
        )[:, 0]  # fmt: skip
        if few and int(where.max()) >= count:
            raise gltf.refuse(f"accessor {number} has sparse indices beyond its end")
        values[where] = _strided(gltf, new.get("bufferView"), gltf.integer(new, "byteOffset", 0), few, width, dtype)
    if what.get("normalized") is True and dtype.kind in "iu":
        return np.asarray(np.maximum(values / np.iinfo(dtype).max, -1.0))
    return values


def _strided(gltf: Gltf, view_number: Any, offset: int, count: int, width: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    """(count, width) elements of a buffer view from a byte offset on."""
    view = gltf.item("bufferViews", view_number)
    buffer_number = gltf.integer(view, "buffer")
    if buffer_number >= len(gltf.buffers):
        raise gltf.refuse(f"bufferView {view_number} is of buffer {buffer_number}, which is not there")
    buffer = gltf.buffers[buffer_number]
    start, length = gltf.integer(view, "byteOffset", 0), gltf.integer(view, "byteLength")
    size = width * dtype.itemsize
    stride = gltf.integer(view, "byteStride", size)
    if stride < size:
        raise gltf.refuse(f"bufferView {view_number} has a stride of {stride} bytes for elements of {size}")
    if start + length > len(buffer) or (count and offset + (count - 1) * stride + size > length):
        raise gltf.refuse(f"bufferView {view_number} ends before its data do")
    if not count:
        return np.zeros((0, width), dtype)
    return np.ndarray((count, width), dtype, buffer, start + offset, (stride, dtype.itemsize))

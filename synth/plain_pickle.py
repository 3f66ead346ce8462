"""Pickles of arrays read as data: no name in them is looked up, no code of theirs or of ours is run.

A pickle is a program for a small stack machine that may call anything by name. Here a name leads to one of a
few stand-ins, or the file is refused: numpy's arrays, scalars and types, scipy's compressed sparse matrices,
and chumpy's arrays, with which MANO's files were written and which is not needed to read them. A stand-in
keeps what it is given; only `plain` makes arrays of it, from bytes whose number has been checked.

Python's own reader is used in its Python form: its C form makes room for as many memo entries as a
four-byte number says, 64 GB at most.
"""

from __future__ import annotations

import io
import pickle
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from ..stores.errors import HandloomError

MAX_BYTES: Final = 1 << 28
_SPARSE: Final = ("csc_matrix", "csr_matrix", "csc_array", "csr_array")
# What calls code, registers extensions, or takes data from elsewhere.
_REFUSED: Final = (
    pickle.PERSID, pickle.BINPERSID, pickle.EXT1, pickle.EXT2, pickle.EXT4,
    pickle.NEXT_BUFFER, pickle.READONLY_BUFFER,
)  # fmt: skip


@dataclass(slots=True, eq=False)
class Kept:
    """A stand-in for an object: the name of what it was, what it was called with, and its state."""

    name: str
    arguments: tuple[Any, ...] = ()
    state: Any = None


@dataclass(frozen=True, slots=True)
class Maker:
    """A stand-in for a class or function that is called: it makes a `Kept`."""

    name: str

    def __call__(self, *arguments: Any) -> Kept:
        """Keep the arguments."""
        return Kept(self.name, arguments)


_MACHINE: Final[Any] = pickle._Unpickler  # only part of it is in its type's description


def _maker(module: str, name: str) -> Maker | None:
    root = module.partition(".")[0]
    match root, name:
        case "numpy", "ndarray" | "dtype" | "_reconstruct" | "scalar" | "_frombuffer":
            return Maker(name)
        case "scipy", _ if module.startswith("scipy.sparse") and name in _SPARSE:
            return Maker(name)
        case "chumpy", _ if name.isidentifier():
            return Maker(f"chumpy.{name}")
        case "copy_reg" | "copyreg", "_reconstructor":
            return Maker(name)
        case "__builtin__" | "builtins", "object" | "set" | "frozenset":
            return Maker(name)
        case "_codecs", "encode":
            return Maker(name)
    return None


def _refuse(reader: Any) -> None:
    raise pickle.UnpicklingError("an instruction that no plain data need")


class _Reader(_MACHINE):  # type: ignore[misc]
    """The stack machine without its ways out."""

    dispatch: ClassVar[dict[int, Any]] = {**_MACHINE.dispatch, **{code[0]: _refuse for code in _REFUSED}}

    def find_class(self, module: str, name: str) -> Any:
        """The stand-in for a name."""
        found = _maker(module, name)
        if found is None:
            raise pickle.UnpicklingError(f"it asks for {module[:60]}.{name[:60]}")
        return found

    def _made(self, maker: Any, arguments: Any) -> Kept:
        if not isinstance(maker, Maker) or not isinstance(arguments, tuple):
            raise pickle.UnpicklingError("it calls what is no array")
        if maker.name == "_reconstructor":
            # copyreg's way to an object of a class: (class, base, base's value).
            of = arguments[0] if arguments else None
            return Kept(of.name if isinstance(of, Maker) else "object")
        return maker(*arguments)

    def load_reduce(self) -> None:
        """Call a stand-in."""
        arguments = self.stack.pop()
        self.stack[-1] = self._made(self.stack[-1], arguments)

    def load_newobj(self) -> None:
        """Make a stand-in of a class."""
        arguments = self.stack.pop()
        self.stack.append(self._made(self.stack.pop(), arguments))

    def load_build(self) -> None:
        """Give a stand-in its state."""
        state = self.stack.pop()
        if not isinstance(self.stack[-1], Kept):
            raise pickle.UnpicklingError("it changes what is no array")
        self.stack[-1].state = state

    def load_bytearray8(self) -> None:
        """Bytes, once they are there: Python's own makes room for as many as the file says."""
        size = int.from_bytes(self.read(8), "little")
        if size > MAX_BYTES:
            raise pickle.UnpicklingError("more bytes than a hand has")
        self.append(bytes(self.read(size)))

    dispatch[pickle.BYTEARRAY8[0]] = load_bytearray8
    dispatch[pickle.REDUCE[0]] = load_reduce
    dispatch[pickle.NEWOBJ[0]] = load_newobj
    dispatch[pickle.BUILD[0]] = load_build
    for _code in (pickle.OBJ, pickle.INST, pickle.NEWOBJ_EX):
        dispatch[_code[0]] = _refuse
    del _code


def read_pickle(data: bytes, *, where: str) -> Any:
    """What a pickle holds: numbers, text, lists and mappings as they are, objects as `Kept`.

    Raises:
        HandloomError: it is damaged, or asks for anything but arrays.
    """
    try:
        return _Reader(io.BytesIO(data), encoding="latin1").load()
    except Exception as error:  # a damaged program for a stack machine fails in every way there is
        raise HandloomError(
            "The pickle cannot be read as data",
            where=where,
            why=f"it is damaged, or no pickle: {type(error).__name__} {error}".rstrip()[:200]
            if not isinstance(error, pickle.UnpicklingError)
            else str(error)[:200],
            fix="only plain arrays are read from a .pkl; make an .npz of them where the file comes from",
        ) from error


def plain(value: Any) -> Any:
    """Arrays and bytes of stand-ins, as far as they are ones; anything else as it is.

    Raises:
        ValueError: an array's bytes are not as many as its shape says, or are Python objects.
    """
    for _ in range(20):
        if not isinstance(value, Kept):
            return value
        match value.name:
            case "_reconstruct" | "ndarray":
                return _array(value.state)
            case "scalar":
                return _from_bytes(value.arguments[1], _dtype(value.arguments[0]), 1)[0]
            case "_frombuffer":
                data, dtype, shape, order = value.arguments
                return _shaped(data, _dtype(dtype), shape, order == "F")
            case "encode":
                # Python 3 writes bytes into old protocols as text of the same numbers.
                return str(value.arguments[0]).encode("latin1")
            case name if name in _SPARSE:
                return _dense(value)
            case "chumpy.Select":
                state = _mapping(value.state)
                flat = np.asarray(plain(state["a"]), np.float64).reshape(-1)
                picked = flat[_array(state["idxs"].state).astype(np.int64)]
                return picked.reshape(state.get("preferred_shape", picked.shape))
            case name if name.startswith("chumpy."):
                value = _mapping(value.state)["x"]
            case _:
                raise ValueError(f"{value.name[:60]} is no array")
    raise ValueError("chumpy arrays within each other")


def _mapping(state: Any) -> dict[str, Any]:
    # A pair where the object has slots: its dictionary, and what the slots hold.
    inner = state[0] if isinstance(state, tuple) and len(state) == 2 else state
    if not isinstance(inner, dict):
        raise ValueError("an object without contents")
    return inner


def _dtype(value: Any) -> np.dtype[Any]:
    if not isinstance(value, Kept) or value.name != "dtype":
        raise ValueError("an array without a type")
    code = str(value.arguments[0])
    order = value.state[1] if isinstance(value.state, tuple) and len(value.state) > 1 else "="
    if code not in ("b1", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8"):
        raise ValueError(f"an array of {code[:20]}, which is no plain number")
    return np.dtype(f"{order}{code}" if order in ("<", ">") else code)


def _array(state: Any) -> NDArray[Any]:
    if not isinstance(state, tuple) or len(state) not in (4, 5):
        raise ValueError("an array without contents")
    shape, dtype, fortran, data = state[-4:]
    return _shaped(data, _dtype(dtype), shape, bool(fortran))


def _shaped(data: Any, dtype: np.dtype[Any], shape: Any, fortran: bool) -> NDArray[Any]:
    if not isinstance(shape, tuple) or not all(isinstance(n, int) and 0 <= n < 1 << 40 for n in shape):
        raise ValueError("an array without a shape")
    count = 1
    for size in shape:
        count *= size
    return _from_bytes(data, dtype, count).reshape(shape, order="F" if fortran else "C")


def _from_bytes(data: Any, dtype: np.dtype[Any], count: int) -> NDArray[Any]:
    data = plain(data)
    raw = data.encode("latin1") if isinstance(data, str) else data
    if not isinstance(raw, (bytes, bytearray)) or len(raw) != count * dtype.itemsize:
        raise ValueError("an array whose bytes do not fit its shape")
    return np.frombuffer(raw, dtype)


def _dense(value: Kept) -> NDArray[Any]:
    """A compressed sparse matrix written out."""
    state = _mapping(value.state)
    columns = value.name.startswith("csc")
    shape = plain(state.get("_shape", state.get("shape")))
    data, indices, pointers = (np.asarray(plain(state[name])) for name in ("data", "indices", "indptr"))
    if not isinstance(shape, tuple) or len(shape) != 2 or not all(isinstance(n, int) and n >= 0 for n in shape):
        raise ValueError("a sparse matrix without a shape")
    major, minor = (shape[1], shape[0]) if columns else shape
    if major * minor * 8 > MAX_BYTES or len(pointers) != major + 1 or len(data) != len(indices):
        raise ValueError("a sparse matrix that does not fit its shape")
    starts = pointers.astype(np.int64)
    counts = starts[1:] - starts[:-1]
    if (counts < 0).any() or counts.sum() != len(data) or starts[0] != 0:
        raise ValueError("a sparse matrix whose rows do not fit its values")
    if len(indices) and (indices.min() < 0 or indices.max() >= minor):
        raise ValueError("a sparse matrix with values outside of it")
    out = np.zeros((major, minor))
    np.add.at(out, (np.arange(major).repeat(counts), indices.astype(np.int64)), data.astype(np.float64))
    return out.T if columns else out

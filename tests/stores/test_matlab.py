"""MATLAB's arrays as SciPy writes them, and files that crash SciPy's own reader."""

from __future__ import annotations

import io
from contextlib import suppress

import numpy as np
import pytest
from scipy.io import savemat

from handloom.stores.matlab import read_matlab

MOST = 1 << 20


def file(*, packed: bool = False, **arrays: object) -> bytes:
    stream = io.BytesIO()
    savemat(stream, arrays, do_compression=packed)
    return stream.getvalue()


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", ["f8", "f4", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8"])
def test_what_scipy_writes_is_read(kind: str, packed: bool) -> None:
    rng = np.random.default_rng(0)
    array = rng.integers(0, 100, (2, 3, 4, 5)).astype(kind)
    data = file(packed=packed, a="text", joint_xyz=array, z=np.zeros((1, 1)))
    found = read_matlab(data, "joint_xyz", most_bytes=MOST)
    assert found is not None
    assert found.dtype.kind == array.dtype.kind
    assert (found == array).all()
    assert read_matlab(data, "z", most_bytes=MOST) == np.zeros((1, 1))
    assert read_matlab(data, "joint_uvd", most_bytes=MOST) is None


def test_what_holds_no_real_numbers_is_refused() -> None:
    for value in ("text", np.array([1j]), {"a": 1}, np.array([[1, "a"]], object)):
        with pytest.raises(ValueError, match=r"no real numbers|cut off"):
            read_matlab(file(x=value), "x", most_bytes=MOST)


@pytest.mark.parametrize("packed", [False, True])
def test_any_bytes_are_read_or_refused(packed: bool) -> None:
    """Hypothesis found a type code here that SciPy took for a pointer: the process died."""
    good = file(packed=packed, x=np.arange(24.0).reshape(2, 3, 4))
    rng = np.random.default_rng(1)
    for _ in range(3000):
        data = bytearray(good)
        for at in rng.integers(100, len(data), rng.integers(1, 4)):
            data[at] = rng.integers(256)
        data = data[: rng.integers(len(data))] if rng.random() < 0.2 else data
        with suppress(ValueError):
            read_matlab(bytes(data), "x", most_bytes=MOST)


def test_no_variable_unpacks_without_end() -> None:
    data = file(packed=True, x=np.zeros((1000, 1000)))
    assert len(data) < 20_000
    with pytest.raises(ValueError, match="larger than any"):
        read_matlab(data, "x", most_bytes=MOST)

"""One number for everything that a recording holds, to compare two that were made in different ways."""

from __future__ import annotations

import hashlib

import numpy as np

from handloom.stores.recording import Recording

TABLES = ("frames", "crops", "labels")


def array_hash(recording: Recording, rows: int | None = None) -> str:
    """Of all arrays of all tables, whole or their first rows."""
    digest = hashlib.sha256()
    for name in TABLES:
        table = getattr(recording, name)
        if table is None:
            continue
        for column in sorted(table.columns):
            values = np.ascontiguousarray(table.read(column, 0, rows))
            digest.update(f"{name}/{column} {values.dtype} {values.shape}".encode())
            digest.update(values.tobytes())
    return digest.hexdigest()

"""Importing this module gives numba a writable cache folder; import it before numba.

numba's `cache=True` raises at import when neither the package's folder nor the home folder can be written,
as in a read-only container. This is the one module of the kit that does something at import, and this is it.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def _writable_cache() -> str:
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
    for folder in (
        base / "handloom" / "numba",
        Path(tempfile.gettempdir()) / f"handloom-numba-{os.getuid()}",
    ):
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError:
            continue
        if os.access(folder, os.W_OK):
            return str(folder)
    return tempfile.mkdtemp(prefix="handloom-numba-")


if "NUMBA_CACHE_DIR" not in os.environ:
    os.environ["NUMBA_CACHE_DIR"] = _writable_cache()

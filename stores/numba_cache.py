"""Importing this module gives numba a writable cache folder; import it before numba.

numba's `cache=True` raises at import when neither the package's folder nor the home folder can be written,
as in a read-only container. And it asks only whether the file of a kernel has changed, not those of the functions
that the kernel calls, which are compiled into it: so the folder's name says what all of the kit's kernels are, and
an edit of any of them compiles them anew. A folder given by NUMBA_CACHE_DIR is taken as it is: empty it after edits.
This is the one module of the kit that does something at import, and this is it; it takes 2 ms.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path


def digest_of_kernels(package: Path) -> str:
    """16 letters that depend on every module of the package's folders that imports numba."""
    known = hashlib.sha256()
    for path in sorted(package.glob("*/*.py")):
        text = path.read_bytes()
        if b"import numba as nb" in text:
            known.update(path.name.encode() + text)
    return known.hexdigest()[:16]


def _writable_cache() -> str:
    kernels = digest_of_kernels(Path(__file__).resolve().parents[1])
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
    for folder in (
        base / "handloom" / "numba" / kernels,
        Path(tempfile.gettempdir()) / f"handloom-numba-{os.getuid()}" / kernels,
    ):
        try:
            folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            folder.mkdir(exist_ok=True, mode=0o700)
        except OSError:
            continue
        if os.access(folder, os.W_OK):
            return str(folder)
    return tempfile.mkdtemp(prefix="handloom-numba-")


if "NUMBA_CACHE_DIR" not in os.environ:
    os.environ["NUMBA_CACHE_DIR"] = _writable_cache()

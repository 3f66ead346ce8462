"""Which edits compile the kernels anew."""

from __future__ import annotations

from pathlib import Path

from handloom.stores.numba_cache import digest_of_kernels


def test_an_edit_of_any_kernel_is_another_folder(tmp_path: Path) -> None:
    """A function that a kernel calls in another file: numba kept the kernel as it was before the edit."""
    for name in ("stores", "synth"):
        (tmp_path / name).mkdir()
    (tmp_path / "synth/kernel.py").write_text("import numba as nb\nfrom .shared import f\n")
    (tmp_path / "synth/shared.py").write_text("import numba as nb\nf = 1\n")
    (tmp_path / "stores/plain.py").write_text("x = 1\n")
    before = digest_of_kernels(tmp_path)
    (tmp_path / "stores/plain.py").write_text("x = 2\n")
    assert digest_of_kernels(tmp_path) == before
    (tmp_path / "synth/shared.py").write_text("import numba as nb\nf = 2\n")
    assert digest_of_kernels(tmp_path) != before


def test_every_module_with_kernels_counts() -> None:
    package = Path(__file__).resolve().parents[2]
    for folder in ("stores", "synth", "capture", "learn"):
        for path in (package / folder).glob("*.py"):
            assert ".njit" not in path.read_text() or "import numba as nb" in path.read_text(), path

"""A user's mistake as an exception: what happened, where, why, and the command that mends it."""

from __future__ import annotations

from functools import partial
from typing import Any, Final

BAD_INPUT: Final = 2
"""Exit code of a usage error or a file that cannot be used."""
BAD_ENVIRONMENT: Final = 3
"""Exit code of a machine that lacks something: an extra, a device, space on the disk."""


class HandloomError(Exception):
    """What went wrong, in the user's words; the command line prints it without a traceback.

    Args:
        what: one sentence saying what could not be done.
        where: the file, array, row or option it was found in.
        why: the fact that makes it impossible.
        fix: the command or the edit that mends it.
        exit_code: `BAD_INPUT` or `BAD_ENVIRONMENT`.
    """

    def __init__(self, what: str, *, where: str = "", why: str = "", fix: str = "", exit_code: int = BAD_INPUT) -> None:
        super().__init__(what, where, why, fix)
        self.what, self.where, self.why, self.fix = what, where, why, fix
        self.exit_code = exit_code

    def __reduce__(self) -> tuple[Any, ...]:
        # A worker process hands its errors over pickled, which keyword arguments do not survive by themselves.
        values = {name: getattr(self, name) for name in ("where", "why", "fix", "exit_code")}
        return partial(type(self), **values), (self.what,)

    def __str__(self) -> str:
        parts = [("where", self.where), ("why", self.why), ("fix", self.fix)]
        return "\n".join([self.what, *(f"  {name + ':':<7}{text}" for name, text in parts if text)])


def missing_extra(package: str, extra: str) -> HandloomError:
    """The error for an optional dependency that is not installed, with the pip command that brings it."""
    return HandloomError(
        f"{package} is not installed",
        why=f"it comes with the optional extra '{extra}'",
        fix=f"pip install 'handloom[{extra}]'",
        exit_code=BAD_ENVIRONMENT,
    )

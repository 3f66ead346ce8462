"""The training log as TensorBoard reads it: extra `tensorboard`, imported only when it is asked for.

While a run logs them, `RUN/tensorboard` says what `RUN/metrics.jsonl` says, no more and no less. So a call that goes
on with a run begins a file of its own with all lines that are kept, and tells TensorBoard to forget what stands in
those of earlier calls (`purge_step`): these may hold steps after the last checkpoint, which are made again, or lack
lines of calls that were not asked for them. They stay where they are, as a TensorBoard that reads one of them never
leaves it once it is gone. Steps are exact; the wall times of lines that were written again are those of the new call.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ..stores.errors import missing_extra

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

FOLDER: Final = "tensorboard"
FIRST: Final = 1
"""The number of the first step: everything from there on in earlier files is old."""


def remove_event_files(run_dir: Path) -> None:
    """Take those of a run that is replaced away."""
    for old in (run_dir / FOLDER).glob("events.out.tfevents.*"):
        old.unlink()


def need_tensorboard() -> None:
    """Raise where the extra is missing.

    Raises:
        HandloomError: with the command that installs it.
    """
    if importlib.util.find_spec("tensorboard") is None:
        raise missing_extra("tensorboard", "tensorboard")


class EventFiles:
    """Event files beside a run's log; `write` each line there, `close` at the end."""

    def __init__(self, run_dir: Path, lines: Sequence[str]) -> None:
        """Begin a file with the lines that the log has already.

        Args:
            run_dir: of the run.
            lines: of its metrics.jsonl.

        Raises:
            HandloomError: the extra is missing.
        """
        need_tensorboard()
        from torch.utils.tensorboard import SummaryWriter

        self._writer: SummaryWriter = SummaryWriter(str(run_dir / FOLDER), purge_step=FIRST)
        for line in lines:
            self._add(json.loads(line))
        self._writer.flush()

    def write(self, metrics: Mapping[str, float]) -> None:
        """One line of the log, on the disk when this returns."""
        self._add(metrics)
        self._writer.flush()

    def close(self) -> None:
        """End the file."""
        self._writer.close()

    def _add(self, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            if name != "step":
                self._writer.add_scalar(name, value, int(metrics["step"]))

"""What the commands share: kinds of arguments, options that mean the same everywhere, and how they print."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click


class UsablePath(click.Path):
    """A path that the file system can at least look up; what lies there is for the command to judge."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Refuse names that no file can have."""
        path = Path(value)
        try:
            path = super().convert(value, param, ctx)  # type: ignore[assignment]  # as `path_type` says
            path.stat()
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            pass
        except ValueError:
            self.fail("a path holds no NUL character", param, ctx)
        except OSError as error:
            self.fail(f"{error.strerror}: {str(path)[:60]}", param, ctx)
        return path


FILE = UsablePath(path_type=Path)
FOLDER = UsablePath(path_type=Path)

overwrite_option = click.option("--overwrite", is_flag=True, help="Replace what lies at the output.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
seed_option = click.option("--seed", type=int, default=0, show_default=True)
set_option = click.option(
    "-o", "overrides", multiple=True, metavar="KEY=VALUE", help="Set one value of the configuration."
)
hand_option = click.option("--hand", metavar="builtin|FILE", help="Whose hand: the built-in one, or a file's.")
side_option = click.option("--side", type=click.Choice(["right", "left"]), help="Which hand; mirrored if need be.")
mapping_option = click.option("--hand-mapping", type=FILE, help="YAML file that names the joints of the hand's file.")


def print_next(*commands: str) -> None:
    """The commands that come next, the likeliest first."""
    for i, command in enumerate(commands):
        click.echo(f"{'next:' if i == 0 else '  or:'} {command}")


def print_json(value: Mapping[str, Any]) -> None:
    """For other programs."""
    click.echo(json.dumps(value, indent=2, default=str))


def print_facts(facts: Mapping[str, str]) -> None:
    """For people: a name and what it is, a line each."""
    for name, value in facts.items():
        click.echo(f"{name:<14} {value}")


def one_thread() -> None:
    """Let numpy and numba run one thread, as workers do, unless they are here already or told otherwise.

    On a busy machine of two cores one process with their threads drew 144 views/s, with one thread 598.
    """
    from .synth.executor import THREAD_VARIABLES

    if "numpy" not in sys.modules:
        for name in THREAD_VARIABLES:
            os.environ.setdefault(name, "1")

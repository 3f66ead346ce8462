"""What the commands share: kinds of arguments, options that mean the same everywhere, and how they print."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem


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


class Folder(UsablePath):
    """A folder, there or to be made."""

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
        """The shell's own folders."""
        return [CompletionItem(incomplete, type="dir")]


class MarkedFolder(UsablePath):
    """A folder of a kind that the shell can tell from others by a file in it."""

    def __init__(self, marker: str) -> None:
        super().__init__(path_type=Path)
        self.marker = marker

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
        """Folders of the kind, and others on the way to one."""
        from .completion import marked_folders

        return marked_folders(incomplete, self.marker)


FILE = UsablePath(path_type=Path)
FOLDER = Folder(path_type=Path)
RECORDING = MarkedFolder("zarr.json")
RUN = MarkedFolder("checkpoint.pt")

overwrite_option = click.option("--overwrite", is_flag=True, help="Replace what lies at the output.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
seed_option = click.option("--seed", type=int, default=0, show_default=True)


def _keys(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    from .completion import config_keys

    return config_keys(ctx, incomplete)


def _layouts(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    return [CompletionItem(name) for name in LAYOUT_NAMES if name.startswith(incomplete)]


LAYOUT_NAMES = ("openxr26", "mediapipe21", "mano21", "msra21", "bighand21", "icvl16", "nyu36", "nyu14")
"""As `stores.joints.LAYOUTS` has them, whose import takes the shell too long."""
set_option = click.option(
    "-o",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    shell_complete=_keys,
    help="Set one value of the configuration.",
)
config_option = click.option("--config", "config_file", type=FILE, help="YAML file; options and -o go over it.")


def layout_option(text: str) -> Callable[[Any], Any]:
    """`--layout`, with what it means here."""
    return click.option("--layout", metavar="NAME", shell_complete=_layouts, help=text)


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


def with_options(options: Sequence[Callable[[Any], Any]]) -> Callable[[Any], Any]:
    """The options in this order, as one decorator."""

    def decorate(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate

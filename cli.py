"""The `handloom` command: read options, call one function, print what it made and what comes next.

Nothing heavy is imported here; each command imports what it runs. Results go to standard output, progress and
errors to standard error. Exit codes: 0 done, 1 findings, 2 usage or bad input, 3 environment.
"""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path
from typing import IO, Any

import click

from .cli_capture import capture
from .cli_eval import evaluate
from .cli_latent import latent
from .cli_learn import label, train
from .cli_predict import export, predict
from .cli_report import report
from .cli_store import store
from .cli_synth import hand, synth
from .cli_view import view
from .options import FOLDER, RECORDING, json_option, overwrite_option, print_json, print_next, seed_option, set_option
from .stores.errors import BAD_ENVIRONMENT


class _Shown(click.ClickException):
    """A `HandloomError` on its way to the terminal."""

    def __init__(self, text: str, exit_code: int) -> None:
        super().__init__(text)
        self.exit_code = exit_code  # type: ignore[misc]  # click calls it a class variable

    def show(self, file: IO[Any] | None = None) -> None:
        click.echo(f"error: {self.format_message()}", err=True)


class _Interrupted(click.ClickException):
    """Ctrl-C, with what is left of the work; 130 is what shells call an end by it."""

    exit_code = 130

    def show(self, file: IO[Any] | None = None) -> None:
        click.echo(f"\n{self.format_message()}", err=True)


def _interrupted(command: click.Command | None) -> str:
    """What a command that ctrl-C ended has left, by the options it has."""
    options = {parameter.name for parameter in command.params} if command else set()
    if "resume" in options:
        return "Interrupted: what had been saved is kept, and the same command with --resume goes on from there."
    if "overwrite" in options:
        return "Interrupted: nothing was finished; the same command with --overwrite replaces what was begun."
    return "Interrupted."


def _let_go_of_output() -> None:
    """What standard output could not take would be written again as Python ends, in vain and not in words."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class _Commands(click.Group):
    """A group that shows users' errors in words, and as a traceback only with --debug."""

    def invoke(self, ctx: click.Context) -> Any:
        from .stores.errors import BAD_ENVIRONMENT, BAD_INPUT, HandloomError

        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            raise _Interrupted(_interrupted(ctx.meta.get("handloom.command"))) from error
        except HandloomError as error:
            if ctx.params.get("debug"):
                raise
            raise _Shown(str(error), error.exit_code) from error
        except BrokenPipeError as error:
            # Whoever read along, `head` say, has enough: 141 is what shells call an end by that.
            if ctx.params.get("debug"):
                raise
            _let_go_of_output()
            raise click.exceptions.Exit(141) from error
        except OSError as error:
            # What no command foresaw, but the file system said: a traceback would tell the user no more.
            if ctx.params.get("debug"):
                raise
            _let_go_of_output()
            bad = error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP)
            where = "" if error.filename is None else str(error.filename)[:200]
            shown = HandloomError(
                error.strerror or str(error), where=where, exit_code=BAD_INPUT if bad else BAD_ENVIRONMENT
            )
            raise _Shown(str(shown), shown.exit_code) from error

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Note which command the arguments name: click forgets it once the command has raised."""
        chosen: click.Command | None = self
        for word in args:
            if not isinstance(chosen, click.Group):
                break
            chosen = chosen if word.startswith("-") else chosen.get_command(ctx, word)
        ctx.meta["handloom.command"] = chosen
        return super().parse_args(ctx, args)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--debug", is_flag=True, help="Show a traceback instead of a short error.")
@click.version_option(package_name="handloom")
def main(debug: bool) -> None:
    """Weave synthetic and unlabelled depth into a 3-D hand tracker."""


for command in (capture, evaluate, export, hand, label, latent, predict, report, store, synth, train, view):
    main.add_command(command)


@main.command()
@click.argument("recordings", type=RECORDING, nargs=-1)
@json_option
@click.pass_context
def doctor(ctx: click.Context, recordings: tuple[Path, ...], as_json: bool) -> None:
    """Look at this machine, and at recordings: what is wrong and how to mend it.

    Ends with 3 where the machine lacks what Handloom cannot do without, with 1 where a recording has findings.
    """
    from . import doctor as look
    from .console import progress

    checks = look.machine()
    with progress("Verifying") as report:
        found = look.recordings(recordings, report)
    if as_json:
        print_json(look.to_dict(checks, found))
    else:
        for check in [*checks, *map(look.said_of, found)]:
            click.echo("\n".join(check.lines()))
        problems = sum(check.state == "problem" for check in checks)
        said = f"{problems} problem{'s' * (problems != 1)}: see the lines that begin so" if problems else "is fine"
        click.echo(f"this machine {'has ' if problems else ''}{said}")
        if not problems:
            print_next(f"handloom store info {recordings[0]}" if recordings else "handloom quickstart")
    lacking = any(check.state == "problem" for check in checks)
    ctx.exit(BAD_ENVIRONMENT if lacking else int(not all(one.clean for one in found)))


@main.command()
@click.option("--out", type=FOLDER, default=Path("demo"), show_default=True, help="Folder for everything it makes.")
@seed_option
@overwrite_option
def quickstart(out: Path, seed: int, overwrite: bool) -> None:
    """Run the whole loop on this machine: no camera, no GPU, minutes; ends in OUT/report.html."""
    from .quickstart import run

    run(out, seed=seed, overwrite=overwrite, say=click.echo)


@main.command()
@click.argument("recording", type=RECORDING)
@click.option("--out", type=FOLDER, required=True, help="Folder for everything it makes.")
@click.option("--frames", type=click.IntRange(1), default=5000, show_default=True, help="Poses to render.")
@click.option("--preset", type=click.Choice(["quick", "fast", "paper"]), default="quick", show_default=True)
@click.option("--jobs", type=click.IntRange(1), default=2, show_default=True, help="Processes that render and look.")
@set_option
@seed_option
@click.option("--resume", is_flag=True, help="Go on where an earlier call stopped.")
@overwrite_option
def bootstrap(
    recording: Path,
    out: Path,
    frames: int,
    preset: str,
    jobs: int,
    overrides: tuple[str, ...],
    seed: int,
    resume: bool,
    overwrite: bool,
) -> None:
    """Make a tracker from one unlabelled capture: check, fit noise, render, train, score, export, report.

    -o sets values of the training's configuration.
    """
    from .bootstrap import Settings, run
    from .bootstrap_report import next_commands
    from .stores.recording import open_recording

    if resume and overwrite:
        raise click.UsageError("--resume goes on with what is there, --overwrite replaces it: give one")
    settings = Settings(seed=seed, frames=frames, preset=preset, jobs=jobs, overrides=overrides)
    made = run(recording, out, settings=settings, resume=resume, overwrite=overwrite, say=click.echo)
    print_next(*next_commands(made, open_recording(recording))[:2])


@main.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the script that lets a shell complete what you type; its last line says where it goes."""
    from .completion import script

    click.echo(script(shell, main), nl=False)


if __name__ == "__main__":
    sys.exit(main())

"""The `interlock` command: finds the verb's file, and turns errors into messages and exit codes.

Exit codes: 0 done, 1 finished with refusals or failures, 2 usage, 130 interrupted.
"""

from __future__ import annotations

import importlib
import io
import os
import sys
from typing import NoReturn

import click

from interlock.cli.output import print_json, printable_lines, wants_json
from interlock.errors import (
    EngineUnavailableError,
    InterlockError,
    InterruptedRunError,
    MemoryLimitError,
    StorageError,
    UsageError,
)

# verb -> (module, what it does); the module holds a click command named `command`.
VERBS: dict[str, tuple[str, str]] = {
    "bundle": ("interlock.cli.bundle", "Pack, check, show, sign and verify bundles."),
    "detect": ("interlock.cli.detect", "Find prompt injections in texts."),
    "demo": ("interlock.cli.demo", "Run the demonstration and write its report."),
    "doctor": ("interlock.cli.doctor", "Check a deployment before it serves."),
    "experiment": (
        "interlock.cli.experiment",
        "Run prompts through chat models, and make figures of their answers.",
    ),
    "models": ("interlock.cli.models", "Add, list, check and remove text models."),
    "rollout": ("interlock.cli.rollout", "Roll new versions of served models out, and back."),
    "runs": ("interlock.cli.runs", "List, show, export and delete journalled runs."),
    "serve": ("interlock.cli.serve", "Serve models over HTTP."),
    "strict": ("interlock.cli.strict", "Calibrate strict bundles, and report on them."),
    "summarize": ("interlock.cli.summarize", "Summarise a source tree."),
    "verified": ("interlock.cli.verified", "Run models in slices, proved where they can be."),
}


class _VerbGroup(click.Group):
    """Knows every verb's name and summary without importing its file."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        command = importlib.import_module(VERBS[cmd_name][0]).command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, VERBS[name][1]) for name in self.list_commands(ctx)])


@click.group(cls=_VerbGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="interlock")
def interlock() -> None:
    """Run models whose silent mistakes cost money.

    Every model answer is accepted, flagged, routed or refused, never silently replaced, and
    leaves evidence that someone else can check.
    """


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line and exit with its code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    _open_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        # What a person reads may hold text that the locale lacks; JSON is UTF-8 anyway.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    sys.exit(run(arguments))


def _open_closed_streams() -> None:
    """Lead standard streams that were closed before the start to the null device.

    Otherwise the next files that are opened get their numbers, and what a library or a child
    process writes to standard error goes into them. A closed standard input stays `None`: that
    nothing can be read is not the same as an empty text.
    """
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is not None:
            continue
        number = os.open(os.devnull, os.O_RDWR)
        os.set_inheritable(number, True)
        if name != "stdin":
            setattr(sys, name, os.fdopen(number, "w", encoding="utf-8"))


def run(arguments: list[str]) -> int:
    """Run the command line and return its exit code; the user's mistakes print one message."""
    code = _call(arguments)
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        _discard_output()
        if code == 0 and not isinstance(error, BrokenPipeError):
            click.echo(f"interlock: {_system_message(error)}", err=True)
        return code or 1
    return code


def _call(arguments: list[str]) -> int:
    try:
        result = interlock.main(args=arguments, prog_name="interlock", standalone_mode=False)
    except click.exceptions.Exit as stop:
        return int(stop.exit_code)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return 2
    except click.ClickException as error:
        context = error.ctx if isinstance(error, click.UsageError) else None
        command = "interlock" if context is None else context.command_path
        return _fail(arguments, UsageError(error.format_message(), hint=f"see `{command} --help`"))
    except (KeyboardInterrupt, click.Abort) as stop:
        # click takes the end of a file for that of standard input, which no verb reads so.
        if isinstance(stop.__cause__, EOFError):
            raise stop.__cause__ from None
        return _fail(arguments, InterruptedRunError("interrupted", hint=""))
    except InterlockError as error:
        return _fail(arguments, error)
    except BrokenPipeError:
        _discard_output()
        return 1
    except OSError as error:
        return _fail(arguments, StorageError(_system_message(error), hint=""))
    except (MemoryError, RuntimeError) as error:
        lacking = _lacking(error)
        if lacking is None:
            raise
        return _fail(arguments, lacking)
    return result if isinstance(result, int) else 0


def _fail(arguments: list[str], error: InterlockError) -> int:
    """Print the error as `--json` or a person wants it, and return its exit code."""
    code = 130 if isinstance(error, InterruptedRunError) else 1
    if isinstance(error, UsageError):
        code = 2
    if wants_json(arguments):
        try:
            print_json({"error": error.to_dict()})
            return code
        except OSError:
            _discard_output()
    click.echo(f"interlock: {printable_lines(error.message)}", err=True)
    if error.hint:
        click.echo(f"  hint: {printable_lines(error.hint)}", err=True)
    return code


def _lacking(error: Exception) -> InterlockError | None:
    """What the machine had no more of, where that is what `error` says."""
    if isinstance(error, MemoryError):
        return MemoryLimitError(
            "there is no memory left", hint="see `ulimit -v`, or take fewer workers"
        )
    # Python says it by these words alone.
    if str(error) == "can't start new thread":
        return EngineUnavailableError(
            "the system starts no further thread", hint="see `ulimit -u`, or take fewer threads"
        )
    return None


def _system_message(error: OSError) -> str:
    """What the system says, with the file it says it of."""
    where = "" if error.filename is None else f"{error.filename}: "
    return f"{where}{error.strerror or type(error).__name__}"


def _discard_output() -> None:
    """Drop what standard output could not take, which the interpreter would try again at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

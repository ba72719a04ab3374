"""What every verb of `interlock detect` that opens a detector takes."""

from __future__ import annotations

import codecs
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from interlock.errors import ConfigError, InputError

if TYPE_CHECKING:
    from interlock.detect.detector import Detector

Command = TypeVar("Command", bound=Callable[..., Any])

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_DIRECTORY = click.Path(exists=True, file_okay=False, path_type=Path)
PACK = click.Path(exists=True, path_type=Path)
PLACES = click.Choice(["auto", "user", "document"])

_OPTIONS = (
    click.option("--bundle", type=_DIRECTORY, help="Another bundle than the shipped one."),
    click.option("--expected-digest", metavar="DIGEST", help="What the bundle's digest must be."),
    click.option(
        "--environment",
        type=click.Choice(["production", "staging", "development"]),
        default="production",
        show_default=True,
        help="Whose threshold counts.",
    ),
    click.option("--threshold", type=click.FloatRange(0, 1), help="Instead of the environment's."),
    click.option("--calibration", type=_FILE, help="A file of `interlock detect calibrate`."),
    click.option("--policy", type=_FILE, help="A policy in TOML or JSON."),
    click.option("--rules", type=PACK, help="Another rule pack than the shipped one."),
    click.option("--threads", type=click.IntRange(1, 256), default=1, show_default=True),
)


def detector_options(command: Command) -> Command:
    """Add the options; the function gets them for `opened`."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def check_writable(output: Path) -> None:
    """Raise ConfigError where nothing can be made at `output`: before the work, not after it."""
    beside = next(path for path in output.absolute().parents if os.path.lexists(path))
    if not beside.is_dir() or not os.access(beside, os.W_OK | os.X_OK):
        raise ConfigError(f"--output is {output}; {beside} is no directory that can be written to")


def text_of(name: str) -> str:
    """The text in the file `name`, or on standard input for `-`: UTF-8, or UTF-16 with its mark.

    What is neither becomes lone surrogates, which are read as an unknown character. Raises
    InputError for a file that cannot be read, and for an input that is closed.
    """
    if name == "-":
        if sys.stdin is None:
            raise InputError("standard input is closed")
        data = sys.stdin.buffer.read()
    else:
        try:
            data = Path(name).read_bytes()
        except OSError as error:
            raise InputError(f"{name} cannot be read: {error.strerror}") from None
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16", "replace")
    return data.decode("utf-8", "surrogateescape")


def opened(options: dict[str, Any], **more: Any) -> Detector:
    """The detector that the options ask for; raises what `Detector.open` raises."""
    from interlock.detect.detector import Detector

    return Detector.open(**{**options, **more})

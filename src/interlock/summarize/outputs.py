"""The files that a run leaves: JSON, Markdown, an HTML page and the repository map."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from interlock.kernel.errors import ConfigError
from interlock.kernel.replace_file import replace_file
from interlock.report.page import write as write_page
from interlock.summarize import markdown, page
from interlock.summarize.contracts import Contracts
from interlock.summarize.document import document, repository_map
from interlock.summarize.mark import is_ours
from interlock.summarize.run import Finished


@dataclass(frozen=True, slots=True)
class Files:
    """Where they are."""

    summary_json: Path
    markdown: Path
    html: Path
    map_json: Path


def files_in(directory: Path) -> Files:
    """Where a run writes them."""
    return Files(
        directory / "summary.json",
        directory / "summary.md",
        directory / "index.html",
        directory / "map.json",
    )


def check(directory: Path) -> None:
    """Raise ConfigError where writing would replace what no earlier run wrote."""
    files = files_in(directory)
    for path in (files.summary_json, files.markdown, files.html, files.map_json):
        if os.path.lexists(path) and not is_ours(path):
            raise ConfigError(
                f"--output holds {str(path)!r} already, which no earlier run of this command wrote",
                hint="name an empty directory, or move the file away",
            )


def write(finished: Finished, contracts: Contracts, directory: Path) -> Files:
    """Write all of them, each whole or not at all.

    Raises ConfigError as `check` does, StorageError where a file cannot be written.
    """
    check(directory)
    files = files_in(directory)
    _json(files.summary_json, document(finished, contracts))
    _json(files.map_json, repository_map(finished))
    replace_file(files.markdown, markdown.render(finished, contracts).encode(), parents=True)
    write_page(page.build(finished, contracts), files.html)
    return files


def _json(path: Path, content: dict[str, Any]) -> None:
    encoded = msgspec.json.format(msgspec.json.encode(content), indent=1)
    replace_file(path, encoded + b"\n", parents=True)

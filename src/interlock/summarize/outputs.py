"""The files that a run leaves: JSON, Markdown, an HTML page and the repository map."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from interlock.kernel.replace_file import replace_file
from interlock.report.page import write as write_page
from interlock.summarize import markdown, page
from interlock.summarize.contracts import Contracts
from interlock.summarize.document import document, repository_map
from interlock.summarize.run import Finished


@dataclass(frozen=True, slots=True)
class Files:
    """Where they are."""

    summary_json: Path
    markdown: Path
    html: Path
    map_json: Path


def write(finished: Finished, contracts: Contracts, directory: Path) -> Files:
    """Write all of them, each whole or not at all; raises StorageError where that fails."""
    files = Files(
        directory / "summary.json",
        directory / "summary.md",
        directory / "index.html",
        directory / "map.json",
    )
    _json(files.summary_json, document(finished, contracts))
    _json(files.map_json, repository_map(finished))
    replace_file(files.markdown, markdown.render(finished, contracts).encode(), parents=True)
    write_page(page.build(finished, contracts), files.html)
    return files


def _json(path: Path, content: dict[str, Any]) -> None:
    encoded = msgspec.json.format(msgspec.json.encode(content), indent=1)
    replace_file(path, encoded + b"\n", parents=True)

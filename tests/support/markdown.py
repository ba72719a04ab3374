"""Code blocks and links of Markdown files."""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


@dataclass(frozen=True)
class Block:
    """One fenced block: its language, its text and the line it starts at."""

    language: str
    text: str
    line: int


def blocks(path: Path) -> list[Block]:
    """The fenced code blocks of a file, in order."""
    found: list[Block] = []
    language: str | None = None
    start = 0
    lines: list[str] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if line.startswith("```"):
            if language is None:
                language, start, lines = line[3:].strip(), number, []
            else:
                found.append(Block(language, "\n".join(lines) + "\n", start))
                language = None
        elif language is not None:
            lines.append(line)
    return found


def links(path: Path) -> list[str]:
    """The targets of inline links, without those that leave the repository."""
    text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    targets = re.findall(r"\]\(([^)]+)\)", text)
    return [target for target in targets if not target.startswith(("http:", "https:", "#"))]


def documents() -> list[Path]:
    """Every Markdown file that a reader finds."""
    return sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])

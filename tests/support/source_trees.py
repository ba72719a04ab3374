"""Small source trees to summarise."""

from __future__ import annotations

from pathlib import Path

MODULE = '''"""Counts words of a text."""

import re


def count_words(text):
    """How many words a text has."""
    return len(re.findall(r"[a-z]+", text))


class Counter:
    """Keeps totals by word."""

    def add_word(self, word):
        self.totals[word] = self.totals.get(word, 0) + 1
'''

RUST = """//! Listens for connections.

use std::net::TcpListener;

/// Accepts connections until it is closed.
pub struct Acceptor {
    listener: TcpListener,
}

impl Acceptor {
    /// Binds to an address.
    pub fn bind(address: &str) -> Acceptor {
        Acceptor { listener: TcpListener::bind(address).unwrap() }
    }
}
"""


def write_tree(root: Path, files: dict[str, str | bytes]) -> Path:
    """Write these files below `root` and return it."""
    for path, content in files.items():
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, str):
            target.write_text(content, encoding="utf-8")
        else:
            target.write_bytes(content)
    return root


def small_tree(root: Path) -> Path:
    """Three languages, two folders, a file of several chunks at 40 lines."""
    verbs = ("create", "delete", "update", "select", "insert", "commit", "revert", "lookup")
    kinds = [f"{verb}_{turn}" for verb in verbs for turn in ("first", "second")]
    functions = "\n".join(
        f"def handle_{kind}(request):\n"
        f'    """Answers a {kind} request."""\n'
        f"    return request.{kind}\n"
        for kind in kinds
    )
    return write_tree(
        root,
        {
            "README.md": "# Words\n\nA project that counts words and accepts connections.\n",
            "words/counting.py": MODULE,
            "words/handlers.py": f'"""Handlers of requests."""\n\n{functions}',
            "net/acceptor.rs": RUST,
        },
    )

"""Everything that a run will do, before it does any of it: chunks, files, folders, repository.

A node's address is the SHA-256 of all that decides its summary. That of a chunk is made from its
text and the settings, that of a parent from its parts' addresses, so both are known before a model
has run, and an edited line changes the addresses of its own chunk and what stands above it only.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from interlock.summarize import budget, extractive
from interlock.summarize.asked import PROMPT_VERSION, Asked, Level, SummaryModel
from interlock.summarize.budget import Budget
from interlock.summarize.chunks import Chunk, Source, cut, source_of
from interlock.summarize.lines import MARK, unwrapped
from interlock.summarize.models import Models, as_models
from interlock.summarize.options import Options
from interlock.summarize.outline import Symbol
from interlock.summarize.tree import SourceTree
from interlock.summarize.views import FileViews, View, views_of

_MOST_DEFINED = 64
_OPENING = 400


@dataclass(frozen=True, slots=True)
class Node:
    """One summary to be made.

    key       its name in the journal, such as `file src/a.py`
    path      of the file or folder; of the first file of a chunk
    sources   the lines that it is about
    parts     keys of the nodes that it is made from
    address   SHA-256 in hex of all that decides it
    view      what of the source the model sees; None above chunks
    notes     what differs from what was asked for, in words
    asked     what goes to the model; the parts' summaries are put in when they are there
    tokens    of the input; None where it is not known yet
    """

    key: str
    level: Level
    path: str
    sources: tuple[Source, ...]
    parts: tuple[str, ...]
    address: str
    view: View | None
    notes: tuple[str, ...]
    asked: Asked
    tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """The nodes by key, parts before what they are parts of."""

    tree: SourceTree
    files: tuple[FileViews, ...]
    options: Options
    models: Models
    nodes: dict[str, Node]
    budget: Budget

    def model_digest(self, node: Node) -> str:
        """The digest of the model that is asked for a node; `none` where none is."""
        return digest_of(self.models.of(node.asked.language))

    def level(self, level: Level) -> list[Node]:
        """The nodes of one level, in order."""
        return [node for node in self.nodes.values() if node.level == level]

    def stages(self) -> Iterator[list[Node]]:
        """Groups of nodes, each made from nodes of earlier groups only."""
        yield self.level("chunk")
        yield self.level("file")
        folders = self.level("folder")
        for depth in sorted({_depth(node.path) for node in folders}, reverse=True):
            yield [node for node in folders if _depth(node.path) == depth]
        yield self.level("repository")


def make_plan(tree: SourceTree, options: Options, model: SummaryModel | Models | None) -> Plan:
    """Cut the tree, look at every chunk, and give every summary its address.

    Raises ConfigError where the model's context leaves nothing for an input, and MissingExtraError
    where the options need a grammar and the extra `source` is not there.
    """
    files = tuple(views_of(file) for file in tree.files)
    models = as_models(model)
    context = models.context
    room = budget.make(context, options.max_input_tokens, None if context is None else models.count)
    maker = _Maker(tree, files, options, models, room)
    return Plan(tree, files, options, models, maker.nodes(), room)


def digest_of(model: SummaryModel | None) -> str:
    """The digest of a model, `none` for none."""
    return "none" if model is None else model.digest


class _Maker:
    def __init__(
        self,
        tree: SourceTree,
        files: tuple[FileViews, ...],
        options: Options,
        models: Models,
        room: Budget,
    ) -> None:
        self._models = models
        self._tree = tree
        self._files = files
        self._by_path = {file.file.path: file for file in files}
        self._whole = {
            path: source_of(file, 1, len(file.file.lines)) for path, file in self._by_path.items()
        }
        self._options = options
        self._room = room
        self._nodes: dict[str, Node] = {}

    def nodes(self) -> dict[str, Node]:
        if not self._files:
            return {}
        chunks = cut(self._files, self._options.chunks, self._options.chunk_lines)
        of_file: dict[str, list[str]] = {file.file.path: [] for file in self._files}
        for chunk in chunks:
            for node in self._chunk(chunk):
                self._nodes[node.key] = node
                of_file[node.path].append(node.key)
        if self._options.chunks == "concatenated":
            # Its chunks cross files, so there is nothing between them and the whole.
            self._add("repository", "", tuple(self._nodes), self._files)
            return self._nodes
        for path, keys in of_file.items():
            self._add("file", path, tuple(keys), (self._by_path[path],))
        self._folders()
        return self._nodes

    def _chunk(self, chunk: Chunk) -> Iterator[Node]:
        """The chunk's node; several where the budget of tokens is too small for it."""
        if len(chunk.sources) > 1 or self._options.chunks == "concatenated":
            yield self._chunk_node(chunk, ())
            return
        [source] = chunk.sources
        file = self._by_path[source.path]

        def see(first: int, last: int) -> str:
            return file.see(self._options.view, first, last).text

        parts = self._room.split(source.first, source.last, see)
        for number, (first, last) in enumerate(parts, start=1):
            notes: tuple[str, ...] = ()
            if len(parts) > 1:
                notes = (
                    f"part {number} of {len(parts)}: lines {source.first}-{source.last} are above "
                    f"the budget of {self._room.tokens} tokens",
                )
            yield self._chunk_node(Chunk((source_of(file, first, last),)), notes)

    def _chunk_node(self, chunk: Chunk, notes: tuple[str, ...]) -> Node:
        shown: list[str] = []
        texts: list[str] = []
        symbols: list[Symbol] = []
        views: Counter[View] = Counter()
        languages: list[str] = []
        doc = ""
        for source in chunk.sources:
            file = self._by_path[source.path]
            seen = file.see(self._options.view, source.first, source.last)
            views[seen.view] += 1
            shown.append(seen.text)
            texts.append(file.text(source.first, source.last))
            symbols += file.symbols(source.first, source.last)
            languages.append(file.file.language.name)
            notes += tuple(note for note in (seen.note, file.file.note) if note)
            doc = doc or _file_doc(file, source.first, source.last)
        text, left_out = self._room.trim("\n\n".join(shown))
        asked = Asked(
            level="chunk",
            language=", ".join(dict.fromkeys(languages)),
            shown=text,
            # Of an input that was cut, only what the model saw can be spoken of.
            ground="" if left_out else "\n".join(texts),
            doc=doc or _documented(symbols),
            **_listed(_defined(symbols)),
            opening="".join(f"{text}\n" for text in texts)[:_OPENING],
            left_out=left_out,
            width=self._options.line_width,
            most=self._options.most,
        )
        [(view, _)] = views.most_common(1)
        return self._node(
            key=f"chunk {chunk.key}",
            path=chunk.sources[0].path,
            sources=chunk.sources,
            parts=(),
            view=view,
            notes=tuple(dict.fromkeys((*notes, left_out))),
            asked=asked,
            tokens=self._room.count(text),
        )

    def _folders(self) -> None:
        parts: dict[str, list[str]] = {}
        members: dict[str, list[FileViews]] = {}
        for file in self._files:
            path = file.file.path
            parts.setdefault(_parent(path), []).append(f"file {path}")
            for folder in _ancestors(path):
                members.setdefault(folder, []).append(file)
        for folder in sorted(members, key=_depth, reverse=True):
            if folder:
                self._add(
                    "folder",
                    folder,
                    tuple(parts[folder]) if folder in parts else (),
                    tuple(members[folder]),
                )
                parts.setdefault(_parent(folder), []).append(f"folder {folder}")
        self._add("repository", "", tuple(parts.get("", ())), tuple(members[""]))

    def _add(
        self, level: Level, path: str, parts: tuple[str, ...], files: Sequence[FileViews]
    ) -> None:
        """A node above chunks; its extractive summary is made from its files' own words."""
        symbols = [symbol for file in files for symbol in file.symbols(1, len(file.file.lines))]
        languages = Counter(file.file.language.name for file in files)
        if level == "file":
            doc = _file_doc(files[0], 1, len(files[0].file.lines)) or _documented(symbols)
            defined = _defined([symbol for symbol in symbols if symbol.depth == 0])
            opening = files[0].text(1, min(len(files[0].file.lines), 20))[:_OPENING]
        else:
            doc = _folder_doc(path, files)
            names = list(dict.fromkeys(_child(path, file.file.path) for file in files))
            defined = tuple((extractive.HELD, name) for name in names)
            opening = ""
        name = (path or self._tree.name).rpartition("/")[2]
        asked = Asked(
            level=level,
            name=name,
            language=", ".join(language for language, _ in languages.most_common(3)),
            ground=" ".join(
                (
                    name,
                    doc,
                    *(part for pair in defined for part in pair),
                    *(symbol.name for symbol in symbols),
                )
            ),
            doc=doc,
            **_listed(defined),
            opening=opening,
            width=self._options.line_width,
            most=self._options.most,
        )
        sources = tuple(self._whole[file.file.path] for file in files)
        node = self._node(
            key=f"{level} {path}" if path else level,
            path=path,
            sources=sources,
            parts=parts,
            view=None,
            notes=(),
            asked=asked,
            tokens=None,
        )
        self._nodes[node.key] = node

    def _node(self, *, asked: Asked, parts: tuple[str, ...], **fields: Any) -> Node:
        # What changes answers without being in `Asked` comes first.
        model = digest_of(self._models.of(asked.language))
        decides = (
            (PROMPT_VERSION, model, self._options.seed, self._room.tokens),
            asked,
            [self._nodes[part].address for part in parts],
        )
        # How a word is broken decides which answers stand.
        breaks = (MARK,) if asked.width else ()
        digest = hashlib.sha256(msgspec.json.encode((*decides, *breaks)))
        # Seeds fit what samplers take: 63 bits.
        seeded = msgspec.structs.replace(
            asked, seed=int.from_bytes(digest.digest()[:8], "big") >> 1
        )
        return Node(
            level=asked.level, asked=seeded, parts=parts, address=digest.hexdigest(), **fields
        )


def with_parts(
    node: Node, summaries: Sequence[tuple[str, Any]], room: Budget, only: Any | None
) -> Asked:
    """What a node above chunks asks, once its parts' summaries (name, text) are there."""
    listed = [f"{name}: {text}" if name else text for name, text in summaries]
    # A line break in a part's summary would look like another part.
    shown, left_out = room.join([unwrapped(line) for line in listed])
    return msgspec.structs.replace(node.asked, shown=shown, left_out=left_out, only=only)


def _documented(symbols: Sequence[Symbol]) -> str:
    """The documentation of the first, outermost definition that has one."""
    documented = [symbol for symbol in symbols if symbol.doc]
    return min(documented, key=lambda symbol: symbol.depth).doc if documented else ""


def _defined(symbols: Sequence[Symbol]) -> tuple[tuple[str, str], ...]:
    """Kinds and names, those first that a reader looks for: public ones, outermost ones."""

    def late(symbol: Symbol) -> tuple[bool, bool, int]:
        return symbol.kind == "impl", symbol.name.startswith("_"), symbol.depth

    shown = [symbol for symbol in symbols if not symbol.name.startswith("__")]
    pairs = [(symbol.kind, symbol.name) for symbol in sorted(shown, key=late)]
    return tuple(dict.fromkeys(pairs))


def _listed(defined: tuple[tuple[str, str], ...]) -> dict[str, Any]:
    """The first definitions, and how many more there are."""
    return {
        "defined": defined[:_MOST_DEFINED],
        "further": max(0, len(defined) - _MOST_DEFINED),
    }


def _folder_doc(path: str, files: Sequence[FileViews]) -> str:
    """What a folder's own README, `mod.rs` or `__init__.py` says of it."""
    prefix = f"{path}/" if path else ""
    inside = {file.file.path.removeprefix(prefix): file for file in files}
    for name in _SPEAKS_FOR_ITS_FOLDER:
        if name in inside and (doc := _file_doc(inside[name], 1, len(inside[name].file.lines))):
            return doc
    return ""


_SPEAKS_FOR_ITS_FOLDER = (
    "README.md",
    "README.rst",
    "README",
    "readme.md",
    "mod.rs",
    "lib.rs",
    "src/lib.rs",
    "__init__.py",
    "doc.go",
    "package-info.java",
)
_PROSE = {"Markdown", "reStructuredText", "AsciiDoc", "text"}


def _file_doc(file: FileViews, first: int, last: int) -> str:
    """What these lines of a file say of the file, where they hold its beginning, or are prose."""
    if file.outline is not None:
        return file.outline.doc if first == 1 else ""
    if file.file.language.name in _PROSE:
        return extractive.prose(file.text(first, min(last, first + 99)))
    return ""


def _parent(path: str) -> str:
    return path.rpartition("/")[0]


def _ancestors(path: str) -> Iterator[str]:
    while path:
        path = _parent(path)
        yield path


def _child(folder: str, path: str) -> str:
    inner = path.removeprefix(f"{folder}/") if folder else path
    head, slash, _ = inner.partition("/")
    return f"{head}/" if slash else head


def _depth(path: str) -> int:
    return path.count("/") + 1 if path else 0

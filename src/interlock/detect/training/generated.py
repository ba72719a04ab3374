"""The generated part of the training set: harmless texts, attacks, and documents with and without.

Every document with an attack in it also comes without, so that the attack is learned and not the
document.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from interlock.detect.place import Where
from interlock.detect.training.corpus import Text
from interlock.detect.training.grammar import Grammar, shipped

_FAMILY_OF = {
    "override": "instruction_override",
    "leak": "prompt_leak",
    "persona_attack": "role_hijack",
    "suppress": "refusal_suppression",
    "fake_turn": "fake_turn",
    "authority": "false_authority",
    "split": "encoding",
    "tool": "tool_misuse",
    "foreign_attack": "instruction_override",
    "style_order": "output_control",
    "promo_order": "indirect_instruction",
    "scam_order": "indirect_instruction",
    "task_order": "indirect_instruction",
    "exfil_order": "exfiltration",
    "indirect": "indirect_instruction",
}
_DIRECT = (
    ("override", 5),
    ("leak", 5),
    ("persona_attack", 3),
    ("suppress", 2),
    ("fake_turn", 2),
    ("authority", 1),
    ("split", 1),
    ("tool", 1),
    ("foreign_attack", 4),
)
_INDIRECT = (
    ("style_order", 4),
    ("promo_order", 3),
    ("scam_order", 3),
    ("task_order", 2),
    ("exfil_order", 3),
    ("indirect", 6),
)
_KINDS = ("mail", "mail", "mail", "article", "table", "code", "log", "notes", "page")


def harmless(count: int, seed: int) -> list[Text]:
    """Harmless texts of the kinds that detectors of words take for attacks."""
    rng, grammar = random.Random(f"harmless {seed}"), shipped()
    found = []
    for _ in range(count):
        text = grammar.draw("harmless", rng)
        if rng.random() < 0.15:
            text = f"{text} {grammar.draw('harmless', rng)}"
        found.append(Text(_case(text, rng), 0, "generated harmless", where=_where("user", rng)))
    return found


def attacks(count: int, seed: int) -> list[Text]:
    """Attacks as a user writes them, some after a harmless text."""
    rng, grammar = random.Random(f"attacks {seed}"), shipped()
    found = []
    for _ in range(count):
        symbol = _pick(_DIRECT, rng)
        attack = grammar.draw(symbol, rng)
        text, start = attack, 0
        if rng.random() < 0.2:
            before = grammar.draw("harmless", rng)
            text, start = f"{before} {attack}", len(before) + 1
        elif rng.random() < 0.1:
            text = f"{attack} {grammar.draw('harmless', rng)}"
        found.append(
            Text(
                _case(text, rng),
                1,
                "generated attacks",
                ((start, start + len(attack)),),
                _FAMILY_OF[symbol],
                _where("user", rng),
            )
        )
    return found


def documents(
    count: int, seed: int, contexts: Sequence[str] = (), orders: Sequence[str] = ()
) -> list[Text]:
    """Documents with an attack in them, and the same documents without.

    contexts   harmless documents to use beside the generated ones
    orders     attacks to use beside the generated ones
    """
    rng, grammar = random.Random(f"documents {seed}"), shipped()
    found = []
    for _ in range(count):
        if contexts and rng.random() < 0.35:
            lines = rng.choice(contexts).split("\n")
        else:
            lines = document(rng.choice(_KINDS), grammar, rng)
        kind = rng.random()
        family: str | None = "indirect_instruction"
        if kind < 0.12:
            order, source = grammar.draw("stray_task", rng), "generated stray tasks"
        elif orders and kind < 0.30:
            order, source, family = rng.choice(orders), "generated documents", None
        else:
            symbol = _pick(_INDIRECT, rng)
            order, source = grammar.draw(symbol, rng), "generated documents"
            family = _FAMILY_OF[symbol]
        text, start = insert(lines, order, rng)
        where = _where("document", rng)
        found.append(Text(text, 1, source, ((start, start + len(order)),), family, where))
        found.append(Text("\n".join(lines), 0, "generated documents", where=where))
    return found


def document(kind: str, grammar: Grammar, rng: random.Random) -> list[str]:
    """The lines of a harmless document: mail, article, table, code, log, notes or page."""

    def several(symbol: str, least: int, most: int, joined: int = 1) -> list[str]:
        return [
            " ".join(grammar.draw(symbol, rng) for _ in range(rng.randint(1, joined)))
            for _ in range(rng.randint(least, most))
        ]

    if kind == "mail":
        head = grammar.draw("mail_header", rng) if rng.random() < 0.6 else ""
        body = several("mail_line", 2, 7, 3)
        if rng.random() < 0.3:
            body += several("sentence", 1, 4, 2)
        if rng.random() < 0.3:
            body = [line for part in body for line in (part, "")]
        text = "\n".join(
            [head + grammar.draw("greeting", rng), "", *body, "", grammar.draw("closing", rng)]
        )
        return text.split("\n")
    if kind == "article":
        return [line for part in several("sentence", 2, 6, 4) for line in (part, "")]
    if kind == "table":
        symbol = rng.choice(grammar.productions["table_row"])
        return [_filled(symbol, grammar, rng) for _ in range(rng.randint(4, 14))]
    if kind == "code":
        return several("code_line", 5, 20)
    if kind == "log":
        return several("log_line", 5, 18)
    if kind == "notes":
        return [grammar.draw("subject", rng), *several("note_line", 4, 12)]
    rows = several("sentence", 2, 6, 3)
    tag = rng.choice(("p", "li", "div", "td"))
    return [
        f"<h1>{grammar.draw('subject', rng)}</h1>",
        *(f"<{tag}>{row}</{tag}>" for row in rows),
        "<footer>" + grammar.draw("mail_line", rng) + "</footer>",
    ]


def insert(lines: Sequence[str], order: str, rng: random.Random) -> tuple[str, int]:
    """The document with `order` at its beginning, end or between, and where it starts there."""
    place = rng.choice((0, len(lines), rng.randint(0, len(lines))))
    before, after = "\n".join(lines[:place]), "\n".join(lines[place:])
    gap = rng.choice(("\n", "\n", "\n\n", " "))
    if before:
        before += gap
    return f"{before}{order}{gap if after else ''}{after}", len(before)


def disguised(
    texts: Sequence[Text], disguises: Sequence[Callable[[str, random.Random], str]], seed: int
) -> list[Text]:
    """`texts` under a disguise each, attacks and harmless ones alike."""
    rng = random.Random(f"disguised {seed}")
    found = []
    for text in texts:
        hidden = rng.choice(disguises)(text.text, rng)
        found.append(Text(hidden, text.label, f"disguised {text.label}", None, text.family))
    return found


def _filled(production: str, grammar: Grammar, rng: random.Random) -> str:
    return Grammar({**grammar.productions, "row": (production,)}).draw("row", rng)


def _pick(choices: Sequence[tuple[str, int]], rng: random.Random) -> str:
    names, weights = zip(*choices, strict=True)
    return str(rng.choices(names, weights)[0])


def _case(text: str, rng: random.Random) -> str:
    """People do not always write capitals and full stops."""
    kind = rng.random()
    if kind < 0.15:
        text = text.rstrip(".!")
    if kind < 0.08:
        return (
            text.lower()
            if kind > 0.02
            else text.upper()
            if len(text.upper()) == len(text)
            else text
        )
    return text


def _where(known: Where, rng: random.Random) -> Where:
    return known if rng.random() < 0.4 else "auto"

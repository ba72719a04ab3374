"""How far a text is a document: from the caller, or guessed from its form."""

from __future__ import annotations

import re
from typing import Literal

Where = Literal["user", "document", "auto"]

_HEADER = re.compile(
    r"(?im)^[\W_]{0,3}(?:subject|from|to|cc|date|sent|received date|email_from|betreff|von|an|"
    r"objet|asunto|oggetto|assunto|onderwerp) ?:"
)
_GREETING = re.compile(
    r"(?im)^\W{0,3}(?:hi|hello|dear|hey|good (?:morning|afternoon|evening)|hallo|liebe[rs]?|"
    r"sehr geehrte[rs]?|bonjour|ch[eè]re?s?|hola|estimad[oa]s?|querid[oa]s?|ciao|gentile|"
    r"ol[aá]|prezad[oa]s?|beste)\b[^\n.?]{0,40}[,!:]? *$"
)
_CLOSING = re.compile(
    r"(?im)^\W{0,3}(?:best|kind|warm|many|with)?[ ]?(?:regards|wishes|best|thanks|thank you|cheers|"
    r"sincerely|yours|mit freundlichen gr[uü](?:ß|ss)en|viele gr[uü](?:ß|ss)e|cordialement|saludos|"
    r"cordiali saluti|atenciosamente|groeten)\b[^\n.?]{0,30}$"
)
_TABLE = re.compile(r"(?m)^ *\|.*\|.*\|? *$|^[^\n,]+(?:,[^\n,]+){3,}$|^[^\n\t]+(?:\t[^\n\t]+){2,}$")
_TAG = re.compile(r"</?[a-zA-Z][a-zA-Z0-9]*(?: [^<>\n]{0,200})?/?>|<!--")
_CODE = re.compile(
    r"(?m)^[ \t]*(?:def |class |import |from \w+ import|return\b|if \(|for \(|#include|public |"
    r"private |const |let |var |function |SELECT |//|/\*|\}|\{|>>> |\$ )|[;{}][ \t\r]*$|"
    r"^ {4,}\S.*[=(:]"
)
_LONG = 150


def document_weight(text: str, where: Where = "auto") -> float:
    """The graph's input `document`: 0 for a user's text, 1 for a document.

    For `auto` it is 1 where the text looks like an e-mail, a table, a page or code, 0.75 where it
    has three lines or more, 0.5 where it is longer than 150 characters, and 0 otherwise. The look
    at it stops after 20,000 characters.
    """
    if where == "user":
        return 0.0
    if where == "document":
        return 1.0
    text = text[:20_000]
    if len(_HEADER.findall(text)) >= 2 or (
        _GREETING.search(text) and (_CLOSING.search(text) or text.count("\n") >= 5)
    ):
        return 1.0
    lines = text.strip().count("\n") + 1
    if lines >= 3:
        if len(_TABLE.findall(text)) * 2 >= lines:
            return 1.0
        if len(_TAG.findall(text)) >= 4 or len(_CODE.findall(text)) * 3 >= lines:
            return 1.0
        return 0.75
    return 0.5 if len(text) > _LONG else 0.0

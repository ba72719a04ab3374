"""Things that prompts and answers name: CVE identifiers, and the subject of a question."""

from __future__ import annotations

import re

from interlock.experiment.prompts import Prompt

CVE = re.compile(r"\bCVE-\d+-\d+\b", re.IGNORECASE)
_WELL_FORMED = re.compile(r"CVE-(\d{4})-(\d{4}|[1-9]\d{4,})", re.IGNORECASE)
FIRST_YEAR = 1999
"""Identifiers begin with this year; older flaws have identifiers of 1999."""


def cve_ids(text: str) -> list[str]:
    """CVE identifiers in a text, in upper case, each once, in the order of appearance."""
    return list(dict.fromkeys(match.group().upper() for match in CVE.finditer(text)))


def can_be_assigned(cve: str) -> bool:
    """Whether an identifier follows the syntax, so that it may be assigned some day.

    Four digits, or more without a leading zero (the syntax in force since 2014), and no year before
    1999.
    """
    match = _WELL_FORMED.fullmatch(cve)
    return match is not None and int(match.group(1)) >= FIRST_YEAR


def other_entities(text: str, entity: str) -> list[str]:
    """CVE identifiers in a text that are not `entity`."""
    return [found for found in cve_ids(text) if found != entity.upper()]


_SUBJECTS = [
    re.compile(pattern)
    for pattern in (
        r"overview of (?:the )?(.+?) malware",
        r"evolution of (.+?) over time",
        r"associated with ([^?.]+?)\?",
        r"known to use ([^?.]+?)\?",
        r"strategies for ([^?.]+?)\?",
        r"security configurations for (?:the )?(.+?)(?: web framework| application framework| "
        r"instances| to protect| distributed database| following|\?)",
        r"hardening configurations for (.+?)\?",
        r"hardening recommendations for (.+?)(?: devices| distributed|\?)",
        r"best practices for configuring (.+?)(?: web server)?(?: as| in a|\?)",
        r"[Dd]oes (?:the |a |an )?(.+?) (?:really |actually )?exist\b",
        r"\bIs (.+?) (?:an? )?(?:real|actual|existing)\b",
        r"\b[Ss]ummar(?:y of|ise|ize) (?:the )?([^,.:?]+)",
        r"[Ww]hat is (?:the |an? )?([A-Z][\w.-]*(?: [A-Z0-9][\w.-]*)*)",
        r"[Tt]ell me about (?:the )?([A-Z][\w.-]*(?: [A-Z0-9][\w.-]*)*)",
    )
]


def subject(prompt: Prompt) -> str | None:
    """What a prompt asks about: its `entity` field, its only CVE, or a name in a known phrase.

    None where the prompt names several identifiers, or nothing that is recognised.
    """
    named = prompt.extra.get("entity")
    if isinstance(named, str) and named.strip():
        return named.strip()
    found = cve_ids(prompt.text)
    if len(found) == 1:
        return found[0]
    if found:
        return None
    for pattern in _SUBJECTS:
        match = pattern.search(prompt.text)
        if match:
            return match.group(1).strip()
    return None

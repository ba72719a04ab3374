"""Write docs/reference/cli.md from the commands themselves.

python scripts/cli_reference.py
"""

from __future__ import annotations

from pathlib import Path

import click

from interlock.cli.app import VERBS, interlock

PAGE = Path(__file__).parent.parent / "docs" / "reference" / "cli.md"

HEAD = """# Command line

`interlock VERB …` or `python -m interlock VERB …`. Every command takes `--json` and then prints one
JSON document on standard output, errors included. `scripts/cli_reference.py` writes this page.

| exit code | meaning |
| --- | --- |
| 0 | done |
| 1 | finished with refusals or failures |
| 2 | wrong usage; nothing was done |
| 130 | interrupted; what was acknowledged is kept |
"""


def section(name: str, command: click.Command) -> str:
    """Heading, synopsis, help text and options of one command."""
    context = click.Context(command, info_name=name)
    synopsis = " ".join([name, *command.collect_usage_pieces(context)])
    lines = [f"## `{name}`", "", "```text", synopsis, "```", ""]
    text = (command.help or "").split("\f")[0]
    lines += [" ".join(paragraph.split()) + "\n" for paragraph in text.split("\n\n")]
    options = [p for p in command.get_params(context) if isinstance(p, click.Option)]
    records = [p.get_help_record(context) for p in options if p.name != "help"]
    rows = [record for record in records if record is not None]
    lines += ["| option | |", "| --- | --- |"]
    lines += [f"| `{flags}` | {' '.join(text.split())} |" for flags, text in rows]
    return "\n".join(lines) + "\n"


def page() -> str:
    """The whole page."""
    parts = [HEAD]
    context = click.Context(interlock)
    for verb in sorted(VERBS):
        command = interlock.get_command(context, verb)
        assert command is not None
        if isinstance(command, click.Group):
            for child in sorted(command.commands):
                parts.append(section(f"interlock {verb} {child}", command.commands[child]))
        else:
            parts.append(section(f"interlock {verb}", command))
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(PAGE.name)

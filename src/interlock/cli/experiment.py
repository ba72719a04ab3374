"""`interlock experiment`: run prompts through chat models, and make figures of their answers."""

from __future__ import annotations

import click

from interlock.cli import experiment_answers, experiment_people, experiment_run


@click.group("experiment")
def command() -> None:
    """Run prompts through chat models, lose no answer, and end in figures with intervals."""


for verb in (
    experiment_run.check,
    experiment_run.export,
    experiment_run.prices,
    experiment_run.run,
    experiment_answers.lint,
    experiment_answers.report,
    experiment_people.agreement,
    experiment_people.annotate,
    experiment_people.judge,
):
    command.add_command(verb)

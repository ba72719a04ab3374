"""`interlock detect bench`: what a detector costs on this machine."""

from __future__ import annotations

from typing import Any

import click

from interlock.cli.detect_options import detector_options
from interlock.cli.output import json_option, print_json, print_table


@click.command()
@click.option(
    "--calls", type=click.IntRange(min=100), default=600, show_default=True, help="Texts timed."
)
@click.option(
    "--growth-calls",
    type=click.IntRange(min=100),
    default=2000,
    show_default=True,
    help="Calls over which memory is watched.",
)
@detector_options
@json_option
def bench(calls: int, growth_calls: int, as_json: bool, **options: Any) -> int:
    """Measure start, latency and memory against their targets, and against the bare model.

    The first six targets are absolute and depend on the machine; the ratios compare the detector
    with its own tokenizer and graph, which take turns with it. Ends with 1 where one of the first
    six is missed.
    """
    from interlock.detect.benchmark import benchmark
    from interlock.detect.config import DetectorConfig

    found = benchmark(
        DetectorConfig(**options),
        calls=calls,
        growth_calls=growth_calls,
        tell=lambda line: click.echo(line, err=True),
    )
    missed = [target for target in found.targets if target.seed and not target.kept]
    if as_json:
        print_json(found.to_dict())
    else:
        print_table(
            ("", "measured", "target", ""),
            [
                (
                    target.name,
                    f"{target.measured:.2f} {target.unit}",
                    f"≤ {target.bar:g} {target.unit}",
                    "kept" if target.kept else "MISSED",
                )
                for target in found.targets
            ],
        )
        click.echo(f"\n{found.model}, {found.calls:,} calls, long text of {found.windows} windows")
    return 1 if missed else 0

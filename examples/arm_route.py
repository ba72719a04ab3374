"""Load a route from its file, send it a batch, and print what became of each request."""

from __future__ import annotations

from pathlib import Path

from interlock.kernel.route_file import load_route
from interlock.strict.arm.requests import sample_requests


def main() -> None:
    """Ten requests, most of them near a singularity."""
    route = load_route(Path(__file__).with_name("arm_route.toml"))
    batch = route.run_batch({"x": sample_requests(10, seed=3, near_singular=0.8).x})
    for index in range(len(batch)):
        outcome = batch.row(index)
        rates = "" if outcome.value is None else f"dq = {outcome.value.round(3).tolist()} rad/s"
        print(f"{outcome.status:9} {outcome.evidence.kind:8} {rates}")
        for reason in outcome.reasons:
            print(f"          {reason}")


if __name__ == "__main__":
    main()

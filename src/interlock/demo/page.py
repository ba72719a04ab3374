"""The demonstration's report, from what its steps measured."""

from __future__ import annotations

import platform
from importlib import metadata

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

import interlock
from interlock.demo.arm import Served
from interlock.demo.found import Demo
from interlock.demo.journalled import Resumed
from interlock.demo.prompts import Prompts
from interlock.demo.proved import Proved
from interlock.demo.summaries import Summaries
from interlock.kernel.intervals import wilson_interval
from interlock.kernel.outcome import Status
from interlock.report import blocks, svg
from interlock.report.page import Page, Section
from interlock.strict.arm.kinematics import ARM, tip
from interlock.strict.arm.route import TOLERANCE


def build(demo: Demo) -> Page:
    """The page."""
    return Page(
        title="Every answer accepted, flagged, routed or refused",
        lead=(
            "A robot arm asks a small neural network for its joint rates. Near its singularities "
            "the network cannot be trusted, and it says so: masks fail closed, a solver takes "
            "over, the true Jacobian checks every answer, and what stays unanswered is refused."
        ),
        opening=[
            *(blocks.verdict("failed", "A promise is broken", text) for text in demo.broken()),
            _tiles(demo),
            _shares(demo.served),
        ],
        sections=[
            _where(demo.served),
            _errors(demo.served),
            _masks(demo.served),
            _timings(demo.served),
            _bundle(demo),
            _journal(demo.resumed),
            _proofs(demo.proved),
            _summaries(demo.summaries),
            _prompts(demo.prompts),
            _limits(),
        ],
        footer=(
            f"interlock {interlock.__version__}, onnxruntime {metadata.version('onnxruntime')}, "
            f"Python {platform.python_version()}, {platform.machine()}. Written by "
            "“interlock demo”; every figure on this page was measured by that run."
        ),
    )


def _tiles(demo: Demo) -> Markup:
    served, resumed = demo.served, demo.resumed
    n = len(served.requests)
    refused = int((~served.outcome.answered).sum())
    return blocks.tiles(
        [
            blocks.Tile("answered", f"{served.answered:.1%}", f"of {n:,} requests", "accepted"),
            blocks.Tile(
                "unsafe answers",
                f"{served.unsafe}",
                "by a judge that shares no code with the guard",
                "accepted" if served.unsafe == 0 else "refused",
            ),
            blocks.Tile("refused", f"{refused:,}", "no value, a reason each", "refused"),
            blocks.Tile(
                "lost, repeated",
                f"{resumed.lost}, {resumed.repeated}",
                "after kill -9 half-way",
                "accepted" if resumed.lost == resumed.repeated == 0 else "refused",
            ),
        ]
    )


def _shares(served: Served) -> Markup:
    return svg.stacked_bar(
        [(name, tone, int(rows.sum())) for name, tone, rows in served.counts()],
    )


def _where(served: Served) -> Section:
    theta, v = served.requests.theta, served.requests.v
    position = tip(ARM, theta)
    # The direction that a stretched or folded arm cannot move its tip in is the one it points in.
    along = np.abs(np.einsum("ni,ni->n", position, v))
    along /= np.hypot(*position.T) * np.hypot(*v.T)
    angle = np.degrees(np.arccos(np.clip(along, 0.0, 1.0)))
    distance = np.abs(np.sin(theta[:, 1].astype(np.float64)))
    reach, hole = ARM.first + ARM.second, abs(ARM.first - ARM.second)
    limit = reach * 1.06

    def dots(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> list[svg.Dots]:
        return [svg.Dots(name, tone, x[rows], y[rows], 2.6) for name, tone, rows in served.counts()]

    return Section(
        "Where the arm was",
        "The arm is singular when it is stretched or folded. There its tip cannot move along the "
        "arm, however fast the joints turn: requests there are flagged, routed and refused.",
        [
            svg.side_by_side(
                [
                    svg.scatter(
                        dots(*position.T),
                        svg.Axis("x in m", -limit, limit),
                        svg.Axis("y in m", -limit, limit),
                        circles=(reach, hole),
                        width=440,
                        height=422,
                        key=False,
                        caption=f"The tip's position at each request. Circles: stretched at "
                        f"{reach:g} m, folded at {hole:g} m.",
                    ),
                    svg.scatter(
                        dots(distance, angle),
                        svg.Axis("|sin theta_2|, 0 at a singularity", 1e-4, 1.0, log=True),
                        svg.Axis("angle between wanted velocity and arm, degrees", 0.0, 90.0),
                        width=440,
                        height=422,
                        key=False,
                        caption="The same requests by distance from a singularity and direction. "
                        "Close to one, only velocities across the arm can be had.",
                    ),
                ]
            )
        ],
    )


def _errors(served: Served) -> Section:
    rows = []
    for index, step in enumerate(served.outcome.steps):
        given = served.outcome.step == index
        if not given.any():
            continue
        error = served.error[given]
        quantiles = np.quantile(error, [0.5, 0.9, 0.99, 1.0])
        rows.append(
            [
                step.name,
                f"{step.rows:,}",
                f"{int(given.sum()):,}",
                *(f"{value:.2e}" for value in quantiles),
                f"{step.seconds / step.rows * 1e6:.2f}",
                step.evidence[0].kind.value if step.evidence else "none",
            ]
        )
    reasons = [
        [step.name, text, f"{count:,}"]
        for step in served.outcome.steps
        for text, count in step.reasons.items()
        if text
    ]
    return Section(
        "How good the answers are",
        "Relative error of the tip velocity, |J dq - v| / |v|, as the independent judge finds it. "
        f"Unsafe means above {TOLERANCE:.0%}.",
        [
            blocks.table(
                [
                    "step",
                    "asked",
                    "answered",
                    "median",
                    "90%",
                    "99%",
                    "largest",
                    "µs a row",
                    "evidence",
                ],
                rows,
            ),
            blocks.table(["step", "reason for a flag or for going on", "requests"], reasons),
        ],
    )


def _masks(served: Served) -> Section:
    masks, strict = served.masks, served.bundle.metadata.strict
    n = len(served.requests)
    low, high = wilson_interval(masks.unsafe, masks.accepted)
    share_low, share_high = wilson_interval(masks.accepted, n)
    accepted = served.masks.q_abs >= strict.tau_infer
    return Section(
        "What the masks do on their own",
        "Before any re-check: the network's error grows as the denominator Q vanishes, and the "
        "threshold cuts there. Below tau_infer nothing is accepted; up to tau_train it is flagged.",
        [
            svg.scatter(
                [
                    svg.Dots("kept", "accepted", masks.q_abs[accepted], masks.error[accepted], 2.4),
                    svg.Dots("cut", "refused", masks.q_abs[~accepted], masks.error[~accepted], 2.4),
                ],
                svg.Axis("|Q|", 1e-6, 0.5, log=True),
                svg.Axis("relative error of P / Q", 1e-6, 1e2, log=True),
                guides=(
                    svg.Guide("x", strict.tau_infer, "tau_infer", left=True),
                    svg.Guide("x", strict.tau_train, "tau_train"),
                    svg.Guide("y", TOLERANCE, "unsafe above"),
                ),
                width=640,
                height=380,
            ),
            blocks.table(
                ["masks alone", "measured", "95% interval"],
                [
                    [
                        "accepted",
                        f"{masks.accepted / n:.2%} of {n:,}",
                        f"{share_low:.2%} to {share_high:.2%}",
                    ],
                    [
                        "unsafe among them",
                        f"{masks.unsafe / max(1, masks.accepted):.3%} ({masks.unsafe})",
                        f"{low:.3%} to {high:.3%}",
                    ],
                    ["mean error", f"{masks.mean_error:.2e}", ""],
                    ["predicting zero, for scale", "1", ""],
                ],
            ),
        ],
    )


def _timings(served: Served) -> Section:
    times = served.timings
    n = len(served.requests)
    return Section(
        "What it costs",
        "Medians, the bare session and the whole route in turn in one process, one thread. The "
        "route adds the decode, the masks, the Jacobian's check, the solver and the record.",
        [
            blocks.table(
                ["", "bare session.run", "whole route", "ratio"],
                [
                    [
                        "one request",
                        f"{times.session_one:.0f} µs",
                        f"{times.route_one:.0f} µs",
                        f"{times.route_one / times.session_one:.1f}",
                    ],
                    [
                        f"a request among {n:,}",
                        f"{times.session_many:.2f} µs",
                        f"{times.route_many:.2f} µs",
                        f"{times.route_many / times.session_many:.1f}",
                    ],
                ],
            ),
            blocks.paragraph(
                f"Loading took {times.load_seconds:.2f} s: reading, hashing and checking the "
                "bundle, probing it in a separate process, and opening the session."
            ),
        ],
    )


def _bundle(demo: Demo) -> Section:
    described, refusal = demo.served.bundle.metadata, demo.refusal
    parts = [
        blocks.facts(
            [
                ("name", described.name),
                ("digest", demo.served.bundle.digest),
                ("tau_infer", f"{described.strict.tau_infer:g}"),
                ("tau_train", f"{described.strict.tau_train:g}"),
                *((name, _fact(value)) for name, value in sorted(described.provenance.items())),
            ]
        ),
        blocks.verdict(
            "accepted" if refusal.noticed else "failed",
            "A flipped byte is refused" if refusal.noticed else "A flipped byte was not noticed",
            f"Byte {refusal.offset:,} of {refusal.size:,} of {refusal.file}: "
            f"{refusal.code}: {refusal.message}",
        ),
    ]
    if demo.signed is None:
        parts.append(
            blocks.paragraph(
                "Not run: signing the bundle. “make demo-all” installs the extra that it needs."
            )
        )
    else:
        parts.append(
            blocks.verdict(
                "accepted",
                "The publisher's key verifies, a stranger's does not",
                demo.signed.other_key,
            )
        )
    return Section(
        "The bundle that answered",
        "The manifest holds the digest of every file; the bytes that were hashed are the bytes "
        "that run. A digest only catches accidents: against an attacker, compare it with one that "
        "you got another way, or require a signature.",
        parts,
    )


def _journal(resumed: Resumed) -> Section:
    ended = ", ".join(f"{resumed.counts[status]:,} {status}" for status in Status)
    return Section(
        "Killed half-way",
        "The same requests as a journalled run. This demonstration killed it with kill -9, started "
        "it again, and compared what was acknowledged with what is recorded.",
        [
            blocks.table(
                ["", "requests"],
                [
                    ["in the run", f"{resumed.items:,}"],
                    ["acknowledged before the kill", f"{resumed.acknowledged:,}"],
                    ["lost", f"{resumed.lost}"],
                    ["repeated after being acknowledged", f"{resumed.repeated}"],
                    ["in flight at the kill, and so sent again", f"{resumed.sent_again}"],
                ],
            ),
            blocks.paragraph(
                f"In the end: {ended}. The journal takes "
                f"{resumed.journal_bytes / resumed.items:,.0f} bytes a request."
            ),
        ],
    )


def _proofs(proved: Proved | None) -> Section:
    if proved is None:
        return Section(
            "A model proved slice by slice",
            "Not run: “make demo-all” installs the extra that it needs and proves.",
            [],
        )
    result, verdict, tampered = proved.result, proved.verdict, proved.tampered
    rows = [
        [
            entry.slice,
            plan.decision,
            entry.method,
            len(_pieces(proved, entry.slice)) or "",
            f"{plan.key_bytes / 1e6:,.1f} MB" if entry.verified else "",
            f"{entry.time:.3g} s" if entry.time >= 1 else f"{1000 * entry.time:.3g} ms",
            entry.reason or plan.reason,
        ]
        for plan, entry in zip(proved.plans, result.execution_results, strict=True)
    ]
    refused = "; ".join(map(str, tampered.reasons))
    return Section(
        "A model proved slice by slice",
        f"A network reads a scanned digit as {result.predicted_class}. Zero-knowledge circuits "
        f"prove {result.proved} of its {len(rows)} slices on that image; ONNX answers for the "
        "rest, which the verifier runs again. The chain has a page of its own: net.html.",
        [
            blocks.table(
                ["slice", "plan", "answered by", "proofs", "largest key", "time", "reason"], rows
            ),
            blocks.verdict(
                "accepted" if verdict.accepted else "failed",
                "A stranger accepts the proofs" if verdict.accepted else "The proofs are refused",
                f"{verdict.proved} proved, {verdict.replayed} run again, in "
                f"{verdict.seconds:.2g} s. Trusted: {'; '.join(verdict.trusted)}.",
            ),
            blocks.verdict(
                "failed" if tampered.accepted else "accepted",
                "A flipped bit was not noticed"
                if tampered.accepted
                else "A flipped bit in a proof is refused",
                f"In the proof of {proved.slice}, every digest made to fit: {refused}",
            ),
        ],
    )


def _summaries(found: Summaries | None) -> Section:
    title = "Its own source, summarised"
    if found is None:
        return Section(
            title,
            "Not run: it needs a text model, which “make model” adds.",
            [],
        )
    ended = ", ".join(f"{found.counts[status]:,} {status}" for status in Status)
    return Section(
        title,
        "The package that wrote this page, summarised chunk by chunk by a small model on this "
        "machine, killed with kill -9 and started again. What did not pass its checks is the "
        "source's own words, marked as such.",
        [
            blocks.table(
                ["", "summaries"],
                [
                    ["in the run", f"{found.summaries:,}"],
                    ["acknowledged before the kill", f"{found.acknowledged:,}"],
                    ["lost", f"{found.lost}"],
                    ["repeated after being acknowledged", f"{found.repeated}"],
                    ["chunks", f"{found.chunks:,}"],
                    ["of those, the model's own", f"{found.own:.0%}"],
                ],
            ),
            blocks.paragraph(f"In the end: {ended}. The whole: {found.text}"),
            blocks.paragraph(f"The page of the summaries: {found.page.parent.name}/index.html"),
        ],
    )


def _prompts(found: Prompts | None) -> Section:
    title = "Prompts judged"
    if found is None:
        return Section(title, "Not run: “make demo-all” installs the extra that it needs.", [])
    caught, hostile = found.caught
    disturbed, harmless = found.disturbed
    return Section(
        title,
        f"{caught} of {hostile} hostile texts were flagged or held, and {disturbed} of {harmless} "
        f"harmless ones, by {found.model} on this machine. A detector without a model let "
        f"{found.stub} of them pass.",
        [
            blocks.table(
                ["", "place", "text", "action", "score", "why"],
                [
                    [
                        "hostile" if prompt.hostile else "harmless",
                        prompt.found.place,
                        prompt.text,
                        prompt.found.action.value,
                        "" if prompt.found.score is None else f"{prompt.found.score:.3f}",
                        "; ".join(prompt.found.reasons),
                    ]
                    for prompt in found.judged
                ],
            ),
        ],
    )


def _pieces(proved: Proved, name: str) -> tuple[object, ...]:
    """The proofs of a slice."""
    runs = () if proved.result.run is None else proved.result.run.slices
    return next(
        (run.proof.pieces for run in runs if run.part.name == name and run.proof is not None), ()
    )


def _limits() -> Section:
    return Section(
        "What this does not show",
        "The thresholds were chosen on validation requests without a statement of confidence, for "
        "requests distributed as here: a guarantee needs calibration. The arm is a model, without "
        "dynamics or sensor noise. Kill -9 is not a power failure.",
        [],
    )


def _fact(value: object) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value)

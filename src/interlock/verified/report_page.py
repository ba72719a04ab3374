"""The page of one verified inference: the chain slice by slice, and what backs each."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from interlock.report import blocks, svg
from interlock.report.blocks import Tone
from interlock.report.page import Page, Section
from interlock.verified.chain import SliceRun
from interlock.verified.compare import Comparison
from interlock.verified.metadata import RunnerMetadata
from interlock.verified.prover import CircuitPlan
from interlock.verified.result import InferenceResult, weaknesses

LARGEST_IMAGE, MOST_CHANNELS = 64, 4

TRUSTED_ALWAYS = (
    "ONNX Runtime and this program, for every slice that ONNX answered.",
    "That the model's files are the ones meant: a digest says which they are, not whose.",
)
TRUSTED_PROVED = (
    "The proof system and its implementation.",
    "Whoever made the structured reference string.",
    "That a verifying key belongs to the slice, until it is rebuilt from the model.",
)


def build(
    result: InferenceResult,
    metadata: RunnerMetadata,
    *,
    plans: Sequence[CircuitPlan] = (),
    comparison: Comparison | None = None,
    trusted: Sequence[str] = (),
) -> Page:
    """The page of `result`.

    plans       of the slices, where they were planned
    comparison  what `compare` found, where it was asked
    trusted     further sentences on what is trusted; what weakens the proofs is there already
    """
    sections = [_chain(result), _reasons(result)]
    if plans:
        sections.append(_plans(plans))
    if comparison is not None:
        sections.append(_comparison(comparison))
    sections += [_trust(result, trusted), _model(result, metadata)]
    total = len(result.execution_results)
    return Page(
        title=f"A verified inference of {metadata.model}",
        lead=(
            f"{result.proved} of {total} slices proved, {result.replayed} replayed, "
            f"{result.unverified} unverified: {result.overall_security:.4g}% of the slices are "
            "backed by a proof of this very inference."
        ),
        opening=[_tiles(result), *_pictures(result)],
        sections=[section for section in sections if section is not None],
        footer=f"Model {metadata.model_sha256}. Times are of one run on one machine.",
    )


def _tiles(result: InferenceResult) -> Markup:
    total = len(result.execution_results)
    share = float(result.probabilities.ravel()[result.predicted_class])
    return blocks.tiles(
        [
            blocks.Tile("answer", f"class {result.predicted_class}", f"softmax {share:.1%}"),
            blocks.Tile("proved", f"{result.proved} / {total}", "by circuits", "accepted"),
            blocks.Tile(
                "replayed", f"{result.replayed} / {total}", "the same bits elsewhere", "routed"
            ),
            blocks.Tile(
                "unverified",
                f"{result.unverified} / {total}",
                "digests only",
                "flagged" if result.unverified else "plain",
            ),
            blocks.Tile("time", f"{result.time:.3g} s", result.execution_method),
        ]
    )


def _pictures(result: InferenceResult) -> list[Markup]:
    """The inputs that are images, channel by channel; equal channels once."""
    shown: list[Markup] = []
    for name, array in {} if result.run is None else result.run.inputs.items():
        if array.ndim != 4 or array.dtype.kind != "f" or max(array.shape[2:]) > LARGEST_IMAGE:
            continue
        channels = array[0, :MOST_CHANNELS]
        if (channels == channels[:1]).all():
            channels = channels[:1]
        for place, pixels in enumerate(channels):
            which = f"{name}, channel {place}" if len(channels) > 1 else name
            shown.append(svg.image(pixels, caption=which))
    return [svg.side_by_side(shown)] if shown else []


def _chain(result: InferenceResult) -> Section:
    runs = () if result.run is None else result.run.slices
    rows: list[list[object]]
    if runs:
        rows = [_row(run) for run in runs]
    else:
        rows = [
            [entry.slice, "", entry.method, "none", _seconds(entry.time), "", "", ""]
            for entry in result.execution_results
        ]
    return Section(
        "The chain",
        "Each slice takes what the ones before it gave. A proved slice hands on the numbers that "
        "its proof commits to, so the next one starts from exactly those.",
        [
            blocks.table(
                [
                    "slice",
                    "layers",
                    "answered by",
                    "evidence",
                    "time",
                    "proofs",
                    "largest key",
                    "circuits",
                ],
                rows,
            )
        ],
    )


def _row(run: SliceRun) -> list[object]:
    pieces = () if run.proof is None else run.proof.pieces
    return [
        run.part.name,
        ", ".join(run.part.parameterised) or "none",
        run.method,
        run.outcome.evidence.kind.value,
        _seconds(run.seconds),
        len(pieces) or "",
        _bytes(max((piece.key_bytes for piece in pieces), default=0)),
        _bytes(run.circuit_size or 0),
    ]


def _reasons(result: InferenceResult) -> Section | None:
    fell = [entry for entry in result.execution_results if entry.fallback_used]
    if not fell:
        return None
    return Section(
        "Where ONNX answered instead",
        "A fallback is on record with its reason, and never counts as verified.",
        [blocks.table(["slice", "reason"], [[entry.slice, entry.reason] for entry in fell])],
    )


def _plans(plans: Sequence[CircuitPlan]) -> Section:
    rows = [
        [
            plan.slice,
            plan.decision,
            plan.pieces or "",
            plan.circuits or "",
            f"{plan.rows:,}" if plan.rows else "",
            plan.logrows or "",
            _bytes(plan.key_bytes),
            _bytes(plan.memory_bytes),
            _seconds(plan.seconds) if plan.seconds else "",
            plan.reason,
        ]
        for plan in plans
    ]
    return Section(
        "The plan",
        "Predicted before any key was made.",
        [
            blocks.table(
                [
                    "slice",
                    "decision",
                    "proofs",
                    "circuits",
                    "rows",
                    "logrows",
                    "key",
                    "memory",
                    "time",
                    "reason",
                ],
                rows,
            )
        ],
    )


def _comparison(found: Comparison) -> Section:
    rows = [
        [
            row.method,
            row.predicted_class,
            f"{row.security:.1f}%",
            _seconds(row.seconds),
            "" if row.overhead is None else f"{row.overhead:+,.1f}%",
            "" if row.security_gain is None else f"{row.security_gain:+.1f}%",
            ", ".join("-" if size is None else f"{size:,}" for size in row.circuit_sizes),
        ]
        for row in found.rows
    ]
    parts = [
        blocks.table(
            [
                "method",
                "class",
                "security",
                "time",
                "time overhead",
                "security gain",
                "circuit sizes (bytes)",
            ],
            rows,
        )
    ]
    if found.differences is not None:
        d = found.differences
        parts.append(
            blocks.facts(
                [
                    ("max absolute error", f"{d.maximum:.12f}"),
                    ("mean absolute error", f"{d.mean:.12f}"),
                    ("sum absolute error", f"{d.total:.12f}"),
                    ("relative error", f"{d.relative:.12f}"),
                    ("answered by", f"{d.circuits} circuits, {d.onnx} ONNX slices"),
                ]
            )
        )
    return Section("Circuits and ONNX side by side", "On the model's example input.", parts)


def _trust(result: InferenceResult, trusted: Sequence[str]) -> Section:
    lines = [*TRUSTED_ALWAYS, *(TRUSTED_PROVED if result.proved else ())]
    lines += [*weaknesses(result), *trusted]
    items = Markup("").join(Markup("<li>{}</li>").format(line) for line in lines)
    return Section(
        "What is trusted",
        "A proof moves trust, it does not end it.",
        [Markup("<ul>{}</ul>").format(items)],
    )


def _model(result: InferenceResult, metadata: RunnerMetadata) -> Section:
    logits = ", ".join(f"{value:.6g}" for value in result.logits.ravel()[:32].tolist())
    facts: list[tuple[str, object]] = [
        ("model", metadata.model),
        ("sha256", metadata.model_sha256),
        ("parameters", f"{metadata.parameters:,}"),
        ("logits", logits),
        ("time_limit", "none" if metadata.time_limit is None else f"{metadata.time_limit:g} s"),
        ("size_limit", "none" if metadata.size_limit is None else f"{metadata.size_limit:g} B"),
    ]
    runs = () if result.run is None else result.run.slices
    facts += [(run.part.name, run.part.sha256) for run in runs]
    tone: Tone = "accepted" if result.proved == len(result.execution_results) else "flagged"
    words = (
        "Every slice of this inference was proved."
        if tone == "accepted"
        else "Not every slice of this inference was proved."
    )
    return Section(
        "The model",
        "Digests of the bytes that ran.",
        [blocks.facts(facts), blocks.verdict(tone, words, "The counts above say how many.")],
    )


def _seconds(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"


def _bytes(size: int) -> str:
    if not size:
        return ""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= scale:
            return f"{size / scale:.3g} {unit}"
    return f"{size} B"

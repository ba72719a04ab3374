"""The validation report as one HTML page, and its summary as a picture."""

from __future__ import annotations

import numpy as np
from markupsafe import Markup

from interlock.report import blocks, svg
from interlock.report.page import Page, Section
from interlock.strict.calibration_record import RiskCurve
from interlock.strict.certificate import Certificate
from interlock.strict.report_markdown import (
    certificate_facts,
    environment_sentence,
    shape,
    signature_sentence,
)
from interlock.strict.validation import Validation, plain


def build(found: Validation, written: str) -> Page:
    """The page; `written` is the time at its foot."""
    metadata = found.bundle.metadata
    sections = [_certificate(found), _contract(found), _smoke(found), _files(found)]
    if metadata.provenance:
        sections.append(
            Section(
                "Provenance",
                "Where the model comes from, as its exporter wrote it. Nobody checked this.",
                [
                    blocks.facts(
                        (name, plain(value)) for name, value in sorted(metadata.provenance.items())
                    )
                ],
            )
        )
    sections.append(_not_checked(found))
    return Page(
        title=f"Validation report: {metadata.name}",
        lead=(
            "This bundle was read once, hashed, checked and probed before anything ran, and its "
            "smoke vectors came out again. What its answers are worth is the certificate's affair; "
            "what nobody looked at stands at the end."
        ),
        opening=[_tiles(found)],
        sections=sections,
        footer=f"{environment_sentence(found)} Written {written} by `interlock strict report`.",
    )


def summary(found: Validation) -> str:
    """The report at a glance, an SVG document."""
    metadata, strict = found.bundle.metadata, found.bundle.metadata.strict
    assert strict is not None
    certificate = found.certificate
    words = "none" if certificate is None else _headline(certificate)
    lines = [
        svg.text(24, 40, metadata.name, 22, 700),
        svg.text(24, 62, found.bundle.digest, 12),
        svg.text(24, 94, f"Certificate: {words}", weight=600),
        svg.text(24, 116, f"Thresholds: {_thresholds(found)}"),
        svg.text(24, 138, f"Smoke vectors: {_smoke_words(found)}"),
        svg.text(24, 160, signature_sentence(found)),
    ]
    height = 184
    if found.curve is not None:
        plot, names = risk_coverage(found.curve, _certified_tau(found))
        lines += [svg.legend(names, 58, 200), svg.nested(plot, 0, 190, 900, 380)]
        height = 580
    title = f"Validation report: {metadata.name}"
    return svg.document(svg.figure(lines, 900, height, caption=title))


def risk_coverage(
    curve: RiskCurve, tau: float | None
) -> tuple[Markup, list[tuple[str, blocks.Tone]]]:
    """Unsafe share of the accepted rows over the share accepted, tau falling to the right; the key.

    tau  marked on the curve, where it is given
    """
    coverage, risk = np.array(curve.coverage), np.array(curve.risk)
    lowest = max(risk[risk > 0].min(initial=curve.alpha / 10), 1e-9)
    low = 10.0 ** np.floor(np.log10(lowest))
    # A share of 0 lies below every logarithmic axis; it is drawn on its lower edge.
    drawn, least, most = (np.maximum(shares, low) for shares in (risk, curve.low, curve.high))
    points = []
    if tau is not None:
        at = int(np.argmin(np.abs(np.array(curve.tau) - tau)))
        mark = slice(at, at + 1)
        points.append(svg.Dots(f"tau_infer {tau:.4g}", "accepted", coverage[mark], drawn[mark], 11))
    lines = [
        svg.Curve("unsafe share of the accepted", "routed", coverage, drawn),
        svg.Curve(f"its {curve.confidence:.3g} interval", "failed", coverage, most, least),
    ]
    picture = svg.curves(
        lines,
        svg.Axis("share of the rows that is accepted", 0.0, 1.0),
        svg.Axis("unsafe share", float(low), 1.0, log=True),
        points=points,
        guides=[svg.Guide("y", curve.alpha, f"alpha {curve.alpha:g}", left=True)],
        caption=(
            f"{curve.n:,} held-out rows; tau falls from left to right. The curve is what was "
            "counted, not a guarantee."
        ),
    )
    return picture, [(line.name, line.tone) for line in lines] + [
        (dot.name, dot.tone) for dot in points
    ]


def _tiles(found: Validation) -> Markup:
    strict = found.bundle.metadata.strict
    assert strict is not None
    rows = sum(result.rows for result in found.smoke)
    certificate = found.certificate
    signed = {"verified": "verified", "unverified": "not verified", "none": "no"}[found.signature]
    return blocks.tiles(
        [
            blocks.Tile(
                "certificate",
                "none" if certificate is None else f"≤ {100 * certificate.alpha:g}%",
                "how often answers are wrong is unknown"
                if certificate is None
                else f"unsafe, confidence {1 - certificate.delta:.4g}, n = {certificate.n:,}",
                "flagged" if certificate is None else "accepted",
            ),
            blocks.Tile("tau_infer", f"{strict.tau_infer:g}", "below it nothing is accepted"),
            blocks.Tile(
                "smoke rows reproduced",
                f"{rows:,} of {rows:,}",
                "mask for mask" if rows else "the bundle holds none",
                "accepted" if rows else "flagged",
            ),
            blocks.Tile(
                "signature",
                signed,
                "by the key that was required" if found.signature == "verified" else "",
                "accepted" if found.signature == "verified" else "flagged",
            ),
        ]
    )


def _certificate(found: Validation) -> Section:
    parts: list[Markup] = []
    if found.certificate is None:
        parts.append(blocks.verdict("flagged", "No certificate", found.guarantee))
    else:
        parts.append(blocks.verdict("accepted", "Certified", found.guarantee))
    if found.curve is not None:
        parts.append(risk_coverage(found.curve, _certified_tau(found))[0])
    if found.certificate is not None:
        parts.append(blocks.facts(certificate_facts(found.certificate)))
    return Section(
        "How often an accepted answer is wrong",
        "Only a calibration on held-out requests can say that, and only for requests like those.",
        parts,
    )


def _contract(found: Validation) -> Section:
    metadata, strict = found.bundle.metadata, found.bundle.metadata.strict
    assert strict is not None
    return Section(
        "The contract",
        f"What goes in and what comes out, in this order. Axis {metadata.batch_axis} counts the "
        f"rows; thresholds are rounded to {strict.dtype} before |Q| is compared with them.",
        [
            _zones(found),
            blocks.table(
                ["", "name", "dtype", "shape", "meaning"],
                [
                    [role, spec.name, spec.dtype, shape(spec), strict.meaning.get(spec.name, "")]
                    for role, specs in (("input", metadata.inputs), ("output", metadata.outputs))
                    for spec in specs
                ],
            ),
            blocks.facts(
                [
                    ("tau_infer", repr(strict.tau_infer)),
                    ("tau_train", "none" if strict.tau_train is None else repr(strict.tau_train)),
                    ("P, Q in the graph", f"{strict.p}, {strict.q}"),
                ]
            ),
        ],
    )


def _zones(found: Validation) -> Markup:
    """|Q| as a line, cut where the masks change."""
    strict = found.bundle.metadata.strict
    assert strict is not None
    has_gap = strict.tau_train is not None and strict.tau_train > strict.tau_infer
    zones: list[tuple[str, blocks.Tone, str]] = [
        ("bottom: refuse", "refused", f"tau_infer {strict.tau_infer:g}")
    ]
    if has_gap:
        zones.append(("gap: usable, near the limit", "flagged", f"tau_train {strict.tau_train:g}"))
    zones.append(("accepted", "accepted", ""))
    width, parts = 900 / len(zones), []
    for index, (name, tone, end) in enumerate(zones):
        left, right = index * width, (index + 1) * width
        parts.append(
            Markup(
                '<rect class="bar {}" x="{:.0f}" y="24" width="{:.0f}" height="22" '
                'fill-opacity=".8"/><text x="{:.0f}" y="16">{}</text>'
            ).format(tone, left, width - 3, left, name)
        )
        if end:
            parts.append(
                Markup('<text x="{:.0f}" y="64" text-anchor="middle">{}</text>').format(right, end)
            )
    return svg.figure(parts, 900, 72, caption="|Q|, from 0 on the left; not to scale.")


def _smoke(found: Validation) -> Section:
    return Section(
        "Smoke vectors, run again",
        "Rows kept at export with their answers. Masks must be equal; accepted values may differ "
        "by the vector's tolerance, which leaves room for another processor's last bits.",
        [
            blocks.table(
                [
                    "vector",
                    "rows",
                    "accepted",
                    "of them gap",
                    "bottom",
                    "mask mismatches",
                    "largest difference",
                    "of the tolerance",
                ],
                [
                    [
                        index,
                        f"{result.rows:,}",
                        f"{result.accepted:,}",
                        f"{result.gap:,}",
                        f"{result.bottom:,}",
                        result.mask_mismatches,
                        f"{result.largest_difference:.3g}",
                        f"{result.tolerance_used:.2%}",
                    ]
                    for index, result in enumerate(found.smoke)
                ],
            )
            if found.smoke
            else blocks.verdict("flagged", "None", "The bundle holds no smoke vectors.")
        ],
    )


def _files(found: Validation) -> Section:
    return Section(
        "The bytes",
        "The manifest names every file with its SHA-256, and its own digest names the bundle. The "
        "bytes that were hashed are the ones that ran.",
        [
            blocks.facts([("bundle", found.bundle.digest)]),
            blocks.table(
                ["file", "bytes", "SHA-256"],
                [
                    [file.name, f"{file.size:,}", Markup("<code>{}</code>").format(file.sha256)]
                    for file in found.files
                ],
            ),
            blocks.paragraph(signature_sentence(found)),
        ],
    )


def _not_checked(found: Validation) -> Section:
    return Section(
        "What was not checked",
        "A report that only lists what went well would be read as more than it is.",
        [
            Markup("<ul>{}</ul>").format(
                Markup("").join(Markup("<li>{}</li>").format(line) for line in found.not_checked)
            )
        ],
    )


def _headline(certificate: Certificate) -> str:
    return (
        f"at most {100 * certificate.alpha:g}% unsafe, confidence {1 - certificate.delta:.4g}, "
        f"n = {certificate.n:,}"
    )


def _thresholds(found: Validation) -> str:
    strict = found.bundle.metadata.strict
    assert strict is not None
    gap = "" if strict.tau_train is None else f", tau_train {strict.tau_train:g}"
    return f"tau_infer {strict.tau_infer:g}{gap}"


def _smoke_words(found: Validation) -> str:
    if not found.smoke:
        return "none in the bundle"
    rows = sum(result.rows for result in found.smoke)
    largest = max(result.largest_difference for result in found.smoke)
    return f"{rows:,} rows, 0 mask mismatches, values within {largest:.2g}"


def _certified_tau(found: Validation) -> float | None:
    strict = found.bundle.metadata.strict
    assert strict is not None
    return None if found.certificate is None else strict.tau_infer

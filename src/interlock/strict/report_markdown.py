"""The validation report as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from interlock.bundle import TensorSpec
from interlock.strict.certificate import Certificate
from interlock.strict.validation import Validation, plain

SUMMARY_SVG = "VALIDATION_REPORT.summary.svg"


def markdown(found: Validation, written: str) -> str:
    """The report's text; `written` is the time at its foot."""
    metadata = found.bundle.metadata
    strict = metadata.strict
    assert strict is not None
    parts = [
        f"# Validation report: {_inline(metadata.name)}",
        f"![Summary]({SUMMARY_SVG})",
        f"Bundle `{found.bundle.digest}`. It passed every check of loading, the probe in a process "
        "of its own, and its smoke vectors in the process that wrote this report.",
        "## Certificate",
        *_certificate(found),
        "## Contract",
        _table(
            ["", "name", "dtype", "shape"],
            [
                [role, _code(spec.name), spec.dtype, _code(shape(spec))]
                for role, specs in (("input", metadata.inputs), ("output", metadata.outputs))
                for spec in specs
            ],
        ),
        f"Axis {metadata.batch_axis} counts the rows. Outputs come in the order "
        + ", ".join(f"`{name}`" for name in strict.output_order)
        + f". Thresholds, rounded to {strict.dtype} before they are compared:",
        _table(
            ["threshold", "value"],
            [
                ["tau_infer", f"`{strict.tau_infer!r}`"],
                ["tau_train", "none" if strict.tau_train is None else f"`{strict.tau_train!r}`"],
            ],
        ),
        _table(
            ["output", "meaning"],
            [[f"`{name}`", _cell(strict.meaning[name])] for name in strict.output_order],
        ),
        "## Smoke vectors, run again",
        *_smoke(found),
        "## Files",
        _table(
            ["file", "bytes", "SHA-256"],
            [[f"`{file.name}`", f"{file.size:,}", f"`{file.sha256}`"] for file in found.files],
        ),
        signature_sentence(found),
    ]
    if metadata.provenance:
        parts += [
            "## Provenance, as the exporter wrote it",
            _table(
                ["", ""],
                [
                    [_cell(name), _cell(plain(value))]
                    for name, value in sorted(metadata.provenance.items())
                ],
            ),
        ]
    parts += [
        "## What was not checked",
        "\n".join(f"- {line}" for line in found.not_checked),
        "---",
        f"{environment_sentence(found)} Written {written}.",
    ]
    return "\n\n".join(parts) + "\n"


def shape(spec: TensorSpec) -> str:
    """A shape as people write it, such as `batch x 4`."""
    return " x ".join(map(str, spec.shape)) or "scalar"


def signature_sentence(found: Validation) -> str:
    """Who signed, in words."""
    if found.signature == "verified":
        return f"Signed by the key {found.bundle.signed_by}; the signature was verified."
    if found.signature == "unverified":
        return "The bundle carries a signature that was not verified: no key was given."
    return "The bundle is not signed."


def environment_sentence(found: Validation) -> str:
    """What did the checking, in words."""
    return ", ".join(f"{name} {version}" for name, version in found.environment.items()) + "."


def certificate_facts(certificate: Certificate) -> list[tuple[str, str]]:
    """The certificate's fields, by name."""
    facts = []
    for name, value in certificate.to_plain().items():
        if isinstance(value, dict):
            value = ", ".join(f"{key} {item}" for key, item in value.items())
        facts.append((name, "none" if value is None else plain(value)))
    return facts


def _certificate(found: Validation) -> list[str]:
    if found.certificate is None:
        return [f"**No certificate.** {_inline(found.guarantee)}"]
    rows = [[_cell(name), _cell(value)] for name, value in certificate_facts(found.certificate)]
    return [_inline(found.guarantee), _table(["", ""], rows)]


def _smoke(found: Validation) -> list[str]:
    if not found.smoke:
        return ["The bundle holds no smoke vectors."]
    return [
        _table(
            [
                "vector",
                "rows",
                "accepted",
                "of them gap",
                "bottom",
                "mask mismatches",
                "largest difference",
                "share of the tolerance",
            ],
            [
                [
                    str(index),
                    f"{result.rows:,}",
                    f"{result.accepted:,}",
                    f"{result.gap:,}",
                    f"{result.bottom:,}",
                    str(result.mask_mismatches),
                    f"{result.largest_difference:.3g}",
                    f"{result.tolerance_used:.2%}",
                ]
                for index, result in enumerate(found.smoke)
            ],
        )
    ]


def _table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [headers, ["---"] * len(headers), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(text: str) -> str:
    """Text that cannot end its cell, its line or a code span, or start markup."""
    return _inline(text).replace("|", "\\|").replace("`", "'")


def _code(text: str) -> str:
    """Text as code, in a table."""
    line = "".join(c if c.isprintable() else " " for c in text)
    return "`" + line.replace("`", "'").replace("|", "\\|") + "`"


def _inline(text: str) -> str:
    """One line of text in which nothing is markup."""
    line = "".join(c if c.isprintable() else " " for c in text)
    return line.replace("&", "&amp;").replace("<", "&lt;").replace("[", "\\[")

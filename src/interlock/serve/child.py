"""What runs in the worker process of a route or a verified model.

It is asked `{"do": "describe"}` once, then `{"do": "infer", "inputs": …, "seconds": …}`; an answer
to the latter is an outcome as JSON, which the parent checks before it believes it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from interlock.kernel.clock import NO_DEADLINE, Deadline
from interlock.kernel.errors import (
    BundleError,
    BundleIntegrityError,
    ConfigError,
    DeadlineError,
    EngineUnavailableError,
    InterlockError,
)
from interlock.kernel.outcome import Evidence, EvidenceKind, Outcome, Status, Step, StepResult

# Of the time that is left, for the route's own limits to end it before the process is killed.
_SHARE = 0.9


def load_route(options: Mapping[str, Any]) -> Callable[[Any], Any]:
    """A route file, or a registered route, over batches of rows."""
    from interlock.kernel.outcome import encode_json
    from interlock.kernel.registry import ROUTES
    from interlock.kernel.route_file import describe
    from interlock.kernel.route_file import load_route as read_route

    source = options["source"]
    if source.startswith("route:"):
        route = ROUTES.make(source.removeprefix("route:"), base=Path(options["base"]))
    else:
        route = read_route(Path(source))
    route.require("answer_batch", "check_batch")
    signature = next(
        (s for s in (getattr(step.engine, "signature", None) for step in route.steps) if s), None
    )
    if signature is None:
        raise ConfigError(
            f"route '{route.name}': no engine tells the tensors that it takes and gives",
            hint="give an engine the property `signature`: (inputs, outputs) as TensorSpec",
        )
    described = describe(route)
    version = f"sha256:{hashlib.sha256(encode_json(described, order='sorted')).hexdigest()}"
    _expect(version, options)

    def answer(payload: Any) -> Any:
        if payload["do"] == "describe":
            return _description(version, *signature)
        return route.run_batch(payload["inputs"], deadline=_deadline(payload)).to_json()

    return answer


def load_verified(options: Mapping[str, Any]) -> Callable[[Any], Any]:
    """A verified model: slices proved by circuits, or run by ONNX on record."""
    import warnings

    from interlock.serve import kept_proofs
    from interlock.verified import Runner
    from interlock.verified.directory import VerifiedWarning
    from interlock.verified.inputs import read_inputs
    from interlock.verified.result import weaknesses

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", VerifiedWarning)  # the outcome says the same
        runner = Runner(options["source"])
    mode = options["mode"]
    proofs = None if options["proofs"] is None else Path(options["proofs"])
    if proofs is not None:
        kept_proofs.prepare(proofs)
    given = read_inputs(runner.directory.example, runner.inputs)
    example = runner.infer("onnx_only", given)
    # Of the bytes that the runner opened: the file may be another one by now.
    digest = f"sha256:{runner.metadata.model_sha256}"
    _expect(digest, options)

    def answer(payload: Any) -> Any:
        if payload["do"] == "describe":
            outputs = [[n, a.dtype.name, list(a.shape)] for n, a in example.outputs.items()]
            told = [[s.name, s.dtype, list(s.shape)] for s in runner.inputs]
            return {"version": digest, "inputs": told, "outputs": outputs, "example": given}
        keep = proofs is not None and payload["keep"]
        try:
            found = runner.infer(mode, payload["inputs"], record=keep, deadline=_deadline(payload))
        except InterlockError as error:
            return failed(runner.name, error).to_json()
        detail: dict[str, str | int | float | bool | None] = {
            "model": digest,
            "method": found.execution_method,
            "slices": len(found.execution_results),
            "proved": found.proved,
            "replayed": found.replayed,
            "unverified": found.unverified,
        }
        weak = weaknesses(found)
        if weak:
            detail["weaknesses"] = "; ".join(weak)
        whole = found.unverified + found.replayed == 0
        # The server alone saw a proof that is not kept, so it is a check of its own.
        kind = EvidenceKind.CHECKED if whole else EvidenceKind.ATTESTED
        fell_back = [f"{r.slice}: {r.reason}" for r in found.execution_results if r.fallback_used]
        if proofs is not None and keep and found.proved:
            try:
                kept = kept_proofs.keep(proofs, runner, found)
            except InterlockError as error:
                # Its message names a path of this machine, and the reason goes to clients.
                fell_back.append(f"the proof is not kept ({error.code})")
            else:
                detail |= {"proof": kept.name, "proof_digest": kept.digest}
                kind = EvidenceKind.PROVED if whole else kind
        evidence = Evidence(kind, "verified", detail)
        reason = "; ".join(fell_back)
        # A circuit that was wanted and did not prove is no silent matter.
        result = StepResult.FLAGGED if fell_back else StepResult.ACCEPTED
        return Outcome(
            status=Status(result.value),
            value=dict(found.outputs),
            steps=(Step("verified", result, reason, found.time, 1, (evidence,)),),
            evidence=evidence,
            route=runner.name,
        ).to_json()

    return answer


def load_detector(options: Mapping[str, Any]) -> Callable[[Any], Any]:
    """A detector; what it says of a text is JSON without any part of the text."""
    import time

    from interlock.detect import Detector, DetectorConfig
    from interlock.kernel.outcome import encode_json

    fields = dict(options)
    expected = fields.pop("expected_files", None)
    for name in ("bundle", "require_signature", "calibration", "policy"):
        fields[name] = None if fields[name] is None else Path(fields[name])
    # The bundle has its digest; of the files beside it the process before tells.
    files = [_digest(fields[name]) for name in ("calibration", "policy")]
    if expected not in (None, files):
        raise BundleIntegrityError("calibration or policy is another file than at the start")
    detector = Detector.open(DetectorConfig(**fields))

    def answer(payload: Any) -> Any:
        if payload["do"] == "describe":
            bundle = None if detector.model is None else detector.model.digest
            return {"bundle": bundle, "files": files}
        began = time.perf_counter()
        asked = zip(payload["texts"], payload["places"], strict=True)
        found = [detector.scan(text, place).to_dict() for text, place in asked]
        return {"rows": encode_json(found), "seconds": time.perf_counter() - began}

    return answer


def _digest(path: Path | None) -> str:
    """Of a file; empty where there is none, which its reader will say better."""
    try:
        return "" if path is None else hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return ""


def failed(route: str, error: InterlockError) -> Outcome[Any]:
    """The outcome of a request that ended in `error`."""
    result = StepResult.ERROR
    if isinstance(error, DeadlineError):
        result = StepResult.OVER_TIME
    elif isinstance(error, EngineUnavailableError | BundleError):
        result = StepResult.UNAVAILABLE
    step = Step(route, result, f"{error.code}: {error.message}")
    return Outcome(status=Status.FAILED, steps=(step,), route=route, action="refuse")


def _expect(version: str, options: Mapping[str, Any]) -> None:
    """Raise BundleIntegrityError where the files are no longer those of the process before."""
    expected = options.get("expected_digest")
    if expected not in (None, version):
        raise BundleIntegrityError(f"the digest is {version}, expected {expected}")


def _description(version: str, inputs: Any, outputs: Any) -> dict[str, Any]:
    return {
        "version": version,
        "inputs": [[s.name, s.dtype, list(s.shape)] for s in inputs],
        "outputs": [[s.name, s.dtype, list(s.shape)] for s in outputs],
        "example": None,
    }


def _deadline(payload: Mapping[str, Any]) -> Deadline:
    seconds = payload["seconds"]
    return NO_DEADLINE if seconds is None else Deadline.after(_SHARE * seconds)

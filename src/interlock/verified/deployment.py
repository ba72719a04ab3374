"""Production validation of a model's directory: what has to hold before it serves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import msgspec
import numpy as np

from interlock.kernel.batch import Array
from interlock.kernel.errors import InputError, InterlockError
from interlock.kernel.intervals import wilson_interval
from interlock.verified.compare import over_many
from interlock.verified.equality import random_inputs, same_bits
from interlock.verified.examples import read_examples
from interlock.verified.result import InferenceResult, weaknesses
from interlock.verified.runner import Runner
from interlock.verified.slices import sizes

WORST_ERROR = 1e-3
"""Largest difference between circuits and ONNX that passes, over the largest logit."""


class Check(msgspec.Struct, frozen=True):
    """One check: `passed`, `failed`, or `skipped` where what it needs is not there."""

    name: str
    result: Literal["passed", "failed", "skipped"]
    detail: str


class _Failed(Exception):
    pass


class _Skipped(Exception):
    pass


def deploy_production(runner: Runner, *, inputs: int = 20) -> list[Check]:
    """Run every check on an open model, whose files the runner has checked already.

    inputs  of the held-out examples, how many go through circuits and chains
    """
    examples, labels = read_examples(runner)
    some = examples[:inputs]
    checks: dict[str, Callable[[], str]] = {
        "files": lambda: _files(runner),
        "metadata": lambda: _metadata(runner),
        "same bits in slices": lambda: _same_bits(runner, some),
        "onnx_only": lambda: _onnx_only(runner),
        "auto": lambda: _auto(runner),
        "ezkl_only": lambda: _ezkl_only(runner),
        "time_limit 0": lambda: _limited(runner, "time_limit"),
        "size_limit 0": lambda: _limited(runner, "size_limit"),
        "bad input": lambda: _bad_input(runner),
        "circuits' error": lambda: _error(runner, some),
        "accuracy": lambda: _accuracy(runner, examples, labels),
    }
    return [_check(name, check) for name, check in checks.items()]


def _check(name: str, check: Callable[[], str]) -> Check:
    try:
        return Check(name, "passed", check())
    except _Failed as error:
        return Check(name, "failed", str(error))
    except _Skipped as error:
        return Check(name, "skipped", str(error))
    except InterlockError as error:
        return Check(name, "failed", f"{error.code}: {error.message}")


def _files(runner: Runner) -> str:
    if runner.sliced is None:
        raise _Failed("the model is not sliced")
    return f"model {runner.sliced.sha256[:16]}, {len(runner.sliced.slices)} slices of it"


def _metadata(runner: Runner) -> str:
    told = runner.metadata
    if runner.sliced is not None and told.model_sha256 != runner.sliced.sha256:
        raise _Failed("the metadata are of another model")
    return f"at most {told.overall_security:.4g}% can be proved now"


def _same_bits(runner: Runner, examples: list[Array]) -> str:
    if runner.sliced is None:
        raise _Skipped("the model is not sliced")
    name = runner.inputs[0].name
    given = (
        [{name: row} for row in examples]
        if len(runner.inputs) == 1
        else list(random_inputs(runner.sliced))
    )
    equal, total = same_bits(runner.sliced, given, runner.optimization)
    if equal < total:
        raise _Failed(f"{total - equal} of {total} inputs give other bits than the whole model")
    return f"{total} of {total} inputs, at level {runner.optimization!r}"


def _onnx_only(runner: Runner) -> str:
    found = runner.infer("onnx_only")
    if found.overall_security or found.proved:
        raise _Failed(f"the whole model claims {found.overall_security:.4g}%")
    return f"class {found.predicted_class}, 0% as it must be"


def _auto(runner: Runner) -> str:
    found = runner.infer("auto")
    whole = runner.infer("onnx_only")
    if found.predicted_class != whole.predicted_class:
        raise _Failed(f"class {found.predicted_class}, the whole model {whole.predicted_class}")
    return (
        f"{found.overall_security:.4g}%: {found.proved} proved, {found.unverified} unverified "
        f"in {found.time:.3g} s"
    ) + _weaknesses(found)


def _ezkl_only(runner: Runner) -> str:
    try:
        found = runner.infer("ezkl_only")
    except InterlockError as error:
        return f"refused, as it must be: {error.message[:160]}"
    if found.overall_security != 100:
        raise _Failed(f"it answered with {found.overall_security:.4g}% proved")
    return f"all {found.proved} slices proved in {found.time:.3g} s" + _weaknesses(found)


def _weaknesses(found: InferenceResult) -> str:
    """What stands against the proofs, as the end of a detail."""
    return "".join(f"; {sentence}" for sentence in weaknesses(found))


def _limited(runner: Runner, limit: str) -> str:
    """With a limit of 0 nothing may be proved, whatever the metadata say."""
    before = getattr(runner, limit)
    setattr(runner, limit, 0)
    try:
        found = runner.infer("auto")
    finally:
        setattr(runner, limit, before)
    if found.proved:
        raise _Failed(f"{found.proved} slices were proved all the same")
    return "nothing proved, ONNX answered"


def _bad_input(runner: Runner) -> str:
    spec = runner.inputs[0]
    shape = sizes(spec)
    good = {one.name: np.zeros(sizes(one), one.dtype) for one in runner.inputs}
    bad = {
        "a wrong shape": np.zeros((*shape, 2), spec.dtype),
        "a wrong dtype": np.zeros(shape, "S1"),
    }
    if np.dtype(spec.dtype).kind == "f":
        bad["NaN"] = np.full(shape, np.nan, spec.dtype)
    for what, array in bad.items():
        try:
            runner.infer("auto", {**good, spec.name: array})
        except InputError:
            continue
        raise _Failed(f"an input with {what} was answered")
    return f"{', '.join(bad)}: refused"


def _error(runner: Runner, examples: list[Array]) -> str:
    if runner.sliced is None or len(runner.inputs) != 1:
        raise _Skipped("needs a sliced model with one input")
    if all(runner.prover.circuit_bytes(part) is None for part in runner.sliced.slices):
        raise _Skipped("no slice has a circuit")
    found = over_many(runner, examples)
    answered = found.inputs - found.refused
    if not answered:
        raise _Failed(f"a circuit refuses its input, or fails, on all {found.inputs} inputs")
    detail = (
        f"at most {found.worst:.2g} of the largest logit, same class on {found.same_class} of "
        f"{answered} inputs"
    )
    if found.refused:
        detail += f"; on {found.refused} more a circuit refuses its input, or fails"
    if found.worst > WORST_ERROR or found.same_class < answered:
        raise _Failed(detail)
    return detail


def _accuracy(runner: Runner, examples: list[Array], labels: list[int] | None) -> str:
    if labels is None:
        raise _Skipped("there is no examples.npz with labels")
    hits = sum(
        runner.infer("onnx_only", row).predicted_class == label
        for row, label in zip(examples, labels, strict=True)
    )
    low, high = wilson_interval(hits, len(labels))
    return (
        f"{hits / len(labels):.2%} of {len(labels)} held-out examples, 95% interval "
        f"{low:.2%} to {high:.2%}"
    )

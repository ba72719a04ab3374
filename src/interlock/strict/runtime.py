"""Serve strict bundles: load one, run it, compare it with the model it was exported from."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy.typing as npt

from interlock.bundle import DEFAULT_LIMITS, Bundle, BundleLimits, load
from interlock.kernel.errors import BundleContractError, InputError
from interlock.strict.compare import Agreement, compare_answers
from interlock.strict.config import InferenceConfig
from interlock.strict.decode import StrictResult
from interlock.strict.tensors import to_numpy

Array = npt.NDArray[Any]


class StrictRuntime:
    """A strict bundle in an ONNX session. Made by `load_onnx_runtime_bundle`; safe to share.

    bundle    what runs, with digest and metadata
    session   the session over the bundle's verified bytes
    config    the thresholds, from the bundle's metadata
    """

    def __init__(self, bundle: Bundle, session: Any) -> None:
        self.bundle = bundle
        self.session = session
        self.config = strict_config(bundle)
        self._names = tuple(spec.name for spec in bundle.metadata.inputs)

    def run(self, *inputs: Any) -> StrictResult:
        """Decoded values and masks as NumPy arrays, for any number of rows.

        inputs  one array or torch tensor for each input of the model in order, or one mapping
                from the inputs' names to them

        Raises InputError for inputs that are missing, unknown, or of the wrong dtype or shape.
        """
        decoded, bottom, gap = self.session.run(self._named(inputs))
        return StrictResult(decoded, bottom, gap)

    def _named(self, inputs: tuple[Any, ...]) -> dict[str, Array]:
        if len(inputs) == 1 and isinstance(inputs[0], Mapping):
            return {name: to_numpy(f"input {name!r}", value) for name, value in inputs[0].items()}
        if len(inputs) != len(self._names):
            raise InputError(
                f"{len(inputs)} inputs are given; the model has {', '.join(self._names)}"
            )
        return {
            name: to_numpy(f"input {name!r}", value)
            for name, value in zip(self._names, inputs, strict=True)
        }


def validate_bundle(
    directory: str | os.PathLike[str],
    *,
    expected_digest: str | None = None,
    require_signature: Path | None = None,
    probe: bool = True,
    limits: BundleLimits = DEFAULT_LIMITS,
) -> Bundle:
    """Check a strict bundle as loading would, without a session, and return it.

    The options and errors are those of `interlock.bundle.load`; a bundle without strict decode is
    a BundleContractError as well.
    """
    bundle = load(
        directory,
        expected_digest=expected_digest,
        require_signature=require_signature,
        probe=probe,
        limits=limits,
    )
    strict_config(bundle)
    return bundle


def load_onnx_runtime_bundle(
    directory: str | os.PathLike[str],
    providers: Sequence[str] = ("CPUExecutionProvider",),
    *,
    expected_digest: str | None = None,
    require_signature: Path | None = None,
    probe: bool = True,
    limits: BundleLimits = DEFAULT_LIMITS,
) -> StrictRuntime:
    """Check the bundle in `directory` and put the checked bytes into a session.

    providers  execution providers by ONNX Runtime's names, in order of preference

    The other options and the errors are those of `validate_bundle`; besides,
    EngineUnavailableError where a provider is not available here.
    """
    bundle = validate_bundle(
        directory,
        expected_digest=expected_digest,
        require_signature=require_signature,
        probe=probe,
        limits=limits,
    )
    return StrictRuntime(bundle, _Session(bundle, providers))


def run_bundle_reference_smoke_test(
    directory: str | os.PathLike[str],
    wrapped: Any,
    inputs: Sequence[Any],
    *,
    expected_digest: str | None = None,
) -> Agreement:
    """Compare a bundle's answers to `inputs` with those of the model it came from.

    wrapped  the SCMInferenceWrapper, run in eval mode whatever mode it is in
    inputs   a tuple with one array or tensor for each input of the model

    Masks must be equal and accepted values differ by no more than rounding explains, as defined
    in `interlock.strict.compare`. Raises BundleContractError where they are not, or where the
    thresholds differ, and what `load_onnx_runtime_bundle` and the model raise.
    """
    from interlock.strict.export_torch import projective_arrays

    runtime = load_onnx_runtime_bundle(directory, expected_digest=expected_digest)
    if wrapped.config != runtime.config:
        raise BundleContractError(
            f"the bundle has {runtime.config}; the wrapped model has {wrapped.config}"
        )
    arrays = tuple(to_numpy(f"inputs[{index}]", value) for index, value in enumerate(inputs))
    found = runtime.run(*arrays)
    p, q = projective_arrays(wrapped, arrays)
    return compare_answers(found, p, q, runtime.config, what="the bundle")


def strict_config(bundle: Bundle) -> InferenceConfig:
    """The thresholds of a strict bundle; BundleContractError for a bundle that is not strict."""
    strict = bundle.metadata.strict
    if strict is None:
        raise BundleContractError(
            f"the bundle {bundle.metadata.name!r} holds a model without strict decode",
            hint="export it with interlock.strict.export_bundle",
        )
    return InferenceConfig(tau_infer=strict.tau_infer, tau_train=strict.tau_train)


class _Session:
    def __init__(self, bundle: Bundle, providers: Sequence[str]) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._inner = onnxruntime.InferenceSession(bundle.model, options, providers=list(providers))

    def run(self, inputs: Mapping[str, Array]) -> list[Array]:
        answers: list[Array] = self._inner.run(None, dict(inputs))
        return answers

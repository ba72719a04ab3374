"""Serve strict bundles: load one, run it, compare it with the model it was exported from."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from interlock.bundle import DEFAULT_LIMITS, Bundle, BundleLimits, load
from interlock.bundle.metadata import OUTPUT_ORDER
from interlock.engines.onnx import OnnxSession, SessionConfig
from interlock.kernel.batch import Array, rows_of
from interlock.kernel.clock import NO_DEADLINE, Deadline
from interlock.kernel.errors import BundleContractError, ConfigError, InputError
from interlock.strict.certified import certificate_of
from interlock.strict.compare import Agreement, compare_answers
from interlock.strict.config import InferenceConfig
from interlock.strict.decode import StrictResult
from interlock.strict.tensors import to_numpy


class StrictRuntime:
    """A strict bundle in an ONNX session. Made by `load_onnx_runtime_bundle`; safe to share.

    bundle       what runs, with digest and metadata
    session      the session over the bundle's verified bytes
    config       the thresholds, from the bundle's metadata
    certificate  the calibration that tau_infer comes from; None where the bundle has none
    """

    def __init__(self, bundle: Bundle, session: OnnxSession) -> None:
        self.bundle = bundle
        self.session = session
        self.config = strict_config(bundle)
        self.certificate = certificate_of(bundle)
        self._names = tuple(spec.name for spec in bundle.metadata.inputs)

    def run(self, *inputs: Any, deadline: Deadline = NO_DEADLINE) -> StrictResult:
        """Decoded values and masks as NumPy arrays, for any number of rows.

        inputs    one array or torch tensor for each input of the model in order, or one mapping
                  from the inputs' names to them; all with the same number of rows
        deadline  looked at between two nodes of the graph

        Raises InputError for inputs that are missing, unknown, or of the wrong dtype or shape,
        and what `OnnxSession.run` raises.
        """
        found = self.session.run(self._named(inputs), outputs=OUTPUT_ORDER, deadline=deadline)
        return StrictResult(*(found[name] for name in OUTPUT_ORDER))

    def _named(self, inputs: tuple[Any, ...]) -> dict[str, Array]:
        given: Iterable[tuple[Any, Any]]
        if len(inputs) == 1 and isinstance(inputs[0], Mapping):
            given = inputs[0].items()
        elif len(inputs) == len(self._names):
            given = zip(self._names, inputs, strict=True)
        else:
            raise InputError(
                f"{len(inputs)} inputs are given; the model takes {', '.join(self._names)}"
            )
        arrays = {name: to_numpy(f"input {name!r}", value) for name, value in given}
        if len(arrays) > 1:
            # The graph might broadcast a single row over the others.
            rows_of(arrays)
        return arrays


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
    a BundleContractError as well, and so is a calibration certificate for another threshold; one
    that is malformed or contradicts itself is a BundleFormatError.
    """
    bundle = load(
        directory,
        expected_digest=expected_digest,
        require_signature=require_signature,
        probe=probe,
        limits=limits,
    )
    strict_config(bundle)
    certificate_of(bundle)
    return bundle


def load_onnx_runtime_bundle(
    directory: str | os.PathLike[str],
    providers: Sequence[str] | None = None,
    *,
    expected_digest: str | None = None,
    require_signature: Path | None = None,
    session: SessionConfig | None = None,
    probe: bool = True,
    limits: BundleLimits = DEFAULT_LIMITS,
) -> StrictRuntime:
    """Check the bundle in `directory` and put the checked bytes into a session.

    providers  execution providers by ONNX Runtime's names, in order of preference; by default
               those of `session`, and the CPU's where that is not given either
    session    threads and the like; by default one thread

    The other options and the errors are those of `validate_bundle`; besides,
    EngineUnavailableError where a provider is not available here.
    """
    config = session if session is not None else SessionConfig()
    if providers is not None:
        if isinstance(providers, str):
            raise ConfigError(f"providers is {providers!r}; it must be a list of names")
        config = dataclasses.replace(config, providers=tuple(providers))
    bundle = validate_bundle(
        directory,
        expected_digest=expected_digest,
        require_signature=require_signature,
        probe=probe,
        limits=limits,
    )
    return StrictRuntime(bundle, OnnxSession(bundle.model, config))


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
    # A wrapper exists only where its module, and so torch, is imported already.
    module = sys.modules.get("interlock.strict.wrapper")
    if module is None or not isinstance(wrapped, module.SCMInferenceWrapper):
        raise InputError(
            f"wrapped is a {type(wrapped).__name__}; it must be an SCMInferenceWrapper"
        )
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

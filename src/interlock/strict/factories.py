"""What route files may name: the engine `strict.bundle`, the guard `strict.masks`, and the arm's.

Each function is a factory of `interlock.kernel.registry`: options, and the directory against which
relative paths among them resolve. A wrong or unknown option is a ConfigError.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from interlock.kernel.errors import ConfigError

if TYPE_CHECKING:
    from interlock.kernel.route import Route
    from interlock.strict.arm.route import AnalyticEngine, JacobianGuard
    from interlock.strict.engine import StrictEngine
    from interlock.strict.guards import MaskGuard

Options = TypeVar("Options", bound=msgspec.Struct)


class BundleOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Options of `strict.bundle`: those of `load_onnx_runtime_bundle`, paths as text."""

    bundle: str
    expected_digest: str | None = None
    require_signature: str | None = None
    providers: tuple[str, ...] = ("CPUExecutionProvider",)
    threads: int = 1


class MaskOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Options of `strict.masks`: the names of the answer's mask fields."""

    bottom: str = "bottom_mask"
    gap: str = "gap_mask"


class NoOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Takes no options."""


def strict_bundle(options: Mapping[str, Any], *, base: Path) -> StrictEngine:
    """Engine `strict.bundle`; raises what loading the bundle raises."""
    from interlock.engines.onnx import SessionConfig
    from interlock.strict.engine import StrictEngine
    from interlock.strict.runtime import load_onnx_runtime_bundle

    chosen = _options(options, BundleOptions)
    key = chosen.require_signature
    return StrictEngine(
        load_onnx_runtime_bundle(
            base / chosen.bundle,
            chosen.providers,
            expected_digest=chosen.expected_digest,
            require_signature=None if key is None else base / key,
            session=SessionConfig(intra_op_threads=chosen.threads),
        )
    )


def strict_masks(options: Mapping[str, Any], *, base: Path) -> MaskGuard:
    """Guard `strict.masks`."""
    from interlock.strict.guards import MaskGuard

    chosen = _options(options, MaskOptions)
    return MaskGuard(bottom=chosen.bottom, gap=chosen.gap)


def arm_analytic(options: Mapping[str, Any], *, base: Path) -> AnalyticEngine:
    """Engine `arm.analytic`: the damped solver of the arm that ships."""
    from interlock.strict.arm.route import AnalyticEngine

    _options(options, NoOptions)
    return AnalyticEngine()


def arm_jacobian(options: Mapping[str, Any], *, base: Path) -> JacobianGuard:
    """Guard `arm.jacobian`: the re-check of joint rates by the arm's true Jacobian."""
    from interlock.strict.arm.route import JacobianGuard

    _options(options, NoOptions)
    return JacobianGuard()


def arm(options: Mapping[str, Any], *, base: Path) -> Route[Any, Any]:
    """Route `arm`: the arm's model that ships, the damped solver, then refusal."""
    from interlock.strict.arm.shipped import open_arm

    _options(options, NoOptions)
    return open_arm()[1]


def _options(options: Mapping[str, Any], kind: type[Options]) -> Options:
    try:
        return msgspec.convert(dict(options), kind)
    except msgspec.ValidationError as error:
        raise ConfigError(str(error)) from None

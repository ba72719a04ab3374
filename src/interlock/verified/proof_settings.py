"""The settings of a circuit in a bundle: what they may say."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import msgspec

from interlock.bundle.strict_json import decode_json
from interlock.kernel.errors import BundleFormatError
from interlock.verified.proof_manifest import Circuit

_DECODER: msgspec.json.Decoder[dict[str, Any]] = msgspec.json.Decoder(dict[str, Any])
_MAX_BYTES = 4 << 20
_MAX_AXES, _MAX_LENGTH = 64, 1 << 28


def problem_of_settings(data: bytes, layout: Mapping[str, int], circuit: Circuit) -> str | None:
    """Why a circuit's settings are not those of its layout, all public; None where they are.

    ezkl builds the constraints that it verifies against from this file, so a value here may weaken
    a proof.
    """
    if len(data) > _MAX_BYTES:
        return f"it has {len(data)} bytes; the limit is {_MAX_BYTES}"
    try:
        settings = decode_json(data, _DECODER, circuit.settings)
    except BundleFormatError as error:
        return error.message
    arguments = settings.get("run_args")
    if not isinstance(arguments, dict):
        return "it has no run_args"
    scale = layout["scale"]
    expected = {
        "input_scale": scale,
        "param_scale": scale,
        "rebase_scale": None,
        "scale_rebase_multiplier": 1,
        "decomp_base": layout["decomposition_base"],
        "decomp_legs": layout["decomposition_legs"],
        "num_inner_cols": layout["inner_columns"],
        "logrows": circuit.logrows,
        "input_visibility": "Public",
        "output_visibility": "Public",
        "param_visibility": "Fixed",
        "ignore_range_check_inputs_outputs": True,
    }
    for name, value in expected.items():
        if arguments.get(name, None) != value:
            return f"run_args.{name} is {str(arguments.get(name))[:40]!r}; it must be {value!r}"
    for name in ("model_input_scales", "model_output_scales"):
        scales = settings.get(name)
        if not isinstance(scales, list) or set(map(str, scales)) != {str(scale)}:
            return f"{name} is not the layout's scale"
    if settings.get("required_lookups") != []:
        return "it has lookup tables"
    shapes = settings.get("model_instance_shapes")
    if not isinstance(shapes, list) or not all(map(_is_shape, shapes)):
        return "model_instance_shapes are not shapes"
    return None


def instance_sizes(data: bytes) -> list[int]:
    """How many values each input, then each output, of a circuit has; `data` are its settings.

    `problem_of_settings` must have found nothing wrong with them.
    """
    settings = msgspec.json.decode(data, type=dict[str, Any])
    return [math.prod(shape) for shape in settings["model_instance_shapes"]]


def _is_shape(shape: Any) -> bool:
    return (
        isinstance(shape, list)
        and len(shape) <= _MAX_AXES
        and all(type(dim) is int and 0 <= dim <= _MAX_LENGTH for dim in shape)
    )

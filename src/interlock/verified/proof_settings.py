"""The settings of a circuit in a bundle: what they may say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from interlock.bundle.strict_json import decode_json
from interlock.kernel.errors import BundleFormatError
from interlock.verified.proof_manifest import Circuit

_DECODER: msgspec.json.Decoder[dict[str, Any]] = msgspec.json.Decoder(dict[str, Any])
_MAX_BYTES = 4 << 20


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
    return None

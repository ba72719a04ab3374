"""A proof as ezkl writes it: JSON with the proof's bytes, its instances and values for people.

ezkl's own verification looks at `proof` and `instances` alone and accepts a file whose `hex_proof`
or `pretty_public_inputs` say something else. Reading here refuses such a file.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from interlock.kernel.batch import Array
from interlock.kernel.errors import MalformedProofError, ReadableValueError
from interlock.verified.field import integers_of

MAX_PROOF_BYTES = 64 << 20


class _Pretty(msgspec.Struct, forbid_unknown_fields=True):
    rescaled_inputs: list[list[str]]
    inputs: list[list[str]]
    processed_inputs: list[list[str]]
    processed_params: list[list[str]]
    processed_outputs: list[list[str]]
    rescaled_outputs: list[list[str]]
    outputs: list[list[str]]


class _Json(msgspec.Struct, forbid_unknown_fields=True):
    protocol: Any
    instances: list[list[str]]
    proof: list[int]
    hex_proof: str
    split: Any
    pretty_public_inputs: _Pretty
    timestamp: int | None
    version: str


@dataclass(frozen=True)
class ProofFile:
    """A proof's instances as integers (n,) and the file's other parts.

    pretty  values for people as (hexadecimal, decimal) pairs, inputs before outputs
    columns how many of them each input, and each output, is said to have
    """

    instances: Array
    elements: list[str]
    pretty: list[tuple[str, str]]
    columns: tuple[list[int], list[int]]

    def check_readable(self, scale: int, inputs: list[int], outputs: list[int]) -> None:
        """Raise ReadableValueError where a value for people is not that of its field element.

        inputs, outputs  elements of each, so that none is passed off as another
        """
        if len(self.pretty) != len(self.elements):
            raise ReadableValueError(
                f"{len(self.pretty)} readable values stand beside {len(self.elements)} instances"
            )
        if self.columns != (inputs, outputs):
            raise ReadableValueError("the readable values are not split as inputs and outputs are")
        unit = float(1 << scale)
        integers: list[int] = self.instances.tolist()
        for place, (element, integer, (shown, decimal)) in enumerate(
            zip(self.elements, integers, self.pretty, strict=True)
        ):
            # ezkl writes the hexadecimal form high byte first.
            expected = "0x" + bytes.fromhex(element)[::-1].hex()
            if shown != expected:
                raise ReadableValueError(f"readable value {place} is not the instance beside it")
            try:
                value = float(decimal)
            except ValueError:
                value = float("nan")
            if value != integer / unit:
                raise ReadableValueError(
                    f"readable value {place} says {decimal[:30]!r}, the instance is "
                    f"{integer / unit!r}"
                )


_DECODER = msgspec.json.Decoder(_Json)


def read_proof(data: bytes) -> ProofFile:
    """The proof in `data`; raises MalformedProofError for anything else."""
    if len(data) > MAX_PROOF_BYTES:
        raise MalformedProofError(f"a proof has {len(data)} bytes; the limit is {MAX_PROOF_BYTES}")
    try:
        parsed = _DECODER.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedProofError(f"not a proof of ezkl's: {str(error)[:120]}") from None
    try:
        told = bytes.fromhex(parsed.hex_proof.removeprefix("0x"))
        proof = np.array(parsed.proof, dtype=np.uint8).tobytes()
    except (ValueError, OverflowError):
        raise MalformedProofError("the proof is no list of bytes") from None
    if told != proof:
        raise MalformedProofError("the proof's hexadecimal form is not the proof")
    if len(parsed.instances) != 1:
        raise MalformedProofError(f"the proof has {len(parsed.instances)} columns of instances")
    pretty = parsed.pretty_public_inputs
    if any((pretty.processed_inputs, pretty.processed_params, pretty.processed_outputs)):
        raise MalformedProofError("the proof hides values behind hashes or commitments")
    shown = [*pretty.inputs, *pretty.outputs]
    decimal = [*pretty.rescaled_inputs, *pretty.rescaled_outputs]
    if [len(column) for column in shown] != [len(column) for column in decimal]:
        raise ReadableValueError("the readable values contradict each other in number")
    elements = parsed.instances[0]
    return ProofFile(
        integers_of(elements),
        elements,
        [
            pair
            for left, right in zip(shown, decimal, strict=True)
            for pair in zip(left, right, strict=True)
        ],
        ([len(column) for column in pretty.inputs], [len(column) for column in pretty.outputs]),
    )

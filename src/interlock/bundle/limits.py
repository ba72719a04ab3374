"""How large a bundle and its graph may be, and how long its probe may take."""

from __future__ import annotations

from dataclasses import dataclass

PROTOBUF_LIMIT = 2**31 - 1
"""The largest message, in bytes, that protobuf can carry, and so the largest model in a bundle."""

DEFAULT_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft"})


@dataclass(frozen=True)
class BundleLimits:
    """Limits that loading enforces before it allocates or runs anything.

    max_files              files that the manifest may list
    max_file_bytes         size of any one file
    max_total_bytes        size of all files together
    max_json_bytes         size of `metadata.json`; the manifest and the signature may have 4 MB
    max_structure_bytes    bytes of the model beside its tensors' data; a parsed message can
                           take about 100 times its encoded size in memory
    max_nodes              nodes of the graph, its subgraphs and the functions that it calls
    max_elements           elements of any one tensor or declared shape
    domains                operator domains that the graph may use
    beside                 whether a model that is too large for one piece with its external tensors
                           is taken with them beside it (`Bundle.tensors`), instead of refused
    probe_seconds          time for the whole probe
    probe_memory_bytes     memory for the process that probes
    """

    max_files: int = 64
    max_file_bytes: int = PROTOBUF_LIMIT
    max_total_bytes: int = 2 * PROTOBUF_LIMIT
    max_json_bytes: int = 64 << 20
    max_structure_bytes: int = 16 << 20
    max_nodes: int = 200_000
    max_elements: int = 2**31 - 1
    domains: frozenset[str] = DEFAULT_DOMAINS
    beside: bool = False
    probe_seconds: float = 60.0
    probe_memory_bytes: int = 4 << 30


DEFAULT_LIMITS = BundleLimits()

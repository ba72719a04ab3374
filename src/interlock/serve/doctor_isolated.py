"""Run by the doctor as a process of its own: a model in a network namespace that has no network.

A request on standard input, the findings on standard output, both JSON. Linux only; elsewhere, and
where namespaces are not allowed, it says so.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from pathlib import Path
from typing import Any

_NEW_USER, _NEW_NET = 0x10000000, 0x40000000
_CALLS = 20
# Counters of the namespace, which start at 0: packets that were to leave, and that had no way.
_COUNTERS = {"Ip": ("OutRequests", "OutNoRoutes"), "Tcp": ("ActiveOpens",)}


def isolate() -> str | None:
    """Leave the network; the reason where that is not possible."""
    if sys.platform != "linux":
        return "only Linux has network namespaces"
    libc = ctypes.CDLL(None, use_errno=True)
    for flags in (_NEW_NET, _NEW_USER | _NEW_NET):
        if libc.unshare(flags) == 0:
            return None
    return os.strerror(ctypes.get_errno())


def attempts() -> int:
    """How often this namespace's processes tried to send anything to a network."""
    found = 0
    lines = Path("/proc/self/net/snmp").read_text().splitlines()
    for names, values in zip(lines[::2], lines[1::2], strict=True):
        protocol, *fields = names.replace(":", "").split()
        counted = dict(zip(fields, values.split()[1:], strict=True))
        found += sum(int(counted.get(name, 0)) for name in _COUNTERS.get(protocol, ()))
    ipv6 = Path("/proc/self/net/snmp6")
    if ipv6.exists():
        counted = dict(line.split() for line in ipv6.read_text().splitlines())
        found += int(counted.get("Ip6OutNoRoutes", 0))
    return found


def run(asked: dict[str, Any]) -> dict[str, Any]:
    """Load the model and ask it."""
    from interlock.kernel.clock import Deadline
    from interlock.kernel.errors import InterlockError
    from interlock.serve.opening import open_model
    from interlock.serve.settings import ModelSettings

    before = attempts()
    own = ModelSettings(**asked["settings"])
    error = ""
    served = None
    try:
        served = open_model(asked["name"], own, Path(asked["base"]))
        served.start(Deadline.after(asked["start_seconds"]))
        for _ in range(_CALLS):
            served.canary(deadline=Deadline.after(own.call_seconds))
    except InterlockError as raised:
        error = f"{raised.code}: {raised.message}"
    finally:
        if served is not None:
            served.close()
    return {"isolated": True, "error": error, "attempts": attempts() - before, "calls": _CALLS}


def main() -> None:
    """Answer the one request."""
    refused = isolate()
    found = {"isolated": refused} if refused else run(json.load(sys.stdin))
    print(json.dumps(found))


if __name__ == "__main__":
    main()

"""`make soak-serve`: long load at 80% of the server's capacity, then at 300% of it.

    python bench/serve_soak.py [--seconds 600] [--overload-seconds 60] [--queue 64] [--standing 1]
        [--model encoder]

Capacity is what eight clients that ask one after the other get through. It is measured before each
minute of load: a machine that others share is not as fast at the end of ten minutes as at their
beginning, and 80% of what it did once may be more than it does later. The bars: no error and at
most 20 MB of growth at 80%; at 300% the server lives, what it accepts keeps a P99 of at most twice
that at 80%, and the rest is a clean 429 or 503. Latencies count from the moment that a request was
due, so a server that stalls is not spared.
"""

from __future__ import annotations

import measure  # first: it pins the threads of the numeric libraries

# isort: split
import argparse
import json
import statistics
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import serve
import serve_load
import serve_models

GROWTH_MB = 20.0
_CLIENTS = 8
_CONNECTIONS = 64
_PART = 60.0
_MEGABYTE = 1 << 20
_PAGE_KB = 4


def main() -> None:
    """Print the machine, the figures, and whether each bar is kept."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0, help="at 80% of capacity")
    parser.add_argument("--overload-seconds", type=float, default=60.0)
    # Few may wait for long: a queue only sells latency for the sight of fewer refusals.
    parser.add_argument("--queue", type=int, default=64, help="requests that may wait in a burst")
    parser.add_argument("--standing", type=int, default=1, help="requests that may wait for long")
    parser.add_argument("--model", choices=("encoder", "detector"), default="encoder")
    options = parser.parse_args()
    print(measure.machine(("onnxruntime", "uvicorn", "starlette")))
    with tempfile.TemporaryDirectory() as directory:
        config, ask = prepare(options.model, Path(directory), options.queue, options.standing)
        port = serve.free_port()
        command = [sys.executable, "-m", "interlock", "serve", str(config), "--port", str(port)]
        with serve.serving(command, port, ask) as root:
            lines = run(port, ask, root, options.seconds, options.overload_seconds)
    print("\nbars")
    for line in lines:
        print(f"  {line}")


def prepare(model: str, place: Path, queue: int, standing: int) -> tuple[Path, serve_load.Ask]:
    """The server's configuration, and what clients ask."""
    settings: dict[str, Any] = {"workers": 2, "queue": queue, "standing_queue": standing}
    if model == "detector":
        settings["path"] = "detector:shipped"
        text = "Please send me the figures of the last quarter by Monday."
        ask = "/v1/scan", json.dumps({"text": text}).encode()
    else:
        serve_models.encoder(place / "encoder.onnx")
        settings["path"] = "encoder.onnx"
        tokens = serve_models.TOKENS
        inputs = [
            {"name": name, "shape": [1, tokens], "datatype": "INT64", "data": [1] * tokens}
            for name in ("input_ids", "attention_mask")
        ]
        ask = f"/v2/models/{model}/infer", json.dumps({"inputs": inputs}).encode()
    config = place / "serve.json"
    document = {"production": {"port": 0, "log": "none", "models": {model: settings}}}
    config.write_text(json.dumps(document))
    return config, ask


def run(
    port: int, ask: serve_load.Ask, root: int, seconds: float, overload_seconds: float
) -> list[str]:
    """Measure the capacity, load the server twice, and say which bars are kept."""
    parts = max(1, round(seconds / _PART))
    measured = min(5.0, max(1.0, seconds / 20))
    serve_load.closed(port, ask, clients=_CLIENTS, seconds=measured)

    def capacity() -> float:
        return serve_load.closed(port, ask, clients=_CLIENTS, seconds=measured).rate

    sizes: list[float] = []
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(min(1.0, seconds / 40)):
            sizes.append(resident_mb(root))

    watcher = threading.Thread(target=watch)
    watcher.start()
    steady = serve_load.Load()
    capacities = []
    for _ in range(parts):
        capacities.append(capacity())
        part = serve_load.paced(
            port,
            ask,
            rate=0.8 * capacities[-1],
            seconds=seconds / parts,
            connections=_CONNECTIONS,
        )
        steady.seconds += part.seconds
        steady.latencies += part.latencies
        steady.statuses += part.statuses
        refused = failed(part)
        print(f"  capacity {capacities[-1]:.0f}/s, refused {refused}", file=sys.stderr)
    stop.set()
    watcher.join()
    print(
        f"\ncapacity: {min(capacities):.0f} to {max(capacities):.0f} requests/s with "
        f"{_CLIENTS} clients, {parts} times"
    )
    show("at 80%", steady)
    # What loading and the first requests take is no growth; medians, since a moment says little.
    kept = sizes[len(sizes) // 10 :]
    tenth = max(1, len(kept) // 10)
    growth = statistics.median(kept[-tenth:]) - statistics.median(kept[:tenth])
    print(f"  memory {kept[0]:.0f} MB at the start, {growth:+.1f} MB over {seconds:.0f} s")

    over = serve_load.paced(
        port, ask, rate=3.0 * capacity(), seconds=overload_seconds, connections=_CONNECTIONS
    )
    show("at 300%", over)
    answered = serve_load.closed(port, ask, clients=1, seconds=1.0)
    ratio = over.quantile(0.99) / steady.quantile(0.99)
    return [
        measure.bar("errors at 80%", failed(steady), 0),
        measure.bar("MB gained at 80%", growth, GROWTH_MB),
        measure.bar("P99 of accepted requests at 300%, against 80%", ratio, 2.0),
        measure.bar("unclean answers at 300%", failed(over, clean=(200, 429, 503)), 0),
        measure.bar("errors after it", failed(answered), 0),
    ]


def failed(load: serve_load.Load, clean: tuple[int, ...] = (200,)) -> int:
    """Requests that ended otherwise."""
    return sum(number for status, number in load.statuses.items() if status not in clean)


def show(what: str, load: serve_load.Load) -> None:
    """Print what came of a load."""
    print(
        f"{what}: {sum(load.statuses.values())} requests in {load.seconds:.0f} s, "
        f"{dict(sorted(load.statuses.items()))}, of those accepted P50 "
        f"{measure.duration(load.median)}, P99 {measure.duration(load.quantile(0.99))}"
    )


def resident_mb(root: int) -> float:
    """Resident memory of a process and all below it."""
    total = 0
    for pid in serve.processes_below(root):
        with suppress(OSError, IndexError, ValueError):
            total += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_KB * 1024
    return total / _MEGABYTE


if __name__ == "__main__":
    began = time.monotonic()
    main()
    print(f"\nin {time.monotonic() - began:.0f} s")

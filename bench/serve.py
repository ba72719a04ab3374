"""`make bench-serve`: requests a second and latencies against LitServe, FastAPI and Ray Serve.

One run, interleaved: in each round every server is started, warmed, loaded by 8 clients and ended.
Ratios are of one round; the median of the rounds is told.
"""

from __future__ import annotations

import measure  # first: it pins the threads of the numeric libraries

# isort: split
import argparse
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import serve_load
import serve_models

_ROOT = Path(__file__).resolve().parent.parent
_PEERS = Path(__file__).with_name("serve_peers.py")
CLIENTS = 8

OURS = "interlock"
CASES = {
    "detector": (OURS, "litserve", "litserve-two", "fastapi"),
    "encoder": (OURS, "litserve", "litserve-two", "litserve-batch", "fastapi"),
    "strict": (OURS, "litserve", "litserve-two", "fastapi", "ray"),
}
"""litserve is as its documentation starts it, with one worker; litserve-two has as many as we."""

BARS = {
    ("detector", "litserve"): 1.8,
    ("detector", "fastapi"): 1.1,
    ("strict", "litserve"): 1.0,
    ("strict", "ray"): 1.0,
}


def main() -> None:
    """Print the machine, every figure, and whether each bar is kept."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers", required=True, help="Python of the peers' environment")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0, help="of load on each server")
    parser.add_argument("--models", default="detector,encoder,strict")
    parser.add_argument("--detector", type=Path, help="a detector's bundle; the shipped one else")
    options = parser.parse_args()
    print(measure.machine(("onnxruntime", "uvicorn", "starlette")))
    bars: list[str] = []
    with tempfile.TemporaryDirectory() as directory:
        for kind in options.models.split(","):
            path, config, body = _prepare(kind, Path(directory), options.detector)
            rounds = _rounds(kind, path, config, body, options)
            bars += _report(kind, rounds)
            _overhead(kind, path, config, body)
    print("\nbars")
    for line in bars:
        print(f"  {line}")


def _prepare(
    kind: str, directory: Path, detector: Path | None = None
) -> tuple[Path, Path, dict[str, Any]]:
    """The model's file, the server's configuration, and what a client asks for, by name."""
    from interlock.bundle import load
    from interlock.strict.arm.shipped import SHIPPED

    path = directory / f"{kind}.onnx"
    settings: dict[str, Any] = {"path": str(path), "workers": 2, "batch_rows": 8}
    if kind == "detector":
        from interlock.detect.model import SHIPPED as SHIPPED_DETECTOR

        path = (detector or SHIPPED_DETECTOR).resolve()
        settings["path"] = str(path)
        asked: dict[str, Any] = {
            "text": "Please send me the figures of the last quarter by Monday, as a table."
        }
    elif kind == "encoder":
        serve_models.encoder(path)
        ids = np.random.default_rng(1).integers(0, serve_models.VOCABULARY, serve_models.TOKENS)
        asked = {
            "input_ids": [ids.tolist()],
            "attention_mask": [[1] * serve_models.TOKENS],
        }
    else:
        bundle = SHIPPED
        path.write_bytes(load(bundle).model)
        settings["path"] = str(bundle)
        asked = {"x": [[0.3, 0.9, 0.1, 0.1]]}
    config = directory / f"{kind}.json"
    document = {"production": {"port": 0, "log": "none", "models": {kind: settings}}}
    config.write_text(json.dumps(document))
    return path, config, asked


def _ask(kind: str, peer: str, asked: dict[str, Any]) -> serve_load.Ask:
    if peer != OURS:
        return "/predict", json.dumps(asked).encode()
    if kind == "detector":
        return "/v1/scan", json.dumps(asked).encode()
    datatype = "INT64" if kind == "encoder" else "FP32"
    inputs = [
        {"name": n, "shape": [1, len(rows[0])], "datatype": datatype, "data": rows[0]}
        for n, rows in asked.items()
    ]
    return f"/v2/models/{kind}/infer", json.dumps({"inputs": inputs}).encode()


@contextmanager
def serving(command: list[str], port: int, ask: serve_load.Ask) -> Iterator[int]:
    """The process id of the server that `command` starts, from its first answer on; then ended."""
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        _wait(process, port, ask)
        yield process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(20)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def processes_below(root: int) -> dict[int, list[str]]:
    """Process id -> the fields of its state behind the name, of a process and all below it."""
    states: dict[int, list[str]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            states[int(stat.parent.name)] = stat.read_text().rpartition(")")[2].split()
    found = {root}
    while more := {pid for pid, state in states.items() if int(state[1]) in found} - found:
        found |= more
    return {pid: states[pid] for pid in found if pid in states}


def cpu_seconds(root: int) -> float:
    """CPU time of a process and all below it that run."""
    states = processes_below(root).values()
    return sum(int(state[11]) + int(state[12]) for state in states) / os.sysconf("SC_CLK_TCK")


def _wait(process: subprocess.Popen[bytes], port: int, ask: serve_load.Ask) -> None:
    until = time.monotonic() + 300  # Ray takes a minute on a busy machine
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{ask[0]}", ask[1], {"content-type": "application/json"}
    )
    while time.monotonic() < until:
        if process.poll() is not None:
            raise SystemExit(f"{process.args!r} ended with {process.returncode}")
        try:
            urllib.request.urlopen(request, timeout=30).read()
        except (OSError, urllib.error.URLError):
            time.sleep(0.2)
        else:
            return
    raise SystemExit(f"{process.args!r} does not answer")


def command_of(kind: str, peer: str, path: Path, config: Path, port: int, python: str) -> list[str]:
    """What starts `peer`."""
    if peer == OURS:
        return [sys.executable, "-m", "interlock", "serve", str(config), "--port", str(port)]
    return [python, str(_PEERS), peer, kind, str(path), str(port)]


def free_port() -> int:
    """A port of the loopback that nothing listens on at the moment."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def _rounds(
    kind: str, path: Path, config: Path, asked: dict[str, Any], options: argparse.Namespace
) -> dict[str, list[serve_load.Load]]:
    cases = CASES[kind]
    found: dict[str, list[serve_load.Load]] = {peer: [] for peer in cases}
    for turn in range(options.rounds):
        start = turn % len(cases)
        for peer in cases[start:] + cases[:start]:
            port, ask = free_port(), _ask(kind, peer, asked)
            command = command_of(kind, peer, path, config, port, options.peers)
            with serving(command, port, ask) as root:
                serve_load.closed(port, ask, clients=CLIENTS, seconds=1.0)
                before = cpu_seconds(root)
                load = serve_load.closed(port, ask, clients=CLIENTS, seconds=options.seconds)
                load.cpu = (cpu_seconds(root) - before) / load.statuses[200]
            found[peer].append(load)
            print(
                f"  {kind} round {turn + 1} {peer}: {load.rate:.0f}/s, P99 "
                f"{measure.duration(load.quantile(0.99))}, CPU {measure.duration(load.cpu)} a "
                f"request, {dict(load.statuses)}",
                file=sys.stderr,
            )
    return found


def _report(kind: str, found: dict[str, list[serve_load.Load]]) -> list[str]:
    rounds = len(found[OURS])
    print(f"\n{kind}: {CLIENTS} clients, {rounds} rounds, medians")
    bars = []
    for peer, loads in found.items():
        rate = statistics.median(load.rate for load in loads)
        p50 = statistics.median(load.median for load in loads)
        p99 = statistics.median(load.quantile(0.99) for load in loads)
        cpu = statistics.median(load.cpu for load in loads)
        failed = sum(n for load in loads for status, n in load.statuses.items() if status != 200)
        print(
            f"  {peer:15s} {rate:7.0f} requests/s   P50 {measure.duration(p50)}   "
            f"P99 {measure.duration(p99)}   CPU {measure.duration(cpu)} a request   "
            f"failed {failed}"
        )
    for peer, loads in found.items():
        if peer == OURS:
            continue
        pairs = list(zip(found[OURS], loads, strict=True))
        rates = [ours.rate / theirs.rate for ours, theirs in pairs]
        tails = [ours.quantile(0.99) / theirs.quantile(0.99) for ours, theirs in pairs]
        rate, tail = statistics.median(rates), statistics.median(tails)
        cpu = statistics.median(theirs.cpu / ours.cpu for ours, theirs in pairs)
        print(
            f"  against {peer}: {rate:.2f} times the requests/s "
            f"({min(rates):.2f} to {max(rates):.2f}), {tail:.2f} times its P99 "
            f"({min(tails):.2f} to {max(tails):.2f}); it takes {cpu:.2f} times the CPU time"
        )
        limit = BARS.get((kind, peer))
        if limit is not None:
            bars.append(
                measure.bar(f"{kind}: requests/s against {peer}", rate, limit, at_least=True)
            )
            if peer.startswith("litserve"):
                bars.append(measure.bar(f"{kind}: P99 against {peer}", tail, 1.0))
    return bars


def _bare(kind: str, path: Path, asked: dict[str, Any]) -> Callable[[], object]:
    """The inference without a server: a session's run, or a detector's scan."""
    if kind == "detector":
        from interlock.detect import Detector

        detector = Detector.open(bundle=path)
        return lambda: detector.scan(asked["text"])
    from interlock.ort import onnxruntime

    ort = onnxruntime()
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(str(path), options)
    given = {
        name: np.asarray(rows, np.int64 if kind == "encoder" else np.float32)
        for name, rows in asked.items()
    }
    return lambda: session.run(None, given)


def _overhead(kind: str, path: Path, config: Path, asked: dict[str, Any]) -> None:
    """The server's share of a request at concurrency 1, beside a bare call in this process."""
    call = _bare(kind, path, asked)
    bare, served = [], []
    port, ask = free_port(), _ask(kind, OURS, asked)
    command = command_of(kind, OURS, path, config, port, "")
    with serving(command, port, ask):
        serve_load.closed(port, ask, clients=1, seconds=1.0)
        for _ in range(10):
            served += serve_load.closed(port, ask, clients=1, seconds=0.5).latencies
            for _ in range(100):
                began = time.perf_counter()
                call()
                bare.append(time.perf_counter() - began)
    alone, through = statistics.median(bare), statistics.median(served)
    print(
        f"  one client: {measure.duration(through)} a request, a bare call takes "
        f"{measure.duration(alone)}; the server adds {measure.duration(through - alone)}"
    )


if __name__ == "__main__":
    main()

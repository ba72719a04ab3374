"""Strict decode by the peer, zeroproofml 0.6.1, in its own environment and process.

Run as a program it is the peer's side: one JSON request a line on stdin, one JSON answer a line
on stdout, arrays through a .npz file. bfloat16 travels as its bits.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from interlock.strict import InferenceConfig

REQUIREMENTS = ("zeroproofml==0.6.1", "numpy>=2.0", "torch==2.13.0")

Array = npt.NDArray[Any]


class Peer:
    """The peer's process: load a pair of arrays, then decode or time it. A context manager."""

    def __init__(self, python: Path) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="interlock-peer-")
        self._file = Path(self._directory.name) / "pair.npz"
        self._process = subprocess.Popen(
            [python, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )

    def load(self, p: Array, q: Array, *, backend: str, config: InferenceConfig) -> None:
        """Hand over P and Q; `backend` is numpy, torch, or bfloat16 for torch with uint16 bits."""
        np.savez(self._file, p=p, q=q)
        self._ask(
            op="load", backend=backend, tau_infer=config.tau_infer, tau_train=config.tau_train
        )

    def seconds(self, calls: int) -> float:
        """The time of one call, over `calls` of them."""
        return float(self._ask(op="time", calls=calls))

    def decode(self) -> tuple[Array, Array, Array]:
        """Decoded, bottom and gap of the loaded pair."""
        self._ask(op="decode")
        with np.load(self._file) as found:
            return found["decoded"], found["bottom"], found["gap"]

    def __enter__(self) -> Peer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
        self._directory.cleanup()

    def _ask(self, **request: object) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request | {"file": str(self._file)}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the peer's process ended; its message stands above")
        return json.loads(line)


def _serve() -> None:
    import time

    import torch
    from zeroproofml.inference import InferenceConfig, strict_inference

    torch.set_num_threads(1)
    p: Any = None
    q: Any = None
    config: Any = None
    answer: Any
    for line in sys.stdin:
        request = json.loads(line)
        answer = None
        match request["op"]:
            case "load":
                with np.load(request["file"]) as pair:
                    p, q = pair["p"], pair["q"]
                if request["backend"] == "bfloat16":
                    p, q = (torch.from_numpy(a.view(np.int16)).view(torch.bfloat16) for a in (p, q))
                elif request["backend"] == "torch":
                    p, q = torch.from_numpy(p), torch.from_numpy(q)
                config = InferenceConfig(
                    tau_infer=request["tau_infer"], tau_train=request["tau_train"]
                )
            case "time":
                start = time.perf_counter()
                for _ in range(request["calls"]):
                    strict_inference(p, q, config=config)
                answer = (time.perf_counter() - start) / request["calls"]
            case "decode":
                decoded, bottom, gap = strict_inference(p, q, config=config)
                if isinstance(decoded, torch.Tensor):
                    if decoded.dtype == torch.bfloat16:
                        decoded = decoded.view(torch.int16)
                    decoded, bottom, gap = (t.numpy() for t in (decoded, bottom, gap))
                np.savez(request["file"], decoded=decoded, bottom=bottom, gap=gap)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    np.seterr(all="ignore")
    _serve()

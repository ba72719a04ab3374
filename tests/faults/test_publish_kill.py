"""kill -9 of a publisher at random moments: readers see the old bundle or the new one, whole."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
from support.bundles import plain_metadata, plain_model
from support.counts import count

from interlock.bundle import load, pack
from interlock.errors import BundleError

PUBLISH = """
import os, signal, sys
from pathlib import Path
import numpy as np
from support.bundles import plain_metadata, plain_model
from interlock.bundle import pack

# One process loads the libraries; each line that it reads starts a publisher by fork.
for line in sys.stdin:
    version = int(line)
    publisher = os.fork()
    if publisher == 0:
        print("ready", os.getpid(), flush=True)
        while True:
            version += 1
            model = plain_model(np.full((4, 3), version, np.float32))
            files = {"filler.bin": bytes([version % 251]) * 300_000}
            metadata = plain_metadata(model, name=str(version))
            pack(Path(sys.argv[1]), model, metadata, files, probe=False)
            # In one write: print can be killed between the number and the end of its line.
            os.write(1, f"{version}{os.linesep}".encode())
    _, status = os.waitpid(publisher, 0)
    print("killed" if os.WIFSIGNALED(status) else "ended", flush=True)
"""


def read_version(directory: Path) -> int:
    """The version in the bundle, which must be the same in all of its files."""
    bundle = load(directory, probe=False)
    version = int(bundle.metadata.name)
    assert bundle.files["filler.bin"] == bytes([version % 251]) * 300_000
    assert np.float32(version).tobytes() in bundle.model
    return version


def test_readers_see_the_old_or_the_new_bundle_whatever_happens(tmp_path: Path) -> None:
    directory = tmp_path / "bundle"
    rng = random.Random(20260101)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    seen: list[int] = []
    broken: list[BaseException] = []
    stop = threading.Event()

    def read_all_the_time() -> None:
        while not stop.is_set():
            try:
                if directory.exists():
                    seen.append(read_version(directory))
            except (BundleError, AssertionError) as error:
                broken.append(error)
                return

    reader = threading.Thread(target=read_all_the_time)
    reader.start()
    version = acknowledged = 0
    window = 0.06  # seconds; follows the machine's speed, so that kills fall inside publications
    with subprocess.Popen(
        [sys.executable, "-c", PUBLISH, str(directory)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    ) as starter:
        assert starter.stdin is not None
        assert starter.stdout is not None
        try:
            for _ in range(count(20, 200)):
                print(version, file=starter.stdin, flush=True)
                ready, pid = starter.stdout.readline().split()
                assert ready == "ready"
                time.sleep(rng.uniform(0, window))
                os.kill(int(pid), signal.SIGKILL)
                window = min(5.0, 1.5 * window)
                while (line := starter.stdout.readline()) != "killed\n":
                    assert line.strip().isdigit(), f"the publisher {line!r}: its trace is above"
                    acknowledged = int(line)
                    window = max(0.01, 0.6 * window)
                if directory.exists():
                    known = max(version, acknowledged)
                    version = read_version(directory)
                    assert version in (known, known + 1)
                assert not broken, broken
        finally:
            stop.set()
            reader.join()
    assert not broken, broken
    assert acknowledged > 0
    assert seen == sorted(seen)
    # What the killed ones left behind goes with the next publication.
    model = plain_model()
    pack(directory, model, plain_metadata(model), probe=False)
    assert [entry.name for entry in tmp_path.iterdir()] == ["bundle"]

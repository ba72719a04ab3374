"""The key-value cache: what rows hold, and that memory follows the tokens under way."""

from __future__ import annotations

import json
import mmap
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.counts import count
from support.text_models import tiny_directory, tiny_model

from interlock.engines.generate.decoder import GROWTH, Cache

ROWS, LONGEST = 4, 2 * GROWTH

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.integers(0, ROWS - 1), st.integers(1, LONGEST)),
        st.tuples(st.just("clear"), st.integers(0, ROWS - 1), st.just(0)),
        st.tuples(st.just("move"), st.integers(0, ROWS - 1), st.integers(0, ROWS - 1)),
        st.tuples(st.just("resize"), st.integers(1, 3), st.just(0)),
    ),
    max_size=25,
)


@given(STEPS)
def test_rows_keep_what_they_hold_whatever_happens_to_the_others(
    steps: list[tuple[str, int, int]],
) -> None:
    cache = Cache(tiny_model().spec)
    cache.resize(ROWS, LONGEST)
    held = [(0.0, 0)] * ROWS
    for number, (step, first, second) in enumerate(steps, start=1):
        if step == "write":
            for array in cache.arrays:
                array[first, :, :second] = number
            cache.lengths[first] = second
            held[first] = (number, second)
        elif step == "clear":
            cache.clear(first)
            held[first] = (0.0, 0)
        elif step == "move" and first != second:
            cache.move(first, second)
            held[second], held[first] = held[first], (0.0, 0)
        elif step == "resize":
            cache.resize(ROWS, LONGEST + first * GROWTH)
        assert cache.lengths == [length for _, length in held]
        for row, (value, length) in enumerate(held):
            for array in cache.arrays:
                assert np.all(array[row, :, :length] == value)


# Every tenth prompt is long; the tokens under way are few beside 20 rows of the longest.
_CHILD = """
import json, sys, threading
from pathlib import Path
from interlock.engines.chat import Sampling
from interlock.engines.generate import GenerateRequest, Generator, load_text_model

directory, slots, texts = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
model = load_text_model(directory, probe=False)
lengths = [1900 if n % 10 == 5 else 20 + 37 * n % 180 for n in range(texts)]
turns = iter(lengths)
lock = threading.Lock()
most = 0

def resident():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))

with Generator(model, slots=slots) as generator:
    def ask(length):
        request = GenerateRequest(
            prompt_tokens=(31,) * length, sampling=Sampling(max_tokens=5 + length % 20)
        )
        return generator.submit(request).result()

    def work():
        global most
        while True:
            with lock:
                length = next(turns, None)
                most = max(most, resident())
            if length is None:
                return
            ask(length)

    ask(10)
    before = resident()
    threads = [threading.Thread(target=work) for _ in range(slots)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
print(json.dumps({"growth": most - before, "token_bytes": model.spec.token_bytes}))
"""


@pytest.mark.skipif(
    not (hasattr(mmap, "MADV_DONTNEED") and Path("/proc/self/status").exists()),
    reason="needs Linux",
)
def test_memory_follows_the_tokens_under_way_and_not_the_longest_text_that_was(
    tmp_path: Path,
) -> None:
    slots, context = 20, 2048
    directory = tiny_directory(
        tmp_path / "tiny", max_position_embeddings=context, num_key_value_heads=4, head_dim=64
    )
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, str(directory), str(slots), str(count(80, 1_000))],
        capture_output=True,
        text=True,
        check=True,
        timeout=600,
    )
    told = json.loads(done.stdout)
    # At most three long texts among twenty that follow one another, with room for one that stays
    # behind; the rest is the runtime's own memory.
    under_way = (3 * 1920 + 17 * 220) * told["token_bytes"]
    assert told["growth"] <= 1.25 * under_way + (32 << 20)
    assert told["growth"] < slots * context * told["token_bytes"] / 2

"""A peer of `bench/generate.py`, in an environment and a process of its own.

    python generate_peer.py llama|genai MODEL THREADS [plain]

Reads one JSON line a round, {"jobs": [[token, …], …], "tokens": n}, writes greedily that many
tokens after each job, and answers {"cpu": s, "texts": [[token, …], …]}. `plain` switches
llama.cpp's own weight layouts off, among them those for AMX, which some virtual machines announce
and refuse.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any


def llama(path: str, threads: int, plain: bool) -> Any:
    """llama.cpp through llama-cpp-python."""
    import llama_cpp.llama_cpp as lib
    from llama_cpp import Llama

    if plain:
        defaults = lib.llama_model_default_params

        def changed() -> Any:
            found = defaults()
            found.use_extra_bufts = False
            return found

        lib.llama_model_default_params = changed
    model = Llama(
        path,
        n_ctx=4096,
        n_threads=threads,
        n_threads_batch=threads,
        n_batch=512,
        logits_all=False,
        verbose=False,
    )

    def write(prompt: list[int], count: int) -> list[int]:
        found: list[int] = []
        model.reset()
        for token in model.generate(prompt, temp=0.0, top_k=1, reset=True):
            found.append(int(token))
            if len(found) == count:
                break
        return found

    return write


def genai(path: str, threads: int, plain: bool) -> Any:
    """onnxruntime-genai on a directory with the bundle's graph and a genai_config.json."""
    import onnxruntime_genai as og

    model = og.Model(path)

    def write(prompt: list[int], count: int) -> list[int]:
        params = og.GeneratorParams(model)
        params.set_search_options(
            max_length=len(prompt) + count, do_sample=False, past_present_share_buffer=True
        )
        generator = og.Generator(model, params)
        generator.append_tokens(prompt)
        found: list[int] = []
        while len(found) < count and not generator.is_done():
            generator.generate_next_token()
            found.append(int(generator.get_next_tokens()[0]))
        return found

    return write


def main() -> None:
    """Answer rounds until standard input ends."""
    kind, path, threads, *rest = sys.argv[1:]
    write = {"llama": llama, "genai": genai}[kind](path, int(threads), "plain" in rest)
    write([1, 2, 3], 2)
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        start = time.process_time()
        texts = [write(job, asked["tokens"]) for job in asked["jobs"]]
        print(json.dumps({"cpu": time.process_time() - start, "texts": texts}), flush=True)


main()

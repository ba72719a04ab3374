"""CPU time of one request through a chat provider, against the vendor's SDK as its manual shows it.

    python bench/chat_providers.py

Both ask the fake server, which runs in a process of its own and answers after 0.1 s, 100 requests
at a time. The SDK's retries are off in both.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from measure import Times, bar, machine

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from support.chat import KEY, VENDORS, Vendor
from support.fake_llm import FakeLLM, Plan

from interlock.kernel.clock import Deadline

OPEN = 100
REQUESTS = 300
ROUNDS = 7
LIMIT_MS = 4.0

Ask = Callable[[int], Awaitable[object]]


def sdk(vendor: Vendor, server: FakeLLM) -> tuple[Ask, Callable[[], Awaitable[object]]]:
    """The SDK's own call for a text, and what closes its client."""
    url = vendor.url(server)
    turns = [{"role": "user", "content": ""}]

    def of(number: int) -> Any:
        return [{**turns[0], "content": f"question {number}"}]

    if vendor.name == "claude":
        import anthropic

        claude = anthropic.AsyncAnthropic(api_key=KEY, base_url=url, max_retries=0)
        return (
            lambda n: claude.messages.create(
                model=vendor.model, max_tokens=64, messages=of(n), timeout=60
            ),
            claude.close,
        )
    if vendor.name == "openai":
        import openai

        client = openai.AsyncOpenAI(api_key=KEY, base_url=url, max_retries=0)
        return (
            lambda n: client.chat.completions.create(
                model=vendor.model, max_tokens=64, messages=of(n), timeout=60
            ),
            client.close,
        )
    from google import genai

    gemini = genai.Client(api_key=KEY, vertexai=False, http_options={"base_url": url}).aio
    return (
        lambda n: gemini.models.generate_content(
            model=vendor.model, contents=f"question {n}", config={"max_output_tokens": 64}
        ),
        gemini.aclose,
    )


async def spent(ask: Ask) -> float:
    """CPU seconds of this process for one request, with `OPEN` requests open."""
    numbers = iter(range(REQUESTS))

    async def worker() -> None:
        for number in numbers:
            await ask(number)

    begin = time.process_time()
    await asyncio.gather(*(worker() for _ in range(OPEN)))
    return (time.process_time() - begin) / REQUESTS


async def measured(vendor: Vendor, server: FakeLLM) -> Times:
    """Both ways, in turns."""
    provider = vendor.provider(server)

    def ours(number: int) -> Awaitable[object]:
        request = vendor.request(f"question {number}", temperature=None)
        return provider.answer(request, deadline=Deadline.after(60))

    theirs, close = sdk(vendor, server)
    samples: dict[str, list[float]] = {"provider": [], "SDK": []}
    for turn in range(ROUNDS + 1):
        for name, ask in (("provider", ours), ("SDK", theirs)):
            found = await spent(ask)
            # The first round opens the connections.
            if turn:
                samples[name].append(found)
    await provider.close()
    await close()
    return Times(samples)


def main() -> None:
    """Measure and print."""
    print(machine(("anthropic", "google-genai", "openai", "httpx2")))
    with FakeLLM(Plan(latency=0.1, keep=0)) as server:
        for vendor in VENDORS:
            times = asyncio.run(measured(vendor, server))
            middle, low, high = times.ratio("provider", "SDK")
            own = times.median("provider") * 1e3
            print(
                f"{vendor.name}: {own:.2f} ms CPU a request, the SDK's own call "
                f"{times.median('SDK') * 1e3:.2f}; ratio {middle:.2f} ({low:.2f} … {high:.2f})"
            )
            print("  " + bar(f"{vendor.name}, ms CPU a request", own, LIMIT_MS))


if __name__ == "__main__":
    main()

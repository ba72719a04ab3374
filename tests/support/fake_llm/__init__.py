"""A server of chat models on loopback that fails as told: OpenAI's, Anthropic's and Gemini's wire.

    with FakeLLM(Plan(latency=0.02, script=("ok", "rate_limit"))) as server:
        client = openai.AsyncOpenAI(base_url=server.openai, api_key="any", max_retries=0)
        ...
        assert server.counts().requests == 2

It runs in a process of its own, so that a benchmark measures its client, listens on a free port of
127.0.0.1, ends with its parent and after `lifetime` seconds at the latest.
"""

from support.fake_llm.plan import FAULTS, Fault, Plan
from support.fake_llm.process import Counts, FakeLLM

__all__ = ["FAULTS", "Counts", "FakeLLM", "Fault", "Plan"]

"""Text generation on ONNX Runtime: Llama-like models and StarCoder2, many requests at once.

from interlock.engines.chat import Message
from interlock.engines.generate import GenerateRequest, Generator, load_text_model

model = load_text_model("smollm2")
with Generator(model, slots=8) as generator:
    [answer] = generator.generate([GenerateRequest(messages=(Message("user", "Hello"),))])
"""

from interlock.engines.generate.generator import Generator, cache_needed
from interlock.engines.generate.model import TextModel, load_text_model, open_text_model
from interlock.engines.generate.request import GenerateRequest, GenerateResult, Handle
from interlock.engines.generate.tokenizer import Tokenizer

__all__ = [
    "GenerateRequest",
    "GenerateResult",
    "Generator",
    "Handle",
    "TextModel",
    "Tokenizer",
    "cache_needed",
    "load_text_model",
    "open_text_model",
]

"""Text generation on ONNX Runtime: any Llama-like model, many requests at once.

from interlock.engines.generate import GenerateRequest, Generator, load_text_model

model = load_text_model("smollm2")
with Generator(model, slots=8) as generator:
    [answer] = generator.generate([GenerateRequest(messages=(Message("user", "Hello"),))])
"""

from interlock.engines.generate.request import (
    GenerateRequest,
    GenerateResult,
    Handle,
    TextGenerator,
)

__all__ = ["GenerateRequest", "GenerateResult", "Handle", "TextGenerator"]

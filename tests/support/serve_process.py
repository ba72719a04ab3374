"""`interlock serve` in a process that ends when its standard input does, and so with its parent."""

from __future__ import annotations

import os
import sys
import threading


def _end_with_input() -> None:
    while sys.stdin.buffer.read(1):
        pass
    os._exit(99)


if __name__ == "__main__":
    threading.Thread(target=_end_with_input, daemon=True).start()
    from interlock.cli.app import main

    main(["serve", *sys.argv[1:]])

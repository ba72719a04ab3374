"""HTTP: the Open Inference Protocol, health and metrics, over models in killable processes.

Needs the extra `serve`. `interlock serve` is its command line; `Served` is what anything that is
to be served implements.
"""

from interlock.serve.served import Answer, Served

__all__ = ["Answer", "Served"]

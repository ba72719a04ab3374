"""A source tree summarised: chunks, files, folders and the whole, each with where it comes from.

from pathlib import Path
from interlock.summarize import Options, summarize

done = summarize(Path("src"), Path("summary"), Options(), model=None)
print(done.finished.summary("repository").text)
"""

from interlock.summarize.asked import Summary, SummaryModel, Written
from interlock.summarize.contracts import Contracts
from interlock.summarize.models import Models
from interlock.summarize.options import Options
from interlock.summarize.run import Finished
from interlock.summarize.session import Estimate, Summarized, estimate, summarize
from interlock.summarize.tree import Selection

__all__ = [
    "Contracts",
    "Estimate",
    "Finished",
    "Models",
    "Options",
    "Selection",
    "Summarized",
    "Summary",
    "SummaryModel",
    "Written",
    "estimate",
    "summarize",
]

"""Slices a model again and again, in two ways in turn, until it is killed."""

from __future__ import annotations

import itertools
import sys

from support.kill import acknowledge

from interlock.verified.directory import Cuts, ModelDirectory, cut, write_slices

directory = ModelDirectory.find(sys.argv[1])
model = directory.read_model()
ways = [(cuts, cut(model, cuts)) for cuts in (Cuts(), Cuts(at=[["h1_relu"]]))]
for cuts, sliced in itertools.cycle(ways):
    write_slices(directory, sliced, cuts, "none", 0)
    acknowledge(str(len(sliced.slices)))

"""Rounds that SIGKILL ends at a stage, as a power cut would: a recipe, the folder of the rounds, and the stage."""

import os
import signal
import sys

from sklearn.cluster import MiniBatchKMeans

from mmpt.data.writer import ShardWriter
from mmpt.downstream.units.rounds import run_rounds

PLACES = {  # the process is killed at this call of the method
    "the choice of the layer": (MiniBatchKMeans, "partial_fit", 7),  # of five passes over each of two layers
    "k-means": (MiniBatchKMeans, "partial_fit", 13),
    "labelling": (ShardWriter, "write", 10),
}

if __name__ == "__main__":
    recipe, out, stage = sys.argv[1:]
    owner, method, call = PLACES[stage]
    before, calls = getattr(owner, method), []

    def counted(*args, **settings):
        calls.append(None)
        if len(calls) == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return before(*args, **settings)

    setattr(owner, method, counted)
    run_rounds(recipe, out=out, launcher=None)

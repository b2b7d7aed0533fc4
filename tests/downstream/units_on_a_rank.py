"""What each rank does in test_units_on_ranks.py: a data set of recordings, and the folder for what comes of it."""

import sys
from pathlib import Path

import pytest
import torch

from mmpt.data.manifest import load_manifest
from mmpt.downstream.units.corpus import Frames
from mmpt.downstream.units.features import MfccFeatures
from mmpt.downstream.units.fit import fit_codebook
from mmpt.downstream.units.label import label_data
from mmpt.errors import DataError


class Choosy(MfccFeatures):
    """Refuses one recording."""

    def of(self, values):
        if any(len(samples) == 1000 + 37 * 20 for samples, _ in values):  # of the second chunk, which rank 1 computes
            raise DataError("not this one")
        return super().of(values)


speech, out = load_manifest(sys.argv[1]), Path(sys.argv[2])
features = MfccFeatures(speech, "speech")
codebook = fit_codebook(features, speech.folder, clusters=6)
rank = torch.distributed.get_rank()
(out / f"rank-{rank}.txt").write_text(codebook.hash, encoding="utf-8")
_, quality = label_data(codebook, features, speech.folder, out / "labels")
assert quality.frames == sum(load_manifest(out / "labels").lengths("units"))
with pytest.raises(DataError, match="there is a data set already"):
    label_data(codebook, features, speech.folder, out / "labels")
with pytest.raises(DataError, match="sample clip20: member 'speech': not this one"):
    list(Frames(Choosy(speech, "speech"), speech, range(len(speech))))

"""C-MELT's recipe on twelve leads, some of which training leaves out."""

import numpy as np
import pytest
import torch

from mmpt.config import dump_yaml, load_settings, parse_settings
from mmpt.data.builders.ecg import build_ecg
from mmpt.encoders.ecg_stem import LEFT_OUT, MISSING, SHOWN, STRIDE
from mmpt.recipes import find_recipe
from mmpt.settings import Recipe
from mmpt.training.command import build
from tests.data.material import write_table
from tests.encoders.ecg_material import LEADS, RATE, recording

RECORDS = 16


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The recipe over records of two seconds, of which every fourth lacks V2."""
    folder = tmp_path_factory.mktemp("twelve")
    lacking = [("V2",) if number % 4 == 0 else () for number in range(RECORDS)]
    np.save(folder / "beats.npy", np.stack([recording(number, missing=own) for number, own in enumerate(lacking)]))
    reports = [{"row": str(number), "report": f"Record {number}: a peak, then a wave."} for number in range(RECORDS)]
    build_ecg(
        folder / "beats.npy", folder / "ecg", reports=write_table(folder / "reports.csv", reports), leads=LEADS,
        source_rate=RATE, unit="mV", vocabulary=300, split=(1, 0, 0),
    )  # fmt: skip
    text = dump_yaml(load_settings(find_recipe("cmelt_ecg_report"), [], Recipe))
    own = text.replace(" shards/ecg", f" {folder}/ecg")
    return build(parse_settings(own, [f"data.batch_size={RECORDS}", "data.workers=0"], Recipe), 0, 1)


@pytest.fixture(scope="module")
def batch(built):
    return built.batches[0].batch


def losses(built, batch):
    step = built.model(batch, built.model.hide(batch, 0.0), 0.0)
    return {name: float(loss.total.detach()) for name, loss in step.losses.items()}


def test_about_half_of_the_leads_are_left_out_and_each_recording_keeps_one(batch):
    content = batch.streams["ecg"]
    flags = content.values[content.valid][:, STRIDE]
    observed = flags[flags != MISSING]
    assert 0.3 < (observed == LEFT_OUT).float().mean() < 0.7
    assert (flags == SHOWN).any(dim=1).all()
    missing = (content.values[:, 0, STRIDE] == MISSING).nonzero()[:, 1]
    assert set(missing.tolist()) == {LEADS.index("V2")}


def test_what_left_out_leads_hold_is_to_be_predicted_and_reaches_nothing_else(built, batch):
    content = batch.streams["ecg"]
    left_out = content.values[:, :, STRIDE:] == LEFT_OUT
    signal = torch.where(left_out, content.values[:, :, :STRIDE] + 3, content.values[:, :, :STRIDE])
    changed = content._replace(values=torch.cat([signal, content.values[:, :, STRIDE:]], dim=2))
    before = losses(built, batch)
    after = losses(built, batch._replace(streams={**batch.streams, "ecg": changed}))
    assert set(before) == {"ecg", "text", "contrast", "match"}
    assert all(np.isfinite(value) for value in before.values())
    assert {name for name in before if after[name] != before[name]} == {"ecg"}

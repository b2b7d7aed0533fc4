"""Post-norm backbones leave as transformers' Bert and HuBERT Base, and come back to the last bit."""

import json

import pytest
import torch
from torch.testing import assert_close

from mmpt.encoders.text import Text
from mmpt.errors import ConfigError
from mmpt.export import command
from mmpt.export.text import to_bert, to_roberta
from mmpt.tokens import Batch
from tests.foreign.conftest import tokenizers as tokenizers
from tests.foreign.models import loaded, made

LONG = {"conv_kernel": (80, 8, 4), "conv_stride": (40, 4, 4)}  # frames of 40 ms: the longest fixture has 15 s


@pytest.mark.parametrize(("name", "changes"), [("roberta", {}), ("hubert base", LONG)])
def test_a_model_goes_out_as_it_came_with_a_certificate(tmp_path, tokenizers, name, changes):
    made(name, tmp_path / "came", tokenizers(name), **changes)
    certificate = command.export(tmp_path / "came", tmp_path / "went", to="transformers")
    assert certificate["largest_difference"] < 1e-5
    assert len(certificate["source_sha256"]) == 64
    first, again = (loaded(tmp_path / folder).backbone.state_dict() for folder in ("came", "went"))
    assert first.keys() == again.keys()
    assert all(torch.equal(again[own], value) for own, value in first.items())
    kind = json.loads((tmp_path / "went" / "config.json").read_text(encoding="utf-8"))["model_type"]
    assert kind == ("bert" if name == "roberta" else "hubert")
    assert f"a {'RoBERTa' if name == 'roberta' else 'HuBERT'}" in (tmp_path / "went" / "README.md").read_text()


def test_fixed_positions_and_the_streams_row_go_along(text_facts, backbone_of, documents):
    text = Text(text_facts, max_length=64, positions="sincos")
    backbone = backbone_of({"text": text}, norm="post", norm_entry=True)
    content = text.collate([[document] for document in documents("text")], None)
    uid = torch.arange(len(content.valid))
    ours = backbone(Batch({"text": content}, uid, torch.zeros_like(uid), "tests", 0))["text"].x
    peer = to_bert(backbone, text)
    theirs = peer(input_ids=content.values, attention_mask=content.valid.long()).last_hidden_state
    assert_close(ours[content.valid], theirs[content.valid], rtol=0, atol=1e-5)


def test_norms_in_other_places_are_refused_by_name(text, backbone_of):
    post, pre = (backbone_of({"text": text}, norm=norm, norm_entry=True) for norm in ("post", "pre"))
    with pytest.raises(ConfigError, match=r"the other library's model is pre-norm, this trunk has trunk\.norm=post"):
        to_roberta(post, text)
    with pytest.raises(ConfigError, match=r"is post-norm, this trunk has trunk\.norm=pre"):
        to_bert(pre, text)
    with pytest.raises(ConfigError, match=r"train with trunk\.norm_entry=true"):
        to_bert(backbone_of({"text": text}, norm="post"), text)

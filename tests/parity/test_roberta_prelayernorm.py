"""A text-only backbone and transformers' RobertaPreLayerNormModel are the same function."""

import pytest
from torch.testing import assert_close

from mmpt.config import component
from mmpt.encoders.text import Text
from mmpt.errors import ConfigError
from mmpt.export.text import to_roberta
from mmpt.tokens import Content
from mmpt.trunk.feedforward import FeedForward

SHAPE = {"width": 24, "depth": 3, "heads": 3, "norm_entry": True}


@pytest.fixture(params=["learned", "sincos"])
def prose(request, text_facts):
    return Text(text_facts, max_length=64, positions=request.param)


def theirs(peer, content: Content):
    return peer(input_ids=content.values, attention_mask=content.valid.long()).last_hidden_state


def ours(backbone, content, batch_of):
    return backbone(batch_of(text=content))["text"].x


def padded(text, documents):
    """Rows of different lengths, one document each: transformers has no packed ones."""
    return text.collate([[document] for document in documents("text")], None)


def test_transformers_gives_the_same_latents_with_our_weights_in_padded_batches(
    prose, backbone_of, documents, batch_of
):
    backbone, content = backbone_of({"text": prose}, **SHAPE), padded(prose, documents)
    assert not content.valid.all()
    peer = to_roberta(backbone, prose)
    valid = content.valid
    assert_close(ours(backbone, content, batch_of)[valid], theirs(peer, content)[valid], rtol=0, atol=1e-5)


def test_transformers_gives_the_same_latents_where_nothing_is_padded(text, backbone_of, full_contents, batch_of):
    backbone, content = backbone_of({"text": text}, **SHAPE), full_contents("text")
    peer = to_roberta(backbone, text)
    assert_close(ours(backbone, content, batch_of), theirs(peer, content), rtol=0, atol=1e-5)


def test_each_document_of_a_packed_row_equals_the_document_alone(prose, backbone_of, documents, batch_of):
    backbone = backbone_of({"text": prose}, **SHAPE)
    peer = to_roberta(backbone, prose)
    first, second, third, *_ = documents("text")
    packed = prose.collate([[first[:30], second, third[:17]]], 96)
    latents = ours(backbone, packed, batch_of)[0]
    start = 0
    for document in (first[:30], second, third[:17]):
        alone = theirs(peer, prose.collate([[document]], len(document)))[0]
        assert_close(latents[start : start + len(document)], alone, rtol=0, atol=1e-5)
        start += len(document)


def test_what_roberta_lacks_is_refused_with_a_sentence(text, text_facts, image, backbone_of):
    turning = Text(text_facts, max_length=64, positions="rotary")
    with pytest.raises(
        ConfigError, match="has no rotary positions of our kind; train with positions=learned or sincos"
    ):
        to_roberta(backbone_of({"text": turning}, **SHAPE), turning)
    with pytest.raises(ConfigError, match=r"train with trunk\.norm_entry=true"):
        to_roberta(backbone_of({"text": text}), text)
    with pytest.raises(ConfigError, match="has one stream, this backbone has text, image"):
        to_roberta(backbone_of({"text": text, "image": image}, norm_entry=True), text)
    with pytest.raises(ConfigError, match="takes text; stream 'image' is none"):
        to_roberta(backbone_of({"image": image}, norm_entry=True), text)


def test_any_feedforward_ratio_and_norm_eps_is_carried_over(text, backbone_of, full_contents, batch_of):
    dense = component(FeedForward, "dense", ratio=1.5)
    backbone = backbone_of({"text": text}, **SHAPE, feedforward=dense, norm_eps=1e-3)
    content = full_contents("text")
    assert_close(ours(backbone, content, batch_of), theirs(to_roberta(backbone, text), content), rtol=0, atol=1e-5)

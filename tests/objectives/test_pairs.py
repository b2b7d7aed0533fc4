"""Losses on pairs of streams: their formulas, what counts, and what a stream alone can't know."""

import pytest
import torch
from torch.nn.functional import softplus
from torch.testing import assert_close
from transformers import SiglipConfig, SiglipModel

from mmpt.config import component
from mmpt.errors import ConfigError
from mmpt.model import MaskedModel
from mmpt.objectives import Objective
from mmpt.objectives.pairs import PairLoss
from mmpt.objectives.pairs.sigmoid_contrast import signs

PAIRS = {
    "contrast": {"type": "sigmoid_contrast", "streams": ["ecg", "text"], "size": 8},
    "match": {"type": "matching", "streams": ["ecg", "text"]},
}
WIDTH = 16


@pytest.fixture
def contrast(randomised):
    return lambda form: randomised(
        component(PairLoss, "sigmoid_contrast", streams=["ecg", "text"], form=form).build(WIDTH)
    )


@pytest.fixture
def model_of(modalities, backbone_of, randomised):
    def make(**settings):
        chosen = {name: modalities[name] for name in ("ecg", "text")}
        decoder = {"type": "decoder", "width": 16, "depth": 1, "heads": 2}
        streams = {
            "ecg": {"masking": {"ratio": 0.5}, "corruption": "drop", "predictor": decoder, "target": "signal"},
            "text": {
                "masking": {"ratio": 0.3}, "corruption": "replace", "predictor": "mlp", "target": "token_ids",
            },
        }  # fmt: skip
        backbone = backbone_of(chosen)
        objective = component(Objective, "masked_prediction", streams=streams, pairs=PAIRS, **settings)
        return randomised(MaskedModel(backbone, objective.build(backbone, chosen))).train()

    return make


@pytest.fixture
def batch(contents, batch_of):
    """Four rows; in the third there is neither ECG nor text."""
    streams = {name: contents(name) for name in ("ecg", "text")}
    rows = {n: type(c)(*(t[:4] for t in c[:5]), units=c.units[:4], scores=c.scores[:4]) for n, c in streams.items()}
    return batch_of(**rows)._replace(matched=torch.tensor([True, False, True, True]))


def inputs(rows):
    generator = torch.Generator().manual_seed(rows)
    one, other = torch.randn(2, rows, WIDTH, generator=generator)
    return one, other, torch.ones(rows, dtype=torch.bool)


def test_the_raw_contrast_of_one_true_pair_is_softplus_of_its_similarity(contrast):
    pair = contrast("raw")
    one, other, there = inputs(1)
    similarity = pair.features(one, 0) @ pair.features(other, 1).T
    assert_close(pair(one, other, there, there)[0], softplus(-similarity)[0])
    assert_close(pair(one, other, there, ~there)[0], softplus(similarity)[0])


def test_a_false_pair_changes_the_sign_of_its_own_comparison_alone():
    matched = torch.tensor([True, True, False, True])
    assert_close(signs(torch.ones(4, dtype=torch.bool)) - signs(matched), torch.diag(2 * (~matched).float()))


def test_the_contrast_is_that_of_transformers_siglip():
    small = {"hidden_size": WIDTH, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**small, "vocab_size": 32, "max_position_embeddings": 8, "projection_size": WIDTH}
    config = SiglipConfig(text_config=text, vision_config={**small, "image_size": 8, "patch_size": 4})
    torch.manual_seed(0)
    theirs = SiglipModel(config).eval()
    with torch.no_grad():
        theirs.logit_scale.fill_(1.3)
        theirs.logit_bias.fill_(-0.7)
    given = theirs(input_ids=torch.randint(3, 32, (5, 8)), pixel_values=torch.randn(5, 3, 8, 8), return_loss=True)
    ours = component(PairLoss, "sigmoid_contrast", streams=["image", "text"], size=WIDTH).build(WIDTH)
    with torch.no_grad():
        for head in ours.heads:
            head.weight.copy_(torch.eye(WIDTH))
            head.bias.zero_()
        ours.log_scale.fill_(1.3)
        ours.bias.fill_(-0.7)
    there = torch.ones(5, dtype=torch.bool)
    each, _ = ours(given.image_embeds, given.text_embeds, there, there)
    assert_close(each.sum() / ours.denominator(there), given.loss, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("form", ["siglip", "raw"])
def test_a_row_that_is_not_there_is_nobodys_negative(contrast, form):
    pair = contrast(form)
    one, other, there = inputs(5)
    there[3] = False
    each, _ = pair(one, other, there, torch.ones(5, dtype=torch.bool))
    rest, _ = pair(one[there], other[there], there[there], there[there])
    assert each[3] == 0
    assert_close(each[there], rest)


def test_features_to_compare_know_nothing_of_the_other_stream(model_of, batch):
    model = model_of().eval()
    changed = batch.streams["text"]
    observed = changed.valid & changed.observed
    changed = changed._replace(values=torch.where(observed, changed.values.flip(0), changed.values))
    other = batch._replace(streams={**batch.streams, "text": changed})
    seen, each = [], []
    hook = model.objective.paired["contrast"].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    for one in (batch, other):
        step = model(one, model.hide(one, 0.5), 0.5)
        each.append(step.losses["match"].rows)
    hook.remove()
    assert torch.equal(*seen)
    assert not torch.equal(*each)


def test_every_weight_has_a_gradient_with_pairs_and_without(model_of, batch):
    for streams in (("ecg", "text"), ("ecg",), ("text",)):
        model = model_of()
        part = batch._replace(streams={name: batch.streams[name] for name in streams})
        hidden = model.hide(part, 0.5)
        step = model(part, hidden, 0.5)
        assert list(step.losses) == list(hidden)
        assert ("contrast" in hidden) == (len(streams) == 2)
        (sum(loss.total for loss in step.losses.values()) + step.balance).backward()
        assert not [name for name, p in model.named_parameters() if p.grad is None]
        moved = [p.grad.abs().sum() > 0 for name in streams for p in model.backbone.encoders[name].parameters()]
        assert any(moved)


def test_false_pairs_count_in_masked_losses_as_the_setting_says(model_of, batch):
    totals, denominators = [], []
    for weight in (0.0, 0.5, 1.0):
        model = model_of(unmatched_weight=weight)
        hidden = model.hide(batch, 0.5)
        loss = model(batch, hidden, 0.5).losses["text"]
        assert_close(loss.total, loss.rows @ torch.where(batch.matched, 1.0, weight))
        totals.append(loss.total)
        denominators.append(hidden["text"].denominator)
    assert totals[0] < totals[1] < totals[2]
    assert_close(denominators[1] - denominators[0], (denominators[2] - denominators[0]) / 2)
    assert denominators[0] < denominators[2]


def test_rows_count_where_something_is_shown_in_both(model_of, batch):
    hidden = model_of().hide(batch, 0.5)
    assert hidden["match"].scored.squeeze(1).tolist() == [True, True, False, True]
    assert hidden["match"].denominator == 3


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"pairs": {"text": PAIRS["match"]}}, "a stream has this name"),
        ({"pairs": {"m": {"type": "matching", "streams": ["ecg", "image"]}}}, "no stream 'image'"),
        ({"pairs": {"m": {"type": "matching", "streams": ["ecg", "ecg"]}}}, "two different streams"),
        ({"pairs": {"m": {**PAIRS["match"], "weight": 0}}}, "weight: expected a positive number"),
        ({"masks_per_sample": 2}, "'masks_per_sample' has each of them more than once"),
        ({"unmatched_weight": -1.0}, "unmatched_weight: expected 0 or more"),
    ],
)
def test_what_can_not_be_paired_is_refused(modalities, backbone_of, settings, said):
    chosen = {name: modalities[name] for name in ("ecg", "text")}
    streams = {
        name: {"masking": {"ratio": 0.5}, "corruption": "replace", "predictor": "mlp", "target": target}
        for name, target in (("ecg", "signal"), ("text", "token_ids"))
    }
    settings = {"streams": streams, "pairs": PAIRS, **settings}
    with pytest.raises(ConfigError, match=said):
        component(Objective, "masked_prediction", **settings).build(backbone_of(chosen), chosen)

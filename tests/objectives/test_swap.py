"""MS-HuBERT's two views: what they exchange, what they never do, and what it costs to leave it out."""

import pytest
import torch
from torch.testing import assert_close

from mmpt.config import component
from mmpt.errors import ConfigError
from mmpt.model import MaskedModel
from mmpt.objectives import Objective
from mmpt.objectives.swap import Exchange, SwapSettings, exchanged
from mmpt.tokens import Batch

DEPTH = 3


@pytest.fixture
def model_of(modalities, backbone_of, randomised):
    def make(names=("speech",), corruption="replace", swap=None):
        chosen = {name: modalities[name] for name in names}
        backbone = backbone_of(chosen, depth=DEPTH)
        target = {"speech": "units", "text": "token_ids"}
        streams = {
            name: {
                "masking": {"ratio": 0.5},
                "corruption": corruption,
                "predictor": "mlp"
                if corruption == "replace"
                else {"type": "decoder", "width": 16, "depth": 1, "heads": 2},
                "target": target[name],
            }
            for name in names
        }
        settings = {"streams": streams, **({} if swap is None else {"swap": swap})}
        objective = component(Objective, "masked_prediction", **settings).build(backbone, chosen)
        return randomised(MaskedModel(backbone, objective)).train()

    return make


@pytest.fixture
def batch(contents):
    content = contents("speech")
    rows = torch.arange(len(content.valid))
    return Batch({"speech": content}, rows, rows + 11, "any", 0)


def seen_by(model, batch, hidden):
    objective = model.objective
    return objective._latents(model.backbone, batch, hidden, 0.5, objective.swap)


def losses(model, batch):
    step = model(batch, model.hide(batch, 0.5), 0.5)
    return step.losses["speech"], step.metrics


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.fixture
def words(contents):
    """Unlike frames of sound, what is hidden of a text is heard nowhere else; and the same with other words hidden."""
    content = contents("text")
    rows = torch.arange(len(content.valid))

    def make(model):
        batch = Batch({"text": content}, rows, rows + 11, "any", 0)
        hidden = model.hide(batch, 0.5)
        other = torch.where(hidden["text"].hidden, content.values % 50 + 7, content.values)
        return batch, batch._replace(streams={"text": content._replace(values=other)}), hidden

    return make


def test_exchanged_twice_is_what_it_was():
    x, chosen = torch.randn(6, 5, 4), torch.rand(3, 5) < 0.5
    once = exchanged(x, chosen)
    assert torch.equal(once[:3][chosen], x[3:][chosen])
    assert torch.equal(once[3:][chosen], x[:3][chosen])
    assert torch.equal(once[:3][~chosen], x[:3][~chosen])
    assert torch.equal(exchanged(once, chosen), x)


def test_visible_tokens_are_drawn_anew_behind_each_block_and_hidden_ones_never():
    visible, draw = torch.rand(50, 40) < 0.6, torch.arange(50)
    exchange = Exchange((1, 2), 0.3, visible, draw)
    one, two = exchange.chosen(1), exchange.chosen(2)
    assert not (one & ~visible).any()
    assert abs(float(one[visible].float().mean()) - 0.3) < 0.03
    assert abs(float((one & two)[visible].float().mean()) - 0.09) < 0.03
    assert torch.equal(Exchange((1,), 0.3, visible[7:9], draw[7:9]).chosen(1), one[7:9])
    assert torch.equal(Exchange((1,), 1.0, visible, draw).chosen(1), visible)
    x = torch.randn(100, 40, 3)
    assert exchange(3, x) is x


def test_without_a_clean_loss_or_exchange_it_is_plain_hubert(model_of, batch):
    plain = model_of()
    loss, metrics = losses(plain, batch)
    assert "speech/clean_loss" not in metrics
    for swap in (
        {"clean_weight": 0.0},
        {"clean_weight": 0.0, "layers": []},
        {"clean_weight": 0.0, "layers": [2], "prob": 0.0},
    ):
        model = model_of(swap=swap)
        model.load_state_dict(plain.state_dict())
        mine, _ = losses(model, batch)
        assert_close(mine.total, loss.total, rtol=1e-6, atol=1e-5)
        ours, theirs = gradients(model, mine.total), gradients(plain, loss.total)
        loss, _ = losses(plain, batch)
        assert ours.keys() == theirs.keys()
        for name in theirs:
            assert_close(ours[name], theirs[name], rtol=1e-4, atol=1e-5)


def test_the_clean_loss_is_that_of_the_complete_row_at_hidden_tokens(model_of, batch):
    model = model_of(swap={"clean_weight": 0.5})
    plain = model_of()
    model.load_state_dict(plain.state_dict())
    part, hidden = model.objective.part("speech"), model.hide(batch, 0.5)["speech"].hidden
    latents = model.backbone(batch)["speech"].x
    logits = part.predictor.head(latents[hidden])
    clean = torch.nn.functional.cross_entropy(logits, batch.streams["speech"].units[hidden][:, 0], reduction="sum")
    loss, metrics = losses(model, batch)
    assert_close(loss.total, losses(plain, batch)[0].total + 0.5 * clean, rtol=1e-5, atol=1e-4)
    assert_close(metrics["speech/clean_loss"][0], clean, rtol=1e-5, atol=1e-4)
    assert_close(loss.rows.sum(), loss.total.detach())


@pytest.mark.parametrize("layer", [0, 1])
def test_hidden_content_reaches_the_masked_view_through_blocks_alone(model_of, words, layer):
    model = model_of(("text",), swap={"layers": [layer], "prob": 1.0})
    batch, other, hidden = words(model)
    before, after = (seen_by(model, own, hidden) for own in (batch, other))
    valid = batch.streams["text"].valid
    same = torch.equal(before.latents["text"].own[valid], after.latents["text"].own[valid])
    assert same == (layer == 0)
    assert (before.clean["text"].own - after.clean["text"].own)[valid].abs().max() > 1e-3


def test_behind_a_block_visible_tokens_change_places_and_hidden_ones_stay(model_of, batch):
    model = model_of(swap={"layers": [1], "prob": 1.0})
    hidden = model.hide(batch, 0.5)
    found = []
    hook = model.backbone.trunk.blocks[1].register_forward_pre_hook(lambda _, given: found.append(given[0]))
    model.backbone.trunk.blocks[0].register_forward_hook(lambda _, __, output: found.append(output[0]))
    seen_by(model, batch, hidden)
    hook.remove()
    behind, entering = found
    rows = len(behind) // 2
    visible = batch.streams["speech"].valid & ~hidden["speech"].hidden
    assert torch.equal(entering[:rows][visible], behind[rows:][visible])
    assert torch.equal(entering[rows:][visible], behind[:rows][visible])
    assert torch.equal(entering[:rows][~visible], behind[:rows][~visible])


def test_what_can_not_exchange_tokens_is_refused(model_of):
    with pytest.raises(ConfigError, match=r"objective\.swap: .* corruption 'drop' of stream 'speech' leaves some out"):
        model_of(corruption="drop", swap={})
    with pytest.raises(ConfigError, match=r"objective\.swap\.layers: expected 0 to 2, below the last block, got 3"):
        model_of(swap={"layers": [1, 3]})
    with pytest.raises(ValueError, match="prob, clean_weight: expected a share and 0 or more"):
        SwapSettings(prob=1.5)

"""Several label sets of a stream: losses add, each with codes of its own, from the block that was asked for."""

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import cosine_similarity, cross_entropy
from torch.testing import assert_close

from mmpt.config import component
from mmpt.errors import ConfigError
from mmpt.model import MaskedModel
from mmpt.objectives import Objective
from mmpt.tokens import Batch

SIZES, DEPTH = (7, 4), 2
STREAM = {"masking": {"ratio": 0.5}, "corruption": "replace", "feature_penalty": 10}


def with_sets(modality, sizes):
    facts = [{"codebook": "0", "clusters": size, "rate": None, "stream": "any", "features": {}} for size in sizes]
    return replace(modality, facts=replace(modality.facts, values={**modality.facts.values, "units": facts}))


@pytest.fixture
def model_of(modalities, backbone_of, randomised):
    def make(sizes=SIZES, target="units", others=(), **predictor):
        chosen = {"speech": with_sets(modalities["speech"], sizes), **{name: modalities[name] for name in others}}
        backbone = backbone_of(chosen)
        own = {**STREAM, "predictor": {"type": "cosine_codebook", "projection": 8, **predictor}, "target": target}
        text = {"masking": {"ratio": 0.5}, "corruption": "replace", "predictor": "tied", "target": "token_ids"}
        settings = {"speech": own, **dict.fromkeys(others, text)}
        objective = component(Objective, "masked_prediction", streams=settings).build(backbone, chosen)
        return randomised(MaskedModel(backbone, objective)).train()

    return make


@pytest.fixture
def batch_of(contents):
    def make(sizes=SIZES, stream="speech"):
        content = contents(stream)
        noise = torch.Generator().manual_seed(4)
        units = [torch.randint(size, content.valid.shape, generator=noise) for size in sizes]
        rows = torch.arange(len(content.valid))
        return Batch({stream: content._replace(units=torch.stack(units, dim=2))}, rows, rows + 11, "any", 0)

    return make


def loss_of(model, batch):
    return model(batch, model.hide(batch, 0.5), 0.5).losses["speech"].total


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def fairseq_loss(states, projections, codes, units):
    """The positive first, its own column struck out, as fairseq's HuBERT has it; summed over tokens and label sets."""
    total = 0.0
    for x, projection, table, target in zip(states, projections, codes, units, strict=True):
        projected = projection(x)
        every = cosine_similarity(projected.unsqueeze(1), table.unsqueeze(0), dim=2) / 0.1
        own = torch.nn.functional.one_hot(target, len(table)).bool()
        logits = torch.cat([every[own].unsqueeze(1), every.masked_fill(own, -torch.inf)], dim=1)
        total = total + cross_entropy(logits, torch.zeros_like(target), reduction="sum")
    return total


@pytest.mark.parametrize("untie", [False, True])
def test_losses_of_label_sets_add_as_in_fairseq(model_of, batch_of, untie):
    model, batch = model_of(untie=untie), batch_of()
    part, hidden = model.objective.part("speech"), model.hide(batch, 0.5)
    part.feature_penalty = 0.0
    x = model.objective._latents(model.backbone, batch, hidden, 0.5).latents["speech"].own
    here = hidden["speech"].hidden
    predictor = part.predictor
    projections = [predictor.projection, predictor.untied[0] if untie else predictor.projection]
    units = batch.streams["speech"].units[here].unbind(1)
    theirs = fairseq_loss([x[here]] * 2, projections, predictor.codes.split(SIZES), units)
    ours = loss_of(model, batch)
    assert_close(ours, theirs, rtol=1e-5, atol=1e-4)
    mine, other = gradients(model, ours), gradients(model, theirs)
    for name in ("codes", "projection.weight", *(["untied.0.weight"] if untie else [])):
        name = f"objective.streams.speech.predictor.{name}"
        assert other[name].abs().max() > 1e-4
        assert_close(mine[name], other[name], rtol=1e-4, atol=1e-5)


def test_a_weight_of_nothing_leaves_the_other_set_alone(model_of, batch_of):
    model, batch = model_of(target={"type": "units", "weights": [0.0, 1.0]}), batch_of()
    alone = model_of(sizes=SIZES[1:])
    weights = {name: value for name, value in model.state_dict().items() if "codes" not in name}
    codes = "objective.streams.speech.predictor.codes"
    alone.load_state_dict({**weights, codes: model.state_dict()[codes][SIZES[0] :]})
    content = batch.streams["speech"]
    second = batch._replace(streams={"speech": content._replace(units=content.units[:, :, 1:])})
    ours, theirs = loss_of(model, batch), loss_of(alone, second)
    assert torch.equal(ours, theirs)
    mine, other = gradients(model, ours), gradients(alone, theirs)
    assert not mine[codes][: SIZES[0]].any()
    name = "backbone.trunk.blocks.0.norm1.weight"
    assert torch.equal(mine[name], other[name])
    half = model_of(target={"type": "units", "weights": [0.5, 0.5]})
    even = model_of()
    even.load_state_dict(half.state_dict())
    for each in (half, even):
        each.objective.part("speech").feature_penalty = 0.0
    assert_close(2 * loss_of(half, batch), loss_of(even, batch))


def test_one_set_from_the_last_block_is_plain_hubert_bit_for_bit(model_of, batch_of):
    plain, layered = model_of(sizes=(7,)), model_of(sizes=(7,), layers=[DEPTH])
    layered.load_state_dict(plain.state_dict())
    batch = batch_of((7,))
    ours, theirs = loss_of(layered, batch), loss_of(plain, batch)
    assert torch.equal(ours, theirs)
    mine, other = gradients(layered, ours), gradients(plain, theirs)
    assert mine.keys() == other.keys()
    assert all(torch.equal(mine[name], other[name]) for name in mine)


def test_a_set_is_predicted_from_the_block_that_it_names(model_of, batch_of):
    model, batch = model_of(layers=[1, 2], target={"type": "units", "weights": [1.0, 0.0]}), batch_of()
    found = []
    block = model.backbone.trunk.blocks[1].norm1
    hook = block.register_forward_pre_hook(lambda _, given: found.append(given[0]))
    loss = loss_of(model, batch)
    hook.remove()
    of_block = gradients(model, loss)["backbone.trunk.blocks.1.norm1.weight"]
    assert not of_block.any()  # blocks above are not trained by it
    part, here = model.objective.part("speech"), model.hide(batch, 0.5)["speech"].hidden
    part.feature_penalty = 0.0
    codes, units = part.predictor.codes[: SIZES[0]], batch.streams["speech"].units[here][:, 0]
    theirs = fairseq_loss([found[0][here]], [part.predictor.projection], [codes], [units])
    assert_close(loss_of(model, batch), theirs, rtol=1e-5, atol=1e-4)


def test_heads_of_an_absent_stream_have_gradients(model_of, contents):
    model, content = model_of(others=("text",), untie=True, layers=[1, 2]), contents("text")
    rows = torch.arange(len(content.valid))
    batch = Batch({"text": content}, rows, rows, "any", 0)
    step = model(batch, model.hide(batch, 0.5), 0.5)
    (step.losses["text"].total + step.balance).backward()
    assert [name for name, weight in model.named_parameters() if weight.grad is None] == []


def test_what_does_not_fit_the_label_sets_is_refused(model_of):
    for wrong, message in (
        ({"layers": [1]}, "layers: expected a block for each of 2 label sets, got 1"),
        ({"layers": [1, 3]}, r"speech\.predictor\.layers: expected 1 to 2, the trunk's depth, got 3"),
        (
            {"layers": [1, 1]},
            "nothing is predicted from block 2, the last, so that blocks above 1 would never be trained",
        ),
        ({"layers": [0, 1]}, r"speech\.predictor\.layers: expected 1 to 2, the trunk's depth, got 0"),
        ({"target": {"type": "units", "weights": [1.0]}}, "weights: expected a number, 0 or more, for each of 2 label"),
    ):
        with pytest.raises(ConfigError, match=message):
            model_of(**wrong)

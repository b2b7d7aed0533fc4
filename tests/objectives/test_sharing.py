"""Parts that look across the streams of a row: shared budgets and whole streams."""

import numpy as np
import pytest
import torch
from scipy.stats import kstest

from mmpt.config import parse_settings
from mmpt.errors import ConfigError
from mmpt.objectives.context import contexts_of
from mmpt.objectives.masking.algebra import Masking, MaskingSettings
from mmpt.objectives.masking.ratio.dirichlet import share_out
from mmpt.objectives.masking.unit.stream import StreamUnit
from mmpt.randomness import gamma

ROWS = 300


@pytest.fixture
def batch(text, image, documents, batch_of):
    """Captioned pictures, among them rows without words and rows without a picture."""
    words, pictures = documents("text"), documents("image")
    pairs = [(words[n % 8][: 8 + n % 9], pictures[n % 8]) for n in range(ROWS)]
    rows = {
        "text": [[] if n % 10 == 3 else [word] for n, (word, _) in enumerate(pairs)],
        "image": [[] if n % 10 == 7 else [picture] for n, (_, picture) in enumerate(pairs)],
    }
    return batch_of(text=text.collate(rows["text"], None), image=image.collate(rows["image"], None))


def masked(batch, modalities, settings):
    """What is hidden of every stream."""
    contexts = contexts_of(batch, 0.5)
    maskings = {name: Masking(modalities[name], settings) for name in contexts}
    return {name: masking(contexts[name]) for name, masking in maskings.items()}, contexts


def settings_of(text):
    return parse_settings(text, [], MaskingSettings)


def test_streams_share_one_budget_exactly(batch, modalities):
    hidden, contexts = masked(batch, modalities, settings_of("ratio: {type: dirichlet, shown: 0.3, alpha: 0.7}"))
    there = sum(context.maskable.sum(1) for context in contexts.values())
    shown = sum((contexts[name].maskable & ~own).sum(1) for name, own in hidden.items())
    assert torch.equal(shown, (there * 0.3 + 0.5).long())


def test_a_stream_may_be_shown_whole_or_not_at_all(batch, modalities):
    hidden, contexts = masked(batch, modalities, settings_of("ratio: {type: dirichlet, shown: 0.3, alpha: 0.5}"))
    words = contexts["text"].maskable.sum(1)
    shown = (contexts["text"].maskable & ~hidden["text"]).sum(1)
    paired = (words > 0) & (contexts["image"].maskable.sum(1) > 0)
    assert (shown[paired] == 0).any()
    assert (shown[paired] == words[paired]).any()


@pytest.mark.parametrize("seed", range(5))
def test_budgets_sum_to_what_is_asked_or_there_and_no_stream_exceeds_its_count(seed):
    generator = np.random.default_rng(seed)
    counts = torch.from_numpy(generator.integers(0, 30, (200, 4)))
    weights = torch.from_numpy(generator.gamma(0.5, size=(200, 4))) * (counts > 0)
    total = torch.from_numpy(generator.integers(0, 90, 200))
    budgets = share_out(total, weights, counts)
    assert ((budgets >= 0) & (budgets <= counts)).all()
    assert torch.equal(budgets.sum(1), total.minimum(counts.sum(1)))


def test_a_shared_budget_needs_the_same_ratio_in_all_streams(text, image, backbone_of):
    from mmpt.config import Component
    from mmpt.objectives import Objective

    recipe = """
type: masked_prediction
streams:
  text: {masking: {ratio: {type: dirichlet, shown: 0.3}}, corruption: replace, predictor: tied, target: token_ids}
  image: {masking: {ratio: 0.5}, corruption: replace, predictor: mlp, target: pixels}
"""
    modalities = {"text": text, "image": image}
    part = parse_settings(_under("part", recipe), [], _holder(Component[Objective]))
    with pytest.raises(ConfigError, match=r"streams\.image\.masking\.ratio: 'dirichlet' of stream 'text' shares one"):
        part.part.build(backbone_of(modalities), modalities)


def _under(name, text):
    return f"{name}:\n" + "".join(f"  {line}\n" for line in text.strip().splitlines())


def _holder(kind):
    from dataclasses import make_dataclass

    return make_dataclass("Holder", [("part", kind)], frozen=True, kw_only=True)


def test_of_a_row_at_most_one_stream_is_hidden_whole(batch, modalities):
    settings = settings_of("{ratio: 0.3, unit: {type: stream, share: 0.5}}")
    hidden, contexts = masked(batch, modalities, settings)
    whole = {name: (own == contexts[name].maskable).all(1) & own.any(1) for name, own in hidden.items()}
    paired = torch.stack([context.maskable.any(1) for context in contexts.values()]).all(0)
    assert not (whole["text"] & whole["image"]).any()
    assert not whole["text"][~paired].any()
    assert not whole["image"][~paired].any()
    for own in whole.values():
        share = own[paired].double().mean()
        assert abs(share - 0.25) < 4 * (0.25 * 0.75 / int(paired.sum())) ** 0.5
    rest = paired & ~whole["text"] & ~whole["image"]
    assert (hidden["image"][rest].sum(1) == 20).all()  # 0.3 of 64 patches, rounded up


def test_a_stream_that_is_alone_is_never_hidden_whole(text, documents, batch_of):
    batch = batch_of(text=text.collate([[document] for document in documents("text")], None))
    (context,) = contexts_of(batch, 0.0).values()
    unit = StreamUnit(text, share=0.9)
    assert torch.equal(unit.units(context), unit.otherwise.units(context))


@pytest.mark.parametrize("shape", [0.3, 1.0, 4.0])
def test_gamma_draws_have_their_distribution(shape):
    draws = gamma(torch.arange(4000), shape, "test")
    assert kstest(draws.numpy(), "gamma", args=(shape,)).pvalue > 0.01

"""Heads on standardised vectors: what is learned of the training samples, once, and what it is good for."""

import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.testing import assert_close

import mmpt
from mmpt.finetune import Classifier
from mmpt.finetune.examples import examples_of
from mmpt.finetune.heads import LEAST, PooledHead, Standard
from mmpt.finetune.model import plain_model
from mmpt.finetune.objective import latents_by_stream
from mmpt.finetune.parts import Part
from mmpt.finetune.rows import Rows
from mmpt.finetune.standardise import SAMPLES, standardise
from mmpt.pools import TokenLatents, observed_mean
from mmpt.pools.mean import MeanPool


@pytest.fixture(scope="module")
def encoder(run):
    return mmpt.load(run)


def model_and_part(encoder, shards):
    task = Classifier(encoder, label="place", inputs=["image"])
    examples = examples_of(shards, task.inputs, label="place", split="train")
    task.facts = task.learn([label for label in examples.labels if label is not None])
    known = [None if number % 3 else task.read(label) for number, label in enumerate(examples.labels)]
    return task, plain_model(task), Part(examples, known)


def test_the_head_sees_labelled_training_samples_with_mean_0_and_deviation_1(encoder, shards):
    task, model, part = model_and_part(encoder, shards)
    assert len(part.usable) < SAMPLES
    standardise(task, model, part, batch_size=7)
    rows = Rows(task, part.examples, part.known).batch(part.usable.tolist())
    model.eval()
    with torch.no_grad():
        pooled = observed_mean(latents_by_stream(model.backbone, rows))[0]
        seen = model.objective.head.standard(pooled)
    assert_close(seen.mean(0), torch.zeros(encoder.width), atol=1e-4, rtol=0)
    free = pooled.std(0, correction=0) > LEAST * pooled.std(0, correction=0).square().mean().sqrt()
    assert free.any()
    assert_close(seen.std(0, correction=0)[free], torch.ones(int(free.sum())), atol=1e-4, rtol=0)
    assert (seen.std(0, correction=0) < 1 + 1e-4).all()


def test_a_fitted_task_keeps_what_the_untouched_encoder_gave(encoder, shards):
    task, model, _ = model_and_part(encoder, shards)
    result = task.fit(shards, epochs=1, batch_size=64, learning_rate=1e-2)
    examples = examples_of(shards, task.inputs, label="place", split="train")
    known = [None if label is None else task.read(label) for label in examples.labels]
    standardise(task, model, Part(examples, known), batch_size=64)
    kept = result.task.model.objective.head.standard
    assert_close(kept.mean, model.objective.head.standard.mean)
    assert_close(kept.deviation, model.objective.head.standard.deviation)


def test_no_more_samples_are_looked_at_than_said(encoder, shards, monkeypatch):
    task, model, part = model_and_part(encoder, shards)
    monkeypatch.setattr("mmpt.finetune.standardise.SAMPLES", 5)
    counted = []
    model.objective.head.standard.register_forward_pre_hook(lambda _, rows: counted.append(len(rows[0])))
    standardise(task, model, part, batch_size=2)
    assert sum(counted) == 5


def test_samples_that_are_all_alike_are_only_moved():
    standard = Standard(4)
    rows = torch.full((3, 4), 7.0)
    standard.learn(rows)
    assert torch.equal(standard(rows + 1), torch.ones(3, 4))


def test_a_column_that_hardly_varied_does_not_blow_up():
    standard = Standard(2)
    standard.learn(torch.tensor([[1.0, 5.0], [-1.0, 5.0]]))
    assert standard(torch.tensor([[0.0, 6.0]]))[0, 1] == pytest.approx(1 / (LEAST * 0.5**0.5))


def test_a_head_learns_small_differences_beside_a_large_common_part_in_few_updates():
    generator = torch.Generator().manual_seed(0)
    common, difference = torch.randn(2, 16, generator=generator)
    labels = torch.arange(64) % 2
    latents = 2 * common + 0.02 * (2 * labels[:, None] - 1) * difference
    valid = torch.ones(64, 1, dtype=torch.bool)
    streams = {"a": TokenLatents(latents[:, None], valid, valid, torch.zeros(64, 1, dtype=torch.int64))}
    losses = []
    for learns in (True, False):
        torch.manual_seed(0)
        head = PooledHead(MeanPool(16), 16, 2)
        if learns:
            head.standard.learn(latents)
        optimizer = torch.optim.AdamW(head.parameters(), lr=3e-3)
        for _ in range(100):
            loss = cross_entropy(head(streams), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        losses.append(loss.item())
    assert losses[0] < 0.05
    assert losses[1] > 0.5

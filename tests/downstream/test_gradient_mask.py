"""Gradient-mask tuning: which entries are followed, of which gradient, and where it is refused."""

import pytest
import torch
from walks import backward, unfitted

import mmpt
from mmpt.config import component
from mmpt.errors import ConfigError
from mmpt.finetune import Classifier
from mmpt.finetune.strategies import Strategy
from mmpt.finetune.strategies.gradient_mask import largest


@pytest.fixture(scope="module")
def encoder(run):
    return mmpt.load(run)


def test_masked_gradients_are_the_largest_ones():
    gradient = torch.randn(13, 7)
    masked = largest(0.2, gradient)
    assert (masked != 0).sum() == int(0.2 * 91)
    assert gradient.abs()[masked == 0].max() <= gradient.abs()[masked != 0].min()
    assert torch.equal(masked[masked != 0], gradient[masked != 0])
    assert torch.equal(largest(1.0, gradient), gradient)
    assert (largest(0.001, torch.ones(9)) != 0).sum() == 1


def test_of_ties_as_many_are_followed_as_are_left():
    gradient = torch.tensor([3.0, -1.0, 1.0, 1.0, -1.0, 0.5, 1.0, -4.0, 1.0, 0.0])
    masked = largest(0.4, gradient)
    assert (masked != 0).sum() == 4
    assert masked[[0, 7]].tolist() == [3.0, -4.0]


def masked_and_whole(encoder, keep):
    """Gradients of one step with both streams, each alone through the trunk, under the mask and without one."""
    found = []
    for masks in (True, False):
        model, batch = unfitted(encoder, inputs=("image", "text"))
        model.objective.alone = True  # so that the trunk's weights have two parts of a gradient
        if masks:
            component(Strategy, "gradient_mask", keep=keep).build().prepare(model, encoder)
        hidden = model.eval().hide(batch, 0.0)
        found.append(backward(model, model(batch, hidden, 0.0).losses, hidden))
    return found


def test_the_mask_is_that_of_a_whole_gradient_however_many_uses_of_a_weight_add_up_to_it(encoder):
    masked, whole = masked_and_whole(encoder, 0.3)
    dense = [name for name, gradient in whole.items() if (gradient != 0).all()]
    assert len(dense) > 10
    for name, gradient in whole.items():
        assert torch.equal(masked[name], largest(0.3, gradient))
    assert all((masked[name] != 0).sum() == max(int(0.3 * masked[name].numel()), 1) for name in dense)


def test_plain_descent_moves_what_is_followed_and_leaves_the_rest_to_the_last_bit(encoder):
    model, batch = unfitted(encoder)
    component(Strategy, "gradient_mask", keep=0.2).build().prepare(model, encoder)
    before = {name: p.detach().clone() for name, p in model.backbone.named_parameters()}
    hidden = model.eval().hide(batch, 0.0)
    gradients = backward(model, model(batch, hidden, 0.0).losses, hidden)
    torch.optim.SGD(model.parameters(), lr=10.0, weight_decay=0.0).step()
    for name, gradient in gradients.items():
        after = model.backbone.get_parameter(name)
        assert torch.equal(after[gradient == 0], before[name][gradient == 0])
        assert (after != before[name]).any() == gradient.any()


def weights_of(encoder, shards, strategy, **settings):
    task = Classifier(encoder, label="place", inputs=["image"])
    task.fit(shards, strategy=strategy, epochs=1, batch_size=32, **settings)
    return task.model.state_dict()


def test_keeping_all_gradients_is_full_fine_tuning(encoder, shards):
    full = weights_of(encoder, shards, "full")
    masked = weights_of(encoder, shards, component(Strategy, "gradient_mask", keep=1.0))
    assert all(torch.equal(value, masked[name]) for name, value in full.items())


def test_divided_optimiser_states_of_one_rank_change_nothing_of_the_mask(encoder, shards):
    plain = weights_of(encoder, shards, "gradient_mask")
    divided = weights_of(encoder, shards, "gradient_mask", deepspeed={"zero_optimization": {"stage": 2}})
    assert all(torch.allclose(value, divided[name], atol=1e-6) for name, value in plain.items())
    full = weights_of(encoder, shards, "full")
    assert not all(torch.allclose(value, full[name], atol=1e-6) for name, value in plain.items())


def test_a_mask_of_gradients_is_refused_on_several_ranks(encoder, shards, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="strategy 'gradient_mask' works on one rank, and there are 2"):
        Classifier(encoder, label="place").fit(shards, strategy="gradient_mask")

"""A network for every stream: who goes where, and which weights a batch moves."""

import pytest
import torch
from torch.testing import assert_close

from mmpt.config import component
from mmpt.errors import ConfigError
from mmpt.export.trunk import trunk_shape
from mmpt.trunk import Surroundings, Trunk
from mmpt.trunk.feedforward import FeedForward
from mmpt.trunk.feedforward.dense import DenseFeedForward
from mmpt.trunk.feedforward.modality_experts import ModalityExperts
from mmpt.trunk.feedforward.routed_experts import RoutedExperts
from tests.trunk.test_transformer import DRAW, D, tokens_of

COLUMNS = ((0, 6), (1, 6))  # as tokens_of has them


def around_of(stream, columns):
    return Surroundings(torch.ones_like(stream, dtype=torch.bool), stream, None, None, DRAW, columns)


@pytest.fixture
def experts(randomised):
    return randomised(component(FeedForward, "modality_experts").build(D, 3))


@pytest.mark.parametrize("columns", [((0, 5), (1, 4), (2, 3)), ((2, 7), (0, 5)), ((1, 12),), ((1, 0), (0, 12))])
def test_every_token_goes_through_the_network_of_its_stream(experts, columns):
    stream = torch.cat([torch.full((6, size), number) for number, size in columns], dim=1)
    x = torch.randn(6, 12, D)
    change, routing = experts(x, around_of(stream, columns))
    each = torch.stack([expert(x) for expert in experts.experts], dim=2)
    wanted = each.gather(2, stream[..., None, None].expand(-1, -1, 1, D)).squeeze(2)
    assert_close(change, wanted, rtol=0, atol=1e-6)
    assert routing is None


def test_one_stream_is_the_dense_network():
    alone, dense = (component(FeedForward, name).build(D, 1) for name in ("modality_experts", "dense"))
    dense.mlp.load_state_dict(alone.experts[0].state_dict())
    x, around = torch.randn(6, 12, D), around_of(torch.zeros(6, 12).long(), ((0, 12),))
    assert torch.equal(alone(x, around)[0], dense(x, around)[0])


def test_streams_that_the_batch_lacks_have_gradients_of_zero(experts):
    change, _ = experts(torch.randn(6, 12, D), around_of(torch.ones(6, 12).long(), ((1, 12),)))
    change.square().sum().backward()
    for number, expert in enumerate(experts.experts):
        assert all((p.grad.abs().sum() > 0) == (number == 1) for p in expert.parameters())


def test_columns_that_do_not_add_up_are_refused(experts):
    with pytest.raises(ValueError, match="don't add up to the 12 tokens of a row"):
        experts(torch.randn(6, 12, D), around_of(torch.zeros(6, 12).long(), ()))


# ---- in the trunk


def trunk_of(randomised, **settings):
    settings = {"width": D, "depth": 3, "heads": 2, "feedforward": "modality_experts", **settings}
    return randomised(component(Trunk, "transformer", **settings).build(2))


ROUTED = {"type": "routed_experts", "experts": 4}


def test_lower_blocks_have_one_feed_forward_and_the_top_ones_another(randomised):
    trunk = trunk_of(randomised, top_feedforward=ROUTED, top_layers=2)
    kinds = [type(block.feedforward) for block in trunk.blocks]
    assert kinds == [ModalityExperts, RoutedExperts, RoutedExperts]
    output = trunk(tokens_of(), DRAW, COLUMNS)
    assert set(output.routings) == {2, 3}
    losses = [output.routings[layer].balance for layer in (2, 3)]
    assert_close(output.balance, (losses[0] + losses[1]) / 2)
    assert output.balance > 0.5
    assert output.router_z > 0


def test_a_trunk_without_a_gate_has_neither_losses_nor_figures(randomised):
    output = trunk_of(randomised)(tokens_of(), DRAW, COLUMNS)
    assert output.balance == 0
    assert output.router_z == 0
    assert output.metrics(["image", "text"]) == {}


@pytest.mark.parametrize("settings", [{"top_layers": 1}, {"top_feedforward": ROUTED}, {"top_layers": -1},
                                      {"top_feedforward": ROUTED, "top_layers": 4}])  # fmt: skip
def test_top_layers_and_their_feed_forward_go_together(randomised, settings):
    with pytest.raises(ConfigError, match=r"expected a feed-forward and 1 to 3 \(the depth\) blocks"):
        trunk_of(randomised, **settings)


def test_a_dense_top_of_another_width_is_built(randomised):
    trunk = trunk_of(randomised, feedforward="dense", top_feedforward={"type": "dense", "ratio": 2.0}, top_layers=1)
    assert all(isinstance(block.feedforward, DenseFeedForward) for block in trunk.blocks)
    assert [block.feedforward.mlp.fc1.out_features for block in trunk.blocks] == [64, 64, 32]


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({}, "only a dense feed-forward can be exported, this trunk has ModalityExperts; onnx and"),
        (
            {"feedforward": "dense", "top_feedforward": ROUTED, "top_layers": 1},
            "this trunk has RoutedExperts; onnx and safetensors take it",
        ),
        (
            {"feedforward": "dense", "top_feedforward": {"type": "dense", "ratio": 2.0}, "top_layers": 1},
            "only feed-forwards of one width can be exported, those of this trunk are 64, 64, 32 wide",
        ),
    ],
)
def test_what_other_libraries_lack_is_not_exported(randomised, settings, sentence):
    with pytest.raises(ConfigError, match=sentence):
        trunk_shape(trunk_of(randomised, **settings))


def test_layers_that_route_draw_apart(randomised):
    trunk = trunk_of(randomised, feedforward=ROUTED, top_feedforward=None)
    chosen = [routing.chosen for routing in trunk(tokens_of(), DRAW, COLUMNS).routings.values()]
    assert len({tuple(counts.flatten().tolist()) for counts in chosen}) == 3
    same = [block.feedforward for block in trunk.blocks]
    x = torch.randn(6, 12, D)
    around = around_of(tokens_of().stream, COLUMNS)
    assert not torch.equal(same[0](x, around)[0], same[0](x, around._replace(layer=1))[0])


def gradients(trunk):
    trunk.zero_grad()
    output = trunk(tokens_of(), DRAW, COLUMNS)
    (output.latents.square().sum() + output.balance + output.router_z).backward()
    return output.latents.detach(), [parameter.grad.clone() for parameter in trunk.parameters()]


def test_checkpointing_gives_the_same_gradients(randomised):
    plain, saving = (
        trunk_of(randomised, top_feedforward=ROUTED, top_layers=2, checkpointing=on, drop_path=0.3)
        for on in (False, True)
    )
    for mine, theirs in zip(gradients(saving)[1], gradients(plain)[1], strict=True):
        assert_close(mine, theirs, rtol=0, atol=1e-6)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_compiled_blocks_equal_eager_ones(randomised):
    plain, compiled = (
        trunk_of(randomised, top_feedforward=ROUTED, top_layers=1, depth=2, compile=on) for on in (False, True)
    )
    (latents, mine), (wanted, theirs) = gradients(compiled), gradients(plain)
    assert_close(latents, wanted, rtol=0, atol=1e-5)
    for ours, other in zip(mine, theirs, strict=True):
        assert_close(ours, other, rtol=1e-4, atol=1e-4)


def test_figures_name_layer_expert_and_stream(randomised):
    trunk = trunk_of(randomised, top_feedforward=ROUTED, top_layers=1)
    output = trunk(tokens_of(), DRAW, COLUMNS)
    metrics = output.metrics(["image", "text"])
    loads = {name: value for name, value in metrics.items() if name.startswith("experts/load/")}
    assert list(loads)[:2] == ["experts/load/3/0/image", "experts/load/3/1/image"]
    assert len(loads) == 4 * 2
    assert_close(sum(share / total for share, total in loads.values()), torch.tensor(1.0))
    for stream in ("image", "text"):
        assert metrics[f"experts/dropped/3/{stream}"][1] == 2 * 6 * 6  # two choices for each of 36 tokens
        entropy, tokens = metrics[f"experts/entropy/3/{stream}"]
        assert tokens == 6 * 6
        assert 0 < entropy / tokens <= 1
    assert_close(metrics["experts/balance"], (output.balance.detach(), torch.tensor(1.0)))

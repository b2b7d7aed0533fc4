"""Experts that a gate chooses: what becomes of every choice, and that companions and padding change nothing."""

import pytest
import torch
from torch.testing import assert_close

from mmpt.config import component
from mmpt.errors import ConfigError
from mmpt.trunk import Surroundings
from mmpt.trunk.feedforward import FeedForward
from mmpt.trunk.gating import balance_loss, choose, combine_weights, dropless, gumbel, within_capacity, z_loss

D, ROWS, SIZE = 16, 4, 9
DRAW = torch.arange(ROWS) * 7919 + 3
STREAM = (torch.arange(SIZE) >= 4).long().expand(ROWS, -1)
VALID = torch.arange(SIZE) < torch.tensor([[9], [6], [1], [0]])


def around_of(valid=None, **changes):
    valid = torch.ones(ROWS, SIZE, dtype=torch.bool) if valid is None else valid
    return Surroundings(valid, STREAM, None, None, DRAW, ((0, 4), (1, 5)))._replace(**changes)


def tokens_of(seed=0):
    return torch.randn(ROWS, SIZE, D, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def routed_of(randomised):
    def make(**settings):
        return randomised(component(FeedForward, "routed_experts", **settings).build(D, 2))

    return make


# ---- one expert, all places


@pytest.mark.parametrize("dropless", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_one_expert_is_the_dense_network(routed_of, dropless, training):
    routed = routed_of(experts=1, k=1, dropless=dropless).train(training)
    dense = component(FeedForward, "dense").build(D)
    dense.mlp.load_state_dict(routed.experts["0"].state_dict())
    x = tokens_of()
    change, routing = routed(x, around_of())
    assert_close(change, dense(x, around_of())[0], rtol=0, atol=1e-7)
    assert routing.balance == 1
    assert not routing.dropped.any()


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_a_change_is_the_mixture_that_the_gate_says(routed_of, k):
    routed = routed_of(experts=5, k=k, modality_bias="none").eval()
    x = tokens_of()
    change, _ = routed(x, around_of())
    made = torch.stack([expert(x) for expert in routed.experts.values()])  # E B S D
    gates = (x @ routed.gate.weight.T).softmax(2)
    best = gates.topk(k, dim=2)
    weights = best.values if k == 1 else best.values / best.values.sum(2, keepdim=True)
    wanted = sum(
        weights[..., n, None] * made.gather(0, best.indices[None, ..., n, None].expand(-1, -1, -1, D))[0]
        for n in range(k)
    )
    assert_close(change, wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_places_for_all_equal_no_drops(routed_of, k):
    roomy = routed_of(experts=4, k=k, capacity_factor=4.0)
    without = routed_of(experts=4, k=k, dropless=True)
    for valid in (None, VALID):
        (change, routing), (other, other_routing) = (part(tokens_of(), around_of(valid)) for part in (roomy, without))
        assert_close(change, other, rtol=0, atol=1e-6)
        assert_close(routing, other_routing)
        assert not routing.dropped.any()


# ---- every choice is counted


@pytest.mark.parametrize("factor", [0.1, 0.5, 1.0, 3.0])
@pytest.mark.parametrize("k", [1, 2, 3])
def test_what_is_assigned_and_what_is_dropped_are_all_choices(k, factor):
    generator = torch.Generator().manual_seed(k)
    logits, valid = torch.randn(200, 6, generator=generator), torch.rand(200, generator=generator) < 0.7
    _, experts = choose(logits, k, None)
    plan = within_capacity(experts, valid, 6, factor, 2)
    filled = plan.source < 200
    assert filled.sum() == plan.kept.sum()
    assert not plan.kept[:, ~valid].any()
    for number, (size, sources) in enumerate(zip(plan.sizes, plan.source.split(plan.sizes), strict=True)):
        asked = ((experts == number) & valid).any(0)
        mine = sources[sources < 200]
        assert len(mine) == min(int(asked.sum()), max(2, -(-int(valid.sum()) * k * factor // 6)), size)
        assert asked[mine].all()
        assert len(mine.unique()) == len(mine)
    there = plan.kept
    assert torch.equal(plan.source[plan.slot[there]], torch.arange(200).expand(k, -1)[there])


def test_first_choices_are_served_before_second_ones_and_early_tokens_before_late_ones():
    experts = torch.tensor([[0, 1, 1, 0, 0], [1, 0, 0, 1, 1]])
    plan = within_capacity(experts, torch.ones(5, dtype=torch.bool), 2, 0.8, 1)  # 4 places
    assert plan.kept.tolist() == [[True] * 5, [True, True, False, True, False]]


def test_padding_takes_no_place():
    experts = torch.zeros(1, 6, dtype=torch.int64)
    valid = torch.tensor([False, True, False, True, True, True])
    plan = within_capacity(experts, valid, 2, 1.0, 1)  # of 4 valid tokens 2 places an expert
    assert plan.kept.tolist() == [[False, True, False, True, False, False]]


@pytest.mark.parametrize("factor", [0.1, 0.6, 1.0, 5.0])
def test_combine_weights_add_up_to_one_or_nothing(factor):
    gates, experts = choose(torch.randn(100, 5) * 3, 2, None)
    plan = within_capacity(experts, torch.rand(100) < 0.8, 5, factor, 1)
    sums = combine_weights(gates, experts, plan.kept).sum(0)
    assert_close(sums, plan.kept.any(0).float())


def test_a_token_without_a_place_changes_by_nothing_and_one_place_gets_all_the_weight(routed_of):
    routed = routed_of(experts=4, k=2, capacity_factor=0.3, min_capacity=1)
    x = tokens_of()
    change, routing = routed(x, around_of())
    asked = routing.chosen.sum()
    assert asked == 2 * ROWS * SIZE
    assert routing.dropped.sum() == asked - 4 * 6  # every expert takes 6 of 72
    gone = change.abs().amax(2) == 0
    assert 0 < gone.sum() < ROWS * SIZE


def test_choices_are_counted_by_stream(routed_of):
    routing = routed_of(experts=4, k=2)(tokens_of(), around_of(VALID))[1]
    assert routing.chosen.sum(1).tolist() == [2.0 * (VALID & (n == STREAM)).sum() for n in (0, 1)]
    assert routing.tokens.tolist() == [(VALID & (n == STREAM)).sum() for n in (0, 1)]


def test_what_is_dropped_is_counted_by_stream(routed_of):
    """One row of a stream that comes first and one behind it, for which no place is left."""
    routed = routed_of(experts=1, k=1, capacity_factor=0.5, min_capacity=1)
    around = around_of()._replace(valid=torch.ones(1, SIZE, dtype=torch.bool), stream=STREAM[:1], draw=DRAW[:1])
    assert routed(tokens_of()[:1], around)[1].dropped.tolist() == [0.0, 4.0]  # 5 places for 4 tokens and 5


def test_the_entropy_is_that_of_the_gate_in_units_of_log_e(routed_of):
    routed = routed_of(experts=4, modality_bias="none")
    x = tokens_of()
    routing = routed(x, around_of(VALID))[1]
    wanted = torch.distributions.Categorical(logits=x @ routed.gate.weight.T).entropy() / torch.tensor(4.0).log()
    of_streams = [VALID & (n == STREAM) for n in (0, 1)]
    assert_close(routing.entropy, torch.stack([wanted[own].sum() for own in of_streams]))
    torch.nn.init.zeros_(routed.gate.weight)
    assert_close(routed(x, around_of(VALID))[1].entropy, torch.tensor([float(own.sum()) for own in of_streams]))


# ---- losses


def test_the_balance_loss_is_one_if_even_and_e_if_one_expert_has_all():
    everyone = torch.ones(60, dtype=torch.bool)
    even = torch.arange(60) % 6
    assert_close(balance_loss(torch.full((60, 6), 1 / 6), even, everyone), torch.tensor(1.0))
    collapsed = torch.eye(6)[torch.zeros(60, dtype=torch.int64)]
    assert_close(balance_loss(collapsed, torch.zeros(60, dtype=torch.int64), everyone), torch.tensor(6.0))


def test_losses_leave_padding_out():
    logits, valid = torch.randn(50, 4), torch.arange(50) < 30
    gates, experts = choose(logits, 2, None)
    other = torch.where(valid.unsqueeze(1), logits, 100 * torch.randn(50, 4))
    other_gates, other_experts = choose(other, 2, None)
    for mine, theirs in (
        (balance_loss(gates, experts[0], valid), balance_loss(other_gates, other_experts[0], valid)),
        (balance_loss(gates, experts[0], valid), balance_loss(gates[:30], experts[0, :30], valid[:30])),
        (z_loss(logits, valid), z_loss(other, valid)),
        (z_loss(logits, valid), torch.logsumexp(logits[:30], 1).square().mean()),
    ):
        assert_close(mine, theirs)


def test_the_gate_learns_from_the_task_with_one_choice_and_with_two(routed_of):
    for k in (1, 2):
        routed = routed_of(experts=4, k=k)
        routed(tokens_of(), around_of())[0].square().sum().backward()
        assert routed.gate.weight.grad.abs().max() > 1e-3
        assert routed.stream_vector.weight.grad.abs().max() > 1e-4


def test_the_balance_loss_pushes_a_collapsed_gate_apart(routed_of):
    routed = routed_of(experts=4, modality_bias="none")
    with torch.no_grad():
        routed.gate.weight[0] = 0.3
    x = tokens_of().abs()
    optimizer, before = torch.optim.SGD([routed.gate.weight], lr=0.3), routed(x, around_of())[1].balance
    for _ in range(60):
        optimizer.zero_grad()
        routed(x, around_of())[1].balance.backward()
        optimizer.step()
    assert before > 3
    assert routed(x, around_of())[1].balance < 1.3


def test_an_expert_that_nobody_chose_has_gradients_of_zero(routed_of):
    for training, roomy in ((True, False), (True, True), (False, False)):
        routed = routed_of(experts=6, k=1, dropless=roomy).train(training)
        valid = torch.zeros(ROWS, SIZE, dtype=torch.bool)
        valid[0, :2] = True
        change, routing = routed(tokens_of(), around_of(valid))
        (change.sum() + routing.balance).backward()
        idle = [expert for number, expert in enumerate(routed.experts.values()) if routing.chosen[:, number].sum() == 0]
        assert len(idle) >= 4
        assert all((p.grad == 0).all() for expert in idle for p in expert.parameters())


@pytest.mark.parametrize("dropless", [False, True])
def test_a_batch_of_padding_has_no_change_and_finite_gradients(routed_of, dropless):
    routed = routed_of(dropless=dropless)
    change, routing = routed(tokens_of(), around_of(torch.zeros(ROWS, SIZE, dtype=torch.bool)))
    assert (change == 0).all()
    assert routing.balance == 0
    (change.sum() + routing.balance + routing.router_z).backward()
    assert all((p.grad == 0).all() for p in routed.parameters())


# ---- what may change nothing


@pytest.mark.parametrize("factor", [0.5, 1.0])
def test_permuted_padding_changes_nothing(routed_of, factor):
    routed = routed_of(experts=4, capacity_factor=factor)
    x = tokens_of()
    other = torch.where(VALID.unsqueeze(2), x, x.flip(0, 1) * 7)
    (change, routing), (again, other_routing) = routed(x, around_of(VALID)), routed(other, around_of(VALID))
    assert torch.equal(change[VALID], again[VALID])
    assert (change[~VALID] == 0).all()
    assert_close(routing, other_routing, rtol=0, atol=0)


def test_outside_training_and_without_drops_a_row_is_alike_alone_and_in_a_batch(routed_of):
    for routed in (routed_of(experts=4).eval(), routed_of(experts=4, dropless=True)):
        x = tokens_of()
        change, _ = routed(x, around_of(VALID))
        for row in range(ROWS):
            one = slice(row, row + 1)
            alone = around_of(VALID[one], stream=STREAM[one], draw=DRAW[one])
            assert_close(routed(x[one], alone)[0], change[one], rtol=0, atol=1e-6)


def test_noise_is_of_the_row_and_its_tokens_and_not_of_the_padding_between_them():
    valid = torch.tensor([[True, True, True, True, False], [True, False, True, True, True]])
    draw = torch.tensor([11, 11])
    noise = gumbel(draw, valid, 3, 6)
    assert torch.equal(noise[0, [0, 1, 2, 3]], noise[1, [0, 2, 3, 4]])
    assert not torch.equal(noise, gumbel(draw, valid, 4, 6))
    assert not torch.equal(noise, gumbel(draw + 1, valid, 3, 6))


def test_noise_is_gumbels():
    noise = gumbel(torch.arange(2000), torch.ones(2000, 5, dtype=torch.bool), 1, 4).flatten()
    assert abs(noise.mean() - 0.5772) < 0.02
    assert abs(noise.var() - torch.pi**2 / 6) < 0.05


def test_second_choices_are_sampled_in_training_alone_and_first_ones_never(routed_of):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, generator=generator).expand(20000, 4)
    noise = gumbel(torch.arange(20000), torch.ones(20000, 1, dtype=torch.bool), 1, 4).squeeze(1).float()
    gates, experts = choose(logits, 2, noise)
    best = int(logits[0].argmax())
    assert (experts[0] == best).all()
    shares = experts[1].bincount(minlength=4) / 20000
    others = gates[0].clone()
    others[best] = 0
    assert_close(shares, others / others.sum(), rtol=0, atol=0.015)
    routed = routed_of(experts=8)
    x = tokens_of()
    assert not torch.equal(routed(x, around_of())[0], routed(x, around_of(draw=DRAW + 1))[0])
    routed.eval()
    assert torch.equal(routed(x, around_of())[0], routed(x, around_of(draw=DRAW + 1))[0])


def test_dropless_serves_everyone_in_order():
    experts = torch.tensor([[2, 0, 2, 1], [0, 2, 1, 0]])
    plan = dropless(experts, torch.tensor([True, True, False, True]), 3)
    assert plan.sizes == [3, 1, 2]
    assert plan.source.tolist() == [1, 0, 3, 3, 0, 1]
    assert plan.slot.tolist() == [[4, 0, 6, 3], [1, 5, 6, 2]]


# ---- settings


@pytest.mark.parametrize(("bias", "gate", "experts"), [("none", False, False), ("gate_only", True, False),
                                                       ("gate_and_expert", True, True)])  # fmt: skip
def test_the_streams_vector_reaches_what_it_is_said_to(routed_of, bias, gate, experts):
    routed = routed_of(experts=3, k=3, modality_bias=bias).eval()
    x = tokens_of()
    change, _ = routed(x, around_of())
    if routed.stream_vector is None:
        assert bias == "none"
        return
    gates = routed.gate((x + routed.stream_vector(STREAM)).flatten(0, 1)).softmax(1).view(ROWS, SIZE, 3)
    entering = x + routed.stream_vector(STREAM) * experts
    wanted = sum(gates[..., n, None] * expert(entering) for n, expert in enumerate(routed.experts.values()))
    assert_close(change, wanted, rtol=0, atol=1e-5)
    assert gate


def test_the_gate_computes_in_full_precision_under_autocast(routed_of):
    routed = routed_of(experts=4)
    x = tokens_of().flatten(0, 1)
    plain = routed.gate(x)
    with torch.autocast("cpu", torch.bfloat16):
        under = routed.gate(x.bfloat16())
        change, _ = routed(tokens_of(), around_of())
    assert under.dtype == torch.float32
    assert torch.equal(under, routed.gate(x.bfloat16().float()))
    assert (under - plain).abs().max() > 0
    assert change.isfinite().all()


def test_settings_without_sense_are_refused(routed_of):
    with pytest.raises(ConfigError, match="k: expected 1 to 4, the number of experts, got 5"):
        routed_of(experts=4, k=5)
    with pytest.raises(ConfigError, match="capacity_factor, min_capacity"):
        routed_of(capacity_factor=0.0)

"""Experts divided over two real processes: every token gets what it gets from whole ones, and so does every weight."""

from copy import deepcopy

import pytest
import torch
from torch import distributed
from torch.multiprocessing.spawn import spawn
from torch.testing import assert_close

from mmpt.trunk import Surroundings
from mmpt.trunk.feedforward.routed_experts import RoutedExperts

D, E = 8, 4
SHAPES = ((3, 7), (2, 4))  # of the ranks' batches
ABSENT = (0.0, 1.0)  # share of padding: the other rank may have nothing to send


def around_of(rank, absent):
    rows, size = SHAPES[rank]
    lots = torch.rand(rows, size, generator=torch.Generator().manual_seed(rank))
    draw = torch.arange(rows) * 7919 + rank
    return Surroundings(lots >= absent, torch.zeros(rows, size, dtype=torch.int64), None, None, draw)


def compare(rank, settings, training, absent):
    torch.manual_seed(0)
    whole = RoutedExperts(D, 1, experts=E, k=2, min_capacity=1, **settings).train(training)
    divided = deepcopy(whole)
    kept = divided.divide(distributed.group.WORLD)
    assert list(divided.experts) == [["0", "1"], ["2", "3"]][rank]
    assert len(kept) == 2 * 4
    x, around = torch.randn(*SHAPES[rank], D), around_of(rank, absent if rank else 0.0)
    inputs = [x.clone().requires_grad_() for _ in range(2)]
    changes = [part(own, around)[0] for part, own in zip((whole, divided), inputs, strict=True)]
    assert_close(changes[1], changes[0], rtol=0, atol=1e-6)
    for change in changes:
        (change * torch.arange(D)).square().sum().backward()
    assert_close(inputs[1].grad, inputs[0].grad, rtol=0, atol=1e-4)
    assert_close(divided.gate.weight.grad, whole.gate.weight.grad, rtol=1e-5, atol=1e-4)
    for name, parameter in whole.experts.named_parameters():
        assert parameter.grad is not None
        distributed.all_reduce(parameter.grad)
        if name.split(".")[0] in divided.experts:
            assert_close(divided.experts.get_parameter(name).grad, parameter.grad, rtol=1e-5, atol=1e-4)


def compare_all(rank, store):
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    for settings in ({}, {"dropless": True}, {"capacity_factor": 4.0}):
        for training in (True, False):
            for absent in ABSENT:
                compare(rank, settings, training, absent)
    distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_with_half_of_the_experts_each_do_what_one_with_all_does(tmp_path):
    spawn(compare_all, (tmp_path / "store",), nprocs=2)

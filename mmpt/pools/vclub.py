"""An upper bound of mutual information, and the network that says what one side makes likely of the other.

vCLUB (Cheng et al. 2020, CLUB: A Contrastive Log-ratio Upper Bound of Mutual Information, equations 9 and 14). With the
true conditional it is an upper bound, and a loose one: of two Gaussian numbers with correlation r it is r^2 / (1 - r^2)
nats, where their mutual information is -log(1 - r^2) / 2. With an estimate it is as good as the estimate.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.distributed import group, is_initialized
from torch.distributed._functional_collectives import all_reduce
from torch.func import functional_call
from torch.optim.adam import adam

MOMENTS = ("exp_avg", "exp_avg_sq")


class Gaussian(NamedTuple):
    """One with a diagonal covariance for every row."""

    mean: Float[Tensor, "B W"]
    log_variance: Float[Tensor, "B W"]


def log_likelihood(q: Gaussian, y: Float[Tensor, "B W"]) -> Float[Tensor, " B"]:
    """Nats, of each row's y under the row's own Gaussian."""
    squares = (y - q.mean).square() / q.log_variance.exp()
    return -0.5 * (squares + q.log_variance + math.log(2 * math.pi)).sum(dim=1)


def vclub(q: Gaussian, y: Float[Tensor, "B W"], counted: Bool[Tensor, " B"]) -> Float[Tensor, " B"]:
    """By row i, log q(y_i | x_i) - mean over j of log q(y_j | x_i), in nats; 0 in rows that don't count.

    Their mean over the rows that count is the bound. That over j goes over those of all ranks, i among them. It needs
    no pairs: of a Gaussian it is a matter of y's first two moments. So every rank has to call, as in a step of
    training; the gradient goes through all ranks.
    """
    y = torch.where(counted.unsqueeze(1), y, 0.0)
    sums = over_ranks(torch.stack([y.sum(dim=0), y.square().sum(dim=0)]))
    count = over_ranks(counted.sum().to(y.dtype)).clamp(min=1)
    mean, square = sums / count
    others = (q.mean - mean).square() + square - mean.square()
    each = (others - (y - q.mean).square()) / (2 * q.log_variance.exp())
    return torch.where(counted, each.sum(dim=1), 0.0)


def over_ranks(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """The sum over ranks, with its gradient; x itself where there is no process group."""
    world = group.WORLD if is_initialized() else None
    return x if world is None else all_reduce(x, "sum", world)


class Estimator(nn.Module):
    """q(y | x), which learns by an Adam of its own: its weights stand still in all but `learn`.

    No optimiser of the model's knows it, since its weights ask for no gradient; the gradient of what is computed with
    them still reaches x and y. Adam's moments are buffers, so that a checkpoint of the model has all that going on
    needs.

    Args:
        x_size, y_size: numbers of a row on both sides.
        hidden: of each of the two networks, one for the mean and one for the logarithm of the variance, which a
            hyperbolic tangent keeps between -1 and 1, as in the authors' code.
        learning_rate: of Adam.
    """

    steps: Tensor

    def __init__(self, x_size: int, y_size: int, *, hidden: int, learning_rate: float) -> None:
        super().__init__()
        self.learning_rate = learning_rate
        self.mean = nn.Sequential(nn.Linear(x_size, hidden), nn.ReLU(), nn.Linear(hidden, y_size))
        self.log_variance = nn.Sequential(nn.Linear(x_size, hidden), nn.ReLU(), nn.Linear(hidden, y_size), nn.Tanh())
        self.requires_grad_(False)
        self.register_buffer("steps", torch.zeros(()))
        for name, parameter in self.named_parameters():
            for moment in MOMENTS:
                self.register_buffer(_buffer(name, moment), torch.zeros_like(parameter))

    def forward(self, x: Float[Tensor, "B D"]) -> Gaussian:
        """What x makes likely of y."""
        return Gaussian(self.mean(x), self.log_variance(x))

    @torch.no_grad()
    def learn(self, x: Float[Tensor, "B D"], y: Float[Tensor, "B W"], counted: Bool[Tensor, " B"]) -> None:
        """One step up the mean log-likelihood of the counted rows of all ranks, which all have to call.

        Where there are no such rows, or something is not finite, nothing moves. All ranks take the same step: the
        gradient is summed over them, and the sum is the same bit for bit.
        """
        weights = {name: parameter.detach().requires_grad_() for name, parameter in self.named_parameters()}
        with torch.enable_grad(), torch.autocast(x.device.type, enabled=False):
            q: Gaussian = functional_call(self, weights, (x.detach().float(),))
            each = log_likelihood(q, y.detach().float())
            total = torch.where(counted, each, 0.0).sum()
            gradients = torch.autograd.grad(total, list(weights.values()))
        flat = torch.cat([counted.sum().float().view(1), *(gradient.flatten() for gradient in gradients)])
        count, *parts = over_ranks(flat).split([1, *(gradient.numel() for gradient in gradients)])
        parts = [-(part.view_as(own) / count.clamp(min=1)) for part, own in zip(parts, gradients, strict=True)]
        usable = (count > 0) & torch.stack([part.sum() for part in parts]).isfinite().all()
        self._step(parts, ~usable.squeeze())

    def _step(self, gradients: list[Tensor], held: Bool[Tensor, ""]) -> None:
        names = [name for name, _ in self.named_parameters()]
        first, second = ([self.get_buffer(_buffer(name, moment)) for name in names] for moment in MOMENTS)
        steps = [self.steps.clone() for _ in names]
        adam(
            list(self.parameters()), gradients, first, second, [], steps, fused=True, found_inf=held.float(),
            amsgrad=False, beta1=0.9, beta2=0.999, lr=self.learning_rate, weight_decay=0.0, eps=1e-8, maximize=False,
        )  # fmt: skip
        self.steps.copy_(steps[0])


def _buffer(name: str, moment: str) -> str:
    return f"{name.replace('.', '_')}_{moment}"

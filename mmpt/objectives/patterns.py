"""Two of four: which weights of every group of four along a layer's inputs are kept (MaskLLM, Fang et al. 2024)."""

from itertools import combinations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from mmpt.errors import ConfigError
from mmpt.randomness import fold, key, uniform
from mmpt.trunk import Trunk

GROUP, KEPT = 4, 2
PATTERNS = tuple(tuple(float(place in pair) for place in range(GROUP)) for pair in combinations(range(GROUP), KEPT))
SPREAD = 0.01  # standard deviation of fresh logits


def linear_layers(trunk: Trunk) -> dict[str, nn.Linear]:
    """Those of the blocks, by name in the trunk; raises ConfigError for inputs that no groups of four fit."""
    layers = {
        name: module for name, module in trunk.named_modules() if isinstance(module, nn.Linear) and "blocks." in name
    }
    if not layers:
        raise ConfigError("the trunk has no blocks with linear layers to make sparse")
    for name, layer in layers.items():
        if layer.in_features % GROUP:
            near = layer.in_features - layer.in_features % GROUP
            raise ConfigError(
                f"trunk.{name}: its {layer.in_features} inputs are no groups of {GROUP}; use a width of {near} or "
                f"{near + GROUP}"
            )
    return layers


def patterns(like: Tensor) -> Float[Tensor, "6 4"]:
    """All of them, as zeros and ones."""
    return torch.tensor(PATTERNS, dtype=torch.float32, device=like.device)


def largest(weight: Float[Tensor, "O I"]) -> Int[Tensor, "O G"]:
    """By magnitude: the pattern of the two largest weights of every group."""
    return (grouped(weight.float().abs()) @ patterns(weight).T).argmax(2)


def prior(weight: Float[Tensor, "O I"], strength: float) -> Float[Tensor, "O G 6"]:
    """What magnitude adds to the logits: 1, 0 or -1 times strength and spread, by how many weights are common."""
    every = patterns(weight)
    return SPREAD * strength * (every[largest(weight)] @ every.T - 1)


def soft(
    logits: Float[Tensor, "O G 6"], scale: float, temperature: float, draw: int
) -> tuple[Float[Tensor, "O I"], Float[Tensor, "O G 6"]]:
    """Shares of each weight that are kept, two of each four in sum, and the patterns' (Gumbel softmax, Jang 2017)."""
    noise = -(-uniform(numbered(logits, draw)).log()).log()
    shares = ((scale * logits + noise.float()) / temperature).softmax(2)
    return (shares @ patterns(logits)).flatten(1), shares


def hard(logits: Float[Tensor, "O G 6"]) -> Float[Tensor, "O I"]:
    """Zeros and ones of the likeliest pattern, exactly two ones in each group."""
    return patterns(logits)[logits.argmax(2)].flatten(1)


def numbered(logits: Float[Tensor, "O G 6"], draw: int) -> Int[Tensor, "O G 6"]:
    """A key for every logit."""
    counter = torch.arange(logits.numel(), device=logits.device).view(logits.shape)
    return fold(torch.full_like(counter, draw), counter)


def grouped(weight: Float[Tensor, "O I"]) -> Float[Tensor, "O G 4"]:
    """Groups along the inputs."""
    return weight.unflatten(1, (-1, GROUP))


def draw_of(position: int, layer: int) -> int:
    """The key of a layer's noise in a step: all ranks and micro-batches have the same."""
    return key(position, layer, "patterns")

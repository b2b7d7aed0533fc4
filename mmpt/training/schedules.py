"""The learning rate of every step."""

import math

from mmpt.settings import OptimizerSettings


def learning_rate(settings: OptimizerSettings, step: int, steps: int) -> float:
    """Of the update number `step` (0 .. steps - 1): a linear rise, then the chosen shape.

    `inverse_sqrt` falls with the square root of the step after the warm-up (Vaswani et al. 2017, section 5.3).
    """
    peak, warmup = settings.learning_rate, settings.warmup_steps
    if step < warmup:
        return peak * (step + 1) / warmup
    done = (step - warmup) / max(steps - warmup, 1)
    floor = settings.final_share
    shapes = {
        "constant": 1.0,
        "linear": 1 - (1 - floor) * done,
        "cosine": floor + (1 - floor) * (1 + math.cos(math.pi * done)) / 2,
        "inverse_sqrt": math.sqrt(max(warmup, 1) / max(step + 1, 1)),
    }
    return peak * shapes[settings.schedule]

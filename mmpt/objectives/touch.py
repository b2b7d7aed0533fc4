"""A gradient for the weights of a stream that a batch lacks."""

from functools import partial
from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mmpt.encoders import Encoder, Modality
from mmpt.objectives.predictors import Latents
from mmpt.objectives.stream_objective import StreamObjective
from mmpt.objectives.targets.online_codes import OnlineCodesTarget
from mmpt.tokens import Scored, StreamContext, score


def touched(part: StreamObjective, encoder: Encoder, modality: Modality, draw: Int[Tensor, " 1"]) -> Float[Tensor, ""]:
    """A number that depends on all weights of encoder, corruption and predictors, computed on a row of padding."""
    content = modality.collate([[]], None).to(draw.device)
    tokens = encoder(content)
    context = StreamContext(content, draw, 1.0, substitute=partial(encoder.substitute, content))
    shown = part.corruption(tokens, torch.zeros_like(content.valid), context)
    shown = encoder.settle(shown, content.valid.shape[1])
    inner = dict.fromkeys(part.predictor.layers, shown.tokens.x)
    latents = Latents(shown.tokens.x, shown, shown.tokens, draw, inner)
    predictors = [part.predictor] + ([part.loss_prediction.predictor] if part.loss_prediction is not None else [])
    scored = score(content.valid, None)
    predictions = [predictor(latents, content, scored).float().sum() for predictor in predictors]
    if part.contrast is not None:
        every = Scored(shown.places, content.valid, full=True)
        quantised = cast("OnlineCodesTarget", part.target).quantised(context._replace(embedded=tokens.x), every)
        predictions.append(part.contrast.touch(latents.own, quantised))
    return sum(predictions, shown.tokens.x.float().sum() + shown.tokens.position.float().sum())

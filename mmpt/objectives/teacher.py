"""Averaged teachers: copies that follow the trained weights and are never trained (Tarvainen and Valpola 2017)."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from dataclasses import dataclass
from typing import Literal, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from mmpt.model import Backbone
from mmpt.objectives import Hidden
from mmpt.objectives.context import context_of
from mmpt.objectives.corruption import Corruption
from mmpt.objectives.latents import all_places, latents_of, of_complete
from mmpt.objectives.predictors import Latents, Predictor
from mmpt.randomness import uniform_rows
from mmpt.tokens import Batch, Content, StreamContext

ENCODERS = "backbone.encoders."  # where a copy has them
NATIVE_BFLOAT16 = ("avx512_bf16", "amx_bf16")


@dataclass(frozen=True, kw_only=True)
class TeacherSettings:
    """How slowly a teacher follows (hard patch mining, Wang et al. 2023, appendix; data2vec, Baevski et al. 2022).

    Args:
        start: the momentum at progress 0, the share of itself that the teacher keeps in an update; 1 stands still.
        end: the momentum it rises to, along a line.
        rise: the progress at which it gets there; constant from then on.
        views: 1 looks at complete samples, as in the paper, though its predictor learns at hidden tokens alone. More
            look at as many complementary masks (not in the paper): each shows one of `views` random parts of the
            guided streams and hides the rest, and a token's number is the mean of those it has where it is hidden.
        encoders: `average` them with the trunk, or let the teacher use the `same` as the student, as data2vec does.
        precision: of what is only ranked, the expected losses: that of the `step`, or `auto`, bfloat16 on processors
            that multiply it natively even where the step is in float32. Targets and weights are always the step's.
    """

    start: float = 0.999
    end: float = 0.9999
    rise: float = 0.5
    views: int = 1
    encoders: Literal["average", "same"] = "average"
    precision: Literal["step", "auto"] = "step"

    def __post_init__(self) -> None:
        for name in ("start", "end"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}: expected a momentum from 0 to 1, got {getattr(self, name)}")
        if not 0 < self.rise <= 1:
            raise ValueError(f"rise: expected a share of the run above 0 and up to 1, got {self.rise}")
        if self.views < 1:
            raise ValueError(f"views: expected at least 1, got {self.views}")

    def momentum(self, progress: float) -> float:
        """At this progress."""
        return self.start + (self.end - self.start) * min(progress / self.rise, 1.0)


class Followed(nn.Module):
    """What a teacher is a copy of: a backbone and, for hard patch mining, the loss predictors on it."""

    def __init__(
        self, backbone: Backbone, corruptions: Mapping[str, Corruption], predictors: Mapping[str, Predictor]
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.corruptions = nn.ModuleDict(corruptions)
        self.predictors = nn.ModuleDict(predictors)

    @torch.no_grad()
    def forward(self, batch: Batch, progress: float, views: int) -> dict[str, Float[Tensor, "B N"]]:
        """The loss expected of every token, by guided stream; what can't be hidden has a number without meaning."""
        names = [name for name in self.predictors if name in batch.streams]
        if not names:
            return {}
        if views == 1:
            return self._predicted(of_complete(self.backbone, batch), batch, names)
        corruptions = {name: cast("Corruption", part) for name, part in self.corruptions.items()}
        totals: dict[str, Tensor] = {}
        for view in range(views):
            hidden = {name: _nothing(content) for name, content in batch.streams.items()}
            hidden |= {name: _all_but(view, views, context_of(batch, name, progress)) for name in names}
            latents = latents_of(self.backbone, corruptions, batch, hidden, progress).latents
            for name, predicted in self._predicted(latents, batch, names).items():
                totals[name] = totals.get(name, 0.0) + predicted * hidden[name].hidden
        return {name: total / (views - 1) for name, total in totals.items()}  # each token is shown once

    def _predicted(
        self, latents: Mapping[str, Latents], batch: Batch, names: Sequence[str]
    ) -> dict[str, Float[Tensor, "B N"]]:
        predicted = {}
        for name in names:
            content, predictor = batch.streams[name], cast("Predictor", self.predictors[name])
            numbers = predictor(latents[name], content, all_places(content))
            predicted[name] = numbers.float().view(content.valid.shape)
        return predicted


def _nothing(content: Content) -> Hidden:
    none = torch.zeros_like(content.valid)
    return Hidden(none, none, 0 if content.full else None, none.sum().float())


def _all_but(view: int, views: int, context: StreamContext) -> Hidden:
    """All tokens that may be hidden but those of one part; parts are drawn by row and as equal as can be."""
    maskable, known = context.maskable, context.content.observed_count
    lots = uniform_rows(context.draw, maskable.shape[1], "a teacher's views").masked_fill(~maskable, 2.0)
    part = lots.argsort(dim=1).argsort(dim=1) % views
    hidden = maskable & (part != view)
    count = None if known is None else known - (known - view + views - 1) // views
    return Hidden(hidden, hidden, count, hidden.sum().float())


def precision_of(device: torch.device) -> AbstractContextManager[object]:
    """Autocast to bfloat16 on a processor with instructions for it; elsewhere its products are many times slower.

    On other devices the step's own autocast decides.
    """
    native = device.type == "cpu" and any(map(torch.cpu.get_capabilities().get, NATIVE_BFLOAT16))
    return torch.autocast("cpu", torch.bfloat16) if native else nullcontext()


class Teacher(nn.Module):
    """The exponential moving average of a module's weights, as weights of the model that no optimiser knows."""

    def __init__(self, student: nn.Module, settings: TeacherSettings) -> None:
        super().__init__()
        self.average = deepcopy(student).requires_grad_(False)
        self.settings = settings
        self.eval()

    def look(self, batch: Batch, progress: float) -> dict[str, Float[Tensor, "B N"]]:
        """The loss it expects of every token, by stream."""
        with precision_of(batch.draw.device) if self.settings.precision == "auto" else nullcontext():
            return self.average(batch, progress, self.settings.views)

    @torch.no_grad()
    def taught(self, batch: Batch, layers: int) -> dict[str, Float[Tensor, "L B N D"]]:
        """What its last blocks' feed-forwards add to every token of the complete rows, by stream."""
        backbone = cast("Followed", self.average).backbone
        depth = backbone.trunk.depth
        return backbone.changes(batch, range(depth - layers + 1, depth + 1))

    def train(self, mode: bool = True) -> "Teacher":
        """Never: a teacher looks at samples as downstream work does."""
        return super().train(False)

    @torch.no_grad()
    def follow(self, student: nn.Module, progress: float) -> None:
        """Once for every update of the student; buffers are taken as they are."""
        mine, theirs = dict(self.average.named_parameters()), dict(student.named_parameters())
        momentum = {name: self.settings.momentum(progress) for name in mine}
        if self.settings.encoders == "same":
            momentum |= {name: 0.0 for name in mine if name.startswith(ENCODERS)}
        for share in sorted(set(momentum.values())):
            names = [name for name in mine if momentum[name] == share]
            get_ema_multi_avg_fn(share)([mine[name] for name in names], [theirs[name] for name in names], 1)
        for own, other in zip(self.average.buffers(), student.buffers(), strict=True):
            own.copy_(other)

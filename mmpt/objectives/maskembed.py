"""MaskEmbed: a latent's patch has to be found in it (locality alignment, arXiv 2410.11087, section 3)."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mmpt.config import component
from mmpt.encoders import Encoder, Modality
from mmpt.errors import ConfigError
from mmpt.model import Backbone, MaskedModel
from mmpt.objectives import Hidden, Loss, Objective, Prediction, Step
from mmpt.objectives.context import context_of
from mmpt.objectives.frozen import FrozenRun, Measures
from mmpt.objectives.mask_decoder import MaskDecoder
from mmpt.objectives.masking.algebra import Masking, MaskingSettings
from mmpt.objectives.masking.ratio import Ratio
from mmpt.objectives.several_masks import of_samples, repeated, repeated_rows
from mmpt.tokens import Batch, Content, replace

if TYPE_CHECKING:
    from mmpt.trunk.transformer import Transformer

EPS = 1e-6  # of the decoder's norms
ANY_SHARE = MaskingSettings(ratio=component(Ratio, "uniform"))


class MaskedTeacher(FrozenRun):
    """The backbone as the run left it, without its last blocks but with its last norm.

    Args:
        run: its folder. name: of the stream. modality: that the student has. width: of the student's trunk.
        skip_blocks: how many it goes without.
    """

    def __init__(self, run: Path, name: str, modality: Modality, width: int, skip_blocks: int) -> None:
        super().__init__(run)
        self.name, self.modality, self.width, self.skip_blocks = name, modality, width, skip_blocks

    def accept(self, modalities: Mapping[str, Modality], model: MaskedModel) -> None:
        """Its one stream cuts samples as the student's does."""
        own, theirs = self.modality, modalities.get(self.name)
        if list(modalities) != [self.name] or type(theirs) is not type(own):
            raise ConfigError(f"{self.run}: expected a run of the stream '{self.name}' alone, as the recipe has it")
        tables = [modality.encoder(8).place_table(8) for modality in (own, cast("Modality", theirs))]
        if tables[0].shape != tables[1].shape:
            raise ConfigError(
                f"{self.run}: its stream '{self.name}' has {len(tables[1])} places and that of the recipe "
                f"{len(tables[0])}; use the same stream"
            )
        trunk = cast("Transformer", model.backbone.trunk)
        if trunk.width != self.width or trunk.depth <= self.skip_blocks:
            raise ConfigError(
                f"{self.run}: expected a trunk of width {self.width} and more than {self.skip_blocks} blocks, got "
                f"width {trunk.width} and depth {trunk.depth}; give the recipe that run's `trunk`"
            )
        trunk.blocks = trunk.blocks[: trunk.depth - self.skip_blocks]
        trunk.depth -= self.skip_blocks

    @torch.no_grad()
    def forward(self, batch: Batch, hidden: Bool[Tensor, "B N"]) -> Float[Tensor, "B N D"]:
        """Of every token, the content of the hidden ones being neutral; in float32."""
        backbone = self.model.backbone
        content = neutralised(backbone.encoder(self.name), batch.streams[self.name], hidden)
        return backbone(batch._replace(streams={self.name: content}))[self.name].x.float()


def neutralised(encoder: Encoder, content: Content, hidden: Bool[Tensor, "B N"]) -> Content:
    """The same tokens in their places, hidden ones with values that say nothing."""
    neutral = torch.as_tensor(encoder.neutral, dtype=content.values.dtype, device=hidden.device)
    column = hidden.view(*hidden.shape, *(1,) * (content.values.ndim - 2))
    return content._replace(values=torch.where(column, neutral, content.values))


class MaskEmbed(Objective, Measures):
    """From embeddings of the complete row, some of them taken away, to what a frozen teacher makes of the row without.

    What a teacher says of an input without patch i can only be found if all that is known of patch i stands at token i.
    The recipe's `init_from` is to name the teacher's run, so that the student begins as a copy of its backbone; without
    it the student begins with fresh weights.

    Args:
        run: the finished run whose backbone is the teacher; of the same one stream and the same trunk.
        heads: of the decoder's attention; must divide the trunk's width.
        depth: of the decoder.
        masking: which tokens are taken away; a share between 0 and 1 drawn anew for every sample by default.
        masks: of a sample, each together with its complement; the complete row comes on top.
        skip_blocks: of the teacher's last blocks, which it goes without.
        layer_scale: of the decoder's blocks at first.
    """

    scale: Tensor

    def __init__(
        self,
        backbone: Backbone,
        modalities: Mapping[str, Modality],
        *,
        run: Path,
        heads: int,
        depth: int = 2,
        masking: MaskingSettings = ANY_SHARE,
        masks: int = 1,
        skip_blocks: int = 1,
        layer_scale: float = 1e-6,
    ) -> None:
        super().__init__()
        (self.name, modality), *others = modalities.items()
        encoder, trunk = backbone.encoder(self.name), backbone.trunk
        if others:
            raise ConfigError(f"objective 'maskembed' is for recipes of one stream, got {', '.join(modalities)}")
        if encoder.neutral is None:
            raise ConfigError(
                f"objective 'maskembed' hides a token behind values that say nothing, and stream '{self.name}' has "
                "none; it has a meaning for images, sounds, ECGs and tables of numbers without categories"
            )
        if not 0 <= skip_blocks < trunk.depth:
            raise ConfigError(f"skip_blocks: expected 0 to {trunk.depth - 1}, below the depth, got {skip_blocks}")
        if masks < 1 or depth < 1:
            raise ConfigError(f"masks, depth: expected at least 1, got {masks} and {depth}")
        self.masks, self.views = masks, 2 * masks + 1
        self.masking = Masking(modality, masking)
        self.teacher = MaskedTeacher(run, self.name, modality, trunk.width, skip_blocks)
        places = len(encoder.place_table(8))
        self.decoder = MaskDecoder(trunk.width, places, depth=depth, heads=heads, eps=EPS, layer_scale=layer_scale)
        self.register_buffer("scale", torch.ones(()))

    def weights(self) -> dict[str, float]:
        """One loss."""
        return {self.name: 1.0}

    @torch.no_grad()
    def hide(self, batch: Batch, progress: float) -> dict[str, Hidden]:
        """Every mask, then every mask's complement, then nothing; all rows of the batch for each."""
        context = context_of(repeated(batch, self.masks), self.name, progress)
        hidden = self.masking(context)
        nothing = torch.zeros_like(batch.streams[self.name].valid)
        every = torch.cat([hidden, context.maskable & ~hidden, nothing])
        scored = repeated_rows(batch.streams[self.name].valid, self.views)
        return {self.name: Hidden(every, scored, None, scored.sum().float())}

    def measure(self, batch: Batch) -> None:
        """The number that makes what the teacher says vary by 1, over all numbers of valid tokens behind all masks."""
        hidden = self.hide(batch, 0.0)[self.name]
        taught = self.teacher(repeated(batch, self.views), hidden.hidden)[hidden.scored]
        self.scale.copy_(1 / taught.std(correction=0).clamp(min=1e-6))

    def forward(self, backbone: Backbone, batch: Batch, hidden: dict[str, Hidden], progress: float) -> Step:
        """Squared error of every valid token, the mean over its D numbers, behind all masks of the sample."""
        own, every = hidden[self.name], repeated(batch, self.views)
        taught = self.scale * self.teacher(every, own.hidden)
        tokens = backbone.embed(batch)[self.name]
        shown, size = {self.name: replace(tokens, tokens.x)}, {self.name: tokens.x.shape[1]}
        latents, output = backbone.mix(shown, size, batch.draw)
        predicted = self.predicted(latents.x, every.streams[self.name], own.hidden)
        each = torch.where(own.scored, (predicted.float() - taught).square().mean(2), 0.0)
        loss = of_samples(Loss(each.sum(), each.detach().sum(1)), len(batch.uid))
        figures = self._figures(each.detach(), own.scored, len(batch.uid))
        return Step({self.name: loss}, output.balance, output.router_z, output.metrics([self.name]) | figures)

    def predicted(
        self, latents: Float[Tensor, "B N D"], content: Content, hidden: Bool[Tensor, "views N"]
    ) -> Float[Tensor, "views N D"]:
        """Of `views` times as many rows; a class token, which is no measurement, is always taken away."""
        embeddings = repeated_rows(self.decoder.embed(latents), self.views)
        return self.decoder(embeddings, content.valid & content.observed & ~hidden, content)

    def _figures(
        self, each: Float[Tensor, "views N"], scored: Bool[Tensor, "views N"], samples: int
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """Behind all masks, and of the complete row alone."""
        return {
            f"{self.name}/loss": (each.sum(), scored.sum().float()),
            f"{self.name}/complete_loss": (each[-samples:].sum(), scored[-samples:].sum().float()),
        }

    def touch(self, backbone: Backbone, batch: Batch) -> Float[Tensor, ""]:
        """Nothing to touch: every batch has the one stream."""
        return batch.draw.new_zeros((), dtype=torch.float32)

    def after_update(self, backbone: Backbone, progress: float) -> None:
        """Nothing follows the weights."""

    def predict(self, backbone: Backbone, batch: Batch, hidden: dict[str, Hidden]) -> dict[str, Prediction]:
        """No tokens' own content is predicted."""
        return {}

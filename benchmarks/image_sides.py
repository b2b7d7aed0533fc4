"""The masked autoencoder of `pretrain_step.py`: mmpt, and transformers."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from stepping import (
    EPS,
    Contender,
    batch_of,
    block_flops,
    block_weights,
    buffers_of,
    layer,
    mmpt_loss,
    optimizer_of,
    peer_loss,
    shaken,
    wired,
)
from torch import Tensor, nn
from transformers import (
    ViTMAEConfig,
    ViTMAEForPreTraining,
)

from mmpt.build import load_weights
from mmpt.config import component
from mmpt.encoders import Facts
from mmpt.encoders.image import Image, normalise
from mmpt.model import MaskedModel
from mmpt.objectives.corruption import Corruption
from mmpt.objectives.masked_prediction import StreamSettings
from mmpt.objectives.masking.algebra import MaskingSettings
from mmpt.objectives.predictors import Predictor
from mmpt.objectives.targets import Target
from mmpt.tokens import Batch
from mmpt.trunk.transformer import Transformer

VITMAE = (
    *("layernorm_before", "attention.q_proj", "attention.k_proj", "attention.v_proj"),
    *("attention.o_proj", "layernorm_after", "mlp.fc1", "mlp.fc2"),
)


@dataclass(frozen=True)
class ImageSizes:
    """Of the masked autoencoder and its batches."""

    pixels: int = 96
    patch: int = 16
    width: int = 192
    depth: int = 6
    heads: int = 3
    decoder_width: int = 128
    decoder_depth: int = 2
    decoder_heads: int = 4
    ratio: float = 0.75
    images: int = 32
    batches: int = 3


FINE_IMAGE = ImageSizes(patch=8, images=16)
SMALL_IMAGE = ImageSizes(pixels=16, patch=4, width=48, depth=2, decoder_width=32, images=4, batches=2)


def image_flops(sizes: ImageSizes, images: int, *, lean: bool) -> float:
    """Patches embedded (pixels need no gradient), the shown through the trunk, all through the decoder.

    `lean` as mmpt does it: shown patches alone are embedded, and of shown places the decoder's last block
    computes queries, keys and values only.
    """
    patches, numbers = (sizes.pixels // sizes.patch) ** 2, 3 * sizes.patch**2
    shown = 1 + int(patches * (1 - sizes.ratio))
    narrow = sizes.decoder_width
    hidden = patches + 1 - shown
    entry = (shown - 1 if lean else patches) * 2 * numbers * sizes.width
    trunk = shown * (sizes.depth * block_flops(sizes.width, shown) + 2 * sizes.width * narrow)
    decoder = (1 + patches) * sizes.decoder_depth * block_flops(narrow, 1 + patches)
    if lean:
        decoder -= shown * (block_flops(narrow, 1 + patches) - 6 * narrow**2)
    head = (hidden if lean else 1 + patches) * 2 * narrow * numbers
    return images * (2 * entry + 3 * (trunk + decoder + head))


def copy_image(peer: nn.Module, model: MaskedModel, sizes: ImageSizes) -> None:
    """ViTMAE's weights -> mmpt's, and mmpt's fixed positions -> ViTMAE, which has zeros unless loaded from a file."""
    with torch.no_grad():
        peer.vit.embeddings.position_embeddings.copy_(model.backbone.encoders["image"].position)
        peer.decoder.decoder_pos_embed.copy_(model.objective.streams["image"].predictor.places.table)
    theirs = peer.state_dict()
    decoder = "objective.streams.image.predictor"
    patches = theirs["vit.embeddings.patch_embeddings.projection.weight"]
    mine = {
        "backbone.encoders.image.projection.weight": patches.permute(0, 2, 3, 1).flatten(1),
        "backbone.encoders.image.projection.bias": theirs["vit.embeddings.patch_embeddings.projection.bias"],
        "backbone.encoders.image.class_token": theirs["vit.embeddings.cls_token"].flatten(),
        "backbone.trunk.stream_embedding.weight": torch.zeros(1, sizes.width),
        f"{decoder}.mask_token": theirs["decoder.mask_token"].flatten(),
        **layer(theirs, "vit.layernorm", "backbone.trunk.norm"),
        **layer(theirs, "decoder.decoder_embed", f"{decoder}.entry"),
        **layer(theirs, "decoder.decoder_norm", f"{decoder}.norm"),
        **layer(theirs, "decoder.decoder_pred", f"{decoder}.head"),
    }
    for n in range(sizes.depth):
        mine |= block_weights(theirs, f"vit.layers.{n}", f"backbone.trunk.blocks.{n}", VITMAE)
    for n in range(sizes.decoder_depth):
        mine |= block_weights(theirs, f"decoder.decoder_layers.{n}", f"{decoder}.blocks.{n}", VITMAE)
    load_weights(model, {**buffers_of(model), **mine})


def image_model(sizes: ImageSizes) -> tuple[MaskedModel, Image]:
    """MAE."""
    image = Image(Facts(Path()), size=sizes.pixels, patch=sizes.patch)
    decoder = {"width": sizes.decoder_width, "depth": sizes.decoder_depth, "heads": sizes.decoder_heads}
    settings = StreamSettings(
        masking=MaskingSettings(ratio=sizes.ratio),
        corruption=component(Corruption, "drop"),
        predictor=component(Predictor, "decoder", **decoder, norm_eps=EPS),
        target=component(Target, "pixels", normalize=True),
    )
    trunk = Transformer(1, width=sizes.width, depth=sizes.depth, heads=sizes.heads, norm_eps=EPS)
    return wired("image", image, trunk, settings), image


def vitmae(sizes: ImageSizes) -> nn.Module:
    """The peer."""
    config = ViTMAEConfig(
        image_size=sizes.pixels, patch_size=sizes.patch, hidden_size=sizes.width, num_hidden_layers=sizes.depth,
        num_attention_heads=sizes.heads, intermediate_size=4 * sizes.width, mask_ratio=sizes.ratio,
        decoder_hidden_size=sizes.decoder_width, decoder_num_hidden_layers=sizes.decoder_depth,
        decoder_num_attention_heads=sizes.decoder_heads, decoder_intermediate_size=4 * sizes.decoder_width,
        norm_pix_loss=True, layer_norm_eps=EPS, attn_implementation="sdpa",
    )  # fmt: skip
    return shaken(ViTMAEForPreTraining(config))


def pictures(image: Image, batch: Batch) -> Tensor:
    """Patches -> the normalised pixels (B, 3, height, width) that transformers' image processor makes."""
    values = normalise(batch.streams["image"].values[:, 1:], *image.normalisation())
    grid = values.view(-1, image.side, image.side, image.patch, image.patch, 3)
    return grid.permute(0, 5, 1, 3, 2, 4).reshape(-1, 3, image.size, image.size).contiguous()


def image_contenders(sizes: ImageSizes, seed: int) -> list[Contender]:
    """Both sides on the same pictures with the same patches hidden."""
    model, image = image_model(sizes)
    peer = vitmae(sizes)
    copy_image(peer, model, sizes)
    random = np.random.default_rng(seed)
    shape = (sizes.images, 1 + image.num_patches, image.patch_numbers)
    batches, theirs = [], []
    for number in range(sizes.batches):
        values = random.integers(0, 256, shape, dtype=np.uint8)
        batches.append(batch_of("image", image.collate([[patches] for patches in values], None), number))
        hidden = model.hide(batches[-1], 0.0)["image"].hidden[:, 1:]
        noise = hidden.float() + torch.linspace(0, 0.5, image.num_patches)  # shown patches in their order
        theirs.append({"pixel_values": pictures(image, batches[-1]), "noise": noise})
    counts = [sizes.images] * sizes.batches
    lean, full = ([image_flops(sizes, sizes.images, lean=lean)] * sizes.batches for lean in (True, False))
    ours = [partial(mmpt_loss, model, batch) for batch in batches]
    peers = [partial(peer_loss, peer, batch) for batch in theirs]
    return [
        Contender("mmpt", ours, optimizer_of(model), counts, counts, lean),
        Contender("transformers, ViTMAE", peers, optimizer_of(peer), counts, counts, full),
    ]

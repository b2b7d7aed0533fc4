"""ViTMAE (He et al. 2021) as transformers has it: the encoder of ViT; the decoder is left behind."""

from mmpt.foreign.pixels import IMAGENET
from mmpt.foreign.vit import ViT


class ViTMae(ViT):
    """`ViTMAEModel` and `ViTMAEForPreTraining`; its fixed positions are held as a learned table."""

    kind = "ViTMAE"
    pixels = IMAGENET
    left = ("decoder.",)

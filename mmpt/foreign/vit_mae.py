"""ViTMAE (He et al. 2021) as transformers has it: the encoder; the decoder is left behind."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmpt.encoders import Facts
from mmpt.foreign import Family
from mmpt.foreign.entries import Entry
from mmpt.foreign.pixels import IMAGENET, pixel_facts, square
from mmpt.foreign.trunks import trunk_settings
from mmpt.foreign.vit import VIT_NEEDS, VIT_ONLY, vit_entries


class ViTMae(Family):
    """`ViTMAEModel` and `ViTMAEForPreTraining`; its fixed positions are held as a learned table."""

    kind = "ViTMAE"
    modality = "image"
    needs = VIT_NEEDS
    only = VIT_ONLY
    inside = ("vit.",)
    left = ("decoder.",)

    def facts(self, folder: Path) -> tuple[Facts, Sequence[str]]:
        """Mean and standard deviation of pixels."""
        return pixel_facts(folder, IMAGENET)

    def stream(self, facts: Facts) -> dict[str, Any]:
        """Square pictures."""
        return {
            "size": square(self.settings["image_size"], "image_size"),
            "patch": square(self.settings["patch_size"], "patch_size"),
            "positions": "learned",
        }

    def trunk(self) -> dict[str, Any]:
        """Pre-norm."""
        return trunk_settings(self.settings, norm="pre", norm_entry=False)

    def entries(self, facts: Facts) -> list[Entry]:
        """The encoder's."""
        return vit_entries(self.settings["num_hidden_layers"], square(self.settings["patch_size"], "patch_size"))

    def objective_entries(self, facts: Facts) -> list[Entry]:
        """None: the decoder is left behind."""
        return []

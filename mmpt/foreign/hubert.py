"""HuBERT (Hsu et al. 2021) as transformers has it, base and large."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmpt.encoders import Facts
from mmpt.foreign import Family
from mmpt.foreign.entries import Entry
from mmpt.foreign.waves import (
    WAVE_NEEDS,
    WAVE_ONLY,
    hidden_vector,
    wave_entries,
    wave_facts,
    wave_stream,
    wave_trunk,
)


class Hubert(Family):
    """`HubertModel` and all models around it."""

    kind = "HuBERT"
    modality = "speech"
    needs = WAVE_NEEDS
    only = WAVE_ONLY | {"feat_proj_layer_norm": True, "conv_pos_batch_norm": False}
    inside = ("hubert.",)
    left = ("masked_spec_embed",)

    def facts(self, folder: Path) -> tuple[Facts, Sequence[str]]:
        """Sampling rate and normalisation."""
        return wave_facts(folder)

    def stream(self, facts: Facts) -> dict[str, Any]:
        """The convolutional stem."""
        return wave_stream(self.settings, facts)

    def trunk(self) -> dict[str, Any]:
        """Pre-norm where `do_stable_layer_norm` says so."""
        return wave_trunk(self.settings)

    def entries(self, facts: Facts) -> list[Entry]:
        """The encoder's."""
        return wave_entries(self.settings)

    def objective_entries(self, facts: Facts) -> list[Entry]:
        """The vector of hidden frames."""
        return [hidden_vector(self.inside[0])]

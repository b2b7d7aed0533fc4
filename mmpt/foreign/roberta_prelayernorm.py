"""RobertaPreLayerNorm as transformers has it, which `mmpt export` writes of a text stream with `norm_entry`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmpt.encoders import Facts
from mmpt.foreign import Family
from mmpt.foreign.bert import TEXT_ONLY, embeddings, mask_vector
from mmpt.foreign.entries import Entry, block_layers, layers
from mmpt.foreign.roberta import ROBERTA_NEEDS, places_of, roberta_head
from mmpt.foreign.text_facts import text_facts
from mmpt.foreign.trunks import trunk_settings

BLOCK = {
    "norm1": "attention.LayerNorm",
    "attention.qkv": ("attention.self.query", "attention.self.key", "attention.self.value"),
    "attention.proj": "attention.output.dense",
    "norm2": "intermediate.LayerNorm",
    "feedforward.mlp.fc1": "intermediate.dense",
    "feedforward.mlp.fc2": "output.dense",
}


class RobertaPreLayerNorm(Family):
    """`RobertaPreLayerNormModel` and all models around it."""

    kind = "RobertaPreLayerNorm"
    modality = "text"
    needs = ROBERTA_NEEDS
    only = TEXT_ONLY
    inside = ("roberta_prelayernorm.",)
    left = ("pooler.", "embeddings.position_ids")

    def facts(self, folder: Path) -> tuple[Facts, Sequence[str]]:
        """The tokenizer."""
        return text_facts(folder, self.settings["vocab_size"]), ()

    def stream(self, facts: Facts) -> dict[str, Any]:
        """As long as there are positions behind those of padding."""
        return {"max_length": places_of(self.settings), "positions": "learned"}

    def trunk(self) -> dict[str, Any]:
        """Pre-norm."""
        return trunk_settings(self.settings, norm="pre", norm_entry=True)

    def entries(self, facts: Facts) -> list[Entry]:
        """The encoder's."""
        unused, depth = self.settings["pad_token_id"] + 1, self.settings["num_hidden_layers"]
        blocks = block_layers(depth, "encoder.layer.{number}.", BLOCK)
        return [*embeddings(unused), *blocks, *layers("backbone.trunk.norm", "LayerNorm")]

    def objective_entries(self, facts: Facts) -> list[Entry]:
        """The masked-language-model head, and the embedding of <mask>."""
        return [*roberta_head(), mask_vector(self.inside[0], facts)]

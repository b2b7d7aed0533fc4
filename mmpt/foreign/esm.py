"""EsmModel of transformers without rotary positions, as `mmpt export` writes a text stream without `norm_entry`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmpt.encoders import Facts
from mmpt.foreign import Family
from mmpt.foreign.bert import ENCODER
from mmpt.foreign.entries import Entry, block_layers, layers, skipped_rows
from mmpt.foreign.roberta import places_of
from mmpt.foreign.text_facts import text_facts
from mmpt.foreign.trunks import trunk_settings

BLOCK = {
    "norm1": "attention.LayerNorm",
    "attention.qkv": ("attention.self.query", "attention.self.key", "attention.self.value"),
    "attention.proj": "attention.output.dense",
    "norm2": "LayerNorm",
    "feedforward.mlp.fc1": "intermediate.dense",
    "feedforward.mlp.fc2": "output.dense",
}
ESM_NEEDS = {
    "vocab_size": None,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "max_position_embeddings": 1026,
    "layer_norm_eps": 1e-12,
    "pad_token_id": None,
}
ESM_ONLY = {
    "position_embedding_type": "absolute",
    "emb_layer_norm_before": None,
    "token_dropout": False,
    "is_decoder": False,
    "add_cross_attention": False,
    "is_folding_model": False,
}


class Esm(Family):
    """`EsmModel`; ESM-2 has rotary positions that turn other pairs of numbers than ours, and is refused."""

    kind = "ESM"
    modality = "text"
    needs = ESM_NEEDS
    only = ESM_ONLY
    inside = ("esm.",)
    left = ("pooler.", "embeddings.position_ids", "contact_head.")

    def facts(self, folder: Path) -> tuple[Facts, Sequence[str]]:
        """The tokenizer."""
        return text_facts(folder, self.settings["vocab_size"]), ()

    def stream(self, facts: Facts) -> dict[str, Any]:
        """As long as there are positions behind those of padding."""
        return {"max_length": places_of(self.settings), "positions": "learned"}

    def trunk(self) -> dict[str, Any]:
        """Pre-norm."""
        return trunk_settings(self.settings, norm="pre", norm_entry=False)

    def entries(self, facts: Facts) -> list[Entry]:
        """The encoder's."""
        unused, depth = self.settings["pad_token_id"] + 1, self.settings["num_hidden_layers"]
        table = skipped_rows(unused)
        return [
            Entry(f"{ENCODER}embedding.weight", ("embeddings.word_embeddings.weight",)),
            Entry(f"{ENCODER}place_embedding.weight", ("embeddings.position_embeddings.weight",), table),
            *block_layers(depth, "encoder.layer.{number}.", BLOCK),
            *layers("backbone.trunk.norm", "encoder.emb_layer_norm_after"),
        ]

    def objective_entries(self, facts: Facts) -> list[Entry]:
        """None: its head is another."""
        return []

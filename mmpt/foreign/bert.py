"""BERT (Devlin et al. 2018) as transformers has it: a post-norm trunk behind a norm of the embeddings.

Our text has one type of token: the first row of theirs is the stream's embedding, the others are left behind.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmpt.encoders import Facts
from mmpt.foreign import Family
from mmpt.foreign.entries import FIRST_ROW, Entry, block_layers, layers, row, skipped_rows
from mmpt.foreign.text_facts import text_facts
from mmpt.foreign.trunks import trunk_settings

BLOCK = {
    "attention.qkv": ("attention.self.query", "attention.self.key", "attention.self.value"),
    "attention.proj": "attention.output.dense",
    "norm1": "attention.output.LayerNorm",
    "feedforward.mlp.fc1": "intermediate.dense",
    "feedforward.mlp.fc2": "output.dense",
    "norm2": "output.LayerNorm",
}
TEXT_NEEDS = {
    "vocab_size": 30522,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "max_position_embeddings": 512,
    "layer_norm_eps": 1e-12,
}
TEXT_ONLY = {
    "hidden_act": "gelu",
    "is_decoder": False,
    "add_cross_attention": False,
    "position_embedding_type": "absolute",
}
ENCODER = "backbone.encoders.text."
OBJECTIVE = "objective.streams.text."


class Bert(Family):
    """`BertModel` and all models around it."""

    kind = "BERT"
    modality = "text"
    needs = TEXT_NEEDS
    only = TEXT_ONLY
    inside = ("bert.",)
    left = ("pooler.", "embeddings.position_ids")

    def facts(self, folder: Path) -> tuple[Facts, Sequence[str]]:
        """The tokenizer."""
        return text_facts(folder, self.settings["vocab_size"]), ()

    def stream(self, facts: Facts) -> dict[str, Any]:
        """As long as there are positions."""
        return {"max_length": self.settings["max_position_embeddings"], "positions": "learned"}

    def trunk(self) -> dict[str, Any]:
        """Post-norm."""
        return trunk_settings(self.settings, norm="post", norm_entry=True)

    def entries(self, facts: Facts) -> list[Entry]:
        """The encoder's."""
        return [*embeddings(0), *block_layers(self.settings["num_hidden_layers"], "encoder.layer.{number}.", BLOCK)]

    def objective_entries(self, facts: Facts) -> list[Entry]:
        """The masked-language-model head, and the embedding of [MASK]."""
        head = "cls.predictions."
        return [
            *layers(f"{OBJECTIVE}predictor.dense", f"{head}transform.dense"),
            *layers(f"{OBJECTIVE}predictor.norm", f"{head}transform.LayerNorm"),
            Entry(f"{OBJECTIVE}predictor.bias", (f"{head}bias",)),
            mask_vector(self.inside[0], facts),
        ]


def embeddings(unused: int) -> list[Entry]:
    """Tables of tokens, positions (of which the first `unused` rows are never looked up) and types, and their norm."""
    table = skipped_rows(unused)
    return [
        Entry(f"{ENCODER}embedding.weight", ("embeddings.word_embeddings.weight",)),
        Entry(f"{ENCODER}place_embedding.weight", ("embeddings.position_embeddings.weight",), table),
        Entry("backbone.trunk.stream_embedding.weight", ("embeddings.token_type_embeddings.weight",), FIRST_ROW),
        *layers("backbone.trunk.entry", "embeddings.LayerNorm"),
    ]


def mask_vector(inside: str, facts: Facts) -> Entry:
    """What is shown for hidden tokens: the embedding of the mask token."""
    name = f"{inside}embeddings.word_embeddings.weight"
    return Entry(f"{OBJECTIVE}corruption.vector", (name,), row(int(facts.values["mask"])))

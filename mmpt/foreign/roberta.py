"""RoBERTa (Liu et al. 2019) as transformers has it: BERT whose position ids begin behind the id of padding."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmpt.encoders import Facts
from mmpt.foreign import Family
from mmpt.foreign.bert import BLOCK, OBJECTIVE, TEXT_NEEDS, TEXT_ONLY, embeddings, mask_vector
from mmpt.foreign.entries import Entry, block_layers, layers
from mmpt.foreign.text_facts import text_facts
from mmpt.foreign.trunks import trunk_settings

ROBERTA_NEEDS = {**TEXT_NEEDS, "vocab_size": 50265, "pad_token_id": 1}


class Roberta(Family):
    """`RobertaModel` and all models around it."""

    kind = "RoBERTa"
    modality = "text"
    needs = ROBERTA_NEEDS
    only = TEXT_ONLY
    inside = ("roberta.",)
    left = ("pooler.", "embeddings.position_ids")

    def facts(self, folder: Path) -> tuple[Facts, Sequence[str]]:
        """The tokenizer."""
        return text_facts(folder, self.settings["vocab_size"]), ()

    def stream(self, facts: Facts) -> dict[str, Any]:
        """As long as there are positions behind those of padding."""
        return {"max_length": places_of(self.settings), "positions": "learned"}

    def trunk(self) -> dict[str, Any]:
        """Post-norm."""
        return trunk_settings(self.settings, norm="post", norm_entry=True)

    def entries(self, facts: Facts) -> list[Entry]:
        """The encoder's."""
        unused, depth = self.settings["pad_token_id"] + 1, self.settings["num_hidden_layers"]
        return [*embeddings(unused), *block_layers(depth, "encoder.layer.{number}.", BLOCK)]

    def objective_entries(self, facts: Facts) -> list[Entry]:
        """The masked-language-model head, and the embedding of <mask>."""
        return [*roberta_head(), mask_vector(self.inside[0], facts)]


def places_of(settings: Mapping[str, Any]) -> int:
    """Positions that tokens can have."""
    return settings["max_position_embeddings"] - settings["pad_token_id"] - 1


def roberta_head() -> list[Entry]:
    """Dense, norm, bias."""
    return [
        *layers(f"{OBJECTIVE}predictor.dense", "lm_head.dense"),
        *layers(f"{OBJECTIVE}predictor.norm", "lm_head.layer_norm"),
        Entry(f"{OBJECTIVE}predictor.bias", ("lm_head.bias",)),
    ]

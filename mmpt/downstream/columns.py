"""Laboratory columns that a pretrained encoder has not met."""

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import nn

from mmpt.downstream.encoder import Encoder
from mmpt.encoders import Modality
from mmpt.encoders.labs import Labs, LabsEncoder
from mmpt.errors import ConfigError, DataError


def labs_stream(modalities: Mapping[str, Modality]) -> tuple[str, Labs]:
    """The one stream of laboratory tables; raises DataError where there is none, or several."""
    found = [(name, modality) for name, modality in modalities.items() if isinstance(modality, Labs)]
    if len(found) != 1:
        there = ", ".join(modalities)
        raise DataError(f"expected a run with one stream of laboratory tables, got {len(found)} among {there}")
    return found[0]


def with_columns(
    encoder: Encoder, columns: Sequence[Mapping[str, Any]], statistics: Sequence[Mapping[str, Any]]
) -> Encoder:
    """An encoder that reads more columns; what it makes of the old ones does not change.

    A new column begins as the mean of the numeric ones, a new category as the mean of the old categories, for
    fine-tuning to tell apart.

    Args:
        encoder: of a run with laboratory tables; stays as it is.
        columns: what a data set's facts say of each new column: name, unit, kind, and categories where it has them.
        statistics: of the new columns, as a data set has them.

    Raises:
        DataError: no laboratory tables, a name that is taken, or columns that can't be read.
    """
    stream, labs = labs_stream(encoder.modalities)
    for column in columns:
        if column.get("name") in labs.numbers:
            raise DataError(f"column '{column['name']}' is known to the encoder already; leave it out")
    facts = labs.facts
    values = {**facts.values, "columns": [*facts.values["columns"], *columns]}
    measured = {**facts.statistics, "columns": [*facts.statistics["columns"], *statistics]}
    try:
        wider = dataclasses.replace(labs, facts=dataclasses.replace(facts, values=values, statistics=measured))
    except ConfigError as error:
        raise DataError(f"new columns: {error}") from error
    backbone = copy.deepcopy(encoder.backbone)
    backbone.encoders[stream] = _widened(cast("LabsEncoder", backbone.encoders[stream]), wider).to(encoder.device)
    modalities = {**encoder.modalities, stream: wider}
    return dataclasses.replace(encoder, backbone=backbone, modalities=modalities, run=None)


def _widened(old: LabsEncoder, labs: Labs) -> LabsEncoder:
    """An encoder of all columns with the old ones' weights."""
    new = LabsEncoder(labs, old.columns.embedding_dim).train(old.training)
    numeric = old.values.kinds.numeric
    new.columns = _longer(old.columns, labs.limit, numeric if numeric.any() else torch.ones_like(numeric))
    if old.values.has_numbers:
        new.values.numbers.load_state_dict(old.values.numbers.state_dict())
    if old.values.categories is not None and new.values.categories is not None:
        every = torch.ones(old.values.kinds.size, dtype=torch.bool)
        new.values.categories = _longer(old.values.categories, new.values.kinds.size, every)
    return new.requires_grad_(next(old.parameters()).requires_grad)


def _longer(table: nn.Embedding, count: int, like: torch.Tensor) -> nn.Embedding:
    """Rows added that are the mean of some of the old ones."""
    longer = nn.Embedding(count, table.embedding_dim)
    with torch.no_grad():
        longer.weight[:] = table.weight[like.to(table.weight.device)].mean(dim=0)
        longer.weight[: table.num_embeddings] = table.weight
    return longer

"""Settings of a trunk from those that transformers' encoders share."""

from collections.abc import Mapping
from typing import Any


def trunk_settings(settings: Mapping[str, Any], *, norm: str, norm_entry: bool) -> dict[str, Any]:
    """Of hidden_size, num_hidden_layers, num_attention_heads, intermediate_size and layer_norm_eps."""
    return trunk_of(
        width=settings["hidden_size"],
        depth=settings["num_hidden_layers"],
        heads=settings["num_attention_heads"],
        hidden=settings["intermediate_size"],
        norm=norm,
        norm_entry=norm_entry,
        norm_eps=settings["layer_norm_eps"],
    )


def trunk_of(*, width: int, depth: int, heads: int, hidden: int, **others: Any) -> dict[str, Any]:
    """With feed-forwards that are `hidden` wide; others are settings as they are."""
    ratio = hidden / width
    if int(width * ratio) != hidden:
        ratio = (hidden + 0.5) / width  # the trunk rounds down
    return {"width": width, "depth": depth, "heads": heads, "feedforward": {"type": "dense", "ratio": ratio}, **others}

"""A learned query attends to all tokens (attentive probing: Yu et al. 2022, CoCa, section 3.2; Bardes et al. 2024)."""

from mmpt.downstream.learned_query import LearnedQuery
from mmpt.finetune.pools import Pool


class AttentionPool(LearnedQuery, Pool):
    """One learned query, multi-head, over the valid tokens of all streams; what `mmpt probe --kind attentive` trains.

    Args:
        heads: must divide the width.
    """

    def __init__(self, width: int, *, heads: int = 4) -> None:
        super().__init__(width, heads=heads)

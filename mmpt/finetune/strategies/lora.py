"""Low-rank changes of frozen layers (LoRA, Hu et al. 2021), made by peft."""

from typing import Any

from torch import nn

from mmpt.downstream.encoder import Encoder
from mmpt.errors import ConfigError
from mmpt.finetune.strategies import Strategy, freeze_backbone
from mmpt.model import MaskedModel


class Lora(Strategy):
    """The linear layers of the trunk's blocks get a change of low rank; the head is trained, too.

    Args:
        learning_rate: of adapters and head.
        rank: of the change. alpha: it is multiplied by alpha / rank. dropout: before it.
    """

    def __init__(
        self, *, learning_rate: float = 3e-3, rank: int = 8, alpha: float = 16.0, dropout: float = 0.0
    ) -> None:
        if rank < 1:
            raise ConfigError(f"rank: expected at least 1, got {rank}")
        self.learning_rate, self.rank, self.alpha, self.dropout = learning_rate, rank, alpha, dropout

    def prepare(self, model: MaskedModel, encoder: Encoder) -> None:
        """Adapters on frozen layers; raises ConfigError where peft is not installed."""
        try:
            from peft import LoraConfig, inject_adapter_in_model
        except ImportError as error:
            raise ConfigError("strategy 'lora' is made by peft; install it: pip install 'mmpt[finetune]'") from error
        freeze_backbone(model)
        trunk = model.backbone.trunk
        names = [name for name, module in trunk.named_modules() if isinstance(module, nn.Linear) and "blocks." in name]
        settings: Any = {"r": self.rank, "lora_alpha": self.alpha, "lora_dropout": self.dropout}
        inject_adapter_in_model(LoraConfig(target_modules=names, **settings), trunk)

    def scales(self, model: MaskedModel) -> dict[str, float]:
        """One rate."""
        return {}

    def finish(self, model: MaskedModel) -> None:
        """Changes become part of the weights."""
        from peft.tuners.lora import LoraLayer

        for parent in list(model.backbone.trunk.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, LoraLayer):
                    child.merge()
                    setattr(parent, name, child.get_base_layer())

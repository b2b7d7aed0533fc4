"""What the `deepspeed:` section of a recipe may not say: what stands elsewhere, and what the model can't do with."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from mmpt.errors import ConfigError
from mmpt.model import MaskedModel
from mmpt.objectives.teacher import Teacher

FILLED_IN = {
    "train_batch_size": "data.batch_size",
    "train_micro_batch_size_per_gpu": "data.micro_batch_size",
    "gradient_accumulation_steps": "data.micro_batch_size",
    "optimizer": "training.optimizer",
    "scheduler": "training.optimizer.schedule",
    "gradient_clipping": "training.optimizer.clip_norm",
    "bf16": "training.precision",
    "fp16": "training.precision",
    "torch_autocast": "training.precision",
    "zero_allow_untested_optimizer": None,
}


def check_settings(settings: Mapping[str, Any]) -> None:
    """Refuse, in the `deepspeed:` section, what the rest of the recipe says."""
    wrong = []
    for name in settings:
        if name in FILLED_IN:
            instead = f"set {FILLED_IN[name]} instead" if FILLED_IN[name] else "leave it out"
            wrong.append(f"deepspeed.{name}: mmpt fills this in; {instead}")
    if wrong:
        raise ConfigError("\n".join(wrong))


def check_model(settings: Mapping[str, Any], model: nn.Module) -> None:
    """Refuse under ZeRO-3 what can't do with parts of weights: averaged teachers, and objectives that read them."""
    stage = settings.get("zero_optimization", {}).get("stage", 0)
    if stage == 3 and any(isinstance(part, Teacher) for part in model.modules()):
        raise ConfigError(
            "deepspeed.zero_optimization.stage: 3 divides the weights, and the averaged teacher of this objective "
            "can't follow parts of them; use stage 0, 1 or 2"
        )
    if stage == 3 and isinstance(model, MaskedModel) and model.objective.reads_weights:
        raise ConfigError(
            "deepspeed.zero_optimization.stage: 3 divides the weights, and this objective computes with whole ones; "
            "use stage 0, 1 or 2"
        )

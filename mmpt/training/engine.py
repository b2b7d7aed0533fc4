"""The one place that knows DeepSpeed: start-up, one optimiser step, and whole tensors in and out of any ZeRO stage."""

import atexit
import math
import os
import traceback
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch._C._distributed_c10d import HashStore  # what torch.distributed.HashStore is
from torch.distributed import ProcessGroup

from mmpt.errors import CheckpointError, ConfigError
from mmpt.model import MaskedModel
from mmpt.objectives import Step
from mmpt.settings import TrainingSettings
from mmpt.tokens import Batch
from mmpt.training.divided_experts import divide, gathered, named
from mmpt.training.held import Groups
from mmpt.training.optimizer import optimizer_for
from mmpt.training.outcome import Outcome, summed
from mmpt.training.world import World, share_cores

REFUSALS = (ValueError, AssertionError, TypeError, KeyError)  # of DeepSpeed's checks, pydantic's among them


def start(workers: int) -> World:
    """Join the other ranks, or be alone; `workers` loader processes will want their share of the machine.

    A process joins once: DeepSpeed keeps the group for whatever runs next, so it is left only at the process's end.
    """
    if not torch.accelerator.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    if "RANK" not in os.environ:
        os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT="0")
    import deepspeed  # its import is slow and loud: only a run pays for it
    from deepspeed.accelerator import get_accelerator

    accelerator: Any = get_accelerator()
    on_cpu, local = accelerator.device_name() == "cpu", int(os.environ.get("LOCAL_RANK", "0"))
    if not on_cpu:
        accelerator.set_device(local)
    if not torch.distributed.is_initialized():
        if on_cpu:
            share_cores(workers)
        _join("gloo" if on_cpu else accelerator.communication_backend_name())
    deepspeed.init_distributed(verbose=False)
    device = torch.device("cpu" if on_cpu else accelerator.device_name(local))
    return World(torch.distributed.get_rank(), torch.distributed.get_world_size(), device)


def _join(backend: str) -> None:
    import deepspeed

    store: dict[str, Any] = {}
    if os.environ["WORLD_SIZE"] == "1":
        store = {"store": HashStore(), "rank": 0, "world_size": 1}
    # A kernel for CPU ranks that share memory: it wants a compiler and most of a minute, and gloo does without.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    torch.distributed.init_process_group(backend, **store)
    atexit.register(torch.distributed.destroy_process_group)


def wants_bf16(precision: str, device: torch.device) -> bool:
    """Whether to compute in bfloat16; raises ConfigError where it was asked for and can't be had."""
    able = device.type != "cuda" or torch.cuda.is_bf16_supported()
    if precision == "bf16" and not able:
        raise ConfigError(f"training.precision: {device} has no bfloat16; use fp32")
    return precision == "bf16" or (precision == "auto" and device.type == "cuda" and able)


class Engine:
    """A model under DeepSpeed.

    Args:
        model: with its weights already loaded: every ZeRO stage takes them over.
        training: precision, optimiser.
        deepspeed_settings: the recipe's section.
        world: from `start`.
        batch_size, accumulation: of a global batch.
        scales: shares of the learning rate, see `optimizer_for`.
    """

    def __init__(
        self,
        model: MaskedModel,
        training: TrainingSettings,
        deepspeed_settings: Mapping[str, Any],
        world: World,
        *,
        batch_size: int,
        accumulation: int,
        scales: Mapping[str, float] | None = None,
    ) -> None:
        self.world, self.accumulation = world, accumulation
        self.weights = model.objective.weights()
        self.balance_weight, self.router_z_weight = training.balance_weight, training.router_z_weight
        self.experts = _divide(model, training.ep_size) if training.ep_size > 1 else None
        self.named = named(model, self.experts)
        self.model = model.to(world.device)
        self.optimizer = optimizer_for(model, training.optimizer, scales, _apart if self.experts else None)
        self.moments = _moments(self.optimizer.param_groups)
        self._nonfinite = torch.zeros((), dtype=torch.bool, device=world.device)
        self._gradient_sums: list[Tensor] = []
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.register_hook(self._look_at_gradient)
        self.bf16 = wants_bf16(training.precision, world.device)
        filled = {
            "train_batch_size": batch_size,
            "gradient_accumulation_steps": accumulation,
            "gradient_clipping": training.optimizer.clip_norm,
            "zero_allow_untested_optimizer": True,
            "steps_per_print": 2**31 - 1,
            **({"torch_autocast": {"enabled": True, "dtype": "bfloat16"}} if self.bf16 else {}),
        }
        self.engine = _initialised(self.model, self.optimizer, {**filled, **deepspeed_settings})
        self._make_moments()

    @property
    def zero_stage(self) -> int:
        """0 to 3."""
        return int(self.engine.zero_optimization_stage())

    def _look_at_gradient(self, gradient: Tensor) -> None:
        """A sum is finite only if all of its terms are, and it is one pass."""
        self._gradient_sums.append(gradient.sum(dtype=torch.float32))

    def step(self, batches: list[Batch], progress: float, learning_rate: float, extra: list[float]) -> Outcome:
        """One update from the global batch that these micro-batches are this rank's share of.

        A loss is the sum over all ranks' and micro-batches' scored tokens divided by their number. `extra` numbers are
        summed over ranks on the way, and everything is read by the host once.
        """
        batches = [batch.to(self.world.device) for batch in batches]
        with torch.autocast(self.world.device.type, torch.bfloat16, enabled=self.bf16):
            hidden = [self.model.hide(batch, progress) for batch in batches]
        names = list(hidden[0])
        totals = torch.stack([torch.stack([h[name].denominator for h in hidden]).sum() for name in names])
        torch.distributed.all_reduce(totals)
        share = dict(zip(names, torch.where(totals > 0, 1 / totals, 0.0), strict=True))  # weights may be below 1
        self._nonfinite.zero_()
        self._gradient_sums.clear()
        steps: list[Step] = []
        for number, (batch, hide) in enumerate(zip(batches, hidden, strict=True), start=1):
            self.engine.set_gradient_accumulation_boundary(number == len(batches))
            step = self.engine(batch, hide, progress)
            loss = sum(self.weights[name] * share[name] * step.losses[name].total for name in names)
            loss = loss * self.world.ranks * self.accumulation
            loss = loss + self.balance_weight * step.balance + self.router_z_weight * step.router_z
            self._nonfinite |= ~loss.detach().isfinite()
            # DeepSpeed averages over ranks and micro-batches; the loss is a sum over both.
            self.engine.backward(loss)
            if number < len(batches):
                self.engine.step()  # counts the micro-batch; the update waits for the summary
            steps.append(step)
        nonfinite = self._nonfinite | ~torch.stack(self._gradient_sums).isfinite().all()
        outcome = summed(batches, steps, nonfinite, extra)
        norm = self._update(outcome.finite, learning_rate)
        if outcome.finite:
            self.model.after_update(progress)
        return outcome._replace(gradient_norm=norm)

    def _update(self, finite: bool, learning_rate: float) -> float:
        """Step, unless something was not finite; returns the norm of the gradient."""
        self.optimizer.held = not finite
        for group in (*self.optimizer.param_groups, *self.engine.optimizer.param_groups):
            group["lr"] = learning_rate * group.get("lr_scale", 1.0)
        norm = None
        if self.zero_stage == 0:  # where DeepSpeed clips without telling the norm
            norm = torch.nn.utils.get_total_norm([p.grad for p in self.model.parameters() if p.grad is not None])
        self.engine.step()
        norm = self.engine.get_global_grad_norm() if norm is None else norm
        return float(norm) if norm is not None else math.nan

    def whole_state(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Weights and moments by parameter name, whole, on the host; all ranks must call, rank 0 gets them."""
        from deepspeed.utils import safe_get_full_optimizer_state as whole

        moments: dict[str, Tensor] = {}
        for names, parameter in self.named:
            for moment in self.moments.get(parameter, ()):
                plain = self.zero_stage == 0
                value = self.optimizer.state[parameter][moment] if plain else whole(parameter, moment)
                self._keep(moments, [f"{name}.{moment}" for name in names], value)
        return self.whole_weights(), moments

    def whole_weights(self, prefix: str = "") -> dict[str, Tensor]:
        """Weights and buffers whose names begin so, likewise."""
        from deepspeed.utils import safe_get_full_fp32_param

        weights = {name: value for name, value in self._buffers().items() if name.startswith(prefix)}
        for names, parameter in self.named:
            if names[0].startswith(prefix):
                plain = self.zero_stage == 0 or not parameter.requires_grad
                self._keep(weights, names, parameter if plain else safe_get_full_fp32_param(parameter))
        return weights

    def _keep(self, into: dict[str, Tensor], names: list[str], value: Any) -> None:
        """On rank 0; of several names each is what the value is on one rank of the experts' group."""
        values = [value.detach()] if len(names) == 1 else gathered(value.detach(), self.experts)
        if self.world.rank == 0:
            for name, own in zip(names, values, strict=True):
                into[name] = own.to("cpu", copy=True).contiguous()

    def _buffers(self) -> dict[str, Tensor]:
        parameters = {name for name, _ in self.model.named_parameters(remove_duplicate=False)}
        state = self.model.state_dict() if self.world.rank == 0 else {}
        return {name: value.cpu() for name, value in state.items() if name not in parameters}

    def set_moments(self, moments: Mapping[str, Tensor], updates: int) -> None:
        """Put the optimiser back to where `whole_state` saw it; for any ZeRO stage and number of ranks."""
        for state in self.optimizer.state.values():
            state["step"].fill_(updates)
        for name, parameter in self.model.named_parameters():
            for moment in self.moments.get(parameter, ()):
                if f"{name}.{moment}" not in moments:
                    raise CheckpointError(
                        f"optimizer.safetensors: nothing for '{name}.{moment}'; the model or its optimiser has changed"
                    )
                self._set_moment(parameter, moment, moments[f"{name}.{moment}"].to(self.world.device))

    def _set_moment(self, parameter: Any, moment: str, value: Tensor) -> None:
        from deepspeed.utils import safe_set_full_optimizer_state, safe_set_local_optimizer_state

        if self.zero_stage == 0:
            self.optimizer.state[parameter][moment].copy_(value)
        elif self.zero_stage == 3:
            size = parameter.ds_tensor.numel()  # the last rank's part is padded
            padded = value.new_zeros(size * self.world.ranks)
            padded[: value.numel()] = value.flatten()
            part = padded[size * self.world.rank : size * (self.world.rank + 1)]
            safe_set_local_optimizer_state(parameter, part, moment)
        else:
            safe_set_full_optimizer_state(parameter, value, moment)

    def _make_moments(self) -> None:
        """Make the optimiser's state before its first step, where a run that goes on can fill it.

        ZeRO 1 and 2 link parameters to the state that exists after the first group's step: made early, all is linked.
        """
        zero = self.engine.optimizer
        if self.zero_stage == 0:
            known = self.moments
        else:
            flat = zero.fp32_partitioned_groups_flat if self.zero_stage == 3 else zero.single_partition_of_fp32_groups
            (names,) = set(self.moments.values())  # by element: the same for all, see `check_rule`
            known = dict.fromkeys(flat, names)
        for part, names in known.items():
            step = torch.zeros((), dtype=torch.float32, device=part.device)
            self.optimizer.state[part] = {"step": step, **{moment: torch.zeros_like(part) for moment in names}}
        if self.zero_stage in (1, 2):
            zero._lazy_init_hp_params_optimizer_state()


def _initialised(model: nn.Module, optimizer: torch.optim.Optimizer, config: Mapping[str, Any]) -> Any:
    """DeepSpeed's engine; raises ConfigError for a section that DeepSpeed refuses."""
    import deepspeed

    try:
        engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=dict(config))
    except REFUSALS as error:
        traceback.print_exc()  # to the run's log, should it be no refusal after all
        raise ConfigError(f"deepspeed: DeepSpeed refuses this section: {' '.join(str(error).split())}") from error
    return engine


def _divide(model: nn.Module, ep_size: int) -> ProcessGroup:
    """Leave every rank its share of the experts and tell DeepSpeed so; returns the group that the shares make whole.

    Ranks that hold the same experts average their gradients and divide their moments among themselves; a gradient that
    came with tokens of the whole group is still divided by the number of all ranks.
    """
    from deepspeed.moe.layer import MoE
    from deepspeed.utils import groups

    class Mark(MoE):
        """DeepSpeed takes experts into account if it finds a layer of its own; this one has nothing to do."""

        def __init__(self) -> None:
            nn.Module.__init__(self)
            self.num_experts = ep_size

        def set_deepspeed_parallelism(self, use_data_before_expert_parallel_: bool = False) -> None:
            """The groups are there already."""

    name = f"ep_size_{ep_size}"  # as DeepSpeed names groups
    if name not in groups._get_expert_parallel_group_dict():
        groups._create_expert_and_data_parallel(ep_size)
    group = groups._get_expert_parallel_group(name)
    divide(model, group, name)
    model.add_module("experts_are_divided", Mark())
    return group


def _apart(groups: Groups) -> Groups:
    from deepspeed.moe.utils import split_params_into_different_moe_groups_for_optimizer

    return split_params_into_different_moe_groups_for_optimizer(groups)


def _moments(groups: Groups) -> dict[Any, tuple[str, ...]]:
    """Names of what the optimiser remembers of each parameter, as they were before DeepSpeed took the groups over."""
    return {parameter: group["update"].moments for group in groups for parameter in group["params"]}

"""One model on several processes: DDP or FSDP2 around it, and whole tensors out of the parts that processes hold.

Checkpoints hold whole tensors under the bare model's names, however many processes wrote them and in whatever way, so
that a run may go on with another number of them. Without a process group all of this leaves its argument alone.
"""

import itertools
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import get_total_norm

from common.flag_types import positive_int
from common.settings import flag, option
from engines.distributed import Context
from engines.objectives.base import Objective, saved_name


@dataclass(frozen=True)
class ParallelSettings:
    """How the processes of a run share the model."""

    parallel: str = option(
        "ddp",
        "ddp: each process holds the whole model; fsdp: each holds a part of weights, gradients and moments (FSDP2). "
        "Checkpoints are the same",
        choices=("ddp", "fsdp"),
    )
    dist_timeout: int = option(
        600, "seconds that a process waits for the others before the run ends with an error", positive_int
    )
    compile: bool = flag(False, "translate the model with torch.compile at its first step (default: off)")


def send_weights(model: nn.Module) -> None:
    """Give every rank rank 0's parameters and buffers: each rank drew its own at the start."""
    if dist.is_initialized():
        for tensor in itertools.chain(model.parameters(), model.buffers()):
            dist.broadcast(tensor.detach(), src=0)


def wrap_model(objective: Objective, context: Context, *, parallel: str, compiled: bool = False) -> nn.Module:
    """Return what training calls in place of the objective, whose weights must be equal on all ranks.

    Args:
        objective: on its device. With "fsdp" it is changed in place: its parameters become parts of whole ones.
        context: this process.
        parallel: "ddp", every rank holds all weights; "fsdp", a rank holds its part of every weight, gradient and
            moment, and gathers a block of the model's `layers` at a time.
        compiled: let torch.compile translate the result, in place, at its first call; names stay as they are.
    """
    if context.world_size > 1 and parallel == "fsdp":
        shard_model(objective, context)
        wrapped = objective
    elif context.world_size > 1:
        device_ids = [context.device.index] if context.device.type == "cuda" else None
        wrapped = DistributedDataParallel(objective, device_ids=device_ids)
    else:
        wrapped = objective
    if compiled:
        wrapped.compile()
    return wrapped


def shard_model(objective: Objective, context: Context) -> None:
    """Leave this rank its part of every parameter (FSDP2), in place: each block of the model, then the rest."""
    mesh = init_device_mesh(context.device.type, (context.world_size,))
    # The new parameters do not inherit what the model wrote on the old ones, such as _no_weight_decay.
    marks = {name: dict(vars(parameter)) for name, parameter in objective.named_parameters()}
    for layer in getattr(objective.model, "layers", ()):
        fully_shard(layer, mesh=mesh)
    fully_shard(objective, mesh=mesh)
    register_fsdp_forward_method(objective, "predict")
    # Nothing is done in place to a block's output, which may be a view of another tensor.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    for name, parameter in objective.named_parameters():
        vars(parameter).update(marks[name])


@contextmanager
def gradient_sync(model: nn.Module, *, on: bool) -> Iterator[None]:
    """Exchange gradients of the block's backward passes between processes, or keep them here (`on` False)."""
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(on)
    if isinstance(model, DistributedDataParallel) and not on:
        with model.no_sync():
            yield
    else:
        yield


def gradient_norm(model: nn.Module) -> torch.Tensor:
    """Return the norm of all gradients together, a number of no dimension; the same on all ranks."""
    norm = get_total_norm([parameter.grad for parameter in model.parameters() if parameter.grad is not None])
    return norm.full_tensor() if isinstance(norm, DTensor) else norm


@contextmanager
def gathered_weights(model: nn.Module) -> Iterator[None]:
    """Hold all weights of a sharded model whole: forward passes then need no other rank, nor as many on each."""
    parts = [module for module in model.modules() if isinstance(module, FSDPModule)]
    for part in parts:
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    yield
    for part in parts:
        part.set_reshard_after_forward(part is not model, recurse=False)
        part.reshard()


def whole_state(state: Any) -> Any:
    """Copy a state dict with every part of a tensor put together, on the CPU. Every rank must call it."""
    if isinstance(state, DTensor):
        return state.full_tensor().cpu()
    if isinstance(state, dict):
        return {key: whole_state(value) for key, value in state.items()}
    if isinstance(state, list):
        return [whole_state(value) for value in state]
    return state


def saved_weights(objective: Objective) -> dict[str, Any]:
    """Return all weights, put together, under the names of a checkpoint. Every rank must call it.

    These are the bare model's names, followed by those of the objective's own parameters.
    """
    return {saved_name(name): value for name, value in whole_state(objective.state_dict()).items()}


def load_model(objective: Objective, state: dict[str, Any]) -> None:
    """Load what `saved_weights` returned; each rank takes its part.

    Raises:
        RuntimeError: the names or shapes are another model's or objective's.
    """
    there = objective.state_dict()
    names = {saved_name(name): name for name in there}
    parts = {names.get(name, name): value for name, value in state.items()}
    objective.load_state_dict({name: _part_like(value, there.get(name)) for name, value in parts.items()})


def load_for_test(objective: Objective, state: dict[str, Any]) -> None:
    """Load what `saved_weights` returned of this objective or of another one with the same model.

    What that one had trained beside the model, such as a projection to a teacher's width, is left out: a test does not
    need it.

    Raises:
        RuntimeError: the names or shapes are another model's.
    """
    modules = {saved_name(name).partition(".")[0] for name in objective.state_dict()}
    load_model(objective, {name: value for name, value in state.items() if name.partition(".")[0] in modules})


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load the state of `whole_state(optimizer.state_dict())`; each rank takes its part.

    Raises:
        ValueError: the groups or their sizes are another optimiser's.
    """
    parameters = list(itertools.chain.from_iterable(group["params"] for group in optimizer.param_groups))
    parts = {
        number: {key: _part_like(value, parameters[number]) for key, value in values.items()}
        for number, values in state["state"].items()
        if number < len(parameters)
    }
    optimizer.load_state_dict({**state, "state": parts})


def _part_like(value: Any, present: torch.Tensor | None) -> Any:
    """Return this rank's part of the whole tensor `value` where `present`, of the same shape, is a part too."""
    if not isinstance(present, DTensor) or not isinstance(value, torch.Tensor) or value.shape != present.shape:
        return value
    # Every rank has read the file: nothing needs to be sent.
    return distribute_tensor(value.to(present.device), present.device_mesh, present.placements, src_data_rank=None)

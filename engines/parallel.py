"""One model on several processes: DDP or FSDP2, and full state dicts from sharded tensors.

Checkpoints contain full tensors under the names of the bare model, regardless of how many processes wrote them and how
the model was parallelised, so that a run can resume with another number of processes. Without a process group, all
functions leave their arguments unchanged.
"""

import itertools
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import get_total_norm

from engines.distributed import Context
from engines.objectives.base import Objective, saved_name


def send_weights(model: nn.Module) -> None:
    """Broadcast rank 0's parameters and buffers to all ranks, whose random initialisations differ."""
    _send(model.parameters())
    send_buffers(model)


def send_buffers(model: nn.Module) -> None:
    """Broadcast rank 0's buffers: each rank's last step has updated statistics of its own, such as a BatchNorm's."""
    _send(model.buffers())


def _send(tensors: Iterable[torch.Tensor]) -> None:
    if dist.is_initialized():
        for tensor in tensors:
            dist.broadcast(tensor.detach(), src=0)


def wrap_model(objective: Objective, context: Context, *, parallel: str, compiled: bool = False) -> nn.Module:
    """Wrap the objective for parallel training; its weights must be equal on all ranks.

    Args:
        objective: on its device. With "fsdp" it is changed in place: its parameters are sharded.
        context: this process.
        parallel: "ddp": every rank holds all weights; "fsdp": every rank holds its shard of each weight, gradient and
            moment, and gathers one block of the model's `layers` at a time.
        compiled: compile the result with torch.compile at its first call; parameter names do not change.

    Returns:
        the module to call in training.
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
    """Shard every parameter over the ranks (FSDP2), in place: first each block of the model, then the rest."""
    mesh = init_device_mesh(context.device.type, (context.world_size,))
    # The sharded parameters do not inherit attributes of the old ones, such as _no_weight_decay.
    marks = {name: dict(vars(parameter)) for name, parameter in objective.named_parameters()}
    for layer in getattr(objective.model, "layers", ()):
        fully_shard(layer, mesh=mesh)
    fully_shard(objective, mesh=mesh)
    register_fsdp_forward_method(objective, "predict")
    # A block's output may be a view of another tensor, but nothing modifies it in place.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    for name, parameter in objective.named_parameters():
        vars(parameter).update(marks[name])


@contextmanager
def gradient_sync(model: nn.Module, *, on: bool) -> Iterator[None]:
    """Synchronise the gradients of the backward passes in the `with` block between processes, if `on`."""
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(on)
    if isinstance(model, DistributedDataParallel) and not on:
        with model.no_sync():
            yield
    else:
        yield


def gradient_norm(model: nn.Module) -> torch.Tensor:
    """Return the norm of all gradients as a scalar tensor, the same on all ranks."""
    norm = get_total_norm([parameter.grad for parameter in model.parameters() if parameter.grad is not None])
    return norm.full_tensor() if isinstance(norm, DTensor) else norm


@contextmanager
def gathered_weights(model: nn.Module) -> Iterator[None]:
    """Gather all weights of a sharded model, so that the ranks can run forward passes independently of each other."""
    parts = [module for module in model.modules() if isinstance(module, FSDPModule)]
    for part in parts:
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    yield
    for part in parts:
        part.set_reshard_after_forward(part is not model, recurse=False)
        part.reshard()


def whole_state(state: Any) -> Any:
    """Return a state dict whose sharded tensors are gathered on the CPU. Every rank must call it."""
    if isinstance(state, DTensor):
        return state.full_tensor().cpu()
    if isinstance(state, dict):
        return {key: whole_state(value) for key, value in state.items()}
    if isinstance(state, list):
        return [whole_state(value) for value in state]
    return state


def saved_weights(objective: Objective) -> dict[str, Any]:
    """Return the full state dict of an objective with the names used in checkpoints. Every rank must call it.

    They are the names of the bare model, followed by those of the objective's own parameters.
    """
    return {saved_name(name): value for name, value in whole_state(objective.state_dict()).items()}


def load_model(objective: Objective, state: dict[str, Any]) -> None:
    """Load a state dict of `saved_weights`; each rank takes its shards.

    Raises:
        RuntimeError: the names or shapes belong to another model or objective.
    """
    current = objective.state_dict()
    names = {saved_name(name): name for name in current}
    full = {names.get(name, name): value for name, value in state.items()}
    objective.load_state_dict({name: _shard_like(value, current.get(name)) for name, value in full.items()})


def load_for_test(objective: Objective, state: dict[str, Any]) -> None:
    """Load a state dict of `saved_weights` from this objective or from another one with the same model.

    Parameters of the other objective that this one does not have, such as a projection to a teacher's width, are
    ignored.

    Raises:
        RuntimeError: the names or shapes belong to another model.
    """
    modules = {saved_name(name).partition(".")[0] for name in objective.state_dict()}
    load_model(objective, {name: value for name, value in state.items() if name.partition(".")[0] in modules})


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load the moments of `whole_state(optimizer.state_dict())`; each rank takes its shards.

    The settings of the parameter groups stay those of `optimizer`, including where it keeps its moments.

    Raises:
        ValueError: the groups or their sizes belong to another optimizer.
    """
    parameters = list(itertools.chain.from_iterable(group["params"] for group in optimizer.param_groups))
    shards = {
        number: {key: _shard_like(value, parameters[number]) for key, value in values.items()}
        for number, values in state["state"].items()
        if number < len(parameters)
    }
    # PyTorch pairs groups in order, and raises an error if the numbers of groups or parameters differ.
    own = itertools.chain(optimizer.param_groups, itertools.repeat({}))
    groups = [
        {**group, **mine, "params": group["params"]} for group, mine in zip(state["param_groups"], own, strict=False)
    ]
    optimizer.load_state_dict({"state": shards, "param_groups": groups})


def _shard_like(value: Any, current: torch.Tensor | None) -> Any:
    """Return this rank's shard of the full tensor `value` if `current`, of the same shape, is sharded."""
    if not isinstance(current, DTensor) or not isinstance(value, torch.Tensor) or value.shape != current.shape:
        return value
    # Every rank has read the file, so nothing has to be sent.
    return distribute_tensor(value.to(current.device), current.device_mesh, current.placements, src_data_rank=None)

"""One optimizer step on the device: gradients, the vote whether they are finite, optimizer and EMA.

With an optimizer that decides on the device (`decides_on_device`) the host waits for nothing here, so the whole step
can be captured as a CUDA graph (engines/cuda_graph.py).
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_

from engines.distributed import Context
from engines.epoch_sums import LOOP_SCALARS
from engines.optim import decides_on_device
from engines.parallel import gradient_norm, gradient_sync
from engines.preemption import stop_requested
from engines.settings import RunSettings
from engines.state import TrainingState


class Results(NamedTuple):
    """What an optimizer step tells the host.

    Attributes:
        names: of the scalars of each batch: "loss" and those of the objective.
        numbers: on the device: the scalars (names, batches), flattened; the gradient norm; 1 if a loss or the norm is
            not finite on any process; 1 if any process has received a stop signal.
    """

    names: tuple[str, ...]
    numbers: Tensor


def prepared(state: TrainingState, group: list[dict], settings: RunSettings, context: Context) -> Iterator[dict]:
    """Yield the batches of a step as `Objective.prepare` returns them, each when it is needed."""
    for batch in group:
        with torch.autocast(context.device.type, dtype=torch.bfloat16, enabled=bool(settings.bf16)):
            ready = state.objective.prepare(batch, context.device)
        yield ready


def step_numbers(state: TrainingState, group: list[dict], context: Context) -> dict[str, Tensor]:
    """Return the numbers of an optimizer step that change from step to step, on the device.

    Args:
        state: before the step.
        group: batches of the step, as the dataloader returned them.
        context: this process.

    Returns:
        "divisors" (batches,) of the mean losses; learning "rates" (parameter groups,); "average", the share
        of the new weights in the EMA.
    """
    rates = [group["lr"] for group in state.optimizer.param_groups]
    average = 0.0 if state.ema is None else 1 - state.ema.get_decay(state.step + 1)
    rates_and_average = torch.tensor([*rates, average], dtype=torch.float32).to(context.device)
    return {
        "divisors": _divisors(state, group, context),
        "rates": rates_and_average[:-1],
        "average": rates_and_average[-1],
    }


def _divisors(state: TrainingState, group: list[dict], context: Context) -> Tensor:
    """Return the divisors of the batches' mean losses, (batches,).

    Gradients are summed over the accumulated batches and averaged over processes. With the divisor
    count of the step / (count of the batch x processes), the result is the gradient of the mean over everything that
    the objective counts in the step, however it is distributed over batches and processes. The divisor of a batch with
    count 0 is infinity.
    """
    counts = torch.tensor(
        [state.objective.count(batch) for batch in group], dtype=torch.float64, device=context.device
    )
    total = counts.sum()
    if context.world_size > 1:
        dist.all_reduce(total)
    return (total.clamp(min=1) / (counts * context.world_size)).float()


def take_step(
    state: TrainingState,
    settings: RunSettings,
    context: Context,
    batches: Iterable[dict],
    numbers: dict[str, Tensor],
) -> Results:
    """Do one optimizer step; if loss or gradient are not finite on any process, change nothing.

    Args:
        state: its weights, moments and EMA are changed in place.
        settings: bf16 and clip_grad are used.
        context: this process.
        batches: of the step, from `prepared`.
        numbers: from `step_numbers`.
    """
    state.optimizer.zero_grad(set_to_none=True)
    scalars = _backward(state, settings, context, batches, numbers["divisors"])
    norm = gradient_norm(state.objective)
    decisive = torch.stack([*(batch["loss"] for batch in scalars), norm.to(scalars[0]["loss"])])
    votes = torch.stack([(~decisive.isfinite()).any().to(decisive), torch.full_like(decisive[0], stop_requested())])
    if context.world_size > 1:
        dist.all_reduce(votes, dist.ReduceOp.MAX)
    if settings.clip_grad is not None:
        clip_grads_with_norm_(state.objective.parameters(), settings.clip_grad, norm)
    _apply(state, votes[0].float(), numbers)
    names = tuple(scalars[0])
    values = torch.stack([torch.stack([batch[name] for batch in scalars]) for name in names])
    return Results(names, torch.cat([values.flatten(), decisive[-1:], votes]))


def _backward(
    state: TrainingState, settings: RunSettings, context: Context, batches: Iterable[dict], divisors: Tensor
) -> list[dict[str, Tensor]]:
    """Accumulate the gradients of one optimizer step over its batches.

    Returns:
        the scalars of each batch, scaled so that their sum, averaged over processes, is the mean over everything that
        the objective counts in the step, as tensors on the device.
    """
    scalars = []
    for number, (batch, divisor) in enumerate(zip(batches, divisors, strict=True)):
        with gradient_sync(state.parallel, on=number + 1 == len(divisors)):
            with torch.autocast(context.device.type, dtype=torch.bfloat16, enabled=bool(settings.bf16)):
                found = state.parallel(batch)
            loss = found["loss"] / divisor
            loss.backward()
        _refuse_names_of_the_loop(found)
        others = {name: torch.as_tensor(value).detach() for name, value in found.items() if name != "loss"}
        scalars.append({"loss": loss.detach()} | {name: value.to(loss) / divisor for name, value in others.items()})
    return scalars


def _refuse_names_of_the_loop(scalars: Iterable[str]) -> None:
    """Raise a ValueError if an objective's scalar has a name that the training loop uses itself."""
    taken = LOOP_SCALARS.intersection(scalars)
    if taken:
        raise ValueError(f"the training loop itself logs {min(taken)!r}: rename the objective's scalar")


def _apply(state: TrainingState, broken: Tensor, numbers: dict[str, Tensor]) -> None:
    """Let the optimizer and the EMA take the step, unless `broken`, a scalar, is 1."""
    optimizer, ema = state.optimizer, state.ema
    if decides_on_device(optimizer):
        optimizer.found_inf = broken  # pyright: ignore[reportAttributeAccessIssue]  (as GradScaler sets it)
        with _rates_on_device(optimizer, numbers["rates"]):
            optimizer.step()
        if ema is not None:
            average_weights(ema.module, state.objective, numbers["average"], broken)
    elif not broken.item():
        optimizer.step()
        if ema is not None:
            ema.update(state.objective, step=state.step + 1)


@contextmanager
def _rates_on_device(optimizer: torch.optim.Optimizer, rates: Tensor) -> Iterator[None]:
    """Let the parameter groups take their learning rates from `rates` (groups,) instead of the host's numbers."""
    kept = [group["lr"] for group in optimizer.param_groups]
    for group, rate in zip(optimizer.param_groups, rates.unbind(), strict=True):
        group["lr"] = rate
    try:
        yield
    finally:
        for group, rate in zip(optimizer.param_groups, kept, strict=True):
            group["lr"] = rate


@torch.no_grad()
def average_weights(average: torch.nn.Module, model: torch.nn.Module, weight: Tensor, broken: Tensor) -> None:
    """Do what timm's EMA does, without waiting for the device: average the parameters, copy the buffers.

    Args:
        average: Averaged module.
        model: Trained module.
        weight: Share of the trained parameters, a scalar.
        broken: 1 to change nothing, else 0.
    """
    moved, targets = tuple(average.parameters()), tuple(model.parameters())
    steps = torch._foreach_sub(targets, moved)
    torch._foreach_mul_(steps, weight * (1 - broken))
    torch._foreach_add_(moved, steps)
    for copy, source in zip(average.buffers(), model.buffers(), strict=True):
        copy.copy_(torch.where(broken > 0, copy, source))

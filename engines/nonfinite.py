"""Diagnostics of an optimizer step whose loss or gradient is not finite."""

import logging
import math
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from common.files import write_json
from engines.distributed import Context, gather_objects
from engines.objectives.base import Objective, saved_name
from engines.settings import RunSettings
from engines.state import TrainingState, random_state, set_random_state

_logger = logging.getLogger(__name__)


def report_not_finite(
    state: TrainingState,
    batches: list[dict],
    losses: list[float],
    norm: float,
    records,
    settings: RunSettings,
    context: Context,
) -> str:
    """Write nonfinite-STEP.json and return a one-sentence summary. Every rank must call it.

    For each process, the file contains the files and losses of its batches, the gradient norm, and the largest
    activation of each layer in the order of computation, from an additional forward pass without dropout. The summary
    names the files of this process's batches whose loss is not finite. If all losses are finite, it names all files,
    because the gradient belongs to all batches and processes.

    Args:
        state: before the step; its weights and random states are not changed.
        batches: batches of the step, as the dataloader returned them.
        losses: the loss of each batch.
        norm: norm of the gradient.
        records: of the data set.
        settings: output_dir and bf16 are used.
        context: this process.
    """
    bad = [number for number, loss in enumerate(losses) if not math.isfinite(loss)]
    batch = batches[bad[0] if bad else -1]
    report = {
        "rank": context.rank,
        "grad_norm": _plain(norm),
        "batches": [
            {"loss": _plain(loss), "files": _paths([batch], records)}
            for loss, batch in zip(losses, batches, strict=True)
        ],
        "activations": largest_activations(state.objective, batch, context.device, bf16=bool(settings.bf16)),
    }
    ranks = gather_objects(report)
    sentence = (
        f"epoch {state.epoch}, step {state.step}, rank {context.rank}: the loss is {sum(losses)} and the "
        f"gradient norm {norm}; files: {', '.join(_paths([batches[i] for i in bad] or batches, records))}"
    )
    if settings.output_dir and context.is_main:
        path = Path(settings.output_dir) / f"nonfinite-{state.step}.json"
        write_json(path, {"epoch": state.epoch, "step": state.step, "bf16": bool(settings.bf16), "processes": ranks})
        sentence += f"; the largest activations are in {path}"
    return sentence


@torch.no_grad()
def largest_activations(objective: Objective, batch: dict, device: torch.device, *, bf16: bool) -> dict[str, dict]:
    """Compute the loss of a batch in evaluation mode and record the outputs of every module.

    Returns:
        name of each module, in the order of computation -> {"largest": magnitude of the largest finite value,
        "not_finite": number of infinite and NaN values}. A module that runs twice has the larger "largest".
    """
    seen: dict[str, dict] = {}

    def watch(name: str):
        def hook(_module, _inputs, output) -> None:
            for tensor in output if isinstance(output, (tuple, list)) else (output,):
                if isinstance(tensor, Tensor) and tensor.is_floating_point() and tensor.numel():
                    finite = tensor.isfinite()
                    entry = seen.setdefault(name, {"largest": 0.0, "not_finite": 0})
                    entry["largest"] = max(entry["largest"], tensor.where(finite, 0).abs().max().item())
                    entry["not_finite"] += int(finite.numel() - finite.sum().item())

        return hook

    handles = [
        module.register_forward_hook(watch(saved_name(name)))
        for name, module in objective.named_modules()
        if module not in (objective, objective.model)
    ]
    was_training, states = objective.training, random_state()
    objective.eval()
    try:
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16):
            objective(objective.prepare(batch, device))
    finally:
        objective.train(was_training)
        set_random_state(states)  # objectives may draw random numbers (masks, for example) in evaluation mode too
        for handle in handles:
            handle.remove()
    return seen


def _paths(batches: Iterable[dict], records) -> list[str]:
    """Return the files of the batches in order, without repetitions."""
    indices = [int(index) for batch in batches for index in batch["indices"]]
    return list(dict.fromkeys(str(records[index].path) for index in indices))


def _plain(value: float) -> float | str:
    """Return a finite number unchanged, and a text for the others, which JSON cannot represent."""
    return value if math.isfinite(value) else str(value)

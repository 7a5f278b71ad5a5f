"""A loss or gradient that is not finite: what is written down about it, to be understood later."""

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
    """Write nonfinite-STEP.json and return what happened in a sentence. Every rank must call it.

    The file holds for each process the batches' files and losses, the gradient norm, and the largest activation of
    each layer in the order of the computation, from one more forward pass without dropout over the batch that went
    wrong. A gradient is of all processes, a loss of one: the sentence names the files of this process's batches whose
    loss is not finite, or else all of them.

    Args:
        state: before the update; its weights and random states are left alone.
        batches: of the update, as the loader gave them. losses: one for each. norm: of the gradient.
        records: of the data set. settings: output_dir, bf16. context: this process.
    """
    guilty = [number for number, loss in enumerate(losses) if not math.isfinite(loss)]
    batch = batches[guilty[0] if guilty else -1]
    found = {
        "rank": context.rank,
        "grad_norm": _plain(norm),
        "batches": [
            {"loss": _plain(loss), "files": _paths([batch], records)}
            for loss, batch in zip(losses, batches, strict=True)
        ],
        "activations": largest_activations(state.objective, batch, context.device, bf16=bool(settings.bf16)),
    }
    ranks = gather_objects(found)
    sentence = (
        f"epoch {state.epoch}, update {state.step}, process {context.rank}: the loss is {sum(losses)} and the "
        f"gradient norm {norm}; files: {', '.join(_paths([batches[i] for i in guilty] or batches, records))}"
    )
    if settings.output_dir and context.is_main:
        path = Path(settings.output_dir) / f"nonfinite-{state.step}.json"
        write_json(path, {"epoch": state.epoch, "step": state.step, "bf16": bool(settings.bf16), "processes": ranks})
        sentence += f"; the largest activations are in {path}"
    return sentence


@torch.no_grad()
def largest_activations(objective: Objective, batch: dict, device: torch.device, *, bf16: bool) -> dict[str, dict]:
    """Compute the loss of a loader's batch in evaluation mode and look at what each module gives.

    Returns:
        module's name, in the order of the computation -> {"largest": magnitude of the largest finite value,
        "not_finite": number of values that are infinite or nan}. A module that runs twice has the larger of both.
    """
    seen: dict[str, dict] = {}

    def look(name: str):
        def hook(_module, _inputs, output) -> None:
            for tensor in output if isinstance(output, (tuple, list)) else (output,):
                if isinstance(tensor, Tensor) and tensor.is_floating_point() and tensor.numel():
                    finite = tensor.isfinite()
                    entry = seen.setdefault(name, {"largest": 0.0, "not_finite": 0})
                    entry["largest"] = max(entry["largest"], tensor.where(finite, 0).abs().max().item())
                    entry["not_finite"] += int(finite.numel() - finite.sum().item())

        return hook

    handles = [
        module.register_forward_hook(look(saved_name(name)))
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
        set_random_state(states)  # an objective may draw, such as masks, in evaluation too
        for handle in handles:
            handle.remove()
    return seen


def _paths(batches: Iterable[dict], records) -> list[str]:
    """Return the files behind the batches, each once, in order."""
    indices = [int(index) for batch in batches for index in batch["indices"]]
    return list(dict.fromkeys(str(records[index].path) for index in indices))


def _plain(value: float) -> float | str:
    """Return a number that JSON has, or the word for one that it has not."""
    return value if math.isfinite(value) else str(value)

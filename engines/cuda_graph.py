"""--cuda_graph: a step or a forward pass as one CUDA graph, which the host launches at once, not kernel by kernel.

In training, the whole step is captured rather than the model alone (`torch.cuda.make_graphed_callables`): loss,
clipping, optimizer and EMA launch as many small kernels as a few layers do, and their tensors need no copies between
graphs.
"""

import threading
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from engines.distributed import Context
from engines.objectives.base import Objective
from engines.optim import decides_on_device
from engines.settings import RunSettings
from models.videomambapro import VideoMambaPro

WARM_UP = 3
"""Steps before the capture: libraries choose their kernels in them, and the optimizer creates its moments."""

GRAPHS = 4
"""Graphs of forward passes that are kept, each with memory of its own."""

NEEDS_GPU = "--cuda_graph: it needs an NVIDIA GPU (--device cuda)"

Result = TypeVar("Result")
Inputs = list[dict[str, Tensor]]


class GraphedStep:
    """Calls a step as usual for `WARM_UP` calls, then captures it and replays the capture.

    Every call is an ordinary step with its own batches: the first ones warm up, and capturing computes nothing. The
    inputs of a replay are copied to the captured tensors. Inputs of other shapes than those captured, such as a
    smaller batch, are computed without the graph. Each replay draws new random numbers from the default generator.

    Args:
        device: of the step.
        capture: records a function's kernels and returns a function that replays them; None for CUDA's.
    """

    def __init__(self, device: torch.device, capture: Callable[[Callable[[], Any]], Callable[[], Any]] | None = None):
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._capture = capture or self._capture_cuda
        self._calls = 0
        self._static: Inputs = []
        self._replay: Callable[[], Any] | None = None

    def __call__(
        self,
        step: Callable[[Iterable[dict], dict[str, Tensor]], Result],
        batches: Iterable[dict],
        numbers: dict[str, Tensor],
    ) -> Result:
        """Return what step(batches, numbers) returns; the next call may overwrite its tensors.

        Args:
            step: uses nothing that changes from call to call but these arguments and tensors that keep their place.
            batches: of tensors.
            numbers: tensors.

        Raises:
            ValueError: a batch contains something other than tensors.
        """
        inputs = [*batches, numbers]
        _check_tensors(inputs)
        self._calls += 1
        if self._replay is None and self._calls <= WARM_UP:
            return self._warm_up(lambda: step(inputs[:-1], inputs[-1]))
        if self._replay is None:
            with torch.inference_mode(False):  # a tensor of inference mode could not be overwritten outside of it
                self._static = [{name: tensor.clone() for name, tensor in part.items()} for part in inputs]
            self._replay = self._capture(lambda: step(self._static[:-1], self._static[-1]))
        if _shapes(inputs) != _shapes(self._static):
            return step(inputs[:-1], inputs[-1])
        for static, part in zip(self._static, inputs, strict=True):
            for name, tensor in part.items():
                static[name].copy_(tensor)
        return self._replay()

    def _warm_up(self, step: Callable[[], Result]) -> Result:
        """Run the step on the stream that will be captured, as gradients remember the stream that they came from."""
        if self._stream is None:
            return step()
        current = torch.cuda.current_stream(self._stream.device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            result = step()
        current.wait_stream(self._stream)
        return result

    def _capture_cuda(self, step: Callable[[], Result]) -> Callable[[], Result]:
        graph = torch.cuda.CUDAGraph()
        # The thread of the dataloader that pins memory may call CUDA in the meantime, hence the mode.
        with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
            result = step()

        def replay() -> Result:
            graph.replay()
            return result

        return replay


class GraphedForward:
    """Computes a model's tokens without gradients as a CUDA graph, one for each of the first `GRAPHS` kinds of clips.

    Shape, type and autocast make a kind. Further kinds are computed as usual; so is everything with gradients, or if a
    module has forward hooks, which a replay would not call. Threads take turns.

    Args:
        model: with `forward_tokens`; its weights may change in place.
        device: of the model.
        capture: as in `GraphedStep`.

    Raises:
        ValueError: the device has no CUDA graphs.
    """

    def __init__(self, model: VideoMambaPro, device: torch.device, capture: Callable | None = None):
        if device.type != "cuda" and capture is None:
            raise ValueError(NEEDS_GPU)
        self._model, self._compute = model, model.forward_tokens
        self._create_graph = partial(GraphedStep, device, capture)
        self._graphs: dict[tuple, GraphedStep] = {}
        self._lock = threading.Lock()

    def __call__(self, clips: Tensor, *others: Any, **named: Any) -> Tensor:
        """Return what the model's `forward_tokens` returns for clips (b, 3, frames, height, width)."""
        hooked = any(module._forward_hooks or module._forward_pre_hooks for module in self._model.modules())
        if torch.is_grad_enabled() or hooked or others or named:
            return self._compute(clips, *others, **named)
        with self._lock:
            kind = (clips.shape, clips.dtype, *_autocast_of(clips))
            if kind not in self._graphs and len(self._graphs) < GRAPHS:
                self._graphs[kind] = self._create_graph()
            graph = self._graphs.get(kind)
            if graph is None:
                return self._compute(clips)
            return graph(self._step, [{"clips": clips}], {}).clone()  # the next replay overwrites it

    def _step(self, batches: Iterable[dict], _numbers: dict) -> Tensor:
        [batch] = batches
        on, dtype = _autocast_of(batch["clips"])
        # Autocast keeps the weights that it has cast until its outermost block ends. A graph that read them would miss
        # changed weights and, after that block, read freed memory.
        with torch.autocast(batch["clips"].device.type, dtype, enabled=on, cache_enabled=False):
            return self._compute(batch["clips"])


def first_passes(model: VideoMambaPro) -> int:
    """Return after how many forward passes a model needs no more preparation."""
    return WARM_UP + 1 if isinstance(model.forward_tokens, GraphedForward) else 1


def _autocast_of(tensor: Tensor) -> tuple[bool, torch.dtype]:
    """Return whether autocast is on for the device of a tensor, and its type."""
    device = tensor.device.type
    return torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)


def check_capturable(
    settings: RunSettings, objective: Objective, optimizer: torch.optim.Optimizer, context: Context
) -> None:
    """Raise a ValueError that gives the reason if the optimizer steps of a run cannot be captured as a CUDA graph."""
    if context.device.type != "cuda":
        raise ValueError(NEEDS_GPU)
    obstacles = {
        "it is for one process; several exchange their gradients step by step": context.world_size > 1,
        "--compile changes the model's kernels at its first calls; use one of the two": settings.compile,
        "--use_checkpoint saves the random state on the host; remove it": checkpoints_gradients(objective),
        f"{type(objective).__name__} has batches of changing shapes": not objective.fixed_shapes,
        f"--opt {settings.opt} decides on the host; use adamw or adam": not decides_on_device(optimizer),
    }
    for reason, found in obstacles.items():
        if found:
            raise ValueError(f"--cuda_graph: {reason}")


def checkpoints_gradients(objective: Objective) -> bool:
    """Return whether blocks of the model recompute their activations in the backward pass."""
    return getattr(objective.model, "checkpointed_blocks", 0) > 0


def _check_tensors(inputs: list[dict]) -> None:
    for name, value in (item for part in inputs for item in part.items()):
        if not isinstance(value, Tensor):
            raise ValueError(f"--cuda_graph: {name!r} of a batch is a {type(value).__name__}, not a tensor")


def _shapes(inputs: Inputs) -> list[dict]:
    return [{name: (tensor.shape, tensor.dtype) for name, tensor in part.items()} for part in inputs]

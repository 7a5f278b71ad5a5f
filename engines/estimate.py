"""What a run will need, by arithmetic and one short measurement: memory of a GPU, hours. Estimates, not promises."""

import argparse
import time
from dataclasses import dataclass

import torch

from models.build import build_model
from models.complexity import Complexity

# Operations that a measurement may take, some seconds on two CPU cores and far less on a GPU.
_MEASURED_FLOPS = {"cpu": 5e9, "cuda": 4e12}
_MEASURED_DEPTHS = (1, 3)
_REPEATS = 3
_ENOUGH_SECONDS = 3.0  # repeat no more after that
ASSUMED_GPU_FLOPS = 3e13  # sustained, mixed precision, where no GPU is at hand to measure
BYTES_PER_PARAMETER = 4 + 4 + 8  # weight, gradient, AdamW's two moments
BYTES_OF_AVERAGE = 4


@dataclass(frozen=True)
class Workload:
    """How many clips go through the model in a whole run, on all processes together.

    Attributes:
        trained: forward and backward. validated, tested: forward alone.
    """

    trained: int
    validated: int
    tested: int

    @property
    def training_passes(self) -> float:
        """All of it in units of one forward and backward pass; a forward pass is a third of it."""
        return self.trained + (self.validated + self.tested) / 3


def estimate_memory(complexity: Complexity, args: argparse.Namespace) -> tuple[int, str]:
    """Bytes of a GPU while training, and how they come about in words."""
    clips = args.batch_size * args.num_sample
    per_parameter = BYTES_PER_PARAMETER + (BYTES_OF_AVERAGE if args.model_ema else 0)
    total = per_parameter * complexity.parameters + clips * complexity.activation_bytes
    return total, (
        f"{per_parameter} bytes x {complexity.parameters / 1e6:.1f} M parameters (weights, gradients, "
        f"moments) + {clips} clips x {complexity.activation_bytes / 2**20:.0f} MiB of activations"
    )


def measure_seconds_per_clip(
    args: argparse.Namespace, complexity: Complexity, depth: int, num_classes: int, device: torch.device, bf16: bool
) -> float:
    """Seconds of a forward and backward pass over one clip on `device`.

    Measured with one and with three blocks, on fewer frames where all would take long, and extended to all blocks and
    frames: both are linear in this model.
    """
    frames = _affordable_frames(args, complexity, depth, device)
    clips = 1 if device.type == "cpu" else max(1, min(args.batch_size * args.num_sample, 8))
    seconds = [_time_step(args, blocks, frames, clips, num_classes, device, bf16) for blocks in _MEASURED_DEPTHS]
    first, last = _MEASURED_DEPTHS
    per_block = max(0.0, seconds[1] - seconds[0]) / (last - first)
    return (seconds[0] + (depth - first) * per_block) / clips * args.num_frames / frames


def _affordable_frames(args: argparse.Namespace, complexity: Complexity, depth: int, device: torch.device) -> int:
    """The frames to measure with: all, or as many as the measurement may take."""
    per_frame = 3 * complexity.flops / depth / args.num_frames * sum(_MEASURED_DEPTHS) * _REPEATS
    affordable = int(_MEASURED_FLOPS.get(device.type, 1e10) / per_frame) // args.tubelet_size * args.tubelet_size
    return min(args.num_frames, max(args.tubelet_size, affordable))


def _time_step(
    args: argparse.Namespace, depth: int, frames: int, clips: int, num_classes: int, device: torch.device, bf16: bool
) -> float:
    """Seconds of a training step of a model of `depth` blocks, the shortest of a few: other work only adds to them."""
    small = argparse.Namespace(**vars(args) | {"num_frames": frames, "use_checkpoint": False})
    model = build_model(small, num_classes, depth=depth).to(device).train()
    batch = torch.zeros(clips, 3, frames, args.input_size, args.input_size, device=device)
    times = []
    for _ in range(_REPEATS):
        start = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            logits = model(batch)
        logits.float().sum().backward()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
        if sum(times) > _ENOUGH_SECONDS:
            break
    return min(times)

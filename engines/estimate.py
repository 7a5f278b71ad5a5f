"""What a run will need, by arithmetic and one short measurement: memory of a GPU, hours. Estimates, not promises."""

import time
from dataclasses import dataclass

import torch

from engines.settings import RunSettings
from models.complexity import Complexity
from models.config import ModelConfig
from models.videomambapro import VideoMambaPro

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


def estimate_memory(complexity: Complexity, settings: RunSettings) -> tuple[int, str]:
    """Bytes of a GPU while training, and how they come about in words."""
    clips = settings.batch_size * settings.num_sample
    per_parameter = BYTES_PER_PARAMETER + (BYTES_OF_AVERAGE if settings.model_ema else 0)
    total = per_parameter * complexity.parameters + clips * complexity.activation_bytes
    return total, (
        f"{per_parameter} bytes x {complexity.parameters / 1e6:.1f} M parameters (weights, gradients, "
        f"moments) + {clips} clips x {complexity.activation_bytes / 2**20:.0f} MiB of activations"
    )


def measure_seconds_per_clip(
    config: ModelConfig, complexity: Complexity, clips: int, device: torch.device, bf16: bool
) -> float:
    """Seconds of a forward and backward pass over one clip on `device`, of a step of `clips` clips where it is a GPU.

    Measured with one and with three blocks, on fewer frames where all would take long, and extended to all blocks and
    frames: both are linear in this model.
    """
    frames = _affordable_frames(config, complexity, device)
    clips = 1 if device.type == "cpu" else max(1, min(clips, 8))
    small = config.replace(num_frames=frames, use_checkpoint=False)
    seconds = [_time_step(small.replace(depth=depth), clips, device, bf16) for depth in _MEASURED_DEPTHS]
    first, last = _MEASURED_DEPTHS
    per_block = max(0.0, seconds[1] - seconds[0]) / (last - first)
    return (seconds[0] + (config.depth - first) * per_block) / clips * config.num_frames / frames


def _affordable_frames(config: ModelConfig, complexity: Complexity, device: torch.device) -> int:
    """The frames to measure with: all, or as many as the measurement may take."""
    per_frame = 3 * complexity.flops / config.depth / config.num_frames * sum(_MEASURED_DEPTHS) * _REPEATS
    tubelet = config.tubelet_size
    affordable = int(_MEASURED_FLOPS.get(device.type, 1e10) / per_frame) // tubelet * tubelet
    return min(config.num_frames, max(tubelet, affordable))


def _time_step(config: ModelConfig, clips: int, device: torch.device, bf16: bool) -> float:
    """Seconds of a training step of a model, the shortest of a few: other work only adds to them."""
    model = VideoMambaPro(config).to(device).train()
    batch = torch.zeros(clips, 3, config.num_frames, config.img_size, config.img_size, device=device)
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

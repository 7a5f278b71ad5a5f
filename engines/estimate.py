"""Estimates of a run's GPU memory and hours, by arithmetic and one short measurement."""

import time
from dataclasses import dataclass

import torch

from common.frame_size import as_pair
from engines.settings import RunSettings
from models.complexity import Complexity
from models.config import ModelConfig
from models.videomambapro import VideoMambaPro

# FLOPs of one measurement: a few seconds on two CPU cores, far less on a GPU.
_MEASURED_FLOPS = {"cpu": 5e9, "cuda": 4e12}
_MEASURED_DEPTHS = (1, 3)
_REPEATS = 3
_ENOUGH_SECONDS = 3.0  # stop repeating after this
ASSUMED_GPU_FLOPS = 3e13  # sustained, mixed precision; used if there is no GPU to measure
BYTES_PER_WEIGHT = 4
BYTES_PER_PARAMETER = BYTES_PER_WEIGHT + 4 + 8  # weight, gradient, AdamW's two moments
BYTES_OF_EMA = 4


@dataclass(frozen=True)
class Workload:
    """Number of clips that pass through the model in a whole run, on all processes together.

    Attributes:
        trained: clips with a forward and a backward pass.
        training_pass: cost of such a pass with frozen blocks, which have no backward pass, relative to that of all.
        validated: clips of all validations, forward pass only.
        tested: views of the test, forward pass only.
        forward: cost of a forward pass alone, relative to a forward and backward pass.
    """

    trained: int
    validated: int
    tested: int
    training_pass: float = 1.0
    forward: float = 1 / 3

    @property
    def training_passes(self) -> float:
        """The total in units of one forward and backward pass."""
        return self.trained * self.training_pass + (self.validated + self.tested) * self.forward


def estimate_memory(complexity: Complexity, settings: RunSettings) -> tuple[int, str]:
    """Return the bytes of GPU memory needed for training, and a text that explains them."""
    clips = settings.batch_size * settings.num_sample
    of_ema = BYTES_OF_EMA if settings.model_ema else 0
    trained, frozen = complexity.parameters - complexity.frozen_parameters, complexity.frozen_parameters
    per_trained, per_frozen = BYTES_PER_PARAMETER + of_ema, BYTES_PER_WEIGHT + of_ema
    total = per_trained * trained + per_frozen * frozen + clips * complexity.activation_bytes
    return total, (
        f"{per_trained} bytes x {trained / 1e6:.1f} M parameters (weights, gradients, moments)"
        f"{f' + {per_frozen} bytes x {frozen / 1e6:.1f} M frozen ones' if frozen else ''}"
        f" + {clips} clips x {complexity.activation_bytes / 2**20:.0f} MiB of activations"
    )


def measure_seconds_per_clip(
    config: ModelConfig, complexity: Complexity, clips: int, device: torch.device, bf16: bool
) -> float:
    """Measure the seconds per clip of a forward and backward pass.

    The measurement uses one and three blocks, and fewer frames if all of them would take too long. It is extrapolated
    to all blocks and frames, in which the cost of this model is linear.

    Args:
        config: of the model.
        complexity: of the model.
        clips: batch size; only used on a GPU, where at most 8 clips are measured.
        device: where to measure.
        bf16: compute in bfloat16 with autocast.
    """
    frames = _affordable_frames(config, complexity, device)
    clips = 1 if device.type == "cpu" else max(1, min(clips, 8))
    small = config.replace(num_frames=frames, use_checkpoint=False)
    seconds = [_time_step(small.replace(depth=depth), clips, device, bf16) for depth in _MEASURED_DEPTHS]
    first, last = _MEASURED_DEPTHS
    per_block = max(0.0, seconds[1] - seconds[0]) / (last - first)
    return (seconds[0] + (config.depth - first) * per_block) / clips * config.num_frames / frames


def _affordable_frames(config: ModelConfig, complexity: Complexity, device: torch.device) -> int:
    """Return the number of frames to measure with: all, or as many as the budget allows."""
    of_blocks = complexity.training_flops - complexity.stem_flops
    of_models = of_blocks / config.depth * sum(_MEASURED_DEPTHS) + complexity.stem_flops * len(_MEASURED_DEPTHS)
    per_frame = of_models / config.num_frames * _REPEATS
    tubelet = config.tubelet_size
    affordable = int(_MEASURED_FLOPS.get(device.type, 1e10) / per_frame) // tubelet * tubelet
    return min(config.num_frames, max(tubelet, affordable))


def _time_step(config: ModelConfig, clips: int, device: torch.device, bf16: bool) -> float:
    """Return the seconds of a training step: the shortest of a few, because other programs only add to it."""
    model = VideoMambaPro(config).to(device).train()
    batch = torch.zeros(clips, 3, config.num_frames, *as_pair(config.img_size), device=device)
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

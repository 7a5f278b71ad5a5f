"""What this machine could do at most: the model's matrix products alone, and the scans' arithmetic at its own rate."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.videomambapro import VideoMambaPro

PROBE = 20_000_000  # operations of one measurement of the arithmetic's rate: some milliseconds
# For each entry of a channel's state: step times A, input times B, the recurrence, the reading.
STATE_FMAS = 4


@dataclass(frozen=True)
class Arithmetic:
    """Operations between the matrix products of one clip's forward pass.

    Attributes:
        exponentials: two of every entry of the state a token, one each for softplus, gate and convolution's silu.
        fmas: multiply-adds of both scans, and of the convolution.
    """

    exponentials: int
    fmas: int


def arithmetic_of(model: VideoMambaPro) -> Arithmetic:
    """Counts what the scans and convolutions of `model` compute."""
    mixer = model.layers[0].mixer
    tubelets = model.num_frames // model.patch_embed.tubelet_size
    elements = len(model.layers) * (1 + tubelets * model.patch_embed.patches_per_frame) * mixer.d_inner
    states = 2 * elements * mixer.A_log.shape[1]
    width = mixer.conv1d.weight.shape[-1]
    return Arithmetic(exponentials=states + 3 * elements, fmas=STATE_FMAS * states + width * elements)


def matrix_products(model: VideoMambaPro) -> Callable[[], None]:
    """A function that multiplies what a forward pass of `model` multiplies, from and to memory of its own."""
    patches = model.num_frames // model.patch_embed.tubelet_size * model.patch_embed.patches_per_frame
    weights = [(patches, model.patch_embed.proj.weight.flatten(1))]
    for layer in model.layers:
        mixer = layer.mixer
        linears = (mixer.in_proj, mixer.x_proj, mixer.dt_proj, mixer.out_proj)
        weights += [(1 + patches, linear.weight) for linear in linears]
    if isinstance(model.head, nn.Linear):
        weights.append((1, model.head.weight))
    shapes = {(rows, weight.shape) for rows, weight in weights}
    inputs = {shape: torch.randn(shape[0], shape[1][1]) for shape in shapes}
    outputs = {shape: torch.empty(shape[0], shape[1][0]) for shape in shapes}

    def multiply() -> None:
        with torch.no_grad():
            for rows, weight in weights:
                _product(inputs[rows, weight.shape], weight, outputs[rows, weight.shape])

    return multiply


def _product(x: Tensor, weight: Tensor, out: Tensor) -> None:
    torch.mm(x, weight.t(), out=out)


def probes() -> dict[str, Callable[[], int]]:
    """Functions that run PROBE exponentials, or multiply-adds, of the kernel on all threads and return how many."""
    run = torch.ops.vmp_cpu.arithmetic
    return {"exponentials": lambda: run(True, PROBE), "multiply-adds": lambda: run(False, PROBE)}

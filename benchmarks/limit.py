"""Lower bound of the time on this machine: matrix products, and the scans' arithmetic at the processor's peak rate."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.videomambapro import VideoMambaPro

PROBE = 20_000_000  # operations per measurement of the arithmetic rate, which takes some milliseconds
# Per state entry of a channel: step size times A, input times B, recurrence, output.
STATE_FMAS = 4


@dataclass(frozen=True)
class Arithmetic:
    """Operations of a forward pass over one clip outside of matrix products.

    Attributes:
        exponentials: Two per state entry and token, and one each for softplus, gate and the convolution's SiLU.
        fmas: Multiply-adds of both scans and of the convolution.
    """

    exponentials: int
    fmas: int


def arithmetic_of(model: VideoMambaPro) -> Arithmetic:
    """Count the operations of the scans and convolutions of a model."""
    mixer = model.layers[0].mixer
    tubelets = model.num_frames // model.patch_embed.tubelet_size
    elements = len(model.layers) * (1 + tubelets * model.patch_embed.patches_per_frame) * mixer.d_inner
    states = 2 * elements * mixer.A_log.shape[1]
    width = mixer.conv1d.weight.shape[-1]
    return Arithmetic(exponentials=states + 3 * elements, fmas=STATE_FMAS * states + width * elements)


def matrix_products(model: VideoMambaPro) -> Callable[[], None]:
    """Return a function that runs the matrix products of a forward pass of `model` on separate tensors."""
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
    """Return functions that run PROBE exponentials or multiply-adds on all threads and return their number."""
    run = torch.ops.vmp_cpu.arithmetic
    return {"exponentials": lambda: run(True, PROBE), "multiply-adds": lambda: run(False, PROBE)}

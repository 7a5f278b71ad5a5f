"""Estimate of the least time on this machine: matrix products, and the scans' arithmetic at the rate of probes.

The parts are measured one by one and added up. It is no bound: a processor can overlap some of the arithmetic, and the
probe of exponentials, whose values stay in registers, waits in part for its own results.
"""

from collections.abc import Callable
from dataclasses import astuple, dataclass

import torch
from torch import Tensor, nn

from benchmarks.candidates import make_inputs
from benchmarks.peers import WIDTH, Candidate
from mamba.mamba_ssm.ops.selective_scan import build_extension, cpu
from models.videomambapro import VideoMambaPro

TOKENS = 1569  # 8 frames of 14 x 14 and the class token
CHANNELS, STATE = 2 * WIDTH, 16
PROBE = 20_000_000  # operations per measurement of an arithmetic rate, which takes some milliseconds
KINDS = ("exponentials", "multiply-adds", "lane sums")


@dataclass(frozen=True)
class Arithmetic:
    """Operations outside of matrix products, in the order of KINDS.

    Attributes:
        exponentials: Of decays, and of softplus and SiLU.
        fmas: Multiply-adds, or multiplications that no addition follows.
        lane_sums: Numbers that are summed over the channels within a vector.
    """

    exponentials: int = 0
    fmas: int = 0
    lane_sums: int = 0

    def __add__(self, other: "Arithmetic") -> "Arithmetic":
        return Arithmetic(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def seconds(self, rates: dict[str, float]) -> dict[str, float]:
        """Return the seconds that each of KINDS takes at the rates per second."""
        return {kind: n / rates[kind] for kind, n in zip(KINDS, astuple(self), strict=True)}


def scans(elements: int, state: int) -> Arithmetic:
    """Count both scans, forward, of `elements` tokens and channels with `state` entries each.

    Per entry: step size times A, its exponential, input times B, recurrence, output; per element: softplus and gate.
    """
    entries = 2 * elements * state
    return Arithmetic(exponentials=entries + 2 * elements, fmas=4 * entries)


def scans_backward(elements: int, state: int) -> Arithmetic:
    """Count both scans, backward, which compute the states again.

    Per entry: the forward scan's operations, the adjoint (2), its product with the state (1), and that product's or
    the adjoint's share in the gradients of step size, input, A, B and C (1 each). Those of B and C are sums over
    channels: two vectors are added up before their lanes are. Per element: softplus, its derivative, and the gate.
    """
    entries = 2 * elements * state
    return Arithmetic(exponentials=entries + 3 * elements, fmas=12 * entries, lane_sums=entries)


def of_forward_pass(model: VideoMambaPro) -> Arithmetic:
    """Count the scans and convolutions of a forward pass over one clip."""
    elements, state, width = _shape(model)
    return scans(elements, state) + Arithmetic(exponentials=elements, fmas=width * elements)


def of_training_step(model: VideoMambaPro) -> Arithmetic:
    """Count the scans and convolutions of a forward and a backward pass over one clip."""
    elements, state, width = _shape(model)
    convolution = Arithmetic(exponentials=elements, fmas=3 * width * elements)  # again, and two gradients
    return of_forward_pass(model) + scans_backward(elements, state) + convolution


def _shape(model: VideoMambaPro) -> tuple[int, int, int]:
    """Return tokens x channels of all layers, the size of a channel's state, and the width of the convolution."""
    mixer = model.layers[0].mixer
    elements = len(model.layers) * (1 + _patches(model)) * mixer.d_inner
    return elements, mixer.A_log.shape[1], mixer.conv1d.weight.shape[-1]


def _patches(model: VideoMambaPro) -> int:
    return model.num_frames // model.patch_embed.tubelet_size * model.patch_embed.patches_per_frame


def matrix_products(model: VideoMambaPro, training: bool = False) -> Callable[[], None]:
    """Return a function that runs the matrix products of `model` for one clip on separate tensors.

    Args:
        model: The model.
        training: Include those of the backward pass, one for the input (except for the clip's) and one for the weight.
    """
    patches = _patches(model)
    weights = [(patches, model.patch_embed.proj.weight.flatten(1))]
    for layer in model.layers:
        mixer = layer.mixer
        linears = (mixer.in_proj, mixer.x_proj, mixer.dt_proj, mixer.out_proj)
        weights += [(1 + patches, linear.weight) for linear in linears]
    if isinstance(model.head, nn.Linear):
        weights.append((1, model.head.weight))
    shapes = {(rows, weight.shape) for rows, weight in weights}
    inputs = {shape: torch.randn(shape[0], shape[1][1]) for shape in shapes}
    outputs = {shape: torch.randn(shape[0], shape[1][0]) for shape in shapes}
    of_inputs = {shape: torch.empty_like(x) for shape, x in inputs.items()}
    of_weights = {shape: torch.empty(shape[1]) for shape in shapes}

    def multiply() -> None:
        with torch.no_grad():
            for index, (rows, weight) in enumerate(weights):
                shape = (rows, weight.shape)
                _product(inputs[shape], weight.t(), outputs[shape])
                if training:
                    _product(outputs[shape].t(), inputs[shape], of_weights[shape])
                if training and index > 0:
                    _product(outputs[shape], weight, of_inputs[shape])

    return multiply


def _product(x: Tensor, weight: Tensor, out: Tensor) -> None:
    torch.mm(x, weight, out=out)


def probes() -> dict[str, Callable[[], int]]:
    """Return functions that run PROBE operations of each of KINDS on all threads and return their number.

    Raises:
        ExtensionUnavailableError: The C++ kernel cannot be built or loaded.
    """
    build_extension.load()
    return {kind: lambda kind=kind: torch.ops.vmp_cpu.arithmetic(kind, PROBE) for kind in KINDS}


@dataclass(frozen=True)
class Subject:
    """What is measured, and what it consists of.

    Attributes:
        call: Runs it.
        arithmetic: Its operations outside of matrix products.
        products: Runs its matrix products alone.
    """

    call: Callable[[], object]
    arithmetic: Arithmetic
    products: Callable[[], None] = lambda: None


def subjects(forward: Candidate, trained: Candidate) -> dict[str, Subject]:
    """Return the scans of one of Tiny's layers, a forward pass and a training step over one clip, by name."""
    model, elements = forward.model, TOKENS * CHANNELS
    inputs = [tensor.detach() for tensor in make_inputs(1, TOKENS, CHANNELS, STATE).values()]
    flags = (True, True, False, True)  # of VideoMambaPro: softplus, elemental residual, masked backward scan
    out, states = cpu.forward(*inputs, *flags)
    grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(0))
    return {
        "scans, forward": Subject(lambda: cpu.forward_only(*inputs, *flags), scans(elements, STATE)),
        "scans, backward": Subject(
            lambda: cpu.backward(grad, *inputs, states, *flags), scans_backward(elements, STATE)
        ),
        "forward pass": Subject(forward.forward, of_forward_pass(model), matrix_products(model)),
        "training step": Subject(trained.training_step(), of_training_step(model), matrix_products(model, True)),
    }

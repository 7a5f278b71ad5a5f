"""What a model costs: parameters, tokens, operations, activations kept for the backward pass. Nothing is computed.

A multiply-add is two operations (FLOPs).
"""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from models.detection import ActionDetector
from models.videomambapro import VideoMambaPro


@dataclass(frozen=True)
class Complexity:
    """Costs of one clip of a model's size.

    Attributes:
        parameters: numbers to train. tokens: length of the sequence, the class token included.
        flops: operations of a forward pass: every projection, convolution and scan.
        scan_flops: those of the scans alone.
        projection_macs: multiply-adds of patch embedding, input and output projections and head alone, which is what
            the published tables count: their counter does not see into the fused operator between the projections.
        activation_bytes: kept by a training step for its backward pass.
    """

    parameters: int
    tokens: int
    flops: int
    scan_flops: int
    projection_macs: int
    activation_bytes: int


def measure_complexity(model: VideoMambaPro | ActionDetector, *, bf16: bool = True) -> Complexity:
    """Count the costs of `model`, whose tensors may be on the meta device; of a detector without those of the boxes.

    Args:
        model: of whichever size.
        bf16: activations as bfloat16 autocast keeps them, else float32.
    """
    parameters = sum(parameter.numel() for parameter in model.parameters())
    model = model.backbone if isinstance(model, ActionDetector) else model
    proj, depth = model.patch_embed.proj, len(model.layers)
    tubelets = model.num_frames // model.patch_embed.tubelet_size
    patches = tubelets * model.patch_embed.patches_per_frame
    tokens = 1 + patches
    first: Any = model.layers[0]
    mixer = first.mixer.flops(tokens)
    outer = 2 * patches * proj.weight.numel() + depth * mixer.projections
    outer += 2 * model.head.weight.numel() if isinstance(model.head, nn.Linear) else 0
    return Complexity(
        parameters=parameters,
        tokens=tokens,
        flops=outer + depth * (mixer.inner + mixer.scan),
        scan_flops=depth * mixer.scan,
        projection_macs=outer // 2,
        activation_bytes=saved_activation_bytes(model, bf16=bf16),
    )


def saved_activation_bytes(model: VideoMambaPro, *, bf16: bool) -> int:
    """Bytes that autograd keeps of a forward pass over one clip, weights apart.

    The first two blocks are run with tensors that have shapes but no values; all blocks are alike, and recomputed
    ones (--use_checkpoint) keep their two inputs.
    """
    block = _one_block(model)
    with FakeTensorMode(allow_non_fake_inputs=True):
        fake = block.to_empty(device="cpu")  # autocast knows the CPU, and not the meta device
        clip = torch.empty(
            1, model.config.in_chans, model.num_frames, model.patch_embed.img_size, model.patch_embed.img_size
        )
        saved = _SavedBytes(fake)
        with (
            torch.autocast("cpu", torch.bfloat16, enabled=bf16),
            torch.autograd.graph.saved_tensors_hooks(saved.note, lambda tensor: tensor),
        ):
            hidden, residual = fake.embed(clip), None
            before = saved.total
            hidden, residual = fake.layers[0](hidden, residual)
            hidden, residual = fake.layers[0](hidden, residual)
            # The first block has no residual stream to add to; the second is the rule.
            per_block = (saved.total - before) / 2
        inputs = hidden.nbytes + residual.nbytes
    depth, recomputed = len(model.layers), min(model.checkpointed_blocks, len(model.layers))
    return int(before + (depth - recomputed) * per_block + recomputed * inputs + (per_block if recomputed else 0))


class _SavedBytes:
    """Adds up the storages that autograd saves, each once, without those of the parameters."""

    def __init__(self, model: nn.Module):
        self.seen = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
        self.kept: list[torch.Tensor] = []
        self.total = 0

    def note(self, tensor: torch.Tensor) -> torch.Tensor:
        """The packing hook: count and pass on."""
        storage = tensor.untyped_storage()
        if storage._cdata not in self.seen:
            self.seen.add(storage._cdata)
            self.kept.append(tensor)  # a freed storage's address may be another's
            self.total += storage.nbytes()
        return tensor


def _one_block(model: VideoMambaPro) -> VideoMambaPro:
    """The model with its first block alone, on the meta device."""
    block = copy.copy(model)
    block._modules = model._modules | {"layers": model.layers[:1], "head": nn.Identity()}
    return copy.deepcopy(block).to("meta")

"""Complexity of a model: parameters, tokens, FLOPs and activation memory, determined without running the model.

A multiply-add counts as two FLOPs.
"""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from common.frame_size import as_pair
from models.detection import ActionDetector
from models.image_stem import ImageStem
from models.videomambapro import VideoMambaPro


@dataclass(frozen=True)
class Complexity:
    """Complexity of a model for one clip.

    Attributes:
        parameters: Number of parameters.
        frozen_parameters: Number of parameters that are not trained.
        tokens: Length of the sequence, including the class token.
        flops: FLOPs of a forward pass: all projections, convolutions and scans, and the stem.
        scan_flops: FLOPs of the scans.
        stem_flops: FLOPs of the stem, which has no backward pass.
        projection_macs: Multiply-adds of the patch embedding, the input and output projections and the head only. This
            is what the published tables contain, because their counter ignores the fused operator in between.
        activation_bytes: Memory of the activations kept for the backward pass.
    """

    parameters: int
    frozen_parameters: int
    tokens: int
    flops: int
    scan_flops: int
    stem_flops: int
    projection_macs: int
    activation_bytes: int

    @property
    def training_flops(self) -> int:
        """FLOPs of a forward and a backward pass, which takes twice as many as the forward pass without the stem."""
        return 3 * self.flops - 2 * self.stem_flops


def measure_complexity(model: VideoMambaPro | ActionDetector, *, bf16: bool = True) -> Complexity:
    """Determine the complexity of a model.

    Args:
        model: Its tensors may be on the meta device. The cost of a detector's boxes is not included.
        bf16: Assume bfloat16 autocast instead of float32.
    """
    parameters = sum(parameter.numel() for parameter in model.parameters())
    frozen = sum(parameter.numel() for parameter in model.parameters() if not parameter.requires_grad)
    model = model.backbone if isinstance(model, ActionDetector) else model
    proj, depth = model.patch_embed.proj, len(model.layers)
    tubelets = model.num_frames // model.patch_embed.tubelet_size
    patches = tubelets * model.patch_embed.patches_per_frame
    tokens = 1 + patches
    first: Any = model.layers[0]
    mixer = first.mixer.flops(tokens)
    outer = 2 * patches * proj.weight.numel() + depth * mixer.projections
    outer += 2 * model.head.weight.numel() if isinstance(model.head, nn.Linear) else 0
    of_stem = _stem_flops(model)
    return Complexity(
        parameters=parameters,
        frozen_parameters=frozen,
        tokens=tokens,
        flops=outer + depth * (mixer.inner + mixer.scan) + of_stem,
        scan_flops=depth * mixer.scan,
        stem_flops=of_stem,
        projection_macs=outer // 2,
        activation_bytes=saved_activation_bytes(model, bf16=bf16),
    )


def _stem_flops(model: VideoMambaPro) -> int:
    """Return the FLOPs of the image model in front of the patch embedding for one clip; 0 without one."""
    config = model.config
    if not config.stem:
        return 0
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        # Its initialisation looks at a frame.
        ImageStem(config.stem, config.patch_size, as_pair(config.img_size))
    return counter.get_total_flops() * config.num_frames


def saved_activation_bytes(model: VideoMambaPro, *, bf16: bool) -> int:
    """Return the bytes that autograd saves in a forward pass over one clip, without parameters.

    The last block is run twice with fake tensors. All blocks are alike, except that frozen ones keep nothing; with
    gradient checkpointing, a block keeps only its two inputs.
    """
    block = _one_block(model)
    with FakeTensorMode(allow_non_fake_inputs=True):
        fake = block.to_empty(device="cpu")  # autocast supports the CPU but not the meta device
        clip = torch.empty(1, model.config.in_chans, model.num_frames, *model.patch_embed.img_size)
        saved = _SavedBytes(fake)
        with (
            torch.autocast("cpu", torch.bfloat16, enabled=bf16),
            torch.autograd.graph.saved_tensors_hooks(saved.record, lambda tensor: tensor),
        ):
            hidden, residual = fake.embed(clip), None
            before = saved.total
            hidden, residual = fake.layers[0](hidden, residual)
            hidden, residual = fake.layers[0](hidden, residual)
            # The first call has no residual stream to add to, unlike the second and all others.
            per_block = (saved.total - before) / 2
        inputs = hidden.nbytes + residual.nbytes
    # The first blocks are frozen, if any are, and the first are checkpointed.
    frozen = sum(not any(p.requires_grad for p in layer.parameters()) for layer in model.layers)
    trained = len(model.layers) - frozen
    recomputed = min(max(0, model.checkpointed_blocks - frozen), trained)
    return int(before + (trained - recomputed) * per_block + recomputed * inputs + (per_block if recomputed else 0))


class _SavedBytes:
    """Sum of the sizes of the storages that autograd saves, each counted once, without those of the parameters."""

    def __init__(self, model: nn.Module):
        self.seen = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
        self.kept: list[torch.Tensor] = []
        self.total = 0

    def record(self, tensor: torch.Tensor) -> torch.Tensor:
        """Count a saved tensor (packing hook of autograd)."""
        storage = tensor.untyped_storage()
        if storage._cdata not in self.seen:
            self.seen.add(storage._cdata)
            self.kept.append(tensor)  # keep alive, because the address of a freed storage may be reused
            self.total += storage.nbytes()
        return tensor


def _one_block(model: VideoMambaPro) -> VideoMambaPro:
    """Copy the model with only its last block to the meta device."""
    block = copy.copy(model)
    block._modules = model._modules | {"layers": model.layers[-1:], "head": nn.Identity()}
    return copy.deepcopy(block).to("meta")

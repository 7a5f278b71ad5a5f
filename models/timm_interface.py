"""What timm's tools ask of a model beyond `forward`: another head, features of the blocks, gradient checkpointing.

The names and arguments are those of timm's own models. Clips have a time axis, so maps have one more axis than timm's:
(b, d, t, h, w) where a picture's are (b, d, h, w).
"""

from collections.abc import Sequence
from typing import Any

import torch.nn as nn
from torch import Tensor

from models.blocks import add_to_residual
from models.initialisation import LINEAR_STD

OUTPUT_FORMATS = ("NCHW", "NLC")


class TimmInterface(nn.Module):
    """Base of a model with `config`, `embed`, `layers`, `run_block`, `pool`, `norm_f`, `head_drop` and `head`."""

    config: Any
    layers: nn.ModuleList
    head: nn.Module
    num_classes: int
    embed_dim: int
    checkpointed_blocks: int

    @property
    def feature_info(self) -> list[dict[str, Any]]:
        """Describe the features of each block, for timm's `FeatureInfo`."""
        return [
            dict(module=f"layers.{index}", num_chs=self.embed_dim, reduction=self.config.patch_size)
            for index in range(len(self.layers))
        ]

    @property
    def head_hidden_size(self) -> int:
        """Width of what the head reads."""
        return self.embed_dim

    def get_classifier(self) -> nn.Module:
        """Return the head."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the head by a randomly initialised one.

        Args:
            num_classes: Number of outputs; 0 for no head.
            global_pool: "token", the class token, or None to keep it.

        Raises:
            ValueError: `global_pool` is another pooling.
        """
        if global_pool not in (None, "token"):
            raise ValueError(f"global_pool {global_pool!r}: the head reads the class token (token)")
        like: Any = next(self.parameters())
        self.head = _new_head(self.embed_dim, num_classes).to(like).train(self.training)
        self.num_classes = num_classes
        self.config = self.config.replace(num_classes=num_classes)
        forget_head: Any = getattr(self, "forget_head", None)  # of `HubFolder`
        if forget_head:
            forget_head()

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute all blocks in the backward pass instead of keeping their activations, or none."""
        self.checkpointed_blocks = len(self.layers) if enable else 0

    def forward_intermediates(
        self,
        clips: Tensor,
        indices: int | Sequence[int] | None = None,
        return_prefix_tokens: bool = False,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> Any:
        """Compute the residual stream after some blocks, without the class token, and what the head reads.

        Args:
            clips: (b, 3, frames, height, width).
            indices: Blocks, counted from 0, or from the end if negative; a number for the last so many; None for all.
            return_prefix_tokens: Return pairs of the features and the class token (b, 1, d).
            norm: Apply the last norm.
            stop_early: Do not run the blocks after the last one in `indices`.
            output_fmt: "NCHW" for maps (b, d, t, h, w), "NLC" for tokens (b, t p, d) in the order of the scan.
            intermediates_only: Return the list of features alone.

        Returns:
            (features of the last block that was run, as `forward_features` (b, d), list of the features of blocks).

        Raises:
            ValueError: `output_fmt` is unknown, or there is no such block.
        """
        if output_fmt not in OUTPUT_FORMATS:
            raise ValueError(f"output_fmt must be one of {OUTPUT_FORMATS}, got {output_fmt!r}")
        taken = _places(indices, len(self.layers))
        model: Any = self
        hidden_states, residual, intermediates = model.embed(clips), None, []
        for index in range(max(taken) + 1 if stop_early else len(self.layers)):
            hidden_states, residual = model.run_block(index, hidden_states, residual)
            if index in taken:
                tokens = add_to_residual(hidden_states, residual)
                tokens = model.norm_f(tokens) if norm else tokens
                features = tokens[:, 1:]
                if output_fmt == "NCHW":
                    features = model.in_grid(features, clips).movedim(-1, 1)
                intermediates.append((features, tokens[:, :1]) if return_prefix_tokens else features)
        if intermediates_only:
            return intermediates
        return model.pool(model.final_tokens(hidden_states, residual)), intermediates

    def prune_intermediate_layers(
        self, indices: int | Sequence[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Remove what the features of some blocks do not need.

        Args:
            indices: As in `forward_intermediates`.
            prune_norm: Also remove the last norm.
            prune_head: Also remove the head.

        Returns:
            the blocks of `indices`, counted from 0.
        """
        taken = _places(indices, len(self.layers))
        self.layers = self.layers[: max(taken) + 1]
        self.config = self.config.replace(depth=len(self.layers))
        if prune_norm:
            self.norm_f = nn.Identity()
        if prune_head:
            self.reset_classifier(0)
        return taken


def _new_head(width: int, num_classes: int) -> nn.Module:
    """Create a linear head as initially in training, or no head for 0 classes."""
    if not num_classes:
        return nn.Identity()
    head = nn.Linear(width, num_classes)
    nn.init.trunc_normal_(head.weight, std=LINEAR_STD)
    nn.init.zeros_(head.bias)
    return head


def _places(indices: int | Sequence[int] | None, depth: int) -> list[int]:
    """Return the blocks that `indices` names, in its order and counted from 0."""
    if indices is None or isinstance(indices, int):
        count = depth if indices is None else indices
        indices = range(depth - count, depth) if 0 < count <= depth else ()
    if not indices or not all(-depth <= index < depth for index in indices):
        raise ValueError(f"no such blocks; the model has {depth}, from 0 to {depth - 1}")
    return [index % depth for index in indices]

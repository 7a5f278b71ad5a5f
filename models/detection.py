"""Action detection: classify what the person in each given box does, from the clip's features inside the box.

The published heads for AVA (SlowFast, VideoMAE) average the features over time before pooling them in the boxes; this
is `mean`. `concat` pools the features of each time step separately and concatenates them, which keeps the order of the
frames.
"""

import re
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops import roi_align

from models.config import TIME_POOLS, ModelConfig
from models.initialisation import LINEAR_STD
from models.videomambapro import VideoMambaPro

BINS = 7  # of RoIAlign, along each side of a box
HEAD_SCALE = 1e-3  # of the initial head, as in VideoMAE's code for AVA: all scores start nearly equal
PREFIX = "backbone."


class ActionDetector(nn.Module):
    """Multi-label classifier of boxes: backbone, RoIAlign of its features, maximum over the box, linear head.

    Args:
        backbone: Model without a head. Its parameters have the prefix `backbone.` in the state dict.
        num_classes: Number of outputs of the head.
        time_pool: "mean" over time, or "concat" for the features of all time steps side by side, which fixes the
            number of frames.

    Attributes:
        config: Configuration of the backbone with `num_classes` and `time_pool`, from which `models.build` rebuilds
            the detector.

    Raises:
        ValueError: `time_pool` is unknown.
    """

    def __init__(self, backbone: VideoMambaPro, num_classes: int, time_pool: str = "mean"):
        super().__init__()
        if not time_pool:
            raise ValueError(f"time_pool must be one of {TIME_POOLS}")
        if backbone.config.attentive_depth:
            raise ValueError("--attentive_depth pools whole clips; a detector pools the tokens in its boxes")
        self.config: ModelConfig = backbone.config.replace(num_classes=num_classes, time_pool=time_pool)
        self.num_classes, self.embed_dim, self.num_frames = num_classes, backbone.embed_dim, backbone.num_frames
        self.backbone = backbone
        self.head_drop = nn.Dropout(self.config.fc_drop_rate)
        self.times = self.num_frames // self.config.tubelet_size if time_pool == "concat" else 1
        self.head = nn.Linear(self.times * self.embed_dim, num_classes)
        nn.init.trunc_normal_(self.head.weight, std=LINEAR_STD * HEAD_SCALE)
        nn.init.zeros_(self.head.bias)

    @property
    def layers(self) -> nn.ModuleList:
        """Blocks of the backbone, which FSDP shards one by one."""
        return self.backbone.layers

    def forward(self, clips: Tensor, boxes: list[Tensor]) -> Tensor:
        """Compute the logits of boxes.

        Args:
            clips: (b, 3, frames, height, width).
            boxes: One tensor (n_i, 4) per clip, x1 y1 x2 y2 in pixels of the clip; n_i may be 0.

        Returns:
            (n_1 + ... + n_b, num_classes), in the order of the boxes.

        Raises:
            ValueError: The size of the clips is no multiple of the patch or the tubelet, or a head with "concat" is
                for another number of frames.
        """
        return self.head(self.head_drop(self.box_features(clips, boxes)))

    def box_features(self, clips: Tensor, boxes: list[Tensor]) -> Tensor:
        """Return the input of the head, (n_1 + ... + n_b, d) or, with "concat", (n_1 + ... + n_b, t d)."""
        tubelets, _, _ = self.backbone.patch_embed.grid(clips)
        if self.config.time_pool == "concat" and tubelets != self.times:
            raise ValueError(
                f"clips of {clips.shape[2]} frames: the head of this detector reads {self.num_frames} side by side "
                "(--time_pool concat); one with --time_pool mean takes any number"
            )
        tokens = self.backbone.forward_tokens(clips)[:, 1:]
        maps = self.backbone.in_grid(tokens, clips).permute(0, 1, 4, 2, 3).float()  # (b, t, d, h, w)
        maps = maps.flatten(1, 2) if self.config.time_pool == "concat" else maps.mean(1)
        pooled = roi_align(
            maps,
            [of_clip.to(maps) for of_clip in boxes],
            output_size=BINS,
            spatial_scale=1 / self.config.patch_size,
            sampling_ratio=0,  # number of samples per bin follows from its size
            aligned=True,
        )
        return pooled.amax((2, 3))

    def no_weight_decay(self) -> set[str]:
        """Return the names of the parameters without weight decay, which are those of the backbone."""
        return {PREFIX + name for name in self.backbone.no_weight_decay()}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Return timm's table of the layers for layer-wise learning rate decay, which are those of the backbone."""
        return {name: _under_prefix(pattern) for name, pattern in self.backbone.group_matcher(coarse).items()}

    def get_classifier(self) -> nn.Module:
        """Return the head (timm's name)."""
        return self.head

    def expect(self, frequencies: Tensor) -> None:
        """Initialise the bias of the head so that the scores equal the frequencies of the classes, (num_classes,)."""
        with torch.no_grad():
            self.head.bias.copy_(torch.logit(frequencies))


def _under_prefix(pattern: Any) -> Any:
    """Change a regular expression of parameter names, or timm's list of them, to match names with `PREFIX`."""
    if isinstance(pattern, str):
        return rf"^{re.escape(PREFIX)}(?:{pattern.replace('^', '')})"
    return [(_under_prefix(expression), suffix) for expression, suffix in pattern]

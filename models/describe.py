"""What a checkpoint is, read off its tensors: size, type, classes, frames, resolution."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from mamba.mamba_ssm.modules.mamba_simple import bimamba_type_of
from models.checkpoint import FLAGS_KEY, CheckpointError, depth_of, mixer_names, read_checkpoint_file, unwrap_tensors
from models.videomambapro import NANO, PUBLISHED_SIZES

FAMILIES = {"v1": "videomambapro", "v2": "videomamba"}
# Settings of a model that no tensor tells; our own checkpoints have them among the flags they were trained with.
TOLD_BY_FLAGS = ("elemental_residual", "masked_backward", "scan_input")


@dataclass(frozen=True)
class CheckpointFacts:
    """What can be read off a file; None where it does not say.

    Attributes:
        bimamba_type: "v1" or "v2". embed_dim, depth, parameters: of the network, the head included.
        model: registered name of that size and type.
        num_classes: outputs of the head. num_frames: of a clip. input_size: side of a frame in pixels.
        tubelet_size: frames of a token.
        flags: the run's flags, where one of this repository's runs wrote the file; empty otherwise.
    """

    bimamba_type: str
    embed_dim: int
    depth: int
    parameters: int
    model: str | None
    num_classes: int | None
    num_frames: int | None
    input_size: int | None
    tubelet_size: int | None
    flags: dict[str, Any] = field(default_factory=dict)

    @property
    def is_image_model(self) -> bool:
        """Whether it was trained on single images: no temporal positions, or one."""
        return self.num_frames in (None, 1)


def describe_checkpoint(path: str | Path) -> CheckpointFacts:
    """Read off what the checkpoint `path` is, whatever its wrapper and prefix.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: it is no checkpoint of this family of models.
    """
    content = read_checkpoint_file(path)
    state = unwrap_tensors(content, path)
    kind = bimamba_type_of(mixer_names(state))
    missing = [name for name in ("cls_token", "patch_embed.proj.weight") if name not in state]
    if kind is None or missing:
        lacking = "layers.*.mixer.A_b_log" if kind is None else missing[0]
        raise CheckpointError(f"{path} is no checkpoint of VideoMamba or VideoMambaPro: it has no {lacking}")
    flags = content.get(FLAGS_KEY)
    flags = flags if isinstance(flags, dict) else {}
    embed_dim, depth = state["cls_token"].shape[-1], depth_of(state)
    tubelet = _tubelet_size(state)
    return CheckpointFacts(
        bimamba_type=kind,
        embed_dim=embed_dim,
        depth=depth,
        parameters=sum(tensor.numel() for tensor in state.values()),
        model=flags.get("model") or _model_name(kind, embed_dim, depth),
        num_classes=state["head.weight"].shape[0] if "head.weight" in state else None,
        num_frames=_num_frames(state, tubelet),
        input_size=_input_size(state),
        tubelet_size=tubelet,
        flags=flags,
    )


def _model_name(kind: str, embed_dim: int, depth: int) -> str | None:
    for size, numbers in (PUBLISHED_SIZES | {"nano": NANO}).items():
        if numbers == dict(embed_dim=embed_dim, depth=depth):
            return None if (size, kind) == ("nano", "v2") else f"{FAMILIES[kind]}_{size}"
    return None


def _tubelet_size(state: dict[str, Tensor]) -> int | None:
    """None for a 2-D kernel, which serves every tubelet size."""
    kernel = state["patch_embed.proj.weight"]
    return kernel.shape[2] if kernel.dim() == 5 else None


def _num_frames(state: dict[str, Tensor], tubelet: int | None) -> int | None:
    positions = state.get("temporal_pos_embedding")
    return None if positions is None else positions.shape[1] * (tubelet or 1)


def _input_size(state: dict[str, Tensor]) -> int | None:
    positions = state.get("pos_embed")
    if positions is None:
        return None
    side = round((positions.shape[1] - 1) ** 0.5)
    return side * state["patch_embed.proj.weight"].shape[-1]

"""Frozen teachers of masked pretraining: vision transformers of timm, or models of this family.

A teacher maps normalised clips to `Targets`. It sees all patches of all frames, at the resolution at which it has as
many patches as the student. Symbols: b clips, t frames, n patches per frame, c channels of the targets.
"""

import logging
from typing import Any, NamedTuple

import timm
import torch
import torch.nn.functional as F
from timm.models import VisionTransformer
from timm.models.vision_transformer import checkpoint_filter_fn
from torch import Tensor, nn

from models.arguments import TeacherSettings
from models.build import build_described
from models.checkpoint import load_checkpoint
from models.checkpoint_file import CheckpointError
from models.describe import describe_checkpoint
from models.image_models import OwnNormalisation
from models.teacher_files import CLIP_PREFIX, TeacherFile, openai_name, read_teacher
from models.videomambapro import VideoMambaPro

# VideoMamba's names of its teachers.
PUBLISHED_NAMES = {
    "clip_b16": "vit_base_patch16_clip_quickgelu_224.openai",
    "clip_l14": "vit_large_patch14_clip_quickgelu_224.openai",
    "clip_l14_336": "vit_large_patch14_clip_quickgelu_336.openai",
}

logger = logging.getLogger(__name__)


class Targets(NamedTuple):
    """What a teacher says of clips.

    Attributes:
        tokens: (b, 1 + t n, c), of unit length: one class token, the mean of those of all frames, and the patches of
            all frames in raster order.
        importance: (b, t, n), the attention of the class token to the patches in the last block, averaged over heads;
            None if the teacher has no attention.
    """

    tokens: Tensor
    importance: Tensor | None


class VitTeacher(nn.Module):
    """A vision transformer of timm that looks at single frames.

    Args:
        vit: Its input size has as many patches as a frame of the student.
        project: Apply the head to the tokens: in CLIP, it projects them to the space that is shared with texts.
        own_norm: Normalise pixels by the statistics in the model's `pretrained_cfg`, else leave them to ImageNet's.
        final_norm: Apply the last norm. CLIP's projection was trained behind it.
    """

    has_attention = True

    def __init__(self, vit: VisionTransformer, *, project: bool, own_norm: bool = True, final_norm: bool = True):
        super().__init__()
        if not final_norm:
            vit.norm = nn.Identity()
        head: Any = vit.head
        self.vit, self.project = vit, project
        self.embed_dim = head.out_features if project else vit.embed_dim
        cfg: Any = vit.pretrained_cfg
        self.normalise = OwnNormalisation(cfg["mean"], cfg["std"]) if own_norm else nn.Identity()
        attention: Any = vit.blocks[-1].attn
        attention.fused_attn = False  # a fused kernel keeps no weights
        attention.attn_drop.register_forward_pre_hook(self._note_attention)

    def _note_attention(self, _module: nn.Module, inputs: tuple[Tensor]) -> None:
        self._attention = inputs[0]  # (b t, heads, tokens, tokens)

    def forward(self, clips: Tensor) -> Targets:
        """Compute the targets of clips (b, 3, t, height, width)."""
        frames = self.normalise(clips.transpose(1, 2).flatten(0, 1))  # (b t, 3, height, width)
        size: Any = self.vit.patch_embed.img_size
        if tuple(frames.shape[-2:]) != tuple(size):
            frames = F.interpolate(frames, size, mode="bicubic", align_corners=False)
        tokens = self.vit.fc_norm(self.vit.forward_features(frames))
        if self.project:
            tokens = self.vit.head(tokens)  # (b t, prefix + n, c)
        prefix = self.vit.num_prefix_tokens
        importance = self._attention.mean(1)[:, 0, prefix:].unflatten(0, (len(clips), -1))
        del self._attention
        return Targets(_targets(tokens[:, 0], tokens[:, prefix:], len(clips)), importance)


class FamilyTeacher(nn.Module):
    """A model of this family: of images, which looks at single frames, or of videos.

    Args:
        model: Takes the clips of the student, or single frames of them.
        by_frame: Whether it is a model of images.
    """

    has_attention = False

    def __init__(self, model: VideoMambaPro, *, by_frame: bool):
        super().__init__()
        self.model, self.by_frame = model, by_frame
        self.embed_dim = model.embed_dim

    def forward(self, clips: Tensor) -> Targets:
        """Compute the targets of clips (b, 3, t, height, width)."""
        seen = clips.transpose(1, 2).flatten(0, 1).unsqueeze(2) if self.by_frame else clips
        tokens = self.model.forward_tokens(seen)
        patches = self.model.in_grid(tokens[:, 1:], seen).flatten(1, 3)  # (b t, n, c) or (b, t n, c)
        return Targets(_targets(tokens[:, 0], patches, len(clips)), None)


def _targets(class_tokens: Tensor, patches: Tensor, clips: int) -> Tensor:
    """Average the class tokens (b k, c) of each clip, and put its patches (b k, ..., c) behind: (b, 1 + t n, c)."""
    width = patches.shape[-1]
    mean = class_tokens.reshape(clips, -1, width).mean(1, keepdim=True)
    return F.normalize(torch.cat([mean, patches.reshape(clips, -1, width)], dim=1).float(), dim=-1)


def load_teacher(settings: TeacherSettings, student: VideoMambaPro) -> VitTeacher | FamilyTeacher:
    """Build the teacher of a file for the clips of a student, frozen and in evaluation mode.

    Raises:
        FileNotFoundError: The file does not exist.
        CheckpointError: The file cannot be read, or does not fit the model that is named.
        ValueError: The model is unknown or of another kind, or the student's tubelets have several frames.
    """
    if student.config.tubelet_size != 1:
        raise ValueError(
            f"--tubelet_size {student.config.tubelet_size}: the teacher has tokens of every frame, so masked "
            "pretraining needs --tubelet_size 1"
        )
    found = read_teacher(settings.teacher)
    teacher = _load_family(settings, student) if found.layout == "own" else _load_vit(settings, found, student)
    return teacher.eval().requires_grad_(False)


def _load_family(settings: TeacherSettings, student: VideoMambaPro) -> FamilyTeacher:
    """Build a teacher of this family, with the size and type found in the file."""
    if settings.teacher_model:
        raise ValueError(f"--teacher {settings.teacher} tells its own model: leave --teacher_model out")
    facts, config = describe_checkpoint(settings.teacher), student.config
    frames = 1 if facts.is_image_model else config.num_frames
    size = {"img_size": config.img_size, "num_frames": frames, "num_classes": 0}
    model = build_described(facts, **size, time_pool="", backend=config.backend)  # of a detector, the backbone
    if (model.config.patch_size, model.config.tubelet_size) != (config.patch_size, 1):
        raise CheckpointError(
            f"--teacher {settings.teacher} has patches of {model.config.tubelet_size} x {model.config.patch_size} x "
            f"{model.config.patch_size}, the student of 1 x {config.patch_size} x {config.patch_size}"
        )
    load_checkpoint(model, settings.teacher)
    logger.info("teacher: %s (%s)", settings.teacher, facts.model)
    return FamilyTeacher(model, by_frame=facts.is_image_model)


def _load_vit(settings: TeacherSettings, found: TeacherFile, student: VideoMambaPro) -> VitTeacher:
    """Build a vision transformer of timm with the student's number of patches, and load its weights."""
    name = _timm_name(settings, found)
    projection = _projection(name, found)
    try:
        vit: Any = timm.create_model(name, num_classes=0 if projection is None else len(projection))
    except RuntimeError as error:
        raise ValueError(f"--teacher_model {name}: {error}; timm.list_models('vit_*') has the names") from error
    if not isinstance(vit, VisionTransformer) or not vit.has_class_token:
        raise ValueError(f"--teacher_model {name} is no vision transformer with a class token, which is aligned too")
    try:
        missing, unused = vit.load_state_dict(checkpoint_filter_fn(found.state, vit), strict=False)
    except RuntimeError as error:
        first = str(error).splitlines()[-1].strip()
        raise CheckpointError(f"--teacher {settings.teacher} has other sizes than {name}: {first}") from error
    unused = [name for name in unused if not name.startswith(("head.", "head_dist."))]  # DeiT has two heads
    if missing or unused:
        raise CheckpointError(
            f"--teacher {settings.teacher} does not fit {name}: it lacks {', '.join(missing[:4]) or 'nothing'}, and "
            f"{', '.join(unused[:4]) or 'nothing'} would be unused; name its network with --teacher_model"
        )
    rows, columns = student.patch_embed.grid_size
    height, width = vit.patch_embed.patch_size
    vit.set_input_size(img_size=(rows * height, columns * width))
    logger.info("teacher: %s (%s), frames of %d x %d", settings.teacher, name, rows * height, columns * width)
    own_norm = settings.teacher_norm == "own"
    return VitTeacher(vit, project=projection is not None, own_norm=own_norm, final_norm=settings.teacher_final_norm)


def _timm_name(settings: TeacherSettings, found: TeacherFile) -> str:
    """Return the name of the network: --teacher_model or, for OpenAI's names of tensors, that of OpenAI's model."""
    name = PUBLISHED_NAMES.get(settings.teacher_model, settings.teacher_model)
    if name:
        return name
    if found.layout == "clip" and (name := openai_name(found.state)):
        logger.warning(
            "%s is taken for OpenAI's CLIP, with QuickGELU; weights of others in this layout need their timm name in "
            "--teacher_model, such as vit_base_patch16_clip_224.laion2b",
            settings.teacher,
        )
        return name
    raise ValueError(
        f"--teacher {settings.teacher} does not tell which network it belongs to: name timm's with --teacher_model"
    )


def _projection(name: str, found: TeacherFile) -> Tensor | None:
    """Return CLIP's projection (outputs, width) in a file; None without one, or where the head is a classifier."""
    if found.layout == "clip":
        projection = found.state.get(f"{CLIP_PREFIX}proj")
        return None if projection is None else projection.T
    return found.state.get("head.weight") if "_clip_" in name and "_ft_" not in name else None

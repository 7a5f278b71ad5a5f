"""Read the weights of an image teacher, from a file in any of the layouts in which they are published."""

import re
import zipfile
from pathlib import Path
from typing import Literal, NamedTuple

from torch import Tensor, cat

from models.checkpoint_file import CheckpointError, peek_checkpoint, unwrap_tensors

Layout = Literal["own", "clip", "timm"]

CLIP_PREFIX = "visual."
_OWN = re.compile(r"layers\.\d+\.mixer\.")
# Sizes of CLIP's vision transformers: width, patch size, patches -> timm's name of OpenAI's weights.
_OPENAI = {
    (768, 32, 49): "vit_base_patch32_clip_quickgelu_224.openai",
    (768, 16, 196): "vit_base_patch16_clip_quickgelu_224.openai",
    (1024, 14, 256): "vit_large_patch14_clip_quickgelu_224.openai",
    (1024, 14, 576): "vit_large_patch14_clip_quickgelu_336.openai",
}
# Names in transformers' CLIP -> names in OpenAI's. Query, key and value are joined separately.
_TRANSFORMERS = (
    (r"^visual_projection\.weight$", "proj"),
    (r"^vision_model\.", ""),
    (r"^embeddings\.class_embedding$", "class_embedding"),
    (r"^embeddings\.patch_embedding\.", "conv1."),
    (r"^embeddings\.position_embedding\.weight$", "positional_embedding"),
    (r"^pre_layrnorm\.", "ln_pre."),
    (r"^post_layernorm\.", "ln_post."),
    (r"^encoder\.layers\.", "transformer.resblocks."),
    (r"\.layer_norm([12])\.", r".ln_\1."),
    (r"\.self_attn\.out_proj\.", ".attn.out_proj."),
    (r"\.mlp\.fc1\.", ".mlp.c_fc."),
    (r"\.mlp\.fc2\.", ".mlp.c_proj."),
)


class TeacherFile(NamedTuple):
    """The weights of a teacher: "own" (a model of this family), "clip" (OpenAI's names, `visual.*`) or "timm"."""

    layout: Layout
    state: dict[str, Tensor]


def read_teacher(path: str | Path) -> TeacherFile:
    """Read a teacher's weights and recognise their layout by the names of the tensors.

    Known are checkpoints of this family; timm's names; OpenAI's and open_clip's `visual.*`, with or without the
    prefix; `vision_model.*` of transformers. Text towers are left out, and nothing in the file is executed.

    Raises:
        FileNotFoundError: The file does not exist.
        CheckpointError: The file is damaged, a TorchScript archive, or has none of these layouts.
    """
    _refuse_torchscript(Path(path))
    state = unwrap_tensors(peek_checkpoint(path), path)
    if any(_OWN.match(name) for name in state):
        return TeacherFile("own", state)
    if "vision_model.embeddings.class_embedding" in state:
        state = _from_transformers(state)
    if "class_embedding" in state and "conv1.weight" in state:
        state = {CLIP_PREFIX + name: tensor for name, tensor in state.items()}
    if f"{CLIP_PREFIX}class_embedding" in state:
        tower = {name: tensor for name, tensor in state.items() if name.startswith(CLIP_PREFIX)}
        kernel = tower[f"{CLIP_PREFIX}conv1.weight"]
        tower[f"{CLIP_PREFIX}conv1.weight"] = kernel.squeeze(2) if kernel.dim() == 5 else kernel  # VideoMamba's is 3-D
        return TeacherFile("clip", tower)
    if any(name.endswith("blocks.0.attn.qkv.weight") for name in state):
        return TeacherFile("timm", state)
    raise CheckpointError(
        f"--teacher {path} is no vision transformer of timm, OpenAI's CLIP, open_clip or transformers, and no model "
        f"of this family; its first tensors are {', '.join(list(state)[:3])}"
    )


def openai_name(state: dict[str, Tensor]) -> str:
    """Return timm's name of OpenAI's model with the sizes of a file in the layout "clip"; empty for other sizes."""
    kernel, positions = state[f"{CLIP_PREFIX}conv1.weight"], state[f"{CLIP_PREFIX}positional_embedding"]
    return _OPENAI.get((kernel.shape[0], kernel.shape[-1], len(positions) - 1), "")


def _refuse_torchscript(path: Path) -> None:
    """Raise an error with the remedy for the archives that OpenAI publishes, which contain code."""
    if not path.is_file() or not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        scripted = any(name.endswith("/constants.pkl") for name in archive.namelist())
    if scripted:
        raise CheckpointError(
            f"--teacher {path} is a TorchScript archive, which is a program; write its weights to a file once: "
            f"python -c \"import torch; torch.save(torch.jit.load('{path}', map_location='cpu').visual.state_dict(), "
            f"'{path.with_suffix('.pth')}')\""
        )


def _from_transformers(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the vision tower of transformers' CLIP to OpenAI's names, without the prefix."""
    renamed: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if not name.startswith(("vision_model.", "visual_projection.")):
            continue
        for pattern, replacement in _TRANSFORMERS:
            name = re.sub(pattern, replacement, name)
        renamed[name] = tensor.T if name == "proj" else tensor
    renamed.pop("embeddings.position_ids", None)  # a buffer of old versions
    for name in [name for name in renamed if ".self_attn.q_proj." in name]:
        parts = [renamed.pop(name.replace(".q_proj.", f".{part}_proj.")) for part in "qkv"]
        renamed[name.replace(".self_attn.q_proj.", ".attn.in_proj_")] = cat(parts)
    return renamed

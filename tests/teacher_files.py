"""A tiny CLIP image tower whose weights a formula gives, in every layout of a file, and small teachers of timm."""

import json
import math
from functools import partial
from pathlib import Path

import timm
import torch
from timm.models import VisionTransformer, register_model

GOLDEN = json.loads((Path(__file__).parent / "data" / "clip_teacher.json").read_text())


@register_model
def vit_golden_clip_quickgelu_224(
    pretrained=False, pretrained_cfg=None, pretrained_cfg_overlay=None, cache_dir=None, **settings
):
    """The tower of the golden, as timm builds CLIP's."""
    sizes = dict(img_size=GOLDEN["image"], patch_size=GOLDEN["patch"], embed_dim=GOLDEN["width"])
    sizes |= dict(depth=GOLDEN["layers"], num_heads=GOLDEN["heads"], pre_norm=True, act_layer="quick_gelu")
    vit = VisionTransformer(**sizes, norm_layer=partial(torch.nn.LayerNorm, eps=1e-5), **settings)
    vit.pretrained_cfg = dict(timm.get_pretrained_cfg("vit_base_patch16_clip_quickgelu_224.openai").to_dict())
    return vit


def bare_state():
    """The weights of the golden under OpenAI's names without a prefix; the patch kernel has a time of 1."""
    state = {}
    for number, name in enumerate(GOLDEN["names"]):
        shape = GOLDEN["shapes"][name]
        values = [0.3 * math.sin(1 + 0.37 * k + 1.7 * number) for k in range(math.prod(shape))]
        tensor = torch.tensor(values, dtype=torch.float64).view(shape)
        is_scale = name.rpartition(".")[0].rpartition(".")[2].startswith("ln_") and name.endswith("weight")
        state[name] = (tensor + is_scale).float()
    return state


def golden_clips():
    shape = (GOLDEN["batch"], 3, GOLDEN["frames"], GOLDEN["image"], GOLDEN["image"])
    return torch.tensor([1.5 * math.sin(0.013 * k) for k in range(math.prod(shape))]).view(shape)


def transformers_state():
    """The golden under the names of transformers, with the text tower and the buffer that full files have."""
    state = {"text_model.final_layer_norm.weight": torch.ones(4), "logit_scale": torch.tensor(1.0)}
    state["vision_model.embeddings.position_ids"] = torch.arange(5)[None]
    bare = bare_state()
    names = {"class_embedding": "embeddings.class_embedding", "conv1.weight": "embeddings.patch_embedding.weight"}
    names["positional_embedding"] = "embeddings.position_embedding.weight"
    for old, new in (("ln_pre", "pre_layrnorm"), ("ln_post", "post_layernorm")):
        names |= {f"{old}.{kind}": f"{new}.{kind}" for kind in ("weight", "bias")}
    state["visual_projection.weight"] = bare.pop("proj").T.contiguous()
    state |= {f"vision_model.{new}": bare.pop(old) for old, new in names.items()}
    for old, tensor in bare.items():
        block, kind = old.removeprefix("transformer.resblocks.").split(".", 1)
        prefix = f"vision_model.encoder.layers.{block}."
        if kind.startswith("attn.in_proj_"):
            for part, third in zip("qkv", tensor.chunk(3), strict=True):
                state[f"{prefix}self_attn.{part}_proj.{kind.removeprefix('attn.in_proj_')}"] = third.clone()
            continue
        for ours, theirs in (("attn.out", "self_attn.out"), ("ln_", "layer_norm"), ("c_fc", "fc1"), ("c_proj", "fc2")):
            kind = kind.replace(ours, theirs)
        state[prefix + kind] = tensor
    state["vision_model.embeddings.patch_embedding.weight"] = bare_state()["conv1.weight"].squeeze(2)
    return state

"""How much each patch of a clip speaks for a class: gradients weighted by what the patches are.

Between a clip whose patches all are its mean patch and the clip itself, the logit of a class changes; the change is
shared out among the patches by the gradient along the straight way between the two, times what sets a patch apart.
Two networks can be differentiated:

    integrated         the network itself: integrated gradients (Sundararajan, Taly, Yan, arXiv 1703.01365). The shares
                       add up to the change of the logit.
    hidden_attention   the network with its gates held. A scan then is its hidden attention, and with the scale of
                       every norm and the slope of every SiLU held too, the network is one linear map: the product of
                       all layers' hidden attentions, the class token's row. One backward pass through the scans
                       computes it exactly, without a matrix: time and memory grow with the length and not its square.

That the matrix of a selective scan, weighted by gradients, says what it looks at is the idea of Ali, Zimerman and Wolf
(arXiv 2403.01590). docs/explanation.md derives both and measures which follows the object better.
"""

import torch
import torch.nn as nn
from torch import Tensor

from explain.scans import apply_scan, scans_of
from mamba.mamba_ssm.modules.mamba_simple import Mamba
from models.blocks import add_to_residual
from models.videomambapro import VideoMambaPro

METHODS = ("integrated", "hidden_attention")
STEPS = 4
NOTHING = 1e-4  # of a logit: less, summed over the patches, is rounding


def token_relevance(
    model: VideoMambaPro,
    clips: Tensor,
    class_indices: Tensor | None = None,
    *,
    method: str = "integrated",
    steps: int = STEPS,
) -> Tensor:
    """How much each patch speaks for a class, as shares of the clip.

    Args:
        model: in whatever mode; it is explained as it evaluates. clips: (batch, 3, frames, height, width), normalised.
        class_indices: (batch,) classes to explain; None takes the predicted ones.
        method: one of METHODS. steps: points between mean patch and clip at which the gradient is taken.

    Returns:
        (batch, tubelets, patches_h, patches_w), at least 0, with a sum of 1 per clip. What speaks against the class is
        0; where nothing speaks for it, so are all patches, and their sum.

    Raises:
        ValueError: clips that patches do not fill, or an unknown method.
    """
    positive = token_contributions(model, clips, class_indices, method=method, steps=steps).clamp(min=0)
    total = positive.sum((1, 2, 3), keepdim=True)
    return torch.where(total > NOTHING, positive / total, 0)


@torch.inference_mode(False)
def token_contributions(
    model: VideoMambaPro,
    clips: Tensor,
    class_indices: Tensor | None = None,
    *,
    method: str = "integrated",
    steps: int = STEPS,
) -> Tensor:
    """What each patch adds to the logit of a class, against what the mean patch would; arguments as `token_relevance`.

    Returns:
        (batch, tubelets, patches_h, patches_w), of either sign.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {METHODS}, got {method!r}")
    logits_of = plain_logits if method == "integrated" else held_logits
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            patches, tokens = model.patch_embed(clips), model.embed(clips)
            if class_indices is None:
                class_indices = plain_logits(model, tokens).argmax(1)
        # Positions are the same in every clip, and so is the mean: neither shows where in this one the class is seen.
        apart = patches - patches.mean((1, 2), keepdim=True)
        difference = torch.cat([torch.zeros_like(tokens[:, :1]), model.line_up(apart)], dim=1)
        gradient = torch.zeros_like(tokens)
        for step in range(steps):
            with torch.enable_grad():
                point = (tokens - (1 - (step + 0.5) / steps) * difference).requires_grad_()
                chosen = logits_of(model, point).gather(1, class_indices.to(tokens.device)[:, None])
                gradient += torch.autograd.grad(chosen.sum(), point)[0] / steps
    finally:
        model.train(training)
    contributions = (gradient * difference)[:, 1:].sum(-1)  # (b, t p), lined up
    return model.in_grid(contributions, clips)


def held_logits(model: VideoMambaPro, tokens: Tensor) -> Tensor:
    """The logits (batch, classes) of tokens (batch, length, embed_dim), as an affine map of them: all factors held.

    The values are those of `model` in evaluation; the gradients are of the map with gates, norms' scales and SiLU's
    slopes constant.
    """
    hidden, residual = tokens, None
    for layer in model.layers:
        residual = add_to_residual(hidden, residual)
        hidden = _held_mixer(layer.mixer, _held_norm(layer.norm, residual))
    return model.head(model.pool(_held_norm(model.norm_f, add_to_residual(hidden, residual))))


def plain_logits(model: VideoMambaPro, tokens: Tensor) -> Tensor:
    """The logits (batch, classes) of tokens (batch, length, embed_dim) as the model computes them."""
    hidden, residual = tokens, None
    for layer in model.layers:
        hidden, residual = layer(hidden, residual)
    return model.head(model.pool(model.norm_f(add_to_residual(hidden, residual))))


def _held_mixer(mixer: Mamba, hidden: Tensor) -> Tensor:
    return mixer.out_proj(sum(apply_scan(scan) for scan in scans_of(mixer, hidden)))


def _held_norm(norm: nn.Module, x: Tensor) -> Tensor:
    centred = x if isinstance(norm, nn.RMSNorm) else x - x.mean(-1, keepdim=True)
    scale = (centred.square().mean(-1, keepdim=True) + norm.eps).rsqrt().detach()
    scaled = centred * scale * norm.weight
    return scaled if isinstance(norm, nn.RMSNorm) else scaled + norm.bias

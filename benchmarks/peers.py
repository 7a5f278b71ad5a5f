"""The models and single mixers that are measured side by side: ours, and what other libraries offer for the same.

The outside peers are built from their libraries' configurations with random weights, nothing is downloaded. They are
optional: `pip install -r requirements-extras.txt`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import timm
import torch
from torch import Tensor, nn

import models  # noqa: F401  registers VideoMambaPro with timm
from mamba.mamba_ssm.modules.mamba_simple import Mamba

IMAGE, CLASSES = 224, 400
VIT_WIDTHS = {"ViT-Ti": (192, 3), "ViT-S": (384, 6)}  # width, heads; 12 blocks, as in VideoMAE
TINY, SMALL, TINY_TUBELET_2 = "VideoMambaPro-Tiny", "VideoMambaPro-Small", "VideoMambaPro-Tiny, tubelets of 2"
MODELS = (TINY, TINY_TUBELET_2, "ViT-Ti", SMALL, "ViT-S")
WIDTH = 192  # of the single mixers: Tiny's


@dataclass
class Candidate:
    """A model with the clip it takes, in the layout it wants it."""

    model: nn.Module
    clip: Tensor

    def forward(self) -> Tensor:
        """Logits of the clip, without autograd."""
        with torch.no_grad():
            out = self.model(self.clip)
        return getattr(out, "logits", out)

    def training_step(self) -> Callable[[], None]:
        """A function that takes one step: forward, cross-entropy, backward, AdamW."""
        self.model.train()
        optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-5)
        label = torch.zeros(1, dtype=torch.long)

        def step() -> None:
            out = self.model(self.clip)
            nn.functional.cross_entropy(getattr(out, "logits", out), label).backward()
            optimizer.step()
            optimizer.zero_grad()

        return step


def build(name: str, frames: int, backend: str | None = None) -> Candidate:
    """The model of MODELS called `name` for one clip of `frames` frames; `backend` is VideoMambaPro's.

    Raises:
        ImportError: a ViT without the transformers library.
    """
    torch.manual_seed(0)
    if name in VIT_WIDTHS:
        return Candidate(_vit(name, frames), torch.randn(1, frames, 3, IMAGE, IMAGE))
    size = "small" if name == SMALL else "tiny"
    model = timm.create_model(
        f"videomambapro_{size}", num_frames=frames, num_classes=CLASSES, backend=backend,
        tubelet_size=2 if name == TINY_TUBELET_2 else 1,
    )  # fmt: skip
    return Candidate(model.eval(), torch.randn(1, 3, frames, IMAGE, IMAGE))


def _vit(name: str, frames: int) -> nn.Module:
    """VideoMAE's plain vision transformer over tubelets of two frames, with PyTorch's fused attention."""
    from transformers import VideoMAEConfig, VideoMAEForVideoClassification

    width, heads = VIT_WIDTHS[name]
    config = VideoMAEConfig(
        image_size=IMAGE, num_frames=frames, hidden_size=width, num_hidden_layers=12, num_attention_heads=heads,
        intermediate_size=4 * width, num_labels=CLASSES, attn_implementation="sdpa",
    )  # fmt: skip
    return VideoMAEForVideoClassification(config).eval()


def both_ways(there: nn.Module, back: nn.Module) -> Callable[[Tensor], Tensor]:
    """Two passes of a mixer that knows one direction: over the tokens, and over the flipped tokens, added."""
    return lambda x: there(x) + back(x.flip(1)).flip(1)


def mixer_pairs() -> dict[str, tuple[nn.Module, nn.Module]]:
    """Outside mixers of Tiny's width by name, one for each direction; those whose library is installed."""
    torch.manual_seed(0)
    found = {}
    try:
        from transformers import MambaConfig
        from transformers.models.mamba.modeling_mamba import MambaMixer
    except ImportError:
        pass
    else:
        config = MambaConfig(hidden_size=WIDTH, num_hidden_layers=2, use_bias=False)
        found["transformers"] = tuple(MambaMixer(config, layer).eval() for layer in range(2))
    try:
        from mambapy.mamba import MambaBlock
        from mambapy.mamba import MambaConfig as MambapyConfig
    except ImportError:
        pass
    else:
        found["mambapy"] = tuple(MambaBlock(MambapyConfig(WIDTH, n_layers=1)).eval() for _ in range(2))
    return found


def mixer_of(there: nn.Module, back: nn.Module) -> Mamba:
    """Our mixer that computes exactly what `both_ways(there, back)` does: type v2 without the method's two changes.

    Its projections in and out are those of `there`, which `back` is given, too.
    """
    back.in_proj.load_state_dict(there.in_proj.state_dict())
    back.out_proj.load_state_dict(there.out_proj.state_dict())
    mixer = Mamba(WIDTH, bimamba_type="v2", elemental_residual=False, masked_backward=False).eval()
    state = dict(there.state_dict())
    for name, value in back.state_dict().items():
        part, dot, rest = name.partition(".")
        own = "A_b_log" if part == "A_log" else f"{part}_b{dot}{rest}"
        if own in mixer.state_dict():
            state[own] = value
    mixer.load_state_dict(state)
    return mixer

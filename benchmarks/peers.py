"""The models and single mixers that are compared: ours, and those of other libraries.

The latter are built from their libraries' configurations with random weights; nothing is downloaded. They are
optional: `pip install -r requirements-extras.txt`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import timm
import torch
from torch import Tensor, nn

import models.videomambapro  # noqa: F401  registers VideoMambaPro with timm
from mamba.mamba_ssm.modules.mamba_simple import Mamba

IMAGE, CLASSES = 224, 400
VIT_WIDTHS = {"ViT-Ti": (192, 3), "ViT-S": (384, 6)}  # width, heads; 12 blocks, as in VideoMAE
TINY, SMALL, MIDDLE = (f"VideoMambaPro-{size}" for size in ("Tiny", "Small", "Middle"))
TINY_TUBELET_2 = f"{TINY}, tubelets of 2"
MODELS = (TINY, TINY_TUBELET_2, "ViT-Ti", SMALL, "ViT-S")
SIZES = (TINY, SMALL, MIDDLE)
PRECISIONS = ("float32", "bfloat16 autocast")
WIDTH = 192  # of the single mixers: Tiny's


@dataclass
class Candidate:
    """A model with clips in its layout, and one of PRECISIONS."""

    model: nn.Module
    clip: Tensor
    precision: str = PRECISIONS[0]

    def forward(self) -> Tensor:
        """Compute the logits of the clips without autograd."""
        with torch.no_grad():
            return self._logits()

    def _logits(self) -> Tensor:
        with torch.autocast(self.clip.device.type, torch.bfloat16, enabled=self.precision != PRECISIONS[0]):
            out = self.model(self.clip)
        return getattr(out, "logits", out)

    def training_step(self, capturable: bool = False) -> Callable[[], None]:
        """Return a function that runs one training step: forward, cross entropy, backward, AdamW.

        Args:
            capturable: Whether a CUDA graph can contain the optimizer's step.
        """
        self.model.train()
        optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-5, capturable=capturable)
        labels = torch.zeros(len(self.clip), dtype=torch.long, device=self.clip.device)

        def step() -> None:
            nn.functional.cross_entropy(self._logits().float(), labels).backward()
            optimizer.step()
            optimizer.zero_grad()

        return step


def build(name: str, frames: int, backend: str | None = None, device: str = "cpu", batch: int = 1) -> Candidate:
    """Build a model in MODELS or SIZES for clips of `frames` frames; `backend` is VideoMambaPro's.

    Raises:
        ImportError: A ViT requires the transformers library.
    """
    torch.manual_seed(0)
    if name in VIT_WIDTHS:
        model, layout = _vit(name, frames), (frames, 3)
    else:
        size = name.split(",")[0].split("-")[1].lower()
        tubelet = 2 if name == TINY_TUBELET_2 else 1
        model = timm.create_model(
            f"videomambapro_{size}", num_frames=frames, num_classes=CLASSES, backend=backend, tubelet_size=tubelet
        )
        layout = (3, frames)
    return Candidate(model.eval().to(device), torch.randn(batch, *layout, IMAGE, IMAGE).to(device))


def _vit(name: str, frames: int) -> nn.Module:
    """Build VideoMAE's vision transformer over tubelets of two frames, with PyTorch's fused attention."""
    from transformers import VideoMAEConfig, VideoMAEForVideoClassification

    width, heads = VIT_WIDTHS[name]
    config = VideoMAEConfig(
        image_size=IMAGE, num_frames=frames, hidden_size=width, num_hidden_layers=12, num_attention_heads=heads,
        intermediate_size=4 * width, num_labels=CLASSES, attn_implementation="sdpa",
    )  # fmt: skip
    return VideoMAEForVideoClassification(config).eval()


def both_ways(forward: nn.Module, backward: nn.Module) -> Callable[[Tensor], Tensor]:
    """Add two passes of unidirectional mixers: over the tokens, and over the flipped tokens."""
    return lambda x: forward(x) + backward(x.flip(1)).flip(1)


def mixer_pairs() -> dict[str, tuple[nn.Module, nn.Module]]:
    """Return mixers of installed libraries with Tiny's width by name, one for each direction."""
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


def mixer_of(forward: nn.Module, backward: nn.Module) -> Mamba:
    """Build a mixer of ours that computes the same as `both_ways(forward, backward)`: type v2 without the two changes.

    Its input and output projections are those of `forward`, which are also copied to `backward`.
    """
    backward.in_proj.load_state_dict(forward.in_proj.state_dict())
    backward.out_proj.load_state_dict(forward.out_proj.state_dict())
    mixer = Mamba(WIDTH, bimamba_type="v2", elemental_residual=False, masked_backward=False).eval()
    state = dict(forward.state_dict())
    for name, value in backward.state_dict().items():
        part, dot, rest = name.partition(".")
        own = "A_b_log" if part == "A_log" else f"{part}_b{dot}{rest}"
        if own in mixer.state_dict():
            state[own] = value
    mixer.load_state_dict(state)
    return mixer

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
TINY, SMALL, MIDDLE = (f"VideoMambaPro-{size}" for size in ("Tiny", "Small", "Middle"))
TINY_TUBELET_2 = f"{TINY}, tubelets of 2"
MODELS = (TINY, TINY_TUBELET_2, "ViT-Ti", SMALL, "ViT-S")
SIZES = (TINY, SMALL, MIDDLE)
PRECISIONS = ("float32", "bfloat16 autocast")
WIDTH = 192  # of the single mixers: Tiny's


@dataclass
class Candidate:
    """A model with the clips it takes, in the layout it wants them, and one of PRECISIONS."""

    model: nn.Module
    clip: Tensor
    precision: str = PRECISIONS[0]

    def forward(self) -> Tensor:
        """Logits of the clips, without autograd."""
        with torch.no_grad():
            return self._logits()

    def _logits(self) -> Tensor:
        with torch.autocast(self.clip.device.type, torch.bfloat16, enabled=self.precision != PRECISIONS[0]):
            out = self.model(self.clip)
        return getattr(out, "logits", out)

    def training_step(self) -> Callable[[], None]:
        """A function that takes one step: forward, cross-entropy, backward, AdamW."""
        self.model.train()
        optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-5)
        labels = torch.zeros(len(self.clip), dtype=torch.long, device=self.clip.device)

        def step() -> None:
            nn.functional.cross_entropy(self._logits().float(), labels).backward()
            optimizer.step()
            optimizer.zero_grad()

        return step


def build(name: str, frames: int, backend: str | None = None, device: str = "cpu", batch: int = 1) -> Candidate:
    """The model of MODELS or SIZES called `name` for clips of `frames` frames; `backend` is VideoMambaPro's.

    Raises:
        ImportError: a ViT without the transformers library.
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

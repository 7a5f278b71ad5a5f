"""Describe a checkpoint, from the configuration stored in it or else from its tensors."""

import math
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from mamba.mamba_ssm.modules.mamba_simple import settings_of
from models.checkpoint_file import (
    CONFIG_KEY,
    FLAGS_KEY,
    STEM_PREFIX,
    TRAINING_ONLY,
    CheckpointError,
    is_masked_pretraining,
    peek_checkpoint,
    unwrap_tensors,
)
from models.config import ModelConfig, Role
from models.videomambapro import REGISTERED, VideoMambaPro, registered_config, registered_names

BESIDE_THE_MODEL = ("target_mean", "target_scale", "decision_threshold")
"""Tensors that objectives save beside the weights of the model, because predictions need them."""


@dataclass(frozen=True)
class CheckpointFacts:
    """Description of a checkpoint.

    Attributes:
        path: The file.
        config: Known fields of `ModelConfig`: all of them if our code wrote the file, otherwise the sizes.
        model: Registered name for that size and type; None if there is none.
        parameters: Number of parameters, including the head.
        flags: Flags of the run that wrote the file; empty if they are not stored.
        masked_pretraining: Whether the file comes from VideoMamba's masked pretraining.
        beside: Tensors of `BESIDE_THE_MODEL` in the file.
    """

    path: Path
    config: dict[str, Any]
    model: str | None
    parameters: int
    flags: dict[str, Any] = field(default_factory=dict)
    masked_pretraining: bool = False
    beside: dict[str, Tensor] = field(default_factory=dict)

    @property
    def network(self) -> dict[str, Any]:
        """The fields of `config` that the weights require, without those of the training and the machine."""
        free = {setting.name for setting in VideoMambaPro.config_class.settings() if setting.role is Role.FREE}
        return {name: value for name, value in self.config.items() if name not in free}

    def require_switches(self) -> None:
        """Raise a CheckpointError unless the switches are known from the file or a registered model of its size."""
        settings = VideoMambaPro.config_class.settings()
        if self.model is None and any(s.role is Role.SWITCH and s.name not in self.config for s in settings):
            size = f"{self.config['embed_dim']} x {self.config['depth']}"
            raise CheckpointError(f"{self.path} has size {size}, which is not a registered size")

    @property
    def num_classes(self) -> int | None:
        """Number of outputs of the head; None without a head."""
        return self.config.get("num_classes") or None

    @property
    def is_image_model(self) -> bool:
        """Whether the model was trained on images, with no or a single temporal position."""
        return self.config.get("num_frames") in (None, 1)


def describe_checkpoint(path: str | Path) -> CheckpointFacts:
    """Describe the checkpoint `path`, with any wrapper and prefix.

    Loading its weights afterwards does not open the file again.

    Raises:
        FileNotFoundError: The file does not exist.
        CheckpointError: The file is damaged, not a checkpoint of this model family, or has an unknown configuration.
    """
    content = peek_checkpoint(path)
    state = unwrap_tensors(content, path)
    stored = stored_config(content, path)
    mixer = settings_of(mixer_state(state))
    missing = [name for name in ("cls_token", "patch_embed.proj.weight") if name not in state]
    if mixer is None and stored.get("mixer", "mamba") == "mamba":
        missing.insert(0, "layers.*.mixer.A_b_log")
    if missing:
        raise CheckpointError(f"{path} is not a checkpoint of VideoMamba or VideoMambaPro: {missing[0]} is missing")
    config = _sizes_of(state) | (mixer or {}) | stored
    flags = stored_flags(content)
    names = [config.get("name"), flags.get("model"), _name_of_size(config)]
    return CheckpointFacts(
        path=Path(path),
        config=config,
        model=next((name for name in names if name in registered_names()), None),
        parameters=sum(
            tensor.numel()
            for name, tensor in state.items()
            if not name.startswith(TRAINING_ONLY) and name not in BESIDE_THE_MODEL and not _is_statistic(name, tensor)
        ),
        flags=flags,
        masked_pretraining=is_masked_pretraining(state),
        beside={name: state[name] for name in BESIDE_THE_MODEL if name in state},
    )


def describe_metadata(path: str | Path) -> CheckpointFacts:
    """Describe a checkpoint by its stored configuration and flags only, without its tensors (of any model family).

    Raises:
        FileNotFoundError: As in `describe_checkpoint`.
        CheckpointError: As in `describe_checkpoint`.
    """
    content = peek_checkpoint(path)
    return CheckpointFacts(Path(path), stored_config(content, path), None, 0, stored_flags(content))


def stored_flags(content: dict[str, Any]) -> dict[str, Any]:
    """Return the flags of the run that wrote a file; empty if they are not stored."""
    flags = content.get(FLAGS_KEY)
    return flags if isinstance(flags, dict) else {}


def stored_config(content: dict[str, Any], path: str | Path) -> dict[str, Any]:
    """Return the stored configuration or, for older files, the switches among the stored flags.

    Raises:
        CheckpointError: A field or its value is unknown, because newer or modified code has written the file.
    """
    settings = {setting.name: setting for setting in VideoMambaPro.config_class.settings()}
    config = content.get(CONFIG_KEY)
    if not isinstance(config, dict):
        return _switches_of_flags(stored_flags(content))
    unknown = config.keys() - settings.keys()
    if unknown:
        raise CheckpointError(
            f"{path} has an unknown configuration: {', '.join(f'{name} {config[name]}' for name in sorted(unknown))}; "
            "use the code that wrote the file"
        )
    for name, value in config.items():
        try:
            settings[name].check(value)
        except ValueError as error:
            raise CheckpointError(f"{path} has an invalid configuration: {error}") from error
    return dict(config)


def configuration_of(module: nn.Module) -> dict[str, Any] | None:
    """Return the configuration to store for the model in `module`; None if there is no model of this project."""
    configs = (getattr(part, "config", None) for part in module.modules())  # a detector precedes its backbone
    return next((config.values() for config in configs if isinstance(config, ModelConfig)), None)


def refuse_other_switches(
    model: nn.Module, content: dict[str, Any], path: str | Path, overridden: Collection[str] = ()
) -> None:
    """Raise an error if the switches in a file differ from those of a model.

    Args:
        model: A `VideoMambaPro` or a module that contains one; other modules have no switches.
        content: Content of the file, as returned by `read_checkpoint_file`.
        path: The file, for messages.
        overridden: Flags of switches that may differ.

    Raises:
        CheckpointError: Switches differ; the message names the flags, both values and the remedy.
    """
    config = configuration_of(model)
    if config is None:
        return
    stored = stored_config(content, path)
    differing = {
        setting.flag: (config[setting.name], stored[setting.name])
        for setting in VideoMambaPro.config_class.settings()
        if setting.role is Role.SWITCH and setting.name in stored and setting.flag not in overridden
    }
    words = [f"--{flag} {own}, the file has {other}" for flag, (own, other) in differing.items() if own != other]
    if words:
        raise CheckpointError(contradiction(path, words))


def contradiction(path: str | Path, words: list[str]) -> str:
    """Write the message about flags that differ from a file, with the two remedies."""
    flags = " ".join(word.split()[0].removeprefix("--") for word in words)
    return (
        f"{path} contradicts the flags: {'; '.join(words)}. Omit them to use the file's values, or override them with "
        f"--override_checkpoint {flags}"
    )


def mixer_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the state dict of the first layer's mixer, without the prefix."""
    prefix = "layers.0.mixer."
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def depth_of(state: dict[str, Tensor]) -> int:
    """Return the number of layers in a state dict."""
    return 1 + max(int(name.split(".")[1]) for name in state if name.startswith("layers."))


def square_grid(patches: int) -> tuple[int, int] | None:
    """Return the rows and columns of a square of that many patches; None if there is no such square."""
    side = math.isqrt(patches)
    return (side, side) if side * side == patches else None


def about_masked_pretraining(last_layer: int) -> str:
    """Say what is particular to weights of VideoMamba's masked pretraining.

    Its code aligns the residual stream before the output of the last mixer is added, so neither that mixer nor the
    last norm receives a gradient.
    """
    return f"masked pretraining, no head; the published code did not train layers.{last_layer}.mixer and the last norm"


def _is_statistic(name: str, tensor: Tensor) -> bool:
    """Return whether a tensor of a stem is one of its buffers, of normalisation or of places, and no parameter."""
    return name.startswith(STEM_PREFIX) and (
        name.endswith((".running_mean", ".running_var")) or not tensor.is_floating_point()
    )


def _sizes_of(state: dict[str, Tensor]) -> dict[str, Any]:
    """Infer sizes from the tensors outside the mixers, as fields of `ModelConfig`."""
    kernel = state["patch_embed.proj.weight"]
    # A 2-D kernel (published image weights) fits any tubelet size.
    tubelet = {"tubelet_size": kernel.shape[2]} if kernel.dim() == 5 else {}
    sizes = {
        "depth": depth_of(state),
        "embed_dim": state["cls_token"].shape[-1],
        "patch_size": kernel.shape[-1],
        "in_chans": kernel.shape[1],
        "rms_norm": "norm_f.bias" not in state,
        "num_classes": state["head.weight"].shape[0] if "head.weight" in state else 0,
    }
    blocks = {name.split(".")[2] for name in state if name.startswith("pooler.blocks.")}
    sizes["attentive_depth"] = len(blocks) + 1 if "pooler.query.latent" in state else 0
    grid = square_grid(state["pos_embed"].shape[1] - 1) if "pos_embed" in state else None
    if grid:
        sizes["img_size"] = grid[0] * kernel.shape[-1]
    if not any(name.startswith(STEM_PREFIX) for name in state):
        sizes["stem"] = ""
    if "temporal_pos_embedding" in state:
        sizes["num_frames"] = state["temporal_pos_embedding"].shape[1] * tubelet.get("tubelet_size", 1)
    return sizes | tubelet


def _switches_of_flags(flags: dict[str, Any]) -> dict[str, Any]:
    """Return the switches among a run's flags; None stands for the value of the registered model."""
    settings = VideoMambaPro.config_class.settings()
    switches = {s.name: flags[s.flag] for s in settings if s.role is Role.SWITCH and s.flag in flags}
    registered = registered_config(flags.get("model", ""))
    if registered is not None:
        switches |= {name: getattr(registered, name) for name, value in switches.items() if value is None}
    return {name: value for name, value in switches.items() if value is not None}


def _name_of_size(config: dict[str, Any]) -> str | None:
    """Return the first registered name with that width, depth and type."""
    looks = {name: config[name] for name in ("embed_dim", "depth", "bimamba_type")}
    known = {name: VideoMambaPro.config_class(**settings) for name, settings in REGISTERED.items()}
    return next((name for name, it in known.items() if looks.items() <= it.values().items()), None)

"""What a checkpoint is: what it says of its network itself, and else what its tensors tell."""

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from mamba.mamba_ssm.modules.mamba_simple import settings_of
from models.checkpoint_file import CONFIG_KEY, FLAGS_KEY, CheckpointError, peek_checkpoint, unwrap_tensors
from models.config import ModelConfig, Role
from models.videomambapro import NANO, PUBLISHED_SIZES, VideoMambaPro, registered_config, registered_names

FAMILIES = {"v1": "videomambapro", "v2": "videomamba"}


@dataclass(frozen=True)
class CheckpointFacts:
    """What a file tells.

    Attributes:
        path: the file.
        config: fields of `ModelConfig` by name, those that the file tells: all of them where we wrote it, of others
            the sizes.
        model: registered name of that size and type; None where there is none.
        parameters: numbers in the tensors of the network, the head included.
        flags: those of the run that wrote the file; empty where it does not say them.
    """

    path: Path
    config: dict[str, Any]
    model: str | None
    parameters: int
    flags: dict[str, Any] = field(default_factory=dict)

    @property
    def network(self) -> dict[str, Any]:
        """The fields of `config` that its weights need; those of the training and the machine left out."""
        free = {setting.name for setting in VideoMambaPro.config_class.settings() if setting.role is Role.FREE}
        return {name: value for name, value in self.config.items() if name not in free}

    def require_switches(self) -> None:
        """Raise the CheckpointError that tells the size unless the file or its registered name tells the switches."""
        settings = VideoMambaPro.config_class.settings()
        if self.model is None and any(s.role is Role.SWITCH and s.name not in self.config for s in settings):
            size = f"{self.config['embed_dim']} x {self.config['depth']}"
            raise CheckpointError(f"{self.path} is {size}, none of the registered sizes")

    @property
    def num_classes(self) -> int | None:
        """Outputs of the head; None where there is none."""
        return self.config.get("num_classes") or None

    @property
    def is_image_model(self) -> bool:
        """Whether it was trained on single images: no temporal positions, or one."""
        return self.config.get("num_frames") in (None, 1)


def describe_checkpoint(path: str | Path) -> CheckpointFacts:
    """Read off what the checkpoint `path` is, whatever its wrapper and prefix.

    The reading of its weights that follows does not open the file again.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: it is damaged, no checkpoint of this family of models, or says what this code does not know.
    """
    content = peek_checkpoint(path)
    state = unwrap_tensors(content, path)
    told = told_config(content, path)
    mixer = settings_of(mixer_state(state))
    missing = [name for name in ("cls_token", "patch_embed.proj.weight") if name not in state]
    if mixer is None and told.get("mixer", "mamba") == "mamba":
        missing.insert(0, "layers.*.mixer.A_b_log")
    if missing:
        raise CheckpointError(f"{path} is no checkpoint of VideoMamba or VideoMambaPro: it has no {missing[0]}")
    config = _read_off(state) | (mixer or {}) | told
    flags = told_flags(content)
    names = [config.get("name"), flags.get("model"), _name_of_size(config)]
    return CheckpointFacts(
        path=Path(path),
        config=config,
        model=next((name for name in names if name in registered_names()), None),
        parameters=sum(tensor.numel() for tensor in state.values()),
        flags=flags,
    )


def describe_words(path: str | Path) -> CheckpointFacts:
    """What the checkpoint `path` says in words; its tensors are neither looked at nor need be of this family.

    Raises:
        FileNotFoundError, CheckpointError: as `describe_checkpoint`.
    """
    content = peek_checkpoint(path)
    return CheckpointFacts(Path(path), told_config(content, path), None, 0, told_flags(content))


def told_flags(content: dict[str, Any]) -> dict[str, Any]:
    """The flags of the run that wrote a file; empty where it does not say them."""
    flags = content.get(FLAGS_KEY)
    return flags if isinstance(flags, dict) else {}


def told_config(content: dict[str, Any], path: str | Path) -> dict[str, Any]:
    """What a file says of its network in words: its configuration, or the switches among the flags of an older one.

    Raises:
        CheckpointError: a field or its value is unknown here: the file is newer, or of changed code.
    """
    settings = {setting.name: setting for setting in VideoMambaPro.config_class.settings()}
    config = content.get(CONFIG_KEY)
    if not isinstance(config, dict):
        return _switches_of_flags(told_flags(content))
    unknown = config.keys() - settings.keys()
    if unknown:
        raise CheckpointError(
            f"{path} says {', '.join(f'{name} {config[name]}' for name in sorted(unknown))} of its network, which "
            "this code does not know; use the code that wrote the file"
        )
    for name, value in config.items():
        try:
            settings[name].check(value)
        except ValueError as error:
            raise CheckpointError(f"{path} says what no network can be: {error}") from error
    return dict(config)


def told_by_model(module: nn.Module) -> dict[str, Any] | None:
    """The configuration that a file says of the network in `module`; None where there is none of this family."""
    configs = (getattr(part, "config", None) for part in module.modules())  # a detector's is before its backbone's
    return next((config.values() for config in configs if isinstance(config, ModelConfig)), None)


def refuse_other_switches(
    model: nn.Module, content: dict[str, Any], path: str | Path, overridden: Collection[str] = ()
) -> None:
    """Raise the error that names switches which a file says otherwise than `model` was built.

    Args:
        model: a `VideoMambaPro`, or what holds one; others have no switches.
        content: of the file, as `read_checkpoint_file` returned it.
        overridden: flags of switches that may differ, asked for by name.
    Raises:
        CheckpointError: names flag, both values and the remedy.
    """
    config = told_by_model(model)
    if config is None:
        return
    told = told_config(content, path)
    differing = {
        setting.flag: (config[setting.name], told[setting.name])
        for setting in VideoMambaPro.config_class.settings()
        if setting.role is Role.SWITCH and setting.name in told and setting.flag not in overridden
    }
    words = [f"--{flag} {ours}, the file has {theirs}" for flag, (ours, theirs) in differing.items() if ours != theirs]
    if words:
        raise CheckpointError(contradiction(path, words))


def contradiction(path: str | Path, words: list[str]) -> str:
    """The sentence that tells how a file and the flags differ, and the two remedies."""
    flags = " ".join(word.split()[0].removeprefix("--") for word in words)
    return (
        f"{path} contradicts the flags: {'; '.join(words)}. Leave them out and the file answers, or insist by name: "
        f"--override_checkpoint {flags}"
    )


def mixer_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The first layer's mixer in a state dict, its names without the prefix."""
    prefix = "layers.0.mixer."
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def depth_of(state: dict[str, Tensor]) -> int:
    """Number of layers in a state dict."""
    return 1 + max(int(name.split(".")[1]) for name in state if name.startswith("layers."))


def _read_off(state: dict[str, Tensor]) -> dict[str, Any]:
    """The sizes that tensors outside the mixers tell, as fields of `ModelConfig`."""
    kernel = state["patch_embed.proj.weight"]
    # A 2-D kernel (published image weights) serves every tubelet size.
    tubelet = {"tubelet_size": kernel.shape[2]} if kernel.dim() == 5 else {}
    sizes = {
        "depth": depth_of(state),
        "embed_dim": state["cls_token"].shape[-1],
        "patch_size": kernel.shape[-1],
        "in_chans": kernel.shape[1],
        "rms_norm": "norm_f.bias" not in state,
        "num_classes": state["head.weight"].shape[0] if "head.weight" in state else 0,
    }
    if "pos_embed" in state:
        sizes["img_size"] = round((state["pos_embed"].shape[1] - 1) ** 0.5) * kernel.shape[-1]
    if "temporal_pos_embedding" in state:
        sizes["num_frames"] = state["temporal_pos_embedding"].shape[1] * tubelet.get("tubelet_size", 1)
    return sizes | tubelet


def _switches_of_flags(flags: dict[str, Any]) -> dict[str, Any]:
    """Switches among a run's flags; one that was left out (None) is as the run's model is registered."""
    settings = VideoMambaPro.config_class.settings()
    switches = {s.name: flags[s.flag] for s in settings if s.role is Role.SWITCH and s.flag in flags}
    registered = registered_config(flags.get("model", ""))
    if registered is not None:
        switches |= {name: getattr(registered, name) for name, value in switches.items() if value is None}
    return {name: value for name, value in switches.items() if value is not None}


def _name_of_size(config: dict[str, Any]) -> str | None:
    kind, numbers = config["bimamba_type"], dict(embed_dim=config["embed_dim"], depth=config["depth"])
    for size, published in (PUBLISHED_SIZES | {"nano": NANO}).items():
        if numbers == published:
            return None if (size, kind) == ("nano", "v2") else f"{FAMILIES[kind]}_{size}"
    return None

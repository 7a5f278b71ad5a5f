"""Folders as on the Hugging Face hub: `save_pretrained`, `from_pretrained` and `push_to_hub` of a model.

A folder holds config.json in timm's layout (`timm.create_model("local-dir:DIR")` and "hf-hub:" read it),
model.safetensors as this repository writes it, with the configuration and a digest, and README.md, the model card.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self, cast

from huggingface_hub import ModelCard, PyTorchModelHubMixin, snapshot_download
from huggingface_hub.errors import HFValidationError
from torch import Tensor

from common.files import FOLDER_WEIGHTS, atomic_write, write_json
from common.frame_size import as_pair, shorter
from models.checkpoint_file import FOLDER_CONFIG, FORMATS, OBJECTIVE_KEY, read_folder_config, write_weights
from models.config import Role
from models.model_card import model_card

TOLD_FLAGS = (
    *("data_set", "sampling", "num_frames", "sampling_rate", "test_num_segment", "test_num_crop"),
    *("window_seconds", "window_stride", "model", "input_size", "crop_pct", "class_names", "task", "view_merge"),
)
"""Flags of the run that a folder repeats; others, such as paths, stay on the machine."""
HEAD_FLAGS = ("class_names", "task", "view_merge")
"""Those among them that say what the outputs of the head are."""
FAMILY = "videomambapro_tiny"  # under which timm builds models of no registered size; their arguments are complete


class HubFolder(PyTorchModelHubMixin):
    """Base of a model with `config` that can be saved as a folder and loaded from one.

    Attributes:
        run_flags: Flags of the run that trained the weights; a folder repeats those in `TOLD_FLAGS`.
        reading: How clips are read for the model (see `inference.description`); empty if unknown.
        objective_state: What turns outputs into predictions, as in config.json: `decision_threshold` of --task
            multilabel (None before a validation), `target_mean` and `target_scale` of --task regression.
    """

    run_flags: Mapping[str, Any] = {}
    reading: Mapping[str, Any] = {}
    objective_state: Mapping[str, Any] = {}

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        force_download: bool = False,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        revision: str | None = None,
        **changes: Any,
    ) -> Self:
        """Load a folder of this repository, of timm or of transformers, or a checkpoint, in evaluation mode.

        Args:
            pretrained_model_name_or_path: A folder, a checkpoint file, or the name of a repository on the hub.
            force_download: Download again what the cache holds.
            token: Of the hub, for private repositories.
            cache_dir: Where downloads are kept.
            local_files_only: Take the repository from the cache.
            revision: Branch, tag or commit of the repository.
            changes: Fields of `ModelConfig` to change, such as `num_classes`, `num_frames` or `backend`. Weights are
                adapted as by --finetune.

        Raises:
            FileNotFoundError: The file or folder does not exist, or the folder has no weights.
            CheckpointError: The weights are damaged or do not fit.
            TypeError: The file or folder holds another kind of model.
        """
        from models.build import build_described  # builds what inherits from this class
        from models.checkpoint import load_checkpoint
        from models.describe import describe_checkpoint

        folder = Path(pretrained_model_name_or_path)
        if not folder.exists() and folder.suffix not in FORMATS:
            try:
                downloaded = snapshot_download(
                    str(pretrained_model_name_or_path),
                    revision=revision,
                    cache_dir=cache_dir,
                    force_download=force_download,
                    token=token,
                    local_files_only=local_files_only,
                    allow_patterns=[FOLDER_CONFIG, FOLDER_WEIGHTS],
                )
            except HFValidationError as error:
                raise FileNotFoundError(f"{folder} does not exist, and is no OWNER/NAME of the hub") from error
            folder = Path(downloaded)
        facts = describe_checkpoint(folder)
        model: Any = build_described(facts, **changes)
        if not issubclass(type(model), cls):
            raise TypeError(f"{folder} holds a {type(model).__name__}, not a {cls.__name__}")
        load_checkpoint(model, folder)
        model.run_flags, model.reading = facts.flags, read_folder_config(folder).get("reading", {})
        if "img_size" in changes and "short_side" in model.reading:
            model.reading = {**model.reading, "short_side": shorter(model.config.img_size)}
        model.objective_state = plain_state(facts.beside)
        if model.num_classes != facts.num_classes:
            model.forget_head()
        return model.eval()

    def _save_pretrained(self, save_directory: Path) -> None:
        """Write the weights and config.json; the mixin's `save_pretrained` writes the card after them."""
        model: Any = self
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
        with atomic_write(save_directory / FOLDER_WEIGHTS) as file:
            write_weights(file, ".safetensors", tensors, model.config.values(), self.told_flags())
        write_json(save_directory / FOLDER_CONFIG, self.folder_config())

    def folder_config(self) -> dict[str, Any]:
        """Return the content of config.json: timm's entries, `reading` and what the objective keeps."""
        model: Any = self
        config, names = model.config, self.label_names()
        arguments = {known.name: getattr(config, known.name) for known in config.settings() if _is_argument(known)}
        described = dict(
            input_size=[config.in_chans, *as_pair(config.img_size)],
            num_classes=config.num_classes,
            first_conv="patch_embed.proj",
            classifier="head",
        )
        described |= {name: self.reading[name] for name in ("mean", "std") if name in self.reading}
        return {
            "architecture": config.name or FAMILY,
            "num_classes": config.num_classes,
            "num_features": model.num_features,
            **({"label_names": names} if names else {}),
            "model_args": arguments,
            "pretrained_cfg": described,
            "reading": dict(self.reading),
            **({OBJECTIVE_KEY: dict(self.objective_state)} if self.objective_state else {}),
        }

    def forget_head(self) -> None:
        """Drop what is known of the outputs, which a new head does not share: task, names, threshold, scale."""
        self.run_flags = {name: value for name, value in self.run_flags.items() if name not in HEAD_FLAGS}
        self.objective_state = {}

    def told_flags(self) -> dict[str, Any]:
        """Return the flags of the run that others may know: model, task, sampling and class names."""
        return {name: self.run_flags[name] for name in TOLD_FLAGS if self.run_flags.get(name) is not None}

    def label_names(self) -> list[str]:
        """Return the names of the classes; empty if they are unknown."""
        names = list(self.run_flags.get("class_names") or [])
        return names if len(names) == cast(Any, self).config.num_classes else []

    def generate_model_card(self, *args: Any, **kwargs: Any) -> ModelCard:
        """Write the card; `kwargs` are those of `model_card`, and the mixin's `model_card_kwargs`."""
        model: Any = self
        told = self.run_flags
        outputs = {"task": told.get("task") or "classification", "view_merge": told.get("view_merge") or "mean"}
        outputs |= self.objective_state
        return model_card(model.config, self.label_names(), self.reading, outputs, **kwargs)


def plain_state(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return tensors that an objective keeps as values of JSON; None for a threshold that was never chosen."""
    values = {name: tensor.tolist() for name, tensor in state.items()}
    return {name: None if value != value else value for name, value in values.items()}


def _is_argument(known: Any) -> bool:
    return known.role is not Role.FREE and not known.detector

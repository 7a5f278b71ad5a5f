"""Load weights from published checkpoints or our own, adapting tensors by the rules below and logging every change.

A 2-D patch kernel becomes the centre tap of the 3-D kernel; spatial positions are interpolated bicubically, without
the class token, and temporal ones linearly; a head of another size keeps its initialisation, except that a 710-class
head supplies its first 400 rows; the last norm of VideoMamba's masked pretraining, `norm`, is loaded as `norm_f`, and
its decoder is not used. The head of a classifier is not loaded into a detector, nor the other way round. Any other
difference is an error that names the tensor.
"""

import logging
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from common.frame_size import as_pair
from models.checkpoint_file import (
    STEM_PREFIX,
    TRAINING_ONLY,
    CheckpointError,
    bare_name,
    is_masked_pretraining,
    read_checkpoint_file,
    unwrap_tensors,
)
from models.describe import (
    about_masked_pretraining,
    depth_of,
    mixer_state,
    refuse_other_switches,
    square_grid,
    stored_config,
)
from models.positions import resize_spatial, resize_temporal

logger = logging.getLogger(__name__)

HEADS = ("head.", "pooler.")
MAY_STAY_INITIAL = (*HEADS, "temporal_pos_embedding")
KINETICS_710_TO_400 = (710, 400)  # the first 400 of Kinetics-710's classes are Kinetics-400's


@dataclass
class LoadReport:
    """What was done with each tensor: name -> (action, note), where action is one of ACTIONS."""

    ACTIONS = ("loaded", "inflated", "interpolated", "sliced", "initialised", "unused")
    rows: dict[str, tuple[str, str]] = field(default_factory=dict)

    def names(self, action: str) -> list[str]:
        """Return the names of the tensors with an action."""
        return [name for name, (happened, _) in self.rows.items() if happened == action]

    def table(self) -> str:
        """Format one line per tensor; equal tensors of several layers share a line with their count."""
        folded: Counter[tuple[str, str, str]] = Counter()
        for name, (action, note) in self.rows.items():
            head, *rest = name.split(".", 2)
            folded[action, f"layers.*.{rest[1]}" if head == "layers" else name, note] += 1
        order = {action: place for place, action in enumerate(self.ACTIONS)}
        lines = [
            f"  {action:<12} {name}{f' (x{count})' if count > 1 else ''}{f'  {note}' if note else ''}"
            for (action, name, note), count in sorted(folded.items(), key=lambda row: order[row[0][0]])
        ]
        return "\n".join(lines)


def load_checkpoint(
    model: nn.Module,
    path: str | Path,
    *,
    require_head: bool = False,
    without_head: bool = False,
    allow_random: bool = False,
    overridden: Collection[str] = (),
) -> LoadReport:
    """Load the weights of `path` into `model` and log a table of what was done with each tensor.

    Args:
        model: A `VideoMambaPro`, or an `ActionDetector` that contains one.
        path: .pth (weights only) or .safetensors, with any of the known wrappers and prefixes.
        require_head: Raise an error if the head does not come from the file, for evaluation.
        without_head: Let the head keep its initial values, even if that of the file would fit.
        allow_random: Let tensors that are missing in the file keep their initial values.
        overridden: Flags of switches in which the model may differ from the file.

    Raises:
        FileNotFoundError: The file does not exist.
        CheckpointError: The file is not a readable checkpoint, has another type, size or other switches than the
            model, or lacks tensors.
    """
    content = read_checkpoint_file(path)
    source = unwrap_tensors(content, path)
    _check_type(source, model, path)
    refuse_other_switches(model, content, path, overridden)
    stored = stored_config(content, path)
    other_head = _other_head(model, source, stored.get("time_pool", ""))
    backbone: Any = getattr(model, "backbone", model)
    grids = _grid_of_file(source, stored), backbone.patch_embed.grid_size
    report, adapted = LoadReport(), {}
    for full_name, wanted in model.state_dict().items():
        name = bare_name(full_name)
        if name not in source:
            report.rows[name] = ("initialised", "not in the file")
            continue
        if name.startswith(HEADS) and (without_head or other_head):
            report.rows[name] = ("initialised", other_head or "left out by --delete_head")
            continue
        tensor, action, note = _adapt(name, source[name], wanted, path, grids)
        report.rows[name] = (action, note)
        if tensor is not None:
            adapted[full_name] = tensor
    for name in source.keys() - report.rows.keys():
        report.rows[name] = ("unused", "only for training" if name.startswith(TRAINING_ONLY) else "")
    _check_complete(report, path, require_head, allow_random)
    if not next(model.parameters()).is_meta:  # a dry run's model holds no numbers
        model.load_state_dict(adapted, strict=False)
    logger.info("weights from %s:\n%s", path, report.table())
    if is_masked_pretraining(source):
        logger.warning("%s: %s", path, about_masked_pretraining(depth_of(source) - 1))
    return report


def _check_type(source: dict[str, Tensor], model: Any, path: str | Path) -> None:
    misfit = model.layers[0].mixer.misfit(mixer_state(source))
    if misfit:
        raise CheckpointError(f"{path} {misfit}")
    depths = [depth_of(source), len(model.layers)]
    if depths[0] != depths[1]:
        raise CheckpointError(f"{path} has {depths[0]} layers, the model {depths[1]}; use a --model of that depth")


def _other_head(model: Any, source: dict[str, Tensor], time_pool: str) -> str:
    """Say whose the head in a file is, where the model's reads other features; empty where they are the same."""
    pooled = any(name.startswith("pooler.") for name in source)
    if pooled != (model.config.attentive_depth > 0):
        return "of an attentive pooler" if pooled else "of the class token"
    if time_pool != model.config.time_pool:
        return f"of a detector with --time_pool {time_pool}" if time_pool else "of a classifier of clips"
    if time_pool == "concat" and "head.weight" in source and source["head.weight"].shape[1] != model.head.in_features:
        return "of a detector that puts another number of frames side by side"
    return ""


def _grid_of_file(source: dict[str, Tensor], stored: dict[str, Any]) -> tuple[int, int] | None:
    """Rows and columns of the patches in a file; None where it does not record them and they are no square."""
    if "pos_embed" not in source:
        return None
    if "img_size" in stored:
        height, width = as_pair(stored["img_size"])
        patch = stored.get("patch_size", source["patch_embed.proj.weight"].shape[-1])
        return height // patch, width // patch
    return square_grid(source["pos_embed"].shape[1] - 1)


def _adapt(
    name: str,
    saved: Tensor,
    wanted: Tensor,
    path: str | Path,
    grids: tuple[tuple[int, int] | None, tuple[int, int]],
) -> tuple[Tensor | None, str, str]:
    """The file's tensor in the model's shape: (tensor or None to leave wanted, action, note).

    `grids` are the rows and columns of patches of the file and of the model.
    """
    change = f"{tuple(saved.shape)} -> {tuple(wanted.shape)}"
    if name == "pos_embed" and saved.dim() == 3 and saved.shape[2] == wanted.shape[2]:
        return _adapt_positions(saved, wanted, path, grids)
    if saved.shape == wanted.shape:
        return saved, "loaded", ""
    if name == "patch_embed.proj.weight" and _inflatable(saved, wanted):
        return _inflate(saved, wanted), "inflated", f"{change}, centre tap"
    if name == "temporal_pos_embedding" and saved.dim() == 3 and saved.shape[2] == wanted.shape[2]:
        return resize_temporal(saved, wanted.shape[1]), "interpolated", f"{change}, linear"
    if name.startswith("head.") and saved.shape[1:] == wanted.shape[1:]:
        if (saved.shape[0], wanted.shape[0]) == KINETICS_710_TO_400:
            return saved[: wanted.shape[0]], "sliced", f"{change}, Kinetics-400's rows"
        return None, "initialised", f"{change}, another number of classes"
    raise CheckpointError(
        f"{path}: {name} is {tuple(saved.shape)}, the model's is {tuple(wanted.shape)}; use the --model of that "
        "size and the --tubelet_size the file was trained with"
    )


def _adapt_positions(
    saved: Tensor, wanted: Tensor, path: str | Path, grids: tuple[tuple[int, int] | None, tuple[int, int]]
) -> tuple[Tensor, str, str]:
    """The file's spatial positions on the model's grid; as `_adapt`."""
    old, new = grids
    (rows, columns), count = new, saved.shape[1] - 1
    if old is None and saved.shape == wanted.shape:
        return saved, "loaded", f"the file does not record its grid of patches, taken as {rows} x {columns}"
    if old is None or old[0] * old[1] != count:
        raise CheckpointError(
            f"{path} has {count} spatial positions and does not record their rows and columns; load it with the "
            "--input_size it was trained with"
        )
    if old == new:
        return saved, "loaded", ""
    note = f"{old[0]} x {old[1]} -> {rows} x {columns} patches, bicubic"
    return resize_spatial(saved, old, new), "interpolated", note


def _inflatable(saved: Tensor, wanted: Tensor) -> bool:
    one_frame = saved.dim() == 4 or (saved.dim() == 5 and saved.shape[2] == 1)
    return one_frame and saved.shape[:2] == wanted.shape[:2] and saved.shape[-2:] == wanted.shape[-2:]


def _inflate(saved: Tensor, wanted: Tensor) -> Tensor:
    """A one-frame patch kernel as the centre tap of a tubelet kernel, the other taps 0."""
    kernel = torch.zeros_like(wanted)
    kernel[:, :, wanted.shape[2] // 2] = saved if saved.dim() == 4 else saved[:, :, 0]
    return kernel


def _check_complete(report: LoadReport, path: str | Path, require_head: bool, allow_random: bool) -> None:
    random = [n for n in report.names("initialised") if not n.startswith(MAY_STAY_INITIAL)]
    if of_stem := [n for n in random if n.startswith(STEM_PREFIX)]:
        raise CheckpointError(f"{path} lacks {of_stem[0]}, which would stay random, since a stem is never trained")
    if random and not allow_random:
        raise CheckpointError(
            f"{path} lacks {', '.join(random[:8])}{' ...' if len(random) > 8 else ''}; they would stay random. "
            f"Use the right file or model, or --allow_random.\n{report.table()}"
        )
    head = [n for n in report.names("initialised") if n.startswith(HEADS)]
    if head and require_head:
        notes = ", ".join(f"{n} ({report.rows[n][1]})" for n in head)
        raise CheckpointError(f"{path} cannot be evaluated, because its head does not fit: {notes}; see --nb_classes")

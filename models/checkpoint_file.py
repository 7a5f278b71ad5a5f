"""Read checkpoint files, with the same checks for training and inference, and write files of weights.

A file is accepted only if it is intact: each entry of a .pth archive is compared with its checksum, and .safetensors
files written here with the digest in their metadata. Nothing in a file is executed.
"""

import argparse
import hashlib
import json
import math
import os
import re
import zipfile
from pathlib import Path
from typing import IO, Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from common.files import require_weights, weights_file

CONFIG_KEY = "model_config"  # configuration of the model; like the flags, JSON in the metadata of .safetensors
FLAGS_KEY = "args"  # flags of the run that wrote the file
EMA_KEY = "model_ema"  # EMA of the weights; "test_weights" has this value if the EMA validated better
WRAPPERS = ("model", "module", "state_dict")
PREFIXES = ("module.", "backbone.", "encoder.", "_orig_mod.")
ALIGNMENT_DECODER = "clip_decoder."  # of VideoMamba's masked pretraining, whose files have no head
# What objectives train and save beside the model, which neither tests nor other runs need.
TRAINING_ONLY = (ALIGNMENT_DECODER, "alignment.", "distillation.", "probes.", "probe_norm.", "held_out", "chosen")
STEM_PREFIX = "patch_embed.stem."  # of the image model below the patch embedding, see models/image_stem.py
FORMATS = (".pth", ".safetensors")
FOLDER_CONFIG = "config.json"  # of a folder as on the Hugging Face hub, beside its weights
OBJECTIVE_KEY = "objective"  # in it: what the objective keeps beside the weights, by name
PROBLEM_TYPES = {"multilabel": "multi_label_classification", "regression": "regression"}  # transformers' names
_DIGEST_KEY = "digest"
_ZIP_MAGIC = b"PK\x03\x04"
_FOLDER_BIT, _ENCRYPTED_BIT = 0x10, 0x1

# Signature and content of the file that `peek_checkpoint` read last, until `read_checkpoint_file` takes them.
_peeked: tuple[tuple, dict[str, Any]] | None = None


class CheckpointError(ValueError):
    """A checkpoint cannot be used; the message names the file, the tensors and the remedy."""


def peek_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a file and cache its content for the next `read_checkpoint_file`, so that it is opened only once.

    Callers must not modify the content.

    Raises:
        FileNotFoundError: As in `read_checkpoint_file`.
        CheckpointError: As in `read_checkpoint_file`.
    """
    global _peeked
    file = weights_file(path)
    signature = _signature(file) if file.is_file() else ()
    content = read_checkpoint_file(path)
    _peeked = signature, content
    return content


def read_checkpoint_file(path: str | Path) -> dict[str, Any]:
    """Read the whole content of a .pth (weights only) or .safetensors file; its flags are returned as a dict.

    A folder stands for its model.safetensors; config.json tells the configuration and flags that the weights lack.

    Raises:
        FileNotFoundError: The file does not exist.
        CheckpointError: The file is damaged, not a checkpoint, or contains objects that run code when loaded.
    """
    global _peeked
    folder, path = Path(path), require_weights(path)
    if _peeked is not None and _peeked[0] == _signature(path):
        (_, content), _peeked = _peeked, None
        return content
    try:
        with open(path, "rb") as file:
            content = _read_safetensors(file.read()) if path.suffix == ".safetensors" else _read_pickled(file)
        return _described(folder) | content if folder.is_dir() else content
    except Exception as error:
        # Damaged files can raise any exception.
        raise CheckpointError(f"{path} cannot be read as a checkpoint: {_sentence(error)}") from error


def read_folder_config(folder: str | Path) -> dict[str, Any]:
    """Return the content of a folder's config.json; empty if there is none.

    Raises:
        CheckpointError: It is no JSON object.
    """
    file = Path(folder) / FOLDER_CONFIG
    if not file.is_file():
        return {}
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{file} is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{file} holds no JSON object")
    return config


def _described(folder: Path) -> dict[str, Any]:
    """Configuration and flags from config.json, in timm's layout (`model_args`) or that of transformers folders."""
    config = read_folder_config(folder)
    stored = config.get(CONFIG_KEY) or config.get("model_args", {}) | {"name": config.get("architecture", "")}
    flags = dict(config.get(FLAGS_KEY, {}))
    if "model_type" in config:  # of transformers, which may have trained another head
        tasks = {name: task for task, name in PROBLEM_TYPES.items()}
        flags["task"] = tasks.get(str(config.get("problem_type")), "classification")
        flags["class_names"] = list(config.get("id2label", {}).values())
    return {CONFIG_KEY: stored, FLAGS_KEY: flags} | _objective_state(config, flags.get("task"), stored)


def _objective_state(config: dict[str, Any], task: str | None, network: dict[str, Any]) -> dict[str, Tensor]:
    """What the objective keeps beside the weights; a head that transformers trained has no threshold or scale yet."""
    outputs, state = network.get("num_classes", 1), {}
    if task == "multilabel":
        state = {"decision_threshold": None}
    elif task == "regression":
        state = {"target_mean": [0.0] * outputs, "target_scale": [1.0] * outputs}
    state |= config.get(OBJECTIVE_KEY, {})
    return {
        name: torch.tensor(math.nan if value is None else value, dtype=torch.float64) for name, value in state.items()
    }


def write_weights(
    file: IO[bytes], suffix: str, tensors: dict[str, Tensor], config: dict[str, Any], flags: dict[str, Any]
) -> None:
    """Write a file of weights.

    Args:
        file: Binary file, open for writing.
        suffix: Format of the file, one of `FORMATS`.
        tensors: Contiguous tensors by name, without prefixes.
        config: Known fields of `ModelConfig`.
        flags: Flags of the run that trained the weights; may be empty.
    """
    if suffix == ".safetensors":
        metadata = {"format": "pt", CONFIG_KEY: json.dumps(config), FLAGS_KEY: json.dumps(flags, default=str)}
        digest = _digest(safetensors.torch.save(tensors, metadata))
        file.write(safetensors.torch.save(tensors, metadata | {_DIGEST_KEY: digest}))
        return
    torch.save({"model": tensors, CONFIG_KEY: config} | ({FLAGS_KEY: flags} if flags else {}), file)


def unwrap_tensors(content: dict[str, Any], path: str | Path) -> dict[str, Tensor]:
    """Return the weights in the content of a file, without wrappers and prefixes.

    Of the checkpoints of our own runs, these are the weights that the run tested (EMA or not).

    Raises:
        CheckpointError: There are no tensors.
    """
    state: Any = content
    if content.get("test_weights") == EMA_KEY and isinstance(content.get(EMA_KEY), dict):
        state = content[EMA_KEY]
    while True:
        inner = next((state[key] for key in WRAPPERS if isinstance(state.get(key), dict)), None)
        if inner is None:
            break
        state = inner
    tensors = {k: v for k, v in state.items() if isinstance(v, Tensor)}
    if not tensors:
        raise CheckpointError(f"{path} contains no tensors under any of the keys {WRAPPERS}")
    named = {bare_name(name): tensor for name, tensor in tensors.items()}
    return _with_final_norm(named) if is_masked_pretraining(named) else named


def is_masked_pretraining(state: dict[str, Tensor]) -> bool:
    """Return whether weights come from VideoMamba's masked pretraining, which aligns its tokens with those of CLIP."""
    return any(name.startswith(ALIGNMENT_DECODER) for name in state)


def _with_final_norm(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the last norm of a masked pretraining, `norm`, to `norm_f`, its name in all other files."""
    return {re.sub(r"^norm\.", "norm_f.", name): tensor for name, tensor in state.items()}


def bare_name(name: str) -> str:
    """Return a tensor's name in the network, without the prefixes of what it is wrapped in."""
    for prefix in PREFIXES:
        if name.startswith(prefix):
            return bare_name(name[len(prefix) :])
    return name


def _read_pickled(file: IO[bytes]) -> dict[str, Any]:
    """Read a file of torch.save. Files of the published code contain an argparse.Namespace, which runs no code."""
    # Before version 1.6, PyTorch wrote plain pickles, which have no checksums.
    if file.read(len(_ZIP_MAGIC)) == _ZIP_MAGIC or zipfile.is_zipfile(file):
        _check_archive(file)
    file.seek(0)
    with torch.serialization.safe_globals([argparse.Namespace]):
        content = torch.load(file, map_location="cpu", weights_only=True)
    if not isinstance(content, dict):
        return {}
    return {key: vars(value) if isinstance(value, argparse.Namespace) else value for key, value in content.items()}


def _check_archive(file: IO[bytes]) -> None:
    """Raise an error if an archive is damaged, because torch.load compares no checksums.

    It also leaves the memory of a tensor uninitialised if its entry is marked as a folder or is empty.
    """
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        if len({entry.filename for entry in entries}) < len(entries):
            raise CheckpointError("the archive contains an entry twice")
        for entry in entries:
            stored = entry.compress_type == zipfile.ZIP_STORED
            folder = entry.external_attr & _FOLDER_BIT or entry.is_dir()
            if folder or entry.flag_bits & _ENCRYPTED_BIT or (stored and entry.compress_size != entry.file_size):
                raise CheckpointError(f"the archive's entry {entry.filename!r} is not a plain file")
        damaged = archive.testzip()
    if damaged is not None:
        raise CheckpointError(f"the checksum of entry {damaged} is wrong")


def _read_safetensors(data: bytes) -> dict[str, Any]:
    tensors = safetensors.torch.load(data)  # checks the header against the size
    metadata = _header(data).get("__metadata__", {})
    if (CONFIG_KEY in metadata or _DIGEST_KEY in metadata) and metadata.get(_DIGEST_KEY) != _digest(data):
        raise CheckpointError("its content does not match the digest in its metadata")
    return tensors | {key: json.loads(metadata[key]) for key in (CONFIG_KEY, FLAGS_KEY) if metadata.get(key)}


def _header(data: bytes) -> dict[str, Any]:
    """Parse the JSON header of a .safetensors file: its length in 8 bytes, then the text."""
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length])


def _digest(data: bytes) -> str:
    """Compute the SHA-256 of header and content of a .safetensors file, without the digest itself."""
    header = _header(data)
    header["__metadata__"] = {k: v for k, v in header.get("__metadata__", {}).items() if k != _DIGEST_KEY}
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    digest.update(memoryview(data)[8 + int.from_bytes(data[:8], "little") :])
    return digest.hexdigest()


def _sentence(error: Exception) -> str:
    """Describe what is wrong with a file in one line, without PyTorch's advice to disable the safety check."""
    text = str(error)
    forbidden = re.search(r"GLOBAL (\S+)", text)
    if "weights_only" in text and forbidden:
        return (
            f"it contains {forbidden[1]}, and files that run code when loaded are refused; "
            "save only the state dict with torch.save(model.state_dict(), FILE)"
        )
    if isinstance(error, (CheckpointError, SafetensorError)):
        return text
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    first = text.strip().splitlines()[0][:200] if text.strip() else ""
    return f"it is damaged or has another format ({type(error).__name__}{': ' if first else ''}{first})"


def _signature(path: Path) -> tuple:
    """Return metadata that changes if the file is replaced or rewritten."""
    status = os.stat(path)
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns

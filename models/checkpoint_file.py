"""The one place that reads checkpoint files, with the same checks for training and for use, and that writes weights.

A file is taken only when it is whole: every entry of a .pth archive is compared with its checksum, and a .safetensors
file of ours with the digest in its metadata. Nothing in a file is executed.
"""

import argparse
import hashlib
import json
import os
import re
import zipfile
from pathlib import Path
from typing import IO, Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

CONFIG_KEY = "model_config"  # what the file says of its network; in .safetensors metadata as JSON, as the flags
FLAGS_KEY = "args"  # the flags of the run that wrote the file
AVERAGE = "model_ema"  # the moving average of the weights; "test_weights" names it where it validated better
WRAPPERS = ("model", "module", "state_dict")
PREFIXES = ("module.", "backbone.", "encoder.", "_orig_mod.")
FORMATS = (".pth", ".safetensors")
_DIGEST_KEY = "digest"
_ZIP_MAGIC = b"PK\x03\x04"
_FOLDER_BIT, _ENCRYPTED_BIT = 0x10, 0x1

# The file that `peek_checkpoint` read last, until the reading that takes it: its signature and content.
_peeked: tuple[tuple, dict[str, Any]] | None = None


class CheckpointError(ValueError):
    """A file cannot serve the model; the message names the file, the tensors and what to do."""


def peek_checkpoint(path: str | Path) -> dict[str, Any]:
    """All that a file holds, kept for the `read_checkpoint_file` that follows: a file is opened once.

    The content belongs to that reading: nobody else may change it.

    Raises:
        FileNotFoundError, CheckpointError: as `read_checkpoint_file`.
    """
    global _peeked
    signature = _signature(Path(path)) if Path(path).is_file() else ()
    content = read_checkpoint_file(path)
    _peeked = signature, content
    return content


def read_checkpoint_file(path: str | Path) -> dict[str, Any]:
    """All that a .pth (weights only) or .safetensors file holds, wrappers and all; its flags are a dict of values.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: it is damaged, no checkpoint, or holds objects that run code when they are loaded.
    """
    global _peeked
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"checkpoint {path} does not exist")
    if _peeked is not None and _peeked[0] == _signature(path):
        (_, content), _peeked = _peeked, None
        return content
    try:
        with open(path, "rb") as file:
            return _read_safetensors(file.read()) if path.suffix == ".safetensors" else _read_pickled(file)
    except Exception as error:
        # A damaged file fails in whatever part of the reader meets the damage.
        raise CheckpointError(f"{path} cannot be read as a checkpoint: {_sentence(error)}") from error


def write_weights(
    file: IO[bytes], suffix: str, tensors: dict[str, Tensor], config: dict[str, Any], flags: dict[str, Any]
) -> None:
    """Write a file of weights.

    Args:
        file: open for writing.
        suffix: its format, one of `FORMATS`.
        tensors: by their bare names, contiguous.
        config: what is known of the network, by the fields of `ModelConfig`.
        flags: of the run that trained the weights; may be empty.
    """
    if suffix == ".safetensors":
        metadata = {"format": "pt", CONFIG_KEY: json.dumps(config), FLAGS_KEY: json.dumps(flags, default=str)}
        digest = _digest(safetensors.torch.save(tensors, metadata))
        file.write(safetensors.torch.save(tensors, metadata | {_DIGEST_KEY: digest}))
        return
    torch.save({"model": tensors, CONFIG_KEY: config} | ({FLAGS_KEY: flags} if flags else {}), file)


def unwrap_tensors(content: dict[str, Any], path: str | Path) -> dict[str, Tensor]:
    """The tensors in what `read_checkpoint_file` returned; of our own runs the weights that they tested.

    Raises:
        CheckpointError: there are none.
    """
    state: Any = content
    if content.get("test_weights") == AVERAGE and isinstance(content.get(AVERAGE), dict):
        state = content[AVERAGE]
    while True:
        inner = next((state[key] for key in WRAPPERS if isinstance(state.get(key), dict)), None)
        if inner is None:
            break
        state = inner
    tensors = {k: v for k, v in state.items() if isinstance(v, Tensor)}
    if not tensors:
        raise CheckpointError(f"{path} holds no tensors under any of the wrappers {WRAPPERS}")
    return {bare_name(name): tensor for name, tensor in tensors.items()}


def bare_name(name: str) -> str:
    """Return a tensor's name in the network, without the prefixes of what it is wrapped in."""
    for prefix in PREFIXES:
        if name.startswith(prefix):
            return bare_name(name[len(prefix) :])
    return name


def _read_pickled(file: IO[bytes]) -> dict[str, Any]:
    """A file of torch.save. The flags of the published code are an argparse.Namespace, which runs no code."""
    # Before version 1.6 PyTorch wrote pickles alone, which have no checksums.
    if file.read(len(_ZIP_MAGIC)) == _ZIP_MAGIC or zipfile.is_zipfile(file):
        _check_archive(file)
    file.seek(0)
    with torch.serialization.safe_globals([argparse.Namespace]):
        content = torch.load(file, map_location="cpu", weights_only=True)
    if not isinstance(content, dict):
        return {}
    return {key: vars(value) if isinstance(value, argparse.Namespace) else value for key, value in content.items()}


def _check_archive(file: IO[bytes]) -> None:
    """Raise what says that an archive is not whole: torch.load compares no checksums, so a bit would pass as a weight.

    It also leaves the memory of an entry as it was when the entry is marked as a folder, or has no bytes of its size.
    """
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        if len({entry.filename for entry in entries}) < len(entries):
            raise CheckpointError("an entry of the archive is there twice")
        for entry in entries:
            stored = entry.compress_type == zipfile.ZIP_STORED
            folder = entry.external_attr & _FOLDER_BIT or entry.is_dir()
            if folder or entry.flag_bits & _ENCRYPTED_BIT or (stored and entry.compress_size != entry.file_size):
                raise CheckpointError(f"the archive's entry {entry.filename!r} is no plain file")
        damaged = archive.testzip()
    if damaged is not None:
        raise CheckpointError(f"the checksum of its entry {damaged} is wrong")


def _read_safetensors(data: bytes) -> dict[str, Any]:
    tensors = safetensors.torch.load(data)  # checks the header against the size
    metadata = _header(data).get("__metadata__", {})
    if (CONFIG_KEY in metadata or _DIGEST_KEY in metadata) and metadata.get(_DIGEST_KEY) != _digest(data):
        raise CheckpointError("its content and the digest in its metadata differ")
    return tensors | {key: json.loads(metadata[key]) for key in (CONFIG_KEY, FLAGS_KEY) if metadata.get(key)}


def _header(data: bytes) -> dict[str, Any]:
    """The JSON header of a .safetensors file: its length in 8 bytes, then the text."""
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length])


def _digest(data: bytes) -> str:
    """SHA-256 of all that a .safetensors file says and holds, but for the digest itself."""
    header = _header(data)
    header["__metadata__"] = {k: v for k, v in header.get("__metadata__", {}).items() if k != _DIGEST_KEY}
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    digest.update(memoryview(data)[8 + int.from_bytes(data[:8], "little") :])
    return digest.hexdigest()


def _sentence(error: Exception) -> str:
    """One line that says what is wrong with a file, without PyTorch's advice to switch the safety off."""
    text = str(error)
    forbidden = re.search(r"GLOBAL (\S+)", text)
    if "weights_only" in text and forbidden:
        return (
            f"it holds {forbidden[1]}, and files that run code when they are loaded are refused; "
            "save the state dict alone with torch.save(model.state_dict(), FILE)"
        )
    if isinstance(error, (CheckpointError, SafetensorError)):
        return text
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    first = text.strip().splitlines()[0][:200] if text.strip() else ""
    return f"it is damaged or of another format ({type(error).__name__}{': ' if first else ''}{first})"


def _signature(path: Path) -> tuple:
    """What changes when another file takes the place of `path`, or it is written again."""
    status = os.stat(path)
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns

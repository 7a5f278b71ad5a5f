"""Checks of the files that a command will write, made before the work that would be lost."""

import argparse
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from datasets.detection.annotations import FULL

_INPUT_FLAGS = ("checkpoint", "label_names", "truth", "boxes")
_OPENED_FLAGS = ("json", "csv", "segments")  # opened where they are; other files are replaced when they are complete


def check_output_files(
    args: argparse.Namespace, sources: Iterable[str] = (), **of_sources: Mapping[str, Path]
) -> None:
    """Check that all files that run_inference.py will write can be, are different, and are none of its inputs.

    Args:
        args: Flags of run_inference.py.
        sources: Videos that the given files, folders and lists stand for.
        **of_sources: Files of the flags that write one for each source: flag -> source -> file.

    Raises:
        ValueError: Two flags write the same file or both print, a file is an input, or as `check_writable`.
        PermissionError: As `check_writable`.
    """
    inputs = {os.path.realpath(path): f"the input {path}" for path in (*args.videos, *sources)}
    given = {name: getattr(args, name) for name in _INPUT_FLAGS if getattr(args, name) not in ("", FULL)}
    inputs |= {os.path.realpath(path): f"the file of --{name}" for name, path in given.items()}
    outputs = [
        (name, Path(file)) for name in (*_OPENED_FLAGS, "scores") if (file := getattr(args, name)) not in ("", "-")
    ]
    printed = [f"--{name} -" for name in _OPENED_FLAGS if getattr(args, name) == "-"]
    if len(printed) > 1:
        raise ValueError(f"{' and '.join(printed)} would be printed among each other; name a file for one")
    outputs += [(name, file) for name, files in of_sources.items() for file in files.values()]
    taken: dict[str, str] = {}
    for name, file in outputs:
        place = os.path.realpath(file)
        if place in inputs:
            raise ValueError(f"--{name} {file} would overwrite {inputs[place]}; choose another name")
        if place in taken:
            raise ValueError(f"--{taken[place]} and --{name} would both write {file}; choose another name for one")
        taken[place] = name
        check_writable(f"--{name}", file, in_place=name in _OPENED_FLAGS)


def check_writable(flag: str, file: Path, *, in_place: bool = False) -> None:
    """Check that a file can be written, without creating anything.

    Args:
        flag: Names the file in messages.
        file: The file.
        in_place: An existing file, which may be a device, is opened; otherwise a new one takes its place.

    Raises:
        ValueError: It is a folder, or a folder of its path is none.
        PermissionError: The file or its folder must not be written.
    """
    if os.path.isdir(file):
        raise ValueError(f"{flag} {file} is a folder; name a file")
    if in_place and os.path.exists(file):
        if not os.access(file, os.W_OK):
            raise PermissionError(f"{flag} {file} is write-protected; choose another name")
        return
    # Those in between are created with the file.
    folder = next(parent for parent in file.absolute().parents if os.path.lexists(parent))
    if not os.path.isdir(folder):
        raise ValueError(f"{flag} {file}: {folder} is not a folder; choose another name")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(f"{flag} {file}: the folder {folder} cannot be written; choose another")

"""Files that are equal byte for byte under different paths, such as a clip that is in two splits."""

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterable

from datasets.annotations import resolve_video_path


def find_copies(paths: Iterable[str]) -> dict[str, str]:
    """Find files whose bytes are those of an earlier path. Only files of equal size are read; folders are left out.

    Args:
        paths: As in the lists, in the order that decides which path is the original.

    Returns:
        Path of each copy -> path of the first file with the same bytes.
    """
    by_size: dict[int, list[str]] = defaultdict(list)
    for path in dict.fromkeys(paths):
        file = resolve_video_path(path)
        if os.path.isfile(file) and os.path.getsize(file):
            by_size[os.path.getsize(file)].append(path)
    copies = {}
    for group in by_size.values():
        first: dict[str, str] = {}
        for path in group if len(group) > 1 else ():
            original = first.setdefault(_digest(path), path)
            if original != path:
                copies[path] = original
    return copies


def _digest(path: str) -> str:
    with open(resolve_video_path(path), "rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()

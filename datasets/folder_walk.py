"""Walk through data folders: follow links, visit each folder once and report what is skipped."""

import os
from collections import deque
from collections.abc import Iterator
from pathlib import Path

SYSTEM_NAMES = {"@eadir", "@recycle", "@tmp", "#recycle", "#snapshot", "$recycle.bin"}
SYSTEM_NAMES |= {"__macosx", "__pycache__", "lost+found", "system volume information"}


def walk_folders(root: str | os.PathLike, passed_over: list[str]) -> Iterator[tuple[str, list[str]]]:
    """Walk through a folder recursively, following links after all other folders and visiting each real folder once.

    Hidden files and files created by operating systems are skipped: `.ipynb_checkpoints`, macOS's `._v0.mp4` and
    `__MACOSX`, the `@eaDir` of a network drive.

    Args:
        root: Where to start.
        passed_over: A line with path and reason is appended for each skipped file or folder.

    Yields:
        A folder and the sorted names of the files in it.
    """
    # Links to a parent of the root would lead back to it.
    seen: set[tuple[int, int] | None] = {
        identity for parent in Path(root).resolve().parents if (identity := _identity(parent))
    }
    waiting = deque([os.fspath(root)])

    def refuse(error: OSError) -> None:
        passed_over.append(f"{error.filename}: {error.strerror}")

    while waiting:
        for folder, folders, files in os.walk(waiting.popleft(), onerror=refuse):
            identity = _identity(folder)
            if identity in seen:
                passed_over.append(f"{folder}: a link to a folder that has already been visited")
                folders.clear()
                continue
            seen.add(identity)
            for name in [name for name in (*folders, *files) if is_system_name(name)]:
                passed_over.append(f"{os.path.join(folder, name)}: hidden or a system file")
            kept = [name for name in sorted(folders) if not is_system_name(name)]
            links = [name for name in kept if os.path.islink(os.path.join(folder, name))]
            waiting += [os.path.join(folder, name) for name in links]
            folders[:] = [name for name in kept if name not in links]
            yield folder, [name for name in sorted(files) if not is_system_name(name)]


def is_system_name(name: str) -> bool:
    """Return whether a name is that of a hidden file or folder, or of one created by an operating system."""
    return name.startswith(".") or name.lower() in SYSTEM_NAMES


def _identity(folder: str | os.PathLike) -> tuple[int, int] | None:
    try:
        status = os.stat(folder)
    except OSError:
        return None
    return status.st_dev, status.st_ino

"""The progress bar of everything that runs for long."""

import sys
from collections.abc import Iterable

from tqdm import tqdm


def progress(iterable: Iterable, *, desc: str, total: int | None = None, enabled: bool = True) -> tqdm:
    """Wrap `iterable` in a progress bar; it draws only on a terminal and where `enabled` (rank 0)."""
    return tqdm(
        iterable,
        desc=desc,
        total=total,
        file=getattr(sys.stderr, "stream", sys.stderr),  # unescaped: a bar below another moves the cursor
        disable=not (enabled and sys.stderr.isatty()),
        leave=False,
        dynamic_ncols=True,
    )

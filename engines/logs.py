"""What a run tells: log lines, log.txt, TensorBoard and a progress bar, all from rank 0."""

import json
import logging
import math
import sys
from collections.abc import Iterable
from pathlib import Path

from tqdm import tqdm

_HANDLER = "engines"


def setup_logging(rank: int) -> None:
    """Send log records of this process to standard error: all from rank 0, errors alone from the others.

    A second call replaces the handler of the first and leaves handlers of others alone.
    """
    handler = logging.StreamHandler()
    handler.set_name(_HANDLER)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname).1s %(message)s", "%H:%M:%S"))
    handler.addFilter(lambda record: rank == 0 or record.levelno >= logging.ERROR)
    root = logging.getLogger()
    root.setLevel(logging.INFO)
    for old in [old for old in root.handlers if old.get_name() == _HANDLER]:
        root.removeHandler(old)
    root.addHandler(handler)


def progress(iterable: Iterable, *, desc: str, total: int | None = None, enabled: bool = True) -> tqdm:
    """Wrap `iterable` in a progress bar; it draws only on a terminal and where `enabled` (rank 0)."""
    return tqdm(
        iterable,
        desc=desc,
        total=total,
        disable=not (enabled and sys.stderr.isatty()),
        leave=False,
        dynamic_ncols=True,
    )


class RunLog:
    """Writes log.txt (one JSON object a line) and TensorBoard scalars; silent on other ranks than 0.

    Args:
        output_dir: folder of log.txt; empty for none. Lines are appended, so that a resumed run continues its file.
        log_dir: folder of TensorBoard's files; empty for none.
        enabled: False on every rank but 0.
    """

    def __init__(self, output_dir: str = "", log_dir: str = "", *, enabled: bool = True) -> None:
        self._path = Path(output_dir) / "log.txt" if output_dir and enabled else None
        self._writer = None
        if log_dir and enabled:
            # Imported here: it takes seconds, and most tests and tools never write TensorBoard files.
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(log_dir)

    def scalars(self, prefix: str, values: dict[str, float], step: int) -> None:
        """Send numbers to TensorBoard under `prefix`/name at `step` (an optimiser update or an epoch)."""
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(f"{prefix}/{name}", value, step)

    def epoch(self, record: dict) -> None:
        """Append `record` to log.txt as one line. A number that is not finite is written as null: JSON has no NaN."""
        if self._path is None:
            return
        clean = {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in record.items()
        }
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with open(self._path, "a", encoding="utf-8") as file:
            file.write(json.dumps(clean, allow_nan=False) + "\n")

    def close(self) -> None:
        """Flush and close TensorBoard's files."""
        if self._writer is not None:
            self._writer.close()

"""What a run logs: log lines, log.txt, TensorBoard and a progress bar, all from rank 0."""

import json
import logging
import math
import os
import resource
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torchvision.utils import make_grid

from common.terminal import escape_output
from datasets.collate import clips_on
from datasets.transforms import IMAGENET_MEAN, IMAGENET_STD
from engines.machine import cores_of_process, suited_workers
from engines.trackers import Tracker

_logger = logging.getLogger(__name__)

_HANDLER = "engines"
# Share of the time spent waiting for data above which a warning is logged.
_SLOW_LOADING = 0.1
_MAX_CLIPS, _MAX_FRAMES = 4, 8  # in the image of a batch


def setup_logging(rank: int) -> None:
    """Log to standard error: everything on rank 0, only errors on the other ranks.

    Unprintable characters are escaped, here and in everything else that this process writes to the terminal. A second
    call replaces the handler of the first one; handlers of other code are kept.
    """
    escape_output()
    handler = logging.StreamHandler()
    handler.set_name(_HANDLER)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname).1s %(message)s", "%H:%M:%S"))
    handler.addFilter(lambda record: rank == 0 or record.levelno >= logging.ERROR)
    root = logging.getLogger()
    root.setLevel(logging.INFO)
    for old in [old for old in root.handlers if old.get_name() == _HANDLER]:
        root.removeHandler(old)
    root.addHandler(handler)


def peak_memory(device: torch.device) -> float:
    """Return the peak memory of this process so far in GiB: GPU memory, or resident memory on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def loading_advice(waiting: float, num_workers: int, *, gpu: bool) -> str:
    """Return advice if training spent more than a tenth of its time waiting for data, else an empty string.

    A run on so few cores that the process decodes its own clips does not wait: it reads.

    Args:
        waiting: share of the time, 0 to 1.
        num_workers: dataloader workers of one process.
        gpu: whether the model runs on a GPU.
    """
    suited = suited_workers(cores_of_process(), gpu=gpu)
    if waiting <= _SLOW_LOADING or suited == num_workers == 0:
        return ""
    cheaper = "make videos cheaper to decode (python -m tools.prepare_videos)"
    remedy = (
        f"raise --num_workers to {suited}, or {cheaper}" if num_workers < suited else f"no core is free: {cheaper}"
    )
    return f"training waited for data {waiting:.0%} of the time with --num_workers {num_workers}: {remedy}"


def clip_picture(batch: dict) -> torch.Tensor:
    """Return the first clips of a batch (datasets/collate.py) as an image (3, height, width), 0 to 1, one per row."""
    clips = clips_on("cpu", {name: batch[name][:_MAX_CLIPS] for name in ("clips", "boxes") if name in batch})
    frames = torch.linspace(0, clips.shape[2] - 1, min(clips.shape[2], _MAX_FRAMES)).round().long()
    pictures = clips[:, :, frames].float().transpose(1, 2).flatten(0, 1)
    mean, std = (torch.tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    return make_grid((pictures * std + mean).clamp(0, 1), nrow=len(frames))


class RunLog:
    """Writer of log.txt (one JSON object per line), TensorBoard events and the records of a tracker.

    If TensorBoard's files cannot be written, this is reported once and the run continues without them.

    Args:
        output_dir: folder of log.txt; empty for none. Lines are appended, so that a resumed run continues its file.
        log_dir: folder of the TensorBoard files; empty for none.
        enabled: write anything at all; True on rank 0 only.
        tracker: name of an experiment tracker; empty for none.
        flags: of the run, for the tracker.
    """

    def __init__(
        self,
        output_dir: str = "",
        log_dir: str = "",
        *,
        enabled: bool = True,
        tracker: str = "",
        flags: dict[str, Any] | None = None,
    ) -> None:
        self._path = Path(output_dir) / "log.txt" if output_dir and enabled else None
        self._writer = None
        self._pictured = False
        if self._path is not None:
            repair_lines(self._path)
        if log_dir and enabled:
            self._open_tensorboard(log_dir)
        self._tracker = Tracker(tracker, output_dir, flags or {}) if tracker and enabled else None

    def scalars(self, prefix: str, values: dict[str, float], step: int, *, epoch: int | None = None) -> None:
        """Write scalars as `prefix`/name at an optimizer step; for those of an epoch, TensorBoard counts epochs."""
        with self._tensorboard() as writer:
            for name, value in values.items() if writer else ():
                writer.add_scalar(f"{prefix}/{name}", value, step if epoch is None else epoch)
        if self._tracker is not None:
            self._tracker.log({f"{prefix}/{name}": value for name, value in values.items()}, step)

    def with_picture(self, batches: Iterable[dict], step: int) -> Iterator[dict]:
        """Yield `batches` unchanged, and write the clips of the run's first one to TensorBoard as an image."""
        for batch in batches:
            if not self._pictured and len(batch["clips"]):
                with self._tensorboard() as writer:
                    if writer:
                        writer.add_image("train/clips", clip_picture(batch), step)
                self._pictured = True
            yield batch

    def epoch(self, record: dict) -> None:
        """Append `record` to log.txt as one line, with null for numbers that are not finite."""
        with self._tensorboard() as writer:
            if writer:
                writer.flush()  # its own thread relies on the system clock, which may be set back
        if self._path is None:
            return
        clean = {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in record.items()
        }
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with open(self._path, "a", encoding="utf-8") as file:
            file.write(json.dumps(clean, allow_nan=False) + "\n")
            # Must reach the disk before the checkpoint that counts this epoch as finished.
            file.flush()
            os.fsync(file.fileno())

    def close(self) -> None:
        """Flush and close TensorBoard's files, and finish the tracker's record."""
        if self._tracker is not None:
            self._tracker.close()
        with self._tensorboard() as writer:
            if writer:
                writer.close()
        self._writer = None

    def _open_tensorboard(self, log_dir: str) -> None:
        # Imported here because it takes seconds, and most tests and tools never write TensorBoard files.
        from torch.utils.tensorboard import SummaryWriter

        with self._tensorboard():
            self._writer = SummaryWriter(log_dir)
            threading.excepthook = _without_tensorboard(threading.excepthook)

    @contextmanager
    def _tensorboard(self) -> Iterator[Any]:
        """Yield the writer, or None; after an error, log a warning and stop using it."""
        try:
            yield self._writer
        except OSError as error:
            _logger.warning("TensorBoard files cannot be written (%s): the run continues without them", error)
            self._writer = None


def repair_lines(path: Path) -> None:
    """Repair the last line of a file of JSON lines whose writer was killed.

    A missing line end is added. A truncated line is removed with a warning; its epoch is repeated anyway, because the
    checkpoint is written after the line.
    """
    if not path.is_file():
        return
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    torn = content[whole:]
    if not torn:
        return
    with open(path, "r+b") as file:
        try:
            json.loads(torn)
        except ValueError:
            _logger.warning("%s: removing the last line, which was cut off when its writer was killed", path)
            file.truncate(whole)
        else:
            file.seek(0, os.SEEK_END)
            file.write(b"\n")


def _without_tensorboard(hook):
    """Wrap threading.excepthook to ignore TensorBoard's thread: its error is raised again in the next call."""

    def handle(failure) -> None:
        if not type(failure.thread).__module__.startswith("tensorboard."):
            hook(failure)

    return handle

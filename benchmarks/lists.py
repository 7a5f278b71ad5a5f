"""Measure what a list costs at the start of a run: `python -m benchmarks.lists --lines 1280000`.

Prints the processor seconds of reading it and counting its classes, the memory that the records take, and what a
dataloader worker, a fork of the process, owns after one pass over them: in columns (`datasets/records.py`), and as a
list of objects, whose memory comes on top of the columns'.
"""

import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.flag_parser import FlagParser
from common.flag_types import positive_int
from datasets.annotations import read_list
from datasets.class_labels import count_outputs
from datasets.records import compact

MIB = 1024  # KiB


def main(words: Sequence[str] | None = None) -> int:
    """Print the measurements; returns the exit status."""
    parser = FlagParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lines", type=positive_int, default=240_000, help="of the list (default: %(default)s)")
    lines = parser.parse_args(words).lines
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "train.csv"
        with file.open("w") as writing:
            writing.writelines(f"train/class_{i % 400:03}/{i:09}_000011_000021.mp4 {i % 400}\n" for i in range(lines))
        before, started = memory("Rss"), time.process_time()
        records, _ = read_list(file, data_root="/data")
        count_outputs(records, file)
        seconds = time.process_time() - started
    print(f"{lines} lines: read in {seconds:.2f} CPU-s; a worker owns after one pass:")
    for name, form in (("columns", compact), ("objects", list)):
        kept = form(records)
        total, owned = memory("Rss") - before, owned_by_worker(kept)
        print(f"{name:8} process +{total / MIB:.1f} MiB, worker +{owned / MIB:.1f} MiB")
        before = memory("Rss")
    return 0


def owned_by_worker(records: Sequence[Any]) -> int:
    """Return the private memory, in KiB, that a pass over the records costs a forked process."""
    reading, writing = os.pipe()
    if os.fork() == 0:
        before = memory("Private_Dirty")
        for record in records:
            record.path  # noqa: B018  reading is what is measured
        os.write(writing, str(memory("Private_Dirty") - before).encode())
        os._exit(0)
    os.close(writing)  # or reading would wait for ever for a process that failed
    os.wait()
    return int(os.read(reading, 64))


def memory(entry: str) -> int:
    """Return an entry of the kernel's account of this process's memory, in KiB."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{entry}:"))


if __name__ == "__main__":
    raise SystemExit(main())

"""Read one list and print what that cost, as JSON: `python list_reading.py FILE TASK`.

`benchmarks.lists` starts this file in a process of its own, so that no earlier list has left memory behind, with the
packages of any checkout on the path; it therefore uses only what the compared versions have.
"""

import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets.annotations import read_list
from datasets.class_labels import count_outputs

PROCESS = Path("/proc/self")
RESET_PEAK = "5"  # man 5 proc


def cost_of_reading(file: str, task: Any) -> dict[str, float]:
    """Return processor seconds of reading and counting the classes, and what memory (KiB) that takes.

    `peak` is what the process grew by while reading, `kept` what of it remains, `worker` what a dataloader worker,
    a fork, owns after one pass over the records. `objects_kept` and `objects_worker` are the same of a list of the
    records as objects, which comes on top.
    """
    (PROCESS / "clear_refs").write_text(RESET_PEAK)
    before, started = memory("status", "VmRSS"), time.process_time()
    records, _ = read_list(file, data_root="/data", task=task)
    count_outputs(records, file, task)
    cost = {"seconds": time.process_time() - started, "peak": memory("status", "VmHWM") - before}
    after = memory("status", "VmRSS")
    cost |= {"kept": after - before, "worker": owned_by_worker(records)}
    objects = list(records)
    return cost | {"objects_kept": memory("status", "VmRSS") - after, "objects_worker": owned_by_worker(objects)}


def owned_by_worker(records: Sequence[Any]) -> int:
    """Return the private memory, in KiB, that a pass over the records costs a forked process."""
    reading, writing = os.pipe()
    if os.fork() == 0:
        before = memory("smaps_rollup", "Private_Dirty")
        for record in records:
            record.path  # noqa: B018  reading is what is measured
        os.write(writing, str(memory("smaps_rollup", "Private_Dirty") - before).encode())
        os._exit(0)
    os.close(writing)  # or reading would wait for ever for a process that failed
    os.wait()
    return int(os.read(reading, 64))


def memory(account: str, entry: str) -> int:
    """Return an entry of one of the kernel's accounts of this process's memory, in KiB."""
    lines = (PROCESS / account).read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{entry}:"))


if __name__ == "__main__":
    print(json.dumps(cost_of_reading(*sys.argv[1:])))

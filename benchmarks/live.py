"""Latency and memory of `run_inference.py --live` over minutes, fed over UDP on this machine.

    python -m benchmarks.live --checkpoint FILE [--minutes 10] [--size 320 240] [--rate 25] [--stall 20]

A transport stream is sent to a `run_inference.py --live` in a process of its own, with one interruption in the middle.
Printed are the latencies of the windows, the frames dropped, and the memory of the process over time (Linux).
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np

from common.flag_parser import FlagParser
from common.flag_types import non_negative, positive, positive_int
from common.terminal import escape_output

PICTURES = 100  # after which the movie repeats
STEP = 5.0  # seconds between two readings of the memory
GRACE = 60.0  # seconds for the start of the process


def main() -> None:
    """Run the benchmark."""
    escape_output()
    parser = FlagParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True, metavar="FILE")
    parser.add_argument("--minutes", type=positive, default=10.0)
    parser.add_argument("--size", type=positive_int, nargs=2, default=(320, 240), metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--rate", type=positive_int, default=25, help="frames a second (default: %(default)s)")
    parser.add_argument(
        "--stall", type=non_negative, default=20.0, metavar="SECONDS", help="length of the interruption"
    )
    parser.add_argument("--port", type=positive_int, default=23000)
    args = parser.parse_args()
    address = f"udp://127.0.0.1:{args.port}"
    sender = threading.Thread(target=send, args=(address, args), daemon=True)
    command = [sys.executable, "run_inference.py", "--live", address, "--checkpoint", args.checkpoint]
    with tempfile.NamedTemporaryFile("r") as lines:
        process = subprocess.Popen([*command, "--json", lines.name], stderr=subprocess.PIPE, text=True)
        sender.start()
        memory = list(watch(process, Path(lines.name), args.minutes * 60))
        process.terminate()
        _, said = process.communicate(timeout=GRACE)
        records = [json.loads(line) for line in lines]
    print(said.strip())
    latencies = np.array([record["latency"] for record in records])
    print(
        f"{len(records)} windows; latency in seconds: median {np.median(latencies):.3f}, "
        f"95 % {np.quantile(latencies, 0.95):.3f}, longest {latencies.max():.3f}; exit status {process.returncode}"
    )
    for place in np.linspace(0, len(memory) - 1, 11).astype(int):
        seconds, mebibytes = memory[place]
        print(f"after {seconds / 60:5.1f} minutes: {mebibytes:7.1f} MiB resident")


def send(address: str, args: argparse.Namespace) -> None:
    """Send a movie in real time until the process ends, with an interruption of `args.stall` seconds half-way."""
    width, height = args.size
    column = np.linspace(0, 255, width)
    pictures = [
        np.broadcast_to(np.roll(column, 7 * i)[None, :, None], (height, width, 3)).astype(np.uint8)
        for i in range(PICTURES)
    ]
    with av.open(f"{address}?pkt_size=1316", "w", format="mpegts") as target:
        stream = target.add_stream("libx264", rate=args.rate)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {"preset": "ultrafast", "tune": "zerolatency", "g": str(args.rate)}
        began, stalled, number = time.monotonic(), False, 0
        while True:
            frame = av.VideoFrame.from_ndarray(pictures[number % PICTURES], format="rgb24")
            target.mux(stream.encode(frame))
            number += 1
            if not stalled and time.monotonic() - began > args.minutes * 30:
                time.sleep(args.stall)
                began, stalled = began + args.stall, True
            time.sleep(max(0.0, began + number / args.rate - time.monotonic()))


def watch(process: subprocess.Popen, lines: Path, seconds: float) -> Iterator[tuple[float, float]]:
    """Yield the time since the first line and the resident memory in MiB, every `STEP` seconds, for `seconds`."""
    waited = time.monotonic()
    while not lines.stat().st_size:
        if process.poll() is not None or time.monotonic() - waited > GRACE:
            process.kill()
            sys.exit(f"no line was written: {process.communicate()[1]}")
        time.sleep(0.1)
    began = time.monotonic()
    while (passed := time.monotonic() - began) < seconds:
        status = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii")
        yield passed, int(status.partition("VmRSS:")[2].split()[0]) / 1024
        time.sleep(STEP)


if __name__ == "__main__":
    main()

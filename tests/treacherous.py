"""A stand-in for a reader, in a file of its own that the guard's helper can import in a moment."""

import os
import signal
import time
from pathlib import Path

import numpy as np
from video_files import numbered_frames


class Treacherous:
    """A video of 20 frames, unless its path says what becomes of who reads it."""

    def __init__(self, path):
        self.path = path
        self.fail_where("open")

    def __len__(self):
        self.fail_where("count")
        return 20

    def fail_where(self, action):
        if f"fails to {action}" in self.path:
            raise ZeroDivisionError("a fault of ours")

    def read(self, indices):
        self.fail_where("read")
        if "aborts" in self.path:
            os.abort()
        if "exits" in self.path:
            os._exit(3)
        if "hangs" in self.path:
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT, signal.SIGTERM])
            while True:
                pass
        if "naps" in self.path:
            time.sleep(0.8)
        if "stalls" in self.path:
            # as many times as there are letters in the file
            times = Path(self.path).read_text()
            Path(self.path).write_text(times[1:])
            time.sleep(600 if times else 0)
        if "large" in self.path:
            return np.ones((len(indices), 2160, 3840, 3), np.uint8)
        return numbered_frames(20, 32, 48)[np.asarray(indices)]

"""A stand-in for a reader, in a file of its own that the guard's helper can import in a moment."""

import os
import signal

import numpy as np
from video_files import numbered_frames


class Treacherous:
    """A video of 20 frames, unless its path says what becomes of who reads it."""

    def __init__(self, path):
        self.path = path

    def __len__(self):
        return 20

    def read(self, indices):
        if "aborts" in self.path:
            os.abort()
        if "exits" in self.path:
            os._exit(3)
        if "hangs" in self.path:
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT, signal.SIGTERM])
            while True:
                pass
        if "fails" in self.path:
            raise ZeroDivisionError("a fault of ours")
        return numbered_frames(20, 32, 48)[np.asarray(indices)]

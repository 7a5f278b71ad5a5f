"""Windows over long videos: one rule for training, test and inference.

The rule is VideoMamba's for LVU: windows start at 0, stride, 2 strides, ... below the whole seconds of the video; each
is `window` long, except for the last ones, which end with the video and are kept if they are at least half as long. A
video shorter than a window is a single one.
"""

import math


def cut(duration: float, window: float, stride: float) -> list[tuple[float, float]]:
    """Cut a video into windows.

    Args:
        duration: Length of the video, in the unit of the result (seconds or frames).
        window: Length of a window; 0 for the whole video.
        stride: Distance between the starts of windows.

    Returns:
        Start and end of each window, in order; there is always one that starts at 0.

    Raises:
        ValueError: The duration or the stride is not positive, or the window is negative.
    """
    if duration <= 0 or window < 0 or (window and stride <= 0):
        raise ValueError(f"cannot cut {duration:g} into windows of {window:g}, {stride:g} apart")
    if not window or duration < window:
        return [(0, duration)]
    count = max(1, math.ceil(int(duration) / stride))
    windows = [(stride * i, min(stride * i + window, duration)) for i in range(count)]
    return [(start, end) for start, end in windows if end - start >= window / 2]

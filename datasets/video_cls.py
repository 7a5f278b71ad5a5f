"""Classification of video files: lists of `path label`."""

from collections.abc import Callable, Sequence
from functools import partial

from datasets.annotations import VideoRecord
from datasets.clip_dataset import ClipDataset, ClipPlan
from datasets.readers import VideoFile


class VideoClsDataset(ClipDataset):
    """Clips of video files, decoded by the library that `reader` names."""

    def __init__(self, records: Sequence[VideoRecord], plan: ClipPlan, *, reader: str = "pyav", **shared):
        """Keep the records and how they are decoded; `shared` are the arguments of `ClipDataset`."""
        super().__init__(records, plan, **shared)
        self.reader = reader

    def opener(self, record: VideoRecord) -> Callable[[], VideoFile]:
        """Give what opens the video file."""
        return partial(VideoFile, record.path, self.reader)

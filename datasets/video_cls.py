"""Classification of video files: lists of `path label`."""

from collections.abc import Callable, Sequence
from functools import partial

from datasets.annotations import VideoRecord
from datasets.clip_dataset import ClipDataset, ClipPlan
from datasets.readers import FrameReader, VideoFile, open_part


class VideoClsDataset(ClipDataset):
    """Clips of video files.

    Args:
        records: As in `ClipDataset`.
        plan: As in `ClipDataset`.
        reader: Library that decodes, one of `datasets.readers.DECODERS`.
        shared: Further arguments of `ClipDataset`.
    """

    def __init__(self, records: Sequence[VideoRecord], plan: ClipPlan, *, reader: str = "pyav", **shared):
        super().__init__(records, plan, **shared)
        self.reader = reader

    def opener(self, record: VideoRecord) -> Callable[[], FrameReader]:
        """Return a function that opens the video file, or a segment of it."""
        return open_part(partial(VideoFile, record.path, self.reader), record.segment)

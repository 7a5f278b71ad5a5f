"""Classification of video files: lists of `path label`."""

from datasets.annotations import VideoRecord
from datasets.clip_dataset import ClipDataset
from datasets.readers import VideoFile


class VideoClsDataset(ClipDataset):
    """Clips of video files, decoded by decord."""

    def open_record(self, record: VideoRecord) -> VideoFile:
        """Open the video file."""
        return VideoFile(record.path)

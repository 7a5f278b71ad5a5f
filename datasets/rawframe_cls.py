"""Classification of videos that lie as folders of frames: lists of `folder total_frames label`."""

from collections.abc import Sequence

from datasets.annotations import FrameFolderRecord
from datasets.clip_dataset import ClipDataset, ClipPlan
from datasets.readers import FrameFolder


class RawFrameClsDataset(ClipDataset):
    """Clips of frame folders; `filename_tmpl` names frame 1, 2, ... of a folder."""

    def __init__(
        self,
        records: Sequence[FrameFolderRecord],
        plan: ClipPlan,
        *,
        num_classes: int,
        list_file: str,
        filename_tmpl: str = "img_{:05}.jpg",
    ):
        """Keep the records and the names of their frames."""
        super().__init__(records, plan, num_classes=num_classes, list_file=list_file)
        self.filename_tmpl = filename_tmpl

    def open_record(self, record: FrameFolderRecord) -> FrameFolder:
        """Name the folder; its frames are opened when they are read."""
        return FrameFolder(record.path, record.total_frames, self.filename_tmpl)

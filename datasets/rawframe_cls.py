"""Classification of videos that lie as folders of frames: lists of `folder total_frames label`."""

from collections.abc import Callable, Sequence
from functools import partial

from datasets.annotations import FrameFolderRecord
from datasets.clip_dataset import ClipDataset, ClipPlan
from datasets.readers import FrameFolder


class RawFrameClsDataset(ClipDataset):
    """Clips of frame folders, whose frames `filename_tmpl` names from number `first_frame` on."""

    def __init__(
        self,
        records: Sequence[FrameFolderRecord],
        plan: ClipPlan,
        *,
        filename_tmpl: str = "img_{:05}.jpg",
        first_frame: int = 1,
        **shared,
    ):
        """Keep the records and the names of their frames; `shared` are the arguments of `ClipDataset`."""
        super().__init__(records, plan, **shared)
        self.filename_tmpl, self.first_frame = filename_tmpl, first_frame

    def opener(self, record: FrameFolderRecord) -> Callable[[], FrameFolder]:
        """Give what names the folder; its frames are opened when they are read."""
        return partial(FrameFolder, record.path, record.total_frames, self.filename_tmpl, self.first_frame)

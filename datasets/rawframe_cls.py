"""Classification of videos stored as folders of frames: lists of `folder total_frames label`."""

from collections.abc import Callable, Sequence
from functools import partial

from datasets.annotations import FrameFolderRecord
from datasets.clip_dataset import ClipDataset, ClipPlan
from datasets.readers import FrameFolder, FrameReader, open_part


class RawFrameClsDataset(ClipDataset):
    """Clips of frame folders.

    Args:
        records: As in `ClipDataset`.
        plan: As in `ClipDataset`.
        filename_tmpl: Template of the frames' file names.
        first_frame: Number of the first frame.
        shared: Further arguments of `ClipDataset`.
    """

    def __init__(
        self,
        records: Sequence[FrameFolderRecord],
        plan: ClipPlan,
        *,
        filename_tmpl: str = "img_{:05}.jpg",
        first_frame: int = 1,
        **shared,
    ):
        super().__init__(records, plan, **shared)
        self.filename_tmpl, self.first_frame = filename_tmpl, first_frame

    def opener(self, record: FrameFolderRecord) -> Callable[[], FrameReader]:
        """Return a function that opens the folder, or a segment of it; its frames are opened when they are read."""
        folder = partial(FrameFolder, record.path, record.total_frames, self.filename_tmpl, self.first_frame)
        return open_part(folder, record.segment)

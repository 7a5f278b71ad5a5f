"""Image classification: lists of `path label` or `folder total_frames label`, read as videos of one frame."""

from collections.abc import Callable
from functools import partial

from datasets.annotations import FrameFolderRecord, is_single_image
from datasets.rawframe_cls import RawFrameClsDataset
from datasets.readers import FrameReader, ImageFile


class ImageListDataset(RawFrameClsDataset):
    """Images as clips of one frame; from a folder of frames, one frame is used."""

    def opener(self, record: FrameFolderRecord) -> Callable[[], FrameReader]:
        """Return a function that opens the image file or the folder."""
        if is_single_image(record):
            return partial(ImageFile, record.path)
        return super().opener(record)

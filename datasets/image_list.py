"""Classification of images: lists of `path label` or `folder total_frames label`, read as videos of one frame."""

from datasets.annotations import FrameFolderRecord, is_image_path
from datasets.rawframe_cls import RawFrameClsDataset
from datasets.readers import FrameFolder, ImageFile


class ImageListDataset(RawFrameClsDataset):
    """Images, each a clip of one frame; of a folder, one of its frames is taken."""

    def open_record(self, record: FrameFolderRecord) -> ImageFile | FrameFolder:
        """Name the image file, or the folder."""
        if record.total_frames == 1 and is_image_path(record.path):
            return ImageFile(record.path)
        return super().open_record(record)

"""Entry of the generated processor file: videos to clips, as the tests of this repository read them."""

from typing import Any

import numpy as np
import torch
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as tvf
from transformers import BatchFeature
from transformers.image_utils import PILImageResampling, pil_torch_interpolation_mapping
from transformers.processing_utils import VideosKwargs
from transformers.video_processing_utils import BaseVideoProcessor
from transformers.video_utils import VideoMetadata

from datasets.sampling import SAMPLERS

try:  # reads files; arrays of frames need no decoder
    import av
except ImportError:
    av = None


class VideoMambaProVideosKwargs(VideosKwargs, total=False):
    """Settings of the processor beside the usual ones."""

    sampling: str | None
    sampling_rate: int | None
    segments: int | None
    crops: int | None
    antialias: bool | None


class VideoMambaProVideoProcessor(BaseVideoProcessor):
    """Reads frames, resizes them to the smallest frame that contains a crop, takes crops and normalises.

    The result, `pixel_values_videos`, is float32 (batch, frames, channels, height, width), or with more than one view
    (batch, segments x crops, frames, channels, height, width).

    Attributes:
        sampling: How the frames of a clip are chosen: dense, sparse or uniform.
        sampling_rate: Step between the frames of dense sampling.
        segments: Clips over time.
        crops: Crops of each clip along the longer side.
        num_frames: Frames of a clip.
        size: Height and width of a crop.
        resample: Interpolation of the resizing, as in PIL.
        antialias: Of the resizing.
    """

    valid_kwargs = VideoMambaProVideosKwargs
    model_input_names = ["pixel_values_videos"]
    sampling = "dense"
    sampling_rate = 4
    segments = 1
    crops = 1
    num_frames = 8
    size = {"height": 224, "width": 224}
    resample = PILImageResampling.BILINEAR
    antialias = False
    image_mean = [0.485, 0.456, 0.406]
    image_std = [0.229, 0.224, 0.225]
    rescale_factor = 1 / 255
    do_resize = do_rescale = do_normalize = do_convert_rgb = do_sample_frames = True

    def sample_frames(self, metadata: VideoMetadata, num_frames: int | None = None, **settings: Any) -> np.ndarray:
        """Return the numbers of the frames of all segments, one segment after the other."""
        name, segments = settings["sampling"], settings["segments"]
        more = {"sampling_rate": settings["sampling_rate"]} if name == "dense" else {}
        total, length = metadata.total_num_frames, num_frames or self.num_frames
        numbers = [
            SAMPLERS[name](total, length, mode="test", segment=segment, num_segments=segments, **more)
            for segment in range(segments)
        ]
        return np.concatenate(numbers)

    def fetch_videos(self, video_url_or_urls: Any, sample_indices_fn: Any = None) -> Any:
        """Decode the frames that `sample_indices_fn` chooses, repeated ones too, with PyAV, upright as players do."""
        if isinstance(video_url_or_urls, list):
            return list(zip(*[self.fetch_videos(one, sample_indices_fn) for one in video_url_or_urls], strict=True))
        if av is None:
            raise ImportError("reading video files needs PyAV: pip install av")
        total = count_frames(video_url_or_urls)
        with av.open(video_url_or_urls) as container:
            stream = container.streams.video[0]
            rate = float(stream.average_rate) if stream.average_rate else None
            metadata = VideoMetadata(total_num_frames=total, fps=rate, width=stream.width, height=stream.height)
            numbers = np.arange(total) if sample_indices_fn is None else sample_indices_fn(metadata=metadata)
            wanted, frames = set(numbers.tolist()), {}
            for number, frame in enumerate(container.decode(stream)):
                if number in wanted:
                    frames[number] = np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90))
                if len(frames) == len(wanted):
                    break
        if len(frames) < len(wanted):
            raise ValueError(f"{video_url_or_urls}: frame {min(wanted - frames.keys())} of {total} cannot be decoded")
        metadata.frames_indices, metadata.video_backend = numbers, "pyav"
        return np.stack([frames[number] for number in numbers.tolist()]), metadata

    def _preprocess(
        self,
        videos: list[torch.Tensor],
        size: Any,
        resample: Any,
        image_mean: Any,
        image_std: Any,
        return_tensors: Any = None,
        segments: int = 1,
        crops: int = 1,
        do_sample_frames: bool = True,
        **settings: Any,
    ) -> BatchFeature:
        """Make clips of sampled frames, uint8 (segments x frames, channels, height, width) of each video."""
        std = torch.tensor(image_std)[:, None, None]
        scale, shift = 1 / (255 * std), -torch.tensor(image_mean)[:, None, None] / std
        mode = resample if isinstance(resample, InterpolationMode) else pil_torch_interpolation_mapping[resample]
        batch = []
        for frames in videos:
            shape = (size.height, size.width)
            resized = resize_to_cover(frames, shape, mode, settings["antialias"])
            views = torch.stack(sliding_crops(resized, shape, crops))  # (crops, segments x frames, channels, ...)
            clips = views.unflatten(1, (segments, -1)).transpose(0, 1).flatten(0, 1).float()
            clips = clips * scale.to(clips.device) + shift.to(clips.device)
            batch.append(clips if len(clips) > 1 else clips[0])
        return BatchFeature(data={"pixel_values_videos": torch.stack(batch)}, tensor_type=return_tensors)


def count_frames(video: str) -> int:
    """Count the frames of a file by its packets, without those that players skip."""
    with av.open(video) as container:
        return sum(packet.size > 0 and not packet.is_discard for packet in container.demux(container.streams.video[0]))


def resize_to_cover(
    frames: torch.Tensor, size: tuple[int, int], mode: InterpolationMode, antialias: bool
) -> torch.Tensor:
    """Resize frames (..., height, width) to the smallest ones that contain a crop of `size`."""
    (height, width), (new_height, new_width) = frames.shape[-2:], size
    if height * new_width < width * new_height:
        new_width = int(new_height * width / height)
    else:
        new_height = int(new_width * height / width)
    if (new_height, new_width) == (height, width):
        return frames
    return tvf.resize(frames, [new_height, new_width], mode, antialias=antialias)


def sliding_crops(frames: torch.Tensor, size: tuple[int, int], count: int) -> list[torch.Tensor]:
    """Crop frames (..., height, width) along the side that has more, from start to end; one crop is in the middle."""
    below, beside = frames.shape[-2] - size[0], frames.shape[-1] - size[1]
    axis, spare, length = (-2, below, size[0]) if below >= beside else (-1, beside, size[1])
    starts = [spare // 2] if count == 1 else [int(j * (spare / (count - 1))) for j in range(count)]
    return [frames.narrow(axis, start, length) for start in starts]

"""Windows over long videos: where they lie, that each is the video cut out, and the curve between them."""

import numpy as np
import pytest
from inference_files import moving_frames, save_checkpoint

from inference.defaults import QUICK
from inference.predictor import load_predictor
from inference.sources import FramesInMemory
from inference.timeline import follow
from inference.windows import Curve, window_starts


@pytest.mark.parametrize("total", [1, 7, 8, 9, 30, 100])
@pytest.mark.parametrize(("window", "stride"), [(8, 1), (8, 3), (8, 8), (5, 11)])
def test_windows_begin_and_end_with_the_video(total, window, stride):
    starts = window_starts(total, window, stride)
    assert starts[0] == 0
    if total <= window:
        assert len(starts) == 1
        return
    assert starts[-1] + window == total
    steps = np.diff(starts)
    assert (steps[:-1] == stride).all() and 0 < steps[-1] <= stride


@pytest.mark.parametrize("numbers", [(0, 8, 1), (10, 0, 1), (10, 8, 0), (10, -3, 1)])
def test_numbers_below_one_are_refused(numbers):
    with pytest.raises(ValueError, match="at least 1"):
        window_starts(*numbers)


class CountingReader(FramesInMemory):
    """Notes the most frames that were asked for at once."""

    most = 0

    def read(self, indices):
        self.most = max(self.most, len(np.unique(indices)))
        return super().read(indices)


@pytest.fixture(scope="module")
def predictor(tmp_path_factory):
    return load_predictor(save_checkpoint(tmp_path_factory.mktemp("w") / "c.pth"), device="cpu", **QUICK)


@pytest.mark.parametrize(("window", "stride"), [(0, 0), (8, 5), (12, 7)])
def test_each_window_is_predicted_as_the_video_cut_out(predictor, window, stride):
    frames = moving_frames(30)
    curve = follow(predictor, FramesInMemory(frames), window=window, stride=stride).curve
    assert curve.window == (window or 8) and curve.total_frames == 30
    for start, row in zip(curve.starts, curve.probabilities, strict=True):
        alone = predictor.predict(frames[start : start + curve.window])
        np.testing.assert_allclose(row, alone.probabilities, atol=1e-5)
    assert np.ptp(curve.probabilities, axis=0).max() > 0.01, "the curve must move for this to show anything"


def test_long_videos_are_read_in_parts(predictor):
    reader = CountingReader(np.zeros((2000, 8, 8, 3), dtype=np.uint8))
    curve = follow(predictor, reader, stride=20).curve
    assert len(curve.starts) == 101 and reader.most <= 64


def test_a_video_shorter_than_a_window_is_one_window(predictor):
    curve = follow(predictor, FramesInMemory(moving_frames(3))).curve
    assert curve.starts.tolist() == [0] and curve.window == 3
    assert np.isfinite(curve.probabilities).all()


def curve_of(rows, starts, window=4):
    rows = np.array(rows, dtype=np.float32)
    return Curve(starts[-1] + window, window, np.array(starts), rows, tuple("abc"[: rows.shape[1]]))


def test_between_centres_the_curve_is_linear_and_level_outside():
    curve = curve_of([[1, 0], [0, 1]], [0, 10])
    assert curve.centres.tolist() == [1.5, 11.5]
    got = curve.at(np.array([0, 1.5, 4, 6.5, 11.5, 13]))[:, 0]
    np.testing.assert_allclose(got, [1, 1, 0.75, 0.5, 0, 0])
    np.testing.assert_allclose(curve_of([[0.3, 0.7]], [0]).at(np.arange(4)), [[0.3, 0.7]] * 4, rtol=1e-6)


def test_leading_classes_are_those_of_the_highest_peaks():
    curve = curve_of([[0.5, 0.1, 0.4], [0.0, 0.9, 0.1]], [0, 4])
    assert curve.leading(2) == [1, 0]
    first, last, top = curve.tops(1)[1]
    assert (first, last, top[0].name) == (4, 7, "b")

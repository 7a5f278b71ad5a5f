"""Segments of a curve: thresholds, smoothing, durations, borders."""

from fractions import Fraction

import numpy as np
import pytest

from inference.segments import SegmentSettings, find_segments, smooth
from inference.windows import Curve

RAW = SegmentSettings(smooth=0, shortest=0)


def curve_of(rows, *, window=8, stride=2, rate=None):
    """A curve with rows at windows `stride` frames apart."""
    rows = np.array(rows, dtype=np.float32)
    starts = stride * np.arange(len(rows))
    return Curve(int(starts[-1]) + window, window, starts, rows, tuple("abcdefgh"[: rows.shape[1]]), rate)


def found(curve, settings=RAW):
    return [(segment.label, segment.start, segment.end) for segment in find_segments(curve, settings)]


def two_classes(borders, total=100):
    """The curve of a perfect model: each window has the share of its frames in which class 1, not 0, is shown."""
    truth = np.zeros(total)
    for start, end in borders:
        truth[start:end] = 1
    share = np.convolve(truth, np.ones(8) / 8, mode="valid")[::2]
    return curve_of(np.stack([1 - share, share], axis=1))


def test_borders_lie_where_the_class_changes():
    got = found(two_classes([(30, 60)]))
    assert [label for label, *_ in got] == [0, 1, 0]
    np.testing.assert_allclose([(start, end) for _, start, end in got], [(0, 30), (30, 60), (60, 100)], atol=1)
    assert got[0][2] == got[1][1] and got[1][2] == got[2][1], "neighbours leave no gap"


def test_hysteresis_needs_a_high_moment_and_extends_to_the_low_threshold():
    heights = [0.1, 0.35, 0.6, 0.35, 0.35, 0.1, 0.35, 0.45, 0.35, 0.1]
    curve = curve_of([[0.09, height, *[(0.91 - height) / 6] * 6] for height in heights], window=1, stride=1)
    assert found(curve) == [(1, 1, 5)], "the second hump never reaches the upper threshold"
    assert found(curve, SegmentSettings(0.4, 0.3, 0, 0)) == [(1, 1, 5), (1, 6, 9)]
    assert found(curve, SegmentSettings(0.5, 0.5, 0, 0)) == [(1, 2, 3)]
    assert found(curve, SegmentSettings(0.7, 0.3, 0, 0)) == []


def test_a_threshold_above_which_it_leaves_is_refused():
    with pytest.raises(ValueError, match="enter at 0.3 and leave at 0.5"):
        SegmentSettings(0.3, 0.5)


def test_short_segments_are_left_out_and_the_gap_is_closed():
    curve = two_classes([(20, 50), (54, 80)])
    assert [label for label, *_ in found(curve)] == [0, 1, 0, 1, 0]
    assert [label for label, *_ in found(curve, SegmentSettings(smooth=0, shortest=6))] == [0, 1, 0]
    assert [label for label, *_ in found(curve, SegmentSettings(smooth=0, shortest=25))] == [1]
    assert find_segments(curve, SegmentSettings(smooth=0, shortest=1000)) == []


def test_smoothing_removes_a_spike_and_keeps_the_border():
    rows = np.array([[1.0, 0.0]] * 10 + [[0.0, 1.0]] * 10)
    rows[4] = [0, 1]
    curve = curve_of(rows)
    assert [label for label, *_ in found(curve)] == [0, 1, 0, 1]
    smoothed = found(curve, SegmentSettings(smooth=6, shortest=0))
    assert [label for label, *_ in smoothed] == [0, 1]
    assert abs(smoothed[1][1] - found(curve)[3][1]) <= 1


def test_smoothing_is_the_mean_of_the_windows_around():
    rng = np.random.default_rng(0)
    starts = np.array([0, 2, 4, 6, 8, 9])
    rows = rng.dirichlet(np.ones(3), 6).astype(np.float32)
    curve = Curve(17, 8, starts, rows, tuple("abc"))
    expected = [rows[np.abs(starts - start) <= 2].mean(0) for start in starts]
    np.testing.assert_allclose(smooth(curve, 4).probabilities, expected, rtol=1e-5)
    np.testing.assert_array_equal(smooth(curve, 0).probabilities, rows)


def test_segments_do_not_overlap_and_carry_the_mean_probability():
    rng = np.random.default_rng(1)
    rows = rng.dirichlet(np.full(4, 0.3), 3000)
    curve = curve_of(rows, rate=Fraction(25))
    segments = find_segments(curve, SegmentSettings(0.5, 0.3, 0.1, 0.2))
    assert len(segments) > 100
    times = np.array([(segment.start, segment.end) for segment in segments])
    assert (times[1:, 0] >= times[:-1, 1]).all() and (times[:, 1] - times[:, 0] >= 0.2 - 1e-9).all()
    assert times.max() <= curve.total_frames / 25
    smoothed = smooth(curve, 2.5)
    for segment in segments[:20]:
        frames = np.arange(round(25 * segment.start), round(25 * segment.end))
        assert segment.confidence == pytest.approx(smoothed.at(frames)[:, segment.label].mean(), abs=1e-6)


def test_a_video_of_one_window_is_one_segment_or_none():
    assert found(curve_of([[0.7, 0.3]])) == [(0, 0, 8)]
    assert found(curve_of([[0.4, 0.3, 0.3]])) == []


def test_durations_are_in_seconds_where_the_rate_is_known():
    curve = curve_of([[1, 0]] * 10 + [[0, 1]] * 3 + [[1, 0]] * 10, rate=Fraction(10))
    assert [label for label, *_ in found(curve)] == [0, 1, 0]
    assert [label for label, *_ in found(curve, SegmentSettings(smooth=0, shortest=0.5))] == [0, 1, 0]
    assert found(curve, SegmentSettings(smooth=0, shortest=0.7)) == [(0, 0, 5.2)]


def test_classes_of_a_model_of_several_are_followed_on_their_own():
    rows = np.full((20, 3), 0.05)
    rows[2:10, 0], rows[6:16, 1] = 0.9, 0.7
    curve = curve_of(rows, window=1, stride=1)
    assert [(s.label, s.start, s.end) for s in find_segments(curve, RAW, several=True)] == [(0, 2, 10), (1, 6, 16)]
    assert found(curve) == [(0, 2, 10), (1, 10, 16)]

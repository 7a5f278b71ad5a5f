"""Scores of segments: cases by hand, and a second writing of the definitions on labels of frames."""

import json

import numpy as np
import pytest

from datasets.labelled_segments import LabelledSegment
from reports.segment_scores import (
    SegmentError,
    agreement,
    count_matches,
    edit_score,
    score_segments,
)
from tools.compare_segments import main


def segments(*rows):
    return [LabelledSegment(float(start), float(end), label) for start, end, label in rows]


TRUTH = segments((0, 10, 1), (10, 20, 2), (30, 40, 1))


@pytest.mark.parametrize(
    ("predicted", "overlap", "counts"),
    [
        (TRUTH, 0.5, (3, 0, 0)),
        ([], 0.5, (0, 0, 3)),
        (segments((0, 5, 1)), 0.5, (1, 0, 2)),  # 5 of 10
        (segments((0, 4.9, 1)), 0.5, (0, 1, 3)),
        (segments((0, 5, 1), (5, 10, 1.0)), 0.5, (1, 1, 2)),  # the second half meets a segment that is taken
        (segments((0, 10, 2)), 0.1, (0, 1, 3)),  # another class
        (segments((5, 15, 2)), 0.25, (1, 0, 2)),  # 5 of 15
        (segments((5, 15, 2)), 0.5, (0, 1, 3)),
        (segments((8, 34, 1)), 0.1, (1, 0, 2)),  # 2 of 34 with the first, 4 of 32 with the last
        (segments((22, 28, 1)), 0.1, (0, 1, 3)),
    ],
)
def test_matches_by_hand(predicted, overlap, counts):
    assert count_matches(TRUTH, predicted, overlap) == counts


@pytest.mark.parametrize(
    ("truth", "predicted", "score"),
    [
        ([1, 2, 3], [1, 2, 3], 100),
        ([1, 2, 3], [1, 3], 100 * 2 / 3),
        ([1, 2], [2, 1, 2, 1], 50),
        ([1, 2, 3], [4, 5, 6], 0),
        ([1], [], 0),
        ([], [], 100),
    ],
)
def test_edit_score_by_hand(truth, predicted, score):
    assert edit_score(truth, predicted) == pytest.approx(score)


def test_frame_accuracy_by_hand():
    assert agreement(TRUTH, TRUTH, 40) == 40
    assert agreement(TRUTH, [], 40) == 10, "time without a segment is right where there is none"
    assert agreement(TRUTH, segments((0, 12.5, 1), (12.5, 50, 2)), 40) == pytest.approx(10 + 7.5)


def test_scores_of_two_videos_by_hand():
    truth = {"a": TRUTH, "b": segments((0, 60, 3))}
    scores = score_segments(truth, {"a": segments((0, 10, 1), (10, 14, 2), (30, 40, 3))})
    # at 10 and 25 %: 2 right, 1 wrong, 2 missed; at 50 % the second is wrong too
    assert scores.f1 == {0.10: pytest.approx(400 / 7), 0.25: pytest.approx(400 / 7), 0.50: pytest.approx(200 / 7)}
    assert scores.edit == pytest.approx((100 * 2 / 3 + 0) / 2)
    assert scores.accuracy == pytest.approx(24)  # of 100 seconds, 10 + 4 in segments and 10 between them
    assert (scores.videos, scores.true, scores.predicted) == (2, 4, 3)


def by_frames(truth, predicted, overlap, background):
    """F1's counts, edit score and right frames from labels of frames, written from the definitions alone."""

    def runs(labels):
        borders = [0, *(i for i in range(1, len(labels)) if labels[i] != labels[i - 1]), len(labels)]
        pairs = zip(borders, borders[1:], strict=False)
        return [(labels[a], set(range(a, b))) for a, b in pairs if labels[a] != background]

    true, found = runs(truth), runs(predicted)
    taken, right = set(), 0
    for label, frames in found:
        shares = [len(frames & those) / len(frames | those) * (label == other) for other, those in true]
        best = int(np.argmax(shares)) if shares else -1
        if best >= 0 and shares[best] >= overlap and best not in taken:
            taken.add(best)
            right += 1
    a, b = [label for label, _ in true], [label for label, _ in found]
    table = np.zeros((len(a) + 1, len(b) + 1))
    table[:, 0], table[0, :] = np.arange(len(a) + 1), np.arange(len(b) + 1)
    for i in range(1, len(a) + 1):
        for j in range(1, len(b) + 1):
            costs = (table[i - 1, j] + 1, table[i, j - 1] + 1, table[i - 1, j - 1] + (a[i - 1] != b[j - 1]))
            table[i, j] = min(costs)
    edit = 100 * (1 - table[-1, -1] / max(len(a), len(b))) if a or b else 100
    return (
        right,
        len(found) - right,
        len(true) - right,
        edit,
        sum(x == y for x, y in zip(truth, predicted, strict=True)),
    )


def as_segments(labels, background):
    borders = [0, *(np.flatnonzero(np.diff(labels)) + 1).tolist(), len(labels)]
    pairs = zip(borders, borders[1:], strict=False)
    return segments(*((a / 4, b / 4, int(labels[a])) for a, b in pairs if labels[a] != background))


@pytest.mark.parametrize("seed", range(5))
def test_a_second_writing_on_labels_of_frames_agrees(seed):
    """Random videos at 4 frames a second, with class 0 as the background that has no segments."""
    rng = np.random.default_rng(seed)
    truth, predicted, expected, frames = {}, {}, [], 0
    for video in "abcde":
        labels = np.repeat(rng.integers(0, 4, 30), rng.integers(1, 20, 30))
        labels[-1] = 1  # the time of a video ends with its last segment
        guess = np.roll(labels, rng.integers(0, 8))
        guess[rng.random(len(guess)) < 0.02] = 2
        truth[video], predicted[video] = as_segments(labels, 0), as_segments(guess, 0)
        expected.append([by_frames(labels, guess, overlap, 0) for overlap in (0.1, 0.25, 0.5)])
        frames += len(labels)
    scores = score_segments(truth, predicted)
    for place, overlap in enumerate((0.1, 0.25, 0.5)):
        right, wrong, missed = np.array([rows[place][:3] for rows in expected]).sum(0)
        precision, recall = right / (right + wrong), right / (right + missed)
        assert scores.f1[overlap] == pytest.approx(100 * 2 * precision * recall / (precision + recall))
    assert scores.edit == pytest.approx(np.mean([rows[0][3] for rows in expected]))
    assert scores.accuracy == pytest.approx(100 * sum(rows[0][4] for rows in expected) / frames)
    assert 0 < scores.f1[0.5] < scores.f1[0.1] < 100


def test_touching_segments_of_a_class_are_one_and_the_background_is_none():
    truth = {"a": segments((0, 4, 0), (4, 6, 1), (6, 10, 1), (10, 12, 0))}
    scores = score_segments(truth, {"a": segments((4, 10, 1))}, background=0)
    assert (scores.true, scores.f1[0.5], scores.edit, scores.accuracy) == (1, 100, 100, 100)


def test_overlapping_segments_are_refused():
    with pytest.raises(SegmentError, match="a.mp4: the segments from 0 and 3 overlap"):
        score_segments({"a.mp4": segments((0, 4, 1), (3, 5, 2))}, {})


def write_list(path, *rows, header="path,start,end,label"):
    path.write_text("".join(f"{line}\n" for line in (header, *rows)))
    return str(path)


def test_lists_are_compared_on_the_command_line(tmp_path, capsys):
    truth = write_list(tmp_path / "truth.csv", "a.mp4,0,10,1", "a.mp4,10,20,2", "b.mp4,0,5,0")
    predicted = write_list(
        tmp_path / "predicted.csv",
        f'"{tmp_path}/a.mp4",0,9,1,"walk, slowly",0.91',
        f"{tmp_path}/other.mp4,0,9,1,run,0.5",
        header="path,start,end,label,name,confidence",
    )
    report = tmp_path / "scores.json"
    assert main([truth, predicted, "--data_root", str(tmp_path), "--json", str(report)]) == 0
    shown = capsys.readouterr()
    assert "2 videos, 3 true and 1 predicted segments" in shown.out
    assert f"left out, because {truth} has no segments of it: {tmp_path}/other.mp4" in shown.err
    scores = json.loads(report.read_text())
    assert scores["f1"]["0.5"] == 50 and scores["edit"] == 25 and scores["accuracy"] == 36
    assert "F1@50                 50.00 %" in shown.out and "frame accuracy (MoF)  36.00 %" in shown.out


def test_without_predicted_segments_all_are_missed(tmp_path, capsys):
    truth = write_list(tmp_path / "truth.csv", "a.mp4,0,10,1")
    assert main([truth, write_list(tmp_path / "predicted.csv")]) == 0
    assert "1 true and 0 predicted segments" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("rows", "header", "said"),
    [
        (["c.mp4,0,10,1"], "path,start,end,label", "no video in common"),
        (["a.mp4,0,10,1"], "path,start_frame,end_frame,label", "is in seconds"),
        (["a.mp4,,,1"], "path,start,end,label", "line 2: there is no start and no end"),
        (["a.mp4,5,1,1"], "path,start,end,label", "line 2"),
    ],
)
def test_lists_that_cannot_be_compared_are_refused(tmp_path, capsys, rows, header, said):
    truth = write_list(tmp_path / "truth.csv", "a.mp4,0,10,1")
    assert main([truth, write_list(tmp_path / "predicted.csv", *rows, header=header)]) == 1
    assert said in capsys.readouterr().err

"""What a test of action detection writes, from key frames and scores alone."""

from types import SimpleNamespace

import numpy as np
import pytest

from engines.ava_evaluation import BOX, frame_map
from engines.detection_results import EXAMPLES_OF_KIND, csv_lines, describe_detections, detection_rows, truth_rows

NAMES = {3: "stand", 17: "dig", 80: "watch (a person)"}


def keyframes(count=12, seed=0):
    """Key frames of two persons found with an error and of nobody, and scores that tell something of their actions."""
    rng = np.random.default_rng(seed)
    records, scores = [], []
    for index in range(count):
        corners = rng.uniform(0, 0.4, (2, 2)).round(3)
        boxes = np.concatenate([corners, corners + rng.uniform(0.2, 0.5, (2, 2)).round(3)], 1)
        labels = [tuple(rng.choice([3, 17], rng.integers(1, 3), replace=False).tolist()) for _ in boxes]
        shown = np.concatenate([boxes + rng.uniform(-0.03, 0.03, boxes.shape), boxes[:1] * 0.5])
        target = {"boxes": boxes, "labels": labels}
        records.append(SimpleNamespace(video="v", second=900 + index, line=1 + 3 * index, target=target, boxes=shown))
        hints = np.array([[action in actions for action in NAMES] for actions in [*labels, ()]])
        scores.append((rng.random((3, 3)) * 0.7 + 0.3 * hints).astype(np.float32))
    return records, scores


def test_rows_are_those_of_every_box_and_class():
    records, scores = keyframes()
    rows = detection_rows(records, scores, list(NAMES))
    expected = [
        (record.video, record.second, *box, action, score)
        for record, found in zip(records, scores, strict=True)
        for box, row in zip(record.boxes, found, strict=True)
        for action, score in zip(NAMES, row, strict=True)
    ]
    assert rows.tolist() == expected
    assert len(truth_rows(records)) == sum(len(labels) for record in records for labels in record.target["labels"])


def test_seconds_without_persons_have_no_rows():
    records, scores = keyframes(2)
    records[0].boxes, scores[0] = np.empty((0, 4)), np.empty((0, 3), np.float32)
    assert set(detection_rows(records, scores, list(NAMES))["second"]) == {901}
    records[1].boxes, scores[1] = np.empty((0, 4)), np.empty((0, 3), np.float32)
    assert len(detection_rows(records, np.stack(scores), list(NAMES))) == 0


def test_a_file_of_detections_is_judged_as_they_were():
    records, scores = keyframes()
    truth, rows = truth_rows(records), detection_rows(records, scores, list(NAMES))
    read = [
        (video, int(second), *map(float, box), int(action), float(score))
        for video, second, *box, action, score in (line.split(",") for line in csv_lines(rows))
    ]
    assert frame_map(truth, read, list(NAMES)) == frame_map(truth, rows, list(NAMES))
    assert next(csv_lines(rows)).startswith("v,0900,")


def test_results_tell_every_class_by_name_and_show_its_surest_detections():
    records, scores = keyframes()
    truth, rows = truth_rows(records), detection_rows(records, scores, list(NAMES))
    mean, ap = frame_map(truth, rows, list(NAMES))
    results = describe_detections(truth, rows, ap, NAMES)
    assert results["ap"] == {"stand": ap[3], "dig": ap[17], "watch (a person)": None}
    assert mean == pytest.approx((ap[3] + ap[17]) / 2) and 0 < ap[3] < 1
    assert results["ground_truth_boxes"]["watch (a person)"] == 0
    for name, column in (("stand", 0), ("dig", 1)):
        shown = [example for example in results["examples"] if example["name"] == name]
        assert [example["hit"] for example in shown] == [True] * EXAMPLES_OF_KIND + [False] * EXAMPLES_OF_KIND
        for example in shown:
            ((record, found),) = [
                pair for pair in zip(records, scores, strict=True) if pair[0].second == example["second"]
            ]
            place = np.abs(record.boxes - example["box"]).max(1).argmin()
            np.testing.assert_allclose(record.boxes[place], example["box"], atol=1e-4)
            assert example["score"] == pytest.approx(float(found[place, column]), abs=1e-4)
            if example["hit"]:
                assert place < 2 and list(NAMES)[column] in record.target["labels"][place]
        surest = max(float(found[:, column].max()) for found in scores)
        assert max(example["score"] for example in shown) == pytest.approx(surest, abs=1e-4)


def test_boxes_keep_their_digits():
    records, scores = keyframes(1)
    records[0].boxes = np.array([[0.077, 0.151, 0.283, 0.811]])
    (line, *_) = csv_lines(detection_rows(records, [scores[0][:1]], list(NAMES)))
    assert line.split(",")[2:6] == ["0.077", "0.151", "0.283", "0.811"] and len(BOX) == 4

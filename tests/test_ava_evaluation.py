"""Frame mAP against the published evaluator of AVA, public test vectors, and a second writing of its rules."""

import json
import random

import numpy as np
import pytest

from engines.ava_evaluation import average_precision, find_hits, frame_map, precision_recall
from tests.goldens import DATA

GOLDEN = json.loads((DATA / "ava_evaluation.json").read_text())


def golden_map(**limits):
    truth = [row[:7] for row in GOLDEN["ground_truth"]]
    return frame_map(truth, GOLDEN["detections"], GOLDEN["classes"], excluded=GOLDEN["excluded"], **limits)


def test_the_published_evaluator_gives_the_same():
    mean, ap = golden_map()
    assert mean == pytest.approx(GOLDEN["map"], abs=1e-12)
    expected = {int(action): value for action, value in GOLDEN["ap"].items()}
    assert ap.keys() == expected.keys()
    assert ap == {
        action: value if value is None else pytest.approx(value, abs=1e-12) for action, value in expected.items()
    }


@pytest.mark.parametrize("rows", [50, 8])
def test_the_published_evaluator_gives_the_same_with_its_limit_of_rows(rows):
    mean, _ = golden_map(max_rows_per_frame=rows)
    assert mean == pytest.approx(GOLDEN[f"map_at_most_{rows}_rows_a_frame"], abs=1e-12)


# Numbers from the unit tests of TensorFlow's object detection (https://github.com/tensorflow/models, Apache 2.0)
def test_average_precision_is_the_area_under_the_envelope():
    precision = np.array([0.8, 0.76, 0.9, 0.65, 0.7, 0.5, 0.55, 0])
    recall = np.array([0.3, 0.3, 0.4, 0.4, 0.45, 0.45, 0.5, 0.5])
    assert average_precision(precision, recall) == pytest.approx(0.4225, abs=1e-12)


def test_precision_and_recall_after_each_detection():
    scores = np.array([0.4, 0.3, 0.6, 0.2, 0.7, 0.1])
    hits = np.array([0, 1, 1, 0, 0, 1], bool)
    precision, recall = precision_recall(hits[np.argsort(-scores)], 10)
    np.testing.assert_allclose(precision, [0, 1 / 2, 1 / 3, 2 / 4, 2 / 5, 3 / 6], atol=1e-12)
    np.testing.assert_allclose(recall, [0, 0.1, 0.1, 0.2, 0.2, 0.3], atol=1e-12)


def test_three_pictures():
    truth = [
        ("1", 0, 0, 0, 1, 1, 1),
        ("1", 0, 0, 0, 2, 2, 3),
        ("1", 0, 0, 0, 3, 3, 1),
        ("2", 0, 10, 10, 11, 11, 1),
        ("2", 0, 500, 500, 510, 510, 1),
        ("2", 0, 10, 10, 12, 12, 3),
        ("3", 0, 0, 0, 1, 1, 2),
    ]
    detections = [
        ("2", 0, 10, 10, 11, 11, 1, 0.7),
        ("2", 0, 100, 100, 120, 120, 1, 0.8),
        ("2", 0, 100, 100, 220, 220, 3, 0.9),
    ]
    mean, ap = frame_map(truth, detections, [1, 2, 3])
    assert ap == {1: pytest.approx(0.125, abs=1e-12), 2: 0, 3: 0}
    assert mean == pytest.approx(0.125 / 3, abs=1e-12)


BOX, FAR = (0.1, 0.1, 0.5, 0.5), (0.6, 0.6, 0.9, 0.9)


def ap_of(truth, detections, **settings):
    """Average precision of class 1 of boxes and of (box, score), all in one frame."""
    rows = [("v", 902, *box, 1, score) for box, score in detections]
    return frame_map([("v", 902, *box, 1) for box in truth], rows, [1], **settings)[1][1]


def test_a_second_detection_of_a_box_is_false():
    assert ap_of([BOX, FAR], [(BOX, 0.9), (BOX, 0.8), (FAR, 0.7)]) == pytest.approx(0.5 + 0.5 * 2 / 3)


def test_a_detection_does_not_fall_back_to_its_second_best_box():
    near = (0.1, 0.1, 0.5, 0.52)
    assert ap_of([BOX, near], [(BOX, 0.9), (BOX, 0.8)]) == pytest.approx(0.5)


def test_a_false_box_of_no_width_costs_nothing():
    assert ap_of([BOX], [((0.3, 0.3, 0.3, 0.4), 0.9), (BOX, 0.8)]) == 1


def test_iou_of_exactly_one_half_is_a_hit():
    assert ap_of([(0, 0, 1, 1)], [((0, 0, 1, 0.5), 0.9)]) == 1
    assert ap_of([(0, 0, 1, 1)], [((0, 0, 1, 0.499), 0.9)]) == 0


def test_equal_scores_are_taken_in_the_order_given():
    assert ap_of([BOX], [(FAR, 0.5), (BOX, 0.5)]) == pytest.approx(0.5)
    assert ap_of([BOX], [(BOX, 0.5), (FAR, 0.5)]) == 1
    assert ap_of([BOX], [(FAR, 0.5), (BOX, 0.5)], max_rows_per_frame=1) == 0


def test_frames_without_ground_truth_cost_precision_unless_excluded():
    truth, found = [("v", 902, *BOX, 1)], [("v", 903, *BOX, 1, 0.9), ("v", 902, *BOX, 1, 0.8)]
    assert frame_map(truth, found, [1])[0] == pytest.approx(0.5)
    assert frame_map(truth, found, [1], excluded=[("v", 903)])[0] == 1


def test_nothing_to_judge_by_is_an_error():
    with pytest.raises(ValueError, match="no ground truth"):
        frame_map([("v", 902, *BOX, 2)], [], [1])


def test_a_score_that_is_no_number_is_an_error():
    with pytest.raises(ValueError, match=r"row 1.*score"):
        ap_of([BOX], [(BOX, 0.5), (BOX, float("nan"))])


def by_the_book(truth, detections, classes, excluded, limit):
    """The rules once more, one frame, class and box at a time."""
    ap, kept = {}, []
    for frame in dict.fromkeys(row[:2] for row in detections):
        rows = [row for row in detections if row[:2] == frame and frame not in excluded and row[6] in classes]
        kept += sorted(rows, key=lambda row: -row[7])[: limit or None]
    kept.sort(key=detections.index)
    for action in classes:
        boxes = [row for row in truth if row[6] == action and row[:2] not in excluded]
        free = dict.fromkeys(range(len(boxes)), True)
        marks = []
        for row in sorted((row for row in kept if row[6] == action), key=lambda row: -row[7]):
            if row[2] >= row[4] or row[3] >= row[5]:
                continue
            rivals = [(overlap(row[2:6], box[2:6]), -index) for index, box in enumerate(boxes) if box[:2] == row[:2]]
            best, index = max(rivals, default=(0, 0))
            hit = best >= 0.5 and free[-index]
            marks.append(hit)
            if hit:
                free[-index] = False
        if not boxes:
            ap[action] = None
            continue
        precisions = [sum(marks[: end + 1]) / (end + 1) for end in range(len(marks))]
        ap[action] = sum(max(precisions[place:]) for place, hit in enumerate(marks) if hit) / len(boxes)
    known = [value for value in ap.values() if value is not None]
    return sum(known) / len(known), ap


def overlap(one, other):
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    area = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)) - width * height
    return width * height / area


@pytest.mark.parametrize("seed", range(40))
def test_a_second_writing_of_the_rules_agrees_on_random_sets(seed):
    draw = random.Random(seed)

    def box():
        x, y = draw.random() * 0.6, draw.random() * 0.6
        return x, y, x + 0.1 + draw.random() * 0.3, y + 0.1 + draw.random() * 0.3

    def moved(sides, by):
        return tuple(side + draw.uniform(-by, by) for side in sides)

    truth = [(draw.choice("ab"), draw.randrange(900, 905), *box(), draw.randrange(1, 6)) for _ in range(30)]
    detections = []
    for row in truth * 2:
        near = moved(row[2:6], 0.08)
        detections.append((*row[:2], *near, draw.choice([row[6], row[6], 6]), round(draw.random(), 2)))
    detections += [
        (draw.choice("ab"), draw.randrange(900, 907), *box(), 1, round(draw.random(), 2)) for _ in range(20)
    ]
    excluded, limit = {("a", 903)}, draw.choice([0, 3, 8])
    mean, ap = frame_map(truth, detections, [1, 2, 3, 5, 7], excluded=excluded, max_rows_per_frame=limit)
    expected_mean, expected = by_the_book(truth, detections, [1, 2, 3, 5, 7], excluded, limit)
    assert mean == pytest.approx(expected_mean, abs=1e-12)
    assert ap == {
        action: value if value is None else pytest.approx(value, abs=1e-12) for action, value in expected.items()
    }


def test_hits_are_told_in_the_order_given():
    found = [("v", 902, *BOX, 1, 0.5), ("v", 902, *FAR, 1, 0.7), ("v", 902, *BOX, 1, 0.6), ("v", 902, *BOX, 2, 0.9)]
    assert find_hits([("v", 902, *BOX, 1)], found, [1]).tolist() == [False, False, True, False]

"""Controls of a test that take motion, or its order, from the clips."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import run_class_finetuning
from datasets.preparation.moving_digits import CLASSES, draw_clip, split_digits, write_video
from datasets.records import VideoRecord
from datasets.segments import Segment
from datasets.temporal_controls import CONTROLS, check_controls
from engines.configuration import parse_arguments
from engines.early_check import check_command_line
from engines.evaluate import Evaluation
from engines.objectives.classification import Classification
from engines.results import AboutTest, write_results
from engines.run import run_task
from reports.best_effort import try_to_report
from reports.temporal_controls import temporal_controls

MOTIONS = ("left", "right", "up", "down")
NAMES = [*MOTIONS, "red"]
PER_CLASS, FRAMES, SIZE = 12, 8, 32


class Follower(nn.Module):
    """Tells where the bright pixels go from the first frame to the last, and whether the picture is red."""

    def forward(self, clips):  # (n, 3, t, h, w)
        change = (clips[:, :, -1] - clips[:, :, 0]).mean(1)
        places = torch.linspace(-1, 1, change.shape[-1])
        x, y = (change * places).mean((1, 2)), (change * places[:, None]).mean((1, 2))
        red = 100 * (clips[:, 0] - clips[:, 1] - 3).mean((1, 2, 3))
        return 100 * torch.stack([-x, x, -y, y, red], dim=1)


def flags_of(folder, *words):
    return parse_arguments(
        run_class_finetuning.get_parser(),
        [
            *("--eval", "--device", "cpu", "--num_workers", "0", "--read_timeout", "0", "--batch_size", "16"),
            *("--num_frames", str(FRAMES), "--sampling_rate", "1", "--input_size", "32", "--short_side_size", "32"),
            *(
                "--test_num_segment",
                "1",
                "--test_num_crop",
                "1",
                "--data_path",
                str(folder),
                "--data_root",
                str(folder),
            ),
            *(
                "--label_names",
                str(folder / "labels.txt"),
                "--nb_classes",
                str(len(NAMES)),
                "--model",
                "videomambapro_nano",
            ),
            *("--model", "videomambapro_nano", "--output_dir", str(folder / "out"), *words),
        ],
        script=run_class_finetuning.SCRIPT,
    )


@pytest.fixture(scope="module")
def tested(tmp_path_factory):
    """The output folder of a test with controls: digits that move, and red pictures."""
    folder, lines = tmp_path_factory.mktemp("digits"), []
    rng, (digits, _) = np.random.default_rng(0), split_digits("test")
    for label, name in enumerate(NAMES):
        for number in range(PER_CLASS):
            file = f"{name}{number}.mp4"
            red = np.full((FRAMES, SIZE, SIZE, 3), (220, 0, 0), dtype=np.uint8)
            frames = red if name == "red" else draw_clip(CLASSES.index(name), digits, FRAMES, SIZE, rng)[0]
            write_video(folder / file, frames)
            lines.append(f"{file} {label}\n")
    (folder / "test.csv").write_text("".join(lines))
    (folder / "labels.txt").write_text("\n".join(NAMES))
    flags = flags_of(folder, "--temporal_controls")
    objective = Classification(Follower(), len(NAMES), class_names=NAMES)
    task = replace(run_class_finetuning.TASK, create_objective=lambda *_: objective)
    run_task(task, flags, try_to_report)
    return folder / "out"


def test_motions_fall_to_chance_when_a_frame_is_repeated_and_a_colour_does_not(tested):
    results = json.loads((tested / "results.json").read_text())
    assert results["top1"] == 100
    static = results["temporal_controls"]["static"]
    motions = [row for row in static["predictions"] if row["label"] < len(MOTIONS)]
    assert np.mean([row["prediction"] == row["label"] for row in motions]) == 1 / len(MOTIONS), "nothing is told"
    assert static["per_class"][NAMES.index("red")]["recall"] == 1
    shuffled = results["temporal_controls"]["shuffled"]
    recalls = [row["recall"] for row in shuffled["per_class"]]
    assert all(0.1 < recall < 0.9 for recall in recalls[: len(MOTIONS)]) and recalls[-1] == 1


def test_the_report_tells_which_classes_need_motion(tested):
    results = json.loads((tested / "results.json").read_text())
    found = temporal_controls(results, NAMES)
    lost = {row.name for row in found.classes if "static" in row.lost}
    assert len(lost) == 3 and lost < set(MOTIONS), "the class that is called for all still clips hides its loss"
    hidden = next(row for row in found.classes if row.name in set(MOTIONS) - lost)
    assert (hidden.accuracies["static"].percent, hidden.predicted["static"]) == (100, len(MOTIONS) * PER_CLASS)
    row = next(row for row in found.classes if row.name == "red")
    assert row.accuracies["static"].low == pytest.approx(100 * PER_CLASS / (PER_CLASS + 1.959964**2))  # Wilson's
    assert found.overall.lost == ["static", "shuffled"]
    page = (tested / "report.html").read_text()
    assert "Classes that need motion" in page and found.sentences[0] in page
    assert "3 of 5 classes are shown to need motion" in page


def test_predictions_of_controls_tell_the_segment_too(tmp_path):
    film = VideoRecord("film.mp4", 1, 2, Segment(0.5, 2.0))
    objective, outputs = Classification(nn.Identity(), 2), np.log(np.array([[0.75, 0.25]], np.float32))
    result = Evaluation(objective.figures(outputs, [film]), outputs, [film], np.zeros(1, int), 1, [])
    videos = SimpleNamespace(records=[film])
    path = write_results(str(tmp_path), result, objective, videos, AboutTest("m", "w"), controls={"static": result})
    results = json.loads(path.read_text())
    rows = [*results["predictions"], *results["temporal_controls"]["static"]["predictions"]]
    assert [(row["line"], row["start"], row["end"]) for row in rows] == 2 * [(2, 0.5, 2.0)]


def test_frames_are_those_of_the_clip():
    def sample(total, *, rng):
        return np.arange(3, 3 + total)

    rng = np.random.default_rng(0)
    assert CONTROLS["static"](sample, 5, rng=rng).tolist() == [5] * 5
    shuffled = CONTROLS["shuffled"](sample, 5, rng=rng)
    assert sorted(shuffled) == [3, 4, 5, 6, 7] and shuffled.tolist() != [3, 4, 5, 6, 7]


def test_other_tasks_and_single_images_are_refused(tested, capsys):
    lists = ["--data_path", str(tested.parent), "--temporal_controls"]
    with pytest.raises(SystemExit):
        check_command_line(run_class_finetuning.SCRIPT, [*lists, "--task", "regression"])
    assert "--temporal_controls belongs to --task classification" in capsys.readouterr().err
    with pytest.raises(ValueError, match="this run has --task multilabel"):
        check_controls("multilabel", None)  # as a checkpoint says
    images = SimpleNamespace(plan=SimpleNamespace(clip_shape=(3, 1, 32, 32)))
    with pytest.raises(ValueError, match="a clip of this run has only one"):
        check_controls("classification", images)

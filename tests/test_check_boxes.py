"""check_data boxes: everything wrong with annotations, boxes and movies is reported with file, line and remedy."""

import shutil
import subprocess
import sys

import pytest
from detection_files import write_lines, write_scenes
from video_files import numbered_frames, write_folder, write_video

from tools.check_data import main

PLACE = "0.125,0.25,0.375,0.75"


@pytest.fixture
def scenes(tmp_path):
    """Two training videos and two validation videos without a fault, all classes seen in both."""
    write_scenes(tmp_path, {"a": (64, 96), "b": (64, 96)}, "train")
    write_scenes(tmp_path, {"c": (64, 96), "d": (64, 96)}, "val")
    return tmp_path


def check(folder, capsys, *flags):
    """The exit status, and the lines on both streams."""
    where = ["--data_path", str(folder), "--data_root", str(folder / "media"), "--workers", "1"]
    time = [] if "--start_second" in flags else ["--fps", "4", "--start_second", "0"]
    status = main(["boxes", *where, *time, *flags])
    printed = capsys.readouterr()
    return status, printed.out + printed.err


def append(path, *lines):
    """Add lines; gives the number of the first."""
    before = path.read_text().count("\n")
    path.write_text(path.read_text() + "".join(f"{line}\n" for line in lines))
    return before + 1


def test_a_whole_data_set_has_no_faults(scenes, capsys):
    status, printed = check(scenes, capsys)
    assert status == 0 and "4 movies or frame folders checked: 0 faults, 1 notes" in printed
    assert "val_predicted_boxes.csv: 3 of 3 annotated persons have a box of IoU 0.5" in printed
    assert f"{scenes / 'train.csv'}: 3 persons in 2 seconds of 2 videos" in printed


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        (f"a,1,{PLACE},44,0", "action 44 is not in"),
        ("a,1,0.1,0.1,1.3,0.2,12,0", "x2 = 1.3 is outside the frame"),
        ("a,1,0.4,0.1,0.3,0.2,12,0", "x1 is not below x2"),
    ],
)
def test_faulty_rows_of_any_file_are_reported(scenes, capsys, row, fault):
    line = append(scenes / "train.csv", row)
    boxes = append(scenes / "val_predicted_boxes.csv", f"c,1,{PLACE},,7")
    append(scenes / "val.csv", "c,x")
    (scenes / "exclusions.csv").write_text("nobody\n")
    status, printed = check(scenes, capsys)
    assert status == 1 and f"train.csv: 1 faulty line(s)\n  line {line}: " in printed and fault in printed
    # without annotations of the validation its boxes are not looked at
    assert "val.csv: 1 faulty line(s)" in printed and "exclusions.csv: 1 faulty line(s)\n  line 1" in printed
    write_lines(scenes / "val.csv", f"c,1,{PLACE},12")
    assert f"val_predicted_boxes.csv: 1 faulty line(s)\n  line {boxes}: score 7" in check(scenes, capsys)[1]


def test_seconds_without_frames_are_reported(scenes, capsys):
    line = append(scenes / "val.csv", f"c,2,{PLACE},12,0", f"c,9,{PLACE},12,0")
    status, printed = check(scenes, capsys)
    assert status == 1
    assert f"val.csv, line {line}: second 2 of {scenes / 'media' / 'c'} has no frame: it has 8 frames" in printed
    assert "(2 such seconds; --start_second, --fps)" in printed


def test_excluded_seconds_are_not_looked_for(scenes, capsys):
    """Those without frames, of a missing movie, or without a box; with none left, there is nothing to evaluate."""
    append(scenes / "val.csv", f"c,9,{PLACE},12,0", f"gone,1,{PLACE},12,0", "d,1,0.9,0.9,1.0,1.0,12,7")
    assert check(scenes, capsys)[0] == 1
    write_lines(scenes / "exclusions.csv", "c,9", "gone,1", "d,0001")
    status, printed = check(scenes, capsys)
    assert status == 0 and "val_predicted_boxes.csv: 1 of 1 annotated persons" in printed
    assert "such box" not in printed and f"{scenes / 'val.csv'}: 1 persons in 1 seconds of 1 videos" in printed
    append(scenes / "exclusions.csv", "c,1")
    status, printed = check(scenes, capsys)
    assert status == 1 and "val.csv: no second to evaluate has an action of" in printed


def test_missing_videos_and_frames_are_reported(scenes, capsys):
    shutil.rmtree(scenes / "media" / "a")
    (scenes / "media" / "b" / "b_000004.jpg").unlink()
    status, printed = check(scenes, capsys)
    assert status == 1 and f"train.csv, line 1: {scenes / 'media' / 'a'} exists neither" in printed
    assert "train.csv, line 3: " in printed and "b_000004.jpg missing between b_000001.jpg and b_000008.jpg" in printed


def test_movies_are_read_at_their_annotated_seconds(scenes, capsys):
    media = scenes / "media"
    for name in "ab":
        shutil.rmtree(media / name)
    whole = write_video(media / "a.mkv", numbered_frames(100), rate=25)
    cut = write_video(media / "b.mkv", numbered_frames(200), rate=25)
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    line = append(scenes / "train.csv", f"a,3,{PLACE},12,0", f"b,6,{PLACE},12,0", f"a,60,{PLACE},12,0")
    status, printed = check(scenes, capsys)
    assert status == 1
    assert "line 3: cannot read" in printed and "no frame within 1 s of 6 s after its start" in printed
    assert f"line {line + 2}: second 60 of {whole} has no frame" in printed and "(1 such seconds" in printed
    whole.write_text("nothing")
    assert "it is not a video, or damaged" in check(scenes, capsys)[1]


@pytest.mark.parametrize(("frames", "status", "words"), [(901, 0, ""), (906, 0, "note: "), (810, 1, "shifted")])
def test_folders_from_second_900_are_held_to_15_minutes(scenes, capsys, frames, status, words):
    """One frame a second, so that the 15 minutes are 901 frames."""
    (scenes / "val.csv").unlink()
    shutil.rmtree(scenes / "media" / "a")
    tiny = numbered_frames(1, 8, 8)
    write_folder(scenes / "media" / "a", tiny.repeat(frames, axis=0), "a_{:06}.jpg")
    write_lines(scenes / "train.csv", *(f"a,0905,{PLACE},{class_id},0" for class_id in (12, 7, 300)))
    found, printed = check(scenes, capsys, "--fps", "1", "--start_second", "900")
    assert found == status and words in printed
    assert ("but 15 minutes at 1 per second are 901" in printed) == (frames != 901)


def test_classes_rows_and_videos_that_are_odd_are_noted(scenes, capsys):
    write_lines(scenes / "train.csv", f"a,1,{PLACE},12,0", f"a,1,{PLACE},12,0")
    line = append(scenes / "val.csv", f"a,1,{PLACE},7,0")
    status, printed = check(scenes, capsys)
    assert status == 0
    train, val, labels = (scenes / name for name in ("train.csv", "val.csv", "label_map.pbtxt"))
    assert f'note: {labels}, line 9: class 300, "talk", has no box in {train}' in printed
    assert f'note: {val}, line 1: class 300, "talk", is evaluated but has no box in training' in printed
    assert f"note: {train}, line 1: a person in this second has the same action twice" in printed
    assert (
        f"note: {val}, line {line}: a is also in the training annotations ({train}, line 1); 1 such videos" in printed
    )
    assert f"1 annotated seconds have no such box, the first one is a,1 ({val}, line {line})" in printed


def test_boxes_of_other_pictures_are_reported(scenes, capsys):
    write_lines(scenes / "val_predicted_boxes.csv", "c,1,0.9,0.9,1.0,1.0,,0.9", "d,1,0.0,0.0,0.1,0.1,,0.9")
    status, printed = check(scenes, capsys)
    assert status == 1 and "0 of 3 annotated persons" in printed and "do these boxes belong to other videos" in printed


def test_faults_come_before_torch_is_imported(scenes):
    program = (
        "import sys\nfrom tools.check_data import main\nstatus = main(sys.argv[1:])\n"
        "print(status, 'torch' in sys.modules)"
    )
    command = [sys.executable, "-c", program, "boxes", "--data_path", str(scenes), "--data_root", str(scenes)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True)
    assert printed.stdout.endswith("1 False\n") and "neither as a folder of frames nor as a movie" in printed.stderr

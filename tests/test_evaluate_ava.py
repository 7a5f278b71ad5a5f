"""`python -m tools.evaluate_ava`: the golden of the published evaluator from files, and files that are faulty."""

import json
import subprocess
import sys

import pytest

from tests.goldens import DATA
from tools.evaluate_ava import main

GOLDEN = json.loads((DATA / "ava_evaluation.json").read_text())


def write_rows(path, rows):
    path.write_text("".join(",".join(map(str, row)) + "\n" for row in rows))
    return path


@pytest.fixture
def files(tmp_path):
    """The golden as files; flag -> path."""
    label_map = tmp_path / "label_map.pbtxt"
    label_map.write_text("".join(f'item {{\n  name: "class {n}"\n  id: {n}\n}}\n' for n in GOLDEN["classes"]))
    return {
        "--ground_truth": write_rows(tmp_path / "truth.csv", GOLDEN["ground_truth"]),
        "--detections": write_rows(tmp_path / "found.csv", GOLDEN["detections"]),
        "--label_map": label_map,
        "--exclusions": write_rows(tmp_path / "excluded.csv", GOLDEN["excluded"]),
    }


def words(files, *more):
    return [str(word) for pair in files.items() for word in pair] + list(more)


def test_files_of_the_published_evaluator_get_its_numbers(files, capsys):
    assert main(words(files, "--json")) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["map"] == pytest.approx(GOLDEN["map"], abs=1e-12)
    expected = {f"class {action}": value for action, value in GOLDEN["ap"].items()}
    assert printed["ap"] == {name: ap if ap is None else pytest.approx(ap, abs=1e-12) for name, ap in expected.items()}
    assert main(words(files, "--json", "--max_rows_per_frame", "8")) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["map"] == pytest.approx(GOLDEN["map_at_most_8_rows_a_frame"], abs=1e-12)


def test_the_table_tells_the_mean_the_classes_and_what_does_not_count(files, capsys):
    assert main(words(files)) == 0
    truth, found, *classes, mean = capsys.readouterr().out.splitlines()
    assert "61 rows" in truth and "11 of classes that are not in the label map" in truth
    assert "121 rows" in found and "1 with an empty box" in found and "31 in excluded seconds" in found
    assert [line.split()[-1] for line in classes] == ["23.53", "40.00", "35.19", "0.00", "truth"]
    assert mean == "mAP at IoU 0.5: 24.68 % over 4 of 5 classes"


@pytest.mark.parametrize(
    ("flag", "line", "fragment"),
    [
        ("--ground_truth", "aaa,902,0.1,0.1,0.2", "line 3: there are 5 columns instead of 7 or 8"),
        ("--ground_truth", "aaa,902,0.1,0.1,0.2,1.2,3,0", "line 3: y2 = 1.2 is outside the frame"),
        ("--ground_truth", "aaa,902,0.3,0.1,0.2,0.2,3,0", "line 3: the box is empty: x1 is not below x2"),
        ("--ground_truth", "aaa,902,0.1,0.1,0.2,0.2,stand,0", 'the action must be an integer, not "stand"'),
        ("--ground_truth", "aaa,x,0.1,0.1,0.2,0.2,3,0", 'the second must be a non-negative integer, not "x"'),
        ("--detections", "aaa,902,10,20,200,300,3,0.5", "line 3: x1 = 10 is far outside the frame"),
        ("--detections", "aaa,902,0.1,0.1,0.2,0.2,3,high", 'line 3: score must be a number, not "high"'),
        ("--detections", "aaa,902,0.1,0.1,0.2,0.2,3,nan", 'line 3: score must be a number, not "nan"'),
        ("--detections", "aaa,902,0.1,0.1,0.2,0.2,3", "line 3: there are 7 columns instead of 8"),
        ("--detections", "aaa,902,0.1,0.1,0.2,0.2,3.5,1", 'line 3: the action must be an integer, not "3.5"'),
        ("--exclusions", "aaa;902", "line 3: there are 1 columns instead of 2"),
        ("--label_map", "id: 5", "line 3: id 5 has no name before it"),
    ],
)  # fmt: skip
def test_a_faulty_line_is_reported_with_file_and_number(files, capsys, flag, line, fragment):
    file = files[flag]
    rows = file.read_text().splitlines() if flag != "--label_map" else ['item { name: "a" id: 1 }'] * 2
    if flag == "--label_map":
        rows[1] = 'item { name: "b" id: 2 }'
    rows.insert(2, line)
    file.write_text("\n".join(rows))
    assert main(words(files)) == 1
    message = capsys.readouterr().err
    assert str(file) in message and "line 3" in message and fragment in message


def test_files_that_are_missing_empty_or_of_other_videos_are_named(files, capsys):
    for flag in files:
        assert main(words(files | {flag: "absent.csv"})) == 1
        assert "absent.csv does not exist" in capsys.readouterr().err
    empty = write_rows(files["--detections"].with_name("empty.csv"), [])
    assert main(words(files | {"--detections": empty})) == 1
    assert f"{empty} is empty" in capsys.readouterr().err
    other = write_rows(empty.with_name("other.csv"), [("zzz", *row[1:]) for row in GOLDEN["detections"]])
    assert main(words(files | {"--detections": other})) == 1
    message = capsys.readouterr().err
    assert "no second in common" in message and "zzz,902 and aaa,902" in message


def test_a_label_map_of_other_classes_is_an_error_and_no_map_of_nothing(files, capsys):
    files["--label_map"].write_text('item { name: "never" id: 99 }')
    assert main(words(files)) == 1
    assert "no ground truth to evaluate with" in capsys.readouterr().err


def test_pytorch_is_not_needed(files):
    code = "import sys; sys.modules['torch'] = None; import tools.evaluate_ava as tool; sys.exit(tool.main())"
    done = subprocess.run([sys.executable, "-c", code, *words(files)], capture_output=True, text=True, check=True)
    assert "24.68" in done.stdout

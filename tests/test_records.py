"""Records in columns: what is read back, also of pathological lines, and that workers keep sharing their memory."""

import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from datasets.annotations import FrameFolderRecord, LineForm, ListFileError, VideoRecord, parse_line, read_list
from datasets.labels import label_form
from datasets.list_lines import recognise_separator
from datasets.records import RecordTable, compact, targets_of
from datasets.segments import Segment, find_layout

ROOT = Path(__file__).parent.parent
LINES = {
    "video": [
        "a/b.mp4 3",
        "",
        "  v_1 0 ",
        '"with space.mp4" 12',
        "im Wald.mp4 7",
        "Straße/ü.mp4 5.0",
        "c.mp4 4 extra",
        "/d.mp4 1",
    ],
    "frames": ["clips/a 48 3", "clips/b  7  1", '"clips/c d" 9 0', "clips/007 12 007", "x.avi 3 2"],
    "image": ["n01/x.JPEG 0", "n01/y.JPEG 1 5", "folder 16 2", '"n 2/z.png" 1'],
}


OTHER_LINES = {
    "labels of videos": (
        "multilabel",
        "video",
        ["a.mp4 3;17;40", "b.mp4 40;3", "", "c.mp4", "a b.mp4 7", "v_1 1.0;2"],
    ),
    "labels of folders": ("multilabel", "frames", ["a 48 3;17", "b 7", '"c d" 9 0', "007 12 5;1"]),
    "labels after semicolons": ("multilabel", "video", ["a.mp4;3;17", "b.mp4;40", "c.mp4;1;0"]),
    "labels of images": ("multilabel", "image", ["n01/x.JPEG 0;2", "y.JPEG 1 5", "folder 16 2;1", "z.png"]),
    "targets": ("regression", "video", ["a.mp4 0.5", "b.mp4 -3", "c.mp4 1e-3", "d.mp4 .25 ignored"]),
    "several targets": ("regression", "frames", ["a 48 0.5;-2e3", "b 7 1;2", "c 9 -0.0;123456789.125"]),
    "seconds": (
        "classification",
        "video",
        ["PATH end start label", "a.mp4 4.5 1 3", "b.mp4 7 0.25 1", '"c d.mp4" 9 8 1'],
    ),
    "seconds of some": (
        "classification",
        "video",
        ["path,start,end,label", "a.mp4,,,3", "b.mp4,0,1.5,2", "c.mp4,1e1,11,0"],
    ),
    "frames": (
        "multilabel",
        "video",
        ["path,start_frame,end_frame,name,label", "a.mp4,0,16,x y,3;1", "b.mp4,16.0,32,,"],
    ),
    "plain folders": ("classification", "frames", ["a 48 3", "b 7 1", "c 9 0"]),
    "plain images": ("classification", "image", ["x.png 0", "f 16 2", "y.png 1"]),
    "plain seconds": ("classification", "video", ["path,start,end,label", "a.mp4,0.5,1,3", "b.mp4,2,4.25,1"]),
    "plain frames": (
        "classification",
        "frames",
        ["path,total_frames,start_frame,end_frame,label", "a,40,0,40,3", "b,9,2,7,1"],
    ),
    "plain targets": ("regression", "video", ["a.mp4 0.5;2", "b.mp4 -3;1", "c.mp4 0;0.25"]),
    "frames of folders": (
        "regression",
        "frames",
        ["path;total_frames;start_frame;end_frame;label", "a;40;0;40;0.5", "b;9;;;2", "c;50;2;7;-1.5;3"],
    ),
}


@pytest.mark.parametrize("name", [*LINES, *OTHER_LINES])
def test_plain_lines_are_read_as_the_parser_of_all_lines_reads_them(tmp_path, name, monkeypatch):
    task, kind, lines = OTHER_LINES.get(name) or ("classification", name, LINES[name])
    file = tmp_path / "train.csv"
    file.write_text("\n".join(lines), encoding="utf-8")
    layout = find_layout(lines[0])
    with monkeypatch.context() as patch:
        if name.startswith("plain"):  # all at once
            patch.setattr("datasets.annotations.parse_line", lambda *_: pytest.fail("line by line"))
        records, _ = read_list(file, kind=kind, data_root="/data", task=task)
    separator = layout.separator if layout else recognise_separator([line for line in lines if line], label_form(task))
    form = LineForm(separator, task, "/data", layout)
    numbered = [(i, line.strip()) for i, line in enumerate(lines, 1) if line.strip()][bool(layout) :]
    expected = [parse_line(line, kind, i, form) for i, line in numbered]
    assert isinstance(records, RecordTable)
    assert list(records) == expected and records == expected and records[1:3] == expected[1:3]
    assert repr(list(records)) == repr(expected), "the same types too"
    assert records[-1] == expected[-1] and targets_of(records) == [record.target for record in expected]
    assert compact(expected) == records and isinstance(compact(expected), RecordTable)
    with pytest.raises(IndexError):
        records[len(records)]


@pytest.mark.parametrize(
    ("task", "lines", "fault"),
    [
        ("multilabel", ["a.mp4 3;1", "b.mp4 3;3"], "line 2: label 3 is there twice"),
        ("regression", ["a.mp4 1;2", "b.mp4 1;x"], 'line 2: label should be a number, .* not "x"'),
        ("classification", ["path,start,end,label", "a.mp4,2,2,0"], "line 2: the segment ends at 2, not after"),
        (
            "classification",
            ["path,start,end,label", "a.mp4,1,2,0", "b.mp4,3,2,0", "c.mp4,1,2,0"],
            "line 3: the segment ends at 2, not after",
        ),
        (
            "classification",
            ["path,start_frame,end_frame,label", "a.mp4,0,1.5,0"],
            "line 2: end_frame should be a whole",
        ),
        (
            "classification",
            ["path,total_frames,start_frame,end_frame,label", "a,8,0,9,1"],
            "line 2: the segment ends at frame 9, but the folder has 8",
        ),
    ],
)
def test_faults_in_lines_that_look_plain_are_told(tmp_path, task, lines, fault):
    file = tmp_path / "train.csv"
    file.write_text("\n".join(lines))
    with pytest.raises(ListFileError, match=fault):
        read_list(file, task=task)


def test_faults_among_plain_lines_name_file_and_line(tmp_path):
    file = tmp_path / "train.csv"
    file.write_text("".join(f"{i}.mp4 {i}\n" for i in range(40)) + "\nx.mp4 -1\nlonely.mp4\ny.mp4 41\n")
    with pytest.raises(ListFileError, match=r"(?s)train.csv: 2 invalid.*line 42: label -1 is.*line 43: there is no"):
        read_list(file)
    file.write_text("".join(f"{i}.mp4 {i}\n" for i in range(40)))
    with pytest.raises(ListFileError, match="line 40: label 39 is out of range"):
        read_list(file, num_classes=39)


def test_lines_beyond_one_piece_of_text_are_numbered_on(tmp_path):
    file = tmp_path / "train.csv"
    names = [f"{i:0100}.mp4" for i in range(11_000)]  # more than SPLIT_AT_ONCE
    names[100:9000:500] = [f'"{name}"' for name in names[100:9000:500]]  # plain ones stand around them
    file.write_text("".join(f"{name} 1\r\n\r\n" for name in names))
    records, _ = read_list(file)
    assert [record.line for record in records] == list(range(1, 22_000, 2))
    assert [int(record.path[:100]) for record in records] == list(range(11_000))


def test_only_records_of_one_form_are_compacted():
    whole = [FrameFolderRecord("a", 5, 1, 2), FrameFolderRecord("b\udcff", 6, 0, 3)]
    assert isinstance(compact(whole), RecordTable) and list(compact(whole)) == whole
    assert pickle.loads(pickle.dumps(compact(whole))) == whole
    part = VideoRecord("a", 1, 1, Segment(0.5, 2.0))
    mixed_targets, mixed_units = VideoRecord("a", (1, 2), 1), replace(part, segment=Segment(1.0, 2.0, "frames"))
    whole_numbers = replace(part, segment=Segment(1, 2, "frames"))
    for others in (
        *([part, mixed_targets], [part, mixed_units], [whole_numbers], [replace(part, target=(0.5, 1))]),
        *([VideoRecord("a", 1, 1), whole[0]], ["neither"], []),
        *([VideoRecord("a", 1, 1), VideoRecord("b", 1.0, 2)], [VideoRecord("a", [1], 1)]),
    ):
        assert compact(iter(others)) == others and isinstance(compact(others), list)


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="the kernel does not tell private memory")
def test_a_worker_that_reads_all_records_keeps_sharing_them():
    """Objects would become its own, by the change of their reference counts: 180 bytes each."""
    report = subprocess.run(
        [sys.executable, "-m", "benchmarks.lists", "--lines", "60000", "--rounds", "1"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    forms = {form: list(map(float, figures)) for form, *figures in map(str.split, report.splitlines()[2:])}
    assert forms.keys() == {"videos", "frames", "segments", "labels", "numbers"}
    for _, _, kept, worker, objects_kept, objects_worker in forms.values():
        assert worker < 2 < 6 < objects_worker and kept < objects_kept

"""Records in columns: what is read back, also of pathological lines, and that workers keep sharing their memory."""

import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from datasets.annotations import FrameFolderRecord, LineForm, ListFileError, VideoRecord, parse_line, read_list
from datasets.records import RecordTable, compact, targets_of

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


@pytest.mark.parametrize("kind", LINES)
def test_plain_lines_are_read_as_the_parser_of_all_lines_reads_them(tmp_path, kind):
    file = tmp_path / "train.csv"
    file.write_text("\n".join(LINES[kind]), encoding="utf-8")
    records, _ = read_list(file, kind=kind, data_root="/data")
    form = LineForm(" ", root="/data")
    expected = [parse_line(line.strip(), kind, i, form) for i, line in enumerate(LINES[kind], 1) if line.strip()]
    assert isinstance(records, RecordTable)
    assert list(records) == expected and records == expected and records[1:3] == expected[1:3]
    assert records[-1] == expected[-1] and targets_of(records) == [record.target for record in expected]
    with pytest.raises(IndexError):
        records[len(records)]


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
    file.write_text("".join(f"{i:0100}.mp4 1\r\n\r\n" for i in range(11_000)))  # more than SPLIT_AT_ONCE
    records, _ = read_list(file)
    assert [record.line for record in records] == list(range(1, 22_000, 2))
    assert [int(record.path[:100]) for record in records] == list(range(11_000))


def test_only_whole_clips_with_one_class_are_compacted():
    whole = [FrameFolderRecord("a", 5, 1, 2), FrameFolderRecord("b\udcff", 6, 0, 3)]
    assert isinstance(compact(whole), RecordTable) and list(compact(whole)) == whole
    assert pickle.loads(pickle.dumps(compact(whole))) == whole
    for others in ([VideoRecord("a", (1, 2), 1)], [VideoRecord("a", 1, 1), whole[0]], ["neither"], []):
        assert compact(iter(others)) == others and isinstance(compact(others), list)


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="the kernel does not tell private memory")
def test_a_worker_that_reads_all_records_keeps_sharing_them():
    """Objects would become its own, by the change of their reference counts: 180 bytes each."""
    report = subprocess.run(
        [sys.executable, "-m", "benchmarks.lists", "--lines", "60000"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    owned = {line.split()[0]: float(line.split()[-2]) for line in report.splitlines() if "MiB" in line}
    assert owned["columns"] < 2 < 6 < owned["objects"]

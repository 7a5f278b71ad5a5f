"""Names of files and classes cannot command a terminal, whichever program prints them."""

import importlib
import io
import json
import logging
import sys

import pytest
from tqdm import tqdm

from common.terminal import PrintableStream, printable
from engines.logs import setup_logging

EVIL = "a\x1b]0;title\x07b\x1b[31m\x9b5nc\x7f\u202ed\udcffe\x00"


def test_what_commands_a_terminal_is_escaped_as_in_json():
    shown = printable(EVIL + "\r\n\t")
    assert shown.isprintable() and shown.encode()
    assert json.loads(f'"{shown}"') == EVIL + "\r\n\t"


def test_what_can_be_read_stays():
    for text in ("плавание", "太极\u3000拳", "😀", "a\u00a0b", "", "back\\slash"):
        assert printable(text) == text


def test_lines_tabs_and_a_progress_bar_pass_a_stream():
    stream, plain = io.StringIO(), io.StringIO()
    for file in (PrintableStream(stream), plain):
        print("two\tcolumns\nand lines", file=file)
        for _ in tqdm(range(3), desc="videos", file=file, bar_format="{desc} {n}", leave=False):
            pass
    assert stream.getvalue() == plain.getvalue()
    print("a\rb", file=PrintableStream(stream))
    assert stream.getvalue().endswith("a\\rb\n")


def test_log_lines_and_tracebacks_are_escaped(capsys):
    setup_logging(rank=0)
    name = EVIL.replace("\udcff", "")  # pytest keeps log records, and its processes exchange them as UTF-8
    try:
        raise FileNotFoundError(name)
    except FileNotFoundError:
        logging.getLogger("datasets").warning("cannot read %s", name, exc_info=True)
    reported = capsys.readouterr().err
    assert reported.count("\\u001b[31m") == 2 and "\x1b" not in reported and "\x9b" not in reported


def test_what_the_encoding_lacks_is_escaped(monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    setup_logging(rank=0)
    sys.stdout.write(json.dumps("плавание é", ensure_ascii=False))
    sys.stdout.flush()
    assert json.loads(raw.getvalue().decode("ascii")) == "плавание é"


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("run_inference", ["--checkpoint", EVIL, "a.mp4"]),
        ("tools.check_data", [EVIL]),
        ("tools.checkpoint", ["inspect", EVIL]),
        ("tools.compare", [EVIL, EVIL]),
        ("tools.export", [EVIL, "a.onnx"]),
        ("benchmarks.hidden_attention", [EVIL, "a.mp4", "--output", "pictures"]),
        ("tools.make_lists", ["folder", EVIL, "--output", "lists"]),
        ("tools.prepare_videos", [EVIL, "--output", "small"]),
        ("benchmarks.relevance_check", [EVIL]),
        ("tools.report", [EVIL]),
    ],
)
def test_every_program_escapes_what_it_prints(program, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        sys.exit(importlib.import_module(program).main([word.replace("\x00", "") for word in words]))
    assert_escaped(capsys.readouterr())


@pytest.mark.parametrize("program", ["run_class_finetuning", "run_pretrain_imagenet"])
@pytest.mark.parametrize("flag", ["--config", "--recipe", "--sampling"])
def test_training_escapes_what_it_refuses(program, flag, capsys, monkeypatch):
    script = importlib.import_module(program)
    monkeypatch.setattr(sys, "argv", [script.SCRIPT, flag, EVIL])
    with pytest.raises(SystemExit):
        script.parse_command_line(script.get_parser(), script=script.SCRIPT)
    assert_escaped(capsys.readouterr())


def assert_escaped(reported):
    text = reported.out + reported.err
    assert "\\u001b" in text or "\\x1b" in text
    assert "\x1b" not in text and "\x9b" not in text

"""The demo's driver: the time left, its line on terminals and in logs, and what it says at the end."""

import io
import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tools.demo import STAGES, Progress, farewell, show, with_ticks

ROOT = Path(__file__).parent.parent


def output_of_the_demo(seconds_a_stage):
    """Seconds since the start and lines of a demo; each stage trains 4 epochs of 10 steps."""
    starts = ["make: set-up", "[2/4] pretraining", "[3/4] fine-tuning", "06:32:32 I testing the weights"]
    now = 0.0
    for line, seconds in zip(starts, seconds_a_stage, strict=True):
        yield now, line
        for step in range(40):
            yield (
                now + seconds * step / 40,
                f"06:26:28 I epoch {step // 10}/4 step {step % 10}/10 loss 1.3, 98 clips/s",
            )
        now += seconds


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")
@pytest.mark.parametrize(("target", "flag"), [("demo", "--output"), ("learning", "--demo")])
def test_make_takes_a_folder_with_a_space_in_its_name(target, flag):
    commands = subprocess.run(
        ["make", "-n", "--no-print-directory", target, "OUTPUT=two words"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    words = shlex.split(commands.splitlines()[-1])
    assert words[words.index(flag) + 1] == "two words"


def test_the_scripts_lines_begin_the_stages():
    script = (ROOT / "scripts" / "demo.sh").read_text()
    progress = Progress()
    begun = [line for line in script.replace('echo "', "").splitlines() if progress.read(line)]
    assert len(begun) == 2 and progress.stage == 2
    assert progress.read("06:32:32 I testing the weights of outputs/demo/checkpoint-best.pth") and progress.stage == 3


@pytest.mark.parametrize("slower", [0.5, 1.0, 3.0])
def test_the_time_left_adapts_to_the_machine(slower):
    # The set-up depends on the network: as here it may take five times as long without slowing down what follows.
    taken = [5 * STAGES[0].seconds, *(slower * stage.seconds for stage in STAGES[1:])]
    clock = Clock()
    progress = Progress(clock)
    for clock.now, line in output_of_the_demo(taken):
        progress.read(line)
        left = sum(taken) - clock.now
        if progress.stage >= 2:  # the pretraining is over: the machine's speed is known
            assert progress.seconds_left() == pytest.approx(left, rel=0.1, abs=5)
    assert progress.stage == len(STAGES) - 1


def test_a_second_run_has_no_set_up_and_no_data():
    clock = Clock()
    progress = Progress(clock)
    clock.now += 1
    progress.read("[2/4] pretraining")
    clock.now += STAGES[1].seconds
    progress.read("[3/4] fine-tuning")
    assert progress.seconds_left() == pytest.approx(sum(stage.seconds for stage in STAGES[2:]), rel=0.15)


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_log_has_plain_lines_and_a_terminal_one_line_below_them():
    lines = [line for _, line in output_of_the_demo([10] * 4)]
    log, terminal = io.StringIO(), Terminal()
    show(iter([*lines, None]), Progress(Clock()), log)
    show(iter([*lines, None]), Progress(Clock()), terminal)
    written = log.getvalue().splitlines()
    assert "\r" not in log.getvalue() and "\x1b" not in log.getvalue()
    assert [line for line in written if not line.startswith("demo ")] == lines
    assert [line.split(":")[0] for line in written if line.startswith("demo ")] == [f"demo {k}/4" for k in range(2, 5)]
    assert terminal.getvalue().endswith("\r\x1b[K"), "nothing is left over"
    visible = [part.split("\r\x1b[K")[-1] for part in terminal.getvalue().split("\n")]
    assert visible[:-1] == lines


def test_the_clock_ticks_while_nothing_is_printed():
    reader, writer = os.pipe()
    with os.fdopen(reader) as lines:
        ticks = with_ticks(lines, seconds=0.01)
        assert next(ticks) is None
        os.write(writer, b"one\n")
        os.close(writer)
        assert [line for line in ticks if line is not None] == ["one\n"]


def test_the_end_names_the_result_and_three_commands_that_exist(tmp_path):
    results = {"top1": 97.1875, "classes": 8, "videos": 320, "views": 12}
    (tmp_path / "results.json").write_text(json.dumps(results))
    text = farewell(tmp_path, ".venv/bin/python")
    assert "top-1 97.19 % (chance 12.50 %)" in text and str(tmp_path / "report.html") in text
    commands = [line.strip() for line in text.splitlines() if line.startswith("    ")]
    assert len(commands) == 3
    for command, flags in zip(commands, (set(), {"--heatmap", "--annotate"}, set()), strict=True):
        words = shlex.split(command.split("&&")[-1])
        assert words[0] == ".venv/bin/python" and (ROOT / words[1]).is_file()
        source = (ROOT / words[1]).read_text()
        assert all(f'"{flag}"' in source for flag in flags) and flags <= set(words)


def test_it_needs_nothing_that_is_yet_to_be_installed():
    code = "import sys, tools.demo; sys.exit(bool({'numpy', 'torch', 'tqdm'} & set(sys.modules)))"
    subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r}); {code}"], check=True
    )


def test_what_runs_beside_the_installation_of_pytorch_does_not_import_it():
    missing = "import sys; sys.modules |= dict.fromkeys(['torch', 'torchvision', 'timm'])"
    code = f"{missing}; import datasets.pixels, tools.make_moving_digits"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)

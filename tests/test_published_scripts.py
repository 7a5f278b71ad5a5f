"""The published fine-tuning scripts' command lines, as data: each runs as pasted, up to the end of a dry run."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from video_files import numbered_frames, write_video

import run_action_detection
import run_class_finetuning
from engines.configuration import parse_arguments
from engines.dry_run import dry_run
from engines.early_check import check_command_line
from engines.published_flags import Handling, RefusedFlagError, published_flags, translate
from models.arguments import ModelSettings
from models.build import build_model
from tools.flag_table import document

ROOT = Path(__file__).parent.parent
DATA = Path(__file__).parent / "data"
SCRIPT = run_class_finetuning.SCRIPT

# Flags that every published script sets, in addition to the columns of the table.
OF_VIDEOMAMBA = (
    "--num_sample 2 --save_ckpt_freq 100 --num_workers 12 --tubelet_size 1 --opt adamw --opt_betas 0.9 0.999 "
    "--test_num_crop 3 --dist_eval --test_best --bf16"
)
OF_VIDEOMAE = (
    "--input_size 224 --num_frames 16 --opt adamw --opt_betas 0.9 0.999 --weight_decay 0.05 --test_num_crop 3 "
    "--dist_eval --enable_deepspeed --local-rank=0"
)
# The same run on a network that is built in a moment; the sizes of the published ones are those of the recipes' tests.
SMALL = ["--model", "videomambapro_nano", "--input_size", "32", "--short_side_size", "32", "--device", "cpu"]
SMALL += ["--depth", "1", "--batch_size", "2", "--num_workers", "0"]


def rows(name):
    with open(DATA / name, newline="") as file:
        return list(csv.DictReader(file))


def words_of(row, data):
    """The command line of a row; the weights that it names are taken from `data`."""
    words = []
    for flag, value in row.items():
        if flag == "script" or not value:
            continue
        if flag == "finetune":
            value = str(data / "weights.pth")
        words += [f"--{flag}"] if value == "yes" else [f"--{flag}", value]
    root = "--prefix" if "split" in row else "--data_root"
    lists = data / ("commas" if row.get("split") else "spaces")
    return [*words, "--short_side_size", row.get("input_size", "224"), "--data_path", str(lists), root, str(data)]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Three videos, lists with commas and with spaces, and weights of the small network."""
    folder = tmp_path_factory.mktemp("published")
    for i in range(3):
        write_video(folder / f"v{i}.mp4", numbered_frames(6, 32, 48))
    for lists, separator in (("commas", ","), ("spaces", " ")):
        (folder / lists).mkdir()
        for name in ("train", "val", "test"):
            (folder / lists / f"{name}.csv").write_text("".join(f"v{i % 3}.mp4{separator}{i % 3}\n" for i in range(4)))
    model = build_model(ModelSettings("videomambapro_nano", {"img_size": 32, "num_frames": 8, "depth": 1}), 400)
    torch.save({"model": model.state_dict()}, folder / "weights.pth")
    return folder


def run(words, monkeypatch):
    """Dry-run a command line after the early check; the exit status."""
    monkeypatch.setattr("engines.list_check._try_one", lambda *_: None)  # decoding: tests/test_dry_run.py
    check_command_line(SCRIPT, words)
    args = parse_arguments(run_class_finetuning.get_parser(), [*words, "--dry_run"], script=SCRIPT)
    return dry_run(run_class_finetuning.TASK, args, measure=False)


@pytest.mark.parametrize("row", rows("videomamba_scripts.csv"), ids=lambda row: row["script"])
def test_a_script_of_videomamba_ends_in_a_dry_run(row, data, monkeypatch, caplog):
    words = [*words_of(row, data), *OF_VIDEOMAMBA.split()]
    args = parse_arguments(run_class_finetuning.get_parser(), words, script=SCRIPT)
    assert (args.model, args.lr, args.epochs) == (row["model"], float(row["lr"]), int(row["epochs"]))
    assert args.test_best and args.bf16 and args.layer_decay == float(row["layer_decay"] or 0.75)
    caplog.clear()
    with caplog.at_level("INFO"):
        assert run([*words, *SMALL], monkeypatch) == 0
    assert "dry run: no faults" in caplog.text
    assert ("--orig_t_size" in caplog.text) == bool(row["orig_t_size"])
    assert "--dist_eval is ignored: evaluation is always shared among all processes" in caplog.text
    assert ("no --finetune FILE: the run starts from random weights" in caplog.text) == (not row["finetune"])


@pytest.mark.parametrize("row", rows("videomae_scripts.csv"), ids=lambda row: row["script"])
def test_a_script_of_videomae_ends_in_a_dry_run_with_a_network_that_is_here(row, data, monkeypatch, caplog, capsys):
    words = [*words_of(row, data), *OF_VIDEOMAE.split(), "--finetune", str(data / "weights.pth")]
    with pytest.raises(SystemExit) as ended:
        check_command_line(SCRIPT, words)
    assert ended.value.code == 2
    assert f"--model {row['model']} is a vision transformer" in capsys.readouterr().err
    with caplog.at_level("INFO"):
        assert run([*words, *SMALL], monkeypatch) == 0
    assert "dry run: no faults" in caplog.text
    assert "--enable_deepspeed is ignored" in caplog.text and "--local-rank 0 is ignored" in caplog.text


def test_every_flag_has_the_fate_that_the_table_says():
    native = run_class_finetuning.get_parser()._option_string_actions
    for flag in published_flags().values():
        known = flag.option in native or flag.option.replace("--no_", "--no-") in native
        assert known == (flag.handling is Handling.SAME), flag.option
        if flag.handling is Handling.REPLACED:
            assert flag.replacement.replace("--no_", "--no-") in native, flag.option
        elif flag.handling is not Handling.SAME:
            assert flag.remark, flag.option


# Copied from the two parsers, so that none of their flags is forgotten.
PARSERS = (DATA / "published_parsers.txt").read_text().split("\n\n")


@pytest.mark.parametrize("index", [0, 1])
def test_every_flag_of_the_published_parsers_is_in_the_table(index):
    whose, *names = PARSERS[index].split()
    table = {flag.option[2:] for flag in published_flags().values() if flag.origin in ("both", whose)}
    assert table == set(names)


@pytest.mark.parametrize(
    ("words", "becomes", "fragment"),
    [
        ("--no_amp", "--no_bf16", "--no_amp is read as --no_bf16 (float32)"),
        ("-b 4 -j 2", "--batch_size 4 --num_workers 2", "-b is read as --batch_size"),
        ("--accum-iter=2", "--update_freq=2", "--accum-iter is read as --update_freq"),
        ("--blr 1e-3 --img_size 96", "--lr 1e-3 --input_size 96", "for 256 clips per step"),
        ("--dist_url env:// --lr 3", "--lr 3", "--dist_url env:// is ignored: torchrun or srun"),
        ("--save_ckpt --lr 3", "--lr 3", "--save_ckpt is ignored: checkpoints are always written"),
        ("--model_key model|module --delete_head", "--delete_head", "--model_key model|module is ignored"),
        ("--num_segments 1", "", "--num_segments 1 is ignored: it changes nothing"),
    ],
)
def test_flags_are_translated_with_a_line_each(words, becomes, fragment):
    translated, notes = translate(words.split())
    assert translated == becomes.split()
    assert len(notes) >= 1 and fragment in " ".join(notes)


@pytest.mark.parametrize(
    ("words", "fragment"),
    [
        ("--num_segments 3", "--num_segments has no counterpart: a clip has --num_frames frames"),
        ("--model_key teacher", "tools.checkpoint convert --ema"),
        ("--weight_decay_end 0.1", "the weight decay is constant"),
        ("--patience 3", "checkpoint-best.pth"),
        ("--head_lr 1", "--layer_decay_scope layers"),
        ("--wandb", "is --track wandb here"),
    ],
)
def test_what_would_change_the_result_is_refused(words, fragment):
    with pytest.raises(RefusedFlagError) as refused:
        translate(words.split())
    assert fragment in str(refused.value) and "\n" not in str(refused.value)


def test_a_flag_that_a_script_has_itself_is_left_alone():
    words = ["--fps", "30", "--no_amp"]
    assert translate(words, known=["--fps"])[0] == ["--fps", "30", "--no_bf16"]
    with pytest.raises(RefusedFlagError, match="--fps has no counterpart"):
        translate(words)
    known = run_action_detection.get_parser()._option_string_actions
    assert translate(["--fps", "25"], known)[0] == ["--fps", "25"]


def test_the_document_is_the_table():
    assert (ROOT / "docs" / "flags.md").read_text(encoding="utf-8") == document()


def faulty_words(data):
    lists = ["--data_path", str(data / "spaces"), "--data_root", str(data)]
    run = str(data / "run")
    names = "name one of its files: checkpoint-latest.pth, checkpoint-best.pth, checkpoint-4.pth"
    (data / "run").mkdir()
    for name in ("best", "latest", "4"):
        (data / "run" / f"checkpoint-{name}.pth").touch()
    return {
        "--data_set image_folder": ["--data_set", "image_folder"],
        'unknown --data_set "Kinetcs"': ["--data_set", "Kinetcs"],
        "no-such.pth: there is no such file; python -m tools.weights": [*lists, "--finetune", "no-such.pth"],
        "--finetune https://x/y.pth is an address": [*lists, "--finetune", "https://x/y.pth"],
        "--resume gone.pth: there is no such file": [*lists, "--resume", "gone.pth"],
        f"--resume {run} is the folder of a run; {names}": [*lists, "--resume", run],
        f"--finetune {run} is the folder of a run; {names}": [*lists, "--finetune", run],
        "no-list.csv: there is no such file": [*lists, "--val_list", "no-list.csv"],
        "is not a folder": ["--data_path", "/no/such/folder"],
        "no run 'tiny_f9'": [*lists, "--recipe", "k400/tiny_f9"],
        "is for run_pretrain_imagenet.py": [*lists, "--recipe", "imagenet/tiny_res224"],
        "both set defaults": [*lists, "--recipe", "k400", "--config", "x.yaml"],
        "contradicts --data_set SSV2": [*lists, "--data_set", "SSV2", "--nb_classes", "7"],
        "--short_side_size 90 and --input_size 100": [*lists, "--input_size", "100", "--short_side_size", "90"],
        "--num_frames 9 must be a multiple of --tubelet_size 2": [*lists, "--num_frames", "9", "--tubelet_size", "2"],
        "--input_size: 128 224 96: give height and width": [*lists, "--input-size", "128", "224", "96"],
        "--num_frames: must be a whole number": [*lists, "--num_frames", "0"],
        "--patience has no counterpart": [*lists, "--patience", "3"],
    }


WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None  # an import of it fails
from engines.early_check import check_command_line
for words in {cases}:
    try:
        check_command_line("run_class_finetuning.py", words)
    except SystemExit as ended:
        print(ended.code, file=sys.stderr)
    else:
        print("passed", file=sys.stderr)
"""


def test_faults_are_reported_in_one_line_without_torch(data):
    cases = faulty_words(data)
    right = ["--data_path", str(data / "spaces"), "--input_size", "100", "--no_amp"]
    code = WITHOUT_TORCH.format(cases=[*cases.values(), right])
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    lines = ended.stderr.splitlines()
    assert len(lines) == 2 * len(cases) + 1, ended.stderr
    for fragment, line, status in zip(cases, lines[::2], lines[1::2], strict=False):
        assert status == "2" and fragment in line
    assert lines[-1] == "passed", "the control"


@pytest.mark.parametrize(
    ("script", "words", "fragment"),
    [
        ("run_class_finetuning.py", ["--data_set", "image_folder"], "--data_set image_folder"),
        ("run_pretrain_imagenet.py", ["--finetune", "gone.pth"], "--finetune gone.pth: there is no such file"),
        ("run_action_detection.py", ["--recipe", "avaa"], "no recipe 'avaa'"),
        ("run_inference.py", ["--checkpoint", "gone.pth", "v.mp4"], "--checkpoint gone.pth: there is no such file"),
        ("run_demo_app.py", ["--checkpoint", "gone.pth"], "--checkpoint gone.pth: there is no such file"),
    ],
)
def test_the_scripts_refuse_before_they_import_torch(script, words, fragment):
    code = f"import runpy, sys; sys.modules['torch'] = None; sys.argv = {[script, *words]}; "
    code += f"runpy.run_path({script!r}, run_name='__main__')"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, env=environment)
    assert ended.returncode == 2 and ended.stderr.count("\n") == 1
    assert fragment in ended.stderr


def test_what_is_found_while_a_run_is_put_together_is_one_line_too(data, capsys):
    words = ["--data_path", str(data / "spaces"), "--data_root", str(data), "--model", "videomambapro_tinny"]
    flags = parse_arguments(run_class_finetuning.get_parser(), [*words, "--device", "cpu"], script=SCRIPT)
    with pytest.raises(SystemExit) as ended:
        run_class_finetuning.main(flags)
    assert ended.value.code == 2
    assert "error: --model 'videomambapro_tinny' is not registered" in capsys.readouterr().err

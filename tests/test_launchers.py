"""The shell scripts: what they start, on one GPU, several and several machines, and what they refuse."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from video_files import numbered_frames, write_video

from engines.recipe import load_recipe

ROOT = Path(__file__).parent.parent
SCRIPTS = sorted((ROOT / "scripts").glob("*.sh")) + [ROOT / "scripts" / "slurm.sbatch"]
LAUNCHERS = {
    "pretrain_imagenet.sh": ("run_pretrain_imagenet.py", "imagenet/tiny_res224"),
    "pretrain_masked_k400.sh": ("run_pretrain_masked.py", "masked_k400/tiny_f8_res224"),
    "pretrain_masked_ssv2.sh": ("run_pretrain_masked.py", "masked_ssv2/tiny_f8_res224"),
    "finetune_k400.sh": ("run_class_finetuning.py", "k400/tiny_f16_res224"),
    "finetune_ssv2.sh": ("run_class_finetuning.py", "ssv2/tiny_f16_res224"),
    "finetune_ucf101.sh": ("run_class_finetuning.py", "ucf101/tiny_f16_res224"),
    "finetune_hmdb51.sh": ("run_class_finetuning.py", "hmdb51/tiny_f16_res224"),
    "finetune_ava.sh": ("run_action_detection.py", "ava/tiny_f16_res224"),
    "finetune_jhmdb.sh": ("run_class_finetuning.py", "jhmdb/nano_f8_res96"),
    "finetune_custom.sh": ("run_class_finetuning.py", "custom/tiny_f16_res224"),
}


@pytest.fixture
def echo(tmp_path):
    """A stand-in for Python that prints its arguments, one a line."""
    program = tmp_path / "echo_arguments"
    program.write_text('#!/usr/bin/env bash\nprintf "%s\\n" "$@"\n')
    program.chmod(0o755)
    return program


def launched(echo, script, *words, status=0, **environment):
    """The arguments that a script gives Python, or what it says when it refuses."""
    done = subprocess.run(
        ["bash", str(ROOT / "scripts" / script), *words],
        env=os.environ | {"PYTHON": str(echo)} | environment,
        capture_output=True,
        text=True,
        cwd="/",
    )
    assert done.returncode == status, done.stderr
    return done.stdout.splitlines() if status == 0 else done.stderr


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_whole(script):
    subprocess.run(["bash", "-n", str(script)], check=True)
    checker = shutil.which("shellcheck")
    if checker:
        subprocess.run([checker, str(script)], check=True)


@pytest.mark.parametrize("script", LAUNCHERS)
def test_one_gpu_starts_python_itself(echo, script):
    run_script, recipe = LAUNCHERS[script]
    words = launched(echo, script, "--data_root", "/a b", "--output_dir", "out dir")
    expected = [
        str(ROOT / run_script),
        "--recipe",
        recipe,
        "--data_root",
        "/a b",
        "--data_path",
        "/a b",
        "--output_dir",
        "out dir",
    ]
    assert words == expected
    assert load_recipe(recipe).script == run_script


def test_paths_are_relative_to_the_folder_one_is_in(echo):
    echo.write_text("#!/usr/bin/env bash\npwd\n")
    assert launched(echo, "finetune_custom.sh", "--data_root", "videos") == ["/"], "where `launched` starts the script"


def test_model_frames_resolution_and_lists_choose_the_run(echo):
    words = launched(echo, "finetune_k400.sh", "--data_root", "/v", "--data_path", "/lists", "--model", "middle",
                     "--frames", "64", "--res", "384", "--lr", "1e-5")  # fmt: skip
    assert words[1:] == ["--recipe", "k400/middle_f64_res384", "--data_root", "/v", "--data_path", "/lists",
                         "--lr", "1e-5"]  # fmt: skip
    assert launched(echo, "finetune_k400.sh", "--recipe", "k400/small_f8_res224")[2] == "k400/small_f8_res224"


def test_several_gpus_and_machines_start_torchrun(echo):
    words = launched(echo, "finetune_ssv2.sh", "--gpus", "8")
    assert words[:6] == ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "8",
                         str(ROOT / "run_class_finetuning.py")]  # fmt: skip
    many = ["--gpus", "4", "--nodes", "2", "--node_rank", "1", "--master_addr", "host7"]
    words = " ".join(launched(echo, "finetune_ssv2.sh", *many, SLURM_JOB_ID="77"))
    assert "--nnodes 2 --nproc_per_node 4 --rdzv_backend c10d --rdzv_endpoint host7:29500 --rdzv_id 77" in words
    assert f"--rdzv_conf is_host=false {ROOT}/run_class_finetuning.py" in words
    words = launched(echo, "finetune_ssv2.sh", *many, SLURM_JOB_ID="")
    assert words[words.index("--rdzv_id") + 1] == "ssv2-tiny_f16_res224", "torchrun makes a folder of that name"


def test_a_dry_run_is_one_process_that_hears_of_all(echo):
    words = launched(echo, "finetune_k400.sh", "--gpus", "8", "--nodes", "2", "--master_addr", "h", "--dry_run")
    assert words[0] == str(ROOT / "run_class_finetuning.py") and words[-2:] == ["--dry_run", "16"]


def test_evaluate_takes_a_checkpoint_and_a_data_set(echo):
    words = launched(
        echo, "evaluate.sh", "--checkpoint", "w.pth", "--data_set", "ssv2", "--data_root", "/v", "--gpus", "0"
    )
    expected = "--recipe ssv2 --data_root /v --data_path /v --device cpu --eval --finetune w.pth"
    assert words == [str(ROOT / "run_class_finetuning.py"), *expected.split()]
    words = launched(echo, "evaluate.sh", "--checkpoint", "w", "--data_set", "imagenet")
    assert words[0] == str(ROOT / "run_pretrain_imagenet.py")


@pytest.mark.parametrize(
    ("script", "words", "message"),
    [
        ("evaluate.sh", [], "--checkpoint FILE is required"),
        ("evaluate.sh", ["--checkpoint"], "--checkpoint needs a value"),
        ("finetune_k400.sh", ["--gpus", "two"], "--gpus must be an integer, not 'two'"),
        ("finetune_k400.sh", ["--frames"], "--frames needs a value"),
        ("finetune_k400.sh", ["--nodes", "2"], "requires --master_addr"),
        ("finetune_k400.sh", ["--nodes", "2", "--node_rank", "2"], "must be between 0 and --nodes - 1"),
    ],
)
def test_what_cannot_be_started_is_refused(echo, script, words, message):
    assert message in launched(echo, script, *words, status=2)


@pytest.fixture
def slurm(tmp_path):
    """A folder with stand-ins: scontrol lists two machines or records requeued jobs, srun runs its command."""
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "scontrol").write_text(
        f'#!/usr/bin/env bash\nif [[ $1 == requeue ]]; then echo "$@" >{tmp_path}/requeued; exit; fi\n'
        'printf "nodeA\\nnodeB\\n"\n'
    )

    def make(srun):
        (tools / "srun").write_text(f"#!/usr/bin/env bash\n{srun}\n")
        for tool in tools.iterdir():
            tool.chmod(0o755)
        return dict(PATH=f"{tools}:{os.environ['PATH']}", SLURM_JOB_NODELIST="node[A-B]", SLURM_JOB_ID="20007",
                    SLURM_NNODES="2", SLURM_GPUS_ON_NODE="8")  # fmt: skip

    return make


def test_slurm_starts_the_script_on_every_machine(echo, slurm):
    environment = slurm('exec env SLURM_NODEID=1 "${@:2}"')
    script = str(ROOT / "scripts" / "finetune_k400.sh")
    words = " ".join(launched(echo, "slurm.sbatch", script, "--data_root", "/v", **environment))
    assert "--nnodes 2 --nproc_per_node 8 --rdzv_backend c10d --rdzv_endpoint nodeA:20007" in words
    assert "is_host=false" in words and "--recipe k400/tiny_f16_res224 --data_root /v" in words


@pytest.mark.parametrize(("status", "final"), [(75, 0), (1, 1), (0, 0)])
def test_a_stopped_slurm_job_and_no_other_goes_back_into_the_queue(echo, slurm, tmp_path, status, final):
    launched(echo, "slurm.sbatch", "script.sh", status=final, **slurm(f"exit {status}"))
    requeued = tmp_path / "requeued"
    assert requeued.exists() == (status == 75)
    assert not requeued.exists() or requeued.read_text() == "requeue 20007\n"


# In torchrun's place: its process leaves 75 in the file at a signal, and it itself ends with 1 in any case.
TORCHRUN = """#!{python}
import os, signal, subprocess, sys, time

def leave(*_):
    open(os.environ["VIDEOMAMBAPRO_EXIT_FILE"], "w").write("75")
    sys.exit(75)

if sys.argv[1:] == ["process"]:
    signal.signal(signal.SIGTERM, leave)
    signal.signal(signal.SIGUSR1, leave)
    print("ready", flush=True)
    time.sleep({seconds})
    sys.exit("failed")
child = subprocess.Popen([sys.executable, "-S", __file__, "process"], stdout=subprocess.PIPE)
signal.signal(signal.SIGTERM, lambda *_: child.terminate())
print(child.stdout.readline().decode(), end="", flush=True)  # once both of them can be stopped
child.wait()
sys.exit(1)
"""


@pytest.mark.parametrize(
    ("number", "expected"), [(signal.SIGTERM, 75), (signal.SIGUSR1, 75), (None, 1)], ids=["TERM", "USR1", "failed"]
)
def test_the_launcher_tells_a_stop_from_a_failure(tmp_path, number, expected):
    program = tmp_path / "torchrun"
    program.write_text(TORCHRUN.format(python=sys.executable, seconds=600 if number else 0))
    program.chmod(0o755)
    words = ["bash", str(ROOT / "scripts" / "finetune_k400.sh"), "--gpus", "2"]
    process = subprocess.Popen(words, env=os.environ | {"PYTHON": str(program)}, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    if number:
        process.send_signal(number)
    assert process.wait(120) == expected


def test_the_launcher_is_stopped_before_its_processes_can_say_so(tmp_path):
    program = tmp_path / "torchrun"
    program.write_text("#!/usr/bin/env bash\necho ready\nexec sleep 600\n")
    program.chmod(0o755)
    words = ["bash", str(ROOT / "scripts" / "finetune_k400.sh"), "--gpus", "2"]
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process = subprocess.Popen(words, env=os.environ | {"PYTHON": str(program)}, **pipes)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    assert "stopped by SIGTERM: exiting with status 75" in process.communicate(timeout=120)[1]
    assert process.returncode == 75


def test_the_whole_way_to_the_estimate(tmp_path):
    for i in range(2):
        write_video(tmp_path / f"v{i}.mp4", numbered_frames(20))
    for name in ("train", "val", "test"):
        (tmp_path / f"{name}.csv").write_text("".join(f"v{i % 2}.mp4 {i}\n" for i in range(10)))
    words = ["--data_root", str(tmp_path), "--model", "tiny", "--frames", "16", "--gpus", "1", "--dry_run"]
    words += ["--input_size", "32", "--short_side_size", "32", "--depth", "4", "--num_sample", "1"]
    done = subprocess.run(
        ["bash", str(ROOT / "scripts" / "finetune_k400.sh"), *words],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHON": sys.executable},
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("estimate: ") == 3
    assert done.stderr.rstrip().endswith("dry run: no faults; the run was not started")

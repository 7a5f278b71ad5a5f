"""Videos, lists, a teacher and runs of masked pretraining that take seconds."""

from pathlib import Path

import torch
from inference_files import write_moving_video

import run_pretrain_masked
from engines.configuration import parse_arguments
from models.arguments import ModelSettings
from models.build import build_model
from models.describe import configuration_of

SMALL = ("--model", "videomambapro_nano", "--depth", "2", "--input_size", "32", "--short_side_size", "32")
CLIPS = 8


def write_lists(folder: Path) -> Path:
    """Write videos, bare.csv with their paths, train.csv and probe.csv with labels too, and teacher.pth of images."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"v{i}.mp4" for i in range(CLIPS)]
    for seed, name in enumerate(names):
        write_moving_video(folder / name, 8, seed=seed)
    (folder / "bare.csv").write_text("".join(f"{name}\n" for name in names))
    for listed in ("train.csv", "probe.csv"):
        (folder / listed).write_text("".join(f"{name} {i % 2}\n" for i, name in enumerate(names)))
    torch.manual_seed(0)
    images = build_model(ModelSettings("videomambapro_nano", {"img_size": 32, "num_frames": 1, "depth": 2}), 4)
    torch.save({"model": images.state_dict(), "model_config": configuration_of(images)}, folder / "teacher.pth")
    return folder


def flags_for(folder: Path, output: Path | str, *words: str):
    """The flags of a run of two epochs with two steps each; later words override earlier ones."""
    shared = ("--teacher", str(folder / "teacher.pth"), "--mask_type", "tube", "--mask_ratio", "0.5")
    rest = ("--epochs", "2", "--warmup_epochs", "0", "--batch_size", "4", "--lr", "0.03", "--eval_freq", "1")
    machine = ("--num_workers", "0", "--read_timeout", "0", "--device", "cpu", "--no_bf16", "--log_interval", "1")
    lists = ("--train_list", str(folder / "bare.csv"), "--data_root", str(folder), "--num_frames", "4")
    parser = run_pretrain_masked.get_parser()
    words = [*SMALL, *shared, *rest, *machine, *lists, "--output_dir", str(output), *words]
    return parse_arguments(parser, words, script=run_pretrain_masked.SCRIPT, settle=run_pretrain_masked.check_flags)


def pretrain(folder: Path, output: Path | str, *words: str) -> Path:
    """Run it and return the output folder."""
    run_pretrain_masked.main(flags_for(folder, output, *words))
    return Path(output)

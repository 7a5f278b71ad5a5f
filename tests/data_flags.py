"""Data settings for tests: by default small clips, no augmentation and no dataloader workers."""

import argparse
from dataclasses import replace

from datasets.arguments import DataSettings, add_data_arguments


def data_flags(root, *flags, seed=0):
    """Parse `flags` after default flags for small clips from lists and files in `root`."""
    parser = argparse.ArgumentParser()
    add_data_arguments(parser)
    small = ["--input_size", "32", "--short_side_size", "32", "--num_frames", "4", "--sampling_rate", "2"]
    light = ["--num_workers", "0", "--batch_size", "3", "--aa", "none", "--num_sample", "1", "--reprob", "0"]
    # the tests of the guard switch it on
    light += ["--read_timeout", "0"]
    where = ["--data_path", str(root), "--data_root", str(root)]
    args = parser.parse_args([*small, *light, *where, *flags])
    return replace(DataSettings.from_flags(args), seed=seed)

#!/usr/bin/env bash
# Fine-tunes on UCF101 with a stand-in recipe (none is published) and tests 5 segments x 3 crops.
#
#   bash scripts/finetune_ucf101.sh --data_root DIR --model tiny|small|middle --gpus 8 --finetune WEIGHTS [--dry_run]
#
# All options: scripts/launch.sh; the numbers: recipes/ucf101.yaml.
exec bash "$(dirname "$0")/launch.sh" run_class_finetuning.py ucf101 --frames 16 "$@"

#!/usr/bin/env bash
# Fine-tune on UCF101 with our own recipe (none is published) and test 5 segments x 3 crops.
#
#   bash scripts/finetune_ucf101.sh --data_root DIR --model tiny|small|middle --gpus 8 --finetune WEIGHTS [--dry_run]
#
# All options: scripts/launch.sh; settings: recipes/ucf101.yaml.
exec bash "$(dirname "$0")/launch.sh" run_class_finetuning.py ucf101 --frames 16 "$@"

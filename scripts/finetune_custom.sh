#!/usr/bin/env bash
# Fine-tune on your own videos: lists of `path label`, from which the classes are read. Frames 8, 16, 32, 64.
#
#   bash scripts/finetune_custom.sh --data_root DIR --model tiny|small|middle --frames 16 --gpus 4 --finetune WEIGHTS [--dry_run]
#
# All options: scripts/launch.sh; settings: recipes/custom.yaml.
exec bash "$(dirname "$0")/launch.sh" run_class_finetuning.py custom --frames 16 "$@"

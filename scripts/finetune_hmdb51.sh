#!/usr/bin/env bash
# Fine-tune on HMDB51 with our own recipe (none is published) and test 5 segments x 3 crops.
#
#   bash scripts/finetune_hmdb51.sh --data_root DIR --model tiny|small|middle --gpus 8 --finetune WEIGHTS [--dry_run]
#
# All options: scripts/launch.sh; settings: recipes/hmdb51.yaml.
exec bash "$(dirname "$0")/launch.sh" run_class_finetuning.py hmdb51 --frames 16 "$@"

#!/usr/bin/env bash
# Fine-tunes on HMDB51 with a stand-in recipe (none is published) and tests 5 segments x 3 crops.
#
#   bash scripts/finetune_hmdb51.sh --data_root DIR --model tiny|small|middle --gpus 8 --finetune WEIGHTS [--dry_run]
#
# All options: scripts/launch.sh; the numbers: recipes/hmdb51.yaml.
exec bash "$(dirname "$0")/launch.sh" run_class_finetuning.py hmdb51 --frames 16 "$@"

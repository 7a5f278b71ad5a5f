#!/usr/bin/env bash
# Fine-tune on Kinetics-400 and test 4 segments x 3 crops. Frames 8, 16, 32, 64; --res 384 at 64.
#
#   bash scripts/finetune_k400.sh --data_root DIR --model tiny|small|middle|middle_masked --frames 16 --gpus 8 --finetune WEIGHTS [--dry_run]
#
# All options: scripts/launch.sh; settings: recipes/k400.yaml.
exec bash "$(dirname "$0")/launch.sh" run_class_finetuning.py k400 --frames 16 "$@"

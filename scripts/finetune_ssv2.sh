#!/usr/bin/env bash
# Fine-tune on Something-Something V2 and test 2 segments x 3 crops. Frames 8, 16; --res 288 at 16.
#
#   bash scripts/finetune_ssv2.sh --data_root DIR --model tiny|small|middle|middle_masked --frames 16 --gpus 8 --finetune WEIGHTS [--dry_run]
#
# All options: scripts/launch.sh; settings: recipes/ssv2.yaml.
exec bash "$(dirname "$0")/launch.sh" run_class_finetuning.py ssv2 --frames 16 "$@"

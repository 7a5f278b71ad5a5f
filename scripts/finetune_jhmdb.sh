#!/usr/bin/env bash
# Trains on J-HMDB, whose 928 clips two CPU cores can learn from, and tests 2 segments x 3 crops.
#
#   bash scripts/finetune_jhmdb.sh --data_root DIR --model nano|tiny --gpus 0 [--finetune WEIGHTS] [--dry_run]
#   bash scripts/finetune_jhmdb.sh --data_root DIR --model hybrid --res 192 --gpus 0      above an image model of timm
#
# All options: scripts/launch.sh; the numbers: recipes/jhmdb.yaml.
exec bash "$(dirname "$0")/launch.sh" run_class_finetuning.py jhmdb --model nano --frames 8 --res 96 "$@"

#!/usr/bin/env bash
# Pretrain on ImageNet-1K at resolution 224; then 448 and 576, each from the previous one (--res, --finetune).
#
#   bash scripts/pretrain_imagenet.sh --data_root DIR --model tiny|small|middle --gpus 8 [--output_dir DIR] [--dry_run]
#
# All options: scripts/launch.sh; settings: recipes/imagenet.yaml.
exec bash "$(dirname "$0")/launch.sh" run_pretrain_imagenet.py imagenet "$@"

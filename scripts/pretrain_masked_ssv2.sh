#!/usr/bin/env bash
# Masked pretraining on Something-Something V2, without its labels, with CLIP as the teacher (docs/masked.md says where it comes from).
#
#   bash scripts/pretrain_masked_ssv2.sh --data_root DIR --model tiny|small|middle --gpus 8 --teacher CLIP [--probe_list LIST] [--dry_run]
#
# All options: scripts/launch.sh; settings: recipes/masked_ssv2.yaml and recipes/masked.yaml.
exec bash "$(dirname "$0")/launch.sh" run_pretrain_masked.py masked_ssv2 --frames 8 "$@"

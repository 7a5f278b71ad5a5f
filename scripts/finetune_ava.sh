#!/usr/bin/env bash
# Trains an action detector on AVA with a stand-in recipe (none is published) and tests it. Frames 8, 16, 32.
#
#   bash scripts/finetune_ava.sh --data_path LISTS --data_root MOVIES --model tiny|small|middle --frames 16 --gpus 8 --finetune WEIGHTS [--dry_run]
#
# All options: scripts/launch.sh; the numbers: recipes/ava.yaml; the files: docs/detection.md.
exec bash "$(dirname "$0")/launch.sh" run_action_detection.py ava --frames 16 "$@"

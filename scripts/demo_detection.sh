#!/usr/bin/env bash
# Action detection on two CPU cores: make scenes of several moving digits, train a detector on them, test it with the
# boxes of an imperfect person detector, and repeat the test in ways that must fail.
#
#   bash scripts/demo_detection.sh [OUTPUT_DIR]          (make demo-detection sets the environment up first)
set -euo pipefail
output=${1:-outputs/demo_detection}
[[ $output == /* ]] || output=$PWD/$output
cd "$(dirname "$0")/.."
data=$output/data

echo "[1/3] data: scenes of one to three digits, each with a motion of its own"
python -m tools.make_moving_digits --output "$data" --digits_per_clip 1-3 --size 96 --train 2400 --val 8 --test 400

echo "[2/3] training, then testing; the times of a box are kept apart"
python run_action_detection.py --recipe moving_digits_detection/nano_f8_res96 --data_path "$data" --data_root "$data/videos" \
    --no_auto_resume --output_dir "$output"

echo "[3/3] the same test in ways that must fail"
python -m benchmarks.detection_controls "$output"

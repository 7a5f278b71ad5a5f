#!/usr/bin/env bash
# The demo's data set, unless it is there: moving handwritten digits, whose motion is the class.
#
#   bash scripts/demo_data.sh OUTPUT_DIR
set -euo pipefail
output=$1
[[ $output == /* ]] || output=$PWD/$output
cd "$(dirname "$0")/.."
exec python -m tools.make_moving_digits --output "$output" --train 9600 --num_frames 10 --frame_clips 200

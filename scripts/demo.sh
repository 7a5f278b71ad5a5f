#!/usr/bin/env bash
# The whole pipeline on two CPU cores: create a motion data set, pretrain on its images, fine-tune on its videos, test,
# write the report.
#
#   bash scripts/demo.sh [OUTPUT_DIR [SEED]]          (make demo also installs the environment and shows the time left)
#
# The data is kept: another seed, or the same command again, begins with the pretraining.
set -euo pipefail
output=${1:-outputs/demo}
[[ $output == /* ]] || output=$PWD/$output
cd "$(dirname "$0")/.."
seed=${2:-0}
data=$output/data

model=(--model videomambapro_nano --dt_init mamba --input_size 64 --short_side_size 64 --num_sample 1)
# No mirroring, because the labels are directions; no cropping, erasing or mixing, because the moving digits are small.
plain=(--aa none --hflip 0 --color_jitter 0 --scale 1 1 --ratio 1 1 --reprob 0 --mixup 0 --cutmix 0 --smoothing 0)
run=(--num_workers auto --seed "$seed" --no_auto_resume)

echo "[1/4] data: moving handwritten digits; the class is the motion"
bash scripts/demo_data.sh "$data"

echo "[2/4] pretraining on still digits"
python run_pretrain_imagenet.py "${model[@]}" "${plain[@]}" "${run[@]}" \
    --data_set custom --data_path "$data/images" --data_root "$data" \
    --batch_size 32 --epochs 8 --eval_freq 8 --warmup_epochs 1 --lr 16e-3 --output_dir "$output/pretrain"

echo "[3/4] fine-tuning on videos, then [4/4] testing 4 segments x 3 crops"
python run_class_finetuning.py "${model[@]}" "${plain[@]}" "${run[@]}" \
    --data_path "$data/videos" --data_root "$data" --label_names "$data/labels.txt" \
    --finetune "$output/pretrain/checkpoint-best.pth" \
    --num_frames 8 --sampling_rate 1 --layer_decay 1 --drop_path 0 \
    --batch_size 16 --epochs 2 --warmup_epochs 0.33 --lr 32e-3 \
    --test_num_segment 4 --test_num_crop 3 --test_best --output_dir "$output"

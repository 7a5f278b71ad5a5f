# For a CPU:           docker build -t videomambapro .
# For an NVIDIA GPU:   docker build -t videomambapro --build-arg PYTORCH=cu130 .      (then run it with --gpus all)
#
#     docker run --rm --shm-size 8g -v /data:/data videomambapro run_class_finetuning.py --recipe custom/small \
#         --data_path /data/lists --data_root /data/my_videos --output_dir /data/outputs
FROM python:3.11-slim-bookworm

# g++ compiles the kernel of the CPU, below; FFmpeg is for --reader torchcodec.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends ffmpeg g++ \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/videomambapro
COPY requirements.txt requirements-extras.txt ./

# PyTorch's own index has a folder for each kind of wheels (cpu, cu126, cu130, ...); PyPI has those of one CUDA version.
ARG PYTORCH=cpu
RUN pip install --no-cache-dir --index-url "https://download.pytorch.org/whl/${PYTORCH}" \
        -c requirements.txt -c requirements-extras.txt torch torchvision torchcodec \
    && pip install --no-cache-dir -r requirements.txt -r requirements-extras.txt

COPY . .
RUN python -m mamba.mamba_ssm.ops.selective_scan.build_extension \
    && python -m datasets.pixels

ENTRYPOINT ["python"]
CMD ["-m", "mamba.mamba_ssm.doctor"]

# An image for a CPU. For CUDA:
#   1. Leave out --extra-index-url: the wheels of PyPI hold CUDA.
#   2. Add ENV NVIDIA_DRIVER_CAPABILITIES=compute,utility
#   3. Start containers with --gpus all, on a machine with the NVIDIA Container Toolkit.
#
#   docker build --tag dmri-pretraining .
#   docker run --rm --volume "$PWD":/data dmri-pretraining scripts demo --out /data/demo
FROM python:3.11-slim

WORKDIR /project
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY transforms transforms
COPY scripts scripts
COPY bundle bundle

RUN pip install --no-cache-dir --constraint constraints.txt --editable '.[all]' \
    --extra-index-url https://download.pytorch.org/whl/cpu

# python -m scripts ..., python -m monai.bundle ...
ENTRYPOINT ["python", "-m"]
CMD ["scripts", "--help"]

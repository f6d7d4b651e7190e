# An image for a CPU. For CUDA:
#   1. Leave out the line of the CPU wheels: the wheels of PyPI hold CUDA.
#   2. Add ENV NVIDIA_DRIVER_CAPABILITIES=compute,utility
#   3. Start containers with --gpus all, on a machine with the NVIDIA Container Toolkit.
#
#   docker build --tag dmri-pretraining .
#   docker run --rm --volume "$PWD":/data dmri-pretraining scripts demo --out /data/demo
FROM python:3.12-slim

# git names the commit of a training
RUN apt-get update && apt-get install --yes --no-install-recommends git && rm -rf /var/lib/apt/lists/*

WORKDIR /project
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY transforms transforms
COPY scripts scripts
COPY bundle bundle

RUN pip install --no-cache-dir --constraint constraints.txt torch --index-url https://download.pytorch.org/whl/cpu
RUN pip install --no-cache-dir --constraint constraints.txt --editable '.[all]'

# python -m scripts ..., python -m monai.bundle ...
ENTRYPOINT ["python", "-m"]
CMD ["scripts", "--help"]

# Two images: docker build --target cpu .   and   docker build --target cuda .
# Both run Ray's containers of the Helm chart: KubeRay's commands need bash and wget.
ARG PYTHON=3.11

FROM python:${PYTHON}-slim-bookworm AS base
# g++ compiles the CPU operators at first use, for the instruction set of the node; triton's launchers need a C compiler.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends bash g++ util-linux wget \
    && rm -rf /var/lib/apt/lists/*
RUN useradd --create-home --uid 1000 ray
WORKDIR /app
# bench/ is no package; with this it can be run from wherever Ray starts drivers.
ENV PYTHONPATH=/app PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1

FROM base AS cpu
COPY . .
# --build-arg TORCH_INDEX=URL: where PyTorch offers builds without CUDA; their version ("+cpu") counts as the higher one.
# Without it the default build comes, which is gigabytes larger.
ARG TORCH_INDEX=""
# Editable: models/ and bench/ are read from here, they are no packages.
RUN pip install --constraint constraints.txt ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} --editable .
USER 1000

FROM base AS cuda
# torch's default build brings CUDA's libraries; the driver comes from the node.
COPY . .
RUN pip install --constraint constraints.txt --editable .
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 1000

# Three images of one file: not root, nothing written outside /data and /tmp, versions pinned.
#   docker build --target cpu -t lpr:cpu .             serving: no torch, no compiler, no pip
#   docker build --target gpu -t lpr:gpu .             the same, with CUDA 13 and cuDNN 9
#   docker build --target training -t lpr:training .   lpr-train, and torch with CUDA
# It listens beyond its own machine, so it starts once there is a key (or LPR_ALLOW_ANONYMOUS=true):
#   docker run --rm -v lpr:/data lpr:cpu keys create --name me --all-shops --right recognize --right index
#   docker run --read-only --tmpfs /tmp -v lpr:/data -p 127.0.0.1:8000:8000 lpr:cpu

FROM python:3.11-slim-bookworm AS build
WORKDIR /src
RUN python -m venv /opt/lpr
ENV PATH=/opt/lpr/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_NO_COMPILE=1 PIP_DISABLE_PIP_VERSION_CHECK=1
COPY pyproject.toml constraints.txt README.md LICENSE ./
# What it needs first, in a layer that a change of the code leaves as it is.
RUN python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies'], sep='\n')" \
    > requirements.txt && pip install -c constraints.txt -r requirements.txt
COPY service service
COPY training training
RUN pip install -c constraints.txt .
COPY deploy/strip.sh ./

FROM build AS build-cpu
RUN sh strip.sh /opt/lpr

FROM build AS build-gpu
# Both packages provide the module `onnxruntime`; the second must be the only one.
RUN pip uninstall -y onnxruntime && pip install -c constraints.txt 'onnxruntime-gpu[cuda,cudnn]'
RUN sh strip.sh /opt/lpr

FROM build AS build-training
RUN pip install -c constraints.txt '.[training]'

FROM python:3.11-slim-bookworm AS base
RUN useradd --uid 10001 --create-home lpr && install -d -o lpr -g lpr /data
# Without the last, onnxruntime tells its makers how it is used.
ENV PATH=/opt/lpr/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 ORT_DISABLE_TELEMETRY=1
USER lpr
VOLUME /data

FROM base AS training
# The volume holds data sets and runs:
#   docker run --gpus all --shm-size 8g -v lpr-runs:/data lpr:training fit RECIPE --data NAME=/data/...
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=build-training /opt/lpr /opt/lpr
WORKDIR /data
ENTRYPOINT ["lpr-train"]

FROM base AS serving
ENV LPR_HOST=0.0.0.0 LPR_PORT=8000 LPR_DATA_DIR=/data
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s \
    CMD ["python", "-c", "import os, urllib.request as u; u.urlopen(f'http://127.0.0.1:{os.environ[\"LPR_PORT\"]}/readyz', timeout=2)"]
ENTRYPOINT ["lpr"]
CMD ["serve"]

FROM serving AS gpu
ENV LPR_INFERENCE__PROVIDER=cuda \
    NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=build-gpu /opt/lpr /opt/lpr

FROM serving AS cpu
COPY --from=build-cpu /opt/lpr /opt/lpr

# The serving image: no torch, no compiler, not root, and nothing written outside /data.
#   docker build --target cpu -t lpr:cpu .
#   docker build --target gpu -t lpr:gpu .
# It listens beyond its own machine, so it starts once there is a key (or LPR_ALLOW_ANONYMOUS=true):
#   docker run --rm -v lpr:/data lpr:cpu keys create --name me --all-shops --right recognize --right index
#   docker run -v lpr:/data -p 127.0.0.1:8000:8000 lpr:cpu

FROM python:3.11-slim-bookworm AS build
WORKDIR /src
RUN python -m venv /opt/lpr
ENV PATH=/opt/lpr/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY service service
COPY training training
RUN pip install -c constraints.txt .

FROM build AS build-gpu
# Both packages provide the module `onnxruntime`; the second must be the only one.
RUN pip uninstall -y onnxruntime && pip install -c constraints.txt 'onnxruntime-gpu[cuda,cudnn]>=1.31'

FROM python:3.11-slim-bookworm AS runtime
RUN useradd --uid 10001 --create-home lpr && install -d -o lpr -g lpr /data
ENV PATH=/opt/lpr/bin:$PATH PYTHONUNBUFFERED=1 \
    LPR_HOST=0.0.0.0 LPR_PORT=8000 LPR_DATA_DIR=/data
USER lpr
VOLUME /data
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/readyz', timeout=2)"]
ENTRYPOINT ["lpr"]
CMD ["serve"]

FROM runtime AS gpu
COPY --from=build-gpu /opt/lpr /opt/lpr
ENV LPR_INFERENCE__PROVIDER=cuda

FROM runtime AS cpu
COPY --from=build /opt/lpr /opt/lpr

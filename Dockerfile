# One image for the study, its workers and the dashboard.
#
#   docker build --tag hpo:cpu .
#   docker build --tag hpo:cuda --build-arg ACCELERATOR=cuda .

ARG PYTHON_IMAGE=python:3.11-slim
FROM ${PYTHON_IMAGE}

ARG ACCELERATOR=cpu

# vLLM's CPU kernels link libnuma; on CUDA, Triton compiles its launchers with gcc.
RUN packages=libnuma1 \
    && if [ "${ACCELERATOR}" = cuda ]; then packages="gcc libc6-dev"; fi \
    && apt-get update \
    && apt-get install --yes --no-install-recommends ${packages} \
    && rm -rf /var/lib/apt/lists/*

# The folders become volumes, which take over the owner found here.
RUN useradd --uid 1000 --create-home hpo \
    && install --directory --owner=hpo --group=hpo \
        /var/lib/hpo /var/cache/huggingface /results /studies \
    && install --directory --owner=nobody --group=nogroup /run/sandbox

# The dependencies, in a layer that a change of our sources leaves alone: of
# these only the package's version is read, and the two texts may be empty.
WORKDIR /opt/hpo
COPY pyproject.toml ./
COPY scripts/setup scripts/
COPY hpo/__init__.py hpo/
RUN --mount=type=cache,target=/root/.cache/pip \
    touch README.md LICENSE \
    && scripts/setup --accelerator "${ACCELERATOR}" --venv /opt/venv --no-dev

COPY . .
RUN /opt/venv/bin/pip install --no-cache-dir --no-deps --force-reinstall .

ENV PATH=/opt/venv/bin:${PATH} \
    HPO_HOME=/var/lib/hpo \
    HF_HOME=/var/cache/huggingface \
    PYTHONUNBUFFERED=1 \
    TZ=UTC \
    VLLM_NO_USAGE_STATS=1

USER 1000:1000
WORKDIR /studies
ENTRYPOINT ["hpo"]
CMD ["--help"]

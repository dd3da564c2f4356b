#!/usr/bin/env bash
# A GPU in fifteen minutes: is it equal to the CPU, how fast is a training step, and how long would the paper's take?
# On a bare machine with one CUDA GPU and the torch that fits it:
#     pip install . && bench/gpu.sh | tee gpu.md
# Without a GPU, `bench/gpu.sh --device cpu --tiny` shows in seconds that all of it runs.
set -euo pipefail
cd "$(dirname "$0")/.."
export PYTHONPATH="$PWD/pipeline:$PWD${PYTHONPATH:+:$PYTHONPATH}"
exec "${PYTHON:-python3}" -m bench.gpu "$@"

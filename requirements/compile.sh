#!/usr/bin/env bash
# Resolve every lock anew. Usage: compile.sh PATH_OF_UV
# The locks hold versions and hashes and no index, so that they install from any mirror.
set -euo pipefail
cd "$(dirname "$0")/.."
uv=$(realpath "$1")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

lock() { # NAME PYTHON INPUTS AND OPTIONS...
    local name=$1 python=$2
    shift 2
    "$uv" pip compile --quiet --upgrade --universal --python-version "$python" --generate-hashes \
        --no-emit-index-url --no-annotate --no-header --output-file "$work/$name.lock" "$@"
    mv "$work/$name.lock" "requirements/$name.lock"
    echo "requirements/$name.lock: $(grep -c '==' "requirements/$name.lock") packages"
}

lock dev 3.11 pyproject.toml requirements/tools.in --extra dev
lock run 3.11 pyproject.toml --extra simulator --constraint requirements/dev.lock
lock tools 3.11 requirements/tools.in --constraint requirements/dev.lock
# JetPack 6 brings Python 3.10 and numpy 1; JetPack 7 brings 3.12.
echo 'numpy<2' >"$work/numpy1"
echo 'numpy>=2' >"$work/numpy2"
lock agent-test-3.10 3.10 pyproject.toml requirements/agent-test.in --extra litert --extra onnx --constraint "$work/numpy1"
lock agent-test-3.12 3.12 pyproject.toml requirements/agent-test.in --extra litert --extra onnx --constraint "$work/numpy2"

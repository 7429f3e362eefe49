#!/usr/bin/env bash
# Print the first command that starts a Python of that version. Usage: find-python.sh 3.11
# Looks on PATH, then among pyenv's versions; a pyenv shim on PATH also tells where those are.
set -uo pipefail
version=$1
found=()
roots=("${PYENV_ROOT:-${HOME:-/nonexistent}/.pyenv}")
while read -r candidate; do
    found+=("$candidate")
    [[ $candidate == */shims/* ]] && roots+=("${candidate%/shims/*}")
done < <(type -ap "python$version")
for root in "${roots[@]}"; do
    found+=("$root/versions/$version".*/bin/"python$version")
done
for candidate in "${found[@]}"; do
    "$candidate" -c "import sys; sys.exit('%d.%d' % sys.version_info[:2] != '$version')" >/dev/null 2>&1 || continue
    echo "$candidate"
    exit 0
done
exit 1

#!/bin/sh
# Installs a wheel with its dependencies into a new environment and makes one prediction, anywhere:
#
#   sh tests/release/clean_install.sh dist/*.whl [PYTHON] [pip options, such as -c lowest.txt]
set -eu

wheel=$(realpath "$1")
python=${2:-python3}
image=$(realpath "$(dirname "$0")/../../examples/images/cat.png")
shift; [ $# -eq 0 ] || shift

environment=$(mktemp -d)
trap 'rm -rf "$environment"' EXIT
"$python" -m venv "$environment"
"$environment/bin/pip" install --quiet "$@" "$wheel"
cd "$environment"
"$environment/bin/pip" check
"$environment/bin/python" -VV
"$environment/bin/allcnn-zoo" predict --weights cifar10_best "$image"

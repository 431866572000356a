#!/usr/bin/env bash
# Build all images, or those that are named: images/build.sh [trigger] [train] [convert] [edge] [cloud]
#
# From the environment:
#   EDGE_IMAGE_PREFIX    registry and folder, as for `python -m pipelines compile`; default edge-learning
#   EDGE_IMAGE_TAG       default: the version
#   PUSH=1               push them, too
#   BASE_IMAGE           a Debian with Python 3.11; default python:3.11-slim-bookworm
#   PIP_INDEX_URL        where packages come from; default PyPI
#   CA_CERTIFICATE       file with the certificates to check that server by; no image keeps it
#   TORCH                cuda (default) or cpu
#   TORCH_CPU_INDEX_URL  where TORCH=cpu comes from; default download.pytorch.org
#   PLATFORM             such as linux/arm64; default: this machine's
#   DOCKER               the client, whose `build` must be BuildKit; default docker
#   BUILD_OPTIONS        more words for `docker build`, such as --network=host
set -euo pipefail
cd "$(dirname "$0")/.."

docker=${DOCKER:-docker}
version=$(sed -n 's/^VERSION = "\(.*\)"$/\1/p' components/core/version.py)
options=(--build-arg "VERSION=$version" --build-arg "REVISION=$(git rev-parse HEAD 2>/dev/null || echo unknown)")
for name in BASE_IMAGE PIP_INDEX_URL TORCH TORCH_CPU_INDEX_URL; do
    if [ -n "${!name:-}" ]; then options+=(--build-arg "$name=${!name}"); fi
done
if [ -n "${CA_CERTIFICATE:-}" ]; then options+=(--secret "id=ca,src=$CA_CERTIFICATE"); fi
if [ -n "${PLATFORM:-}" ]; then options+=(--platform "$PLATFORM"); fi
read -ra more <<< "${BUILD_OPTIONS:-}"

if [ $# -eq 0 ]; then set -- trigger train convert edge cloud; fi
for name in "$@"; do
    if [ ! -f "images/$name/Dockerfile" ]; then
        echo "no image $name: choose from trigger, train, convert, edge and cloud" >&2
        exit 1
    fi
done
if ! $docker info > /dev/null 2>&1; then
    echo "no Docker engine answers to $docker: start one, or name another client in DOCKER" >&2
    exit 1
fi
if ! DOCKER_BUILDKIT=1 $docker build --help 2> /dev/null | grep -e --secret > /dev/null; then
    echo "$docker has no BuildKit: install its buildx plug-in, or name another client in DOCKER" >&2
    exit 1
fi
for name in "$@"; do
    image="${EDGE_IMAGE_PREFIX:-edge-learning}/$name:${EDGE_IMAGE_TAG:-$version}"
    DOCKER_BUILDKIT=1 $docker build "${options[@]}" "${more[@]}" --file "images/$name/Dockerfile" --tag "$image" .
    if [ "${PUSH:-}" = 1 ]; then $docker push "$image"; fi
done

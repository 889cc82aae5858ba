#!/usr/bin/env bash
# Every CUDA operator on the host (sanitize.cpp): once for errors of memory and undefined behaviour, once for races.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
sources="sanitize.cpp cam.cu components.cu curves.cu"
export CXX=${CXX:-g++} UBSAN_OPTIONS=print_stacktrace=1

build() { "$here/build.sh" "$folder/$1" 64 "$folder/$1/run" "$sources" -g "${@:2}"; }
build memory -fsanitize=address,undefined -fno-sanitize-recover=undefined
build races -fsanitize=thread

"$folder/memory/run" &
# ThreadSanitizer needs addresses where it expects them.
$(setarch -R true 2> /dev/null && echo setarch -R) "$folder/races/run"
wait $!

#!/usr/bin/env bash
# Every CUDA operator on the host (sanitize.cpp): once for errors of memory and undefined behaviour, once for races.
# And the CPU kernels with sizes and values chosen to break them (fuzz_cpu.cpp), for the first kind.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
export CXX=${CXX:-g++} UBSAN_OPTIONS=print_stacktrace=1
memory=(-fsanitize=address,undefined,float-cast-overflow -fno-sanitize-recover=undefined,float-cast-overflow)

build() { "$here/build.sh" "$folder/$1" 64 "$folder/$1/run" sanitize.cpp -g "${@:2}"; }
"$CXX" -std=c++20 -O1 -g -ffp-contract=off "${memory[@]}" "$here"/fuzz_cpu.cpp "$here"/../../csrc/cpu/{dispatch,portable,avx2,avx512}.cpp \
  -o "$folder/fuzz_cpu" &
build memory "${memory[@]}"
wait $!
"$folder/fuzz_cpu"
build races -fsanitize=thread

"$folder/memory/run" &
# ThreadSanitizer needs addresses where it expects them.
$(setarch -R true 2> /dev/null && echo setarch -R) "$folder/races/run"
wait $!

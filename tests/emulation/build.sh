#!/usr/bin/env bash
# build.sh FOLDER THREADS OUTPUT "MAIN [OPERATORS...]" FLAGS...: compiles MAIN and csrc/cuda/OPERATORS (all *.cu by
# default) for the host, with that many threads in a block (0: as many as they say). Torch's headers and launch.h have
# stand-ins here; nothing else is changed.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
folder=$1 threads=$2 output=$3 sources=($4)
shift 4
mkdir -p "$folder"
cp -r "$here/../../csrc" "$folder"
cd "$folder/csrc/cuda"
sed -i '/#include <torch/d' ../torch.h
echo '#include "../torch.h"' > launch.h
[ ${#sources[@]} -gt 1 ] || sources+=(./*.cu)
[ "$threads" = 0 ] || sed -i -E "s/(k[A-Za-z]*Threads = )[0-9]+/\1$threads/g" ./*.cu

compiler=(${CXX:-c++} "$@" -fPIC)
flags=(-std=c++20 -O1 -ffp-contract=off -fdata-sections -fno-gnu-unique -Wall -Wextra -Wno-unknown-pragmas -Wno-maybe-uninitialized
  -I"$here" -include "$here/launch.h")
objects=() jobs=()
for source in "$here/${sources[0]}" "${sources[@]:1}"; do
  objects+=("$folder/$(basename "$source").o")
  "${compiler[@]}" "${flags[@]}" -c -x c++ "$source" -o "${objects[-1]}" &
  jobs+=($!)
done
for job in "${jobs[@]}"; do wait "$job"; done
"${compiler[@]}" "${objects[@]}" -Wl,-T,"$here/shared.ld" -o "$output"

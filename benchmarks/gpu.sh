#!/usr/bin/env bash
# All that one run on a machine with a GPU can tell, in at most 570 seconds:
#
#   bash benchmarks/gpu.sh               # in the checkout, with the extension in its place or a compiler to build it
#   bash benchmarks/gpu.sh --rehearse    # without a GPU: every step on small sizes, with the CPU, and for what is compared
#                                        # the emulation of tests/emulation, in the GPU's place
#
# Needs Python with torch, and takes what else is there: pytest, OpenCV, CV-CUDA, torchcodec, compute-sanitizer, ncu; and
# wheels of a folder wheels/. Each step has its own limit, none stops the next, and what is wanted most comes first. At
# most 8 files in $OUT (benchmarks/results/gpu by default), complete after each step: gpu.md has all in short,
# quick.json, figures.json and runs.json the figures, tests.txt, sanitizers.txt, ncu.txt and log.txt the rest.
# GPU_SECONDS: how long all steps may take together.
set -u
cd "$(dirname "$0")/.."
mkdir -p "${OUT:-benchmarks/results/gpu}" && out=$(cd "${OUT:-benchmarks/results/gpu}" && pwd) || exit
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for folder in /usr/local/cuda/bin /opt/nvidia/nsight-compute/*; do PATH=$PATH:$folder; done
export PATH PYTHONPATH=$PWD PYTHONUNBUFFERED=1 TQDM_DISABLE=1 MAX_JOBS=${MAX_JOBS:-$(nproc)} PYTEST_DISABLE_PLUGIN_AUTOLOAD=1
end=${GPU_SECONDS:-560} title="fastcam on a GPU" module=(python3 -m)
few=() many=() runs=() patience=1
tests=(-m gpu tests/ops/test_cuda.py tests/pictures/test_gpu.py)
others=(-m gpu tests --ignore=tests/ops/test_cuda.py --ignore=tests/pictures/test_gpu.py)
if [ "${1:-}" = --rehearse ]; then
  title="A rehearsal without a GPU: no figure means anything" module=(python3 -m tests.support.no_gpu -m)
  export PATH=$PWD/tests/support/gpu_tools:$PATH
  patience=4 # other tests may run beside it
  few=(--most-images 2) many=(--most-images 2) runs=(--pictures 16 --batch 2 --networks resnet18)
  tests=(tests/ops/test_cuda.py -k "equals_cpu and (5x9 or 33x65)") others=(-m gpu tests/test_metrics.py)
fi
: >"$out/log.txt"

say() { echo "[$SECONDS s] $*" | tee -a "$out/log.txt"; }

# step NAME LIMIT COMMAND...: says how it ended; its output is $work/NAME.log.
step() {
  local name=$1 limit=$(($2 * patience)) left=$((end - SECONDS)) began=$SECONDS code
  shift 2
  [ "$limit" -lt "$left" ] || limit=$left
  if [ "$limit" -lt 10 ]; then say "$name: no time is left" && return 1; fi
  timeout --signal=INT --kill-after=5 "$limit" "$@" >"$work/$name.log" 2>&1
  code=$?
  say "$name: exit code $code after $((SECONDS - began)) of at most $limit s"
  [ $code = 0 ] || tail -n 12 "$work/$name.log" | cut -c 1-300 | sed 's/^/    /' | tee -a "$out/log.txt"
  return $code
}

section() { # TITLE FILE
  [ ! -s "$2" ] || printf '\n## %s\n\n%s\n' "$1" "$(cat "$2")"
}

publish() {
  cp "$work"/*.json "$out" 2>/dev/null
  {
    printf '# %s\n\n%s\n' "$title" "$(cat "$work/machine.log")"
    sed 's/^\[/- [/' "$out/log.txt" >"$work/steps.md" && section Steps "$work/steps.md"
    grep -E '^(FAILED|ERROR)|^[0-9]+ .* in [0-9.]+s' "$out/tests.txt" 2>/dev/null | cut -c 1-200 | sed 's/^/- /' \
      >"$work/tests.md"
    section Tests "$work/tests.md"
    section compute-sanitizer "$work/findings.log"
    section Speed "$(ls "$work/figures.md" "$work/quick.md" 2>/dev/null | head -n 1)"
    section "Whole runs" "$work/runs.md"
    grep -E '^  [a-z].*\(|Duration|Throughput  |Registers Per|Achieved Occ' "$out/ncu.txt" >"$work/ncu.md" 2>/dev/null
    section "Where the time goes" <(sed 's/^/    /' "$work/ncu.md")
  } >"$out/gpu.md"
}

# 1. The machine, and what has travelled.
step machine 30 nvidia-smi --query-gpu=name,driver_version,clocks.sm,clocks.max.sm,power.limit --format=csv
say "$(du -smc --exclude=build --exclude=__pycache__ -- * | tail -n 1 | cut -f 1) MiB are here; 64 may travel"
if ls wheels/*.whl >/dev/null 2>&1; then
  step wheels 60 python3 -m pip install -q --no-index --no-deps --no-compile --target "$work/site" wheels/*.whl
  export PYTHONPATH=$PYTHONPATH:$work/site
fi

if [ "${1:-}" = --rehearse ]; then
  mkdir "$work/emulation"
  step emulation 200 python3 -m tests.support.emulation "$work/emulation" && export FASTCAM_EMULATION=$work/emulation
fi

# 2. The library that was carried, else a build: about a minute on 16 cores.
if ! step library 90 "${module[@]}" benchmarks.gpu --kernels "${few[@]}"; then
  rm -f fastcam/_C*.so
  step build 240 python3 setup.py build_ext --inplace
  step library 90 "${module[@]}" benchmarks.gpu --kernels "${few[@]}"
fi

# 3. First figures, while nothing else runs and nothing has had the time to hang.
step quick 90 "${module[@]}" benchmarks.gpu --quick "${few[@]}" --out "$work/quick"
publish

# 4. The tests, in two processes, and beside them four sanitizers. Without torch's cache every tensor is an allocation of
# its own, whose ends are known. Of racecheck's work torch's kernels would be most; initcheck has to see what they write.
beside=()
for tool in memcheck racecheck synccheck initcheck; do
  filter=()
  [ $tool != racecheck ] || filter=(--kernel-name kns=fastcam)
  PYTORCH_NO_CUDA_MEMORY_CACHING=1 step $tool 170 \
    compute-sanitizer --tool $tool "${filter[@]}" --print-limit 0 --show-backtrace no "${module[@]}" tests.support.agreement &
  beside+=($!)
done
pytest=("${module[@]}" pytest -q -p no:cacheprovider -o filterwarnings=default --maxfail=40 --durations=15)
step others 200 "${pytest[@]}" "${others[@]}" &
beside+=($!)
step tests 210 "${pytest[@]}" "${tests[@]}"
wait "${beside[@]}"
cat "$work/tests.log" "$work/others.log" >"$out/tests.txt"
step findings 20 "${module[@]}" benchmarks.sanitizers "$work"
for tool in memcheck racecheck synccheck initcheck; do
  printf '== %s\n' $tool && grep -v '^$' "$work/$tool.log" | cut -c 1-300 | tail -n 400
done >"$out/sanitizers.txt"
publish

# 5. Where the time goes in the kernels with goals.
step ncu 60 ncu --clock-control none --section SpeedOfLight --section LaunchStats --section Occupancy --section WarpStateStats \
  --section MemoryWorkloadAnalysis --section SourceCounters -k "regex:boxes|heatmap|curves|sums" -c 6 \
  "${module[@]}" benchmarks.gpu --kernels "${few[@]}"
cp "$work/ncu.log" "$out/ncu.txt"
publish

# 6. Whole runs.
step runs 130 "${module[@]}" benchmarks.gpu_runs "${runs[@]}" --out "$work/runs"
publish

# 7. All figures, for what is left.
step figures "$end" "${module[@]}" benchmarks.gpu "${many[@]}" --out "$work/figures"
publish
say "done: $(ls "$out" | wc -l) files in $out"
publish
cat "$out/gpu.md"

#!/usr/bin/env bash
# Fuzzes every target for so many seconds, five at a time, without keeping what is found on the way:
#
#   fuzz/run.sh 30                        each target for 30 s
#   fuzz/run.sh 600 row payload           only these, for ten minutes
#
# Takes the Rust that is there and a C++ compiler, which builds libFuzzer. The code is as users run it, without debug
# assertions, and instrumented for coverage as cargo-fuzz does it; no sanitizer, since no code of ours is unsafe. It ends
# with an error where a target fails, and leaves the input in fuzz/artifacts/.
set -euo pipefail
cd "$(dirname "$0")"

seconds=${1:?how many seconds for each target}
shift
targets=("$@")
[ ${#targets[@]} -gt 0 ] || targets=(key key_line head answer payload row export store_file rescue history)

host=$(rustc -vV | sed -n 's/^host: //p')
coverage="-sanitizer-coverage-level=4 -sanitizer-coverage-inline-8bit-counters -sanitizer-coverage-pc-table"
coverage="$coverage -sanitizer-coverage-trace-compares"
flags="--cfg fuzzing -Ccodegen-units=1 -Cpasses=sancov-module"
for argument in $coverage; do flags="$flags -Cllvm-args=$argument"; done
# With the host named, the flags are not those of build scripts.
RUSTFLAGS="$flags" cargo build --locked --release --target "$host"
built="${CARGO_TARGET_DIR:-target}/$host/release"

fuzz() {
    local target=$1 found log long=""
    # A history of four bytes is a dull one.
    case "$target" in store_file | rescue | history) long="-len_control=0 -max_len=320" ;; esac
    # A damaged number of a page makes redb ask for up to 4 GiB before it sees that the file is shorter.
    case "$target" in store_file | rescue) long="$long -rss_limit_mb=5120" ;; esac
    found=$(mktemp -d)
    log=$(mktemp)
    mkdir -p "artifacts/$target"
    # shellcheck disable=SC2086
    if "$built/$target" "$found" "corpus/$target" -artifact_prefix="artifacts/$target/" \
        -max_total_time="$seconds" -timeout=60 -print_final_stats=1 $long >"$log" 2>&1; then
        echo "$target: $(sed -n 's/^stat::number_of_executed_units: *//p' "$log") executions, nothing found"
    else
        tail -40 "$log"
        echo "$target: FOUND, see fuzz/artifacts/$target"
        return 1
    fi
    rm -r "$found" "$log"
}

failed=0
for ((at = 0; at < ${#targets[@]}; at += 5)); do
    running=()
    for target in "${targets[@]:at:5}"; do
        fuzz "$target" &
        running+=($!)
    done
    for one in "${running[@]}"; do wait "$one" || failed=1; done
done
exit $failed

#!/usr/bin/env bash
# Tries every mutant of the engine, or of the files that are named, on the tests that come to its place.
#
#   mutants/run.sh                          all of them
#   mutants/run.sh src/engine/batch.rs      those of one file
#
# What became of each stands at the end in mutants.txt of the folder that is told, which is MUTANTS_COPY where that is
# set; so does which mutants are in no build and are left to cargo-mutants alone (mutants-apart.txt). A run that was
# broken off goes on there. MUTANTS_TESTS names the tests to build beside the unit tests, MUTANTS_THREADS how many run at
# once.
set -euo pipefail
cd "$(dirname "$0")/.."

copy=${MUTANTS_COPY:-$(mktemp -d)}
mkdir -p "$copy"
echo "in $copy"

files=(-f 'src/engine/**')
if [ $# -gt 0 ]; then
    files=()
    for file in "$@"; do files+=(-f "$file"); done
fi
# What only tests use: the simulated disk, its faults, and the models for loom.
for room in simulated mishap orders; do files+=(-e "src/engine/$room.rs"); done

if [ ! -e "$copy/mutants-woven.txt" ]; then
    for part in Cargo.toml Cargo.lock README.md src tests examples benches docs; do
        rm -rf "${copy:?}/$part" && cp -r "$part" "$copy/"
    done
    cargo mutants --list --json "${files[@]}" >"$copy/mutants.json"
fi

# Every test but those of the page, the layer and the style, which are about other rooms.
tests=(--lib)
for name in ${MUTANTS_TESTS:-}; do tests+=(--test "$name"); done
[ ${#tests[@]} -gt 1 ] || for test in tests/*.rs tests/*/main.rs; do
    name=$(basename "${test%/main.rs}" .rs)
    case "$name" in
        admin | corpus | http | interleavings | load | tidy) ;;
        *) tests+=(--test "$name") ;;
    esac
done

# One build serves all, so it may take its time and the tests need not.
export CARGO_PROFILE_DEV_OPT_LEVEL=1 CARGO_PROFILE_DEV_DEBUG=false RUSTFLAGS="-A warnings"
export CARGO_TARGET_DIR=${MUTANTS_TARGET_DIR:-$copy/target}
cargo run --manifest-path mutants/Cargo.toml --target-dir "$CARGO_TARGET_DIR/tool" -- \
    "$copy" "$copy/mutants.json" "${tests[@]}"

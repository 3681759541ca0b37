#!/usr/bin/env bash
# Plants one bug at a time in a copy of the tree and lets the simulation look for it: does the checker bite?
#
#   tests/planted/run.sh                 every patch, up to 2000 seeds each
#   tests/planted/run.sh --seeds 500 03 17   only some, by their numbers, and fewer seeds
#   tests/planted/run.sh --check         only whether every patch still applies
#   tests/planted/run.sh --build         and whether it compiles, which takes some minutes
#
# It says of each how many seeds it took, or SURVIVED, and ends with an error where one survived. The copy has a target
# folder of its own, PLANTED_TARGET_DIR where that is set, so that a second run need not build the dependencies again.
set -euo pipefail
cd "$(dirname "$0")/../.."

seeds=2000
check=false
build=false
only=()
while [ $# -gt 0 ]; do
    case "$1" in
        --check) check=true ;;
        --build) build=true ;;
        --seeds) shift; seeds=$1 ;;
        *) only+=("$1") ;;
    esac
    shift
done

wanted() {
    [ ${#only[@]} -eq 0 ] && return 0
    local number
    for number in "${only[@]}"; do
        [[ "$(basename "$1")" == "$number"-* ]] && return 0
    done
    return 1
}

copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
for part in Cargo.toml Cargo.lock README.md src tests examples benches docs; do
    cp -r "$part" "$copy/"
done
export CARGO_TARGET_DIR=${PLANTED_TARGET_DIR:-$copy/target}

found=0
survived=()
broken=()
for patch in tests/planted/*.patch; do
    wanted "$patch" || continue
    name=$(basename "$patch" .patch)
    rm -rf "$copy/src" && cp -r src "$copy/src"
    if ! patch -s -p1 -F 3 -d "$copy" <"$patch" >"$copy/patch.log" 2>&1; then
        echo "$name: does not apply"
        broken+=("$name")
        continue
    fi
    if $check; then
        found=$((found + 1))
        continue
    fi
    # What is copied back is older than what was built from it.
    find "$copy/src" -name '*.rs' -exec touch {} +
    how=(build --example simulation)
    if $build; then how=(check --lib --features testing); fi
    if ! (cd "$copy" && cargo "${how[@]}" -q >"$copy/build.log" 2>&1); then
        echo "$name: does not build: $(grep -m1 -A4 '^error' "$copy/build.log" | tr '\n' ' ')"
        broken+=("$name")
        continue
    fi
    if $build; then
        found=$((found + 1))
        continue
    fi
    began=$(date +%s)
    code=0
    timeout 600 "$CARGO_TARGET_DIR/debug/examples/simulation" --seeds "$seeds" >"$copy/run.log" 2>&1 || code=$?
    took=$(($(date +%s) - began))
    if [ "$code" -eq 124 ]; then
        echo "$name: nothing found, and not done after $took s"
        survived+=("$name")
    elif [ "$code" -eq 0 ]; then
        echo "$name: SURVIVED $seeds seeds ($took s)"
        survived+=("$name")
    else
        found=$((found + 1))
        by=$(grep -ao 'BROKEN by seed [0-9]* after [0-9]* seeds' "$copy/run.log" | tail -1 || true)
        echo "$name: found, ${by:-by an abort or a hang (exit $code)} ($took s)"
    fi
done

if $check || $build; then
    if $build; then do="apply and compile"; else do="apply"; fi
    echo "$found patches $do, ${#broken[@]} do not"
else
    echo "$found found, ${#survived[@]} survived, ${#broken[@]} could not be tried"
fi
[ ${#survived[@]} -eq 0 ] && [ ${#broken[@]} -eq 0 ]

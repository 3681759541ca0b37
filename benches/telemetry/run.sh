#!/usr/bin/env bash
# Builds the same program with features `metrics` and `tracing` and without, and compares them: all works, or those
# that are named. With `--build` that is all.
set -euo pipefail
cd "$(dirname "$0")"

target="${CARGO_TARGET_DIR:-../../target}/telemetry"
cargo build --release --features on --target-dir "$target"
cp "$target/release/reentry-telemetry" "$target/with"
cargo build --release --target-dir "$target"
[ "${1:-}" = --build ] || exec "$target/release/reentry-telemetry" "$target/with" "$@"

#!/usr/bin/env bash
# Builds the host for development, and the examples.
. "$(dirname "$0")/common.sh"

scripts/examples.sh
cargo build --locked --workspace

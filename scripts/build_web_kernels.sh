#!/usr/bin/env bash
# Compiles deploy/web/kernels.c to deploy/web/kernels.wasm (clang and lld of LLVM 14 or later).
set -euo pipefail
cd "$(dirname "$0")/../deploy/web"
clang --target=wasm32 -std=c11 -O2 -msimd128 -mbulk-memory -fno-builtin-memset -nostdlib -ffreestanding -Wall -Wextra -Werror \
    -Wno-missing-field-initializers -Wl,--no-entry -Wl,--strip-all -Wl,-z,stack-size=65536 -o kernels.wasm kernels.c

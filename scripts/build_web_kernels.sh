#!/usr/bin/env bash
# Compiles deploy/web/kernels.c and range_coder.c to .wasm files (clang and lld of LLVM 14 or later).
set -euo pipefail
cd "$(dirname "$0")/../deploy/web"
compile() {
    clang --target=wasm32 -std=c11 "$2" -msimd128 -mbulk-memory -fno-builtin-memset -nostdlib -ffreestanding -Wall \
        -Wextra -Werror -Wno-missing-field-initializers -Wl,--no-entry -Wl,--strip-all -Wl,-z,stack-size=65536 \
        -o "$1.wasm" "$1.c"
}
compile kernels -O2
compile range_coder -Oz

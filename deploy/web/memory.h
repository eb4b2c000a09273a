/* Memory is only ever taken: what a page loads stays. 16 bytes more than asked may be read behind each piece. */
#pragma once
#include <stddef.h>
#include <stdint.h>

static inline int larger_int(int a, int b) { return a > b ? a : b; }
static inline int smaller_int(int a, int b) { return a < b ? a : b; }

extern unsigned char __heap_base;
static uintptr_t taken = 0;

__attribute__((export_name("take"))) void *take(size_t bytes) {
    uintptr_t start = taken ? taken : (uintptr_t)&__heap_base;
    start = (start + 63) & ~(uintptr_t)63;
    taken = start + bytes + 64;
    size_t pages = (taken + 65535) / 65536, there = __builtin_wasm_memory_size(0);
    if (pages > there && __builtin_wasm_memory_grow(0, pages - there) == (size_t)-1) __builtin_trap();
    return (void *)start;
}

/* Four floats at a time: sine and cosine, exponential, logarithm, to the last bits of float32.
   Argument reductions and polynomials are those of the Cephes library (Moshier), which are public knowledge. */
#pragma once
#include "memory.h"
#include <wasm_simd128.h>

typedef v128_t f4;

static inline f4 all(float x) { return wasm_f32x4_splat(x); }
static inline f4 add(f4 a, f4 b) { return wasm_f32x4_add(a, b); }
static inline f4 sub(f4 a, f4 b) { return wasm_f32x4_sub(a, b); }
static inline f4 mul(f4 a, f4 b) { return wasm_f32x4_mul(a, b); }
static inline f4 quotient(f4 a, f4 b) { return wasm_f32x4_div(a, b); }
static inline f4 largest(f4 a, f4 b) { return wasm_f32x4_max(a, b); }
static inline f4 smallest(f4 a, f4 b) { return wasm_f32x4_min(a, b); }
static inline f4 load4(const float *from) { return wasm_v128_load(from); }
static inline void store4(float *to, f4 x) { wasm_v128_store(to, x); }
static inline float first_of(f4 x) { return wasm_f32x4_extract_lane(x, 0); }

static __attribute__((noinline)) f4 sin_cos(f4 x, f4 *cosine) {
    f4 turns = wasm_f32x4_nearest(mul(x, all(0.636619772f))); /* quarters of a turn */
    f4 r = sub(x, mul(turns, all(1.5703125f)));
    r = sub(r, mul(turns, all(4.837512969970703125e-4f)));
    r = sub(r, mul(turns, all(7.549789948768648e-8f)));
    f4 z = mul(r, r);
    f4 s = add(mul(add(mul(all(-1.9515295891e-4f), z), all(8.3321608736e-3f)), z), all(-1.6666654611e-1f));
    s = add(mul(mul(s, z), r), r);
    f4 c = add(mul(add(mul(all(2.443315711809948e-5f), z), all(-1.388731625493765e-3f)), z), all(4.166664568298827e-2f));
    c = add(sub(mul(mul(c, z), z), mul(all(0.5f), z)), all(1));
    v128_t quarter = wasm_i32x4_trunc_sat_f32x4(turns);
    v128_t odd = wasm_i32x4_ne(wasm_v128_and(quarter, wasm_i32x4_splat(1)), wasm_i32x4_splat(0));
    v128_t sine_sign = wasm_i32x4_shl(wasm_v128_and(quarter, wasm_i32x4_splat(2)), 30);
    v128_t cosine_sign = wasm_i32x4_shl(wasm_v128_and(wasm_i32x4_add(quarter, wasm_i32x4_splat(1)), wasm_i32x4_splat(2)), 30);
    *cosine = wasm_v128_xor(wasm_v128_bitselect(s, c, odd), cosine_sign);
    return wasm_v128_xor(wasm_v128_bitselect(c, s, odd), sine_sign);
}

static __attribute__((noinline)) f4 exponential(f4 x) {
    x = smallest(largest(x, all(-87)), all(88));
    f4 n = wasm_f32x4_nearest(mul(x, all(1.44269504088896341f)));
    f4 r = sub(sub(x, mul(n, all(0.693359375f))), mul(n, all(-2.12194440e-4f)));
    f4 p = add(mul(all(1.9875691500e-4f), r), all(1.3981999507e-3f));
    p = add(mul(p, r), all(8.3334519073e-3f));
    p = add(mul(p, r), all(4.1665795894e-2f));
    p = add(mul(p, r), all(1.6666665459e-1f));
    p = add(mul(p, r), all(5.0000001201e-1f));
    p = add(add(mul(p, mul(r, r)), r), all(1));
    v128_t power = wasm_i32x4_shl(wasm_i32x4_add(wasm_i32x4_trunc_sat_f32x4(n), wasm_i32x4_splat(127)), 23);
    return mul(p, power);
}

/* Of x > 0. */
static __attribute__((noinline)) f4 logarithm(f4 x) {
    v128_t bits = wasm_i32x4_sub(x, wasm_i32x4_splat(0x3f3504f3)); /* the root of one half: mantissas about 1 */
    f4 n = wasm_f32x4_convert_i32x4(wasm_i32x4_shr(bits, 23));
    f4 r = sub(wasm_i32x4_add(wasm_v128_and(bits, wasm_i32x4_splat(0x7fffff)), wasm_i32x4_splat(0x3f3504f3)), all(1));
    f4 z = mul(r, r);
    f4 p = add(mul(all(7.0376836292e-2f), r), all(-1.1514610310e-1f));
    p = add(mul(p, r), all(1.1676998740e-1f));
    p = add(mul(p, r), all(-1.2420140846e-1f));
    p = add(mul(p, r), all(1.4249322787e-1f));
    p = add(mul(p, r), all(-1.6668057665e-1f));
    p = add(mul(p, r), all(2.0000714765e-1f));
    p = add(mul(p, r), all(-2.4999993993e-1f));
    p = add(mul(p, r), all(3.3333331174e-1f));
    p = mul(mul(p, r), z);
    p = add(p, mul(n, all(-2.12194440e-4f)));
    p = sub(p, mul(all(0.5f), z));
    return add(add(r, p), mul(n, all(0.693359375f)));
}

static inline f4 sigmoid(f4 x) { return quotient(all(1), add(all(1), exponential(wasm_f32x4_neg(x)))); }

/* log(1 + x) of a small x by its series: an opaque bin multiplies by 1e10 what a sum with 1 would lose. */
static inline f4 softplus(f4 x) {
    f4 z = exponential(wasm_f32x4_neg(wasm_f32x4_abs(x)));
    f4 series = mul(z, sub(all(1), mul(z, sub(all(0.5f), mul(z, all(1.f / 3))))));
    f4 rest = wasm_v128_bitselect(series, logarithm(add(all(1), z)), wasm_f32x4_lt(z, all(0.01f)));
    return add(largest(x, all(0)), rest);
}

static inline float exponential1(float x) { return first_of(exponential(all(x))); }
static inline float logarithm1(float x) { return first_of(logarithm(all(x))); }
static inline float root(float x) { return __builtin_sqrtf(x); }
static inline float larger(float a, float b) { return a > b ? a : b; }
static inline float smaller(float a, float b) { return a < b ? a : b; }
static inline float within(float x, float low, float high) { return smaller(larger(x, low), high); }

/* What a network gets of a place: Fourier features, or what is expected of them over a pixel's cone. */
#pragma once
#include "network.h"

/* Where an input's columns go, as what. Floats are stored as they are. */
typedef struct {
    Buffer *buffer;
    Rounding rounding;
} Input;

/* One column of four rows. */
static __attribute__((noinline)) void put(const Input *input, int row, int column, f4 values) {
    size_t at = (size_t)row * input->buffer->stride + column, stride = input->buffer->stride;
    if (input->buffer->kind == CODES) {
        v128_t codes = rounded(values, input->rounding);
        int16_t *to = (int16_t *)input->buffer->data + at;
        to[0] = (int16_t)wasm_i32x4_extract_lane(codes, 0);
        to[stride] = (int16_t)wasm_i32x4_extract_lane(codes, 1);
        to[2 * stride] = (int16_t)wasm_i32x4_extract_lane(codes, 2);
        to[3 * stride] = (int16_t)wasm_i32x4_extract_lane(codes, 3);
    } else {
        float *to = (float *)input->buffer->data + at;
        to[0] = wasm_f32x4_extract_lane(values, 0);
        to[stride] = wasm_f32x4_extract_lane(values, 1);
        to[2 * stride] = wasm_f32x4_extract_lane(values, 2);
        to[3 * stride] = wasm_f32x4_extract_lane(values, 3);
    }
}

#define DOUBLED 7 /* octaves of which one is asked of sine and cosine; each doubling of the angle has twice its error */

/* Sines and cosines of 2^k x of a column: the sine of octave k into column `first + k * per_octave`, the cosine
   `to_cosine` farther on. */
static __attribute__((noinline)) void put_waves(
    const Input *input, int row, f4 x, int octaves, int first, int per_octave, int to_cosine) {
    f4 sine = all(0), cosine = all(1);
    for (int k = 0; k < octaves; k++) {
        if (k % DOUBLED == 0) {
            sine = sin_cos(mul(x, all((float)(1u << k))), &cosine);
        } else {
            f4 doubled = mul(all(2), mul(sine, cosine));
            cosine = sub(all(1), mul(all(2), mul(sine, sine)));
            sine = doubled;
        }
        put(input, row, first + k * per_octave, sine);
        put(input, row, first + k * per_octave + to_cosine, cosine);
    }
}

/* NeRF's: three coordinates `x [3][ROWS]`, then sines and cosines of each octave; without octaves the input alone. */
static void encode_fourier(const Input *input, const float (*x)[ROWS], int octaves, int rows) {
    for (int row = 0; row < rows; row += 4)
        for (int c = 0; c < 3; c++) {
            f4 values = load4(x[c] + row);
            put(input, row, c, values);
            put_waves(input, row, values, octaves, 3 + c, 6, 3);
        }
}

/* A light field's of its coordinates `x [dims][ROWS]`: all sines, then all cosines. */
static void encode_waves(const Input *input, float (*x)[ROWS], int dims, int octaves, int first, int rows) {
    for (int row = 0; row < rows; row += 4)
        for (int c = 0; c < dims; c++)
            put_waves(input, row, load4(x[c] + row), octaves, first + c, dims, octaves * dims);
}

#define LEAST_SCALE 1.1920929e-7f
#define LEAST_LENGTH 1e-10f
#define MOST_DIRECTIONS 21

typedef struct {
    int directions, octaves, parallel;
    float ball; /* 0: space is as it is */
    float basis[MOST_DIRECTIONS][3];
} Cones;

static inline f4 dot3(f4 ax, f4 ay, f4 az, f4 bx, f4 by, f4 bz) { return add(add(mul(ax, bx), mul(ay, by)), mul(az, bz)); }

/* Cones from t0 to t1 of rays o + t d, `[3][ROWS]`, of `radius` at t = 1: see rendering/cones.py for the equations. */
static void encode_cones(
    const Input *input, const Cones *cones, const float (*o)[ROWS], const float (*d)[ROWS], const float *radius,
    const float *t0, const float *t1, int rows) {
    f4 scale = all(cones->ball > 0 ? 1 / cones->ball : 1);
    int n = cones->directions;
    for (int row = 0; row < rows; row += 4) {
        f4 ox = mul(load4(o[0] + row), scale), oy = mul(load4(o[1] + row), scale), oz = mul(load4(o[2] + row), scale);
        f4 dx = mul(load4(d[0] + row), scale), dy = mul(load4(d[1] + row), scale), dz = mul(load4(d[2] + row), scale);
        f4 start = load4(t0 + row), end = load4(t1 + row), r = mul(load4(radius + row), scale);
        f4 middle = mul(add(start, end), all(0.5f)), half = mul(sub(end, start), all(0.5f)), h2 = mul(half, half);
        f4 t_mean = middle, t_var = quotient(h2, all(3)), r_var = mul(mul(r, r), all(0.25f));
        if (!cones->parallel) {
            f4 m2 = mul(middle, middle), ratio = quotient(h2, largest(add(mul(all(3), m2), h2), all(LEAST_SCALE)));
            t_mean = add(middle, mul(mul(all(2), middle), ratio));
            t_var = sub(t_var, mul(mul(all(4.f / 15), mul(ratio, ratio)), sub(mul(all(12), m2), h2)));
            f4 spread = sub(add(mul(m2, all(0.25f)), mul(all(5.f / 12), h2)), mul(mul(all(4.f / 15), ratio), h2));
            r_var = mul(mul(r, r), spread);
        }
        f4 mx = add(ox, mul(t_mean, dx)), my = add(oy, mul(t_mean, dy)), mz = add(oz, mul(t_mean, dz));
        f4 length = largest(dot3(dx, dy, dz, dx, dy, dz), all(LEAST_LENGTH));
        f4 across = all(1), radial = all(1), inverse = all(0), forward = all(0);
        if (cones->ball > 0) {
            f4 square = dot3(mx, my, mz, mx, my, mz);
            v128_t outside = wasm_f32x4_gt(square, all(1));
            inverse = quotient(all(1), wasm_f32x4_sqrt(largest(square, all(1))));
            across = wasm_v128_bitselect(mul(sub(all(2), inverse), inverse), all(1), outside);
            radial = wasm_v128_bitselect(mul(inverse, inverse), all(1), outside);
            inverse = wasm_v128_and(inverse, outside);
            forward = mul(dot3(mx, my, mz, dx, dy, dz), inverse); /* u.d */
        }
        for (int b = 0; b < n; b++) {
            f4 bx = all(cones->basis[b][0]), by = all(cones->basis[b][1]), bz = all(cones->basis[b][2]);
            f4 mean = dot3(mx, my, mz, bx, by, bz), along = dot3(dx, dy, dz, bx, by, bz);
            f4 towards = mul(mean, inverse);
            along = add(mul(across, along), mul(mul(sub(radial, across), towards), forward));
            f4 stretch = mul(across, across);
            stretch = add(stretch, mul(sub(mul(radial, radial), stretch), mul(towards, towards)));
            f4 square = mul(along, along);
            f4 variance = mul(r_var, largest(sub(stretch, quotient(square, length)), all(0)));
            variance = add(variance, mul(t_var, square));
            mean = mul(mean, across);
            f4 fading = exponential(mul(all(-0.5f), variance)), sine = all(0), cosine = all(1);
            for (int k = 0; k < cones->octaves; k++) {
                if (k % DOUBLED == 0) {
                    float frequency = (float)(1u << k);
                    sine = sin_cos(mul(mean, all(frequency)), &cosine);
                    if (k) fading = exponential(mul(all(-0.5f * frequency * frequency), variance));
                } else {
                    f4 doubled = mul(all(2), mul(sine, cosine));
                    cosine = sub(all(1), mul(all(2), mul(sine, sine)));
                    sine = doubled;
                    fading = mul(mul(fading, fading), mul(fading, fading));
                }
                put(input, row, 2 * n * k + b, mul(sine, fading));
                put(input, row, 2 * n * k + n + b, mul(cosine, fading));
            }
        }
    }
}

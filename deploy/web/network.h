/* Networks as the layer graph of their file says: layers, concatenations, sums and roundings between buffers. */
#pragma once
#include "maths.h"

#define ROWS 128 /* that go through a network at once: weights of a block of outputs and what they meet stay in cache */

enum Kind { CODES, FLOATS };

/* ROWS rows of so many columns, int16 codes or floats, `stride` elements from row to row, zeros behind the columns. */
typedef struct {
    enum Kind kind;
    int columns, stride;
    void *data;
} Buffer;

/* round(x / scale) + zero_point, in 0 to most. */
typedef struct {
    float scale, zero_point, most;
} Rounding;

/* INTEGER: codes in, `scale (sum - shift) + bias` out. BY_ROW: floats in, rounded in steps of each row's largest.
   FLOAT: floats in. */
enum LayerKind { INTEGER, BY_ROW, FLOAT };

typedef struct {
    enum LayerKind kind;
    int inputs, outputs, stride, relu;
    int16_t *codes; /* [outputs / 4][stride / 8][4][8] */
    float *weight;  /* of FLOAT: [outputs / 4][inputs][4] */
    float *scale, *bias, *gains;
    int32_t *shift; /* what zero points of the input add to each sum */
} Layer;

enum StepKind { LINEAR, CONCAT, ADD, ROUND };

typedef struct {
    enum StepKind kind;
    int to, count, from[8]; /* buffers; of LINEAR the second is added to its output */
    Layer layer;
    int rounds;
    Rounding rounding, of_added;
} Step;

typedef struct {
    int buffers_count, steps_count;
    Buffer buffers[512];
    Step steps[512];
    int16_t *row_codes; /* of BY_ROW, ROWS rows of so many columns at most */
    float *row_step;
    int row_columns;
} Network;

static inline int round_up(int value, int multiple) { return (value + multiple - 1) / multiple * multiple; }

static inline v128_t rounded(f4 x, Rounding to) {
    f4 codes = add(wasm_f32x4_nearest(quotient(x, all(to.scale))), all(to.zero_point));
    return wasm_i32x4_trunc_sat_f32x4(smallest(largest(codes, all(0)), all(to.most)));
}

static inline void store_codes(int16_t *to, v128_t codes) {
    wasm_v128_store64_lane(to, wasm_i16x8_narrow_i32x4(codes, codes), 0);
}

/* Four codes as the floats that they stand for. */
static inline f4 floats_of(const int16_t *codes, Rounding of) {
    f4 x = wasm_f32x4_convert_i32x4(wasm_i32x4_load16x4(codes));
    return mul(sub(x, all(of.zero_point)), all(of.scale));
}

/* ------------------------------------------------------------------------------------------------ building one */

__attribute__((export_name("new_network"))) Network *new_network(void) {
    Network *network = take(sizeof(Network));
    network->buffers_count = network->steps_count = 0;
    network->row_columns = 0;
    return network;
}

__attribute__((export_name("add_buffer"))) int add_buffer(Network *network, enum Kind kind, int columns) {
    int stride = round_up(columns, 8);
    size_t bytes = (size_t)ROWS * stride * (kind == CODES ? sizeof(int16_t) : sizeof(float));
    Buffer *buffer = &network->buffers[network->buffers_count];
    *buffer = (Buffer){kind, columns, stride, take(bytes)};
    __builtin_memset(buffer->data, 0, bytes);
    return network->buffers_count++;
}

__attribute__((export_name("add_step"))) Step *add_step(Network *network, enum StepKind kind, int to) {
    Step *step = &network->steps[network->steps_count++];
    *step = (Step){.kind = kind, .to = to};
    return step;
}

__attribute__((export_name("add_source"))) void add_source(Step *step, int buffer) { step->from[step->count++] = buffer; }

__attribute__((export_name("set_rounding"))) void set_rounding(Step *step, float scale, float zero_point, float most) {
    step->rounds = 1;
    step->rounding = (Rounding){scale, zero_point, most};
}

__attribute__((export_name("set_added"))) void set_added(Step *step, float scale, float zero_point) {
    step->of_added = (Rounding){scale, zero_point, 0};
}

/* scale, bias: `[outputs]`. */
static void set_outputs(Layer *layer, const float *scale, const float *bias) {
    int padded = round_up(layer->outputs, 4);
    layer->scale = take(padded * sizeof(float));
    layer->bias = take(padded * sizeof(float));
    for (int o = 0; o < padded; o++) {
        layer->scale[o] = o < layer->outputs && scale ? scale[o] : 0;
        layer->bias[o] = o < layer->outputs ? bias[o] : 0;
    }
}

static void set_codes(Layer *layer, const int8_t *weight) {
    int chunks = layer->stride / 8, blocks = round_up(layer->outputs, 4) / 4;
    layer->codes = take((size_t)blocks * chunks * 32 * sizeof(int16_t));
    for (int block = 0; block < blocks; block++)
        for (int chunk = 0; chunk < chunks; chunk++)
            for (int o = 0; o < 4; o++)
                for (int k = 0; k < 8; k++) {
                    int output = 4 * block + o, input = 8 * chunk + k;
                    int there = output < layer->outputs && input < layer->inputs;
                    layer->codes[((block * chunks + chunk) * 4 + o) * 8 + k] =
                        there ? weight[(size_t)output * layer->inputs + input] : 0;
                }
}

/* weight: int8 `[outputs, inputs]`. zero_points: of each input's codes. */
__attribute__((export_name("set_integer_layer"))) void set_integer_layer(
    Step *step, int inputs, int outputs, int relu, const int8_t *weight, const uint8_t *zero_points, const float *scale,
    const float *bias) {
    Layer *layer = &step->layer;
    *layer = (Layer){.kind = INTEGER, .inputs = inputs, .outputs = outputs, .stride = round_up(inputs, 8), .relu = relu};
    set_codes(layer, weight);
    set_outputs(layer, scale, bias);
    layer->shift = take(round_up(outputs, 4) * sizeof(int32_t));
    for (int o = 0; o < outputs; o++) {
        layer->shift[o] = 0;
        for (int i = 0; i < inputs; i++) layer->shift[o] += weight[(size_t)o * inputs + i] * zero_points[i];
    }
}

/* gains: `[inputs]` of an RMSNorm before the layer, or NULL. */
__attribute__((export_name("set_row_layer"))) void set_row_layer(
    Network *network, Step *step, int inputs, int outputs, int relu, const int8_t *weight, const float *scale,
    const float *bias, float *gains) {
    Layer *layer = &step->layer;
    *layer = (Layer){.kind = BY_ROW, .inputs = inputs, .outputs = outputs, .stride = round_up(inputs, 8), .relu = relu};
    set_codes(layer, weight);
    set_outputs(layer, scale, bias);
    layer->gains = gains;
    if (layer->stride > network->row_columns) {
        network->row_columns = layer->stride;
        network->row_codes = take((size_t)ROWS * layer->stride * sizeof(int16_t));
        network->row_step = take(ROWS * sizeof(float));
    }
}

/* weight: floats `[outputs, inputs]`. bias may be NULL. */
__attribute__((export_name("set_float_layer"))) void set_float_layer(
    Step *step, int inputs, int outputs, int relu, const float *weight, const float *bias) {
    Layer *layer = &step->layer;
    *layer = (Layer){.kind = FLOAT, .inputs = inputs, .outputs = outputs, .stride = round_up(inputs, 8), .relu = relu};
    int blocks = round_up(outputs, 4) / 4;
    layer->weight = take((size_t)blocks * inputs * 4 * sizeof(float));
    for (int block = 0; block < blocks; block++)
        for (int i = 0; i < inputs; i++)
            for (int o = 0; o < 4; o++)
                layer->weight[((size_t)block * inputs + i) * 4 + o] =
                    4 * block + o < outputs ? weight[(size_t)(4 * block + o) * inputs + i] : 0;
    set_outputs(layer, NULL, bias);
}

/* ------------------------------------------------------------------------------------------------- running it */

/* Four sums of products of 16-bit numbers, one of each of the vectors' lanes. */
static inline v128_t lane_sums(v128_t a, v128_t b, v128_t c, v128_t d) {
    v128_t ab = wasm_i32x4_add(wasm_i32x4_shuffle(a, b, 0, 4, 1, 5), wasm_i32x4_shuffle(a, b, 2, 6, 3, 7));
    v128_t cd = wasm_i32x4_add(wasm_i32x4_shuffle(c, d, 0, 4, 1, 5), wasm_i32x4_shuffle(c, d, 2, 6, 3, 7));
    return wasm_i32x4_add(wasm_i32x4_shuffle(ab, cd, 0, 1, 4, 5), wasm_i32x4_shuffle(ab, cd, 2, 3, 6, 7));
}

/* What becomes of four outputs of a row, given as whole numbers or, of a FLOAT layer, as floats with their bias. */
static inline void finish(
    const Network *network, const Step *step, int row, int output, v128_t sums, const Buffer *to, const Buffer *added) {
    const Layer *layer = &step->layer;
    f4 y = sums;
    if (layer->kind == INTEGER) {
        f4 whole = wasm_f32x4_convert_i32x4(wasm_i32x4_sub(sums, wasm_v128_load(layer->shift + output)));
        y = add(mul(whole, load4(layer->scale + output)), load4(layer->bias + output));
    } else if (layer->kind == BY_ROW) {
        f4 scaled = mul(wasm_f32x4_convert_i32x4(sums), load4(layer->scale + output));
        y = add(load4(layer->bias + output), mul(scaled, all(network->row_step[row])));
    }
    if (layer->relu) y = largest(y, all(0));
    size_t at = (size_t)row * to->stride + output;
    if (added) {
        size_t from = (size_t)row * added->stride + output;
        y = add(y, added->kind == CODES ? floats_of((int16_t *)added->data + from, step->of_added)
                                        : load4((float *)added->data + from));
    }
    if (to->kind == CODES)
        store_codes((int16_t *)to->data + at, rounded(y, step->rounding));
    else
        store4((float *)to->data + at, y);
}

static void integer_products(
    const Network *network, const Step *step, const int16_t *codes, int stride, int rows, const Buffer *to,
    const Buffer *added) {
    const Layer *layer = &step->layer;
    int chunks = layer->stride / 8;
    for (int output = 0; output < layer->outputs; output += 4) {
        const int16_t *weight = layer->codes + (size_t)output * layer->stride;
        for (int row = 0; row < rows; row += 2) { /* there is always room for one more */
            const int16_t *one = codes + (size_t)row * stride, *two = one + stride, *w = weight;
            v128_t zero = wasm_i32x4_splat(0), a0 = zero, a1 = zero, a2 = zero, a3 = zero;
            v128_t b0 = zero, b1 = zero, b2 = zero, b3 = zero;
            for (int chunk = 0; chunk < chunks; chunk++, one += 8, two += 8, w += 32) {
                v128_t x = wasm_v128_load(one), y = wasm_v128_load(two);
                v128_t w0 = wasm_v128_load(w), w1 = wasm_v128_load(w + 8);
                v128_t w2 = wasm_v128_load(w + 16), w3 = wasm_v128_load(w + 24);
                a0 = wasm_i32x4_add(a0, wasm_i32x4_dot_i16x8(x, w0));
                a1 = wasm_i32x4_add(a1, wasm_i32x4_dot_i16x8(x, w1));
                a2 = wasm_i32x4_add(a2, wasm_i32x4_dot_i16x8(x, w2));
                a3 = wasm_i32x4_add(a3, wasm_i32x4_dot_i16x8(x, w3));
                b0 = wasm_i32x4_add(b0, wasm_i32x4_dot_i16x8(y, w0));
                b1 = wasm_i32x4_add(b1, wasm_i32x4_dot_i16x8(y, w1));
                b2 = wasm_i32x4_add(b2, wasm_i32x4_dot_i16x8(y, w2));
                b3 = wasm_i32x4_add(b3, wasm_i32x4_dot_i16x8(y, w3));
            }
            finish(network, step, row, output, lane_sums(a0, a1, a2, a3), to, added);
            finish(network, step, row + 1, output, lane_sums(b0, b1, b2, b3), to, added);
        }
    }
}

static void float_products(
    const Network *network, const Step *step, const Buffer *from, int rows, const Buffer *to, const Buffer *added) {
    const Layer *layer = &step->layer;
    for (int output = 0; output < layer->outputs; output += 4)
        for (int row = 0; row < rows; row += 2) {
            const float *one = (float *)from->data + (size_t)row * from->stride, *two = one + from->stride;
            const float *w = layer->weight + (size_t)output * layer->inputs;
            f4 a = load4(layer->bias + output), b = a;
            for (int i = 0; i < layer->inputs; i++, w += 4) {
                a = add(a, mul(all(one[i]), load4(w)));
                b = add(b, mul(all(two[i]), load4(w)));
            }
            finish(network, step, row, output, a, to, added);
            finish(network, step, row + 1, output, b, to, added);
        }
}

#define SMALLEST 1e-5f /* of a row's largest */
#define NORM_EPS 1e-6f

/* A BitNeRF's rows in steps of their largest, after its RMSNorm, whose division is left for the step. */
static void round_rows(Network *network, const Layer *layer, const Buffer *from, int rows) {
    for (int row = 0; row < rows; row++) {
        const float *x = (float *)from->data + (size_t)row * from->stride;
        int16_t *codes = network->row_codes + (size_t)row * layer->stride;
        float most = 0, squares = 0;
        for (int i = 0; i < layer->inputs; i++) {
            float value = layer->gains ? x[i] * layer->gains[i] : x[i];
            most = larger(most, value < 0 ? -value : value);
            squares += x[i] * x[i];
        }
        float size = layer->gains ? 1 / root(squares / layer->inputs + NORM_EPS) : 1;
        float step = larger(most * size, SMALLEST) / 127;
        network->row_step[row] = step;
        for (int i = 0; i < layer->inputs; i++) {
            float value = layer->gains ? x[i] * layer->gains[i] : x[i];
            codes[i] = (int16_t)__builtin_rintf(value * (size / step));
        }
        for (int i = layer->inputs; i < layer->stride; i++) codes[i] = 0;
    }
}

static void concatenate(const Network *network, const Step *step, int rows, const Buffer *to) {
    size_t size = to->kind == CODES ? sizeof(int16_t) : sizeof(float);
    for (int row = 0; row < rows; row++) {
        char *at = (char *)to->data + (size_t)row * to->stride * size;
        for (int i = 0; i < step->count; i++) {
            const Buffer *from = &network->buffers[step->from[i]];
            __builtin_memcpy(at, (char *)from->data + (size_t)row * from->stride * size, from->columns * size);
            at += from->columns * size;
        }
    }
}

static void add_or_round(const Network *network, const Step *step, int rows, const Buffer *to) {
    const Buffer *one = &network->buffers[step->from[0]], *two = &network->buffers[step->from[step->count - 1]];
    for (int row = 0; row < rows; row++)
        for (int i = 0; i < to->columns; i += 4) {
            size_t at = (size_t)row * to->stride + i;
            f4 x = one->kind == CODES ? floats_of((int16_t *)one->data + at, step->of_added) : load4((float *)one->data + at);
            if (step->kind == ADD) x = add(x, load4((float *)two->data + at));
            if (to->kind == CODES)
                store_codes((int16_t *)to->data + at, rounded(x, step->rounding));
            else
                store4((float *)to->data + at, x);
        }
}

/* Takes the first rows of the input buffers, at most ROWS, to the output buffers. */
static void run(Network *network, int rows) {
    for (int i = 0; i < network->steps_count; i++) {
        const Step *step = &network->steps[i];
        const Buffer *to = &network->buffers[step->to], *from = &network->buffers[step->from[0]];
        const Buffer *added = step->count > 1 ? &network->buffers[step->from[1]] : NULL;
        if (step->kind == CONCAT)
            concatenate(network, step, rows, to);
        else if (step->kind != LINEAR)
            add_or_round(network, step, rows, to);
        else if (step->layer.kind == FLOAT)
            float_products(network, step, from, rows, to, added);
        else if (step->layer.kind == INTEGER)
            integer_products(network, step, from->data, from->stride, rows, to, added);
        else {
            round_rows(network, &step->layer, from, rows);
            integer_products(network, step, network->row_codes, step->layer.stride, rows, to, added);
        }
    }
}

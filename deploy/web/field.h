/* Fields: batches of places on rays to density and colour, whatever network is inside. */
#pragma once
#include "encoding.h"
#include "grid.h"

#define MOST_RAYS 256 /* of a tile */

/* Places on rays of a tile: at t, and where cones are asked for from t0 to t1. What the field says of them. */
typedef struct {
    int rows;
    int ray[ROWS];
    float t[ROWS], t0[ROWS], t1[ROWS], length[ROWS];
    float density[ROWS], rgb[3][ROWS];
} Batch;

enum FieldKind { NERF, MIP, TENSOR };

/* Planes and lines of whole numbers, `[rows][columns][ranks]` and `[entries][ranks]`, in steps of density and colour. */
typedef struct {
    int resolution[3], density[3], color[3], features, feature_octaves;
    float low[3], high[3];
    const int8_t *planes[3], *lines[3];
    float plane_steps[3][2], line_steps[3][2];
    Network *mix; /* components to features */
} Tensor;

typedef struct {
    enum FieldKind kind;
    Network *network;
    Input points, views; /* views.buffer is NULL where directions are not asked for */
    int octaves, view_octaves;
    int rgb, density, density_column; /* buffers of the outputs */
    int softplus;
    float density_bias, density_scale;
    Cones cones;
    Tensor tensor;
    Buffer ray_views; /* the directions of a tile's rays, encoded */
} Field;

/* A tile's rays, of which fields know. */
static Ray rays[MOST_RAYS];
static int rays_count;

/* --------------------------------------------------------------------------------------------- building one */

__attribute__((export_name("new_field"))) Field *new_field(
    enum FieldKind kind, Network *network, int octaves, int view_octaves, int rgb, int density, int density_column,
    int softplus, float bias, float scale) {
    Field *field = take(sizeof(Field));
    *field = (Field){
        .kind = kind, .network = network, .octaves = octaves, .view_octaves = view_octaves, .rgb = rgb,
        .density = density, .density_column = density_column, .softplus = softplus, .density_bias = bias,
        .density_scale = scale};
    return field;
}

static Input input_of(Network *network, int buffer, float scale, float zero_point, float most) {
    return (Input){&network->buffers[buffer], {scale, zero_point, most}};
}

__attribute__((export_name("set_points"))) void set_points(Field *field, int buffer, float scale, float zero, float most) {
    field->points = input_of(field->network, buffer, scale, zero, most);
}

__attribute__((export_name("set_views"))) void set_views(Field *field, int buffer, float scale, float zero, float most) {
    field->views = input_of(field->network, buffer, scale, zero, most);
    const Buffer *views = field->views.buffer;
    field->ray_views = *views;
    field->ray_views.data = take((size_t)MOST_RAYS * views->stride * sizeof(float));
}

__attribute__((export_name("set_cones"))) void set_cones(
    Field *field, int directions, const float *basis, float ball, int parallel) {
    field->cones = (Cones){.directions = directions, .octaves = field->octaves, .parallel = parallel, .ball = ball};
    __builtin_memcpy(field->cones.basis, basis, directions * 3 * sizeof(float));
}

/* ranks: of density, then of colour, `[6]`. steps: of planes and lines, `[3][4]`: density and colour of each. */
__attribute__((export_name("set_tensor"))) void set_tensor(
    Field *field, Network *mix, const int *resolution, const int *ranks, const float *box, const float *steps,
    int features, int feature_octaves) {
    Tensor *tensor = &field->tensor;
    *tensor = (Tensor){.mix = mix, .features = features, .feature_octaves = feature_octaves};
    for (int i = 0; i < 3; i++) {
        tensor->resolution[i] = resolution[i];
        tensor->density[i] = ranks[i];
        tensor->color[i] = ranks[3 + i];
        tensor->low[i] = box[i];
        tensor->high[i] = box[3 + i];
        for (int j = 0; j < 2; j++) {
            tensor->plane_steps[i][j] = steps[4 * i + j];
            tensor->line_steps[i][j] = steps[4 * i + 2 + j];
        }
    }
}

__attribute__((export_name("set_factors"))) void set_factors(Field *field, int i, const int8_t *plane, const int8_t *line) {
    field->tensor.planes[i] = plane;
    field->tensor.lines[i] = line;
}

/* ------------------------------------------------------------------------------------------------ asking it */

/* Once a tile: what is seen of rays alone. */
static void see_rays(Field *field) {
    if (!field->views.buffer) return;
    static float views[3][ROWS];
    size_t size = field->ray_views.kind == CODES ? sizeof(int16_t) : sizeof(float);
    for (int first = 0; first < rays_count; first += ROWS) {
        int count = smaller_int(ROWS, rays_count - first);
        for (int i = 0; i < count; i++)
            for (int c = 0; c < 3; c++) views[c][i] = rays[first + i].view[c];
        encode_fourier(&field->views, views, field->view_octaves, count);
        __builtin_memcpy(
            (char *)field->ray_views.data + first * field->ray_views.stride * size, field->views.buffer->data,
            count * field->ray_views.stride * size);
    }
}

static void place_views(Field *field, const Batch *batch) {
    if (!field->views.buffer) return;
    size_t bytes = field->ray_views.stride * (field->ray_views.kind == CODES ? sizeof(int16_t) : sizeof(float));
    for (int i = 0; i < batch->rows; i++)
        __builtin_memcpy(
            (char *)field->views.buffer->data + i * bytes, (char *)field->ray_views.data + batch->ray[i] * bytes, bytes);
}

static void place_points(Field *field, const Batch *batch) {
    static float x[3][ROWS], o[3][ROWS], d[3][ROWS], radius[ROWS];
    for (int i = 0; i < batch->rows; i++) {
        const Ray *ray = &rays[batch->ray[i]];
        radius[i] = ray->radius;
        for (int c = 0; c < 3; c++) {
            o[c][i] = ray->o[c];
            d[c][i] = ray->d[c];
            x[c][i] = ray->o[c] + batch->t[i] * ray->d[c];
        }
    }
    if (field->kind == MIP)
        encode_cones(&field->points, &field->cones, o, d, radius, batch->t0, batch->t1, batch->rows);
    else
        encode_fourier(&field->points, x, field->octaves, batch->rows);
}

static f4 activated(const Field *field, f4 raw) {
    raw = add(raw, all(field->density_bias));
    return mul(all(field->density_scale), field->softplus ? softplus(raw) : largest(raw, all(0)));
}

static void read_outputs(const Field *field, Batch *batch) {
    const Buffer *rgb = &field->network->buffers[field->rgb], *density = &field->network->buffers[field->density];
    static float raw[ROWS];
    for (int i = 0; i < batch->rows; i++) {
        const float *row = (float *)rgb->data + (size_t)i * rgb->stride;
        for (int c = 0; c < 3; c++) batch->rgb[c][i] = row[c];
        raw[i] = ((float *)density->data)[(size_t)i * density->stride + field->density_column];
    }
    for (int i = 0; i < batch->rows; i += 4) {
        for (int c = 0; c < 3; c++) store4(batch->rgb[c] + i, sigmoid(load4(batch->rgb[c] + i)));
        store4(batch->density + i, activated(field, load4(raw + i)));
    }
}

/* ---------------------------------------------------------------------------------------- a tensor of factors */

/* The last entry that is not beyond a place, and how far on it lies. */
static int before(float at, int count, float *rest) {
    at = within(at, 0, count - 1);
    int low = smaller_int((int)at, larger_int(count - 2, 0));
    *rest = at - low;
    return low;
}

/* Components of a place: density summed, colours `[sum of ranks]`. */
static float components(const Tensor *tensor, const float *x, float *colors) {
    static const int columns[3] = {0, 0, 1}, down[3] = {1, 2, 2}, lines[3] = {2, 1, 0};
    float at[3], density = 0;
    for (int axis = 0; axis < 3; axis++)
        at[axis] = (x[axis] - tensor->low[axis]) / (tensor->high[axis] - tensor->low[axis]) * (tensor->resolution[axis] - 1);
    for (int i = 0; i < 3; i++) {
        int width = tensor->resolution[columns[i]], ranks = tensor->density[i] + tensor->color[i];
        float right, below, on;
        int column = before(at[columns[i]], width, &right), row = before(at[down[i]], tensor->resolution[down[i]], &below);
        int entry = before(at[lines[i]], tensor->resolution[lines[i]], &on);
        const int8_t *a = tensor->planes[i] + ((size_t)row * width + column) * ranks, *b = a + ranks;
        const int8_t *c = a + (size_t)width * ranks, *d = c + ranks;
        const int8_t *low = tensor->lines[i] + (size_t)entry * ranks, *high = low + ranks;
        float wa = (1 - right) * (1 - below), wb = right * (1 - below), wc = (1 - right) * below, wd = right * below;
        for (int r = 0; r < ranks; r++) {
            int color = r >= tensor->density[i];
            float plane = (wa * a[r] + wb * b[r] + wc * c[r] + wd * d[r]) * tensor->plane_steps[i][color];
            float product = plane * (low[r] + on * (high[r] - low[r])) * tensor->line_steps[i][color];
            if (color)
                *colors++ = product;
            else
                density += product;
        }
    }
    return density;
}

static void ask_tensor(Field *field, Batch *batch) {
    Tensor *tensor = &field->tensor;
    Buffer *mixed = &tensor->mix->buffers[0], *features = &tensor->mix->buffers[1];
    static float raw[ROWS], columns[ROWS];
    for (int i = 0; i < batch->rows; i++) {
        const Ray *ray = &rays[batch->ray[i]];
        float x[3], inside = 1;
        for (int c = 0; c < 3; c++) {
            x[c] = ray->o[c] + batch->t[i] * ray->d[c];
            if (!(x[c] >= tensor->low[c] && x[c] <= tensor->high[c])) inside = 0;
        }
        raw[i] = inside ? components(tensor, x, (float *)mixed->data + (size_t)i * mixed->stride) : -3e38f;
    }
    run(tensor->mix, batch->rows);
    for (int c = 0; c < tensor->features; c++) {
        for (int i = 0; i < batch->rows; i++) columns[i] = ((float *)features->data)[(size_t)i * features->stride + c];
        for (int i = 0; i < batch->rows; i += 4) {
            put(&field->points, i, c, load4(columns + i));
            put_waves(
                &field->points, i, load4(columns + i), tensor->feature_octaves, tensor->features + c,
                2 * tensor->features, tensor->features);
        }
    }
    place_views(field, batch);
    run(field->network, batch->rows);
    read_outputs(field, batch);
    for (int i = 0; i < batch->rows; i += 4) {
        f4 outside = wasm_f32x4_lt(load4(raw + i), all(-1e38f));
        store4(batch->density + i, wasm_v128_andnot(activated(field, load4(raw + i)), outside));
    }
}

static void ask(Field *field, Batch *batch) {
    if (field->kind == TENSOR) {
        ask_tensor(field, batch);
        return;
    }
    place_points(field, batch);
    place_views(field, batch);
    run(field->network, batch->rows);
    read_outputs(field, batch);
}

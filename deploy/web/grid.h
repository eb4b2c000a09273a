/* The occupancy grid of a file, and the points of a ray in its occupied cells; see rendering/occupancy.py. */
#pragma once
#include "maths.h"

#define BLOCK 4 /* cells on a side that are skipped at once where all are empty */
#define RUN 8   /* points that may be taken together */

typedef struct {
    int side, blocks;
    float low[3], high[3], cell[3];
    float inner[2][3]; /* the box of occupied cells, a tenth of a cell wider */
    uint8_t *cells, *filled, *grown; /* [x][y][z]; of blocks; cells with what is near them, where asked for */
} Grid;

typedef struct {
    float o[3], d[3], view[3], radius;
} Ray;

static inline int cell_number(const Grid *grid, float x, float y, float z) {
    int last = grid->side - 1;
    int i = larger_int(smaller_int((int)x, last), 0), j = larger_int(smaller_int((int)y, last), 0);
    return (i * grid->side + j) * grid->side + larger_int(smaller_int((int)z, last), 0);
}

/* bits: of cells, the first in the highest bit of the first byte. box: low and high corner. */
__attribute__((export_name("new_grid"))) Grid *new_grid(int side, const uint8_t *bits, const float *box) {
    Grid *grid = take(sizeof(Grid));
    size_t count = (size_t)side * side * side;
    *grid = (Grid){.side = side, .blocks = (side + BLOCK - 1) / BLOCK, .cells = take(count)};
    size_t blocks = (size_t)grid->blocks * grid->blocks * grid->blocks;
    grid->filled = take(blocks);
    __builtin_memset(grid->filled, 0, blocks);
    int low[3] = {side, side, side}, high[3] = {-1, -1, -1};
    for (size_t number = 0; number < count; number++) {
        grid->cells[number] = bits[number / 8] >> (7 - number % 8) & 1;
        if (!grid->cells[number]) continue;
        int at[3] = {number / side / side, number / side % side, number % side};
        for (int axis = 0; axis < 3; axis++) {
            low[axis] = smaller_int(low[axis], at[axis]);
            high[axis] = larger_int(high[axis], at[axis]);
        }
        grid->filled[(at[0] / BLOCK * grid->blocks + at[1] / BLOCK) * grid->blocks + at[2] / BLOCK] = 1;
    }
    for (int axis = 0; axis < 3; axis++) {
        grid->low[axis] = box[axis];
        grid->high[axis] = box[3 + axis];
        grid->cell[axis] = (box[3 + axis] - box[axis]) / side;
        grid->inner[0][axis] = box[axis] + (low[axis] - 0.1f) * grid->cell[axis];
        grid->inner[1][axis] = box[axis] + (high[axis] + 1.1f) * grid->cell[axis];
    }
    return grid;
}

/* Grows `cells` so that a look-up at a point covers all cells within `reach` of it. */
static void grow(Grid *grid, float reach) {
    int side = grid->side, strides[3] = {side * side, side, 1};
    size_t count = (size_t)side * side * side;
    uint8_t *before = take(count);
    grid->grown = take(count);
    __builtin_memcpy(grid->grown, grid->cells, count);
    for (int axis = 0; axis < 3; axis++) {
        int radius = (int)(reach / grid->cell[axis]) + 1;
        __builtin_memcpy(before, grid->grown, count);
        for (size_t number = 0; number < count; number++) {
            if (!before[number]) continue;
            int at = number / strides[axis] % side;
            int first = larger_int(at - radius, 0), last = smaller_int(at + radius, side - 1);
            for (int i = first; i <= last; i++) grid->grown[number + (i - at) * strides[axis]] = 1;
        }
    }
}

/* Where a ray enters and leaves a box, within near and far, as multiples of its direction. */
static void clip(const float *low, const float *high, const Ray *ray, float near, float far, float *t_in, float *t_out) {
    *t_in = near, *t_out = far;
    for (int axis = 0; axis < 3; axis++) {
        float d = ray->d[axis];
        if (d < 1.17549435e-38f && d > -1.17549435e-38f) d = 1.17549435e-38f;
        float a = (low[axis] - ray->o[axis]) / d, b = (high[axis] - ray->o[axis]) / d;
        *t_in = larger(*t_in, smaller(a, b));
        *t_out = smaller(*t_out, larger(a, b));
    }
}

/* A walk along a ray: points evenly by a step from where it enters the grid, of which those in occupied cells count. */
typedef struct {
    float start[3], along[3]; /* in cells */
    float t_in, t_out, dt, step;
    int number, end; /* of the next point, and of what lies behind the last */
    int first;       /* of the first that was looked at, from which runs count */
    float longest;   /* a sample may be, per unit of t or, where rays are parallel, at all; 0: one step */
    int parallel;
} Walk;

static Walk begin(const Grid *grid, const Ray *ray, float near, float far, float step) {
    Walk walk = {.step = step};
    float inner_in, inner_out, length = 0;
    for (int axis = 0; axis < 3; axis++) {
        walk.start[axis] = (ray->o[axis] - grid->low[axis]) / grid->cell[axis];
        walk.along[axis] = ray->d[axis] / grid->cell[axis];
        length += ray->d[axis] * ray->d[axis];
    }
    walk.dt = step / root(length);
    clip(grid->low, grid->high, ray, near, far, &walk.t_in, &walk.t_out);
    clip(grid->inner[0], grid->inner[1], ray, near, far, &inner_in, &inner_out);
    if (inner_in < inner_out) {
        walk.number = walk.first = larger_int((int)__builtin_floorf((inner_in - walk.t_in) / walk.dt) - 1, 0);
        walk.end = (int)__builtin_ceilf((smaller(inner_out, walk.t_out) - walk.t_in) / walk.dt) + 1;
    }
    return walk;
}

static inline float point_t(const Walk *walk, int number) { return walk->t_in + (number + 0.5f) * walk->dt; }

static inline int counts(const Grid *grid, const Walk *walk, float t) {
    if (!(t < walk->t_out)) return 0;
    const float *s = walk->start, *a = walk->along;
    return grid->cells[cell_number(grid, s[0] + t * a[0], s[1] + t * a[1], s[2] + t * a[2])];
}

/* How many points from `number` on lie in the same block of empty cells; 0 where the block is not empty. */
static int empty_ahead(const Grid *grid, const Walk *walk, int number) {
    float t = point_t(walk, number), leaves = 3.4e38f;
    int block[3];
    for (int axis = 0; axis < 3; axis++) {
        int cell = larger_int(smaller_int((int)(walk->start[axis] + t * walk->along[axis]), grid->side - 1), 0);
        block[axis] = cell / BLOCK;
    }
    if (grid->filled[(block[0] * grid->blocks + block[1]) * grid->blocks + block[2]]) return 0;
    for (int axis = 0; axis < 3; axis++) {
        float a = walk->along[axis];
        if (a > 1e-12f && block[axis] < grid->blocks - 1)
            leaves = smaller(leaves, ((block[axis] + 1) * BLOCK - walk->start[axis]) / a);
        if (a < -1e-12f && block[axis] > 0) leaves = smaller(leaves, (block[axis] * BLOCK - walk->start[axis]) / a);
    }
    float points = (leaves - t) / walk->dt - 0.01f; /* one too few is looked at again, one too many would be lost */
    return points > 1 ? (points < 1e6f ? (int)points : 1000000) : 1;
}

/* The next sample, if there is one: its place, and what it stands for, units of the box. */
static int next_sample(const Grid *grid, Walk *walk, float *t, float *length) {
    while (walk->number < walk->end) {
        int empty = empty_ahead(grid, walk, walk->number);
        if (empty) {
            walk->number += empty;
            continue;
        }
        int number = walk->number, together = 1;
        if (walk->longest > 0) { /* a power of two of points in one, all of one run */
            int run = walk->first + (number - walk->first) / RUN * RUN;
            float middle = 0.5f * (point_t(walk, run) + point_t(walk, run + RUN - 1));
            float most = walk->longest * (walk->parallel ? 1 : middle) / walk->step;
            while (together < RUN && 2 * together <= most) together *= 2;
            number = run + (number - run) / together * together;
        }
        int any = 0;
        for (int i = 0; i < together && !any; i++) any = counts(grid, walk, point_t(walk, number + i));
        walk->number = number + together;
        if (!any) continue;
        *t = point_t(walk, number) + 0.5f * (together - 1) * walk->dt;
        *length = walk->step * together;
        return 1;
    }
    return 0;
}

/* Between where a ray meets occupied cells for the first and the last time; whether it meets any. */
static int span(const Grid *grid, const Ray *ray, float *near, float *far) {
    Walk walk = begin(grid, ray, *near, *far, 1);
    float t_in, t_out;
    clip(grid->inner[0], grid->inner[1], ray, *near, *far, &t_in, &t_out);
    float gap = larger(t_out - t_in, 0) / grid->side;
    int first = grid->side, last = -1;
    for (int i = 0; i < grid->side && gap > 0; i++) {
        float t = t_in + (i + 0.5f) * gap;
        const float *s = walk.start, *a = walk.along;
        if (!grid->grown[cell_number(grid, s[0] + t * a[0], s[1] + t * a[1], s[2] + t * a[2])]) continue;
        first = smaller_int(first, i);
        last = i;
    }
    if (last < 0) return 0;
    *near = t_in + first * gap;
    *far = t_in + (last + 1) * gap;
    return 1;
}

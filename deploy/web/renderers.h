/* From the rays of a tile to their colours, as each sampler of a model file finds what to ask. */
#pragma once
#include "field.h"
#include "steps.h"

enum Sampler { OCCUPANCY, HIERARCHICAL, PROPOSAL, LIGHT_FIELD };
#define MOST_PLACES 64 /* of a light field, on a ray */

static struct {
    enum Sampler sampler;
    Field *fields[3]; /* proposals before the field, or coarse before fine */
    Grid *grid;
    float near, far, step, min_transmittance, cone_steps;
    int samples[3]; /* of each field, on a ray */
    int lindisp, opaque, dilates, every, points;
    enum Curve curve;
    float ball, background[3];
    float ndc_near; /* 0: world space */
    float pixel_offset;
    Input places; /* a light field's coordinates */
} scene;

static float color[MOST_RAYS][3], leaving[MOST_RAYS];

static float length_of(const float *d) { return root(d[0] * d[0] + d[1] * d[1] + d[2] * d[2]); }

/* One sample more of a ray. */
static void composite(int ray, float density, float length, const Batch *batch, int i) {
    float weight = leaving[ray] * (1 - exponential1(-density * length));
    for (int c = 0; c < 3; c++) color[ray][c] += weight * batch->rgb[c][i];
    leaving[ray] *= exponential1(-density * length);
}

/* ---------------------------------------------------------------------------------------- occupied cells */

#define AT_ONCE 4 /* samples of a ray that are asked for, before it is known whether it ends there */

static Walk walks[MOST_RAYS];

static void begin_walks(float step) {
    for (int i = 0; i < rays_count; i++) walks[i] = begin(scene.grid, &rays[i], scene.near, scene.far, step);
}

static void ask_and_composite(Batch *batch) {
    if (!batch->rows) return;
    ask(scene.fields[0], batch);
    for (int i = 0; i < batch->rows; i++) composite(batch->ray[i], batch->density[i], batch->length[i], batch, i);
    batch->rows = 0;
}

/* Front to back, a few samples of each ray in turn; a ray with little light left is done. */
static void render_occupancy(void) {
    static Batch batch;
    begin_walks(scene.step);
    for (int i = 0; i < rays_count; i++) {
        walks[i].parallel = scene.ndc_near > 0;
        walks[i].longest = scene.cone_steps * rays[i].radius * 1.7320508f; /* of a radius to a pixel's width */
    }
    for (int alive = rays_count; alive;) {
        alive = 0;
        for (int ray = 0; ray < rays_count; ray++) {
            if (leaving[ray] <= scene.min_transmittance) continue;
            if (batch.rows + AT_ONCE > ROWS) ask_and_composite(&batch);
            int found = 0;
            for (; found < AT_ONCE && next_sample(scene.grid, &walks[ray], &batch.t[batch.rows], &batch.length[batch.rows]);
                 found++) {
                int i = batch.rows++;
                float half = 0.5f * batch.length[i] / length_of(rays[ray].d);
                batch.ray[i] = ray;
                batch.t0[i] = batch.t[i] - half;
                batch.t1[i] = batch.t[i] + half;
            }
            alive += found > 0;
        }
        ask_and_composite(&batch);
    }
}

/* -------------------------------------------------------------------------------- bins, of all rays alike */

static float distances[MOST_RAYS][MOST_BINS + 1], shares[MOST_RAYS][MOST_BINS + 1], weights[MOST_RAYS][MOST_BINS];

/* Asks a field in all bins between `distances`, at their middles or at `places` (NULL: none), and composites them. */
static void ask_in_bins(Field *field, int bins, const float (*places)[MOST_BINS + 1], int opaque) {
    static Batch batch;
    for (int ray = 0; ray < rays_count; ray++) {
        leaving[ray] = 1;
        for (int c = 0; c < 3; c++) color[ray][c] = 0;
    }
    int total = rays_count * bins;
    for (int first = 0; first < total; first += ROWS) {
        batch.rows = smaller_int(ROWS, total - first);
        for (int i = 0; i < batch.rows; i++) {
            int ray = (first + i) / bins, bin = (first + i) % bins;
            const float *t = distances[ray];
            batch.ray[i] = ray;
            batch.t0[i] = t[bin];
            batch.t1[i] = t[bin + 1];
            batch.t[i] = places ? places[ray][bin] : 0.5f * (t[bin] + t[bin + 1]);
            float gap = places ? (bin + 1 < bins ? places[ray][bin + 1] - places[ray][bin] : 1e10f) : t[bin + 1] - t[bin];
            batch.length[i] = opaque && bin == bins - 1 ? 1e10f : gap * length_of(rays[ray].d);
        }
        ask(field, &batch);
        for (int i = 0; i < batch.rows; i++) {
            int ray = batch.ray[i];
            weights[ray][(first + i) % bins] = leaving[ray] * (1 - exponential1(-batch.density[i] * batch.length[i]));
            composite(ray, batch.density[i], batch.length[i], &batch, i);
        }
    }
}

#define DILATION 0.0025f
#define DILATION_SHARE 0.5f

/* Each network in the bins that the one before found worth it. */
static void render_proposal(void) {
    static float near[MOST_RAYS], far[MOST_RAYS];
    int meets[MOST_RAYS], kept = 0, all_rays = rays_count;
    static float seen[MOST_RAYS][3], left[MOST_RAYS];
    for (int ray = 0; ray < all_rays; ray++) { /* rays beside the hull are not asked about */
        near[kept] = scene.near, far[kept] = scene.far;
        meets[ray] = scene.grid ? span(scene.grid, &rays[ray], &near[kept], &far[kept]) : 1;
        if (meets[ray]) rays[kept++] = rays[ray];
    }
    rays_count = kept;
    for (int i = 0; i < 3 && scene.fields[i]; i++) see_rays(scene.fields[i]);
    int before = 1, asked = 0;
    for (int level = 0; level < 3 && scene.fields[level]; level++) {
        int bins = scene.samples[level], last = level == 2 || !scene.fields[level + 1];
        float reach = level && scene.dilates ? DILATION + DILATION_SHARE / before : 0;
        for (int ray = 0; ray < rays_count; ray++) {
            static float edges[MOST_BINS + 1];
            static const float whole[2] = {0, 1}, one[1] = {1};
            next_bins(level ? shares[ray] : whole, level ? weights[ray] : one, level ? asked : 1, bins, reach, edges);
            for (int i = 0; i <= bins; i++) {
                shares[ray][i] = edges[i];
                distances[ray][i] = distance(scene.curve, near[ray], far[ray], edges[i]);
            }
        }
        ask_in_bins(scene.fields[level], bins, NULL, scene.opaque);
        before *= bins;
        asked = bins;
        if (last) break;
    }
    for (int ray = all_rays - 1, from = kept - 1; ray >= 0; ray--) { /* back to where they were */
        for (int c = 0; c < 3; c++) seen[ray][c] = meets[ray] ? color[from][c] : 0;
        left[ray] = meets[ray] ? leaving[from] : 1;
        from -= meets[ray];
    }
    rays_count = all_rays;
    __builtin_memcpy(color, seen, sizeof(seen));
    __builtin_memcpy(leaving, left, sizeof(left));
}

/* NeRF's coarse pass, and a fine one where that saw something. */
static void render_hierarchical(void) {
    static float places[MOST_RAYS][MOST_BINS + 1], middles[MOST_BINS], extra[MOST_BINS];
    int count = scene.samples[0];
    for (int pass = 0; pass < 2 && scene.fields[pass]; pass++) {
        int total = pass ? count + scene.samples[1] : count;
        for (int ray = 0; ray < rays_count; ray++) {
            float *t = places[ray];
            if (pass == 0) {
                for (int i = 0; i < count; i++) {
                    float u = (float)i / (count - 1);
                    t[i] = scene.lindisp ? 1 / ((1 - u) / scene.near + u / scene.far) : scene.near + (scene.far - scene.near) * u;
                }
            } else {
                for (int i = 0; i + 1 < count; i++) middles[i] = 0.5f * (t[i] + t[i + 1]);
                sample_pdf(middles, weights[ray] + 1, count - 2, scene.samples[1], extra);
                int a = count - 1, b = scene.samples[1] - 1; /* both ascend: merged from behind, in place */
                for (int i = total - 1; b >= 0; i--) t[i] = a >= 0 && t[a] > extra[b] ? t[a--] : extra[b--];
            }
            distances[ray][0] = t[0];
            for (int i = 1; i < total; i++) distances[ray][i] = 0.5f * (t[i - 1] + t[i]);
            distances[ray][total] = t[total - 1];
        }
        ask_in_bins(scene.fields[pass], total, (const float (*)[MOST_BINS + 1])places, 0);
    }
}

/* ------------------------------------------------------------------------------------------- light fields */

static void contract(float *x) {
    float square = x[0] * x[0] + x[1] * x[1] + x[2] * x[2];
    if (square <= 1) return;
    float inverse = 1 / root(square);
    for (int c = 0; c < 3; c++) x[c] *= (2 - inverse) * inverse;
}

/* Where a ray is looked at: the first points in occupied cells, the last one repeated, or evenly from near to far.
   Whether there is any. */
static int find_places(int ray, float *t) {
    if (!scene.grid) {
        for (int i = 0; i < scene.points; i++) {
            float s = scene.points > 1 ? (float)i / (scene.points - 1) : 0;
            t[i] = distance(scene.curve, scene.near, scene.far, s);
        }
        return 1;
    }
    int found = 0, points = 0;
    float at, length;
    while (found < scene.points && next_sample(scene.grid, &walks[ray], &at, &length))
        if (points++ % scene.every == 0) t[found++] = at;
    for (int i = found; i < scene.points && found; i++) t[i] = t[found - 1];
    return found;
}

static void ask_light_field(const int *numbers, float (*coordinates)[ROWS], int rows) {
    Field *field = scene.fields[0];
    Network *network = field->network;
    int of_places = 3 * scene.points, with_views = field->view_octaves >= 0;
    int of_all = of_places + (with_views ? 3 : 0);
    for (int c = 0; c < of_all; c++)
        for (int i = 0; i < rows; i += 4) put(&scene.places, i, c, load4(coordinates[c] + i));
    encode_waves(&field->points, coordinates, of_places, field->octaves, 0, rows);
    if (with_views)
        encode_waves(&field->points, coordinates + of_places, 3, field->view_octaves, 2 * field->octaves * of_places, rows);
    run(network, rows);
    const Buffer *rgb = &network->buffers[field->rgb];
    for (int i = 0; i < rows; i++) {
        const float *row = (float *)rgb->data + (size_t)i * rgb->stride;
        store4(rgb->data, sigmoid(load4(row)));
        for (int c = 0; c < 3; c++) color[numbers[i]][c] = ((float *)rgb->data)[c];
        leaving[numbers[i]] = 0;
    }
}

/* One query a ray; rays that meet nothing are background. */
static void render_light_field(void) {
    static float coordinates[3 * MOST_PLACES + 3][ROWS];
    static int numbers[ROWS];
    float t[MOST_PLACES];
    int rows = 0;
    if (scene.grid) begin_walks(larger(larger(scene.grid->cell[0], scene.grid->cell[1]), scene.grid->cell[2]));
    for (int ray = 0; ray < rays_count; ray++) {
        if (find_places(ray, t)) {
            for (int i = 0; i < scene.points; i++) {
                float x[3];
                for (int c = 0; c < 3; c++) {
                    x[c] = rays[ray].o[c] + t[i] * rays[ray].d[c];
                    if (scene.grid) {
                        float low = scene.grid->low[c], high = scene.grid->high[c];
                        x[c] = (x[c] - 0.5f * (low + high)) / (0.5f * (high - low));
                    } else if (scene.ball > 0)
                        x[c] /= scene.ball;
                }
                if (!scene.grid && scene.ball > 0) contract(x);
                for (int c = 0; c < 3; c++) coordinates[3 * i + c][rows] = x[c];
            }
            for (int c = 0; c < 3; c++) coordinates[3 * scene.points + c][rows] = rays[ray].view[c];
            numbers[rows++] = ray;
        }
        if (rows == ROWS || (ray == rays_count - 1 && rows)) {
            ask_light_field(numbers, coordinates, rows);
            rows = 0;
        }
    }
}

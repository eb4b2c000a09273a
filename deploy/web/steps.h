/* Step functions along a ray, and bins drawn from them: see rendering/step_functions.py for what they are. */
#pragma once
#include "maths.h"

#define MOST_BINS 512
#define EPS 1.1920929e-7f
#define PADDING 1e-5f

/* Where a share u of the mass lies before; mass: before each of `bins + 1` edges. */
static float invert(float u, const float *t, const float *mass, int bins) {
    int above = 1;
    while (above < bins && mass[above] <= u) above++;
    float low = mass[above - 1], high = mass[above];
    float share = high > low ? within((u - low) / (high - low), 0, 1) : 0;
    return t[above - 1] + share * (t[above] - t[above - 1]);
}

/* The largest density within `reach` of every place, as `3 bins + 1` edges and masses that add up to 1. */
static int dilate(const float *t, const float *w, int bins, float reach, float *edges, float *masses) {
    int a = 0, b = 0, c = 0, count = 3 * bins + 1, first = 0, last = -1;
    for (int i = 0; i < count; i++) { /* three ascending lists into one */
        float x = a <= bins ? t[a] : 3e38f, y = b < bins ? t[b] - reach : 3e38f, z = c < bins ? t[c + 1] + reach : 3e38f;
        if (y <= x && y <= z)
            b++, edges[i] = y;
        else if (x <= z)
            a++, edges[i] = x;
        else
            c++, edges[i] = z;
        edges[i] = within(edges[i], 0, 1);
    }
    float total = 0;
    for (int i = 0; i + 1 < count; i++) {
        while (first < bins && t[first + 1] + reach <= edges[i]) first++;
        while (last + 1 < bins && t[last + 1] - reach <= edges[i]) last++;
        float most = 0;
        for (int j = first; j <= last; j++) most = larger(most, w[j] / larger(t[j + 1] - t[j], EPS * EPS));
        masses[i] = most * (edges[i + 1] - edges[i]);
        total += masses[i];
    }
    for (int i = 0; i + 1 < count; i++) masses[i] /= larger(total, EPS * EPS);
    return count - 1;
}

/* Edges of `count` bins whose centres are quantiles of what a level saw, widened by `reach`; 0: as it is. */
static void next_bins(const float *t, const float *w, int bins, int count, float reach, float *edges) {
    static float wide_t[3 * MOST_BINS + 1], wide_w[3 * MOST_BINS], mass[3 * MOST_BINS + 1], centres[MOST_BINS];
    if (reach > 0) {
        bins = dilate(t, w, bins, reach, wide_t, wide_w) - 2; /* without the first and the last */
        t = wide_t + 1;
        w = wide_w + 1;
    }
    float total = 0;
    for (int i = 0; i < bins; i++) total += t[i + 1] > t[i] ? w[i] + PADDING : 0;
    mass[0] = 0;
    for (int i = 0; i < bins; i++) mass[i + 1] = smaller(mass[i] + (t[i + 1] > t[i] ? (w[i] + PADDING) / total : 0), 1);
    mass[bins] = 1;
    float pad = 1 / (2.0f * count), range = 1 - 2 * pad - EPS;
    for (int i = 0; i < count; i++) centres[i] = invert(pad + i * (range / (count - 1)), t, mass, bins);
    for (int i = 1; i < count; i++) edges[i] = (centres[i - 1] + centres[i]) / 2;
    edges[0] = within(2 * centres[0] - edges[1], 0, 1);
    edges[count] = within(2 * centres[count - 1] - edges[count - 1], 0, 1);
}

/* NeRF's: `count` places between `bins + 1` edges, evenly by the mass of what a coarse pass saw. */
static void sample_pdf(const float *edges, const float *w, int bins, int count, float *places) {
    static float mass[2 * MOST_BINS];
    float total = 0;
    for (int i = 0; i < bins; i++) total += w[i] + PADDING;
    mass[0] = 0;
    for (int i = 0; i < bins; i++) mass[i + 1] = mass[i] + (w[i] + PADDING) / total;
    for (int i = 0; i < count; i++) {
        float u = count > 1 ? (float)i / (count - 1) : 0;
        int above = 1;
        while (above < bins && mass[above] <= u) above++;
        float width = larger(mass[above] - mass[above - 1], PADDING);
        float share = within((u - mass[above - 1]) / width, 0, 1);
        places[i] = edges[above - 1] + share * (edges[above] - edges[above - 1]);
    }
}

enum Curve { LINEAR_DEPTH, RECIPROCAL, LOGARITHMIC, PIECEWISE };

static float bent(enum Curve curve, float t) {
    if (curve == RECIPROCAL) return 1 / t;
    if (curve == LOGARITHMIC) return logarithm1(t);
    if (curve == PIECEWISE) return t < 1 ? 1 - 0.5f * t : 0.5f / t;
    return t;
}

static float straight(enum Curve curve, float x) {
    if (curve == RECIPROCAL) return 1 / x;
    if (curve == LOGARITHMIC) return exponential1(x);
    if (curve == PIECEWISE) return x > 0.5f ? 2 * (1 - x) : 0.5f / x;
    return x;
}

/* From s in [0, 1] to a distance between near and far. */
static float distance(enum Curve curve, float near, float far, float s) {
    return straight(curve, bent(curve, near) * (1 - s) + bent(curve, far) * s);
}

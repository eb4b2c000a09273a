/* The renderer of a model file in WebAssembly: what deploy/web_page.py puts into a page.

   clang --target=wasm32 -O3 -msimd128 -mbulk-memory -nostdlib: see scripts/build_web_kernels.sh. */
#include "renderers.h"

__attribute__((export_name("set_rays"))) void set_rays(
    float near, float far, float ndc_near, float pixel_offset, float r, float g, float b) {
    scene.near = near, scene.far = far, scene.ndc_near = ndc_near, scene.pixel_offset = pixel_offset;
    scene.background[0] = r, scene.background[1] = g, scene.background[2] = b;
}

__attribute__((export_name("add_field"))) void add_field(Field *field, int samples) {
    int i = 0;
    while (scene.fields[i]) i++;
    scene.fields[i] = field;
    scene.samples[i] = samples;
}

__attribute__((export_name("use_occupancy"))) void use_occupancy(
    Grid *grid, float step, float min_transmittance, float cone_steps) {
    scene.sampler = OCCUPANCY;
    scene.grid = grid, scene.step = step, scene.min_transmittance = min_transmittance, scene.cone_steps = cone_steps;
}

__attribute__((export_name("use_hierarchical"))) void use_hierarchical(int lindisp) {
    scene.sampler = HIERARCHICAL;
    scene.lindisp = lindisp;
}

/* hull: a grid or NULL. */
__attribute__((export_name("use_proposal"))) void use_proposal(Grid *hull, enum Curve curve, int opaque, int dilates) {
    scene.sampler = PROPOSAL;
    scene.grid = hull, scene.curve = curve, scene.opaque = opaque, scene.dilates = dilates;
    if (!hull) return;
    float sides[3];
    for (int axis = 0; axis < 3; axis++) sides[axis] = hull->high[axis] - hull->low[axis];
    grow(hull, 0.5f * length_of(sides) / hull->side);
}

/* grid: whose occupied cells places lie in, or NULL: from near to far. */
__attribute__((export_name("use_light_field"))) void use_light_field(
    Grid *grid, int points, int every, enum Curve curve, float ball, Network *network, int buffer, float scale,
    float zero_point, float most) {
    scene.sampler = LIGHT_FIELD;
    scene.grid = grid, scene.points = points, scene.every = every, scene.curve = curve, scene.ball = ball;
    scene.places = input_of(network, buffer, scale, zero_point, most);
}

/* What a page says of its camera. Focal lengths and centre in pixels; c2w by rows, OpenGL's axes. */
typedef struct {
    float width, height, fx, fy, cx, cy, c2w[3][4];
} Camera;
static Camera camera;

__attribute__((export_name("the_camera"))) Camera *the_camera(void) { return &camera; }

/* NeRF's appendix C: from the plane z = -near to infinity as t goes from 0 to 1. */
static void to_ndc(Ray *ray) {
    float near = scene.ndc_near, *o = ray->o, *d = ray->d;
    float focal = camera.fx, sides[2] = {camera.width, camera.height * (camera.fx / camera.fy)};
    float forward = (near + o[2]) / d[2];
    for (int c = 0; c < 3; c++) o[c] -= forward * d[c];
    float near_oz = 2 * near / o[2], ndc_o[3], ndc_d[3];
    for (int c = 0; c < 2; c++) {
        float scale = -2 * focal / sides[c];
        ndc_o[c] = scale * (o[c] / o[2]);
        ndc_d[c] = scale * (d[c] / d[2] - o[c] / o[2]);
    }
    ndc_o[2] = 1 + near_oz;
    ndc_d[2] = -near_oz;
    ray->radius *= camera.fx * (1 / camera.width + 1 / camera.height);
    __builtin_memcpy(o, ndc_o, sizeof(ndc_o));
    __builtin_memcpy(d, ndc_d, sizeof(ndc_d));
}

static Ray ray_through(int column, int row) {
    float x = (column + scene.pixel_offset - camera.cx) / camera.fx, y = -(row + scene.pixel_offset - camera.cy) / camera.fy;
    Ray ray = {.radius = 0.57735027f / camera.fx}; /* as wide as a pixel's variance */
    for (int c = 0; c < 3; c++) {
        ray.d[c] = camera.c2w[c][0] * x + camera.c2w[c][1] * y - camera.c2w[c][2];
        ray.o[c] = camera.c2w[c][3];
    }
    float length = length_of(ray.d);
    for (int c = 0; c < 3; c++) ray.view[c] = ray.d[c] / length;
    if (scene.ndc_near > 0) to_ndc(&ray);
    return ray;
}

/* A part of the camera's picture, at most MOST_RAYS pixels, as RGBA bytes. */
__attribute__((export_name("render"))) uint8_t *render(int left, int top, int width, int height) {
    static uint8_t pixels[MOST_RAYS * 4];
    rays_count = width * height;
    for (int i = 0; i < rays_count; i++) {
        rays[i] = ray_through(left + i % width, top + i / width);
        leaving[i] = 1;
        for (int c = 0; c < 3; c++) color[i][c] = 0;
    }
    if (scene.sampler == OCCUPANCY || scene.sampler == HIERARCHICAL)
        for (int i = 0; i < 3 && scene.fields[i]; i++) see_rays(scene.fields[i]);
    if (scene.sampler == OCCUPANCY) render_occupancy();
    if (scene.sampler == HIERARCHICAL) render_hierarchical();
    if (scene.sampler == PROPOSAL) render_proposal();
    if (scene.sampler == LIGHT_FIELD) render_light_field();
    for (int i = 0; i < rays_count; i++) {
        for (int c = 0; c < 3; c++) {
            float value = color[i][c] + leaving[i] * scene.background[c];
            pixels[4 * i + c] = (uint8_t)__builtin_rintf(within(value, 0, 1) * 255);
        }
        pixels[4 * i + 3] = 255;
    }
    return pixels;
}

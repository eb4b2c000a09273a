/* What deploy/entropy_coding.py codes, decoded: the same counts, contexts and fronts, in the same order.

   A program of its own, small rather than fast, since it runs once, and only in pages that hold something coded. */
#include "adaptive_model.h"
#include <wasm_simd128.h>

#define STATES 3
enum { PRUNED, CODED, KEPT };

static int quotient_up(int a, int b) { return a >= 0 ? (a + b - 1) / b : -(-a / b); }

/* Bits of a grid's cells [side][side][side], the first in the highest bit of the first byte. */
__attribute__((export_name("decode_cells"))) uint8_t *decode_cells(Decoder *decoder, int side) {
    static const int8_t before[10][3] = {{0, 0, -1}, {0, -1, -1}, {0, -1, 0}, {0, -1, 1}, {-1, 0, 0},
                                         {-1, 0, 1}, {-1, 0, -1}, {-1, 1, 0}, {-1, -1, 0}, {-1, 1, 1}};
    int wide = side + 2, last = side - 1, offsets[10];
    for (int i = 0; i < 10; i++) offsets[i] = (before[i][0] * wide + before[i][1]) * wide + before[i][2];
    size_t count = (size_t)side * side * side;
    uint8_t *known = take((size_t)wide * wide * wide), *bits = take((count + 7) / 8);
    __builtin_memset(known, 0, (size_t)wide * wide * wide);
    __builtin_memset(bits, 0, (count + 7) / 8);
    Adaptive model = new_model(1 << 10, 2, NULL, 2);
    size_t most = (size_t)side * side;
    int32_t *places = take(4 * most), *contexts = take(4 * most), *found = take(4 * most);
    for (int front = 0; front <= 7 * last; front++) {
        int size = 0;
        for (int x = larger_int(0, quotient_up(front - 3 * last, 4)); x <= smaller_int(last, front / 4); x++) {
            int rest = front - 4 * x; /* 2 y + z */
            for (int y = larger_int(0, quotient_up(rest - last, 2)); y <= smaller_int(last, rest / 2); y++) {
                int place = ((x + 1) * wide + y + 1) * wide + rest - 2 * y + 1, context = 0;
                for (int i = 0; i < 10; i++) context = 2 * context + known[place + offsets[i]];
                places[size] = place, contexts[size++] = context;
            }
        }
        decode_front(decoder, &model, contexts, size, found);
        for (int i = 0; i < size; i++) known[places[i]] = found[i];
    }
    for (size_t number = 0; number < count; number++) {
        int x = number / side / side, y = number / side % side, z = number % side;
        bits[number / 8] |= known[((x + 1) * wide + y + 1) * wide + z + 1] << (7 - number % 8);
    }
    return bits;
}

/* wanted: of [rows][columns], NULL for all. */
typedef struct {
    int rows, columns;
    const uint8_t *wanted;
} Table;

/* The entries of front t that are wanted, from row to row; how many. */
static int in_front(const Table *table, int t, int *row_of, int *column_of) {
    int size = 0;
    for (int row = larger_int(0, (t - table->columns + 2) / 2); row <= smaller_int(table->rows - 1, t / 2); row++) {
        int column = t - 2 * row;
        if (table->wanted && !table->wanted[row * table->columns + column]) continue;
        row_of[size] = row, column_of[size++] = column;
    }
    return size;
}

static int fronts_of(const Table *table) { return 2 * (table->rows - 1) + table->columns; }

/* States of a plane's entries, [rows][columns]. */
static uint8_t *decode_states(Decoder *decoder, int rows, int columns) {
    Table table = {rows, columns, NULL};
    int wide = columns + 3;
    uint8_t *known = take((size_t)(rows + 1) * wide), *states = take((size_t)rows * columns);
    __builtin_memset(known, 0, (size_t)(rows + 1) * wide);
    int32_t *row = take(4 * rows), *column = take(4 * rows), *contexts = take(4 * rows), *found = take(4 * rows);
    Adaptive model = new_model(STATES * STATES * STATES * STATES * STATES, STATES, NULL, 4);
    for (int t = 0; t < fronts_of(&table); t++) {
        int size = in_front(&table, t, row, column);
        for (int i = 0; i < size; i++) {
            const uint8_t *above = known + row[i] * wide + column[i], *level = above + wide;
            contexts[i] = (((level[1] * STATES + above[1]) * STATES + above[2]) * STATES + above[3]) * STATES + level[0];
        }
        decode_front(decoder, &model, contexts, size, found);
        for (int i = 0; i < size; i++) {
            known[(row[i] + 1) * wide + column[i] + 2] = found[i];
            states[row[i] * columns + column[i]] = found[i];
        }
    }
    return states;
}

static int steps_below(const double *steps, int count, double value) {
    int below = 0;
    while (below < count && steps[below] < value) below++;
    return below;
}

/* Whole numbers [rows][columns][channels] at the entries that are wanted, in place. there: where the table holds
   something, wanted or not. */
static void decode_values(Decoder *decoder, Table table, const uint8_t *there, int channels, int low, int high, int8_t *values) {
    static const double magnitudes[11] = {0.05, 0.12, 0.25, 0.45, 0.7, 1.0, 1.5, 2.3, 3.5, 6.0, 12.0};
    static const double signs[4] = {-1.2, -0.3, 0.3, 1.2};
    int symbols = high - low + 1, rows = table.rows, columns = table.columns;
    int32_t prior[256];
    for (int i = 0; i < symbols; i++) {
        int away = low + i < 0 ? -(low + i) : low + i;
        prior[i] = larger_int(INCREMENT >> smaller_int(away, 10), 1);
    }
    Adaptive model = new_model(12 * 5, symbols, prior, 0);
    double *sums = take(sizeof(double) * channels), count = 1;
    for (int c = 0; c < channels; c++) sums[c] = 1;
    int32_t *row = take(4 * rows), *column = take(4 * rows);
    int32_t *contexts = take((size_t)4 * rows * channels), *found = take((size_t)4 * rows * channels);
    for (int t = 0; t < fronts_of(&table); t++) {
        int size = in_front(&table, t, row, column);
        if (!size) continue;
        for (int i = 0; i < size; i++) {
            const int8_t *near[3];
            int weight = 0;
            for (int n = 0; n < 3; n++) { /* left, above, above to the right */
                int r = row[i] - (n > 0), c = column[i] + (n == 2) - (n == 0);
                int inside = r >= 0 && c >= 0 && c < columns && there[r * columns + c];
                near[n] = inside ? values + ((size_t)r * columns + c) * channels : NULL;
                weight += inside;
            }
            for (int c = 0; c < channels; c++) {
                int sum = 0, size_of = 0;
                for (int n = 0; n < 3; n++) {
                    if (!near[n]) continue;
                    sum += near[n][c];
                    size_of += near[n][c] < 0 ? -near[n][c] : near[n][c];
                }
                double magnitude = (2 * size_of + sums[c] / count) / (2 * weight + 1);
                double mean = (double)sum / larger_int(weight, 1);
                contexts[i * channels + c] = steps_below(magnitudes, 11, magnitude) * 5 + steps_below(signs, 4, mean);
            }
        }
        decode_front(decoder, &model, contexts, size * channels, found);
        for (int i = 0; i < size; i++) {
            int8_t *to = values + ((size_t)row[i] * columns + column[i]) * channels;
            for (int c = 0; c < channels; c++) {
                to[c] = low + found[i * channels + c];
                sums[c] += to[c] < 0 ? -to[c] : to[c];
            }
        }
        count += size;
    }
}

/* A table of one row, [columns][channels]. */
__attribute__((export_name("decode_table"))) int8_t *decode_table(Decoder *decoder, int columns, int channels, int low, int high) {
    int8_t *values = take((size_t)columns * channels);
    uint8_t *there = take(columns);
    __builtin_memset(values, 0, (size_t)columns * channels);
    __builtin_memset(there, 1, columns);
    decode_values(decoder, (Table){1, columns, NULL}, there, channels, low, high, values);
    return values;
}

/* The `rank`th smallest of keys, from 0, which are moved about (Hoare's selection). */
static int64_t smallest_but(int64_t *keys, int count, int rank) {
    int low = 0, high = count - 1;
    while (low < high) {
        int64_t pivot = keys[(low + high) / 2];
        int i = low, j = high;
        while (i <= j) {
            while (keys[i] < pivot) i++;
            while (keys[j] > pivot) j--;
            if (i > j) break;
            int64_t other = keys[i];
            keys[i++] = keys[j], keys[j--] = other;
        }
        if (rank <= j) high = j;
        else if (rank >= i) low = i;
        else break;
    }
    return keys[rank];
}

/* Whole numbers from 0: of each plus one how many bits it has, then these, highest first. */
static void decode_from_zero(
    Decoder *decoder, Adaptive *octaves, Adaptive *bits, const int32_t *contexts, int size, int32_t *found, int32_t *scratch) {
    int32_t *lengths = scratch, *of_bits = scratch + size, *symbols = of_bits + size, *whose = symbols + size, most = 0;
    decode_front(decoder, octaves, contexts, size, lengths);
    for (int i = 0; i < size; i++) {
        found[i] = 1;
        most = larger_int(most, lengths[i]);
    }
    for (int place = 0; place < most; place++) {
        int longer = 0;
        for (int i = 0; i < size; i++) {
            if (lengths[i] <= place) continue;
            of_bits[longer] = 8 * lengths[i] + smaller_int(found[i], 7);
            whose[longer++] = i;
        }
        decode_front(decoder, bits, of_bits, longer, symbols);
        for (int i = 0; i < longer; i++) found[whose[i]] = 2 * found[whose[i]] + symbols[i];
    }
    for (int i = 0; i < size; i++) found[i] -= 1;
}

/* Of so many times eight int16. */
static inline int product(const v128_t *a, const v128_t *b, int eights) {
    v128_t sum = wasm_i32x4_splat(0);
    for (int i = 0; i < eights; i++) sum = wasm_i32x4_add(sum, wasm_i32x4_dot_i16x8(a[i], b[i]));
    return wasm_i32x4_extract_lane(sum, 0) + wasm_i32x4_extract_lane(sum, 1) + wasm_i32x4_extract_lane(sum, 2) +
           wasm_i32x4_extract_lane(sum, 3);
}

/* Which code each wanted entry has, [rows][columns]: see code_numbers of deploy/entropy_coding.py.
   book: [codes][stride], of which `channels` count. most: distances between entries and codes at once. */
static int32_t *decode_numbers(
    Decoder *decoder, Table table, const int8_t *book, int stride, int codes, int channels, int most) {
    static const double spreads[11] = {0.0, 0.05, 0.15, 0.35, 0.7, 1.2, 2.0, 3.5, 6.0, 12.0, 25.0};
    static const int weights[3] = {2, 2, 1};
    int rows = table.rows, columns = table.columns, bits_of = 32 - __builtin_clz(codes);
    int parts_of = larger_int(1, most / codes); /* entries at once */
    int eights = (channels + 7) / 8;
    v128_t *wide = take((size_t)16 * codes * eights), *sought = take((size_t)16 * eights); /* int16 */
    int32_t *numbers = take((size_t)4 * rows * columns), *sizes = take((size_t)4 * codes);
    __builtin_memset(wide, 0, (size_t)16 * codes * eights);
    __builtin_memset(sought, 0, (size_t)16 * eights);
    for (int k = 0; k < codes; k++) {
        for (int c = 0; c < channels; c++) ((int16_t *)(wide + k * eights))[c] = book[k * stride + c];
        sizes[k] = product(wide + k * eights, wide + k * eights, eights);
    }
    for (int i = 0; i < rows * columns; i++) numbers[i] = -1;
    Adaptive octaves = new_model(2 * 11 + 3, bits_of + 1, NULL, 1), bits = new_model(8 * octaves.symbols, 2, NULL, 2);
    int32_t *row = take(4 * rows), *column = take(4 * rows), *contexts = take(4 * rows), *nearer = take(4 * rows);
    int32_t *scratch = take((size_t)4 * 4 * rows);
    int64_t *keys = take((size_t)8 * codes);
    int32_t *totals = take((size_t)4 * rows * channels), *shares = take(4 * rows);
    for (int t = 0; t < fronts_of(&table); t++) {
        int all_of = in_front(&table, t, row, column);
        for (int start = 0; start < all_of; start += parts_of) {
            int size = smaller_int(parts_of, all_of - start);
            for (int i = 0; i < size; i++) {
                int share = 0, r = row[start + i], at = column[start + i];
                int64_t squares = 0, of_total = 0;
                int32_t *total = totals + (size_t)i * channels;
                for (int c = 0; c < channels; c++) total[c] = 0;
                for (int n = 0; n < 3; n++) {
                    int above = r - (n > 0), c = at + (n == 2) - (n == 0);
                    if (above < 0 || c < 0 || c >= columns || numbers[above * columns + c] < 0) continue;
                    int number = numbers[above * columns + c];
                    share += weights[n];
                    squares += weights[n] * sizes[number];
                    for (int j = 0; j < channels; j++) total[j] += weights[n] * book[number * stride + j];
                }
                for (int c = 0; c < channels; c++) of_total += (int64_t)total[c] * total[c];
                double spread = (double)(share * squares - of_total) / larger_int(share * share, 1) / larger_int(1, channels);
                contexts[i] = steps_below(spreads, 11, spread) + 12 * (share > 2);
                if (!share) contexts[i] = octaves.contexts - 1;
                shares[i] = share;
            }
            decode_from_zero(decoder, &octaves, &bits, contexts, size, nearer, scratch);
            for (int i = 0; i < size; i++) {
                const int32_t *total = totals + (size_t)i * channels;
                for (int c = 0; c < channels; c++) ((int16_t *)sought)[c] = total[c]; /* 5 * 127 at most */
                for (int k = 0; k < codes; k++) {
                    int64_t distance = (int64_t)larger_int(shares[i], 1) * sizes[k];
                    keys[k] = (distance - 2 * (int64_t)product(sought, wide + k * eights, eights)) * codes + k;
                }
                int64_t key = smallest_but(keys, codes, smaller_int(nearer[i], codes - 1)) % codes;
                numbers[row[start + i] * columns + column[start + i]] = key < 0 ? key + codes : key;
            }
        }
    }
    return numbers;
}

/* A plane of a VQ-TensoRF, [rows][columns][density + colour ranks]. most: as of
   decode_numbers. low, high: of its whole numbers. */
__attribute__((export_name("decode_plane"))) int8_t *decode_plane(
    Decoder *decoder, int rows, int columns, int density, int colour, int codes, int most, int low, int high) {
    int channels = density + colour, count = rows * columns;
    int8_t *plane = take((size_t)count * channels);
    uint8_t *states = decode_states(decoder, rows, columns);
    uint8_t *coded = take(count), *kept = take(count), *there = take(count);
    __builtin_memset(plane, 0, (size_t)count * channels);
    int some = 0;
    for (int i = 0; i < count; i++) {
        coded[i] = states[i] == CODED, kept[i] = states[i] == KEPT, there[i] = states[i] != PRUNED;
        some |= coded[i];
    }
    const int8_t *book = decode_table(decoder, codes, channels, low, high);
    if (some) {
        Table table = {rows, columns, coded};
        const int32_t *of_density = decode_numbers(decoder, table, book, channels, codes, density, most);
        const int32_t *of_colour = decode_numbers(decoder, table, book + density, channels, codes, colour, most);
        for (int i = 0; i < count; i++) {
            if (!coded[i]) continue;
            __builtin_memcpy(plane + (size_t)i * channels, book + (size_t)of_density[i] * channels, density);
            __builtin_memcpy(plane + (size_t)i * channels + density, book + (size_t)of_colour[i] * channels + density, colour);
        }
    }
    decode_values(decoder, (Table){rows, columns, kept}, there, channels, low, high, plane);
    return plane;
}

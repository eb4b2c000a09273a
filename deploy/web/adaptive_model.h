/* Symbols by counts of what came before, off a range coder's stream, as deploy/coders.py has them.

   Bits come as constriction's RangeDecoder takes them: 32-bit words, a 64-bit state, and probabilities of 24 bits, which
   its Categorical(perfect=False) makes of counts in float32. */
#pragma once
#include "memory.h"

#define PRECISION 24
#define INCREMENT 32
#define MEMORY 64

typedef struct {
    uint64_t lower, range, point;
    const uint32_t *next, *end;
} Decoder;

typedef struct {
    int contexts, symbols;
    int32_t *counts, *totals;
} Adaptive;

static uint32_t next_word(Decoder *decoder) { return decoder->next < decoder->end ? *decoder->next++ : 0; }

__attribute__((export_name("new_decoder"))) Decoder *new_decoder(const uint32_t *words, int bytes) {
    Decoder *decoder = take(sizeof(Decoder));
    *decoder = (Decoder){.range = ~(uint64_t)0, .next = words, .end = words + bytes / 4};
    decoder->point = (uint64_t)next_word(decoder) << 32;
    decoder->point |= next_word(decoder);
    return decoder;
}

/* prior: of each symbol, alike in all contexts; NULL: `even` for each. */
static Adaptive new_model(int contexts, int symbols, const int32_t *prior, int even) {
    Adaptive model = {contexts, symbols, take((size_t)contexts * symbols * 4), take((size_t)contexts * 4)};
    for (int context = 0; context < contexts; context++) {
        model.totals[context] = 0;
        for (int symbol = 0; symbol < symbols; symbol++) {
            int count = prior ? prior[symbol] : even;
            model.counts[context * symbols + symbol] = count;
            model.totals[context] += count;
        }
    }
    return model;
}

static int decode_symbol(Decoder *decoder, const Adaptive *model, int context) {
    const int32_t *counts = model->counts + (size_t)context * model->symbols;
    uint64_t part = decoder->range >> PRECISION;
    uint64_t found = (decoder->point - decoder->lower) / part;
    uint32_t quantile = found >> PRECISION ? (1u << PRECISION) - 1 : found;
    float weight = (float)((1 << PRECISION) - model->symbols) / (float)model->totals[context], before = 0;
    uint32_t left = 0, right = 1u << PRECISION;
    int symbol = 0;
    for (; symbol < model->symbols - 1; symbol++) {
        before += (float)counts[symbol];
        uint32_t edge = (uint32_t)(before * weight) + symbol + 1;
        if (edge > quantile) {
            right = edge;
            break;
        }
        left = edge;
    }
    decoder->lower += part * left;
    decoder->range = part * (right - left);
    if (decoder->range >> 32 == 0) {
        decoder->lower <<= 32;
        decoder->range <<= 32;
        decoder->point = decoder->point << 32 | next_word(decoder);
    }
    return symbol;
}

/* All of a front: their counts come in together, when the last is decoded. */
static void decode_front(Decoder *decoder, Adaptive *model, const int32_t *contexts, int count, int32_t *symbols) {
    if (!count) return;
    if (model->symbols == 1) {
        __builtin_memset(symbols, 0, count * sizeof(int32_t));
        return;
    }
    for (int i = 0; i < count; i++) symbols[i] = decode_symbol(decoder, model, contexts[i]);
    for (int i = 0; i < count; i++) {
        model->counts[contexts[i] * model->symbols + symbols[i]] += INCREMENT;
        model->totals[contexts[i]] += INCREMENT;
    }
    for (int context = 0; context < model->contexts; context++) {
        if (model->totals[context] <= MEMORY * INCREMENT * model->symbols) continue;
        model->totals[context] = 0;
        for (int symbol = 0; symbol < model->symbols; symbol++) {
            int32_t *counted = model->counts + (size_t)context * model->symbols + symbol;
            *counted = (*counted + 1) / 2;
            model->totals[context] += *counted;
        }
    }
}

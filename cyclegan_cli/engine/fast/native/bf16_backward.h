// The gradients of a convolution's weights in bfloat16: products of channels x pixels with pixels x outputs,
// summed in float32.

#pragma once

#include "bf16.h"

#if HAS_BF16

constexpr long kPixels = 2 * kDepth;         // that one instruction sums over
constexpr long kPartPixels = 4096;           // whose values and gradients of 32 channels fit in the second cache
constexpr long kTile = kSide * kSide, kSums = 4 * kTile;  // of 32 channels and 32 outputs

// `count` values of a padded row as bfloat16: with stride 2 the even ones, and behind all of those the odd ones.
BF16_CODE inline void read_row(const Source& s, long channel, long row, long stride, long count, Half* to) {
    Half* halves = stride == 1 ? to : reinterpret_cast<Half*>(scratch<1>(count / 2));
    read_halves(s, channel, row, 0, count, halves);
    for (long x = 0; stride == 2 && x < count; x += 2 * kSide) {
        const __m512i words = _mm512_loadu_si512(halves + x);
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + x / 2), _mm512_cvtepi32_epi16(words));
        const __m256i odd = _mm512_cvtepi32_epi16(_mm512_srli_epi32(words, 16));
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + (count + x) / 2), odd);
    }
}

// A tile of 16 pairs of pixels by 16 rows, of which those that are null are zeros, as all pixels from `count` on.
BF16_CODE inline void to_pairs(const float* const (&rows)[kSide], long count, Word* to) {
    __m512i block[kSide];
    for (int m = 0; m < kSide; m++) {
        block[m] = _mm512_setzero_si512();
        if (!rows[m]) continue;
        const Values v = values_at(rows[m], count);
        block[m] = (__m512i)_mm512_cvtne2ps_pbh(v.high, v.low);
    }
    transpose(block);
    for (long p = 0; p < kDepth; p++) _mm512_storeu_si512(to + p * kSide, block[p]);
}

// What is multiplied: `high` rows of `blocks` times 32 pixels. `pixels`, `grads`: to the next row, in words for
// the tiles of gradients; `plane`: to the next of 16 channels; `group`: to the next 16 outputs' tiles.
struct Span {
    long high, blocks, pixels, plane, grads, group;
};

// 32 channels and 32 outputs, or 16 if there are no more, by AMX: added to the sums, or put in their place.
BF16_CODE inline void add_by_tiles(const Half* values, const Word* grads, const Span& r, bool channels, bool outputs,
                                   float* sums, bool anew) {
    constexpr long line = kSide * sizeof(Word);
    const long pitch = r.plane * sizeof(Half);
    if (anew) {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    } else {
        asm volatile("" ::: "memory");  // the compiler does not know that tiles are read
        _tile_loadd(0, sums, line);
        _tile_loadd(1, sums + kTile, line);
        _tile_loadd(2, sums + 2 * kTile, line);
        _tile_loadd(3, sums + 3 * kTile, line);
    }
    for (long y = 0; y < r.high; y++) {
        const Half* from = values + y * r.pixels;
        const Word* other = grads + y * r.grads;
        for (long x = 0; x < r.blocks; x++, from += kPixels, other += kTile) {
            _tile_loadd(4, from, pitch);
            _tile_loadd(6, other, line);
            _tile_dpbf16ps(0, 4, 6);
            if (outputs) {
                _tile_loadd(7, other + r.group, line);
                _tile_dpbf16ps(1, 4, 7);
            }
            if (channels) {
                _tile_loadd(5, from + kSide * r.plane, pitch);
                _tile_dpbf16ps(2, 5, 6);
                if (outputs) {
                    _tile_dpbf16ps(3, 5, 7);
                }
            }
        }
    }
    _tile_stored(0, sums, line);
    _tile_stored(1, sums + kTile, line);
    _tile_stored(2, sums + 2 * kTile, line);
    _tile_stored(3, sums + 3 * kTile, line);
}

// The same by AVX512-BF16.
BF16_CODE inline void add_by_vectors(const Half* values, const Word* grads, const Span& r, bool channels, bool outputs,
                                     float* sums, bool anew) {
    constexpr long kRows = 8;
    for (long c = 0; c < (channels ? 2 : 1) * kSide; c += kRows) {
        float* own = sums + c / kSide * 2 * kTile + c % kSide * kSide;
        __m512 found[kRows][2];
        for (long i = 0; i < kRows; i++)
            for (long k = 0; k < 2; k++)
                found[i][k] = anew ? _mm512_setzero_ps() : _mm512_loadu_ps(own + k * kTile + i * kSide);
        for (long y = 0; y < r.high; y++)
            for (long x = 0; x < r.blocks * kDepth; x++) {
                const Word* other = grads + y * r.grads + x * kSide;
                const __m512bh low = (__m512bh)_mm512_loadu_si512(other);
                const __m512bh high = (__m512bh)_mm512_loadu_si512(other + (outputs ? r.group : 0));
                for (long i = 0; i < kRows; i++) {
                    int pair;
                    std::memcpy(&pair, values + (c + i) * r.plane + y * r.pixels + 2 * x, sizeof pair);
                    found[i][0] = _mm512_dpbf16_ps(found[i][0], (__m512bh)_mm512_set1_epi32(pair), low);
                    found[i][1] = _mm512_dpbf16_ps(found[i][1], (__m512bh)_mm512_set1_epi32(pair), high);
                }
            }
        for (long i = 0; i < kRows; i++)
            for (long k = 0; k < 2; k++) _mm512_storeu_ps(own + k * kTile + i * kSide, found[i][k]);
    }
}

// The sums under way. A tap is a place in the rows of values, each of which is `stride` rows of every
// `stride`-th pixel; rows of the kernel may be channels or outputs, as in `Layout`.
struct Correlation {
    const Source& source;
    const float* grad;
    long rows, width;  // of it
    Layout l;
    long channels = l.channels * l.inner, outputs = l.outputs * l.outer, taps = l.rows() * l.kernel;
    long blocks = (width + kPixels - 1) / kPixels, length = blocks * kPixels + up((l.kernel - 1) / l.stride, kPixels);
    long most = std::max(1L, kPartPixels / (blocks * kPixels));  // rows of a part
    long held = (most - 1) * l.stride + l.rows();                // rows of values
    long plane = (up(held * length * l.stride, kPixels) / kPixels | 1) * kPixels;  // in different sets of the cache
    long across = (channels + 2 * kSide - 1) / (2 * kSide), down = (outputs + 2 * kSide - 1) / (2 * kSide);
    long group = most * blocks * kTile;

    // Rows `row` ... `row + count` of channel `c`, padded.
    void read(long c, long row, long count, Half* values) const {
        const long line = l.stride * length;
        for (long y = 0; y < count; y++)
            read_row(source, c / l.inner, row + c % l.inner + y, l.stride, line, values + c * plane + y * line);
    }
    // `count` rows of 16 outputs from `first` on, with the rows of gradients that are a tap above them.
    void turn(long first, long row, long count, Word* tiles) const {
        for (long y = 0; y < count; y++)
            for (long x = 0; x < blocks; x++, tiles += kTile) {
                const float* from[kSide];
                for (long m = first; m < first + kSide; m++) {
                    const long at = row + y - m / l.outputs;
                    const bool known = m < outputs && at >= 0 && at < rows;
                    from[m - first] = known ? grad + (m % l.outputs * rows + at) * width + x * kPixels : nullptr;
                }
                to_pairs(from, width - x * kPixels, tiles);
            }
    }
    void add(long i, long count, const Half* values, const Word* grads, float* sums, bool anew) const {
        const long tap = i % taps, c = i / taps / down * 2, o = i / taps % down * 2;
        const long y = tap / l.kernel, x = tap % l.kernel, line = l.stride * length;
        const Span r{count, blocks, l.stride * line, plane, blocks * kTile, group};
        const Half* from = values + c * kSide * plane + y * line + x % l.stride * length + x / l.stride;
        const bool more = (c + 1) * kSide < channels, further = (o + 1) * kSide < outputs;
        const auto run = bf16_unit() == 2 ? add_by_tiles : add_by_vectors;
        run(from, grads + o * group, r, more, further, sums + i * kSums, anew);
    }
    // The sums of 32 channels and 32 outputs in their places.
    BF16_CODE void put(long i, const float* sums, float* grad_weight) const {
        const long c0 = i / down * 2 * kSide, o0 = i % down * 2 * kSide, area = l.kernel * l.kernel;
        for (long first = o0; first < std::min(outputs, o0 + 2 * kSide); first += kSide) {
            alignas(64) int at[kSide];  // of each output
            for (long k = 0; k < kSide; k++)
                at[k] = (first + k) % l.outputs * l.channels * area + (first + k) / l.outputs * l.kernel;
            const __mmask16 known = lanes(outputs - first, kSide);
            const __m512i places = _mm512_load_si512(at);
            for (long c = c0; c < std::min(channels, c0 + 2 * kSide); c++) {
                float* to = grad_weight + c / l.inner * area + c % l.inner * l.kernel;
                const long tile = (c - c0) / kSide * 2 + (first - o0) / kSide;
                const float* from = sums + i * taps * kSums + (tile * kSide + c % kSide) * kSide;
                for (long tap = 0; tap < taps; tap++)
                    _mm512_mask_i32scatter_ps(to + tap, known, places, _mm512_loadu_ps(from + tap * kSums), sizeof(float));
            }
        }
    }
};

extern "C" {

// `correlate` with values and gradients rounded to bfloat16; that of the bias (or null) is exact.
int correlate_bf16(const Source* s, const float* grad, long outputs, long rows, long width, long kernel, long stride,
                   float* grad_weight, float* grad_bias, long threads) try {
    const Correlation work{*s, grad, rows, width, Layout(outputs, s->channels, kernel, stride)};
    const long pairs = work.across * work.down, high = rows + work.l.outer - 1;
    Half* values = reinterpret_cast<Half*>(scratch<2>(work.across * kSide * work.plane));
    Word* grads = reinterpret_cast<Word*>(scratch<3>(work.down * 2 * work.group));
    float* sums = scratch<4>(pairs * work.taps * kSums);
    for (long top = 0; top < high; top += work.most) {
        const long count = std::min(work.most, high - top);
        each(work.channels, threads, [&](long c) {
            work.read(c, top * stride, (count - 1) * stride + work.l.rows(), values);
        });
        each(2 * work.down, threads, [&](long o) {
            work.turn(o * kSide, top, count, grads + o * work.group);
        });
        each(pairs * work.taps, threads, [&](long i) {
            const TileState state;
            work.add(i, count, values, grads, sums, top == 0);
        });
    }
    each(pairs, threads, [&](long i) { work.put(i, sums, grad_weight); });
    if (grad_bias) totals(grad, outputs, rows * width, rows * width, grad_bias, threads);
    return kDone;
} catch (...) {
    return failure();
}

}  // extern "C"

#endif

// Products of bfloat16 by the processor's own unit: AMX tiles (Intel from Sapphire Rapids on) or AVX512-BF16 (AMD
// from Zen 4 on).

#pragma once

#include "moments.h"
#include "pixels.h"

#if HAS_BF16

// Weights by groups of 32 outputs, which are zeros where there are fewer: of each 32 channels and each tap two
// tiles of 16 pairs of channels by 16 outputs. Behind them the biases.
struct PackedWords {
    long outputs, taps, channels, blocks;
    Word* words;
    float* bias;

    PackedWords(long outputs, long taps, long channels, float* memory)
        : outputs(outputs), taps(taps), channels(channels), blocks((channels + 2 * kDepth - 1) / (2 * kDepth)),
          words(reinterpret_cast<Word*>(memory)), bias(memory + groups() * group()) {}
    long groups() const { return (outputs + kGroup - 1) / kGroup; }
    long steps() const { return taps * blocks; }
    long group() const { return steps() * kDepth * kGroup; }
    long size() const { return groups() * (group() + kGroup); }

    // The weight of an output, a tap and a channel is `from` at the sum of their places. `biases`: `outputs` or null.
    void fill(const float* from, const std::vector<int>& outputs_at, const std::vector<long>& taps_at,
              const std::vector<long>& channels_at, const float* biases, long threads) const {
        each(groups(), threads, [&](long g) {
            fill_group(g, from, outputs_at.data(), taps_at.data(), channels_at.data());
            for (long m = g * kGroup; m < (g + 1) * kGroup; m++)
                bias[m] = biases && m < static_cast<long>(outputs_at.size()) ? biases[m] : 0.0f;
        });
    }
    BF16_CODE void fill_group(long g, const float* from, const int* outputs_at, const long* taps_at,
                              const long* channels_at) const {
        Word* to = words + g * group();
        __mmask16 known[2];
        __m512i at[2];
        for (long i = 0; i < 2; i++) {
            const long first = g * kGroup + i * kSide;
            known[i] = lanes(outputs - first, kSide);
            at[i] = _mm512_maskz_loadu_epi32(known[i], outputs_at + first);
        }
        for (long step = 0; step < steps(); step++)
            for (long i = 0; i < 2; i++)
                for (long p = 0; p < kDepth; p++, to += kSide) {
                    const long c = 2 * (step / taps * kDepth + p);
                    __m512i pair[2];
                    for (long k = 0; k < 2; k++) {
                        const float* values = from + taps_at[step % taps] + (c + k < channels ? channels_at[c + k] : 0);
                        const __mmask16 mask = c + k < channels ? known[i] : 0;
                        const __m512 v = _mm512_mask_i32gather_ps(_mm512_setzero_ps(), mask, at[i], values, sizeof(float));
                        pair[k] = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(v));
                    }
                    _mm512_storeu_si512(to, _mm512_or_si512(pair[0], _mm512_slli_epi32(pair[1], 16)));
                }
    }
};

// Where results go: `pixel`, `row`, `output`: values from one to the next. In pixel order `output` is 1.
struct Target {
    void* values;
    long pixel, row, output;
    bool half;
};

// How to find what a product reads: words from one pixel of output to the next, from one row to the next, and
// to each tap of each 32 channels.
struct Steps {
    long pixel, row;
    std::vector<long> offsets;

    Steps(const Part& part, long stride, long blocks, const std::vector<long>& taps)
        : pixel(stride * part.pitch), row(stride * part.row()) {
        for (long k = 0; k < blocks; k++)
            for (const long tap : taps) offsets.push_back(tap + k * kDepth);
    }
};

// 32 outputs of two times 16 pixels by four AMX accumulators, to kept[32 pixels][32 outputs]. Not of the second
// 16 pixels or outputs if there are none.
BF16_CODE inline void by_tiles(const Word* w, const float* bias, bool pixels, bool outputs, const Steps& steps,
                               const Word* const (&base)[2], float* kept) {
    constexpr long line = kSide * sizeof(Word);
    const long pitch = steps.pixel * sizeof(Word);
    const long *offset = steps.offsets.data(), *end = offset + steps.offsets.size();
    _tile_loadd(0, bias, 0);
    _tile_loadd(1, bias + kSide, 0);
    _tile_loadd(2, bias, 0);
    _tile_loadd(3, bias + kSide, 0);
    if (pixels && outputs) {
        for (; offset < end; offset++, w += kDepth * kGroup) {
            _tile_loadd(4, base[0] + *offset, pitch);
            _tile_loadd(6, w, line);
            _tile_loadd(7, w + kDepth * kSide, line);
            _tile_loadd(5, base[1] + *offset, pitch);
            _tile_dpbf16ps(0, 4, 6);
            _tile_dpbf16ps(1, 4, 7);
            _tile_dpbf16ps(2, 5, 6);
            _tile_dpbf16ps(3, 5, 7);
        }
    } else {
        for (; offset < end; offset++, w += kDepth * kGroup) {
            _tile_loadd(4, base[0] + *offset, pitch);
            _tile_loadd(6, w, line);
            _tile_dpbf16ps(0, 4, 6);
            if (pixels) {
                _tile_loadd(5, base[1] + *offset, pitch);
                _tile_dpbf16ps(2, 5, 6);
            }
            if (outputs) {
                _tile_loadd(7, w + kDepth * kSide, line);
                _tile_dpbf16ps(1, 4, 7);
            }
        }
    }
    _tile_stored(0, kept, kGroup * sizeof(float));
    _tile_stored(1, kept + kSide, kGroup * sizeof(float));
    _tile_stored(2, kept + kSide * kGroup, kGroup * sizeof(float));
    _tile_stored(3, kept + kSide * kGroup + kSide, kGroup * sizeof(float));
}

// The same by AVX512-BF16.
BF16_CODE inline void by_vectors(const Word* w, const float* bias, bool pixels, const Steps& steps,
                                 const Word* const (&base)[2], float* kept) {
    constexpr int kPixels = 8;
    for (long first = 0; first < (pixels ? 2 : 1) * kSide; first += kPixels) {
        const Word *from = base[first / kSide] + first % kSide * steps.pixel, *weights = w;
        __m512 sums[kPixels][2];
        for (int i = 0; i < kPixels; i++)
            sums[i][0] = _mm512_loadu_ps(bias), sums[i][1] = _mm512_loadu_ps(bias + kSide);
        for (const long offset : steps.offsets) {
            for (long p = 0; p < kDepth; p++) {
                const __m512bh low = (__m512bh)_mm512_loadu_si512(weights + p * kSide);
                const __m512bh high = (__m512bh)_mm512_loadu_si512(weights + (kDepth + p) * kSide);
                for (int i = 0; i < kPixels; i++) {
                    const Word value = from[offset + i * steps.pixel + p];
                    const __m512bh pair = (__m512bh)_mm512_set1_epi32(static_cast<int>(value));
                    sums[i][0] = _mm512_dpbf16_ps(sums[i][0], pair, low);
                    sums[i][1] = _mm512_dpbf16_ps(sums[i][1], pair, high);
                }
            }
            weights += kDepth * kGroup;
        }
        for (int i = 0; i < kPixels; i++) {
            _mm512_storeu_ps(kept + (first + i) * kGroup, sums[i][0]);
            _mm512_storeu_ps(kept + (first + i) * kGroup + kSide, sums[i][1]);
        }
    }
}

// `count` of 16 pixels, of `outputs`, to `to`. To `sums` (of 32 outputs, and of their squares) goes what was
// rounded: sums of bfloat16 are exact in double, so that statistics do not depend on the order, and strips and
// several processes round as the whole picture does.
BF16_CODE inline void put_tile(const float* kept, long count, long outputs, const Target& to, long at, double* sums) {
    if (to.half) {
        Half* halves = static_cast<Half*>(to.values) + at;
        __m512d sum[4], square[4];
        for (int k = 0; k < 4; k++)
            sum[k] = _mm512_loadu_pd(sums + 8 * k), square[k] = _mm512_loadu_pd(sums + kGroup + 8 * k);
        for (long i = 0; i < count; i++) {
            const Values v = values_at(kept + i * kGroup, kGroup);
            const __m512i rounded = (__m512i)_mm512_cvtne2ps_pbh(v.high, v.low);
            _mm512_mask_storeu_epi16(halves + i * to.pixel, lanes(outputs, 32), rounded);
            const __m512 low = widened(_mm512_castsi512_si256(rounded));
            const __m512 high = widened(_mm512_extracti64x4_epi64(rounded, 1));
            const __m512d parts[4] = {_mm512_cvtps_pd(_mm512_castps512_ps256(low)),
                                      _mm512_cvtps_pd(_mm512_extractf32x8_ps(low, 1)),
                                      _mm512_cvtps_pd(_mm512_castps512_ps256(high)),
                                      _mm512_cvtps_pd(_mm512_extractf32x8_ps(high, 1))};
            for (int k = 0; k < 4; k++)
                sum[k] += parts[k], square[k] = _mm512_fmadd_pd(parts[k], parts[k], square[k]);
        }
        for (int k = 0; k < 4; k++)
            _mm512_storeu_pd(sums + 8 * k, sum[k]), _mm512_storeu_pd(sums + kGroup + 8 * k, square[k]);
        return;
    }
    float* values = static_cast<float*>(to.values) + at;
    if (to.output == 1) {
        for (long i = 0; i < count; i++)
            put_values(values_at(kept + i * kGroup, kGroup), values + i * to.pixel, outputs);
        return;
    }
    for (long first = 0; first < outputs; first += kSide) {
        __m512i block[kSide];
        for (int i = 0; i < kSide; i++) block[i] = _mm512_loadu_si512(kept + i * kGroup + first);
        transpose(block);
        for (long m = 0; m < std::min(kSide, outputs - first); m++) {
            float* plane = values + (first + m) * to.output;
            alignas(64) float line[kSide];
            if (to.pixel == 1) {
                _mm512_mask_storeu_ps(plane, lanes(count, 16), (__m512)block[m]);
            } else {
                _mm512_store_si512(line, block[m]);
                for (long i = 0; i < count; i++) plane[i * to.pixel] = line[i];
            }
        }
    }
}

// Tiles configured for as long as it lives: 8 of 16 rows of 64 bytes.
struct TileState {
    const bool used = bf16_unit() == 2;
    BF16_CODE TileState() {
        if (!used) return;
        static const struct alignas(64) Shape {  // in memory: the compiler sees only its first bytes read
            std::uint8_t palette = 1, start = 0, reserved[14] = {};
            std::uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
            std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
        } shape;
        asm volatile("" ::"m"(shape));
        _tile_loadconfig(&shape);
    }
    BF16_CODE ~TileState() {
        if (used) _tile_release();
    }
};

// `high` rows of `wide` pixels of all outputs from `from`. `sums`: 2 x 32 of each group, or null; begun `anew`.
BF16_CODE inline void multiply(const PackedWords& w, const Steps& steps, const TileState& state, const Word* from,
                               long high, long wide, const Target& to, double* sums, bool anew) {
    alignas(64) float kept[2 * kSide * kGroup];
    for (long g = 0; g < w.groups(); g++) {
        double* own = sums ? sums + 2 * kGroup * g : nullptr;
        if (own && anew) std::memset(own, 0, 2 * sizeof(double) * kGroup);
        const float* bias = w.bias + g * kGroup;
        const long outputs = std::min(kGroup, w.outputs - g * kGroup);
        for (long y = 0; y < high; y += 2)
            for (long x = 0; x < wide; x += kSide) {
                const bool second = y + 1 < high;
                const Word* first = from + y * steps.row + x * steps.pixel;
                const Word* const base[2] = {first, first + steps.row};
                if (state.used)
                    by_tiles(w.words + g * w.group(), bias, second, outputs > kSide, steps, base, kept);
                else
                    by_vectors(w.words + g * w.group(), bias, second, steps, base, kept);
                const long count = std::min(kSide, wide - x), at = g * kGroup * to.output + y * to.row + x * to.pixel;
                put_tile(kept, count, outputs, to, at, own);
                if (second) put_tile(kept + kSide * kGroup, count, outputs, to, at + to.row, own);
            }
    }
}

// Means and squared deviations of each output of each part, which are joined in order.
struct PartMoments {
    long outputs;
    std::vector<Moments> found;

    PartMoments(long parts, long outputs) : outputs(outputs), found(parts * outputs) {}
    void set(long part, long count, const double* sums) {
        for (long m = 0; m < outputs; m++) {
            const double* own = sums + m / kGroup * 2 * kGroup + m % kGroup;
            const double square = own[kGroup] - own[0] * own[0] / count;
            Moments& to = found[part * outputs + m];
            to.count = count, to.mean = own[0] / count, to.m2 = square > 0.0 ? square : 0.0;
        }
    }
    void join(double* mean, double* m2) const {
        for (long m = 0; m < outputs; m++) {
            Moments all;
            for (std::size_t i = m; i < found.size(); i += outputs) all.join(found[i]);
            mean[m] = all.mean, m2[m] = all.m2;
        }
    }
};

#endif

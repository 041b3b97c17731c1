// Pixel order: the channels of a pixel beside each other, as bfloat16 or float32; and how padded sources are
// read into it.

#pragma once

#include "convolution.h"

#if defined(__x86_64__) && defined(__linux__) && LANES == 16 && __has_include(<amxbf16intrin.h>)
#define HAS_BF16 1
#define BF16_CODE __attribute__((target("amx-tile,amx-bf16,avx512bf16,avx512f,avx512bw,avx512vl,avx512dq")))
#else
#define HAS_BF16 0
#endif

extern "C" {
// 2: AMX, 1: AVX512-BF16, 0: neither; no more than `bf16_most` has set. Asks the operating system for the
// tiles once.
static std::atomic<int> most_unit{2};
void bf16_most(int unit) { most_unit = unit; }
int bf16_unit() {
#if HAS_BF16
    static const int found = [] {
        if (!__builtin_cpu_supports("avx512bf16")) return 0;
        unsigned eax = 7, ebx, ecx = 0, edx;
        asm volatile("cpuid" : "+a"(eax), "=b"(ebx), "+c"(ecx), "=d"(edx));
        const bool tiles = (edx >> 22 & 1) && (edx >> 24 & 1);  // AMX-BF16 and AMX-TILE
        constexpr long kRequestPermission = 0x1023, kTileData = 18;
        return tiles && syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0 ? 2 : 1;
    }();
    return std::min<int>(found, most_unit);
#else
    return 0;
#endif
}
}

#if HAS_BF16

using Half = std::uint16_t;  // bfloat16
using Word = std::uint32_t;  // bfloat16 of an even channel (low half) and of the next one
constexpr long kDepth = 16;  // words that one instruction sums over: 32 channels
constexpr long kSide = 16;   // pixels, and outputs, of one AMX tile
constexpr long kGroup = 32;  // outputs that are computed together

// The first `count` of `width` lanes.
inline std::uint32_t lanes(long count, long width) {
    return count <= 0 ? 0u : count >= width ? ~0u >> (32 - width) : (1u << count) - 1;
}

BF16_CODE inline void transpose(__m512i (&r)[kSide]) {
    __m512i t[kSide];
    for (int i = 0; i < kSide; i += 2)
        t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]), t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    for (int i = 0; i < kSide; i += 4)
        for (int k = 0; k < 2; k++)
            r[i + 2 * k] = _mm512_unpacklo_epi64(t[i + k], t[i + k + 2]),
                      r[i + 2 * k + 1] = _mm512_unpackhi_epi64(t[i + k], t[i + k + 2]);
    for (int i = 0; i < 4; i++) {
        const __m512i a = _mm512_shuffle_i32x4(r[i], r[4 + i], 0x88), b = _mm512_shuffle_i32x4(r[i], r[4 + i], 0xdd);
        const __m512i c = _mm512_shuffle_i32x4(r[8 + i], r[12 + i], 0x88);
        const __m512i d = _mm512_shuffle_i32x4(r[8 + i], r[12 + i], 0xdd);
        t[i] = _mm512_shuffle_i32x4(a, c, 0x88), t[8 + i] = _mm512_shuffle_i32x4(a, c, 0xdd);
        t[4 + i] = _mm512_shuffle_i32x4(b, d, 0x88), t[12 + i] = _mm512_shuffle_i32x4(b, d, 0xdd);
    }
    for (int i = 0; i < kSide; i++) r[i] = t[i];
}

BF16_CODE inline __m512 widened(__m256i halves) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
}

// 32 values of a pixel, of which `count` exist.
struct Values {
    __m512 low, high;
};
BF16_CODE inline Values values_at(const Half* from, long count) {
    const __m512i v = _mm512_maskz_loadu_epi16(lanes(count, 32), from);
    return {widened(_mm512_castsi512_si256(v)), widened(_mm512_extracti64x4_epi64(v, 1))};
}
BF16_CODE inline Values values_at(const float* from, long count) {
    return {_mm512_maskz_loadu_ps(lanes(count, 16), from), _mm512_maskz_loadu_ps(lanes(count - 16, 16), from + 16)};
}
BF16_CODE inline void put_values(const Values& v, Half* to, long count) {
    _mm512_mask_storeu_epi16(to, lanes(count, 32), (__m512i)_mm512_cvtne2ps_pbh(v.high, v.low));
}
BF16_CODE inline void put_values(const Values& v, float* to, long count) {
    _mm512_mask_storeu_ps(to, lanes(count, 16), v.low);
    _mm512_mask_storeu_ps(to + 16, lanes(count - 16, 16), v.high);
}

// The row or column of the picture at one of the padded picture, less `pad`; -1 where there are zeros.
inline long inside(const Source& s, long at, long size) {
    if (s.mirror && at < 0 && at >= -s.pad) at = -at;
    if (s.mirror && at >= size && at < size + s.pad) at = 2 * (size - 1) - at;
    return at >= 0 && at < size ? at : -1;
}

// Columns `left` ... `left + length` of row `row` of a padded source in pixel order; `pitch` values from one
// pixel to the next, of which the first `filled`: zeros behind the channels.
template <class From, class To>
BF16_CODE void read_pixels(const Source& s, long row, long left, long length, To* to, long pitch, long filled) {
    constexpr long kAtOnce = 8;  // pixels, for the same mean and scale
    const From* values = reinterpret_cast<const From*>(s.values);
    const long r = inside(s, row - s.pad, s.height), y = (r >> s.enlarge) - s.first, width = s.width >> s.enlarge;
    const bool known = r >= 0 && y >= 0 && y < s.rows;
    const __m512 zero = _mm512_setzero_ps(), least = s.relu ? zero : _mm512_set1_ps(-HUGE_VALF);
    for (long x = 0; x < length; x += kAtOnce, to += kAtOnce * pitch) {
        const From* from[kAtOnce];
        const long count = std::min(kAtOnce, length - x);
        for (long i = 0; i < count; i++) {
            const long column = known ? inside(s, left + x + i - s.pad, s.width) : -1;
            from[i] = column < 0 ? nullptr : values + (y * width + (column >> s.enlarge)) * s.channels;
        }
        for (long c = 0; c < filled; c += kGroup) {
            Values mean = {zero, zero}, scale = {_mm512_set1_ps(1.0f), _mm512_set1_ps(1.0f)};
            if (s.mean) mean = values_at(s.mean + c, s.channels - c), scale = values_at(s.scale + c, s.channels - c);
            for (long i = 0; i < count; i++) {
                Values v = {zero, zero};
                if (from[i]) {
                    v = values_at(from[i] + c, s.channels - c);
                    v.low = _mm512_max_ps(least, (v.low - mean.low) * scale.low);
                    v.high = _mm512_max_ps(least, (v.high - mean.high) * scale.high);
                }
                put_values(v, to + i * pitch + c, filled - c);
            }
        }
    }
}

// Columns `left` ... of row `row` of a channel of a padded source of planes, as bfloat16: 16 at a time, `count` or more.
BF16_CODE inline void read_halves(const Source& s, long channel, long row, long left, long count, Half* to) {
    const long r = inside(s, row - s.pad, s.height), y = (r >> s.enlarge) - s.first, end = s.width + s.pad;
    if (r < 0 || y < 0 || y >= s.rows) {
        std::memset(to, 0, sizeof(Half) * up(count, kSide));
        return;
    }
    const float* from = s.values + channel * s.plane + y * (s.width >> s.enlarge);
    const __m512 zero = _mm512_setzero_ps(), least = s.relu ? zero : _mm512_set1_ps(-HUGE_VALF);
    const __m512 mean = s.mean ? _mm512_set1_ps(s.mean[channel]) : zero;
    const __m512 scale = _mm512_set1_ps(s.mean ? s.scale[channel] : 1.0f);
    for (long x = 0; x < count; x += kSide) {
        const long start = left - s.pad + x;
        __mmask16 known = lanes(s.width - start, kSide) & ~lanes(-start, kSide);
        __m512 v;
        if (s.enlarge) {
            const __m512i pairs = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
            const __m512i at = _mm512_srai_epi32(_mm512_add_epi32(_mm512_set1_epi32(start), pairs), 1);
            v = _mm512_mask_i32gather_ps(zero, known, at, from, sizeof(float));
        } else {
            v = _mm512_maskz_loadu_ps(known, from + start);
        }
        if (s.mirror && known != 0xffff) {
            std::uint32_t missing = lanes(end - start, kSide) & ~lanes(-s.pad - start, kSide) & ~known;
            for (; missing; missing &= missing - 1) {
                const long i = __builtin_ctz(missing), column = inside(s, start + i, s.width) >> s.enlarge;
                v = _mm512_mask_mov_ps(v, 1 << i, _mm512_set1_ps(from[column]));
                known |= 1 << i;
            }
        }
        v = _mm512_maskz_mov_ps(known, _mm512_max_ps(least, (v - mean) * scale));
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + x), (__m256i)_mm512_cvtneps_pbh(v));
    }
}

// Parts of rows of planes in pixel order. With `inner` rows of a kernel as channels, channel c of the source
// becomes `inner`, each one row further down.
BF16_CODE inline void read_planes(const Source& s, long inner, long row, long left, long length, Word* to, long pitch, long filled) {
    const long line = up(length, kSide), channels = s.channels * inner;
    Half* halves = reinterpret_cast<Half*>(scratch<1>(kDepth * line));
    for (long first = 0; first < filled; first += kDepth) {
        for (long k = 0; k < 2 * kDepth; k++) {
            const long c = 2 * first + k;
            if (c < channels)
                read_halves(s, c / inner, row + c % inner, left, line, halves + k * line);
            else
                std::memset(halves + k * line, 0, sizeof(Half) * line);
        }
        for (long x = 0; x < length; x += kSide) {
            __m512i block[kSide];
            for (int p = 0; p < kSide; p++) {
                const Half* even = halves + 2 * p * line + x;
                const __m512i low = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(even)));
                const auto* odd = reinterpret_cast<const __m256i*>(even + line);
                block[p] = _mm512_or_si512(low, _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(odd)), 16));
            }
            transpose(block);
            for (long i = 0; i < std::min(kSide, length - x); i++)
                _mm512_storeu_si512(to + (x + i) * pitch + first, block[i]);
        }
    }
}

// to += (values - mean) * scale of a row in memory, bfloat16.
BF16_CODE inline void add_row(const Source& s, long y, float* to) {
    const Half* from = reinterpret_cast<const Half*>(s.values) + y * s.width * s.channels;
    for (long x = 0; x < s.width; x++, from += s.channels, to += s.channels)
        for (long c = 0; c < s.channels; c += kGroup) {
            const long count = s.channels - c;
            const Values v = values_at(from + c, count), mean = values_at(s.mean + c, count);
            const Values scale = values_at(s.scale + c, count);
            Values sum = values_at(to + c, count);
            sum.low += (v.low - mean.low) * scale.low, sum.high += (v.high - mean.high) * scale.high;
            put_values(sum, to + c, count);
        }
}

// A part of a padded source as bfloat16 in pixel order, in whole words of 32 channels: what a tile reads of 16
// pixels lies in 16 places of 64 bytes, whatever the tap.
struct Part {
    long inner, filled, pitch, length, rows;  // `filled`: words of a pixel; `pitch`: to the next one

    Part(long channels, long inner, long high, long wide, long tap_rows, long kernel, long stride)
        : inner(inner), filled(up(channels * inner, 2 * kDepth) / 2),
          pitch(filled % (4 * kDepth) ? filled : filled + kDepth),  // pixels in different sets of the cache
          length((up(wide, kSide) - 1) * stride + kernel), rows((high - 1) * stride + tap_rows) {}
    long row() const { return length * pitch; }
    long words() const { return rows * row(); }
    void fill(const Source& s, long row_of, long left, long count, Word* to) const {
        for (long y = 0; y < count; y++, to += row()) {
            Half* halves = reinterpret_cast<Half*>(to);
            if (s.order == kPlanes)
                read_planes(s, inner, row_of + y, left, length, to, pitch, filled);
            else if (s.order == kHalfPixels)
                read_pixels<Half>(s, row_of + y, left, length, halves, 2 * pitch, 2 * filled);
            else
                read_pixels<float>(s, row_of + y, left, length, halves, 2 * pitch, 2 * filled);
        }
    }
};

#endif

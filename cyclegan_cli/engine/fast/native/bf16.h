// Convolutions in bfloat16: AMX tiles (Intel from Sapphire Rapids on) or AVX512-BF16 (AMD from Zen 4 on).
//
// Values and weights are rounded to bfloat16, and products are summed in float32. Sources and outputs are
// float32 as those of `convolve` and `conv_transpose`; or lie in pixel order, the channels of a pixel beside each
// other, which is how both units read them. Two channels are one 32-bit word.

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

inline Word word(float even, float odd) {
    const auto half = [](float value) {
        Word bits;
        std::memcpy(&bits, &value, sizeof bits);
        if (value != value) return Word(0x7fc0);
        return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    };
    return half(even) | half(odd) << 16;
}

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

// The same of planes, as bfloat16. With `inner` rows of a kernel as channels, channel c of the source becomes
// `inner`, each one row further down.
BF16_CODE inline void read_planes(const Source& s, long inner, long row, long left, long length, Word* to, long pitch, long filled) {
    const long line = up(length, kSide), channels = s.channels * inner;
    float* even = scratch<1>((2 + kDepth) * line);
    float* odd = even + line;
    Word* words = reinterpret_cast<Word*>(odd + line);
    for (long first = 0; first < filled; first += kDepth) {
        for (long p = 0; p < kDepth; p++) {
            const long c = 2 * (first + p);
            std::memset(even, 0, 2 * sizeof(float) * line);
            if (c < channels) padded_part(s, c / inner, row + c % inner, left, even, line);
            if (c + 1 < channels) padded_part(s, (c + 1) / inner, row + (c + 1) % inner, left, odd, line);
            for (long x = 0; x < line; x += kSide) {
                const __m512i low = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(even + x)));
                const __m512i high = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(odd + x)));
                _mm512_storeu_si512(words + p * line + x, _mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
            }
        }
        for (long x = 0; x < length; x += kSide) {
            __m512i block[kSide];
            for (int p = 0; p < kSide; p++) block[p] = _mm512_loadu_si512(words + p * line + x);
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

    // `at(m, tap, channel)` and `bias_at(m)`.
    template <class At, class BiasAt>
    void fill(const At& at, const BiasAt& bias_at, long threads) const {
        const auto value = [&](long m, long t, long c) { return c < channels ? at(m, t, c) : 0.0f; };
        each(groups(), threads, [&](long g) {
            Word* to = words + g * group();
            for (long step = 0; step < steps(); step++)
                for (long i = 0; i < kGroup * kDepth; i++) {
                    const long m = g * kGroup + i / (kSide * kDepth) * kSide + i % kSide, t = step % taps;
                    const long c = 2 * (step / taps * kDepth + i / kSide % kDepth);
                    *to++ = m < outputs ? word(value(m, t, c), value(m, t, c + 1)) : 0;
                }
            for (long m = g * kGroup; m < (g + 1) * kGroup; m++) bias[m] = m < outputs ? bias_at(m) : 0.0f;
        });
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

// `count` of 16 pixels, of `outputs`, to `to`. `sums`, or null: of 32 outputs each a value near their mean, the
// sum of what they exceed it by, and of the squares of that.
BF16_CODE inline void put_tile(const float* kept, long count, long outputs, const Target& to, long at, float* sums) {
    if (to.half) {
        const Values near = values_at(sums, kGroup);
        Values sum = values_at(sums + kGroup, kGroup), square = values_at(sums + 2 * kGroup, kGroup);
        Half* halves = static_cast<Half*>(to.values) + at;
        for (long i = 0; i < count; i++) {
            const Values v = values_at(kept + i * kGroup, kGroup);
            put_values(v, halves + i * to.pixel, outputs);
            const __m512 low = v.low - near.low, high = v.high - near.high;
            sum.low += low, sum.high += high;
            square.low = _mm512_fmadd_ps(low, low, square.low), square.high = _mm512_fmadd_ps(high, high, square.high);
        }
        put_values(sum, sums + kGroup, kGroup);
        put_values(square, sums + 2 * kGroup, kGroup);
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

// `high` rows of `wide` pixels of all outputs from `from`. `sums`: 3 x 32 of each group, or null; begun `anew`.
BF16_CODE inline void multiply(const PackedWords& w, const Steps& steps, const TileState& state, const Word* from,
                               long high, long wide, const Target& to, float* sums, bool anew) {
    alignas(64) float kept[2 * kSide * kGroup];
    for (long g = 0; g < w.groups(); g++) {
        float* own = sums ? sums + 3 * kGroup * g : nullptr;
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
                if (own && anew && y + x == 0) {
                    std::memcpy(own, kept, sizeof(float) * kGroup);
                    std::memset(own + kGroup, 0, 2 * sizeof(float) * kGroup);
                }
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
    void set(long part, long count, const float* sums) {
        for (long m = 0; m < outputs; m++) {
            const float* own = sums + m / kGroup * 3 * kGroup + m % kGroup;
            const double sum = own[kGroup], square = own[2 * kGroup] - sum * sum / count;
            Moments& to = found[part * outputs + m];
            to.count = count, to.mean = own[0] + sum / count, to.m2 = square > 0.0 ? square : 0.0;
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

constexpr long kPartWide = 64;               // pixels of a part's row, at most
constexpr long kPartWords = 160 * 1024;  // of a part: with a group's weights in the second cache

inline long rows_of_part(long channels, long wide, long kernel, long stride) {
    const long row = Part(channels, 1, 1, wide, 1, kernel, stride).row();
    return std::max(2L, std::min(32L, (kPartWords / row - kernel) / stride + 1) / 2 * 2);
}

// How a convolution is laid out. Where there are few channels, rows of the kernel become channels (`inner`);
// where there are few outputs, rows of the kernel become outputs (`outer`), which are summed afterwards.
struct Layout {
    long outputs, channels, kernel, stride, inner, outer;

    Layout(long outputs, long channels, long kernel, long stride)
        : outputs(outputs), channels(channels), kernel(kernel), stride(stride),
          inner(channels < kDepth && stride == 1 ? kernel : 1),
          outer(inner == 1 && stride == 1 && outputs * kernel <= kGroup ? kernel : 1) {}
    long rows() const { return inner * outer > 1 ? 1 : kernel; }  // of taps
    PackedWords packed(const float* memory) const {
        return PackedWords(outputs * outer, rows() * kernel, channels * inner, const_cast<float*>(memory));
    }
};

// Output m of row y is the sum over k of parts[y + k][x][k * outputs + m].
BF16_CODE inline void sum_rows(const float* parts, long line, long outer, long outputs, long high, long wide,
                               float* out, long width, long plane) {
    const __mmask16 mask = lanes(outputs, 16);
    for (long y = 0; y < high; y++)
        for (long x = 0; x < wide; x++) {
            __m512 sum = _mm512_setzero_ps();
            for (long k = 0; k < outer; k++)
                sum += _mm512_maskz_loadu_ps(mask, parts + ((y + k) * line + x) * kGroup + k * outputs);
            alignas(64) float values[kSide];
            _mm512_store_ps(values, sum);
            for (long m = 0; m < outputs; m++) out[m * plane + y * width + x] = values[m];
        }
}

// A transposed convolution of stride 2 is four convolutions, one for each kind of output pixel: an even row
// takes the first row of weights here and the third from above, an odd row the second; columns likewise.
inline std::vector<long> transposed_taps(long part) {
    std::vector<long> taps;
    for (long y = part / 2; y < 3; y += 2)
        for (long x = part % 2; x < 3; x += 2) taps.push_back(3 * y + x);
    return taps;
}

inline PackedWords transposed_part(long outputs, long channels, long part, const float* memory) {
    return PackedWords(outputs, transposed_taps(part).size(), channels, const_cast<float*>(memory));
}

// Where a convolution writes: rows of `width` pixels, as bfloat16 in pixel order or as planes of float32.
inline Target target(void* out, long plane, long width, long outputs, bool half) {
    return half ? Target{out, outputs, width * outputs, 1, true} : Target{out, 1, width, plane, false};
}
inline Target moved(const Target& to, long row, long column) {
    Target part = to;
    const long at = row * to.row + column * to.pixel;
    part.values = static_cast<char*>(to.values) + at * (to.half ? sizeof(Half) : sizeof(float));
    return part;
}

extern "C" {

// Floats that `bf16_weights` fills.
long bf16_size(long outputs, long channels, long kernel, long stride) {
    return Layout(outputs, channels, kernel, stride).packed(nullptr).size();
}

// The weights of `convolve_bf16`; `bias` may be null.
int bf16_weights(const float* weight, const float* bias, long outputs, long channels, long kernel,
                 long stride, float* out, long threads) try {
    const Layout l(outputs, channels, kernel, stride);
    l.packed(out).fill(
        [&](long m, long t, long v) {
            const long c = v / l.inner, o = m % outputs;
            const long tap = l.inner > 1 ? v % kernel * kernel + t : m / outputs * kernel + t;
            return weight[(o * channels + c) * kernel * kernel + tap];
        },
        [&](long m) { return bias && m < outputs ? bias[m] : 0.0f; }, threads);
    return kDone;
} catch (...) {
    return failure();
}

// `convolve` in bfloat16; `weights`: those of `bf16_weights`. With `half` in pixel order, with its moments.
int convolve_bf16(const Source* s, long row, long count, long outputs, long kernel, long stride,
                  const float* weights, void* out, long plane, long half, double* mean, double* m2,
                  long threads) try {
    const Layout l(outputs, s->channels, kernel, stride);
    const PackedWords packed = l.packed(weights);
    const long width = (s->width + 2 * s->pad - kernel) / stride + 1, most = std::min(width, kPartWide);
    const Grid grid(count, width, rows_of_part(s->channels * l.inner, most, kernel, stride), most);
    const Part part(s->channels, l.inner, grid.high + l.outer - 1, grid.wide, l.rows(), kernel, stride);
    std::vector<long> taps;
    for (long y = 0; y < l.rows(); y++)
        for (long x = 0; x < kernel; x++) taps.push_back(y * part.row() + x * part.pitch);
    const Steps steps(part, stride, packed.blocks, taps);
    const Target whole = target(out, plane, width, outputs, half);
    PartMoments moments(half ? grid.count() : 0, outputs);
    each(grid.count(), threads, [&](long i) {
        const TileState state;
        const long top = i / grid.across * grid.high, left = i % grid.across * grid.wide;
        const long high = std::min(grid.high, count - top), wide = std::min(grid.wide, width - left);
        Word* words = reinterpret_cast<Word*>(scratch<2>(part.words()));
        part.fill(*s, (row + top) * stride, left * stride, (high + l.outer - 2) * stride + l.rows(), words);
        if (l.outer == 1) {
            float* sums = half ? scratch<3>(packed.groups() * 3 * kGroup) : nullptr;
            multiply(packed, steps, state, words, high, wide, moved(whole, top, left), sums, true);
            if (half) moments.set(i, high * wide, sums);
            return;
        }
        float* parts = scratch<3>((high + l.outer - 1) * wide * kGroup);
        multiply(packed, steps, state, words, high + l.outer - 1, wide, {parts, kGroup, wide * kGroup, 1, false}, nullptr,
                 false);
        float* to = static_cast<float*>(moved(whole, top, left).values);
        sum_rows(parts, wide, l.outer, outputs, high, wide, to, width, plane);
    });
    if (half) moments.join(mean, m2);
    return kDone;
} catch (...) {
    return failure();
}

// Floats that `bf16_transposed_weights` fills.
long bf16_transposed_size(long outputs, long channels) {
    long size = 0;
    for (long part = 0; part < 4; part++) size += transposed_part(outputs, channels, part, nullptr).size();
    return size;
}

// The weights of `conv_transpose_bf16`: channels x outputs x 3 x 3; `bias` may be null.
int bf16_transposed_weights(const float* weight, const float* bias, long outputs, long channels, float* out,
                            long threads) try {
    for (long part = 0; part < 4; part++) {
        const PackedWords packed = transposed_part(outputs, channels, part, out);
        const std::vector<long> taps = transposed_taps(part);
        packed.fill([&](long m, long t, long c) { return weight[(c * outputs + m) * 9 + taps[t]]; },
                    [&](long m) { return bias ? bias[m] : 0.0f; }, threads);
        out += packed.size();
    }
    return kDone;
} catch (...) {
    return failure();
}

// `spread` in bfloat16: the transposed convolution, 3x3 with stride 2; the rest as of `convolve_bf16`.
int conv_transpose_bf16(const Source* s, long row, long count, long left, long width, long outputs,
                        const float* weights, void* out, long plane, long half, double* mean, double* m2,
                        long threads) try {
    const long most = std::min(width, 2 * kPartWide);
    const Grid grid(count, width, 2 * rows_of_part(s->channels, most / 2 + 1, 2, 1), most);
    const Part part(s->channels, 1, grid.high / 2 + 1, grid.wide / 2 + 1, 2, 2, 1);
    std::vector<PackedWords> packed;
    std::vector<Steps> steps;
    for (long kind = 0; kind < 4; kind++) {
        packed.push_back(transposed_part(outputs, s->channels, kind, weights));
        weights += packed.back().size();
        std::vector<long> taps = transposed_taps(kind);
        for (long& tap : taps) tap = (tap / 3 != 2) * part.row() + (tap % 3 != 2) * part.pitch;
        steps.emplace_back(part, 1, packed.back().blocks, taps);
    }
    const Target whole = target(out, plane, width, outputs, half);
    PartMoments moments(half ? grid.count() : 0, outputs);
    each(grid.count(), threads, [&](long i) {
        const TileState state;
        const long top = row + i / grid.across * grid.high, from = left + i % grid.across * grid.wide;
        const long high = std::min(grid.high, row + count - top), wide = std::min(grid.wide, left + width - from);
        Word* words = reinterpret_cast<Word*>(scratch<2>(part.words()));
        part.fill(*s, top / 2, from / 2, (top + high - 1) / 2 - top / 2 + 2, words);
        float* sums = half ? scratch<3>(packed[0].groups() * 3 * kGroup) : nullptr;
        for (long y = 0; y < std::min(2L, high); y++)  // every other row and column: pixels of one kind
            for (long x = 0; x < std::min(2L, wide); x++) {
                const long kind = 2 * ((top + y) % 2) + (from + x) % 2;
                const Word* first = words + ((top + y) / 2 - top / 2) * part.row() + ((from + x) / 2 - from / 2) * part.pitch;
                Target to = moved(whole, top - row + y, from - left + x);
                to.row *= 2, to.pixel *= 2;
                multiply(packed[kind], steps[kind], state, first, (high - y + 1) / 2, (wide - x + 1) / 2, to, sums,
                         x + y == 0);
            }
        if (half) moments.set(i, high * wide, sums);
    });
    if (half) moments.join(mean, m2);
    return kDone;
} catch (...) {
    return failure();
}

// `prepare` of a source in pixel order: float32, in pixel order.
int prepare_pixels(const Source* s, long row, long count, float* out, long threads) try {
    const long length = s->width + 2 * s->pad;
    each(count, threads, [=](long y) {
        float* to = out + y * length * s->channels;
        if (s->order == kHalfPixels)
            read_pixels<Half>(*s, row + y, 0, length, to, s->channels, s->channels);
        else
            read_pixels<float>(*s, row + y, 0, length, to, s->channels, s->channels);
    });
    return kDone;
} catch (...) {
    return failure();
}

// `rows` of `bytes`.
int copy_rows(const char* from, char* to, long rows, long bytes, long threads) try {
    each(rows, threads, [=](long y) { std::memcpy(to + y * bytes, from + y * bytes, bytes); });
    return kDone;
} catch (...) {
    return failure();
}

// total += the source, all of its rows: both in pixel order.
int add_pixels(const Source* s, float* total, long threads) try {
    each(s->rows, threads, [=](long y) { add_row(*s, y, total + y * s->width * s->channels); });
    return kDone;
} catch (...) {
    return failure();
}

}  // extern "C"

#endif

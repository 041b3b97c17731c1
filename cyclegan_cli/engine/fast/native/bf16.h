// Convolutions in bfloat16: AMX tiles (Intel from Sapphire Rapids on) or AVX512-BF16 (AMD from Zen 4 on).
//
// Values and weights are rounded to bfloat16, products are summed in float32, and results are float32:
// the same sources and outputs as `convolve` and `conv_transpose`, so everything around them stays as it
// is. Two channels of a pixel lie in one 32-bit word (`Pairs`), which is what both units multiply.

#pragma once

#include "convolution.h"

#if defined(__x86_64__) && defined(__linux__) && LANES == 16 && __has_include(<amxbf16intrin.h>)
#define HAS_BF16 1
#define BF16_CODE __attribute__((target("amx-tile,amx-bf16,avx512bf16,avx512f,avx512bw,avx512vl,avx512dq")))
#else
#define HAS_BF16 0
#endif

extern "C" {
// 2: AMX, 1: AVX512-BF16, 0: neither. Asks the operating system for the tiles once.
int bf16_unit() {
#if HAS_BF16
    static const int unit = [] {
        if (!__builtin_cpu_supports("avx512bf16")) return 0;
        unsigned eax = 7, ebx, ecx = 0, edx;
        asm volatile("cpuid" : "+a"(eax), "=b"(ebx), "+c"(ecx), "=d"(edx));
        const bool tiles = (edx >> 22 & 1) && (edx >> 24 & 1);  // AMX-BF16 and AMX-TILE
        constexpr long kRequestPermission = 0x1023, kTileData = 18;
        return tiles && syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0 ? 2 : 1;
    }();
    return unit;
#else
    return 0;
#endif
}
}

#if HAS_BF16

using Word = std::uint32_t;  // bfloat16 of an even channel (low half) and of the next one
constexpr long kDepth = 16;  // words that one instruction sums over: 32 channels
constexpr long kSide = 16;   // outputs, and pixels, of one AMX tile

// `count` words of two rows.
BF16_CODE inline void join(const float* even, const float* odd, Word* to, long count) {
    for (long x = 0; x < count; x += 16) {
        const __m512i low = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(even + x)));
        const __m512i high = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(odd + x)));
        _mm512_storeu_si512(to + x, _mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
    }
}

inline Word word(float even, float odd) {
    const auto half = [](float value) {
        Word bits;
        std::memcpy(&bits, &value, sizeof bits);
        if (value != value) return Word(0x7fc0);
        return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    };
    return half(even) | half(odd) << 16;
}

// The words of a part of a padded source, row by row, and of each row pair by pair of channels: so those
// that a tile needs lie in few pages. Each column of a small kernel has a line of its own, shifted, since
// loads that cross cache lines take twice the time. With `inner` rows of a kernel as channels, channel c of
// the source becomes `inner`, each one row further down.
struct Pairs {
    long channels, inner, tap_rows, kernel, stride, length, copies, line, pair, blocks, row_words, rows;

    Pairs(long channels, long inner, long out_rows, long out_columns, long tap_rows, long kernel, long stride)
        : channels(channels), inner(inner), tap_rows(tap_rows), kernel(kernel), stride(stride),
          length(up(out_columns + kernel / stride, kSide) + kSide), copies(kernel <= 3 ? kernel : 1),
          line(copies > 1 || kernel == 1 ? up(out_columns, kSide) : length),
          pair((copies * line / kSide | 1) * kSide),  // odd: rows of a tile in different sets of the cache
          blocks((channels * inner + 2 * kDepth - 1) / (2 * kDepth)), row_words(blocks * kDepth * pair),
          rows((out_rows - 1) * stride + tap_rows) {}
    long words() const { return rows * row_words; }
    long step() const { return stride * row_words; }  // from one row of output to the next
    long tap(long y, long x) const { return y * row_words + (copies > 1 ? x * line : x); }

    BF16_CODE void fill(const Source& s, long row, long left, long out_rows, Word* to) const {
        const long filled = (out_rows - 1) * stride + tap_rows, all = stride * length;
        float* even = scratch<1>(5 * all);
        float *odd = even + all, *whole = odd + all;
        Word* joined = reinterpret_cast<Word*>(whole + 2 * all);
        const auto read = [&](long channel, long y, float* values) {
            if (channel >= channels * inner) {
                std::memset(values, 0, sizeof(float) * all);
            } else if (stride == 1) {
                padded_part(s, channel / inner, row + y + channel % inner, left, values, length);
            } else {
                padded_part(s, channel, row + y, left, whole, 2 * length);
                for (long x = 0; x < length; x++) values[x] = whole[2 * x], values[length + x] = whole[2 * x + 1];
            }
        };
        for (long p = 0; p < blocks * kDepth; p++)
            for (long y = 0; y < filled; y++) {
                Word* words = to + y * row_words + p * pair;
                if (2 * p >= channels * inner) {
                    std::memset(words, 0, sizeof(Word) * pair);
                    continue;
                }
                read(2 * p, y, even), read(2 * p + 1, y, odd);
                join(even, odd, joined, all);
                for (long x = 0; x < copies; x++)
                    std::memcpy(words + x * line, joined + x % stride * length + x / stride, sizeof(Word) * line);
            }
    }
};

// Weights in the order of the unit that multiplies: tiles of 16 outputs by 32 channels of a tap; or 12
// outputs beside each other, word by word. Behind them the biases, for AMX one a pixel of a tile.
struct PackedWords {
    long outputs, taps, channels, blocks, group;
    Word* words;
    float* bias;

    PackedWords(long outputs, long taps, long channels, float* memory)
        : outputs(outputs), taps(taps), channels(channels), blocks((channels + 2 * kDepth - 1) / (2 * kDepth)),
          group(bf16_unit() == 2 ? kSide : 12), words(reinterpret_cast<Word*>(memory)),
          bias(memory + groups() * depth() * group) {}
    long groups() const { return (outputs + group - 1) / group; }
    long depth() const { return taps * blocks * kDepth; }
    long biases() const { return groups() * group * (group == kSide ? kSide : 1); }
    long size() const { return groups() * depth() * group + biases(); }
    const Word* of(long index) const { return words + index * depth() * group; }

    // `at(m, tap, channel)` and `bias_at(m)`; zeros where there is no such output or channel.
    template <class At, class BiasAt>
    void fill(const At& at, const BiasAt& bias_at, long threads) const {
        const auto value = [&](long m, long t, long c) { return c < channels ? at(m, t, c) : 0.0f; };
        each(groups(), threads, [&](long g) {
            Word* to = words + g * depth() * group;
            for (long t = 0; t < taps; t++)
                for (long p = 0; p < blocks * kDepth; p++)
                    for (long i = 0; i < group; i++) {
                        const long m = g * group + i, k = t * blocks * kDepth + p;
                        const Word w = m < outputs ? word(value(m, t, 2 * p), value(m, t, 2 * p + 1)) : 0;
                        to[group == kSide ? k / kDepth * kSide * kDepth + i * kDepth + k % kDepth : k * group + i] = w;
                    }
            const long copies = group == kSide ? kSide : 1;
            for (long i = 0; i < group * copies; i++) {
                const long m = g * group + i / copies;
                bias[g * group * copies + i] = m < outputs ? bias_at(m) : 0.0f;
            }
        });
    }
};

// Where results of 16 pixels go: `count` of them, one plane for each output.
struct Target {
    float* values;
    long count;
};

BF16_CODE inline void put_tile(const float* tile, float* to, long plane, long outputs, long count) {
    for (long m = 0; m < outputs; m++) std::memcpy(to + m * plane, tile + m * kSide, sizeof(float) * count);
}

// Outputs of groups `first` and the next by four AMX accumulators, for two times 16 pixels.
BF16_CODE inline void by_tiles(const PackedWords& w, long first, const Word* const (&base)[2],
                               const long* offsets, long pair, const Target (&to)[2], long plane) {
    const bool both = first + 1 < w.groups();
    const Word *a = w.of(first), *b = both ? w.of(first + 1) : a;
    const float *bias = w.bias + first * kSide * kSide, *more = both ? bias + kSide * kSide : bias;
    constexpr long line = kSide * sizeof(float);
    _tile_loadd(0, bias, line);
    _tile_loadd(1, bias, line);
    _tile_loadd(2, more, line);
    _tile_loadd(3, more, line);
    for (long t = 0; t < w.taps; t++) {
        const Word *left = base[0] + offsets[t], *right = base[1] + offsets[t];
        for (long k = 0; k < w.blocks; k++, a += kSide * kDepth, b += kSide * kDepth) {
            _tile_loadd(4, a, line);
            _tile_loadd(6, left + k * kDepth * pair, pair * sizeof(Word));
            _tile_loadd(7, right + k * kDepth * pair, pair * sizeof(Word));
            _tile_loadd(5, b, line);
            _tile_dpbf16ps(0, 4, 6);
            _tile_dpbf16ps(1, 4, 7);
            _tile_dpbf16ps(2, 5, 6);
            _tile_dpbf16ps(3, 5, 7);
        }
    }
    const long outputs = std::min(kSide, w.outputs - first * kSide);
    const long rest = both ? std::min(kSide, w.outputs - (first + 1) * kSide) : 0;
    alignas(64) float kept[kSide * kSide];
#define STORE(tile, target, from, number)                                                              \
    if ((target).count == kSide && (number) == kSide) {                                                \
        _tile_stored(tile, (target).values + (from)*plane, plane * sizeof(float));                     \
    } else if ((target).count > 0 && (number) > 0) {                                                   \
        _tile_stored(tile, kept, line);                                                                \
        put_tile(kept, (target).values + (from)*plane, plane, number, (target).count);                 \
    }
    STORE(0, to[0], 0, outputs)
    STORE(1, to[1], 0, outputs)
    STORE(2, to[0], kSide, rest)
    STORE(3, to[1], kSide, rest)
#undef STORE
}

// The same by AVX512-BF16: 12 outputs of one group.
BF16_CODE inline void by_vectors(const PackedWords& w, long group, const Word* const (&base)[2],
                                 const long* offsets, long pair, const Target (&to)[2], long plane) {
    constexpr int kRows = 12;
    const Word* a = w.of(group);
    __m512 sums[kRows][2];
    for (int m = 0; m < kRows; m++)
        sums[m][0] = sums[m][1] = _mm512_set1_ps(w.bias[group * kRows + m]);
    for (long t = 0; t < w.taps; t++) {
        const Word *left = base[0] + offsets[t], *right = base[1] + offsets[t];
        for (long p = 0; p < w.blocks * kDepth; p++, a += kRows) {
            const __m512bh l = (__m512bh)_mm512_loadu_si512(left + p * pair);
            const __m512bh r = (__m512bh)_mm512_loadu_si512(right + p * pair);
            for (int m = 0; m < kRows; m++) {
                const __m512bh weight = (__m512bh)_mm512_set1_epi32(static_cast<int>(a[m]));
                sums[m][0] = _mm512_dpbf16_ps(sums[m][0], weight, l);
                sums[m][1] = _mm512_dpbf16_ps(sums[m][1], weight, r);
            }
        }
    }
    for (long m = 0; m < std::min<long>(kRows, w.outputs - group * kRows); m++)
        for (int i = 0; i < 2; i++)
            if (to[i].count > 0)
                _mm512_mask_storeu_ps(to[i].values + m * plane, static_cast<__mmask16>((1u << to[i].count) - 1),
                                      sums[m][i]);
}

// Tiles configured for as long as it lives: 8 of 16 rows of 64 bytes.
struct TileState {
    BF16_CODE TileState() {
        if (bf16_unit() != 2) return;
        static const struct alignas(64) Shape {  // in memory: the compiler sees only its first bytes read
            std::uint8_t palette = 1, start = 0, reserved[14] = {};
            std::uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
            std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
        } shape;
        asm volatile("" ::"m"(shape));
        _tile_loadconfig(&shape);
    }
    BF16_CODE ~TileState() {
        if (bf16_unit() == 2) _tile_release();
    }
};

// `high` rows of `wide` pixels of all outputs from `held`: row y to out + y * row_step.
BF16_CODE inline void multiply(const PackedWords& w, const Word* held, long step, const long* offsets,
                               long pair, long high, long wide, float* out, long row_step, long plane) {
    const bool tiles = w.group == kSide;
    for (long g = 0; g < w.groups(); g += tiles ? 2 : 1)
        for (long y = 0; y < high; y += 2)
            for (long x = 0; x < wide; x += kSide) {
                const bool second = y + 1 < high;
                const long count = std::min(kSide, wide - x);
                const Word* const base[2] = {held + y * step + x, held + (second ? y + 1 : y) * step + x};
                float* to = out + g * w.group * plane + y * row_step + x;
                const Target targets[2] = {{to, count}, {to + row_step, second ? count : 0}};
                if (tiles)
                    by_tiles(w, g, base, offsets, pair, targets, plane);
                else
                    by_vectors(w, g, base, offsets, pair, targets, plane);
            }
}

constexpr long kWordsHeld = 300 * 1024;  // of a tile of pixels: with a group's weights in the second cache

inline long rows_held(long channels, long columns, long kernel, long stride) {
    const Pairs one(channels, 1, 1, columns, 1, kernel, stride);
    const long row = one.row_words;
    return std::max(2L, std::min(16L, (kWordsHeld / row - kernel) / stride + 1) / 2 * 2);
}

// How a convolution is laid out. Where there are few channels, rows of the kernel become channels (`inner`);
// where there are few outputs, rows of the kernel become outputs (`outer`), which are summed afterwards.
struct Layout {
    long outputs, channels, kernel, stride, inner, outer;

    Layout(long outputs, long channels, long kernel, long stride)
        : outputs(outputs), channels(channels), kernel(kernel), stride(stride),
          inner(channels < kDepth && stride == 1 ? kernel : 1),
          outer(inner == 1 && stride == 1 && outputs * kernel <= 2 * kSide ? kernel : 1) {}
    long rows() const { return inner * outer > 1 ? 1 : kernel; }  // of taps
    PackedWords packed(float* memory) const {
        return PackedWords(outputs * outer, rows() * kernel, channels * inner, memory);
    }
};

// A transposed convolution of stride 2 is four convolutions, one for each kind of output pixel: an even row
// takes the first row of weights here and the third from above, an odd row the second; columns likewise.
inline std::vector<long> transposed_taps(long part) {
    std::vector<long> taps;
    for (long y = part / 2; y < 3; y += 2)
        for (long x = part % 2; x < 3; x += 2) taps.push_back(3 * y + x);
    return taps;
}

inline PackedWords transposed_part(long outputs, long channels, long part, float* memory) {
    return PackedWords(outputs, transposed_taps(part).size(), channels, memory);
}

extern "C" {

// Floats that `bf16_weights` fills.
long bf16_size(long outputs, long channels, long kernel, long stride) {
    return Layout(outputs, channels, kernel, stride).packed(nullptr).size();
}

// The weights of `convolve_bf16`; `turned` as in `convolve`; `bias` may be null.
int bf16_weights(const float* weight, const float* bias, long outputs, long channels, long kernel,
                  long stride, long turned, float* out, long threads) try {
    const Layout l(outputs, channels, kernel, stride);
    const long taps = kernel * kernel;
    l.packed(out).fill(
        [&](long m, long t, long v) {
            const long c = v / l.inner, o = m / l.outer;
            const long tap = l.inner > 1 ? v % kernel * kernel + t : l.outer > 1 ? m % kernel * kernel + t : t;
            return turned ? weight[(c * outputs + o) * taps + taps - 1 - tap] : weight[(o * channels + c) * taps + tap];
        },
        [&](long m) { return bias && m % l.outer == 0 ? bias[m / l.outer] : 0.0f; }, threads);
    return kDone;
} catch (...) {
    return failure();
}

// `convolve` in bfloat16; `weights`: those of `bf16_weights`.
int convolve_bf16(const Source* s, long row, long count, long outputs, long kernel, long stride,
                   const float* weights, float* out, long plane, long threads) try {
    const Layout l(outputs, s->channels, kernel, stride);
    const PackedWords packed = l.packed(const_cast<float*>(weights));
    const long width = (s->width + 2 * s->pad - kernel) / stride + 1, most = std::min(width, kColumns);
    const Grid grid(count, width, rows_held(s->channels, most, kernel, stride), most);
    const Pairs pairs(s->channels, l.inner, grid.high + l.outer - 1, grid.wide, l.rows(), kernel, stride);
    std::vector<long> offsets;
    for (long y = 0; y < l.rows(); y++)
        for (long x = 0; x < kernel; x++) offsets.push_back(pairs.tap(y, x));
    each(grid.count(), threads, [&](long i) {
        const TileState state;
        const long top = i / grid.across * grid.high, left = i % grid.across * grid.wide;
        const long high = std::min(grid.high, count - top), wide = std::min(grid.wide, width - left);
        Word* held = reinterpret_cast<Word*>(scratch<2>(pairs.words()));
        pairs.fill(*s, (row + top) * stride, left * stride, high + l.outer - 1, held);
        float* to = out + top * width + left;
        if (l.outer == 1) {
            multiply(packed, held, pairs.step(), offsets.data(), pairs.pair, high, wide, to, width, plane);
            return;
        }
        const long line = up(wide, kSide), all = (high + l.outer - 1) * line;
        float* parts = scratch<3>(outputs * l.outer * all);
        multiply(packed, held, pairs.step(), offsets.data(), pairs.pair, high + l.outer - 1, wide, parts, line, all);
        for (long m = 0; m < outputs; m++)
            for (long y = 0; y < high; y++)
                for (long k = 0; k < l.outer; k++) {
                    const float* __restrict part = parts + (m * l.outer + k) * all + (y + k) * line;
                    float* __restrict sum = to + m * plane + y * width;
                    if (k == 0)
                        for (long x = 0; x < wide; x++) sum[x] = part[x];
                    else
                        for (long x = 0; x < wide; x++) sum[x] += part[x];
                }
    });
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

// `spread` in bfloat16: the transposed convolution, 3x3 with stride 2.
int conv_transpose_bf16(const Source* s, long row, long count, long left, long width, long outputs,
                         const float* weights, float* out, long plane, long threads) try {
    const long most = std::min(width, kColumns);
    const Grid grid(count, width, 2 * rows_held(s->channels, most / 2 + 1, 2, 1), most);
    const Pairs pairs(s->channels, 1, grid.high / 2 + 1, grid.wide / 2 + 1, 2, 2, 1);
    std::vector<PackedWords> packed;
    std::vector<long> offsets[4];
    for (long part = 0; part < 4; part++) {
        packed.push_back(transposed_part(outputs, s->channels, part, const_cast<float*>(weights)));
        weights += packed.back().size();
        for (const long tap : transposed_taps(part)) offsets[part].push_back(pairs.tap(tap / 3 != 2, tap % 3 != 2));
    }
    each(grid.count(), threads, [&](long i) {
        const TileState state;
        const long top = row + i / grid.across * grid.high, from = left + i % grid.across * grid.wide;
        const long high = std::min(grid.high, row + count - top), wide = std::min(grid.wide, left + width - from);
        Word* held = reinterpret_cast<Word*>(scratch<2>(pairs.words()));
        pairs.fill(*s, top / 2, from / 2, (top + high - 1) / 2 - top / 2 + 1, held);
        const long half = up(wide / 2 + 1, kSide), all = (high / 2 + 1) * half;
        float* parts = scratch<3>(2 * outputs * all);
        for (long y = 0; y < std::min(2L, high); y++) {  // every other row: those of one kind
            const long kind = (top + y) % 2, rows = (high - y + 1) / 2;
            for (long odd = 0; odd < 2; odd++) {
                const long late = odd == 0 && from % 2, columns = (wide + 1 - (from + odd) % 2) / 2;
                const Word* first = held + ((top + y) / 2 - top / 2) * pairs.step() + late;
                multiply(packed[2 * kind + odd], first, pairs.step(), offsets[2 * kind + odd].data(), pairs.pair, rows,
                         columns, parts + odd * outputs * all, half, all);
            }
            for (long m = 0; m < outputs; m++)
                for (long r = 0; r < rows; r++) {
                    const float* __restrict even = parts + m * all + r * half;
                    const float* __restrict odd = even + outputs * all;
                    float* __restrict to = out + m * plane + (top - row + y + 2 * r) * width + from - left;
                    const float *a = from % 2 ? odd : even, *b = from % 2 ? even : odd;
                    for (long x = 0; x < wide / 2; x++) to[2 * x] = a[x], to[2 * x + 1] = b[x];
                    if (wide % 2) to[wide - 1] = a[wide / 2];
                }
        }
    });
    return kDone;
} catch (...) {
    return failure();
}

}  // extern "C"

#endif

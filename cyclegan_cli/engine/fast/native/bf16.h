// Convolutions in bfloat16.
//
// Values and weights are rounded to bfloat16, and products are summed in float32. Sources and outputs are
// float32 as those of `convolve` and `conv_transpose`; or lie in pixel order, which is how the tiles read them.

#pragma once

#include "tiles.h"

#if HAS_BF16

constexpr long kPartWide = 64;               // pixels of a part's row, at most
constexpr long kPartWords = 160 * 1024;  // of a part: with a group's weights in the second cache

inline long rows_of_part(long channels, long wide, long kernel, long stride) {
    const long row = Part(channels, 1, 1, wide, 1, kernel, stride).row();
    return std::max(2L, std::min(32L, (kPartWords / row - kernel) / stride + 1) / 2 * 2);
}

// Rows of a part so that each thread has about four parts: they seldom end at the same time.
inline long shared(long count, long width, long threads) {
    const long across = (width + kPartWide - 1) / kPartWide;
    return std::max(8L, count * across / (4 * std::max(threads, 1L)) / 2 * 2);
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

inline double* doubles(long count) { return reinterpret_cast<double*>(scratch<3>(2 * count)); }

extern "C" {

// Floats that `bf16_weights` fills.
long bf16_size(long outputs, long channels, long kernel, long stride) {
    return Layout(outputs, channels, kernel, stride).packed(nullptr).size();
}

// The weights of `convolve_bf16`; `bias` may be null. `turned`: channels x outputs x kernel x kernel, mirrored in
// both directions, as of `convolve`.
int bf16_weights(const float* weight, const float* bias, long outputs, long channels, long kernel, long stride,
                 long turned, float* out, long threads) try {
    const Layout l(outputs, channels, kernel, stride);
    const long area = kernel * kernel, o_step = turned ? area : channels * area;
    const long c_step = turned ? outputs * area : area, step = turned ? -1 : 1;
    std::vector<int> outputs_at;
    std::vector<long> taps_at, channels_at;
    for (long m = 0; m < outputs * l.outer; m++)
        outputs_at.push_back(m % outputs * o_step + m / outputs * kernel * step);
    for (long t = 0; t < l.rows() * kernel; t++) taps_at.push_back(t * step);
    for (long c = 0; c < channels * l.inner; c++)
        channels_at.push_back(c / l.inner * c_step + c % l.inner * kernel * step);
    std::vector<float> biases(outputs * l.outer, 0.0f);  // of a row of the kernel alone, where they are outputs
    if (bias) std::copy(bias, bias + outputs, biases.begin());
    l.packed(out).fill(turned ? weight + area - 1 : weight, outputs_at, taps_at, channels_at, biases.data(), threads);
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
    const long rows = std::min(rows_of_part(s->channels * l.inner, most, kernel, stride), shared(count, width, threads));
    const Grid grid(count, width, rows, most);
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
            double* sums = half ? doubles(packed.groups() * 2 * kGroup) : nullptr;
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
    std::vector<int> outputs_at;
    std::vector<long> channels_at;
    for (long m = 0; m < outputs; m++) outputs_at.push_back(9 * m);
    for (long c = 0; c < channels; c++) channels_at.push_back(9 * outputs * c);
    for (long part = 0; part < 4; part++) {
        const PackedWords packed = transposed_part(outputs, channels, part, out);
        packed.fill(weight, outputs_at, transposed_taps(part), channels_at, bias, threads);
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
        double* sums = half ? doubles(packed[0].groups() * 2 * kGroup) : nullptr;
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

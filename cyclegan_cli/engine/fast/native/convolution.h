// Convolutions of any kernel, stride 1 or 2, as products with shifted rows; their gradients.

#pragma once

#include "product.h"

// A part of the padded source: of each channel `rows` rows, each split into its even and its odd
// columns where the stride is 2, `length` floats apart.
struct Tile {
    long rows, stride, length;

    Tile(long out_rows, long out_columns, long kernel, long stride)
        : rows((out_rows - 1) * stride + kernel),
          stride(stride),
          length(up(out_columns + kernel / stride, kLanes) + kLanes) {}

    long channel() const { return rows * stride * length; }
    long step() const { return stride * stride * length; }  // from one row of output to the next
    long tap(long channel_number, long y, long x) const {
        return channel_number * channel() + (y * stride + x % stride) * length + x / stride;
    }

    void fill(const Source& s, long channel_number, long row, long left, float* to) const {
        float* whole = stride == 2 ? scratch<1>(2 * length) : nullptr;
        for (long i = 0; i < rows; i++, to += stride * length) {
            if (stride == 1) {
                padded_part(s, channel_number, row + i, left, to, length);
                continue;
            }
            padded_part(s, channel_number, row + i, left, whole, 2 * length);
            float *__restrict even = to, *__restrict odd = to + length;
            for (long x = 0; x < length; x++) even[x] = whole[2 * x], odd[x] = whole[2 * x + 1];
        }
    }
};

// How an output is cut into tiles; each is computed by one thread.
struct Grid {
    long high, wide, down, across;

    Grid(long rows, long columns, long tile_rows, long most_columns)
        : high(std::max(1L, std::min(rows, tile_rows))), across((columns + most_columns - 1) / most_columns) {
        wide = across == 1 ? columns : std::min(columns, up((columns + across - 1) / across, kLanes));
        across = (columns + wide - 1) / wide;
        down = (rows + high - 1) / high;
    }
    long count() const { return down * across; }
};

constexpr long kColumns = 192;     // of a tile, at most
constexpr long kHeld = kLanes * 12 * 1024;  // floats of a tile: most of the second cache

inline long rows_of_tile(long channels, long columns, long kernel, long stride) {
    const long row = channels * Tile(1, columns, 1, stride).length * stride;
    return std::max(1L, std::min(16L, (kHeld / row - kernel) / stride + 1));
}

extern "C" {

// Rows `row` ... `row + count` of a convolution of the padded source with `weight`: outputs x
// channels x kernel x kernel. `turned`: with channels x outputs x kernel x kernel, mirrored in both
// directions, which makes the gradient of a convolution's input.
int convolve(const Source* s, long row, long count, long outputs, long kernel, long stride,
             long turned, const float* weight, const float* bias, float* out, long plane,
             long threads) try {
    const long width = (s->width + 2 * s->pad - kernel) / stride + 1, taps = kernel * kernel;
    const Weights weights(outputs, s->channels * taps, bias, [=](long m, long k) {
        const long c = k / taps, tap = k % taps;
        return turned ? weight[(c * outputs + m) * taps + taps - 1 - tap]
                      : weight[(m * s->channels + c) * taps + tap];
    });
    const long most = std::min(width, kColumns);
    const Grid grid(count, width, rows_of_tile(s->channels, most, kernel, stride), most);
    const Tile tile(grid.high, grid.wide, kernel, stride);
    std::vector<long> offsets;
    for (long c = 0; c < s->channels; c++)
        for (long y = 0; y < kernel; y++)
            for (long x = 0; x < kernel; x++) offsets.push_back(tile.tap(c, y, x));
    each(grid.count(), threads, [&](long i) {
        const long top = i / grid.across * grid.high, left = i % grid.across * grid.wide;
        const long high = std::min(grid.high, count - top), wide = std::min(grid.wide, width - left);
        float* held = scratch<2>(s->channels * tile.channel());
        for (long c = 0; c < s->channels; c++)
            tile.fill(*s, c, (row + top) * stride, left * stride, held + c * tile.channel());
        for (long block = 0; block < weights.blocks(); block++)
            for (long y = 0; y < high; y++)
                product(weights, block, held + y * tile.step(), offsets.data(), wide,
                        out + block * weights.block * plane + (top + y) * width + left, plane);
    });
    return kDone;
} catch (...) {
    return failure();
}

// The transposed convolution, 3x3 with stride 2, of the source, which is padded by one zero on each
// side: rows `row` ... and columns `left` ... of the output without padding, which has 2 H + 1
// rows, and zeros behind. `weight`: channels x outputs x 3 x 3. It is also the gradient of a
// convolution's input, stride 2.
int spread(const Source* s, long row, long count, long left, long width, long outputs,
           const float* weight, const float* bias, float* out, long plane, long threads) try {
    // An even row takes the first row of weights here and the third from above; an odd one the second.
    const long most = std::min(width, kColumns);
    const Grid grid(count, width, 2 * rows_of_tile(s->channels, most / 2 + 1, 2, 1), most);
    const Tile tile(grid.high / 2 + 1, grid.wide / 2 + 1, 2, 1);
    std::vector<Weights> weights;
    weights.reserve(4);
    std::vector<long> offsets[4];
    for (long odd = 0; odd < 4; odd++) {
        std::vector<long> taps;
        for (long y = odd / 2; y < 3; y += 2)
            for (long x = odd % 2; x < 3; x += 2) taps.push_back(3 * y + x);
        const long number = taps.size();
        weights.emplace_back(outputs, s->channels * number, bias, [&](long m, long k) {
            return weight[(k / number * outputs + m) * 9 + taps[k % number]];
        });
        for (long c = 0; c < s->channels; c++)
            for (const long tap : taps) offsets[odd].push_back(tile.tap(c, tap / 3 != 2, tap % 3 != 2));
    }
    each(grid.count(), threads, [&](long i) {
        const long top = row + i / grid.across * grid.high, from = left + i % grid.across * grid.wide;
        const long high = std::min(grid.high, row + count - top), wide = std::min(grid.wide, left + width - from);
        float* held = scratch<2>(s->channels * tile.channel());
        for (long c = 0; c < s->channels; c++)
            tile.fill(*s, c, top / 2, from / 2, held + c * tile.channel());
        const long half = up(wide / 2 + 1, kLanes);
        float* halves = scratch<3>(2 * half * weights[0].block);
        for (long block = 0; block < weights[0].blocks(); block++)
            for (long y = top; y < top + high; y++) {
                for (long odd = 0; odd < 2; odd++) {
                    const long which = 2 * (y % 2) + odd, late = odd == 0 && from % 2;
                    product(weights[which], block, held + (y / 2 - top / 2) * tile.step() + late,
                            offsets[which].data(), (wide + 1 - (from + odd) % 2) / 2,
                            halves + odd * half, 2 * half);
                }
                const long first = block * weights[0].block;
                for (long m = first; m < std::min(outputs, first + weights[0].block); m++) {
                    const float* __restrict even = halves + (m - first) * 2 * half;
                    const float* __restrict odd = even + half;
                    float* __restrict to = out + m * plane + (y - row) * width + from - left;
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

constexpr int kDots = kLanes == 16 ? 4 : 3, kDotsBy = kLanes == 16 ? 6 : 3;
constexpr int kFewDots = 3, kFewDotsBy = kLanes == 16 ? 8 : 3;

// The products of `outputs` rows with the rows at `offsets`, summed over the pixels: added to `sums`,
// outputs x offsets.
template <int Rows, int By>
void correlate_all(const float* grad, long grad_plane, long grad_step, long outputs,
                   const float* base, const std::vector<long>& offsets, long base_step, long high,
                   long vectors, double* sums) {
    const long depth = offsets.size();
    for (long m = 0; m < outputs; m += Rows)
        for (long k = 0; k < depth; k += By) {
            const float* rows[Rows];
            long at[By];
            double found[Rows * By] = {};
            for (int i = 0; i < Rows; i++) rows[i] = grad + std::min(m + i, outputs - 1) * grad_plane;
            for (int j = 0; j < By; j++) at[j] = offsets[std::min(k + j, depth - 1)];
            correlate_block<Rows, By>(rows, grad_step, base, at, base_step, high, vectors, found);
            for (long i = 0; i < Rows && m + i < outputs; i++)
                for (long j = 0; j < By && k + j < depth; j++)
                    sums[(m + i) * depth + k + j] += found[i * By + j];
        }
}

inline void correlate_any(const float* grad, long grad_plane, long grad_step, long outputs,
                          const float* base, const std::vector<long>& offsets, long base_step,
                          long high, long vectors, double* sums) {
    const auto run = outputs <= kFewDots ? correlate_all<kFewDots, kFewDotsBy> : correlate_all<kDots, kDotsBy>;
    run(grad, grad_plane, grad_step, outputs, base, offsets, base_step, high, vectors, sums);
}

constexpr long kChunk = 1024;  // pixels whose products are summed in float32, in kLanes sums each

// The sum of each plane.
inline void totals(const float* in, long planes, long plane, long count, float* out, long threads) {
    each(planes, threads, [=](long c) {
        double total = 0.0;
        for (long i = 0; i < count; i += kChunk) {
            const long end = std::min(count, i + kChunk);
            Vector sum = {};
            long x = i;
            for (; x + kLanes <= end; x += kLanes) sum += wide(in + c * plane + x);
            for (total += sum_of(sum); x < end; x++) total += in[c * plane + x];
        }
        out[c] = static_cast<float>(total);
    });
}

// `correlate` of a pointwise convolution, whose pixels need no rows: both `count` values of each plane.
inline void correlate_planes(const float* in, long channels, long in_plane, long count,
                             const float* grad, long outputs, long grad_plane, float* grad_weight,
                             long threads) {
    const long group = 12;
    each((channels + group - 1) / group, threads, [=](long i) {
        const long first = i * group, depth = std::min(group, channels - first);
        std::vector<long> offsets;
        for (long c = 0; c < depth; c++) offsets.push_back((first + c) * in_plane);
        std::vector<double> sums(outputs * depth);
        for (long x = 0; x < count; x += kChunk) {
            const long end = std::min(count, x + kChunk), vectors = (end - x) / kLanes;
            correlate_any(grad + x, grad_plane, 0, outputs, in + x, offsets, 0, 1, vectors, sums.data());
            for (long rest = x + vectors * kLanes; rest < end; rest++)
                for (long m = 0; m < outputs; m++)
                    for (long c = 0; c < depth; c++)
                        sums[m * depth + c] += double(grad[m * grad_plane + rest]) * in[offsets[c] + rest];
        }
        for (long m = 0; m < outputs; m++)
            for (long c = 0; c < depth; c++)
                grad_weight[m * channels + first + c] = static_cast<float>(sums[m * depth + c]);
    });
}

extern "C" {

// The gradients of weights and bias (or null) of `convolve` over a whole picture; `grad`: of its
// output, outputs x rows x width.
int correlate(const Source* s, const float* grad, long outputs, long rows, long width, long kernel,
              long stride, float* grad_weight, float* grad_bias, long threads) try {
    // Channels that share what is read of the gradients: as many as leave each thread some groups.
    const long most = std::min(8L, std::max(2L, s->channels / (4 * std::max(1L, threads))));
    const long taps = kernel * kernel, group = kernel == 1 ? 12 : most;
    const long high = std::max(1L, std::min(rows, kChunk / width));
    // Several times as many rows are read at once: each comes with kernel - 1 of others.
    const long held_rows = up(std::min(rows, 3 * kernel), high);
    const Tile tile(held_rows, width, kernel, stride);
    const long even = up(width, kLanes);  // a vector's rest of a row of gradients must be zeros
    each((s->channels + group - 1) / group, threads, [=](long i) {
        const long first = i * group, channels = std::min(group, s->channels - first);
        std::vector<long> offsets;
        for (long c = 0; c < channels; c++)
            for (long y = 0; y < kernel; y++)
                for (long x = 0; x < kernel; x++) offsets.push_back(tile.tap(c, y, x));
        std::vector<double> sums(outputs * offsets.size());
        float* held = scratch<2>(channels * tile.channel());
        for (long top = 0; top < rows; top += high) {
            if (top % held_rows == 0)
                for (long c = 0; c < channels; c++)
                    tile.fill(*s, first + c, top * stride, 0, held + c * tile.channel());
            const long here = std::min(high, rows - top);
            const float* g = grad + top * width;
            long plane = rows * width;
            if (even != width) {
                float* copy = scratch<3>(outputs * high * even);
                for (long m = 0; m < outputs * here; m++) {
                    float* to = copy + m * even;
                    std::memcpy(to, g + m / here * plane + m % here * width, sizeof(float) * width);
                    std::memset(to + width, 0, sizeof(float) * (even - width));
                }
                g = copy, plane = here * even;
            }
            correlate_any(g, plane, even, outputs, held + top % held_rows * tile.step(), offsets,
                          tile.step(), here, even / kLanes, sums.data());
        }
        for (long m = 0; m < outputs; m++)
            for (long k = 0; k < channels * taps; k++)
                grad_weight[(m * s->channels + first) * taps + k] =
                    static_cast<float>(sums[m * channels * taps + k]);
    });
    if (grad_bias) totals(grad, outputs, rows * width, rows * width, grad_bias, threads);
    return kDone;
} catch (...) {
    return failure();
}

}  // extern "C"

// What was mirrored comes back to where it was taken from, 2x2 pixels to the one that they were, and
// what ReLU held back is 0: the gradient of reading a channel through `s`. Changes `in`.
inline void fold_plane(const Source& s, long channel, float* in, float* out) {
    const long pad = s.pad, height = s.height, width = s.width, length = width + 2 * pad;
    if (s.mirror)
        for (long i = 1; i <= pad; i++)
            for (long x = 0; x < length; x++) {
                in[(pad + i) * length + x] += in[(pad - i) * length + x];
                in[(pad + height - 1 - i) * length + x] += in[(pad + height - 1 + i) * length + x];
            }
    for (long y = 0; y < height; y++) {
        float* row = in + (pad + y) * length + pad;
        if (s.mirror)
            for (long i = 1; i <= pad; i++) {
                row[i] += row[-i];
                row[width - 1 - i] += row[width - 1 + i];
            }
        if (s.enlarge && y % 2 == 0) continue;
        const long short_width = width >> s.enlarge;
        float* __restrict to = out + (y >> s.enlarge) * short_width;
        if (s.enlarge) {
            const float* above = row - length;
            for (long x = 0; x < short_width; x++)
                to[x] = (above[2 * x] + above[2 * x + 1]) + (row[2 * x] + row[2 * x + 1]);
        } else {
            std::memcpy(to, row, sizeof(float) * width);
        }
        if (!s.relu) continue;
        const float* __restrict value = s.values + channel * s.plane + (y >> s.enlarge) * short_width;
        for (long x = 0; x < short_width; x++) to[x] = value[x] > 0.0f ? to[x] : 0.0f;
    }
}

extern "C" {

// The gradient of reading a whole picture through `s`: channels x (H + 2 pad) x (W + 2 pad), which
// is changed, to the picture's own values. Known means and scales are taken for constants of 0 and 1.
int fold(const Source* s, float* in, float* out, long threads) try {
    each(s->channels, threads, [=](long c) {
        const long pixels = (s->height >> s->enlarge) * (s->width >> s->enlarge);
        fold_plane(*s, c, in + c * (s->height + 2 * s->pad) * (s->width + 2 * s->pad), out + c * pixels);
    });
    return kDone;
} catch (...) {
    return failure();
}

}  // extern "C"

// Depthwise 3x3 convolutions, alone and followed by a pointwise one; their gradients.

#pragma once

#include "convolution.h"

// Four rows of output at once from six rows of a padded channel, `length` floats apart; `apart`
// floats from one row of output to the next.
inline void depthwise_rows(const float* in, long length, const float* w, float bias, long width,
                           float* out, long apart) {
    for (long x = 0; x < width; x += kLanes) {
        Vector sums[4];
        for (auto& sum : sums) sum = Vector{} + bias;
        for (long i = 0; i < 6; i++) {
            const float* from = in + i * length + x;
            const Vector a = wide(from), b = wide(from + 1), c = wide(from + 2);
            for (long y = 0; y < 4; y++) {
                const long row = i - y;  // of the weights
                if (row < 0 || row > 2) continue;
                sums[y] += w[3 * row] * a + w[3 * row + 1] * b + w[3 * row + 2] * c;
            }
        }
        for (long y = 0; y < 4; y++) put(out + y * apart + x, sums[y], width - x);
    }
}

extern "C" {

// A depthwise 3x3 convolution of the padded source: rows `row` ... `row + count` of its output.
int depthwise(const Source* s, long row, long count, const float* weight, const float* bias,
              float* out, long threads) try {
    const long width = s->width + 2 * s->pad - 2, length = up(width + 2, kLanes) + kLanes;
    each(s->channels, threads, [=](long c) {
        float* in = scratch<2>(6 * length);
        float* last = scratch<3>(4 * width);
        for (long y = 0; y < count; y += 4) {
            for (long i = 0; i < 6; i++)
                if (y == 0 || i >= 2)
                    padded_row(*s, c, row + y + i, in + i * length, length);
                else
                    std::memcpy(in + i * length, in + (i + 4) * length, sizeof(float) * length);
            float* to = out + (c * count + y) * width;
            depthwise_rows(in, length, weight + 9 * c, bias ? bias[c] : 0.0f, width,
                           count - y < 4 ? last : to, width);
            if (count - y < 4) std::memcpy(to, last, sizeof(float) * (count - y) * width);
        }
    });
    return kDone;
} catch (...) {
    return failure();
}

// Rows `row` ... `row + count` of a depthwise 3x3 convolution and a pointwise one behind it, whose
// `weight` is outputs x channels. What lies between never leaves the caches.
int separable(const Source* s, long row, long count, const float* depth_weight,
              const float* depth_bias, long outputs, const float* weight, const float* bias,
              float* out, long plane, long threads) try {
    const long channels = s->channels, width = s->width + 2 * s->pad - 2;
    const Weights weights(outputs, channels, bias, [=](long m, long k) { return weight[m * channels + k]; });
    const long most = std::min(width, kColumns);
    const Grid grid(count, width, std::max(4L, 2 * kColumns / most / 4 * 4), most);
    const long rows = up(grid.high, 4), length = up(grid.wide + 2, kLanes) + kLanes;
    const long apart = up(rows * grid.wide, 2 * kLanes) + kLanes;  // an odd number of cache lines
    const auto offsets = places_of_rows(channels, apart);
    each(grid.count(), threads, [&](long i) {
        const long top = i / grid.across * grid.high, left = i % grid.across * grid.wide;
        const long high = std::min(grid.high, count - top), wide = std::min(grid.wide, width - left);
        float* in = scratch<2>((rows + 2) * length);
        float* between = scratch<3>(channels * apart);
        for (long c = 0; c < channels; c++) {
            ask_for(*s, c + 1, row + top, high + 2, left, wide + 2);
            for (long y = 0; y < high + 2; y++)
                padded_part(*s, c, row + top + y, left, in + y * length, length);
            for (long y = 0; y < high; y += 4)
                depthwise_rows(in + y * length, length, depth_weight + 9 * c,
                               depth_bias ? depth_bias[c] : 0.0f, wide,
                               between + c * apart + y * wide, wide);
        }
        for (long block = 0; block < weights.blocks(); block++) {
            float* to = out + block * weights.block * plane + top * width + left;
            if (wide == width) {
                product(weights, block, between, offsets.data(), high * width, to, plane);
                continue;
            }
            for (long y = 0; y < high; y++)
                product(weights, block, between + y * wide, offsets.data(), wide, to + y * width, plane);
        }
    });
    return kDone;
} catch (...) {
    return failure();
}

// A pointwise convolution, or with `turned` the gradient of its input (`weight` is then channels x
// outputs): out[m] = bias[m] + sum over c of weight[m][c] * in[c], `count` values of each.
int pointwise(const float* in, long in_plane, long channels, long count, long outputs, long turned,
              const float* weight, const float* bias, float* out, long plane, long threads) try {
    const Weights weights(outputs, channels, bias, [=](long m, long k) {
        return turned ? weight[k * outputs + m] : weight[m * channels + k];
    });
    constexpr long columns = 24 * kLanes, apart = columns + kLanes;
    const auto offsets = places_of_rows(channels, apart);
    each((count + columns - 1) / columns, threads, [&](long i) {
        const long left = i * columns, wide = std::min(columns, count - left);
        float* held = scratch<2>(channels * apart);
        for (long c = 0; c < channels; c++)
            std::memcpy(held + c * apart, in + c * in_plane + left, sizeof(float) * wide);
        product_all(weights, held, offsets, wide, out + left, plane);
    });
    return kDone;
} catch (...) {
    return failure();
}

// The gradients of `depthwise` over a whole picture: `grad` is of its output; grad_in is of the
// picture as it lies in memory (or null), grad_weight channels x 9, grad_bias channels.
int depthwise_backward(const Source* s, const float* grad, const float* weight, float* grad_in,
                       float* grad_weight, float* grad_bias, long threads) try {
    const long padded = s->height + 2 * s->pad, length = s->width + 2 * s->pad;
    const long height = padded - 2, width = length - 2;
    const long rows = up(padded, 4), apart = up(length + 2, kLanes) + kLanes;
    each(s->channels, threads, [=](long c) {
        // Whole planes, so that nothing is read just after it was written, which stalls.
        float* values = scratch<2>((padded + rows + 2) * apart + rows * length);
        float* grads = values + padded * apart;  // with two zeros around
        float* sums = grads + (rows + 2) * apart;
        for (long r = 0; r < padded; r++) padded_row(*s, c, r, values + r * apart, apart);
        std::memset(grads, 0, sizeof(float) * (rows + 2) * apart);
        for (long y = 0; y < height; y++)
            std::memcpy(grads + (y + 2) * apart + 2, grad + (c * height + y) * width, sizeof(float) * width);
        double dots[9] = {}, total = 0.0;
        Vector part[10] = {};
        for (long r = 0; r < padded; r++) {
            const float *row = values + r * apart, *g = grads + (r + 2) * apart + 2;
            for (long x = 0; x < width; x += kLanes) {
                const Vector v[3] = {wide(row + x), wide(row + x + 1), wide(row + x + 2)};
                for (long a = 0; a < 3; a++) {
                    const Vector one = wide(g - a * apart + x);
                    for (long b = 0; b < 3; b++) part[3 * a + b] += one * v[b];
                    if (a == 0) part[9] += one;
                }
            }
            if (r % 32 == 31 || r == padded - 1) {  // float32 sums stay short
                for (long k = 0; k < 9; k++) dots[k] += sum_of(part[k]);
                total += sum_of(part[9]);
                for (auto& one : part) one = Vector{};
            }
        }
        for (long k = 0; k < 9; k++) grad_weight[9 * c + k] = static_cast<float>(dots[k]);
        grad_bias[c] = static_cast<float>(total);
        if (!grad_in) return;
        float turned[9];
        for (long k = 0; k < 9; k++) turned[k] = weight[9 * c + 8 - k];
        for (long r = 0; r < padded; r += 4)
            depthwise_rows(grads + r * apart, apart, turned, 0.0f, length, sums + r * length, length);
        fold_plane(*s, c, sums, grad_in + c * (s->height >> s->enlarge) * (s->width >> s->enlarge));
    });
    return kDone;
} catch (...) {
    return failure();
}

// The gradients of `separable` over a whole picture; `grad` is of its output, outputs x H x W.
// `between` has room for 2 x channels x H x W floats.
int separable_backward(const Source* s, const float* grad, const float* depth_weight,
                       const float* depth_bias, long outputs, const float* weight, float* between,
                       float* grad_in, float* grad_depth_weight, float* grad_depth_bias,
                       float* grad_weight, float* grad_bias, long threads) try {
    const long height = s->height + 2 * s->pad - 2, width = s->width + 2 * s->pad - 2;
    const long channels = s->channels, count = height * width;
    float* grad_between = between + channels * count;
    check(depthwise(s, 0, height, depth_weight, depth_bias, between, threads));
    correlate_planes(between, channels, count, count, grad, outputs, count, grad_weight, threads);
    totals(grad, outputs, count, count, grad_bias, threads);
    check(pointwise(grad, count, outputs, count, channels, 1, weight, nullptr, grad_between, count,
                    threads));
    check(depthwise_backward(s, grad_between, depth_weight, grad_in, grad_depth_weight, grad_depth_bias,
                             threads));
    return kDone;
} catch (...) {
    return failure();
}

}  // extern "C"

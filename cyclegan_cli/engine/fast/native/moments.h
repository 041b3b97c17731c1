// Means and variances of channels, and what they are for.

#pragma once

#include "common.h"

// How many values there were, their mean, and the sum of their squared deviations.
struct Moments {
    long count = 0;
    double mean = 0.0, m2 = 0.0;

    // Those of other values join (Chan, 1979).
    void join(const Moments& other) {
        if (other.count == 0) return;
        const double share = double(other.count) / (count + other.count), step = other.mean - mean;
        mean += step * share;
        m2 += other.m2 + step * step * (count * share);
        count += other.count;
    }

    // Further values, in blocks that stay in the first cache between the two passes.
    void add(const float* values, long n) {
        constexpr long kBlock = 2048;
        for (long i = 0; i < n; i += kBlock) join(of_block(values + i, std::min(kBlock, n - i)));
    }

    static Moments of_block(const float* values, long n) {
        constexpr long kLanes = 16;
        float sums[kLanes] = {}, squares[kLanes] = {};
        long i = 0;
        for (; i + kLanes <= n; i += kLanes)
            for (long k = 0; k < kLanes; k++) sums[k] += values[i + k];
        double total = 0.0;
        for (const float part : sums) total += part;
        for (long j = i; j < n; j++) total += values[j];
        const double own = total / n;
        const float rough = static_cast<float>(own);
        for (i = 0; i + kLanes <= n; i += kLanes)
            for (long k = 0; k < kLanes; k++) {
                const float deviation = values[i + k] - rough;
                squares[k] += deviation * deviation;
            }
        double square = 0.0;
        for (const float part : squares) square += part;
        for (; i < n; i++) square += (values[i] - double(rough)) * (values[i] - double(rough));
        square -= n * (own - rough) * (own - rough);
        Moments found;
        found.count = n, found.mean = own, found.m2 = square > 0.0 ? square : 0.0;
        return found;
    }
};

extern "C" {

// The moments of each channel. By rows, four at a time if they are short: however a picture is cut into strips, they
// are the same but for rounding in double.
int moments(const float* in, long channels, long plane, long rows, long width, double* mean, double* m2,
            long threads) try {
    each(channels, threads, [=](long c) {
        Moments all;
        const long step = width > 64 ? 1 : 4;
        for (long y = 0; y < rows; y += step) all.add(in + c * plane + y * width, std::min(step, rows - y) * width);
        mean[c] = all.mean, m2[c] = all.m2;
    });
    return kDone;
} catch (...) {
    return failure();
}

// total += (in - mean) * scale, `count` values of each channel.
int add_normalised(float* total, long total_plane, const float* in, long plane, long channels,
                   long count, const float* mean, const float* scale, long threads) try {
    each(channels, threads, [=](long c) {
        float* __restrict to = total + c * total_plane;
        const float* __restrict from = in + c * plane;
        const float m = mean[c], s = scale[c];
        for (long i = 0; i < count; i++) to[i] += (from[i] - m) * s;
    });
    return kDone;
} catch (...) {
    return failure();
}

// InstanceNorm of `planes` of `count` values: (x - mean) / sqrt(variance + eps); `scale`: the second factor
// of each. `mean`, `m2`: their moments where they are known, or null. `out` may be `in`.
int normalise(const float* in, long planes, long count, double eps, const double* mean,
              const double* m2, float* out, float* scale, long threads) try {
    each(planes, threads, [=](long c) {
        const float* from = in + c * count;
        float* to = out + c * count;
        Moments all;
        if (mean)
            all.mean = mean[c], all.m2 = m2[c];
        else
            all.add(from, count);
        const float middle = static_cast<float>(all.mean);
        const float factor = static_cast<float>(1.0 / std::sqrt(all.m2 / count + eps));
        long i = 0;
        for (; i + kLanes <= count; i += kLanes) put(to + i, (wide(from + i) - middle) * factor);
        for (; i < count; i++) to[i] = (from[i] - middle) * factor;
        scale[c] = factor;
    });
    return kDone;
} catch (...) {
    return failure();
}

// The gradient of what `normalise` read, of that of its output, `normalised`.
int normalise_backward(const float* grad, const float* normalised, const float* scale, long planes,
                       long count, float* out, long threads) try {
    each(planes, threads, [=](long c) {
        const float* __restrict g = grad + c * count;
        const float* __restrict y = normalised + c * count;
        float* __restrict to = out + c * count;
        double total = 0.0, along = 0.0;
        constexpr long kBlock = 64 * kLanes;
        for (long i = 0; i < count; i += kBlock) {
            const long end = std::min(count, i + kBlock);
            Vector sum = {}, dot = {};
            long x = i;
            for (; x + kLanes <= end; x += kLanes) {
                const Vector v = wide(g + x);
                sum += v;
                dot += v * wide(y + x);
            }
            total += sum_of(sum), along += sum_of(dot);
            for (; x < end; x++) total += g[x], along += double(g[x]) * y[x];
        }
        const float mean = static_cast<float>(total / count), slope = static_cast<float>(along / count);
        const float factor = scale[c];
        for (long i = 0; i < count; i++) to[i] = factor * ((g[i] - mean) - slope * y[i]);
    });
    return kDone;
} catch (...) {
    return failure();
}

}  // extern "C"

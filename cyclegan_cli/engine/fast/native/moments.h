// Means and variances of channels, and what they are for.

#pragma once

#include "common.h"

// A block of values joins the count, mean and squared deviations of those before (Chan, 1979).
inline void merge(const float* values, long n, long seen, double& mean, double& m2) {
    if (n == 0) return;
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
    const double share = double(n) / (seen + n), step = own - mean;
    mean += step * share;
    m2 += (square > 0.0 ? square : 0.0) + step * step * (seen * share);
}

extern "C" {

// The moments of `count` values of each channel.
void moments(const float* in, long channels, long plane, long count, double* mean, double* m2,
             long threads) {
    each(channels, threads, [=](long c) {
        constexpr long kBlock = 2048;  // stays in the first cache between the two passes
        mean[c] = m2[c] = 0.0;
        for (long i = 0; i < count; i += kBlock)
            merge(in + c * plane + i, count - i < kBlock ? count - i : kBlock, i, mean[c], m2[c]);
    });
}

// total += (in - mean) * scale, `count` values of each channel.
void add_normalised(float* total, long total_plane, const float* in, long plane, long channels,
                    long count, const float* mean, const float* scale, long threads) {
    each(channels, threads, [=](long c) {
        float* __restrict to = total + c * total_plane;
        const float* __restrict from = in + c * plane;
        const float m = mean[c], s = scale[c];
        for (long i = 0; i < count; i++) to[i] += (from[i] - m) * s;
    });
}

}  // extern "C"

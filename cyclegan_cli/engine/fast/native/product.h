// Products of a small matrix of weights with rows of pixels, and of rows with rows.
//
// Convolutions are such products without the copies that are usually made for them: the rows that
// a tap reads are those of another tap, shifted, and are given by an offset each.

#pragma once

#include "common.h"

// Rows and vectors of columns that are computed at once: as many sums as the processor has
// registers for, with the weights of a block one after the other in memory.
constexpr int kTall = kLanes == 16 ? 12 : 6, kTallBy = 2;
constexpr int kWide = kLanes == 16 ? 8 : 4, kWideBy = 3;
constexpr int kFew = 3, kFewBy = kLanes == 16 ? 7 : 4;

// A matrix of weights in blocks of `block` rows; of each block its biases, then its weights tap by
// tap; zeros where the matrix has ended.
struct Packed {
    long rows, depth, block;
    float* values;

    Packed(long rows, long depth, float* values)
        : rows(rows), depth(depth),
          block(rows <= kFew ? kFew : rows % kTall == 0 || rows % kWide ? kTall : kWide),
          values(values) {}
    long blocks() const { return (rows + block - 1) / block; }
    long size() const { return blocks() * (depth + 1) * block; }
    float* place(long m) const { return values + m / block * (depth + 1) * block + m % block; }
};

struct Weights : Packed {
    std::vector<float> kept;

    // `at(m, k)` is the weight of row m and tap k. `bias` may be null.
    template <class At>
    Weights(long rows, long depth, const float* bias, const At& at) : Packed(rows, depth, nullptr) {
        kept.resize(size());
        values = kept.data();
        for (long m = 0; m < rows; m++) {
            float* to = place(m);
            to[0] = bias ? bias[m] : 0.0f;
            for (long k = 0; k < depth; k++) to[(k + 1) * block] = at(m, k);
        }
    }
};

// Terms that are summed in a register before the sum joins the others: rounding errors grow with the
// length of a sum, and so stay a third of what they were.
constexpr long kTerms = 32;

template <int Rows, int By>
inline void product_block(const float* w, long depth, const float* base, const long* offsets,
                          float* out, long apart, long rows, long count) {
    Vector sums[Rows][By], totals[Rows][By];
    for (int i = 0; i < Rows; i++)
        for (int j = 0; j < By; j++) sums[i][j] = Vector{} + w[i];
    for (long k = 0; k < depth;) {
        for (const long end = std::min(depth, k + kTerms); k < end; k++) {
            w += Rows;
            const float* from = base + offsets[k];
            Vector v[By];
            for (int j = 0; j < By; j++) v[j] = wide(from + j * kLanes);
            for (int i = 0; i < Rows; i++)
                for (int j = 0; j < By; j++) sums[i][j] += w[i] * v[j];
        }
        if (k == depth) break;
        const bool first = k == kTerms;
        for (int i = 0; i < Rows; i++)
            for (int j = 0; j < By; j++) {
                totals[i][j] = first ? sums[i][j] : totals[i][j] + sums[i][j];
                sums[i][j] = Vector{};
            }
    }
    if (depth > kTerms)
        for (int i = 0; i < Rows; i++)
            for (int j = 0; j < By; j++) sums[i][j] += totals[i][j];
    for (int i = 0; i < Rows; i++) {
        if (i >= rows) break;
        for (int j = 0; j < By; j++)
            if (By > 1)
                put(out + i * apart + j * kLanes, sums[i][j]);
            else
                put(out + i * apart, sums[i][j], count);
    }
}

template <int Rows, int By>
void product_columns(const float* w, long depth, const float* base, const long* offsets, float* out,
                     long apart, long rows, long count) {
    // The next block's weights, which come from far away, are asked for while this one's are used.
    constexpr long step = By * kLanes, line = 64 / sizeof(float);
    const long size = Rows * (depth + 1), share = size * step / count;
    const float* ahead = w + size;
    long x = 0;
    for (; x + (By > 1 ? step : 1) <= count; x += step) {
        for (long i = 0; i < share; i += line) __builtin_prefetch(ahead + i);
        ahead += share;
        product_block<Rows, By>(w, depth, base + x, offsets, out + x, apart, rows, count - x);
    }
    if constexpr (By > 1)
        if (x < count)
            product_columns<Rows, (By + 1) / 2>(w, depth, base + x, offsets, out + x, apart, rows,
                                                count - x);
}

// One block of the rows of `weights` times `count` columns: out[m][x] = bias[m] +
// sum over k of weights[m][k] * base[offsets[k] + x]. Up to kLanes - 1 floats behind are read.
inline void product(const Packed& weights, long block, const float* base, const long* offsets,
                    long count, float* out, long apart) {
    const long first = block * weights.block;
    const long rows = std::min(weights.block, weights.rows - first);
    const float* w = weights.values + first * (weights.depth + 1);
    const auto run = weights.block == kTall   ? product_columns<kTall, kTallBy>
                     : weights.block == kWide ? product_columns<kWide, kWideBy>
                                              : product_columns<kFew, kFewBy>;
    run(w, weights.depth, base, offsets, out, apart, rows, count);
}

// All of `weights` times `count` columns.
inline void product_all(const Packed& weights, const float* base, const std::vector<long>& offsets,
                        long count, float* out, long apart) {
    for (long block = 0; block < weights.blocks(); block++)
        product(weights, block, base, offsets.data(), count, out + block * weights.block * apart, apart);
}

// Where `count` rows begin that are `apart` floats apart.
inline std::vector<long> places_of_rows(long count, long apart) {
    std::vector<long> offsets(count);
    for (long i = 0; i < count; i++) offsets[i] = i * apart;
    return offsets;
}

// sums[i * By + j] += the sum over all pixels of rows[i] * (base + offsets[j]): `high` rows of
// `vectors` vectors each, `row_step` and `base_step` floats apart.
template <int Rows, int By>
inline void correlate_block(const float* const* rows, long row_step, const float* base,
                            const long* offsets, long base_step, long high, long vectors,
                            double* sums) {
    Vector dots[Rows][By] = {};
    for (long y = 0; y < high; y++)
        for (long x = 0; x < vectors; x++) {
            Vector g[Rows];
            for (int i = 0; i < Rows; i++) g[i] = wide(rows[i] + y * row_step + x * kLanes);
            const float* from = base + y * base_step + x * kLanes;
            for (int j = 0; j < By; j++) {
                const Vector v = wide(from + offsets[j]);
                for (int i = 0; i < Rows; i++) dots[i][j] += g[i] * v;
            }
        }
    for (int i = 0; i < Rows; i++)
        for (int j = 0; j < By; j++) sums[i * By + j] += sum_of(dots[i][j]);
}

// 3x3 convolutions by Winograd's F(4x4, 3x3): what comes before and after its matrix products, and
// these. winograd.py says more.

#pragma once

#include "convolution.h"
#include "moments.h"

// Eight floats: two registers of NEON, one of AVX2.
typedef float Eight __attribute__((vector_size(32)));
inline Eight load(const float* from) {
    Eight v;
    std::memcpy(&v, from, sizeof v);
    return v;
}
inline void store(float* to, const Eight& v, long count = 8) {
    if (count >= 8)
        std::memcpy(to, &v, sizeof v);
    else
        std::memcpy(to, &v, sizeof(float) * count);
}

#define PICK(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
// 32 floats -> of each group of four the first, the second, the third, the fourth.
inline void split(const float* from, Eight* to) {
    const Eight a = load(from), b = load(from + 8), c = load(from + 16), d = load(from + 24);
    const Eight x = PICK(a, c, 0, 1, 2, 3, 8, 9, 10, 11), y = PICK(a, c, 4, 5, 6, 7, 12, 13, 14, 15);
    const Eight z = PICK(b, d, 0, 1, 2, 3, 8, 9, 10, 11), w = PICK(b, d, 4, 5, 6, 7, 12, 13, 14, 15);
    const Eight e = PICK(x, y, 0, 8, 1, 9, 4, 12, 5, 13), f = PICK(x, y, 2, 10, 3, 11, 6, 14, 7, 15);
    const Eight g = PICK(z, w, 0, 8, 1, 9, 4, 12, 5, 13), h = PICK(z, w, 2, 10, 3, 11, 6, 14, 7, 15);
    to[0] = PICK(e, g, 0, 1, 8, 9, 4, 5, 12, 13), to[1] = PICK(e, g, 2, 3, 10, 11, 6, 7, 14, 15);
    to[2] = PICK(f, h, 0, 1, 8, 9, 4, 5, 12, 13), to[3] = PICK(f, h, 2, 3, 10, 11, 6, 7, 14, 15);
}
// The inverse of `split`.
inline void join(const Eight* from, float* to) {
    const Eight a = from[0], b = from[1], c = from[2], d = from[3];
    const Eight e = PICK(a, b, 0, 8, 1, 9, 4, 12, 5, 13), f = PICK(a, b, 2, 10, 3, 11, 6, 14, 7, 15);
    const Eight g = PICK(c, d, 0, 8, 1, 9, 4, 12, 5, 13), h = PICK(c, d, 2, 10, 3, 11, 6, 14, 7, 15);
    const Eight x = PICK(e, g, 0, 1, 8, 9, 4, 5, 12, 13), y = PICK(e, g, 2, 3, 10, 11, 6, 7, 14, 15);
    const Eight z = PICK(f, h, 0, 1, 8, 9, 4, 5, 12, 13), w = PICK(f, h, 2, 3, 10, 11, 6, 7, 14, 15);
    store(to, PICK(x, y, 0, 1, 2, 3, 8, 9, 10, 11)), store(to + 8, PICK(z, w, 0, 1, 2, 3, 8, 9, 10, 11));
    store(to + 16, PICK(x, y, 4, 5, 6, 7, 12, 13, 14, 15));
    store(to + 24, PICK(z, w, 4, 5, 6, 7, 12, 13, 14, 15));
}

// Winograd's F(4, 3) with the points 0, 1, -1, 1/2, -2 and infinity (winograd.py has the third
// matrix): 6 inputs, 6 products, 4 outputs.
inline void transform_in(const Eight* x, Eight* y) {
    y[0] = x[0] - 1.5f * x[1] - 2.0f * x[2] + 1.5f * x[3] + x[4];
    y[1] = x[4] - x[1] + 0.5f * x[2] + 2.5f * x[3];
    y[2] = x[4] + x[1] - 2.5f * x[2] + 0.5f * x[3];
    y[3] = x[4] - 2.0f * x[1] - x[2] + 2.0f * x[3];
    y[4] = x[4] + 0.5f * x[1] - x[2] - 0.5f * x[3];
    y[5] = x[1] - 1.5f * x[2] - 2.0f * x[3] + 1.5f * x[4] + x[5];
}
inline void transform_out(const Eight* x, Eight* y) {
    const Eight sum = x[1] + x[2], difference = x[1] - x[2];
    y[0] = x[0] + sum + x[3] + x[4];
    y[1] = difference + 0.5f * x[3] - 2.0f * x[4];
    y[2] = sum + 0.25f * x[3] + 4.0f * x[4];
    y[3] = difference + 0.125f * x[3] - 8.0f * x[4] + x[5];
}

// The adjoint of `transform_out`.
inline void transform_grad(const Eight* y, Eight* x) {
    x[0] = y[0];
    x[1] = (y[0] + y[2]) + (y[1] + y[3]);
    x[2] = (y[0] + y[2]) - (y[1] + y[3]);
    x[3] = y[0] + 0.5f * y[1] + 0.25f * y[2] + 0.125f * y[3];
    x[4] = y[0] - 2.0f * y[1] + 4.0f * y[2] - 8.0f * y[3];
    x[5] = y[3];
}
// Three weights, `apart` floats apart, to six.
inline void transform_weights(const float* w, long apart, float* out, long out_apart) {
    const float a = w[0], b = w[apart], c = w[2 * apart];
    out[0] = a;
    out[out_apart] = (a + b + c) / 3.0f;
    out[2 * out_apart] = (b - a - c) / 3.0f;
    out[3 * out_apart] = -(16.0f * a + 8.0f * b + 4.0f * c) / 15.0f;
    out[4 * out_apart] = (a - 2.0f * b + 4.0f * c) / 15.0f;
    out[5 * out_apart] = c;
}

// `rows` rows of `count` values -> their columns, `apart` floats from one to the next.
inline void turn(const float* in, long rows, long count, float* out, long apart) {
    long m = 0;
    for (; m + 8 <= rows; m += 8) {
        long x = 0;
        for (; x + 8 <= count; x += 8) {
            Eight low[4], high[4], parts[8];  // two transposes of 4 rows of 8, joined
            float block[64];
            for (long i = 0; i < 8; i++) std::memcpy(block + 8 * i, in + (m + i) * count + x, 32);
            const auto row = [&](long i) { return load(block + 8 * i); };
            for (long i = 0; i < 4; i++) {
                low[i] = PICK(row(2 * i), row(2 * i + 1), 0, 8, 1, 9, 4, 12, 5, 13);
                high[i] = PICK(row(2 * i), row(2 * i + 1), 2, 10, 3, 11, 6, 14, 7, 15);
            }
            for (long i = 0; i < 2; i++) {
                const Eight a = low[2 * i], b = low[2 * i + 1], c = high[2 * i], d = high[2 * i + 1];
                parts[4 * i] = PICK(a, b, 0, 1, 8, 9, 4, 5, 12, 13);
                parts[4 * i + 1] = PICK(a, b, 2, 3, 10, 11, 6, 7, 14, 15);
                parts[4 * i + 2] = PICK(c, d, 0, 1, 8, 9, 4, 5, 12, 13);
                parts[4 * i + 3] = PICK(c, d, 2, 3, 10, 11, 6, 7, 14, 15);
            }
            for (long i = 0; i < 4; i++) {
                store(out + (x + i) * apart + m, PICK(parts[i], parts[4 + i], 0, 1, 2, 3, 8, 9, 10, 11));
                store(out + (x + 4 + i) * apart + m, PICK(parts[i], parts[4 + i], 4, 5, 6, 7, 12, 13, 14, 15));
            }
        }
        for (; x < count; x++)
            for (long i = m; i < m + 8; i++) out[x * apart + i] = in[i * count + x];
    }
    for (; m < rows; m++)
        for (long x = 0; x < count; x++) out[x * apart + m] = in[m * count + x];
}

extern "C" {

// Tiles of 6x6, 4 apart, from row `row` of the padded picture on -> 36 matrices of channels x
// tiles, `apart` floats from one to the next.
void winograd_in(const Source* s, long row, long tiles_y, long tiles_x, float* out, long apart,
                 long threads) {
    each(s->channels, threads, [=](long c) {
        // Whole groups of eight tiles are read; what lies behind the last tile is zeros. All rows
        // are written before any is read: a read just behind a write elsewhere in it stalls.
        const long groups = (tiles_x + 7) / 8, length = 32 * groups + 32, tiles = tiles_y * tiles_x;
        const long high = 4 * tiles_y + 2;
        float* rows = scratch<2>((high + 6) * length);
        float* mixed = rows + high * length;
        for (long i = 0; i < high; i++) padded_row(*s, c, row + i, rows + i * length, length);
        for (long ty = 0; ty < tiles_y; ty++) {
            for (long x = 0; x < length; x += 8) {
                Eight d[6], v[6];
                for (long i = 0; i < 6; i++) d[i] = load(rows + (4 * ty + i) * length + x);
                transform_in(d, v);
                for (long i = 0; i < 6; i++) store(mixed + i * length + x, v[i]);
            }
            float* to = out + c * tiles + ty * tiles_x;
            for (long i = 0; i < 6; i++) {
                Eight d[6], next[4], v[6];
                split(mixed + i * length, next);
                for (long t = 0; t < tiles_x; t += 8) {
                    for (long k = 0; k < 4; k++) d[k] = next[k];
                    split(mixed + i * length + 4 * t + 32, next);
                    // A tile's last two values are the next one's first two.
                    d[4] = PICK(d[0], next[0], 1, 2, 3, 4, 5, 6, 7, 8);
                    d[5] = PICK(d[1], next[1], 1, 2, 3, 4, 5, 6, 7, 8);
                    transform_in(d, v);
                    for (long j = 0; j < 6; j++) store(to + (6 * i + j) * apart + t, v[j], tiles_x - t);
                }
            }
        }
    });
}

// The inverse on the other side: 36 matrices of channels x tiles (8 floats behind the last one can
// be read) -> `rows` x `width` values of each channel, `plane` floats apart, with their bias (or
// null). Where `mean` and `m2` are given, the values join the `seen` ones of each channel.
void winograd_out(const float* in, long apart, long channels, long tiles_y, long tiles_x, long rows,
                  long width, const float* bias, float* out, long plane, double* mean, double* m2,
                  long seen, long threads) {
    each(channels, threads, [=](long c) {
        const long groups = (tiles_x + 7) / 8, length = 32 * groups, tiles = tiles_y * tiles_x;
        float* block = scratch<2>(4 * length);
        const float add = bias ? bias[c] : 0.0f;
        long before = seen;
        for (long ty = 0; ty < tiles_y; ty++) {
            const float* from = in + c * tiles + ty * tiles_x;
            for (long t = 0; t < tiles_x; t += 8) {
                Eight half[6][4];
                for (long j = 0; j < 6; j++) {
                    Eight m[6];
                    for (long i = 0; i < 6; i++) m[i] = load(from + (6 * i + j) * apart + t);
                    transform_out(m, half[j]);
                }
                for (long i = 0; i < 4; i++) {
                    const Eight m[6] = {half[0][i], half[1][i], half[2][i],
                                        half[3][i], half[4][i], half[5][i]};
                    Eight y[4];
                    transform_out(m, y);
                    for (long k = 0; k < 4; k++) y[k] += add;
                    join(y, block + i * length + 4 * t);
                }
            }
            const long count = rows - 4 * ty < 4 ? rows - 4 * ty : 4;
            float* to = out + c * plane + 4 * ty * width;
            for (long i = 0; i < count; i++)
                std::memcpy(to + i * width, block + i * length, sizeof(float) * width);
            if (mean) merge(to, count * width, before, mean[c], m2[c]);
            before += count * width;
        }
    });
}

// The weights of `winograd_product`, 36 matrices packed one after the other, of a convolution's:
// outputs x inputs x 3 x 3; or with `turned`, inputs x outputs x 3 x 3, mirrored in both directions.
void winograd_weights(const float* weight, long outputs, long inputs, long turned, float* out,
                      long threads) {
    const Packed shape(outputs, inputs, nullptr);
    constexpr long lanes = kTall > kWide ? kTall : kWide;  // of a block, at most
    each(shape.blocks(), threads, [=](long block) {
        const long rows = std::min(shape.block, outputs - block * shape.block);
        float w[9][lanes] = {}, half[18][lanes], all[36][lanes] = {};
        for (long c = -1; c < inputs; c++) {  // -1: the biases, which come later
            for (long m = 0; c >= 0 && m < rows; m++) {
                const long o = block * shape.block + m;
                const float* from = weight + (turned ? c * outputs + o : o * inputs + c) * 9;
                for (long k = 0; k < 9; k++) w[k][m] = from[turned ? 8 - k : k];
            }
            for (long x = 0; x < 3; x++)
                for (long m = 0; m < lanes; m++)
                    transform_weights(&w[x][m], 3 * lanes, &half[x][m], 3 * lanes);
            for (long y = 0; y < 6; y++)
                for (long m = 0; m < lanes; m++)
                    transform_weights(&half[3 * y][m], lanes, &all[6 * y][m], lanes);
            float* to = out + (block * (inputs + 1) + c + 1) * shape.block;
            const auto give = [&](auto count) {  // of a number that is known here, 36 times fewer calls
                for (long k = 0; k < 36; k++)
                    std::memcpy(to + k * shape.size(), all[k], sizeof(float) * count);
            };
            if (shape.block == kWide)
                give(std::integral_constant<long, kWide>());
            else if (shape.block == kTall)
                give(std::integral_constant<long, kTall>());
            else
                give(std::integral_constant<long, kFew>());
        }
    });
}

// 36 products of packed weights with matrices of inputs x tiles, `in_apart` floats apart: matrices
// of outputs x tiles, `out_apart` apart.
void winograd_product(float* packed, long outputs, long inputs, const float* in, long in_apart,
                      long tiles, float* out, long out_apart, long threads) {
    const Packed shape(outputs, inputs, packed);
    std::vector<long> offsets;
    for (long c = 0; c < inputs; c++) offsets.push_back(c * tiles);
    each(36 * shape.blocks(), threads, [&](long i) {
        const long which = i / shape.blocks(), block = i % shape.blocks();
        const Packed one(outputs, inputs, packed + which * shape.size());
        product(one, block, in + which * in_apart, offsets.data(), tiles,
                out + which * out_apart + block * shape.block * tiles, tiles);
    });
}

// The adjoint of `winograd_out` without bias: channels x `rows` x `width` values, of which the first
// is at tile 0 -> 36 matrices of channels x tiles.
void winograd_grads(const float* in, long plane, long channels, long rows, long width, long tiles_y,
                    long tiles_x, float* out, long apart, long threads) {
    each(channels, threads, [=](long c) {
        const long groups = (tiles_x + 7) / 8, length = 32 * groups, tiles = tiles_y * tiles_x;
        float* lines = scratch<1>(10 * length);
        float* mixed = lines + 4 * length;
        for (long ty = 0; ty < tiles_y; ty++) {
            for (long i = 0; i < 4; i++) {
                const bool known = 4 * ty + i < rows;
                float* line = lines + i * length;
                if (known) std::memcpy(line, in + c * plane + (4 * ty + i) * width, sizeof(float) * width);
                std::memset(line + (known ? width : 0), 0, sizeof(float) * (length - (known ? width : 0)));
            }
            for (long x = 0; x < length; x += 8) {
                Eight d[4], v[6];
                for (long i = 0; i < 4; i++) d[i] = load(lines + i * length + x);
                transform_grad(d, v);
                for (long i = 0; i < 6; i++) store(mixed + i * length + x, v[i]);
            }
            float* to = out + c * tiles + ty * tiles_x;
            for (long i = 0; i < 6; i++)
                for (long t = 0; t < tiles_x; t += 8) {
                    Eight d[4], v[6];
                    split(mixed + i * length + 4 * t, d);
                    transform_grad(d, v);
                    for (long j = 0; j < 6; j++) store(to + (6 * i + j) * apart + t, v[j], tiles_x - t);
                }
        }
    });
}

// The gradients of the transformed weights: 36 matrices of outputs x inputs, of those of `grads` and
// `values` (outputs and inputs x tiles each).
void winograd_correlate(const float* grads, long grads_apart, long outputs, const float* values,
                        long values_apart, long inputs, long tiles, float* out, long threads) {
    // The products of long rows would be sums of few vectors; turned, they are columns of many sums.
    const Packed shape(outputs, tiles, nullptr);
    std::vector<long> offsets;
    for (long t = 0; t < tiles; t++) offsets.push_back(t * inputs);
    each(36, threads, [&](long k) {
        float* turned = scratch<2>(inputs * tiles + kLanes);
        turn(values + k * values_apart, inputs, tiles, turned, inputs);
        const Packed packed(outputs, tiles, scratch<3>(shape.size()));
        for (long block = 0; block < shape.blocks(); block++) {
            const long first = block * shape.block, rows = std::min(shape.block, outputs - first);
            float* to = packed.place(first);
            std::memset(to, 0, sizeof(float) * shape.block);
            for (long m = rows; m < shape.block; m++)
                for (long t = 0; t < tiles; t++) to[(t + 1) * shape.block + m] = 0.0f;
            turn(grads + k * grads_apart + first * tiles, rows, tiles, to + shape.block, shape.block);
            product(packed, block, turned, offsets.data(), inputs,
                    out + (k * outputs + first) * inputs, inputs);
        }
    });
}

}  // extern "C"

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

// Where the 36 matrices of channels x tiles lie, in floats from the first one's place.
struct Places {
    long at[36];

    explicit Places(long apart) {
        for (long k = 0; k < 36; k++) at[k] = k * apart;
    }
};

// Channel `c` of tiles of 6x6 values, 4 apart, from row `row` of the padded picture on, transformed.
inline void channel_in(const Source& s, long c, long row, long tiles_y, long tiles_x, float* out,
                       const Places& places) {
    // Whole groups of eight tiles are read; what lies behind the last tile is zeros. All rows are
    // written before any is read: a read just behind a write elsewhere in it stalls.
    const long groups = (tiles_x + 7) / 8, length = 32 * groups + 32, tiles = tiles_y * tiles_x;
    const long high = 4 * tiles_y + 2;
    float* rows = scratch<2>((high + 6) * length);
    float* mixed = rows + high * length;
    for (long i = 0; i < high; i++) padded_row(s, c, row + i, rows + i * length, length);
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
                for (long j = 0; j < 6; j++) store(to + places.at[6 * i + j] + t, v[j], tiles_x - t);
            }
        }
    }
}

// The inverse on the other side: row `ty` of tiles of channel `c` of 36 matrices, behind which 8
// floats can be read -> `rows` x `width` values, with their bias.
inline void channel_out(const float* in, const Places& places, long c, long ty, long tiles_y,
                        long tiles_x, long rows, long width, float bias, float* out) {
    const long groups = (tiles_x + 7) / 8, length = 32 * groups;
    float* block = scratch<2>(4 * length);
    const float* from = in + (c * tiles_y + ty) * tiles_x;
    for (long t = 0; t < tiles_x; t += 8) {
        Eight half[6][4];
        for (long j = 0; j < 6; j++) {
            Eight m[6];
            for (long i = 0; i < 6; i++) m[i] = load(from + places.at[6 * i + j] + t);
            transform_out(m, half[j]);
        }
        for (long i = 0; i < 4; i++) {
            const Eight m[6] = {half[0][i], half[1][i], half[2][i],
                                half[3][i], half[4][i], half[5][i]};
            Eight y[4];
            transform_out(m, y);
            for (long k = 0; k < 4; k++) y[k] += bias;
            join(y, block + i * length + 4 * t);
        }
    }
    for (long i = 0; i < rows; i++)
        std::memcpy(out + i * width, block + i * length, sizeof(float) * width);
}

// A 3x3 convolution under way: its rows in parts, each computed from its tiles to its values.
struct Filtering {
    const Source* source;
    long row, count;  // of the output
    Packed weights;   // the first of 36
    const float* bias;
    float* out;
    long plane;
    Moments* found;  // of each channel in each row of tiles, or null

    long width() const { return source->width + 2 * source->pad - 2; }
    long across() const { return (width() + 3) / 4; }
    long down() const { return (count + 3) / 4; }

    // Rows `first` ... `first + high` of tiles.
    void part(long first, long high, long threads) const {
        const long inputs = weights.depth, outputs = weights.rows, tiles = high * across();
        // A product is written over the matrix before it, which is done with: half of the memory,
        // which so stays in the cache. A chain of them has one place more than matrices.
        const long chains = threads == 1 ? 1 : threads <= 4 ? 12 : 36, chain = 36 / chains;
        const long apart = std::max(inputs, outputs) * tiles + 16;
        Places before(apart), behind(apart);
        for (long k = 0; k < 36; k++) {
            behind.at[k] = (k + k / chain) * apart;
            before.at[k] = behind.at[k] + apart;
        }
        float* room = scratch<4>((36 + chains) * apart);
        each(inputs, threads, [&](long c) {
            channel_in(*source, c, row + 4 * first, high, across(), room, before);
        });
        std::vector<long> offsets;
        for (long c = 0; c < inputs; c++) offsets.push_back(c * tiles);
        each(chains, threads, [&](long i) {
            for (long k = i * chain; k < (i + 1) * chain; k++) {
                const Packed one(outputs, inputs, weights.values + k * weights.size());
                for (long block = 0; block < one.blocks(); block++)
                    product(one, block, room + before.at[k], offsets.data(), tiles,
                            room + behind.at[k] + block * one.block * tiles, tiles);
            }
        });
        each(outputs, threads, [&](long c) {
            for (long ty = 0; ty < high; ty++) {
                const long top = 4 * (first + ty), rows = std::min(4L, count - top);
                float* to = out + c * plane + top * width();
                channel_out(room, behind, c, ty, high, across(), rows, width(),
                            bias ? bias[c] : 0.0f, to);
                if (found) found[c * down() + first + ty].add(to, rows * width());
            }
        });
    }
};

constexpr long kMostTiles = 256, kFewestTiles = 64;  // of a part, where it can be

extern "C" {

// Rows `row` ... `row + count` of a 3x3 convolution of the padded source, with the weights that
// `winograd_weights` gave; where `mean` and `m2` are not null, also the moments of each channel.
void winograd(const Source* s, long row, long count, float* packed, long outputs, const float* bias,
              float* out, long plane, double* mean, double* m2, long threads) {
    Filtering work{s, row, count, Packed(outputs, s->channels, packed), bias, out, plane, nullptr};
    const long tiles = work.down() * work.across();
    std::vector<Moments> found(mean ? outputs * work.down() : 0);
    if (mean) work.found = found.data();
    // Each thread has its own rows, from their tiles to their values, and no other touches what lies
    // between; where there are too few for that, all threads work at the same.
    const bool apart = tiles >= threads * kFewestTiles;
    const long most = apart ? std::min(kMostTiles, (tiles + threads - 1) / threads) : kMostTiles;
    const long step = std::max(1L, most / work.across());
    const auto part = [&](long i, long inner) {
        work.part(i * step, std::min(step, work.down() - i * step), inner);
    };
    const long parts = (work.down() + step - 1) / step;
    if (apart)
        each(parts, threads, [&](long i) { part(i, 1); });
    else
        for (long i = 0; i < parts; i++) part(i, threads);
    for (long c = 0; mean && c < outputs; c++) {
        Moments all;
        for (long ty = 0; ty < work.down(); ty++) all.join(found[c * work.down() + ty]);
        mean[c] = all.mean, m2[c] = all.m2;
    }
}

// Tiles of 6x6, 4 apart, from row `row` of the padded picture on -> 36 matrices of channels x
// tiles, `apart` floats from one to the next.
void winograd_in(const Source* s, long row, long tiles_y, long tiles_x, float* out, long apart,
                 long threads) {
    const Places places(apart);
    each(s->channels, threads,
         [&](long c) { channel_in(*s, c, row, tiles_y, tiles_x, out, places); });
}

// The weights of `winograd`, 36 matrices packed one after the other, of a convolution's:
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

// The adjoint of what `winograd` does behind its products, without bias: channels x `rows` x `width` values, of which the first
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

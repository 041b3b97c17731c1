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

// Winograd's F(4, 3) with the points 0, a, -a, b, -b and infinity (winograd.py says why these): 6
// inputs, 6 products, 4 outputs. The constants are exact.
constexpr float kA = 0.625f, kB = 1.5f, kA2 = kA * kA, kB2 = kB * kB;
constexpr float kProduct = kA2 * kB2, kSum = kA2 + kB2;
constexpr float kOfA = 1.0f / (2.0f * kA2 * (kA2 - kB2)), kOfB = 1.0f / (2.0f * kB2 * (kB2 - kA2));

inline void transform_in(const Eight* x, Eight* y) {
    const Eight even_a = x[4] - kB2 * x[2], odd_a = x[3] - kB2 * x[1];
    const Eight even_b = x[4] - kA2 * x[2], odd_b = x[3] - kA2 * x[1];
    y[0] = kProduct * x[0] - kSum * x[2] + x[4];
    y[1] = even_a + kA * odd_a;
    y[2] = even_a - kA * odd_a;
    y[3] = even_b + kB * odd_b;
    y[4] = even_b - kB * odd_b;
    y[5] = kProduct * x[1] - kSum * x[3] + x[5];
}
inline void transform_out(const Eight* x, Eight* y) {
    const Eight sum_a = x[1] + x[2], difference_a = x[1] - x[2];
    const Eight sum_b = x[3] + x[4], difference_b = x[3] - x[4];
    y[0] = x[0] + sum_a + sum_b;
    y[1] = kA * difference_a + kB * difference_b;
    y[2] = kA2 * sum_a + kB2 * sum_b;
    y[3] = kA * kA2 * difference_a + kB * kB2 * difference_b + x[5];
}

// Three rows of `count` weights, `apart` floats from one to the next, to six, `out_apart` apart.
inline void transform_weights(const float* __restrict w, long apart, float* __restrict out,
                              long out_apart, long count) {
    for (long m = 0; m < count; m++) {
        const float a = w[m], b = w[apart + m], c = w[2 * apart + m];
        out[m] = a * (1.0f / kProduct);
        out[out_apart + m] = (a + kA2 * c + kA * b) * kOfA;
        out[2 * out_apart + m] = (a + kA2 * c - kA * b) * kOfA;
        out[3 * out_apart + m] = (a + kB2 * c + kB * b) * kOfB;
        out[4 * out_apart + m] = (a + kB2 * c - kB * b) * kOfB;
        out[5 * out_apart + m] = c;
    }
}

// Where the 36 matrices of channels x tiles lie, in floats from the first one's place.
struct Places {
    long pitch;  // from one channel to the next: an odd number of the cache's lines
    long apart;  // from one matrix to the next, some floats behind it
    long at[36];

    Places(long channels, long tiles) : pitch((up(tiles, 16) / 16 | 1) * 16), apart(channels * pitch + 16) {
        for (long k = 0; k < 36; k++) at[k] = k * apart;
    }
};

// The columns of `Rows` rows of `length` values, transformed to those of six.
template <int Rows, void (*Transform)(const Eight*, Eight*)>
inline void transform_rows(const float* rows, long length, float* mixed) {
    for (long x = 0; x < length; x += 8) {
        Eight d[Rows], v[6];
        for (long i = 0; i < Rows; i++) d[i] = load(rows + i * length + x);
        Transform(d, v);
        for (long i = 0; i < 6; i++) store(mixed + i * length + x, v[i]);
    }
}

// Channel `c` of tiles of 6x6 values, 4 apart, from row `row` of the padded picture on, transformed.
inline void channel_in(const Source& s, long c, long row, long tiles_y, long tiles_x, float* out,
                       const Places& places) {
    // Whole groups of eight tiles are read; what lies behind the last tile is zeros. All rows are
    // written before any is read: a read just behind a write elsewhere in it stalls.
    const long groups = (tiles_x + 7) / 8, length = 32 * groups + 32;
    const long high = 4 * tiles_y + 2;
    float* rows = scratch<2>((high + 6) * length);
    float* mixed = rows + high * length;
    for (long i = 0; i < high; i++) padded_row(s, c, row + i, rows + i * length, length);
    for (long ty = 0; ty < tiles_y; ty++) {
        transform_rows<6, transform_in>(rows + 4 * ty * length, length, mixed);
        float* to = out + c * places.pitch + ty * tiles_x;
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
inline void channel_out(const float* in, const Places& places, long c, long ty, long tiles_x,
                        long rows, long width, float bias, float* out) {
    const long groups = (tiles_x + 7) / 8, length = 32 * groups;
    float* block = scratch<2>(4 * length);
    const float* from = in + c * places.pitch + ty * tiles_x;
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
        Places before(std::max(inputs, outputs), tiles), behind = before;
        for (long k = 0; k < 36; k++) {
            behind.at[k] += k / chain * before.apart;
            before.at[k] = behind.at[k] + before.apart;
        }
        const long pitch = before.pitch;
        float* room = scratch<4>((36 + chains) * before.apart);
        each(inputs, threads, [&](long c) {
            channel_in(*source, c, row + 4 * first, high, across(), room, before);
        });
        const auto offsets = places_of_rows(inputs, pitch);
        each(chains, threads, [&](long i) {
            for (long k = i * chain; k < (i + 1) * chain; k++) {
                const Packed one(outputs, inputs, weights.values + k * weights.size());
                product_all(one, room + before.at[k], offsets, tiles, room + behind.at[k], pitch);
            }
        });
        each(outputs, threads, [&](long c) {
            for (long ty = 0; ty < high; ty++) {
                const long top = 4 * (first + ty), rows = std::min(4L, count - top);
                float* to = out + c * plane + top * width();
                channel_out(room, behind, c, ty, across(), rows, width(),
                            bias ? bias[c] : 0.0f, to);
                if (found) found[c * down() + first + ty].add(to, rows * width());
            }
        });
    }
};

constexpr long kMostTiles = 128, kFewestTiles = 64;  // of a part, where it can be

extern "C" {

// Rows `row` ... `row + count` of a 3x3 convolution of the padded source, with the weights that
// `winograd_weights` gave; where `mean` and `m2` are not null, also the moments of each channel.
int winograd(const Source* s, long row, long count, float* packed, long outputs, const float* bias,
             float* out, long plane, double* mean, double* m2, long threads) try {
    Filtering work{s, row, count, Packed(outputs, s->channels, packed), bias, out, plane, nullptr};
    const long tiles = work.down() * work.across();
    std::vector<Moments> found(mean ? outputs * work.down() : 0);
    if (mean) work.found = found.data();
    // Each thread has its own rows, from their tiles to their values, and no other touches what lies
    // between; where there are too few for that, all threads work at the same.
    const bool apart = tiles >= threads * kFewestTiles;
    const long most = apart ? std::min(kMostTiles, (tiles + threads - 1) / threads) : 2 * kMostTiles;
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
    return kDone;
} catch (...) {
    return failure();
}

// The weights of `winograd`, 36 matrices packed one after the other, of a convolution's:
// outputs x inputs x 3 x 3; or with `turned` the transposed matrices, of inputs x outputs x 3 x 3.
int winograd_weights(const float* weight, long outputs, long inputs, long turned, float* out,
                     long threads) try {
    const Packed shape(outputs, inputs, nullptr);
    const long o_step = turned ? 9 : 9 * inputs, c_step = turned ? 9 * outputs : 9;
    constexpr long lanes = kTall > kWide ? kTall : kWide;  // of a block, at most
    constexpr long several = 8;  // columns: what is written at once are whole lines of the cache
    each(shape.blocks(), threads, [=](long i) {
        const long block = shape.block, first = i * block, rows = std::min(block, outputs - first);
        constexpr long length = several * lanes;
        float w[9 * length] = {}, half[18 * length], all[36 * length];
        float* to = out + first * (inputs + 1);
        for (long k = 0; k < 36; k++)  // the biases come later
            std::memset(to + k * shape.size(), 0, sizeof(float) * block);
        for (long c = 0; c < inputs; c += several) {
            const long here = std::min(several, inputs - c), count = here * block;
            for (long x = 0; x < here; x++)
                for (long m = 0; m < rows; m++) {
                    const float* from = weight + (first + m) * o_step + (c + x) * c_step;
                    for (long k = 0; k < 9; k++) w[k * length + x * block + m] = from[k];
                }
            for (long x = 0; x < 3; x++)
                transform_weights(w + x * length, 3 * length, half + x * length, 3 * length, count);
            for (long y = 0; y < 6; y++)
                transform_weights(half + 3 * y * length, length, all + 6 * y * length, length, count);
            for (long k = 0; k < 36; k++)
                std::memcpy(to + k * shape.size() + (c + 1) * block, all + k * length, sizeof(float) * count);
        }
    });
    return kDone;
} catch (...) {
    return failure();
}

}  // extern "C"

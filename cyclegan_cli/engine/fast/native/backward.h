// The gradients of a 3x3 convolution computed by Winograd's F(4x4, 3x3): the adjoint of each of its
// transforms, with products of the same size between.

#pragma once

#include "winograd.h"

// The adjoint of `transform_out`.
inline void transform_grad(const Eight* y, Eight* x) {
    const Eight even_a = y[0] + kA2 * y[2], odd_a = y[1] + kA2 * y[3];
    const Eight even_b = y[0] + kB2 * y[2], odd_b = y[1] + kB2 * y[3];
    x[0] = y[0];
    x[1] = even_a + kA * odd_a;
    x[2] = even_a - kA * odd_a;
    x[3] = even_b + kB * odd_b;
    x[4] = even_b - kB * odd_b;
    x[5] = y[3];
}
// The adjoint of `transform_in`.
inline void transform_back(const Eight* y, Eight* x) {
    const Eight sum_a = y[1] + y[2], difference_a = kA * (y[1] - y[2]);
    const Eight sum_b = y[3] + y[4], difference_b = kB * (y[3] - y[4]);
    x[0] = kProduct * y[0];
    x[1] = kProduct * y[5] - kB2 * difference_a - kA2 * difference_b;
    x[2] = -kSum * y[0] - kB2 * sum_a - kA2 * sum_b;
    x[3] = difference_a + difference_b - kSum * y[5];
    x[4] = y[0] + sum_a + sum_b;
    x[5] = y[5];
}

// The adjoint of `transform_weights`: six rows to three.
inline void weights_back(const Vector* y, Vector* w) {
    const Vector sum_a = kOfA * (y[1] + y[2]), sum_b = kOfB * (y[3] + y[4]);
    w[0] = (1.0f / kProduct) * y[0] + sum_a + sum_b;
    w[1] = kA * kOfA * (y[1] - y[2]) + kB * kOfB * (y[3] - y[4]);
    w[2] = kA2 * sum_a + kB2 * sum_b + y[5];
}

// 8 rows of 8 values, `pitch` floats apart -> their columns, `apart` floats from one to the next.
inline void turn_block(const float* in, long pitch, float* out, long apart) {
    Eight row[8], low[4], high[4];
    for (long i = 0; i < 8; i++) row[i] = load(in + i * pitch);
    for (long i = 0; i < 4; i++) {
        low[i] = PICK(row[2 * i], row[2 * i + 1], 0, 8, 1, 9, 4, 12, 5, 13);
        high[i] = PICK(row[2 * i], row[2 * i + 1], 2, 10, 3, 11, 6, 14, 7, 15);
    }
    Eight parts[8];  // two transposes of 4 rows of 8, joined
    for (long i = 0; i < 2; i++) {
        const Eight a = low[2 * i], b = low[2 * i + 1], c = high[2 * i], d = high[2 * i + 1];
        parts[4 * i] = PICK(a, b, 0, 1, 8, 9, 4, 5, 12, 13);
        parts[4 * i + 1] = PICK(a, b, 2, 3, 10, 11, 6, 7, 14, 15);
        parts[4 * i + 2] = PICK(c, d, 0, 1, 8, 9, 4, 5, 12, 13);
        parts[4 * i + 3] = PICK(c, d, 2, 3, 10, 11, 6, 7, 14, 15);
    }
    for (long i = 0; i < 4; i++) {
        store(out + i * apart, PICK(parts[i], parts[4 + i], 0, 1, 2, 3, 8, 9, 10, 11));
        store(out + (4 + i) * apart, PICK(parts[i], parts[4 + i], 4, 5, 6, 7, 12, 13, 14, 15));
    }
}

// `rows` rows of `count` values, `pitch` floats apart -> their columns, `apart` floats apart.
inline void turn(const float* in, long pitch, long rows, long count, float* out, long apart) {
    const long whole = rows / 8 * 8, wide = count / 16 * 16;
    for (long x = 0; x < wide; x += 16)  // a line of the cache of each row at a time
        for (long m = 0; m < whole; m += 8)
            for (long half = x; half < x + 16; half += 8)
                turn_block(in + m * pitch + half, pitch, out + half * apart + m, apart);
    for (long x = wide; x < count; x++)
        for (long m = 0; m < whole; m++) out[x * apart + m] = in[m * pitch + x];
    for (long m = whole; m < rows; m++)
        for (long x = 0; x < count; x++) out[x * apart + m] = in[m * pitch + x];
}

// Channel `c` of the gradient of the output: `rows` x `width` values from the first tile on -> 36
// matrices of channels x tiles. The adjoint of `channel_out`.
inline void grads_in(const float* in, long c, long rows, long width, long tiles_y, long tiles_x,
                     float* out, const Places& places) {
    const long groups = (tiles_x + 7) / 8, length = 32 * groups;
    float* lines = scratch<1>((4 * tiles_y + 6) * length);
    float* mixed = lines + 4 * tiles_y * length;
    for (long i = 0; i < 4 * tiles_y; i++) {
        const long known = i < rows ? width : 0;
        std::memcpy(lines + i * length, in + i * width, sizeof(float) * known);
        std::memset(lines + i * length + known, 0, sizeof(float) * (length - known));
    }
    for (long ty = 0; ty < tiles_y; ty++) {
        transform_rows<4, transform_grad>(lines + 4 * ty * length, length, mixed);
        float* to = out + c * places.pitch + ty * tiles_x;
        for (long i = 0; i < 6; i++)
            for (long t = 0; t < tiles_x; t += 8) {
                Eight d[4], v[6];
                split(mixed + i * length + 4 * t, d);
                transform_grad(d, v);
                for (long j = 0; j < 6; j++) store(to + places.at[6 * i + j] + t, v[j], tiles_x - t);
            }
    }
}

// Channel `c` of 36 matrices of channels x tiles -> what each tile adds to the values that it was
// made of: to rows of `length` floats, 32 for each eight tiles and 32 more. The adjoint of
// `channel_in`.
inline void channel_back(const float* in, const Places& places, long c, long tiles_y, long tiles_x,
                         float* plane, long length) {
    const Eight lane = {0, 1, 2, 3, 4, 5, 6, 7};
    for (long ty = 0; ty < tiles_y; ty++) {
        const float* from = in + c * places.pitch + ty * tiles_x;
        Eight before[6][2] = {};  // the last two columns of the tiles on the left
        for (long t = 0; t < up(tiles_x, 8) + 8; t += 8) {
            Eight half[6][6], last[6][2] = {};
            const bool known = t < tiles_x;
            for (long j = 0; known && j < 6; j++) {
                Eight m[6];
                for (long i = 0; i < 6; i++) {
                    m[i] = load(from + places.at[6 * i + j] + t);
                    if (tiles_x - t < 8) m[i] = lane < float(tiles_x - t) ? m[i] : Eight{};
                }
                transform_back(m, half[j]);
            }
            for (long i = 0; i < 6; i++) {
                Eight y[6] = {};
                if (known) {
                    const Eight m[6] = {half[0][i], half[1][i], half[2][i],
                                        half[3][i], half[4][i], half[5][i]};
                    transform_back(m, y);
                }
                last[i][0] = y[4], last[i][1] = y[5];
                y[0] += PICK(before[i][0], y[4], 7, 8, 9, 10, 11, 12, 13, 14);
                y[1] += PICK(before[i][1], y[5], 7, 8, 9, 10, 11, 12, 13, 14);
                float row[32];
                join(y, row);
                float* to = plane + (4 * ty + i) * length + 4 * t;
                for (long x = 0; x < 32; x += 8) store(to + x, load(to + x) + load(row + x));
            }
            std::memcpy(before, last, sizeof before);
        }
    }
}

// The gradients of a convolution under way.
struct Adjoint {
    const Source* source;
    const float* grad;  // of the output, `outputs` x rows() x width()
    Packed weights;     // the first of 36, inputs x outputs
    float* grad_in;     // or null
    float* found;       // gradients of the transformed weights, `size()` floats for each of 36, or null

    long size() const { return weights.depth * weights.rows + 16; }
    long rows() const { return source->height + 2 * source->pad - 2; }
    long width() const { return source->width + 2 * source->pad - 2; }
    long across() const { return (width() + 3) / 4; }
    long down() const { return (rows() + 3) / 4; }

    // What matrix `k` of `grads` and `values` adds to the weights' gradients.
    void correlate(long k, const float* grads, const float* values, long tiles, long pitch,
                   bool first) const {
        // Products of long rows would be sums of few vectors; turned, they are columns of many sums.
        const long outputs = weights.depth, inputs = weights.rows;
        const long apart = Places(1, inputs).pitch;
        float* turned = scratch<2>(tiles * apart + kLanes);
        turn(values, pitch, inputs, tiles, turned, apart);
        const auto offsets = places_of_rows(tiles, apart);
        const Packed shape(outputs, tiles, nullptr);
        const Packed packed(outputs, tiles, scratch<3>(shape.size() + shape.block * inputs));
        float* further = packed.values + shape.size();
        for (long block = 0; block < shape.blocks(); block++) {
            const long top = block * shape.block, count = std::min(shape.block, outputs - top);
            float* to = packed.place(top);
            std::memset(to, 0, sizeof(float) * shape.block);
            for (long m = count; m < shape.block; m++)
                for (long t = 0; t < tiles; t++) to[(t + 1) * shape.block + m] = 0.0f;
            turn(grads + top * pitch, pitch, count, tiles, to + shape.block, shape.block);
            float* sums = found + k * size() + top * inputs;
            product(packed, block, turned, offsets.data(), inputs, first ? sums : further, inputs);
            for (long i = 0; !first && i < count * inputs; i++) sums[i] += further[i];
        }
    }

    // Rows `first` ... `first + high` of tiles. `padded`: the gradients of the padded picture so far.
    void part(long first, long high, float* padded, long threads) const {
        const long outputs = weights.depth, inputs = weights.rows, tiles = high * across();
        const Places places(std::max(inputs, outputs), tiles);
        const long above = 4 * first, pitch = places.pitch;
        float* values = scratch<4>(72 * places.apart);
        float* grads = values + 36 * places.apart;
        each(outputs, threads, [&](long c) {
            grads_in(grad + (c * rows() + above) * width(), c, rows() - above, width(), high, across(),
                     grads, places);
        });
        if (found)
            each(inputs, threads, [&](long c) {
                channel_in(*source, c, above, high, across(), values, places);
            });
        const auto offsets = places_of_rows(outputs, pitch);
        each(36, threads, [&](long k) {
            const long at = places.at[k];
            if (found) correlate(k, grads + at, values + at, tiles, pitch, first == 0);
            const Packed one(inputs, outputs, weights.values + k * weights.size());
            if (grad_in) product_all(one, grads + at, offsets, tiles, values + at, pitch);
        });
        if (grad_in)
            each(inputs, threads, [&](long c) { back(c, first, high, values, places, padded); });
    }

    // Channel `c` of a part's tiles, added to the padded picture's gradients; the last part's go on.
    void back(long c, long first, long high, const float* values, const Places& places,
              float* padded) const {
        const long length = 4 * up(across(), 8) + 32, wide = width() + 2, tall = rows() + 2;
        const long here = std::min(4 * high + 2, tall - 4 * first);
        float* plane = scratch<2>((4 * high + 2) * length);
        std::memset(plane, 0, sizeof(float) * (4 * high + 2) * length);
        channel_back(values, places, c, high, across(), plane, length);
        float* to = padded + c * tall * wide;
        for (long i = 0; i < here; i++) {
            float* __restrict row = to + (4 * first + i) * wide;
            const float* __restrict more = plane + i * length;
            if (first == 0 || i >= 2)
                std::memcpy(row, more, sizeof(float) * wide);
            else
                for (long x = 0; x < wide; x++) row[x] += more[x];
        }
        const long pixels = (source->height >> source->enlarge) * (source->width >> source->enlarge);
        if (first + high == down()) fold_plane(*source, c, to, grad_in + c * pixels);
    }

    // The gradients of the weights, outputs x inputs x 3 x 3, from those of the transformed ones.
    void finish(float* grad_weight, long threads) const {
        const long inputs = weights.rows, length = up(inputs, kLanes);
        each(weights.depth, threads, [&](long o) {
            float* half = scratch<2>(27 * length);  // 6 x 3 rows, then 9
            float* all = half + 18 * length;
            for (long j = 0; j < 6; j++)
                for (long c = 0; c < length; c += kLanes) {
                    Vector y[6], w[3];
                    // A vector's rest is of the next row, or of what lies behind the last.
                    for (long i = 0; i < 6; i++) y[i] = wide(found + (6 * i + j) * size() + o * inputs + c);
                    weights_back(y, w);
                    for (long i = 0; i < 3; i++) put(half + (6 * i + j) * length + c, w[i]);
                }
            for (long i = 0; i < 3; i++)
                for (long c = 0; c < length; c += kLanes) {
                    Vector y[6], w[3];
                    for (long j = 0; j < 6; j++) y[j] = wide(half + (6 * i + j) * length + c);
                    weights_back(y, w);
                    for (long j = 0; j < 3; j++) put(all + (3 * i + j) * length + c, w[j]);
                }
            float* to = grad_weight + o * inputs * 9;
            for (long c = 0; c < inputs; c++)
                for (long k = 0; k < 9; k++) to[9 * c + k] = all[k * length + c];
        });
    }
};

extern "C" {

// The gradients of `winograd` over a whole picture, of that of its output: of the picture's own values
// as they lie in memory (or null), and of the weights (or null). `packed`: those of `winograd_weights`,
// turned; not read without `grad_in`.
int winograd_backward(const Source* s, const float* grad, float* packed, long outputs, float* grad_in,
                      float* grad_weight, long threads) try {
    const long inputs = s->channels;
    Adjoint work{s, grad, Packed(inputs, outputs, packed), grad_in, nullptr};
    if (grad_weight) work.found = scratch<5>(36 * work.size());
    float* padded = grad_in ? scratch<6>(inputs * (work.rows() + 2) * (work.width() + 2)) : nullptr;
    const long step = std::max(1L, 2 * kMostTiles / work.across());
    for (long first = 0; first < work.down(); first += step)
        work.part(first, std::min(step, work.down() - first), padded, threads);
    if (grad_weight) work.finish(grad_weight, threads);
    return kDone;
} catch (...) {
    return failure();
}

}  // extern "C"

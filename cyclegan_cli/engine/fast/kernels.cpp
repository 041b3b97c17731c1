// The parts of the fast paths that PyTorch has no fast operation for: float32, NCHW, CPU.
//
// A plain C interface without headers of PyTorch or Python, loaded by kernels.py: one build serves
// every version of both. The loops are written to be vectorised by the compiler. Every function
// splits its work by channels, each of which is computed by one thread in one order: the result
// does not depend on the number of threads.
//
// Where a function takes a Source, it reads rows of a picture of which only some lie in memory (a
// strip), as if InstanceNorm with known statistics, ReLU and padding had been applied before.

#include <atomic>
#include <cstring>
#include <thread>
#include <vector>

// kernels.py loads them only where the processor has these instructions.
#if defined(__x86_64__) && defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#elif defined(__x86_64__) && defined(__GNUC__)
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif

namespace {

// GOMP_parallel of the OpenMP runtime that PyTorch brought: a second pool of threads would fight
// with the first, whose threads spin for a while after each of PyTorch's operations.
using Team = void (*)(void (*)(void*), void*, unsigned, unsigned);
Team team = nullptr;

template <class Function>
void each(long count, long threads, const Function& function) {
    struct Job {
        std::atomic<long> next{0};
        long count;
        const Function* function;
        static void run(void* self) {
            auto* job = static_cast<Job*>(self);
            for (long i; (i = job->next++) < job->count;) (*job->function)(i);
        }
    } job;
    job.count = count;
    job.function = &function;
    if (threads <= 1 || count <= 1) {
        Job::run(&job);
    } else if (team) {
        team(Job::run, &job, static_cast<unsigned>(threads), 0);
    } else {
        std::vector<std::thread> others;
        for (long i = 1; i < threads; i++) others.emplace_back(Job::run, &job);
        Job::run(&job);
        for (auto& other : others) other.join();
    }
}

}  // namespace

extern "C" {

// Kept in step with the class Source of kernels.py.
struct Source {
    const float* values;  // row `first` of channel 0
    long plane;           // floats from one channel to the next
    long first, rows;     // the rows of the picture that lie in memory
    long height, width;   // of the whole picture
    long channels;
    long pad;             // on every side
    long mirror;          // reflection, else zeros
    const float* mean;    // of each channel, or null
    const float* scale;   // 1 / sqrt(variance + eps)
    long relu;
};
}

namespace {

// Row `row` of the padded picture, counted from its first row of padding, into `to`, of length
// `length`: zeros where the padded picture has ended or what it needs is not in memory.
void padded_row(const Source& s, long channel, long row, float* __restrict to, long length) {
    long r = row - s.pad;
    if (s.mirror && r < 0) r = -r;
    if (s.mirror && r >= s.height && r < s.height + s.pad) r = 2 * (s.height - 1) - r;
    if (r < 0 || r >= s.height || r < s.first || r >= s.first + s.rows) {
        std::memset(to, 0, sizeof(float) * length);
        return;
    }
    const float* __restrict from = s.values + channel * s.plane + (r - s.first) * s.width;
    float* __restrict inner = to + s.pad;
    const float mean = s.mean ? s.mean[channel] : 0.0f, scale = s.mean ? s.scale[channel] : 1.0f;
    if (s.mean && s.relu) {
        for (long x = 0; x < s.width; x++) {
            const float value = (from[x] - mean) * scale;
            inner[x] = value > 0.0f ? value : 0.0f;
        }
    } else if (s.mean) {
        for (long x = 0; x < s.width; x++) inner[x] = (from[x] - mean) * scale;
    } else if (s.relu) {
        for (long x = 0; x < s.width; x++) inner[x] = from[x] > 0.0f ? from[x] : 0.0f;
    } else {
        std::memcpy(inner, from, sizeof(float) * s.width);
    }
    for (long x = 1; x <= s.pad; x++) {
        inner[-x] = s.mirror ? inner[x] : 0.0f;
        inner[s.width - 1 + x] = s.mirror ? inner[s.width - 1 - x] : 0.0f;
    }
    const long end = s.width + 2 * s.pad;
    if (end < length) std::memset(to + end, 0, sizeof(float) * (length - end));
}

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

// What was mirrored by 1 comes back to where it was taken from.
void fold_plane(float* in, long height, long width, float* out) {
    const long length = width + 2;
    for (long x = 0; x < length; x++) {
        in[2 * length + x] += in[x];
        in[(height - 1) * length + x] += in[(height + 1) * length + x];
    }
    for (long y = 0; y < height; y++) {
        float* row = in + (y + 1) * length;
        row[2] += row[0];
        row[width - 1] += row[width + 1];
        std::memcpy(out + y * width, row + 1, sizeof(float) * width);
    }
}

// A block of values joins the count, mean and squared deviations of those before (Chan, 1979).
void merge(const float* values, long n, long seen, double& mean, double& m2) {
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

}  // namespace

extern "C" {

void set_team(Team found) { team = found; }

// Tiles of 6x6, 4 apart, from row `row` of the padded picture on -> 36 matrices of channels x
// tiles, `apart` floats from one to the next.
void winograd_in(const Source* s, long row, long tiles_y, long tiles_x, float* out, long apart,
                 long threads) {
    each(s->channels, threads, [=](long c) {
        // Whole groups of eight tiles are read; what lies behind the last tile is zeros.
        const long groups = (tiles_x + 7) / 8, length = 32 * groups + 32, tiles = tiles_y * tiles_x;
        std::vector<float> scratch(12 * length);
        float *rows = scratch.data(), *mixed = rows + 6 * length;
        for (long ty = 0; ty < tiles_y; ty++) {
            for (long i = ty ? 2 : 0; i < 6; i++)
                padded_row(*s, c, row + 4 * ty + i, rows + i * length, length);
            for (long x = 0; x < length; x += 8) {
                Eight d[6], v[6];
                for (long i = 0; i < 6; i++) d[i] = load(rows + i * length + x);
                transform_in(d, v);
                for (long i = 0; i < 6; i++) store(mixed + i * length + x, v[i]);
            }
            std::memcpy(rows, rows + 4 * length, sizeof(float) * 2 * length);  // the next tiles' too
            float* to = out + c * tiles + ty * tiles_x;
            for (long i = 0; i < 6; i++)
                for (long t = 0; t < tiles_x; t += 8) {
                    Eight d[8], v[6];  // the next tile's first two are this one's last two
                    split(mixed + i * length + 4 * t, d);
                    split(mixed + i * length + 4 * t + 4, d + 4);
                    transform_in(d, v);
                    for (long j = 0; j < 6; j++) store(to + (6 * i + j) * apart + t, v[j], tiles_x - t);
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
        std::vector<float> block(4 * length);
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
                    join(y, block.data() + i * length + 4 * t);
                }
            }
            const long count = rows - 4 * ty < 4 ? rows - 4 * ty : 4;
            float* to = out + c * plane + 4 * ty * width;
            for (long i = 0; i < count; i++)
                std::memcpy(to + i * width, block.data() + i * length, sizeof(float) * width);
            if (mean) merge(to, count * width, before, mean[c], m2[c]);
            before += count * width;
        }
    });
}

// Rows `row` ... `row + count` of the padded source, each width + 2 pad values.
void prepare(const Source* s, long row, long count, float* out, long threads) {
    each(s->channels, threads, [=](long c) {
        const long length = s->width + 2 * s->pad;
        for (long i = 0; i < count; i++)
            padded_row(*s, c, row + i, out + (c * count + i) * length, length);
    });
}

// A depthwise 3x3 convolution of the padded source: rows `row` ... `row + count` of its output.
void depthwise(const Source* s, long row, long count, const float* weight, const float* bias,
               float* out, long threads) {
    each(s->channels, threads, [=](long c) {
        const long length = s->width + 2 * s->pad, width = length - 2;
        std::vector<float> scratch(3 * length);
        const float* w = weight + 9 * c;
        const float add = bias ? bias[c] : 0.0f;
        for (long i = -2; i < count; i++) {
            padded_row(*s, c, row + i + 2, scratch.data() + (i + 3) % 3 * length, length);
            if (i < 0) continue;
            const float* __restrict above = scratch.data() + (i + 1) % 3 * length;
            const float* __restrict here = scratch.data() + (i + 2) % 3 * length;
            const float* __restrict below = scratch.data() + i % 3 * length;
            float* __restrict to = out + (c * count + i) * width;
            for (long x = 0; x < width; x++)
                to[x] = add + (w[0] * above[x] + w[1] * above[x + 1] + w[2] * above[x + 2]) +
                        (w[3] * here[x] + w[4] * here[x + 1] + w[5] * here[x + 2]) +
                        (w[6] * below[x] + w[7] * below[x + 1] + w[8] * below[x + 2]);
        }
    });
}

// The gradients of `depthwise` over a whole picture padded by reflection: `grad` is of its output,
// C x H x W; grad_in is C x H x W, grad_weight C x 9, grad_bias C.
void depthwise_backward(const Source* s, const float* grad, const float* weight, float* grad_in,
                        float* grad_weight, float* grad_bias, long threads) {
    each(s->channels, threads, [=](long c) {
        constexpr long kLanes = 8;
        const long height = s->height, width = s->width, length = width + 2;
        std::vector<float> scratch((height + 2) * length + length);
        float *sums = scratch.data(), *row = sums + (height + 2) * length;
        const float* w = weight + 9 * c;
        Eight dots[9] = {}, total = {};
        double tails[9] = {}, tail = 0.0;
        for (long r = 0; r < height + 2; r++) {
            padded_row(*s, c, r, row, length);
            for (long a = 0; a < 3; a++) {
                const long y = r - a;
                if (y < 0 || y >= height) continue;
                const float* g = grad + (c * height + y) * width;
                float* __restrict to = sums + r * length;
                long x = 0;
                for (; x + kLanes <= width; x += kLanes) {
                    const Eight v = load(g + x);
                    for (long b = 0; b < 3; b++) dots[3 * a + b] += v * load(row + x + b);
                    if (a == 0) total += v;
                }
                for (; x < width; x++) {
                    for (long b = 0; b < 3; b++) tails[3 * a + b] += double(g[x]) * row[x + b];
                    if (a == 0) tail += g[x];
                }
                for (long b = 0; b < 3; b++)
                    for (x = 0; x < width; x++) to[x + b] += w[3 * a + b] * g[x];
            }
        }
        for (long k = 0; k < 9; k++) {
            for (long lane = 0; lane < kLanes; lane++) tails[k] += dots[k][lane];
            grad_weight[9 * c + k] = static_cast<float>(tails[k]);
        }
        for (long lane = 0; lane < kLanes; lane++) tail += total[lane];
        grad_bias[c] = static_cast<float>(tail);
        fold_plane(sums, height, width, grad_in + c * height * width);
    });
}

// The gradient of reflection by 1: C x (H + 2) x (W + 2) -> C x H x W. Changes `in`.
void fold(float* in, long channels, long height, long width, float* out, long threads) {
    each(channels, threads, [=](long c) {
        fold_plane(in + c * (height + 2) * (width + 2), height, width, out + c * height * width);
    });
}

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

#if defined(__x86_64__) && defined(__clang__)
#pragma clang attribute pop
#elif defined(__x86_64__) && defined(__GNUC__)
#pragma GCC pop_options
#endif

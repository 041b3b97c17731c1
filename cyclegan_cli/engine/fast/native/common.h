// What all kernels share: vectors, threads, scratch memory, and pictures of which rows are read.

#pragma once

#include "compiler.h"

// GOMP_parallel of the OpenMP runtime that PyTorch brought: a second pool of threads would fight
// with the first, whose threads spin for a while after each of PyTorch's operations.
using Team = void (*)(void (*)(void*), void*, unsigned, unsigned);
Team team = nullptr;

// What every function for Python returns; kernels.py knows the values. No exception leaves it.
enum Status : int { kDone = 0, kNoMemory = 1, kFailed = 2 };

// What the exception that is being handled comes to.
inline int failure() noexcept {
    try {
        throw;
    } catch (const std::bad_alloc&) {
        return kNoMemory;
    } catch (...) {
        return kFailed;
    }
}
// The status of another such function, as an exception.
inline void check(int found) {
    if (found == kNoMemory) throw std::bad_alloc();
    if (found != kDone) throw Status(found);
}

// A number for each thread, kept from call to call.
inline long own_number() {
    static std::atomic<long> known{0};
    static thread_local const long own = known++;
    return own;
}

// `function` of 0 ... `count`, each by one of the threads. A thread begins with a share that is the same
// in every call, so that it finds in its caches what it wrote before, and then helps the others. What
// `function` throws in any of them is thrown here, when all have ended.
template <class Function>
void each(long count, long threads, const Function& function) {
    constexpr long kMost = 16;
    struct alignas(64) Share {
        std::atomic<long> next{0};
        long end = 0;
    };
    struct Job {
        Share shares[kMost];
        long number;
        const Function* function;
        std::atomic<int> failed{kDone};
        static void run(void* self) noexcept {
            auto* job = static_cast<Job*>(self);
            const long own = own_number();
            try {
                for (long k = 0; k < job->number; k++) {
                    Share& share = job->shares[(own + k) % job->number];
                    for (long i; (i = share.next++) < share.end;) (*job->function)(i);
                }
            } catch (...) {
                job->failed = failure();
            }
        }
    } job;
    job.number = std::max(1L, std::min(std::min(threads, count), kMost));
    for (long k = 0; k < job.number; k++) {
        job.shares[k].next = k * count / job.number;
        job.shares[k].end = (k + 1) * count / job.number;
    }
    job.function = &function;
    if (threads <= 1 || count <= 1) {
        Job::run(&job);
    } else if (team) {
        team(Job::run, &job, static_cast<unsigned>(threads), 0);
    } else {
        std::vector<std::thread> others;
        try {
            for (long i = 1; i < threads; i++) others.emplace_back(Job::run, &job);
        } catch (...) {
            // The system gives no more threads: those that there are do all of it.
        }
        Job::run(&job);
        for (auto& other : others) other.join();
    }
    check(job.failed);
}

// `bytes` of new memory, or null; much of it in large pages, where the system has them: each page
// that is touched for the first time after others wants a look into the tables of pages.
inline void* new_memory(std::size_t bytes) {
    const std::size_t large = std::size_t(1) << 21, page = bytes < large ? 4096 : large;
    void* memory = std::aligned_alloc(page, (bytes + page - 1) / page * page);
#if defined(__linux__)
    if (memory && page == large) madvise(memory, bytes, MADV_HUGEPAGE);
#endif
    return memory;
}

// Memory that a thread keeps for the next call: `count` floats, not cleared. What two slots give
// is in use at once. Throws std::bad_alloc.
template <int Slot>
float* scratch(long count) {
    struct Kept {
        float* values = nullptr;
        long count = 0;
        ~Kept() { std::free(values); }
    };
    static thread_local Kept kept;
    if (kept.count < count) {
        std::free(kept.values);
        kept.count = 0;
        kept.values = static_cast<float*>(new_memory(count * sizeof(float)));
        if (!kept.values) throw std::bad_alloc();
        kept.count = count;
    }
    return kept.values;
}

// As many floats as a register of the processor holds.
constexpr long kLanes = LANES;
typedef float Vector __attribute__((vector_size(4 * LANES)));
inline Vector wide(const float* from) {
    Vector v;
    std::memcpy(&v, from, sizeof v);
    return v;
}
inline void put(float* to, const Vector& v, long count = kLanes) {
    if (count >= kLanes)
        std::memcpy(to, &v, sizeof v);
    else
        std::memcpy(to, &v, sizeof(float) * count);
}
#define PICK(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
inline float sum_of(const Vector& v) {
#if LANES == 16
    const auto half = PICK(v, v, 0, 1, 2, 3, 4, 5, 6, 7) + PICK(v, v, 8, 9, 10, 11, 12, 13, 14, 15);
#else
    const auto half = v;
#endif
    const auto part = PICK(half, half, 0, 1, 2, 3) + PICK(half, half, 4, 5, 6, 7);
    return (part[0] + part[1]) + (part[2] + part[3]);
}
inline long up(long count, long multiple) { return (count + multiple - 1) / multiple * multiple; }

extern "C" {

// Kept in step with the class _Source of kernels.py.
struct Source {
    const float* values;  // row `first` of channel 0
    long plane;           // floats from one channel to the next
    long first, rows;     // the rows of the picture that lie in memory
    long height, width;   // of the whole picture, enlarged where it is
    long channels;
    long pad;             // on every side
    long mirror;          // reflection, else zeros
    const float* mean;    // of each channel, or null
    const float* scale;   // 1 / sqrt(variance + eps)
    long relu;
    long enlarge;         // 1: every pixel stands for 2x2; `first` and `rows` are as in memory
    long order;           // of what `values` points to; bf16.h alone takes others than kPlanes
};
}

// Planes of float32; or all channels of a pixel beside each other, without gaps, bfloat16 or float32.
enum Order : long { kPlanes = 0, kHalfPixels = 1, kFloatPixels = 2 };

// `count` values of a row in memory as they are read: normalised, and without what is negative.
inline void read_values(const Source& s, long channel, const float* __restrict from,
                        float* __restrict to, long count) {
    const float mean = s.mean ? s.mean[channel] : 0.0f, scale = s.mean ? s.scale[channel] : 1.0f;
    if (s.mean && s.relu) {
        for (long x = 0; x < count; x++) {
            const float value = (from[x] - mean) * scale;
            to[x] = value > 0.0f ? value : 0.0f;
        }
    } else if (s.mean) {
        for (long x = 0; x < count; x++) to[x] = (from[x] - mean) * scale;
    } else if (s.relu) {
        long x = 0;
        for (; x + kLanes <= count; x += kLanes) {
            const Vector v = wide(from + x);
            put(to + x, v > 0.0f ? v : Vector{});
        }
        for (; x < count; x++) to[x] = from[x] > 0.0f ? from[x] : 0.0f;
    } else {
        std::memcpy(to, from, sizeof(float) * count);
    }
}

// Columns `left` ... `left + length` of row `row` of the padded picture, both counted from its
// first one of padding: zeros where the padded picture has ended or a row is not in memory.
inline void padded_part(const Source& s, long channel, long row, long left, float* __restrict to,
                        long length) {
    long r = row - s.pad;
    if (s.mirror && r < 0) r = -r;
    if (s.mirror && r >= s.height && r < s.height + s.pad) r = 2 * (s.height - 1) - r;
    const bool known = r >= 0 && r < s.height && (r >> s.enlarge) >= s.first &&
                       (r >> s.enlarge) < s.first + s.rows;
    if (!known) {
        std::memset(to, 0, sizeof(float) * length);
        return;
    }
    const long width = s.width >> s.enlarge, start = left - s.pad;  // in the picture's columns
    const float* from = s.values + channel * s.plane + ((r >> s.enlarge) - s.first) * width;
    const long low = std::max(start, 0L), high = std::min(start + length, s.width);
    if (low < high && s.enlarge) {
        const long first = low >> 1, count = ((high - 1) >> 1) - first + 1;
        float* narrow = scratch<0>(count);
        read_values(s, channel, from + first, narrow, count);
        float* __restrict inner = to + (low - start);
        const long odd = low & 1, pairs = (high - low - odd) / 2;
        if (odd) inner[0] = narrow[0];
        for (long x = 0; x < pairs; x++) inner[odd + 2 * x] = inner[odd + 2 * x + 1] = narrow[odd + x];
        if (odd + 2 * pairs < high - low) inner[high - low - 1] = narrow[count - 1];
    } else if (low < high) {
        read_values(s, channel, from + low, to + (low - start), high - low);
    }
    if (start == -s.pad && length >= s.width + 2 * s.pad) {  // a whole row, as most are
        float* inner = to + s.pad;
        for (long x = 1; x <= s.pad; x++) {
            inner[-x] = s.mirror ? inner[x] : 0.0f;
            inner[s.width - 1 + x] = s.mirror ? inner[s.width - 1 - x] : 0.0f;
        }
        const long end = s.width + 2 * s.pad;
        if (end < length) std::memset(to + end, 0, sizeof(float) * (length - end));
        return;
    }
    const auto outside = [&](long x) {  // of the picture
        if (!s.mirror || x < -s.pad || x >= s.width + s.pad) return 0.0f;
        const long at = x < 0 ? -x : 2 * (s.width - 1) - x;
        if (at >= low && at < high) return to[at - start];
        float value;
        read_values(s, channel, from + (at >> s.enlarge), &value, 1);
        return value;
    };
    for (long x = start; x < std::min(start + length, 0L); x++) to[x - start] = outside(x);
    const long after = std::max(s.width, start), end = std::min(start + length, s.width + s.pad);
    for (long x = after; x < end; x++) to[x - start] = outside(x);
    const long zeros = std::max(end, after);
    if (zeros < start + length)
        std::memset(to + (zeros - start), 0, sizeof(float) * (start + length - zeros));
}

inline void padded_row(const Source& s, long channel, long row, float* to, long length) {
    padded_part(s, channel, row, 0, to, length);
}

// Ask for what `padded_part` is going to read of `count` rows of a channel: short rows in many places
// are not foreseen by the processor. Nothing where there is no such channel.
inline void ask_for(const Source& s, long channel, long row, long count, long left, long length) {
    if (channel >= s.channels) return;
    constexpr long line = 64 / sizeof(float);
    const long width = s.width >> s.enlarge;
    const long first = std::max(left - s.pad, 0L) >> s.enlarge;
    const long last = std::min((left - s.pad + length) >> s.enlarge, width);
    for (long y = row - s.pad; y < row - s.pad + count; y += 1 + s.enlarge) {
        const long r = (std::min(std::max(y, 0L), s.height - 1) >> s.enlarge) - s.first;
        if (r < 0 || r >= s.rows) continue;
        const float* from = s.values + channel * s.plane + r * width;
        for (long x = first; x < last; x += line) __builtin_prefetch(from + x);
    }
}

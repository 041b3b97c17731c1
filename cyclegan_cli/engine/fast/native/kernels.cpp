// The parts of the fast paths that PyTorch has no fast operation for: float32, NCHW, CPU.
//
// A plain C interface without headers of PyTorch or Python, loaded by kernels.py: one build serves
// every version of both. It is built twice, for registers of 8 and of 16 floats (LANES), and the
// loader takes what the processor has. Every output is computed by one thread in one order: the
// result does not depend on the number of threads.
//
// Where a function takes a Source, it reads rows of a picture of which only some lie in memory (a
// strip), as if InstanceNorm with known statistics, ReLU, enlarging and padding had been applied
// before.

#include "compiler.h"

// Whether this processor has the instructions of this build: 16 floats at once want AVX-512 on x86,
// 8 want AVX2 with FMA there, and nothing elsewhere. Before what is compiled for them: it runs
// anywhere.
extern "C" int runs_here() {
#if defined(__x86_64__) && defined(__GNUC__)
    const bool narrow = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#if LANES == 16
    return narrow && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw");
#else
    return narrow;
#endif
#else
    return LANES == 8;
#endif
}

// What the other functions take and return: another number with every change, for kernels.py.
extern "C" int version() { return 5; }

// kernels.py uses the rest only where the processor has these instructions.
#if defined(__x86_64__) && defined(__clang__)
#if LANES == 16
#pragma clang attribute push(__attribute__((target("avx512f,avx512vl,avx512dq,avx512bw,avx2,fma"))), apply_to = function)
#else
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#endif
#elif defined(__x86_64__) && defined(__GNUC__)
#pragma GCC push_options
#if LANES == 16
#pragma GCC target("avx512f,avx512vl,avx512dq,avx512bw,avx2,fma")
#else
#pragma GCC target("avx2,fma")
#endif
#endif

#include "backward.h"
#include "bf16_backward.h"
#include "depthwise.h"

extern "C" {

void set_team(Team found) { team = found; }

// Rows `row` ... `row + count` of the padded source, each width + 2 pad values.
int prepare(const Source* s, long row, long count, float* out, long threads) try {
    each(s->channels, threads, [=](long c) {
        const long length = s->width + 2 * s->pad;
        for (long i = 0; i < count; i++)
            padded_row(*s, c, row + i, out + (c * count + i) * length, length);
    });
    return kDone;
} catch (...) {
    return failure();
}

}  // extern "C"

#if defined(__x86_64__) && defined(__clang__)
#pragma clang attribute pop
#elif defined(__x86_64__) && defined(__GNUC__)
#pragma GCC pop_options
#endif

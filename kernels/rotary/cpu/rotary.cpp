// Rotary positions on a CPU: the halves of a head's vector turned by the angles of its place in the sequence.
//
//   y[:half] = x[:half] cos - x[half:] sin,   y[half:] = x[half:] cos + x[:half] sin
//
// Backward is the same with the sine's sign turned.
#include <cstdint>

#include "simd.hpp"
#include "threads.hpp"

namespace moe {

template <class T>
void turn(int batch, int seq, int heads, int half, int threads, float sign, const int64_t* strides, const T* x,
          const float* cosines, const float* sines, T* y) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t row = 0; row < int64_t(batch) * seq; ++row) {
        const int64_t b = row / seq, i = row % seq;
        const T* from = x + b * strides[0] + i * strides[1];
        T* to = y + row * heads * 2 * half;
        for (int h = 0; h < heads; ++h, from += strides[2], to += 2 * half)
            for (int j = 0; j < half; j += VL) {
                const int left = half - j;
                const vf c = load(cosines + i * half + j, left), s = load(sines + i * half + j, left) * sign;
                const vf first = load(from + j, left), second = load(from + half + j, left);
                store(to + j, first * c - second * s, left);
                store(to + half + j, second * c + first * s, left);
            }
    }
}

}  // namespace moe

#define ROTARY(suffix, T)                                                                                              \
    extern "C" int rotary_##suffix(int batch, int seq, int heads, int half, int threads, float sign,                   \
                                   const int64_t* strides, const T* x, const float* cosines, const float* sines,       \
                                   T* y) {                                                                             \
        moe::turn<T>(batch, seq, heads, half, threads, sign, strides, x, cosines, sines, y);                           \
        return 0;                                                                                                      \
    }

ROTARY(f32, float)
ROTARY(bf16, moe::bf16)

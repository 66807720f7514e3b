// Division by the root mean square, times a gain, on a CPU, forward and backward.
//
//   y = x r w,   r = 1 / sqrt(mean(x^2) + epsilon)
//   dx = r (g w - x r mean(g w x r)),   dw = sum over rows of g x r
//
// Threads own chunks of rows; the gain's gradient is added up chunk by chunk in order: the same bits at any number of
// threads. For backward x and one r a row are kept.
#include <cmath>
#include <cstdint>

#include "scratch.hpp"
#include "simd.hpp"
#include "threads.hpp"

namespace moe {

constexpr int CHUNK = 128;  // rows

template <class T>
void forward(int64_t rows, int width, int threads, float epsilon, const T* x, const float* w, T* y, float* r) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t i = 0; i < rows; ++i) {
        const T* row = x + i * width;
        vf squares{};
        for (int j = 0; j < width; j += VL) {
            const vf v = load(row + j, width - j);
            squares += v * v;
        }
        r[i] = 1.0f / std::sqrt(sum(squares) / float(width) + epsilon);
        for (int j = 0; j < width; j += VL)
            store(y + i * width + j, load(row + j, width - j) * r[i] * load(w + j, width - j), width - j);
    }
}

template <class T>
void backward(int64_t rows, int width, int threads, const T* grad, const T* x, const float* w, const float* r, T* dx,
              float* dw) {
    const int64_t chunks = (rows + CHUNK - 1) / CHUNK;
    float* shares = scratch<0, float>(size_t(chunks) * width);  // of each chunk in dw
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t c = 0; c < chunks; ++c) {
        float* share = shares + c * width;
        std::memset(share, 0, sizeof(float) * width);
        for (int64_t i = c * CHUNK; i < rows && i < (c + 1) * CHUNK; ++i) {
            const T* g = grad + i * width;
            const T* row = x + i * width;
            vf dots{};
            for (int j = 0; j < width; j += VL) {
                const int left = width - j;
                const vf gx = load(g + j, left) * (load(row + j, left) * r[i]);
                store(share + j, load(share + j, left) + gx, left);
                dots += gx * load(w + j, left);
            }
            const float mean = sum(dots) / float(width);
            for (int j = 0; j < width; j += VL) {
                const int left = width - j;
                const vf gw = load(g + j, left) * load(w + j, left);
                store(dx + i * width + j, (gw - load(row + j, left) * r[i] * mean) * r[i], left);
            }
        }
    }
    std::memset(dw, 0, sizeof(float) * width);
    for (int64_t c = 0; c < chunks; ++c)
        for (int j = 0; j < width; ++j) dw[j] += shares[c * width + j];
}

}  // namespace moe

#define RMS_NORM(suffix, T)                                                                                            \
    extern "C" int rms_norm_forward_##suffix(int rows, int width, int threads, float epsilon, const T* x,              \
                                             const float* w, T* y, float* r) {                                         \
        moe::forward<T>(rows, width, threads, epsilon, x, w, y, r);                                                    \
        return 0;                                                                                                      \
    }                                                                                                                  \
    extern "C" int rms_norm_backward_##suffix(int rows, int width, int threads, const T* grad, const T* x,             \
                                              const float* w, const float* r, T* dx, float* dw) {                      \
        return moe::guarded([&] { moe::backward<T>(rows, width, threads, grad, x, w, r, dx, dw); });                   \
    }

RMS_NORM(f32, float)
RMS_NORM(bf16, moe::bf16)

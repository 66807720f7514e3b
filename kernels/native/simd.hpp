// Vectors of floats over GCC's and Clang's vector extensions: one source for AVX-512, AVX2 and whatever else.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(__AVX2__) || defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace moe {

#if defined(__AVX512F__)
constexpr int VL = 16;  // floats in a vector
#elif defined(__AVX2__)
constexpr int VL = 8;
#else
constexpr int VL = 4;
#endif

typedef float vf __attribute__((vector_size(VL * 4)));
typedef int32_t vi __attribute__((vector_size(VL * 4)));
typedef uint32_t vu __attribute__((vector_size(VL * 4)));
typedef uint16_t vh __attribute__((vector_size(VL * 2)));

struct bf16 {
    uint16_t bits;
};

// ---- loads and stores, converting to and from float; `lanes` < VL touches only so many elements ----

template <class V, class T>
inline V load_raw(const T* p) {
    V v;
    std::memcpy(&v, p, sizeof v);
    return v;
}

// Halves as the low halves of 32-bit units. GCC takes three instructions for what is one.
inline vu units_of(vh h) {
#if defined(__AVX512F__)
    return (vu)_mm512_cvtepu16_epi32((__m256i)h);
#else
    return __builtin_convertvector(h, vu);
#endif
}

inline vf widen(vh h) { return (vf)(units_of(h) << 16); }

inline vf load(const float* p) { return load_raw<vf>(p); }
inline vf load(const bf16* p) { return widen(load_raw<vh>(p)); }

template <class T>
inline vf load(const T* p, int lanes) {
    if (lanes >= VL) return load(p);
#if defined(__AVX512F__)
    const unsigned mask = lanes > 0 ? (1u << lanes) - 1 : 0;
    if constexpr (sizeof(T) == 4)
        return (vf)_mm512_maskz_loadu_ps(__mmask16(mask), p);
    else
        return widen((vh)_mm256_maskz_loadu_epi16(__mmask16(mask), p));
#endif
    T buffer[VL] = {};
    std::memcpy(buffer, p, sizeof(T) * lanes);
    return load(buffer);
}

// Round to nearest even; a NaN stays one.
inline vh narrow(vf x) {
#if defined(__AVX512BF16__) && defined(__AVX512F__)
    return (vh)_mm512_cvtneps_pbh((__m512)x);
#else
    vu u = (vu)x;
    vu rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
    vu quiet = (u >> 16) | 0x40u;
    vu result = (vu)(x == x) ? rounded : quiet;
    return __builtin_convertvector(result, vh);
#endif
}

inline void store(float* p, vf x) { std::memcpy(p, &x, sizeof x); }
inline void store(bf16* p, vf x) {
    vh h = narrow(x);
    std::memcpy(p, &h, sizeof h);
}

template <class T>
inline void store(T* p, vf x, int lanes) {
    if (lanes >= VL) return store(p, x);
#if defined(__AVX512F__)
    const unsigned mask = lanes > 0 ? (1u << lanes) - 1 : 0;
    if constexpr (sizeof(T) == 4)
        return _mm512_mask_storeu_ps(p, __mmask16(mask), (__m512)x);
    else
        return _mm256_mask_storeu_epi16(p, __mmask16(mask), (__m256i)narrow(x));
#endif
    T buffer[VL];
    store(buffer, x);
    std::memcpy(p, buffer, sizeof(T) * lanes);
}

// Ask for `count` elements that will be read soon.
template <class T>
inline void prefetch(const T* p, int count) {
    for (int i = 0; i < count; i += 64 / int(sizeof(T))) __builtin_prefetch(p + i);
}

// ---- arithmetic ----

inline vf broadcast(float x) { return x - vf{}; }

// Over the lanes, as a fixed tree: the sum of a row has the same bits wherever it is computed.
template <class F>
inline float reduce(vf x, F f) {
#if defined(__AVX512F__)
    const __m256 h8 = f(_mm512_castps512_ps256((__m512)x), _mm512_extractf32x8_ps((__m512)x, 1));
    const __m128 h4 = f(_mm256_castps256_ps128(h8), _mm256_extractf128_ps(h8, 1));
#elif defined(__AVX2__)
    const __m128 h4 = f(_mm256_castps256_ps128((__m256)x), _mm256_extractf128_ps((__m256)x, 1));
#else
    const vf h4 = x;
#endif
    const float a = f(h4[0], h4[2]), b = f(h4[1], h4[3]);
    return f(a, b);
}

inline float sum(vf x) {
    return reduce(x, [](auto a, auto b) { return a + b; });
}

inline float max(vf x) {
    return reduce(x, [](auto a, auto b) { return a > b ? a : b; });
}

inline vf max(vf a, vf b) { return a > b ? a : b; }

// 1 / x for 1 <= x <= 2^127, relative error below 2e-7: a division stands in the way of the next for 16 cycles.
inline vf reciprocal(vf x) {
#if defined(__AVX512F__)
    const vf r = (vf)_mm512_rcp14_ps((__m512)x);
    return r * (2.0f - x * r);
#else
    return 1.0f / x;
#endif
}

// Cephes' expf: 2^n * p(r), relative error below 2e-7; saturates at 2^-126 and 2^127 and passes NaN on.
inline vf exp(vf x) {
    const vf clamped = x < -87.3f ? broadcast(-87.3f) : (x > 88.0f ? broadcast(88.0f) : x);
    const float magic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer in the low mantissa bits
    const vf shifted = clamped * 1.44269504088896341f + magic;
    const vf n = shifted - magic;
    const vf r = clamped - n * 0.693359375f - n * -2.12194440e-4f;
    vf p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1.0f;
    const vi exponent = ((vi)shifted - 0x4b400000 + 127) << 23;
    const vf result = p * (vf)exponent;
    return x == x ? result : x;
}

// Abramowitz and Stegun 7.1.26, absolute error below 1.5e-7.
inline vf erf(vf x) {
    const vf a = x < 0.0f ? -x : x;
    const vf t = 1.0f / (1.0f + 0.3275911f * a);
    vf p = t * 1.061405429f - 1.453152027f;
    p = p * t + 1.421413741f;
    p = p * t - 0.284496736f;
    p = p * t + 0.254829592f;
    const vf y = 1.0f - p * t * exp(-a * a);
    return x < 0.0f ? -y : y;
}

// ---- transposition of a VL x VL block of 32-bit units, in registers ----

template <int S>
inline void exchange(vi& a, vi& b) {
    // Swap the odd blocks of S lanes of `a` with the even blocks of `b`.
    vi low, high;
    for (int lane = 0; lane < VL; ++lane) {
        const bool even = (lane / S) % 2 == 0;
        low[lane] = even ? lane : lane - S + VL;
        high[lane] = even ? lane + S : lane + VL;
    }
#if defined(__clang__)
    vi x, y;
    for (int lane = 0; lane < VL; ++lane) {
        x[lane] = low[lane] < VL ? a[low[lane]] : b[low[lane] - VL];
        y[lane] = high[lane] < VL ? a[high[lane]] : b[high[lane] - VL];
    }
    a = x, b = y;
#else
    const vi x = __builtin_shuffle(a, b, low);
    b = __builtin_shuffle(a, b, high);
    a = x;
#endif
}

template <int S>
inline void transpose_stage(vi (&rows)[VL]) {
#pragma GCC unroll 16
    for (int i = 0; i < VL; ++i)
        if ((i / S) % 2 == 0) exchange<S>(rows[i], rows[i + S]);
    if constexpr (S > 1) transpose_stage<S / 2>(rows);
}

__attribute__((noinline)) inline void transpose(vi (&rows)[VL]) { transpose_stage<VL / 2>(rows); }

}  // namespace moe

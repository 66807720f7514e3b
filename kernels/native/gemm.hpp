// C[m, n] (+)= A[m, k] B[k, n] for matrices that fit the cache, in registers.
//
// A product type says what a step along k is: `F32` one float, `B16` a pair of bfloat16 (fp32 accumulation, AVX512_BF16;
// where there are tile registers, amx.hpp multiplies those). Both are 32-bit units, so packing, strides and the
// micro-kernel are the same code. An element of C is one chain of
// fused multiply-adds over ascending k whatever the tile it falls in: results do not depend on how rows are cut.
//
// A is read through two strides (of a row, of a step along k). B is packed: panels of up to NR columns, (k, columns)
// each, padded with zeros to whole vectors. Where C goes is said by a `Place`.
#pragma once

#include "simd.hpp"

namespace moe {

struct F32 {
    using element = float;  // of A and B
    using unit = float;
    using vector = vf;
    static constexpr int depth = 1;  // elements in a unit
    static vf multiply_add(vf sum, unit a, vector b) { return sum + a * b; }
};

#if defined(__AVX512BF16__) && defined(__AVX512F__)
struct B16 {
    using element = bf16;
    using unit = uint32_t;
    using vector = vu;
    static constexpr int depth = 2;
    static vf multiply_add(vf sum, unit a, vector b) {
        return (vf)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_set1_epi32(int(a)), (__m512bh)b);
    }
};
template <class T>
struct product_of {
    using type = F32;
};
template <>
struct product_of<bf16> {
    using type = B16;
};
#else
// Without the instruction, bfloat16 is widened when it is packed.
template <class T>
struct product_of {
    using type = F32;
};
#endif

// Vectors in a row of the largest tile, and rows of a tile: as many accumulators as registers allow.
constexpr int NV = VL == 16 ? 4 : 2;
constexpr int NR = NV * VL;
constexpr int rows_of_tile(int vectors) {
    if (VL == 16) return vectors == 4 ? 6 : vectors == 3 ? 8 : 14;
    return vectors == 2 ? 6 : 12;
}
#if defined(__AMX_BF16__)
constexpr bool TILES = true;
#else
constexpr bool TILES = false;
#endif
template <class P>
constexpr int ROWS = TILES && P::depth == 2 ? 128 : 84;  // handled together: whole tiles, or a multiple of 6, 14 and 12
constexpr int SPARE = 16;  // a tile may read so many rows (or columns of a transposed A) beyond the last

constexpr int ceil_div(int a, int b) { return (a + b - 1) / b; }
constexpr int round_up(int a, int b) { return ceil_div(a, b) * b; }

template <class P>
constexpr int units(int k) {
    return ceil_div(k, P::depth);
}

// What k is best filled up to with zeros: whole tiles, where there are tile registers.
template <class P>
constexpr int whole_steps(int k) {
    return TILES && P::depth == 2 && k > 32 ? round_up(k, 32) : k;
}

// Units of the packed form of a (k, n) matrix.
template <class P>
inline size_t packed_size(int k, int n) {
    return size_t(units<P>(k)) * round_up(n, VL);
}

// ---- packing ----

// VL elements as halves, rounded if need be.
inline vh load_half(const bf16* p) { return load_raw<vh>(p); }
inline vh load_half(const float* p) { return narrow(load(p)); }

template <class P, class T>
inline typename P::vector load_units(const T* p, int elements) {
    if constexpr (P::depth == 2) {
        T buffer[2 * VL] = {};
        if (elements < 2 * VL) {
            if (elements > 0) std::memcpy(buffer, p, sizeof(T) * elements);
            p = buffer;
        }
        const vh half[2] = {load_half(p), load_half(p + VL)};
        return load_raw<vu>(half);
    } else {
        return load(p, elements);
    }
}

// B[k, n] = source[n, k]: `row(j)` points at the k elements of column j.
template <class P, class T, class Row>
inline void pack_transposed(Row row, int k, int n, typename P::unit* out) {
    const int ku = units<P>(k);
    for (int j0 = 0; j0 < n; j0 += NR) {
        const int width = round_up(n - j0 < NR ? n - j0 : NR, VL);
        for (int j = 0; j < width; j += VL)
            for (int k0 = 0; k0 < ku; k0 += VL) {
                vi block[VL];
                const int left = k - k0 * P::depth;
#pragma GCC unroll 16
                for (int r = 0; r < VL; ++r)
                    block[r] = j0 + j + r < n ? (vi)load_units<P>(row(j0 + j + r) + k0 * P::depth, left) : vi{};
                transpose(block);
                const int steps = ku - k0 < VL ? ku - k0 : VL;
                if (steps == VL) {
#pragma GCC unroll 16
                    for (int r = 0; r < VL; ++r) std::memcpy(out + size_t(k0 + r) * width + j, &block[r], sizeof(vi));
                } else {
                    for (int r = 0; r < steps; ++r)
                        std::memcpy(out + size_t(k0 + r) * width + j, &block[r], sizeof(vi));
                }
            }
        out += size_t(ku) * width;
    }
}

// One unit along k of `columns` columns, followed by zeros up to whole vectors; of a last odd row there is no second.
template <class P, class T>
inline void pack_line(const T* first, const T* second, int columns, typename P::unit* out) {
    for (int j = 0; j < columns; j += VL) {
        if constexpr (P::depth == 2) {
            static const T zeros[VL] = {};
            vh low, high;
            if (columns - j >= VL) {
                low = load_half(first + j);
                high = load_half(second ? second + j : zeros);
            } else {
                T a[VL] = {}, b[VL] = {};
                std::memcpy(a, first + j, sizeof(T) * (columns - j));
                if (second) std::memcpy(b, second + j, sizeof(T) * (columns - j));
                low = load_half(a), high = load_half(b);
            }
            const vu pair = units_of(low) | (units_of(high) << 16);
            std::memcpy(out + j, &pair, sizeof pair);
        } else {
            store(out + j, load(first + j, columns - j));
        }
    }
}

// B[k, n] as it lies: `row(i)` points at the n elements of row i; zeros follow up to `ku` units along k.
template <class P, class T, class Row>
inline void pack(Row row, int k, int n, typename P::unit* out, int ku) {
    for (int i = 0; i < k; i += P::depth) {
        const T* first = row(i);
        const T* second = P::depth == 2 && i + 1 < k ? row(i + 1) : nullptr;
        for (int j = 0; j < n; j += NR) {
            const int columns = n - j < NR ? n - j : NR;
            pack_line<P, T>(first + j, second ? second + j : nullptr, columns,
                            out + size_t(ku) * j + size_t(i / P::depth) * round_up(columns, VL));
        }
    }
    const int used = units<P>(k);
    for (int j = 0; used < ku && j < n; j += NR) {
        const int width = round_up(n - j < NR ? n - j : NR, VL);
        std::memset(out + size_t(ku) * j + size_t(used) * width, 0, sizeof(typename P::unit) * (ku - used) * width);
    }
}

template <class P, class T, class Row>
inline void pack(Row row, int k, int n, typename P::unit* out) {
    pack<P, T>(row, k, n, out, units<P>(k));
}

// A = L[k, m]^T in rows of `width` units, whole vectors: `row(i)` points at the m elements of row i of L, behind which
// up to VL more may be read; zeros stand for what is beyond k.
template <class P, class Row>
inline void pack_left_transposed(Row row, int k, int m, int width, typename P::unit* out) {
    for (int j = 0; j < m; j += VL)
        for (int k0 = 0; k0 < width; k0 += VL) {
            vi block[VL];
#pragma GCC unroll 16
            for (int r = 0; r < VL; ++r) {
                const int i = (k0 + r) * P::depth;
                if constexpr (P::depth == 2) {
                    const vh low = i < k ? load_half(row(i) + j) : vh{};
                    const vh high = i + 1 < k ? load_half(row(i + 1) + j) : vh{};
                    block[r] = (vi)(units_of(low) | (units_of(high) << 16));
                } else {
                    block[r] = i < k ? (vi)load(row(i) + j) : vi{};
                }
            }
            transpose(block);
#pragma GCC unroll 16
            for (int r = 0; r < VL; ++r) std::memcpy(out + size_t(j + r) * width + k0, &block[r], sizeof(vi));
        }
}

// Rows of A: n elements each, as units; the last unit is filled up with zero.
template <class P, class T>
inline void copy_row(const T* source, int n, typename P::unit* out) {
    if constexpr (P::depth == 2) {
        std::memcpy(out, source, sizeof(T) * n);
        if (n % 2) reinterpret_cast<T*>(out)[n] = T{};
    } else if constexpr (sizeof(T) == 4) {
        std::memcpy(out, source, sizeof(T) * n);
    } else {
        for (int j = 0; j < n; j += VL) store(out + j, load(source + j, n - j), n - j);
    }
}

// ---- where C goes ----

// Row i of C is `c + (token ? token[i] : i) * row`; it is written, or added to.
// One type for every use: each one more would double the time it takes to compile the micro-kernels.
struct Place {
    float* c;
    ptrdiff_t row;
    bool add = false;
    const int32_t* token = nullptr;

    float* at(int i) const { return c + ptrdiff_t(token ? token[i] : i) * row; }

    // Rows that will be added to soon.
    void expect(int i, int end, int j) const {
        for (; i < end; ++i) prefetch(at(i) + j, NR);
    }

    template <int V>
    void get(int i, int j, vf (&sums)[V], int n) const {
        const float* p = at(i) + j;
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) sums[v] = j + V * VL <= n ? load(p + v * VL) : load_part(p + v * VL, n - j - v * VL);
    }

    template <int V>
    void put(int i, int j, vf (&sums)[V], int n) const {
        float* p = at(i) + j;
        if (j + V * VL <= n) {
#pragma GCC unroll 4
            for (int v = 0; v < V; ++v) store(p + v * VL, sums[v]);
        } else {
            std::memcpy(p, &sums, sizeof(float) * (n - j));
        }
    }

    __attribute__((noinline)) static vf load_part(const float* p, int n) { return n > 0 ? load(p, n) : vf{}; }
};

// ---- the product ----

template <class P, int R, int V>
inline void multiply_tile(int ku, const typename P::unit* a, ptrdiff_t a_row, ptrdiff_t a_step,
                          const typename P::unit* b, int i0, int m, int j0, int n, const Place& place) {
    vf sums[R][V] = {};
    if (place.add) {
        place.expect(i0 + R, i0 + 2 * R < m ? i0 + 2 * R : m, j0);
#pragma GCC unroll 16
        for (int i = 0; i < R; ++i)
            if (i0 + i < m) place.get(i0 + i, j0, sums[i], n);
    }
    for (int k = 0; k < ku; ++k) {
        typename P::vector row[V];
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) row[v] = load_raw<typename P::vector>(b + v * VL);
#pragma GCC unroll 16
        for (int i = 0; i < R; ++i) {
            const typename P::unit left = a[i * a_row];
#pragma GCC unroll 4
            for (int v = 0; v < V; ++v) sums[i][v] = P::multiply_add(sums[i][v], left, row[v]);
        }
        a += a_step;
        b += V * VL;
    }
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i)
        if (i0 + i < m) place.put(i0 + i, j0, sums[i], n);
}

template <class P, int V>
__attribute__((noinline)) void multiply_panel(int m, int ku, const typename P::unit* a, ptrdiff_t a_row, ptrdiff_t a_step,
                    const typename P::unit* b, int j0, int n, const Place& place) {
    constexpr int R = rows_of_tile(V), MOST = (2 * R + 2) / 3, FEW = (R + 2) / 3;  // the last rows take what fits them
    for (int i = 0; i < m;) {
        const typename P::unit* rows = a + i * a_row;
        if (m - i > MOST) {
            multiply_tile<P, R, V>(ku, rows, a_row, a_step, b, i, m, j0, n, place);
            i += R;
        } else if (m - i > FEW) {
            multiply_tile<P, MOST, V>(ku, rows, a_row, a_step, b, i, m, j0, n, place);
            i += MOST;
        } else {
            multiply_tile<P, FEW, V>(ku, rows, a_row, a_step, b, i, m, j0, n, place);
            i += FEW;
        }
    }
}

// A: (m, k) with strides in units; B: (k, n), packed.
template <class P>
inline void multiply(int m, int n, int k, const typename P::unit* a, ptrdiff_t a_row, ptrdiff_t a_step,
                     const typename P::unit* b, const Place& place) {
    const int ku = units<P>(k);
    for (int j = 0; j < n; j += NR) {
        const int vectors = ceil_div(n - j < NR ? n - j : NR, VL);
        if (vectors == 1) multiply_panel<P, 1>(m, ku, a, a_row, a_step, b, j, n, place);
        if (vectors == 2) multiply_panel<P, 2>(m, ku, a, a_row, a_step, b, j, n, place);
        if constexpr (NV == 4) {
            if (vectors == 3) multiply_panel<P, 3>(m, ku, a, a_row, a_step, b, j, n, place);
            if (vectors == 4) multiply_panel<P, 4>(m, ku, a, a_row, a_step, b, j, n, place);
        }
        b += size_t(ku) * vectors * VL;
    }
}

}  // namespace moe

#if defined(__AMX_BF16__)
#include "amx.hpp"
#else
namespace moe {
struct Tiles {  // registers that a scope of products would hold
    Tiles() {}
};
}  // namespace moe
#endif

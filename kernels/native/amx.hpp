// The product of bfloat16 pairs in tile registers (AMX): `multiply<B16>` of gemm.hpp, for CPUs that have them.
//
// A tile is 16 rows of 16 units. One instruction adds A[16 rows, 16 units] B[16 units, 16 columns] to a tile of C, with
// fp32 accumulation; blocks of two by two tiles of C load each tile of A and B for two of them. B is packed as for the
// other micro-kernels; A has to lie in rows, and is brought into them where it does not.
//
// An element of C is a sum of steps of 16 units over ascending k, whatever the block it falls in: results do not depend
// on how rows are cut.
#pragma once

#include <immintrin.h>

#include "scratch.hpp"

namespace moe {

constexpr int TILE = 16;  // rows of a tile; units and floats in one of its rows

// A thread's tile registers: shaped when first needed for `step` units along k, and given back at the end of the
// outermost scope. Shaping takes 150 cycles, so callers hold a scope around many products.
class Tiles {
   public:
    Tiles() { ++scopes(); }
    ~Tiles() {
        if (--scopes() == 0 && shaped_for()) {
            _tile_release();
            shaped_for() = 0;
        }
    }
    Tiles(const Tiles&) = delete;
    Tiles& operator=(const Tiles&) = delete;

    static void shape(int step) {
        if (shaped_for() == step) return;
        struct alignas(64) {
            uint8_t palette = 1, start_row = 0, reserved[14] = {};
            uint16_t row_bytes[16] = {};
            uint8_t rows[16] = {};
        } shapes;
        for (int i = 0; i < 8; ++i) {  // 0 to 3 C, 4 and 5 A, 6 and 7 B
            shapes.row_bytes[i] = uint16_t(4 * (i == 4 || i == 5 ? step : TILE));
            shapes.rows[i] = uint8_t(i == 6 || i == 7 ? step : TILE);
        }
        asm volatile("" ::: "memory");  // GCC 12 does not know that the instruction reads memory
        _tile_loadconfig(&shapes);
        shaped_for() = step;
    }

   private:
    static int& scopes() {
        static thread_local int count = 0;
        return count;
    }
    static int& shaped_for() {
        static thread_local int step = 0;
        return step;
    }
};

// A with rows of whole steps: where it lies in memory, and units from row to row.
struct Left {
    const uint32_t* rows;
    ptrdiff_t row;
};

// A[m, ku] from rows or, for a_row = 1, from columns; behind a row's last unit follow zeros up to `width`.
inline Left in_rows(int m, int ku, int width, const uint32_t* a, ptrdiff_t a_row, ptrdiff_t a_step) {
    uint32_t* out = scratch<32, uint32_t>(size_t(round_up(m, TILE)) * width);
    if (a_step == 1) {
        for (int i = 0; i < m; ++i) {
            std::memcpy(out + size_t(i) * width, a + i * a_row, sizeof(uint32_t) * ku);
            std::memset(out + size_t(i) * width + ku, 0, sizeof(uint32_t) * (width - ku));
        }
    } else {
        for (int i = 0; i < m; i += TILE)
            for (int k = 0; k < width; k += TILE) {
                vi block[TILE];
#pragma GCC unroll 16
                for (int r = 0; r < TILE; ++r)
                    block[r] = k + r < ku ? load_raw<vi>(a + i + (k + r) * a_step) : vi{};
                transpose(block);
#pragma GCC unroll 16
                for (int r = 0; r < TILE; ++r) std::memcpy(out + size_t(i + r) * width + k, &block[r], sizeof(vi));
            }
    }
    return {out, width};
}

// One block of C, `ROWS_2` by `COLUMNS_2` tiles, in tile registers 0 to 3 and then at `c`.
template <bool ROWS_2, bool COLUMNS_2>
inline void multiply_block(int steps, int step, const Left& a, const uint32_t* b, int b_row, float* c,
                           ptrdiff_t c_row) {
    const ptrdiff_t a_bytes = a.row * 4, b_bytes = ptrdiff_t(b_row) * 4;
    const uint32_t *a0 = a.rows, *a1 = a.rows + TILE * a.row;
    asm volatile("" ::: "memory");  // GCC 12 does not know that tiles are loaded from memory
    _tile_zero(0);
    if (COLUMNS_2) _tile_zero(1);
    if (ROWS_2) _tile_zero(2);
    if (ROWS_2 && COLUMNS_2) _tile_zero(3);
    for (int s = 0; s < steps; ++s, a0 += step, a1 += step, b += size_t(step) * b_row) {
        _tile_loadd(6, b, b_bytes);
        _tile_loadd(4, a0, a_bytes);
        _tile_dpbf16ps(0, 4, 6);
        if (COLUMNS_2) {
            _tile_loadd(7, b + TILE, b_bytes);
            _tile_dpbf16ps(1, 4, 7);
        }
        if (ROWS_2) {
            _tile_loadd(5, a1, a_bytes);
            _tile_dpbf16ps(2, 5, 6);
        }
        if (ROWS_2 && COLUMNS_2) _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, c, c_row * 4);
    if (COLUMNS_2) _tile_stored(1, c + TILE, c_row * 4);
    if (ROWS_2) _tile_stored(2, c + TILE * c_row, c_row * 4);
    if (ROWS_2 && COLUMNS_2) _tile_stored(3, c + TILE * c_row + TILE, c_row * 4);
}

// A block that was computed beside C: its rows join those of C, or become them.
inline void put_block(const float* block, int i0, int m, int j0, int n, const Place& place) {
    for (int i = 0; i < m; ++i, block += 2 * TILE) {
        float* c = place.at(i0 + i) + j0;
        for (int j = 0; j < 2 * TILE && j < n - j0; j += TILE) {
            const vf sums = load(block + j);
            store(c + j, place.add ? sums + load(c + j, n - j0 - j) : sums, n - j0 - j);
        }
    }
}

template <bool ROWS_2, bool COLUMNS_2>
inline void multiply_and_put(int steps, int step, const Left& a, const uint32_t* b, int b_row, int i0, int m, int j0,
                             int n, const Place& place) {
    constexpr int ROWS_OF_BLOCK = ROWS_2 ? 2 * TILE : TILE, COLUMNS = COLUMNS_2 ? 2 * TILE : TILE;
    if (!place.add && !place.token && m - i0 >= ROWS_OF_BLOCK && n - j0 >= COLUMNS) {
        multiply_block<ROWS_2, COLUMNS_2>(steps, step, a, b, b_row, place.at(i0) + j0, place.row);
    } else {
        alignas(64) float block[2 * TILE * 2 * TILE];
        multiply_block<ROWS_2, COLUMNS_2>(steps, step, a, b, b_row, block, 2 * TILE);
        put_block(block, i0, m - i0 < ROWS_OF_BLOCK ? m - i0 : ROWS_OF_BLOCK, j0, n, place);
    }
}

// A times a packed panel of `width` columns, of which n - j0 exist.
__attribute__((noinline)) inline void multiply_panel(int m, int steps, int step, const Left& a, const uint32_t* b,
                                                     int width, int j0, int n, const Place& place) {
    for (int i = 0; i < m; i += 2 * TILE) {
        const Left rows{a.rows + i * a.row, a.row};
        if (place.add) place.expect(i + 2 * TILE, i + 4 * TILE < m ? i + 4 * TILE : m, j0);
        for (int c = 0; c < width; c += 2 * TILE) {
            const bool rows_2 = m - i > TILE, columns_2 = width - c > TILE;
            const auto put = rows_2 ? columns_2 ? multiply_and_put<true, true> : multiply_and_put<true, false>
                                    : columns_2 ? multiply_and_put<false, true> : multiply_and_put<false, false>;
            put(steps, step, rows, b + c, width, i, m, j0 + c, n, place);
        }
    }
}

template <>
inline void multiply<B16>(int m, int n, int k, const uint32_t* a, ptrdiff_t a_row, ptrdiff_t a_step, const uint32_t* b,
                          const Place& place) {
    const int ku = units<B16>(k), step = ku < TILE ? ku : TILE, steps = ceil_div(ku, step), rest = ku % step;
    const Tiles scope;
    Tiles::shape(step);
    const Left left = a_step == 1 && !rest ? Left{a, a_row} : in_rows(m, ku, steps * step, a, a_row, a_step);
    for (int j = 0; j < n; j += NR) {
        const int width = round_up(n - j < NR ? n - j : NR, TILE);
        const uint32_t* panel = b;
        if (rest) {  // zeros behind the last unit here too
            uint32_t* whole = scratch<33, uint32_t>(size_t(steps) * step * NR);
            std::memcpy(whole, b, sizeof(uint32_t) * ku * width);
            std::memset(whole + size_t(ku) * width, 0, sizeof(uint32_t) * (steps * step - ku) * width);
            panel = whole;
        }
        multiply_panel(m, steps, step, left, panel, width, j, n, place);
        b += size_t(ku) * width;
    }
}

}  // namespace moe

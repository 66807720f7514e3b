// The routed feed-forward layer of a mixture of experts on a CPU, forward and backward.
//
//   out[t] = sum_j gate[t, j] * act(x[t] W_up[e]^T) W_down[e],   e = index[t, j]
//
// Assignments are counting-sorted by expert, in the order of tokens. Experts are worked off one after the other in tiles
// of ROWS rows: rows of x are gathered into the tile, multiplied by the packed W_up, activated, multiplied by the packed
// W_down and added to their tokens. Neither gathered rows nor the down-projection's output exist outside a tile.
//
// For backward are kept the pre-activations h alone. The gradient of a gate is <d out W_down^T, act(h)> (SonicMoE,
// arXiv 2512.14080, section 3), so that the down-projection's output is not needed again.
//
// Threads own ranges of tokens; a token's sum runs over its experts in ascending order, and the products do not depend
// on how rows are cut into tiles: results are the same bits at any number of threads. Weight gradients are sums over an
// expert's rows, in chunks counted from the expert's first row, each by one thread.
#include <algorithm>
#include <vector>

#include "gemm.hpp"
#include "scratch.hpp"
#include "threads.hpp"

namespace moe {

enum Activation { SWIGLU = 0, GEGLU = 1, RELU2 = 2, GELU = 3 };
constexpr bool is_gated(int activation) { return activation <= GEGLU; }

constexpr int CHUNK = 512;  // rows of a weight gradient summed in registers: their panel stays in the nearest caches
constexpr int AHEAD = 8;    // rows that are asked for before the one that is read
constexpr int WAVE = 512;   // rows a thread whose gradients of h wait, in its cache, for the second half of backward

struct Shape {
    int tokens, top_k, d_model, d_expert, experts, activation, threads;
    int hidden() const { return is_gated(activation) ? 2 * d_expert : d_expert; }
    int first_token(int thread) const { return int(int64_t(tokens) * thread / threads); }
};

// ---- activations: phi and its derivative ----

template <int A>
inline void phi(vf h, vf& value, vf& slope) {
    if constexpr (A == SWIGLU) {
        const vf s = reciprocal(1.0f + exp(-h));
        value = h * s;
        slope = s * (1.0f + h * (1.0f - s));
    } else if constexpr (A == RELU2) {
        const vf r = h > 0.0f ? h : (h == h ? vf{} : h);
        value = r * r;
        slope = 2.0f * r;
    } else {  // exact GELU
        const vf cdf = 0.5f * (1.0f + erf(h * 0.70710678118654752f));
        value = h * cdf;
        slope = cdf + h * exp(-0.5f * h * h) * 0.39894228040143268f;
    }
}

template <class F>
inline void with_activation(int activation, F f) {
    switch (activation) {
        case SWIGLU: return f(std::integral_constant<int, SWIGLU>{});
        case RELU2: return f(std::integral_constant<int, RELU2>{});
        default: return f(std::integral_constant<int, GELU>{});
    }
}

// a = gate * act(h), rows of d_expert elements (the second half of h multiplies, where gated)
template <int A, bool GATED, class T, class E>
inline void activate(int f, const T* h, float gate, E* a) {
    for (int j = 0; j < f; j += VL) {
        vf value, slope;
        phi<A>(load(h + j, f - j), value, slope);
        if (GATED) value *= load(h + f + j, f - j);
        store(a + j, value * gate, f - j);
    }
}

// From da = d act(h) without the gate: returns <da, a>; writes gate * a and gate * dh.
template <int A, bool GATED, class T, class E>
inline float activate_backward(int f, const T* h, const float* da, float gate, E* gated_a, E* dh) {
    vf dot{};
    for (int j = 0; j < f; j += VL) {
        vf value, slope;
        phi<A>(load(h + j, f - j), value, slope);
        const vf d = load(da + j, f - j), gd = d * gate;
        if (GATED) {
            const vf u = load(h + f + j, f - j);
            store(dh + j, gd * u * slope, f - j);
            store(dh + f + j, gd * value, f - j);
            value *= u;
        } else {
            store(dh + j, gd * slope, f - j);
        }
        dot += d * value;
        store(gated_a + j, value * gate, f - j);
    }
    return sum(dot);
}

// ---- routing ----

// Where every assignment lies once sorted by expert: its token, and its slot t * top_k + j.
struct Routes {
    std::vector<int32_t> token, slot;
    std::vector<int32_t> first;  // (experts, threads): first row of an expert's tokens that a thread owns; then the end
    int threads;

    Routes(const Shape& s, const int32_t* index)
        : token(size_t(s.tokens) * s.top_k), slot(token.size()), first(s.experts * s.threads + 1), threads(s.threads) {
        std::vector<int32_t> next(first.size() - 1, 0);
        auto every_slot = [&](auto f) {
#pragma omp parallel num_threads(threads)
            for (int t = omp_get_thread_num(); t < threads; t += omp_get_num_threads())
                for (int i = s.first_token(t); i < s.first_token(t + 1); ++i)
                    for (int j = i * s.top_k; j < (i + 1) * s.top_k; ++j) f(next[index[j] * threads + t], i, j);
        };
        every_slot([](int32_t& count, int, int) { ++count; });
        int32_t row = 0;
        for (size_t i = 0; i < next.size(); ++i) {
            first[i] = row;
            row += next[i];
            next[i] = first[i];
        }
        first.back() = row;
        every_slot([&](int32_t& place, int i, int j) {
            token[place] = i;
            slot[place++] = j;
        });
    }

    int begin(int expert, int thread = 0) const { return first[expert * threads + thread]; }
    int end(int expert, int thread) const { return first[expert * threads + thread + 1]; }
    int end(int expert) const { return first[(expert + 1) * threads]; }
};

// Asks for one of so many parts of what lies behind an expert's weights, those of the next: they come while this one's
// rows are worked off. (Backward, which writes as much as it reads, gains nothing by it.)
template <class W>
inline void ask_for_next(const W* weight, size_t count, int part, int parts) {
    const char* next = reinterpret_cast<const char*>(weight + count);
    const size_t lines = count * sizeof(W) / 64;
    for (size_t i = lines * part / parts; i < lines * (part + 1) / parts; ++i) __builtin_prefetch(next + 64 * i, 0, 2);
}

// ---- forward ----

// T: type of the activations; W: of the weights, which are rounded to T as they are packed.
template <class T, class W>
void forward(const Shape& s, const T* x, const W* w_up, const W* w_down, const int32_t* index, const float* gates,
             T* out, T* pre) {
    using P = typename product_of<T>::type;
    using U = typename P::unit;
    using E = typename P::element;
    const int d = s.d_model, f = s.d_expert, hidden = s.hidden();
    const int du = units<P>(d), fu = units<P>(f);
    const Routes routes(s, index);
    float* sums = sizeof(T) == 4 ? reinterpret_cast<float*>(out) : scratch<11, float>(size_t(s.tokens) * d);

#pragma omp parallel num_threads(s.threads)
    for (int t = omp_get_thread_num(); t < s.threads; t += omp_get_num_threads()) {
        const Tiles tiles;
        const int t0 = s.first_token(t), t1 = s.first_token(t + 1);
        std::memset(sums + size_t(t0) * d, 0, sizeof(float) * size_t(t1 - t0) * d);
        U* up = scratch<0, U>(packed_size<P>(d, hidden));
        U* down = scratch<1, U>(packed_size<P>(f, d));
        U* x_tile = scratch<2, U>(size_t(ROWS<P> + SPARE) * du);
        float* h_tile = scratch<3, float>(size_t(ROWS<P>) * hidden);
        U* a_tile = scratch<4, U>(size_t(ROWS<P> + SPARE) * fu);
        for (int e = 0; e < s.experts; ++e) {
            const int r0 = routes.begin(e, t), r1 = routes.end(e, t);
            if (r0 == r1) continue;
            const W* we_up = w_up + size_t(e) * hidden * d;
            const W* we_down = w_down + size_t(e) * f * d;
            pack_transposed<P, W>([&](int j) { return we_up + size_t(j) * d; }, d, hidden, up);
            pack<P, W>([&](int i) { return we_down + size_t(i) * d; }, f, d, down);
            for (int r = r0; r < r1; r += ROWS<P>) {
                const int m = r1 - r < ROWS<P> ? r1 - r : ROWS<P>;
                const int32_t* token = routes.token.data() + r;
                const int32_t* slot = routes.slot.data() + r;
                for (int i = 0; i < m; ++i) {
                    if (i + AHEAD < m) prefetch(x + size_t(token[i + AHEAD]) * d, d);
                    if (e + 1 < s.experts) {
                        ask_for_next(we_up, size_t(hidden) * d, r + i - r0, r1 - r0);
                        ask_for_next(we_down, size_t(f) * d, r + i - r0, r1 - r0);
                    }
                    copy_row<P>(x + size_t(token[i]) * d, d, x_tile + size_t(i) * du);
                }
                // The pre-activations of this tile; in fp32 they are written where they are kept.
                float* h = sizeof(T) == 4 ? reinterpret_cast<float*>(pre) + size_t(r) * hidden : h_tile;
                multiply<P>(m, hidden, d, x_tile, du, 1, up, Place{h, hidden});
                with_activation(s.activation, [&](auto a) {
                    for (int i = 0; i < m; ++i) {
                        const float* row = h + size_t(i) * hidden;
                        E* target = reinterpret_cast<E*>(a_tile + size_t(i) * fu);
                        if (is_gated(s.activation))
                            activate<a, true>(f, row, gates[slot[i]], target);
                        else
                            activate<a, false>(f, row, gates[slot[i]], target);
                        if (f % P::depth) target[f] = E{};
                        if (sizeof(T) != 4)
                            for (int j = 0; j < hidden; j += VL)
                                store(pre + size_t(r + i) * hidden + j, load(row + j, hidden - j), hidden - j);
                    }
                });
                multiply<P>(m, d, f, a_tile, fu, 1, down, Place{sums, d, true, token});
            }
        }
        if (sizeof(T) != 4)
            for (size_t i = size_t(t0) * d; i < size_t(t1) * d; i += VL) {
                const size_t left = size_t(t1) * d - i;
                const int lanes = left < VL ? int(left) : VL;
                store(out + i, load(sums + i, lanes), lanes);
            }
    }
}

// ---- backward ----

// dw[m, d] = left[rows, m]^T right[rows, d] over an expert's rows; `right` is gathered by token.
template <class P, class T, class W>
void add_weight_gradient(int m, int d, int rows, const typename P::element* left, int left_row, const T* right,
                         const int32_t* token, int first_column, int columns, W* dw) {
    using U = typename P::unit;
    using E = typename P::element;
    const int together = TILES && P::depth == 2 ? columns : NR;  // columns that are packed and multiplied at a time
    U* panel = scratch<5, U>(packed_size<P>(CHUNK, together));
    U* a = scratch<6, U>(size_t(round_up(m, VL) + SPARE) * units<P>(CHUNK));
    const bool in_place = sizeof(W) == 4;
    float* sums = in_place ? reinterpret_cast<float*>(dw) + first_column : scratch<7, float>(size_t(m) * columns);
    const ptrdiff_t sums_row = in_place ? d : columns;
    if (rows == 0)
        for (int i = 0; i < m; ++i) std::memset(sums + i * sums_row, 0, sizeof(float) * columns);
    for (int r = 0; r < rows; r += CHUNK) {
        const int n = rows - r < CHUNK ? rows - r : CHUNK, k = whole_steps<P>(n);
        const int a_row = round_up(units<P>(k), VL);
        pack_left_transposed<P>([&](int i) { return left + size_t(r + i) * left_row; }, n, m, a_row, a);
        for (int j = 0; j < columns; j += together) {
            const int some = columns - j < together ? columns - j : together;
            const auto row = [&](int i) { return right + size_t(token[r + i]) * d + first_column + j; };
            const auto row_and_ahead = [&](int i) {
                if (i + AHEAD < n) prefetch(row(i + AHEAD), some);
                return row(i);
            };
            pack<P, T>(row_and_ahead, n, some, panel, units<P>(k));
            multiply<P>(m, some, k, a, a_row, 1, panel, Place{sums + j, sums_row, r > 0});
        }
    }
    if (!in_place)
        for (int i = 0; i < m; ++i)
            for (int j = 0; j < columns; j += VL)
                store(dw + size_t(i) * d + first_column + j, load(sums + i * sums_row + j, columns - j), columns - j);
}

template <class T, class W>
void backward(const Shape& s, const T* dout, const T* x, const W* w_up, const W* w_down, const int32_t* index,
              const float* gates, const T* pre, T* dx, W* dw_up, W* dw_down, float* dgates) {
    using P = typename product_of<T>::type;
    using U = typename P::unit;
    using E = typename P::element;
    const int d = s.d_model, f = s.d_expert, hidden = s.hidden();
    const int du = units<P>(d), hu = units<P>(hidden), fu = units<P>(f);
    const Routes routes(s, index);
    float* sums = sizeof(T) == 4 ? reinterpret_cast<float*>(dx) : scratch<11, float>(size_t(s.tokens) * d);

    // Experts in waves: gradients of h and gated activations of a wave exist at a time.
    std::vector<int> waves{0};
    int largest = 0;
    for (int e = 0; e < s.experts; ++e) {
        const int begin = routes.begin(waves.back());
        if (e > waves.back() && routes.end(e) - begin > WAVE * s.threads) waves.push_back(e);
        largest = std::max(largest, routes.end(e) - routes.begin(waves.back()));
    }
    waves.push_back(s.experts);
    E* dh = scratch<9, E>(size_t(largest + SPARE) * hu * P::depth);
    E* gated_a = scratch<10, E>(size_t(largest + SPARE) * fu * P::depth);

    // Columns of weight gradients that are one thread's task; the cut changes no bit.
    const int panels = ceil_div(d, NR);

#pragma omp parallel num_threads(s.threads)
    {
        const Tiles tiles;
        for (int t = omp_get_thread_num(); t < s.threads; t += omp_get_num_threads()) {
            const int t0 = s.first_token(t), t1 = s.first_token(t + 1);
            std::memset(sums + size_t(t0) * d, 0, sizeof(float) * size_t(t1 - t0) * d);
        }
        U* down = scratch<0, U>(packed_size<P>(d, f));
        U* up = scratch<1, U>(packed_size<P>(hidden, d));
        U* dout_tile = scratch<2, U>(size_t(ROWS<P> + SPARE) * du);
        float* da = scratch<3, float>(size_t(ROWS<P>) * f);
        for (size_t w = 0; w + 1 < waves.size(); ++w) {
            const int first_row = routes.begin(waves[w]);
            for (int t = omp_get_thread_num(); t < s.threads; t += omp_get_num_threads())
                for (int e = waves[w]; e < waves[w + 1]; ++e) {
                    const int r0 = routes.begin(e, t), r1 = routes.end(e, t);
                    if (r0 == r1) continue;
                    const W* we_up = w_up + size_t(e) * hidden * d;
                    const W* we_down = w_down + size_t(e) * f * d;
                    pack_transposed<P, W>([&](int j) { return we_down + size_t(j) * d; }, d, f, down);
                    pack<P, W>([&](int i) { return we_up + size_t(i) * d; }, hidden, d, up);
                    for (int r = r0; r < r1; r += ROWS<P>) {
                        const int m = r1 - r < ROWS<P> ? r1 - r : ROWS<P>;
                        const int32_t* token = routes.token.data() + r;
                        const int32_t* slot = routes.slot.data() + r;
                        for (int i = 0; i < m; ++i) {
                            if (i + AHEAD < m) prefetch(dout + size_t(token[i + AHEAD]) * d, d);
                            copy_row<P>(dout + size_t(token[i]) * d, d, dout_tile + size_t(i) * du);
                            prefetch(pre + size_t(r + i) * hidden, hidden);
                        }
                        multiply<P>(m, f, d, dout_tile, du, 1, down, Place{da, f});
                        E* dh_tile = dh + size_t(r - first_row) * hu * P::depth;
                        E* a_tile = gated_a + size_t(r - first_row) * fu * P::depth;
                        with_activation(s.activation, [&](auto a) {
                            for (int i = 0; i < m; ++i) {
                                const T* h = pre + size_t(r + i) * hidden;
                                E* dh_row = dh_tile + size_t(i) * hu * P::depth;
                                E* a_row = a_tile + size_t(i) * fu * P::depth;
                                const float* da_row = da + size_t(i) * f;
                                const float gate = gates[slot[i]];
                                dgates[slot[i]] =
                                    is_gated(s.activation)
                                        ? activate_backward<a, true>(f, h, da_row, gate, a_row, dh_row)
                                        : activate_backward<a, false>(f, h, da_row, gate, a_row, dh_row);
                                if (hidden % P::depth) dh_row[hidden] = E{};
                                if (f % P::depth) a_row[f] = E{};
                            }
                        });
                        multiply<P>(m, d, hidden, reinterpret_cast<const U*>(dh_tile), hu, 1, up,
                                    Place{sums, d, true, token});
                    }
                }
#pragma omp barrier
            const int count = waves[w + 1] - waves[w];
            const int cuts = std::min(panels, ceil_div(4 * s.threads, count));
            const int parts = s.threads == 1 ? 1 : cuts;
#pragma omp for schedule(dynamic, 1)
            for (int task = 0; task < count * parts; ++task) {
                const int e = waves[w] + task / parts, part = task % parts;
                const int c0 = std::min(panels * part / parts * NR, d), c1 = std::min(panels * (part + 1) / parts * NR, d);
                const int r0 = routes.begin(e), rows = routes.end(e) - r0;
                const int32_t* token = routes.token.data() + r0;
                add_weight_gradient<P, T>(hidden, d, rows, dh + size_t(r0 - first_row) * hu * P::depth, hu * P::depth, x,
                                          token, c0, c1 - c0, dw_up + size_t(e) * hidden * d);
                add_weight_gradient<P, T>(f, d, rows, gated_a + size_t(r0 - first_row) * fu * P::depth, fu * P::depth,
                                          dout, token, c0, c1 - c0, dw_down + size_t(e) * f * d);
            }  // ends in a barrier: the next wave overwrites dh
        }
        if (sizeof(T) != 4)
            for (int t = omp_get_thread_num(); t < s.threads; t += omp_get_num_threads()) {
                const size_t end = size_t(s.first_token(t + 1)) * d;
                for (size_t i = size_t(s.first_token(t)) * d; i < end; i += VL) {
                    const int lanes = end - i < VL ? int(end - i) : VL;
                    store(dx + i, load(sums + i, lanes), lanes);
                }
            }
    }
}

}  // namespace moe

using moe::bf16;

#define MOE_FFN(suffix, T, W)                                                                                          \
    extern "C" int moe_ffn_forward_##suffix(int tokens, int top_k, int d_model, int d_expert, int experts,             \
                                            int activation, int threads, const T* x, const W* w_up, const W* w_down,   \
                                            const int32_t* index, const float* gates, T* out, T* pre) {                \
        return moe::guarded([&] {                                                                                      \
            moe::forward<T, W>({tokens, top_k, d_model, d_expert, experts, activation, threads}, x, w_up, w_down,      \
                               index, gates, out, pre);                                                                \
        });                                                                                                            \
    }                                                                                                                  \
    extern "C" int moe_ffn_backward_##suffix(                                                                          \
        int tokens, int top_k, int d_model, int d_expert, int experts, int activation, int threads, const T* dout,     \
        const T* x, const W* w_up, const W* w_down, const int32_t* index, const float* gates, const T* pre, T* dx,     \
        W* dw_up, W* dw_down, float* dgates) {                                                                         \
        return moe::guarded([&] {                                                                                      \
            moe::backward<T, W>({tokens, top_k, d_model, d_expert, experts, activation, threads}, dout, x, w_up,       \
                                w_down, index, gates, pre, dx, dw_up, dw_down, dgates);                                \
        });                                                                                                            \
    }

MOE_FFN(f32_f32, float, float)
MOE_FFN(bf16_bf16, bf16, bf16)
#if defined(__AVX512BF16__)
MOE_FFN(bf16_f32, bf16, float)
#endif

// Output head and cross-entropy on a CPU, loss and gradients in one pass over the tokens.
//
//   logits = h W^T,   nats[t] = log sum_v exp(logits[t, v]) - logits[t, target[t]],   d nats / d logits = p - onehot
//
// Tokens are worked off in chunks, the vocabulary in blocks, everything transposed: a chunk's tokens lie in the lanes of
// vectors and softmax runs down the vocabulary without a sum across lanes. A block of logits becomes exp(logit - the
// block's maximum) while it is in the nearest cache (online softmax, Milakov and Gimelshein, arXiv 1805.02867); once the
// chunk's maxima and sums are known, one factor a block and token makes probabilities of it. A thread holds one chunk of
// them, never the logits of a batch.
//
// Chunks are in flight in waves, one a thread: first every chunk's probabilities and gradient of h, then every block's
// gradient of W, to which the chunks are added in the order of tokens. The cut into waves changes no bit.
#include <algorithm>
#include <cfloat>
#include <cmath>
#include <type_traits>

#include "gemm.hpp"
#include "scratch.hpp"
#include "threads.hpp"

namespace moe {

constexpr int CHUNK = 128;            // tokens
constexpr int STRIDE = CHUNK + 16;    // floats in a row of a chunk: an odd number of cache lines
constexpr int BLOCK = 256;            // rows of W
constexpr int BLOCK_SPARE = BLOCK + SPARE;

struct Shape {
    int tokens, d_model, vocabulary, threads;
    int chunks() const { return ceil_div(tokens, CHUNK); }
    int blocks() const { return ceil_div(vocabulary, BLOCK); }
    int tokens_of(int chunk) const { return std::min(CHUNK, tokens - chunk * CHUNK); }
    int rows_of(int block) const { return std::min(BLOCK, vocabulary - block * BLOCK); }
};

// W as left factor (rows as they are) and as right factor (packed block by block).
template <class P, class T>
struct Weight {
    using U = typename P::unit;
    const Shape& s;
    int width;            // units of a row
    size_t block_size;    // units of a packed block
    const U* in_place;    // rows that may be read SPARE rows too far, or null
    U* copied;            // the rows from `first_copied` on
    int first_copied;
    U* packed;

    Weight(const Shape& s, const T* weight, bool learns)
        : s(s), width(units<P>(s.d_model)), block_size(packed_size<P>(BLOCK, s.d_model)) {
        const bool same = std::is_same_v<T, typename P::element> && s.d_model % P::depth == 0;
        in_place = same ? reinterpret_cast<const U*>(weight) : nullptr;
        // The first block that has not SPARE rows behind it.
        first_copied = same ? std::max(0, ceil_div(s.vocabulary - BLOCK_SPARE + 1, BLOCK)) * BLOCK : 0;
        copied = scratch<0, U>(size_t(s.vocabulary - first_copied + SPARE) * width);
        packed = learns ? scratch<1, U>(size_t(s.blocks()) * block_size) : nullptr;
        for (int v = first_copied; v < s.vocabulary; ++v)
            copy_row<P>(weight + size_t(v) * s.d_model, s.d_model, copied + size_t(v - first_copied) * width);
    }

    void pack_block(const T* weight, int block) {
        pack<P, T>([&](int i) { return weight + (size_t(block) * BLOCK + i) * s.d_model; }, s.rows_of(block), s.d_model,
                   packed + block * block_size);
    }

    const U* rows(int block) const {
        const int v = block * BLOCK;
        return v < first_copied ? in_place + size_t(v) * width : copied + size_t(v - first_copied) * width;
    }
};

// What is known of a chunk's tokens.
struct alignas(64) Tokens {
    float largest[CHUNK], sum[CHUNK], target_logit[CHUNK];
};

// Logits of VL tokens in `rows` rows become exp(logit - their maximum), which joins the tokens' maximum and sum.
inline void exponentiate(float* logits, int rows, float* block_largest, float* largest, float* sum) {
    constexpr int CHAINS = 4;
    vf tops[CHAINS];
    for (vf& top : tops) top = broadcast(-FLT_MAX);
    int v = 0;
    for (; v + CHAINS <= rows; v += CHAINS)
#pragma GCC unroll 4
        for (int c = 0; c < CHAINS; ++c) tops[c] = max(load(logits + size_t(v + c) * STRIDE), tops[c]);
    for (; v < rows; ++v) tops[0] = max(load(logits + size_t(v) * STRIDE), tops[0]);
    const vf top = max(max(tops[0], tops[1]), max(tops[2], tops[3]));
    vf total{};
    for (v = 0; v < rows; ++v) {
        const vf e = exp(load(logits + size_t(v) * STRIDE) - top);
        store(logits + size_t(v) * STRIDE, e);
        total += e;
    }
    const vf before = load(largest), now = max(top, before);
    store(block_largest, top);
    store(largest, now);
    store(sum, load(sum) * exp(before - now) + total * exp(top - now));
}

// exp(logit - block's maximum) becomes p - onehot, in the products' type: in place, and in pairs of rows where they have pairs.
template <class P>
inline void differentiate(float* values, int rows, int tokens, const float* block_largest, const Tokens& known,
                          const int64_t* targets, int first_row, typename P::unit* pairs) {
    alignas(64) float factor[CHUNK];
    const int width = round_up(tokens, VL);
    for (int t = 0; t < width; t += VL)
        store(factor + t, exp(load(block_largest + t) - load(known.largest + t)) / load(known.sum + t));
    std::memset(factor + tokens, 0, sizeof(float) * (width - tokens));
    for (int v = 0; v < rows; ++v)
        for (int t = 0; t < width; t += VL)
            store(values + size_t(v) * STRIDE + t, load(values + size_t(v) * STRIDE + t) * load(factor + t));
    for (int t = 0; t < tokens; ++t) {
        const int64_t row = targets[t] - first_row;
        if (row >= 0 && row < rows) values[size_t(row) * STRIDE + t] -= 1.0f;
    }
    if constexpr (P::depth == 2) {
        for (int v = 0; v < rows; v += 2) {
            float* first = values + size_t(v) * STRIDE;
            float* second = first + STRIDE;
            for (int t = 0; t < width; t += VL) {
                const vh low = narrow(load(first + t)), high = v + 1 < rows ? narrow(load(second + t)) : vh{};
                const vu pair = units_of(low) | (units_of(high) << 16);
                std::memcpy(pairs + size_t(v / 2) * STRIDE + t, &pair, sizeof pair);
                // A row of halves lies in the first half of its row of floats, behind what is still to be read.
                std::memcpy(reinterpret_cast<bf16*>(first) + t, &low, sizeof low);
                if (v + 1 < rows) std::memcpy(reinterpret_cast<bf16*>(second) + t, &high, sizeof high);
            }
        }
    }
}

template <class T>
void loss_head(const Shape& s, bool learns, const T* hidden, const T* weight, const int64_t* targets, float* total,
               float* nats, T* grad_hidden, float* grad_weight) {
    using P = typename product_of<T>::type;
    using U = typename P::unit;
    const int d = s.d_model, wave = std::max(1, std::min(s.threads, s.chunks()));
    Weight<P, T> w(s, weight, learns);
    const size_t chunk_size = size_t(learns ? s.blocks() : 1) * BLOCK * STRIDE, panel_size = packed_size<P>(CHUNK, d);
    float* in_flight = scratch<2, float>(wave * chunk_size + SPARE * STRIDE);
    U* right = learns ? scratch<3, U>(wave * panel_size) : nullptr;  // h, packed for the gradient of W
    if (learns && s.tokens == 0) std::memset(grad_weight, 0, sizeof(float) * size_t(s.vocabulary) * d);

#pragma omp parallel num_threads(s.threads)
    {
        const Tiles tiles;
        if (learns) {
#pragma omp for schedule(static)
            for (int b = 0; b < s.blocks(); ++b) w.pack_block(weight, b);
        }
        for (int first = 0; first < s.chunks(); first += wave) {
            const int last = std::min(first + wave, s.chunks());
#pragma omp for schedule(static, 1)
            for (int c = first; c < last; ++c) {
                const int t0 = c * CHUNK, m = s.tokens_of(c), width = round_up(m, VL);
                float* values = in_flight + (c - first) * chunk_size;
                float* block_largest = scratch<4, float>(size_t(s.blocks()) * CHUNK);
                U* columns = scratch<5, U>(packed_size<P>(d, CHUNK));
                Tokens known;
                for (int t = 0; t < CHUNK; ++t)
                    known.largest[t] = -FLT_MAX, known.sum[t] = 0.0f, known.target_logit[t] = NAN;  // no such word: NaN
                pack_transposed<P, T>([&](int j) { return hidden + size_t(t0 + j) * d; }, d, m, columns);
                for (int b = 0; b < s.blocks(); ++b) {
                    const int rows = s.rows_of(b);
                    float* logits = values + (learns ? size_t(b) * BLOCK * STRIDE : 0);
                    multiply<P>(rows, m, d, w.rows(b), w.width, 1, columns, Place{logits, STRIDE});
                    if (width > m)
                        for (int v = 0; v < rows; ++v)
                            std::memset(logits + size_t(v) * STRIDE + m, 0, sizeof(float) * (width - m));
                    for (int t = 0; t < m; ++t) {
                        const int64_t row = targets[t0 + t] - b * BLOCK;
                        if (row >= 0 && row < rows) known.target_logit[t] = logits[size_t(row) * STRIDE + t];
                    }
                    for (int t = 0; t < m; t += VL)
                        exponentiate(logits + t, rows, block_largest + b * CHUNK + t, known.largest + t, known.sum + t);
                }
                for (int t = 0; t < m; ++t)
                    nats[t0 + t] = std::log(known.sum[t]) + (known.largest[t] - known.target_logit[t]);
                if (!learns) continue;

                float* sums = std::is_same_v<T, float> ? reinterpret_cast<float*>(grad_hidden) + size_t(t0) * d
                                                       : scratch<6, float>(size_t(CHUNK) * d);
                U* pairs = P::depth == 2 ? scratch<7, U>(size_t(BLOCK / 2) * STRIDE + SPARE) : nullptr;
                for (int b = 0; b < s.blocks(); ++b) {
                    float* block = values + size_t(b) * BLOCK * STRIDE;
                    const int rows = s.rows_of(b);
                    differentiate<P>(block, rows, m, block_largest + b * CHUNK, known, targets + t0, b * BLOCK, pairs);
                    const U* left = P::depth == 2 ? pairs : reinterpret_cast<const U*>(block);
                    multiply<P>(m, d, rows, left, 1, STRIDE, w.packed + b * w.block_size, Place{sums, d, b > 0});
                }
                if (!std::is_same_v<T, float>)
                    for (size_t i = 0; i < size_t(m) * d; i += VL) {
                        const int lanes = int(std::min(size_t(VL), size_t(m) * d - i));
                        store(grad_hidden + size_t(t0) * d + i, load(sums + i, lanes), lanes);
                    }
                pack<P, T>([&](int i) { return hidden + size_t(t0 + i) * d; }, m, d, right + (c - first) * panel_size);
            }
            if (!learns) continue;
#pragma omp for schedule(static)
            for (int b = 0; b < s.blocks(); ++b)
                for (int c = first; c < last; ++c) {
                    const float* block = in_flight + (c - first) * chunk_size + size_t(b) * BLOCK * STRIDE;
                    multiply<P>(s.rows_of(b), d, s.tokens_of(c), reinterpret_cast<const U*>(block), STRIDE, 1,
                                right + (c - first) * panel_size,
                                Place{grad_weight + size_t(b) * BLOCK * d, d, c > 0});
                }
        }
    }
    double sum = 0.0;
    for (int t = 0; t < s.tokens; ++t) sum += nats[t];
    *total = float(sum);
}

}  // namespace moe

#define LOSS_HEAD(suffix, T)                                                                                           \
    extern "C" int loss_head_##suffix(int tokens, int d_model, int vocabulary, int threads, int learns,                \
                                      const T* hidden, const T* weight, const int64_t* targets, float* total,          \
                                      float* nats, T* grad_hidden, float* grad_weight) {                               \
        return moe::guarded([&] {                                                                                      \
            moe::loss_head<T>({tokens, d_model, vocabulary, threads}, learns != 0, hidden, weight, targets, total,     \
                              nats, grad_hidden, grad_weight);                                                         \
        });                                                                                                            \
    }

LOSS_HEAD(f32, float)
LOSS_HEAD(bf16, moe::bf16)

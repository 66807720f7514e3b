// A router on a CPU: scores, the k best, gates and what balancing needs of them, forward and backward.
//
//   l = x W^T,   p = softmax(l) or sigmoid(l),   the k largest p + bias are selected,   gates = their p (over their sum)
//
// Everything is transposed: a chunk's tokens lie in the lanes of vectors and all rules run down the experts, one lane a
// token, without a sum or a search across lanes. The k best are taken by lists sorted by insertion, in which an equal key
// stays behind: of equal scores the lower expert is selected first. NaN counts as the largest score.
//
// Probabilities (softmax) or sigmoids are what backward needs of the experts that were not selected. Threads own chunks;
// sums over tokens are added up chunk by chunk in order: results are the same bits at any number of threads.
#include <algorithm>
#include <cfloat>
#include <cmath>
#include <limits>
#include <vector>

#include "gemm.hpp"
#include "scratch.hpp"
#include "threads.hpp"

namespace moe {

constexpr int CHUNK = 128;          // tokens
constexpr int STRIDE = CHUNK + 16;  // floats in a row of a chunk: an odd number of cache lines

struct Shape {
    int tokens, top_k, d_model, experts, sigmoid, normalise, threads;
    int chunks() const { return ceil_div(tokens, CHUNK); }
    int tokens_of(int chunk) const { return std::min(CHUNK, tokens - chunk * CHUNK); }
    size_t chunk_size() const { return size_t(experts) * STRIDE; }
};

// ---- the k best ----

constexpr int LIST = 8;  // so many keys and experts fit the registers

// Candidates of VL tokens in the order of experts. `bar` is what a place's key is compared with.
struct Candidates {
    vf *bar, *key;
    vi* expert;

    // Keys are finite: less is an empty place, more is sure of the first one.
    void set(int e, vf score) const {
        score = score < FLT_MAX ? score : broadcast(FLT_MAX);  // NaN too
        bar[e] = key[e] = score > -FLT_MAX ? score : broadcast(-FLT_MAX);
        expert[e] = e - vi{};
    }
};

// Takes the K best out of `n` candidates a lane, in order, and leaves those it has not taken. A candidate is inserted
// before the first key that is less; what falls out at the end is no less than all that fell out before and were not
// in the list, so that the next list of K takes it up in front.
template <int K>
void take_best(int n, const Candidates& all, vi* taken) {
    const float infinity = std::numeric_limits<float>::infinity();
    vf key[K];
    vi expert[K];
    for (int j = 0; j < K; ++j) key[j] = broadcast(-infinity), expert[j] = vi{};
    for (int e = 0; e < n; ++e) {
        const vf bar = all.bar[e], candidate = all.key[e];
        const vi id = all.expert[e];
        const vi falls = bar > key[K - 1];
        all.bar[e] = falls ? broadcast(infinity) : bar;
        all.key[e] = falls ? key[K - 1] : candidate;
        all.expert[e] = falls ? expert[K - 1] : id;
        vi beats = falls;
#pragma GCC unroll 8
        for (int j = K - 1; j > 0; --j) {
            const vi beats_before = bar > key[j - 1];
            const vf moved = beats_before ? key[j - 1] : candidate;
            const vi moved_expert = beats_before ? expert[j - 1] : id;
            key[j] = beats ? moved : key[j];
            expert[j] = beats ? moved_expert : expert[j];
            beats = beats_before;
        }
        key[0] = beats ? candidate : key[0];
        expert[0] = beats ? id : expert[0];
    }
    for (int j = 0; j < K; ++j) taken[j] = expert[j];
}

inline void take_best(int n, int k, const Candidates& all, vi* taken) {
    for (; k > 0; k -= LIST, taken += LIST) {
        if (k > 4) take_best<LIST>(n, all, taken);
        else if (k > 2) take_best<4>(n, all, taken);
        else if (k > 1) take_best<2>(n, all, taken);
        else take_best<1>(n, all, taken);
    }
}

// ---- forward ----

// What forward knows of VL tokens: where their scores are, and what turns a score into a share of the whole.
struct Lanes {
    float* scores;  // (experts, STRIDE), the first of VL columns
    vf largest, sum, live;

    vf at(int e) const { return load(scores + size_t(e) * STRIDE); }
    void set(int e, vf value) const { store(scores + size_t(e) * STRIDE, value); }
};

// Logits become exp(l - largest) for a softmax, else their sigmoid, and are added up.
inline void score(const Shape& s, Lanes& lanes) {
    lanes.sum = vf{};
    lanes.largest = vf{};
    if (s.sigmoid) {
        for (int e = 0; e < s.experts; ++e) {
            const vf value = 1.0f / (1.0f + exp(-lanes.at(e)));
            lanes.set(e, value);
            lanes.sum += value;
        }
    } else {
        vf top = broadcast(-FLT_MAX);
        for (int e = 0; e < s.experts; ++e) top = max(lanes.at(e), top);
        for (int e = 0; e < s.experts; ++e) {
            const vf value = exp(lanes.at(e) - top);
            lanes.set(e, value);
            lanes.sum += value;
        }
        lanes.largest = top;
    }
}

// Of a chunk of tokens: sums that the chunks before and behind it are added to.
struct Sums {
    double* gate_mass;  // (experts,)
    float* probability;
    int64_t* counts;
    double square_partition = 0.0;
};

inline void select(const Shape& s, const Lanes& lanes, int tokens, const float* bias, vf* probability, Sums& sums,
                   int64_t* index, float* gates) {
    const Candidates all{scratch<8, vf>(s.experts), scratch<9, vf>(s.experts), scratch<10, vi>(s.experts)};
    vi* best = scratch<11, vi>(round_up(s.top_k, LIST));
    const vf inverse = 1.0f / lanes.sum;
    for (int e = 0; e < s.experts; ++e) {
        vf value = lanes.at(e);
        const vf share = value * inverse;
        if (!s.sigmoid) lanes.set(e, value = share);
        probability[e] += lanes.live > 0.0f ? share : vf{};
        all.set(e, bias ? value + bias[e] : value);
    }
    take_best(s.experts, s.top_k, all, best);
    for (int t = 0; t < tokens; ++t) {
        float total = 0.0f;
        for (int j = 0; j < s.top_k; ++j) {
            const int e = best[j][t];
            index[size_t(t) * s.top_k + j] = e;
            total += gates[size_t(t) * s.top_k + j] = lanes.scores[size_t(e) * STRIDE + t];
            ++sums.counts[e];
        }
        for (int j = 0; j < s.top_k; ++j) {
            float& gate = gates[size_t(t) * s.top_k + j];
            if (s.normalise) gate /= total;
            sums.gate_mass[index[size_t(t) * s.top_k + j]] += gate;
        }
    }
}

// W with rows that may be read too far.
inline const float* with_spare_rows(const Shape& s, const float* weight) {
    float* copy = scratch<0, float>(size_t(s.experts + SPARE) * s.d_model);
    std::memcpy(copy, weight, sizeof(float) * size_t(s.experts) * s.d_model);
    return copy;
}

void forward(const Shape& s, const float* x, const float* weight, const float* bias, float* gates,
             float* mean_probability, float* mean_square_partition, int64_t* index, int64_t* counts, double* gate_mass,
             float* scores, float* partition) {
    const int d = s.d_model, chunks = s.chunks();
    const float* rows = with_spare_rows(s, weight);
    std::vector<double> mass(size_t(chunks) * s.experts), squares(chunks);
    std::vector<float> probabilities(size_t(chunks) * s.experts);
    std::vector<int64_t> counted(size_t(chunks) * s.experts);

#pragma omp parallel for schedule(static) num_threads(s.threads)
    for (int c = 0; c < chunks; ++c) {
        const int t0 = c * CHUNK, m = s.tokens_of(c);
        float* tile = scores ? scores + c * s.chunk_size() : scratch<1, float>(s.chunk_size());
        float* columns = scratch<2, float>(packed_size<F32>(d, CHUNK));
        vf* probability = scratch<3, vf>(s.experts);
        std::memset(probability, 0, sizeof(vf) * s.experts);
        Sums sums{&mass[size_t(c) * s.experts], &probabilities[size_t(c) * s.experts], &counted[size_t(c) * s.experts]};
        if (m < CHUNK) std::memset(tile, 0, sizeof(float) * s.chunk_size());
        pack_transposed<F32, float>([&](int j) { return x + size_t(t0 + j) * d; }, d, m, columns);
        multiply<F32>(s.experts, m, d, rows, d, 1, columns, Place{tile, STRIDE});
        for (int t = 0; t < m; t += VL) {
            Lanes lanes{tile + t};
            const int live = std::min(VL, m - t);
            for (int i = 0; i < VL; ++i) lanes.live[i] = i < live;
            score(s, lanes);
            if (!s.sigmoid)
                for (int i = 0; i < live; ++i) {
                    const float z = partition[t0 + t + i] = lanes.largest[i] + std::log(lanes.sum[i]);
                    squares[c] += double(z) * z;
                }
            const size_t first = size_t(t0 + t) * s.top_k;
            select(s, lanes, live, bias, probability, sums, index + first, gates + first);
        }
        for (int e = 0; e < s.experts; ++e) sums.probability[e] = sum(probability[e]);
    }

    for (int e = 0; e < s.experts; ++e) {
        double probability = 0.0;
        counts[e] = 0, gate_mass[e] = 0.0;
        for (int c = 0; c < chunks; ++c) {
            const size_t i = size_t(c) * s.experts + e;
            probability += probabilities[i], counts[e] += counted[i], gate_mass[e] += mass[i];
        }
        mean_probability[e] = float(probability / s.tokens);
    }
    double square = 0.0;
    for (double chunk : squares) square += chunk;
    *mean_square_partition = float(square / s.tokens);
}

// ---- backward ----

// Gradients that reach the outputs; null: none does.
struct Incoming {
    const float *gates, *mean_probability, *mean_square_partition;
};

// The gradient of the logits of VL tokens: what they owe to the mean probabilities and to the z-loss.
inline void differentiate_means(const Shape& s, const float* scores, const float* partition, const vf raw, int live,
                                const Incoming& from, float* out) {
    const float share = 1.0f / float(s.tokens);
    vf sum{}, inner{};
    for (int e = 0; e < s.experts; ++e) {
        const vf p = load(scores + size_t(e) * STRIDE);
        if (from.mean_probability) inner += p * from.mean_probability[e];
        sum += p;
    }
    if (s.sigmoid) {
        const vf mean = inner / sum, factor = share / sum;
        for (int e = 0; e < s.experts; ++e) {
            const vf p = load(scores + size_t(e) * STRIDE);
            const vf gradient = from.mean_probability ? (from.mean_probability[e] - mean) * factor : vf{};
            store(out + size_t(e) * STRIDE, p * (1.0f - p) * gradient);
        }
    } else {
        vf common = -inner * share - raw;
        if (from.mean_square_partition)
            for (int i = 0; i < live; ++i) common[i] += 2.0f * share * *from.mean_square_partition * partition[i];
        for (int e = 0; e < s.experts; ++e) {
            const vf p = load(scores + size_t(e) * STRIDE);
            const float own = from.mean_probability ? from.mean_probability[e] * share : 0.0f;
            store(out + size_t(e) * STRIDE, p * (own + common));
        }
    }
}

// The gradient of a token's selected scores, in `out` (top_k,). Softmax over its sum: of their logits.
inline void differentiate_gates(const Shape& s, const float* scores, const int64_t* index, const float* gates,
                                const float* grad, float* out) {
    float inner = 0.0f, total = 0.0f;
    if (s.normalise)
        for (int j = 0; j < s.top_k; ++j) {
            inner += gates[j] * grad[j];
            total += scores[size_t(index[j]) * STRIDE];
        }
    for (int j = 0; j < s.top_k; ++j) {
        const float p = scores[size_t(index[j]) * STRIDE];
        if (s.sigmoid)
            out[j] = p * (1.0f - p) * (s.normalise ? (grad[j] - inner) / total : grad[j]);
        else
            out[j] = s.normalise ? gates[j] * (grad[j] - inner) : p * grad[j];
    }
}

void backward(const Shape& s, const Incoming& from, const float* x, const float* weight, const int64_t* index,
              const float* gates, const float* scores, const float* partition, float* dx, float* dw) {
    const int d = s.d_model, k = s.top_k, chunks = s.chunks(), wave = std::max(1, std::min(s.threads, chunks));
    const size_t panel_size = packed_size<F32>(CHUNK, d);
    float* packed = scratch<4, float>(packed_size<F32>(s.experts, d));
    float* right = scratch<5, float>(wave * panel_size);  // x, packed for the gradient of W
    float* in_flight = scratch<6, float>(wave * s.chunk_size() + SPARE * STRIDE);
    pack<F32, float>([&](int e) { return weight + size_t(e) * d; }, s.experts, d, packed);
    if (chunks == 0) std::memset(dw, 0, sizeof(float) * size_t(s.experts) * d);

#pragma omp parallel num_threads(s.threads)
    for (int first = 0; first < chunks; first += wave) {
        const int last = std::min(first + wave, chunks);
#pragma omp for schedule(static, 1)
        for (int c = first; c < last; ++c) {
            const int t0 = c * CHUNK, m = s.tokens_of(c);
            const float* tile = scores + c * s.chunk_size();
            float* grad = in_flight + (c - first) * s.chunk_size();
            float* selected = scratch<7, float>(size_t(VL) * k);
            for (int t = 0; t < m; t += VL) {
                const int live = std::min(VL, m - t);
                vf raw{};  // sum of p * gradient over selected scores that were not divided by their sum
                for (int i = 0; from.gates && i < live; ++i) {
                    const size_t token = size_t(t0 + t + i) * k;
                    differentiate_gates(s, tile + t + i, index + token, gates + token, from.gates + token,
                                        selected + size_t(i) * k);
                    if (!s.sigmoid && !s.normalise)
                        for (int j = 0; j < k; ++j) raw[i] += selected[size_t(i) * k + j];
                }
                differentiate_means(s, tile + t, partition + t0 + t, raw, live, from, grad + t);
                for (int i = 0; from.gates && i < live; ++i)
                    for (int j = 0; j < k; ++j)
                        grad[size_t(index[size_t(t0 + t + i) * k + j]) * STRIDE + t + i] += selected[size_t(i) * k + j];
            }
            multiply<F32>(m, d, s.experts, grad, 1, STRIDE, packed, Place{dx + size_t(t0) * d, d});
            pack<F32, float>([&](int i) { return x + size_t(t0 + i) * d; }, m, d, right + (c - first) * panel_size);
        }
#pragma omp for schedule(static)
        for (int part = 0; part < s.threads; ++part) {
            const int e0 = int(int64_t(s.experts) * part / s.threads);
            const int e1 = int(int64_t(s.experts) * (part + 1) / s.threads);
            for (int c = first; c < last; ++c)
                multiply<F32>(e1 - e0, d, s.tokens_of(c), in_flight + (c - first) * s.chunk_size() + size_t(e0) * STRIDE,
                              STRIDE, 1, right + (c - first) * panel_size, Place{dw + size_t(e0) * d, d, c > 0});
        }
    }
}

}  // namespace moe

extern "C" int router_forward(int tokens, int top_k, int d_model, int experts, int sigmoid, int normalise, int threads,
                              const float* x, const float* weight, const float* bias, float* gates,
                              float* mean_probability, float* mean_square_partition, int64_t* index, int64_t* counts,
                              double* gate_mass, float* scores, float* partition) {
    return moe::guarded([&] {
        moe::forward({tokens, top_k, d_model, experts, sigmoid, normalise, threads}, x, weight, bias, gates,
                     mean_probability, mean_square_partition, index, counts, gate_mass, scores, partition);
    });
}

extern "C" int router_backward(int tokens, int top_k, int d_model, int experts, int sigmoid, int normalise, int threads,
                               const float* grad_gates, const float* grad_mean_probability,
                               const float* grad_mean_square_partition, const float* x, const float* weight,
                               const int64_t* index, const float* gates, const float* scores, const float* partition,
                               float* dx, float* dw) {
    return moe::guarded([&] {
        moe::backward({tokens, top_k, d_model, experts, sigmoid, normalise, threads},
                      {grad_gates, grad_mean_probability, grad_mean_square_partition}, x, weight, index, gates, scores,
                      partition, dx, dw);
    });
}

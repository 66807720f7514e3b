// Causal attention on a CPU, forward and backward.
//
//   out[i] = sum_{j <= i} p[i, j] v[j],   p[i] = softmax of scale <q[i], k[j]> over j <= i
//
// A thread works off one sequence's key/value head with the query heads that share it: keys and values are packed once
// for all of them. Queries come in tiles, keys in blocks; a row's maximum and total are carried from block to block
// (online softmax, Dao et al., arXiv 2205.14135), and nothing is computed for blocks, panels or rows of a micro-kernel
// that lie wholly in the future. For backward are kept out and the log-sum-exp of each row; scores are recomputed.
//
// All work on one key/value head is done by one thread in one order: results are the same bits at any number of
// threads.
#include <atomic>
#include <cmath>
#include <initializer_list>

#include "gemm.hpp"
#include "scratch.hpp"
#include "threads.hpp"

namespace moe {

constexpr int QUERIES = 84;  // in a tile: a multiple of 6 and 14, and even
constexpr int KEYS = 256;  // in a block: a tile's scores stay in the second-level cache
constexpr int PANEL = 2 * VL;  // keys packed together for scores: few, so that little is computed beyond the diagonal
constexpr int MARGIN = 16;  // zeros after the last key a row sees: the micro-kernels read so far at most
constexpr int LINE = KEYS + MARGIN;  // floats from row to row of a tile: an odd number of cache lines
static_assert(rows_of_tile(1) < MARGIN && KEYS % PANEL == 0 && QUERIES % 2 == 0, "");

constexpr float LOG2_E = 1.44269504088896341f;

struct Shape {
    int batch, seq, heads, kv_heads, head_dim, threads;
    float scale;
    int group() const { return heads / kv_heads; }
};

// Heads of a (batch, seq, heads, head_dim) tensor; strides in elements, that of head_dim is 1.
template <class T>
struct Heads {
    T* data;
    int64_t batch, row, head;

    Heads(T* data, const int64_t* strides) : data(data), batch(strides[0]), row(strides[1]), head(strides[2]) {}
    Heads(T* data, const Shape& s, int heads)
        : data(data), batch(int64_t(s.seq) * heads * s.head_dim), row(int64_t(heads) * s.head_dim), head(s.head_dim) {}

    Heads moved(int64_t elements) const {
        Heads copy = *this;
        copy.data += elements;
        return copy;
    }
    Heads of(int b, int h) const { return moved(b * batch + h * head); }
    Heads from(int i) const { return moved(i * row); }
    T* operator()(int i) const { return data + i * row; }
};

// A tile's queries i0 .. i0 + m against a block's keys k0 .. k0 + n.
struct Block {
    int i0, m, k0, n;

    static int within(int x, int high) { return x < 0 ? 0 : x < high ? x : high; }
    int seen(int i) const { return within(i0 + i - k0 + 1, n); }  // keys of the block before or at query i
    int first(int j) const { return within(k0 + j - i0, m); }  // the first query that sees key j
};

// What is the same for all products of a head: widths of its vectors as units, and padded to whole vectors.
template <class P>
struct Width {
    int d, units, padded, step;

    // A micro-kernel's rows, which are cut off together at the diagonal.
    explicit Width(int d)
        : d(d), units(moe::units<P>(d)), padded(round_up(d, VL)),
          step(TILES && P::depth == 2 ? MARGIN : rows_of_tile(padded < NR ? padded / VL : NV)) {}
};

// Rows that will be needed soon, asked for a few at a time while others are multiplied. Between a head's rows lie those
// of the other heads, which no hardware foresees; asked for all at once, they would have to be waited for.
class Ahead {
   public:
    Ahead(const Shape& s, int b, int g) : s_(s), b_(b), g_(g) {}

    // For the tile of head h at i0: the rows of `queries` of the tile that follows it and, of `keys`, its share of the
    // key/value head that probably follows.
    template <class T>
    void plan(int h, int i0, std::initializer_list<Heads<const T>> queries,
              std::initializer_list<Heads<const T>> keys) {
        const int following = b_ * s_.kv_heads + g_ + omp_get_num_threads(), group = s_.group();
        const int b = following / s_.kv_heads, g = following % s_.kv_heads, begin = i0 + QUERIES;
        count_ = 0;
        lines_ = ceil_div(s_.head_dim * int(sizeof(T)), 64);
        for (const auto& rows : queries)
            if (begin < s_.seq)
                add(rows.of(b_, h), begin, begin + QUERIES);
            else if (h + 1 < (g_ + 1) * group)
                add(rows.of(b_, h + 1), 0, QUERIES);
            else if (b < s_.batch)
                add(rows.of(b, g * group), 0, QUERIES);
        if (b < s_.batch)
            for (const auto& rows : keys) {
                const int share = ceil_div(QUERIES, group), first = i0 + h % group * share;
                add(rows.of(b, g), first, first + share);
            }
    }

    void ask() {
        for (int stop = count_ < 8 ? 0 : count_ - 8; count_ > stop; --count_)
            for (int line = 0; line < lines_; ++line) __builtin_prefetch(rows_[count_ - 1] + 64 * line, 0, 2);
    }

   private:
    template <class T>
    void add(const Heads<const T>& rows, int begin, int end) {
        for (int i = begin; i < end && i < s_.seq; ++i) rows_[count_++] = reinterpret_cast<const char*>(rows(i));
    }

    const Shape& s_;
    int b_, g_, count_ = 0, lines_ = 0;
    const char* rows_[5 * QUERIES];
};

// ---- the products ----

template <class P, class T>
__attribute__((noinline)) void pack_rows(const Heads<const T>& rows, int n, int d, typename P::unit* out) {
    pack<P, T>(rows, n, d, out);
}

template <class P, class T>
__attribute__((noinline)) void pack_keys(const Heads<const T>& rows, int seq, int d, typename P::unit* out) {
    for (int j = 0; j < seq; j += PANEL, out += size_t(units<P>(d)) * PANEL)
        pack_transposed<P, T>(rows.from(j), d, seq - j < PANEL ? seq - j : PANEL, out);
}

// scores[i, j] = <left[i], key[j]>, for panels of keys that a query sees at least one of.
template <class P>
void multiply_keys(const Block& t, const Width<P>& w, Ahead& ahead, int seq, const typename P::unit* left,
                   const typename P::unit* keys, float* scores) {
    for (int j = 0; j < t.n; j += PANEL) {
        const int first = t.first(j), left_over = seq - t.k0 - j;
        const int columns = left_over < PANEL ? round_up(left_over, VL) : PANEL;
        ahead.ask();
        multiply<P>(t.m - first, columns, w.d, left + size_t(first) * w.units, w.units, 1,
                    keys + size_t(t.k0 + j) * w.units, Place{scores + first * LINE + j, LINE});
    }
}

// out[i] += sum_j weight[i, j] right[k0 + j], with all `rows` of right packed
template <class P>
void add_over_keys(const Block& t, const Width<P>& w, Ahead& ahead, const typename P::unit* weight, int line,
                   const typename P::unit* right, int rows, float* out) {
    for (int c = 0; c < w.padded; c += NR) {
        const int columns = w.padded - c < NR ? w.padded - c : NR;
        const typename P::unit* panel = right + size_t(units<P>(rows)) * c + size_t(t.k0 / P::depth) * columns;
        for (int i = 0; i < t.m; i += w.step) {
            const int some = t.m - i < w.step ? t.m - i : w.step, seen = t.seen(i + some - 1);
            ahead.ask();
            if (seen)
                multiply<P>(some, columns, seen, weight + size_t(i) * line, line, 1, panel,
                            Place{out + size_t(i) * w.padded + c, w.padded, true});
        }
    }
}

// out[k0 + j] += sum_i weight[i, j] right[i]; a unit of weight holds P::depth queries of a key
template <class P>
void add_over_queries(const Block& t, const Width<P>& w, Ahead& ahead, const typename P::unit* weight,
                      const typename P::unit* right, float* out) {
    const ptrdiff_t line = LINE * P::depth;
    for (int c = 0; c < w.padded; c += NR) {
        const int columns = w.padded - c < NR ? w.padded - c : NR;
        const typename P::unit* panel = right + size_t(units<P>(t.m)) * c;
        for (int j = 0; j < t.n; j += w.step) {
            const int some = t.n - j < w.step ? t.n - j : w.step, skipped = t.first(j) / P::depth;
            ahead.ask();
            multiply<P>(some, columns, t.m - skipped * P::depth, weight + skipped * line + j, 1, line,
                        panel + size_t(skipped) * columns,
                        Place{out + size_t(t.k0 + j) * w.padded + c, w.padded, true});
        }
    }
}

// ---- the softmax ----

// 2^x, relative error below 2e-7, for x that is not large; a NaN stays one.
inline vf exp2(vf x) {
    x = x < -126.0f ? broadcast(-126.0f) : x;
    const vf shifted = x + 12582912.0f;  // 1.5 * 2^23: rounds to an integer in the low bits
    const vf r = x - (shifted - 12582912.0f);
    vf p = r * 1.3264722654e-3f + 9.6715129912e-3f;
    p = p * r + 5.5507335812e-2f;
    p = p * r + 2.4022242427e-1f;
    p = p * r + 6.9314700365e-1f;
    p = p * r + 1.0f;
    return p * (vf)(((vi)shifted + 127) << 23);
}

inline vi lanes() {
    vi lane;
    for (int i = 0; i < VL; ++i) lane[i] = i;
    return lane;
}

template <class E>
inline void clear(E* p) {
    for (int j = 0; j < MARGIN; j += VL) store(p + j, vf{});
}

// Per row of a tile, in units of log2: the greatest score yet, and the sum of 2^(score - greatest).
struct Totals {
    float greatest[QUERIES], sum[QUERIES];
};

// Weights of a block's keys relative to the greatest score yet, in place of the scores; `out` follows that maximum.
template <class P>
void weigh(const Block& t, float scale, float* scores, Totals& totals, float* out, int width) {
    using E = typename P::element;
    const vi lane = lanes();
    const vf lowest = broadcast(-INFINITY);
    for (int i = 0; i < t.m; ++i) {
        const float* row = scores + size_t(i) * LINE;
        E* weights = reinterpret_cast<E*>(scores + size_t(i) * LINE);  // read before it is written, also where narrower
        const int seen = t.seen(i), whole = seen / VL * VL;
        if (seen == 0) {
            clear(weights);
            continue;
        }
        vf top = lowest;
        for (int j = 0; j < whole; j += VL) top = max(load(row + j) * scale, top);
        if (whole < seen) top = max(lane < seen - whole ? load(row + whole) * scale : lowest, top);
        const float last = totals.greatest[i], high = max(top), greatest = t.k0 && last > high ? last : high;
        vf sums{};
        for (int j = 0; j < whole; j += VL) {
            const vf weight = exp2(load(row + j) * scale - greatest);
            sums += weight;
            store(weights + j, weight);
        }
        if (whole < seen) {
            const vf weight = lane < seen - whole ? exp2(load(row + whole) * scale - greatest) : vf{};
            sums += weight;
            store(weights + whole, weight);
        }
        clear(weights + round_up(seen, VL));
        float total = sum(sums);
        if (t.k0) {
            const float shrink = std::exp2(last - greatest);
            total += shrink * totals.sum[i];
            for (int c = 0; c < width; c += VL) store(out + i * width + c, load(out + i * width + c) * shrink);
        }
        totals.greatest[i] = greatest, totals.sum[i] = total;
    }
}

// From scores and d p to the weights p and d score / scale = p (d p - delta), each where it came from: in units of
// P::depth queries a key. `rows` gets d score / scale once more, row by row (the same for depth 1).
template <class P>
void weigh_backward(const Block& t, float scale, const float* log_total, const float* delta, float* scores, float* dp,
                    typename P::element* rows) {
    const vi lane = lanes();
    for (int i = 0; i < t.m; i += P::depth) {
        float* p_units = scores + size_t(i) * LINE;
        float* ds_units = dp + size_t(i) * LINE;
        const int seen = t.seen(i + P::depth - 1 < t.m ? i + P::depth - 1 : t.m - 1), end = round_up(seen, VL);
        for (int j = 0; j < end; j += VL) {
            vf p[P::depth], ds[P::depth];
#pragma GCC unroll 2
            for (int r = 0; r < P::depth; ++r) {
                if (i + r < t.m) {
                    p[r] = exp2(load(p_units + r * LINE + j) * scale - log_total[i + r]);
                    ds[r] = p[r] * (load(ds_units + r * LINE + j) - delta[i + r]);
                    const int left = t.seen(i + r) - j;
                    if (left < VL) p[r] = lane < left ? p[r] : vf{}, ds[r] = lane < left ? ds[r] : vf{};
                } else {
                    p[r] = ds[r] = vf{};
                }
            }
            if constexpr (P::depth == 2) {
                const auto pair = [](const vf(&x)[2]) {
                    return units_of(narrow(x[0])) | units_of(narrow(x[1])) << 16;
                };
                store(p_units + j, (vf)pair(p));
                store(ds_units + j, (vf)pair(ds));
                for (int r = 0; r < 2; ++r) store(rows + size_t(i + r) * LINE + j, ds[r]);
            } else {
                store(p_units + j, p[0]);
                store(ds_units + j, ds[0]);
            }
        }
        clear(p_units + end);
        clear(ds_units + end);
        if constexpr (P::depth == 2)
            for (int r = 0; r < 2; ++r) clear(rows + size_t(i + r) * LINE + end);
    }
}

// ---- forward ----

// Do `body(b, g)` for every sequence and key/value head; false if memory ran out.
template <class F>
bool for_each_head(const Shape& s, F body) {
    std::atomic<bool> failed{false};
#pragma omp parallel for schedule(dynamic, 1) num_threads(s.threads)
    for (int item = 0; item < s.batch * s.kv_heads; ++item) {
        try {
            const Tiles tiles;
            body(item / s.kv_heads, item % s.kv_heads);
        } catch (const std::bad_alloc&) {  // must not leave the parallel region
            failed = true;
        }
    }
    return !failed;
}

template <class T>
inline void write_row(const float* row, float factor, int d, T* out) {
    for (int c = 0; c < d; c += VL) store(out + c, load(row + c) * factor, d - c);
}

template <class T>
bool forward(const Shape& s, const int64_t* strides, const T* q, const T* k, const T* v, T* out, float* log_totals) {
    using P = typename product_of<T>::type;
    using U = typename P::unit;
    const Width<P> w(s.head_dim);
    const Heads<const T> qs(q, strides), ks(k, strides + 3), vs(v, strides + 6);
    const Heads<T> outs(out, s, s.heads);
    const float scale = s.scale * LOG2_E;

    return for_each_head(s, [&](int b, int g) {
        U* keys = scratch<0, U>(size_t(round_up(s.seq, PANEL)) * w.units);
        U* values = scratch<1, U>(packed_size<P>(s.seq, w.d));
        U* q_tile = scratch<2, U>(size_t(QUERIES + SPARE) * w.units);
        float* scores = scratch<3, float>(size_t(QUERIES + SPARE) * LINE);
        float* sums = scratch<4, float>(size_t(QUERIES) * w.padded);
        Ahead ahead(s, b, g);
        pack_keys<P, T>(ks.of(b, g), s.seq, w.d, keys);
        pack_rows<P, T>(vs.of(b, g), s.seq, w.d, values);
        for (int h = g * s.group(); h < (g + 1) * s.group(); ++h)
            for (int i0 = 0; i0 < s.seq; i0 += QUERIES) {
                const int m = s.seq - i0 < QUERIES ? s.seq - i0 : QUERIES;
                for (int i = 0; i < m; ++i) copy_row<P>(qs.of(b, h)(i0 + i), w.d, q_tile + size_t(i) * w.units);
                std::memset(sums, 0, sizeof(float) * m * w.padded);
                ahead.plan<T>(h, i0, {qs}, {ks, vs});
                Totals totals;
                for (int k0 = 0; k0 < i0 + m; k0 += KEYS) {
                    const Block t{i0, m, k0, i0 + m - k0 < KEYS ? i0 + m - k0 : KEYS};
                    multiply_keys<P>(t, w, ahead, s.seq, q_tile, keys, scores);
                    weigh<P>(t, scale, scores, totals, sums, w.padded);
                    add_over_keys<P>(t, w, ahead, reinterpret_cast<const U*>(scores), LINE, values, s.seq, sums);
                }
                float* log_total = log_totals + (size_t(b) * s.heads + h) * s.seq + i0;
                for (int i = 0; i < m; ++i) {
                    write_row(sums + size_t(i) * w.padded, 1.0f / totals.sum[i], w.d, outs.of(b, h)(i0 + i));
                    log_total[i] = totals.greatest[i] + std::log2(totals.sum[i]);
                }
            }
    });
}

// ---- backward ----

template <class T>
bool backward(const Shape& s, const int64_t* strides, const T* q, const T* k, const T* v, const T* out,
              const float* log_totals, const T* dout, T* dq, T* dk, T* dv) {
    using P = typename product_of<T>::type;
    using U = typename P::unit;
    using E = typename P::element;
    const Width<P> w(s.head_dim);
    const Heads<const T> qs(q, strides), ks(k, strides + 3), vs(v, strides + 6);
    const Heads<const T> outs(out, s, s.heads), douts(dout, s, s.heads);
    const Heads<T> dqs(dq, s, s.heads), dks(dk, s, s.kv_heads), dvs(dv, s, s.kv_heads);
    const float scale = s.scale * LOG2_E;

    return for_each_head(s, [&](int b, int g) {
        U* keys = scratch<0, U>(size_t(round_up(s.seq, PANEL)) * w.units);
        U* values = scratch<1, U>(size_t(round_up(s.seq, PANEL)) * w.units);
        U* key_rows = scratch<5, U>(packed_size<P>(s.seq, w.d));
        U* q_tile = scratch<2, U>(size_t(QUERIES + SPARE) * w.units);
        U* dout_tile = scratch<6, U>(size_t(QUERIES + SPARE) * w.units);
        U* q_rows = scratch<7, U>(packed_size<P>(QUERIES, w.d));
        U* dout_rows = scratch<8, U>(packed_size<P>(QUERIES, w.d));
        float* scores = scratch<3, float>(size_t(QUERIES + SPARE) * LINE);
        float* dp = scratch<9, float>(size_t(QUERIES + SPARE) * LINE);
        E* ds = P::depth == 1 ? reinterpret_cast<E*>(dp) : scratch<10, E>(size_t(QUERIES + SPARE) * LINE);
        float* dq_sums = scratch<4, float>(size_t(QUERIES) * w.padded);
        float* dk_sums = scratch<11, float>(size_t(s.seq) * w.padded);
        float* dv_sums = scratch<12, float>(size_t(s.seq) * w.padded);
        std::memset(dk_sums, 0, sizeof(float) * s.seq * w.padded);
        std::memset(dv_sums, 0, sizeof(float) * s.seq * w.padded);
        Ahead ahead(s, b, g);
        pack_keys<P, T>(ks.of(b, g), s.seq, w.d, keys);
        pack_keys<P, T>(vs.of(b, g), s.seq, w.d, values);
        pack_rows<P, T>(ks.of(b, g), s.seq, w.d, key_rows);
        for (int h = g * s.group(); h < (g + 1) * s.group(); ++h)
            for (int i0 = 0; i0 < s.seq; i0 += QUERIES) {
                const int m = s.seq - i0 < QUERIES ? s.seq - i0 : QUERIES;
                const auto q_row = qs.of(b, h).from(i0), out_row = outs.of(b, h).from(i0);
                const auto dout_row = douts.of(b, h).from(i0);
                float delta[QUERIES];  // <d out, out>
                for (int i = 0; i < m; ++i) {
                    copy_row<P>(q_row(i), w.d, q_tile + size_t(i) * w.units);
                    copy_row<P>(dout_row(i), w.d, dout_tile + size_t(i) * w.units);
                    vf dot{};
                    for (int c = 0; c < w.d; c += VL)
                        dot += load(out_row(i) + c, w.d - c) * load(dout_row(i) + c, w.d - c);
                    delta[i] = sum(dot);
                }
                pack_rows<P, T>(q_row, m, w.d, q_rows);
                pack_rows<P, T>(dout_row, m, w.d, dout_rows);
                std::memset(dq_sums, 0, sizeof(float) * m * w.padded);
                ahead.plan<T>(h, i0, {qs, outs, douts}, {ks, vs});
                const float* log_total = log_totals + (size_t(b) * s.heads + h) * s.seq + i0;
                for (int k0 = 0; k0 < i0 + m; k0 += KEYS) {
                    const Block t{i0, m, k0, i0 + m - k0 < KEYS ? i0 + m - k0 : KEYS};
                    multiply_keys<P>(t, w, ahead, s.seq, q_tile, keys, scores);
                    multiply_keys<P>(t, w, ahead, s.seq, dout_tile, values, dp);
                    weigh_backward<P>(t, scale, log_total, delta, scores, dp, ds);
                    add_over_queries<P>(t, w, ahead, reinterpret_cast<const U*>(scores), dout_rows, dv_sums);
                    add_over_queries<P>(t, w, ahead, reinterpret_cast<const U*>(dp), q_rows, dk_sums);
                    add_over_keys<P>(t, w, ahead, reinterpret_cast<const U*>(ds), LINE / P::depth, key_rows, s.seq,
                                     dq_sums);
                }
                for (int i = 0; i < m; ++i)
                    write_row(dq_sums + size_t(i) * w.padded, s.scale, w.d, dqs.of(b, h)(i0 + i));
            }
        for (int j = 0; j < s.seq; ++j) {
            write_row(dk_sums + size_t(j) * w.padded, s.scale, w.d, dks.of(b, g)(j));
            write_row(dv_sums + size_t(j) * w.padded, 1.0f, w.d, dvs.of(b, g)(j));
        }
    });
}

}  // namespace moe

using moe::bf16;

#define ATTENTION(suffix, T)                                                                                           \
    extern "C" int attention_forward_##suffix(int batch, int seq, int heads, int kv_heads, int head_dim, int threads,  \
                                              float scale, const int64_t* strides, const T* q, const T* k, const T* v, \
                                              T* out, float* log_totals) {                                             \
        return !moe::forward<T>({batch, seq, heads, kv_heads, head_dim, threads, scale}, strides, q, k, v, out,        \
                                log_totals);                                                                           \
    }                                                                                                                  \
    extern "C" int attention_backward_##suffix(                                                                        \
        int batch, int seq, int heads, int kv_heads, int head_dim, int threads, float scale, const int64_t* strides,   \
        const T* q, const T* k, const T* v, const T* out, const float* log_totals, const T* dout, T* dq, T* dk,        \
        T* dv) {                                                                                                       \
        return !moe::backward<T>({batch, seq, heads, kv_heads, head_dim, threads, scale}, strides, q, k, v, out,       \
                                 log_totals, dout, dq, dk, dv);                                                        \
    }

ATTENTION(f32, float)
ATTENTION(bf16, bf16)

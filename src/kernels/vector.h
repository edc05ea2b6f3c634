// Row kernels of the CPU, torch-free and compiled once per instruction set (vector_*.cpp); vector_kernels() picks the best table this machine
// runs. Rows are contiguous unless a stride is given; T is float or Bf16; arithmetic is fp32. Callers own threading.
#pragma once
#include <cstdint>

namespace ponte {

struct Bf16 {
  uint16_t bits;
};

// A packed projection's row of one token: for each query group its query heads, then (gated attention) as many gates, then key, then value.
struct QkvShape {
  int64_t T;                  // tokens in a row of the batch
  int64_t groups;             // key/value heads
  int64_t queries_per_group;
  int64_t D;                  // head dimension
  int64_t rotary;             // leading dims that rotate (even)
  int64_t gates = 0;          // per group: 0, or queries_per_group
  int64_t heads() const { return groups * queries_per_group; }
  int64_t group_heads() const { return queries_per_group + gates + 2; }
  int64_t width() const { return groups * group_heads() * D; }
};

// Norm weights of queries and keys; null: no norm. The weight used is `offset` + stored.
template <class T>
struct QkNorm {
  const T* query;
  const T* key;
  float epsilon, offset;
};

// Matrix product on row-major tiles, C (+)= A B: attention and the delta rule bring their own (a library's micro-kernel).
template <class F>
using ProductOf = void (*)(int64_t M, int64_t N, int64_t K, int64_t lda, int64_t ldb, int64_t ldc, bool accumulate, const F* A, const F* B, F* C);
using TileProduct = ProductOf<float>;

template <class T>
struct AttentionRow {  // pointers of one batch row; q, k, v are [heads, tokens, D] with these strides between heads (elements), tokens D apart
  const T *q, *k, *v;
  int64_t q_head, kv_head;
  int64_t queries, keys, heads, groups, D;
  const int64_t *first, *last;  // per query: the keys it sees are [first, last); both never decrease
  float scale;
};

template <class T>
struct VectorKernels {
  // y = (offset + w) * x * rstd, rstd = 1 / sqrt(mean(x^2) + epsilon).
  void (*rms_norm)(int64_t rows, int64_t H, const T* x, const T* w, float epsilon, float offset, T* y, float* rstd);
  // dx, and dw_partial[H] += this call's share.
  void (*rms_norm_backward)(int64_t rows, int64_t H, const T* dy, const T* x, const T* w, float offset, const float* rstd, T* dx, float* dw_partial);
  // Tokens [begin, end) of the batch (row-major over B, T): optional norm of q and k, rotation by cos/sin [token][rotary/2], split into
  // q [B, heads, T, D], k and v [B, groups, T, D]. rstd [token][groups * (queries_per_group + 1)] when normed.
  void (*split_qkv)(int64_t begin, int64_t end, const QkvShape& shape, const T* qkv, const QkNorm<T>& norm, const float* cos, const float* sin,
                    T* q, T* k, T* v, float* rstd);
  void (*split_qkv_backward)(int64_t begin, int64_t end, const QkvShape& shape, const T* qkv, const QkNorm<T>& norm, const float* cos, const float* sin,
                             const T* dq, const T* dk, const T* dv, const float* rstd, T* dqkv, float* dquery_norm, float* dkey_norm);
  // y[F] = silu(gate) * up, gate_up row = [gate F, up F].
  void (*swiglu)(int64_t rows, int64_t F, const T* gate_up, T* y);
  void (*swiglu_backward)(int64_t rows, int64_t F, const T* dy, const T* gate_up, T* dgate_up);
  // Per row: largest logit and sum of exp(logit - largest).
  void (*softmax_statistics)(int64_t rows, int64_t V, int64_t stride, const T* logits, float* largest, float* sum);
  // In place: logits <- (exp(logit - log_sum) - [column == label]) * weight. label < 0 or >= V: not in these columns. weight 0 writes zeros.
  void (*softmax_gradient)(int64_t rows, int64_t V, int64_t stride, T* logits, const float* log_sum, const int64_t* label, const float* weight);
  // out[i] += rows[i]: T into fp32.
  void (*add_to_float)(int64_t n, const T* x, float* out);
  // y[b][o] (+)= w[o] . x[b] for output rows [begin, end); w [O, I] row-major; x [batch][I], y [batch][ldy] fp32. batch <= 8.
  void (*matrix_vector)(int64_t begin, int64_t end, int64_t I, int64_t batch, const T* w, const float* x, float* y, int64_t ldy, bool accumulate);
  // One head's forward for queries [begin, end), begin a multiple of the tile: out (tokens out_stride apart) and log_sum[query], the natural log of
  // the softmax denominator. keys_DT and values_TD are this head's keys and values as pack_keys made them.
  void (*attention)(const AttentionRow<T>& row, int64_t head, int64_t begin, int64_t end, const float* keys_DT, const float* values_TD, TileProduct product,
                    float* scratch, T* out, int64_t out_stride, float* log_sum);
  void (*pack_keys)(int64_t keys, int64_t D, const T* k, const T* v, float* keys_DT, float* values_TD);
  // One key/value head with all its query heads. out, dout: tokens `out_stride` apart, heads D apart, pointing at the group's first query head;
  // dq [heads of the group, queries, D] with row.q_head between heads; dk, dv [keys, D].
  void (*attention_backward)(const AttentionRow<T>& row, int64_t group, const T* out, const T* dout, int64_t out_stride, const float* log_sum,
                             TileProduct product, float* scratch, T* dq, T* dk, T* dv);
  // One query token of one head against a cache [keys, D]: out[D] fp32. weights: scratch of `keys` floats.
  void (*attend_one)(int64_t keys, int64_t D, const float* query, const T* k, const T* v, float scale, float* weights, float* out);
  TileProduct tile_product;  // any sizes, moderate speed
  void (*from_float)(int64_t n, const float* x, T* out);
  void (*to_float)(int64_t n, const T* x, float* out);
  // Tokens [begin, end): y = out * sigmoid(gate), heads of out [token][heads * D], gates where QkvShape says.
  void (*gate_heads)(int64_t begin, int64_t end, const QkvShape& shape, const T* qkv, const T* out, T* y);
  void (*gate_heads_backward)(int64_t begin, int64_t end, const QkvShape& shape, const T* qkv, const T* out, const T* dy, T* dout, T* dqkv);
  // Rows of `heads` x D: y = (offset + w) * x * rstd * silu(z); z's rows are z_stride apart, the others' heads * D; rstd [row][head].
  void (*gated_rms_norm)(int64_t rows, int64_t heads, int64_t D, const T* x, const T* z, int64_t z_stride, const T* w, float epsilon, float offset, T* y,
                         float* rstd);
  void (*gated_rms_norm_backward)(int64_t rows, int64_t heads, int64_t D, const T* dy, const T* x, const T* z, int64_t z_stride, const T* w, float offset,
                                  const float* rstd, T* dx, T* dz, int64_t dz_stride, float* dw_partial);
  // y[C] = silu(sum over w of weight[w][C] * rows[w][C]); a null row is zeros.
  void (*convolve)(int64_t C, int64_t W, const T* const* rows, const float* weight_WC, T* y);
  // Channels [0, C) of one sequence of the batch, C <= kConvolutionChannels; rows of x, dy and dx the given strides apart, rows of weight and
  // dweight (+=) `channels` apart. starts: per token the first of its document; null: 0. ring: W * kConvolutionChannels floats.
  void (*convolve_backward)(int64_t tokens, int64_t C, int64_t W, int64_t channels, const T* x, int64_t x_stride, const int64_t* starts, const float* weight_WC,
                            const T* dy, int64_t dy_stride, T* dx, int64_t dx_stride, float* dweight_WC, float* ring);
};
inline constexpr int64_t kConvolutionChannels = 128;

// One key head of one sequence, with the value heads that share it: what the gated delta rule reads. F: the type it computes in.
template <class T, class F>
struct DeltaHead {
  const T *q, *k, *v;       // the first token's; tokens `stride` apart, value heads V apart
  int64_t stride;
  const T *beta, *alpha;    // the first value head's; tokens `gate_stride` apart
  int64_t gate_stride;
  const F *A_log, *dt_bias; // [values]
  int64_t tokens, values, D, V;  // value heads, their key and value dimensions
  const int64_t* starts;    // per token the first of its document; null: all continue the given state
  bool continued;           // the state given is not zero
};

// Gated delta rule on one DeltaHead. Tokens of out and dout are out_stride apart, value heads V apart; state: [values, D, V].
template <class T, class F>
struct DeltaKernels {
  // In chunks. state: in and out. states: null, or where every chunk's first state goes ([chunks, values, D, V]); out may be null then.
  void (*forward)(const DeltaHead<T, F>& head, ProductOf<F> product, F* scratch, T* out, int64_t out_stride, F* state, F* states);
  // Token by token: the same, for few tokens.
  void (*step)(const DeltaHead<T, F>& head, F* scratch, T* out, int64_t out_stride, F* state);
  // From the states of the forward pass. dstates: as state, gradients of the last in, of the first out. Strides of dq, dk, dv as of q, k, v; of dbeta
  // and dalpha as of beta; dA_log and ddt_bias: [values], +=.
  void (*backward)(const DeltaHead<T, F>& head, ProductOf<F> product, F* scratch, const F* states, F* dstates, const T* dout, int64_t out_stride, T* dq, T* dk,
                   T* dv, T* dbeta, T* dalpha, F* dA_log, F* ddt_bias);
  ProductOf<F> product;  // any sizes, moderate speed
};
int64_t delta_chunks(int64_t tokens);
int64_t delta_scratch(int64_t values, int64_t D, int64_t V);           // elements, for forward and step
int64_t delta_backward_scratch(int64_t values, int64_t D, int64_t V);  // besides the states

int64_t attention_tiles(int64_t rows);  // tiles of 64 tokens that hold so many; packed keys and values are whole tiles
int64_t attention_scratch_floats(int64_t D);
int64_t attention_backward_scratch_floats(int64_t queries, int64_t keys, int64_t D);

struct VectorTables {
  const char* name;  // instruction set
  const VectorKernels<float>* f32;
  const VectorKernels<Bf16>* bf16;
  const DeltaKernels<float, float>* delta_f32;
  const DeltaKernels<Bf16, float>* delta_bf16;
  const DeltaKernels<double, double>* delta_f64;
};

const VectorTables& vector_tables();                // best of this machine
const VectorTables* vector_tables(const char* name);  // "x86-64", "x86-64-v3", "x86-64-v4"; null when this machine cannot run it (tests)

template <class T>
const VectorKernels<T>& vector_kernels();
template <>
inline const VectorKernels<float>& vector_kernels<float>() { return *vector_tables().f32; }
template <>
inline const VectorKernels<Bf16>& vector_kernels<Bf16>() { return *vector_tables().bf16; }

template <class T>
const auto& delta_kernels() {
  if constexpr (sizeof(T) == 8) return *vector_tables().delta_f64;
  else if constexpr (sizeof(T) == 4) return *vector_tables().delta_f32;
  else return *vector_tables().delta_bf16;
}

}  // namespace ponte

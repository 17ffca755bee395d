// Rotary embedding of Q and K, and K and V to their slots, in one pass over the qkv projection.
#pragma once

#include <omp.h>

#include <cmath>

#include "simd.h"

namespace raydix {

// One step's tokens; the layer comes with the call. The fields are mirrored in attention.py.
struct Rope {
  const float* cos;  // [max_len, head_dim / 2]
  const float* sin;
  const int64_t* positions;  // [tokens]
  const int64_t* slots;      // [tokens]
  int32_t num_tokens, num_heads, num_kv_heads, head_dim;
};

struct HeadNorms {
  const float* q;  // [head_dim], or null where heads are not normalised
  const float* k;
  float eps;
};

struct RopeLayer {
  const float* qkv;   // [tokens, (heads + 2 kv_heads) * head_dim]
  uint16_t* q;        // bfloat16 [tokens, heads, head_dim]
  uint16_t* k_cache;  // bfloat16 [slots, kv_heads, head_dim]
  uint16_t* v_cache;
};

inline void to_bf16_row(const float* x, int count, uint16_t* out) {
  for (int i = 0; i < count; i += LANES) store(out + i, to_bf16(load<f32x16>(x + i)));
}

// Normalises one head where there is a weight, and rotates its halves by the angles of its position.
inline void rotate_head(const float* x, const float* norm, float eps, const float* cos, const float* sin,
                        int D, uint16_t* out) {
  float head[256];
  float scale = 1.0f;
  if (norm) {
    float squares = 0.0f;
    for (int d = 0; d < D; ++d) squares += x[d] * x[d];
    scale = 1.0f / std::sqrt(squares / D + eps);
  }
  for (int d = 0; d < D; ++d) head[d] = norm ? x[d] * scale * norm[d] : x[d];
  float rotated[256];
  for (int d = 0; d < D / 2; ++d) {
    rotated[d] = head[d] * cos[d] - head[d + D / 2] * sin[d];
    rotated[d + D / 2] = head[d + D / 2] * cos[d] + head[d] * sin[d];
  }
  to_bf16_row(rotated, D, out);
}

inline void store_token(const Rope& a, const HeadNorms& norms, const RopeLayer& layer, int token) {
  const int D = a.head_dim;
  const float* x = layer.qkv + size_t(token) * (a.num_heads + 2 * a.num_kv_heads) * D;
  const float *cos = a.cos + a.positions[token] * (D / 2), *sin = a.sin + a.positions[token] * (D / 2);
  uint16_t* q = layer.q + size_t(token) * a.num_heads * D;
  const size_t slot = size_t(a.slots[token]) * a.num_kv_heads * D;
  for (int h = 0; h < a.num_heads; ++h, x += D, q += D) rotate_head(x, norms.q, norms.eps, cos, sin, D, q);
  uint16_t* k = layer.k_cache + slot;
  for (int h = 0; h < a.num_kv_heads; ++h, x += D, k += D) rotate_head(x, norms.k, norms.eps, cos, sin, D, k);
  to_bf16_row(x, a.num_kv_heads * D, layer.v_cache + slot);
}

// This thread's share of a layer's tokens; all threads of the region call it.
inline void rope_share(const Rope& a, const HeadNorms& norms, const RopeLayer& layer) {
#pragma omp for schedule(static) nowait
  for (int token = 0; token < a.num_tokens; ++token) store_token(a, norms, layer, token);
}

}  // namespace raydix

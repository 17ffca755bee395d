// What a linear layer does to its input rows before it multiplies: normalise or gate, round to bfloat16, sum by group.
#pragma once

#include <cmath>

#include "simd.h"

namespace raydix {

enum class Prologue : int32_t { NONE = 0, RMS_NORM = 1, SILU_MUL = 2 };

struct Input {
  const float* x;  // [rows, K], or [rows, 2K] (gate, then up) before SILU_MUL
  Prologue prologue;
  const float* norm_weight;
  float eps;
};

// 1 / sqrt(mean of squares + eps) of a row (Zhang and Sennrich 2019).
inline float rms_scale(const float* x, int K, float eps) {
  f32x16 squares{};
  for (int k = 0; k < K; k += LANES) {
    f32x16 v = load<f32x16>(x + k);
    squares += v * v;
  }
  return 1.0f / std::sqrt(sum(squares) / K + eps);
}

inline f32x16 silu(f32x16 x) { return x / (1.0f + exp(-x)); }

// One row to bfloat16 [K]. `sums` gets the sum of each group of the rounded values; group_size 0 has none.
inline void prepare_row(const Input& in, int row, int K, int group_size, uint16_t* out, float* sums) {
  const float* x = in.x + size_t(row) * K * (in.prologue == Prologue::SILU_MUL ? 2 : 1);
  const float scale = in.prologue == Prologue::RMS_NORM ? rms_scale(x, K, in.eps) : 1.0f;
  f32x16 group{};
  for (int k = 0; k < K; k += LANES) {
    f32x16 v = load<f32x16>(x + k);
    if (in.prologue == Prologue::RMS_NORM) v = v * scale * load<f32x16>(in.norm_weight + k);
    if (in.prologue == Prologue::SILU_MUL) v = silu(v) * load<f32x16>(x + K + k);
    const u16x16 rounded = to_bf16(v);
    store(out + k, rounded);
    if (group_size == 0) continue;
    group += f32_from_bf16(rounded);
    if ((k + LANES) % group_size == 0) {
      sums[k / group_size] = sum(group);
      group = f32x16{};
    }
  }
}

}  // namespace raydix

// What a linear layer does to its input rows before it multiplies: normalise or gate, round to bfloat16, sum by group.
#pragma once

#include <cmath>

#include <algorithm>

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

// Inputs k to k + 15 of a row after the prologue.
struct RowReader {
  const Input& in;
  const float* x;
  const float* up;  // for SILU_MUL
  float scale;

  RowReader(const Input& in, int row, int K)
      : in(in),
        x(in.x + size_t(row) * K * (in.prologue == Prologue::SILU_MUL ? 2 : 1)),
        up(x + K),
        scale(in.prologue == Prologue::RMS_NORM ? rms_scale(x, K, in.eps) : 1.0f) {}

  f32x16 operator()(int k) const {
    const f32x16 v = load<f32x16>(x + k);
    if (in.prologue == Prologue::RMS_NORM) return v * scale * load<f32x16>(in.norm_weight + k);
    return in.prologue == Prologue::SILU_MUL ? silu(v) * load<f32x16>(up + k) : v;
  }
};

// One row to bfloat16 [K]. `sums` gets the sum of each group of the rounded values; group_size 0 has none.
inline void prepare_row(const Input& in, int row, int K, int group_size, uint16_t* out, float* sums) {
  const RowReader read(in, row, K);
  f32x16 group{};
  for (int k = 0; k < K; k += LANES) {
    const u16x16 rounded = to_bf16(read(k));
    store(out + k, rounded);
    if (group_size == 0) continue;
    group += f32_from_bf16(rounded);
    if ((k + LANES) % group_size == 0) {
      sums[k / group_size] = sum(group);
      group = f32x16{};
    }
  }
}

constexpr int MAX_INT8_GROUP = 256;

// One row to int8 [K], each group scaled so that its largest value is 127, and each eight inputs in the order in which
// two words of nibbles hold them (int4.h). `scales` and `sums` get a group's scale and the sum of what is scaled back.
inline void prepare_int8_row(const Input& in, int row, int K, int group_size, int8_t* out, float* scales, float* sums) {
  const RowReader read(in, row, K);
  const i8x16 order = {0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15};
  for (int g = 0; g < K / group_size; ++g) {
    f32x16 values[MAX_INT8_GROUP / LANES], largest{};
    for (int i = 0; i < group_size / LANES; ++i) {
      values[i] = read(g * group_size + i * LANES);
      largest = max(largest, max(values[i], -values[i]));
    }
    const float top = max(largest), inverse = top > 0 ? 127.0f / top : 0.0f;
    i32x16 total{};
    for (int i = 0; i < group_size / LANES; ++i) {
      const i32x16 rounded = round_to_int(values[i] * inverse);
      total += rounded;
      store(out + g * group_size + i * LANES, __builtin_shuffle(__builtin_convertvector(rounded, i8x16), order));
    }
    scales[g] = top / 127.0f;
    sums[g] = scales[g] * sum(__builtin_convertvector(total, f32x16));
  }
}

}  // namespace raydix

// y = f(x) W^T (+ bias) (+ y) for a packed int4 or bfloat16 W, where f may normalise or gate the rows.
//
// Chunks of rows times panels of 16 outputs are shared out among the threads. How does not matter to the result: each
// element is summed by one thread in the same order.
#pragma once

#include <omp.h>

#include <algorithm>

#include "int4.h"
#include "rows.h"
#include "scratch.h"

namespace raydix {

// A linear layer as it is loaded; its rows come with the call. The fields are mirrored in linear.py.
struct Linear {
  const uint8_t* data;
  const float* norm_weight;  // [K], for RMS_NORM
  const float* bias;         // [N] or null
  int32_t num_outputs;
  int32_t num_inputs;
  int32_t group_size;        // 0: bfloat16 pairs [panels][K / 2][16]
  Prologue prologue;
  int32_t accumulate;        // add to what y holds
  int32_t int8_rows;         // round the rows to int8 by group, not to bfloat16; for int4 weights
  float eps;

  int panels() const { return (num_outputs + LANES - 1) / LANES; }
  int groups() const { return group_size ? num_inputs / group_size : 0; }
  size_t panel_bytes() const { return group_size ? groups() * group_bytes(group_size) : size_t(num_inputs) * 32; }
};

// Rows whose inputs are prepared, and what their products are gathered in.
struct Chunk {
  int first_row;
  int rows;
  uint16_t* x;  // null where rows are int8
  int8_t* x8;   // null where rows are bfloat16
  float* scales;
  float* sums;
};

constexpr int CHUNK_ROWS = 96;  // rows at once: their inputs stay in the L2 cache

inline void write(const Linear& w, float* y, const Chunk& chunk, int panel, int num_panels, const float* from, int ld) {
  const int columns = std::min(num_panels * LANES, w.num_outputs - panel * LANES);
  for (int r = 0; r < chunk.rows; ++r) {
    float* to = y + size_t(chunk.first_row + r) * w.num_outputs + panel * LANES;
    const float* f = from + r * ld;
    const float* bias = w.bias ? w.bias + panel * LANES : nullptr;
    for (int n = 0; n < columns; ++n) to[n] = (w.accumulate ? to[n] : 0.0f) + (bias ? f[n] + bias[n] : f[n]);
  }
}

// The chunk's rows times panels [begin, end), written to y.
inline void multiply_chunk(const Linear& w, float* y, const Chunk& chunk, int begin, int end) {
  thread_local Scratch<float> memory;
  const size_t ld = PANELS * LANES, K = w.num_inputs;
  float* gathered = memory.get(CHUNK_ROWS * ld);
  for (int panel = begin; panel < end; panel += PANELS) {
    const int count = std::min(PANELS, end - panel);
    const uint8_t* data = w.data + panel * w.panel_bytes();
    if (w.group_size)
      int4_product({data, w.panel_bytes(), w.groups(), w.group_size, chunk.x, chunk.x8, chunk.scales, chunk.sums, gathered,
                    ld}, chunk.rows, count);
    else
      product({{(const uint32_t*)data, LANES, w.panel_bytes() / 4}, int(K / 2), chunk.x, K, gathered, ld}, chunk.rows,
              count);
    write(w, y, chunk, panel, count, gathered, int(ld));
  }
}

inline Chunk prepare(const Linear& w, const float* x, int first_row, int rows) {
  const Input in{x, w.prologue, w.norm_weight, w.eps};
  thread_local Scratch<uint16_t> x_memory;
  thread_local Scratch<int8_t> x8_memory;
  thread_local Scratch<float> sums_memory, scales_memory;
  const size_t K = w.num_inputs, groups = w.groups();
  Chunk chunk{first_row, rows, nullptr, nullptr, nullptr, sums_memory.get(rows * groups)};
  if (w.int8_rows) {
    chunk.x8 = x8_memory.get(rows * K);
    chunk.scales = scales_memory.get(rows * groups);
  } else {
    chunk.x = x_memory.get(rows * K);
  }
  for (int r = 0; r < rows; ++r) {
    if (w.int8_rows)
      prepare_int8_row(in, first_row + r, int(K), w.group_size, chunk.x8 + r * K, chunk.scales + r * groups,
                       chunk.sums + r * groups);
    else
      prepare_row(in, first_row + r, int(K), w.group_size, chunk.x + r * K, chunk.sums + r * groups);
  }
  return chunk;
}

// This thread's share of x W^T; all threads of the region call it.
inline void linear_share(const Linear& w, const float* x, float* y, int rows) {
  const int chunks = (rows + CHUNK_ROWS - 1) / CHUNK_ROWS, panels = w.panels();
  const size_t units = size_t(chunks) * panels, threads = omp_get_num_threads(), me = omp_get_thread_num();
  const size_t last = units * (me + 1) / threads;
  for (size_t unit = units * me / threads; unit < last;) {
    const int index = int(unit / panels), begin = int(unit % panels);
    const int end = int(std::min<size_t>(panels, begin + (last - unit)));
    const int first_row = index * CHUNK_ROWS;
    multiply_chunk(w, y, prepare(w, x, first_row, std::min(CHUNK_ROWS, rows - first_row)), begin, end);
    unit += end - begin;
  }
}

}  // namespace raydix

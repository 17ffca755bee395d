// Causal attention over paged K and V whose bits depend on absolute positions only.
//
// One piece of work is a tile of query positions of one sequence and all query heads that share a KV head. Keys come in
// segments of 256 at absolute positions: scores, their maximum, their exponentials and their product with V are computed
// a segment at a time and merged in order (FlashAttention, Dao et al. 2022; fixed segment size after Thinking Machines'
// batch-invariant attention). A masked key has weight 0 and adds nothing, so how far a tile reaches does not matter.
#pragma once

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <tuple>

#include "gemm.h"
#include "scratch.h"

namespace raydix {

// One step's attention; the layer comes with the call. The fields are mirrored in attention.py.
struct Attention {
  const int32_t* block_tables;  // [sequences, table_width]
  const int32_t* query_starts;  // [sequences + 1]
  const int32_t* context_lens;  // [sequences]
  int32_t num_sequences, table_width, block_size, num_heads, num_kv_heads, head_dim;
  float scale;
};

struct AttentionLayer {
  const uint16_t* q;        // bfloat16 [tokens, heads, head_dim]
  const uint16_t* k_cache;  // bfloat16 [blocks, block_size, kv_heads, head_dim]
  const uint16_t* v_cache;
  float* out;               // [tokens, heads, head_dim]
  int32_t window;           // keys a query sees, itself included; 0: all
};

constexpr int SEGMENT = 256;
constexpr int TILE_ROWS = 96;  // at most, queries x heads: their scores fill 96 KiB
constexpr float NEVER = -INFINITY;

struct Work {
  int sequence, kv_head;
  int first_token, num_tokens;  // rows of q
  int first_position;           // of the first token in its sequence
};

// Memory for one piece of work; K and V of a segment as pairs of bfloat16 (see gemm.h).
struct AttentionMemory {
  Scratch<uint32_t> k, v;
  Scratch<uint16_t> q, weights;
  Scratch<float> scores, part, total, maxima, sums;
};

// Where K and V of a segment's keys lie.
struct Keys {
  const uint16_t* k[SEGMENT];
  const uint16_t* v[SEGMENT];
  int count;
};

inline void locate(const Attention& a, const AttentionLayer& layer, const Work& work, int begin, int count,
                   Keys& keys) {
  const int32_t* table = a.block_tables + size_t(work.sequence) * a.table_width;
  keys.count = count;
  for (int i = 0, block = begin / a.block_size, at = begin % a.block_size; i < count; ++block, at = 0)
    for (; at < a.block_size && i < count; ++at, ++i) {
      const size_t slot = size_t(table[block]) * a.block_size + at;
      const size_t offset = (slot * a.num_kv_heads + work.kv_head) * a.head_dim;
      keys.k[i] = layer.k_cache + offset;
      keys.v[i] = layer.v_cache + offset;
    }
}

// Four rounds that swap lanes `distance` apart between vectors `distance` apart.
template <int D>
inline void transpose_round(u32x16 (&v)[16]) {
  i32x16 lane, low, high;
  for (int i = 0; i < LANES; ++i) lane[i] = i;
  low = (i32x16)((lane & D) != 0 ? lane - D + LANES : lane);
  high = (i32x16)((lane & D) != 0 ? lane + LANES : lane + D);
  for (int i = 0; i < 16; ++i) {
    if (i & D) continue;
    const u32x16 a = v[i], b = v[i + D];
    v[i] = __builtin_shuffle(a, b, (u32x16)low);
    v[i + D] = __builtin_shuffle(a, b, (u32x16)high);
  }
}

inline void transpose(u32x16 (&v)[16]) {
  transpose_round<8>(v);
  transpose_round<4>(v);
  transpose_round<2>(v);
  transpose_round<1>(v);
}

inline void prefetch_row(const uint16_t* row, int head_dim) {
  for (int d = 0; d < head_dim; d += 32) __builtin_prefetch(row + d);
}

// K of a segment as [head_dim / 2][SEGMENT] pairs; columns up to the next 16 are zero. The rows to come are fetched
// ahead, K's and V's: they lie apart, which the hardware does not foresee.
inline void pack_keys(const Keys& keys, int head_dim, uint32_t* out) {
  for (int key = 0; key < keys.count; key += LANES) {
    const int rows = std::min(LANES, keys.count - key);
    for (int i = 0; i < rows; ++i) {
      prefetch_row(keys.v[key + i], head_dim);
      prefetch_row(keys.k[std::min(key + LANES + i, keys.count - 1)], head_dim);
    }
    for (int d = 0; d < head_dim / 2; d += LANES) {
      const int width = std::min(LANES, head_dim / 2 - d);
      u32x16 block[LANES] = {};
      for (int i = 0; i < rows; ++i) {
        if (width == LANES)
          block[i] = load<u32x16>(keys.k[key + i] + 2 * d);
        else
          std::memcpy(&block[i], keys.k[key + i] + 2 * d, width * 4);
      }
      transpose(block);
      for (int i = 0; i < width; ++i) store(out + size_t(d + i) * SEGMENT + key, block[i]);
    }
  }
}

// V of a segment as [SEGMENT / 2][head_dim] pairs of neighbouring keys; a key beyond the last is zero.
inline void pack_values(const Keys& keys, int head_dim, uint32_t* out) {
  for (int key = 0; key < keys.count; key += 2)
    for (int d = 0; d < head_dim; d += LANES) {
      u32x16 pair = __builtin_convertvector(load<u16x16>(keys.v[key] + d), u32x16);
      if (key + 1 < keys.count) pair |= __builtin_convertvector(load<u16x16>(keys.v[key + 1] + d), u32x16) << 16;
      store(out + size_t(key) / 2 * head_dim + d, pair);
    }
}

// Scaled scores of 16 keys from `key` on; those outside [first, last) count as never seen.
inline f32x16 visible_scores(const float* scores, float scale, int key, int first, int last) {
  const f32x16 v = load<f32x16>(scores + key) * scale;
  if (key >= first && key + LANES <= last) return v;
  i32x16 at;
  for (int i = 0; i < LANES; ++i) at[i] = key + i;
  return ((at >= first) & (at < last)) ? v : splat(NEVER);
}

// Scores of one row to weights exp(score - maximum) in bfloat16, of which `width` are written; returns the maximum and
// the sum of the weights. The row sees keys [first, last) of the segment.
inline std::pair<float, float> softmax_row(const float* scores, float scale, int first, int last, int width,
                                           uint16_t* weights) {
  const int begin = first / LANES * LANES, end = (last + LANES - 1) / LANES * LANES;
  f32x16 highest = splat(NEVER), total{};
  for (int key = begin; key < end; key += LANES)
    highest = max(highest, visible_scores(scores, scale, key, first, last));
  const float maximum = max(highest);
  std::fill_n(weights, begin, uint16_t(0));
  for (int key = begin; key < end; key += LANES) {
    const f32x16 weight = exp(visible_scores(scores, scale, key, first, last) - maximum);
    total += weight;
    store(weights + key, to_bf16(weight));
  }
  std::fill_n(weights + end, width - end, uint16_t(0));
  return {maximum, sum(total)};
}

// total = total * old + part * fresh
inline void merge_row(float* total, const float* part, float old, float fresh, int head_dim) {
  for (int d = 0; d < head_dim; d += LANES)
    store(total + d, load<f32x16>(total + d) * old + load<f32x16>(part + d) * fresh);
}

struct Tiles {
  int rows, group;
  int last_position;
};

// Each row's scores over one segment to weights, with their maximum (NEVER where the row sees no key of it) and sum.
inline void weigh_segment(const Work& work, const Tiles& tile, int begin, int count, int window, float scale,
                          const float* scores, uint16_t* weights, float* maxima, float* sums) {
  const int width = (count + LANES - 1) / LANES * LANES;
  for (int r = 0; r < tile.rows; ++r, scores += SEGMENT, weights += SEGMENT) {
    const int position = work.first_position + r / tile.group;
    const int first = window ? std::max(0, position + 1 - window - begin) : 0;
    const int last = std::min(count, position + 1 - begin);
    maxima[r] = NEVER;
    if (first < last)
      std::tie(maxima[r], sums[r]) = softmax_row(scores, scale, first, last, width, weights);
    else
      std::fill_n(weights, width, uint16_t(0));
  }
}

// A segment's maximum, sum and weighted sum into the running ones of every row that saw a key of it.
inline void merge_segment(int rows, int head_dim, const float* maxima, const float* sums, const float* part,
                          AttentionMemory& memory) {
  float *running_max = memory.maxima.get(0), *running_sum = memory.sums.get(0), *total = memory.total.get(0);
  for (int r = 0; r < rows; ++r) {
    if (maxima[r] == NEVER) continue;
    const float highest = std::max(running_max[r], maxima[r]);
    const float old = exp_scalar(running_max[r] - highest), fresh = exp_scalar(maxima[r] - highest);
    running_max[r] = highest;
    running_sum[r] = running_sum[r] * old + sums[r] * fresh;
    merge_row(total + r * head_dim, part + r * head_dim, old, fresh, head_dim);
  }
}

// One segment of keys for every row: scores, weights, their product with V, and the merge with the segments before.
inline void attend_segment(const Attention& a, const AttentionLayer& layer, const Work& work, const Tiles& tile,
                           int segment, AttentionMemory& memory) {
  const int D = a.head_dim, begin = segment * SEGMENT;
  const int count = std::min(SEGMENT, tile.last_position + 1 - begin), panels = (count + LANES - 1) / LANES;
  uint32_t* k = memory.k.get(size_t(D) / 2 * SEGMENT);
  uint32_t* v = memory.v.get(size_t(SEGMENT) / 2 * D);
  float* scores = memory.scores.get(size_t(tile.rows) * SEGMENT);
  float* part = memory.part.get(size_t(tile.rows) * D);
  uint16_t* weights = memory.weights.get(size_t(tile.rows) * SEGMENT);
  float maxima[TILE_ROWS], sums[TILE_ROWS];
  Keys keys;
  locate(a, layer, work, begin, count, keys);
  pack_keys(keys, D, k);
  pack_values(keys, D, v);
  product({{k, SEGMENT, LANES}, D / 2, memory.q.get(0), size_t(D), scores, SEGMENT}, tile.rows, panels);
  weigh_segment(work, tile, begin, count, layer.window, a.scale, scores, weights, maxima, sums);
  product({{v, size_t(D), LANES}, (count + 1) / 2, weights, SEGMENT, part, size_t(D)}, tile.rows, D / LANES);
  merge_segment(tile.rows, D, maxima, sums, part, memory);
}

// All rows of one piece of work: row r is query r / group, head r % group of the KV head's.
inline void attend(const Attention& a, const AttentionLayer& layer, const Work& work) {
  thread_local AttentionMemory memory;
  const int D = a.head_dim, group = a.num_heads / a.num_kv_heads, rows = work.num_tokens * group;
  const Tiles tile{rows, group, work.first_position + work.num_tokens - 1};
  uint16_t* q = memory.q.get(size_t(rows) * D);
  const auto row_of = [&](int r) {
    return ((size_t(work.first_token) + r / group) * a.num_heads + size_t(work.kv_head) * group + r % group) * D;
  };
  for (int r = 0; r < rows; ++r) std::copy_n(layer.q + row_of(r), D, q + size_t(r) * D);
  float* total = memory.total.get(size_t(rows) * D);
  std::fill_n(total, size_t(rows) * D, 0.0f);
  std::fill_n(memory.maxima.get(rows), rows, NEVER);
  float* sums = memory.sums.get(rows);
  std::fill_n(sums, rows, 0.0f);
  const int first_key = layer.window ? std::max(0, work.first_position + 1 - layer.window) : 0;
  for (int segment = first_key / SEGMENT; segment * SEGMENT <= tile.last_position; ++segment)
    attend_segment(a, layer, work, tile, segment, memory);
  for (int r = 0; r < rows; ++r)
    for (int d = 0; d < D; d += LANES)
      store(layer.out + row_of(r) + d, load<f32x16>(total + size_t(r) * D + d) / sums[r]);
}

// This thread's share of a layer's attention; all threads of the region call it, and wait for each other behind it.
inline void attention_share(const Attention& a, const AttentionLayer& layer) {
  const int group = a.num_heads / a.num_kv_heads, step = std::max(1, TILE_ROWS / group);
  for (int s = 0; s < a.num_sequences; ++s) {
    const int begin = a.query_starts[s], new_tokens = a.query_starts[s + 1] - begin;
    const int tiles = (new_tokens + step - 1) / step;
    // The last tiles attend to most keys: they come first.
#pragma omp for schedule(dynamic) nowait
    for (int index = 0; index < tiles * a.num_kv_heads; ++index) {
      const int first = (tiles - 1 - index / a.num_kv_heads) * step;
      attend(a, layer, {s, index % a.num_kv_heads, begin + first, std::min(step, new_tokens - first),
                        a.context_lens[s] - new_tokens + first});
    }
  }
}

}  // namespace raydix

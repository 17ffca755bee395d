// The packed int4 weight as the CPU reads it, and its products.
//
// A panel is 16 outputs; for each group of its inputs it holds one line of coefficients (16 scales and 16 offsets 128 +
// zero point, all float16) and group_size / 8 lines of nibbles. Lane n of a line of nibbles is a word with 8 inputs of
// output n: the pair (2j, 2j + 1) stands at bits 4j and 4j + 16. So a shift, an and and an or make a pair of bfloat16
// out of it: 0x4300 | q is exactly 128 + q. The offset is subtracted once a group, through the sum of the inputs:
//     sum_k (q_k - z) x_k = sum_k (128 + q_k) x_k - (128 + z) sum_k x_k
// and the scale is applied after the dot product, in float32.
#pragma once

#include "gemm.h"

namespace raydix {

constexpr int LINE_BYTES = 64;

inline size_t group_bytes(int group_size) { return LINE_BYTES + size_t(group_size) * 8; }

inline u32x16 unpack_pair(u32x16 nibbles, int j) { return ((nibbles >> (4 * j)) & 0x000f000fu) | 0x43004300u; }

// Panels that come next, into the L2 cache. Panels are short, and what the hardware foresees ends with them: one row of a
// 576 x 3072 weight took 45 us without and 30 with it. A few lines ahead into L1 was slower than nothing, and a layout in
// which a thread reads one stream slower than four.
inline void fetch_ahead(const void* from) { __builtin_prefetch(from, 0, 2); }

// out + scale * (acc - offset * sum_x), the same two fused operations wherever it is used.
inline f32x16 add_group(f32x16 out, f32x16 acc, const uint8_t* group, float sum_x) {
  const f32x16 scale = f32_from_f16((const uint16_t*)group);
  const f32x16 offset = f32_from_f16((const uint16_t*)group + LANES);
  const f32x16 centred = acc - offset * sum_x;
  return out + scale * centred;
}

// Rows times panels of a packed weight, all inputs.
struct Int4Product {
  const uint8_t* weight;  // first panel
  size_t panel_bytes;
  int num_groups, group_size;
  const uint16_t* x;    // bfloat16 rows, num_groups * group_size apart; or null where they are int8:
  const int8_t* x8;
  const float* scales;  // [rows, num_groups], of int8 rows
  const float* sums;    // [rows, num_groups]
  float* out;
  size_t ldo;

  // The same from row r and panel b on.
  Int4Product part(int r, int b) const {
    Int4Product p = *this;
    const size_t inputs = size_t(num_groups) * group_size;
    p.weight += b * panel_bytes;
    if (x8) {
      p.x8 += r * inputs;
      p.scales += size_t(r) * num_groups;
    } else {
      p.x += r * inputs;
    }
    p.sums += size_t(r) * num_groups;
    p.out += r * ldo + b * LANES;
    return p;
  }
};

// R rows times NB panels, unpacked in registers and read once. Unpacking a tile into the cache for all rows first was no
// faster at any number of rows: 183 against 186 GFLOP/s a Zen 4 core (group size 32, 96 rows, in cache).
template <int R, int NB>
inline void int4_rows(const Int4Product& p) {
  f32x16 total[R][NB] = {};
  const uint8_t* group = p.weight;
  for (int g = 0; g < p.num_groups; ++g, group += group_bytes(p.group_size)) {
    f32x16 acc[R][NB] = {};
    for (int line = 0; line < p.group_size / 8; ++line) {
      u32x16 nibbles[NB];
#pragma GCC unroll 8
      for (int b = 0; b < NB; ++b) {
        const uint8_t* from = group + b * p.panel_bytes + (line + 1) * LINE_BYTES;
        nibbles[b] = load<u32x16>(from);
        fetch_ahead(from + NB * p.panel_bytes);
      }
      const uint16_t* x = p.x + g * p.group_size + line * 8;
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) {
        u32x16 w[NB];
#pragma GCC unroll 8
        for (int b = 0; b < NB; ++b) w[b] = unpack_pair(nibbles[b], j);
        multiply_pair<R, NB>(acc, w, x + 2 * j, size_t(p.num_groups) * p.group_size);
      }
    }
#pragma GCC unroll 8
    for (int b = 0; b < NB; ++b)
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r)
        total[r][b] = add_group(total[r][b], acc[r][b], group + b * p.panel_bytes, p.sums[r * p.num_groups + g]);
  }
  for (int r = 0; r < R; ++r)
    for (int b = 0; b < NB; ++b) store(p.out + r * p.ldo + b * LANES, total[r][b]);
}

// The same with int8 rows: integers are multiplied and summed exactly within a group, twice as many at a time.
template <int R, int NB>
inline void int8_rows(const Int4Product& p) {
  f32x16 total[R][NB] = {};
  const uint8_t* group = p.weight;
  const size_t ldx = size_t(p.num_groups) * p.group_size;
  for (int g = 0; g < p.num_groups; ++g, group += group_bytes(p.group_size)) {
    i32x16 acc[R][NB] = {};
    for (int line = 0; line < p.group_size / 8; ++line) {
      u32x16 w[2][NB];
#pragma GCC unroll 8
      for (int b = 0; b < NB; ++b) {
        const uint8_t* from = group + b * p.panel_bytes + (line + 1) * LINE_BYTES;
        const u32x16 nibbles = load<u32x16>(from);
        fetch_ahead(from + NB * p.panel_bytes);
        w[0][b] = nibbles & 0x0f0f0f0fu;
        w[1][b] = (nibbles >> 4) & 0x0f0f0f0fu;
      }
      const int8_t* x = p.x8 + g * p.group_size + line * 8;
#pragma GCC unroll 8
      for (int half = 0; half < 2; ++half)
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) {
          uint32_t quad;
          std::memcpy(&quad, x + r * ldx + 4 * half, 4);
          const u32x16 xs = splat(quad);
#pragma GCC unroll 8
          for (int b = 0; b < NB; ++b) acc[r][b] = dot_quads(acc[r][b], w[half][b], xs);
        }
    }
#pragma GCC unroll 8
    for (int b = 0; b < NB; ++b) {
      const f32x16 scale = f32_from_f16((const uint16_t*)(group + b * p.panel_bytes));
      const f32x16 zero = f32_from_f16((const uint16_t*)(group + b * p.panel_bytes) + LANES) - 128.0f;
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        const float row_scale = p.scales[r * p.num_groups + g], sum_x = p.sums[r * p.num_groups + g];
        const f32x16 centred = __builtin_convertvector(acc[r][b], f32x16) * row_scale - zero * sum_x;
        total[r][b] = total[r][b] + scale * centred;
      }
    }
  }
  for (int r = 0; r < R; ++r)
    for (int b = 0; b < NB; ++b) store(p.out + r * p.ldo + b * LANES, total[r][b]);
}

// The registers hold 8 x 2 or 6 x 4 accumulators with AVX-512 (totals are kept on the stack), 2 x 2 with AVX2.
#ifdef __AVX512F__
constexpr int INT4_ROWS = 8;
template <int R>
constexpr int INT4_PANELS = R <= 6 ? 4 : 2;
#else
constexpr int INT4_ROWS = 2;
template <int R>
constexpr int INT4_PANELS = 2;
#endif

// Any number of rows and panels.
inline void int4_product(const Int4Product& whole, int rows, int panels) {
  for (int r = 0; r < rows; r += INT4_ROWS) {
    dispatch<INT4_ROWS>(rows - r < INT4_ROWS ? rows - r : INT4_ROWS, [&](auto R) {
      constexpr int NB = INT4_PANELS<R()>;
      for (int b = 0; b < panels; b += NB) {
        const Int4Product p = whole.part(r, b);
        dispatch<NB>(panels - b < NB ? panels - b : NB, [&](auto N) {
          p.x8 ? int8_rows<R(), N()>(p) : int4_rows<R(), N()>(p);
        });
      }
    });
  }
}

}  // namespace raydix

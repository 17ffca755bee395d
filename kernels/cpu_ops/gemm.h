// The one inner loop of everything here: R rows of bfloat16 times a tile of NB panels of 16 columns, in float32.
//
// Each element of the result is one chain of additions over k in rising order, whatever R and NB are. So a row has the
// same bits in a batch of any size, which is what makes strict numerics free on a CPU.
#pragma once

#include <type_traits>

#include "simd.h"

namespace raydix {

// Where a tile's pairs (k, k + 1) of columns 16b to 16b + 15 lie: base + pair * pair_stride + b * panel_stride, in words.
struct Tile {
  const uint32_t* base;
  size_t pair_stride;
  size_t panel_stride;
};

// acc[r][b] += w[b] * the pair of row r that begins at x.
template <int R, int NB>
inline void multiply_pair(f32x16 (&acc)[R][NB], const u32x16 (&w)[NB], const uint16_t* x, size_t ldx) {
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
    uint32_t pair;
    std::memcpy(&pair, x + r * ldx, 4);
    const u32x16 xs = splat(pair);
#pragma GCC unroll 8
    for (int b = 0; b < NB; ++b) acc[r][b] = dot_pairs(acc[r][b], w[b], xs);
  }
}

// out[r, 16b + lane] = x * tile; x in bfloat16, `ldx` elements between its rows and `ldo` between those of out.
struct Product {
  Tile tile;
  int num_pairs;
  const uint16_t* x;
  size_t ldx;
  float* out;
  size_t ldo;
};

template <int R, int NB>
inline void product_block(const Product& p) {
  f32x16 acc[R][NB] = {};
  for (int pair = 0; pair < p.num_pairs; ++pair) {
    u32x16 w[NB];
#pragma GCC unroll 8
    for (int b = 0; b < NB; ++b) w[b] = load<u32x16>(p.tile.base + pair * p.tile.pair_stride + b * p.tile.panel_stride);
    multiply_pair<R, NB>(acc, w, p.x + 2 * pair, p.ldx);
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
    for (int b = 0; b < NB; ++b) store(p.out + r * p.ldo + b * LANES, acc[r][b]);
}

// The registers of AVX-512 hold 6 x 4 accumulators beside 4 of weights; those of AVX2 hold 2 x 2.
#ifdef __AVX512F__
constexpr int ROWS = 6;
constexpr int PANELS = 4;
#else
constexpr int ROWS = 2;
constexpr int PANELS = 2;
#endif

// Calls f(std::integral_constant<int, n>) for the n in 1..Max that is asked for at run time.
template <int Max, class F>
inline void dispatch(int n, F&& f) {
  if constexpr (Max > 1) {
    if (n < Max) return dispatch<Max - 1>(n, f);
  }
  f(std::integral_constant<int, Max>{});
}

// Any number of rows and panels, cut into blocks that fit the registers.
inline void product(const Product& whole, int rows, int panels) {
  for (int b = 0; b < panels; b += PANELS)
    for (int r = 0; r < rows; r += ROWS) {
      Product p = whole;
      p.tile.base += b * p.tile.panel_stride;
      p.x += r * p.ldx;
      p.out += r * p.ldo + b * LANES;
      dispatch<ROWS>(rows - r < ROWS ? rows - r : ROWS, [&](auto R) {
        dispatch<PANELS>(panels - b < PANELS ? panels - b : PANELS, [&](auto NB) { product_block<R(), NB()>(p); });
      });
    }
}

}  // namespace raydix

// From rows of a weight as they are loaded to panels of 16 outputs, as int4.h and gemm.h read them.
#pragma once

#include <cstdint>
#include <cstring>

#include "int4.h"

namespace raydix {

// A packed matrix [N, K] as kernels/int4.py has it; the fields are mirrored in packing.py.
struct Int4Rows {
  const uint8_t* nibbles;   // [N, K / 2], the first weight of a byte in its high half
  const uint16_t* scales;   // float16 [N, groups]
  const uint16_t* offsets;  // float16 [N, groups], 128 + zero point
  int32_t num_outputs, num_inputs, group_size;
};

// Eight weights of a row, two a byte, to the pairs (2j, 2j + 1) at bits 4j and 4j + 16.
inline uint32_t pairs_of(uint32_t bytes) {
  uint32_t even = (bytes >> 4) & 0x0f0f0f0fu, odd = bytes & 0x0f0f0f0fu;
  even = (even | even >> 4) & 0x00ff00ffu;
  odd = (odd | odd >> 4) & 0x00ff00ffu;
  return ((even | even >> 8) & 0xffffu) | (odd | odd >> 8) << 16;
}

// One row's part of its panel; `to` is the panel and the row's lane in it. Words of one row are LANES apart.
inline void pack_int4_row(const Int4Rows& w, int row, uint32_t* to) {
  const int groups = w.num_inputs / w.group_size, lines = w.group_size / 8, lane = row % LANES;
  const uint8_t* from = w.nibbles + size_t(row) * w.num_inputs / 2;
  for (int g = 0; g < groups; ++g) {
    uint16_t* coefficients = (uint16_t*)to;
    coefficients[lane] = w.scales[size_t(row) * groups + g];
    coefficients[LANES + lane] = w.offsets[size_t(row) * groups + g];
    to += LINE_BYTES / 4;
    for (int line = 0; line < lines; ++line, from += 4, to += LANES) {
      uint32_t bytes;
      std::memcpy(&bytes, from, 4);
      to[lane] = pairs_of(bytes);
    }
  }
}

// Panels of 32-bit words, one column of 16 rows after another.
inline void pack_words_row(const uint32_t* from, int64_t columns, uint32_t* to) {
  for (int64_t column = 0; column < columns; ++column) to[column * LANES] = from[column];
}

}  // namespace raydix

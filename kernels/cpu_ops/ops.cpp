// What Python calls: packing of weights, one linear layer, one layer's attention, or all layers of a decoder for one step.
#include "attention.h"
#include "barrier.h"
#include "linear.h"
#include "packing.h"
#include "rope.h"

using namespace raydix;

// One layer of a decoder; the fields are mirrored in layers.py.
struct Layer {
  Linear qkv_proj, o_proj, gate_up_proj, down_proj;
  HeadNorms norms;
  int32_t window;
};

// What a step computes in; the fields are mirrored in layers.py.
struct Buffers {
  float* hidden;    // [tokens, hidden], in and out
  float* qkv;       // [tokens, (heads + 2 kv_heads) * head_dim]
  uint16_t* q;      // bfloat16 [tokens, heads * head_dim]
  float* attended;  // [tokens, heads * head_dim]
  float* gate_up;   // [tokens, 2 * intermediate]
  uint16_t* cache;  // bfloat16 [layers, 2, blocks, block_size, kv_heads, head_dim]
  int64_t kv_size;  // elements of K of one layer, and as many of V
};

// `out` is zeros where the last panel has fewer than 16 rows.
extern "C" void raydix_pack_int4(const Int4Rows* w, uint32_t* out, int32_t num_threads) {
  const size_t panel_words = size_t(w->num_inputs / w->group_size) * group_bytes(w->group_size) / 4;
#pragma omp parallel for num_threads(num_threads)
  for (int row = 0; row < w->num_outputs; ++row) pack_int4_row(*w, row, out + row / LANES * panel_words);
}

extern "C" void raydix_pack_words(const uint32_t* rows, uint32_t* out, int64_t num_rows, int64_t columns,
                                  int32_t num_threads) {
#pragma omp parallel for num_threads(num_threads)
  for (int64_t row = 0; row < num_rows; ++row)
    pack_words_row(rows + row * columns, columns, out + row / LANES * columns * LANES + row % LANES);
}

extern "C" void raydix_linear(const Linear* w, const float* x, float* y, int32_t rows, int32_t num_threads) {
#pragma omp parallel num_threads(num_threads)
  linear_share(*w, x, y, rows);
}

extern "C" void raydix_attention(const Rope* rope, const Attention* attention, const HeadNorms* norms, const float* qkv,
                                 uint16_t* q, uint16_t* k_cache, uint16_t* v_cache, float* out, int32_t window,
                                 int32_t num_threads) {
#pragma omp parallel num_threads(num_threads)
  {
    rope_share(*rope, *norms, {qkv, q, k_cache, v_cache});
#pragma omp barrier
    attention_share(*attention, {q, k_cache, v_cache, out, window});
  }
}

// One team of threads for the whole step: between two operations there is a barrier of a microsecond, where a call from
// Python and waking the threads again take ten.
extern "C" void raydix_layers(const Layer* layers, int32_t num_layers, const Rope* rope, const Attention* attention,
                              const Buffers* b, int32_t num_threads) {
  const int rows = rope->num_tokens;
  Barrier barrier;
#pragma omp parallel num_threads(num_threads)
  for (int i = 0; i < num_layers; ++i) {
    const Layer& layer = layers[i];
    uint16_t *k_cache = b->cache + 2 * i * b->kv_size, *v_cache = k_cache + b->kv_size;
    linear_share(layer.qkv_proj, b->hidden, b->qkv, rows);
    barrier.wait();
    rope_share(*rope, layer.norms, {b->qkv, b->q, k_cache, v_cache});
    barrier.wait();
    attention_share(*attention, {b->q, k_cache, v_cache, b->attended, layer.window});
    barrier.wait();
    linear_share(layer.o_proj, b->attended, b->hidden, rows);
    barrier.wait();
    linear_share(layer.gate_up_proj, b->hidden, b->gate_up, rows);
    barrier.wait();
    linear_share(layer.down_proj, b->gate_up, b->hidden, rows);
    barrier.wait();
  }
}

#include "cli/runtime/torch/block_softmax.h"

#include <algorithm>
#include <cstring>

namespace polykv::runtime {
namespace {

// Sixteen lanes by the compiler's vectors: one source for every instruction set that softmax_row is cloned for.
constexpr std::size_t kLanes = 16;
typedef float Floats __attribute__((vector_size(kLanes * 4)));
typedef std::int32_t Ints __attribute__((vector_size(kLanes * 4)));
typedef std::uint32_t Words __attribute__((vector_size(kLanes * 4)));
typedef std::uint16_t Halves __attribute__((vector_size(kLanes * 2)));

#define POLYKV_INLINE inline __attribute__((always_inline))

POLYKV_INLINE Floats load(const std::uint16_t* bits) {
  Halves halves;
  std::memcpy(&halves, bits, sizeof halves);
  return (Floats)(__builtin_convertvector(halves, Words) << 16);
}

// Nearest even. Weights are in [0, 1]: no infinity, no NaN.
POLYKV_INLINE Halves round(Floats values) {
  const Words bits = (Words)values;
  return __builtin_convertvector((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16, Halves);
}

// 2^x for x <= 0: the polynomial of 2^f on [-1/2, 1/2] (Taylor in f ln 2, relative error below 4e-6, where bfloat16
// keeps 4e-3), scaled through the exponent's bits. Below -126 the result is 2^-126: nothing.
POLYKV_INLINE Floats exp2_of(Floats x) {
  const Floats lowest = Floats{} - 126.0f;
  x = x > lowest ? x : lowest;
  const float magic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  const Floats whole = (x + magic) - magic;
  const Floats f = x - whole;
  Floats p = f * 1.3333558e-3f + 9.6181291e-3f;
  p = p * f + 5.5504109e-2f;
  p = p * f + 2.4022651e-1f;
  p = p * f + 6.9314718e-1f;
  p = p * f + 1.0f;
  return (Floats)((Ints)p + (__builtin_convertvector(whole, Ints) << 23));
}

// One row whose first `visible` columns count; `visible` is at least 1. Columns are taken sixteen at a time; the last
// ones through a copy filled up with -infinity's stand-in.
__attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default"))) float softmax_row(std::uint16_t* scores,
                                                                                                std::size_t num_cols,
                                                                                                std::size_t visible) {
  constexpr std::uint16_t kLowest = 0xff7f;  // the most negative finite bfloat16: its weight is 2^-126, then cut
  const std::size_t whole = visible / kLanes * kLanes;
  std::uint16_t last[kLanes];
  std::fill(last, last + kLanes, kLowest);
  std::copy(scores + whole, scores + visible, last);

  Floats largest = load(last);
  for (std::size_t c = 0; c < whole; c += kLanes) {
    const Floats x = load(scores + c);
    largest = x > largest ? x : largest;
  }
  float top = largest[0];
  for (std::size_t i = 1; i < kLanes; ++i) top = std::max(top, largest[i]);

  constexpr float kLog2E = 1.44269504f;
  Floats sums{};
  for (std::size_t c = 0; c < whole; c += kLanes) {
    const Halves weights = round(exp2_of((load(scores + c) - top) * kLog2E));
    std::memcpy(scores + c, &weights, sizeof weights);
    sums += (Floats)(__builtin_convertvector(weights, Words) << 16);
  }
  const Halves weights = round(exp2_of((load(last) - top) * kLog2E));
  for (std::size_t i = 0; whole + i < visible; ++i) scores[whole + i] = weights[i];
  sums += (Floats)(__builtin_convertvector(weights, Words) << 16);
  std::fill(scores + visible, scores + num_cols, std::uint16_t{0});
  float sum = 0.0f;
  for (std::size_t i = 0; i < kLanes; ++i) sum += sums[i];
  return sum;
}

#undef POLYKV_INLINE

}  // namespace

void block_softmax(std::uint16_t* scores, std::size_t num_rows, std::size_t num_cols, std::size_t first_row,
                   std::size_t block_rows, float* sums) {
  for (std::size_t r = 0; r < num_rows; ++r) {
    const std::size_t visible = num_cols - block_rows + (first_row + r) % block_rows + 1;
    sums[r] = softmax_row(scores + r * num_cols, num_cols, visible);
  }
}

}  // namespace polykv::runtime

#include <algorithm>
#include <cmath>

#include "core/float16.h"
#include "core/kernels/prefill.h"

namespace polykv::core {
namespace {

void multiply(const std::uint16_t* x, std::size_t x_stride, std::size_t num_rows, const std::uint16_t* weights,
              std::size_t num_cols, std::size_t num_tiles, float* out, std::size_t out_stride) {
  for (std::size_t r = 0; r < num_rows; ++r) {
    for (std::size_t o = 0; o < num_tiles * kMatrixOutputs; ++o) {
      const std::uint16_t* tile = weights + o / kMatrixOutputs * num_cols * kMatrixOutputs;
      double sum = 0.0;
      for (std::size_t k = 0; k < num_cols; ++k) {
        const std::uint16_t weight = tile[(k / 2 * kMatrixOutputs + o % kMatrixOutputs) * 2 + k % 2];
        sum += static_cast<double>(bfloat16_to_float(x[r * x_stride + k])) *
               static_cast<double>(bfloat16_to_float(weight));
      }
      out[r * out_stride + o] = static_cast<float>(sum);
    }
  }
}

double score_of(const CausalHead& head, std::size_t row, std::size_t position) {
  double score = 0.0;
  for (std::size_t d = 0; d < head.head_dim; ++d) {
    score += static_cast<double>(bfloat16_to_float(head.query[(row - head.first_query) * head.head_dim + d])) *
             static_cast<double>(bfloat16_to_float(head.keys[position * head.head_dim + d]));
  }
  return score;
}

void attend_row(const CausalHead& head, std::size_t row, std::uint16_t* out, double* mixed) {
  double largest = score_of(head, row, 0);
  for (std::size_t t = 1; t <= row; ++t) largest = std::max(largest, score_of(head, row, t));
  std::fill_n(mixed, head.head_dim, 0.0);
  double sum = 0.0;
  for (std::size_t t = 0; t <= row; ++t) {
    const double weight = std::exp2(score_of(head, row, t) - largest);
    sum += weight;
    for (std::size_t d = 0; d < head.head_dim; ++d) {
      mixed[d] += weight * static_cast<double>(bfloat16_to_float(head.values[(t / 2 * head.head_dim + d) * 2 + t % 2]));
    }
  }
  for (std::size_t d = 0; d < head.head_dim; ++d) out[d] = float_to_bfloat16(static_cast<float>(mixed[d] / sum));
}

std::size_t causal_scratch_bytes(std::size_t head_dim) { return head_dim * sizeof(double); }

void attend(const CausalHead& head, std::size_t first_row, std::uint16_t* out, std::size_t out_stride,
            std::byte* scratch) {
  const std::size_t end = std::min(first_row + kCausalRows, head.num_tokens);
  for (std::size_t row = first_row; row < end; ++row) {
    attend_row(head, row, out + (row - first_row) * out_stride, reinterpret_cast<double*>(scratch));
  }
}

}  // namespace

const PrefillKernels kPrefillScalar{"scalar", multiply, attend, causal_scratch_bytes};

}  // namespace polykv::core

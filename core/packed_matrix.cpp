#include "core/packed_matrix.h"

#include <cstring>
#include <vector>

#include "core/kernels/kernels.h"
#include "core/kernels/prefill.h"
#include "core/kernels/rows.h"

namespace polykv::core {
namespace {

// out [num_cols / 2][kMatrixOutputs] pairs. Sixteen columns of all rows at a time, so that lines that are written stay
// near.
void interleave(const std::vector<std::uint16_t>& rows, std::size_t num_cols, std::uint16_t* out) {
  constexpr std::size_t kPairs = 16;
  for (std::size_t first = 0; first < num_cols / 2; first += kPairs) {
    const std::size_t end = std::min(first + kPairs, num_cols / 2);
    for (std::size_t o = 0; o < kMatrixOutputs; ++o) {
      for (std::size_t pair = first; pair < end; ++pair)
        std::memcpy(out + (pair * kMatrixOutputs + o) * 2, &rows[o * num_cols + pair * 2], 4);
    }
  }
}

}  // namespace

PackedMatrix::PackedMatrix(Workers& workers, std::span<const Source> outputs, std::size_t num_cols)
    : num_cols_((num_cols + 1) / 2 * 2),
      num_tiles_((outputs.size() + kMatrixOutputs - 1) / kMatrixOutputs),
      weights_(new std::uint16_t[num_tiles_ * kMatrixOutputs * num_cols_]) {
  const RowKernels& kernels = *active_kernels().rows;
  workers.run(num_tiles_, [&](std::size_t tile, std::size_t) {
    std::vector<float> row(num_cols);
    std::vector<std::uint16_t> rows(kMatrixOutputs * num_cols_, 0);
    for (std::size_t o = 0; o < kMatrixOutputs && tile * kMatrixOutputs + o < outputs.size(); ++o) {
      const Source& source = outputs[tile * kMatrixOutputs + o];
      if (source.matrix == nullptr) continue;
      dequantize_row(*source.matrix, source.row, row);
      kernels.to_bfloat16(row.data(), num_cols, &rows[o * num_cols_]);
    }
    interleave(rows, num_cols_, weights_.get() + tile * kMatrixOutputs * num_cols_);
  });
}

std::size_t PackedMatrix::num_outputs() const { return num_tiles_ * kMatrixOutputs; }

const std::uint16_t* PackedMatrix::tile(std::size_t index) const {
  return weights_.get() + index * kMatrixOutputs * num_cols_;
}

}  // namespace polykv::core

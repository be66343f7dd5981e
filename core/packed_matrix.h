// Rows of weight matrices in the arrangement of the prefill's kernels: bfloat16, tiles of outputs, pairs of columns.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "core/weight_matrix.h"
#include "core/workers.h"

namespace polykv::core {

class PackedMatrix {
 public:
  // Which stored row an output is; null: an output of zeros.
  struct Source {
    const WeightMatrix* matrix = nullptr;
    std::size_t row = 0;
  };

  // One output each; the last tile is filled up with zeros. All sources have `num_cols` columns; an odd number is made
  // even with zeros.
  PackedMatrix(Workers& workers, std::span<const Source> outputs, std::size_t num_cols);

  std::size_t num_cols() const { return num_cols_; }  // even
  std::size_t num_tiles() const { return num_tiles_; }
  std::size_t num_outputs() const;  // a multiple of kMatrixOutputs
  const std::uint16_t* tile(std::size_t index) const;

 private:
  std::size_t num_cols_, num_tiles_;
  std::unique_ptr<std::uint16_t[]> weights_;
};

}  // namespace polykv::core

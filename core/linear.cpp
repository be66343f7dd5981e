#include "core/linear.h"

#include <algorithm>
#include <cstring>
#include <functional>

#include "core/kernels/kernels.h"
#include "core/kernels/rows.h"

namespace polykv::core {

namespace {

constexpr std::size_t kPackedAlignment = 64;
constexpr std::size_t kRowsWorthHandingOut = 4;  // with fewer, handing them out costs more than quantizing them

// The start of the aligned part of a buffer that is kPackedAlignment longer than needed.
const std::byte* aligned(const std::vector<std::byte>& buffer) {
  const std::size_t address = reinterpret_cast<std::uintptr_t>(buffer.data());
  return buffer.data() + (kPackedAlignment - address % kPackedAlignment) % kPackedAlignment;
}

// How many parts a matrix is cut into: several for each thread, so that a thread that was late or slow leaves its parts
// to others, but none so small that handing it out costs more than a few percent of it.
std::size_t num_parts(const WeightMatrix& weights, std::size_t num_rows, std::size_t num_threads) {
  constexpr std::size_t kOutputsAtOnce = 16;
  constexpr std::size_t kPartsPerThread = 4;
  constexpr std::size_t kLeastPart = 16 * 1024;  // weight bytes times rows, about a microsecond
  if (num_threads == 1) return 1;
  const std::size_t work = weights.num_rows * weight_row_bytes(weights.type, weights.num_cols) * num_rows;
  const std::size_t parts = std::min(work / kLeastPart, num_threads * kPartsPerThread);
  return std::clamp<std::size_t>(parts, 1, std::max<std::size_t>(weights.num_rows / kOutputsAtOnce, 1));
}

}  // namespace

void Activations::assign(std::span<const float> values, std::size_t num_rows, std::size_t num_cols, Workers& workers) {
  num_rows_ = num_rows;
  num_cols_ = num_cols;
  kernels_ = active_kernels().linear;
  const std::size_t num_all_blocks = num_rows * num_blocks();
  const std::size_t stride = num_blocks() * 32;
  values_.resize(num_rows * stride);
  codes_.resize(num_rows * stride);
  scales_.resize(num_all_blocks);
  code_sums_.resize(num_all_blocks);
  block_sums_.resize(num_all_blocks);
  const RowKernels& rows = *active_kernels().rows;
  const auto assign_row = [&](std::size_t row, std::size_t) {
    float* to = &values_[row * stride];
    std::copy_n(&values[row * num_cols], num_cols, to);
    std::fill(to + num_cols, to + stride, 0.0f);
    const std::size_t block = row * num_blocks();
    rows.quantize(to, num_blocks(), &codes_[row * stride], &scales_[block], &code_sums_[block], &block_sums_[block]);
  };
  if (num_rows < kRowsWorthHandingOut) {
    for (std::size_t row = 0; row < num_rows; ++row) assign_row(row, 0);
  } else {
    workers.run(num_rows, std::ref(assign_row));
  }
  const std::size_t packed_bytes = kernels_->packed_bytes(num_rows, num_blocks());
  if (packed_.size() < packed_bytes + kPackedAlignment) packed_.resize(packed_bytes + kPackedAlignment);
  if (packed_bytes != 0) kernels_->pack(view(), packed_.data() + (aligned(packed_) - packed_.data()));
}

ActivationView Activations::view() const {
  return {num_rows_,      num_cols_,         num_blocks(),       values_.data(),  codes_.data(),
          scales_.data(), code_sums_.data(), block_sums_.data(), aligned(packed_)};
}

void linear(const Activations& x, std::span<const LinearLayer> layers, Workers& workers) {
  const ActivationView view = x.view();
  const LinearKernels& kernels = x.kernels();
  struct Part {
    const LinearLayer* layer;
    std::size_t begin, end;
  };
  std::vector<Part> parts;
  for (const LinearLayer& layer : layers) {
    // Parts begin at multiples of 16 outputs where there are as many: a cache line of `out` then has one writer.
    const std::size_t num_outputs = layer.weights.num_rows;
    const std::size_t count = num_parts(layer.weights, view.num_rows, workers.num_threads());
    for (std::size_t part = 0; part < count; ++part) {
      const std::size_t end = part + 1 == count ? num_outputs : num_outputs / 16 * (part + 1) / count * 16;
      parts.push_back({&layer, num_outputs / 16 * part / count * 16, end});
    }
  }
  const auto task = [&](std::size_t index, std::size_t) {
    const Part& part = parts[index];
    const std::size_t num_outputs = part.layer->weights.num_rows;
    float* out = part.layer->out.data();
    kernels.multiply(view, part.layer->weights, part.begin, part.end - part.begin, out + part.begin, num_outputs);
    if (part.layer->bias.empty()) return;
    for (std::size_t row = 0; row < view.num_rows; ++row) {
      active_kernels().rows->add(&part.layer->bias[part.begin], part.end - part.begin,
                                 out + row * num_outputs + part.begin);
    }
  };
  workers.run(parts.size(), std::ref(task));
}

}  // namespace polykv::core

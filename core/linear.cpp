#include "core/linear.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <functional>

#include "core/kernels/kernels.h"

namespace polykv::core {

namespace {

constexpr std::size_t kPackedAlignment = 64;

// The start of the aligned part of a buffer that is kPackedAlignment longer than needed.
const std::byte* aligned(const std::vector<std::byte>& buffer) {
  const std::size_t address = reinterpret_cast<std::uintptr_t>(buffer.data());
  return buffer.data() + (kPackedAlignment - address % kPackedAlignment) % kPackedAlignment;
}

// codes, and their sum, of 32 values; returns the scale. Bit arithmetic and one constant instead of lrint, so that
// compilers vectorize it for any CPU and every CPU gets the same codes.
float quantize_block(const float* values, std::int16_t* codes, std::int32_t& code_sum) {
  std::uint32_t largest = 0;
  for (std::size_t i = 0; i < 32; ++i) {
    largest = std::max(largest, std::bit_cast<std::uint32_t>(values[i]) & 0x7fffffffu);
  }
  constexpr std::uint32_t kTiny = std::bit_cast<std::uint32_t>(0x1p-100f);
  constexpr std::uint32_t kInfinity = 0x7f800000u;
  if (largest < kTiny || largest >= kInfinity) {  // 16383 / largest is finite for the rest
    std::fill_n(codes, 32, std::int16_t{0});
    code_sum = 0;
    return largest < kTiny ? 0.0f : std::bit_cast<float>(0x7fc00000u);
  }
  constexpr float kMaxCode = kMaxActivationCode;
  const float inverse = kMaxCode / std::bit_cast<float>(largest);
  // Adding 1.5 * 2^23 makes the unit of the last place 1: the float unit rounds to the nearest integer, ties to even.
  constexpr float kRound = 0x1.8p23f;
  constexpr std::int32_t kRoundBits = std::bit_cast<std::int32_t>(kRound);
  std::int32_t sum = 0;
  for (std::size_t i = 0; i < 32; ++i) {
    const std::int32_t code = std::bit_cast<std::int32_t>(values[i] * inverse + kRound) - kRoundBits;
    codes[i] = static_cast<std::int16_t>(code);
    sum += code;
  }
  code_sum = sum;
  return std::bit_cast<float>(largest) / kMaxCode;
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

void Activations::assign(std::span<const float> values, std::size_t num_rows, std::size_t num_cols) {
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
  for (std::size_t row = 0; row < num_rows; ++row) {
    float* to = &values_[row * stride];
    std::copy_n(&values[row * num_cols], num_cols, to);
    std::fill(to + num_cols, to + stride, 0.0f);
  }
  for (std::size_t block = 0; block < num_all_blocks; ++block) {
    scales_[block] = quantize_block(&values_[block * 32], &codes_[block * 32], code_sums_[block]);
    block_sums_[block] = scales_[block] * static_cast<float>(code_sums_[block]);
  }
  const std::size_t packed_bytes = kernels_->packed_bytes(num_rows, num_blocks());
  if (packed_.size() < packed_bytes + kPackedAlignment) packed_.resize(packed_bytes + kPackedAlignment);
  if (packed_bytes != 0) kernels_->pack(view(), packed_.data() + (aligned(packed_) - packed_.data()));
}

ActivationView Activations::view() const {
  return {num_rows_,      num_cols_,         num_blocks(),       values_.data(),  codes_.data(),
          scales_.data(), code_sums_.data(), block_sums_.data(), aligned(packed_)};
}

void linear(const Activations& x, const WeightMatrix& weights, const WeightMatrix& bias, Workers& workers,
            std::span<float> out) {
  const ActivationView view = x.view();
  const LinearKernels& kernels = x.kernels();
  const std::size_t num_outputs = weights.num_rows;
  std::vector<float> bias_values;
  if (bias) {
    bias_values.resize(bias.num_cols);
    dequantize_row(bias, 0, bias_values);
  }
  // Parts begin at multiples of 16 outputs where there are as many: a cache line of `out` then has one writer.
  const std::size_t parts = num_parts(weights, view.num_rows, workers.num_threads());
  const auto part_begin = [&](std::size_t part) {
    return part == parts ? num_outputs : num_outputs / 16 * part / parts * 16;
  };
  const auto task = [&](std::size_t part, std::size_t) {
    const std::size_t begin = part_begin(part), end = part_begin(part + 1);
    kernels.multiply(view, weights, begin, end - begin, &out[begin], num_outputs);
    if (bias_values.empty()) return;
    for (std::size_t row = 0; row < view.num_rows; ++row) {
      for (std::size_t o = begin; o < end; ++o) out[row * num_outputs + o] += bias_values[o];
    }
  };
  workers.run(parts, std::ref(task));
}

}  // namespace polykv::core

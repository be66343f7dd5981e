#include "cli/runtime/codec_choice.h"

#include <algorithm>
#include <cstdio>

#include "cli/runtime/bit_allocation.h"

namespace polykv::runtime {
namespace {

using format::Error;
using format::ErrorCode;

double num_kept_values(const format::KvShape& shape, const KeptPositions& kept) {
  if (kept.empty()) return num_values(shape);
  double sum = 0.0;
  for (std::size_t head = 0; head < kept.size(); ++head)
    sum += 2.0 * shape.head_dim * (format::kNumSinks + num_kept(shape, kept, head));
  return sum;
}

std::uint64_t least_kv_bytes(const format::KvShape& shape, const KeptPositions& kept) {
  return plan_kv_bytes(shape, uniform_plan(shape, {1, 1}), kept);
}

std::string formatted(const char* format, double number) {
  char text[64];
  std::snprintf(text, sizeof text, format, number);
  return text;
}

}  // namespace

double num_values(const format::KvShape& shape) {
  return 2.0 * shape.num_layers * shape.num_kv_heads * shape.num_tokens * shape.head_dim;
}

std::string choice_name(const CodecChoice& choice) {
  if (choice.fixed) return core::codec_name(*choice.fixed);
  if (choice.pool_bytes) return "auto " + std::to_string(*choice.pool_bytes) + " bytes";
  if (choice.max_kld) return formatted("auto KLD %g", *choice.max_kld);
  return formatted("auto %g bits", choice.bits_per_value.value_or(kDefaultBits));
}

CodecPlan default_plan(const format::KvShape& shape, std::span<const Sensitivity> sensitivities,
                       const KeptPositions& kept) {
  const auto kv_bytes = static_cast<std::uint64_t>(kDefaultBits * num_kept_values(shape, kept) / 8.0);
  const std::uint64_t least = plan_kv_bytes(shape, uniform_plan(shape, {4, 4}), kept);
  return allocate_bytes(shape, sensitivities, std::max(kv_bytes, least), kept);
}

format::Result<CodecPlan> plan_of_bits(const format::KvShape& shape, std::span<const Sensitivity> sensitivities,
                                       double bits_per_value, const KeptPositions& kept) {
  const auto kv_bytes = static_cast<std::uint64_t>(bits_per_value * num_values(shape) / 8.0);
  if (const std::uint64_t least = least_kv_bytes(shape, kept); kv_bytes < least) {
    return Error(ErrorCode::kUnusableText, formatted("%g bits per value are too few: ", bits_per_value) +
                                               formatted("this document needs %.2f at least",
                                                         8.0 * static_cast<double>(least) / num_values(shape)));
  }
  return allocate_bytes(shape, sensitivities, kv_bytes, kept);
}

format::Result<CodecPlan> plan_of_bytes(const format::KvShape& shape, std::span<const Sensitivity> sensitivities,
                                        std::uint64_t kv_bytes, const KeptPositions& kept) {
  if (const std::uint64_t least = least_kv_bytes(shape, kept); kv_bytes < least) {
    return Error(ErrorCode::kUnusableText, "keys and values of this document need " + std::to_string(least) +
                                               " bytes at least, and " + std::to_string(kv_bytes) +
                                               " are left for them");
  }
  return allocate_bytes(shape, sensitivities, kv_bytes, kept);
}

}  // namespace polykv::runtime

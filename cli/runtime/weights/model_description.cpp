#include "cli/runtime/weights/model_description.h"

#include <cmath>
#include <string>

#include "format/shape.h"

namespace polykv::runtime {
namespace {

using format::Error;
using format::ErrorCode;
using format::Status;

// The largest models there are stay far below these; they bound what a damaged file can make us allocate.
constexpr std::uint32_t kMaxWidth = 1u << 20;  // hidden_size, ffn_size, q_heads
constexpr std::uint32_t kMaxVocab = 1u << 24;

Status check_count(const char* what, std::uint32_t value, std::uint32_t max) {
  if (value >= 1 && value <= max) return {};
  return Error(ErrorCode::kBadModelFile,
               std::string(what) + " is " + std::to_string(value) + ", not 1 to " + std::to_string(max));
}

Status check_positive(const char* what, double value) {
  if (std::isfinite(value) && value > 0) return {};
  return Error(ErrorCode::kBadModelFile,
               std::string(what) + " is " + std::to_string(value) + ", not a positive number");
}

Status check_rope(const RopeConfig& rope) {
  POLYKV_CHECK_STATUS(check_positive("the RoPE base", rope.theta));
  POLYKV_CHECK_STATUS(check_positive("the RoPE scaling factor", rope.factor));
  if (rope.scaling != RopeScaling::kLlama3 || !rope.frequency_divisors.empty()) return {};
  POLYKV_CHECK_STATUS(check_positive("the RoPE low_freq_factor", rope.low_freq_factor));
  POLYKV_CHECK_STATUS(check_positive("the RoPE high_freq_factor", rope.high_freq_factor));
  POLYKV_CHECK_STATUS(check_positive("the RoPE original_max_position_embeddings", rope.original_context));
  if (rope.high_freq_factor > rope.low_freq_factor) return {};
  return Error(ErrorCode::kBadModelFile, "the RoPE high_freq_factor is not above low_freq_factor");
}

}  // namespace

Status check_config(const ModelConfig& config) {
  POLYKV_CHECK_STATUS(check_count("the number of layers", config.num_layers, format::kMaxLayers));
  POLYKV_CHECK_STATUS(check_count("the hidden size", config.hidden_size, kMaxWidth));
  POLYKV_CHECK_STATUS(check_count("the feed-forward size", config.ffn_size, kMaxWidth));
  POLYKV_CHECK_STATUS(check_count("the vocabulary's size", config.vocab_size, kMaxVocab));
  POLYKV_CHECK_STATUS(check_count("the context length", config.context_length, ~0u));
  POLYKV_CHECK_STATUS(check_count("the number of query heads", config.num_q_heads, kMaxWidth));
  POLYKV_CHECK_STATUS(check_count("the number of key/value heads", config.num_kv_heads, format::kMaxKvHeads));
  if (config.num_q_heads % config.num_kv_heads != 0) {
    return Error(ErrorCode::kBadModelFile, "the number of query heads, " + std::to_string(config.num_q_heads) +
                                               ", is no multiple of that of key/value heads, " +
                                               std::to_string(config.num_kv_heads));
  }
  if (config.head_dim == 0 || config.head_dim % 8 != 0 || config.head_dim > format::kMaxHeadDim) {
    return Error(ErrorCode::kUnsupportedModel, "head_dim is " + std::to_string(config.head_dim) +
                                                   "; multiples of 8 up to " + std::to_string(format::kMaxHeadDim) +
                                                   " are supported");
  }
  POLYKV_CHECK_STATUS(check_positive("the RMS norm's epsilon", config.rms_norm_eps));
  return check_rope(config.rope);
}

}  // namespace polykv::runtime

// describe_gguf: hyperparameters from a GGUF's keys.
#include <cmath>
#include <limits>
#include <optional>
#include <string>

#include "cli/runtime/weights/model_description.h"
#include "cli/runtime/weights/shown.h"
#include "core/weight_matrix.h"

namespace polykv::runtime {
namespace {

using format::Error;
using format::ErrorCode;
using format::Result;
using format::Status;

Error bad(std::string message) { return Error(ErrorCode::kBadModelFile, std::move(message)); }
Error unsupported(std::string message) { return Error(ErrorCode::kUnsupportedModel, std::move(message)); }

std::string number_text(double value) {
  std::string text = std::to_string(value);
  while (text.back() == '0') text.pop_back();
  if (text.back() == '.') text.pop_back();
  return text;
}

// Keys under the architecture's prefix. A key without fallback must be there.
class Keys {
 public:
  Keys(const GgufFile& gguf, std::string_view architecture) : gguf_(gguf), prefix_(std::string(architecture) + ".") {}

  bool has(std::string_view suffix) const { return gguf_.has(key(suffix)); }

  Result<std::uint32_t> integer(std::string_view suffix, std::optional<std::uint32_t> fallback = std::nullopt) const {
    POLYKV_TRY(const bool present, check_present(suffix, fallback.has_value()));
    if (!present) return *fallback;
    const auto value = gguf_.integer(key(suffix));
    if (value && *value <= std::numeric_limits<std::uint32_t>::max()) return static_cast<std::uint32_t>(*value);
    if (gguf_.integers(key(suffix))) {
      return unsupported("key '" + key(suffix) + "' has one value per layer; one for all layers is supported");
    }
    return bad("key '" + key(suffix) + "' is not a number from 0 to 2^32 - 1");
  }

  Result<double> number(std::string_view suffix, std::optional<double> fallback = std::nullopt) const {
    POLYKV_TRY(const bool present, check_present(suffix, fallback.has_value()));
    if (!present) return *fallback;
    if (const auto value = gguf_.number(key(suffix))) return *value;
    return bad("key '" + key(suffix) + "' is not a number");
  }

  std::string key(std::string_view suffix) const { return prefix_ + std::string(suffix); }

 private:
  Result<bool> check_present(std::string_view suffix, bool optional) const {
    if (has(suffix)) return true;
    if (optional) return false;
    return bad("key '" + key(suffix) + "' is missing");
  }
  const GgufFile& gguf_;
  std::string prefix_;
};

// Keys that change the arithmetic, and the value with which they do not.
struct NeutralKey {
  std::string_view suffix;
  double neutral;
};
constexpr NeutralKey kNeutralKeys[] = {
    {"expert_count", 0},
    {"expert_used_count", 0},
    {"expert_shared_count", 0},
    {"attn_logit_softcapping", 0},
    {"final_logit_softcapping", 0},
    {"attention.clamp_kqv", 0},
    {"attention.max_alibi_bias", 0},
    {"logit_scale", 1},
    {"residual_scale", 1},
    {"embedding_scale", 1},
    {"rope.scaling.attn_factor", 1},
    {"rope.scaling.yarn_log_multiplier", 0},
};

Status refuse_other_arithmetic(const GgufFile& gguf, const Keys& keys, const ModelConfig& config) {
  for (const NeutralKey& known : kNeutralKeys) {
    POLYKV_TRY(const double value, keys.number(known.suffix, known.neutral));
    if (value == known.neutral) continue;
    return unsupported("key '" + keys.key(known.suffix) + "' is " + number_text(value) + "; only " +
                       number_text(known.neutral) + " is supported");
  }
  if (gguf.boolean(keys.key("use_parallel_residual")).value_or(false))
    return unsupported("key '" + keys.key("use_parallel_residual") + "' is true; only false is supported");
  if (!gguf.boolean(keys.key("attention.causal")).value_or(true))
    return unsupported("key '" + keys.key("attention.causal") + "' is false; only true is supported");
  if (keys.has("rope.dimension_sections"))
    return unsupported("key '" + keys.key("rope.dimension_sections") + "' is there; sectioned RoPE is not supported");

  const double plain_scale = 1.0 / std::sqrt(static_cast<double>(config.head_dim));
  POLYKV_TRY(const double scale, keys.number("attention.scale", plain_scale));
  if (!(std::abs(scale - plain_scale) <= 1e-6)) {  // it is stored as float32; NaN is refused
    return unsupported("key '" + keys.key("attention.scale") + "' is " + number_text(scale) +
                       "; only 1 / sqrt(head_dim) is supported");
  }
  POLYKV_TRY(const std::uint32_t window, keys.integer("attention.sliding_window", 0u));
  if (window != 0 && window < config.context_length) {
    return unsupported("key '" + keys.key("attention.sliding_window") + "' is " + std::to_string(window) +
                       ", below the context length of " + std::to_string(config.context_length) +
                       "; sliding windows are not supported");
  }
  return {};
}

// rope_freqs.weight, if the file has it.
Result<std::vector<float>> take_divisors(TensorTable& tensors, std::uint32_t head_dim) {
  constexpr std::string_view kName = "rope_freqs.weight";
  if (tensors.find(kName) == nullptr) return std::vector<float>{};
  const std::uint64_t offset = tensors.find(kName)->offset;
  POLYKV_TRY(const core::WeightMatrix matrix, tensors.take_vector(kName, head_dim / 2));
  std::vector<float> divisors(head_dim / 2);
  core::dequantize_row(matrix, 0, divisors);
  for (std::size_t i = 0; i < divisors.size(); ++i) {
    if (std::isfinite(divisors[i]) && divisors[i] > 0) continue;
    return Error(ErrorCode::kBadModelFile, offset,
                 "tensor 'rope_freqs.weight': value " + std::to_string(i) + " is not a positive number");
  }
  return divisors;
}

Result<RopeConfig> read_rope(const GgufFile& gguf, const Keys& keys, TensorTable& tensors, std::uint32_t head_dim) {
  POLYKV_TRY(const std::uint32_t rotated, keys.integer("rope.dimension_count", head_dim));
  if (rotated != head_dim) {
    return unsupported("key '" + keys.key("rope.dimension_count") + "' is " + std::to_string(rotated) +
                       "; only head_dim, which is " + std::to_string(head_dim) + ", is supported");
  }
  for (const char* name : {"rope_factors_long.weight", "rope_factors_short.weight"})
    if (tensors.find(name) != nullptr)
      return unsupported("tensor '" + std::string(name) + "' is there; longrope is not supported");

  RopeConfig rope;
  POLYKV_TRY(rope.theta, keys.number("rope.freq_base", 10000.0));
  // Files from before rope.scaling.* say rope.scale_linear; a factor without a type is linear, and 0 is none.
  POLYKV_TRY(const double old_factor, keys.number("rope.scale_linear", 1.0));
  POLYKV_TRY(double factor, keys.number("rope.scaling.factor", old_factor));
  if (factor == 0) factor = 1;
  const std::string key = keys.key("rope.scaling.type");
  if (keys.has("rope.scaling.type") && !gguf.string(key)) return bad("key '" + key + "' is not a string");
  const std::string_view type = gguf.string(key).value_or("linear");
  POLYKV_TRY(rope.frequency_divisors, take_divisors(tensors, head_dim));
  if (type == "linear" && factor != 1) {
    rope.scaling = RopeScaling::kLinear;
    rope.factor = factor;
  } else if (type == "llama3" && rope.frequency_divisors.empty()) {
    return bad("key '" + key + "' is llama3, but tensor 'rope_freqs.weight' is missing");
  } else if (type != "linear" && type != "none" && type != "llama3") {
    return unsupported("key '" + key + "' is '" + shown(type) + "'; none, linear and llama3 are supported");
  } else if (!rope.frequency_divisors.empty()) {
    rope.scaling = RopeScaling::kLlama3;
    if (type == "llama3") rope.factor = factor;  // for the identity; the divisors have it in them
  }
  return rope;
}

Result<ModelConfig> read_config(const GgufFile& gguf, const Keys& keys, TensorTable& tensors,
                                const Architecture& architecture) {
  ModelConfig config;
  config.architecture = architecture.name;
  config.interleaved_qk = architecture.gguf_interleaves_qk;
  config.name = gguf.string("general.name").value_or("");
  POLYKV_TRY(config.num_layers, keys.integer("block_count"));
  POLYKV_TRY(config.hidden_size, keys.integer("embedding_length"));
  POLYKV_TRY(config.num_q_heads, keys.integer("attention.head_count"));
  POLYKV_TRY(config.num_kv_heads, keys.integer("attention.head_count_kv", config.num_q_heads));
  POLYKV_TRY(config.ffn_size, keys.integer("feed_forward_length"));
  POLYKV_TRY(config.context_length, keys.integer("context_length"));
  POLYKV_TRY(config.rms_norm_eps, keys.number("attention.layer_norm_rms_epsilon"));
  if (!keys.has("attention.key_length") && (config.num_q_heads == 0 || config.hidden_size % config.num_q_heads != 0))
    return bad("key '" + keys.key("embedding_length") + "' is no multiple of the number of heads");
  const std::uint32_t plain_head_dim = config.num_q_heads == 0 ? 0 : config.hidden_size / config.num_q_heads;
  POLYKV_TRY(config.head_dim, keys.integer("attention.key_length", plain_head_dim));
  POLYKV_TRY(const std::uint32_t value_dim, keys.integer("attention.value_length", plain_head_dim));
  if (value_dim != config.head_dim) {
    return unsupported("values have head_dim " + std::to_string(value_dim) + " and keys " +
                       std::to_string(config.head_dim) + "; only equal ones are supported");
  }
  const TensorEntry* embedding = tensors.find(architecture.gguf_names->embedding);
  if (embedding == nullptr || embedding->shape.size() != 2 || embedding->shape[0] > ~0u)
    return bad("tensor '" + std::string(architecture.gguf_names->embedding) + "' is missing or no matrix");
  config.vocab_size = static_cast<std::uint32_t>(embedding->shape[0]);
  const auto tokens = gguf.strings("tokenizer.ggml.tokens");
  if (tokens && tokens->size() != config.vocab_size) {
    return bad("tensor '" + std::string(embedding->name) + "' has " + std::to_string(config.vocab_size) +
               " rows, but key 'tokenizer.ggml.tokens' has " + std::to_string(tokens->size()) + " tokens");
  }
  return config;
}

}  // namespace

Result<ModelDescription> describe_gguf(const GgufFile& gguf, TensorTable& tensors) {
  const auto type = gguf.string("general.type");
  if (type && *type != "model")
    return unsupported("key 'general.type' is '" + shown(*type) + "'; only 'model' is supported");
  if (gguf.integer("split.count").value_or(1) > 1) {
    return unsupported("one of " + std::to_string(*gguf.integer("split.count")) +
                       " parts of a model; merge them with llama-gguf-split --merge");
  }
  if (gguf.tensors().empty()) return unsupported("a vocabulary only: the file has no tensors");
  const auto name = gguf.string("general.architecture");
  if (!name) return bad("key 'general.architecture' is missing or not a string");
  ModelDescription out;
  out.architecture = find_gguf_architecture(*name);
  if (out.architecture == nullptr) {
    return unsupported("key 'general.architecture' is '" + shown(*name) + "'; " + supported_architectures() +
                       " are supported");
  }
  const Keys keys(gguf, *name);
  POLYKV_TRY(out.config, read_config(gguf, keys, tensors, *out.architecture));
  POLYKV_CHECK_STATUS(check_config(out.config));
  POLYKV_TRY(out.config.rope, read_rope(gguf, keys, tensors, out.config.head_dim));
  POLYKV_CHECK_STATUS(check_config(out.config));
  POLYKV_CHECK_STATUS(refuse_other_arithmetic(gguf, keys, out.config));
  out.bias = out.architecture->gguf_bias;
  out.tied = tensors.find(out.architecture->gguf_names->output) == nullptr;
  return out;
}

}  // namespace polykv::runtime

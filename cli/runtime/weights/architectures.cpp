#include "cli/runtime/weights/architectures.h"

#include <algorithm>
#include <array>

namespace polykv::runtime {
namespace {

using core::WeightMatrix;
using format::Error;
using format::ErrorCode;
using format::Result;

constexpr TensorNames kGgufNames = {
    .embedding = "token_embd.weight",
    .output_norm = "output_norm.weight",
    .output = "output.weight",
    .attention_norm = "blk.{}.attn_norm.weight",
    .query = "blk.{}.attn_q.weight",
    .key = "blk.{}.attn_k.weight",
    .value = "blk.{}.attn_v.weight",
    .attention_output = "blk.{}.attn_output.weight",
    .ffn_norm = "blk.{}.ffn_norm.weight",
    .ffn_gate = "blk.{}.ffn_gate.weight",
    .ffn_up = "blk.{}.ffn_up.weight",
    .ffn_down = "blk.{}.ffn_down.weight",
};

constexpr TensorNames kHfNames = {
    .embedding = "model.embed_tokens.weight",
    .output_norm = "model.norm.weight",
    .output = "lm_head.weight",
    .attention_norm = "model.layers.{}.input_layernorm.weight",
    .query = "model.layers.{}.self_attn.q_proj.weight",
    .key = "model.layers.{}.self_attn.k_proj.weight",
    .value = "model.layers.{}.self_attn.v_proj.weight",
    .attention_output = "model.layers.{}.self_attn.o_proj.weight",
    .ffn_norm = "model.layers.{}.post_attention_layernorm.weight",
    .ffn_gate = "model.layers.{}.mlp.gate_proj.weight",
    .ffn_up = "model.layers.{}.mlp.up_proj.weight",
    .ffn_down = "model.layers.{}.mlp.down_proj.weight",
};

constexpr std::array kArchitectures = std::to_array<Architecture>({
    {.name = "llama",
     .hf_type = "llama",
     .hf_class = "LlamaForCausalLM",
     .gguf_names = &kGgufNames,
     .hf_names = &kHfNames,
     .gguf_interleaves_qk = true,
     .gguf_bias = BiasRule::kIfStored,
     .hf_bias = BiasRule::kIfStored,
     .hf_rms_norm_eps = 1e-6},
    {.name = "qwen2",
     .hf_type = "qwen2",
     .hf_class = "Qwen2ForCausalLM",
     .gguf_names = &kGgufNames,
     .hf_names = &kHfNames,
     .gguf_interleaves_qk = false,
     .gguf_bias = BiasRule::kAlways,
     .hf_bias = BiasRule::kAlways,
     .hf_rms_norm_eps = 1e-6},
});

std::string layer_name(std::string_view pattern, std::uint32_t layer) {
  std::string name(pattern);
  const std::size_t at = name.find("{}");
  return at == std::string::npos ? name : name.replace(at, 2, std::to_string(layer));
}

std::string bias_name(std::string_view pattern, std::uint32_t layer) {
  std::string name = layer_name(pattern, layer);
  constexpr std::string_view kSuffix = ".weight";
  return name.replace(name.size() - kSuffix.size(), kSuffix.size(), ".bias");
}

// Takes the tensors of one layer.
class LayerTaker {
 public:
  LayerTaker(const TensorNames& names, const ModelConfig& config, TensorTable& tensors, std::uint32_t layer)
      : names_(names), config_(config), tensors_(tensors), layer_(layer) {}

  Result<LayerWeights> take(BiasRule bias) {
    const std::uint64_t hidden = config_.hidden_size, ffn = config_.ffn_size;
    const std::uint64_t query_rows = std::uint64_t{config_.num_q_heads} * config_.head_dim;
    const std::uint64_t key_rows = std::uint64_t{config_.num_kv_heads} * config_.head_dim;
    LayerWeights out;
    POLYKV_TRY(out.attention_norm, vector(names_.attention_norm, hidden));
    POLYKV_TRY(out.query, matrix(names_.query, query_rows, hidden));
    POLYKV_TRY(out.key, matrix(names_.key, key_rows, hidden));
    POLYKV_TRY(out.value, matrix(names_.value, key_rows, hidden));
    POLYKV_TRY(out.attention_output, matrix(names_.attention_output, hidden, query_rows));
    POLYKV_TRY(out.ffn_norm, vector(names_.ffn_norm, hidden));
    POLYKV_TRY(out.ffn_gate, matrix(names_.ffn_gate, ffn, hidden));
    POLYKV_TRY(out.ffn_up, matrix(names_.ffn_up, ffn, hidden));
    POLYKV_TRY(out.ffn_down, matrix(names_.ffn_down, hidden, ffn));
    if (!has_biases(bias)) return out;
    POLYKV_TRY(out.query_bias, tensors_.take_vector(bias_name(names_.query, layer_), query_rows));
    POLYKV_TRY(out.key_bias, tensors_.take_vector(bias_name(names_.key, layer_), key_rows));
    POLYKV_TRY(out.value_bias, tensors_.take_vector(bias_name(names_.value, layer_), key_rows));
    return out;
  }

 private:
  Result<WeightMatrix> matrix(std::string_view pattern, std::uint64_t rows, std::uint64_t cols) {
    return tensors_.take_matrix(layer_name(pattern, layer_), rows, cols);
  }
  Result<WeightMatrix> vector(std::string_view pattern, std::uint64_t size) {
    return tensors_.take_vector(layer_name(pattern, layer_), size);
  }
  // One bias is enough to expect all three: a file with only some of them is damaged.
  bool has_biases(BiasRule bias) {
    if (bias != BiasRule::kIfStored) return bias == BiasRule::kAlways;
    const auto stored = [&](std::string_view pattern) { return tensors_.find(bias_name(pattern, layer_)) != nullptr; };
    return stored(names_.query) || stored(names_.key) || stored(names_.value);
  }

  const TensorNames& names_;
  const ModelConfig& config_;
  TensorTable& tensors_;
  std::uint32_t layer_;
};

}  // namespace

const Architecture* find_gguf_architecture(std::string_view name) {
  const auto found = std::ranges::find(kArchitectures, name, &Architecture::name);
  return found == kArchitectures.end() ? nullptr : &*found;
}

const Architecture* find_hf_architecture(std::string_view hf_type, std::string_view hf_class) {
  const auto found = std::ranges::find(kArchitectures, hf_type, &Architecture::hf_type);
  return found == kArchitectures.end() || found->hf_class != hf_class ? nullptr : &*found;
}

std::string supported_architectures() {
  std::string out;
  for (std::size_t i = 0; i < kArchitectures.size(); ++i) {
    if (i != 0) out += i + 1 == kArchitectures.size() ? " and " : ", ";
    out += kArchitectures[i].name;
  }
  return out;
}

Result<ModelWeights> take_weights(const TensorNames& names, const ModelConfig& config, BiasRule bias, bool tied,
                                  TensorTable& tensors) {
  ModelWeights weights;
  POLYKV_TRY(weights.embedding, tensors.take_matrix(names.embedding, config.vocab_size, config.hidden_size));
  POLYKV_TRY(weights.output_norm, tensors.take_vector(names.output_norm, config.hidden_size));
  if (tied) {
    weights.output = weights.embedding;
  } else {
    POLYKV_TRY(weights.output, tensors.take_matrix(names.output, config.vocab_size, config.hidden_size));
  }
  for (std::uint32_t layer = 0; layer < config.num_layers; ++layer) {
    POLYKV_TRY(LayerWeights taken, LayerTaker(names, config, tensors, layer).take(bias));
    weights.layers.push_back(taken);
  }
  return weights;
}

}  // namespace polykv::runtime

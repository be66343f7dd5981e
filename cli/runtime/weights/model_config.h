// What a model is, whatever file it came from: hyperparameters and where its weights lie.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/weight_matrix.h"

namespace polykv::runtime {

enum class RopeScaling : std::uint8_t { kNone, kLinear, kLlama3 };

struct RopeConfig {
  double theta = 10000.0;
  RopeScaling scaling = RopeScaling::kNone;
  double factor = 1.0;             // linear, llama3
  double low_freq_factor = 1.0;    // llama3
  double high_freq_factor = 4.0;   // llama3
  double original_context = 8192;  // llama3
  // GGUF stores llama3's factors as a tensor (rope_freqs.weight): each inverse frequency is divided by its entry.
  // Empty: computed from the fields above. [head_dim / 2]
  std::vector<float> frequency_divisors;

  // Inverse frequencies, scaling applied, computed in double: [head_dim / 2]. The angle of pair i at position p is
  // p * result[i].
  std::vector<double> inverse_frequencies(std::uint32_t head_dim) const;
};

struct ModelConfig {
  std::string architecture;  // "llama", "qwen2"
  std::string name;          // as the file gives it, may be empty
  std::uint32_t num_layers = 0;
  std::uint32_t hidden_size = 0;
  std::uint32_t num_q_heads = 0;
  std::uint32_t num_kv_heads = 0;
  std::uint32_t head_dim = 0;
  std::uint32_t ffn_size = 0;
  std::uint32_t vocab_size = 0;
  std::uint32_t context_length = 0;
  double rms_norm_eps = 1e-5;
  RopeConfig rope;
  // GGUF stores llama's query and key rows for interleaved RoPE pairs (2i, 2i + 1). The output of the projection is put
  // in half-split order (i, i + head_dim / 2): out[i] = raw[2i], out[head_dim/2 + i] = raw[2i + 1] per head.
  bool interleaved_qk = false;

  std::uint32_t q_per_kv() const { return num_q_heads / num_kv_heads; }
};

// Views into the mapped model file. Norms and biases are 1 x n.
struct LayerWeights {
  core::WeightMatrix attention_norm, query, key, value, attention_output;
  core::WeightMatrix query_bias, key_bias, value_bias;  // absent unless the model has them
  core::WeightMatrix ffn_norm, ffn_gate, ffn_up, ffn_down;
};

struct ModelWeights {
  core::WeightMatrix embedding;  // [vocab_size][hidden_size]
  core::WeightMatrix output_norm;
  core::WeightMatrix output;  // [vocab_size][hidden_size]; the embedding where they are tied
  std::vector<LayerWeights> layers;
};

}  // namespace polykv::runtime

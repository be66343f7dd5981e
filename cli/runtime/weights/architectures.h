// The model families polykv runs, as rows of a table: what each is called and what its tensors are called.
//
// A new family is a row in architectures.cpp, and a pair of name tables if its files use other names.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "cli/runtime/weights/model_config.h"
#include "cli/runtime/weights/tensor_table.h"
#include "format/status.h"

namespace polykv::runtime {

// Names of tensors; "{}" in a layer's stands for its number. A bias has the weight's name with .bias for .weight.
struct TensorNames {
  std::string_view embedding, output_norm, output;
  std::string_view attention_norm, query, key, value, attention_output;
  std::string_view ffn_norm, ffn_gate, ffn_up, ffn_down;
};

enum class BiasRule : std::uint8_t {
  kNever,     // query, key and value have none
  kAlways,    // they have one each, or the file is damaged
  kIfStored,  // all three or none, as the file has it
};

struct Architecture {
  std::string_view name;      // ModelConfig::architecture; also GGUF's general.architecture and the prefix of its keys
  std::string_view hf_type;   // config.json's model_type
  std::string_view hf_class;  // config.json's architectures[0]
  const TensorNames* gguf_names;
  const TensorNames* hf_names;
  bool gguf_interleaves_qk;  // ModelConfig::interleaved_qk of a GGUF
  BiasRule gguf_bias;
  BiasRule hf_bias;        // kIfStored: as config.json's attention_bias says
  double hf_rms_norm_eps;  // where config.json has none
};

// Null: not supported.
const Architecture* find_gguf_architecture(std::string_view name);
const Architecture* find_hf_architecture(std::string_view hf_type, std::string_view hf_class);
std::string supported_architectures();  // for messages: "llama and qwen2"

// Takes every tensor the model needs out of `tensors`, each with the shape that `config` demands. `tied`: the output
// matrix is the embedding. Errors: kBadModelFile (missing, wrong shape), kUnsupportedModel (tensor type).
format::Result<ModelWeights> take_weights(const TensorNames& names, const ModelConfig& config, BiasRule bias, bool tied,
                                          TensorTable& tensors);

}  // namespace polykv::runtime

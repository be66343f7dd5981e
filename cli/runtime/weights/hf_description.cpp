// describe_hf: hyperparameters from config.json, with the defaults of transformers 4.57 for fields that are left out.
#include <cmath>
#include <limits>
#include <optional>
#include <string>

#include "cli/runtime/weights/json_text.h"
#include "cli/runtime/weights/model_description.h"
#include "cli/runtime/weights/shown.h"

namespace polykv::runtime {
namespace {

using format::Error;
using format::ErrorCode;
using format::Result;
using format::Status;
using nlohmann::json;

constexpr const char* kFile = "config.json";

Error bad(const std::string& message) { return Error(ErrorCode::kBadModelFile, kFile + (": " + message)); }
Error unsupported(const std::string& message) { return Error(ErrorCode::kUnsupportedModel, kFile + (": " + message)); }

// A JSON value in a message, short and printable.
std::string value_text(const json& value) {
  return shown(value.dump(-1, ' ', /*ensure_ascii=*/true, json::error_handler_t::replace));
}

// Fields of one object of config.json. A field that is null counts as left out, as it does for transformers.
class Fields {
 public:
  Fields(const json& object, std::string prefix) : object_(object), prefix_(std::move(prefix)) {}

  const json* find(const char* name) const {
    const auto found = object_.find(name);
    return found == object_.end() || found->is_null() ? nullptr : &*found;
  }

  Result<std::uint32_t> integer(const char* name, std::optional<std::uint32_t> fallback = std::nullopt) const {
    const json* value = find(name);
    if (value == nullptr) return fallback ? Result<std::uint32_t>(*fallback) : missing(name);
    if (!value->is_number_unsigned() || value->get<std::uint64_t>() > std::numeric_limits<std::uint32_t>::max())
      return wrong(name, "an integer from 0 to 2^32 - 1");
    return value->get<std::uint32_t>();
  }

  Result<double> number(const char* name, std::optional<double> fallback = std::nullopt) const {
    const json* value = find(name);
    if (value == nullptr) return fallback ? Result<double>(*fallback) : missing(name);
    if (!value->is_number()) return wrong(name, "a number");
    return value->get<double>();
  }

  Result<bool> boolean(const char* name, bool fallback) const {
    const json* value = find(name);
    if (value == nullptr) return fallback;
    if (!value->is_boolean()) return wrong(name, "true or false");
    return value->get<bool>();
  }

  Result<std::string> string(const char* name, const char* fallback) const {
    const json* value = find(name);
    if (value == nullptr) return std::string(fallback);
    if (!value->is_string()) return wrong(name, "a string");
    return value->get<std::string>();
  }

  Error missing(const char* name) const { return bad(prefix_ + name + " is missing"); }
  Error wrong(const char* name, const char* expected) const {
    return bad(prefix_ + name + " is " + value_text(*find(name)) + ", not " + expected);
  }
  Error other(const char* name, const char* supported) const {
    return unsupported(prefix_ + name + " is " + value_text(*find(name)) + "; only " + supported + " is supported");
  }

 private:
  const json& object_;
  std::string prefix_;
};

Result<const Architecture*> read_architecture(const Fields& fields) {
  POLYKV_TRY(const std::string type, fields.string("model_type", ""));
  if (type.empty()) return fields.missing("model_type");
  const json* classes = fields.find("architectures");
  if (classes == nullptr) return fields.missing("architectures");
  if (!classes->is_array() || classes->size() != 1 || !classes->front().is_string())
    return fields.wrong("architectures", "a list of one name");
  const Architecture* found = find_hf_architecture(type, classes->front().get_ref<const std::string&>());
  if (found != nullptr) return found;
  return unsupported("model_type is '" + shown(type) + "' and architectures is " + value_text(*classes) + "; " +
                     supported_architectures() + " for causal language modelling are supported");
}

// Layers i >= max_window_layers slide where use_sliding_window is true, unless layer_types names them one by one.
Status refuse_sliding_window(const Fields& fields, const ModelConfig& config) {
  if (const json* types = fields.find("layer_types")) {
    if (!types->is_array() || types->size() != config.num_layers)
      return fields.wrong("layer_types", "a list of one name per layer");
    for (const json& type : *types)
      if (type != "full_attention") return fields.other("layer_types", "'full_attention' in every layer");
    return {};
  }
  POLYKV_TRY(const bool in_use, fields.boolean("use_sliding_window", false));
  if (!in_use) return {};
  POLYKV_TRY(const std::uint32_t window, fields.integer("sliding_window", 4096u));
  POLYKV_TRY(const std::uint32_t first_layer, fields.integer("max_window_layers", 28u));
  if (window >= config.context_length || first_layer >= config.num_layers) return {};
  return fields.other("use_sliding_window", "false");
}

// Fields that change the arithmetic, and the value with which they do not.
struct NeutralField {
  const char* name;
  double neutral;
  const char* text;
};
constexpr NeutralField kNeutralFields[] = {
    {"num_local_experts", 0, "0"},       {"num_experts", 0, "0"},
    {"n_routed_experts", 0, "0"},        {"attn_logit_softcapping", 0, "0"},
    {"final_logit_softcapping", 0, "0"}, {"partial_rotary_factor", 1, "1"},
    {"residual_multiplier", 1, "1"},     {"embedding_multiplier", 1, "1"},
    {"logits_scaling", 1, "1"},
};

Status refuse_other_arithmetic(const Fields& fields) {
  if (fields.find("quantization_config") != nullptr) {
    return unsupported("quantization_config is there; only F32, F16 and BF16 weights are supported, or a GGUF");
  }
  POLYKV_TRY(const std::string activation, fields.string("hidden_act", "silu"));
  if (activation != "silu") return fields.other("hidden_act", "'silu'");
  POLYKV_TRY(const bool mlp_bias, fields.boolean("mlp_bias", false));
  if (mlp_bias) return fields.other("mlp_bias", "false");
  for (const NeutralField& known : kNeutralFields) {
    POLYKV_TRY(const double value, fields.number(known.name, known.neutral));
    if (value != known.neutral) return fields.other(known.name, known.text);
  }
  return {};
}

// transformers 4 says rope_theta and rope_scaling, transformers 5 puts both in rope_parameters.
Result<RopeConfig> read_rope(const Fields& fields) {
  RopeConfig rope;
  POLYKV_TRY(rope.theta, fields.number("rope_theta", 10000.0));
  const bool has_parameters = fields.find("rope_parameters") != nullptr;
  const char* name = has_parameters ? "rope_parameters" : "rope_scaling";
  const json* object = fields.find(name);
  if (object == nullptr) return rope;
  if (!object->is_object()) return fields.wrong(name, "an object");
  const Fields scaling(*object, std::string(name) + ".");
  const double outer_theta = rope.theta;
  POLYKV_TRY(rope.theta, scaling.number("rope_theta", outer_theta));
  if (fields.find("rope_theta") != nullptr && rope.theta != outer_theta)
    return bad("rope_theta and " + std::string(name) + ".rope_theta differ");
  POLYKV_TRY(const double rotary_part, scaling.number("partial_rotary_factor", 1.0));
  if (rotary_part != 1.0) return scaling.other("partial_rotary_factor", "1");

  POLYKV_TRY(const std::string old_type, scaling.string("type", "default"));
  POLYKV_TRY(const std::string type, scaling.string("rope_type", old_type.c_str()));
  if (type == "default") return rope;
  if (type == "linear") {
    rope.scaling = RopeScaling::kLinear;
    POLYKV_TRY(rope.factor, scaling.number("factor"));
    return rope;
  }
  if (type != "llama3") {
    return unsupported(std::string(name) + " has rope_type '" + shown(type) +
                       "'; default, linear and llama3 are supported");
  }
  rope.scaling = RopeScaling::kLlama3;
  POLYKV_TRY(rope.factor, scaling.number("factor"));
  POLYKV_TRY(rope.low_freq_factor, scaling.number("low_freq_factor"));
  POLYKV_TRY(rope.high_freq_factor, scaling.number("high_freq_factor"));
  POLYKV_TRY(rope.original_context, scaling.number("original_max_position_embeddings"));
  return rope;
}

Result<ModelConfig> read_config(const Fields& fields, const Architecture& architecture) {
  ModelConfig config;
  config.architecture = architecture.name;
  // save_pretrained may leave the path of the folder it came from here: that is no name.
  POLYKV_TRY(const std::string name, fields.string("_name_or_path", ""));
  if (!name.empty() && name[0] != '/' && name[0] != '.') config.name = name;
  POLYKV_TRY(config.num_layers, fields.integer("num_hidden_layers"));
  POLYKV_TRY(config.hidden_size, fields.integer("hidden_size"));
  POLYKV_TRY(config.num_q_heads, fields.integer("num_attention_heads"));
  POLYKV_TRY(config.num_kv_heads, fields.integer("num_key_value_heads", config.num_q_heads));
  POLYKV_TRY(config.ffn_size, fields.integer("intermediate_size"));
  POLYKV_TRY(config.vocab_size, fields.integer("vocab_size"));
  POLYKV_TRY(config.context_length, fields.integer("max_position_embeddings"));
  POLYKV_TRY(config.rms_norm_eps, fields.number("rms_norm_eps", architecture.hf_rms_norm_eps));
  POLYKV_TRY(config.rope, read_rope(fields));
  const bool divides = config.num_q_heads != 0 && config.hidden_size % config.num_q_heads == 0;
  if (fields.find("head_dim") == nullptr && !divides) return bad("hidden_size is no multiple of num_attention_heads");
  POLYKV_TRY(config.head_dim, fields.integer("head_dim", divides ? config.hidden_size / config.num_q_heads : 0));
  return config;
}

}  // namespace

Result<ModelDescription> describe_hf(std::span<const std::byte> config_json) {
  POLYKV_TRY(const json object, parse_json_object(config_json, kFile));
  const Fields fields(object, "");
  ModelDescription out;
  POLYKV_TRY(out.architecture, read_architecture(fields));
  POLYKV_TRY(out.config, read_config(fields, *out.architecture));
  if (const Status status = check_config(out.config); !status)
    return Error(status.error().code, kFile + (": " + status.error().message));
  POLYKV_CHECK_STATUS(refuse_other_arithmetic(fields));
  POLYKV_CHECK_STATUS(refuse_sliding_window(fields, out.config));
  out.bias = out.architecture->hf_bias;
  if (out.bias == BiasRule::kIfStored) {
    POLYKV_TRY(const bool attention_bias, fields.boolean("attention_bias", false));
    out.bias = attention_bias ? BiasRule::kAlways : BiasRule::kNever;
  }
  POLYKV_TRY(out.tied, fields.boolean("tie_word_embeddings", false));
  return out;
}

}  // namespace polykv::runtime

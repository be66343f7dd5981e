#include "cli/runtime/model_identity.h"

#include <cstdio>

#include "format/checksum.h"

namespace polykv::runtime {
namespace {

using format::Error;
using format::ErrorCode;

// Shortest text that reads back as the same double.
std::string number(double value) {
  char text[40];
  for (int digits = 6; digits <= 17; ++digits) {
    std::snprintf(text, sizeof text, "%.*g", digits, value);
    double back = 0.0;
    if (std::sscanf(text, "%lf", &back) == 1 && back == value) break;
  }
  return text;
}

const char* scaling_name(RopeScaling scaling) {
  switch (scaling) {
    case RopeScaling::kNone:
      return "none";
    case RopeScaling::kLinear:
      return "linear";
    case RopeScaling::kLlama3:
      return "llama3";
  }
  return "";
}

std::string hash_of(const void* data, std::size_t bytes) {
  return format::to_hex(format::sha256({static_cast<const std::byte*>(data), bytes}));
}

void set_model_fields(const Model& model, format::Identity& identity) {
  const ModelConfig& config = model.config();
  identity.set("model.name", config.name);
  identity.set("model.architecture", config.architecture);
  identity.set("model.weights_sha256", model.weights_digest);
  identity.set("model.num_layers", std::to_string(config.num_layers));
  identity.set("model.hidden_size", std::to_string(config.hidden_size));
  identity.set("model.num_q_heads", std::to_string(config.num_q_heads));
  identity.set("model.num_kv_heads", std::to_string(config.num_kv_heads));
  identity.set("model.head_dim", std::to_string(config.head_dim));
  identity.set("model.vocab_size", std::to_string(config.vocab_size));
  identity.set("model.rms_norm_eps", number(config.rms_norm_eps));
  const RopeConfig& rope = config.rope;
  identity.set("rope.theta", number(rope.theta));
  identity.set("rope.scaling", scaling_name(rope.scaling));
  if (rope.scaling != RopeScaling::kNone) identity.set("rope.factor", number(rope.factor));
  if (rope.scaling == RopeScaling::kLlama3) {
    identity.set("rope.low_freq_factor", number(rope.low_freq_factor));
    identity.set("rope.high_freq_factor", number(rope.high_freq_factor));
    identity.set("rope.original_context", number(rope.original_context));
  }
  if (!rope.frequency_divisors.empty()) {
    identity.set("rope.frequency_divisors_sha256",
                 hash_of(rope.frequency_divisors.data(), rope.frequency_divisors.size() * sizeof(float)));
  }
  identity.set("adapters.list", "");
}

}  // namespace

format::Identity make_model_identity(const Model& model, const ChatTemplate& chat,
                                     const std::optional<std::string>& system) {
  format::Identity identity;
  set_model_fields(model, identity);
  const Tokenizer& tokenizer = model.tokenizer;
  identity.set("tokenizer.kind", "byte-level BPE");
  identity.set("tokenizer.sha256", tokenizer.digest());
  identity.set("tokenizer.pre_tokenizer", std::string(tokenizer.pre_tokenizer()));
  identity.set("tokenizer.normalizer", std::string(tokenizer.normalizer()));
  identity.set("tokenizer.adds_bos", tokenizer.adds_bos() ? "yes" : "no");
  identity.set("template.name", chat.name);
  const std::string text = model.file.chat_template().value_or("");
  identity.set("template.sha256", hash_of(text.data(), text.size()));
  if (system) identity.set("template.system", *system);
  return identity;
}

format::Result<ChatTemplate> chat_template_of(const format::Identity& pool, const Model& model) {
  const auto name = pool.get("template.name");
  if (!name) return Error(ErrorCode::kBadIdentity, "section identity: template.name is missing");
  std::optional<std::string> system;
  if (const auto text = pool.get("template.system")) system = std::string(*text);
  return make_chat_template(*name, model.file.chat_template(), system, model.tokenizer);
}

format::Status check_fit(const format::Identity& pool, const Model& model, const ChatTemplate& chat) {
  std::optional<std::string> system;
  if (const auto text = pool.get("template.system")) system = std::string(*text);
  const format::Identity mine = make_model_identity(model, chat, system);
  const auto difference = pool.first_difference(mine);
  if (!difference) return {};
  const auto shorten = [](const std::string& text) { return text.size() > 16 ? text.substr(0, 16) + "..." : text; };
  return Error(ErrorCode::kMismatch, "the pool does not fit this model: " + difference->name + " is " +
                                         shorten(difference->mine) + " in the pool and " + shorten(difference->theirs) +
                                         " in " + model.file.path().filename().string() +
                                         "; give the model it was built with (-m), or build it again");
}

}  // namespace polykv::runtime

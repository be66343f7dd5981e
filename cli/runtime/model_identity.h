// What must be the same for a pool to be used with a model, as fields in clear (format/identity.h).
#pragma once

#include <optional>
#include <string>

#include "cli/runtime/tokenizer/chat_template.h"
#include "cli/runtime/tokenizer/tokenizer.h"
#include "cli/runtime/weights/model_file.h"
#include "format/identity.h"
#include "format/status.h"

namespace polykv::runtime {

// A model opened for use: weights, tokenizer, and what it is.
struct Model {
  ModelFile file;
  Tokenizer tokenizer;
  std::string weights_digest;

  const ModelConfig& config() const { return file.config(); }
};

// The groups model, rope, adapters, tokenizer and template. `system` is the system turn given by the user, nullopt: the
// template's own.
format::Identity make_model_identity(const Model& model, const ChatTemplate& chat,
                                     const std::optional<std::string>& system);

// The template a pool was built with, made again from the model at hand. kUnknownTemplate, if this polykv lacks it.
format::Result<ChatTemplate> chat_template_of(const format::Identity& pool, const Model& model);

// Why the pool does not fit the model: kMismatch, naming the first field that differs.
format::Status check_fit(const format::Identity& pool, const Model& model, const ChatTemplate& chat);

}  // namespace polykv::runtime

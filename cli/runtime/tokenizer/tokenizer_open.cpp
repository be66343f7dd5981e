// The one place where the tokenizer knows whole models.
#include "cli/runtime/tokenizer/tokenizer.h"

namespace polykv::runtime {

format::Result<Tokenizer> Tokenizer::open(const ModelFile& model) {
  if (const GgufFile* gguf = model.gguf(); gguf != nullptr) return from_gguf(*gguf);
  return from_json(model.tokenizer_json(), model.tokenizer_config_json(), model.config_json(),
                   model.generation_config_json());
}

}  // namespace polykv::runtime

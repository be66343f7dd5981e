// polykv_make_model_pool MODEL POOL TOKENS SEED: a pool that fits MODEL, of random keys and values. Answers from it
// mean nothing and always are the same, which is what tests about files and processes need, and it takes no LibTorch.
// An existing POOL is replaced as `polykv build --force` replaces it.
#include <cstdlib>
#include <iostream>

#include "cli/runtime/model_locator.h"
#include "tests/support/make_pool.h"

namespace {

polykv::format::Status make(const std::string& model_path, const std::string& pool, std::uint32_t num_tokens,
                            std::uint64_t seed) {
  using namespace polykv;
  POLYKV_TRY(const runtime::Model model, runtime::open_model(model_path, runtime::DigestPolicy::kFull));
  POLYKV_TRY(const runtime::ChatTemplate chat,
             runtime::make_chat_template("none", model.file.chat_template(), {}, model.tokenizer));
  const runtime::ModelConfig& config = model.config();
  return tests::make_pool(pool, {.shape = {config.num_layers, config.num_kv_heads, config.head_dim, num_tokens},
                                 .seed = seed,
                                 .force = true,
                                 .vocab_size = config.vocab_size,
                                 .fits = runtime::make_model_identity(model, chat, {})});
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 5) return 2;
  const auto num_tokens = static_cast<std::uint32_t>(std::strtoul(argv[3], nullptr, 10));
  if (const auto status = make(argv[1], argv[2], num_tokens, std::strtoull(argv[4], nullptr, 10)); !status) {
    std::cerr << status.error().message << "\n";
    return 1;
  }
  return 0;
}

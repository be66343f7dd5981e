// Random pools for the scripts beside this file:
//   polykv_make_pool POOL [LAYERS KV_HEADS HEAD_DIM TOKENS CODEC SEED]
//   polykv_make_pool POOL MODEL TEXT     fits the model, and holds the text's tokens
#include <cstdlib>
#include <iostream>
#include <string>

#include "tests/support/make_model_pool.h"
#include "tests/support/make_pool.h"

int main(int argc, char** argv) {
  using namespace polykv;
  if (argc != 2 && argc != 4 && argc != 8) return 2;
  tests::PoolRecipe recipe;
  recipe.force = true;
  if (argc == 8) {
    const auto number = [&](int i) { return static_cast<std::uint32_t>(std::strtoul(argv[i], nullptr, 10)); };
    recipe.shape = {.num_layers = number(2), .num_kv_heads = number(3), .head_dim = number(4), .num_tokens = number(5)};
    const auto codec = core::parse_codec_name(argv[6]);
    if (!codec) return 2;
    recipe.codec = *codec;
    recipe.seed = number(7);
  }
  const auto status = argc == 4 ? tests::make_model_pool(argv[2], argv[3], argv[1]) : tests::make_pool(argv[1], recipe);
  if (!status) {
    std::cerr << status.error().message << "\n";
    return 1;
  }
  return 0;
}

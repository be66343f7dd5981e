// polykv_make_pool POOL [LAYERS KV_HEADS HEAD_DIM TOKENS CODEC SEED]: a random pool, for the scripts beside this file.
#include <cstdlib>
#include <iostream>
#include <string>

#include "tests/support/make_pool.h"

int main(int argc, char** argv) {
  using namespace polykv;
  if (argc != 2 && argc != 8) return 2;
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
  if (const auto status = tests::make_pool(argv[1], recipe); !status) {
    std::cerr << status.error().message << "\n";
    return 1;
  }
  return 0;
}

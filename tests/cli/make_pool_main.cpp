// Random pools for the scripts beside this file:
//   polykv_make_pool POOL [LAYERS KV_HEADS HEAD_DIM TOKENS CODEC SEED [FIDELITY [KEPT]]]
//                                        CODEC may be "mixed", 2 to 7 bits by chance; FIDELITY is a file of JSON;
//                                        of every 8 positions each head keeps all or none, KEPT % of them by chance
//   polykv_make_pool POOL MODEL TEXT     fits the model, and holds the text's tokens
#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <iterator>
#include <string>

#include "tests/support/make_model_pool.h"
#include "tests/support/make_pool.h"

namespace {

std::vector<polykv::core::CodecPair> random_plan(const polykv::tests::PoolRecipe& recipe) {
  polykv::tests::TestRandom random(recipe.seed);
  std::vector<polykv::core::CodecPair> plan(std::size_t{recipe.shape.num_layers} * recipe.shape.num_kv_heads);
  for (polykv::core::CodecPair& codec : plan) {
    codec.key = static_cast<polykv::format::CodecId>(2 + random.next() % 6);
    codec.value = static_cast<polykv::format::CodecId>(2 + random.next() % 6);
  }
  return plan;
}

std::vector<polykv::format::PositionSet> random_positions(const polykv::tests::PoolRecipe& recipe,
                                                          std::uint32_t percent) {
  constexpr std::uint32_t kSpan = 8;
  polykv::tests::TestRandom random(recipe.seed);
  std::vector<polykv::format::PositionSet> kept(std::size_t{recipe.shape.num_layers} * recipe.shape.num_kv_heads);
  for (polykv::format::PositionSet& set : kept) {
    auto& ranges = set.ranges;
    for (std::uint32_t begin = polykv::format::kNumSinks; begin < recipe.shape.num_tokens; begin += kSpan) {
      const std::uint32_t end = std::min(begin + kSpan, recipe.shape.num_tokens);
      if (random.next() % 100 >= percent) continue;
      if (!ranges.empty() && ranges.back().end == begin)
        ranges.back().end = end;
      else
        ranges.push_back({begin, end});
    }
  }
  return kept;
}

}  // namespace

int main(int argc, char** argv) {
  using namespace polykv;
  if (argc != 2 && argc != 4 && argc != 8 && argc != 9 && argc != 10) return 2;
  tests::PoolRecipe recipe;
  recipe.force = true;
  if (argc >= 8) {
    const auto number = [&](int i) { return static_cast<std::uint32_t>(std::strtoul(argv[i], nullptr, 10)); };
    recipe.shape = {.num_layers = number(2), .num_kv_heads = number(3), .head_dim = number(4), .num_tokens = number(5)};
    recipe.seed = number(7);
    const bool is_mixed = argv[6] == std::string("mixed");
    const auto codec = core::parse_codec_name(is_mixed ? "k5v4" : argv[6]);
    if (!codec) return 2;
    recipe.codec = *codec;
    if (is_mixed) recipe.plan = random_plan(recipe);
  }
  if (argc >= 9) {
    std::ifstream file(argv[8], std::ios::binary);
    recipe.fidelity.assign(std::istreambuf_iterator<char>(file), {});
  }
  if (argc == 10)
    recipe.kept = random_positions(recipe, static_cast<std::uint32_t>(std::strtoul(argv[9], nullptr, 10)));
  const auto status = argc == 4 ? tests::make_model_pool(argv[2], argv[3], argv[1]) : tests::make_pool(argv[1], recipe);
  if (!status) {
    std::cerr << status.error().message << "\n";
    return 1;
  }
  return 0;
}

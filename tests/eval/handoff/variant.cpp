#include "tests/eval/handoff/variant.h"

#include <cstdlib>

#include "cli/commands/fidelity_section.h"
#include "cli/runtime/dimension_weights.h"
#include "cli/runtime/prompt.h"

namespace polykv::eval {

using runtime::CardBits;
using runtime::Grain;

std::optional<Variant> parse_variant(std::string_view name, const runtime::Controller* controller) {
  Variant variant;
  variant.name = name;
  if (name == "base") return variant;
  for (std::size_t at = name.find('@'); at != std::string_view::npos; at = name.find('@', at + 1)) {
    const std::string_view weight = name.substr(at + 1);
    const std::string number(weight.substr(std::min(weight.size(), weight.find('=') + 1)));
    double& share = weight.starts_with("own=") ? variant.weights.own_share : variant.weights.even_share;
    if (weight.starts_with("alone")) {
      variant.knows_base = false;
      continue;
    }
    if (weight.starts_with("learned") || weight.starts_with("local")) {
      if (controller == nullptr) return std::nullopt;
      variant.weights.learned = weight.starts_with("local") ? &controller->local : &controller->all;
      variant.weights.even_share = runtime::kLearnedEvenShare;
      continue;
    }
    if (!weight.starts_with("own=") && !weight.starts_with("even=")) return std::nullopt;
    share = std::strtod(number.c_str(), nullptr);
  }
  name = name.substr(0, name.find('@'));
  for (const auto& [prefix, grain] : {std::pair{"tokens:", Grain::kTokens}, std::pair{"paper:", Grain::kPaper},
                                      std::pair{"heads:", Grain::kHeads}, std::pair{"both:", Grain::kBoth}}) {
    if (!name.starts_with(prefix)) continue;
    const auto bits = runtime::parse_card_bits("auto:" + std::string(name.substr(std::string_view(prefix).size())));
    if (!bits) return std::nullopt;
    variant.bits = *bits;
    variant.grain = grain;
    return variant;
  }
  const auto bits = runtime::parse_card_bits(name);
  if (!bits) return std::nullopt;
  variant.bits = *bits;
  return variant;
}

format::Result<runtime::TokenPlan> plan_of(const Variant& variant, const runtime::Model& model,
                                           const runtime::ChatTemplate& chat, const format::PoolReader& base,
                                           const Finished& agent, core::Workers& workers) {
  format::KvShape shape = base.shape();
  shape.num_tokens = static_cast<std::uint32_t>(agent.turn.tokens.size());
  if (variant.bits.kind == CardBits::Kind::kAsBase) return runtime::token_plan_as_base(base, shape.num_tokens);
  if (variant.bits.kind == CardBits::Kind::kUniform) {
    const auto codec = static_cast<format::CodecId>(variant.bits.bits);
    return runtime::uniform_token_plan(shape, {codec, codec});
  }
  POLYKV_TRY(const auto fidelity, cli::parse_fidelity(base.fidelity()));
  const auto heads = variant.knows_base
                         ? cli::stored_sensitivities(fidelity, std::size_t{shape.num_layers} * shape.num_kv_heads)
                         : std::vector<runtime::Sensitivity>();
  const runtime::MixedCard card{&model, &chat, agent.runner, agent.tail, heads, agent.turn};
  runtime::MixedWeights weights = variant.weights;
  weights.own = agent.rows;
  return runtime::mixed_token_plan(card, shape, variant.bits.bits, workers, variant.grain, weights);
}

}  // namespace polykv::eval

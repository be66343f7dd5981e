#include "tests/eval/handoff/variant.h"

#include "cli/runtime/dimension_weights.h"
#include "cli/runtime/prompt.h"

namespace polykv::eval {

using runtime::CardBits;
using runtime::Grain;

std::optional<Variant> parse_variant(std::string_view name) {
  Variant variant;
  variant.name = name;
  if (name == "base") return variant;
  if (name.ends_with("@own")) variant.own_share = 1.0;
  if (name.ends_with("@next")) variant.own_share = 0.0;
  name = name.substr(0, name.find('@'));
  for (const auto& [prefix, grain] :
       {std::pair{"tokens:", Grain::kTokens}, std::pair{"heads:", Grain::kHeads}, std::pair{"both:", Grain::kBoth}}) {
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
  shape.num_tokens = agent.num_tokens;
  if (variant.bits.kind == CardBits::Kind::kAsBase) return runtime::token_plan_as_base(base, shape.num_tokens);
  if (variant.bits.kind == CardBits::Kind::kUniform) {
    const auto codec = static_cast<format::CodecId>(variant.bits.bits);
    return runtime::uniform_token_plan(shape, {codec, codec});
  }
  const runtime::MixedCard card{&model, &chat, agent.runner, agent.tail, agent.rows};
  return runtime::mixed_token_plan(card, shape, variant.bits.bits, workers, variant.grain, variant.own_share);
}

}  // namespace polykv::eval

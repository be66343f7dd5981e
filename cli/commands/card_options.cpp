#include "cli/commands/card_options.h"

#include <filesystem>

#include "cli/commands/fidelity_section.h"
#include "cli/commands/output_options.h"
#include "cli/runtime/cards/token_allocation.h"
#include "cli/runtime/user_index.h"

namespace polykv::cli {

format::Result<runtime::CardBits> read_card_bits(const Options& options) {
  if (options.card_bits.empty()) return runtime::CardBits();
  if (const auto bits = runtime::parse_card_bits(options.card_bits)) return *bits;
  return format::Error(format::ErrorCode::kUsage, std::string(options.command->name) + ": --bits: '" +
                                                      options.card_bits + "' is not " + runtime::kCardBitsSyntax);
}

format::Status refuse_parent(const std::string& output, const PoolChain& chain) {
  for (std::size_t i = 0; i < chain.size(); ++i) {
    std::error_code ignored;
    if (std::filesystem::equivalent(output, chain.file(i).file.path(), ignored))
      return format::Error(format::ErrorCode::kUsage,
                           output + " is one of the pools that are needed; choose another name");
  }
  return {};
}

runtime::CardSpec card_spec(const Desk& desk, std::span<const core::KvPool* const> chain, format::Tokens tokens,
                            const runtime::CardBits& bits, const Options& options) {
  runtime::CardSpec spec;
  spec.parent = &desk.pool().reader;
  spec.parent_name = desk.pool().file.path().filename().string();
  spec.chain = chain;
  spec.tokens = std::move(tokens);
  spec.fields.set(runtime::kBitsField, card_bits_name(bits));
  if (!options.sender.empty()) spec.fields.set(runtime::kSenderField, options.sender);
  spec.created = source_date_epoch();
  return spec;
}

runtime::TokenPlan plain_plan(const runtime::CardBits& bits, const Desk& desk, std::size_t num_tokens) {
  format::KvShape shape = desk.pages().shape();
  shape.num_tokens = static_cast<std::uint32_t>(num_tokens);
  if (bits.kind == runtime::CardBits::Kind::kAsBase)
    return runtime::token_plan_as_base(desk.chain.file(0).reader, shape.num_tokens);
  const auto codec = static_cast<format::CodecId>(bits.bits);
  return runtime::uniform_token_plan(shape, {codec, codec});
}

format::Result<std::vector<runtime::Sensitivity>> base_sensitivities(const Desk& desk) {
  const format::PoolReader& base = desk.chain.file(0).reader;
  POLYKV_TRY(const auto fidelity, parse_fidelity(base.fidelity()));
  return stored_sensitivities(fidelity, std::size_t{base.shape().num_layers} * base.shape().num_kv_heads);
}

format::Result<runtime::TokenPlan> plan_ahead(const runtime::CardBits& bits, const Desk& desk, std::size_t num_tokens) {
  if (!bits.by_token()) return plain_plan(bits, desk, num_tokens);
  if (bits.kind == runtime::CardBits::Kind::kLearned)
    return format::Error(format::ErrorCode::kUsage,
                         "append: --bits learned:B is for what an agent adds; give auto:B or a number");
  POLYKV_TRY(const std::vector<runtime::Sensitivity> heads, base_sensitivities(desk));
  if (heads.empty())
    return format::Error(format::ErrorCode::kUsage,
                         "append: --bits auto:B goes by what build measured of each head, which " +
                             desk.chain.file(0).file.path().string() +
                             " does not hold (build with --codec auto and without --no-probe); or give a number");
  format::KvShape shape = desk.pages().shape();
  shape.num_tokens = static_cast<std::uint32_t>(num_tokens);
  return runtime::allocate_heads(shape, heads, bits.bits);
}

void remember_parents(const PoolChain& chain) {
  for (std::size_t i = 0; i < chain.size(); ++i) {
    const PoolFile& pool = chain.file(i);
    runtime::remember_path(runtime::UserIndex::kPools, format::to_hex(pool.reader.superblock_digest()),
                           pool.file.path());
  }
}

}  // namespace polykv::cli

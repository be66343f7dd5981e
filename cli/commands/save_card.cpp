#include "cli/commands/save_card.h"

#include <chrono>
#include <filesystem>

#include "cli/runtime/card_writer.h"
#include "cli/runtime/dimension_weights.h"
#include "cli/runtime/prompt.h"
#include "cli/runtime/token_allocation.h"
#include "cli/runtime/user_index.h"

namespace polykv::cli {
namespace {

using format::Error;
using format::ErrorCode;
using format::Result;

// The next question is not known; how its turn is opened, and the answer to it, is.
Result<runtime::TokenPlan> mixed_plan(double bits, Desk& desk, runtime::Agent& agent, const format::KvShape& shape) {
  runtime::CardRows next(desk.model.config());
  POLYKV_CHECK_STATUS(next.look_ahead(desk.runner, agent.tail(),
                                      runtime::make_next_question_tokens(desk.model.tokenizer, desk.chat, "")));
  const std::vector<float> squares = runtime::output_squares(desk.model.file, desk.workers);
  const auto measure = [&](const runtime::CardRows& rows) {
    return rows.measure(agent.tail(), shape.num_tokens, squares, desk.workers);
  };
  return runtime::allocate_tokens(shape, runtime::weigh_rows(measure(*agent.rows()), measure(next)), bits,
                                  runtime::Grain::kBoth);
}

Result<runtime::TokenPlan> make_plan(const runtime::CardBits& bits, Desk& desk, runtime::Agent& agent,
                                     const format::KvShape& shape) {
  using Kind = runtime::CardBits::Kind;
  if (bits.kind == Kind::kAsBase) return runtime::token_plan_as_base(desk.chain.file(0).reader, shape.num_tokens);
  if (bits.kind == Kind::kMixed) return mixed_plan(bits.bits, desk, agent, shape);
  const auto codec = static_cast<format::CodecId>(bits.bits);
  return runtime::uniform_token_plan(shape, {codec, codec});
}

// A card's parents are found again even if the card is elsewhere.
void remember(const PoolChain& chain) {
  for (std::size_t i = 0; i < chain.size(); ++i) {
    const PoolFile& pool = chain.file(i);
    runtime::remember_path(runtime::UserIndex::kPools, format::to_hex(pool.reader.superblock_digest()),
                           pool.file.path());
  }
}

}  // namespace

Result<runtime::CardBits> check_save_options(const Options& options) {
  if (options.save.empty()) {
    for (const auto& [name, given] :
         {std::pair{"--bits", !options.card_bits.empty()}, std::pair{"--sender", !options.sender.empty()},
          std::pair{"--force", options.force}}) {
      if (given) return Error(ErrorCode::kUsage, std::string("ask: ") + name + " is for a card: give --save CARD too");
    }
    return runtime::CardBits();
  }
  if (!options.tail_retain.empty())
    return Error(ErrorCode::kUsage, "ask: a card keeps the whole tail: --save or --tail-retain, not both");
  const auto bits = options.card_bits.empty() ? runtime::CardBits() : runtime::parse_card_bits(options.card_bits);
  if (!bits)
    return Error(ErrorCode::kUsage, "ask: --bits: '" + options.card_bits + "' is not " + runtime::kCardBitsSyntax);
  std::error_code ignored;
  if (!options.force && std::filesystem::exists(std::filesystem::symlink_status(options.save, ignored)))
    return Error(ErrorCode::kExists, options.save + ": exists already; --force replaces it");
  return *bits;
}

Result<SavedCard> save_card(const Options& options, const runtime::CardBits& bits, Desk& desk, runtime::Agent& agent) {
  POLYKV_CHECK_STATUS(agent.complete_tail(desk.runner));
  const auto start = std::chrono::steady_clock::now();
  const PoolFile& parent = desk.pool();
  const std::vector<const core::KvPool*> chain = desk.chain.views();
  runtime::CardSpec spec;
  spec.parent = &parent.reader;
  spec.parent_name = parent.file.path().filename().string();
  spec.chain = chain;
  spec.tokens = runtime::tokens_with_text(desk.model.tokenizer, {agent.fed().begin(), agent.fed().end()});
  format::KvShape shape = chain.back()->shape();
  shape.num_tokens = static_cast<std::uint32_t>(spec.tokens.ids.size());
  POLYKV_TRY(spec.plan, make_plan(bits, desk, agent, shape));
  spec.fields = {{runtime::kTurnField, runtime::kAnswerTurn}, {runtime::kBitsField, card_bits_name(bits)}};
  if (!options.sender.empty()) spec.fields[runtime::kSenderField] = options.sender;

  POLYKV_TRY(runtime::CardWriter writer,
             runtime::CardWriter::create(options.save, std::move(spec), {.force = options.force}, desk.workers));
  POLYKV_CHECK_STATUS(writer.write(agent.tail()));
  POLYKV_CHECK_STATUS(desk.check_unchanged());
  POLYKV_TRY(const std::uint64_t bytes, writer.finish());
  remember(desk.chain);
  const double write_ms = std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
  return SavedCard{bytes, shape.num_tokens, write_ms};
}

}  // namespace polykv::cli

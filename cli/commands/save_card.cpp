#include "cli/commands/save_card.h"

#include <chrono>

#include "cli/commands/card_options.h"
#include "cli/commands/output_options.h"
#include "cli/runtime/cards/card_writer.h"
#include "cli/runtime/cards/mixed_card.h"
#include "cli/runtime/prompt.h"

namespace polykv::cli {

using format::Error;
using format::ErrorCode;
using format::Result;

namespace {

Result<runtime::TokenPlan> plan_by_token(Desk& desk, runtime::Agent& agent, const runtime::CardBits& bits,
                                         const format::KvShape& shape) {
  POLYKV_TRY(const auto heads, base_sensitivities(desk));
  const std::vector<runtime::TokenId> before = desk.chain.token_ids();
  const runtime::MixedCard card{&desk.model,   &desk.chat, &desk.runner,
                                &agent.tail(), heads,      {before, agent.fed(), agent.answer().prompt_tokens}};
  if (bits.kind == runtime::CardBits::Kind::kMixed)
    return runtime::mixed_token_plan(card, shape, bits.bits, desk.workers);
  POLYKV_TRY(const runtime::Controller controller, runtime::open_controller(desk.model));
  return runtime::mixed_token_plan(card, shape, bits.bits, desk.workers, runtime::kMixedGrain,
                                   {.even_share = runtime::kLearnedEvenShare, .learned = &controller.all});
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
  POLYKV_TRY(const runtime::CardBits bits, read_card_bits(options));
  const format::Status fresh = refuse_existing(options.save, options);
  if (!fresh) return Error(fresh.error().code, options.save + ": " + fresh.error().message);
  return bits;
}

Result<SavedCard> save_card(const Options& options, const runtime::CardBits& bits, Desk& desk, runtime::Agent& agent) {
  POLYKV_CHECK_STATUS(agent.complete_tail(desk.runner));
  const auto start = std::chrono::steady_clock::now();
  const std::vector<const core::KvPool*> chain = desk.chain.views();
  auto tokens = runtime::tokens_with_text(desk.model.tokenizer, {agent.fed().begin(), agent.fed().end()});
  format::KvShape shape = chain.back()->shape();
  shape.num_tokens = static_cast<std::uint32_t>(tokens.ids.size());
  runtime::CardSpec spec = card_spec(desk, chain, std::move(tokens), bits, options);
  spec.fields.set(runtime::kTurnField, runtime::kAnswerTurn);
  if (bits.by_token()) {
    POLYKV_TRY(spec.plan, plan_by_token(desk, agent, bits, shape));
  } else {
    spec.plan = plain_plan(bits, desk, shape.num_tokens);
  }

  POLYKV_TRY(runtime::CardWriter writer,
             runtime::CardWriter::create(options.save, std::move(spec), {.force = options.force}, desk.workers));
  POLYKV_CHECK_STATUS(writer.write(agent.tail()));
  POLYKV_CHECK_STATUS(desk.check_unchanged());
  POLYKV_TRY(const std::uint64_t bytes, writer.finish());
  remember_parents(desk.chain);
  const double write_ms = std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
  return SavedCard{bytes, shape.num_tokens, write_ms};
}

}  // namespace polykv::cli

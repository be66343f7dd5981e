#include "cli/commands/graft.h"

#include <cstdio>
#include <nlohmann/json.hpp>

#include "cli/commands/card_options.h"
#include "cli/commands/desk.h"
#include "cli/commands/output_options.h"
#include "cli/progress.h"
#include "cli/runtime/cards/graft.h"
#include "cli/runtime/fidelity_json.h"
#include "cli/runtime/probes.h"
#include "cli/runtime/prompt.h"
#include "cli/signals.h"

namespace polykv::cli {
namespace {

using format::Error;
using format::ErrorCode;
using format::Result;

Result<PoolChain> open_card(const std::string& path, const Options& options, const Desk& desk, Report& report) {
  POLYKV_TRY(PoolChain card, open_pool_chain(path, {options.trust, options.pool_path}, report));
  const format::Superblock &theirs = card.last().reader.superblock(), &ours = desk.pool().reader.superblock();
  if (!theirs.has_parent())
    return Error(ErrorCode::kUsage, "append --graft: it extends no other pool, so it is no card");
  const auto difference = card.last().reader.identity().first_difference(desk.pool().reader.identity());
  if (difference) {
    return Error(ErrorCode::kMismatch, difference->name + " is " + difference->mine + " in the card and " +
                                           difference->theirs + " in the pool");
  }
  const std::uint32_t end = ours.first_position + ours.shape.num_tokens + theirs.shape.num_tokens;
  if (end >= desk.model.config().context_length) {
    return Error(ErrorCode::kUnusableText, "with the card the pool would have " + std::to_string(end) +
                                               " tokens, more than the model's context has");
  }
  return card;
}

// Put after the card.
std::vector<std::vector<runtime::TokenId>> probe_questions(const Desk& desk, const format::Identity& card) {
  std::vector<std::vector<runtime::TokenId>> questions;
  const bool new_turn = card.get(runtime::kTurnField) == runtime::kAnswerTurn;
  for (const char* question : runtime::kProbeQuestions) {
    questions.push_back(new_turn ? runtime::make_next_question_tokens(desk.model.tokenizer, desk.chat, question)
                                 : runtime::make_question_tokens(desk.model.tokenizer, desk.chat, "", question));
  }
  return questions;
}

// What the card says of itself goes on.
Result<runtime::CardSpec> graft_spec(const Desk& desk, std::span<const core::KvPool* const> chain,
                                     const format::PoolReader& card, const Options& options) {
  format::Tokens tokens = card.tokens();
  POLYKV_TRY(tokens.text, card.source_text());
  runtime::CardSpec spec = card_spec(desk, chain, std::move(tokens), {}, options);
  spec.plan = runtime::token_plan_of(card);
  for (const char* name :
       {runtime::kTurnField, runtime::kBitsField, runtime::kSenderField, runtime::kOpenPrefixField}) {
    const auto value = card.identity().get(name);
    const bool is_given = name == std::string_view(runtime::kSenderField) && !options.sender.empty();
    if (value && !is_given) spec.fields.set(name, std::string(*value));
  }
  return spec;
}

std::string summary(const runtime::GraftReport& graft) {
  char text[160];
  std::snprintf(text, sizeof text,
                "grafted, %s; against the same text read there: same token %.1f %%, KL divergence %.4f",
                short_bytes(graft.pool_bytes).c_str(), 100.0 * graft.damage.same_top, graft.damage.kld_mean);
  return text;
}

}  // namespace

int run_graft(const Options& options, Report& report) {
  const std::string &path = options.operands[0], &card_path = options.operands[1];
  if (options.operands.size() != 2 || !options.card_bits.empty()) {
    return report.error({}, Error(ErrorCode::kUsage, "append: --graft takes one card, whose bits stay as they are"));
  }
  const auto desk = open_desk(path, options, report);
  if (!desk) return report.error(path, desk.error());
  const auto card = open_card(card_path, options, **desk, report);
  if (!card) return report.error(card_path, card.error());
  for (const PoolChain* pools : {static_cast<const PoolChain*>(&(*desk)->chain), &*card})
    if (const auto status = refuse_parent(options.output, *pools); !status) return report.error({}, status.error());

  const std::vector<const core::KvPool*> chain = (*desk)->chain.views(), from = card->views();
  auto spec = graft_spec(**desk, chain, card->last().reader, options);
  if (!spec) return report.error(card_path, spec.error());
  Progress progress(report);
  runtime::GraftRequest request{&(*desk)->model.file,
                                from,
                                *std::move(spec),
                                probe_questions(**desk, card->last().reader.identity()),
                                (*desk)->model.tokenizer.end_tokens(),
                                [&](double share) {
                                  progress.update(static_cast<std::uint64_t>(100 * share), 100, "%", "probe");
                                  return !stop_requested();
                                }};
  const auto graft = runtime::graft_card(std::move(request), options.output,
                                         {.force = options.force, .mode = options.mode}, (*desk)->workers);
  progress.clear();
  if (!graft) {
    const format::Status stopped = check_stop();
    return report.error(options.output, stopped ? graft.error() : stopped.error());
  }
  remember_parents((*desk)->chain);
  if (options.json) {
    report.print_line({{"schema", "polykv.graft/1"},
                       {"pool", options.output},
                       {"parent", path},
                       {"card", card_path},
                       {"first_position", chain.back()->end_position()},
                       {"tokens", from.back()->shape().num_tokens},
                       {"pool_bytes", graft->pool_bytes},
                       {"damage", runtime::divergence_json(graft->damage)}});
  } else {
    report.notice(options.output, summary(*graft));
  }
  return 0;
}

}  // namespace polykv::cli

// polykv append POOL DOC... -o POOL: reads more text after a pool's, as a pool that extends it.
#include <chrono>
#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "cli/commands/card_options.h"
#include "cli/commands/commands.h"
#include "cli/commands/desk.h"
#include "cli/commands/document.h"
#include "cli/commands/graft.h"
#include "cli/commands/output_options.h"
#include "cli/progress.h"
#include "cli/runtime/cards/pool_extender.h"
#include "cli/runtime/model_runner.h"
#include "cli/runtime/prompt.h"
#include "cli/signals.h"

namespace polykv::cli {
namespace {

using format::Error;
using format::ErrorCode;
using format::Result;

Result<runtime::PoolPrompt> make_prompt(const Desk& desk, std::span<const runtime::Document> documents) {
  std::vector<std::string> texts;
  for (const runtime::Document& document : documents) texts.push_back(document.text);
  const std::string text = runtime::join_documents(desk.model.tokenizer, desk.chat, texts);
  runtime::PoolPrompt prompt = runtime::make_next_part(desk.model.tokenizer, desk.chat, desk.open_text, text);
  const std::size_t num_tokens = prompt.tokens.ids.size();
  const std::uint32_t context = desk.model.config().context_length, before = desk.runner.chain_end();
  if (num_tokens == 0)
    return Error(ErrorCode::kUnusableText, "the text has no token that later text cannot change; add more text");
  if (before + num_tokens >= context) {
    return Error(ErrorCode::kUnusableText, "the text has " + std::to_string(num_tokens) + " tokens and the pool " +
                                               std::to_string(before) + "; " + std::to_string(context - 1) +
                                               " fit the model's context");
  }
  return prompt;
}

std::string summary(std::size_t num_tokens, const runtime::ExtendReport& extended, double total_ms) {
  char text[160];
  std::snprintf(text, sizeof text, "%s more tokens, %s, in %.1f s (prefill %.0f tok/s)",
                with_commas(num_tokens).c_str(), short_bytes(extended.pool_bytes).c_str(), total_ms / 1000.0,
                static_cast<double>(num_tokens) / (extended.prefill_ms / 1000.0));
  return text;
}

}  // namespace

int run_append(const Options& options, Report& report) {
  const auto start = std::chrono::steady_clock::now();
  const std::string& path = options.operands.front();
  if (const auto status = refuse_existing(options.output, options); !status)
    return report.error(options.output, status.error());
  if (options.graft) return run_graft(options, report);
  const auto bits = read_card_bits(options);
  if (!bits) return report.error({}, bits.error());
  const auto documents = read_documents(std::span(options.operands).subspan(1));
  if (!documents) return report.error({}, documents.error());
  const auto desk = open_desk(path, options, report);
  if (!desk) return report.error(path, desk.error());
  if (const auto status = refuse_parent(options.output, (*desk)->chain); !status)
    return report.error({}, status.error());
  auto prompt = make_prompt(**desk, *documents);
  if (!prompt) return report.error({}, prompt.error());
  const std::size_t num_tokens = prompt->tokens.ids.size();
  auto plan = plan_ahead(*bits, **desk, num_tokens);
  if (!plan) return report.error({}, plan.error());
  const runtime::NumberType type = prefill_type(options);
  const auto runner = runtime::make_prefill_runner(type);
  if (!runner) return report.error({}, runner.error());

  const std::vector<const core::KvPool*> chain = (*desk)->chain.views();
  runtime::CardSpec spec = card_spec(**desk, chain, std::move(prompt->tokens), *bits, options);
  spec.plan = *std::move(plan);
  if (!prompt->open_prefix.empty()) spec.fields.set(runtime::kOpenPrefixField, prompt->open_prefix);
  spec.fields.set("prefill.type", runtime::number_type_name(type));
  spec.fields.set("prefill.runner", (*runner)->version());
  runtime::add_document_fields(*documents, spec.fields);
  Progress progress(report);
  const runtime::PrefillOptions prefill{
      type, static_cast<std::uint32_t>((*desk)->workers.num_threads()), false, [&](double share) {
        progress.update(static_cast<std::uint64_t>(std::llround(share * static_cast<double>(num_tokens))), num_tokens,
                        "tok", "prefill");
        return !stop_requested();
      }};
  const auto extended = runtime::extend_pool((*desk)->model.file, std::move(spec), **runner, prefill, options.output,
                                             {.force = options.force, .mode = options.mode}, (*desk)->workers);
  progress.clear();
  if (!extended) {
    const format::Status stopped = check_stop();
    return report.error(options.output, stopped ? extended.error() : stopped.error());
  }
  if (const auto& unchanged = (*desk)->check_unchanged(); !unchanged) return report.error(path, unchanged.error());
  remember_parents((*desk)->chain);
  const double total_ms = std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
  if (options.json) {
    report.print_line({{"schema", "polykv.append/1"},
                       {"pool", options.output},
                       {"parent", path},
                       {"first_position", chain.back()->end_position()},
                       {"tokens", num_tokens},
                       {"prefill_ms", extended->prefill_ms},
                       {"total_ms", total_ms},
                       {"pool_bytes", extended->pool_bytes}});
  } else {
    report.notice(options.output, summary(num_tokens, *extended, total_ms));
  }
  return 0;
}

}  // namespace polykv::cli

// polykv build DOC... -o POOL: reads documents once and publishes what the model computed for them.
#include <chrono>
#include <cmath>
#include <nlohmann/json.hpp>

#include "cli/commands/commands.h"
#include "cli/commands/document.h"
#include "cli/commands/output_options.h"
#include "cli/commands/retain_option.h"
#include "cli/progress.h"
#include "cli/runtime/model_locator.h"
#include "cli/runtime/pool_builder.h"
#include "cli/signals.h"

namespace polykv::cli {
namespace {

using format::Error;
using format::ErrorCode;

constexpr std::uint32_t kFewPositions = 512;  // fewer free positions than this are worth a warning

// --codec, and what a plan is to keep within.
format::Result<runtime::CodecChoice> codec_choice(const Options& options) {
  runtime::CodecChoice choice;
  if (options.codec != "auto") choice.fixed = core::parse_codec_name(options.codec);
  if (options.bits > 0) choice.bits_per_value = options.bits;
  choice.pool_bytes = options.size;
  if (options.max_kld > 0) choice.max_kld = options.max_kld;
  const int num_limits = (options.bits > 0) + options.size.has_value() + (options.max_kld > 0);
  if (num_limits > 1) return Error(ErrorCode::kUsage, "build: only one of --bits, --size and --max-kld");
  if (num_limits > 0 && choice.fixed)
    return Error(ErrorCode::kUsage, "build: --bits, --size and --max-kld need --codec auto, not " + options.codec);
  if (choice.max_kld && options.no_probe)
    return Error(ErrorCode::kUsage, "build: --max-kld needs the probes, which --no-probe leaves out");
  return choice;
}

// What was built, for a person: one line.
std::string summary(const runtime::BuildReport& built, double total_ms) {
  char text[160];
  std::snprintf(text, sizeof text, "%s tokens, %s, in %.1f s (prefill %.0f tok/s)", with_commas(built.tokens).c_str(),
                short_bytes(built.pool_bytes).c_str(), total_ms / 1000.0, built.tokens / (built.prefill_ms / 1000.0));
  return text;
}

nlohmann::ordered_json to_json(const std::string& pool, const runtime::BuildReport& built, double total_ms) {
  return {{"schema", "polykv.build/1"},
          {"pool", pool},
          {"tokens", built.tokens},
          {"prefill_ms", built.prefill_ms},
          {"prefill_tok_s", built.tokens / (built.prefill_ms / 1000.0)},
          {"plan_ms", built.plan_ms},
          {"quantize_ms", built.quantize_ms},
          {"probe_ms", built.probe_ms},
          {"total_ms", total_ms},
          {"pool_bytes", built.pool_bytes}};
}

}  // namespace

int run_build(const Options& options, Report& report) {
  const auto start = std::chrono::steady_clock::now();
  if (const auto status = refuse_existing(options.output, options); !status)
    return report.error(options.output, status.error());
  const auto choice = codec_choice(options);
  if (!choice) return report.error({}, choice.error());
  const auto retain = read_retain_option(options);
  if (!retain) return report.error({}, retain.error());
  const auto documents = read_documents(options.operands);
  if (!documents) return report.error({}, documents.error());

  const auto path = runtime::locate_model(options.model);
  if (!path) return report.error({}, path.error());
  const auto model = runtime::open_model(*path, runtime::DigestPolicy::kFull);
  if (!model) return report.error(path->string(), model.error());
  if (const auto status = check_plan_fits(*retain, *model); !status) return report.error({}, status.error());
  const auto chat =
      runtime::make_chat_template(options.template_name, model->file.chat_template(), options.system, model->tokenizer);
  if (!chat) return report.error(path->string(), chat.error());

  runtime::BuildRequest request{&*model, &*chat, options.system, *documents, *choice, source_date_epoch()};
  request.retention = retain->choice;
  request.accept_loss = options.accept_loss;
  request.probe = !options.no_probe;
  auto prompt = runtime::make_prompt(request);
  if (!prompt) return report.error({}, prompt.error());
  const std::size_t num_tokens = prompt->tokens.ids.size();
  if (const std::size_t left = model->config().context_length - num_tokens; left < kFewPositions) {
    report.notice(options.output,
                  "only " + std::to_string(left) + " positions of the model's context remain for question and answer");
  }
  auto runner = runtime::make_prefill_runner(prefill_type(options));
  if (!runner) return report.error({}, runner.error());

  Progress progress(report);
  core::Workers workers(options.threads != 0 ? options.threads : core::default_num_threads());
  request.on_progress = [&](const char* work, double share) {
    progress.update(static_cast<std::uint64_t>(std::llround(100 * share)), 100, "%", work);
    return !stop_requested();
  };
  runtime::PrefillOptions prefill{
      prefill_type(options), static_cast<std::uint32_t>(workers.num_threads()), false, [&](double share) {
        progress.update(static_cast<std::uint64_t>(std::llround(share * static_cast<double>(num_tokens))), num_tokens,
                        "tok", "prefill");
        return !stop_requested();
      }};
  const auto built = runtime::build_pool(request, std::move(prompt).value(), **runner, prefill, options.output,
                                         {options.force, options.mode}, workers);
  progress.clear();
  if (!built) {
    const format::Status stopped = check_stop();
    return report.error(options.output, stopped ? built.error() : stopped.error());
  }
  runtime::remember_model(model->weights_digest, *path);
  const double total_ms = std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
  if (options.json) {
    report.print_line(to_json(options.output, *built, total_ms));
  } else {
    report.notice(options.output, summary(*built, total_ms));
  }
  return 0;
}

}  // namespace polykv::cli

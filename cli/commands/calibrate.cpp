// polykv calibrate TEXT... -o PLAN: measures which policy each layer should keep positions by, and writes it down.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "cli/commands/calibrate_cards.h"
#include "cli/commands/commands.h"
#include "cli/commands/document.h"
#include "cli/commands/part_file.h"
#include "cli/progress.h"
#include "cli/runtime/model_locator.h"
#include "cli/runtime/retention/calibration_part.h"
#include "cli/runtime/retention/calibration_runs.h"
#include "cli/signals.h"
#include "core/kernels/kernels.h"
#include "format/checksum.h"
#include "format/identity.h"

namespace polykv::cli {
namespace {

using format::Error;
using format::ErrorCode;
using format::Result;
using format::Status;
using runtime::CalibrationTable;
using runtime::CalibrationText;
using runtime::Phase;

constexpr std::uint32_t kPlanMode = 0644;

std::string hex_of(const std::string& text) { return format::to_hex(format::sha256(std::as_bytes(std::span(text)))); }

// Everything that a table depends on.
std::string inputs_digest(const runtime::Model& model, std::span<const CalibrationText> texts, const Options& options,
                          const runtime::PrefillRunner& runner) {
  std::string all = "polykv " POLYKV_VERSION "\n" + model.weights_digest + "\n" + model.tokenizer.digest() + "\n" +
                    std::to_string(options.keep_tokens) + " " + std::to_string(options.tail_keep) + "\n" +
                    runner.version() + "\n" + runtime::number_type_name(runtime::default_prefill_type()) + "\n" +
                    core::active_kernels().name + "\n";
  for (const CalibrationText& text : texts) {
    std::string tokens;
    for (const std::uint32_t token : text.tokens) tokens += std::to_string(token) + " ";
    all += hex_of(text.name) + " " + std::to_string(text.bytes) + " " + hex_of(tokens) + "\n";
  }
  return hex_of(all);
}

// The texts, measured one after another; what is finished of them lies in a file until the plan is written.
class Calibration {
 public:
  Calibration(const Options& options, const runtime::Model& model, std::vector<CalibrationText> texts,
              runtime::PrefillRunner& runner, Report& report)
      : options_(options),
        model_(model),
        texts_(std::move(texts)),
        runner_(runner),
        report_(report),
        progress_(report),
        workers_(options.threads != 0 ? options.threads : core::default_num_threads()),
        part_(options.output),
        inputs_{inputs_digest(model, texts_, options, runner),
                model.config().num_layers,
                {runtime::calibrated_policies(Phase::kPrefill), runtime::calibrated_policies(Phase::kDecode)}} {}

  // Errors name the file that they are about.
  Result<runtime::LayerPlan> run() {
    POLYKV_CHECK_STATUS(take_up());
    POLYKV_CHECK_STATUS(part_.check_writable());
    while (tables_.size() < texts_.size()) {
      if (const Status stopped = check_stop(); !stopped) return interrupted(stopped.error());
      POLYKV_CHECK_STATUS(measure_next());
      POLYKV_CHECK_STATUS(model_.file.check_unchanged());
      POLYKV_CHECK_STATUS(part_.write(runtime::calibration_part_text(inputs_, tables_)));
    }
    progress_.clear();
    return plan();
  }

  void remove_part() const { part_.remove(); }
  std::size_t num_runs() const {
    return texts_.size() * inputs_.num_layers * (inputs_.policies[0].size() + inputs_.policies[1].size());
  }

 private:
  // What an interrupted run has left.
  Status take_up() {
    POLYKV_TRY(const auto bytes, part_.read());
    if (!bytes) return {};
    auto found = runtime::parse_calibration_part(*bytes, inputs_);
    if (found && found->size() <= texts_.size()) {
      tables_ = std::move(*found);
      report_.notice(part_.path(), "going on after " + finished());
      return {};
    }
    if (options_.force) return {};
    return part_.unusable(found ? "too many texts" : found.error().message);
  }

  Status measure_next() {
    const CalibrationText& text = texts_[tables_.size()];
    const std::string place = " " + std::to_string(tables_.size() + 1) + " of " + std::to_string(texts_.size());
    runtime::CalibrationRequest request{&model_.file, options_.keep_tokens, options_.tail_keep, options_.output};
    request.on_progress = [&](std::size_t done, std::size_t total) {
      progress_.update(done, total, "runs", "text" + place);
      return !stop_requested();
    };
    runtime::PrefillOptions prefill{
        runtime::default_prefill_type(), static_cast<std::uint32_t>(workers_.num_threads()), true, [&](double share) {
          const double done = share * static_cast<double>(text.tokens.size());
          progress_.update(static_cast<std::uint64_t>(done), text.tokens.size(), "tok", "prefill" + place);
          return !stop_requested();
        }};
    auto table = runtime::measure_calibration(request, text, runner_, prefill, workers_);
    if (!table) {
      const Status stopped = check_stop();
      return stopped ? Error(table.error().code, text.name + ": " + table.error().message)
                     : interrupted(stopped.error());
    }
    tables_.push_back(std::move(*table));
    return {};
  }

  Error interrupted(const Error& stopped) const {
    return part_.interrupted(stopped, options_.output, tables_.empty() ? "" : finished());
  }
  std::string finished() const {
    return std::to_string(tables_.size()) + " of " + std::to_string(texts_.size()) + " texts";
  }

  runtime::LayerPlan plan() const {
    runtime::LayerPlan plan;
    plan.model_name = model_.config().name;
    plan.weights_digest = model_.weights_digest;
    for (const CalibrationTable& table : tables_) plan.texts.push_back(table.text);
    plan.keep = {options_.keep_tokens, options_.tail_keep};
    plan.preference = *runtime::find_preference(options_.preference);
    plan.sensitivity = *runtime::find_sensitivity(options_.sensitivity);
    for (const Phase phase : {Phase::kPrefill, Phase::kDecode}) {
      const auto index = static_cast<std::size_t>(phase);
      plan.phases[index] =
          runtime::choose_layers(inputs_.policies[index], tables_, phase, plan.preference, plan.sensitivity);
    }
    return plan;
  }

  const Options& options_;
  const runtime::Model& model_;
  const std::vector<CalibrationText> texts_;
  runtime::PrefillRunner& runner_;
  Report& report_;
  Progress progress_;
  core::Workers workers_;
  const PartFile part_;
  const runtime::CalibrationInputs inputs_;
  std::vector<CalibrationTable> tables_;
};

Result<std::vector<CalibrationText>> tokenize(const runtime::Model& model,
                                              std::span<const runtime::Document> documents) {
  std::vector<CalibrationText> texts;
  for (const runtime::Document& document : documents) {
    POLYKV_TRY(CalibrationText text, runtime::calibration_text(model, document.name, document.text));
    texts.push_back(std::move(text));
  }
  return texts;
}

// The policies of a phase and how many layers have each, the most frequent first.
std::vector<std::pair<std::string, std::size_t>> policy_counts(const runtime::LayerPlan& plan, Phase phase) {
  std::vector<std::pair<std::string, std::size_t>> counts;
  for (const runtime::RetentionPolicy& policy : runtime::retention_policies()) {
    const auto count = std::count_if(plan.layers(phase).begin(), plan.layers(phase).end(),
                                     [&](const runtime::LayerPlan::Layer& layer) { return layer.policy == &policy; });
    if (count > 0) counts.emplace_back(policy.name, static_cast<std::size_t>(count));
  }
  std::stable_sort(counts.begin(), counts.end(), [](const auto& a, const auto& b) { return a.second > b.second; });
  return counts;
}

std::string summary(const runtime::LayerPlan& plan, std::size_t num_runs, double total_ms) {
  std::string text;
  for (const Phase phase : {Phase::kPrefill, Phase::kDecode}) {
    text += text.empty() ? "layers by " : "; tails by ";
    const char* between = "";
    for (const auto& [policy, count] : policy_counts(plan, phase)) {
      text += between + policy + " " + std::to_string(count);
      between = ", ";
    }
  }
  char time[32];
  std::snprintf(time, sizeof time, "%.1f s", total_ms / 1000.0);
  return with_commas(num_runs) + " runs in " + time + "; " + text;
}

nlohmann::ordered_json to_json(const std::string& path, const runtime::LayerPlan& plan, std::size_t num_runs,
                               double total_ms) {
  nlohmann::ordered_json policies;
  for (const Phase phase : {Phase::kPrefill, Phase::kDecode})
    for (const auto& [policy, count] : policy_counts(plan, phase)) policies[phase_name(phase)][policy] = count;
  return {{"schema", "polykv.calibrate/1"},
          {"plan", path},
          {"texts", plan.texts.size()},
          {"layers", plan.layers(Phase::kPrefill).size()},
          {"runs", num_runs},
          {"policies", policies},
          {"total_ms", total_ms}};
}

}  // namespace

int run_calibrate(const Options& options, Report& report) {
  if (options.cards) return run_calibrate_cards(options, report);
  const auto start = std::chrono::steady_clock::now();
  std::error_code ignored;
  if (!options.force && std::filesystem::exists(std::filesystem::symlink_status(options.output, ignored)))
    return report.error(options.output, Error(ErrorCode::kExists, "exists already; --force replaces it"));
  const auto documents = read_documents(options.operands);
  if (!documents) return report.error({}, documents.error());
  const auto path = runtime::locate_model(options.model);
  if (!path) return report.error({}, path.error());
  const auto model = runtime::open_model(*path, runtime::DigestPolicy::kFull);
  if (!model) return report.error(path->string(), model.error());
  auto texts = tokenize(*model, *documents);
  if (!texts) return report.error({}, texts.error());
  auto runner = runtime::make_prefill_runner(runtime::default_prefill_type());
  if (!runner) return report.error({}, runner.error());

  Calibration calibration(options, *model, std::move(*texts), **runner, report);
  const auto plan = calibration.run();
  if (!plan) return report.error({}, plan.error());
  if (const Status written = write_text_file(options.output, runtime::layer_plan_text(*plan), options.force, kPlanMode);
      !written)
    return report.error(options.output, written.error());
  calibration.remove_part();
  const double total_ms = std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
  if (options.json) {
    report.print_line(to_json(options.output, *plan, calibration.num_runs(), total_ms));
  } else {
    report.notice(options.output, summary(*plan, calibration.num_runs(), total_ms));
  }
  return 0;
}

}  // namespace polykv::cli

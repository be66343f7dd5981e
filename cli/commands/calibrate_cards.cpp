#include "cli/commands/calibrate_cards.h"

#include <chrono>
#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "cli/commands/desk.h"
#include "cli/commands/part_file.h"
#include "cli/progress.h"
#include "cli/runtime/cards/controller.h"
#include "cli/runtime/cards/controller_training.h"
#include "cli/runtime/cards/labels_part.h"
#include "cli/runtime/cards/rounding_labels.h"
#include "cli/runtime/probes.h"
#include "cli/runtime/prompt.h"
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

constexpr std::uint32_t kControllerMode = 0644;

using Desks = std::vector<std::unique_ptr<Desk>>;

// Errors name the pool.
Result<Desks> open_desks(const Options& options, Report& report) {
  Desks desks;
  for (const std::string& path : options.operands) {
    auto desk = open_desk(path, options, report);
    if (!desk) return Error(desk.error().code, path + ": " + desk.error().message);
    if (!desks.empty() && (*desk)->model.weights_digest != desks.front()->model.weights_digest)
      return Error(ErrorCode::kMismatch, path + ": is of another model than " + options.operands.front());
    desks.push_back(*std::move(desk));
  }
  return desks;
}

// Everything that labels depend on.
std::string inputs_digest(const Desks& desks) {
  std::string all =
      "polykv " POLYKV_VERSION "\n" + desks.front()->model.weights_digest + "\n" + core::active_kernels().name + "\n";
  for (const auto& desk : desks) all += format::to_hex(desk->pool().reader.superblock_digest()) + "\n";
  return format::to_hex(format::sha256(std::as_bytes(std::span(all))));
}

// The pools, one after another; what is finished of them lies in a file until the controller is written.
class Labelling {
 public:
  Labelling(const Options& options, const Desks& desks, Report& report)
      : options_(options),
        desks_(desks),
        report_(report),
        progress_(report),
        part_(options.output),
        digest_(inputs_digest(desks)) {}

  // Errors name the file that they are about.
  Result<std::vector<runtime::LabelledPool>> run() {
    POLYKV_CHECK_STATUS(take_up());
    POLYKV_CHECK_STATUS(part_.check_writable());
    while (pools_.size() < desks_.size()) {
      const std::size_t index = pools_.size();
      auto cards = label(index);
      if (!cards && !check_stop()) return interrupted(check_stop().error());
      if (!cards) return Error(cards.error().code, options_.operands[index] + ": " + cards.error().message);
      POLYKV_CHECK_STATUS(desks_[index]->check_unchanged());
      pools_.push_back({desks_[index]->pool().file.path().filename().string(), *std::move(cards)});
      POLYKV_CHECK_STATUS(part_.write(runtime::labels_part_text(digest_, pools_)));
    }
    progress_.clear();
    return pools_;
  }

  void remove_part() const { part_.remove(); }

 private:
  Status take_up() {
    POLYKV_TRY(const auto bytes, part_.read());
    if (!bytes) return {};
    auto found = runtime::parse_labels_part(*bytes, digest_);
    if (found && found->size() <= desks_.size()) {
      pools_ = *std::move(found);
      report_.notice(part_.path(), "going on after " + finished());
      return {};
    }
    if (options_.force) return {};
    return part_.unusable(found ? "too many pools" : found.error().message);
  }

  Result<std::vector<std::vector<runtime::LabelledToken>>> label(std::size_t index) {
    Desk& desk = *desks_[index];
    const std::vector<const core::KvPool*> chain = desk.chain.views();
    const std::vector<runtime::TokenId> before = desk.chain.token_ids();
    runtime::LabelRequest request{&desk.model, &desk.chat, chain, before, {}, {}};
    constexpr std::size_t kCount = std::size(runtime::kProbeQuestions);
    for (std::size_t i = 0; i < kCount; ++i) {
      const char* next = runtime::kProbeQuestions[(i + 1) % kCount];
      request.questions.push_back(desk.question_tokens(runtime::kProbeQuestions[i]));
      request.next_questions.push_back(runtime::make_next_question_tokens(desk.model.tokenizer, desk.chat, next));
    }
    const std::string note = "pool " + std::to_string(index + 1) + " of " + std::to_string(desks_.size());
    request.on_progress = [&](double share) {
      progress_.update(static_cast<std::uint64_t>(100.0 * share), 100, "%", note);
      return !stop_requested();
    };
    return runtime::label_turns(request, desk.workers);
  }

  Error interrupted(const Error& stopped) const {
    return part_.interrupted(stopped, options_.output, pools_.empty() ? "" : finished());
  }
  std::string finished() const {
    return std::to_string(pools_.size()) + " of " + std::to_string(desks_.size()) + " pools";
  }

  const Options& options_;
  const Desks& desks_;
  Report& report_;
  Progress progress_;
  const PartFile part_;
  const std::string digest_;
  std::vector<runtime::LabelledPool> pools_;
};

struct Made {
  const runtime::Controller& controller;
  double total_ms;

  std::size_t num_cards() const { return sum(&runtime::Controller::Source::cards); }
  std::size_t num_tokens() const { return sum(&runtime::Controller::Source::tokens); }

 private:
  std::size_t sum(std::uint32_t runtime::Controller::Source::*member) const {
    std::size_t all = 0;
    for (const runtime::Controller::Source& pool : controller.pools) all += pool.*member;
    return all;
  }
};

std::string summary(const Made& made) {
  const runtime::HeldOut &all = made.controller.all_held_out, &local = made.controller.local_held_out;
  char text[256];
  std::snprintf(text, sizeof text,
                "%zu tokens of %zu cards in %.1f s; of a pool held out it explains %.0f %% of the variance, rank "
                "correlation %.2f (%.0f %% and %.2f by the agent's own turn alone)",
                made.num_tokens(), made.num_cards(), made.total_ms / 1000.0, 100.0 * all.explained,
                all.rank_correlation, 100.0 * local.explained, local.rank_correlation);
  return text;
}

nlohmann::ordered_json to_json(const std::string& path, const Made& made) {
  const auto held_out = [](const runtime::HeldOut& one) {
    return nlohmann::ordered_json{{"explained", one.explained}, {"rank_correlation", one.rank_correlation}};
  };
  return {{"schema", "polykv.calibrate-cards/1"},
          {"controller", path},
          {"pools", made.controller.pools.size()},
          {"cards", made.num_cards()},
          {"tokens", made.num_tokens()},
          {"held_out", held_out(made.controller.all_held_out)},
          {"local_held_out", held_out(made.controller.local_held_out)},
          {"total_ms", made.total_ms}};
}

}  // namespace

int run_calibrate_cards(const Options& options, Report& report) {
  const auto start = std::chrono::steady_clock::now();
  std::error_code ignored;
  if (!options.force && std::filesystem::exists(std::filesystem::symlink_status(options.output, ignored)))
    return report.error(options.output, Error(ErrorCode::kExists, "exists already; --force replaces it"));
  if (options.operands.size() < runtime::kFewestLabelledPools)
    return report.error({}, Error(ErrorCode::kUsage,
                                  "calibrate: --cards needs two pools or more: each is held out once, to say how well "
                                  "the controller tells what it has not seen"));
  const auto desks = open_desks(options, report);
  if (!desks) return report.error({}, desks.error());
  Labelling labelling(options, *desks, report);
  const auto pools = labelling.run();
  if (!pools) return report.error({}, pools.error());
  runtime::Controller controller = runtime::train_controller(*pools);
  controller.model_name = desks->front()->model.config().name;
  controller.weights_digest = desks->front()->model.weights_digest;
  if (const Status written =
          write_text_file(options.output, runtime::controller_text(controller), options.force, kControllerMode);
      !written)
    return report.error(options.output, written.error());
  labelling.remove_part();
  const Made made{controller,
                  std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count()};
  if (options.json) {
    report.print_line(to_json(options.output, made));
  } else {
    report.notice(options.output, summary(made));
  }
  return 0;
}

}  // namespace polykv::cli

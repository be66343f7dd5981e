#include "cli/commands/measure.h"

#include <algorithm>
#include <cmath>
#include <filesystem>

#include "cli/progress.h"
#include "cli/runtime/fidelity_json.h"
#include "cli/runtime/kv_spool.h"
#include "cli/runtime/model_runner.h"
#include "cli/runtime/probes.h"
#include "cli/signals.h"
#include "core/kernels/kernels.h"
#include "format/file.h"

namespace polykv::cli {
namespace {

using format::Error;
using format::ErrorCode;
using format::Result;
using format::Status;
using nlohmann::ordered_json;

// How many standard errors two means may be apart. On the same positions they hardly differ (the noise of one position
// is in both), and a greedy answer that took another turn is of other positions.
constexpr double kStandardErrors = 3.0;

// What the prefills of two machines may differ by, as KL divergence: each is off by up to so much from exact arithmetic
// (design: about .0001 in bf16), and independent errors add up in it, for it grows with their squares.
constexpr double kPrefillBF16 = 2 * 0.0001;
constexpr double kPrefillF32 = 2 * 0.000005;

struct RecordedPrefill {
  runtime::NumberType type;
  std::string runner;
};

RecordedPrefill recorded_prefill(const format::Identity& identity) {
  return {identity.get("prefill.type") == "bf16" ? runtime::NumberType::kBF16 : runtime::NumberType::kF32,
          std::string(identity.get("prefill.runner").value_or(""))};
}

Result<std::unique_ptr<runtime::PrefillRunner>> make_runner(const RecordedPrefill& recorded) {
  return recorded.runner.starts_with("LibTorch") ? runtime::load_prefill_runner()
                                                 : runtime::make_prefill_runner(recorded.type);
}

// The document's keys and values, uncompressed, in a temporary file.
Result<runtime::KvSpool> prefill(Desk& desk, runtime::PrefillRunner& runner, const RecordedPrefill& recorded,
                                 Progress& progress) {
  std::error_code error;
  const std::filesystem::path folder = std::filesystem::temp_directory_path(error);
  if (error) return Error(ErrorCode::kIo, "no folder for temporary files: " + error.message() + "; set TMPDIR");
  POLYKV_TRY(runtime::KvSpool spool,
             runtime::KvSpool::create(folder / "polykv-measure", desk.pages().shape(), /*force=*/true, desk.workers));
  const std::vector<std::uint32_t>& ids = desk.pool().reader.tokens().ids;
  runtime::PrefillOptions how;
  how.type = recorded.type;
  how.num_threads = static_cast<std::uint32_t>(desk.workers.num_threads());
  how.on_progress = [&](double share) {
    progress.update(static_cast<std::uint64_t>(std::llround(share * static_cast<double>(ids.size()))), ids.size(),
                    "tok", "prefill");
    return !stop_requested();
  };
  POLYKV_CHECK_STATUS(
      runner.prefill(desk.model.file, ids, how, [&](const runtime::LayerKv& layer) { return spool.write(layer); }));
  POLYKV_CHECK_STATUS(spool.map());
  return spool;
}

// The user's text after the document and a blank line.
struct Continuation {
  std::vector<std::uint32_t> ids;
  std::size_t first_scored;
};

Result<Continuation> read_text(const std::string& path, const Desk& desk) {
  const auto bytes = format::read_file(path);
  if (!bytes) return Error(bytes.error().code, path + ": " + bytes.error().message);
  const std::string_view raw(reinterpret_cast<const char*>(bytes->data()), bytes->size());
  if (const auto offset = runtime::find_invalid_utf8(raw)) {
    return Error(
        ErrorCode::kUnusableText, *offset,
        path + ": not UTF-8 at byte " + std::to_string(*offset) + "; convert it first, for example with iconv");
  }
  const std::string before = desk.open_text.value_or("") + "\n\n";
  POLYKV_CHECK_STATUS(require_base(desk, "stats --measure"));
  Continuation text{{}, 0};
  for (const runtime::TextToken& token : desk.model.tokenizer.tokenize(before + desk.model.tokenizer.normalize(raw))) {
    if (token.begin < before.size()) text.first_scored = text.ids.size() + 1;
    text.ids.push_back(token.id);
  }
  text.first_scored = std::max<std::size_t>(text.first_scored, 1);  // it takes a token to predict one
  if (text.first_scored >= text.ids.size()) return Error(ErrorCode::kUnusableText, path + ": the text is empty");
  const std::size_t room = desk.model.config().context_length - desk.pages().shape().num_tokens;
  if (text.ids.size() > room) {
    return Error(ErrorCode::kUnusableText, path + ": the text has " + std::to_string(text.ids.size()) + " tokens; " +
                                               std::to_string(room) + " fit the model's context after the pool");
  }
  return text;
}

double number(const ordered_json& fidelity, const char* probe, const char* name) {
  const auto found = fidelity.is_object() ? fidelity.find(probe) : fidelity.end();
  if (found == fidelity.end() || !found->is_object()) return std::nan("");
  const auto value = found->find(name);
  return value != found->end() && value->is_number() ? value->get<double>() : std::nan("");
}

}  // namespace

Result<ordered_json> measure_fidelity(const std::string& path, const Options& options, Desk& desk,
                                      const ordered_json& stored, Report& report) {
  POLYKV_CHECK_STATUS(require_base(desk, "stats --measure"));
  Continuation text{{}, 0};
  if (!options.text.empty()) {
    POLYKV_TRY(text, read_text(options.text, desk));
  }
  const RecordedPrefill recorded = recorded_prefill(desk.pool().reader.identity());
  POLYKV_TRY(const auto runner, make_runner(recorded));
  if (runner->version() != recorded.runner) {
    report.notice(path, "prefilled by " + runner->version() + " now, by " + recorded.runner +
                            " when it was built: numbers differ a little");
  }
  Progress progress(report);
  const auto measure = [&]() -> Result<ordered_json> {
    POLYKV_TRY(const runtime::KvSpool spool, prefill(desk, *runner, recorded, progress));
    const std::string open_text = desk.open_text.value_or("");
    runtime::ProbeRequest request{desk.model,   desk.chat,    open_text, desk.pool().reader.tokens().ids,
                                  spool.pool(), desk.pages(), {}};
    request.on_progress = [&](double share) {
      progress.update(static_cast<std::uint64_t>(std::llround(100 * share)), 100, "%", "probe");
      return !stop_requested();
    };
    if (!options.text.empty()) {
      POLYKV_TRY(const runtime::Divergence divergence,
                 runtime::probe_text(request, text.ids, text.first_scored, desk.workers));
      return ordered_json{{"text", runtime::divergence_json(divergence)}};
    }
    request.counts = runtime::counts_of(stored).value_or(runtime::ProbeCounts());
    POLYKV_TRY(const runtime::Fidelity fidelity, runtime::run_probes(request, desk.workers));
    return runtime::fidelity_json(
        fidelity, {runtime::number_type_name(recorded.type), runner->version(), core::active_kernels().name},
        desk.pages().shape().num_tokens);
  };
  auto measured = measure();
  POLYKV_CHECK_STATUS(check_stop());
  POLYKV_CHECK_STATUS(desk.check_unchanged());
  return measured;
}

bool Agreement::holds() const { return std::fabs(measured - stored) <= bound; }

std::vector<Agreement> compare_fidelity(const ordered_json& stored, const ordered_json& measured) {
  std::vector<Agreement> result;
  if (!runtime::counts_of(stored)) return result;
  const bool bf16 = measured.contains("protocol") && measured["protocol"].value("prefill_type", "") == "bf16";
  for (const char* probe : {"tail", "answers", "recall"}) {
    if (!(number(stored, probe, "positions") > 0.0) || !(number(measured, probe, "positions") > 0.0)) continue;
    const double error = std::max(number(stored, probe, "kld_stderr"), number(measured, probe, "kld_stderr"));
    result.push_back({probe, number(stored, probe, "kld_mean"), number(measured, probe, "kld_mean"),
                      kStandardErrors * error + (bf16 ? kPrefillBF16 : kPrefillF32)});
  }
  return result;
}

}  // namespace polykv::cli

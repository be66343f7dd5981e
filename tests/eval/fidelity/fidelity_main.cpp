// Fidelity of codecs by the fixed protocol, or of pool files against each other. tests/eval/README.md.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <cstdlib>
#include <nlohmann/json.hpp>

#include "cli/runtime/model_locator.h"
#include "core/kernels/kernels.h"
#include "format/file.h"
#include "tests/eval/fidelity/ranks.h"
#include "tests/eval/fidelity/report.h"
#include "tests/support/data.h"

namespace {

using namespace polykv;
using format::Error;
using format::ErrorCode;

constexpr const char* kExamples = R"(Examples:
  fidelity k5v4 k4v4 k8v3
  fidelity --windows 16 --json k5v4 > k5v4.json
  fidelity auto/snapkv:25% auto/snapkv+ada:25% auto/random:25% auto/plan.json:25%
  fidelity --pools f16.pkv k5v4.pkv --tokens next.json
  fidelity --ranks

How far the model's output is from that with uncompressed keys and values, codec by codec; with
--ranks, head by head beside the estimate that plans are made from.)";

struct Options {
  std::vector<std::string> names;
  std::string model, text, prefill, tokens;
  std::size_t windows = 4, window = 0, threads = core::default_num_threads();
  bool json = false, positions = false, recall = false, pools = false, ranks = false;
};

format::Result<std::string> read_text(const std::filesystem::path& path) {
  const auto bytes = format::read_file(path);
  if (!bytes) return Error(bytes.error().code, path.string() + ": " + bytes.error().message);
  return std::string(reinterpret_cast<const char*>(bytes->data()), bytes->size());
}

// In f32 through LibTorch unless told otherwise or LibTorch is not there.
struct Prefill {
  std::unique_ptr<runtime::PrefillRunner> runner;
  runtime::NumberType type;
};
format::Result<Prefill> open_prefill(const std::string& wanted) {
  const auto type = wanted == "bf16" ? runtime::NumberType::kBF16 : runtime::NumberType::kF32;
  auto runner = runtime::make_prefill_runner(type);
  if (!runner && wanted.empty()) {
    std::fprintf(stderr, "fidelity: no LibTorch: prefill in bf16\n");
    POLYKV_TRY(auto other, runtime::make_prefill_runner(runtime::NumberType::kBF16));
    return Prefill{std::move(other), runtime::NumberType::kBF16};
  }
  if (!runner) return runner.error();
  return Prefill{std::move(*runner), type};
}

format::Result<std::filesystem::path> text_path(const std::string& given) {
  if (!given.empty()) return std::filesystem::path(given);
  if (const auto data = tests::data_dir()) return *data / "wikitext2" / "wiki.test.raw";
  return Error(ErrorCode::kNotFound, "../shared/data is not there: name a text with --text, or set POLYKV_DATA");
}

void show_progress(std::string_view what) {
  static const bool terminal = isatty(STDERR_FILENO) == 1;
  if (terminal) std::fprintf(stderr, "\r\033[K%.*s", static_cast<int>(what.size()), what.data());
}

// Of --tokens: a JSON list of ids.
format::Result<std::vector<std::uint32_t>> read_tokens(const std::string& path, std::size_t vocab_size) {
  POLYKV_TRY(const std::string text, read_text(path));
  const auto list = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  std::vector<std::uint32_t> ids;
  for (const auto& item : list.is_array() ? list : nlohmann::json::array())
    if (item.is_number_unsigned() && item.get<std::uint64_t>() < vocab_size) ids.push_back(item.get<std::uint32_t>());
  if (!list.is_array() || ids.size() != list.size() || ids.size() < 2)
    return Error(ErrorCode::kUsage, path + ": expected a JSON list of two or more token ids of the model");
  return ids;
}

void print(const Options& options, const eval::Setting& setting, std::span<const eval::Measured> all) {
  show_progress("");
  const std::string out = options.json ? eval::as_json(setting, all, options.positions) : eval::as_text(setting, all);
  std::fputs(out.c_str(), stdout);
}

format::Status compare_pools(const Options& options, const runtime::Model& model, core::Workers& workers) {
  POLYKV_TRY(const auto tokens, read_tokens(options.tokens, model.config().vocab_size));
  POLYKV_TRY(const auto all, eval::measure_pools(model, workers, options.names, tokens));
  const eval::Setting setting{.model = model.config().name,
                              .text = options.tokens,
                              .prefill = "as the pools say",
                              .kernels = core::active_kernels().name,
                              .reference = options.names.front(),
                              .prefix_tokens = all.front().prefix_tokens,
                              .scored_tokens = tokens.size() - 1,
                              .offsets = {0}};
  print(options, setting, all);
  return {};
}

// The codecs on all windows, or the ranks on one.
format::Status run_protocol(const Options& options, const runtime::Model& model, core::Workers& workers) {
  POLYKV_TRY(const auto path, text_path(options.text));
  POLYKV_TRY(const std::string text, read_text(path));
  if (const auto offset = runtime::find_invalid_utf8(text))
    return Error(ErrorCode::kUnusableText, path.string() + ": not UTF-8 at byte " + std::to_string(*offset));
  const std::vector<std::uint32_t> tokens = eval::tokens_of(model, text);
  POLYKV_TRY(auto offsets, eval::window_offsets(tokens.size(), options.ranks ? options.window + 1 : options.windows));
  if (options.ranks) offsets = {offsets.back()};
  POLYKV_TRY(const Prefill prefill, open_prefill(options.prefill));
  const eval::Protocol protocol{&model, &workers, prefill.runner.get(), prefill.type,
                                tokens, offsets,  show_progress,        options.recall};
  const std::string type = runtime::number_type_name(prefill.type);
  const eval::Setting setting{.model = model.config().name,
                              .text = path.filename().string(),
                              .prefill = type + " by " + prefill.runner->version(),
                              .kernels = core::active_kernels().name,
                              .reference = "f16",
                              .prefix_tokens = eval::kPrefixTokens,
                              .scored_tokens = eval::kScoredTokens,
                              .offsets = offsets};
  if (options.ranks) {
    POLYKV_TRY(const auto items, eval::measure_ranks(protocol, 0));
    show_progress("");
    std::fputs((options.json ? eval::ranks_as_json(setting, items) : eval::ranks_as_text(setting, items)).c_str(),
               stdout);
    return {};
  }
  POLYKV_TRY(const auto all, eval::measure(protocol, options.names));
  print(options, setting, all);
  return {};
}

format::Status run(const Options& options) {
  const char* from_environment = std::getenv("POLYKV_MODEL");
  POLYKV_TRY(const auto path, runtime::locate_model(!options.model.empty()        ? options.model
                                                    : from_environment != nullptr ? from_environment
                                                                                  : ""));
  POLYKV_TRY(const runtime::Model model, runtime::open_model(path, runtime::DigestPolicy::kCached));
  core::Workers workers(options.threads);
  return options.pools ? compare_pools(options, model, workers) : run_protocol(options, model, workers);
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  CLI::App app(kExamples, "fidelity");
  auto* names = app.add_option("NAMES", options.names,
                               "codecs: f16, kAvB, auto, auto:BITS, or @FILE, a JSON list of one a (layer, "
                               "kv_head); with /POLICY:KEEP, of a part of the positions");
  app.add_option("-m,--model", options.model, "the model; else POLYKV_MODEL, else the default one");
  app.add_option("--text", options.text, "the text; else WikiText-2's test split in ../shared/data or $POLYKV_DATA");
  app.add_option("--windows", options.windows, "how many windows")->capture_default_str()->check(CLI::PositiveNumber);
  app.add_option("--prefill", options.prefill, "f32 (LibTorch; the default where that is) or bf16")
      ->check(CLI::IsMember({"f32", "bf16"}));
  auto* tokens = app.add_option("--tokens", options.tokens, "with --pools: token ids after the pools, a JSON list");
  auto* pools = app.add_flag("--pools", options.pools, "NAMES are pool files of one text: each against the first");
  pools->needs(tokens);
  app.add_flag("--recall", options.recall, "passages of the prefix too: how much of them the model repeats")
      ->excludes(pools);
  auto* ranks = app.add_flag("--ranks", options.ranks,
                             "each head's keys or values alone in 2 bits: the divergence, the estimate, their ranks");
  ranks->excludes(names)->excludes(pools);
  app.add_option("--window", options.window, "with --ranks: which window, from 0")
      ->capture_default_str()
      ->check(CLI::Range(0, 120))
      ->needs(ranks);
  auto* json = app.add_flag("--json", options.json, "print JSON, schema polykv.fidelity/1 or polykv.ranks/1");
  app.add_flag("--positions", options.positions, "with --json: every position's divergence")->needs(json);
  app.add_option("-t,--threads", options.threads, "threads")->check(CLI::PositiveNumber);
  try {
    app.parse(argc, argv);
    if (options.names.empty() && !options.ranks) throw CLI::RequiredError("NAMES or --ranks");
  } catch (const CLI::ParseError& error) {
    const int status = app.exit(error);
    return status == 0 ? 0 : 2;
  }
  if (const format::Status status = run(options); !status) {
    show_progress("");
    std::fprintf(stderr, "fidelity: %s\n", status.error().message.c_str());
    return format::exit_status(status.error().code);
  }
  return 0;
}

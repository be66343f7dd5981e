// Hand-offs between agents through cards, in several precisions beside float16. tests/eval/README.md, "Hand-offs".
//
// Of each chain (a base pool, and questions that are asked one after another) first the reference: agents answer
// greedily, and hand over float16 cards. Then each variant: forced, its agents read the reference's questions and
// answers, on the base and the variant's own cards so far, and their next-token distributions are compared with the
// reference's; free, they answer themselves. Agent h + 1 reads h cards: its row has `hops` h.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>

#include "cli/runtime/model_locator.h"
#include "core/kernels/kernels.h"
#include "format/file.h"
#include "tests/eval/handoff/hops.h"

namespace {

using namespace polykv;
using eval::Hops;
using eval::LoadedPool;
using eval::Place;
using eval::Turn;
using eval::Variant;
using format::Result;
using format::Status;
using nlohmann::ordered_json;

constexpr const char* kUsage = R"(Reads chains, a line of JSON each, from standard input:
{"id": NAME, "base": POOL, "questions": [TEXT, ...]}; writes a line of JSON for each variant and agent.)";

struct Options {
  std::vector<std::string> variants;
  std::string model, controller;
  std::uint32_t max_tokens = 48;
  std::size_t threads = core::default_num_threads();
};

// What the reference said and thought, agent by agent.
struct Reference {
  std::vector<Turn> turns;
  std::vector<std::vector<float>> logits;
};

Result<Reference> run_reference(const Place& place, const LoadedPool& base, const std::vector<std::string>& questions) {
  Reference reference;
  POLYKV_TRY(Hops hops, Hops::start(place, base, *eval::parse_variant("16", nullptr)));
  for (const std::string& question : questions) {
    POLYKV_TRY(Turn turn, hops.answer(question));
    POLYKV_TRY(std::vector<float> logits, hops.go_on(turn));
    reference.turns.push_back(std::move(turn));
    reference.logits.push_back(std::move(logits));
  }
  return reference;
}

ordered_json to_json(const runtime::Divergence& divergence) {
  return {{"positions", divergence.positions},
          {"kld", divergence.kld_mean},
          {"same_top", divergence.same_top},
          {"ppl_ratio", divergence.ppl_ratio}};
}

// A line for each agent.
Result<std::vector<ordered_json>> run_variant(const Place& place, const LoadedPool& base,
                                              const std::vector<std::string>& questions, const Reference& reference,
                                              const Variant& variant) {
  std::vector<ordered_json> lines;
  POLYKV_TRY(Hops forced, Hops::start(place, base, variant));
  POLYKV_TRY(Hops free, Hops::start(place, base, variant));
  for (std::size_t i = 0; i < questions.size(); ++i) {
    const Turn& said = reference.turns[i];
    POLYKV_TRY(const std::vector<float> logits, forced.go_on(said));
    const std::size_t vocab = place.model.config().vocab_size;
    runtime::DivergenceMeter meter;
    if (!said.answer.empty())
      meter.add(std::span(reference.logits[i]).first(said.answer.size() * vocab),
                std::span(logits).first(said.answer.size() * vocab), said.answer, place.workers);
    POLYKV_TRY(const Turn mine, free.answer(questions[i]));
    POLYKV_TRY(const auto ignored, free.go_on(mine));
    const auto differs = std::mismatch(mine.answer.begin(), mine.answer.end(), said.answer.begin(), said.answer.end());
    ordered_json line = {{"variant", variant.name}, {"hops", i}, {"forced", to_json(meter.summary())}};
    line["answer_tokens"] = said.answer.size();
    line["same_tokens"] = differs.first - mine.answer.begin();
    line["identical"] = mine.answer == said.answer;
    line["answer"] = mine.text;
    line["card"] = {{"tokens", said.question.size() + said.answer.size()},
                    {"bytes", forced.card_bytes()},
                    {"bits", forced.card_bits()}};
    lines.push_back(std::move(line));
  }
  return lines;
}

Status run_chain(const ordered_json& chain, const std::vector<Variant>& variants, const Place& place) {
  POLYKV_TRY(const auto base, LoadedPool::load(chain.at("base").get<std::string>()));
  const auto questions = chain.at("questions").get<std::vector<std::string>>();
  POLYKV_TRY(const Reference reference, run_reference(place, *base, questions));
  for (const Variant& variant : variants) {
    POLYKV_TRY(const auto lines, run_variant(place, *base, questions, reference, variant));
    for (const ordered_json& line : lines) {
      ordered_json named = {{"chain", chain.at("id")}};
      named.update(line);
      std::printf("%s\n", named.dump(-1, ' ', false, ordered_json::error_handler_t::replace).c_str());
    }
    std::fflush(stdout);
  }
  return {};
}

Status run(const Options& options, const std::filesystem::path& folder) {
  runtime::Controller controller;
  if (!options.controller.empty()) {
    POLYKV_TRY(const auto text, format::read_file(options.controller));
    POLYKV_TRY(controller, runtime::parse_controller(text));
  }
  std::vector<Variant> variants;
  for (const std::string& name : options.variants) {
    const auto variant = eval::parse_variant(name, options.controller.empty() ? nullptr : &controller);
    if (!variant) return format::Error(format::ErrorCode::kUsage, "'" + name + "' is no variant");
    variants.push_back(*variant);
  }
  POLYKV_TRY(const std::filesystem::path path, runtime::locate_model(options.model));
  POLYKV_TRY(const runtime::Model model, runtime::open_model(path, runtime::DigestPolicy::kFull));
  core::Workers workers(options.threads);
  const Place place{model, workers, folder, options.max_tokens};
  for (std::string line; std::getline(std::cin, line);) {
    const auto chain = ordered_json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (!chain.is_object() || !chain.contains("id") || !chain.contains("base") || !chain.contains("questions"))
      return format::Error(format::ErrorCode::kUsage, "no chain: " + line.substr(0, 80));
    POLYKV_CHECK_STATUS(run_chain(chain, variants, place));
  }
  return {};
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  CLI::App app(kUsage);
  app.add_option("variants", options.variants, "16, 4, base, auto:4, tokens:4, heads:4, both:4@own, ...")->required();
  app.add_option("-m,--model", options.model, "the model; else POLYKV_MODEL, else the default one");
  app.add_option("--controller", options.controller, "a file of polykv calibrate --cards, for ...@learned, ...@local");
  app.add_option("-n,--max-tokens", options.max_tokens, "of an answer")->check(CLI::Range(1, 4096));
  app.add_option("-t,--threads", options.threads)->check(CLI::Range(1, 1024));
  CLI11_PARSE(app, argc, argv);
  if (const char* model = std::getenv("POLYKV_MODEL"); options.model.empty() && model != nullptr) options.model = model;
  std::string folder = (std::filesystem::temp_directory_path() / "polykv-handoff-XXXXXX").string();
  if (mkdtemp(folder.data()) == nullptr) return 1;
  const Status status = run(options, folder);
  std::error_code ignored;
  std::filesystem::remove_all(folder, ignored);
  if (!status) std::fprintf(stderr, "handoff: %s\n", status.error().message.c_str());
  return status ? 0 : exit_status(status.error().code);
}

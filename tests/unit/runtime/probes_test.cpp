// The probes, on pools of a small model's own keys and values.
#include "cli/runtime/probes.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "cli/runtime/fidelity_json.h"
#include "cli/runtime/pair_runner.h"
#include "format/file.h"
#include "format/reader.h"
#include "tests/support/catch.h"
#include "tests/support/golden_logits.h"
#include "tests/support/make_model_pool.h"
#include "tests/support/step_prefill.h"
#include "tests/support/temporary_folder.h"

namespace polykv::runtime {
namespace {

using nlohmann::ordered_json;

std::string text_of(std::size_t num_words) {
  static const char* const kWords[] = {"the", "keeper", "wrote", "bells", "in", "winter", "and", "rang", "a", "boat"};
  tests::TestRandom random(3);
  std::string text = "Every evening";
  for (std::size_t i = 0; i < num_words; ++i) text += std::string(" ") + kWords[random.next() % 10];
  return text + ".";
}

// A pool that was built with the real keys and values of a small model, uncompressed, and views of it.
class Place {
 public:
  explicit Place(std::size_t num_words, const char* codec = "f16", bool probe = false,
                 const char* fixture = "llama-gqa-q8_0")
      : workers(2), model(*open_model(tests::model_path(fixture), DigestPolicy::kFull)) {
    tests::StepPrefill prefill(workers);
    const auto built = tests::build_model_pool(tests::model_path(fixture), text_of(num_words), folder_ / "a.pkv",
                                               prefill, workers, [&](BuildRequest& request) {
                                                 request.codec = *core::parse_codec_name(codec);
                                                 request.probe = probe;
                                               });
    INFO((built ? "" : built.error().message));
    REQUIRE(built.has_value());
    bytes_ = *format::read_file(folder_ / "a.pkv");
    reader_.emplace(*format::PoolReader::open(bytes_));
    reference.emplace(*reader_);
    chat.emplace(*chat_template_of(reader_->identity(), model));
    open_text = reader_->source_text()->substr(tokens().empty() ? 0 : reader_->tokens().text_end.back());
  }

  const format::PoolReader& reader() const { return *reader_; }
  const std::vector<std::uint32_t>& tokens() const { return reader_->tokens().ids; }

  // The same pool, its parts elsewhere: `pages` or as they are.
  core::KvPool view(std::span<const std::byte> pages, std::uint32_t num_tokens) const {
    format::KvShape shape = reader_->shape();
    shape.num_tokens = num_tokens;
    return core::KvPool(core::KvPool::Parts{.shape = shape,
                                            .num_sinks = reader_->num_sinks(),
                                            .layout = &reader_->layout(),
                                            .pages = pages,
                                            .sinks = reader_->sinks(),
                                            .means = reader_->means()});
  }

  // Pages with one head's wiped out.
  std::vector<std::byte> damaged_pages() const {
    std::vector<std::byte> pages(reader_->pages().begin(), reader_->pages().end());
    const auto run = reference->runs(1, 1)[0].pages;
    std::fill_n(pages.begin() + (run.data() - reader_->pages().data()), run.size(), std::byte{0});
    return pages;
  }

  ProbeRequest request(const core::KvPool& compressed) const {
    return {model, *chat, open_text, tokens(), *reference, compressed, {}};
  }

  core::Workers workers;
  Model model;
  std::optional<ChatTemplate> chat;
  std::string open_text;
  std::optional<core::KvPool> reference;

 private:
  tests::TemporaryFolder folder_;
  std::vector<std::byte> bytes_;
  std::optional<format::PoolReader> reader_;
};

void check_no_loss(const Divergence& divergence) {
  CHECK(divergence.kld_mean == 0.0);
  CHECK(divergence.kld_max == 0.0);
  CHECK(divergence.same_top == 1.0);
  CHECK(divergence.rms_dp == 0.0);
  CHECK(divergence.ppl_ratio == 1.0);
}

TEST_CASE("probes: an uncompressed pool loses nothing at all") {
  const Place place(110, "f16", true);
  const auto fidelity = ordered_json::parse(place.reader().fidelity());
  CHECK(fidelity["protocol"]["version"] == kProbeProtocol);
  CHECK(fidelity["protocol"]["prefill_runner"] == "steps");
  for (const char* probe : {"tail", "answers", "recall"}) {
    INFO(probe);
    CHECK(fidelity[probe]["positions"] > 0);
    CHECK(fidelity[probe]["kld_max"] == 0.0);
    CHECK(fidelity[probe]["same_top"] == 1.0);
    CHECK(fidelity[probe]["ppl_ratio"] == 1.0);
  }
  CHECK(fidelity["recall"]["hits"] == fidelity["recall"]["reference_hits"]);
  CHECK(fidelity["answers"]["first_difference"] == ordered_json({nullptr, nullptr, nullptr}));
}

TEST_CASE("probes: one damaged head shows in all of them, and counts can be repeated") {
  Place place(110);
  const std::vector<std::byte> pages = place.damaged_pages();
  const core::KvPool damaged = place.view(pages, place.reader().shape().num_tokens);
  const auto fidelity = run_probes(place.request(damaged), place.workers);
  REQUIRE(fidelity.has_value());
  const auto num_tokens = static_cast<std::uint32_t>(place.tokens().size());
  CHECK(fidelity->counts == ProbeCounts{std::min(256u, num_tokens / 4), 32, 32});
  CHECK(fidelity->tail.positions == std::min(256u, num_tokens / 4));
  CHECK(fidelity->recall.positions == 3 * (32 - kPromptTokens));
  CHECK(fidelity->answers.positions <= 3 * 32);
  CHECK(fidelity->hits.size() == 3);
  CHECK(fidelity->first_difference.size() == 3);
  // The floor is rounding; a lost head is not.
  CHECK(fidelity->floor_kld_mean < 1e-6);
  for (const Divergence& probe : {fidelity->tail, fidelity->answers, fidelity->recall})
    CHECK(probe.kld_mean > 100 * fidelity->floor_kld_mean);
  CHECK(fidelity->tail.kld_mean > 0.0);

  // Fewer positions are the first of them; the same counts give the same numbers.
  ProbeRequest request = place.request(damaged);
  request.counts = {20, 5, 16};
  const auto fewer = run_probes(request, place.workers);
  REQUIRE(fewer.has_value());
  CHECK(fewer->counts == request.counts);
  CHECK(fewer->recall.positions == 3 * (16 - kPromptTokens));
  CHECK(fewer->answers.positions <= 3 * 5);
  const auto again = run_probes(request, place.workers);
  CHECK(again->tail.kld_mean == fewer->tail.kld_mean);
  CHECK(again->answers.kld_mean == fewer->answers.kld_mean);
  CHECK(again->recall.kld_mean == fewer->recall.kld_mean);

  // Counts of zero leave a probe out.
  request.counts = {0, 0, 0};
  const auto none = run_probes(request, place.workers);
  CHECK(none->counts == request.counts);
  CHECK(none->tail.positions + none->answers.positions + none->recall.positions == 0);
}

// By hand: a pool cut before the tail, whose tokens are fed one at a time.
TEST_CASE("probes: the tail is scored at its own positions, from those before it alone") {
  Place place(110);
  const std::vector<std::byte> pages = place.damaged_pages();
  const auto num_tokens = static_cast<std::uint32_t>(place.tokens().size());
  const std::uint32_t begin = tail_begin(num_tokens);
  CHECK(begin == num_tokens - std::min(256u, num_tokens / 4));
  const core::KvPool cut = place.view(place.reader().pages(), begin - 1), damaged_cut = place.view(pages, begin - 1);
  const std::size_t vocab = place.model.config().vocab_size;
  const auto logits_of = [&](const core::KvPool& pool) {
    StepRunner runner(place.model.file, {&pool}, place.workers);
    core::Tail tail = runner.make_tail(num_tokens);
    std::vector<float> logits((num_tokens - begin) * vocab);
    for (std::uint32_t i = begin; i < num_tokens; ++i) {
      const AgentStep step{&tail, {&place.tokens()[i - 1], 1}, runner.everything(), 1, &logits[(i - begin) * vocab]};
      REQUIRE(runner.step({&step, 1}));
    }
    return logits;
  };
  DivergenceMeter meter;
  meter.add(logits_of(cut), logits_of(damaged_cut), std::span(place.tokens()).subspan(begin), place.workers);
  const core::KvPool damaged = place.view(pages, num_tokens);
  const auto fidelity = run_probes(place.request(damaged), place.workers);
  REQUIRE(fidelity.has_value());
  CHECK(fidelity->tail.positions == num_tokens - begin);
  CHECK(fidelity->tail.kld_mean == meter.summary().kld_mean);
  CHECK(fidelity->tail.ppl_ratio == meter.summary().ppl_ratio);
  CHECK(fidelity->tail.kld_mean > 0.0);
}

TEST_CASE("probes: short documents have fewer positions, or none") {
  for (const std::size_t num_words : {0u, 1u, 5u, 20u, 60u}) {
    Place place(num_words, "k5v4");
    const auto num_tokens = static_cast<std::uint32_t>(place.tokens().size());
    INFO(num_tokens << " tokens");
    const auto fidelity = run_probes(place.request(*place.reference), place.workers);
    REQUIRE(fidelity.has_value());
    CHECK(fidelity->tail.positions == num_tokens / 4);
    CHECK((fidelity->recall.positions > 0) == (num_tokens >= 96));
    CHECK(passage_begins(*place.reference).empty() == (num_tokens < 96));
    for (const std::uint32_t passage : passage_begins(*place.reference)) CHECK(passage + 32 <= num_tokens);
    CHECK(fidelity->answers.positions > 0);
    check_no_loss(fidelity->answers);  // against itself
    if (fidelity->tail.positions > 0) check_no_loss(fidelity->tail);
  }
}

TEST_CASE("probes: time is kept, by shrinking what is measured") {
  Place place(110);
  double steps = 0;
  ProbeRequest request = place.request(*place.reference);
  // Each step takes a second, whatever its rows.
  request.on_progress = [&](double share) {
    CHECK(share >= 0.0);
    CHECK(share <= 1.0);
    ++steps;
    return true;
  };
  request.now_ms = [&] { return 1000.0 * steps; };
  for (const double limit : {1.0, 10.0, 20.0, 100.0}) {
    steps = 0;
    request.limit_ms = 1000.0 * limit;
    const auto fidelity = run_probes(request, place.workers);
    REQUIRE(fidelity.has_value());
    INFO("limit " << limit << ", took " << steps);
    CHECK(fidelity->tail.positions >= kFloorPositions);
    CHECK(steps <= std::max(1.0, limit));
    if (limit == 1.0) CHECK(fidelity->counts == ProbeCounts{kFloorPositions, 0, 0});
    if (limit == 100.0)
      CHECK(fidelity->counts == ProbeCounts{static_cast<std::uint32_t>(place.tokens().size()) / 4, 32, 32});
  }
  request.on_progress = [&](double) { return ++steps < 3; };
  const auto stopped = run_probes(request, place.workers);
  REQUIRE_FALSE(stopped.has_value());
  CHECK(stopped.error().code == format::ErrorCode::kInterrupted);
}

TEST_CASE("probes: a text of the user's is scored from its first token on") {
  Place place(50);
  const std::vector<std::byte> pages = place.damaged_pages();
  const core::KvPool damaged = place.view(pages, place.reader().shape().num_tokens);
  std::vector<std::uint32_t> ids;
  for (std::uint32_t i = 0; i < 150; ++i) ids.push_back(i * 7 % place.model.config().vocab_size);
  for (const std::size_t first : {1u, 3u, 149u}) {
    const auto text = probe_text(place.request(damaged), ids, first, place.workers);
    REQUIRE(text.has_value());
    CHECK(text->positions == ids.size() - first);
    CHECK(text->kld_mean > 0.0);
  }
  check_no_loss(*probe_text(place.request(*place.reference), ids, 3, place.workers));
}

TEST_CASE("fidelity's JSON: what was counted can be read back, whatever else a file says") {
  Fidelity fidelity;
  fidelity.counts = {90, 7, 20};
  fidelity.tail.positions = 90;
  const ordered_json json = fidelity_json(fidelity, {"bf16", "runner", "avx2"}, 1000);
  CHECK(counts_of(json) == fidelity.counts);
  for (const char* text :
       {"null", "[]", "3", "{}", R"({"protocol":3})", R"({"protocol":{"version":"polykv.probes/0"}})"})
    CHECK_FALSE(counts_of(ordered_json::parse(text)).has_value());
  ordered_json hostile = json;
  hostile["tail"]["positions"] = 1e300;
  hostile["protocol"]["answer_tokens"] = 18446744073709551615u;
  hostile["protocol"]["passage_tokens"] = -1;
  CHECK(counts_of(hostile) == ProbeCounts{0, 32, 0});
}

}  // namespace
}  // namespace polykv::runtime

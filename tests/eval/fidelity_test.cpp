// The fixed protocol on its first window, against an independent program's figure; and where windows lie.
#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

#include "cli/runtime/model_locator.h"
#include "core/workers.h"
#include "format/file.h"
#include "tests/eval/fidelity/protocol.h"
#include "tests/support/catch.h"
#include "tests/support/data.h"

namespace polykv::eval {
namespace {

// k5v4 on window 0 by a program of its own in Python and float32, scalar Lloyd-Max codes: .00086, .00064, .00070 and
// .00081 for four choices of random signs. Mean .00075; signs move it by .0001 and 256 positions leave an error of
// .0001: .00014 in all.
constexpr double kPrototype = 0.00075, kPrototypeError = 0.00014;

// A code of as many bits can be better than Lloyd-Max, but no code is better than the rate-distortion bound, mean
// squared error 2^-2b: 2.6 times below Lloyd-Max's at 5 bits (.0025), 2.4 at 4. A divergence goes as the squared error.
constexpr double kMostGain = 2.6;

TEST_CASE("fidelity of k5v4 on the protocol's first window is what another program says") {
  const auto data = tests::data_dir();
  if (!data) return tests::skip("../shared/data is not there");
  const std::filesystem::path path =
      std::filesystem::path(POLYKV_SOURCE_DIR) / ".deps" / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf";
  if (!std::filesystem::exists(path)) return tests::skip("the default model is not there: ./dev setup fetches it");
  const runtime::NumberType type = runtime::default_prefill_type();
  auto runner = runtime::make_prefill_runner(type);
  if (!runner) return tests::skip("no prefill: " + runner.error().message);
  const auto model = runtime::open_model(path, runtime::DigestPolicy::kFull);
  REQUIRE(model.has_value());
  const auto text = format::read_file(*data / "wikitext2" / "wiki.test.raw");
  REQUIRE(text.has_value());
  // Enough for a window; ends at a line, so that its tokens are those of the whole text.
  const std::string_view whole(reinterpret_cast<const char*>(text->data()), text->size());
  const std::vector<std::uint32_t> tokens = tokens_of(*model, whole.substr(0, whole.find('\n', 20000)));
  core::Workers workers(core::default_num_threads());
  const std::vector<std::size_t> offsets = {0};
  const std::vector<std::string> names = {"k5v4", "f16"};
  const auto all = measure({&*model, &workers, runner->get(), type, tokens, offsets, {}}, names);
  REQUIRE(all.has_value());
  const runtime::Divergence k5v4 = (*all)[0].summary();
  INFO("k5v4 " << (*all)[0].bits_per_value << " bits, KLD " << k5v4.kld_mean << " +- " << k5v4.kld_stderr);
  CHECK(k5v4.positions == kScoredTokens);
  CHECK(k5v4.kld_mean < kPrototype + 3 * kPrototypeError);
  CHECK(k5v4.kld_mean > (kPrototype - 3 * kPrototypeError) / kMostGain);
  CHECK((*all)[1].summary().kld_max == 0.0);  // the reference itself: the same bits twice
}

TEST_CASE("windows lie at multiples of 20,000 tokens, then between") {
  CHECK(*window_offsets(300000, 4) == std::vector<std::size_t>{0, 20000, 40000, 60000});
  CHECK(*window_offsets(61792, 3) == std::vector<std::size_t>{0, 20000, 40000});
  CHECK(*window_offsets(61793, 4) == std::vector<std::size_t>{0, 20000, 40000, 60000});  // ends with the text
  CHECK(*window_offsets(50000, 8) == std::vector<std::size_t>{0, 20000, 40000, 10000, 30000, 5000, 15000, 25000});
  CHECK(window_offsets(1792, 1).error().code == format::ErrorCode::kUnusableText);
  CHECK(window_offsets(1793, 1)->size() == 1);
  CHECK_FALSE(window_offsets(10000, 5).has_value());
  const auto many = window_offsets(300000, 100);
  REQUIRE(many.has_value());
  std::vector<std::size_t> sorted = *many;
  std::sort(sorted.begin(), sorted.end());
  for (std::size_t i = 1; i < sorted.size(); ++i) CHECK(sorted[i] - sorted[i - 1] >= 1793);
}

}  // namespace
}  // namespace polykv::eval

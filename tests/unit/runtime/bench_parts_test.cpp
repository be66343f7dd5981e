// What `bench` and the benchmarks share: if these are wrong, so is every number that they print.
#include <cmath>

#include "cli/runtime/attention_step.h"
#include "cli/runtime/best_time.h"
#include "cli/runtime/page_cache.h"
#include "cli/runtime/random_pool.h"
#include "cli/runtime/read_speed.h"
#include "core/codec.h"
#include "tests/support/catch.h"

namespace polykv::runtime {
namespace {

TEST_CASE("the memory reader reads every word once, whatever their number") {
  core::Workers workers(3);
  MemoryReader reader(workers);
  std::vector<std::uint64_t> words;
  std::uint64_t sum = 0;
  for (std::uint64_t i = 0; i <= 1500; ++i) {
    CHECK(reader.sum(words) == sum);
    words.push_back(i * i + 1);
    sum += i * i + 1;
  }
}

TEST_CASE("the best time: at least one run, at most so many, and the first error") {
  int num_runs = 0;
  const auto work = [&num_runs]() -> format::Status { return ++num_runs, format::Status(); };
  REQUIRE(best_ms(0, 10, work).has_value());
  CHECK(num_runs == 1);
  CHECK(best_ms(1e9, 10, work).value() >= 0);
  CHECK(num_runs == 11);
  const auto fails = [&num_runs]() -> format::Status {
    if (++num_runs < 14) return {};
    return format::Error(format::ErrorCode::kFailed, "third");
  };
  const auto failed = best_ms(1e9, 10, fails);
  REQUIRE_FALSE(failed.has_value());
  CHECK(failed.error().message == "third");
  CHECK(num_runs == 14);
}

TEST_CASE("random pools have sound pages in every codec, short ones too") {
  for (const char* name : {"f16", "k8v3", "k5v4", "k1v1"}) {
    const core::CodecPair codec = *core::parse_codec_name(name);
    for (const std::uint32_t num_tokens : {3u, 5u, 68u, 200u}) {
      INFO(name << " " << num_tokens);
      const RandomPool random({2, 3, 40, num_tokens}, codec);
      for (const core::KvPool::Run& run : random.pool().runs(1, 2)) {
        std::vector<float> keys(run.num_positions * 40), values(keys.size());
        core::dequantize_run(codec, run.exponents, run.pages, run.num_positions, 40, {}, keys, values);
        double squares = 0;
        for (const float value : values) squares += static_cast<double>(value) * static_cast<double>(value);
        // Scales and float16 values are 0.5 to 1.5, so a vector's values are neither nothing nor huge: a scale read
        // from random bits would be infinite, or up to 65,504.
        CHECK(squares / run.num_positions > 0.01);
        CHECK(squares / run.num_positions < 1000);
        for (const float key : keys) REQUIRE(std::isfinite(key));
      }
    }
  }
}

TEST_CASE("an attention step counts the pages that it reads, and takes a pool's layers in turn") {
  core::Workers workers(1);
  const RandomPool random({2, 3, 64, 1000}, {5, 4});
  AttentionStep whole(random.pool(), 2, 9, 4, 1000, workers);
  CHECK(whole.run().has_value());
  CHECK(whole.page_bytes() == random.page_bytes());
  AttentionStep thrice(random.pool(), 6, 9, 4, 1000, workers);
  CHECK(thrice.run().has_value());
  CHECK(thrice.page_bytes() == 3 * random.page_bytes());
  // Four sinks and 64 positions of pages: one page of the sixteen; the last, of 36 positions, is 48 long.
  CHECK(AttentionStep(random.pool(), 2, 9, 1, 68, workers).page_bytes() < random.page_bytes() / 15);
  CHECK(AttentionStep(random.pool(), 2, 9, 1, 4, workers).page_bytes() == 0);
}

TEST_CASE("what is not there cannot be put out of memory") { CHECK_FALSE(drop_from_page_cache("/nonesuch/file")); }

}  // namespace
}  // namespace polykv::runtime

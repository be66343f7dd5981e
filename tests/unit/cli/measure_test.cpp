// stats --measure, in this process, on a pool of a small model's own keys and values.
#include <nlohmann/json.hpp>

#include "cli/commands/commands.h"
#include "cli/runtime/model_runner.h"
#include "format/file.h"
#include "tests/support/catch.h"
#include "tests/support/data.h"
#include "tests/support/golden_logits.h"
#include "tests/support/make_model_pool.h"
#include "tests/support/reseal.h"
#include "tests/unit/cli/capture.h"

namespace polykv::cli {
namespace {

using nlohmann::ordered_json;
using tests::TemporaryFolder;

const std::string kModel = tests::model_path("llama-gqa-q8_0").string();
const std::string kText =
    "The keeper of the light wrote in the book every evening, and nobody read it until the winter was over. Then the "
    "boat came with flour and letters, and the bell rang twice. Nobody asked who had rung it. In spring the book went "
    "to the harbour office, where a clerk copied it in a fair hand and lost it again before the autumn.";

struct Outcome {
  int status;
  std::string out, err;
};
Outcome run(const std::vector<std::string>& words) {
  const auto options = parse_options(words, [](const char*) { return nullptr; });
  REQUIRE(options.has_value());
  tests::Capture capture;
  const int status = capture.report.finish(run_command(*options, capture.report));
  return {status, capture.out(), capture.err()};
}

// False, and counted as skipped, where no prefill is at hand.
bool build(const std::string& path) {
  runtime::PrefillOptions how;
  how.type = runtime::default_prefill_type();
  const auto runner = runtime::make_prefill_runner(how.type);
  if (!runner) {
    tests::skip("no prefill: " + runner.error().message);
    return false;
  }
  core::Workers workers(1);
  const auto built = tests::build_model_pool(
      kModel, kText, path, **runner, workers, [](runtime::BuildRequest& request) { request.probe = true; }, how);
  INFO((built ? "" : built.error().message));
  REQUIRE(built.has_value());
  return true;
}

// The pool with another fidelity section and right checksums.
template <typename Change>
void change_fidelity(const std::string& path, Change change) {
  const auto bytes = format::read_file(path);
  REQUIRE(bytes.has_value());
  tests::PoolParts parts = tests::take_apart(*bytes);
  std::vector<std::byte>& section = parts.at(format::SectionKind::kFidelity).bytes;
  const auto* const begin = reinterpret_cast<const char*>(section.data());
  ordered_json fidelity = ordered_json::parse(begin, begin + section.size());
  change(fidelity);
  const std::string text = fidelity.dump();
  const auto* const changed = reinterpret_cast<const std::byte*>(text.data());
  section.assign(changed, changed + text.size());
  auto file = format::AtomicFile::create(path, /*force=*/true, 0600);
  REQUIRE(file.has_value());
  REQUIRE(file->write_at(0, tests::put_together(parts)));
  REQUIRE(file->publish());
}

TEST_CASE("stats --measure: exit status 1 if what is measured is not what the pool says") {
  const TemporaryFolder folder;
  const std::string path = folder / "a.pkv";
  if (!build(path)) return;
  const std::vector<std::string> measure = {"stats", "--measure", "-m", kModel, path};
  const Outcome agrees = run(measure);
  CHECK(agrees.status == 0);
  CHECK(agrees.err.empty());
  CHECK(agrees.out.find("    tail: apart by 0.000000, at most ") != std::string::npos);
  CHECK(agrees.out.find("DO NOT AGREE") == std::string::npos);

  // The same file but for one number.
  change_fidelity(path, [](ordered_json& fidelity) {
    REQUIRE(fidelity["tail"]["positions"] >= 32);
    fidelity["tail"]["kld_mean"] = fidelity["tail"]["kld_mean"].get<double>() + 1.0;
  });
  CHECK(run({"verify", "--digest", path}).status == 0);
  const Outcome differs = run(measure);
  CHECK(differs.status == 1);
  CHECK(differs.out.find("    tail: apart by 1.000000, at most ") != std::string::npos);
  CHECK(differs.out.find(": DO NOT AGREE\n") != std::string::npos);
  CHECK(differs.err == "polykv: " + path +
                           ": what is measured now does not agree with what the pool says (tail): build it again, or "
                           "see whether the model or polykv changed\n");
  std::vector<std::string> measure_json = measure;
  measure_json.push_back("--json");
  const Outcome as_json = run(measure_json);
  CHECK(as_json.status == 1);
  CHECK(ordered_json::parse(as_json.out)["agrees"] == false);
}

}  // namespace
}  // namespace polykv::cli

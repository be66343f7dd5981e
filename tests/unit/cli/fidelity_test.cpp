// Fidelity for a person, and when two measurements agree.
#include <nlohmann/json.hpp>

#include "cli/commands/fidelity_text.h"
#include "cli/commands/measure.h"
#include "cli/runtime/fidelity_json.h"
#include "tests/support/catch.h"

namespace polykv::cli {
namespace {

using nlohmann::ordered_json;

ordered_json sample(double kld_mean, double kld_stderr, const char* type = "bf16") {
  runtime::Fidelity fidelity;
  fidelity.counts = {256, 32, 32};
  fidelity.tail = {256, kld_mean, kld_stderr, 0.0047, 0.0085, 0.996, 0.004, 0.0038, 1.004, 0.0024};
  fidelity.floor_kld_mean = 1.02e-6;
  fidelity.recall = {72, 0.00938, 0.00278, 0.1645, 0.1645, 0.9722, 0.02, 0.0402, 0.9966, 0.0309};
  fidelity.hits = {0.8333, 0.75, 0.91};
  fidelity.reference_hits = {0.8333, 0.79, 0.91};
  fidelity.first_difference = {19, std::nullopt, 0};
  return runtime::fidelity_json(fidelity, {type, "polykv 0.1.0 avx512_bf16", "avx512"}, 3956);
}

void check_columns(const std::string& text, std::size_t columns) {
  std::size_t begin = 0;
  for (std::size_t end; (end = text.find('\n', begin)) != std::string::npos; begin = end + 1) {
    INFO(text.substr(begin, end - begin));
    CHECK(end - begin <= columns);
  }
  CHECK(begin == text.size());
}

TEST_CASE("fidelity as a table") {
  const std::string text = fidelity_text("fidelity", sample(0.00051, 0.00006));
  CHECK(text ==
        "  fidelity\n"
        "            tokens    KL divergence   99 %    max    same  RMS dp    perplexity\n"
        "    tail       256 0.00051+-0.00006 0.0047 0.0085  99.6 %  0.38 %   +0.4+-0.2 %\n"
        "    answers      0 not measured: no room or no time for it\n"
        "    recall      72 0.00938+-0.00278 0.1645 0.1645  97.2 %   4.0 %   -0.3+-3.1 %\n"
        "    floor                  1.0e-06  uncompressed, summed in another order\n"
        "    differs first token 20, none, token 1\n"
        "    repeated      83 %, 75 %, 91 %; uncompressed 83 %, 79 %, 91 %\n");
  check_columns(text, 80);
}

TEST_CASE("fidelity as a table: any JSON, any numbers, on lines of some length") {
  for (const char* json :
       {"{}", R"({"tail":3})", R"({"tail":{"positions":"many"}})", R"({"tail":{"positions":5}})",
        R"({"tail":{"positions":1e300,"kld_mean":1e300,"kld_stderr":-1e-300,"kld_p99":123456,"kld_max":99.5,
            "same_top":-5,"rms_dp":1e9,"ppl_ratio":1e40,"ppl_ratio_stderr":7,"hits":5,"first_difference":{}}})",
        R"({"recall":{"positions":1,"hits":["a",null,1e99],"reference_hits":{}}})"}) {
    INFO(json);
    check_columns(fidelity_text("fidelity", ordered_json::parse(json)), 100);
  }
  // A long array is not printed whole, and a name cannot steer a terminal.
  ordered_json odd = {{"\x1b[2J", {{"positions", 1}, {"hits", std::vector<double>(1000, 0.5)}}}};
  const std::string text = fidelity_text("fidelity", odd);
  CHECK(text.size() < 500);
  CHECK(text.find('\x1b') == std::string::npos);
}

TEST_CASE("two measurements agree within three standard errors and what prefills may differ by") {
  const ordered_json stored = sample(0.0005, 0.0001);
  const auto tail = [&](const ordered_json& measured) { return compare_fidelity(stored, measured).at(0); };
  CHECK(compare_fidelity(stored, stored).size() == 2);  // no answers were measured
  CHECK(tail(stored).probe == "tail");
  CHECK(tail(stored).holds());
  // 3 x .0001 + .0002 in bf16, 3 x .0001 + .00001 in f32; the larger error counts.
  CHECK(tail(sample(0.0005 + 0.00049, 0.0001)).holds());
  CHECK_FALSE(tail(sample(0.0005 + 0.00051, 0.0001)).holds());
  CHECK(tail(sample(0.0005 + 0.00051, 0.0002)).holds());
  CHECK(tail(sample(0.0005 + 0.00030, 0.0001, "f32")).holds());
  CHECK_FALSE(tail(sample(0.0005 + 0.00032, 0.0001, "f32")).holds());
  CHECK_FALSE(tail(sample(0.0005 - 0.00051, 0.0001)).holds());
  // Nothing to compare with.
  CHECK(compare_fidelity(ordered_json(), stored).empty());
  CHECK(compare_fidelity(ordered_json::object(), stored).empty());
  ordered_json other = stored;
  other["protocol"]["version"] = "polykv.probes/0";
  CHECK(compare_fidelity(other, stored).empty());
  // What is no number never agrees.
  other = stored;
  other["tail"]["kld_mean"] = "none";
  CHECK_FALSE(compare_fidelity(other, stored).at(0).holds());
}

}  // namespace
}  // namespace polykv::cli

// From keys and values to a pool: by way of the spool or at once, any codec for any head, and what goes wrong.
#include "cli/runtime/pool_builder.h"

#include <algorithm>
#include <cerrno>
#include <fstream>
#include <nlohmann/json.hpp>

#include "cli/runtime/kv_spool.h"
#include "cli/runtime/layer_writer.h"
#include "format/file.h"
#include "format/page_layout.h"
#include "format/reader.h"
#include "format/system_calls.h"
#include "tests/support/catch.h"
#include "tests/support/golden_logits.h"
#include "tests/support/make_model_pool.h"
#include "tests/support/step_prefill.h"
#include "tests/support/temporary_folder.h"

namespace polykv::runtime {
namespace {

using format::ErrorCode;
using tests::TemporaryFolder;

const char* const kModel = "llama-gqa-q8_0";
const std::string kText =
    "The keeper of the light wrote in the book every evening, and nobody read it until the winter was over. Then the "
    "boat came with flour and letters, and the bell rang twice.";

// The pool's file, and its reader.
struct OpenPool {
  std::vector<std::byte> bytes;
  format::PoolReader reader;
};
OpenPool open_pool(const std::string& path) {
  auto bytes = format::read_file(path);
  REQUIRE(bytes.has_value());
  auto reader = format::PoolReader::open(*bytes);
  INFO((reader ? "" : reader.error().message));
  REQUIRE(reader.has_value());
  REQUIRE(reader->verify(true, {}));
  return {std::move(*bytes), std::move(*reader)};
}

std::vector<std::uint16_t> random_values(std::size_t size, std::uint64_t seed) {
  tests::TestRandom random(seed);
  std::vector<std::uint16_t> values(size);
  for (std::uint16_t& value : values) value = core::float_to_float16(random.gaussian());
  return values;
}

TEST_CASE("a pool is the same by way of the spool and at once, on any number of threads") {
  for (const char* codec : {"f16", "k5v4", "k8v3"}) {
    INFO(codec);
    const TemporaryFolder folder;
    const auto build = [&](const char* name, bool probe, std::size_t num_threads) {
      core::Workers workers(num_threads);
      tests::RandomPrefill prefill;
      const auto built = tests::build_model_pool(tests::model_path(kModel), kText, folder / name, prefill, workers,
                                                 [&](BuildRequest& request) {
                                                   request.codec = *core::parse_codec_name(codec);
                                                   request.probe = probe;
                                                 });
      INFO((built ? "" : built.error().message));
      REQUIRE(built.has_value());
      return open_pool(folder / name);
    };
    const OpenPool at_once = build("a.pkv", false, 1);
    CHECK(at_once.reader.fidelity().empty());
    for (const std::size_t num_threads : {1, 3}) {
      const OpenPool spooled = build("b.pkv", true, num_threads);
      CHECK(spooled.reader.superblock().file_id == at_once.reader.superblock().file_id);
      CHECK(std::ranges::equal(spooled.reader.pages(), at_once.reader.pages()));
      CHECK(std::ranges::equal(spooled.reader.sinks(), at_once.reader.sinks()));
      CHECK(std::ranges::equal(spooled.reader.means(), at_once.reader.means()));
    }
  }
}

TEST_CASE("the spool gives back every bit, has no name, and may have more or fewer positions than sinks") {
  for (const std::uint32_t num_tokens : {1u, 4u, 5u, 70u, 333u}) {
    for (const std::uint32_t head_dim : {8u, 24u, 64u}) {
      INFO(num_tokens << " tokens, head_dim " << head_dim);
      const TemporaryFolder folder;
      const format::KvShape shape{3, 2, head_dim, num_tokens};
      core::Workers workers(2);
      auto spool = KvSpool::create(folder / "a.pkv", shape, false, workers);
      REQUIRE(spool.has_value());
      CHECK(folder.is_empty());
      const std::size_t head_values = std::size_t{num_tokens} * head_dim;
      std::vector<std::vector<std::uint16_t>> keys, values;
      for (std::uint32_t layer = 0; layer < shape.num_layers; ++layer) {
        keys.push_back(random_values(2 * head_values, 2 * layer));
        values.push_back(random_values(2 * head_values, 2 * layer + 1));
        REQUIRE(spool->write({layer, num_tokens, keys[layer], values[layer]}));
      }
      REQUIRE(spool->map());
      for (std::uint32_t layer = 0; layer < shape.num_layers; ++layer) {
        for (std::uint32_t head = 0; head < 2; ++head) {
          const HeadKv kv = spool->read(layer, head, 1);
          CHECK(std::ranges::equal(kv.keys, std::span(keys[layer]).subspan(head * head_values, head_values)));
          CHECK(std::ranges::equal(kv.values, std::span(values[layer]).subspan(head * head_values, head_values)));
        }
      }
      CHECK(spool->pool().shape() == shape);
    }
  }
}

TEST_CASE("every head in codecs of its own: pages, sinks, means and balances are those of the head alone") {
  const format::KvShape shape{2, 3, 64, 100};
  const CodecPlan plan = {{5, 4}, {16, 16}, {8, 3}, {1, 8}, {8, 8}, {7, 1}};
  CHECK(plan_name(plan) == "mixed");
  CHECK(plan_name(uniform_plan(shape, {5, 4})) == "k5v4");
  const std::size_t head_values = 100 * 64, sink_values = 4 * 64;
  const std::uint32_t step = GENERATE(1u, 2u);  // layers at a time
  const TemporaryFolder folder;
  format::PoolSpec spec;
  spec.shape = shape;
  tests::PoolRecipe recipe{.shape = shape};
  spec.identity = tests::make_identity(recipe);
  spec.tokens = tests::make_tokens(recipe);
  spec.layout = plan_layout(shape, plan);
  spec.has_means = removes_means(spec.layout);
  CHECK(spec.has_means);
  auto writer = format::PoolWriter::create(folder / "a.pkv", std::move(spec), {});
  REQUIRE(writer.has_value());
  core::Workers workers(3);
  DimensionWeights weights;
  for (std::size_t i = 0; i < 6 * 64; ++i) {
    weights.keys.push_back(static_cast<float>(1 + i % 7));
    weights.values.push_back(static_cast<float>(1 + i % 5));
  }
  LayerWriter layers(shape, weights, *writer, workers);
  const auto keys = random_values(6 * head_values, 1), values = random_values(6 * head_values, 2);
  const auto head_of = [&](std::size_t head) {
    return HeadKv{std::span(keys).subspan(head * head_values, head_values),
                  std::span(values).subspan(head * head_values, head_values)};
  };
  for (std::uint32_t first = 0; first < 2; first += step) {
    REQUIRE(layers.write(first, first + step, [&](std::uint32_t layer, std::uint32_t kv_head, std::size_t) {
      return head_of(layer * 3 + kv_head);
    }));
  }
  REQUIRE(writer->finish({}));
  const OpenPool pool = open_pool(folder / "a.pkv");
  const core::KvPool view(pool.reader);
  for (std::uint32_t head = 0; head < 6; ++head) {
    INFO("head " << head);
    const HeadKv kv = head_of(head);
    const auto run = view.runs(head / 3, head % 3)[0];
    CHECK(run.codec == plan[head]);
    std::vector<std::uint16_t> mean(64);
    core::mean_of_keys(kv.keys.subspan(sink_values), 64, mean);
    const bool has_mean = format::key_codec_removes_mean(plan[head].key);
    if (!has_mean) std::fill(mean.begin(), mean.end(), std::uint16_t{0});
    std::vector<std::uint16_t> key_balance(64, 0x3c00), value_balance(64, 0x3c00);
    if (has_mean)
      core::balance_of(kv.keys.subspan(sink_values), mean, std::span(weights.keys).subspan(head * 64, 64),
                       core::kKeyBalancePower, key_balance);
    if (plan[head].value != format::kCodecF16)
      core::balance_of(kv.values.subspan(sink_values), {}, std::span(weights.values).subspan(head * 64, 64),
                       core::kValueBalancePower, value_balance);
    const core::KvPool::Transform stored = view.transform(head / 3, head % 3);
    CHECK(std::ranges::equal(stored.mean, std::as_bytes(std::span(mean))));
    CHECK(std::ranges::equal(stored.key_balance, std::as_bytes(std::span(key_balance))));
    CHECK(std::ranges::equal(stored.value_balance, std::as_bytes(std::span(value_balance))));
    std::vector<std::byte> pages(format::run_bytes(plan[head].key, plan[head].value, 64, 96));
    REQUIRE(core::quantize_run(plan[head], kv.keys.subspan(sink_values), kv.values.subspan(sink_values), 64,
                               {mean, key_balance, value_balance}, pages));
    CHECK(std::ranges::equal(run.pages, pages));
    CHECK(std::ranges::equal(view.sink_keys(head / 3, head % 3), std::as_bytes(kv.keys.first(sink_values))));
    CHECK(std::ranges::equal(view.sink_values(head / 3, head % 3), std::as_bytes(kv.values.first(sink_values))));
  }
}

// A text long enough that pages are most of the pool.
std::string long_text() {
  std::string text;
  for (int i = 0; i < 4; ++i) text += kText + " ";
  return text;
}

struct Planned {
  std::uint64_t file_bytes;
  double tail_kld;
};
format::Result<Planned> build_planned(const CodecChoice& choice, const std::optional<RetentionChoice>& retention = {}) {
  const TemporaryFolder folder;
  core::Workers workers(2);
  tests::RandomPrefill prefill;
  POLYKV_TRY(const BuildReport built, tests::build_model_pool(tests::model_path(kModel), long_text(), folder / "a.pkv",
                                                              prefill, workers, [&](BuildRequest& request) {
                                                                request.codec = choice;
                                                                request.retention = retention;
                                                                request.accept_loss = true;
                                                                request.probe = true;
                                                              }));
  const OpenPool pool = open_pool(folder / "a.pkv");
  const auto fidelity = nlohmann::json::parse(pool.reader.fidelity());
  CHECK(fidelity.at("plan").at("choice") == choice_name(choice));
  CHECK(fidelity.at("tail").at("kld_by_position").size() == fidelity.at("tail").at("positions"));
  CHECK(pool.reader.identity().get("codec.plan") == choice_name(choice));
  return Planned{built.pool_bytes, fidelity.at("tail").at("kld_mean")};
}

TEST_CASE("a plan keeps within bytes of the file, or says how many are needed") {
  CodecChoice choice;
  const auto by_default = build_planned(choice);
  REQUIRE(by_default.has_value());
  for (const double share : {0.9, 1.0, 1.3}) {
    choice.pool_bytes = static_cast<std::uint64_t>(share * static_cast<double>(by_default->file_bytes)) + 12000;
    const auto built = build_planned(choice);
    REQUIRE(built.has_value());
    CHECK(built->file_bytes <= *choice.pool_bytes);
  }
  choice.pool_bytes = 10000;
  const auto refused = build_planned(choice);
  REQUIRE_FALSE(refused.has_value());
  CHECK(refused.error().code == ErrorCode::kUnusableText);
}

TEST_CASE("a plan within a divergence: the tail probe measures no more, or the build says so") {
  CodecChoice choice;
  choice.bits_per_value = 2.6;
  const auto coarse = build_planned(choice);
  REQUIRE(coarse.has_value());
  CodecChoice limited;
  limited.max_kld = coarse->tail_kld / 8.0;
  const auto fine = build_planned(limited);
  REQUIRE(fine.has_value());
  CHECK(fine->tail_kld <= *limited.max_kld);
  CHECK(fine->file_bytes > coarse->file_bytes);
  limited.max_kld = 1e-12;
  const auto refused = build_planned(limited);
  REQUIRE_FALSE(refused.has_value());
  CHECK(refused.error().code == ErrorCode::kUnusableText);
}

TEST_CASE("a plan within a divergence where positions are dropped: what is scored is made anew with it") {
  RetentionChoice most = *parse_retention("keydiff");
  most.keep_share = 0.97;
  CodecChoice fine_codes;
  fine_codes.bits_per_value = 7.0;
  const auto dropped = build_planned(fine_codes, most);
  REQUIRE(dropped.has_value());
  CodecChoice limited;
  limited.max_kld = 1.5 * dropped->tail_kld;  // the first plan, which knows nothing of dropping, is above that
  const auto fine = build_planned(limited, most);
  INFO((fine ? "" : fine.error().message));
  REQUIRE(fine.has_value());
  CHECK(fine->tail_kld <= *limited.max_kld);
}

TEST_CASE("a build by a plan keeps in each layer what its policy alone keeps of the layer's budget") {
  const TemporaryFolder folder;
  core::Workers workers(2);
  tests::StepPrefill prefill(workers);
  RetentionChoice choice;
  choice.by_layer =
      LayerPolicies{"plan 01234567",
                    {find_retention_policy("keydiff"), find_retention_policy("snapkv"), find_retention_policy("d2o")},
                    {1.0, 2.0, 3.0},
                    36};
  choice.keep_tokens = 60;  // 36 and 12, 24 and 36 more
  const bool probe = GENERATE(false, true);
  const auto built = tests::build_model_pool(tests::model_path(kModel), long_text(), folder / "a.pkv", prefill, workers,
                                             [&](BuildRequest& request) {
                                               request.codec = *core::parse_codec_name("f16");
                                               request.retention = choice;
                                               request.accept_loss = true;
                                               request.probe = probe;
                                             });
  INFO((built ? "" : built.error().message));
  REQUIRE(built.has_value());
  const OpenPool pool = open_pool(folder / "a.pkv");
  CHECK(pool.reader.identity().get("retention.policy") == "plan 01234567 60 tokens");
  const auto model = ModelFile::open(tests::model_path(kModel));
  const std::vector<std::uint32_t>& tokens = pool.reader.tokens().ids;
  const tests::Collected kv = tests::collect_steps(*model, tokens, workers);
  format::KvShape one = pool.reader.shape();
  one.num_layers = 1;
  const std::size_t head_size = std::size_t{one.num_tokens} * one.head_dim, sinks = format::kNumSinks;
  const core::KvPool view(pool.reader);
  for (std::uint32_t layer = 0; layer < 3; ++layer) {
    RetentionChoice alone;
    alone.by_layer = LayerPolicies{"", {choice.by_layer->policies[layer]}, {1.0}, 36};
    alone.keep_tokens = 48 + 12 * layer;
    const RetentionPolicy& policy = *alone.by_layer->policies[0];
    const LayerKv seen{layer, one.num_tokens, kv.keys[layer], kv.values[layer], kv.queries[layer]};
    const RetentionScores scores = policy.score({model->config(), seen, workers});
    const KeptPositions kept = select_positions(one, {&scores, 1}, alone);
    for (std::uint32_t head = 0; head < one.num_kv_heads; ++head) {
      INFO("layer " << layer << ", head " << head);
      const auto run = view.runs(layer, head)[0];
      CHECK(std::ranges::equal(run.positions, kept[head].ranges));
      CHECK(run.num_positions == 44 + 12 * layer);
      // What is stored: the kept positions, after the policy has merged the others into them.
      std::vector<std::uint16_t> keys(kv.keys[layer].begin() + static_cast<std::ptrdiff_t>(head * head_size),
                                      kv.keys[layer].begin() + static_cast<std::ptrdiff_t>((head + 1) * head_size));
      std::vector<std::uint16_t> values(kv.values[layer].begin() + static_cast<std::ptrdiff_t>(head * head_size),
                                        kv.values[layer].begin() + static_cast<std::ptrdiff_t>((head + 1) * head_size));
      if (policy.merge != nullptr) {
        const std::vector<bool> flags = kept_flags(kept[head], one.num_tokens);
        policy.merge({layer, head, one.head_dim,
                      std::span(scores.positions).subspan(head * one.num_tokens, one.num_tokens), flags, keys, values});
      }
      std::vector<std::uint16_t> kept_keys, kept_values, stored_keys, stored_values;
      append_positions(kept[head].ranges, 0, one.head_dim, keys, kept_keys);
      append_positions(kept[head].ranges, 0, one.head_dim, values, kept_values);
      stored_keys.resize(kept_keys.size());
      stored_values.resize(kept_values.size());
      core::restore_float16_run(run.pages, one.head_dim, stored_keys, stored_values);
      CHECK(stored_keys == kept_keys);
      CHECK(stored_values == kept_values);
      CHECK(
          (policy.merge != nullptr) ==
          !std::equal(values.begin() + static_cast<std::ptrdiff_t>(sinks * one.head_dim), values.end(),
                      kv.values[layer].begin() + static_cast<std::ptrdiff_t>(head * head_size + sinks * one.head_dim)));
    }
  }
}

TEST_CASE("kvzip keeps the same positions whether a pool is probed or not") {
  const TemporaryFolder folder;
  core::Workers workers(2);
  tests::StepPrefill prefill(workers);
  for (const bool probe : {false, true}) {
    const auto built = tests::build_model_pool(tests::model_path(kModel), kText, folder / (probe ? "a.pkv" : "b.pkv"),
                                               prefill, workers, [&](BuildRequest& request) {
                                                 request.codec = *core::parse_codec_name("f16");
                                                 request.retention = parse_retention("kvzip");
                                                 request.retention->keep_share = 0.5;
                                                 request.accept_loss = true;
                                                 request.probe = probe;
                                               });
    INFO((built ? "" : built.error().message));
    REQUIRE(built.has_value());
  }
  const OpenPool probed = open_pool(folder / "a.pkv"), other = open_pool(folder / "b.pkv");
  CHECK(probed.reader.superblock().file_id == other.reader.superblock().file_id);
}

// Does something to the world in the middle of a prefill.
class DisturbedPrefill : public tests::RandomPrefill {
 public:
  explicit DisturbedPrefill(std::function<void()> disturb) : disturb_(std::move(disturb)) {}
  format::Status prefill(const ModelFile& model, std::span<const std::uint32_t> tokens, const PrefillOptions& options,
                         const std::function<format::Status(const LayerKv&)>& on_layer) override {
    return RandomPrefill::prefill(model, tokens, options, [&](const LayerKv& layer) {
      if (layer.layer == 1) disturb_();
      return on_layer(layer);
    });
  }

 private:
  std::function<void()> disturb_;
};

TEST_CASE("a model that is changed during the build: nothing is published") {
  for (const bool probe : {false, true}) {
    const TemporaryFolder folder, output;
    std::filesystem::copy_file(tests::model_path(kModel), folder / "m.gguf");
    DisturbedPrefill prefill([&] { std::ofstream(folder / "m.gguf", std::ios::binary | std::ios::app) << "x"; });
    core::Workers workers(1);
    const auto built = tests::build_model_pool(folder / "m.gguf", kText, output / "a.pkv", prefill, workers,
                                               [&](BuildRequest& request) { request.probe = probe; });
    REQUIRE_FALSE(built.has_value());
    CHECK(built.error().code == ErrorCode::kChanged);
    CHECK(built.error().message.find("m.gguf: it became longer while in use") != std::string::npos);
    CHECK(output.is_empty());
  }
}

TEST_CASE("a build that is told to stop after the prefill leaves nothing") {
  for (const std::string at : {"plan", "quantize", "write"}) {
    const TemporaryFolder folder;
    tests::RandomPrefill prefill;
    core::Workers workers(1);
    const auto built = tests::build_model_pool(
        tests::model_path(kModel), kText, folder / "a.pkv", prefill, workers, [&](BuildRequest& request) {
          request.probe = true;
          request.on_progress = [&](const char* work, double) { return work != at; };
        });
    INFO(at);
    REQUIRE_FALSE(built.has_value());
    CHECK(built.error().code == ErrorCode::kInterrupted);
    CHECK(folder.is_empty());
  }
}

TEST_CASE("a disk without room for the spool: said before any work, with how much is needed") {
  const TemporaryFolder folder;
  tests::RandomPrefill prefill;
  core::Workers workers(1);
  struct Restore {
    format::SystemCalls calls = format::system_calls();
    ~Restore() { format::system_calls() = calls; }
  } restore;
  format::system_calls().allocate = [](int, off_t, off_t) { return ENOSPC; };
  const auto built = tests::build_model_pool(tests::model_path(kModel), kText, folder / "a.pkv", prefill, workers,
                                             [](BuildRequest& request) { request.probe = true; });
  REQUIRE_FALSE(built.has_value());
  CHECK(built.error().code == ErrorCode::kNoSpace);
  CHECK(built.error().message.find("uncompressed keys and values, 1 MB") != std::string::npos);
  CHECK(folder.is_empty());
}

}  // namespace
}  // namespace polykv::runtime

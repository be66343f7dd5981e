// From scores to positions: what is kept in any case, how many, and which.
#include "cli/runtime/retention/selection.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <set>

#include "tests/support/catch.h"

namespace polykv::runtime {
namespace {

RetentionChoice choice_of(const std::string& name, std::uint32_t keep) {
  auto choice = parse_retention(name);
  REQUIRE(choice.has_value());
  choice->keep_tokens = keep;
  return *choice;
}

std::vector<RetentionScores> random_scores(const format::KvShape& shape, std::uint32_t seed, std::uint32_t levels) {
  std::mt19937 random(seed);
  std::vector<RetentionScores> layers(shape.num_layers);
  for (RetentionScores& layer : layers)
    for (std::uint32_t i = 0; i < shape.num_kv_heads * shape.num_tokens; ++i)
      layer.positions.push_back(static_cast<float>(random() % levels));
  return layers;
}

// A head's positions, the sinks among them.
std::vector<bool> kept_of(const format::KvShape& shape, const KeptPositions& kept, std::size_t head) {
  std::vector<bool> out(shape.num_tokens, false);
  std::fill_n(out.begin(), std::min(shape.num_tokens, format::kNumSinks), true);
  std::uint32_t end = 0;
  for (const format::PositionRange range : kept[head].ranges) {
    REQUIRE(range.begin >= std::max(format::kNumSinks, end + (end > 0 ? 1 : 0)));  // ascending, not touching
    REQUIRE(range.begin < range.end);
    end = range.end;
    REQUIRE(end <= shape.num_tokens);
    std::fill(out.begin() + range.begin, out.begin() + range.end, true);
  }
  return out;
}

std::size_t count(const std::vector<bool>& kept) {
  return static_cast<std::size_t>(std::count(kept.begin(), kept.end(), true));
}

// By definition: positions that are sure, then one by one the best of the rest, of equal ones the latest.
std::vector<bool> best(const float* scores, std::uint32_t num_tokens, std::uint32_t budget, std::uint32_t recent) {
  std::vector<bool> kept(num_tokens, false);
  for (std::uint32_t t = 0; t < num_tokens; ++t) kept[t] = t < format::kNumSinks || t + recent >= num_tokens;
  while (count(kept) < budget) {
    std::uint32_t next = num_tokens;
    for (std::uint32_t t = 0; t < num_tokens; ++t)
      if (!kept[t] && (next == num_tokens || scores[t] >= scores[next])) next = t;
    kept[next] = true;
  }
  return kept;
}

TEST_CASE("each head keeps sinks, window and its best positions, exactly as many as asked for") {
  for (const char* name : {"keydiff", "snapkv", "h2o", "compactor", "scissorhands"}) {
    for (const std::uint32_t num_tokens : {1u, 2u, 3u, 4u, 5u, 6u, 7u, 8u, 9u, 10u, 33u, 100u, 131u}) {
      for (const std::uint32_t keep : {1u, 4u, 5u, 20u, 40u, 99u, 100u, 500u}) {
        for (const std::uint32_t levels : {1u, 3u, 1000000u}) {  // all equal, many ties, hardly any
          const format::KvShape shape{2, 3, 8, num_tokens};
          const RetentionChoice choice = choice_of(name, keep);
          const std::vector<RetentionScores> scores = random_scores(shape, num_tokens + keep, levels);
          const KeptPositions kept = select_positions(shape, scores, choice);
          REQUIRE(kept.size() == 6);
          const std::uint32_t window = choice.policy->window;
          const std::uint32_t budget = std::min(num_tokens, std::max(keep, format::kNumSinks + window));
          std::uint32_t recent = window;
          if (name == std::string("h2o")) recent = std::min(budget / 2, budget - std::min(budget, 4u));
          for (std::size_t head = 0; head < 6; ++head) {
            INFO(name << ", " << num_tokens << " tokens, " << keep << " kept, head " << head);
            const float* of_head = scores[head / 3].positions.data() + head % 3 * num_tokens;
            REQUIRE(kept_of(shape, kept, head) == best(of_head, num_tokens, budget, recent));
          }
        }
      }
    }
  }
}

TEST_CASE("h2o: half of the budget goes to the most recent positions") {
  const format::KvShape shape{1, 1, 8, 100};
  std::vector<RetentionScores> scores(1);
  for (int t = 0; t < 100; ++t) scores[0].positions.push_back(static_cast<float>(100 - t));  // the early ones are heavy
  const KeptPositions kept = select_positions(shape, scores, choice_of("h2o", 20));
  CHECK(kept[0].ranges == std::vector<format::PositionRange>{{4, 10}, {90, 100}});
}

TEST_CASE(
    "+ada: a layer's budget is exact, each head has a fifth for sure, and no kept position is worse than a "
    "dropped one beyond that") {
  const format::KvShape shape{2, 3, 8, 90};
  for (const char* name : {"keydiff+ada", "scissorhands+ada", "h2o+ada"}) {
    for (const std::uint32_t keep : {4u, 15u, 30u, 61u, 90u}) {
      const RetentionChoice choice = choice_of(name, keep);
      std::vector<RetentionScores> scores = random_scores(shape, keep, 1000);
      for (std::uint32_t t = 0; t < 90; ++t) scores[0].positions[t] -= 10000.0f;  // a head that would get nothing
      const KeptPositions kept = select_positions(shape, scores, choice);
      const std::uint32_t window = choice.policy->window, budget = std::max(keep, 4 + window);
      std::uint32_t recent = window;
      if (name == std::string("h2o+ada")) recent = std::min(budget / 2, budget - 4);
      for (std::size_t layer = 0; layer < 2; ++layer) {
        INFO(name << ", " << keep << " kept, layer " << layer);
        std::size_t total = 0;
        float worst_free = 1e9f, best_dropped = -1e9f;
        for (std::size_t head = 0; head < 3; ++head) {
          const std::vector<bool> positions = kept_of(shape, kept, 3 * layer + head);
          const float* of_head = scores[layer].positions.data() + head * 90;
          const std::vector<bool> sure = best(of_head, 90, std::max(budget / 5, 4 + recent), recent);
          total += count(positions);
          for (std::uint32_t t = 0; t < 90; ++t) {
            if (sure[t]) REQUIRE(positions[t]);
            if (positions[t] && !sure[t]) worst_free = std::min(worst_free, of_head[t]);
            if (!positions[t]) best_dropped = std::max(best_dropped, of_head[t]);
          }
        }
        CHECK(total == 3 * budget);
        CHECK(worst_free >= best_dropped);
      }
    }
  }
}

TEST_CASE("+chunk: chunks of 20 by their mean score, whole but for the last; sinks and window whatever their chunk") {
  const format::KvShape shape{1, 1, 8, 95};
  std::vector<RetentionScores> scores(1);
  for (std::uint32_t t = 0; t < 95; ++t)  // means by chunk: 2, 5, 1, 4, 3, though the best single ones are in the third
    scores[0].positions.push_back(std::vector<float>{2, 5, t == 50 ? 20.0f : 0.0f, 4, 3}[t / 20]);
  const auto ranges = [&](const char* name, std::uint32_t keep) {
    return select_positions(shape, scores, choice_of(name, keep))[0].ranges;
  };
  using Ranges = std::vector<format::PositionRange>;
  CHECK(ranges("keydiff+chunk", 24) == Ranges{{20, 40}});
  CHECK(ranges("keydiff+chunk", 30) == Ranges{{20, 40}, {60, 66}});
  CHECK(ranges("keydiff+chunk", 59) == Ranges{{20, 40}, {60, 95}});
  CHECK(ranges("keydiff+chunk", 75) == Ranges{{4, 40}, {60, 95}});
  CHECK(ranges("scissorhands+chunk", 34) == Ranges{{20, 40}, {85, 95}});
  CHECK(ranges("keydiff+ada+chunk", 30) == ranges("keydiff+chunk", 30));  // with one head there is nothing to share
}

TEST_CASE("+chunk and +ada keep exact numbers, with any scores") {
  const format::KvShape shape{2, 3, 8, 131};
  for (const char* name : {"keydiff+chunk", "snapkv+chunk", "h2o+chunk", "keydiff+ada+chunk", "h2o+ada+chunk"}) {
    for (const std::uint32_t keep : {4u, 37u, 60u, 130u, 131u}) {
      const RetentionChoice choice = choice_of(name, keep);
      const KeptPositions kept = select_positions(shape, random_scores(shape, keep, 5), choice);
      const std::uint32_t budget = std::max(keep, 4 + choice.policy->window);
      for (std::size_t layer = 0; layer < 2; ++layer) {
        std::size_t total = 0;
        for (std::size_t head = 0; head < 3; ++head) total += count(kept_of(shape, kept, 3 * layer + head));
        CHECK(total == 3 * budget);
      }
    }
  }
}

TEST_CASE("layers share the budget by the policy's rule") {
  const format::KvShape shape{5, 2, 8, 200};
  std::vector<RetentionScores> scores = random_scores(shape, 1, 1000);
  const auto counts = [&](const char* name, std::uint32_t keep) {
    const KeptPositions kept = select_positions(shape, scores, choice_of(name, keep));
    std::vector<std::size_t> out;
    for (std::size_t layer = 0; layer < 5; ++layer) {
      out.push_back(count(kept_of(shape, kept, 2 * layer)));
      CHECK(count(kept_of(shape, kept, 2 * layer + 1)) == out.back());
    }
    return out;
  };
  using Counts = std::vector<std::size_t>;
  CHECK(counts("keydiff", 40) == Counts{40, 40, 40, 40, 40});
  CHECK(counts("pyramidkv", 52) == Counts{12 + 78, 12 + 59, 12 + 40, 12 + 21, 12 + 2});
  CHECK(counts("fullkv", 40) == Counts{200, 200, 200, 200, 200});
  for (std::size_t layer = 0; layer < 5; ++layer) scores[layer].layer_weight = static_cast<double>(layer);
  CHECK(counts("cake", 46) == Counts{36, 41, 46, 51, 56});
  CHECK(counts("d2o", 160) == Counts{4, 196, 200, 200, 200});  // three whole layers would be more than half
}

TEST_CASE("kvzip: the best positions of all layers and heads, whoever has them") {
  const format::KvShape shape{3, 2, 8, 100};
  const std::vector<RetentionScores> scores = random_scores(shape, 3, 1 << 20);
  const KeptPositions kept = select_positions(shape, scores, choice_of("kvzip", 30));
  float least_kept = HUGE_VALF, most_dropped = -HUGE_VALF;
  std::size_t sum = 0;
  std::set<std::size_t> counts;
  for (std::size_t head = 0; head < 6; ++head) {
    const std::vector<bool> of_head = kept_of(shape, kept, head);
    sum += count(of_head);
    counts.insert(count(of_head));
    for (std::size_t t = format::kNumSinks; t < 100; ++t) {
      const float score = scores[head / 2].positions[head % 2 * 100 + t];
      of_head[t] ? least_kept = std::min(least_kept, score) : most_dropped = std::max(most_dropped, score);
    }
  }
  CHECK(sum == 6 * 30);
  CHECK(counts.size() > 1);
  CHECK(least_kept >= most_dropped);
}

TEST_CASE("a policy for each layer: its own window, and the budget above the floor by the layers' weights") {
  const format::KvShape shape{3, 2, 8, 400};
  const std::vector<RetentionScores> scores = random_scores(shape, 7, 1000000);
  RetentionChoice choice;
  // 100 a layer are 300; above the floor of 36 there are 192, of which 1/6, 2/6 and 3/6 are 32, 64 and 96. With the
  // sensitivities' 1e-6 the parts are 32.00001, 63.99999 and 95.99999, and the two largest remainders get one more.
  choice.by_layer =
      LayerPolicies{"plan 01234567",
                    {find_retention_policy("snapkv"), find_retention_policy("keydiff"), find_retention_policy("h2o")},
                    {1.0 + 1e-6, 2.0 + 1e-6, 3.0 + 1e-6},
                    36};
  choice.keep_tokens = 100;
  const std::vector<std::uint32_t> budgets = {68, 100, 132}, recents = {32, 0, 66};
  const auto check = [&](const std::vector<std::uint32_t>& expected, const std::vector<std::uint32_t>& recent) {
    const KeptPositions kept = select_positions(shape, scores, choice);
    for (std::size_t head = 0; head < 6; ++head) {
      INFO("head " << head);
      const float* of_head = scores[head / 2].positions.data() + head % 2 * 400;
      CHECK(kept_of(shape, kept, head) == best(of_head, 400, expected[head / 2], recent[head / 2]));
    }
  };
  check(budgets, recents);
  choice.by_layer->weights = {1.0, 1.0, 1.0};
  check({100, 100, 100}, {32, 0, 50});
  choice.keep_tokens = 10;  // fewer than the floor
  CHECK(kept_tokens(choice, 400) == 36);
  check({36, 36, 36}, {32, 0, 18});
  choice.keep_tokens = 500;
  check({400, 400, 400}, {400, 400, 400});
  CHECK_FALSE(choice.keeps_all());
  CHECK_FALSE(choice.is_joint());
  CHECK(choice.needs_queries());
  CHECK(choice.policies(1) == std::vector<const RetentionPolicy*>{find_retention_policy("keydiff")});
  CHECK(retention_name(choice) == "plan 01234567 500 tokens");
  choice.by_layer->policies = {find_retention_policy("keydiff"), find_retention_policy("lagkv"),
                               find_retention_policy("keydiff")};
  CHECK_FALSE(choice.needs_queries());
}

TEST_CASE("kept positions as flags: the sinks too, and nothing past the end") {
  const format::PositionSet set{{{5, 7}, {9, 12}}};
  CHECK(kept_flags(set, 10) == std::vector<bool>{true, true, true, true, false, true, true, false, false, true});
  CHECK(kept_flags(set, 6) == std::vector<bool>{true, true, true, true, false, true});
  CHECK(kept_flags({}, 3) == std::vector<bool>{true, true, true});
}

TEST_CASE("names of policies and modifiers") {
  for (const RetentionPolicy& policy : retention_policies()) {
    const auto choice = parse_retention(policy.name);
    REQUIRE(choice.has_value());
    CHECK(choice->policy == &policy);
    CHECK_FALSE(choice->by_head);
    CHECK_FALSE(choice->by_chunk);
  }
  CHECK(parse_retention("snapkv+ada")->by_head);
  CHECK_FALSE(parse_retention("snapkv+ada")->by_chunk);
  CHECK(parse_retention("snapkv+chunk")->by_chunk);
  CHECK(parse_retention("expected-attention+ada+chunk")->by_head);
  CHECK(parse_retention("expected-attention+ada+chunk")->by_chunk);
  for (const char* name : {"", "+ada", "snap", "snapkv+", "snapkv+ada+", "snapkv+adachunk", "snapkv+chunk+ada",
                           "snapkv+ada+ada", "snapkv ada", " snapkv", "SNAPKV", "snapkv+x"}) {
    INFO(name);
    CHECK_FALSE(parse_retention(name).has_value());
  }
}

TEST_CASE("how much to keep: tokens or a share") {
  RetentionChoice choice = *parse_retention("keydiff");
  CHECK(parse_keep("256", choice));
  CHECK(choice.keep_tokens == 256u);
  CHECK(retention_name(choice) == "keydiff 256 tokens");
  CHECK(kept_tokens(choice, 1000) == 256);
  CHECK(kept_tokens(choice, 100) == 100);
  CHECK(parse_keep("25%", choice));
  CHECK_FALSE(choice.keep_tokens.has_value());
  CHECK(retention_name(choice) == "keydiff 25%");
  CHECK(kept_tokens(choice, 1000) == 250);
  CHECK(kept_tokens(choice, 1003) == 250);  // not more than asked for
  CHECK(kept_tokens(choice, 3) == 3);
  CHECK(kept_tokens(choice, 10) == 4);  // the sinks
  CHECK(parse_keep("512", choice));
  CHECK_FALSE(choice.keep_share.has_value());
  for (int percent = 1; percent <= 100; ++percent) {  // whatever binary fractions make of it
    CHECK(parse_keep(std::to_string(percent) + "%", choice));
    CHECK(kept_tokens(choice, 100) == static_cast<std::uint32_t>(std::max(4, percent)));
  }
  CHECK(parse_keep("12.5%", choice));
  CHECK(kept_tokens(choice, 1000) == 125);
  CHECK(parse_keep("4294967295", choice));
  RetentionChoice snapkv = *parse_retention("snapkv+ada");
  CHECK(parse_keep("1%", snapkv));
  CHECK(kept_tokens(snapkv, 1000) == 36);  // sinks and window
  CHECK(retention_name(snapkv) == "snapkv+ada 1%");
  for (const char* text : {"",    "%",   "0",   "0%",  "-1",   "-5%",  "100.1%",     "1.5",  "25 %", " 25", "25%%",
                           "abc", "12a", "inf", "nan", "inf%", "nan%", "4294967296", "1e10", "0x10", "+5"}) {
    INFO(text);
    CHECK_FALSE(parse_keep(text, choice));
  }
}

}  // namespace
}  // namespace polykv::runtime

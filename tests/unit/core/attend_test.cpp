// attend() against plain attention in double on dequantized values, for every kernel table.
#include "core/attend.h"

#include <iostream>
#include <string>

#include "tests/support/catch.h"
#include "tests/unit/core/attend_fixture.h"

namespace {

using namespace polykv;
using core::AttendRow;
using format::PositionRange;
using tests::Kept;
using tests::MemoryPool;
using tests::Random;

// Rows of queries over a chain and tails, checked head by head.
struct Rows {
  std::uint32_t num_q_heads, head_dim;
  std::vector<float> queries, out;
  std::vector<std::vector<PositionRange>> visible;
  std::vector<const core::Tail*> tails;
  std::vector<std::uint32_t> tail_visible;

  Rows(std::uint32_t q_heads, std::uint32_t dim) : num_q_heads(q_heads), head_dim(dim) {}
  void add(Random& random, std::vector<PositionRange> ranges, const core::Tail* tail = nullptr,
           std::uint32_t seen = 0) {
    const auto query = random.normals(num_q_heads * head_dim);
    queries.insert(queries.end(), query.begin(), query.end());
    visible.push_back(std::move(ranges));
    tails.push_back(tail);
    tail_visible.push_back(seen);
  }
  Rows only(std::size_t i) const {
    Rows one(num_q_heads, head_dim);
    const auto begin = queries.begin() + static_cast<std::ptrdiff_t>(i * width());
    one.queries.assign(begin, begin + static_cast<std::ptrdiff_t>(width()));
    one.visible = {visible[i]};
    one.tails = {tails[i]};
    one.tail_visible = {tail_visible[i]};
    return one;
  }
  std::size_t size() const { return visible.size(); }
  std::size_t width() const { return std::size_t{num_q_heads} * head_dim; }

  std::vector<AttendRow> make(std::vector<float>& to) const {
    to.assign(queries.size(), -123.0f);
    std::vector<AttendRow> rows;
    for (std::size_t i = 0; i < size(); ++i)
      rows.push_back({queries.data() + i * width(), to.data() + i * width(), visible[i], tails[i], tail_visible[i]});
    return rows;
  }
};

std::vector<float> run(const std::vector<const core::KvPool*>& chain, std::uint32_t layer, std::uint32_t num_kv_heads,
                       const Rows& rows, core::Workers& workers, core::AttendScratch& scratch) {
  std::vector<float> out;
  const auto attend_rows = rows.make(out);
  const auto status =
      core::attend(chain, layer, rows.num_q_heads, num_kv_heads, rows.head_dim, attend_rows, workers, scratch);
  REQUIRE(status.has_value());
  return out;
}

// Tail positions as kept ones; `tail_kv` [kv_head] -> all positions.
using TailKept = std::vector<std::vector<Kept>>;

void check(const std::vector<float>& out, const Rows& rows, const std::vector<const MemoryPool*>& pools,
           std::uint32_t layer, std::uint32_t num_kv_heads, const std::vector<TailKept>& tails = {}) {
  const std::uint32_t q_per_kv = rows.num_q_heads / num_kv_heads, dim = rows.head_dim;
  for (std::size_t row = 0; row < rows.size(); ++row)
    for (std::uint32_t q_head = 0; q_head < rows.num_q_heads; ++q_head) {
      std::vector<const Kept*> kept;
      for (std::size_t i = 0; i < pools.size(); ++i)
        for (const Kept& one : pools[i]->kept(layer, q_head / q_per_kv))
          if (one.position >= rows.visible[row][i].begin && one.position < rows.visible[row][i].end)
            kept.push_back(&one);
      if (!tails.empty())
        for (std::uint32_t t = 0; t < rows.tail_visible[row]; ++t) kept.push_back(&tails[row][q_head / q_per_kv][t]);
      const std::size_t at = row * rows.width() + std::size_t{q_head} * dim;
      const std::span<const float> query(rows.queries.data() + at, dim), got(out.data() + at, dim);
      if (kept.empty()) {
        for (const float value : got) REQUIRE(value == 0.0f);
        continue;
      }
      const tests::Reference reference = tests::attend_plainly(query, kept);
      INFO("row " << row << " q_head " << q_head << " sees " << kept.size());
      REQUIRE(tests::distance(got, reference.out) <= reference.tolerance);
    }
}

MemoryPool one_run(Random& random, std::uint32_t head_dim, std::uint32_t num_tokens, core::CodecPair codec,
                   std::uint32_t num_kv_heads = 2, std::uint32_t num_layers = 1) {
  return MemoryPool({num_layers, num_kv_heads, head_dim, num_tokens}, 0, {{{{4, num_tokens}}, codec}}, random);
}

}  // namespace

TEST_CASE("attend: head_dim and codec", "[attend]") {
  std::string names;
  tests::for_each_table([&](const char* table) {
    names += std::string(" ") + table;
    Random random(1);
    core::Workers workers(1);
    core::AttendScratch scratch;
    for (const std::uint32_t head_dim : {64u, 80u, 96u, 128u, 256u, 8u, 40u})
      for (const char* name : {"f16", "k8v3", "k5v4"}) {
        INFO(table << " " << name << " head_dim " << head_dim);
        const MemoryPool pool = one_run(random, head_dim, 163, *core::parse_codec_name(name));
        Rows rows(6, head_dim);
        rows.add(random, {{0, 163}});
        rows.add(random, {{0, 100}});
        check(run({&pool.pool()}, 0, 2, rows, workers, scratch), rows, {&pool}, 0, 2);
      }
  });
  std::cout << "attend ran with" << names << std::endl;
}

TEST_CASE("attend: every pair of codecs", "[attend]") {
  tests::for_each_table([](const char* table) {
    Random random(2);
    core::Workers workers(1);
    core::AttendScratch scratch;
    for (const unsigned key : {1u, 2u, 3u, 4u, 5u, 6u, 7u, 8u, 16u})
      for (const unsigned value : {1u, 2u, 3u, 4u, 5u, 6u, 7u, 8u, 16u}) {
        INFO(table << " key codec " << key << " value codec " << value);
        const core::CodecPair codec{static_cast<format::CodecId>(key), static_cast<format::CodecId>(value)};
        const MemoryPool pool = one_run(random, 64, 101, codec, 1);
        Rows rows(3, 64);
        rows.add(random, {{0, 101}});
        check(run({&pool.pool()}, 0, 1, rows, workers, scratch), rows, {&pool}, 0, 1);
      }
  });
}

TEST_CASE("attend: query heads to a key head", "[attend]") {
  tests::for_each_table([](const char* table) {
    Random random(3);
    core::Workers workers(2);
    core::AttendScratch scratch;
    const MemoryPool pool = one_run(random, 64, 300, {5, 4}, 3, 2);
    for (const std::uint32_t q_per_kv : {1u, 3u, 4u, 8u, 71u}) {  // 71: more than a kernel takes at once
      INFO(table << " q_per_kv " << q_per_kv);
      Rows rows(3 * q_per_kv, 64);
      rows.add(random, {{0, 300}});
      check(run({&pool.pool()}, 1, 3, rows, workers, scratch), rows, {&pool}, 1, 3);
    }
  });
}

TEST_CASE("attend: several partials, runs, codecs and pools", "[attend]") {
  tests::for_each_table([](const char* table) {
    INFO(table);
    Random random(4);
    core::Workers workers(2);
    core::AttendScratch scratch;
    // Every third position apart, a hole, and a long run of several partials.
    tests::RunSpec scattered{{}, {3, 2}};
    for (std::uint32_t p = 5; p < 200; p += 3) scattered.positions.push_back({p, p + 1});
    const MemoryPool base({1, 2, 64, 1700}, 0,
                          {scattered, {{{210, 1500}}, {5, 4}}, {{{1501, 1502}}, {8, 3}}, {{{1510, 1700}}, {16, 16}}},
                          random);
    const MemoryPool child({1, 2, 64, 700}, 1700, {{{{1700, 2400}}, {4, 16}}}, random);
    Rows rows(2, 64);
    rows.add(random, {{0, 1700}, {1700, 2400}});
    rows.add(random, {{7, 1490}, {1800, 1801}});
    rows.add(random, {{3, 4}, {0, 0}});            // one sink
    rows.add(random, {{200, 210}, {2400, 5000}});  // nothing
    rows.add(random, {{0, 4}, {0, 1700}});         // sinks only
    rows.add(random, {{1501, 1503}, {0, 0}});
    rows.add(random, {{30, 20}, {2399, 2400}});  // an empty range turned round
    check(run({&base.pool(), &child.pool()}, 0, 2, rows, workers, scratch), rows, {&base, &child}, 0, 2);
  });
}

TEST_CASE("attend: a child without means uses its parent's", "[attend]") {
  Random random(5);
  core::Workers workers(1);
  core::AttendScratch scratch;
  const MemoryPool base = one_run(random, 64, 90, {4, 4}, 1);
  const MemoryPool child({1, 1, 64, 70}, 90, {{{{90, 160}}, {4, 4}}}, random);
  // Scores of the child's keys all shift by query times the mean: attention over the child alone is the same without
  // means at all, and with those of the parent; over both pools it is not.
  format::Layout layout;
  layout.position_sets = {{{{90, 160}}}};
  layout.runs = {{{0, 4, 4, child.pool().runs(0, 0)[0].exponents}}};
  const core::KvPool without({child.pool().shape(), 90, 0, &layout, child.pool().runs(0, 0)[0].pages, {}, {}});
  Rows alone(3, 64), both(3, 64);
  alone.add(random, {{0, 0}, {90, 160}});
  both.add(random, {{0, 90}, {90, 160}});
  const auto same = run({&base.pool(), &without}, 0, 1, alone, workers, scratch);
  check(same, alone, {&base, &child}, 0, 1);
  std::vector<Kept> shifted = child.kept(0, 0);
  const auto half = [](std::span<const std::byte> bytes, std::size_t i) {
    std::uint16_t bits;
    std::memcpy(&bits, bytes.data() + 2 * i, 2);
    return core::float16_to_float(bits);
  };
  for (Kept& kept : shifted)
    for (std::size_t d = 0; d < 64; ++d)
      kept.key[d] += half(base.pool().mean(0, 0), d) - half(child.pool().mean(0, 0), d);
  const auto got = run({&base.pool(), &without}, 0, 1, both, workers, scratch);
  for (std::uint32_t q_head = 0; q_head < 3; ++q_head) {
    std::vector<const Kept*> kept;
    for (const Kept& one : base.kept(0, 0)) kept.push_back(&one);
    for (const Kept& one : shifted) kept.push_back(&one);
    const auto reference = tests::attend_plainly({both.queries.data() + q_head * 64, 64}, kept);
    CHECK(tests::distance({got.data() + q_head * 64, 64}, reference.out) <= reference.tolerance);
  }
}

TEST_CASE("attend: visible ranges", "[attend]") {
  tests::for_each_table([](const char* table) {
    INFO(table);
    Random random(6);
    core::Workers workers(1);
    core::AttendScratch scratch;
    const MemoryPool pool = one_run(random, 40, 1100, {5, 4}, 1);
    Rows rows(2, 40);
    for (const std::uint32_t begin : {0u, 3u, 4u, 5u, 19u, 20u, 21u, 68u, 515u, 516u, 517u, 1099u})
      for (const std::uint32_t length : {0u, 1u, 2u, 15u, 16u, 17u, 64u, 600u, 5000u})
        rows.add(random, {{begin, begin + length}});
    check(run({&pool.pool()}, 0, 1, rows, workers, scratch), rows, {&pool}, 0, 1);
  });
}

TEST_CASE("attend: tails", "[attend]") {
  tests::for_each_table([](const char* table) {
    Random random(7);
    core::Workers workers(2);
    core::AttendScratch scratch;
    const MemoryPool pool = one_run(random, 64, 77, {5, 4}, 2, 2);
    for (const std::uint32_t length : {0u, 1u, 63u, 64u, 65u, 513u, 1100u}) {
      INFO(table << " tail of " << length);
      core::Tail tail(2, 2, 64, 2048), other(2, 2, 64, 2048);
      TailKept kept[2] = {TailKept(2), TailKept(2)};
      for (int which = 0; which < 2; ++which) {
        const auto keys = random.normals(length * 2 * 64), values = random.normals(length * 2 * 64);
        if (length > 0) (which == 0 ? tail : other).append(1, keys, values, length);
        const auto rounded = [](float x) { return core::float16_to_float(core::float_to_float16(x)); };
        for (std::uint32_t t = 0; t < length; ++t)
          for (std::uint32_t head = 0; head < 2; ++head) {
            Kept one{t, 1u << 30, false, {}, {}};
            for (std::size_t d = 0; d < 64; ++d) {
              one.key.push_back(rounded(keys[(t * 2 + head) * 64 + d]));
              one.value.push_back(rounded(values[(t * 2 + head) * 64 + d]));
            }
            kept[which][head].push_back(one);
          }
      }
      Rows rows(6, 64);
      rows.add(random, {{0, 77}}, &tail, length);
      rows.add(random, {{0, 77}}, &tail, length / 2);
      rows.add(random, {{0, 0}}, &other, length);
      rows.add(random, {{0, 77}}, nullptr, 0);
      rows.add(random, {{0, 10}}, &tail, std::min(length, 1u));
      check(run({&pool.pool()}, 1, 2, rows, workers, scratch), rows, {&pool}, 1, 2,
            {kept[0], kept[0], kept[1], kept[0], kept[0]});
      // Without a pool.
      Rows bare(6, 64);
      bare.add(random, {}, &tail, length);
      check(run({}, 1, 2, bare, workers, scratch), bare, {}, 1, 2, {kept[0]});
    }
  });
}

TEST_CASE("attend: a row does not depend on the others, on threads, or on the table", "[attend]") {
  Random random(8);
  const MemoryPool pool({1, 2, 64, 1500}, 0,
                        {{{{4, 900}}, {5, 4}}, {{{900, 1300}}, {8, 3}}, {{{1300, 1500}}, {16, 16}}}, random);
  core::Tail tails[3] = {{1, 2, 64, 700}, {1, 2, 64, 700}, {1, 2, 64, 700}};
  for (core::Tail& tail : tails) tail.append(0, random.normals(600 * 128), random.normals(600 * 128), 600);
  Rows rows(6, 64);
  for (int i = 0; i < 64; ++i) {
    const std::uint32_t begin = random.below(1000), end = begin + random.below(1600);
    const PositionRange range = i % 2 == 0 ? PositionRange{0, 1500} : PositionRange{begin, end};
    rows.add(random, {range}, i % 5 == 0 ? nullptr : &tails[i / 8 % 3], random.below(600));
  }
  std::vector<float> expected;
  tests::for_each_table([&](const char* table) {
    for (const std::size_t num_threads : {1u, 4u}) {
      core::Workers workers(num_threads);
      core::AttendScratch scratch;
      const auto all = run({&pool.pool()}, 0, 2, rows, workers, scratch);
      INFO(table << ", " << num_threads << " threads");
      if (expected.empty()) expected = all;
      CHECK(std::memcmp(all.data(), expected.data(), all.size() * sizeof(float)) == 0);
      for (std::size_t i = 0; i < rows.size(); i += num_threads == 1 ? 1 : 9) {
        const auto alone = run({&pool.pool()}, 0, 2, rows.only(i), workers, scratch);
        REQUIRE(std::memcmp(alone.data(), all.data() + i * rows.width(), alone.size() * sizeof(float)) == 0);
      }
    }
  });
}

// One pool holds a run of every pair of codecs, so that each row meets all of them: a whole tile and a short one each.
TEST_CASE("attend: every pair of codecs and head_dim gives one row the bits it has among 64", "[attend]") {
  constexpr std::uint32_t kRunTokens = 21, kEnd = 4 + 81 * kRunTokens;
  std::vector<tests::RunSpec> runs;
  for (const unsigned key : {1u, 2u, 3u, 4u, 5u, 6u, 7u, 8u, 16u})
    for (const unsigned value : {1u, 2u, 3u, 4u, 5u, 6u, 7u, 8u, 16u}) {
      const auto begin = 4 + static_cast<std::uint32_t>(runs.size()) * kRunTokens;
      runs.push_back(
          {{{begin, begin + kRunTokens}}, {static_cast<format::CodecId>(key), static_cast<format::CodecId>(value)}});
    }
  for (const std::uint32_t head_dim : {64u, 80u, 96u, 128u, 256u}) {
    Random random(head_dim);
    const MemoryPool pool({1, 1, head_dim, kEnd}, 0, runs, random);
    core::Tail tails[2] = {{1, 1, head_dim, 100}, {1, 1, head_dim, 100}};
    for (core::Tail& tail : tails) tail.append(0, random.normals(90 * head_dim), random.normals(90 * head_dim), 90);
    Rows rows(2, head_dim);
    for (std::uint32_t i = 0; i < 64; ++i) {
      const std::uint32_t begin = random.below(kEnd);
      const PositionRange range =
          i % 4 == 0 ? PositionRange{begin, begin + random.below(kEnd)} : PositionRange{0, kEnd};
      rows.add(random, {range}, i % 5 == 0 ? nullptr : &tails[i / 8 % 2], random.below(91));
    }
    std::vector<float> expected;
    tests::for_each_table([&](const char* table) {
      for (const std::size_t num_threads : {1u, 3u}) {
        core::Workers workers(num_threads);
        core::AttendScratch scratch;
        const auto all = run({&pool.pool()}, 0, 1, rows, workers, scratch);
        INFO(table << ", " << num_threads << " threads, head_dim " << head_dim);
        if (expected.empty()) expected = all;
        REQUIRE(std::memcmp(all.data(), expected.data(), all.size() * sizeof(float)) == 0);
        for (const std::size_t i : {1u, 20u, 63u}) {
          const Rows one = rows.only(i);
          const auto alone = run({&pool.pool()}, 0, 1, one, workers, scratch);
          INFO("row " << i);
          REQUIRE(std::memcmp(alone.data(), all.data() + i * rows.width(), alone.size() * sizeof(float)) == 0);
          if (num_threads == 1 && rows.tails[i] == nullptr) check(alone, one, {&pool}, 0, 1);
        }
      }
    });
  }
}

TEST_CASE("attend: more partials than a wave holds", "[attend]") {
  Random random(9);
  const MemoryPool pool = one_run(random, 128, 3000, {5, 4}, 4);
  Rows rows(16, 128);
  for (int i = 0; i < 48; ++i) rows.add(random, {{0, 3000 - static_cast<std::uint32_t>(i)}});
  core::Workers workers(2);
  core::AttendScratch scratch;
  const auto all = run({&pool.pool()}, 0, 4, rows, workers, scratch);  // 4 * 6 partials of 192 vectors: more than 1 MiB
  const Rows last = rows.only(rows.size() - 1);
  const auto alone = run({&pool.pool()}, 0, 4, last, workers, scratch);
  CHECK(std::equal(alone.begin(), alone.end(), all.end() - static_cast<std::ptrdiff_t>(rows.width())));
  check(alone, last, {&pool}, 0, 4);
}

TEST_CASE("attend: partials of half the size", "[attend]") {
  Random random(10);
  const MemoryPool pool = one_run(random, 64, 1500, {5, 4});
  Rows rows(6, 64);
  rows.add(random, {{0, 1500}});
  core::Workers workers(1);
  core::AttendScratch scratch, halved;
  halved.partial_slots = 256;
  const auto out = run({&pool.pool()}, 0, 2, rows, workers, scratch),
             other = run({&pool.pool()}, 0, 2, rows, workers, halved);
  CHECK(out != other);
  check(other, rows, {&pool}, 0, 2);
}

TEST_CASE("attend: odd queries, odd bytes", "[attend]") {
  tests::for_each_table([](const char* table) {
    INFO(table);
    Random random(11);
    MemoryPool pool = one_run(random, 64, 600, {5, 4}, 1);
    core::Workers workers(1);
    core::AttendScratch scratch;
    Rows rows(3, 64);
    for (int i = 0; i < 4; ++i) rows.add(random, {{0, 600}});
    const auto before = run({&pool.pool()}, 0, 1, rows, workers, scratch);
    rows.queries[5] = std::numeric_limits<float>::quiet_NaN();                                    // row 0, q_head 0
    rows.queries[rows.width()] = std::numeric_limits<float>::infinity();                          // row 1, q_head 0
    std::fill_n(rows.queries.begin() + 2 * static_cast<std::ptrdiff_t>(rows.width()), 64, 0.0f);  // row 2, q_head 0
    const auto after = run({&pool.pool()}, 0, 1, rows, workers, scratch);
    for (std::size_t d = 0; d < 64; ++d) {
      CHECK(std::isnan(after[d]));
      CHECK(std::isnan(after[rows.width() + d]));
    }
    for (std::size_t i = 0; i < before.size(); ++i) {
      const std::size_t row = i / rows.width(), q_head = i % rows.width() / 64;
      if (row == 3 || q_head > 0) REQUIRE(before[i] == after[i]);
    }
    check({after.begin() + 2 * static_cast<std::ptrdiff_t>(rows.width()),
           after.begin() + 3 * static_cast<std::ptrdiff_t>(rows.width())},
          rows.only(2), {&pool}, 0, 1);
    // Damaged pages: any answer, no crash.
    for (std::byte& byte : pool.pages()) byte = static_cast<std::byte>(random.below(256));
    static_cast<void>(run({&pool.pool()}, 0, 1, rows, workers, scratch));
    std::fill(pool.pages().begin(), pool.pages().end(), std::byte{0xff});
    static_cast<void>(run({&pool.pool()}, 0, 1, rows, workers, scratch));
  });
}

TEST_CASE("attend: no rows", "[attend]") {
  core::Workers workers(1);
  core::AttendScratch scratch;
  CHECK(core::attend({}, 0, 6, 2, 64, {}, workers, scratch).has_value());
}

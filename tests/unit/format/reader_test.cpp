#include "format/reader.h"

#include <atomic>
#include <thread>

#include "format/file.h"
#include "format/page_layout.h"
#include "tests/support/catch.h"
#include "tests/support/reseal.h"
#include "tests/unit/format/sample_pool.h"

using namespace polykv;
using namespace polykv::tests;
using format::ErrorCode;
using format::PoolReader;
using format::SectionKind;

namespace {

std::vector<std::byte> joined(const std::vector<std::vector<std::byte>>& layers) {
  std::vector<std::byte> all;
  for (const auto& layer : layers) all.insert(all.end(), layer.begin(), layer.end());
  return all;
}

bool same_bytes(std::span<const std::byte> a, std::span<const std::byte> b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end());
}

// `exponents` are those that came with the layers, head by head.
void check_same_layout(const format::Layout& found, const format::Layout& expected,
                       const std::vector<std::vector<format::ScaleExponents>>& exponents) {
  std::vector<format::ScaleExponents> found_exponents, expected_exponents;
  for (const auto& layer : exponents) expected_exponents.insert(expected_exponents.end(), layer.begin(), layer.end());
  REQUIRE(found.position_sets == expected.position_sets);
  REQUIRE(found.runs.size() == expected.runs.size());
  for (std::size_t head = 0; head < found.runs.size(); ++head) {
    REQUIRE(found.runs[head].size() == expected.runs[head].size());
    for (std::size_t i = 0; i < found.runs[head].size(); ++i) {
      const format::Run &a = found.runs[head][i], &b = expected.runs[head][i];
      REQUIRE(a.position_set == b.position_set);
      REQUIRE(a.key_codec == b.key_codec);
      REQUIRE(a.value_codec == b.value_codec);
      REQUIRE(a.pages_offset == b.pages_offset);
      found_exponents.push_back(a.exponents);
    }
  }
  CHECK(found_exponents == expected_exponents);
}

void check_round_trip(const SamplePool& sample) {
  const std::vector<std::byte> bytes = pool_bytes(sample);
  auto reader = PoolReader::open(bytes);
  REQUIRE(reader.has_value());
  CHECK(code_of(reader->verify(true, {})) == 0);
  const format::PoolSpec& spec = sample.spec;
  CHECK(reader->shape() == spec.shape);
  CHECK(reader->first_position() == (spec.parent ? spec.parent->end : 0));
  CHECK(reader->num_sinks() == (spec.parent ? 0 : std::min(4u, spec.shape.num_tokens)));
  CHECK(reader->superblock().has_parent() == spec.parent.has_value());
  const format::ParentLink parent = spec.parent.value_or(format::ParentLink());
  CHECK(reader->superblock().parent_tokens_fingerprint == parent.tokens_fingerprint);
  CHECK(reader->superblock().parent_digest == parent.digest);
  CHECK(reader->superblock_digest() == format::sha256(std::span(bytes).first(4096)));
  CHECK(reader->identity().fields() == spec.identity.fields());
  CHECK(reader->tokens().ids == spec.tokens.ids);
  CHECK(reader->tokens().text_begin == spec.tokens.text_begin);
  CHECK(reader->tokens().text_end == spec.tokens.text_end);
  CHECK(reader->tokens().text.empty());
  const auto text = reader->source_text();
  REQUIRE(text.has_value());
  CHECK(*text == spec.tokens.text);
  CHECK(reader->fidelity() == sample.fidelity);
  CHECK(reader->superblock().created == spec.created);
  check_same_layout(reader->layout(), spec.layout, sample.exponents);
  CHECK(same_bytes(reader->pages(), joined(sample.pages)));
  CHECK(same_bytes(reader->sinks(), joined(sample.sinks)));
  CHECK(same_bytes(reader->means(), joined(sample.means)));
  CHECK(code_of(reader->check(reader->pages())) == 0);
  CHECK(code_of(reader->check(reader->sinks())) == 0);
  CHECK(code_of(reader->check(reader->means())) == 0);
  // What the parts say is all there is.
  CHECK(put_together(take_apart(bytes)) == bytes);
}

}  // namespace

TEST_CASE("random pools read back as they were written") {
  std::mt19937_64 random(20240601);
  int with_bitmap = 0, with_ranges = 0, without_pages = 0, few_tokens = 0, without_means = 0, with_parent = 0,
      means_of_parent = 0;
  for (int i = 0; i < 150; ++i) {
    const SamplePool sample = random_sample(random);
    INFO("pool " << i);
    check_round_trip(sample);
    for (const format::PositionSet& set : sample.spec.layout.position_sets) {
      const std::size_t bits = set.ranges.back().end - set.ranges.front().begin;
      ++((bits + 31) / 32 * 4 < set.ranges.size() * 8 ? with_bitmap : with_ranges);
    }
    without_pages += sample.spec.layout.position_sets.empty();
    few_tokens += sample.spec.shape.num_tokens < 4;
    without_means += !sample.spec.has_means;
    with_parent += sample.spec.parent.has_value();
    means_of_parent += sample.spec.parent && sample.spec.parent->chain_has_means;
  }
  // The generator reaches what it is meant to reach.
  CHECK(with_bitmap > 20);
  CHECK(with_ranges > 20);
  CHECK(without_pages > 5);
  CHECK(few_tokens > 5);
  CHECK(without_means > 5);
  CHECK(with_parent > 20);
  CHECK(means_of_parent > 5);
}

TEST_CASE("pools of one to five tokens read back") {
  for (std::uint32_t num_tokens = 1; num_tokens <= 5; ++num_tokens) {
    std::mt19937_64 random(num_tokens);
    SamplePool sample = tiny_sample();
    sample.spec.shape.num_tokens = num_tokens;
    sample.spec.tokens.ids.resize(num_tokens);
    sample.spec.tokens.text_begin.resize(num_tokens);
    sample.spec.tokens.text_end.resize(num_tokens);
    sample.spec.layout = format::Layout::uniform(sample.spec.shape, 0, 5, 4);
    fill_values(sample, random);
    INFO(num_tokens << " tokens");
    CHECK(sample.spec.layout.position_sets.empty() == (num_tokens <= 4));
    check_round_trip(sample);
  }
}

TEST_CASE("sections of several chunks read back, each chunk checked once on first touch") {
  std::mt19937_64 random(7);
  SamplePool sample = tiny_sample();
  sample.spec.shape = {3, 2, 64, 21};
  sample.spec.shape.num_tokens = 2000;
  for (std::vector<std::uint32_t>* column :
       {&sample.spec.tokens.ids, &sample.spec.tokens.text_begin, &sample.spec.tokens.text_end}) {
    column->resize(2000, column->back());
  }
  sample.spec.layout = format::Layout::uniform(sample.spec.shape, 0, 16, 16);
  fill_values(sample, random);
  check_round_trip(sample);

  std::vector<std::byte> bytes = pool_bytes(sample);
  auto reader = PoolReader::open(bytes);
  REQUIRE(reader.has_value());
  const std::span<const std::byte> pages = reader->pages();
  REQUIRE(pages.size() > 4 * format::kChunkBytes);
  const std::uint64_t offset = static_cast<std::uint64_t>(pages.data() - bytes.data());
  const std::size_t bad = 2 * format::kChunkBytes + 5;
  bytes[offset + bad] ^= std::byte{1};
  CHECK(code_of(reader->check(pages.first(2 * format::kChunkBytes))) == 0);
  CHECK(code_of(reader->check(pages.subspan(3 * format::kChunkBytes))) == 0);
  const format::Status status = reader->check(pages.subspan(2 * format::kChunkBytes - 1, 2));
  REQUIRE(code_of(status) == static_cast<std::uint32_t>(ErrorCode::kBadChecksum));
  CHECK(status.error().offset == offset + 2 * format::kChunkBytes);
  CHECK_THAT(status.error().message, Catch::Matchers::StartsWith("section pages, chunk 2 at 0x"));
  CHECK_THAT(status.error().message, Catch::Matchers::Contains(": checksum is "));
  // Once per process: what was found good is not hashed again, what was found bad is.
  bytes[offset] ^= std::byte{1};
  CHECK(code_of(reader->check(pages.first(1))) == 0);
  bytes[offset + bad] ^= std::byte{1};
  CHECK(code_of(reader->check(pages)) == 0);
  // verify() takes nobody's word for it.
  CHECK(code_of(reader->verify(false, {})) == static_cast<std::uint32_t>(ErrorCode::kBadChecksum));
}

TEST_CASE("a range to check must lie in one section") {
  const std::vector<std::byte> bytes = pool_bytes(tiny_sample());
  auto reader = PoolReader::open(bytes);
  REQUIRE(reader.has_value());
  const auto failed = static_cast<std::uint32_t>(ErrorCode::kFailed);
  CHECK(code_of(reader->check(std::span(bytes).first(10))) == failed);
  const std::span<const std::byte> sinks = reader->sinks();
  CHECK(code_of(reader->check({sinks.data(), sinks.size() + 1000})) == failed);
  CHECK(code_of(reader->check({})) == 0);
}

TEST_CASE("several threads may check and read one pool") {
  const std::vector<std::byte> bytes = pool_bytes(tiny_sample());
  auto reader = PoolReader::open(bytes);
  REQUIRE(reader.has_value());
  std::atomic<int> bad = 0;
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int j = 0; j < 50; ++j) {
        if (!reader->check(reader->pages()) || !reader->check(reader->sinks()) || !reader->source_text()) ++bad;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(bad == 0);
}

TEST_CASE("verify reports bytes done up to the file's size") {
  const std::vector<std::byte> bytes = pool_bytes(tiny_sample());
  auto reader = PoolReader::open(bytes);
  REQUIRE(reader.has_value());
  std::uint64_t last = 0, calls = 0;
  CHECK(code_of(reader->verify(false, [&](std::uint64_t done, std::uint64_t all) {
          CHECK(done >= last);
          CHECK(all == bytes.size());
          last = done;
          ++calls;
        })) == 0);
  CHECK(last == bytes.size());
  CHECK(calls >= reader->sections().size() - 1);
}

TEST_CASE("a pool our writer would not write, but the specification allows, is read") {
  // An ancillary section of an unknown kind, unknown bits in the features that may be ignored, and a position set as
  // ranges where a bitmap is smaller.
  std::vector<std::byte> bytes = pool_bytes(tiny_sample());
  PoolParts parts = take_apart(bytes);
  parts.add({static_cast<SectionKind>(40), 0, std::vector<std::byte>(1000, std::byte{9})});
  parts.add({static_cast<SectionKind>(41), format::kSectionSafeToCopy, std::vector<std::byte>(1, std::byte{9})});
  poke64(parts.superblock, 32, ~std::uint64_t{0});
  poke64(parts.superblock, 40, ~std::uint64_t{0});
  std::vector<std::byte>& layout = parts.at(SectionKind::kLayout).bytes;
  REQUIRE(layout.size() == 8 + 4 + 8 + 16 + 4);  // one run of 17 positions, as a bitmap
  layout.resize(layout.size() + 4);
  poke32(layout, 20, 0);
  poke32(layout, 32, 1);
  poke32(layout, 36, 4);
  poke32(layout, 40, 21);
  bytes = put_together(parts);
  REQUIRE(code_of(open_and_verify(bytes)) == 0);
  const auto reader = PoolReader::open(bytes);
  CHECK(reader->layout().position_sets[0].ranges == std::vector<format::PositionRange>{{4, 21}});
  CHECK(reader->sections().size() == 12);
}

TEST_CASE("the open text is what follows the last token") {
  format::Tokens tokens;
  tokens.text = "abcdef";
  CHECK(tokens.open_text() == "abcdef");
  tokens.text_end = {2, 4};
  CHECK(tokens.open_text() == "ef");
  tokens.text_end = {6};
  CHECK(tokens.open_text().empty());
}

// Our reader on every fixture: good pools give the values that the specification's reference reader gives, broken ones
// the error that the specification names, at its offset.
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <fstream>
#include <map>
#include <sstream>

#include "core/codec.h"
#include "core/float16.h"
#include "core/pool.h"
#include "format/bytes.h"
#include "format/file.h"
#include "format/older_pool.h"
#include "format/reader.h"
#include "tests/support/catch.h"
#include "tests/tools/broken_pools.h"
#include "tests/tools/good_pools.h"

using namespace polykv;

namespace {

std::filesystem::path fixtures() { return std::filesystem::path(POLYKV_SOURCE_DIR) / "fixtures"; }

std::vector<std::vector<std::string>> read_table(const std::filesystem::path& path, char separator) {
  std::ifstream in(path);
  std::vector<std::vector<std::string>> rows;
  for (std::string line; std::getline(in, line);) {
    std::istringstream cells(line);
    std::vector<std::string>& row = rows.emplace_back();
    for (std::string cell; std::getline(cells, cell, separator);) row.push_back(cell);
  }
  return rows;
}

std::vector<std::byte> read_bytes(const std::filesystem::path& path) {
  auto bytes = format::read_file(path);
  REQUIRE(bytes);
  return std::move(*bytes);
}

std::vector<std::filesystem::path> pools_in(const std::filesystem::path& folder) {
  std::vector<std::filesystem::path> paths;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    if (entry.path().extension() == ".pkv") paths.push_back(entry.path());
  }
  std::sort(paths.begin(), paths.end());
  return paths;
}

// What `polykv verify --digest` does.
format::Status verify(std::span<const std::byte> file) {
  POLYKV_TRY(const format::PoolReader reader, format::PoolReader::open(file));
  POLYKV_CHECK_STATUS(reader.verify(true, {}));
  const auto pages_offset =
      reader.pages().empty() ? 0 : static_cast<std::uint64_t>(reader.pages().data() - file.data());
  const core::KvPool pool(reader);
  for (std::uint32_t layer = 0; layer < reader.shape().num_layers; ++layer) {
    for (std::uint32_t kv_head = 0; kv_head < reader.shape().num_kv_heads; ++kv_head) {
      for (const core::KvPool::Run& run : pool.runs(layer, kv_head)) {
        const auto status = core::check_run_padding(run.codec, run.pages, run.num_positions, reader.shape().head_dim);
        if (status) continue;
        const auto run_offset = static_cast<std::uint64_t>(run.pages.data() - reader.pages().data());
        return format::Error(status.error().code, pages_offset + run_offset + status.error().offset,
                             status.error().message);
      }
    }
  }
  return {};
}

using Vectors = std::map<std::uint32_t, std::vector<float>>;  // position to [head_dim]

std::vector<std::uint16_t> float16s(std::span<const std::byte> bytes) {
  std::vector<std::uint16_t> out;
  for (std::size_t i = 0; i < bytes.size(); i += 2) out.push_back(format::load_le16(bytes.data() + i));
  return out;
}

void add_sinks(std::span<const std::byte> sinks, std::size_t head_dim, Vectors& out) {
  const std::vector<std::uint16_t> values = float16s(sinks);
  for (std::size_t i = 0; i < values.size(); ++i) {
    out[static_cast<std::uint32_t>(i / head_dim)].push_back(core::float16_to_float(values[i]));
  }
}

// Keys and values of a head by position: sinks and all runs.
void dequantize_head(const core::KvPool& pool, std::uint32_t layer, std::uint32_t kv_head, Vectors& keys,
                     Vectors& values) {
  const std::size_t head_dim = pool.shape().head_dim;
  add_sinks(pool.sink_keys(layer, kv_head), head_dim, keys);
  add_sinks(pool.sink_values(layer, kv_head), head_dim, values);
  const core::KvPool::Transform stored = pool.transform(layer, kv_head);
  const auto mean = float16s(stored.mean), key_balance = float16s(stored.key_balance),
             value_balance = float16s(stored.value_balance);
  for (const core::KvPool::Run& run : pool.runs(layer, kv_head)) {
    std::vector<float> run_keys(run.num_positions * head_dim), run_values(run_keys.size());
    core::dequantize_run(run.codec, run.exponents, run.pages, run.num_positions, head_dim,
                         {mean, key_balance, value_balance}, run_keys, run_values);
    std::ptrdiff_t slot = 0;
    const auto size = static_cast<std::ptrdiff_t>(head_dim);
    for (const format::PositionRange& range : run.positions) {
      for (std::uint32_t position = range.begin; position < range.end; ++position, slot += size) {
        keys[position].assign(run_keys.begin() + slot, run_keys.begin() + slot + size);
        values[position].assign(run_values.begin() + slot, run_values.begin() + slot + size);
      }
    }
  }
}

// SHA-256 of the values as little-endian float32, in position order. The sign of a zero depends on the order of
// operations, which is the reader's affair: adding 0 drops it.
std::string digest_of(const Vectors& vectors) {
  std::vector<std::byte> bytes;
  for (const auto& [position, vector] : vectors) {
    for (const float value : vector) format::append_le32(bytes, std::bit_cast<std::uint32_t>(value + 0.0f));
  }
  return format::to_hex(format::sha256(bytes));
}

}  // namespace

TEST_CASE("fixtures are the bytes that were frozen") {
  for (const char* folder : {"pools/v0", "broken"}) {
    const std::vector<std::filesystem::path> paths = pools_in(fixtures() / folder);
    const auto sums = read_table(fixtures() / folder / "SHA256SUMS", ' ');
    REQUIRE(sums.size() == paths.size());
    REQUIRE(paths.size() >= 10);
    for (std::size_t i = 0; i < paths.size(); ++i) {
      INFO(paths[i].string());
      CHECK(sums[i].back() == paths[i].filename().string());
      CHECK(sums[i].front() == format::to_hex(format::sha256(read_bytes(paths[i]))));
    }
  }
}

TEST_CASE("good fixtures give the values of the specification's reader, bit for bit") {
  for (const std::filesystem::path& path : pools_in(fixtures() / "pools/v0")) {
    INFO(path.string());
    const std::vector<std::byte> file = read_bytes(path);
    const format::Status status = verify(file);
    if (!status) FAIL(status.error().message);
    const auto reader = format::PoolReader::open(file);
    REQUIRE(reader.has_value());
    const core::KvPool pool(*reader);
    const auto expected = read_table(std::filesystem::path(path).replace_extension(".tsv"), '\t');
    REQUIRE(expected.size() == std::size_t{reader->shape().num_layers} * reader->shape().num_kv_heads + 1);
    for (std::size_t head = 0; head + 1 < expected.size(); ++head) {
      const auto layer = static_cast<std::uint32_t>(head / reader->shape().num_kv_heads);
      const auto kv_head = static_cast<std::uint32_t>(head % reader->shape().num_kv_heads);
      Vectors keys, values;
      dequantize_head(pool, layer, kv_head, keys, values);
      const std::vector<std::string> found = {std::to_string(layer), std::to_string(kv_head),
                                              std::to_string(keys.size()), digest_of(keys), digest_of(values)};
      CHECK(found == expected[head + 1]);
    }
  }
}

TEST_CASE("broken pools give the error that the specification names, at its offset") {
  std::size_t num_kept = 0;
  for (const tests::BrokenPool& pool : tests::broken_pools()) {
    INFO(pool.name);
    num_kept += pool.kept;
    const format::Status status = verify(pool.bytes);
    if (status) FAIL("it is not refused");
    INFO(status.error().message);
    CHECK(tests::code_name(status.error().code) == tests::code_name(pool.code));
    CHECK(status.error().offset == pool.offset);
  }
  CHECK(num_kept == pools_in(fixtures() / "broken").size());
}

TEST_CASE("broken fixtures are those that the maker makes") {
  std::map<std::string, std::vector<std::byte>> made;
  for (tests::BrokenPool& pool : tests::broken_pools()) {
    if (pool.kept) made[pool.name + ".pkv"] = std::move(pool.bytes);
  }
  for (const std::filesystem::path& path : pools_in(fixtures() / "broken")) {
    INFO(path.string());
    CHECK((made[path.filename().string()] == read_bytes(path)));
  }
}

TEST_CASE("a pool of an earlier version is refused, and its text can be built again") {
  const auto version = GENERATE(as<std::string>(), "v0.1", "v0.2");
  INFO(version);
  const std::vector<std::byte> old = read_bytes(fixtures() / "pools" / version / "k5v4.pkv");
  const std::vector<std::byte> now = read_bytes(fixtures() / "pools/v0/k5v4.pkv");
  const auto refused = format::PoolReader::open(old);
  REQUIRE_FALSE(refused.has_value());
  CHECK(refused.error().code == format::ErrorCode::kUnsupportedVersion);
  CHECK(refused.error().message.find("rebuild with: polykv build POOL -o NEW") != std::string::npos);
  const auto text = format::older_source_text(old);
  REQUIRE(text.has_value());
  CHECK(*text == *format::PoolReader::open(now)->source_text());
}

TEST_CASE("the writer still writes the good fixtures") {
  const std::filesystem::path folder =
      std::filesystem::temp_directory_path() / ("polykv-fixtures-" + std::to_string(getpid()));
  std::filesystem::create_directory(folder);
  for (const std::string& name : tests::good_pool_names()) {
    INFO(name);
    const format::Status status = tests::write_good_pool(name, folder);
    if (!status) FAIL(status.error().message);
    const std::vector<std::byte> made = read_bytes(folder / (name + ".pkv"));
    const std::vector<std::byte> frozen = read_bytes(fixtures() / "pools/v0" / (name + ".pkv"));
    const auto made_reader = format::PoolReader::open(made), frozen_reader = format::PoolReader::open(frozen);
    REQUIRE(made_reader.has_value());
    REQUIRE(frozen_reader.has_value());
    // Another zstd may make another frame of the same text; then offsets move too, but nothing else.
    CHECK(made_reader->superblock().file_id == frozen_reader->superblock().file_id);
    bool same_frame = false;
    for (const format::SectionEntry& section : frozen_reader->sections()) {
      if (!format::is_chunked(section.kind)) continue;
      const format::SectionEntry* other = format::find_section(made_reader->sections(), section.kind);
      REQUIRE(other != nullptr);
      INFO(format::section_name(section.kind));
      const bool same = other->digest == section.digest;
      if (section.kind == format::SectionKind::kSource) same_frame = same;
      if (section.kind != format::SectionKind::kSource) CHECK(same);
    }
    if (same_frame) CHECK((made == frozen));
  }
  std::filesystem::remove_all(folder);
}

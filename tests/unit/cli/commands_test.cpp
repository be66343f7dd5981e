// The commands that read a pool without a model, run in this process on pools made here.
#include "cli/commands/commands.h"

#include <sys/stat.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>

#include "cli/commands/pool_file.h"
#include "cli/commands/pool_memory.h"
#include "tests/support/catch.h"
#include "tests/support/make_pool.h"
#include "tests/support/reseal.h"
#include "tests/unit/cli/capture.h"

namespace polykv::cli {
namespace {

using nlohmann::json;
using tests::Capture;
using tests::PoolRecipe;
using tests::TemporaryFolder;

void make(const std::string& path, const PoolRecipe& recipe = {}) {
  const auto status = tests::make_pool(path, recipe);
  INFO((status ? "" : status.error().message));
  REQUIRE(status.has_value());
}

std::string file_text(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

void write_file(const std::string& path, const std::string& bytes) { std::ofstream(path, std::ios::binary) << bytes; }

struct Outcome {
  int status;
  std::string out, err;
};
Outcome run(std::vector<std::string> words) {
  const auto options = parse_options(words, [](const char*) { return nullptr; });
  REQUIRE(options.has_value());
  Capture capture;
  const int status = capture.report.finish(run_command(*options, capture.report));
  return {status, capture.out(), capture.err()};
}

std::vector<json> lines_of(const std::string& text) {
  std::vector<json> lines;
  std::size_t begin = 0;
  for (std::size_t end; (end = text.find('\n', begin)) != std::string::npos; begin = end + 1) {
    lines.push_back(json::parse(text.substr(begin, end - begin)));
  }
  return lines;
}

// Where the pages of a pool begin.
std::size_t pages_offset(const std::string& path) {
  const json pool = lines_of(run({"inspect", "--json", path}).out).at(0);
  for (const json& section : pool["sections"]) {
    if (section["name"] == "pages") return section["offset"];
  }
  FAIL("no pages");
  return 0;
}

TEST_CASE("inspect --json says what the pool was made with") {
  const TemporaryFolder folder;
  make(folder / "a.pkv", {.created = 86400, .open_text = " tail"});
  const Outcome outcome = run({"inspect", "--json", folder / "a.pkv"});
  CHECK(outcome.status == 0);
  CHECK(outcome.err.empty());
  const json pool = lines_of(outcome.out).at(0);
  CHECK(pool["schema"] == "polykv.inspect/1");
  CHECK(pool["pool_bytes"] == std::filesystem::file_size(folder / "a.pkv"));
  CHECK(pool["created"] == 86400);
  CHECK(pool["tokens"] == 100);
  CHECK(pool["num_sinks"] == 4);
  CHECK(pool["open_text_bytes"] == 5);
  CHECK(pool["shape"] == json({{"num_layers", 2}, {"num_kv_heads", 2}, {"head_dim", 64}, {"num_tokens", 100}}));
  CHECK(pool["identity"]["model.name"] == "random");
  CHECK(pool["fingerprints"]["model"].get<std::string>().size() == 64);
  CHECK(pool["fidelity_measured"] == false);
  // Two heads of two layers, each one run of all positions but the sinks.
  REQUIRE(pool["codecs"].size() == 1);
  CHECK(pool["codecs"][0]["codec"] == "k5v4");
  CHECK(pool["codecs"][0]["runs"] == 4);
  CHECK(pool["codecs"][0]["positions"] == 4 * 96);
  std::uint64_t page_bytes = 0, sum = 8192;
  for (const json& section : pool["sections"]) {
    sum += section["padded_bytes"].get<std::uint64_t>();
    if (section["name"] == "pages") page_bytes = section["bytes"];
  }
  CHECK(pool["codecs"][0]["page_bytes"] == page_bytes);
  CHECK(sum == pool["pool_bytes"]);
}

TEST_CASE("inspect shows a plan as a chart, and in --json run by run") {
  const TemporaryFolder folder;
  make(folder / "a.pkv", {.plan = {{5, 4}, {3, 2}, {16, 16}, {8, 3}}});
  const std::string text = run({"inspect", folder / "a.pkv"}).out;
  CHECK(text.find("  codec         mixed: keys 8.00 bits, values 6.25 bits a code on average, ") != std::string::npos);
  CHECK(text.find("\n    layer 0   k 5 3   v 4 2   ####------------ 3.50\n"
                  "    layer 1   k F 8   v F 3   ###########-----10.75\n") != std::string::npos);
  CHECK(text.find("runs of") == std::string::npos);
  const json pool = lines_of(run({"inspect", "--json", folder / "a.pkv"}).out).at(0);
  REQUIRE(pool["plan"].size() == 4);
  CHECK(pool["plan"][1] == json({{"layer", 0}, {"kv_head", 1}, {"key", "k3"}, {"value", "v2"}, {"positions", 96}}));
  CHECK(pool["plan"][2] == json({{"layer", 1}, {"kv_head", 0}, {"key", "f16"}, {"value", "f16"}, {"positions", 96}}));
  CHECK(pool["codecs"].size() == 4);
  CHECK(run({"verify", folder / "a.pkv"}).status == 0);
}

TEST_CASE("inspect in text prints no document text and nothing that steers a terminal") {
  const TemporaryFolder folder;
  make(folder / "a.pkv", {.open_text = " topsecret", .model_name = "evil\x1b[2J\nname"});
  const Outcome outcome = run({"inspect", folder / "a.pkv"});
  CHECK(outcome.status == 0);
  CHECK(outcome.out.find("topsecret") == std::string::npos);
  CHECK(outcome.out.find('\x1b') == std::string::npos);
  CHECK(outcome.out.find("model.name: evil\\x1b[2J\\x0aname\n") != std::string::npos);
  CHECK(outcome.out.find("created       not recorded\n") != std::string::npos);
}

TEST_CASE("inspect shows any number as the time of creation") {
  const TemporaryFolder folder;
  const auto shown = [&](std::uint64_t created) {
    make(folder / "a.pkv", {.created = created, .force = true});
    CHECK(lines_of(run({"inspect", "--json", folder / "a.pkv"}).out).at(0)["created"] == created);
    const std::string text = run({"inspect", folder / "a.pkv"}).out;
    const std::size_t begin = text.find("created       ") + 14;
    return text.substr(begin, text.find('\n', begin) - begin);
  };
  CHECK(shown(1) == "1970-01-01 00:00:01 UTC");
  CHECK(shown(1700000000) == "2023-11-14 22:13:20 UTC");
  CHECK(shown(253402300799) == "9999-12-31 23:59:59 UTC");
  CHECK(shown(253402300800) == "253402300800 seconds after 1970-01-01");
  CHECK(shown(std::uint64_t{1} << 63) == "9223372036854775808 seconds after 1970-01-01");
  CHECK(shown(~std::uint64_t{0}) == "18446744073709551615 seconds after 1970-01-01");
}

TEST_CASE("several pools: each is reported, the worst status wins") {
  const TemporaryFolder folder;
  make(folder / "good.pkv");
  write_file(folder / "text.pkv", "no pool at all");
  std::string bad = file_text(folder / "good.pkv");
  bad[bad.size() / 2] ^= 1;
  write_file(folder / "bad.pkv", bad);
  chmod((folder / "text.pkv").c_str(), 0600);
  chmod((folder / "bad.pkv").c_str(), 0600);
  const std::vector<std::string> words = {"verify", folder / "text.pkv", folder / "bad.pkv", folder / "gone.pkv",
                                          folder / "good.pkv"};
  const Outcome outcome = run(words);
  CHECK(outcome.status == 5);
  CHECK(outcome.out.starts_with((folder / "good.pkv") + ": ok, "));
  CHECK(std::count(outcome.err.begin(), outcome.err.end(), '\n') == 3);
  CHECK(outcome.err.find("bad.pkv: section ") != std::string::npos);

  std::vector<std::string> with_json = words;
  with_json.push_back("--json");
  const Outcome as_json = run(with_json);
  CHECK(as_json.status == 5);
  const auto lines = lines_of(as_json.out);
  REQUIRE(lines.size() == 4);
  CHECK(lines[0]["error"]["exit_status"] == 4);
  CHECK(lines[1]["ok"] == false);
  CHECK(lines[2]["error"]["code"] == 300);
  CHECK(lines[3]["ok"] == true);
  CHECK(lines[3]["error"].is_null());
}

TEST_CASE("verify --json names section, chunk, offset, expected and found") {
  const TemporaryFolder folder;
  make(folder / "a.pkv", {.shape = {.num_layers = 4, .num_kv_heads = 2, .head_dim = 64, .num_tokens = 2000}});
  const std::size_t offset = pages_offset(folder / "a.pkv");
  REQUIRE(std::filesystem::file_size(folder / "a.pkv") > offset + 3 * 262144);
  std::string text = file_text(folder / "a.pkv");
  text[offset + 262144 + 17] ^= 4;
  write_file(folder / "a.pkv", text);
  const json error = lines_of(run({"verify", "--json", folder / "a.pkv"}).out).at(0)["error"];
  CHECK(error["code"] == 500);
  CHECK(error["section"] == "pages");
  CHECK(error["chunk"] == 1);
  CHECK(error["offset"] == offset + 262144);
  CHECK(error["expected"].get<std::string>().size() == 16);
  CHECK(error["found"].get<std::string>().size() == 16);
  CHECK(error["expected"] != error["found"]);
}

TEST_CASE("verify --json: expected and found are those of the value, whatever the message says besides") {
  const TemporaryFolder folder;
  make(folder / "a.pkv");
  const std::string text = file_text(folder / "a.pkv");
  std::vector<std::byte> pool(text.size());
  std::memcpy(pool.data(), text.data(), text.size());
  const auto error_of = [&](const std::vector<std::byte>& bytes) {
    write_file(folder / "b.pkv", {reinterpret_cast<const char*>(bytes.data()), bytes.size()});
    chmod((folder / "b.pkv").c_str(), 0600);
    return lines_of(run({"verify", "--json", folder / "b.pkv"}).out).at(0)["error"];
  };
  // The checksum of the text is put right for another text: the message ends with an offset.
  tests::PoolParts parts = tests::take_apart(pool);
  parts.at(format::SectionKind::kSource).bytes[8] ^= std::byte{1};
  const json checksum = error_of(tests::put_together(parts, {.fingerprints = false}));
  CHECK(checksum["code"] == 510);
  CHECK(checksum["expected"].get<std::string>().size() == 16);
  CHECK(checksum["found"].get<std::string>().size() == 16);
  // Another version: the message ends with a remedy.
  std::vector<std::byte> other = pool;
  other[14] = std::byte{1};
  CHECK(error_of(other)["found"] == "0.1");
  CHECK(error_of(other)["expected"] == "0.3");
  other = pool;
  other.resize(pool.size() - 7);
  CHECK(error_of(other)["found"] == std::to_string(pool.size() - 7));
  CHECK(error_of(other)["expected"] == std::to_string(pool.size()));
  // No value at all.
  CHECK_FALSE(error_of(std::vector<std::byte>(20, std::byte{'x'})).contains("expected"));
}

TEST_CASE("verify sees a slot that must be zero, under valid checksums") {
  const TemporaryFolder folder;
  // A run of 100 positions: a page of 64, and one whose third tile has 4, so that its other 12 slots must be zero.
  make(folder / "b.pkv", {.shape = {.num_layers = 1, .num_kv_heads = 1, .head_dim = 64, .num_tokens = 104}});
  const std::size_t offset = pages_offset(folder / "b.pkv");
  const std::string text = file_text(folder / "b.pkv");
  std::vector<std::byte> pool(text.size());
  std::memcpy(pool.data(), text.data(), text.size());
  const std::size_t second_page = format::page_layout(5, 4, 64, 64).bytes;
  const std::size_t slot = offset + second_page + 2 * (2 * 16 + 15);  // key scale of tile 2, position 15 of 16
  REQUIRE(pool[slot] == std::byte{0});
  pool[slot] = std::byte{1};
  tests::reseal(pool);
  write_file(folder / "c.pkv", {reinterpret_cast<const char*>(pool.data()), pool.size()});
  chmod((folder / "c.pkv").c_str(), 0600);
  CHECK(run({"verify", folder / "b.pkv"}).status == 0);
  const Outcome outcome = run({"verify", "--json", folder / "c.pkv"});
  CHECK(outcome.status == 5);
  const json error = lines_of(outcome.out).at(0)["error"];
  CHECK(error["code"] == 511);
  CHECK(error["offset"] == slot);
  CHECK(error["section"] == "pages");
}

TEST_CASE("verify --digest") {
  const TemporaryFolder folder;
  make(folder / "a.pkv");
  const Outcome outcome = run({"verify", "--digest", "--json", folder / "a.pkv"});
  CHECK(outcome.status == 0);
  const json line = lines_of(outcome.out).at(0);
  CHECK(line["digests"] == true);
  CHECK(line["chunks"].get<int>() > 5);
  CHECK(run({"verify", "--digest", folder / "a.pkv"}).out.find("SHA-256 too") != std::string::npos);
}

TEST_CASE("stats: every byte has a place, and the arithmetic is the definition's") {
  const TemporaryFolder folder;
  make(folder / "a.pkv", {.shape = {.num_layers = 3, .num_kv_heads = 2, .head_dim = 64, .num_tokens = 1000}});
  const Outcome outcome = run({"stats", "--json", "--agents", "15", folder / "a.pkv"});
  CHECK(outcome.status == 0);
  const json stats = lines_of(outcome.out).at(0);
  std::uint64_t sum = 0, kv = 0;
  for (const json& part : stats["parts"]) {
    sum += part["bytes"].get<std::uint64_t>();
    if (part["name"] == "pages" || part["name"] == "sinks" || part["name"] == "means" || part["name"] == "layout") {
      kv += part["bytes"].get<std::uint64_t>();
    }
  }
  CHECK(stats["schema"] == "polykv.stats/1");
  CHECK(sum == std::filesystem::file_size(folder / "a.pkv"));
  CHECK(stats["pool_bytes"] == sum);
  CHECK(stats["kv_bytes"] == kv);
  CHECK(stats["other_bytes"] == sum - kv);
  const std::uint64_t values = 2ull * 3 * 2 * 64 * 1000;
  CHECK(stats["f16_kv_bytes"] == 2 * values);
  CHECK(stats["bits_per_value"].get<double>() == 8.0 * static_cast<double>(kv) / static_cast<double>(values));
  CHECK(stats["ratio"].get<double>() == 2.0 * static_cast<double>(values) / static_cast<double>(kv));
  CHECK(stats["agents"] == json({{"n", 15}, {"bytes", sum}, {"without_sharing_bytes", 15 * 2 * values}}));
  CHECK(stats["fidelity"].is_null());
  // k5v4: (5 + 4) / 2 bits of codes, two scale bytes for 2 * 64 values (0.125): 4.625, and a little for what else
  // counts.
  CHECK(stats["bits_per_value"].get<double>() > 4.625);
  CHECK(stats["bits_per_value"].get<double>() < 4.975);
  CHECK(run({"stats", folder / "a.pkv"}).out.find("not measured") != std::string::npos);
}

TEST_CASE("stats: fidelity is passed on, and one made to break the reader is refused") {
  const TemporaryFolder folder;
  make(folder / "a.pkv", {.fidelity = R"({"tail":{"positions":256,"kld_mean":0.0009}})"});
  CHECK(lines_of(run({"stats", "--json", folder / "a.pkv"}).out).at(0)["fidelity"]["tail"]["positions"] == 256);
  CHECK(run({"stats", folder / "a.pkv"}).out.find("tail       256          0.00090") != std::string::npos);
  make(folder / "deep.pkv", {.fidelity = std::string(100000, '[') + std::string(100000, ']')});
  CHECK(run({"stats", folder / "deep.pkv"}).status == 5);
  make(folder / "object.pkv", {.fidelity = [] {
         std::string text;
         for (int i = 0; i < 20000; ++i) text += "{\"a\":";
         return text + "1" + std::string(20000, '}');
       }()});
  CHECK(run({"stats", folder / "object.pkv"}).status == 5);
}

struct Safetensors {
  json header;
  std::string data;
  explicit Safetensors(const std::string& file) {
    std::uint64_t length = 0;
    std::memcpy(&length, file.data(), 8);
    REQUIRE(length + 8 <= file.size());
    CHECK(length % 8 == 0);
    header = json::parse(file.substr(8, length));
    data = file.substr(8 + length);
  }
  // Value `i` of a tensor, as a float.
  float at(const std::string& name, std::size_t i) const {
    const std::size_t begin = header[name]["data_offsets"][0];
    if (header[name]["dtype"] == "F16") {
      std::uint16_t bits = 0;
      std::memcpy(&bits, data.data() + begin + 2 * i, 2);
      return core::float16_to_float(bits);
    }
    float value = 0;
    std::memcpy(&value, data.data() + begin + 4 * i, 4);
    return value;
  }
};

TEST_CASE("export: an uncompressed pool comes out bit for bit") {
  const TemporaryFolder folder;
  const PoolRecipe recipe{.shape = {.num_layers = 2, .num_kv_heads = 3, .head_dim = 24, .num_tokens = 70},
                          .codec = {format::kCodecF16, format::kCodecF16}};
  make(folder / "a.pkv", recipe);
  const Outcome outcome = run({"export", folder / "a.pkv", "-o", folder / "a.safetensors"});
  INFO(outcome.err);
  REQUIRE(outcome.status == 0);
  struct stat information {};
  REQUIRE(stat((folder / "a.safetensors").c_str(), &information) == 0);
  CHECK((information.st_mode & 07777) == 0600);
  const Safetensors file(file_text(folder / "a.safetensors"));
  CHECK(file.header["__metadata__"]["format"] == "polykv.export/1");
  CHECK(file.header["__metadata__"]["number_type"] == "F16");
  CHECK(file.header["__metadata__"]["num_tokens"] == "70");
  CHECK(file.header["tokens"]["dtype"] == "I64");
  std::size_t end = 0;
  for (const auto& [name, tensor] : file.header.items()) {
    if (name != "__metadata__") end = std::max(end, tensor["data_offsets"][1].get<std::size_t>());
  }
  CHECK(end == file.data.size());
  const format::Tokens tokens = tests::make_tokens(recipe);
  for (std::size_t i = 0; i < 70; ++i) {
    std::int64_t id = 0;
    std::memcpy(&id, file.data.data() + file.header["tokens"]["data_offsets"][0].get<std::size_t>() + 8 * i, 8);
    CHECK(id == tokens.ids[i]);
  }
  for (std::uint32_t layer = 0; layer < 2; ++layer) {
    const std::string name = "layers." + std::to_string(layer);
    CHECK(file.header[name + ".keys"]["shape"] == json({1, 3, 70, 24}));
    for (std::uint32_t kv_head = 0; kv_head < 3; ++kv_head) {
      const tests::TestHead head = tests::make_head(recipe, layer, kv_head);
      std::size_t wrong = 0;
      for (std::size_t i = 0; i < 70 * 24; ++i) {
        wrong += file.at(name + ".keys", kv_head * 70 * 24 + i) != core::float16_to_float(head.keys[i]);
        wrong += file.at(name + ".values", kv_head * 70 * 24 + i) != core::float16_to_float(head.values[i]);
      }
      CHECK(wrong == 0);
    }
  }
}

TEST_CASE("export: a compressed pool comes out near what went in, its sinks exactly") {
  const TemporaryFolder folder;
  const PoolRecipe recipe{.shape = {.num_layers = 1, .num_kv_heads = 2, .head_dim = 64, .num_tokens = 200},
                          .codec = {6, 4}};
  make(folder / "a.pkv", recipe);
  REQUIRE(run({"export", folder / "a.pkv", "-o", folder / "a.safetensors"}).status == 0);
  const Safetensors file(file_text(folder / "a.safetensors"));
  double key_error = 0, value_error = 0;
  for (std::uint32_t kv_head = 0; kv_head < 2; ++kv_head) {
    const tests::TestHead head = tests::make_head(recipe, 0, kv_head);
    for (std::size_t i = 0; i < 200 * 64; ++i) {
      const double key = file.at("layers.0.keys", kv_head * 200 * 64 + i) - core::float16_to_float(head.keys[i]);
      const double value = file.at("layers.0.values", kv_head * 200 * 64 + i) - core::float16_to_float(head.values[i]);
      if (i < 4 * 64) CHECK((key == 0 && value == 0));
      key_error += key * key;
      value_error += value * value;
    }
  }
  // Unit variance: Lloyd-Max leaves .0011 of it at 6 bits and .0095 at 4 (papers.md 4.1); half more covers the noise of
  // 25,600 values and float16. A mean that is not added back, a transposed tile or lost sinks would be 1 or more.
  CHECK(key_error / (2 * 200 * 64) < 1.5 * 0.0011);
  CHECK(value_error / (2 * 200 * 64) < 1.5 * 0.0095);
  CHECK(key_error > 0);
}

// Sets the scale of the first key of the first page, under valid checksums.
void set_first_scale(const std::string& path, std::uint16_t bits) {
  const std::string text = file_text(path);
  std::vector<std::byte> pool(text.size());
  std::memcpy(pool.data(), text.data(), text.size());
  const std::size_t offset = pages_offset(path);
  pool[offset] = static_cast<std::byte>(bits & 0xff);
  pool[offset + 1] = static_cast<std::byte>(bits >> 8);
  tests::reseal(pool);
  write_file(path, {reinterpret_cast<const char*>(pool.data()), pool.size()});
}

TEST_CASE("export: float32 where float16 has no room, the same on stdout") {
  const TemporaryFolder folder;
  make(folder / "a.pkv", {.codec = {6, 4}});  // whose keys have float16 scales
  set_first_scale(folder / "a.pkv", 0x7bff);  // 65504 times codes near 1, and the rotation sums them up
  const Outcome outcome = run({"export", folder / "a.pkv", "-o", folder / "a.safetensors"});
  INFO(outcome.err);
  REQUIRE(outcome.status == 0);
  const std::string text = file_text(folder / "a.safetensors");
  const Safetensors file(text);
  CHECK(file.header["__metadata__"]["number_type"] == "F32");
  CHECK(outcome.out.find("as F32\n") != std::string::npos);
  float largest = 0;
  for (std::size_t i = 4 * 64; i < 5 * 64; ++i) largest = std::max(largest, std::abs(file.at("layers.0.keys", i)));
  CHECK(largest > 65520.0f);
  const Outcome piped = run({"export", folder / "a.pkv", "-o", "-"});
  CHECK(piped.status == 0);
  CHECK(piped.out == text);
  // A scale that is not a number makes values that are none.
  set_first_scale(folder / "a.pkv", 0x7e00);
  const Outcome refused = run({"export", folder / "a.pkv", "-o", folder / "b"});
  CHECK(refused.status == 1);
  CHECK(refused.err.find("layer 0, kv_head 0: a dequantized value is not finite") != std::string::npos);
  CHECK_FALSE(std::filesystem::exists(folder / "b"));
}

TEST_CASE("export refuses what exists, and the pool itself; --force replaces") {
  const TemporaryFolder folder;
  make(folder / "a.pkv");
  write_file(folder / "b", "old");
  CHECK(run({"export", folder / "a.pkv", "-o", folder / "b"}).status == 3);
  CHECK(file_text(folder / "b") == "old");
  CHECK(run({"export", folder / "a.pkv", "-o", folder / "b", "--force"}).status == 0);
  CHECK(file_text(folder / "b").size() > 1000);
  const std::string pool = file_text(folder / "a.pkv");
  CHECK(run({"export", folder / "a.pkv", "-o", folder / "a.pkv", "--force"}).status == 2);
  CHECK(file_text(folder / "a.pkv") == pool);
  CHECK(run({"export", folder / "a.pkv", "-o", folder / "no/such/folder"}).status == 3);
}

TEST_CASE("export of a damaged pool leaves nothing behind") {
  const TemporaryFolder folder;
  make(folder / "a.pkv");
  std::string text = file_text(folder / "a.pkv");
  text[pages_offset(folder / "a.pkv") + 5] ^= 1;
  write_file(folder / "a.pkv", text);
  CHECK(run({"export", folder / "a.pkv", "-o", folder / "b"}).status == 5);
  CHECK(std::distance(std::filesystem::directory_iterator(folder.path()), {}) == 1);
}

TEST_CASE("a pool that others may write to is refused unless it is trusted") {
  const TemporaryFolder folder;
  make(folder / "a.pkv", {.mode = 0666});
  for (const char* command : {"inspect", "verify", "stats"}) {
    CHECK(run({command, folder / "a.pkv"}).status == 7);
    CHECK(run({command, "--trust", folder / "a.pkv"}).status == 0);
  }
  CHECK(run({"export", folder / "a.pkv", "-o", folder / "b"}).status == 7);
  CHECK(run({"export", "--trust", folder / "a.pkv", "-o", folder / "b"}).status == 0);
}

TEST_CASE("version, help, completion and kernels") {
  CHECK(run({"--version"}).out == "polykv " POLYKV_VERSION "\n");
  const std::string verbose = run({"--version", "-v"}).out;
  for (const char* part :
       {"pool format: reads 0.", "kernels compiled: ", "scalar\n", "kernels active: ", "LibTorch plug-in: "}) {
    CHECK(verbose.find(part) != std::string::npos);
  }
  CHECK(run({"help", "ask"}).out == run({"ask", "--help"}).out);
  CHECK(run({"completion", "fish"}).out.find("complete -c polykv") != std::string::npos);
  const TemporaryFolder folder;
  make(folder / "a.pkv");
  CHECK(run({"verify", "--kernels", "scalar", folder / "a.pkv"}).status == 0);
  CHECK(run({"verify", "--kernels", "mmx", folder / "a.pkv"}).status == 6);
}

}  // namespace
}  // namespace polykv::cli

// Pools and those that they extend: found in the places in their order, and refused where they are not the right ones.
#include "cli/commands/pool_chain.h"

#include <cstdlib>
#include <fstream>

#include "cli/runtime/cards/card_plan.h"
#include "cli/runtime/cards/card_writer.h"
#include "cli/runtime/user_index.h"
#include "tests/support/catch.h"
#include "tests/support/make_pool.h"
#include "tests/support/temporary_folder.h"
#include "tests/unit/cli/capture.h"

namespace polykv::cli {
namespace {

using format::ErrorCode;

class Place {
 public:
  Place() {
    std::filesystem::create_directory(folder / "a");
    std::filesystem::create_directory(folder / "b");
    setenv("XDG_DATA_HOME", (folder / "data").c_str(), 1);
  }

  std::string base(const char* path, std::uint32_t num_tokens = 50, std::uint64_t seed = 1) {
    tests::PoolRecipe recipe;
    recipe.shape.num_tokens = num_tokens;
    recipe.seed = seed;
    recipe.force = true;
    REQUIRE(tests::make_pool(folder / path, recipe));
    return folder / path;
  }

  // A card of 20 tokens on the chain of `parent`.
  std::string card(const std::string& parent, const char* path, const std::string& parent_name) {
    const auto chain = open(parent);
    REQUIRE(chain);
    const std::vector<const core::KvPool*> views = chain->views();
    runtime::CardSpec spec;
    spec.parent = &chain->last().reader;
    spec.parent_name = parent_name;
    spec.chain = views;
    spec.tokens.ids.assign(20, 3);
    spec.tokens.text_begin.assign(20, 0);
    spec.tokens.text_end.assign(20, 0);
    format::KvShape shape = views.back()->shape();
    shape.num_tokens = 20;
    spec.plan = runtime::uniform_token_plan(shape, {4, 4});
    core::Workers workers(1);
    auto writer = runtime::CardWriter::create(folder / path, std::move(spec), {.force = true}, workers);
    REQUIRE(writer);
    const std::vector<std::uint16_t> numbers(20 * 64, 0x3c00);
    REQUIRE(writer->layers().write(0, shape.num_layers, [&](std::uint32_t, std::uint32_t, std::size_t) {
      return runtime::HeadKv{numbers, numbers};
    }));
    REQUIRE(writer->finish());
    return folder / path;
  }

  format::Result<PoolChain> open(const std::string& path, std::vector<std::string> folders = {}) {
    tests::Capture capture;
    return open_pool_chain(path, {.folders = std::move(folders)}, capture.report);
  }

  void index(const std::string& path) {
    const auto chain = open(path);
    REQUIRE(chain);
    runtime::remember_path(runtime::UserIndex::kPools, format::to_hex(chain->last().reader.superblock_digest()), path);
  }

  tests::TemporaryFolder folder;
};

std::string message_of(const format::Result<PoolChain>& chain) { return chain ? "" : chain.error().message; }

TEST_CASE("a pool alone is a chain of one, and cards are chains with what they extend") {
  Place place;
  const std::string base = place.base("a/base.pkv");
  CHECK(place.open(base)->size() == 1);
  const std::string first = place.card(base, "a/first.pkv", "base.pkv");
  const std::string second = place.card(first, "a/second.pkv", "first.pkv");
  const auto chain = place.open(second);
  REQUIRE(chain);
  CHECK(chain->size() == 3);
  CHECK(chain->file(0).file.path() == base);
  CHECK(chain->last().file.path() == second);
  CHECK(chain->views().back()->end_position() == 90);
  CHECK(chain->check_unchanged());
}

TEST_CASE("a parent is looked for beside the card, in the folders, in the index, whatever it is called") {
  Place place;
  const std::string base = place.base("a/base.pkv");
  const std::string card = place.card(base, "a/card.pkv", "base.pkv");
  std::filesystem::rename(base, place.folder / "a/other-name.pkv");
  CHECK(place.open(card)->file(0).file.path() == place.folder / "a/other-name.pkv");

  std::filesystem::rename(place.folder / "a/other-name.pkv", place.folder / "b/kept.pkv");
  CHECK(message_of(place.open(card)).find("extends base.pkv") != std::string::npos);
  CHECK(message_of(place.open(card)).find("is not found") != std::string::npos);
  CHECK(place.open(card).error().code == ErrorCode::kMismatch);
  CHECK(place.open(card, {place.folder / "nothing", place.folder / "b"})->size() == 2);

  place.index(place.folder / "b/kept.pkv");
  CHECK(place.open(card)->file(0).file.path() == place.folder / "b/kept.pkv");
  // What the index says is looked at, not believed.
  place.base("b/kept.pkv", 50, 2);
  CHECK(place.open(card).error().code == ErrorCode::kMismatch);
}

TEST_CASE("another pool under the parent's name is not the parent") {
  Place place;
  const std::string base = place.base("a/base.pkv");
  const std::string card = place.card(base, "a/card.pkv", "base.pkv");
  place.base("a/base.pkv", 50, 2);
  CHECK(message_of(place.open(card)).find("base.pkv is another pool, or was changed") != std::string::npos);
  CHECK(place.open(card).error().code == ErrorCode::kMismatch);
}

TEST_CASE("a parent that is damaged is refused by its own name") {
  Place place;
  const std::string base = place.base("a/base.pkv");
  const std::string card = place.card(base, "a/card.pkv", "base.pkv");
  std::fstream file(base, std::ios::in | std::ios::out | std::ios::binary);
  file.seekp(4100);
  file.put('\xff');
  file.close();
  const auto chain = place.open(card);
  CHECK(chain.error().code == ErrorCode::kBadChecksum);
  CHECK(message_of(chain).find("base.pkv: ") != std::string::npos);
}

TEST_CASE("the name that a card gives is no way to other folders") {
  Place place;
  const std::string base = place.base("b/base.pkv");
  for (const char* name : {"../b/base.pkv", "/etc/passwd", "..", ""}) {
    const std::string card = place.card(base, "a/card.pkv", name);
    CHECK(place.open(card).error().code == ErrorCode::kMismatch);
  }
}

TEST_CASE("what is no file is passed over") {
  Place place;
  const std::string base = place.base("b/base.pkv");
  const std::string card = place.card(base, "a/card.pkv", "base.pkv");
  std::filesystem::create_directory(place.folder / "a/base.pkv");
  std::filesystem::create_symlink("nowhere", place.folder / "a/dangling.pkv");
  CHECK(message_of(place.open(card)).find("is not found") != std::string::npos);
  CHECK(place.open(card, {place.folder / "b"})->size() == 2);
}

TEST_CASE("an index that cannot be read is an empty one, and is written anew") {
  Place place;
  using runtime::UserIndex;
  CHECK(runtime::find_indexed(UserIndex::kPools, "00").empty());
  std::filesystem::create_directories(place.folder / "data/polykv");
  for (const char* text : {"", "[]", "{\"schema\": \"polykv.pools/1\"}", "{\"schema\": 1, \"pools\": {\"00\": \"/x\"}}",
                           "{\"schema\": \"polykv.pools/1\", \"pools\": {\"00\": 5}}"}) {
    std::ofstream(place.folder / "data/polykv/pools.json") << text;
    CHECK(runtime::find_indexed(UserIndex::kPools, "00").empty());
  }
  runtime::remember_path(UserIndex::kPools, "00", "/x/y.pkv");
  runtime::remember_path(UserIndex::kPools, "01", "/x/z.pkv");
  CHECK(runtime::find_indexed(UserIndex::kPools, "00") == "/x/y.pkv");
  CHECK(runtime::find_indexed(UserIndex::kPools, "01") == "/x/z.pkv");
  CHECK(runtime::find_indexed(UserIndex::kModels, "00").empty());
}

}  // namespace
}  // namespace polykv::cli

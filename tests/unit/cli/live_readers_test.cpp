// Who maps a pool, read from a made-up /proc and from the real one.
#include "cli/commands/live_readers.h"

#include <unistd.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "cli/commands/commands.h"
#include "format/file.h"
#include "tests/support/catch.h"
#include "tests/support/make_pool.h"
#include "tests/unit/cli/capture.h"

namespace polykv::cli {
namespace {

using tests::Capture;
using tests::TemporaryFolder;

const MapName kPool{"fe:00", 2146305, "/srv/a b.pkv"};

// Lines as Linux 6 writes them.
constexpr const char* kLibrary = "7f00a000-7f00b000 r-xp 00002000 fe:00 88 /usr/lib/libc.so.6\n";
constexpr const char* kStack = "7ffd0000-7ffd1000 rw-p 00000000 00:00 0                          [stack]\n";
constexpr const char* kCurrent = "7f1d5a800000-7f1d5c1f3000 r--s 00000000 fe:00 2146305   /srv/a b.pkv\n";
constexpr const char* kLinked = "7f1d6a800000-7f1d6c1f3000 r--s 00000000 fe:00 2146305   /srv/other name.pkv\n";
constexpr const char* kOlder = "7f1d5a800000-7f1d5c1f3000 r--s 00000000 fe:00 2146299   /srv/a b.pkv (deleted)\n";
constexpr const char* kOtherDevice = "7f1d5a800000-7f1d5c1f3000 r--s 00000000 fe:01 2146305   /mnt/a b.pkv\n";
constexpr const char* kOtherInode = "7f1d5a800000-7f1d5c1f3000 r--s 00000000 fe:00 21463 /srv/a b.pkv.old\n";

class MadeUpProc {
 public:
  void write(const std::string& name, const std::string& text) {
    const std::filesystem::path path = folder_.path() / name;
    std::filesystem::create_directories(path.parent_path());
    std::ofstream(path, std::ios::binary) << text;
  }
  void add(const std::string& pid, const std::string& maps, const std::string& rollup = {},
           const std::string& smaps = {}) {
    write(pid + "/comm", "name of " + pid + "\n");
    write(pid + "/maps", maps);
    if (!rollup.empty()) write(pid + "/smaps_rollup", rollup);
    if (!smaps.empty()) write(pid + "/smaps", smaps);
  }
  // Opening a folder succeeds and reading it does not, whoever we are; a mode of 0 would not stop root.
  void add_unreadable(const std::string& pid, const std::string& file) {
    write(pid + "/comm", "name of " + pid + "\n");
    std::filesystem::create_directories(folder_.path() / pid / file);
  }
  LiveReaders find() const {
    const auto found = find_live_readers(folder_.path(), kPool);
    REQUIRE(found.has_value());
    return *found;
  }
  const std::filesystem::path& path() const { return folder_.path(); }

 private:
  TemporaryFolder folder_;
};

constexpr const char* kRollup =
    "5620ece17000-7ffd5abbc000 ---p 00000000 00:00 0                          [rollup]\n"
    "Rss:              136716 kB\nPss:               69538 kB\nPss_Dirty:          4428 kB\n"
    "Shared_Clean:     132000 kB\nShared_Dirty:        220 kB\nPrivate_Clean:        68 kB\n"
    "Private_Dirty:      4428 kB\nReferenced:       136716 kB\n";

std::string smaps_of(const std::string& map, int resident, int pss) {
  return map + "Size:              26572 kB\nRss:               " + std::to_string(resident) +
         " kB\nPss:               " + std::to_string(pss) + " kB\nTHPeligible:           0\nVmFlags: rd mr me ms sd\n";
}

TEST_CASE("a process that maps the pool is found with what the kernel says of it") {
  MadeUpProc proc;
  const std::string maps = std::string(kLibrary) + kCurrent + kLinked + kStack;
  proc.add("104", maps, kRollup,
           smaps_of(kLibrary, 1000, 100) + smaps_of(kCurrent, 26000, 13000) + smaps_of(kLinked, 572, 286) +
               smaps_of(kStack, 7, 7));
  const LiveReaders found = proc.find();
  REQUIRE(found.readers.size() == 1);
  const LiveReader& reader = found.readers[0];
  CHECK(reader.process.pid == 104);
  CHECK(reader.process.name == "name of 104");
  CHECK(reader.pss_bytes == 69538 * 1024);
  CHECK(reader.private_bytes == (68 + 4428) * 1024);
  CHECK(reader.shared_bytes == (132000 + 220) * 1024);
  CHECK(reader.pool_pss_bytes == 13286 * 1024);
  CHECK(reader.pool_resident_bytes == 26572 * 1024);
  // Its own copy of the pool, whole, and the rest as it is.
  CHECK(reader.without_sharing_bytes(30'000'000) == 30'000'000 + (136716 - 26572) * 1024);
  CHECK(found.unreadable.empty());
  CHECK(found.num_older == 0);
}

TEST_CASE("the file at the path counts, under whatever name; an older one is counted apart") {
  MadeUpProc proc;
  proc.add("9", kCurrent, kRollup, smaps_of(kCurrent, 1, 1));
  proc.add("10", kLinked, kRollup, smaps_of(kLinked, 1, 1));
  proc.add("11", std::string(kOlder) + kCurrent, kRollup, smaps_of(kCurrent, 1, 1));
  proc.add("12", std::string(kLibrary) + kOlder);
  proc.add("13", std::string(kOlder) + kOlder);
  proc.add("14", kOtherDevice, kRollup);
  proc.add("15", kOtherInode, kRollup);
  proc.add("16", "", kRollup);                        // one of the kernel's
  proc.add("17", "not a map line\n- \n\n", kRollup);  // nonsense is no map
  proc.write("self/maps", kCurrent);
  proc.write("version", "Linux");
  const LiveReaders found = proc.find();
  REQUIRE(found.readers.size() == 3);
  CHECK(found.readers[0].process.pid == 9);  // as numbers, not as text
  CHECK(found.readers[1].process.pid == 10);
  CHECK(found.readers[2].process.pid == 11);
  CHECK(found.num_older == 2);
}

TEST_CASE("a process that ends while it is looked at is left out, one that we may not look at is named") {
  MadeUpProc proc;
  std::filesystem::create_directories(proc.path() / "20");  // gone before maps
  proc.add("21", kCurrent);                                 // gone before smaps_rollup
  proc.add("22", kCurrent, kRollup);                        // gone before smaps
  proc.add_unreadable("23", "maps");
  proc.add("24", kCurrent, "", smaps_of(kCurrent, 1, 1));
  proc.add_unreadable("24", "smaps_rollup");
  proc.add("25", kLibrary);
  proc.add_unreadable("25", "smaps_rollup");  // it does not map the pool
  const LiveReaders found = proc.find();
  CHECK(found.readers.empty());
  REQUIRE(found.unreadable.size() == 2);
  CHECK(found.unreadable[0].pid == 23);
  CHECK(found.unreadable[0].name == "name of 23");
  CHECK(found.unreadable[1].pid == 24);
  CHECK_FALSE(find_live_readers(proc.path() / "nowhere", kPool).has_value());
}

TEST_CASE("the pool's name in maps is that of our own map") {
  MadeUpProc proc;
  proc.write("self/maps", std::string(kLibrary) + kCurrent + kStack);
  const auto at = [&](std::uintptr_t address) {
    return find_map_name(proc.path(), reinterpret_cast<const void*>(address));
  };
  for (const std::uintptr_t address : {0x7f1d5a800000u + std::uintptr_t{0}, std::uintptr_t{0x7f1d5c1f2fff}}) {
    const auto name = at(address);
    REQUIRE(name.has_value());
    CHECK(name->device == kPool.device);
    CHECK(name->inode == kPool.inode);
    CHECK(name->path == kPool.path);
  }
  CHECK_FALSE(at(0x7f1d5c1f3000).has_value());
  CHECK_FALSE(at(0x7ffd0000).has_value());  // no file
  CHECK(find_map_name("/nowhere", nullptr).error().code == format::ErrorCode::kIo);
}

// `stats --live --json` on the real /proc.
nlohmann::json live_stats(const std::string& pool) {
  const auto options = parse_options(std::vector<std::string>{"stats", "--live", "--json", "-q", pool},
                                     [](const char*) { return nullptr; });
  REQUIRE(options.has_value());
  Capture capture;
  CHECK(run_command(*options, capture.report) == 0);
  return nlohmann::json::parse(capture.out());
}

TEST_CASE("stats --live finds this process while it maps the pool, and as one of an older pool after a rename") {
  const TemporaryFolder folder;
  const std::string path = folder / "a \n.pkv";
  REQUIRE(tests::make_pool(path, {}).has_value());
  const nlohmann::json before = live_stats(path);
  CHECK(before["live"] == nlohmann::json::array());
  CHECK(before["live_total"]["n"] == 0);
  CHECK(before["live_total"]["without_sharing_bytes"] == 0);

  const auto mapped = format::MappedFile::open(path, {.kind = format::FileKind::kPool});
  REQUIRE(mapped.has_value());
  volatile std::byte touched{};  // so that the pages are read
  for (const std::byte byte : mapped->bytes()) touched = byte;
  (void)touched;
  const nlohmann::json during = live_stats(path);
  REQUIRE(during["live"].size() == 1);
  const nlohmann::json& reader = during["live"][0];
  CHECK(reader["pid"] == getpid());
  // Nobody else maps it, so the pool's part of PSS is all its pages; the last one may be part of a page.
  const std::uint64_t pool_bytes = during["pool_bytes"];
  CHECK(reader["pool_pss_bytes"] == (pool_bytes + 4095) / 4096 * 4096);
  CHECK(reader["pss_bytes"] > reader["pool_pss_bytes"]);
  CHECK(reader["pss_bytes"] <=
        reader["private_bytes"].get<std::uint64_t>() + reader["shared_bytes"].get<std::uint64_t>());
  CHECK(during["live_total"]["pss_bytes"] == reader["pss_bytes"]);
  CHECK(during["live_total"]["older_pool_processes"] == 0);

  REQUIRE(tests::make_pool(path, {.seed = 2, .force = true}).has_value());
  const nlohmann::json after = live_stats(path);
  CHECK(after["live"].empty());
  CHECK(after["live_total"]["older_pool_processes"] == 1);
}

}  // namespace
}  // namespace polykv::cli

#include "format/file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>
#include <fstream>

#include "format/bytes.h"
#include "tests/support/catch.h"
#include "tests/support/data.h"
#include "tests/unit/format/sample_pool.h"

using namespace polykv;
using namespace polykv::tests;
using format::AtomicFile;
using format::ErrorCode;
using format::FileKind;
using format::MappedFile;

namespace {

constexpr MappedFile::Options kPool{FileKind::kPool, false, ~0u};
constexpr MappedFile::Options kModel{FileKind::kModel, false, ~0u};

void write_text(const std::filesystem::path& path, std::string_view text) {
  std::ofstream(path, std::ios::binary) << text;
}

std::uint32_t map_code(const std::filesystem::path& path, const MappedFile::Options& options) {
  const auto mapped = MappedFile::open(path, options);
  return mapped ? 0 : static_cast<std::uint32_t>(mapped.error().code);
}

std::uint32_t number(ErrorCode code) { return static_cast<std::uint32_t>(code); }

mode_t mode_of(const std::filesystem::path& path) {
  struct stat status {};
  REQUIRE(::lstat(path.c_str(), &status) == 0);
  return status.st_mode & 07777;
}

}  // namespace

TEST_CASE("a file maps as its bytes") {
  const TemporaryFolder folder;
  write_text(folder / "a", "hello");
  const auto mapped = MappedFile::open(folder / "a", kModel);
  REQUIRE(mapped.has_value());
  CHECK(format::as_text(mapped->bytes()) == "hello");
  CHECK(mapped->stamp().size == 5);
  CHECK(mapped->owner() == ::geteuid());
  CHECK(mapped->check_unchanged().has_value());
  write_text(folder / "empty", "");
  const auto empty = MappedFile::open(folder / "empty", kModel);
  REQUIRE(empty.has_value());
  CHECK(empty->bytes().empty());
}

TEST_CASE("what is not a regular file is refused at once") {
  const TemporaryFolder folder;
  REQUIRE(::mkfifo((folder / "fifo").c_str(), 0600) == 0);
  const int listener = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::strncpy(address.sun_path, (folder / "socket").c_str(), sizeof address.sun_path - 1);
  REQUIRE(::bind(listener, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0);
  for (const std::filesystem::path& path :
       {folder.path(), folder / "fifo", folder / "socket", std::filesystem::path("/dev/zero")}) {
    INFO(path);
    CHECK(map_code(path, kPool) == number(ErrorCode::kNotAFile));
    CHECK(map_code(path, kModel) == number(ErrorCode::kNotRegularFile));
    const auto read = format::read_file(path);
    REQUIRE_FALSE(read.has_value());
    CHECK(read.error().code == ErrorCode::kNotRegularFile);
  }
  ::close(listener);
  write_text(folder / "file", "x");
  CHECK(map_code(folder / "absent", kPool) == number(ErrorCode::kNotFound));
  CHECK(map_code(folder / "file/below", kPool) == number(ErrorCode::kNotFound));
  REQUIRE(::symlink("loop", (folder / "loop").c_str()) == 0);
  CHECK(map_code(folder / "loop", kPool) == number(ErrorCode::kIo));
  REQUIRE(::symlink("file", (folder / "link").c_str()) == 0);
  CHECK(map_code(folder / "link", kPool) == 0);  // links are followed
}

TEST_CASE("a pool that others may change is refused, with the remedy") {
  const TemporaryFolder folder;
  write_text(folder / "pool", "x");
  REQUIRE(::chmod((folder / "pool").c_str(), 0646) == 0);
  const auto refused = MappedFile::open(folder / "pool", kPool);
  REQUIRE_FALSE(refused.has_value());
  CHECK(refused.error().code == ErrorCode::kUnsafeFile);
  CHECK_THAT(refused.error().message, Catch::Matchers::Contains("chmod o-w") && Catch::Matchers::Contains("--trust"));
  CHECK(map_code(folder / "pool", kModel) == 0);
  CHECK(map_code(folder / "pool", {FileKind::kPool, true, ~0u}) == 0);
  REQUIRE(::chmod((folder / "pool").c_str(), 0664) == 0);
  CHECK(map_code(folder / "pool", kPool) == 0);
}

TEST_CASE("a pool of another user is refused unless the owner is trusted") {
  const TemporaryFolder folder;
  write_text(folder / "pool", "x");
  if (::chown((folder / "pool").c_str(), 12345, static_cast<gid_t>(-1)) != 0) {
    skip("the right to give a file away");
    return;
  }
  const auto refused = MappedFile::open(folder / "pool", kPool);
  REQUIRE_FALSE(refused.has_value());
  CHECK(refused.error().code == ErrorCode::kUnsafeFile);
  CHECK_THAT(refused.error().message, Catch::Matchers::Contains("12345") && Catch::Matchers::Contains("--trust"));
  CHECK(map_code(folder / "pool", {FileKind::kPool, false, 12345}) == 0);
  CHECK(map_code(folder / "pool", {FileKind::kPool, false, 12346}) == number(ErrorCode::kUnsafeFile));
  CHECK(map_code(folder / "pool", {FileKind::kPool, true, ~0u}) == 0);
  CHECK(map_code(folder / "pool", kModel) == 0);
}

TEST_CASE("a change while in use is noticed, a rename or unlink is none") {
  const TemporaryFolder folder;
  const std::filesystem::path path = folder / "file";
  const auto changed = [&](const MappedFile::Options& options, auto change) {
    write_text(path, "0123456789");
    const auto mapped = MappedFile::open(path, options);
    REQUIRE(mapped.has_value());
    change();
    const format::Status status = mapped->check_unchanged();
    // A signal handler finds the same, from an address alone; where nothing changed, a disk that fails.
    const auto broken = format::find_broken_map(mapped->bytes().data() + 9);
    REQUIRE(broken.has_value());
    CHECK(broken->path == path.string());
    CHECK(broken->code == (status ? ErrorCode::kChanged : status.error().code));
    CHECK_THAT(broken->message, Catch::Matchers::Contains(status ? "its disk fails" : status.error().message));
    return code_of(status);
  };
  const auto shorten = [&] { std::filesystem::resize_file(path, 5); };
  const auto lengthen = [&] { std::filesystem::resize_file(path, 50); };
  const auto write = [&] {
    ::usleep(20000);  // past the filesystem's clock tick
    write_text(path, "9876543210");
  };
  CHECK(changed(kPool, shorten) == number(ErrorCode::kShrunk));
  CHECK(changed(kModel, shorten) == number(ErrorCode::kChanged));
  for (const MappedFile::Options& options : {kPool, kModel}) {
    CHECK(changed(options, lengthen) == number(ErrorCode::kChanged));
    CHECK(changed(options, write) == number(ErrorCode::kChanged));
    CHECK(changed(options, [&] { std::filesystem::rename(path, folder / "elsewhere"); }) == 0);
    CHECK(changed(options, [&] { std::filesystem::remove(path); }) == 0);
    CHECK(changed(options, [&] { std::filesystem::permissions(path, std::filesystem::perms::owner_read); }) == 0);
  }
}

TEST_CASE("maps are found while they live, and by their own addresses only") {
  const TemporaryFolder folder;
  write_text(folder / "a", std::string(5000, 'a'));
  write_text(folder / "b", std::string(5000, 'b'));
  const auto path_at = [](const std::byte* address) {
    const auto map = format::find_broken_map(address);
    return map ? std::string(map->path) : "none";
  };
  CHECK(path_at(nullptr) == "none");
  std::optional<MappedFile> a = *MappedFile::open(folder / "a", kPool), b = *MappedFile::open(folder / "b", kModel);
  const std::byte* const begin = a->bytes().data();
  CHECK(path_at(begin) == (folder / "a").string());
  CHECK(path_at(begin + 4999) == (folder / "a").string());
  CHECK(path_at(begin + 5000) == "none");
  CHECK(path_at(begin - 1) == "none");
  CHECK(path_at(b->bytes().data()) == (folder / "b").string());
  const MappedFile moved = std::move(*a);
  a.reset();
  CHECK(path_at(begin) == (folder / "a").string());
  { const MappedFile ended = std::move(*b); }
  b.reset();
  CHECK(path_at(begin) == (folder / "a").string());
  // The table has room for many maps, and gives it back.
  for (int round = 0; round < 2; ++round) {
    std::vector<MappedFile> many;
    for (int i = 0; i < 300; ++i) many.push_back(*MappedFile::open(folder / "b", kModel));
    for (const MappedFile& file : many) CHECK(path_at(file.bytes().data()) == (folder / "b").string());
  }
}

TEST_CASE("descriptors do not leak over exec, and the map is left out of core dumps") {
  const TemporaryFolder folder;
  write_text(folder / "pool", std::string(10000, 'x'));
  const auto mapped = MappedFile::open(folder / "pool", kPool);
  const auto written = AtomicFile::create(folder / "new", false, 0600);
  REQUIRE(written.has_value());
  int open_descriptors = 0;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    const int descriptor = std::stoi(entry.path().filename().string());
    std::error_code error;
    const std::string target = std::filesystem::read_symlink(entry.path(), error).string();
    if (target.rfind(folder.path().string(), 0) != 0) continue;
    CHECK((::fcntl(descriptor, F_GETFD) & FD_CLOEXEC) != 0);
    ++open_descriptors;
  }
  CHECK(open_descriptors == 3);  // the pool, the temporary file, its folder
  std::ifstream maps("/proc/self/smaps");
  bool in_pool = false, dumped = true;
  for (std::string line; std::getline(maps, line);) {
    if (line.find((folder / "pool").string()) != std::string::npos) in_pool = true;
    if (in_pool && line.rfind("VmFlags:", 0) == 0) {
      dumped = line.find(" dd") == std::string::npos;
      break;
    }
  }
  CHECK(in_pool);
  CHECK_FALSE(dumped);
}

TEST_CASE("an atomic file appears whole, with its mode, whatever the umask") {
  const TemporaryFolder folder;
  for (const mode_t mask : {0000u, 0022u, 0077u, 0777u}) {
    for (const std::uint32_t mode : {0600u, 0640u, 0644u, 0400u}) {
      const mode_t old = ::umask(mask);
      auto file = AtomicFile::create(folder / "out", true, mode);
      ::umask(old);
      REQUIRE(file.has_value());
      const std::string temporary = folder.names()[0];
      CHECK_THAT(temporary, Catch::Matchers::StartsWith(".out.tmp."));
      CHECK((mode_of(folder.path() / temporary) & 0177) == 0);  // nobody else, at no moment
      CHECK(file->write_at(0, format::as_bytes("hello")).has_value());
      CHECK(file->publish().has_value());
      CHECK(mode_of(folder / "out") == mode);
      CHECK(format::as_text(bytes_at(folder / "out")) == "hello");
      CHECK(folder.names() == std::vector<std::string>{"out"});
    }
  }
}

TEST_CASE("an atomic file that is not published leaves nothing") {
  const TemporaryFolder folder;
  write_text(folder / "out", "old");
  {
    auto file = AtomicFile::create(folder / "out", true, 0600);
    REQUIRE(file.has_value());
    CHECK(file->write_at(100, format::as_bytes("new")).has_value());
    CHECK(folder.names().size() == 2);
  }
  CHECK(folder.names() == std::vector<std::string>{"out"});
  CHECK(format::as_text(bytes_at(folder / "out")) == "old");
}

TEST_CASE("an atomic file refuses what it should not replace") {
  const TemporaryFolder folder;
  const auto code = [](const std::filesystem::path& path, bool force) {
    const auto file = AtomicFile::create(path, force, 0600);
    return file ? 0 : number(file.error().code);
  };
  write_text(folder / "old", "old");
  CHECK(code(folder / "old", false) == number(ErrorCode::kExists));
  CHECK(code(folder / "old", true) == 0);
  CHECK(code(folder / "absent" / "x", false) == number(ErrorCode::kNotFound));
  CHECK(code(folder / "old" / "x", false) == number(ErrorCode::kNotFound));
  CHECK(code(folder.path() / "", false) == number(ErrorCode::kNotRegularFile));
  CHECK(code("", false) == number(ErrorCode::kNotRegularFile));
  CHECK(code("..", true) == number(ErrorCode::kNotRegularFile));
  REQUIRE(::mkfifo((folder / "fifo").c_str(), 0600) == 0);
  std::filesystem::create_directory(folder / "folder");
  for (const char* name : {"fifo", "folder"}) {
    CHECK(code(folder / name, false) == number(ErrorCode::kNotRegularFile));
    CHECK(code(folder / name, true) == number(ErrorCode::kNotRegularFile));
  }
  CHECK(code("/dev/null", true) == number(ErrorCode::kNotRegularFile));
  CHECK(code(folder.path() / std::string(300, 'n'), false) == number(ErrorCode::kIo));  // ENAMETOOLONG, before any work
  CHECK(code(folder.path() / std::string(255, 'n'), false) == 0);
  REQUIRE(::chmod(folder.path().c_str(), 0777) == 0);
  CHECK(code(folder / "new", false) == number(ErrorCode::kUnsafeFile));
  REQUIRE(::chmod(folder.path().c_str(), 01777) == 0);
  CHECK(code(folder / "new", false) == 0);
}

TEST_CASE("a symbolic link is replaced, never written through") {
  const TemporaryFolder folder;
  write_text(folder / "target", "target");
  REQUIRE(::symlink("target", (folder / "link").c_str()) == 0);
  REQUIRE(::symlink("nowhere", (folder / "dangling").c_str()) == 0);
  for (const char* name : {"link", "dangling"}) {
    CHECK_FALSE(AtomicFile::create(folder / name, false, 0600).has_value());
    auto file = AtomicFile::create(folder / name, true, 0600);
    REQUIRE(file.has_value());
    CHECK(file->write_at(0, format::as_bytes("new")).has_value());
    CHECK(file->publish().has_value());
    CHECK(std::filesystem::is_regular_file(std::filesystem::symlink_status(folder / name)));
  }
  CHECK(format::as_text(bytes_at(folder / "target")) == "target");
  CHECK_FALSE(std::filesystem::exists(folder / "nowhere"));
}

TEST_CASE("a file that appears meanwhile wins, without force") {
  const TemporaryFolder folder;
  auto file = AtomicFile::create(folder / "out", false, 0600);
  REQUIRE(file.has_value());
  write_text(folder / "out", "first");
  const format::Status status = file->publish();
  CHECK(code_of(status) == number(ErrorCode::kExists));
  CHECK(format::as_text(bytes_at(folder / "out")) == "first");
}

TEST_CASE("leftovers of killed builders are removed, and nothing else") {
  const TemporaryFolder folder;
  const char* const kept[] = {".out.tmp.123.0123456789abcdeX",   ".out.tmp.123.0123456789abcde",
                              ".out.tmp..0123456789abcdef",      ".out.tmp.12a.0123456789abcdef",
                              ".other.tmp.123.0123456789abcdef", "out.tmp.123.0123456789abcdef"};
  for (const char* name : kept) write_text(folder / name, "x");
  write_text(folder / ".out.tmp.123.0123456789abcdef", "dead");
  write_text(folder / ".out.tmp.124.0123456789abcdef", "alive");
  std::filesystem::create_directory(folder / ".out.tmp.125.0123456789abcdef");
  REQUIRE(::symlink("elsewhere", (folder / ".out.tmp.126.0123456789abcdef").c_str()) == 0);
  REQUIRE(::mkfifo((folder / ".out.tmp.127.0123456789abcdef").c_str(), 0600) == 0);
  const int alive = ::open((folder / ".out.tmp.124.0123456789abcdef").c_str(), O_RDWR | O_CLOEXEC);
  REQUIRE(::flock(alive, LOCK_EX) == 0);
  { const auto file = AtomicFile::create(folder / "out", false, 0600); }
  const std::vector<std::string> names = folder.names();
  CHECK(names.size() == std::size(kept) + 4);
  CHECK_FALSE(std::filesystem::exists(folder / ".out.tmp.123.0123456789abcdef"));
  CHECK(std::filesystem::exists(folder / ".out.tmp.124.0123456789abcdef"));
  ::close(alive);
}

// What the writer promises when things go wrong: the old pool or the new one, and no litter.
#include "format/writer.h"

#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <csignal>
#include <fstream>
#include <iostream>

#include "format/bytes.h"
#include "format/file.h"
#include "format/reader.h"
#include "format/system_calls.h"
#include "tests/support/catch.h"
#include "tests/unit/format/sample_pool.h"

using namespace polykv;
using namespace polykv::tests;
using format::ErrorCode;
using format::PoolWriter;
using format::SystemCalls;

namespace {

std::uint32_t number(ErrorCode code) { return static_cast<std::uint32_t>(code); }

// ---- every call of the table counted, and one of them made to fail ----

enum class Fault { kError, kShort, kOnwards, kFlip };

struct Injection {
  SystemCalls real;
  int count = 0;
  int fail_at = -1;  // the number of the call that fails; -1: none
  Fault fault = Fault::kError;
  int error = 0;
  bool renamed = false;
  // True if this call fails; errno is set.
  bool next() {
    const int call = count++;
    const bool hit = fault == Fault::kOnwards ? fail_at >= 0 && call >= fail_at : call == fail_at;
    if (!hit || fault == Fault::kShort || fault == Fault::kFlip) return false;
    errno = error;
    return true;
  }
  bool special(Fault which) const { return fault == which && count - 1 == fail_at; }
};

Injection injection;

// Removing and closing are the way out of a failure: they are counted as calls but always work.
SystemCalls injected_calls() {
  SystemCalls calls = injection.real;
  calls.open_folder = [](const char* path) { return injection.next() ? -1 : injection.real.open_folder(path); };
  calls.create_at = [](int folder, const char* name) {
    return injection.next() ? -1 : injection.real.create_at(folder, name);
  };
  calls.lock = [](int descriptor) { return injection.next() ? -1 : injection.real.lock(descriptor); };
  calls.stat = [](int descriptor, struct stat* out) {
    return injection.next() ? -1 : injection.real.stat(descriptor, out);
  };
  calls.stat_at = [](int folder, const char* name, struct stat* out) {
    return injection.next() ? -1 : injection.real.stat_at(folder, name, out);
  };
  calls.allocate = [](int descriptor, off_t offset, off_t bytes) {
    return injection.next() ? injection.error : injection.real.allocate(descriptor, offset, bytes);
  };
  calls.write_at = [](int descriptor, const void* data, std::size_t bytes, off_t offset) -> ssize_t {
    if (injection.next()) return -1;
    if (injection.special(Fault::kShort)) return injection.real.write_at(descriptor, data, (bytes + 1) / 2, offset);
    if (injection.special(Fault::kFlip) && bytes > 0) {
      std::vector<std::byte> copy(static_cast<const std::byte*>(data), static_cast<const std::byte*>(data) + bytes);
      copy[bytes / 2] ^= std::byte{4};
      return injection.real.write_at(descriptor, copy.data(), bytes, offset);
    }
    return injection.real.write_at(descriptor, data, bytes, offset);
  };
  calls.read_at = [](int descriptor, void* data, std::size_t bytes, off_t offset) -> ssize_t {
    if (injection.next()) return -1;
    if (injection.special(Fault::kShort)) return injection.real.read_at(descriptor, data, (bytes + 1) / 2, offset);
    return injection.real.read_at(descriptor, data, bytes, offset);
  };
  calls.sync_data = [](int descriptor) { return injection.next() ? -1 : injection.real.sync_data(descriptor); };
  calls.sync = [](int descriptor) { return injection.next() ? -1 : injection.real.sync(descriptor); };
  calls.change_mode = [](int descriptor, mode_t mode) {
    return injection.next() ? -1 : injection.real.change_mode(descriptor, mode);
  };
  calls.rename_at = [](int folder, const char* from, const char* to, bool replace) {
    if (injection.next()) return -1;
    const int result = injection.real.rename_at(folder, from, to, replace);
    injection.renamed = injection.renamed || result == 0;
    return result;
  };
  calls.link_at = [](int folder, const char* from, const char* to) {
    if (injection.next()) return -1;
    const int result = injection.real.link_at(folder, from, to);
    injection.renamed = injection.renamed || result == 0;
    return result;
  };
  return calls;
}

// Runs `work` with call `fail_at` failing; the table is put back whatever happens.
template <typename Work>
auto with_fault(int fail_at, Fault fault, int error, Work work) {
  injection = Injection{format::system_calls(), 0, fail_at, fault, error, false};
  struct Restore {
    SystemCalls real;
    ~Restore() { format::system_calls() = real; }
  } restore{injection.real};
  format::system_calls() = injected_calls();
  return work();
}

bool is_pool(const std::filesystem::path& path, const std::vector<std::byte>& expected) {
  return bytes_at(path) == expected;
}

}  // namespace

TEST_CASE("same input, same bytes") {
  std::mt19937_64 random(5);
  for (int i = 0; i < 5; ++i) {
    const SamplePool sample = random_sample(random);
    CHECK(pool_bytes(sample) == pool_bytes(sample));
  }
}

TEST_CASE("what was written can be looked at before it is published, and scratch never is") {
  for (const bool scratch : {false, true}) {
    const TemporaryFolder folder;
    const SamplePool sample = tiny_sample();
    auto writer = PoolWriter::create(folder / "a.pkv", sample.spec, {.scratch = scratch});
    REQUIRE(writer.has_value());
    CHECK(folder.names().size() == (scratch ? 0 : 1));
    CHECK(writer->written().error().code == ErrorCode::kFailed);  // a layer is missing
    REQUIRE(writer->write_layer(0, sample.exponents[0], sample.pages[0], sample.sinks[0], sample.means[0]));
    const auto written = writer->written();
    REQUIRE(written.has_value());
    CHECK(std::ranges::equal(written->pages, sample.pages[0]));
    CHECK(std::ranges::equal(written->sinks, sample.sinks[0]));
    CHECK(std::ranges::equal(written->means, sample.means[0]));
    const format::Status finished = writer->finish(sample.fidelity);
    if (scratch) {
      CHECK(finished.error().code == ErrorCode::kFailed);
      CHECK(folder.names().empty());
    } else {
      REQUIRE(finished);
      CHECK(bytes_at(folder / "a.pkv") == pool_bytes(sample));
    }
  }
}

TEST_CASE("how large the file will be is known before any layer is written") {
  std::mt19937_64 random(9);
  for (int i = 0; i < 10; ++i) {
    const TemporaryFolder folder;
    const SamplePool sample = random_sample(random);
    auto writer = PoolWriter::create(folder / "a.pkv", sample.spec, {});
    REQUIRE(writer.has_value());
    CHECK(writer->file_bytes(sample.fidelity.size()) == pool_bytes(sample).size());
  }
}

TEST_CASE("the file's id comes from tokens and values, not from what describes them") {
  const auto id_of = [](const SamplePool& sample) {
    const std::vector<std::byte> bytes = pool_bytes(sample);
    return format::PoolReader::open(bytes)->superblock().file_id;
  };
  const format::FileId id = id_of(tiny_sample());
  SamplePool sample = tiny_sample();
  sample.fidelity.clear();
  sample.spec.created = 12;
  sample.spec.identity.set("document.name", "contract");
  CHECK(id_of(sample) == id);
  sample.means[0][3] ^= std::byte{1};
  CHECK(id_of(sample) != id);
  sample = tiny_sample();
  sample.spec.identity.set("model.name", "another");
  CHECK(id_of(sample) != id);
  sample = tiny_sample();
  sample.spec.tokens.ids[20] ^= 1;
  CHECK(id_of(sample) != id);
}

TEST_CASE("an existing pool is refused before any work, and kept") {
  const TemporaryFolder folder;
  REQUIRE(write_pool(tiny_sample(1), folder / "a.pkv").has_value());
  const std::vector<std::byte> old = bytes_at(folder / "a.pkv");
  CHECK(code_of(write_pool(tiny_sample(2), folder / "a.pkv")) == number(ErrorCode::kExists));
  CHECK(is_pool(folder / "a.pkv", old));
  CHECK(code_of(write_pool(tiny_sample(2), folder / "a.pkv", true)) == 0);
  CHECK_FALSE(is_pool(folder / "a.pkv", old));
  CHECK(folder.names() == std::vector<std::string>{"a.pkv"});
}

TEST_CASE("what could not be read back is not begun") {
  const TemporaryFolder folder;
  const auto code = [&](auto change) {
    SamplePool sample = tiny_sample();
    change(sample.spec);
    const auto writer = PoolWriter::create(folder / "a.pkv", sample.spec, {});
    return writer ? 0 : number(writer.error().code);
  };
  CHECK(code([](format::PoolSpec&) {}) == 0);
  CHECK(code([](format::PoolSpec& spec) { spec.shape.num_layers = 0; }) == number(ErrorCode::kLimitExceeded));
  CHECK(code([](format::PoolSpec& spec) { spec.shape.head_dim = 12; }) == number(ErrorCode::kMalformed));
  CHECK(code([](format::PoolSpec& spec) { spec.shape.num_layers = 2; }) == number(ErrorCode::kBadLayout));
  CHECK(code([](format::PoolSpec& spec) { spec.tokens.ids.pop_back(); }) == number(ErrorCode::kBadTokens));
  CHECK(code([](format::PoolSpec& spec) { spec.tokens.text_begin.pop_back(); }) == number(ErrorCode::kBadTokens));
  CHECK(code([](format::PoolSpec& spec) { spec.tokens.text_end.push_back(0); }) == number(ErrorCode::kBadTokens));
  CHECK(code([](format::PoolSpec& spec) { spec.tokens.text.clear(); }) == number(ErrorCode::kBadTokens));
  CHECK(code([](format::PoolSpec& spec) { spec.tokens.text += '\xff'; }) == number(ErrorCode::kUnusableText));
  CHECK(code([](format::PoolSpec& spec) { spec.identity.set("nodot", ""); }) == number(ErrorCode::kBadIdentity));
  CHECK(code([](format::PoolSpec& spec) { spec.layout.runs[0][0].key_codec = 9; }) == number(ErrorCode::kUnknownCodec));
  CHECK(code([](format::PoolSpec& spec) { spec.layout.position_sets[0].ranges[0].begin = 3; }) ==
        number(ErrorCode::kBadLayout));
  CHECK(code([](format::PoolSpec& spec) { spec.layout.position_sets[0].ranges.clear(); }) ==
        number(ErrorCode::kBadLayout));
  CHECK(code([](format::PoolSpec& spec) { spec.has_means = false; }) == number(ErrorCode::kBadLayout));
  CHECK(folder.names().empty());
}

TEST_CASE("layers come in order, complete, each once") {
  const TemporaryFolder folder;
  SamplePool sample = tiny_sample();
  std::mt19937_64 random(1);
  sample.spec.shape.num_layers = 2;
  sample.spec.layout = format::Layout::uniform(sample.spec.shape, 0, 5, 4);
  fill_values(sample, random);
  auto writer = PoolWriter::create(folder / "a.pkv", sample.spec, {});
  REQUIRE(writer.has_value());
  CHECK(writer->layout().runs[1][0].pages_offset == sample.pages[0].size());
  const auto write = [&](std::uint32_t layer, std::size_t pages, std::size_t sinks, std::size_t means) {
    return code_of(writer->write_layer(layer, sample.exponents[0], std::span(sample.pages[0]).first(pages),
                                       std::span(sample.sinks[0]).first(sinks),
                                       std::span(sample.means[0]).first(means)));
  };
  const std::size_t pages = sample.pages[0].size(), sinks = sample.sinks[0].size(), means = sample.means[0].size();
  CHECK(write(1, pages, sinks, means) == number(ErrorCode::kFailed));
  CHECK(write(0, pages - 1, sinks, means) == number(ErrorCode::kBadSectionSize));
  CHECK(write(0, pages, sinks - 1, means) == number(ErrorCode::kBadSectionSize));
  CHECK(write(0, pages, sinks, 0) == number(ErrorCode::kBadSectionSize));
  CHECK(code_of(writer->write_layer(0, {}, sample.pages[0], sample.sinks[0], sample.means[0])) ==
        number(ErrorCode::kBadSectionSize));
  CHECK(write(0, pages, sinks, means) == 0);
  CHECK(writer->layout().runs[0][0].exponents == sample.exponents[0][0]);
  CHECK(write(0, pages, sinks, means) == number(ErrorCode::kFailed));
  CHECK(code_of(writer->finish("")) == number(ErrorCode::kFailed));
  CHECK(write(1, pages, sinks, means) == 0);
  CHECK(write(2, pages, sinks, means) == number(ErrorCode::kFailed));
  CHECK(code_of(writer->finish("\xff")) == number(ErrorCode::kFailed));
  CHECK(code_of(writer->finish(std::string((1 << 20) + 1, ' '))) == number(ErrorCode::kFailed));
  CHECK(code_of(writer->finish("")) == 0);
  CHECK(code_of(writer->finish("")) == number(ErrorCode::kFailed));
  CHECK(code_of(open_and_verify(bytes_at(folder / "a.pkv"))) == 0);
}

TEST_CASE("exponents that no reader would take are not published") {
  const TemporaryFolder folder;
  SamplePool sample = tiny_sample();
  sample.exponents[0][0].value = 64;
  CHECK(code_of(write_pool(sample, folder / "a.pkv")) == number(ErrorCode::kBadLayout));
  CHECK(folder.names().empty());
}

TEST_CASE("every system call of a build fails once, and from there on") {
  const SamplePool before = tiny_sample(1), after = tiny_sample(2);
  const std::vector<std::byte> old_bytes = pool_bytes(before), new_bytes = pool_bytes(after);
  const TemporaryFolder folder;
  const std::filesystem::path path = folder / "a.pkv";
  REQUIRE(write_pool(before, path).has_value());
  const auto build = [&] { return write_pool(after, path, true); };
  REQUIRE(with_fault(-1, Fault::kError, 0, build).has_value());
  const int num_calls = injection.count;
  CHECK(num_calls > 25);
  int failures = 0, not_durable = 0, survived = 0;
  for (const Fault fault : {Fault::kError, Fault::kOnwards}) {
    for (const int error : {ENOSPC, EDQUOT, EFBIG, EIO}) {
      for (int call = 0; call < num_calls; ++call) {
        REQUIRE(write_pool(before, path, true).has_value());
        const format::Status status = with_fault(call, fault, error, build);
        INFO("call " << call << " of " << num_calls << ", errno " << error);
        if (status) {
          FAIL("a failed call went unnoticed");
        } else if (status.error().code == ErrorCode::kNotDurable) {
          ++not_durable;
          REQUIRE(injection.renamed);
          REQUIRE(is_pool(path, new_bytes));
        } else {
          ++failures;
          REQUIRE(status.error().code == (error == EIO ? ErrorCode::kIo : ErrorCode::kNoSpace));
          REQUIRE_FALSE(injection.renamed);
          REQUIRE(is_pool(path, old_bytes));
        }
        REQUIRE(folder.names() == std::vector<std::string>{"a.pkv"});
      }
    }
  }
  CHECK(failures == 2 * 4 * (num_calls - 1));
  CHECK(not_durable == 2 * 4);  // the folder's fsync, the last call
  // Short reads and writes, and interrupted calls where an interruption may happen, are carried on.
  for (int call = 0; call < num_calls; ++call) {
    REQUIRE(write_pool(before, path, true).has_value());
    REQUIRE(with_fault(call, Fault::kShort, 0, build).has_value());
    REQUIRE(is_pool(path, new_bytes));
    REQUIRE(write_pool(before, path, true).has_value());
    const format::Status status = with_fault(call, Fault::kError, EINTR, build);
    survived += status.has_value();
    REQUIRE((is_pool(path, new_bytes) || is_pool(path, old_bytes)));
    REQUIRE(folder.names() == std::vector<std::string>{"a.pkv"});
  }
  CHECK(survived >= num_calls - 9);  // all but folder, stat, sync, chmod, rename: those are not interrupted
}

TEST_CASE("a filesystem without fallocate, locks or RENAME_NOREPLACE will do") {
  const SamplePool sample = tiny_sample();
  const std::vector<std::byte> expected = pool_bytes(sample);
  const auto with = [&](auto change) {
    const SystemCalls real = format::system_calls();
    change(format::system_calls());
    const TemporaryFolder folder;
    const format::Status status = write_pool(sample, folder / "a.pkv");
    const format::Status again = write_pool(sample, folder / "a.pkv");
    format::system_calls() = real;
    CHECK(code_of(status) == 0);
    CHECK(code_of(again) == number(ErrorCode::kExists));
    CHECK(is_pool(folder / "a.pkv", expected));
    CHECK(folder.names() == std::vector<std::string>{"a.pkv"});
  };
  with([](SystemCalls& calls) { calls.allocate = [](int, off_t, off_t) { return EOPNOTSUPP; }; });
  with([](SystemCalls& calls) {
    calls.lock = [](int) {
      errno = ENOLCK;
      return -1;
    };
  });
  with([](SystemCalls& calls) {
    calls.rename_at = [](int, const char*, const char*, bool) {
      errno = EINVAL;
      return -1;
    };
  });
  // And there, too, a file that appeared meanwhile wins.
  const TemporaryFolder folder;
  auto file = format::AtomicFile::create(folder / "a", false, 0600);
  std::ofstream(folder / "a") << "first";
  const SystemCalls real = format::system_calls();
  format::system_calls().rename_at = [](int, const char*, const char*, bool) {
    errno = ENOSYS;
    return -1;
  };
  const format::Status status = file->publish();
  format::system_calls() = real;
  CHECK(code_of(status) == number(ErrorCode::kExists));
}

TEST_CASE("a device that writes wrong bytes is found out before publishing") {
  const SamplePool before = tiny_sample(1), after = tiny_sample(2);
  const std::vector<std::byte> old_bytes = pool_bytes(before);
  const TemporaryFolder folder;
  const std::filesystem::path path = folder / "a.pkv";
  REQUIRE(write_pool(before, path).has_value());
  const auto build = [&] { return write_pool(after, path, true); };
  (void)with_fault(-1, Fault::kFlip, 0, build);
  int read_back = 0;
  for (int call = 0; call < injection.count; ++call) {
    REQUIRE(write_pool(before, path, true).has_value());
    const format::Status status = with_fault(call, Fault::kFlip, 0, build);
    if (status) continue;  // not a write, or one of those after the values
    REQUIRE(status.error().code == ErrorCode::kReadBack);
    REQUIRE(is_pool(path, old_bytes));
    REQUIRE(folder.names() == std::vector<std::string>{"a.pkv"});
    ++read_back;
  }
  CHECK(read_back == 9);  // eight sections, and the zeros of the last one's padding
}

TEST_CASE("a file size limit ends a build without litter") {
  const SamplePool sample = tiny_sample();
  const std::size_t size = pool_bytes(sample).size();
  for (std::size_t limit = 0; limit < size; limit += 1024) {
    const TemporaryFolder folder;
    const pid_t child = ::fork();
    if (child == 0) {
      ::signal(SIGXFSZ, SIG_IGN);
      const rlimit resource{limit, limit};
      ::setrlimit(RLIMIT_FSIZE, &resource);
      ::_exit(code_of(write_pool(sample, folder / "a.pkv")) == number(ErrorCode::kNoSpace) ? 0 : 1);
    }
    int ended = 0;
    REQUIRE(::waitpid(child, &ended, 0) == child);
    INFO("limit " << limit);
    CHECK(ended == 0);
    CHECK(folder.names().empty());
  }
}

TEST_CASE("a build killed at any moment leaves the old pool or the new one") {
  SamplePool before = tiny_sample(1), after = tiny_sample(2);
  for (SamplePool* sample : {&before, &after}) {  // large enough to be hit
    std::mt19937_64 random(sample == &before ? 1 : 2);
    sample->spec.shape = {6, 2, 64, 21};
    sample->spec.layout = format::Layout::uniform(sample->spec.shape, 0, 5, 4);
    fill_values(*sample, random);
  }
  const std::vector<std::byte> old_bytes = pool_bytes(before), new_bytes = pool_bytes(after);
  const TemporaryFolder folder;
  const std::filesystem::path path = folder / "a.pkv";
  const auto seed = std::random_device()();
  std::mt19937_64 random(seed);
  UNSCOPED_INFO("seed " << seed);
  int killed = 0, left = 0, complete = 0;
  for (int i = 0; i < 200; ++i) {
    const auto start = std::chrono::steady_clock::now();
    REQUIRE(write_pool(before, path, true).has_value());
    // How long a build takes here and now: the kill falls into it on a fast disk as on a slow one.
    const auto build_us =
        std::chrono::duration_cast<std::chrono::microseconds>(std::chrono::steady_clock::now() - start).count();
    REQUIRE(folder.names() == std::vector<std::string>{"a.pkv"});  // the last one's leftover is gone
    const pid_t child = ::fork();
    if (child == 0) {
      (void)write_pool(after, path, true);
      ::_exit(0);
    }
    ::usleep(static_cast<useconds_t>(random() % static_cast<std::uint64_t>(build_us + 1)));
    ::kill(child, SIGKILL);
    int ended = 0;
    REQUIRE(::waitpid(child, &ended, 0) == child);
    killed += WIFSIGNALED(ended);
    const std::vector<std::byte> now = bytes_at(path);
    REQUIRE((now == old_bytes || now == new_bytes));
    const std::vector<std::string> names = folder.names();
    REQUIRE(names.size() <= 2);
    if (names.size() == 1) continue;
    ++left;
    // Without magic, unless it was killed between its last write and the rename: then it is complete.
    const std::vector<std::byte> temporary = bytes_at(folder.path() / names[0]);
    const auto opened = format::PoolReader::open(temporary);
    if (opened) {
      ++complete;
      REQUIRE(temporary == new_bytes);
    } else {
      const bool unfinished = temporary.empty() || opened.error().code == ErrorCode::kUnfinished;
      REQUIRE(unfinished);
    }
  }
  std::cout << "killed " << killed << " of 200 builds: " << left << " leftovers, " << complete << " of them complete\n";
  CHECK(killed > 50);
  CHECK(left > 20);
}

TEST_CASE("builders of one path at the same time: one of them wins, nothing is mixed") {
  const TemporaryFolder folder;
  const std::filesystem::path path = folder / "a.pkv";
  std::vector<std::vector<std::byte>> expected;
  for (std::uint64_t seed = 1; seed <= 4; ++seed) expected.push_back(pool_bytes(tiny_sample(seed)));
  for (const bool force : {true, false}) {
    for (int round = 0; round < 10; ++round) {
      std::filesystem::remove(path);
      std::vector<pid_t> children;
      for (std::uint64_t seed = 1; seed <= 4; ++seed) {
        const pid_t child = ::fork();
        if (child == 0) {
          const std::uint32_t code = code_of(write_pool(tiny_sample(seed), path, force));
          ::_exit(code == 0 ? 0 : (code == number(ErrorCode::kExists) ? 1 : 2));
        }
        children.push_back(child);
      }
      int won = 0, refused = 0;
      for (const pid_t child : children) {
        int ended = 0;
        REQUIRE(::waitpid(child, &ended, 0) == child);
        REQUIRE(WIFEXITED(ended));
        won += WEXITSTATUS(ended) == 0;
        refused += WEXITSTATUS(ended) == 1;
      }
      CHECK(won == (force ? 4 : 1));
      CHECK(refused == (force ? 0 : 3));
      const std::vector<std::byte> now = bytes_at(path);
      CHECK(std::find(expected.begin(), expected.end(), now) != expected.end());
      CHECK(folder.names() == std::vector<std::string>{"a.pkv"});
    }
  }
}

TEST_CASE("readers keep the pool they opened while it is replaced") {
  const TemporaryFolder folder;
  const std::filesystem::path path = folder / "a.pkv";
  REQUIRE(write_pool(tiny_sample(1), path).has_value());
  const auto mapped = format::MappedFile::open(path, {format::FileKind::kPool, false, ~0u});
  const auto reader = format::PoolReader::open(mapped->bytes());
  REQUIRE(reader.has_value());
  for (std::uint64_t seed = 2; seed < 12; ++seed) {
    REQUIRE(write_pool(tiny_sample(seed), path, true).has_value());
    CHECK(code_of(reader->verify(true, {})) == 0);
    CHECK(mapped->check_unchanged().has_value());
    const auto next = format::MappedFile::open(path, {format::FileKind::kPool, false, ~0u});
    CHECK(code_of(open_and_verify(next->bytes())) == 0);
  }
}

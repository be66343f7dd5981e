// What a SIGBUS in a mapped file does to the process; interrupts are tested from outside (tests/cli/signals.sh).
#include "cli/signals.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>

#include "format/file.h"
#include "tests/support/catch.h"
#include "tests/unit/cli/capture.h"

namespace polykv::cli {
namespace {

using format::FileKind;
using format::MappedFile;
using tests::TemporaryFolder;

struct End {
  int status;  // as a shell gives it
  std::string err;
};

// What a child says and ends with that maps two pages of `path`, lets `change` happen and reads the second.
template <typename Change>
End read_after(const std::string& path, FileKind kind, Change change) {
  std::ofstream(path, std::ios::binary) << std::string(8192, 'x');
  std::FILE* const err = std::tmpfile();
  const pid_t child = fork();
  if (child == 0) {
    dup2(fileno(err), STDERR_FILENO);
    install_signal_handlers();
    const auto mapped = MappedFile::open(path, {.kind = kind});
    if (!mapped) _exit(100);
    change();
    const volatile std::byte* second = mapped->bytes().data() + 4096;
    _exit(*second == std::byte{'x'} ? 0 : 101);
  }
  int status = 0;
  waitpid(child, &status, 0);
  End end{WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status), tests::read_all(err)};
  std::fclose(err);
  return end;
}

TEST_CASE("a page that is gone ends the process with one line and the status of the change") {
  const TemporaryFolder folder;
  const std::string path = folder / "a\x1b[2J\n.pkv";
  const auto cut = [&] { return truncate(path.c_str(), 4096); };
  const End pool = read_after(path, FileKind::kPool, cut);
  CHECK(pool.status == 4);
  CHECK(pool.err == "polykv: " + (folder / "a?[2J?.pkv") + ": it became shorter while in use; build it again\n");
  const End model = read_after(path, FileKind::kModel, cut);
  CHECK(model.status == 5);
  CHECK(model.err ==
        "polykv: " + (folder / "a?[2J?.pkv") + ": it became shorter while in use; restore it and start again\n");
  CHECK(read_after(path, FileKind::kPool, [&] { return rename(path.c_str(), (folder / "b").c_str()); }).status == 0);
}

std::vector<std::string> names_in(const TemporaryFolder& folder) {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(folder.path()))
    names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

TEST_CASE("a page that is gone leaves no temporary file of what is being written") {
  const TemporaryFolder folder;
  const std::string path = folder / "a.gguf";
  const auto begin = [&](const char* name) { return format::AtomicFile::create(folder / name, false, 0600); };
  const End end = read_after(path, FileKind::kModel, [&] {
    static auto first = begin("first"), second = begin(std::string(255, 's').c_str()), given_up = begin("given up"),
                published = begin("published");
    if (!first || !second || !given_up || !published || !published->publish()) _exit(102);
    given_up->unlink();
    if (truncate(path.c_str(), 4096) != 0) _exit(103);
  });
  CHECK(end.status == 5);
  CHECK(names_in(folder) == std::vector<std::string>{"a.gguf", "published"});
}

TEST_CASE("a second Ctrl-C leaves no temporary file of what is being written") {
  const TemporaryFolder folder;
  const End end = read_after(folder / "a.gguf", FileKind::kModel, [&] {
    static auto file = format::AtomicFile::create(folder / "b", false, 0600);
    raise(SIGINT);
    if (!file || !stop_requested() || names_in(folder).size() != 2) _exit(102);
    usleep(250'000);  // sooner it would be the first one again
    raise(SIGINT);
  });
  CHECK(end.status == 128 + SIGINT);
  CHECK(names_in(folder) == std::vector<std::string>{"a.gguf"});
}

TEST_CASE("SIGBUS elsewhere ends the process as usual") {
  const TemporaryFolder folder;
  CHECK(read_after(folder / "a", FileKind::kPool, [] { return raise(SIGBUS); }).status == 128 + SIGBUS);
}

}  // namespace
}  // namespace polykv::cli

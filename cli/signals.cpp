#include "cli/signals.h"

#include <signal.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "format/file.h"

namespace polykv::cli {
namespace {

using format::Error;
using format::ErrorCode;

// Programs that run others (timeout, shells) send a signal to the process and to its group, so one Ctrl-C can arrive
// twice; a person's second one comes later than this.
constexpr std::int64_t kSecondSignalNs = 200'000'000;

std::atomic<int> g_stop_signal{0};
std::atomic<std::int64_t> g_first_ns{0};

std::int64_t now_ns() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1'000'000'000 + now.tv_nsec;
}

void on_stop(int signal) {
  int none = 0;
  if (g_stop_signal.compare_exchange_strong(none, signal)) {
    g_first_ns = now_ns();
  } else if (signal == SIGINT && now_ns() - g_first_ns > kSecondSignalNs) {
    format::remove_temporaries();
    _exit(128 + SIGINT);
  }
}

// "polykv: PATH: MESSAGE" in one write. What could steer a terminal becomes '?': printable() allocates, which a handler
// must not.
void write_broken_map(const format::BrokenMap& map) {
  char line[1024];
  std::size_t bytes = 0;
  const auto append = [&line, &bytes](const char* text, std::size_t room) {
    for (; *text != 0 && bytes < room; ++text) {
      const auto byte = static_cast<unsigned char>(*text);
      const bool c1 = byte >= 0x80 && byte < 0xa0 && bytes > 0 && static_cast<unsigned char>(line[bytes - 1]) == 0xc2;
      line[bytes++] = byte < 0x20 || byte == 0x7f || c1 ? '?' : *text;
    }
  };
  append("polykv: ", sizeof line);
  append(map.path, sizeof line - 200);  // messages are shorter than that
  append(": ", sizeof line);
  append(map.message, sizeof line - 1);
  line[bytes++] = '\n';
  if (::write(STDERR_FILENO, line, bytes) < 0) return;  // nobody to tell
}

void on_bus_error(int, siginfo_t* info, void*) {
  static std::atomic<bool> reported{false};
  const bool sent = info->si_code <= 0;  // by a process: then there is no address
  if (const auto map = format::find_broken_map(sent ? nullptr : info->si_addr)) {
    // Several threads may meet the hole: one of them reports it.
    while (reported.exchange(true)) pause();
    write_broken_map(*map);
    format::remove_temporaries();
    _exit(format::exit_status(map->code));
  }
  ::signal(SIGBUS, SIG_DFL);
  raise(SIGBUS);  // as soon as this handler returns
}

}  // namespace

void install_signal_handlers() {
  static_assert(std::atomic<int>::is_always_lock_free && std::atomic<bool>::is_always_lock_free);
  struct sigaction action {};
  action.sa_handler = on_stop;  // no SA_RESTART: a read that waits for a question must end
  struct sigaction before {};
  sigaction(SIGINT, nullptr, &before);
  // A shell starts background jobs with SIGINT ignored, so that Ctrl-C for another program leaves them alone.
  if (before.sa_handler != SIG_IGN) sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
  action.sa_handler = SIG_IGN;
  sigaction(SIGPIPE, &action, nullptr);
  struct sigaction bus {};
  bus.sa_sigaction = on_bus_error;
  bus.sa_flags = SA_SIGINFO;
  sigaction(SIGBUS, &bus, nullptr);
}

bool stop_requested() { return g_stop_signal.load(std::memory_order_relaxed) != 0; }

format::Status check_stop() {
  switch (g_stop_signal.load(std::memory_order_relaxed)) {
    case 0:
      return {};
    case SIGTERM:
      return Error(ErrorCode::kTerminated, "terminated");
    default:
      return Error(ErrorCode::kInterrupted, "interrupted");
  }
}

void forget_stop() { g_stop_signal = 0; }

}  // namespace polykv::cli

#include "core/workers.h"

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <charconv>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <fstream>
#include <mutex>
#include <sstream>
#include <thread>
#include <vector>

namespace polykv::core {

namespace {

constexpr std::chrono::microseconds kSpinTime{50};

void pause_briefly() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#else
  std::this_thread::yield();
#endif
}

// Waits for `ready()` for kSpinTime; false if it did not come. The clock is read once in 32 pauses (about a
// microsecond).
template <typename Ready>
bool spin_until(const Ready& ready) {
  const auto start = std::chrono::steady_clock::now();
  do {
    for (int i = 0; i < 32; ++i) {
      if (ready()) return true;
      pause_briefly();
    }
  } while (std::chrono::steady_clock::now() - start < kSpinTime);
  return false;
}

}  // namespace

// A job is open while its caller hands out tasks. A worker comes in, takes tasks until none is left, and leaves; the
// caller works too, then closes the job and waits only for those inside: a worker that was too late to come in is never
// waited for, so a sleeping team costs a short job nothing but the wake-up call.
//
// Each side changes one variable and then reads the other's (generation and num_sleeping; inside and caller_sleeps):
// they need sequential consistency, which every operation here has by default.
struct Workers::Team {
  static constexpr std::uint32_t kOpen = 1u << 31;

  const std::function<void(std::size_t, std::size_t)>* task = nullptr;  // of the open job
  std::size_t num_tasks = 0;
  alignas(64) std::atomic<std::size_t> next_task{0};
  alignas(64) std::atomic<std::uint32_t> inside{0};  // kOpen, plus the number of workers inside the job
  std::atomic<bool> caller_sleeps{false};
  alignas(64) std::atomic<std::uint32_t> generation{0};  // counts jobs
  std::atomic<std::uint32_t> num_sleeping{0};
  std::atomic<bool> stop{false};

  std::mutex mutex;
  std::condition_variable job_came, job_done;
  std::vector<std::thread> threads;

  void take_tasks(std::size_t worker) {
    for (std::size_t i = next_task++; i < num_tasks; i = next_task++) (*task)(i, worker);
  }

  void leave() {
    if (--inside == 0 && caller_sleeps) {
      {
        const std::lock_guard lock(mutex);
      }  // the caller is now either waiting, or has yet to look at `inside`
      job_done.notify_one();
    }
  }

  // Returns when a job after `seen` came, or stop.
  void wait_for_job(std::uint32_t seen) {
    const auto ready = [&] { return generation != seen || stop; };
    if (spin_until(ready)) return;
    std::unique_lock lock(mutex);
    ++num_sleeping;
    job_came.wait(lock, ready);
    --num_sleeping;
  }

  void work(std::size_t worker) {
    std::uint32_t seen = 0;
    while (true) {
      wait_for_job(seen);
      if (stop) return;
      seen = generation;
      if ((inside++ & kOpen) != 0) take_tasks(worker);
      leave();
    }
  }

  void wake_sleepers() {
    if (num_sleeping == 0) return;
    { const std::lock_guard lock(mutex); }
    job_came.notify_all();
  }

  void run(std::size_t num, const std::function<void(std::size_t, std::size_t)>& function) {
    // A worker too late for the last job may still be between coming in and leaving: it touches nothing but `inside`.
    task = &function;
    num_tasks = num;
    next_task = 0;
    inside |= kOpen;
    ++generation;
    wake_sleepers();
    take_tasks(0);
    inside &= ~kOpen;
    const auto done = [&] { return inside == 0; };
    if (spin_until(done)) return;
    std::unique_lock lock(mutex);
    caller_sleeps = true;
    job_done.wait(lock, done);
    caller_sleeps = false;
  }
};

Workers::Workers(std::size_t num_threads) : num_threads_(std::max<std::size_t>(num_threads, 1)) {
  if (num_threads_ == 1) return;
  team_ = std::make_unique<Team>();
  for (std::size_t worker = 1; worker < num_threads_; ++worker) {
    team_->threads.emplace_back([team = team_.get(), worker] { team->work(worker); });
  }
}

Workers::~Workers() {
  if (!team_) return;
  team_->stop = true;
  team_->wake_sleepers();
  for (std::thread& thread : team_->threads) thread.join();
}

void Workers::run(std::size_t num_tasks, const std::function<void(std::size_t task, std::size_t worker)>& task) {
  if (!team_ || num_tasks <= 1) {
    for (std::size_t i = 0; i < num_tasks; ++i) task(i, 0);
    return;
  }
  team_->run(num_tasks, task);
}

namespace {

std::size_t num_cpus_of_affinity() {
  // The kernel refuses (EINVAL) a mask smaller than its own; no machine has 2^20 CPUs.
  for (std::size_t cpus = 1024; cpus <= (std::size_t{1} << 20); cpus *= 2) {
    std::vector<std::uint8_t> mask(CPU_ALLOC_SIZE(cpus));
    cpu_set_t* set = reinterpret_cast<cpu_set_t*>(mask.data());
    if (sched_getaffinity(0, mask.size(), set) == 0) {
      return static_cast<std::size_t>(std::max(1, CPU_COUNT_S(mask.size(), set)));
    }
  }
  return 1;
}

std::optional<std::string> read_text(const std::string& path) {
  std::ifstream in(path);
  if (!in) return std::nullopt;
  std::ostringstream text;
  text << in.rdbuf();
  return std::move(text).str();
}

std::string_view next_part(std::string_view& rest, char separator) {
  const std::size_t end = rest.find(separator);
  const std::string_view part = rest.substr(0, end);
  rest = end == std::string_view::npos ? std::string_view{} : rest.substr(end + 1);
  return part;
}

// nullopt for "max", -1 and anything else that is not a positive number.
std::optional<double> parse_positive(std::string_view text) {
  std::int64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc{} || number <= 0) return std::nullopt;
  return static_cast<double>(number);
}

using ReadFile = std::function<std::optional<std::string>(const std::string&)>;

std::optional<double> quota_of_folder(const std::string& folder, bool version2, const ReadFile& read_file) {
  std::optional<double> quota, period;
  if (version2) {  // "200000 100000" or "max 100000"
    const std::optional<std::string> text = read_file(folder + "/cpu.max");
    if (!text) return std::nullopt;
    std::string_view rest = *text;
    quota = parse_positive(next_part(rest, ' '));
    period = parse_positive(rest);
  } else {
    const std::optional<std::string> quota_text = read_file(folder + "/cpu.cfs_quota_us");
    const std::optional<std::string> period_text = read_file(folder + "/cpu.cfs_period_us");
    if (!quota_text || !period_text) return std::nullopt;
    quota = parse_positive(*quota_text);
    period = parse_positive(*period_text);
  }
  if (!quota || !period) return std::nullopt;
  return *quota / *period;
}

bool has_controller(std::string_view controllers, std::string_view name) {
  while (!controllers.empty()) {
    if (next_part(controllers, ',') == name) return true;
  }
  return false;
}

}  // namespace

std::optional<double> cgroup_cpu_quota(std::string_view cgroups, const ReadFile& read_file) {
  std::optional<double> least;
  while (!cgroups.empty()) {  // lines "0::/a/b" (version 2) and "4:cpu,cpuacct:/a/b" (version 1)
    std::string_view line = next_part(cgroups, '\n');
    next_part(line, ':');
    const std::string_view controllers = next_part(line, ':');
    const bool version2 = controllers.empty();
    if (!version2 && !has_controller(controllers, "cpu")) continue;
    // In a container the path may be the host's, which is not there: then only the folders above it are found.
    std::string path(line);
    while (!path.empty() && path.back() == '/') path.pop_back();
    for (bool more = true; more;) {
      for (const char* root : {"/sys/fs/cgroup", "/sys/fs/cgroup/cpu", "/sys/fs/cgroup/cpu,cpuacct"}) {
        const std::optional<double> quota = quota_of_folder(root + path, version2, read_file);
        if (quota) least = least ? std::min(*least, *quota) : *quota;
        if (version2) break;
      }
      more = !path.empty();
      const std::size_t slash = path.rfind('/');
      path.resize(slash == std::string::npos ? 0 : slash);
    }
  }
  return least;
}

std::size_t default_num_threads() {
  const std::size_t cpus = num_cpus_of_affinity();
  const std::optional<double> quota = cgroup_cpu_quota(read_text("/proc/self/cgroup").value_or(""), read_text);
  if (!quota) return cpus;
  // Rounded down: one thread more than the quota makes the whole team stop when the quota of a period is used up.
  const double whole = std::clamp(*quota, 1.0, static_cast<double>(cpus));
  return static_cast<std::size_t>(whole);
}

}  // namespace polykv::core

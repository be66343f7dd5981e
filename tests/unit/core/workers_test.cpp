#include "core/workers.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "tests/support/catch.h"

using namespace polykv::core;

TEST_CASE("every task runs once, whatever the number of threads", "[workers]") {
  for (const std::size_t num_threads : {1, 2, 3, 8}) {
    Workers workers(num_threads);
    REQUIRE(workers.num_threads() == num_threads);
    for (const std::size_t num_tasks : {0, 1, 2, 7, 100}) {
      std::vector<int> count(num_tasks, 0);  // not atomic: two runs of one task would be a data race too
      std::atomic<bool> worker_in_range{true};
      workers.run(num_tasks, [&](std::size_t task, std::size_t worker) {
        ++count[task];
        if (worker >= num_threads) worker_in_range = false;
      });
      CHECK(count == std::vector<int>(num_tasks, 1));
      CHECK(worker_in_range);
    }
  }
}

TEST_CASE("no threads asked for means one", "[workers]") {
  Workers workers(0);
  CHECK(workers.num_threads() == 1);
}

TEST_CASE("one thread runs tasks in order on the caller", "[workers]") {
  Workers workers(1);
  const std::thread::id me = std::this_thread::get_id();
  std::vector<std::size_t> order;
  workers.run(5, [&](std::size_t task, std::size_t) {
    CHECK(std::this_thread::get_id() == me);
    order.push_back(task);
  });
  CHECK(order == std::vector<std::size_t>{0, 1, 2, 3, 4});
}

TEST_CASE("many short jobs in a row see the results of the jobs before", "[workers]") {
  Workers workers(4);
  std::vector<std::uint64_t> values(16, 0);
  constexpr int kJobs = 2000;
  for (int job = 0; job < kJobs; ++job) {
    workers.run(values.size(), [&](std::size_t task, std::size_t) { values[task] += task + 1; });
  }
  for (std::size_t i = 0; i < values.size(); ++i) CHECK(values[i] == kJobs * (i + 1));
}

TEST_CASE("workers that fell asleep wake up for the next job", "[workers]") {
  Workers workers(2);
  for (int job = 0; job < 5; ++job) {
    std::this_thread::sleep_for(std::chrono::milliseconds(2));  // 40 times the spin time
    // Each of the two tasks waits until the other has begun: the job can only end if a second thread comes.
    std::atomic<int> begun{0};
    workers.run(2, [&](std::size_t, std::size_t) {
      ++begun;
      while (begun < 2) std::this_thread::yield();
    });
    CHECK(begun == 2);
  }
}

TEST_CASE("the caller waits for a slow worker, asleep if need be", "[workers]") {
  Workers workers(2);
  std::atomic<int> begun{0}, done{0};
  workers.run(2, [&](std::size_t, std::size_t worker) {
    ++begun;
    while (begun < 2) std::this_thread::yield();  // one task each
    if (worker != 0) std::this_thread::sleep_for(std::chrono::milliseconds(5));
    ++done;
  });
  CHECK(done == 2);
}

TEST_CASE("a team that never worked can be taken down", "[workers]") {
  for (int i = 0; i < 20; ++i) Workers workers(3);
  Workers asleep(3);
  std::this_thread::sleep_for(std::chrono::milliseconds(2));
}

TEST_CASE("the number of threads allowed is at least one and at most the machine's", "[workers]") {
  CHECK(default_num_threads() >= 1);
  CHECK(default_num_threads() <= std::max(1u, std::thread::hardware_concurrency()));
}

namespace {

std::optional<double> quota_of(const std::string& cgroups, const std::map<std::string, std::string>& files) {
  return cgroup_cpu_quota(cgroups, [&](const std::string& path) -> std::optional<std::string> {
    const auto found = files.find(path);
    if (found == files.end()) return std::nullopt;
    return found->second;
  });
}

}  // namespace

TEST_CASE("the cgroup's quota is the least on the way to the root", "[workers]") {
  CHECK_FALSE(quota_of("", {}).has_value());
  CHECK_FALSE(quota_of("0::/\n", {{"/sys/fs/cgroup/cpu.max", "max 100000\n"}}).has_value());
  CHECK(quota_of("0::/\n", {{"/sys/fs/cgroup/cpu.max", "150000 100000\n"}}).value() == 1.5);
  const std::map<std::string, std::string> nested{{"/sys/fs/cgroup/a/b/cpu.max", "max 100000\n"},
                                                  {"/sys/fs/cgroup/a/cpu.max", "300000 100000\n"},
                                                  {"/sys/fs/cgroup/cpu.max", "800000 100000\n"}};
  CHECK(quota_of("0::/a/b\n", nested).value() == 3.0);
  CHECK(quota_of("0::/not/here\n", nested).value() == 8.0);  // a path of the host, seen from a container
  const std::map<std::string, std::string> version1{{"/sys/fs/cgroup/cpu/x/cpu.cfs_quota_us", "50000\n"},
                                                    {"/sys/fs/cgroup/cpu/x/cpu.cfs_period_us", "100000\n"},
                                                    {"/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n"},
                                                    {"/sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n"}};
  CHECK(quota_of("5:memory:/y\n4:cpu,cpuacct:/x\n0::/\n", version1).value() == 0.5);
  CHECK_FALSE(quota_of("5:cpuset:/x\n", version1).has_value());
  CHECK_FALSE(quota_of("0::/\n", {{"/sys/fs/cgroup/cpu.max", "nonsense"}}).has_value());
  CHECK_FALSE(quota_of("0::/\n", {{"/sys/fs/cgroup/cpu.max", "100000 0\n"}}).has_value());
}

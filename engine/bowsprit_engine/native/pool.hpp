// The threads that run a step: one persistent pool per process, and the barrier between the phases of a step.
//
// A waiting thread spins briefly, then yields, so that it never keeps a processor from the thread that it waits for;
// between steps idle workers sleep in the kernel.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace bowsprit {

class Barrier {
 public:
  explicit Barrier(int num_threads) : num_threads_(num_threads) {}
  void wait();

 private:
  const int num_threads_;
  alignas(64) std::atomic<int> arrived_{0};
  alignas(64) std::atomic<uint32_t> phase_{0};
};

// One thread's place in a parallel region.
struct Team {
  int id;
  int size;
  Barrier* barrier;

  void sync() const {
    if (size > 1) barrier->wait();
  }
  // This thread's share of `count` items: [begin(count), end(count)).
  int64_t begin(int64_t count) const { return count * id / size; }
  int64_t end(int64_t count) const { return count * (id + 1) / size; }
};

class Pool {
 public:
  // `cpus`: where to pin each thread, or empty to leave that to the kernel.
  Pool(int num_threads, const std::vector<int>& cpus);
  ~Pool();
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  int num_threads() const { return num_threads_; }

  // Runs `work` once on every thread, the caller's included, and returns the processor seconds that they took together.
  // While another thread's region runs, the caller's runs on the caller alone: results don't depend on the team's size.
  double run(const std::function<void(const Team&)>& work);

 private:
  void serve(int id, int cpu);

  const int num_threads_;
  Barrier barrier_;
  std::mutex in_use_;
  const std::function<void(const Team&)>* work_ = nullptr;
  std::atomic<bool> is_stopping_{false};
  alignas(64) std::atomic<uint32_t> region_{0};
  alignas(64) std::atomic<int> num_running_{0};
  alignas(64) std::atomic<int64_t> cpu_nanoseconds_{0};
  std::vector<std::thread> workers_;
};

// The process's pool. `configure` replaces it (no region may be running); before the first call it has one thread.
Pool& pool();
void configure(int num_threads, const std::vector<int>& cpus);

}  // namespace bowsprit

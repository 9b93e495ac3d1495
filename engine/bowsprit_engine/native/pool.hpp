// The threads that run a step: one persistent pool per process, which works through a plan of phases.
//
// A phase is a number of independent items; the next phase begins when all items are done, not when all threads have
// come: threads take items one by one, and one that the kernel doesn't run holds nobody up unless it holds an item.
// On a machine shared with others that is the difference between a step and a step many times as long.
// A waiting thread spins for a while, then yields; between plans idle workers sleep in the kernel.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace bowsprit {

struct Phase {
  int64_t num_items;
  std::function<void(int64_t item, int worker)> run;  // worker: 0..num_threads - 1, for scratch memory
};

class Pool {
 public:
  // `cpus`: where to pin each thread, or empty to leave that to the kernel.
  Pool(int num_threads, const std::vector<int>& cpus);
  ~Pool();
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  int num_threads() const { return num_threads_; }

  // Works through the phases in order, the caller's thread included, and returns the processor seconds of all threads
  // together. While another thread's plan runs, the caller's runs on the caller alone: results don't depend on it.
  double run(std::vector<Phase> phases);

 private:
  struct Region;

  void serve(int id, int cpu);
  std::shared_ptr<Region> current();

  const int num_threads_;
  std::mutex in_use_;
  std::mutex region_guard_;
  std::shared_ptr<Region> region_;
  std::atomic<bool> is_stopping_{false};
  alignas(64) std::atomic<uint32_t> num_regions_{0};
  std::vector<std::thread> workers_;
};

// The process's pool. `configure` replaces it (no plan may be running); before the first call it has one thread.
Pool& pool();
void configure(int num_threads, const std::vector<int>& cpus);

}  // namespace bowsprit

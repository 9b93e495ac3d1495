// The threads that run a step: one persistent pool per process, which works through a plan of phases.
//
// A phase is a number of independent items; the next phase begins when all items are done, not when all threads have
// come: threads take items one by one, and one that the kernel doesn't run holds nobody up unless it holds an item.
// On a machine shared with others that is the difference between a step and a step many times as long.
// A waiting thread spins for a while, then yields; between plans idle workers sleep in the kernel.
//
// The caller's thread isn't ours: it is never pinned, since the threads that it starts later would inherit its one
// processor, and its floating-point modes are put back after a plan.
#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
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
  // `cpus`: where to pin each worker, from the second one on, or empty to leave that to the kernel. Throws
  // std::system_error when the system grants no more threads.
  Pool(int num_threads, const std::vector<int>& cpus);
  ~Pool();
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  int num_threads() const { return num_threads_; }

  // Works through the phases in order, the caller's thread included, and returns the processor seconds of all threads
  // together. While another thread's plan runs, the caller's runs on the caller alone: results don't depend on it.
  // What an item throws ends the plan and is thrown here.
  double run(std::vector<Phase> phases);

 private:
  struct Region;

  void serve(int id);
  void stop();
  std::shared_ptr<Region> current();

  const int num_threads_;
  std::mutex in_use_;
  std::mutex region_guard_;
  std::shared_ptr<Region> region_;
  std::atomic<bool> is_stopping_{false};
  alignas(64) std::atomic<uint32_t> num_regions_{0};
  std::vector<std::thread> workers_;
};

// The process's pool, of one thread before the first `configure`, which replaces it: whoever holds the former one works
// on with it. A forked child has no threads but its own, and begins anew with one.
std::shared_ptr<Pool> pool();
void configure(int num_threads, const std::vector<int>& cpus);

}  // namespace bowsprit

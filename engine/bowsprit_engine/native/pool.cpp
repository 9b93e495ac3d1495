#include "pool.hpp"

#include <immintrin.h>
#include <sched.h>
#include <time.h>

namespace bowsprit {
namespace {

// Yielding costs the rest of the time slice, milliseconds on a busy machine. So wait longer than any item takes before
// concluding that the thread that holds the last one isn't running: about 0.3 ms on Zen 3.
constexpr int kSpinsBeforeYield = 20000;
constexpr int kSpinsBeforeSleep = 2000;  // idle workers: then they cost nothing until the next plan
constexpr int kSpinsForLateWorkers = 400;

int64_t thread_nanoseconds() {
  timespec now;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return now.tv_sec * int64_t{1000000000} + now.tv_nsec;
}

void pin_to(int cpu) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(cpu, &set);
  sched_setaffinity(0, sizeof(set), &set);
}

std::unique_ptr<Pool>& the_pool() {
  static std::unique_ptr<Pool> instance = std::make_unique<Pool>(1, std::vector<int>{});
  return instance;
}

}  // namespace

// A plan under way. A worker that comes late finds every item taken, touches nothing of the plan's data, and leaves:
// so the caller need not wait for it, and the data may be gone by then. The counters live as long as anybody looks.
struct Pool::Region {
  struct alignas(64) Progress {
    std::atomic<int64_t> num_taken{0};
    alignas(64) std::atomic<int64_t> num_done{0};
  };

  explicit Region(std::vector<Phase> plan) : phases(std::move(plan)), progress(new Progress[phases.size()]) {}

  void work(int worker) {
    const int64_t begin = thread_nanoseconds();
    for (size_t p = 0; p < phases.size(); p++) {
      const int64_t num_items = phases[p].num_items;
      Progress& now = progress[p];
      if (now.num_done.load(std::memory_order_acquire) == num_items) continue;
      int64_t item;
      while ((item = now.num_taken.fetch_add(1, std::memory_order_relaxed)) < num_items) {
        phases[p].run(item, worker);
        now.num_done.fetch_add(1, std::memory_order_release);
      }
      for (int spin = 0; now.num_done.load(std::memory_order_acquire) < num_items; spin++) {
        if (spin < kSpinsBeforeYield) {
          _mm_pause();
        } else {
          sched_yield();
        }
      }
    }
    cpu_nanoseconds.fetch_add(thread_nanoseconds() - begin, std::memory_order_relaxed);
    num_left.fetch_add(1, std::memory_order_release);
  }

  const std::vector<Phase> phases;
  const std::unique_ptr<Progress[]> progress;
  std::atomic<int64_t> cpu_nanoseconds{0};
  std::atomic<int> num_left{0};
};

Pool::Pool(int num_threads, const std::vector<int>& cpus) : num_threads_(num_threads) {
  for (int id = 1; id < num_threads; id++) {
    const int cpu = cpus.empty() ? -1 : cpus[id % cpus.size()];
    workers_.emplace_back([this, id, cpu] { serve(id, cpu); });
  }
}

Pool::~Pool() {
  is_stopping_.store(true);
  num_regions_.fetch_add(1);
  num_regions_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

std::shared_ptr<Pool::Region> Pool::current() {
  const std::lock_guard<std::mutex> lock(region_guard_);
  return region_;
}

void Pool::serve(int id, int cpu) {
  if (cpu >= 0) pin_to(cpu);
  uint32_t seen = 0;
  while (true) {
    uint32_t latest;
    for (int spin = 0; (latest = num_regions_.load(std::memory_order_acquire)) == seen; spin++) {
      if (spin < kSpinsBeforeSleep) {
        _mm_pause();
      } else {
        num_regions_.wait(seen, std::memory_order_acquire);
      }
    }
    seen = latest;
    if (is_stopping_.load()) return;
    if (const std::shared_ptr<Region> region = current()) region->work(id);
  }
}

double Pool::run(std::vector<Phase> phases) {
  const int64_t begin = thread_nanoseconds();
  const std::unique_lock<std::mutex> lock(in_use_, std::try_to_lock);
  if (!lock.owns_lock() || num_threads_ == 1) {
    for (const Phase& phase : phases)
      for (int64_t item = 0; item < phase.num_items; item++) phase.run(item, 0);
    return static_cast<double>(thread_nanoseconds() - begin) * 1e-9;
  }
  const auto region = std::make_shared<Region>(std::move(phases));
  {
    const std::lock_guard<std::mutex> guard(region_guard_);
    region_ = region;
  }
  num_regions_.fetch_add(1, std::memory_order_release);
  num_regions_.notify_all();
  region->work(0);
  // Workers that were in time report within a microsecond. Those that weren't are not waited for: the sum that lacks
  // them shows that the step was contended.
  for (int spin = 0; spin < kSpinsForLateWorkers; spin++) {
    if (region->num_left.load(std::memory_order_acquire) == num_threads_) break;
    _mm_pause();
  }
  return static_cast<double>(region->cpu_nanoseconds.load()) * 1e-9;
}

Pool& pool() { return *the_pool(); }

void configure(int num_threads, const std::vector<int>& cpus) {
  if (!cpus.empty()) pin_to(cpus[0]);
  the_pool() = std::make_unique<Pool>(num_threads, cpus);
}

}  // namespace bowsprit

#include "pool.hpp"

#include <immintrin.h>
#include <pthread.h>
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

// By its maker, so that it is pinned once the pool is there, whenever it first runs.
void pin(std::thread& worker, int cpu) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(cpu, &set);
  pthread_setaffinity_np(worker.native_handle(), sizeof(set), &set);
}

// IEEE arithmetic while this lives, rounding to nearest and with denormals: workers have the modes of the thread that
// started them, a caller may have others (torch.set_flush_denormal), and a result would depend on who computed it.
class FloatModes {
 public:
  FloatModes() : found_(_mm_getcsr()) { _mm_setcsr(kDefault); }
  ~FloatModes() { _mm_setcsr(found_); }
  FloatModes(const FloatModes&) = delete;
  FloatModes& operator=(const FloatModes&) = delete;

 private:
  static constexpr unsigned int kDefault = 0x1f80;
  const unsigned int found_;
};

struct Current {
  std::mutex guard;
  std::shared_ptr<Pool> pool = std::make_shared<Pool>(1, std::vector<int>{});
};

// Never destroyed: when the process exits another thread may be in the middle of a plan. In a forked child the parent's
// is left alone, its lock and its threads included, for nobody there would ever release or join them.
Current*& the_current() {
  static Current* instance = [] {
    pthread_atfork(nullptr, nullptr, [] { the_current() = new Current; });
    return new Current;
  }();
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
    const FloatModes modes;
    const int64_t begin = thread_nanoseconds();
    for (size_t p = 0; p < phases.size(); p++) {
      const int64_t num_items = phases[p].num_items;
      Progress& now = progress[p];
      if (now.num_done.load(std::memory_order_acquire) == num_items) continue;
      int64_t item;
      while ((item = now.num_taken.fetch_add(1, std::memory_order_relaxed)) < num_items) {
        run_item(phases[p], item, worker);
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

  // An item that fails counts as done, or no thread would ever leave its phase; those after it are passed over.
  void run_item(const Phase& phase, int64_t item, int worker) {
    if (has_failed.load(std::memory_order_relaxed)) return;
    try {
      phase.run(item, worker);
    } catch (...) {
      if (!has_failed.exchange(true)) failure = std::current_exception();
    }
  }

  const std::vector<Phase> phases;
  const std::unique_ptr<Progress[]> progress;
  std::atomic<bool> has_failed{false};
  std::exception_ptr failure;  // to be read when every item is done
  std::atomic<int64_t> cpu_nanoseconds{0};
  std::atomic<int> num_left{0};
};

Pool::Pool(int num_threads, const std::vector<int>& cpus) : num_threads_(num_threads) {
  for (int id = 1; id < num_threads; id++) {
    try {
      workers_.emplace_back([this, id] { serve(id); });
      if (!cpus.empty()) pin(workers_.back(), cpus[id % cpus.size()]);
    } catch (...) {
      stop();
      throw;
    }
  }
}

Pool::~Pool() { stop(); }

void Pool::stop() {
  is_stopping_.store(true);
  num_regions_.fetch_add(1);
  num_regions_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

std::shared_ptr<Pool::Region> Pool::current() {
  const std::lock_guard<std::mutex> lock(region_guard_);
  return region_;
}

void Pool::serve(int id) {
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
    const FloatModes modes;
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
  if (region->failure) std::rethrow_exception(region->failure);
  // Workers that were in time report within a microsecond. Those that weren't are not waited for: the sum that lacks
  // them shows that the step was contended.
  for (int spin = 0; spin < kSpinsForLateWorkers; spin++) {
    if (region->num_left.load(std::memory_order_acquire) == num_threads_) break;
    _mm_pause();
  }
  return static_cast<double>(region->cpu_nanoseconds.load()) * 1e-9;
}

std::shared_ptr<Pool> pool() {
  Current& current = *the_current();
  const std::lock_guard<std::mutex> lock(current.guard);
  return current.pool;
}

void configure(int num_threads, const std::vector<int>& cpus) {
  auto next = std::make_shared<Pool>(num_threads, cpus);
  Current& current = *the_current();
  const std::lock_guard<std::mutex> lock(current.guard);
  current.pool.swap(next);
}

}  // namespace bowsprit

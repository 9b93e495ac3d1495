#include "pool.hpp"

#include <immintrin.h>
#include <sched.h>
#include <time.h>

namespace bowsprit {
namespace {

constexpr int kSpinsBeforeYield = 400;       // about 10 microseconds, several times a phase's usual imbalance
constexpr int kYieldsBeforeSleep = 200;      // idle workers only: then they cost nothing until the next step

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

template <typename Done>
void wait_until(Done done) {
  for (int spin = 0; !done(); spin++) {
    if (spin < kSpinsBeforeYield) {
      _mm_pause();
    } else {
      sched_yield();
    }
  }
}

std::unique_ptr<Pool>& the_pool() {
  static std::unique_ptr<Pool> instance = std::make_unique<Pool>(1, std::vector<int>{});
  return instance;
}

}  // namespace

void Barrier::wait() {
  const uint32_t phase = phase_.load(std::memory_order_relaxed);
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) == num_threads_ - 1) {
    arrived_.store(0, std::memory_order_relaxed);
    phase_.store(phase + 1, std::memory_order_release);
    return;
  }
  wait_until([&] { return phase_.load(std::memory_order_acquire) != phase; });
}

Pool::Pool(int num_threads, const std::vector<int>& cpus) : num_threads_(num_threads), barrier_(num_threads) {
  for (int id = 1; id < num_threads; id++) {
    const int cpu = cpus.empty() ? -1 : cpus[id % cpus.size()];
    workers_.emplace_back([this, id, cpu] { serve(id, cpu); });
  }
}

Pool::~Pool() {
  is_stopping_.store(true);
  region_.fetch_add(1);
  region_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void Pool::serve(int id, int cpu) {
  if (cpu >= 0) pin_to(cpu);
  uint32_t seen = 0;
  while (true) {
    int spin = 0;
    uint32_t region;
    while ((region = region_.load(std::memory_order_acquire)) == seen) {
      if (++spin < kSpinsBeforeYield) {
        _mm_pause();
      } else if (spin < kSpinsBeforeYield + kYieldsBeforeSleep) {
        sched_yield();
      } else {
        region_.wait(seen, std::memory_order_acquire);
      }
    }
    seen = region;
    if (is_stopping_.load()) return;
    const int64_t begin = thread_nanoseconds();
    (*work_)(Team{id, num_threads_, &barrier_});
    cpu_nanoseconds_.fetch_add(thread_nanoseconds() - begin, std::memory_order_relaxed);
    num_running_.fetch_sub(1, std::memory_order_release);
  }
}

double Pool::run(const std::function<void(const Team&)>& work) {
  const int64_t begin = thread_nanoseconds();
  const std::unique_lock<std::mutex> lock(in_use_, std::try_to_lock);
  if (!lock.owns_lock() || num_threads_ == 1) {
    work(Team{0, 1, nullptr});
    return static_cast<double>(thread_nanoseconds() - begin) * 1e-9;
  }
  work_ = &work;
  cpu_nanoseconds_.store(0, std::memory_order_relaxed);
  num_running_.store(num_threads_ - 1, std::memory_order_relaxed);
  region_.fetch_add(1, std::memory_order_release);
  region_.notify_all();
  work(Team{0, num_threads_, &barrier_});
  wait_until([&] { return num_running_.load(std::memory_order_acquire) == 0; });
  return static_cast<double>(thread_nanoseconds() - begin + cpu_nanoseconds_.load()) * 1e-9;
}

Pool& pool() { return *the_pool(); }

void configure(int num_threads, const std::vector<int>& cpus) {
  if (!cpus.empty()) pin_to(cpus[0]);
  the_pool() = std::make_unique<Pool>(num_threads, cpus);
}

}  // namespace bowsprit

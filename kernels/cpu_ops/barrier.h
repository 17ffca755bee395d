// Where the threads of a step wait for each other between two operations.
#pragma once

#include <immintrin.h>
#include <omp.h>
#include <sched.h>

#include <atomic>

namespace raydix {

// Spins, for the others are microseconds away, but soon lets other processes have the core: OpenMP's own barrier spins for
// milliseconds, in which the thread it waits for may be the one that has no core to run on.
class Barrier {
 public:
  // Called by all threads of the region; OpenMP may have given fewer than were asked for.
  void wait() {
    const int num_threads = omp_get_num_threads();
    const int round = round_.load(std::memory_order_relaxed);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == num_threads) {
      arrived_.store(0, std::memory_order_relaxed);
      round_.store(round + 1, std::memory_order_release);
      return;
    }
    for (int spins = 0; round_.load(std::memory_order_acquire) == round; ++spins)
      spins < SPINS ? _mm_pause() : (void)sched_yield();
  }

 private:
  static constexpr int SPINS = 2000;  // some 30 to 60 us

  std::atomic<int> arrived_{0};
  std::atomic<int> round_{0};
};

}  // namespace raydix

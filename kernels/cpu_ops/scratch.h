// Memory of one thread that lives from call to call, so that no call allocates.
#pragma once

#include <cstddef>
#include <cstdlib>

namespace raydix {

template <class T>
class Scratch {
 public:
  ~Scratch() { std::free(data_); }

  // At least `count` elements on a cache line's border; what was in them is lost when they have to grow.
  T* get(size_t count) {
    if (count > count_) {
      std::free(data_);
      data_ = static_cast<T*>(std::aligned_alloc(64, (count * sizeof(T) + 63) / 64 * 64));
      if (!data_) std::abort();  // out of memory: there is no exception to throw through a C caller
      count_ = count;
    }
    return data_;
  }

 private:
  T* data_ = nullptr;
  size_t count_ = 0;
};

}  // namespace raydix

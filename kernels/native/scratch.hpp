// Memory that a thread keeps from call to call: what is asked for every step must not be mapped anew every step.
#pragma once

#include <cstdlib>
#include <new>

namespace moe {

class Buffer {
   public:
    ~Buffer() { std::free(data_); }

    template <class T>
    T* get(size_t count) {
        const size_t bytes = (count * sizeof(T) + 4096 + 63) / 64 * 64;
        if (bytes > size_) {
            std::free(data_);
            size_ = 0;
            data_ = std::aligned_alloc(64, bytes);
            if (!data_) throw std::bad_alloc();
            size_ = bytes;
        }
        return static_cast<T*>(data_);
    }

   private:
    void* data_ = nullptr;
    size_t size_ = 0;
};

// One buffer a thread for every `Use`; its contents are undefined at the start of a call.
template <int Use, class T>
T* scratch(size_t count) {
    static thread_local Buffer buffer;
    return buffer.get<T>(count);
}

// What a library's functions return: 0, or 1 if there was no memory for a buffer. A thread beside the caller's that finds
// none ends the process: OpenMP passes no exception on.
template <class F>
int guarded(F f) {
    try {
        f();
        return 0;
    } catch (const std::bad_alloc&) {
        return 1;
    }
}

}  // namespace moe

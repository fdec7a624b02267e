// The library's C interface: picks the instruction set, packs keys and hands tiles to threads.
#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <numeric>
#include <system_error>
#include <thread>
#include <vector>

#include "instruction_sets.hpp"

namespace {

// Best first; the emulation of tiles is there to be tested.
const InstructionSet* const kInstructionSets[] = {
#ifdef LONGATTN_AMX
    &kAmx,
#endif
#ifdef LONGATTN_AVX512_BF16
    &kAvx512Bf16,
#endif
#ifdef LONGATTN_AVX512
    &kAvx512,
#endif
#ifdef LONGATTN_AVX2
    &kAvx2,
#endif
    &kPortable,
    &kEmulatedTiles,
};

constexpr int64_t kPackedBytes = int64_t{1} << 28;  // keys held in packed form at a time, if one head's are not more
constexpr int64_t kPackedKeys = 4096;               // keys that one task packs, a multiple of every block

struct Free {
    void operator()(void* memory) const { std::free(memory); }
};
using Memory = std::unique_ptr<void, Free>;

Memory allocate(size_t bytes) {
    void* memory = std::aligned_alloc(64, (std::max<size_t>(bytes, 1) + 63) / 64 * 64);
    if (memory == nullptr) throw std::bad_alloc();
    return Memory(memory);
}

// Calls task(worker, index) for every index below count. The caller is worker 0; where the system refuses a thread,
// the others do its share.
template <class Task>
void share_out(int64_t count, int workers, const Task& task) {
    std::atomic<int64_t> next{0};
    const auto work = [&](int worker) {
        for (int64_t i = next++; i < count; i = next++) task(worker, i);
    };
    std::vector<std::thread> threads;
    const int64_t useful = std::min<int64_t>(workers, count);
    threads.reserve(static_cast<size_t>(std::max<int64_t>(useful, 1)));
    try {
        for (int worker = 1; worker < useful; ++worker) threads.emplace_back(work, worker);
    } catch (const std::system_error&) {
    }
    work(0);
    for (std::thread& thread : threads) thread.join();
}

int64_t in_lines(size_t bytes) { return static_cast<int64_t>(bytes + 63) / 64 * 64; }

// Numbers from 0 up, sorted so that what they are the numbers of comes in order.
template <class Before>
std::vector<int64_t> sorted(int64_t count, const Before& before) {
    std::vector<int64_t> numbers(count);
    std::iota(numbers.begin(), numbers.end(), 0);
    std::stable_sort(numbers.begin(), numbers.end(), before);
    return numbers;
}

std::vector<int64_t> by_position(const Question& ask) {
    return sorted(ask.rows, [&](int64_t a, int64_t b) { return ask.positions[a] < ask.positions[b]; });
}

// Packs what the rows look at, pack(window, key head, first key, last key, memory), and goes through the tiles, tile(
// window, key head, first member, packed, scratch), some windows and key heads after the others.
template <class Pack, class Tile>
void run(const Plan& plan, const Kernel& kernel, int64_t packed_bytes, int64_t scratch_bytes, const Pack& pack,
         const Tile& tile) {
    const Question& ask = plan.question;
    const int64_t groups = ask.windows * ask.key_heads;
    const int64_t groups_at_once = std::clamp<int64_t>(kPackedBytes / packed_bytes, 1, groups);
    const int workers = std::max(1, ask.threads);
    const Memory packed_memory = allocate(packed_bytes * groups_at_once), scratch_memory = allocate(scratch_bytes * workers);
    const auto packed = [&](int64_t group) { return static_cast<char*>(packed_memory.get()) + group * packed_bytes; };
    const auto scratch = [&](int worker) { return static_cast<char*>(scratch_memory.get()) + worker * scratch_bytes; };

    // keys after the last row are never looked at
    const int64_t keys = ask.positions[plan.row_order[ask.rows - 1]] + 1;
    const int64_t slabs = (keys + kPackedKeys - 1) / kPackedKeys;
    const int64_t tiles = (ask.rows * (ask.query_heads / ask.key_heads) + kernel.tile_rows - 1) / kernel.tile_rows;
    for (int64_t first = 0; first < groups; first += groups_at_once) {
        const int64_t now = std::min(groups_at_once, groups - first);
        share_out(now * slabs, workers, [&](int, int64_t i) {
            const int64_t group = first + i / slabs, key = i % slabs * kPackedKeys;
            pack(group / ask.key_heads, group % ask.key_heads, key, std::min(key + kPackedKeys, keys), packed(i / slabs));
        });
        share_out(now * tiles, workers, [&](int worker, int64_t i) {
            // the longest rows first, so that no thread is left with one at the end
            const int64_t number = tiles - 1 - i / now, group = first + i % now;
            tile(group / ask.key_heads, group % ask.key_heads, number * kernel.tile_rows, packed(i % now),
                 scratch(worker));
        });
    }
}

// Keys in whole blocks.
void pack_keys(const Kernel& kernel, const Question& ask, int64_t window, int64_t head, int64_t first, int64_t last,
               void* packed) {
    kernel.pack(ask, window, head, first / kernel.block_keys, (last + kernel.block_keys - 1) / kernel.block_keys, packed);
}

void answer(const Question& ask, const Kernel& kernel) {
    const std::vector<int64_t> row_order = by_position(ask);
    const std::vector<int64_t> slots = sorted(
        ask.num_distances, [&](int64_t a, int64_t b) { return ask.distances[a] > ask.distances[b]; });
    std::vector<int64_t> distances(ask.num_distances);
    std::transform(slots.begin(), slots.end(), distances.begin(), [&](int64_t slot) { return ask.distances[slot]; });
    const Plan plan{ask, row_order.data(), distances.data(), slots.data()};
    run(
        plan, kernel, in_lines(kernel.packed_bytes(ask)), in_lines(kernel.scratch_bytes(ask)),
        [&](int64_t window, int64_t head, int64_t first, int64_t last, char* packed) {
            pack_keys(kernel, ask, window, head, first, last, packed);
        },
        [&](int64_t window, int64_t head, int64_t first, const char* packed, char* scratch) {
            kernel.tile(plan, window, head, first, packed, scratch);
        });
}

void answer(const Attention& ask, const Kernel& kernel) {
    const std::vector<int64_t> row_order = by_position(ask.rows);
    const Plan plan{ask.rows, row_order.data(), nullptr, nullptr};
    const int64_t keys_bytes = in_lines(kernel.packed_bytes(ask.rows));
    run(
        plan, kernel, keys_bytes + in_lines(kernel.packed_values_bytes(ask)),
        in_lines(kernel.attend_scratch_bytes(ask)),
        [&](int64_t window, int64_t head, int64_t first, int64_t last, char* packed) {
            pack_keys(kernel, ask.rows, window, head, first, last, packed);
            kernel.pack_values(ask, window, head, first, last, packed + keys_bytes);
        },
        [&](int64_t window, int64_t head, int64_t first, const char* packed, char* scratch) {
            kernel.attend_tile(ask, plan, window, head, first, packed, packed + keys_bytes, scratch);
        });
}

const InstructionSet* find(const char* name) {
    for (const InstructionSet* set : kInstructionSets)
        if (std::strcmp(set->name, name) == 0) return set->runs_here() ? set : nullptr;
    return nullptr;
}

const Kernel& kernel_of(const InstructionSet& set, int32_t dtype) {
    return dtype == kBfloat16 ? set.bfloat16 : set.float32;
}

enum Outcome : int32_t { kDone = 0, kUnknownInstructionSet = 1, kNoMemory = 2 };

template <class Asked>
Outcome outcome(const Asked& ask, const Question& rows, const char* instruction_set) {
    const InstructionSet* set = find(instruction_set);
    if (set == nullptr) return kUnknownInstructionSet;
    if (rows.windows == 0 || rows.rows == 0 || rows.query_heads == 0) return kDone;
    try {
        answer(ask, kernel_of(*set, rows.dtype));
    } catch (const std::bad_alloc&) {
        return kNoMemory;
    }
    return kDone;
}

}  // namespace

#define LONGATTN_API extern "C" __attribute__((visibility("default")))

// For the caller to see that it means the same structs: an Attention has a Question in it.
LONGATTN_API int64_t longattn_struct_bytes() { return sizeof(Attention); }

// The name of the i-th instruction set that runs on this machine, best first; null after the last.
LONGATTN_API const char* longattn_instruction_set(int32_t i) {
    for (const InstructionSet* set : kInstructionSets)
        if (set->runs_here() && i-- == 0) return set->name;
    return nullptr;
}

// Writes every entry of mass and square. Arguments are checked by the caller.
LONGATTN_API int32_t longattn_row_moments(const Question* ask, const char* instruction_set) {
    return outcome(*ask, *ask, instruction_set);
}

// Writes every entry of the output. Arguments are checked by the caller.
LONGATTN_API int32_t longattn_attend(const Attention* ask, const char* instruction_set) {
    return outcome(*ask, ask->rows, instruction_set);
}

// Runs one part of the floor (0: products, 1: exponentials) on each of `threads` threads until about `pairs` pairs are
// done on each; returns how many were, or 0 for an instruction set that does not run here.
LONGATTN_API int64_t longattn_floor(const char* instruction_set, int32_t dtype, int64_t head_size, int32_t part,
                                    int32_t threads, int64_t pairs) {
    const InstructionSet* set = find(instruction_set);
    if (set == nullptr) return 0;
    const Kernel& kernel = kernel_of(*set, dtype);
    const int64_t repeats = (pairs + kernel.floor_pairs - 1) / kernel.floor_pairs;
    const size_t bytes = (kernel.floor_scratch_bytes(head_size) + 63) / 64 * 64;
    const Memory memory = allocate(bytes * threads);
    std::memset(memory.get(), 0, bytes * threads);
    share_out(threads, threads, [&](int, int64_t i) {
        (part == 0 ? kernel.floor_products : kernel.floor_exponentials)(
            head_size, repeats, static_cast<char*>(memory.get()) + i * bytes);
    });
    return repeats * kernel.floor_pairs;
}

// Logits of one tile, a chunk of keys at a time, for whatever is made of them: packing, product, exponential.
#pragma once

#include <cmath>

#include "inputs.hpp"

namespace {

constexpr int kChunk = 128;             // keys between two looks at a row: their logits stay in the first cache
constexpr int kChunksPerFlush = 16;     // float32 lanes hold a hundred-odd terms, float64 the rest
constexpr float kHighestSum = 0x1p24f;  // squares of what stays below are far from overflow

// Logits are taken in units of log2; a negative scale is in the packed queries.
LONGATTN_INLINE float in_log2(double scale) { return static_cast<float>(std::fabs(scale) * 1.4426950408889634); }

// One member of a tile.
struct Member {
    int64_t row, query_head;
};

template <class Product, class Source>
struct Logits {
    using Simd = typename Product::Simd;
    using V = typename Simd::V;
    static constexpr int kRows = Product::group_rows * Product::groups;
    static_assert(kChunk % Product::block_keys == 0 && kChunk % Simd::width == 0);

    static size_t packed_bytes(const Question& ask) {
        return round_up(ask.keys, kChunk) / Product::block_keys * Product::block_bytes(ask.head_size);
    }

    static void pack(const Question& ask, int64_t window, int64_t head, int64_t first, int64_t last, void* packed) {
        const size_t bytes = Product::block_bytes(ask.head_size);
        for (int64_t block = first; block < last; ++block) {
            char* to = static_cast<char*>(packed) + block * bytes;
            std::memset(to, 0, bytes);
            const int64_t start = block * Product::block_keys;
            const int count = static_cast<int>(least(Product::block_keys, ask.keys - start));
            for (int lane = 0; lane < count; ++lane)
                Product::pack_key(key_strip<Source>(ask, window, start + lane, head), ask.head_size, lane, to);
        }
    }

    // Of the logits of a tile and a chunk: [kRows][kChunk].
    static constexpr size_t bytes() { return kRows * kChunk * sizeof(float); }
    static size_t queries_bytes(const Question& ask) { return Product::groups * query_bytes(ask); }

    // Members of the tile that begins with this one; fewer than kRows in the last.
    static int count(const Question& ask, int64_t first) {
        return static_cast<int>(least(kRows, ask.rows * (ask.query_heads / ask.key_heads) - first));
    }
    static Member member(const Plan& plan, int64_t key_head, int64_t number) {
        const int64_t heads_per_key = plan.question.query_heads / plan.question.key_heads;
        return {plan.row_order[number / heads_per_key], key_head * heads_per_key + number % heads_per_key};
    }

    // The memory is zero before.
    static void pack_query(const Question& ask, int64_t window, int64_t row, int64_t query_head, int r, char* queries) {
        Product::pack_query(query_strip<Source>(ask, window, row, query_head), ask.head_size, ask.scale < 0,
                            r % Product::group_rows, queries + r / Product::group_rows * query_bytes(ask));
    }

    // Of the keys from `key` up to `end`, a chunk at most, and the members from the group of `active` on.
    static LONGATTN_INLINE void multiply(const Question& ask, const char* queries, const void* packed, int64_t key,
                                         int64_t end, int active, int count, float* logits) {
        const int64_t bytes = query_bytes(ask);
        for (int64_t start = key; start < end; start += Product::block_keys) {
            const void* block = static_cast<const char*>(packed) +
                                start / Product::block_keys * Product::block_bytes(ask.head_size);
            for (int g = active / Product::group_rows; g * Product::group_rows < count; ++g)
                Product::multiply(queries + g * bytes, block, ask.head_size,
                                  logits + g * Product::group_rows * kChunk + (start - key), kChunk);
        }
    }

    static LONGATTN_INLINE V exponential(const float* logits, float scale, V peak) {
        return Simd::exp2(Simd::load(logits) * scale - peak);
    }

    static LONGATTN_INLINE float largest(const float* logits, int count) {
        V highest = Simd::splat(-INFINITY);
        int i = 0;
        for (; i + Simd::width <= count; i += Simd::width) highest = Simd::larger(Simd::load(logits + i), highest);
        float most_seen = Simd::largest(highest);
        for (; i < count; ++i) most_seen = logits[i] > most_seen ? logits[i] : most_seen;
        return most_seen;
    }

   private:
    static size_t query_bytes(const Question& ask) { return round_up(Product::group_bytes(ask.head_size), 64); }
};

}  // namespace

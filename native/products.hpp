// Products of a tile's queries and a block of keys in vector registers: each lane is a key, each accumulator a query.
#pragma once

#include "inputs.hpp"

namespace {

// One number of each key at a time, by multiply and add in float32.
template <class Simd>
struct FloatStep {
    using Element = float;
    using V = typename Simd::V;
    static constexpr int numbers = 1;

    template <class Source>
    static LONGATTN_INLINE float element(Source value, bool negated) {
        return negated ? -as_float(value) : as_float(value);
    }
    static LONGATTN_INLINE V accumulate(V sum, V keys, const float* query) { return sum + *query * keys; }
};

// Rows: queries in registers at once. Vectors: of keys. Both are chosen so that the accumulators, the keys and a query
// fill the register file.
template <class Simd_, class Step, class Source, int Rows, int Vectors, int Groups>
struct RegisterProduct {
    using Simd = Simd_;
    using V = typename Simd::V;
    using Element = typename Step::Element;
    static constexpr int group_rows = Rows;
    static constexpr int groups = Groups;
    static constexpr int block_keys = Vectors * Simd::width;

    static LONGATTN_INLINE int64_t steps(int64_t head_size) { return round_up(head_size, Step::numbers) / Step::numbers; }
    static size_t block_bytes(int64_t head_size) { return steps(head_size) * block_keys * sizeof(float); }
    static size_t group_bytes(int64_t head_size) { return steps(head_size) * Rows * sizeof(float); }

    static LONGATTN_INLINE void begin() {}
    static LONGATTN_INLINE void end() {}

    // Keys and queries lie as [step][key or query][number of the step]; the memory is zero before.
    static LONGATTN_INLINE void pack_key(Strip<Source> key, int64_t head_size, int lane, void* block) {
        spread(key, head_size, false, static_cast<Element*>(block) + lane * Step::numbers, block_keys);
    }
    static LONGATTN_INLINE void pack_query(Strip<Source> query, int64_t head_size, bool negated, int row, void* group) {
        spread(query, head_size, negated, static_cast<Element*>(group) + row * Step::numbers, Rows);
    }

    static LONGATTN_INLINE void multiply(const void* group, const void* block, int64_t head_size, float* logits,
                                         int64_t row_stride) {
        V sums[Rows][Vectors];
        accumulate(group, block, head_size, sums);
        for (int r = 0; r < Rows; ++r)
            for (int v = 0; v < Vectors; ++v) Simd::store(logits + r * row_stride + v * Simd::width, sums[r][v]);
    }

    static LONGATTN_INLINE void accumulate(const void* group, const void* block, int64_t head_size,
                                           V (&sums)[Rows][Vectors]) {
        const float* query = static_cast<const float*>(group);
        const float* key = static_cast<const float*>(block);
        for (int r = 0; r < Rows; ++r)
            for (int v = 0; v < Vectors; ++v) sums[r][v] = V{};
        for (int64_t step = steps(head_size); step > 0; --step) {
            V keys[Vectors];
            for (int v = 0; v < Vectors; ++v) keys[v] = Simd::load(key + v * Simd::width);
            for (int r = 0; r < Rows; ++r)
                for (int v = 0; v < Vectors; ++v) sums[r][v] = Step::accumulate(sums[r][v], keys[v], query + r);
            query += Rows;
            key += block_keys;
        }
    }

   private:
    // Numbers of one key or query, to where `lanes` of them lie side by side.
    static LONGATTN_INLINE void spread(Strip<Source> from, int64_t head_size, bool negated, Element* to, int64_t lanes) {
        if (from.stride == 1)
            spread_strided(Strip<Source>{from.first, 1}, head_size, negated, to, lanes);
        else
            spread_strided(from, head_size, negated, to, lanes);
    }
    static LONGATTN_INLINE void spread_strided(Strip<Source> from, int64_t head_size, bool negated, Element* to,
                                               int64_t lanes) {
        int64_t i = 0;
        for (; i + Step::numbers <= head_size; i += Step::numbers, to += lanes * Step::numbers) {
            Element step[Step::numbers];
            for (int n = 0; n < Step::numbers; ++n) step[n] = Step::element(from[i + n], negated);
            std::memcpy(to, step, sizeof step);
        }
        for (; i < head_size; ++i) *to++ = Step::element(from[i], negated);
    }
};

}  // namespace

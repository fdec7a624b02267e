// Products in tiles of 16 rows of 64 bytes, as AMX has them; the tiles themselves are a policy, so that the layout is
// tested where there are none.
#pragma once

#include "inputs.hpp"

namespace {

// A float32 is the sum of three bfloat16 to its last bit; a bfloat16 is one of itself.
template <class Source>
struct Parts;

template <>
struct Parts<uint16_t> {
    static constexpr int count = 1;
    static constexpr int terms[][2] = {{0, 0}};
    static LONGATTN_INLINE void split(uint16_t bits, bool negated, uint16_t* parts) {
        parts[0] = negated ? bits ^ 0x8000 : bits;
    }
};

template <>
struct Parts<float> {
    static constexpr int count = 3;
    // Parts of the query and of the key, small ones first, so that they are not lost in rounding; what is left out is
    // below float32's own rounding of the product.
    static constexpr int terms[][2] = {{2, 0}, {0, 2}, {1, 1}, {1, 0}, {0, 1}, {0, 0}};
    static LONGATTN_INLINE void split(float value, bool negated, uint16_t* parts) {
        float rest = negated ? -value : value;
        for (int i = 0; i < count; ++i) {
            parts[i] = narrow(rest);
            rest -= widen(parts[i]);
        }
    }
};

constexpr int kTileRows = 16;
constexpr int kTileNumbers = 32;                           // bfloat16 in a row of a tile
constexpr int kTileElements = kTileRows * kTileNumbers;    // 1 KB

// Two by two tiles: 32 queries and 32 keys. A tile of queries has a query in each row; a tile of keys has in each row
// one pair of numbers of 16 keys. Tiles lie one after the other as [tile of 32 numbers][part][half].
template <class Simd_, class Tiles, class Source>
struct TileProduct {
    using Simd = Simd_;
    static constexpr int group_rows = 2 * kTileRows;
    static constexpr int groups = 1;
    static constexpr int block_keys = 2 * kTileRows;
    static constexpr int parts = Parts<Source>::count;

    static LONGATTN_INLINE int64_t steps(int64_t head_size) { return round_up(head_size, kTileNumbers) / kTileNumbers; }
    static size_t block_bytes(int64_t head_size) { return steps(head_size) * parts * 2 * kTileElements * sizeof(uint16_t); }
    static size_t group_bytes(int64_t head_size) { return block_bytes(head_size); }

    static LONGATTN_INLINE void begin() { Tiles::begin(); }
    static LONGATTN_INLINE void end() { Tiles::end(); }

    static LONGATTN_INLINE void pack_key(Strip<Source> key, int64_t head_size, int lane, void* block) {
        uint16_t split[parts];
        for (int64_t i = 0; i < head_size; ++i) {
            Parts<Source>::split(key[i], false, split);
            const int64_t within = i % kTileNumbers / 2 * kTileNumbers + lane % kTileRows * 2 + i % 2;
            for (int part = 0; part < parts; ++part) tile(block, i, part, lane)[within] = split[part];
        }
    }

    static LONGATTN_INLINE void pack_query(Strip<Source> query, int64_t head_size, bool negated, int row, void* group) {
        uint16_t split[parts];
        for (int64_t i = 0; i < head_size; ++i) {
            Parts<Source>::split(query[i], negated, split);
            const int64_t within = row % kTileRows * kTileNumbers + i % kTileNumbers;
            for (int part = 0; part < parts; ++part) tile(group, i, part, row)[within] = split[part];
        }
    }

    static LONGATTN_INLINE void multiply(const void* group, const void* block, int64_t head_size, float* logits,
                                         int64_t row_stride) {
        const int64_t step_elements = parts * 2 * kTileElements;
        Tiles::template zero<0>();
        Tiles::template zero<1>();
        Tiles::template zero<2>();
        Tiles::template zero<3>();
        for (const int(&term)[2] : Parts<Source>::terms) {
            const uint16_t* query = static_cast<const uint16_t*>(group) + term[0] * 2 * kTileElements;
            const uint16_t* key = static_cast<const uint16_t*>(block) + term[1] * 2 * kTileElements;
            for (int64_t step = steps(head_size); step > 0; --step) {
                Tiles::template load<4>(query);
                Tiles::template load<6>(key);
                Tiles::template load<7>(key + kTileElements);
                Tiles::template load<5>(query + kTileElements);
                Tiles::template multiply<0, 4, 6>();
                Tiles::template multiply<1, 4, 7>();
                Tiles::template multiply<2, 5, 6>();
                Tiles::template multiply<3, 5, 7>();
                query += step_elements;
                key += step_elements;
            }
        }
        Tiles::template store<0>(logits, row_stride);
        Tiles::template store<1>(logits + kTileRows, row_stride);
        Tiles::template store<2>(logits + kTileRows * row_stride, row_stride);
        Tiles::template store<3>(logits + kTileRows * row_stride + kTileRows, row_stride);
    }

   private:
    static LONGATTN_INLINE uint16_t* tile(void* memory, int64_t number, int part, int row) {
        const int64_t index = (number / kTileNumbers * parts + part) * 2 + row / kTileRows;
        return static_cast<uint16_t*>(memory) + index * kTileElements;
    }
};

}  // namespace

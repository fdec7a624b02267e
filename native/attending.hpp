// What one tile reads of the values: online softmax as for the moments, and the weights' product with the values.
//
// The product is that of queries and keys with other names: a row of weights over a chunk of keys stands for a query, a
// column of values over the same keys for a key. Weights are rounded to the type of the inputs, as the values are.
#pragma once

#include "logits.hpp"

namespace {

template <class Product, class Source>
struct Attending {
    using Simd = typename Product::Simd;
    using V = typename Simd::V;
    using L = Logits<Product, Source>;
    static constexpr int kWidth = Simd::width;
    static constexpr int kRows = L::kRows;

    struct alignas(64) Row {
        V total;             // unflushed sum of e, a lane each
        double flushed;      // the rest of it
        double peak;         // m, in units of log2
        int64_t end;         // first key after the row: its position + 1
        float* read;         // sums of e times value, [columns]
        Source* output;
    };

    struct Tile {
        const Attention& ask;
        float scale;      // at least 0; its sign is in the packed queries
        float* logits;    // [kRows][kChunk]
        Row* rows;
        char* weights;    // a packed group of e for each group of rows
        float* product;   // [group_rows][block_keys]
    };

    static size_t packed_bytes(const Attention& ask) {
        return round_up(ask.rows.keys, kChunk) / kChunk * chunk_bytes(ask);
    }

    // The chunks that hold the keys from `first` up to `last`.
    static void pack(const Attention& ask, int64_t window, int64_t head, int64_t first, int64_t last, void* packed) {
        const int64_t* s = ask.v_strides;
        for (int64_t key = first / kChunk * kChunk; key < last; key += kChunk) {
            char* to = static_cast<char*>(packed) + key / kChunk * chunk_bytes(ask);
            std::memset(to, 0, chunk_bytes(ask));
            const Source* from = static_cast<const Source*>(ask.v) + window * s[0] + key * s[1] + head * s[2];
            const int64_t count = least(kChunk, ask.rows.keys - key);
            for (int64_t column = 0; column < ask.value_size; ++column)
                Product::pack_key(Strip<Source>{from + column * s[3], s[1]}, count,
                                  static_cast<int>(column % Product::block_keys),
                                  to + column / Product::block_keys * Product::block_bytes(kChunk));
        }
    }

    static size_t scratch_bytes(const Attention& ask) {
        return L::bytes() + rows_bytes() + Product::groups * weights_bytes() + product_bytes() +
               kRows * columns(ask) * sizeof(float) + L::queries_bytes(ask.rows);
    }

    static void tile(const Attention& ask, const Plan& plan, int64_t window, int64_t head, int64_t first,
                     const void* packed_keys, const void* packed_values, void* scratch) {
        char* memory = static_cast<char*>(scratch);
        const auto take = [&memory](size_t bytes) {
            char* taken = memory;
            memory += bytes;
            return taken;
        };
        const Tile tile{ask,
                        in_log2(ask.rows.scale),
                        reinterpret_cast<float*>(take(L::bytes())),
                        reinterpret_cast<Row*>(take(rows_bytes())),
                        take(Product::groups * weights_bytes()),
                        reinterpret_cast<float*>(take(product_bytes()))};
        float* read = reinterpret_cast<float*>(take(kRows * columns(ask) * sizeof(float)));
        char* queries = memory;
        const int count = begin(tile, plan, window, head, first, read, queries);

        Product::begin();
        const int64_t end = tile.rows[count - 1].end;
        for (int64_t key = 0; key < end; key += kChunk) {
            int active = 0;
            while (tile.rows[active].end <= key) ++active;
            L::multiply(ask.rows, queries, packed_keys, key, least(key + kChunk, end), active, count, tile.logits);
            for (int r = active; r < count; ++r) {
                if (key % (kChunksPerFlush * kChunk) == 0) flush(tile.rows[r]);
                weigh(tile, r, key);
            }
            add_values(tile, static_cast<const char*>(packed_values) + key / kChunk * chunk_bytes(ask), active, count);
        }
        Product::end();
        for (int r = 0; r < count; ++r) finish(tile.rows[r], ask.value_size);
    }

   private:
    static constexpr size_t rows_bytes() { return kRows * sizeof(Row); }
    static size_t weights_bytes() { return round_up(Product::group_bytes(kChunk), 64); }
    static size_t product_bytes() {
        return round_up(Product::group_rows * Product::block_keys * sizeof(float), 64);
    }
    static int64_t columns(const Attention& ask) { return round_up(ask.value_size, Product::block_keys); }
    static size_t chunk_bytes(const Attention& ask) {
        return columns(ask) / Product::block_keys * Product::block_bytes(kChunk);
    }

    static int begin(const Tile& tile, const Plan& plan, int64_t window, int64_t head, int64_t first, float* read,
                     char* queries) {
        const Question& ask = tile.ask.rows;
        const int count = L::count(ask, first);
        std::memset(queries, 0, L::queries_bytes(ask));
        std::memset(tile.weights, 0, Product::groups * weights_bytes());
        std::memset(read, 0, kRows * columns(tile.ask) * sizeof(float));
        for (int r = 0; r < count; ++r) {
            const auto [row, query_head] = L::member(plan, head, first + r);
            L::pack_query(ask, window, row, query_head, r, queries);
            const int64_t out = ((window * ask.rows + row) * ask.query_heads + query_head) * tile.ask.value_size;
            tile.rows[r] = Row{V{},
                               0.0,
                               -INFINITY,
                               ask.positions[row] + 1,
                               read + r * columns(tile.ask),
                               static_cast<Source*>(tile.ask.output) + out};
        }
        return count;
    }

    // e of a chunk's keys, into the row's sum and, packed, among the weights.
    static LONGATTN_INLINE void weigh(const Tile& tile, int r, int64_t key) {
        Row& row = tile.rows[r];
        const float* logits = tile.logits + r * kChunk;
        alignas(64) float e[kChunk];
        const int count = static_cast<int>(least(kChunk, row.end - key));
        if (key == 0) raise_peak(tile, row, logits, count);
        V total = exponentials(tile, row, logits, count, e);
        if (Simd::reaches(total, kHighestSum)) {
            raise_peak(tile, row, logits, count);
            total = exponentials(tile, row, logits, count, e);
        }
        row.total += total;
        alignas(64) Source narrowed[kChunk];
        for (int i = 0; i < kChunk; ++i) to_source(e[i], narrowed[i]);
        Product::pack_query(Strip<Source>{narrowed, 1}, kChunk, false, r % Product::group_rows,
                            tile.weights + r / Product::group_rows * weights_bytes());
    }

    // e of the first `count` keys, zero for the others; their sum, a lane each.
    static LONGATTN_INLINE V exponentials(const Tile& tile, const Row& row, const float* logits, int count, float* e) {
        const V peak = Simd::splat(static_cast<float>(row.peak));
        V total{};
        int i = 0;
        for (; i + kWidth <= count; i += kWidth) {
            const V here = L::exponential(logits + i, tile.scale, peak);
            Simd::store(e + i, here);
            total += here;
        }
        if (i < count) {
            const V here = Simd::before(L::exponential(logits + i, tile.scale, peak), count - i);
            Simd::store(e + i, here);
            total += here;
            i += kWidth;
        }
        for (; i < kChunk; i += kWidth) Simd::store(e + i, V{});
        return total;
    }

    // The weights' product with a chunk of values, added to what the rows have read.
    static LONGATTN_INLINE void add_values(const Tile& tile, const char* values, int active, int count) {
        const int64_t blocks = columns(tile.ask) / Product::block_keys;
        for (int g = active / Product::group_rows; g * Product::group_rows < count; ++g)
            for (int64_t block = 0; block < blocks; ++block) {
                Product::multiply(tile.weights + g * weights_bytes(),
                                  values + block * Product::block_bytes(kChunk), kChunk, tile.product,
                                  Product::block_keys);
                const int first = g * Product::group_rows, last = static_cast<int>(least(first + Product::group_rows, count));
                // a row that ended with an earlier chunk has its old weights still
                for (int r = static_cast<int>(most(first, active)); r < last; ++r) {
                    float* to = tile.rows[r].read + block * Product::block_keys;
                    const float* from = tile.product + (r - first) * Product::block_keys;
                    for (int i = 0; i < Product::block_keys; i += kWidth)
                        Simd::store(to + i, Simd::load(to + i) + Simd::load(from + i));
                }
            }
    }

    static LONGATTN_INLINE void flush(Row& row) {
        float sums[2];
        Simd::sums(row.total, V{}, sums);
        row.flushed += sums[0];
        row.total = V{};
    }

    // Lifts m to the largest of these logits, if that is higher, and all sums with it.
    static LONGATTN_INLINE void raise_peak(const Tile& tile, Row& row, const float* logits, int count) {
        const double peak = static_cast<double>(L::largest(logits, count) * tile.scale);
        if (!(peak > row.peak)) return;
        const double shrink = exp2(row.peak - peak);
        const float narrow_shrink = static_cast<float>(shrink);
        row.peak = peak;
        row.total *= narrow_shrink;
        row.flushed *= shrink;
        for (int64_t i = 0; i < columns(tile.ask); i += kWidth)
            Simd::store(row.read + i, Simd::load(row.read + i) * narrow_shrink);
    }

    static void finish(Row& row, int64_t value_size) {
        flush(row);
        const float share = static_cast<float>(1.0 / row.flushed);
        for (int64_t i = 0; i < value_size; ++i) to_source(row.read[i] * share, row.output[i]);
    }

    static LONGATTN_INLINE void to_source(float value, float& to) { to = value; }
    static LONGATTN_INLINE void to_source(float value, uint16_t& to) { to = narrow(value); }
};

}  // namespace
